"""A task as a trace: which spans its events make, and how they hang together."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from analysis.tracing import lives, relatives, root_id, trace_id
from events import catalogue as c
from events.commands import Submit, SubmitBatch, under_trace
from events.lifecycle import FINAL
from events.traceparent import TraceParent
from projections.world import fold
from tests.support.histories import History, plausible, result

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def history() -> History:
    return History()


def tree(spans) -> list[str]:
    """Names with their depth, in the order of the spans."""
    depth = {"": -1}
    lines = []
    for span in spans:
        depth[span.span_id] = depth.get(span.parent_id, -1) + 1
        lines.append("  " * depth[span.span_id] + span.name)
    return lines


def test_a_retry_a_fallback_and_a_verification_round_are_one_whole_trace(history):
    task = history.submit("say hi", labels={"team": "search"})
    first = history.route(task)
    history.start(first)
    history.report(
        c.TaskRetrying, first, text="again", retry=2, of=3, reason="connection", n=0
    )
    history.give_back(first)
    history.requeue(first)
    second = history.route(
        task,
        "h2",
        tier="complex",
        target="claude",
        endpoint="",
        model="sonnet",
        attempt=2,
        fallback_used=True,
        fallback_from_tier="standard",
        fallback_code="down",
    )
    history.report(c.TaskStarted, second, executor="claude", model="sonnet")
    spent = c.RoundSpent(
        model_used="claude-x", tokens_in=10, tokens_out=5, estimated_cost_usd=0.25
    )
    history.report(c.TaskStatus, second, text="round 1", n=0, round=1, spent=spent)
    step = {"rounds": 3, "step": 1, "of": 1, "command": "make test", "n": 1}
    history.report(c.TaskVerified, second, round=1, passed=False, exit_code=2, **step)
    history.report(c.TaskStatus, second, text="round 2", n=2, round=2)
    history.report(c.TaskVerified, second, round=2, passed=True, **{**step, "n": 3})
    history.complete(second, usd=0.5, tokens=(30, 9), verified=True)

    (life,) = lives(history.recorded)

    assert tree(life.spans) == [
        "task",
        "  wait",
        "  run",
        "    deliver",
        "    chat llama3.2",
        "      try 2",
        "  wait",
        "  run",
        "    deliver",
        "    invoke_agent sonnet",
        "    verify",
        "      step",
        "    invoke_agent sonnet",
        "    verify",
        "      step",
    ]
    assert life.seq == history.last.seq
    root, first_run, second_run = life.spans[0], life.spans[2], life.spans[7]
    assert root.attributes["agentcom.task.state"] == "completed"
    assert root.attributes["agentcom.label.team"] == "search"
    assert (root.error, first_run.error) == ("", "endpoint_failed")
    assert second_run.attributes["agentcom.fallback.from"] == "standard"
    assert second_run.attributes["agentcom.fallback.code"] == "down"
    assert second_run.attributes["agentcom.verified"] is True
    assert second_run.attributes["agentcom.cost.usd"] == 0.5
    work = life.spans[9]
    assert work.kind == "client"
    assert work.attributes["gen_ai.provider.name"] == "anthropic"
    assert work.attributes["gen_ai.response.model"] == "claude-x"
    assert work.attributes["gen_ai.usage.input_tokens"] == 10
    assert [span.error for span in life.spans[10:12]] == ["verification"] * 2


def test_input_tokens_include_those_of_the_cache(history):
    task = history.submit()
    route = history.route(task)
    history.start(route)
    usage = result(tokens=(10, 5))
    cached = c.Result(
        status="success",
        model_used=usage.model_used,
        tokens_in=10,
        tokens_out=5,
        cache_read_tokens=100,
        cache_write_tokens=1_000,
    )
    history.report(c.TaskCompleted, route, result=cached)

    run = lives(history.recorded)[0].spans[2].attributes

    assert run["gen_ai.usage.input_tokens"] == 1_110
    assert run["gen_ai.usage.cache_read.input_tokens"] == 100
    assert run["gen_ai.usage.cache_creation.input_tokens"] == 1_000


def test_a_task_that_was_retried_lives_twice_in_one_trace(history):
    task = history.submit()
    route = history.route(task)
    history.start(route)
    history.fail(route)
    history.retry(task)
    again = history.route(task)
    history.start(again)
    history.complete(again)

    first, second = lives(history.recorded)

    assert first.spans[0].error == "exit"
    assert second.spans[0].error == ""
    assert {span.trace_id for span in first.spans + second.spans} == {trace_id(task)}
    (link,) = second.spans[0].links
    assert (link.span_id, link.relation) == (root_id(task), "retry_of")
    assert lives(history.recorded)[0].spans == first.spans


def test_a_task_that_has_not_ended_has_no_trace_yet(history):
    task = history.submit()
    history.start(history.route(task))
    assert lives(history.recorded) == []


def test_parent_and_children_are_linked_both_ways(history):
    parent = history.submit(traceparent=CALLER)
    route = history.route(parent)
    history.start(route)
    child = history.new_id()
    history.decide(c.TaskDelegated, parent, child=child, route=route.id)
    history.submit(task_id=child)
    born = msgspec.structs.replace(
        history.last.event, parent=parent, parent_route=route.id, root=parent, depth=1
    )
    history.recorded[-1] = msgspec.structs.replace(history.last, event=born)
    history.complete(route)
    history.cancel(child)
    events = history.recorded
    of_parent = [each for each in events if each.event.task_id == parent]
    of_child = [each for each in events if each.event.task_id == child]

    (whole,) = lives(of_parent, {child: ""})
    (part,) = lives(of_child, {parent: CALLER})

    assert relatives(of_parent) == [child]
    assert relatives(of_child) == [parent]
    above, below = whole.spans[0], part.spans[0]
    (down,), (up,) = above.links, below.links
    assert (down.trace_id, down.span_id, down.relation) == (
        below.trace_id, below.span_id, "child",
    )  # fmt: skip
    assert (up.trace_id, up.span_id, up.relation) == (
        above.trace_id, above.span_id, "parent",
    )  # fmt: skip


def test_a_callers_trace_holds_the_tasks(history):
    task = history.submit(traceparent=CALLER)
    history.cancel(task)

    (life,) = lives(history.recorded)

    assert life.spans[0].trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert life.spans[0].parent_id == "b7ad6b7169203331"
    assert tree(life.spans)[1:] == ["  wait"]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_the_spans_of_a_life_are_one_tree(seed):
    recorded = plausible(seed)
    records = fold(recorded).tasks
    elections = [
        each for each in recorded if isinstance(each.event, c.SchedulerElected)
    ]
    by_task = {}
    for each in recorded:
        if isinstance(each.event, c.TaskEvent | c.RunEvent):
            by_task.setdefault(each.event.task_id, []).append(each)
    for task_id, events in by_task.items():
        ended = lives(sorted(elections + events, key=lambda each: each.seq))
        record = records.find(task_id)
        if record is not None and record.phase in FINAL:
            assert ended
        ids = Counter(span.span_id for life in ended for span in life.spans)
        assert not ids or max(ids.values()) == 1
        for life in ended:
            by_id = {span.span_id: span for span in life.spans}
            for span in life.spans[1:]:
                parent = by_id[span.parent_id]
                assert parent.start <= span.start <= span.end <= parent.end


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        CALLER.upper(),
        CALLER + "-more",
        CALLER.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        CALLER + "\n",
    ],
)
def test_what_is_no_traceparent_is_none(text):
    assert TraceParent.read(text) is None


def test_a_later_version_may_say_more():
    later = TraceParent.read(CALLER.replace("00-", "01-", 1) + "-more")
    assert later == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


def test_a_header_names_the_span_of_tasks_that_name_none():
    own = CALLER.replace("b7", "c7", 1)
    batch = SubmitBatch(
        tasks=[Submit(description="a"), Submit(description="b", traceparent=own)]
    )
    under = under_trace(batch, CALLER)
    assert [task.traceparent for task in under.tasks] == [CALLER, own]
    assert under_trace(batch, "nonsense") == batch
