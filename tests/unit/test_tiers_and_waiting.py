"""How a tier stands, in words, and when a task that waits for one expires."""

from __future__ import annotations

import pytest

from actors.rules.policy import Policy
from actors.scheduler.dispatch import options
from actors.scheduler.state import SchedulerState
from cli.render.fleet import tier_state
from events import catalogue as c
from events import subjects
from events.codec import instant, rfc3339
from events.lifecycle import TASK_TTL_S, hops
from projections import tiers, waiting
from projections.world import World, fold
from tests.support.histories import History


def shown(history: History, now: float | None = None) -> dict[str, tuple[str, str]]:
    """Each tier's condition and wording, the instant behind it as `T`."""
    rows = tiers.rows(fold(history.recorded), history.now if now is None else now)
    return {row.tier: (row.condition, tier_state(row, lambda at: "T")) for row in rows}


def expiry(history: History, task: str) -> float | None:
    world: World = fold(history.recorded)
    return waiting.expires_at_of(world.tasks.records[task], world.fleet)


def test_without_hosts_every_tier_is_absent():
    assert shown(History()) == {
        "trivial": ("absent", "no host"),
        "standard": ("absent", "no host"),
        "complex": ("absent", "no host"),
    }


def test_a_tier_is_as_the_living_hosts_are_until_the_log_says_more():
    history = History()
    history.join("h1")
    assert shown(history) == {
        "trivial": ("up", "up"),
        "standard": ("up", "up"),
        "complex": ("absent", "not set up"),
    }
    history.host_says(
        c.EndpointDown, "h1", endpoint="h1-ollama", kind="ollama", reason="refused"
    )
    assert shown(history)["standard"] == ("down", "down")
    history.tier(c.TierDown, "standard", reason="no endpoint is up")
    assert shown(history)["standard"] == ("down", "down since T: no endpoint is up")
    history.lose("h1")
    assert shown(history)["standard"] == ("absent", "no host")


def test_a_limit_is_over_when_its_time_has_come():
    history = History()
    history.join("h1")
    until = history.now + 60
    history.tier(
        c.TierLimited, "standard", until=rfc3339(until), reason="spent", known_end=True
    )
    assert shown(history)["standard"] == ("limited", "limited until T")
    assert shown(history, until + 1)["standard"] == ("up", "up")


def test_a_tier_is_busy_where_tasks_wait_and_no_slot_is_free():
    history = History()
    history.join("h1")
    history.submit()
    assert shown(history)["standard"] == ("up", "up, 1 waiting")
    history.route(history.submit(), host="h1", endpoint="h1-ollama")
    assert shown(history)["standard"] == ("busy", "busy, 1 waiting")


def test_what_something_can_take_expires_only_at_its_deadline():
    history = History()
    history.join("h1")
    late = rfc3339(history.now + 3_600)
    assert expiry(history, history.submit()) is None
    assert expiry(history, history.submit(deadline=late)) == instant(late)


@pytest.mark.parametrize(
    ("spec", "policy", "ttl_s"),
    [
        ({}, None, TASK_TTL_S),
        ({}, {"task_ttl_s": 30}, 30.0),
        ({"ttl_s": 7.0}, {"task_ttl_s": 30}, 7.0),
    ],
)
def test_a_time_to_live_is_the_task_s_own_or_the_policy_s_or_the_usual_one(
    spec, policy, ttl_s
):
    history = History()
    task = history.submit(**spec)
    if policy is not None:
        event = c.PolicyChanged(**history.head("gateway"), version=1, policy=policy)
        history.say(subjects.POLICY, event)
    since = fold(history.recorded).tasks.records[task].waiting_since
    assert expiry(history, task) == pytest.approx(instant(since) + ttl_s)


def test_the_usual_time_to_live_is_the_built_in_policy_s():
    assert Policy().task_ttl_s == TASK_TTL_S


def test_it_begins_when_the_last_tier_that_could_take_it_went_away():
    history = History()
    history.join("h1")
    task = history.submit()
    down = history.tier(c.TierDown, "standard", reason="gone").event
    assert expiry(history, task) == pytest.approx(instant(down.at) + TASK_TTL_S)


