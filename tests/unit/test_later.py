"""Tasks that are not to start at once: held outside the queue, then released."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from types import SimpleNamespace
from typing import Any

import click
import pytest

from actors.gateway.validate import check
from actors.rules.classification import classify
from actors.rules.later import graph_of
from actors.rules.prompt import prompt_for, with_inputs
from actors.scheduler.decide import Scheduler
from actors.scheduler.held import outcome_in
from actors.scheduler.outputs import OutcomeNeeded
from cli.client.connection import Session
from cli.client.spans import time_to_come
from cli.commands.later import settle_later
from events import catalogue as c
from events import subjects
from events.codec import instant, rfc3339
from events.errors import Malformed, Unreachable
from projections.schedules import graph
from projections.waiting import why
from projections.world import fold
from tests.support.world import START, World


def at(seconds: float) -> str:
    return rfc3339(START + seconds)


def releases(w: World) -> list[c.TaskReleased]:
    return [r.event for r in w.log if isinstance(r.event, c.TaskReleased)]


def test_a_delayed_task_is_routed_at_its_time_and_not_before():
    w = World()
    w.join("h1")
    w.shell("t1", at=at(7_200))
    w.beat_on(7_190, "h1")
    assert w.routes() == []
    w.beat_on(12, "h1")
    (routed,) = w.routes("t1")
    assert instant(routed.at) >= START + 7_200


def test_a_time_that_has_passed_is_no_reason_to_wait():
    w = World()
    w.join("h1")
    w.shell("t1", at=at(-5))
    assert len(w.routes("t1")) == 1


def test_it_does_not_age_while_it_is_held():
    w = World()
    w.join("h1", slots={"shell": 1})
    w.shell("first")
    w.report("first", c.TaskAccepted)
    w.shell("low", priority="low", at=at(620))
    w.shell("normal", at=at(630))
    w.beat_on(640, "h1")
    w.report("first", c.TaskCompleted, result=c.Result(status="success"))
    assert w.routes()[-1].task_id == "normal"


def test_its_release_is_in_the_log_and_survives_who_decided_it():
    w = World()
    w.join("h1")
    w.shell("t1", at=at(60))
    w.elect(2, "s2")
    w.wait(120)
    assert releases(w) == []
    w.elect(3)
    (released,) = releases(w)
    assert released.epoch == 3
    assert w.scheduler.state.queue.tasks.keys() | {r.task_id for r in w.routes()} == {
        "t1"
    }


def test_a_clock_that_is_put_forward_brings_its_time_nearer():
    w = World()
    w.join("h1")
    w.shell("t1", at=at(3_600))
    assert releases(w) == []
    step = c.ClockStepped(
        **w.head(), epoch=1, role="scheduler", name="s1", step_s=3_600
    )
    w.store(subjects.SCHEDULER, step)
    w.turn()
    assert len(releases(w)) == 1


def test_a_held_task_expires_at_its_deadline_and_can_be_cancelled():
    w = World()
    w.join("h1")
    w.shell("t1", at=at(600), deadline=at(60))
    w.shell("t2", at=at(600))
    w.store(subjects.task("t2"), c.TaskCancelled(**w.head(), task_id="t2"))
    w.wait(700)
    assert w.scheduler.state.tasks == w.scheduler.state.held.tasks == {}
    assert w.routes() == releases(w) == []


def test_a_routing_of_a_held_task_is_void():
    w = World()
    w.join("h1")
    w.shell("t1")
    (routed,) = w.routes("t1")
    w.shell("t2", at=at(600))
    w.store(
        subjects.task("t2"),
        c.TaskRouted(
            **{
                name: getattr(routed, name)
                for name in routed.__struct_fields__
                if name != "task_id"
            },
            task_id="t2",
        ),
    )
    assert w.scheduler.state.tasks["t2"].task.phase == "waiting"
    assert "t2" in w.scheduler.state.held.tasks


def test_a_deadline_before_the_start_is_refused():
    spec = c.TaskSpec(description="x", at=at(60), deadline=at(50))
    with pytest.raises(Malformed, match="deadline: expected a time after at"):
        check(spec, START)


@pytest.mark.parametrize("text", ["soon", "25:00", "2026-13-01", "18.30"])
def test_what_is_no_time_is_refused_with_what_would_be_one(text):
    with pytest.raises(click.BadParameter, match="18:30, tomorrow 9:00"):
        time_to_come(text)


def test_a_time_of_day_is_the_next_one_where_it_is_typed():
    now = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)

    def read(text: str) -> datetime:
        return datetime.fromisoformat(time_to_come(text, lambda: now)).astimezone()

    here = now.astimezone()
    for text in ("0:01", "23:59", f"{here:%H:%M}"):
        then = read(text)
        assert 0 < (then - here).total_seconds() <= 86_400
        hour, _, minute = text.partition(":")
        assert (then.hour, then.minute) == (int(hour), int(minute))
    assert read("tomorrow 9:00").date() > here.date()


# -- after other tasks -----------------------------------------------------------------


def after(name: str, *others: str, **fields) -> c.TaskSpec:
    return c.TaskSpec(description=name, name=name, after=list(others), **fields)


def finish(w: World, task_id: str, *, well: bool = True, output: str = "") -> None:
    w.report(task_id, c.TaskStarted, executor="shell")
    if well:
        result = c.Result(status="success", output=output)
        w.report(task_id, c.TaskCompleted, result=result)
    else:
        w.report(task_id, c.TaskFailed, result=c.Result(status="failed"))


def cancellations(w: World) -> dict[str, c.TaskCancelled]:
    events = [r.event for r in w.log]
    return {e.task_id: e for e in events if isinstance(e, c.TaskCancelled)}


def test_a_task_starts_when_all_that_it_comes_after_have_completed():
    w = World()
    w.join("h1")
    w.shell("a")
    w.shell("b")
    w.shell("c", after=["a", "b"])
    finish(w, "a")
    assert w.routes("c") == []
    finish(w, "b")
    assert len(w.routes("c")) == 1


def test_a_failed_predecessor_cancels_what_comes_after_it_with_the_reason():
    w = World()
    w.join("h1")
    w.shell("a")
    w.shell("b", after=["a"], at=at(600))
    w.shell("c", after=["b"])
    w.shell("d", after_any=["c"])
    finish(w, "a", well=False)
    cancelled = cancellations(w)
    assert cancelled["b"].reason == "task a, which it comes after, has failed"
    assert cancelled["b"].predecessor == "a"
    assert cancelled["c"].reason == "task b, which it comes after, was cancelled"
    assert "d" not in cancelled
    assert len(w.routes("d")) == 1


def test_what_was_over_before_is_read_from_the_log_by_whoever_leads():
    w = World()
    w.join("h1")
    w.shell("a")
    finish(w, "a", output="four")
    spec = {"tier": "standard", "input_from": ["a"]}
    w.submit("b", **spec)
    asked = OutcomeNeeded("a")
    w.scheduler.decide(w.now)
    assert releases(w) == []
    w.scheduler.state.held.asked.clear()
    w.scheduler.state.held.look_at_all()
    w.scheduler.decide(w.now)
    assert asked in w.scheduler.effects
    history = [r for r in w.log if r.subject.endswith(".a")]
    w.scheduler.outcome("a", outcome_in("a", history, w.scheduler.state.epochs))
    w.turn()
    (released,) = releases(w)
    assert released.inputs == {"a": history[-1].seq}


def test_a_retried_predecessor_is_waited_for_again():
    w = World()
    w.join("h1", slots={"shell": 1})
    w.shell("a")
    w.shell("b")
    w.shell("c", after_any=["a"], after=["b"])
    finish(w, "a", well=False)
    w.store(subjects.task("a"), c.TaskRetried(**w.head(), task_id="a"))
    w.scheduler.adopt("a", [r for r in w.log if r.subject.endswith(".a")])
    w.turn()
    finish(w, "b")
    assert w.routes("c") == []
    finish(w, "a")
    assert len(w.routes("c")) == 1


def test_the_output_of_a_predecessor_stands_in_the_prompt_and_ends_no_fence():
    spec = c.TaskSpec(description="sum up", input_from=["a"])
    prompt = prompt_for(with_inputs(spec, {"a": "one\n```\ntwo"}))
    assert prompt == "sum up\n\nOutput of task a:\n````\none\n```\ntwo\n````"


def test_what_is_too_long_for_a_prompt_keeps_its_beginning_and_its_end():
    spec = c.TaskSpec(description="x" * 190_000, input_from=["a"])
    whole = with_inputs(spec, {"a": "b" + "-" * 50_000 + "e"}).description
    assert len(whole) <= c.DESCRIPTION_LIMIT
    assert "characters left out" in whole
    assert whole.endswith("e\n```")


def test_names_of_a_batch_become_ids_and_nothing_is_submitted_before_what_it_follows():
    specs, order = graph_of([after("c", "b", "X"), after("b", "a"), after("a")], "321")
    assert [spec.after for spec in specs] == [["2", "X"], ["1"], []]
    assert order == [2, 1, 0]


def test_a_cycle_is_refused_with_its_path():
    tasks = [after("a", "c"), after("b", "a"), after("c", "b"), after("d")]
    with pytest.raises(Malformed) as refused:
        graph_of(tasks, "1234")
    assert refused.value.path in ("tasks[0].after", "tasks[1].after", "tasks[2].after")
    turns = ("a after c after b after a", "b after a after c after b")
    assert refused.value.got in (*turns, "c after b after a after c")


def test_a_task_that_comes_after_itself_and_a_name_said_twice_are_refused():
    with pytest.raises(Malformed, match="X after X"):
        graph_of([c.TaskSpec(description="x", after=["X"])], ["X"])
    with pytest.raises(Malformed, match=r"tasks\[1\].name: expected another name"):
        graph_of([after("a"), after("a")], "12")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"after": ["a", "a"]}, "after: expected each task once"),
        (
            {"after": ["a"], "after_any": ["a"]},
            "after_any: expected tasks that are not",
        ),
        (
            {"input_from": ["a"], "shell": c.Shell("true")},
            "input_from: expected none, because a shell command has no prompt",
        ),
    ],
)
def test_predecessors_that_contradict_each_other_are_refused(fields, said):
    with pytest.raises(Malformed, match=said):
        check(c.TaskSpec(description="x", **fields), START)


def test_a_graph_is_shown_from_any_of_its_tasks_with_who_waits_for_whom():
    w = World()
    w.join("h1")
    w.shell("a", name="build")
    w.shell("b", after=["a"])
    w.shell("c", after_any=["a"])
    w.shell("d", after=["b", "c"])
    w.shell("alone")
    for task_id in "abcd":
        shown = graph(fold(w.log), task_id)
        assert {n.task_id: (n.level, n.before, n.how) for n in shown.nodes} == {
            "a": (0, [], []),
            "b": (1, ["a"], ["after"]),
            "c": (1, ["a"], ["after_any"]),
            "d": (2, ["b", "c"], ["after", "after"]),
        }
    (node,) = graph(fold(w.log), "alone").nodes
    assert (node.state, node.held) == ("routed", False)
    world = fold(w.log)
    because = why(world.tasks.find("d"), world, w.now).because
    assert because[0] == (
        "It starts when 2 of 2 tasks have completed: b (waiting), c (waiting)."
    )


def test_a_graph_of_1000_tasks_ends_in_order_though_its_schedulers_die():
    """Fan-out by ten and fan-in, twelve rounds of it; a new leader every 90 results."""
    chance, layers, n = Random(7), [["t0"]], 1
    before: dict[str, list[str]] = {"t0": []}
    while n < 1_000:
        width = min(1_000 - n, 80 if len(layers) % 2 else 1)
        layer = [f"t{k}" for k in range(n, n + width)]
        for one in layer:
            before[one] = list(layers[-1])
        layers.append(layer)
        n += width
    w = World()
    w.join("h1", slots={"shell": 25})
    for task_id, some in before.items():
        spec = c.TaskSpec(description=task_id, shell=c.Shell("true"), after=some)
        about = {"task_id": task_id, "spec": spec, "classification": classify(spec)}
        w.store(subjects.task(task_id), c.TaskSubmitted(**w.head(), **about))
    w.turn()
    running, seen, done = [], 0, []
    while len(done) < 1_000:
        new = [recorded.event for recorded in w.log[seen:]]
        running += [event for event in new if isinstance(event, c.TaskRouted)]
        seen = len(w.log)
        routed = running.pop(chance.randrange(len(running)))
        assert set(before[routed.task_id]) <= set(done)
        done.append(routed.task_id)
        result = c.Result(status="success")
        w.report(routed.task_id, c.TaskCompleted, route=routed, result=result)
        if len(done) % 90 == 0:
            take_over(w, 2 + len(done) // 90)
    assert len(set(done)) == 1_000
    assert not w.scheduler.state.held.followers


def take_over(w: World, epoch: int) -> None:
    """Let a scheduler lead that has folded half the log, and lost the other's memory."""
    w.scheduler = Scheduler("s1", lambda: w.head()["id"])
    for recorded in w.log:
        w.scheduler.fold(recorded)
    w.elect(epoch)
    w.beat("h1", held=[])
    for _ in range(3):
        w.scheduler.state.held.asked.clear()
        w.scheduler.state.held.look_at_all()
        for decision in w.scheduler.decide(w.now):
            w.take(decision)
        for effect in w.scheduler.effects:
            if isinstance(effect, OutcomeNeeded):
                task_id = effect.task_id
                history = [r for r in w.log if r.subject.endswith(f".{task_id}")]
                found = outcome_in(task_id, history, w.scheduler.state.epochs)
                w.scheduler.outcome(task_id, found)
    w.turn()


