"""Every routing rule, end to end through a real broker, with its trace."""

from __future__ import annotations

from collections import Counter

import pytest

from events import catalogue as c
from tests.support.scripted import Fleet, fleet_on

GIB = 2**30


@pytest.fixture
async def fleet(broker):
    async with fleet_on(broker, "h1", "h2", "h3") as made:
        yield made


def ollama(
    name: str, *, loaded: tuple[str, ...] = (), slots: int = 4
) -> c.EndpointState:
    return c.EndpointState(
        endpoint=name,
        kind="ollama",
        up=True,
        url="http://127.0.0.1:1",
        models=["llama3.2:latest"],
        loaded=list(loaded),
        slots=slots,
    )


CLAUDE = c.EndpointState(endpoint="claude", kind="claude", up=True, slots=4)


def factors(routed: dict, host: str) -> dict:
    (found,) = [one for one in routed["candidates"] if one["host"] == host]
    return found["factors"]


async def test_work_goes_where_capacity_and_load_are_best(fleet: Fleet):
    for name, cpu, ram in (("h1", 0.1, 8), ("h2", 0.2, 24), ("h3", 0.9, 24)):
        await fleet[name].join()
        await fleet.seen()
        await fleet.know(name, cpu=cpu, ram_total_bytes=ram * GIB)
    task = await fleet.observer.submit(description="x", shell={"command": "true"})
    routed = await fleet.route(task)
    assert routed["selected_host"] == "h2"
    assert routed["candidate_count"] == 3
    assert factors(routed, "h1") == {
        "load": 0.9,
        "capacity": 0.5,
        "vram": 1.0,
        "warm": 1.0,
        "affinity": 1.0,
        "slots": 1.0,
    }
    assert factors(routed, "h2")["capacity"] == 1.5
    assert factors(routed, "h3")["load"] == pytest.approx(0.1)
    assert routed["estimated_cost_tier"] == "free"


async def test_a_warm_model_beats_a_cold_one_at_equal_load(fleet: Fleet):
    await fleet["h1"].join((ollama("o1"),))
    await fleet["h2"].join((ollama("o2", loaded=("llama3.2:latest",)),))
    await fleet.seen()
    task = await fleet.observer.submit(description="x", tier="standard")
    routed = await fleet.route(task)
    assert routed["selected_endpoint"] == "o2"
    assert factors(routed, "h2")["warm"] == 1.15
    assert factors(routed, "h1")["warm"] == 1.0


async def test_free_graphics_memory_counts_and_an_unknown_one_is_neutral(fleet: Fleet):
    await fleet["h1"].join((ollama("o1"),))
    await fleet["h2"].join((ollama("o2"),))
    await fleet.seen()
    gpu = c.Gpu("g", vram_total_bytes=8 * GIB, vram_free_bytes=8 * GIB)
    await fleet.know("h1", cpu=0.5, gpus=[gpu])
    await fleet.know("h2", cpu=0.5)
    routed = await fleet.route(
        await fleet.observer.submit(description="x", tier="standard")
    )
    assert routed["selected_endpoint"] == "o1"
    assert factors(routed, "h1")["vram"] == 1.0
    assert factors(routed, "h2")["vram"] == 0.9


async def test_a_checkout_wins_at_similar_load_and_loses_to_a_much_less_loaded_host(
    fleet: Fleet,
):
    shop = "https://git.example.org/team/shop"
    await fleet["h1"].join(repos=[f"{shop}.git"])
    await fleet["h2"].join(clones=["https://git.example.org/team"])
    await fleet.seen()
    await fleet.know("h1", cpu=0.5)
    await fleet.know("h2", cpu=0.49)
    shell = {"command": "true"}
    near = await fleet.observer.submit(description="x", repo=shop, shell=shell)
    routed = await fleet.route(near)
    assert routed["selected_host"] == "h1"
    assert factors(routed, "h1")["affinity"] == 1.05
    await fleet.know("h2", cpu=0.1)
    far = await fleet.observer.submit(description="x", repo=shop, shell=shell)
    assert (await fleet.route(far))["selected_host"] == "h2"


async def test_a_tier_lost_for_less_than_the_wait_causes_no_hop(fleet: Fleet):
    await fleet.policy(fallback_wait_s=30.0)
    await fleet["h1"].join((ollama("o1"), CLAUDE))
    await fleet["h1"].say(
        c.EndpointDown, endpoint="o1", kind="ollama", reason="refused"
    )
    await fleet.observer.until(lambda: fleet.observer.of("tier.down"))
    task = await fleet.observer.submit(description="x", tier="standard")
    await fleet.seen()
    assert fleet.routes(task) == []
    await fleet["h1"].say(c.EndpointUp, state=ollama("o1"))
    routed = await fleet.route(task)
    assert routed["effective_tier"] == "standard"
    assert "fallback_used" not in routed or not routed["fallback_used"]
    assert routed["wait"]["outcome"] == "avoided"


async def test_a_tier_lost_for_longer_causes_one_hop_with_badge_and_reason(
    fleet: Fleet,
):
    await fleet.policy(fallback_wait_s=0.3)
    await fleet["h1"].join((ollama("o1"), CLAUDE))
    await fleet["h1"].say(
        c.EndpointDown, endpoint="o1", kind="ollama", reason="refused"
    )
    task = await fleet.observer.submit(description="x", tier="standard")
    routed = await fleet.route(task)
    assert routed["fallback_used"]
    assert routed["fallback_from_tier"] == "standard"
    assert routed["fallback_reason"].startswith("standard was down for ")
    assert routed["wait"]["outcome"] == "taken"
    assert routed["selected_model"] == "sonnet"
    assert routed["estimated_cost_tier"] == "api"