def test_an_exact_model_and_a_command_bound_where_a_task_may_go_instead():
    history = History()
    history.join("h1")
    history.tier(c.TierDown, "standard", reason="gone")
    plain = history.submit()
    command = history.submit(shell="true")
    exact = history.submit(shell="true", model="llama3.2")
    assert expiry(history, plain) is not None
    assert expiry(history, command) is None, "the host is there to run it"
    assert expiry(history, exact) is not None


def unverified(history: History) -> str:
    """A task of standard whose work did not pass in the last round."""
    task = history.submit(verification_steps=["make test"])
    route = history.route(task)
    history.accept(route)
    history.start(route)
    history.report(
        c.TaskVerified,
        route,
        round=2,
        rounds=2,
        step=1,
        of=1,
        command="make test",
        passed=False,
        exit_code=2,
    )
    history.give_back(route, "verification")
    history.requeue(route, "verification")
    return task


def because(history: History, task: str):
    world = fold(history.recorded)
    return waiting.why(world.tasks.records[task], world, history.now)


def test_unverified_work_waits_for_the_next_tier_and_says_which_step_failed():
    history = History()
    history.join("h1")
    first = unverified(history)
    task = unverified(history)
    history.submit()
    answer = because(history, task)
    assert answer.because[0] == (
        "What standard did has not passed its verification: make test ended with exit "
        "code 2 in round 2 of 2. It waits for Claude Code (complex), and is not tried in "
        "standard again."
    )
    assert answer.because[1].startswith("No host offers Claude Code (complex)")
    assert "Last said about it: verification." not in answer.because
    assert (answer.tier, answer.ahead) == ("complex", 1)
    assert because(history, first).ahead == 0
    assert expiry(history, task) == pytest.approx(
        instant(answer.waiting_since) + TASK_TTL_S
    )
    history.decide(c.TaskDeferred, task, reason="today's $1.00 are spent")
    said = because(history, task).because
    assert "Last said about it: today's $1.00 are spent." in said


def test_a_need_that_no_host_offers_is_named_rather_than_counted():
    history = History()
    history.join("h1", capabilities=["gpu"])
    task = history.submit(needs=["gpu", "docker"])
    history.decide(c.TaskDeferred, task, reason="1 × lacks docker")
    tied = history.submit(needs=["docker"], assign_to="h1")
    history.decide(c.TaskDeferred, tied, reason="1 × lacks docker")
    offered = history.submit(needs=["gpu"])
    history.decide(c.TaskDeferred, offered, reason="1 × busy")
    names_them = "a host's sidecar.toml names its capabilities."
    said = because(history, task).because
    assert f"It needs docker, which no host offers; {names_them}" in said
    assert not any("Last said" in each for each in said)
    said = because(history, tied).because
    assert f"It needs docker, which h1 does not offer; {names_them}" in said
    assert "Last said about it: 1 × busy." in because(history, offered).because


def test_a_task_that_lost_its_hosts_is_told_from_which_others_it_is_kept_apart():
    history = History()
    history.join("h1")
    said = "goes nowhere where another such task runs"

    def lost(times: int) -> str:
        task = history.submit()
        for _ in range(times):
            route = history.route(task)
            history.accept(route)
            history.start(route)
            history.requeue(route, "host lost", counts=True)
        return task

    suspect, innocent = lost(2), lost(1)
    assert not any(said in each for each in because(history, suspect).because)
    other = lost(2)
    history.accept(history.route(other))
    history.accept(history.route(innocent))
    (told,) = [each for each in because(history, suspect).because if said in each]
    assert told.endswith(f"{said}: {other} on h1.")
    waits = lost(1)
    assert not any(said in each for each in because(history, waits).because)
    # Tried anew, it begins without a blot.
    history.cancel(suspect)
    history.retry(suspect)
    assert not any(said in each for each in because(history, suspect).because)


@pytest.mark.parametrize("again", ["retried", "reassigned", "routed"])
def test_unverified_work_that_is_tried_anew_waits_for_its_own_tier(again):
    history = History()
    history.join("h1")
    task = unverified(history)
    if again == "retried":
        history.decide(c.TaskExpired, task, reason="ttl")
        history.retry(task)
    elif again == "reassigned":
        history.decide(c.TaskReassigned, task, host="h1", requested_by="alice")
    else:
        route = history.route(task)
        history.requeue(route, "host_lost")
    answer = because(history, task)
    assert (answer.state, answer.tier) == ("waiting", "standard")
    assert not any("verification" in sentence for sentence in answer.because)


