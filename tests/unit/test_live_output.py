"""A followed task's output: each piece once and in order, and little of it held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from cli.client import follow
from cli.client.follow import WAITING, LiveOutput
from cli.commands import tasks
from cli.render.display import JsonLines, Screen
from events import catalogue as c
from events.errors import LogUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def piece(n: int) -> c.Chunk:
    return c.Chunk(
        task_id="T",
        event_type="stdout",
        text=f"{n}\n",
        timestamp="",
        route="R",
        generation=1,
        attempt=1,
        segment=0,
        n=n,
    )


class Stream:
    """An output stream whose reader is held up until it may go on."""

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.starts: list[int] = []
        self.may_go = asyncio.Event()
        self.fails = False
        self.say: Callable[[c.Chunk], None] = lambda chunk: None

    async def listen(
        self, task_id: str, on: Callable[[c.Chunk], None], *, republished: bool
    ) -> Any:
        self.say = on
        return None

    async def placed(
        self, task_id: str, *, start: int = 1
    ) -> AsyncIterator[tuple[int, c.Chunk]]:
        self.starts.append(start)
        # As far as it reached when it was asked.
        until = self.kept
        await self.may_go.wait()
        if self.fails:
            raise LogUnavailable("read", "no connection")
        for n in range(start, until + 1):
            yield n, piece(n)


def following(
    stream: Stream,
    shown: list[int],
    heard: list[Callable[[bool], None]] | None = None,
) -> LiveOutput:
    """A follower that writes down the numbers that it shows; `heard` gets who is told of
    its link's ups and downs."""

    def on_connection(handler: Callable[[bool], None]) -> Callable[[], None]:
        if heard is not None:
            heard.append(handler)
        return lambda: None

    link = SimpleNamespace(on_connection=on_connection)
    client: Any = SimpleNamespace(output=stream, link=link)
    return LiveOutput(client, "T", lambda chunk: shown.append(chunk.n))


async def test_what_comes_while_the_past_is_read_is_bounded_and_read_on_from_there():
    stream, shown = Stream(5), list[int]()
    live = following(stream, shown)
    starting = asyncio.ensure_future(live.start())
    while not stream.starts:
        await asyncio.sleep(0)
    last = 5 + 3 * WAITING
    for n in range(6, last + 1):
        stream.say(piece(n))
        assert len(live._waiting) <= WAITING
    stream.kept = last
    stream.may_go.set()
    await starting
    stream.say(piece(last + 1))
    assert shown == list(range(1, last + 2))
    assert stream.starts == [1, 6]
    await live.rest("R", 1)
    assert stream.starts == [1, 6]


async def test_the_rest_is_read_from_where_it_stood():
    stream, shown = Stream(5), list[int]()
    live = following(stream, shown)
    stream.may_go.set()
    await live.start()
    stream.kept = 6
    assert await live.rest("R", len("1\n") * 6) == 0
    assert shown == [1, 2, 3, 4, 5, 6]
    assert stream.starts == [1, 6]


async def test_what_does_not_come_in_time_is_counted_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(follow, "REST_OF_OUTPUT_S", 0.01)
    stream, shown = Stream(5), list[int]()
    live = following(stream, shown)
    stream.may_go.set()
    await live.start()
    assert await live.rest("R", len("1\n") * 6) == 2
    Screen().missing(2)
    JsonLines().missing(2)
    out, err = capsys.readouterr()
    assert (out, err.count("2 bytes of its output did not come")) == ("", 2)


async def test_a_reconnect_at_the_end_of_a_task_reads_in_its_turn():
    stream, shown, heard = Stream(3), list[int](), list[Callable[[bool], None]]()

    def on_connection(handler: Callable[[bool], None]) -> Callable[[], None]:
        heard.append(handler)
        return lambda: None

    link = SimpleNamespace(on_connection=on_connection)
    client: Any = SimpleNamespace(output=stream, link=link)
    live = LiveOutput(client, "T", lambda chunk: shown.append(chunk.n))
    stream.may_go.set()
    await live.start()
    stream.may_go.clear()
    stream.kept = 5
    heard[0](True)
    ending = asyncio.ensure_future(live.rest("R", len("1\n") * 6))
    while len(stream.starts) < 2:
        await asyncio.sleep(0)
    stream.say(piece(6))
    stream.may_go.set()
    await ending
    await live.stop()
    assert shown == [1, 2, 3, 4, 5, 6]


