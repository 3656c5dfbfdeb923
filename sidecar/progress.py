"""What a run says while it runs: batched, numbered, in order, bounded.

The first piece leaves at once; after it text is joined for 100 ms, sooner where much has
gathered. Status and error lines leave at once and never overtake text that came before
them. Every chunk has the run's next number `n`; a chunk that could not be passed on
(connection away, reader too slow) is dropped with its number, so that the gap shows.
Status lines, error lines and retries are events of the log too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, Protocol

from events import catalogue as c
from events import subjects
from events.codec import encode, rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.bus import Bus
    from events.commands import Assign

JOIN_S = 0.1
"""For how long text is joined into one chunk."""

CHUNK_BYTES = 64 * 1024
"""The most text in one chunk; so much gathered leaves sooner."""

NEXT_INCARNATION = 1_000_000
"""Numbers of a run that goes on in a later incarnation of its host begin so much higher: how
far it had counted is not known exactly, and a number must not come twice."""

LINE_CHARS = 8 * 1024
"""What is kept of a status or error line."""

Kind = Literal["token", "thinking", "stdout", "stderr", "status", "error", "tool"]


class OutputSink(Protocol):
    """Where chunks go."""

    def publish(self, subject: str, data: bytes) -> bool:
        """Take a chunk without blocking; False if it is dropped instead."""
        ...


class Speaker(Protocol):
    """What whoever reports of a run needs of the host: time, ids, a way to the log."""

    host: str
    incarnation: str

    def now(self) -> float: ...

    def new_id(self) -> str: ...

    def say(self, subject: str, event: c.Event) -> None: ...


class Progress:
    """One run's `Emit`. `close` it when the run is over."""

    def __init__(
        self, assign: Assign, sink: OutputSink, speaker: Speaker, *, earlier: int = 0
    ) -> None:
        """`earlier` counts the incarnations of the host in which the run may have spoken."""
        self.host = speaker.host
        self._assign = assign
        self._sink = sink
        self._speaker = speaker
        self._loop = asyncio.get_running_loop()
        self._subject = subjects.output(speaker.host, assign.task_id)
        self._run_subject = subjects.run(speaker.host, assign.task_id)
        self._model = assign.model or None

        # Text that is not out yet, and how much; the timer runs from one flush to the next.
        self._pieces: list[tuple[Kind, str]] = []
        self._gathered = 0
        self._timer: asyncio.TimerHandle | None = None

        # The last count of tokens that the executor gave.
        self._tokens: int | None = None

        # The last chunk's number. Readers see by a gap that something was dropped.
        self.n = earlier * NEXT_INCARNATION

        # Which try of the work speaks; readers show each by itself.
        self.segment = earlier

        self.dropped = 0
        self._closed = False

    # -- Emit

    def text(
        self,
        kind: Literal["token", "thinking", "stdout", "stderr", "tool"],
        text: str,
        *,
        tokens_so_far: int | None = None,
    ) -> None:
        if tokens_so_far is not None:
            self._tokens = tokens_so_far
        if not text or self._closed:
            return
        self._pieces.append((kind, text))
        self._gathered += len(text)
        if self._timer is None:
            self._flush()
            self._timer = self._loop.call_later(JOIN_S, self._tick)
        elif self._gathered >= CHUNK_BYTES:
            self._flush()

    def status(self, text: str) -> None:
        self._line(c.TaskStatus, "status", text)

    def error(self, text: str, code: str = "") -> None:
        self._line(c.TaskErrorLine, "error", text, code=code)

    def retrying(
        self,
        text: str,
        *,
        retry: int,
        of: int,
        backoff_s: float = 0.0,
        reason: str = "",
    ) -> None:
        self._flush()
        self.segment += 1
        self._line(
            c.TaskRetrying,
            "status",
            text,
            retry=retry,
            of=of,
            backoff_s=backoff_s,
            reason=encodable(reason)[:LINE_CHARS],
        )

    # -- the end

    def close(self) -> None:
        """Let everything out and stay silent from now on."""
        self._flush()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- inside

    def _tick(self) -> None:
        self._timer = None
        if self._pieces:
            self._flush()
            self._timer = self._loop.call_later(JOIN_S, self._tick)

    def _flush(self) -> None:
        """Let out what has gathered: neighbours of a kind together, in order."""
        if not self._pieces:
            return
        pieces, self._pieces, self._gathered = self._pieces, [], 0
        kind, joined = pieces[0][0], [pieces[0][1]]
        for next_kind, text in pieces[1:]:
            if next_kind != kind:
                self._emit(kind, "".join(joined))
                kind, joined = next_kind, []
            joined.append(text)
        self._emit(kind, "".join(joined))

    def _line(
        self, event: Callable[..., c.RunEvent], kind: Kind, text: str, **fields: Any
    ) -> None:
        """Let out a line at once, behind the text before it, and log it."""
        if self._closed:
            return
        self._flush()
        text = encodable(text)[:LINE_CHARS]
        self._emit(kind, text)
        if text:
            self._speaker.say(
                self._run_subject,
                event(
                    **run_fields(self._speaker, self._assign),
                    text=text,
                    segment=self.segment,
                    n=self.n,
                    **fields,
                ),
            )

    def _emit(self, kind: Kind, text: str) -> None:
        text = encodable(text)
        at = rfc3339(self._speaker.now())
        counted = self._tokens if kind in ("token", "thinking", "tool") else None
        for piece in split(text, CHUNK_BYTES):
            self.n += 1
            chunk = c.Chunk(
                task_id=self._assign.task_id,
                event_type=kind,
                text=piece,
                timestamp=at,
                route=self._assign.route,
                generation=self._assign.generation,
                attempt=self._assign.attempt,
                segment=self.segment,
                n=self.n,
                tokens_so_far=counted,
                model=self._model,
            )
            if not self._sink.publish(self._subject, encode(chunk)):
                self.dropped += 1