def asking(ping: bytes | Exception) -> Any:
    """A session whose schedulers answer a ping so."""

    async def call(subject: str, data: bytes, *, timeout: float) -> Any:
        assert subject == "$SRV.PING.agentcom"
        if isinstance(ping, Exception):
            raise ping
        return SimpleNamespace(data=ping)

    client = Session.__new__(Session)
    client.link = SimpleNamespace(call=call)
    return client


async def test_a_delay_is_reckoned_by_the_schedulers_clock():
    ping = b'{"metadata":{"leading":"true","now":"2001-02-03T04:05:06.000000Z"}}'
    fields: dict[str, Any] = {"description": "later", "in": 90.0}
    await settle_later(asking(ping), fields)
    assert fields == {"description": "later", "at": "2001-02-03T04:06:36.000000Z"}


@pytest.mark.parametrize(
    "ping", [b'{"metadata":{}}', Unreachable("$SRV.PING.agentcom", absent=True)]
)
async def test_where_no_scheduler_tells_the_time_our_own_clock_is_taken(
    monkeypatch: pytest.MonkeyPatch, ping: bytes | Exception
):
    clock = SimpleNamespace(time=lambda: 1_000_000_000.0)
    monkeypatch.setattr("cli.client.connection.time", clock)
    fields: dict[str, Any] = {"in": 60.0}
    await settle_later(asking(ping), fields)
    assert instant(fields["at"]) == 1_000_000_060.0


async def test_a_delay_beyond_all_years_is_refused_in_a_sentence():
    ping = b'{"metadata":{"now":"2001-02-03T04:05:06.000000Z"}}'
    with pytest.raises(click.UsageError, match="--in"):
        await settle_later(asking(ping), {"in": 1e12})
