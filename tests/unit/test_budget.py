"""What a task may spend on Claude Code, over all its routes."""

from __future__ import annotations

import pytest

from actors import lifecycle
from events import catalogue as c
from events import subjects
from projections.world import fold
from tests.support.histories import History, Route, result


def state_of(history: History, task: str) -> lifecycle.TaskState:
    state = lifecycle.initial(task)
    for recorded in history.recorded:
        place = subjects.parse(recorded.subject)
        if place.kind in ("task", "run"):
            state = lifecycle.evolve(state, recorded, epoch=1, host=place.host).state
    return state


def begun(**spec) -> tuple[History, str]:
    history = History()
    history.elect(1)
    return history, history.submit(tier="complex", **spec)


def spent(usd: float | None) -> c.Result:
    return c.Result(status="failed", estimated_cost_usd=usd)


def test_what_every_attempt_has_cost_is_taken_off_once() -> None:
    history, task = begun(max_budget_usd=1.0)
    for usd in (0.25, 0.5):
        route = history.route(task, tier="complex", target="claude")
        history.start(route)
        again = history.give_back(route, reason="interrupted", result=spent(usd))
        history.again(again)
        history.requeue(route)
    state = state_of(history, task)
    assert lifecycle.budget_left(state, None) == pytest.approx(0.25)
    assert lifecycle.budget_left(state, 0.8) == pytest.approx(0.05)
    assert lifecycle.budget_left(state, 0.5) == 0.0


def test_a_run_that_is_no_longer_wanted_was_paid_for_too() -> None:
    history, task = begun(max_budget_usd=1.0)
    route = history.route(task, tier="complex", target="claude")
    history.start(route)
    history.requeue(route, reason="host lost")
    history.report(c.TaskFailed, route, result=spent(0.75), late=True)
    assert lifecycle.budget_left(state_of(history, task), None) == 0.25


def test_what_a_round_has_cost_is_counted_where_the_run_then_is_lost() -> None:
    history, task = begun(max_budget_usd=1.0, verification_steps=["x", "y"])
    route = history.route(task, tier="complex", target="claude")
    history.start(route)
    told(history, route, round=1, usd=0.25)
    told(history, route, round=1, step=2)
    told(history, route, round=2, usd=0.125)
    assert lifecycle.budget_left(state_of(history, task), None) == 0.625
    history.give_back(route, reason="interrupted")
    history.requeue(route)
    assert lifecycle.budget_left(state_of(history, task), None) == 0.625


def test_what_the_rounds_told_is_not_counted_again_at_the_end() -> None:
    history, task = begun(max_budget_usd=1.0, verification_steps=["x"])
    route = history.route(task, tier="complex", target="claude")
    history.start(route)
    told(history, route, round=1, usd=0.25)
    told(history, route, round=2, usd=0.125)
    history.give_back(route, reason="failed", result=spent(0.5))
    assert lifecycle.budget_left(state_of(history, task), None) == 0.5


def test_who_is_killed_in_a_first_step_has_told_its_round_before_and_tells_it_once() -> (
    None
):
    history, task = begun(max_budget_usd=1.0, verification_steps=["x"])
    route = history.route(task, tier="complex", target="claude")
    history.start(route)
    cost = c.RoundSpent(estimated_cost_usd=0.25, cost_basis="reported")
    history.report(c.TaskStatus, route, text="Verify 1/1: x", round=1, spent=cost)
    assert lifecycle.budget_left(state_of(history, task), None) == 0.75
    told(history, route, round=1, usd=0.25)
    assert lifecycle.budget_left(state_of(history, task), None) == 0.75


@pytest.mark.parametrize("ended", [True, False])
def test_the_books_hold_what_the_rounds_of_a_run_told_lost_or_not(ended) -> None:
    history, task = begun(verification_steps=["x"])
    route = history.route(task, tier="complex", target="claude")
    history.start(route)
    for number in (1, 2):
        cost = c.RoundSpent(
            model_used="m", tokens_in=10, estimated_cost_usd=0.25, cost_basis="reported"
        )
        about = {"n": 2 * number, "round": number, "spent": cost}
        history.report(c.TaskStatus, route, text="Verify 1/1: x", **about)
        told(history, route, round=number, usd=0.25, n=2 * number + 1)
    if ended:
        whole = result(usd=0.75, tokens=(30, 0), model="m")
        history.report(c.TaskCompleted, route, result=whole)
    else:
        history.requeue(route, reason="host lost")
    world = fold(history.recorded)
    usd, tokens = (0.75, 30) if ended else (0.5, 20)
    assert world.costs.total.usd_nano == usd * 1e9
    assert world.costs.total.tokens_in == tokens
    assert [each.runs for each in world.costs.cells.values()] == [int(ended)]
    record = world.tasks.find(task)
    assert record is not None
    assert record.spent.usd_nano == usd * 1e9


def told(
    history: History,
    route: Route,
    *,
    round: int,
    step: int = 1,
    usd: float | None = None,
    n: int = 0,
) -> None:
    history.report(
        c.TaskVerified,
        route,
        round=round,
        rounds=3,
        step=step,
        of=2,
        command="x",
        passed=False,
        n=n,
        spent=None if usd is None else c.RoundSpent(estimated_cost_usd=usd),
    )


def test_only_the_runs_own_host_can_charge_a_task_and_only_for_claude() -> None:
    history, task = begun(max_budget_usd=1.0)
    local = history.route(task, target="ollama")
    history.give_back(local, result=spent(0.5))
    history.requeue(local)
    route = history.route(task, tier="complex", target="claude")
    history.report(c.TaskReturned, route, host="h2", reason="x", result=spent(0.5))
    history.report(c.TaskReturned, route, reason="x", result=spent(-5.0))
    assert lifecycle.budget_left(state_of(history, task), None) == 1.0


def test_without_a_budget_there_is_no_bound() -> None:
    history, task = begun()
    assert lifecycle.budget_left(state_of(history, task), None) is None
    assert lifecycle.budget_left(state_of(history, task), 2.0) == 2.0
