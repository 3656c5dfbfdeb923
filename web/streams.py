"""A task's events and its output as server-sent events: what there is, then what comes.

    id: 4711                                    the event's sequence
    data: {"seq": 4711, "subject": ..., "event": {...}}

    id: 1:01J...:17                             generation, route and number of a piece
    data: {"type": "execution_event", "event_type": "token", "text": ...}

The last of both is `event: end` with the task's state; it comes once the task is over and
all has been sent. Whoever shows the last id (`Last-Event-ID`) goes on behind it; with
nothing behind it, the answer is 204, on which a browser comes back no more. Whoever is
too slow is cut off, and loses nothing by coming back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from events import catalogue as c
from events import subjects
from events.codec import encode
from events.commands import Refusal, refuse
from events.errors import AgentComError, Malformed
from events.lifecycle import FINAL
from events.races import first
from projections.answers import TaskAnswer
from projections.questions import AskTask
from web.access import HEADERS
from web.api import is_number, response_of
from web.live import OutputWatch, encode_chunk
from web.tail import encode_recorded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from events.log import EventLog
    from projections.judged import JudgedEvent
    from projections.output import OutputReader
    from projections.queries import Queries
    from projections.runner import Runner
    from web.live import OutputFeed, OutputMark

EVENT_STREAM: Final = "text/event-stream"
LAST_ID: Final = "Last-Event-ID"
ALIVE_S: Final = 15.0
"""After so long without news a comment is sent, so that nobody takes it for dead."""
SEND_S: Final = 30.0
QUEUE_BYTES: Final = 4_000_000
"""Output that waits for a slow reader, before it is cut off."""
HISTORY_BYTES: Final = 64_000_000
"""Of the output that was there before, the last so much is sent."""
REST_S: Final = 2.0
"""How long the end of a task waits for the rest of its output to be stored."""
_TEXT: Final = frozenset({"stdout", "token"})


def wants_stream(request: web.Request) -> bool:
    """Whether server-sent events are asked for."""
    return EVENT_STREAM in request.headers.get("Accept", "")


class Streams:
    """The streams of one server."""

    def __init__(
        self,
        runner: Runner,
        queries: Queries,
        log: EventLog,
        feed: OutputFeed,
        output: OutputReader | None,
    ) -> None:
        self._runner = runner
        self._queries = queries
        self._log = log
        self._feed = feed
        self._output = output
        # By task, those who are to be woken by its news.
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._open: set[asyncio.Task[Any]] = set()
        runner.watch(self._on)

    def _on(self, judged: JudgedEvent) -> None:
        if judged.task is not None and self._waiting:
            for woken in self._waiting.get(judged.task.id, ()):
                woken.set()

    def close(self) -> None:
        """End all of them."""
        for task in self._open:
            task.cancel()

    # -- a task's events ---------------------------------------------------------------

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Stream a task's events; raises Malformed."""
        task_id = await self._queries.full_id(request.match_info["task_id"])
        if isinstance(task_id, Refusal):
            return response_of(task_id)
        last = request.headers.get(LAST_ID, "0")
        if not is_number(last):
            raise Malformed(LAST_ID, "the sequence of an event", last[:80])
        after = int(last)
        is_over = self._state(task_id) in FINAL
        if after and is_over and not await self._news(task_id, after):
            return web.Response(status=204)
        return await self._streaming(request, self._all_events(task_id, after))

    async def _all_events(self, task_id: str, after: int) -> AsyncGenerator[bytes]:
        with self._news_of(task_id) as woken:
            while True:
                woken.clear()
                state = self._state(task_id)
                for recorded in await self._news(task_id, after):
                    after = recorded.seq
                    yield _event(str(after), encode_recorded(recorded))
                if state in FINAL and not woken.is_set():
                    yield _end(task_id, state)
                    return
                if not await _woken(woken):
                    yield b":\n\n"

    async def _news(self, task_id: str, after: int) -> list[c.Recorded]:
        """Read a task's events behind a sequence, as far as the read models are."""
        until = self._runner.position
        decided = await self._log.read(subjects.task(task_id), start=after + 1)
        reported = await self._log.read(subjects.runs_of(task_id), start=after + 1)
        news = [each for each in (*decided, *reported) if each.seq <= until]
        return sorted(news, key=lambda each: each.seq)

    # -- a task's output ---------------------------------------------------------------

    async def output(self, request: web.Request) -> web.StreamResponse:
        """Stream a task's output; raises Malformed."""
        if self._output is None:
            return response_of(refuse("unavailable", "live output is not read here"))
        task_id = await self._queries.full_id(request.match_info["task_id"])
        if isinstance(task_id, Refusal):
            return response_of(task_id)
        last = request.headers.get(LAST_ID, "")
        watch = _Behind(task_id, last)
        if last and self._state(task_id) in FINAL:
            async for chunk in self._output.pieces(task_id):
                if watch.is_new(chunk):
                    break
            else:
                return web.Response(status=204)
        return await self._streaming(request, self._all_output(task_id, watch))

    async def _all_output(self, task_id: str, watch: _Behind) -> AsyncGenerator[bytes]:
        """Yield what is under way as it comes, what is over from where it is stored."""
        assert self._output is not None
        follows = waited = False
        try:
            with self._news_of(task_id) as over:
                while True:
                    over.clear()
                    state = self._state(task_id)
                    if state in FINAL and follows:
                        await self._all_stored(task_id)
                        await self._feed.detach(watch)
                        follows, waited, watch.ready = False, True, False
                    elif state not in FINAL and not follows:
                        await self._feed.attach(watch)
                        follows = True
                    while watch.queue:
                        yield watch.next()
                    if watch.overrun:
                        return
                    if state in FINAL:
                        route, left = await self._size(task_id)
                        async for chunk in self._output.pieces(task_id):
                            left -= _bytes_of(chunk, route)
                            if watch.is_new(chunk):
                                yield watch.told(chunk)
                        if left > 0 and not waited:
                            # Its host may send it only now, where the broker was away.
                            await self._all_stored(task_id)
                            waited = True
                            continue
                        if not over.is_set():
                            yield _end(task_id, state)
                            return
                        continue
                    if not await _woken(watch.woken, over):
                        yield b":\n\n"
                    watch.woken.clear()
        finally:
            await self._feed.detach(watch)

    async def _all_stored(self, task_id: str) -> None:
        """Wait until all output of a task that has just ended is stored, or for long."""
        assert self._output is not None
        route, size = await self._size(task_id)
        loop = asyncio.get_running_loop()
        until = loop.time() + REST_S
        while loop.time() < until:
            there = 0
            async for chunk in self._output.pieces(task_id):
                there += _bytes_of(chunk, route)
            if there >= size:
                return
            await asyncio.sleep(0.05)

    async def _size(self, task_id: str) -> tuple[str, int]:
        """Return a task's last run, and how many bytes of text its result says it has."""
        answer = await self._queries.task(AskTask(task_id=task_id))
        if not isinstance(answer, TaskAnswer) or answer.task.result is None:
            return "", 0
        route = answer.routes[-1].route if answer.routes else ""
        return route, answer.task.result.output_bytes

    # -- what they share ---------------------------------------------------------------

    @contextmanager
    def _news_of(self, task_id: str) -> Iterator[asyncio.Event]:
        """Yield what is set whenever something has happened to a task."""
        woken = asyncio.Event()
        others = self._waiting.setdefault(task_id, set())
        others.add(woken)
        try:
            yield woken
        finally:
            others.discard(woken)
            if not others:
                self._waiting.pop(task_id, None)

    def _state(self, task_id: str) -> str:
        record = self._runner.world.tasks.find(task_id)
        return "" if record is None else record.phase

    async def _streaming(
        self, request: web.Request, pieces: AsyncGenerator[bytes]
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={**HEADERS, "Content-Type": EVENT_STREAM, "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    async with asyncio.timeout(SEND_S):
                        await response.write(piece)
            await response.write_eof()
        except (TimeoutError, AgentComError):
            # It reads no more, or the log does not answer: it comes back to the same place.
            response.force_close()
        finally:
            self._open.discard(task)
        return response


class _Behind(OutputWatch):
    """A watch whose output waits in a queue, from behind the piece that an id names.

    `overrun` is set when more waits than may: what follows is asked for anew.
    """

    history_bytes = HISTORY_BYTES

    def __init__(self, task_id: str, last: str) -> None:
        generation, route, n = 0, "", 0
        if last:
            parts = last.split(":")
            if len(parts) != 3 or not (is_number(parts[0]) and is_number(parts[2])):
                raise Malformed(LAST_ID, "GENERATION:ROUTE:NUMBER", last[:80])
            generation, route, n = int(parts[0]), parts[1], int(parts[2])
        super().__init__(task_id, self, {route: n} if route else {})
        self.queue: deque[bytes] = deque()
        self.woken = asyncio.Event()
        self.overrun = False
        self._generation = generation
        self._bytes = 0

    def is_new(self, chunk: c.Chunk) -> bool:
        """Whether a piece is behind the one that was named."""
        return chunk.generation >= self._generation and chunk.n > self.reached.get(
            chunk.route, -1
        )

    def take(self, chunk: c.Chunk, raw: bytes, *, past: bool = False) -> None:
        """Hand a piece on unless it was sent before."""
        if chunk.generation >= self._generation:
            super().take(chunk, raw, past=past)

    def output(self, chunk: c.Chunk, raw: bytes, *, past: bool) -> None:
        """Put a piece in the queue, unless too much waits there already."""
        self.overrun = self.overrun or (not past and self._bytes > QUEUE_BYTES)
        if not self.overrun:
            self._bytes += len(raw)
            self.queue.append(_piece(chunk, raw))
        self.woken.set()

    def told(self, chunk: c.Chunk) -> bytes:
        """Encode a stored piece, which is now sent."""
        self.reached[chunk.route] = chunk.n
        return _piece(chunk, encode_chunk(chunk))

    def next(self) -> bytes:
        """Take the next piece out of the queue."""
        piece = self.queue.popleft()
        self._bytes = max(0, self._bytes - len(piece)) if self.queue else 0
        return piece

    def gap(self, task_id: str, lost: int) -> None:
        """Say that so many pieces were left out, because they were too much."""
        self.queue.append(b'event: gap\ndata: {"lost":%d}\n\n' % lost)

    def skipped(self, task_id: str, mark: OutputMark) -> None:
        """Say nothing: `gap` says what was left out."""

    def begun(self, task_id: str) -> None:
        """Say nothing: the end is said."""


def _bytes_of(chunk: c.Chunk, route: str) -> int:
    """Return how many bytes of a run's text a piece has."""
    counts = chunk.route == route and chunk.event_type in _TEXT
    return len(chunk.text.encode()) if counts else 0


def _event(id_: str, data: bytes) -> bytes:
    return b"id: %s\ndata: %s\n\n" % (id_.encode(), data)


def _piece(chunk: c.Chunk, raw: bytes) -> bytes:
    return _event(f"{chunk.generation}:{chunk.route}:{chunk.n}", raw)


def _end(task_id: str, state: str) -> bytes:
    return b"event: end\ndata: %s\n\n" % encode({"task_id": task_id, "state": state})


async def _woken(*events: asyncio.Event) -> bool:
    """Wait until one of them is set; False where that takes too long."""
    winner = await first(*(each.wait() for each in events), timeout=ALIVE_S)
    return winner is not None
