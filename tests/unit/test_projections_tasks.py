"""The fold over tasks: given a history, the record says what people should see."""

from __future__ import annotations

import pytest

from cli.render.display import CUT_SHORT, cost_line, ending
from cli.render.outcome import outcome_of, outcome_of_answer
from events import catalogue as c
from events import subjects
from events.codec import encode
from events.lifecycle import OPEN, PHASES
from projections import mapping
from projections.answers import TaskAnswer
from projections.queue import QueueState, queue_of
from projections.world import World, fold
from tests.support.histories import History, Route, plausible, result


@pytest.fixture
def history() -> History:
    return History()


def seen(history: History, task: str):
    """The record of a task after the whole history."""
    return fold(history.recorded).tasks.find(task)


def test_a_task_that_ran_shows_where_how_long_and_for_how_much(history):
    task = history.submit("say hi", priority="high", repo="shop")
    route = history.route(task, "h1")
    history.accept(route)
    history.start(route)
    history.complete(route, usd=0.25, tokens=(100, 20), equivalent=0.5)

    record = seen(history, task)

    assert (record.phase, record.host, record.endpoint) == (
        "completed",
        "h1",
        "h1-ollama",
    )
    assert (record.attempts_begun, record.generation, record.priority) == (1, 1, "high")
    assert (record.spent.usd_nano, record.spent.tokens_in) == (250_000_000, 100)
    assert record.result_seq == history.last.seq
    assert record.trace_seq == 2
    assert record.finished_at == history.last.event.at


def test_a_routing_that_does_not_raise_the_generation_is_void_and_noted(history):
    task = history.submit("say hi")
    first = history.route(task, "h1")
    history.requeue(first)
    history._generation[task] = 0
    history.route(task, "h2")

    record = seen(history, task)

    assert (record.phase, record.host, record.generation) == ("waiting", "h1", 1)
    assert [each.type for each in record.voids] == ["task.routed.v1"]
    assert record.voids[0].reason == "generation 1 has been routed already"


@pytest.mark.parametrize("skipped", ["nothing", "accept", "both"])
def test_a_later_phase_implies_the_earlier_ones(history, skipped):
    task = history.submit()
    route = history.route(task)
    if skipped == "nothing":
        history.accept(route)
    if skipped != "both":
        history.start(route)
    history.complete(route)

    record = seen(history, task)

    assert (record.phase, record.attempts_begun) == ("completed", 1)
    assert record.accepted_at
    assert record.started_at


def test_a_result_of_the_last_route_counts_until_the_task_is_routed_anew(history):
    task = history.submit()
    route = history.route(task)
    history.start(route)
    history.requeue(route, counts=True)
    history.complete(route)

    record = seen(history, task)

    assert (record.phase, record.attempts_begun, record.void) == ("completed", 1, 0)


def test_a_result_of_an_older_route_is_void_but_its_dollars_are_booked(history):
    task = history.submit()
    first = history.route(task, "h1")
    history.start(first)
    history.requeue(first, counts=True)
    history.route(task, "h2", attempt=2)
    late = history.complete(first, usd=0.75)
    history.again(late)

    world = fold(history.recorded)
    record = world.tasks.find(task)

    assert (record.phase, record.host) == ("routed", "h2")
    assert record.spent.usd_nano == 750_000_000
    assert record.routings[0].late
    assert record.void == 2
    assert record.voids[0].reason == "the route is not in force"
    assert world.costs.total.usd_nano == 750_000_000
    assert [booked.late for booked in world.costs.cells.values()] == [1]


def test_a_repeated_report_changes_nothing(history):
    task = history.submit()
    route = history.route(task)
    history.again(history.start(route))
    history.again(history.line(route, "Ollama retry 1/2..."))
    history.again(history.complete(route, usd=0.5))

    world = fold(history.recorded)
    record = world.tasks.find(task)

    assert record.spent.usd_nano == 500_000_000
    assert (record.void, record.routings[0].lines) == (0, 1)
    assert world.stats.refused["repeat"] == 3


