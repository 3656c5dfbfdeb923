"""What pages are sent: sections that changed, the log's end, output in bounded queues."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from zoneinfo import ZoneInfo

from events import catalogue as c
from events import subjects
from events.commands import refuse
from events.errors import Malformed
from events.position import NOWHERE, Position
from projections.answers import CostLine
from projections.mapping import days_in
from tests.support.fakes import MemoryLog
from tests.support.histories import History
from web.decisions import RecentDecisions
from web.documents import Documents
from web.pages import LINES_KEPT, QUEUE_BYTES, Page
from web.tail import EVENTS_AT_ONCE, EVENTS_KEPT, RecentEvents
from web.topics import Nothing, OneTask, Topic


def at(seq: int) -> Position:
    """The position at an event of that sequence."""
    return Position(seq, f"E{seq}", "2026-01-01T00:00:00.000000Z") if seq else NOWHERE


class Folding:
    """As much of a runner as a page's sources look at: how far it has folded."""

    def __init__(self, seq: int) -> None:
        self.world = SimpleNamespace(stands=at(seq))

    @property
    def position(self) -> int:
        return self.world.stands.seq


class Watched:
    """Documents of one topic that shows `value`, and a page's subscription to it."""

    def __init__(self, value) -> None:
        self.value = value
        self.runner = Folding(1)
        self.documents = Documents(SimpleNamespace(runner=self.runner))
        self.topic = Topic("t", Nothing, self.make, pause_s=0.0)
        self.woken = asyncio.Event()

    async def make(self, sources, params):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def subscribe(self, id_="s", since=None, params=None):
        return self.documents.subscribe(
            self.woken.set, id_, self.topic, params or Nothing(), since
        )

    async def becomes(self, value, seq) -> None:
        """Let the topic show another value, and the document take it up."""
        self.woken.clear()
        self.value, self.runner.world.stands = value, at(seq)
        self.documents.touch_all()
        await asyncio.wait_for(self.woken.wait(), 60)


async def watched(value) -> Watched:
    topic = Watched(value)
    topic.first = topic.subscribe()
    await asyncio.wait_for(topic.woken.wait(), 60)
    return topic


def read(message: bytes) -> tuple[str, int, dict]:
    fields = json.loads(message)
    assert Position.parse(fields["position"]) == at(fields["seq"])
    return fields["type"], fields["seq"], fields["data"]


async def test_a_page_is_sent_everything_once_and_then_the_sections_that_changed():
    topic = await watched({"a": 1, "b": 1})
    assert read(topic.first.next()) == ("snapshot", 1, {"a": 1, "b": 1})
    assert topic.first.next() is None
    await topic.becomes({"a": 1, "b": 2}, seq=5)
    assert read(topic.first.next()) == ("change", 5, {"b": 2})
    topic.documents.close()


async def test_a_page_that_was_slow_is_sent_the_newest_of_each_section():
    topic = await watched({"a": 1, "b": 1})
    topic.first.next()
    await topic.becomes({"a": 2, "b": 1}, seq=5)
    await topic.becomes({"a": 2, "b": 3}, seq=6)
    assert read(topic.first.next()) == ("change", 6, {"a": 2, "b": 3})
    topic.documents.close()


async def test_a_page_that_comes_back_is_sent_what_changed_after_its_sequence():
    topic = await watched({"a": 1, "b": 1})
    await topic.becomes({"a": 2, "b": 1}, seq=5)
    await topic.becomes({"a": 2, "b": 3}, seq=9)
    again, unknown = topic.subscribe("u", since=7), topic.subscribe("v", since=99)
    assert read(again.next()) == ("change", 9, {"b": 3})
    assert read(unknown.next()) == ("snapshot", 9, {"a": 2, "b": 3})
    topic.documents.close()


async def test_what_cannot_be_shown_is_refused_once():
    topic = await watched({"a": 1})
    await topic.becomes(refuse("not_found", "gone"), seq=2)
    message = json.loads(topic.first.next())
    assert (message["type"], message["error"]["code"]) == ("refused", "not_found")
    assert topic.first.next() is None
    topic.documents.close()


async def test_a_question_that_is_none_is_refused_and_not_asked_for_ever():
    topic = await watched({"a": 1})
    topic.first.next()
    await topic.becomes(Malformed("since", "a point of time", "'yesteryear'"), seq=2)
    message = json.loads(topic.first.next())
    assert (message["type"], message["error"]["path"]) == ("refused", "since")
    topic.documents.close()