async def test_what_is_heard_before_the_connection_is_up_waits_for_what_was_missed():
    stream, shown, heard = Stream(3), list[int](), list[Callable[[bool], None]]()
    live = following(stream, shown, heard)
    stream.may_go.set()
    await live.start()
    heard[0](False)
    stream.kept = 5
    stream.say(piece(5))
    stream.may_go.clear()
    heard[0](True)
    while len(stream.starts) < 2:
        await asyncio.sleep(0)
    # Lost again while it is read: nothing of that reading comes.
    heard[0](False)
    stream.fails = True
    stream.may_go.set()
    while not live._reading.done():
        await asyncio.sleep(0)
    stream.kept = 7
    stream.say(piece(7))
    stream.fails = False
    heard[0](True)
    await live._reading
    stream.say(piece(8))
    assert shown == list(range(1, 9))
    await live.stop()


async def test_a_connection_that_comes_back_while_it_is_read_has_it_read_again():
    stream, shown, heard = Stream(3), list[int](), list[Callable[[bool], None]]()
    live = following(stream, shown, heard)
    stream.may_go.set()
    await live.start()
    stream.may_go.clear()
    heard[0](False)
    heard[0](True)
    while len(stream.starts) < 2:
        await asyncio.sleep(0)
    heard[0](False)
    stream.kept = 5
    stream.say(piece(5))
    heard[0](True)
    stream.may_go.set()
    await live._reading
    assert shown == [1, 2, 3, 4, 5]
    await live.stop()


async def test_what_found_no_room_is_read_though_it_is_stored_late(monkeypatch):
    monkeypatch.setattr(follow, "REST_OF_OUTPUT_S", 60.0)
    stream, shown = Stream(5), list[int]()
    live = following(stream, shown)
    starting = asyncio.ensure_future(live.start())
    while not stream.starts:
        await asyncio.sleep(0)
    last = 5 + WAITING + 9
    for n in range(6, last + 1):
        stream.say(piece(n))
    # The last ones are heard, and stored only when it has been read for them already.
    stream.kept = last - 3
    stream.may_go.set()
    while len(stream.starts) < 3 and not starting.done():
        await asyncio.sleep(0)
    stream.say(piece(last + 1))
    stream.kept = last
    await starting
    assert shown == list(range(1, last + 2))


async def test_a_reader_who_has_gone_away_ends_it_and_no_more_is_shown():
    stream, shown = Stream(2), list[int]()
    link = SimpleNamespace(on_connection=lambda _: lambda: None)
    client: Any = SimpleNamespace(output=stream, link=link)

    def show(chunk: c.Chunk) -> None:
        shown.append(chunk.n)
        if chunk.n == 3:
            raise BrokenPipeError

    live = LiveOutput(client, "T", show)
    stream.may_go.set()
    await live.start()
    stream.say(piece(3))
    stream.say(piece(4))
    assert shown == [1, 2, 3]
    with pytest.raises(BrokenPipeError):
        await live.failed
    stream.kept = 9
    await live._catch_up()
    assert shown == [1, 2, 3]
    await live.stop()


async def test_what_cannot_be_shown_after_the_task_has_ended_is_no_success():
    stream = Stream(0)
    link = SimpleNamespace(on_connection=lambda _: lambda: None)
    client: Any = SimpleNamespace(output=stream, link=link)

    def show(chunk: c.Chunk) -> None:
        raise BrokenPipeError

    live = LiveOutput(client, "T", show)
    stream.may_go.set()
    await live.start()
    # It is stored a moment after the task's end was told.
    stream.kept = 2
    with pytest.raises(BrokenPipeError):
        await live.rest("R", 4)
    await live.stop()


async def test_logs_prints_each_piece_before_it_reads_the_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    printed = []

    async def pieces(task_id: str) -> AsyncIterator[c.Chunk]:
        for n in (1, 2, 4):
            yield piece(n)
            printed.append(capsys.readouterr().out)

    async def answered(value: Any) -> Any:
        return value

    client = SimpleNamespace(
        full_id=lambda task_id: answered(task_id),
        log=SimpleNamespace(read=lambda subject, limit: answered([object()])),
        output=SimpleNamespace(pieces=pieces),
    )

    @asynccontextmanager
    async def connected() -> AsyncIterator[Any]:
        yield client

    monkeypatch.setattr(tasks, "connected", connected)
    assert await tasks._logs("T", follow=False, as_json=False) == 0
    assert printed == ["1\n", "2\n", "4\n"]
    assert "1 piece missing behind piece 2" in capsys.readouterr().err