def test_cancelling_lasts_until_the_host_says_it_stopped(history):
    task = history.submit()
    route = history.route(task)
    history.start(route)
    history.cancel(task)
    assert seen(history, task).phase == "cancelling"

    history.stopped(route, usd=0.1)

    record = seen(history, task)
    assert (record.phase, record.cancelled_by) == ("cancelled", "alice")
    assert record.spent.usd_nano == 100_000_000


def test_what_waits_is_cancelled_at_once(history):
    task = history.submit()
    history.cancel(task)

    assert seen(history, task).phase == "cancelled"


def test_a_cancelled_run_whose_host_was_lost_is_cancelled(history):
    task = history.submit()
    route = history.route(task)
    history.cancel(task)
    history.decide(
        c.TaskAbandoned, task, route=route.id, generation=1, host="h1", reason="lost"
    )

    assert seen(history, task).phase == "cancelled"


def test_a_rejection_waits_for_the_requeue_and_is_no_attempt(history):
    task = history.submit()
    route = history.route(task)
    history.report(c.TaskRejected, route, reason="busy", detail="slots are taken")
    assert seen(history, task).phase == "returned"

    history.requeue(route, "busy")

    record = seen(history, task)
    assert (record.phase, record.attempts_begun) == ("waiting", 0)
    assert record.routings[0].outcome == "rejected"


@pytest.mark.parametrize(
    ("reason", "attempts"), [("endpoint_failed", 1), ("limited", 0), ("draining", 0)]
)
def test_a_run_given_back_counts_unless_it_was_limited_or_drained(
    history, reason, attempts
):
    task = history.submit()
    route = history.route(task)
    history.start(route)
    history.give_back(route, reason)
    history.requeue(route, reason)

    assert seen(history, task).attempts_begun == attempts


def test_a_retry_begins_again_but_the_generation_goes_on_rising(history):
    task = history.submit()
    first = history.route(task)
    history.fail(first, usd=0.2)
    history.retry(task)
    waiting = seen(history, task)
    assert (waiting.phase, waiting.attempts_begun, waiting.error_code) == (
        "waiting",
        0,
        "",
    )

    second = history.route(task, "h2")
    history.complete(second, usd=0.3)

    record = seen(history, task)
    assert (record.phase, record.attempts_begun, record.generation) == (
        "completed",
        1,
        2,
    )
    assert record.spent.usd_nano == 500_000_000


def test_what_came_before_a_retry_counts_no_more(history):
    task = history.submit()
    route = history.route(task)
    history.start(route)
    history.dead(route, 1)
    history.retry(task)
    history.complete(route, usd=0.3)

    record = seen(history, task)

    assert (record.phase, record.void) == ("waiting", 1)
    assert record.spent.usd_nano == 300_000_000


def test_a_dead_letter_says_why(history):
    task = history.submit()
    route = history.route(task)
    history.start(route)
    history.dead(route, 3)

    record = seen(history, task)

    assert (record.phase, record.attempts_begun) == ("dead", 3)
    assert record.error_code == "attempts_used"


def test_a_leader_that_was_succeeded_decides_nothing(history):
    history.elect(1)
    task = history.submit()
    history.elect(2, "s2")
    history.decide(c.TaskExpired, task, reason="ttl", epoch=1)

    record = seen(history, task)

    assert (record.phase, record.void) == ("waiting", 1)


def test_a_cancellation_needs_no_leader(history):
    history.elect(3)
    task = history.submit()
    history.cancel(task)

    assert seen(history, task).phase == "cancelled"


def test_another_host_cannot_report_on_a_route(history):
    task = history.submit()
    route = history.route(task, "h1")
    history.report(c.TaskCompleted, route, host="h2", result=result(usd=9.0))

    record = seen(history, task)

    assert (record.phase, record.spent.usd_nano, record.void) == ("routed", 0, 1)