async def test_a_document_is_shared_by_its_watchers_and_ends_with_the_last():
    topic = Watched({"a": 1})
    one = topic.subscribe("1", params=OneTask("T", after={"R": 3}))
    other = topic.subscribe("2", params=OneTask("T"))
    assert one.document is other.document
    topic.documents.leave(one)
    assert len(topic.documents.watched) == 1
    topic.documents.leave(other)
    assert topic.documents.watched == {}


def recent(events: int) -> tuple[RecentEvents, Folding]:
    """The end of a log of so many submissions."""
    runner = Folding(0)
    tail = RecentEvents(runner, MemoryLog())
    history = History()
    for _ in range(events):
        history.submit("x")
    for recorded in history.recorded:
        tail.take(recorded)
        runner.world.stands = Position.of(recorded)
    return tail, runner


def test_the_log_s_end_is_sent_in_bounded_pieces_that_join():
    tail, runner = recent(EVENTS_AT_ONCE + 3)
    first, reached = tail.after(0, subjects.ALL_EVENTS)
    assert (len(first), reached.seq) == (EVENTS_AT_ONCE, EVENTS_AT_ONCE)
    rest, reached = tail.after(reached.seq, subjects.ALL_EVENTS)
    assert (len(rest), reached) == (3, runner.world.stands)
    assert tail.after(0, subjects.ALL_TASKS)[0] == first
    assert tail.after(0, "agentcom.evt.host.*") == ([], runner.world.stands)


def test_of_the_log_s_end_so_much_is_held_and_that_is_known():
    tail, _ = recent(EVENTS_KEPT + 10)
    assert tail.holds_after(0) == 11
    assert tail.holds_after(500) == 501


class CountingLog(MemoryLog):
    """A log that says how many events it was made to hand out."""

    handed_out = 0

    async def read(
        self, subject: str, *, start: int = 1, limit: int = 1_000_000
    ) -> list[c.Recorded]:
        found = await super().read(subject, start=start, limit=limit)
        self.handed_out += len(found)
        return found


async def test_what_is_not_folded_yet_is_not_read_however_much_that_is():
    log, history = CountingLog(), History()
    history.elect(1)
    tasks = [history.submit("x") for _ in range(100)]
    for task in tasks:
        history.route(task)
    for recorded in history.recorded:
        await log.append(recorded.subject, recorded.event)
    position = 110
    decisions = RecentDecisions()
    await decisions.look_back(log, position)
    assert [each["seq"] for each in decisions.latest()] == [*range(110, 101, -1)]
    tail = RecentEvents(Folding(position), log)
    events = await tail.latest(subjects.ALL_EVENTS, position)
    assert len(events) == position
    assert log.handed_out <= 2 * position
    log.handed_out = 0
    await RecentDecisions().look_back(log, 0)
    assert log.handed_out == 0


def piece(kind: str) -> c.Chunk:
    """A piece of live output of a kind."""
    of = {"task_id": "T", "route": "R", "timestamp": "", "text": ""}
    return c.Chunk(event_type=kind, generation=1, attempt=1, segment=0, n=1, **of)


async def test_text_is_left_out_of_a_full_queue_and_counted_in_its_place():
    page = Page(None, None, None, None)
    page.output(piece("stdout"), b"x" * QUEUE_BYTES, past=False)
    for _ in range(3):
        page.output(piece("stdout"), b"more", past=False)
    page.output(piece("status"), b"status", past=False)
    text, gap, status = page._messages()
    assert json.loads(gap) == {"type": "gap", "task_id": "T", "lost": 3}
    assert (len(text), status) == (QUEUE_BYTES, b"status")
    assert not page._overrun


async def test_a_page_that_lets_too_many_lines_wait_is_sent_away():
    page = Page(None, None, None, None)
    for _ in range(LINES_KEPT):
        page.output(piece("error"), b"line", past=False)
    assert not page._overrun
    page.output(piece("error"), b"line", past=False)
    assert page._overrun


def test_days_of_costs_are_those_of_the_zone_in_which_they_are_looked_at():
    def line(hour, usd, part="claude"):
        zero = dict.fromkeys(CostLine.__struct_fields__, 0)
        known = {"key": hour, "part": part, "estimated_cost_usd": usd}
        return CostLine(**(zero | known))

    hours = [
        line("2026-01-30T23", 1.0),
        line("2026-01-31T22", 2.0),
        line("2026-01-31T22", 4.0, "ollama"),
        line("2026-01-31T23", 8.0),
    ]
    found = days_in(ZoneInfo("Europe/Berlin"), hours)
    assert [(each.key, each.part, each.estimated_cost_usd) for each in found] == [
        ("2026-01-31", "claude", 3.0),
        ("2026-01-31", "ollama", 4.0),
        ("2026-02-01", "claude", 8.0),
    ]
