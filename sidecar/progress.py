"""What a run says while it runs: batched, numbered, in order, bounded.

The first piece leaves at once; after it text is joined for 100 ms, sooner where much has
gathered. Status and error lines leave at once and never overtake text that came before
them. Every chunk has the run's next number `n`. Status lines, error lines and retries are
events of the log too.

Nothing is left out without a word. While the output stream is slow or away, chunks wait
and what makes them is held up: a process whose pipe nobody reads stops writing. Only
where that would last too long is text dropped; the next chunk then says how much, in the
text itself, and the gap shows in the numbers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, Protocol

from events import catalogue as c
from events import subjects
from events.chunks import NEXT_INCARNATION
from events.codec import encode, rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.bus import Bus
    from events.mail import Assign

JOIN_S = 0.1
"""For how long text is joined into one chunk."""

CHUNK_BYTES = 64 * 1024
"""The most text in one chunk; so much gathered leaves sooner."""

PACED_S = 0.02
"""How long output waits that is faster than its pace, before more of it goes."""

PATIENCE_S = 20.0
"""For how long runs are held up while the output stream takes nothing at all."""

RETRY_S = 0.5
MOST_RETRY_S = 10.0
"""After how long chunks that the stream has not acknowledged are sent again; each time in
a row twice as long, up to the second."""

LINE_CHARS = 8 * 1024
"""What is kept of a status or error line."""

Kind = Literal[
    "token", "thinking", "stdout", "stderr", "status", "error", "tool", "call"
]


class OutputSink(Protocol):
    """Where chunks go."""

    def publish(self, subject: str, data: bytes, *, must: bool = False) -> bool:
        """Take a chunk without blocking; False if it is dropped instead.

        `must` for what is small and says something of what was dropped.
        """
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
        self.subject = subjects.output(speaker.host, assign.task_id)
        self._run_subject = subjects.run(speaker.host, assign.task_id)
        self._model = assign.model or None

        # Text that is not out yet, and how much; the timer runs from one flush to the next.
        self._pieces: list[tuple[Kind, str, c.ToolUse | None]] = []
        self._gathered = 0
        self._timer: asyncio.TimerHandle | None = None

        # The last count of tokens that the executor gave.
        self._tokens: int | None = None

        # The last chunk's number. Readers see by a gap that something was dropped.
        self.n = earlier * NEXT_INCARNATION

        # Which try of the work speaks; readers show each by itself.
        self.segment = earlier

        # Chunks that were dropped; bytes of text in them that no mark tells of yet, and
        # of which kind the last of them was.
        self.dropped = 0
        self._unmarked = 0
        self._unmarked_kind: Kind = "stdout"

        # How much text may still be passed on; below 0 the run has said too much.
        self._room = assign.limits.live_output_bytes

        self._closed = False

    # -- Emit

    def text(
        self,
        kind: Literal["token", "thinking", "stdout", "stderr", "tool", "call"],
        text: str,
        *,
        tokens_so_far: int | None = None,
        tool: c.ToolUse | None = None,
    ) -> None:
        if tokens_so_far is not None:
            self._tokens = tokens_so_far
        if not text or self._closed or self._room < 0:
            return
        self._pieces.append((kind, text, tool))
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

    def section(
        self, text: str, *, round: int = 0, spent: c.RoundSpent | None = None
    ) -> None:
        """Begin a new segment of output with a status line; of a round: what it used."""
        self._flush()
        self.segment += 1
        self._line(c.TaskStatus, "status", text, round=round, spent=spent)

    def verified(self, text: str, **fields: Any) -> None:
        """Say how a verification step ended; `fields` are those of its event."""
        self._line(c.TaskVerified, "status", text, **fields)

    # -- the end

    def close(self) -> None:
        """Let everything out and stay silent from now on."""
        self._flush()
        self._mark(must=True)
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
        kind, joined, tool = pieces[0][0], [pieces[0][1]], pieces[0][2]
        for next_kind, text, next_tool in pieces[1:]:
            if next_kind != kind or tool or next_tool:
                self._emit(kind, "".join(joined), tool)
                kind, joined, tool = next_kind, [], next_tool
            joined.append(text)
        self._emit(kind, "".join(joined), tool)

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

    def _emit(self, kind: Kind, text: str, tool: c.ToolUse | None = None) -> None:
        text = encodable(text)
        for piece in split(text, CHUNK_BYTES):
            if kind in ("status", "error"):
                self._pass_on(kind, piece)
            elif self._room >= 0:
                self._pass_on_within_cap(kind, piece, tool)
            if tool is not None:
                tool = c.ToolUse(id=tool.id, is_error=tool.is_error)

    def _pass_on_within_cap(
        self, kind: Kind, piece: str, tool: c.ToolUse | None
    ) -> None:
        """Pass on text up to the run's cap, then say once that there is no more."""
        size = len(piece) if piece.isascii() else len(piece.encode())
        if size <= self._room:
            self._room -= size
            self._pass_on(kind, piece, tool)
            return
        if self._room:
            self._pass_on(kind, split(piece, self._room)[0])
        self._room = -1
        cap = self._assign.limits.live_output_bytes
        self._line(
            c.TaskStatus,
            "status",
            f"[... output is cut here: a run may show {cap:,} bytes; its result keeps "
            "head and tail of all of it ...]\n",
        )

    def _pass_on(self, kind: Kind, piece: str, tool: c.ToolUse | None = None) -> None:
        self._mark()
        if not self._publish(kind, piece, tool=tool):
            self._unmarked += len(piece.encode())
            self._unmarked_kind = kind

    def _mark(self, *, must: bool = False) -> None:
        """Say in the text how much of it was dropped before this place."""
        if self._unmarked:
            text = f"\n[... {self._unmarked:,} bytes are missing here: the output stream took nothing ...]\n"
            if self._publish(self._unmarked_kind, text, must=must):
                self._unmarked = 0

    def _publish(
        self,
        kind: Kind,
        text: str,
        *,
        must: bool = False,
        tool: c.ToolUse | None = None,
    ) -> bool:
        self.n += 1
        counted = (
            self._tokens if kind in ("token", "thinking", "tool", "call") else None
        )
        chunk = c.Chunk(
            task_id=self._assign.task_id,
            event_type=kind,
            text=text,
            timestamp=rfc3339(self._speaker.now()),
            route=self._assign.route,
            generation=self._assign.generation,
            attempt=self._assign.attempt,
            segment=self.segment,
            n=self.n,
            tokens_so_far=counted,
            model=self._model,
            tool=tool,
        )
        taken = self._sink.publish(self.subject, encode(chunk), must=must)
        self.dropped += not taken
        return taken


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


