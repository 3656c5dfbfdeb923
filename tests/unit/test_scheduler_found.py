"""What the simulator has found in the scheduler, each in its shortest form."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from msgspec import structs

from actors.lifecycle import initial
from actors.rules import policy as policies
from actors.rules.classification import classify
from actors.scheduler import hosts
from actors.scheduler.live import LiveTask
from actors.scheduler.outputs import Decision, HistoryNeeded
from actors.scheduler.queue import Requirement
from actors.scheduler.role import SchedulerRole
from events import catalogue as c
from events import subjects
from events.codec import rfc3339
from events.mail import UseEndpoints
from projections.world import fold
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog
from tests.support.world import World, claude, ollama


def held(w: World) -> dict[str, tuple[int, int]]:
    """In flight and reserved, for every kind of slot."""
    return {
        f"{host.name} {what}": (slots.in_flight, slots.reserved)
        for host in w.scheduler.state.fleet.hosts.values()
        for what, slots in host.slots.items()
        if slots.in_flight or slots.reserved
    }


def decide(w: World) -> list[Decision]:
    """Let it decide, and store nothing."""
    return w.scheduler.decide(w.now)


def test_a_requeue_that_is_stored_and_not_acknowledged_takes_no_later_route_back():
    w = World()
    w.join("h1")
    w.shell("t1")
    first = w.routes("t1")[0]
    w.store(
        subjects.run("h1", "t1"),
        c.TaskRejected(
            **w.head(), task_id="t1", host="h1", route=first.id, generation=1,
            attempt=1, incarnation="i1", reason="busy",
        ),
    )  # fmt: skip
    (requeued,) = [d for d in decide(w) if isinstance(d.event, c.TaskRequeued)]
    w.store(requeued.subject, requeued.event)
    w.wait(1)
    assert len(w.routes("t1")) == 2
    w.scheduler.undecided(requeued)
    w.turn()
    assert w.phase("t1") == "routed"
    assert len(w.events(c.TaskRequeued)) == 1


def test_a_late_answer_to_an_older_decision_does_not_disturb_the_newer_one():
    w = World()
    w.join("h1", slots={"shell": 1})
    w.shell("t1")
    first = w.routes("t1")[0]
    old = Decision(subjects.task("t1"), first, 0)
    w.report("t1", c.TaskRejected, reason="busy")
    w.wait(0.6)
    (second,) = w.routes("t1")[1:]
    w.report("t1", c.TaskRejected, reason="busy")
    w.scheduler.state.fleet.resume_paused(float("inf"))
    (third,) = [d for d in decide(w) if isinstance(d.event, c.TaskRouted)]
    w.scheduler.undecided(old)
    assert "t1" not in w.scheduler.state.queue.tasks
    assert decide(w) == []
    w.take(third)
    assert [r.id for r in w.routes("t1")] == [first.id, second.id, third.event.id]


def test_a_route_for_a_task_that_is_over_meanwhile_frees_what_it_had_reserved():
    w = World()
    w.join("h1", slots={"shell": 1})
    w.shell("t1")
    first = w.routes("t1")[0]
    w.host_says("h1", c.HostLeft)
    assert w.phase("t1") == "waiting"
    w.store(
        subjects.host("h2"),
        c.HostJoined(
            **w.head(), host="h2", incarnation="i1", version="1", slots={"shell": 1}
        ),
    )
    (second,) = [d for d in decide(w) if isinstance(d.event, c.TaskRouted)]
    assert held(w) == {"h2 shell": (0, 1)}
    w.store(
        subjects.run("h1", "t1"),
        c.TaskCompleted(
            **w.head(), task_id="t1", host="h1", route=first.id, generation=1,
            attempt=1, incarnation="i1", result=c.Result(status="success"),
        ),
    )  # fmt: skip
    assert w.take(second)
    assert w.phase("t1") == "completed"
    assert held(w) == {}


def test_an_attempt_that_was_reported_as_over_is_not_counted_again():
    w = World()
    w.join("h1")
    w.shell("t1", max_attempts=2)
    w.report("t1", c.TaskAccepted)
    w.report("t1", c.TaskStarted, executor="shell")
    live = w.scheduler.state.tasks["t1"]
    hosts.lose(w.scheduler.state, live, "host lost it", "the beats say so")
    (requeued,) = [d for d in decide(w) if isinstance(d.event, c.TaskRequeued)]
    assert requeued.event.counts_as_attempt
    route = w.routes("t1")[0]
    w.store(
        subjects.run("h1", "t1"),
        c.TaskReturned(
            **w.head(), task_id="t1", host="h1", route=route.id, generation=1,
            attempt=1, incarnation="i1", reason="endpoint_failed",
        ),
    )  # fmt: skip
    w.store(requeued.subject, requeued.event)
    assert w.scheduler.state.tasks["t1"].task.attempts == 1


@pytest.mark.parametrize("kind", [c.HostLost, c.TierDown])
def test_a_loss_or_an_outage_is_said_once_however_often_it_is_sent(kind):
    w = World()
    w.join("h1")
    w.shell("t1")
    w.now += 20
    decided = decide(w)
    for decision in decided:
        w.take(decision)
        decided += decide(w)
    (said,) = [d for d in decided if isinstance(d.event, kind)]
    assert said.expect == 0
    assert not w.take(said)


def test_a_new_leader_lifts_the_pauses_that_an_earlier_leadership_had_timed():
    w = World()
    w.join("h1")
    w.shell("t1")
    w.report("t1", c.TaskRejected, reason="busy")
    w.scheduler.step_down()
    w.now += 5
    w.elect(2)
    w.wait(1)
    assert w.phase("t1") == "routed"


def test_a_new_leader_sets_the_timer_of_a_ttl_that_it_had_set_before():
    w = World()
    w.join("h1")
    w.shell("t1", needs=["tpu"], ttl_s=30)
    w.scheduler.step_down()
    w.now += 1
    w.elect(2)
    w.beat_on(40, "h1")
    assert [e.reason for e in w.events(c.TaskExpired)] == ["ttl"]


def test_what_happens_while_a_retried_tasks_history_is_read_is_not_forgotten():
    w = World()
    w.join("h1")
    w.shell("t1")
    w.report("t1", c.TaskFailed, result=c.Result(status="failed"))
    w.store(subjects.task("t1"), c.TaskRetried(**w.head(), task_id="t1"))
    assert w.scheduler.effects == [HistoryNeeded("t1")]
    read = [r for r in w.log if r.subject.endswith(".t1")]
    w.store(subjects.task("t1"), c.TaskCancelled(**w.head(), task_id="t1"))
    w.scheduler.adopt("t1", read)
    assert w.scheduler.state.tasks == {}
    assert len(w.scheduler.state.queue) == 0


def test_a_run_of_a_retried_task_whose_history_is_being_read_is_no_stray():
    w = World()
    w.join("h1")
    w.shell("t1")
    w.report("t1", c.TaskFailed, result=c.Result(status="failed"))
    w.store(subjects.task("t1"), c.TaskRetried(**w.head(), task_id="t1"))
    w.beat("h1", held=[c.Held("t1", "R2")])
    assert w.cancels("t1") == []
    w.scheduler.adopt("t1", [r for r in w.log if r.subject.endswith(".t1")])
    w.beat("h1", held=[c.Held("t1", "R2")])
    assert len(w.cancels("t1")) == 1


@pytest.mark.parametrize(
    "reported", [[c.TaskAccepted], [c.TaskAccepted, c.TaskStarted]]
)
def test_a_restarted_host_that_had_not_begun_a_run_lets_it_run_again(reported):
    w = World()
    w.join("h1")
    w.shell("t1")
    first = w.routes("t1")[0]
    for kind in reported:
        fields = {"executor": "shell"} if kind is c.TaskStarted else {}
        w.report("t1", kind, **fields)
    w.join("h1", incarnation="i2", held=[c.Held("t1", first.id, "accepted")])
    assert len(w.routes("t1")) == 2


def test_a_host_that_is_lost_stays_lost_to_a_task_that_is_cancelled_then():
    w = World()
    w.join("h1")
    w.shell("t1")
    w.report("t1", c.TaskAccepted)
    w.now += 20
    for decision in decide(w):
        w.take(decision)
    w.store(subjects.task("t1"), c.TaskCancelled(**w.head(), task_id="t1"))
    w.turn()
    assert w.phase("t1") == "cancelled"


def test_a_task_whose_last_untried_host_is_lost_is_tried_again_on_the_others():
    w = World()
    w.join("h1", slots={"shell": 1})
    w.join("h2", slots={"shell": 1})
    w.shell("a")
    w.shell("b")
    (a,), (b,) = w.routes("a"), w.routes("b")
    for task_id in ("a", "b"):
        w.report(task_id, c.TaskAccepted)
    w.report("a", c.TaskReturned, reason="endpoint_failed", exclude=a.selected_host)
    assert len(w.routes("a")) == 1  # the other host is busy
    w.host_says(b.selected_host, c.HostLeft)
    assert w.routes("a")[-1].selected_host == a.selected_host


def test_an_escalation_that_did_not_come_to_count_leaves_room_for_others():
    w = World()
    w.join("h1", endpoints=[ollama(up=False), claude()])
    w.submit("t1", tier="standard")
    w.beat_on(6, "h1")
    assert w.scheduler.state.escalated == {"t1"}
    w.report("t1", c.TaskRejected, reason="busy")
    assert w.scheduler.state.escalated == set()
    w.scheduler.state.fleet.resume_paused(float("inf"))
    w.scheduler.state.look_at.update(w.scheduler.state.queue.groups)
    (routed,) = [d for d in decide(w) if isinstance(d.event, c.TaskRouted)]
    w.store(subjects.task("t1"), c.TaskCancelled(**w.head(), task_id="t1"))
    assert not w.take(routed)
    assert w.scheduler.state.escalated == set()


def test_a_time_out_is_taken_back_by_the_acceptance_that_comes_before_the_decision():
    w = World()
    w.join("h1")
    w.shell("t1")
    w.now += 6
    (requeued,) = [d for d in decide(w) if isinstance(d.event, c.TaskRequeued)]
    route = w.routes("t1")[0]
    w.store(
        subjects.run("h1", "t1"),
        c.TaskAccepted(
            **w.head(), task_id="t1", host="h1", route=route.id, generation=1,
            attempt=1, incarnation="i1",
        ),
    )  # fmt: skip
    w.scheduler.undecided(requeued)
    w.turn()
    assert w.phase("t1") == "accepted"


async def test_no_two_elections_have_one_epoch_though_one_comes_in_between():
    log = MemoryLog()

    class Leases:
        """Somebody else is elected while we ask for how long nobody led."""

        async def put(self, key, holder, **_):
            return 1

        async def note(self, key, text, **_):
            return

        async def holder(self, key, **_):
            other = c.SchedulerElected(
                id="E1", at=rfc3339(0.0), by="s2", epoch=1, name="s2"
            )
            await log.append(subjects.SCHEDULER, other, expect=0)
            for _ in range(3):
                await asyncio.sleep(0)

    ids = iter(f"I{n}" for n in range(1_000))
    role = SchedulerRole(
        "s1", log, MemoryBus(MemoryBroker()), Leases(),
        ids=lambda: next(ids), version="0",
    )  # fmt: skip
    follower = await log.follow(role._on_event)
    role.lease = SimpleNamespace(ours=True, other_at=0.0, ttl=4.0)  # type: ignore[assignment]
    await role._be_elected()
    await asyncio.sleep(0)
    await follower.stop()
    elected = await log.read(subjects.SCHEDULER)
    assert [(r.event.by, r.event.epoch) for r in elected] == [("s2", 1), ("s1", 2)]


def test_a_limit_that_was_not_stored_is_decided_again():
    w = World()
    w.join("h1", endpoints=[claude()])
    w.submit("t1", tier="complex")
    route = w.routes("t1")[0]
    w.store(
        subjects.run("h1", "t1"),
        c.TaskReturned(
            **w.head(), task_id="t1", host="h1", route=route.id, generation=1,
            attempt=1, incarnation="i1", reason="limited",
        ),
    )  # fmt: skip
    (limited,) = [d for d in decide(w) if isinstance(d.event, c.TierLimited)]
    w.scheduler.undecided(limited)
    again = [d for d in decide(w) if isinstance(d.event, c.TierLimited)]
    assert len(again) == 1


def test_a_task_whose_last_attempt_ended_while_its_route_was_taken_back_is_dead():
    w = World()
    w.join("h1")
    w.shell("t1", max_attempts=1)
    w.now += 6
    (requeued,) = [d for d in decide(w) if isinstance(d.event, c.TaskRequeued)]
    route = w.routes("t1")[0]
    for kind, fields in (
        (c.TaskStarted, {"executor": "shell"}),
        (c.TaskReturned, {"reason": "endpoint_failed"}),
    ):
        w.store(
            subjects.run("h1", "t1"),
            kind(
                **w.head(), task_id="t1", host="h1", route=route.id, generation=1,
                attempt=1, incarnation="i1", **fields,
            ),
        )  # fmt: skip
    w.take(requeued)
    w.turn()
    assert w.phase("t1") == "dead"
    assert len(w.routes("t1")) == 1


def test_a_shared_endpoint_that_was_taken_away_does_not_come_back_with_a_late_report():
    w = World()
    w.join("h1")
    pool = c.EndpointState(
        endpoint="pool", kind="ollama", up=True, models=["m"], shared=True
    )
    added = c.EndpointAdded(**w.head(), endpoint="pool", kind="ollama", url="http://x")
    w.store(subjects.fleet("pool"), added)
    w.store(subjects.fleet("pool"), c.EndpointRemoved(**w.head(), endpoint="pool"))
    w.host_says("h1", c.EndpointUp, state=pool)
    w.join("h1", endpoints=[pool])
    assert "pool" not in w.scheduler.state.fleet.hosts["h1"].endpoints


def test_a_host_that_comes_back_hears_that_nothing_is_shared_any_more():
    w = World()
    w.join("h1")
    added = c.EndpointAdded(**w.head(), endpoint="pool", kind="ollama", url="http://x")
    w.store(subjects.fleet("pool"), added)
    w.store(subjects.fleet("pool"), c.EndpointRemoved(**w.head(), endpoint="pool"))
    w.turn()
    w.mail.clear()
    w.host_says("h1", c.HostRecovered)
    (told,) = [m.message for m in w.mail if isinstance(m.message, UseEndpoints)]
    assert told.endpoints == []


def test_what_a_host_said_does_not_count_again_behind_what_it_said_later():
    w = World()
    w.join("h1")
    draining = c.HostDraining(**w.head(), host="h1", incarnation="i1")
    w.store(subjects.host("h1"), draining)
    w.host_says("h1", c.HostResumed)
    w.store(subjects.host("h1"), draining)
    assert not w.scheduler.state.fleet.hosts["h1"].draining


def test_a_shorter_ttl_ends_the_waits_that_have_begun():
    w = World()
    w.join("h1")
    w.shell("t1", needs=["tpu"])
    w.beat_on(60, "h1")
    assert w.phase("t1") == "waiting"
    policy = {**policies.document(policies.Policy()), "task_ttl_s": 30.0}
    w.store(subjects.POLICY, c.PolicyChanged(**w.head(), version=1, policy=policy))
    w.turn()
    assert w.phase("t1") == "expired"


@pytest.mark.parametrize(
    "before", [[c.TaskAccepted], [c.TaskAccepted, c.TaskStarted], []]
)
def test_a_retried_task_that_comes_back_finds_its_host_restarted(before):
    w = World()
    w.join("h1")
    w.shell("t1")
    w.report("t1", c.TaskFailed, result=c.Result(status="failed"))
    w.store(subjects.task("t1"), c.TaskRetried(**w.head(), task_id="t1"))
    routed = structs.replace(
        w.routes("t1")[0], **w.head(), generation=2, epoch=w.scheduler.leadership.epoch
    )
    w.store(subjects.task("t1"), routed)
    for kind in [c.TaskAccepted, c.TaskStarted]:
        fields = {"executor": "shell"} if kind is c.TaskStarted else {}
        if kind in before:
            w.report("t1", kind, **fields)
    w.join("h1", incarnation="i2", held=[c.Held("t1", routed.id, "accepted")])
    for kind in [c.TaskAccepted, c.TaskStarted]:
        fields = {"executor": "shell"} if kind is c.TaskStarted else {}
        if kind not in before:
            w.report("t1", kind, **fields)
    w.scheduler.adopt("t1", [r for r in w.log if r.subject.endswith(".t1")])
    w.turn()
    assert w.phase("t1") == "routed"
    assert w.routes("t1")[-1].generation == 3


def test_a_shared_endpoint_that_was_added_anew_is_another_to_its_hosts():
    w = World()
    w.join("h1")
    for _ in range(2):
        added = c.EndpointAdded(
            **w.head(), endpoint="pool", kind="ollama", url="http://x"
        )
        w.store(subjects.fleet("pool"), added)
        w.turn()
    first, second = (m.message for m in w.mail if isinstance(m.message, UseEndpoints))
    assert first.endpoints != second.endpoints


def test_what_a_host_said_of_one_endpoint_is_not_overtaken_by_word_of_another():
    w = World()
    w.join("h1", endpoints=[ollama("o1"), ollama("o2")])
    down = c.EndpointDown(
        **w.head(),
        host="h1",
        incarnation="i1",
        endpoint="o1",
        kind="ollama",
        reason="x",
    )
    w.store(subjects.host("h1"), down)
    late, first, again = (w.head() for _ in range(3))
    about = {"host": "h1", "incarnation": "i1"}
    w.store(subjects.host("h1"), c.EndpointUp(**first, **about, state=ollama("o2")))
    w.store(subjects.host("h1"), c.EndpointUp(**late, **about, state=ollama("o1")))
    places = w.scheduler.fleet.hosts["h1"].endpoints
    assert [places[name].up for name in ("o1", "o2")] == [True, True]
    w.store(subjects.host("h1"), c.HostJoined(**again, **about, version="1"))
    w.store(subjects.host("h1"), c.EndpointUp(**first, **about, state=ollama("o2")))
    assert not w.scheduler.fleet.hosts["h1"].endpoints
    world = fold(w.log)
    assert not world.fleet.hosts["h1"].endpoints


def test_a_run_that_its_host_turns_out_to_hold_is_not_taken_back():
    w = World()
    w.join("h1")
    w.shell("t1")
    route = w.routes("t1")[0].id
    w.report("t1", c.TaskAccepted)
    lost = {"host": "h1", "incarnation": "i1", "epoch": 1, "silent_s": 20.0}
    w.store(subjects.fleet("h1"), c.HostLost(**w.head(), **lost))
    assert w.scheduler.state.ended["t1"].reason == "host lost"
    held = [c.Held("t1", route, "running")]
    w.host_says("h1", c.HostRecovered, held=held)
    w.turn()
    assert w.phase("t1") == "accepted"
    assert len(w.routes("t1")) == 1


def test_a_run_of_a_lost_host_that_comes_back_with_it_is_not_taken_for_gone():
    w = World()
    w.join("h1")
    w.shell("t1")
    w.report("t1", c.TaskStarted, executor="x")
    route = w.routes("t1")[0].id
    w.store(
        subjects.fleet("h1"),
        c.HostLost(
            **w.head(), epoch=1, host="h1", incarnation="i1", silent_s=15.0
        ),
    )  # fmt: skip
    held_run = c.Held(task_id="t1", route=route, phase="interrupted")
    w.store(
        subjects.host("h1"),
        c.HostJoined(
            **w.head(), host="h1", incarnation="i2", version="1", platform="linux",
            slots={"shell": 2}, endpoints=[], held=[held_run],
        ),
    )  # fmt: skip
    w.turn()
    assert w.events(c.TaskRequeued) == []


def test_a_task_that_is_tried_again_requires_all_that_it_did():
    said = {
        field.name: {str: "x", bool: True, int: 7}.get(field.type, ("x",))
        for field in structs.fields(Requirement)
    }
    base = Requirement(**said | {"kind": "local", "tier": "standard"})
    assert Requirement(kind="local", tier="standard") != base
    live = LiveTask(structs.replace(initial("t1"), tier="standard"), base, 0, None, "")
    changes = {"assign_to", "unverified", "excluded", "suspect"}
    again = structs.asdict(live.requirement(()))
    assert {k: v for k, v in again.items() if k not in changes} == {
        k: v for k, v in structs.asdict(base).items() if k not in changes
    }


def test_asking_where_a_task_would_go_leaves_nothing_behind():
    w = World()
    w.join("h1")
    w.beat("h1")
    fleet = w.scheduler.state.fleet
    before = len(fleet._pools)
    for n in range(20):
        spec = c.TaskSpec(description="fix it", needs=(f"thing-{n}",), tier="complex")
        assert w.scheduler.would_route(spec, classify(spec))[0] is None
    # Those of whole tiers stay.
    assert len(fleet._pools) <= before + 3
