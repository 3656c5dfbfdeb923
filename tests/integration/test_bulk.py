"""One command for many tasks: who is meant, what became of each, and that once is enough."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from typing import Any

import pytest

from actors.gateway import bulk
from actors.gateway.gateway import Gateway
from events import catalogue as c
from events import subjects
from events.codec import encode, rfc3339
from projections.main import projecting
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog
from tests.support.histories import START, History, tell


class Fleetless:
    """No scheduler's fold: nothing here asks it."""

    class fleet:
        hosts = ()


class Asking:
    """A gateway and read models of one log, and somebody who asks."""

    def __init__(self, log, bus, runner) -> None:
        numbers = itertools.count()
        self.log, self.bus, self.runner = log, bus, runner
        self.later_s = 0.0
        self.gateway = Gateway(
            "g1",
            log,
            bus,
            ids=lambda: f"id-{next(numbers)}",
            clock=lambda: START + self.later_s,
            view=Fleetless(),
        )

    async def ask(self, **body):
        return await self.gateway.answer("task.bulk", encode(body), "alice")

    async def tell(self, history: History) -> None:
        assert await self.runner.wait_for(await tell(self.log, history.recorded), 60)

    async def events(self, kind: type[c.Event]) -> list[Any]:
        stored = await self.log.read(subjects.ALL_EVENTS)
        return [each.event for each in stored if isinstance(each.event, kind)]


@asynccontextmanager
async def asking(history: History, *, log: MemoryLog | None = None):
    log, broker = log or MemoryLog(), MemoryBroker()
    async with projecting(log, MemoryBus(broker), None) as (runner, _):
        it = Asking(log, MemoryBus(broker), runner)
        await it.tell(history)
        yield it


def a_crowd(waiting: int = 5) -> History:
    """Some that wait, one that runs, one that is done, two that failed."""
    history = History()
    history.join("h1")
    for n in range(waiting):
        history.submit(f"waits {n}", labels={"team": "search"})
    for name in ("runs", "done", "failed 1", "failed 2"):
        route = history.route(history.submit(name, labels={"team": "ads"}))
        history.start(route)
        if name == "done":
            history.complete(route)
        elif name != "runs":
            history.fail(route)
    return history


async def test_all_that_wait_are_cancelled_by_one_command_and_the_log_says_so():
    async with asking(a_crowd(2_500)) as it:
        answer = await it.ask(
            action="cancel", filter={"state": ["waiting"]}, reason="tidy"
        )
        assert (answer.ok, answer.finished) == (True, True)
        assert (answer.matched, answer.done) == (2_500, 2_500)
        assert (answer.refused, answer.unchanged) == (0, 0)
        assert answer.outcomes == {"cancelled": 2_500}
        (started,) = await it.events(c.BulkStarted)
        (advanced,) = await it.events(c.BulkAdvanced)
        assert started.requested_by == "alice"
        assert started.filter == {"state": ["waiting"]}
        assert (advanced.done, advanced.finished) == (2_500, True)
        cancelled = await it.events(c.TaskCancelled)
        assert {each.bulk for each in cancelled} == {answer.bulk_id}
        assert {each.reason for each in cancelled} == {"tidy"}
        await it.runner.wait_for(answer.seq, 60)
        assert it.runner.world.stats.states["waiting"] == 0


async def test_without_a_state_a_filter_means_what_the_action_is_for():
    async with asking(a_crowd()) as it:
        answer = await it.ask(action="cancel", filter={"label": ["team"]})
        assert answer.outcomes == {"cancelled": 5, "cancelling": 1}
        answer = await it.ask(action="retry", filter={"label": ["team=ads"]})
        assert answer.outcomes == {"waiting": 2}


async def test_a_dry_run_counts_and_changes_nothing():
    async with asking(a_crowd()) as it:
        last = await it.log.last_sequence()
        answer = await it.ask(
            action="cancel", filter={"label": ["team=search"]}, dry_run=True
        )
        assert (answer.matched, answer.done, answer.finished) == (5, 0, True)
        assert len(answer.ids) == 5
        assert await it.log.last_sequence() == last


async def test_said_again_with_its_id_it_answers_the_same_and_does_nothing():
    async with asking(a_crowd()) as it:
        command = {"id": "again", "action": "retry", "filter": {"state": ["failed"]}}
        first = await it.ask(**command)
        assert first.outcomes == {"waiting": 2}
        last = await it.log.last_sequence()
        assert await it.ask(**command) == first
        assert await it.log.last_sequence() == last
        other = await it.ask(**{**command, "reason": "another"})
        assert (other.ok, other.code, other.path) == (False, "conflict", "id")


async def test_what_takes_long_answers_in_between_and_goes_on_where_it_stopped(
    monkeypatch,
):
    monkeypatch.setattr(bulk, "PAGE", 2)
    monkeypatch.setattr(bulk, "WORK_S", -1.0)
    async with asking(a_crowd()) as it:
        command = {"id": "long", "action": "cancel", "filter": {"state": ["waiting"]}}
        answers = [await it.ask(**command)]
        while not answers[-1].finished:
            answers.append(await it.ask(**command))
        assert [each.done for each in answers] == [2, 4, 5]
        assert {each.matched for each in answers} == {5}
        assert len(await it.events(c.TaskCancelled)) == 5