class Pace:
    """So many bytes may go in a second, on the loop's clock, after a burst of more."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self.rate = rate
        self._burst = self._left = burst
        self._clock = clock
        self._at = clock()

    def spend(self, size: int) -> None:
        """Count bytes that went."""
        self._left -= size

    def is_open(self) -> bool:
        """Whether more may go now."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self.rate)
        self._at = now
        return self._left > 0


class _OutputPiece:
    """A chunk on its way."""

    __slots__ = ("acked", "data", "subject")

    def __init__(self, subject: str, data: bytes) -> None:
        self.subject = subject
        self.data = data
        self.acked = False


class OutputQueue:
    """Chunks on their way to the output stream: acknowledged, windowed, bounded.

    What is not acknowledged is sent again, in order; readers know a repeat by its number.
    While the stream is slow or away chunks wait here, up to a bound in all and for each
    run, so that one flood does not silence the others. Well below the bound `throttle`
    is called with the run's subject and True, and with False once it may go on; so the
    bound is reached only by what cannot be held up, and by all once the stream has taken
    nothing for `patience_s`. What comes beyond the bound is dropped.

    The broker keeps what was written in the last ten seconds in its memory. So no more
    than `rate` bytes a second go, after a burst: a flood is slower, and the broker small.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        throttle: Callable[[str, bool], None] = lambda _subject, _held: None,
        in_flight_bytes: int = 4 * 1024 * 1024,
        waiting_bytes: int = 16 * 1024 * 1024,
        per_run_bytes: int = 4 * 1024 * 1024,
        timeout_s: float = 5.0,
        patience_s: float = PATIENCE_S,
        retry_s: float = RETRY_S,
        rate: float = 8 * 1024 * 1024,
        burst_bytes: int = 32 * 1024 * 1024,
    ) -> None:
        """`in_flight_bytes` may be sent and not acknowledged, `timeout_s` at most."""
        self._bus = bus
        self._throttle = throttle
        self._window = in_flight_bytes
        self._limit = waiting_bytes
        self._per_run = per_run_bytes
        self._timeout = timeout_s
        self._patience = patience_s
        self._retry = retry_s
        self._loop = asyncio.get_running_loop()
        self._pace = Pace(rate, burst_bytes, self._loop.time)
        self._paced: asyncio.TimerHandle | None = None

        # Chunks sent and not known to be stored, oldest first; bytes of those whose
        # answer is awaited, and how many they are.
        self._sent: deque[_OutputPiece] = deque()
        self._in_flight = 0
        self._awaited = 0

        # One was not acknowledged: nothing more is sent until all answers are in, then
        # everything from the oldest such on is sent again.
        self._failing = False
        self._failures = 0

        # Chunks that wait, oldest first, and their bytes: in all, and of each run.
        self._waiting: deque[_OutputPiece] = deque()
        self._waiting_bytes = 0
        self._by_subject: dict[str, int] = {}

        # Runs that are held up; until when they are, and whether that time is over and
        # the stream still takes nothing.
        self._held: set[str] = set()
        self._until: asyncio.TimerHandle | None = None
        self._given_up = False

        # Who waits in `flush`.
        self._idle: list[asyncio.Future[None]] = []

        # Chunks that found no room here; chunks that had to be sent again.
        self.dropped = 0
        self.resent = 0
        bus.on_connection(self._connection)

    def publish(self, subject: str, data: bytes, *, must: bool = False) -> bool:
        """Send a chunk, or let it wait; False, and dropped, where there is no room."""
        size = len(data)
        if self._open() and not self._waiting:
            self._send(_OutputPiece(subject, data))
            return True
        waiting = self._by_subject.get(subject, 0)
        full = (
            self._waiting_bytes + size > self._limit or waiting + size > self._per_run
        )
        if full and not must:
            self.dropped += 1
            return False
        self._waiting.append(_OutputPiece(subject, data))
        self._count(subject, size)
        if self._is_crowded(subject, self._per_run // 2):
            self._hold(subject)
        return True

    def _open(self) -> bool:
        return (
            self._bus.connected
            and not self._failing
            and self._in_flight < self._window
            and self._is_in_pace()
        )

    def _is_in_pace(self) -> bool:
        """Whether the pace lets more go now; else what waits goes on a little later."""
        if self._pace.is_open():
            return True
        if self._paced is None:
            self._paced = self._loop.call_later(PACED_S, self._go_on)
        return False

    def _go_on(self) -> None:
        self._paced = None
        self._pump()

    def _count(self, subject: str, size: int) -> None:
        self._waiting_bytes += size
        left = self._by_subject.get(subject, 0) + size
        if left:
            self._by_subject[subject] = left
        else:
            del self._by_subject[subject]

    def _send(self, piece: _OutputPiece) -> None:
        size = len(piece.data)
        self._sent.append(piece)
        self._in_flight += size
        self._pace.spend(size)
        self._awaited += 1
        answer = self._bus.request(piece.subject, piece.data, timeout=self._timeout)

        def settled(future: asyncio.Future[bytes]) -> None:
            self._in_flight -= size
            self._awaited -= 1
            if (
                future.cancelled()
                or future.exception() is not None
                or b'"error"' in future.result()
            ):
                self._failing = True
            else:
                piece.acked = True
                self._heard()
            while self._sent and self._sent[0].acked:
                self._sent.popleft()
            if self._failing and not self._awaited:
                self._take_back()
            self._pump()

        answer.add_done_callback(settled)

    def _take_back(self) -> None:
        """Put what was not acknowledged in front of what waits, for another try."""
        while self._sent:
            piece = self._sent.pop()
            if not piece.acked:
                self.resent += 1
                self._waiting.appendleft(piece)
                self._count(piece.subject, len(piece.data))
        pause = min(self._retry * 2**self._failures, MOST_RETRY_S)
        self._failures = min(self._failures + 1, 10)
        self._loop.call_later(pause, self._again)

    def _again(self) -> None:
        if not self._awaited:
            self._failing = False
        self._pump()

    def _pump(self) -> None:
        while self._waiting and self._open():
            piece = self._waiting.popleft()
            self._count(piece.subject, -len(piece.data))
            self._send(piece)
        for subject in [
            s for s in self._held if not self._is_crowded(s, self._per_run // 4)
        ]:
            self._held.discard(subject)
            self._throttle(subject, False)
        if not self._waiting and not self._sent:
            idle, self._idle = self._idle, []
            for waiter in idle:
                if not waiter.done():
                    waiter.set_result(None)

    def _connection(self, up: bool) -> None:
        if up:
            self._pump()

    # -- holding up

    def _is_crowded(self, subject: str, bound: int) -> bool:
        waiting = self._by_subject.get(subject, 0)
        return waiting > bound or (
            waiting > 0 and self._waiting_bytes > self._limit // 2
        )

    def _hold(self, subject: str) -> None:
        if subject in self._held or self._given_up:
            return
        self._held.add(subject)
        if self._until is None:
            self._until = self._loop.call_later(self._patience, self._give_up)
        self._throttle(subject, True)

    def _heard(self) -> None:
        """The stream takes chunks: there is a reason to hold runs up again."""
        self._given_up = False
        self._failures = 0
        if self._until is not None:
            self._until.cancel()
            self._until = None
        if self._held:
            self._until = self._loop.call_later(self._patience, self._give_up)

    def _give_up(self) -> None:
        """The stream is away for long: let the runs go on; what has no room is lost."""
        self._until = None
        self._given_up = True
        held, self._held = self._held, set()
        for subject in held:
            self._throttle(subject, False)

    async def flush(self) -> None:
        """Return once everything taken has been acknowledged."""
        if self._waiting or self._sent:
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