def test_a_lane_says_when_its_first_task_expires():
    history = History()
    first = history.submit(ttl_s=50.0)
    history.submit(ttl_s=90.0)
    world = fold(history.recorded)
    end = expiry(history, first)
    assert end is not None
    assert waiting.expiring(world) == {"standard/normal": round(end * 1_000)}


def test_a_limit_ends_by_the_clock_and_by_being_lifted():
    history = History()
    history.join("h1")
    until = rfc3339(history.now + 60)
    history.tier(c.TierLimited, "standard", until=until, reason="spent")
    world = fold(history.recorded)
    later = history.now + 61
    [row] = [row for row in tiers.rows(world, later) if row.tier == "standard"]
    assert (row.state, row.until, row.reason, row.condition) == ("up", None, "", "up")
    assert shown(history)["standard"] == ("limited", "limited until T")
    history.tier(c.TierLimitCleared, "standard", requested_by="alice")
    assert shown(history)["standard"] == ("up", "up")


PLAIN = {
    "fixed": False,
    "stays": False,
    "model": "",
    "tied": False,
    "has_command": False,
    "of_a_model": False,
    "allow_downgrade": False,
}


@pytest.mark.parametrize(
    ("tier", "up", "more", "then"),
    [
        ("standard", "", {}, ["complex"]),
        ("standard", "complex", {"has_command": True}, ["complex"]),
        ("standard", "", {"has_command": True}, ["complex", "trivial"]),
        ("standard", "", {"of_a_model": True}, []),
        ("standard", "", {"stays": True}, []),
        ("standard", "", {"fixed": True}, []),
        ("standard", "", {"model": "llama3.2"}, []),
        ("standard", "", {"tied": True}, ["complex"]),
        ("standard", "standard", {"tied": True}, []),
        ("complex", "", {}, []),
        ("complex", "", {"allow_downgrade": True}, ["standard"]),
        ("complex", "complex", {"allow_downgrade": True}, []),
        ("trivial", "", {"has_command": True}, []),
    ],
)
def test_where_a_task_may_go_instead_is_one_rule(tier, up, more, then):
    assert hops(tier, **PLAIN | more, is_up=lambda one: one == up) == then


@pytest.mark.parametrize("downgrade", [False, True])
@pytest.mark.parametrize("models", [(), ("llama3.2",)])
@pytest.mark.parametrize(
    ("tier", "spec"),
    [
        ("standard", {}),
        ("standard", {"tier_limit": "standard"}),
        ("standard", {"system": "Be brief."}),
        ("complex", {"system": "Be brief."}),
        ("standard", {"model": "llama3.2"}),
        ("standard", {"shell": c.Shell(command="ls")}),
        ("standard", {"assign_to": "h1"}),
        ("standard", {"executor": "agent"}),
        ("complex", {}),
    ],
)
def test_people_are_told_of_the_tiers_that_the_scheduler_may_use(
    tier, spec, models, downgrade
):
    history = History()
    history.join("h1", models=models)
    if not models:
        history.host_says(
            c.EndpointDown, "h1", endpoint="h1-ollama", kind="ollama", reason="refused"
        )
    policy = {"allow_downgrade": downgrade}
    history.say(
        subjects.POLICY,
        c.PolicyChanged(
            **history.head("gateway"), version=1, policy=policy, requested_by="alice"
        ),
    )
    task = history.submit(tier=tier, **spec)
    state = SchedulerState()
    for recorded in history.recorded:
        state.fold(recorded)
    world = fold(history.recorded)

    [waits] = [group.requirement for group in state.queue.groups.values()]
    record = world.tasks.records[task]
    told = [record.seeks, *waiting._other_tiers(record, world.fleet)]
    assert told == options(state, waits)


def test_a_child_that_is_limited_to_local_models_is_not_told_of_claude():
    history = History()
    history.join("h1", models=())
    history.host_says(
        c.EndpointDown, "h1", endpoint="h1-ollama", kind="ollama", reason="refused"
    )
    for limit, named in ((None, True), ("standard", False)):
        task = history.submit(tier_limit=limit)
        world = fold(history.recorded)
        told = waiting.why(world.tasks.records[task], world, history.now).because
        assert any("Claude Code (complex) either" in each for each in told) is named