def test_a_body_that_disagrees_with_its_subject_is_dropped(history):
    task = history.submit()
    route = history.route(task, "h1")
    completed = history.complete(route, usd=9.0)
    history.recorded.pop()
    history.say(subjects.run("h2", task), completed.event)
    history.say(subjects.task(task), completed.event)
    history.say("agentcom.evt.run.h1", completed.event)

    world = fold(history.recorded)

    assert world.tasks.find(task).phase == "routed"
    assert world.stats.refused["foreign"] == 3
    assert world.costs.total.usd_nano == 0


def test_reports_about_nothing_are_counted_and_cost_nothing(history):
    history.complete(Route("r", "t", "h1", 1, 1), usd=5.0)

    world = fold(history.recorded)

    assert world.stats.void == {"task.completed.v1: no such task": 1}
    assert world.costs.total.usd_nano == 0


def test_a_route_off_the_preferred_tier_wears_the_badge(history):
    task = history.submit(tier="standard")
    history.route(
        task,
        tier="complex",
        target="claude",
        fallback_used=True,
        fallback_from_tier="standard",
        fallback_reason="standard is down",
    )

    record = seen(history, task)

    assert (record.tier, record.preferred_tier, record.fallback_used) == (
        "complex",
        "standard",
        True,
    )


@pytest.mark.parametrize(
    ("code", "outage"),
    [
        ("absent", "not set up"),
        ("down", "down since 2026-01-01T00:00:00Z"),
        ("failed", "every endpoint failed on the task"),
        ("unmet", "nothing met the task's needs"),
        ("verification", "its work did not pass its verification"),
    ],
)
@pytest.mark.parametrize("reason", ["reworded", "standard is not set up", None])
def test_what_a_fallback_cost_is_filed_by_its_code_whatever_its_words(
    history, code, outage, reason
):
    route = history.route(
        history.submit(tier="standard"),
        tier="complex",
        fallback_used=True,
        fallback_from_tier="standard",
        fallback_reason=reason,
        fallback_code=code,
        wait=c.Wait("standard", "2026-01-01T00:00:00.000000Z", 5.0, "taken"),
    )
    history.complete(route)

    cells = fold(history.recorded).costs.cells

    assert [cell.fallback for cell in cells] == [f"standard to complex: {outage}"]


def test_unknown_dollars_are_counted_as_unknown(history):
    task = history.submit()
    route = history.route(task)
    history.complete(route, usd=None, tokens=(None, None))

    record = seen(history, task)

    assert (record.spent.usd_nano, record.spent.unpriced) == (0, 1)


def test_a_host_that_says_less_than_nothing_takes_nothing_off_what_others_cost(history):
    for usd in (0.5, -1e6):
        route = history.route(history.submit(), target="claude")
        history.start(route)
        history.complete(route, usd=usd, cost_basis="reported")
    assert fold(history.recorded).costs.total.usd_nano == 500_000_000


def test_many_rejections_do_not_grow_a_record_without_end(history):
    task = history.submit()
    for _ in range(100):
        route = history.route(task)
        history.report(c.TaskRejected, route, reason="busy")
        history.requeue(route, "busy")

    record = seen(history, task)

    assert len(record.routings) == 64
    assert record.generation == 100


def in_order(queue: QueueState):
    lanes = {lane: list(ids) for lane, ids in queue.lanes.items()}
    return lanes, list(queue.under_way), set(queue.held)


def test_who_was_held_stands_behind_those_before_its_release_also_when_asked_late(
    history,
):
    held = history.submit("later", at="2030-01-01T00:00:00Z")
    before = history.submit("now")
    history.decide(c.TaskReleased, held)
    kept_up = World()
    for recorded in history.recorded:
        kept_up.fold(recorded)
        assert kept_up.queue.waiting + len(kept_up.queue.held) <= 2
    late = fold(history.recorded)
    assert in_order(late.queue) == in_order(kept_up.queue)
    assert list(late.queue.lanes["standard", "normal"]) == [before, held]