async def test_with_all_tiers_down_trivial_still_runs_and_others_expire_with_the_reason(
    fleet: Fleet,
):
    await fleet.policy(fallback_wait_s=0.1)
    await fleet["h1"].join((ollama("o1"), CLAUDE))
    for endpoint, kind in (("o1", "ollama"), ("claude", "claude")):
        await fleet["h1"].say(c.EndpointDown, endpoint=endpoint, kind=kind, reason="x")
    await fleet.observer.until(lambda: len(fleet.observer.of("tier.down")) == 2)
    waiting = await fleet.observer.submit(description="x", tier="standard", ttl_s=0.5)
    trivial = await fleet.observer.submit(description="x", shell={"command": "true"})
    await fleet.observer.until(lambda: fleet.observer.of("task.completed", trivial))
    await fleet.observer.until(lambda: fleet.observer.of("task.expired", waiting))
    (expired,) = fleet.observer.of("task.expired", waiting)
    assert expired["reason"] == "ttl"
    assert {t["tier"] for t in expired["tiers"]} == {"standard", "complex"}


async def test_a_blip_raises_no_alert_and_an_outage_exactly_one_cleared_once(
    fleet: Fleet,
):
    await fleet.policy(tier_alert_after_s=3600.0)
    await fleet["h1"].join((ollama("o1"),))
    down = {"endpoint": "o1", "kind": "ollama", "reason": "x"}
    await fleet["h1"].say(c.EndpointDown, **down)
    # A scheduler that reads both at once never saw the tier down.
    await fleet.observer.until(lambda: fleet.observer.of("tier.down"))
    await fleet["h1"].say(c.EndpointUp, state=ollama("o1"))
    await fleet.observer.until(lambda: fleet.observer.of("tier.up"))
    assert fleet.observer.of("alert") == []
    await fleet.policy(tier_alert_after_s=0.2)
    await fleet["h1"].say(c.EndpointDown, **down)
    await fleet.observer.until(lambda: fleet.observer.of("alert.raised"))
    await fleet["h1"].say(c.EndpointUp, state=ollama("o1"))
    await fleet.observer.until(lambda: fleet.observer.of("alert.cleared"))
    await fleet.seen()
    assert len(fleet.observer.of("alert.raised")) == 1
    assert len(fleet.observer.of("alert.cleared")) == 1


async def test_an_endpoint_that_failed_on_a_task_is_excluded_and_named(fleet: Fleet):
    await fleet["h1"].join((ollama("o1"),))
    await fleet["h2"].join((ollama("o2"),))
    for name in ("h1", "h2"):
        fleet[name].finish_at_once = False
    await fleet.seen()
    task = await fleet.observer.submit(description="x", tier="standard")
    first = await fleet.route(task)
    await fleet.observer.until(lambda: fleet.observer.of("task.started", task))
    fleet[first["selected_host"]].fail_endpoint(task)
    second = await fleet.route(task, 2)
    assert second["selected_endpoint"] != first["selected_endpoint"]
    assert second["excluded"] == {"failed on it before": 1}
    assert second["excluded_names"][0]["name"].startswith(first["selected_endpoint"])


async def test_a_silent_host_is_lost_and_its_task_goes_elsewhere(fleet: Fleet):
    await fleet.policy(host_lease_s=1.0, beat_interval_s=0.2)
    await fleet["h1"].join()
    fleet["h1"].finish_at_once = False
    task = await fleet.observer.submit(description="x", shell={"command": "true"})
    await fleet.observer.until(lambda: fleet.observer.of("task.started", task))
    await fleet["h2"].join()
    fleet["h1"].beating = False
    routed = await fleet.route(task, 2)
    assert routed["selected_host"] == "h2"
    assert routed["generation"] == 2
    await fleet.observer.until(lambda: fleet.observer.of("task.completed", task))
    assert [e["host"] for e in fleet.observer.of("host.lost")] == ["h1"]


async def test_four_hosts_share_twenty_equal_tasks(broker):
    async with fleet_on(broker, "h1", "h2", "h3", "h4") as fleet:
        for host in fleet.hosts.values():
            host.finish_at_once = False
            await host.join(shell=8)
        await fleet.seen()
        tasks = [
            await fleet.observer.submit(description="x", shell={"command": "true"})
            for _ in range(20)
        ]
        for task in tasks:
            await fleet.route(task)
        shares = Counter(r["selected_host"] for r in fleet.routes())
        assert set(shares) == set(fleet.hosts)
        assert max(shares.values()) - min(shares.values()) <= 2


async def test_what_a_decision_records_is_enough_to_make_it_again(fleet: Fleet):
    from actors.rules.policy import Policy
    from actors.rules.routing import recheck
    from events.codec import decode_event, encode

    for n, name in enumerate(("h1", "h2", "h3")):
        await fleet[name].join((ollama(f"o{n}"),))
        await fleet.seen()
        await fleet.know(
            name, cpu=round(0.1 + 0.2 * n, 2), ram_total_bytes=(n + 1) * 8 * GIB
        )
    routed = await fleet.route(
        await fleet.observer.submit(description="x", tier="standard")
    )
    event = decode_event(encode(routed))
    again = recheck(event, Policy().scoring)
    assert (again.host, again.endpoint) == (
        event.selected_host,
        event.selected_endpoint,
    )
