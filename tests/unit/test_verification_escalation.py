"""Work that does not pass its verification: where it goes from there."""

from __future__ import annotations

import pytest

from actors.rules import policy as policies
from events import catalogue as c
from events import subjects
from tests.support.world import World, claude, ollama

UNVERIFIED = c.Result(
    status="failed",
    error=c.RunError("verification", "verification failed after 2 rounds"),
    verified=False,
)


def world(**policy: object) -> World:
    w = World()
    new = policies.parse(policy)
    w.store(
        subjects.POLICY,
        c.PolicyChanged(**w.head(), version=1, policy=policies.document(new)),
    )
    w.join("h1", endpoints=[ollama(), claude()])
    return w


def given_back(w: World, task: str = "t1", **fields: object) -> None:
    w.submit(task, tier="standard", verification_steps=["make test"], **fields)
    w.report(task, c.TaskStarted, executor="x")
    w.report(task, c.TaskReturned, reason="verification", result=UNVERIFIED)


def order(w: World, task: str = "t1"):
    return w.assigned(task)[-1].message


def test_standard_work_may_escalate_and_its_host_is_told_so():
    w = world()
    w.submit("t1", tier="standard", verification_steps=["make test"])
    assert order(w).escalates


def test_without_steps_nothing_is_to_be_given_back():
    w = world()
    w.submit("t1", tier="standard")
    assert not order(w).escalates


def test_the_last_attempt_fails_where_it_is():
    w = world()
    w.submit("t1", tier="standard", verification_steps=["x"], max_attempts=1)
    assert not order(w).escalates


def test_complex_work_fails_where_it_is():
    w = world()
    w.submit("t1", tier="complex", verification_steps=["x"])
    assert not order(w).escalates


def test_an_exact_model_is_not_left():
    w = world()
    w.submit("t1", tier="standard", verification_steps=["x"], model="llama3")
    assert all(not mail.message.escalates for mail in w.assigned("t1"))


def test_where_claude_is_not_set_up_nothing_escalates():
    w = World()
    w.join("h1", endpoints=[ollama()])
    w.submit("t1", tier="standard", verification_steps=["x"])
    assert not order(w).escalates


def test_what_failed_its_verification_goes_to_claude_at_once_by_its_own_code():
    w = world()
    given_back(w)
    first, second = w.routes("t1")
    assert (first.effective_tier, second.effective_tier) == ("standard", "complex")
    assert (second.fallback_used, second.fallback_code) == (True, "verification")
    assert second.fallback_from_tier == "standard"
    assert second.attempt == 2
    assert not order(w).escalates


def test_it_escalates_once():
    w = world()
    given_back(w)
    w.report("t1", c.TaskStarted, executor="x")
    w.report("t1", c.TaskFailed, result=UNVERIFIED)
    assert w.phase("t1") == "failed"
    assert len(w.routes("t1")) == 2


def test_escalations_by_verification_are_held_to_their_number():
    w = world(max_escalations_in_flight=1)
    w.join("h2", endpoints=[ollama("o2"), claude("c2", slots=3)])
    given_back(w, "t1")
    given_back(w, "t2")
    assert len(w.routes("t1")) == 2
    assert len(w.routes("t2")) == 1
    w.report("t1", c.TaskStarted, executor="x")
    w.report("t1", c.TaskCompleted, result=c.Result(status="success"))
    assert len(w.routes("t2")) == 2


@pytest.mark.parametrize("costs", [(1.5,), (-1e6, 1.5), (1.5, -1e6)])
def test_with_the_day_s_budget_spent_it_waits_and_expires(costs):
    w = world(escalation_budget_usd_per_day=1.0, task_ttl_s=30.0)
    w.join("h2", endpoints=[ollama("o2"), claude("c2", slots=3)])
    before = [f"before-{n}" for n, _ in enumerate(costs)]
    for task in before:
        given_back(w, task)
    # Also where a host says that it was paid for it: that is no other task's money.
    for task, usd in zip(before, costs, strict=True):
        w.report(task, c.TaskStarted, executor="x")
        paid = c.Result(status="success", estimated_cost_usd=usd)
        w.report(task, c.TaskCompleted, result=paid)
    given_back(w, "t1")
    assert len(w.routes("t1")) == 1
    w.beat_on(40, "h1", "h2")
    assert [each.task_id for each in w.events(c.TaskExpired)] == ["t1"]


def test_it_never_runs_in_its_own_tier_again_but_after_a_retry():
    w = world(max_escalations_in_flight=0)
    w.submit("t1", tier="standard", verification_steps=["x"])
    w.report("t1", c.TaskStarted, executor="x")
    w.report("t1", c.TaskReturned, reason="verification", result=UNVERIFIED)
    w.beat_on(20, "h1")
    assert len(w.routes("t1")) == 1