@pytest.mark.parametrize("seed", range(8))
def test_every_state_is_one_and_every_open_task_is_in_the_queue(seed):
    world = World()
    for recorded in plausible(seed, tasks=60):
        world.fold(recorded)
        records = world.tasks.records.values()
        waiting = {r.id for r in records if r.phase == "waiting"}
        queued = {i for lane in world.queue.lanes.values() for i in lane}
        assert queued == waiting
        assert set(world.queue.under_way) == {
            r.id for r in records if r.phase in OPEN and r.phase != "waiting"
        }
    assert in_order(queue_of(records)) == in_order(world.queue), (
        "made at the end it is as it was kept up, to the order"
    )
    counts = {state: n for state, n in world.stats.states.items() if n}
    assert sum(counts.values()) == len(world.tasks.records)
    assert set(counts) <= set(PHASES)


@pytest.mark.parametrize("seed", range(8))
def test_what_tasks_cost_together_is_the_total(seed):
    world = fold(plausible(seed))

    records = world.tasks.records.values()
    cells = world.costs.cells.values()
    total = world.costs.total.usd_nano
    assert sum(r.spent.usd_nano for r in records) == total
    assert sum(b.spent.usd_nano for b in cells) == total
    assert sum(t.spent.usd_nano for r in records for t in r.routings) == total


def test_an_answer_that_was_cut_off_says_so_where_people_and_programs_look(history):
    task = history.submit(tier="standard")
    route = history.route(task)
    history.start(route)
    last = history.complete(route, length_limited=True).event.result
    outcome = outcome_of(seen(history, task), last)
    assert encode(outcome).count(b'"length_limited":true') == 1
    assert CUT_SHORT in ending(outcome)
    whole = outcome_of(seen(history, task), result())
    assert CUT_SHORT not in ending(whole)


def test_what_a_task_cost_says_what_it_rests_on():
    history = History()
    task = history.submit()
    route = history.route(task, target="claude")
    history.start(route)
    history.give_back(route, result=result(usd=0.5, cost_basis="reported"))
    history.requeue(route, "endpoint_failed", counts=True)
    route = history.route(task, target="claude", attempt=2)
    history.start(route)
    last = history.complete(
        route, usd=0.25, cost_basis="estimated", tokens=(None, 5), cache_read_tokens=7
    )

    outcome = outcome_of(seen(history, task), last.event.result)

    assert (outcome.tokens_in, outcome.tokens_out) == (None, 25)
    assert (outcome.estimated_cost_usd, outcome.cost_basis) == (0.75, "estimated")
    assert outcome.cache_read_tokens == 7
    record = seen(history, task)
    detail = mapping.detail(record, submission=None, result=last.event.result, env={})
    answer = TaskAnswer(
        seq=9, task=detail, route=None, attempts=[], events=[], events_left_out=0
    )
    assert outcome_of_answer(answer) == outcome, (
        "also for those who may not read the log"
    )
    assert cost_line(outcome) == "llama3.2, – in, 25 out, 7 cached, ~$0.7500"


def test_a_start_told_behind_a_later_line_is_an_attempt_and_its_repeat_is_none(history):
    task = history.submit("say hi", tier="trivial", max_attempts=5)
    route = history.route(task, "h1", tier="trivial", target="sidecar")
    history.accept(route)
    history.start(route)
    history.report(c.TaskStatus, route, text="verifying", n=9)
    for _ in range(2):
        retrying = {"text": "again", "retry": 1, "of": 1, "reason": "x", "n": 4}
        history.report(c.TaskRetrying, route, **retrying)
    record = seen(history, task)
    assert (record.attempts, record.routings[-1].line) == (1, 9)