def run_fields(speaker: Speaker, assign: Assign) -> dict[str, Any]:
    """Return the fields that every event of a run has in common."""
    return {
        "id": speaker.new_id(),
        "at": rfc3339(speaker.now()),
        "by": "host:" + speaker.host,
        "task_id": assign.task_id,
        "host": speaker.host,
        "route": assign.route,
        "generation": assign.generation,
        "attempt": assign.attempt,
        "incarnation": speaker.incarnation,
    }


class OutputQueue:
    """Chunks on their way to the output stream: acknowledged, windowed, bounded.

    While the stream is slow or away, chunks wait here up to a bound, in all and for each
    run, so that one flood does not silence the others; past it they are dropped.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        in_flight_bytes: int = 4 * 1024 * 1024,
        waiting_bytes: int = 16 * 1024 * 1024,
        per_run_bytes: int = 4 * 1024 * 1024,
        timeout_s: float = 5.0,
    ) -> None:
        """`in_flight_bytes` may be sent and not acknowledged, `timeout_s` at most."""
        self._bus = bus
        self._window = in_flight_bytes
        self._limit = waiting_bytes
        self._per_run = per_run_bytes
        self._timeout = timeout_s
        self._in_flight = 0

        # Chunks that wait, oldest first, and their bytes: in all, and of each run.
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._waiting_bytes = 0
        self._by_subject: dict[str, int] = {}

        # Who waits in `flush`.
        self._idle: list[asyncio.Future[None]] = []

        # Chunks that found no room here; chunks that were sent and not acknowledged.
        self.dropped = 0
        self.lost = 0
        bus.on_connection(self._connection)

    def publish(self, subject: str, data: bytes) -> bool:
        """Send a chunk, or let it wait; False, and dropped, where there is no room."""
        size = len(data)
        if self._bus.connected and not self._waiting and self._in_flight < self._window:
            self._send(subject, data)
            return True
        waiting = self._by_subject.get(subject, 0)
        if self._waiting_bytes + size > self._limit or waiting + size > self._per_run:
            self.dropped += 1
            return False
        self._waiting.append((subject, data))
        self._waiting_bytes += size
        self._by_subject[subject] = waiting + size
        return True

    def _send(self, subject: str, data: bytes) -> None:
        size = len(data)
        self._in_flight += size
        answer = self._bus.request(subject, data, timeout=self._timeout)

        def settled(future: asyncio.Future[bytes]) -> None:
            self._in_flight -= size
            if future.cancelled() or future.exception() is not None:
                # Lost on its way; readers see the gap in the numbers.
                self.lost += 1
            self._pump()

        answer.add_done_callback(settled)

    def _pump(self) -> None:
        while self._waiting and self._bus.connected and self._in_flight < self._window:
            subject, data = self._waiting.popleft()
            self._waiting_bytes -= len(data)
            left = self._by_subject[subject] - len(data)
            if left:
                self._by_subject[subject] = left
            else:
                del self._by_subject[subject]
            self._send(subject, data)
        if not self._waiting and not self._in_flight:
            idle, self._idle = self._idle, []
            for waiter in idle:
                if not waiter.done():
                    waiter.set_result(None)

    def _connection(self, up: bool) -> None:
        if up:
            self._pump()

    async def flush(self) -> None:
        """Return once everything taken has been acknowledged or lost."""
        if self._waiting or self._in_flight:
            waiter: asyncio.Future[None]
            waiter = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            await waiter


def split(text: str, limit: int) -> list[str]:
    """Cut `text` into pieces of at most `limit` bytes of UTF-8, never inside a character."""
    if len(text) * 4 <= limit or (text.isascii() and len(text) <= limit):
        return [text]
    if text.isascii():
        return [text[i : i + limit] for i in range(0, len(text), limit)]
    raw, pieces, start = text.encode(), [], 0
    while start < len(raw):
        end = min(start + limit, len(raw))
        while end < len(raw) and raw[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(raw[start:end].decode())
        start = end
    return pieces


def encodable(text: str) -> str:
    """Return `text` with what UTF-8 cannot encode (half surrogates) replaced."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