async def test_so_long_ago_means_what_it_did_when_the_command_was_first_said(
    monkeypatch,
):
    monkeypatch.setattr(bulk, "PAGE", 2)
    monkeypatch.setattr(bulk, "WORK_S", -1.0)
    async with asking(a_crowd()) as it:
        command = {"id": "x", "action": "cancel", "filter": {"since": "1d"}}
        first = await it.ask(**command)
        assert (first.matched, first.finished) == (6, False)
        [started] = await it.events(c.BulkStarted)
        assert started.filter["since"] == rfc3339(START - 86_400)
        # By now, a day ago none of them was there.
        it.later_s = 100_000
        answers = [await it.ask(**command) for _ in range(3)]
        assert (answers[-1].matched, answers[-1].done) == (6, 6)
        assert answers[-1].finished
        refused = await it.ask(action="cancel", filter={"until": "soon"})
    assert (refused.code, refused.path) == ("malformed", "filter.until")
    assert "filter.until: expected 2h, 7d, today" in refused.error


async def test_a_task_that_failed_again_is_not_tried_twice_by_one_command():
    history = a_crowd(0)
    async with asking(history) as it:
        command = {"id": "x", "action": "retry", "filter": {"state": ["failed"]}}
        start = await it.gateway.answer("task.bulk", encode(command), "alice")
        assert start.done == 2
        # As if its process had died before it noted how far it was.
        after = [e for e in it.log._entries if "bulk.advanced" not in e[1].decode()]
        log = MemoryLog()
        for subject, raw in after:
            log.store_raw(subject, raw)
        told = len(history.recorded)
        failed = next(
            r.event.task_id
            for r in history.recorded
            if isinstance(r.event, c.TaskFailed)
        )
        route = history.route(failed)
        history.start(route)
        history.fail(route)
        await tell(log, history.recorded[told:])
        async with asking(History(), log=log) as later:
            await later.runner.wait_for(await log.last_sequence(), 60)
            record = later.runner.world.tasks.find(failed)
            assert (record.phase, record.generation) == ("failed", 2)
            answer = await later.ask(**command)
            assert (answer.finished, answer.done) == (True, 0)
            assert len(await later.events(c.TaskRetried)) == 2


class Racing(MemoryLog):
    """A log in which something is decided about a task just before another decision."""

    first: tuple[str, c.Event] | None = None

    def append(self, subject, event, **more):
        if self.first is not None and isinstance(event, c.TaskEvent):
            first, self.first = self.first, None
            super().append(*first)
        return super().append(subject, event, **more)


async def test_who_was_decided_about_meanwhile_is_read_and_decided_by_itself():
    log, history = Racing(), a_crowd()
    async with asking(history, log=log) as it:
        first = next(iter(it.runner.world.tasks.records))
        log.first = (
            subjects.task(first),
            c.TaskCancelled(
                id="x", at=history.recorded[-1].event.at, by="g2", task_id=first
            ),
        )
        answer = await it.ask(action="cancel", filter={"state": ["waiting"]})
        assert answer.outcomes == {"cancelled": 4, "unchanged": 1}
        assert (answer.matched, answer.refused) == (5, 0)


async def test_named_tasks_are_each_said_what_became_of_them():
    async with asking(a_crowd()) as it:
        records = it.runner.world.tasks.records.values()
        ids = {record.description: record.id for record in records}
        wanted = [ids["waits 0"], ids["done"], ids["failed 1"], "nobody"]
        answer = await it.ask(action="cancel", ids=wanted)
        assert answer.matched == 4
        assert answer.outcomes == {"cancelled": 1, "too_late": 2, "not_found": 1}
        assert (answer.done, answer.refused) == (1, 3)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"action": "cancel"}, "filter"),
        ({"action": "cancel", "filter": {}}, "filter"),
        ({"action": "cancel", "filter": {"tier": "standard"}, "ids": ["a"]}, "filter"),
        ({"action": "explode", "ids": ["a"]}, "action"),
        ({"action": "cancel", "ids": ["a"], "host": "h1"}, "host"),
        ({"action": "reassign", "ids": ["a"]}, "host"),
        ({"action": "cancel", "filter": {"lable": ["a"]}}, "filter.lable"),
        ({"action": "cancel", "ids": ["a.b"]}, "ids[0]"),
    ],
)
async def test_a_command_that_names_nothing_or_too_much_is_refused(body, path):
    async with asking(a_crowd()) as it:
        answer = await it.ask(**body)
        assert (answer.ok, answer.path) == (False, path)
        assert await it.events(c.BulkStarted) == []


async def test_a_filter_that_the_read_models_refuse_is_refused():
    async with asking(a_crowd()) as it:
        answer = await it.ask(action="cancel", filter={"label": ["A=B"]})
        assert (answer.ok, answer.code) == (False, "malformed")
        assert await it.events(c.BulkStarted) == []
        assert answer.path == "filter.label[0]"
        assert answer.error.startswith("filter.label[0]: ")


async def test_without_read_models_nobody_knows_who_is_meant():
    it = Asking(MemoryLog(), MemoryBus(MemoryBroker()), None)
    answer = await it.ask(action="cancel", filter={"state": ["waiting"]})
    assert (answer.ok, answer.code) == (False, "unavailable")
    assert await it.log.last_sequence() == 0
