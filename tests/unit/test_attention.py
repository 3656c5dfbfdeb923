"""What wants a person: one row a cause, with the filter that lists its tasks."""

from __future__ import annotations

import pytest

from events import catalogue as c
from events import subjects
from events.codec import rfc3339
from projections import attention, search
from projections.runner import Runner
from projections.store import Store
from tests.support.fakes import MemoryLog
from tests.support.histories import History, tell


async def found(history: History, *, later: float = 1.0):
    """The list after a history, and what each of its filters lists."""
    log, store = MemoryLog(), Store()
    runner = Runner(log, store)
    await runner.start()
    assert await runner.wait_for(await tell(log, history.recorded), 60)
    now = attention.step_of(history.now + later + attention.STEP_S)
    answer = await attention.find(runner, now)
    listed = {}
    for row in answer.rows:
        if row.filter is not None:
            page = search.TaskPage(
                **{n: getattr(row.filter, n) for n in row.filter.__struct_fields__}
            )
            total = (await store.look(search.tasks(page))).total
            listed[row.key] = total
    await runner.stop()
    return answer, listed


def kinds(answer) -> dict[str, int]:
    return {row.key: row.count for row in answer.rows}


async def test_where_nothing_is_wrong_nothing_does():
    history = History()
    history.join("h1")
    route = history.route(history.submit("fine"))
    history.start(route)
    history.complete(route)
    answer, _ = await found(history)
    assert (answer.rows, answer.errors, answer.warnings) == ([], 0, 0)


async def test_a_lost_host_a_down_endpoint_and_a_limited_tier_are_told():
    history = History()
    history.join("h1")
    history.join("h2")
    history.lose("h2")
    history.host_says(
        c.EndpointDown, "h1", endpoint="h1-ollama", kind="ollama", reason="refused"
    )
    history.tier(
        c.TierLimited, "complex", until=rfc3339(history.now + 3_600), reason="429"
    )
    answer, _ = await found(history)
    by_kind = {row.kind: row for row in answer.rows}
    assert by_kind["host_lost"].host == "h2"
    assert by_kind["host_lost"].action == "open_host"
    assert "refused" in by_kind["endpoint_down"].sentence
    assert answer.rows[0].severity == "error"


async def test_tasks_that_nobody_can_run_are_grouped_by_what_is_missing():
    history = History()
    history.join("h1")
    for _ in range(3):
        history.submit("for h9", assign_to="h9")
    history.submit("for a GPU", needs=["gpu"])
    for _ in range(2):
        history.submit("for a model", model="llama99")
    history.submit("only waits")
    history.submit("the model is there", model="llama3.2:latest")
    answer, listed = await found(history)
    stuck = {row.key: row for row in answer.rows if row.kind == "stuck"}
    counts = {
        "stuck/host/h9": 3,
        "stuck/need/gpu": 1,
        "stuck/model/llama99": 2,
    }
    assert {key: row.count for key, row in stuck.items()} == counts
    assert {key: listed[key] for key in stuck} == counts
    assert stuck["stuck/host/h9"].sentence == (
        "3 tasks wait for host h9, which has never joined."
    )
    assert stuck["stuck/need/gpu"].label == "Cancel it"
    assert stuck["stuck/host/h9"].label == "Cancel all 3"


async def test_failures_of_the_hour_and_dead_letters_are_grouped_by_cause():
    history = History()
    history.join("h1")
    for n, error in enumerate(
        [
            c.RunError("timeout", "nothing came\nfor 1 s"),
            c.RunError("timeout", "nothing came\nfor 2 s"),
            c.RunError("exit", "exit code 1"),
        ]
    ):
        route = history.route(history.submit(f"task {n}"))
        history.start(route)
        history.fail(route, error=error)
    for n in range(2):
        route = history.route(history.submit(f"lost {n}"))
        history.start(route)
        history.give_back(route)
        history.dead(route)
    answer, listed = await found(history)
    counts = kinds(answer)
    assert counts["failures/failed/timeout/nothing came"] == 2
    assert counts["failures/failed/exit/exit code 1"] == 1
    (dead,) = [row for row in answer.rows if row.kind == "dead"]
    assert (dead.count, dead.action, dead.label) == (2, "retry", "Retry all 2")
    assert all(listed[row.key] == row.count for row in answer.rows if row.filter)
    answer, _ = await found(history, later=4_000)
    assert [row.kind for row in answer.rows] == ["dead"]


async def test_who_waits_longer_than_is_usual_is_told():
    history = History()
    history.join("h1")
    for n in range(attention.USUAL_FROM):
        route = history.route(history.submit(f"quick {n}"))
        history.start(route)
        history.complete(route)
    history.submit("slow")
    answer, _ = await found(history)
    assert answer.rows == []
    answer, listed = await found(history, later=600)
    (row,) = answer.rows
    assert (row.kind, row.count, row.tier) == ("long_wait", 1, "standard")
    assert listed == {row.key: 1}


@pytest.mark.parametrize(
    ("spent", "severity"), [(3.0, None), (4.5, "warning"), (5.0, "error")]
)
async def test_a_days_budget_for_escalations_is_told_when_it_is_nearly_spent(
    spent, severity
):
    history = History()
    history.join("h1")
    changed = c.PolicyChanged(
        **history.head("gateway"),
        version=1,
        policy={"escalation_budget_usd_per_day": 5},
        changed=["escalation_budget_usd_per_day"],
        requested_by="alice",
    )
    history.say(subjects.POLICY, changed)
    for usd, off in ((spent, True), (100.0, False)):
        route = history.route(
            history.submit("x", tier="standard" if off else "complex"),
            tier="complex",
            fallback_used=off,
            fallback_from_tier="standard" if off else None,
            fallback_code="verification" if off else None,
        )
        history.start(route)
        history.complete(route, usd=usd)
    answer, _ = await found(history)
    told = [(row.kind, row.severity) for row in answer.rows if row.kind == "budget"]
    assert told == ([("budget", severity)] if severity else [])


@pytest.mark.parametrize("word", ["line", "error_code"])
async def test_what_a_task_says_never_becomes_more_than_a_text(word):
    hostile = "'; drop table task; -- <b>\x1b[31m%_" + "x" * 3_000
    history = History()
    history.join("h1")
    route = history.route(history.submit("x"))
    history.start(route)
    error = c.RunError(*(("exit", hostile) if word == "line" else (hostile, "x")))
    history.fail(route, error=error)
    answer, _ = await found(history)
    (row,) = answer.rows
    assert row.count == 1
    assert len(row.sentence) < 500
