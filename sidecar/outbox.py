"""What a host has to say, delivered to the log in order, whatever happens meanwhile.

Events go out at once, many in flight. One that is not acknowledged within a few
milliseconds is written to the journal as well; so an event is always on its way, on the
disk, or on the log. When the log fails, delivery stops, what is in flight settles, and
everything from the oldest unacknowledged event on is said again, in order, once the log
is back: also later events of the same subject that had come through, so that each
subject holds its events in order. Repeats are for readers to drop.

While the log is away for long only a window is kept in memory; the rest is on the disk
and read back as the window empties.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from events import catalogue as c
from events.codec import decode_event, encode
from events.diagnostics import Diagnostics
from events.errors import LogError, Malformed, TooLarge
from sidecar.output import EVENT_LIMIT, fitting

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.log import EventLog
    from sidecar.journal import Journal

IN_FLIGHT = 1_024
"""How many events may be sent and not settled."""

WINDOW = 4_096
WINDOW_BYTES = 16 * 1024 * 1024
"""How much is kept in memory, in events and in bytes; what is beyond is on the disk."""

_WRITE_ENDS_AFTER_S = 0.02
_WRITE_AFTER_S = 0.25
"""After how long an event that the log has not got is written to the journal: one that
ends a run, any other."""

_RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)
_SURELY_SMALL = 64 * 1024

logger = Diagnostics(__name__)


class OutboxEntry(Struct, eq=False):
    """An event on its way. `n` counts them up; `ends`: the route it finishes, or ""."""

    n: int
    subject: str
    event: c.Event
    ends: str

    # The log has it.
    acked: bool = False

    # It has it behind all that was sent before it, as far as that is known.
    placed: bool = False

    # It is to be on the disk: given to the journal; and it is: committed.
    on_disk: bool = False
    stored: bool = False

    size: int = 0
    _raw: bytes | None = None

    def __post_init__(self) -> None:
        self.size = _roughly(self.event)

    def raw(self) -> bytes:
        """Encode the event, once."""
        if self._raw is None:
            self._raw = encode(self.event)
        return self._raw


class Outbox:
    """One host's events to one log. Give it the connection's ups and downs."""

    def __init__(
        self,
        log: EventLog,
        journal: Journal,
        reported: Callable[[str], None] = lambda _route: None,
    ) -> None:
        """`reported` is called with a route whose last event the log has."""
        self._log = log
        self._journal = journal
        self._reported = reported
        self._loop = asyncio.get_running_loop()

        # The window, oldest first: what was sent, until all before it is on the log too;
        # what is to be sent next.
        self._sent: deque[OutboxEntry] = deque()
        self._ready: deque[OutboxEntry] = deque()
        self._window_bytes = 0

        # What came while the window was full, as long as the disk does not have it.
        self._tail: deque[OutboxEntry] = deque()

        # The numbers of the last event there is, and of the last that came into the
        # window. Between them lies what is to be read back from the disk.
        self._last = journal.at_start.outbox_last
        self._windowed = self._last

        # What to call when the log has an event, by its number.
        self._on_ack: dict[int, Callable[[], None]] = {}

        self._connected = True
        self._in_flight = 0

        # The log did not take an event: nothing is sent until what is in flight has
        # settled and the retry, `_tries` many so far, is due.
        self._stalled = False
        self._tries = 0
        self._retry: asyncio.TimerHandle | None = None

        # What was sent and will be written to the disk when its timer is up, unless the
        # log has it by then: both by the time that it is given.
        self._unwritten: dict[float, list[OutboxEntry]] = {}
        self._writing: dict[float, asyncio.TimerHandle] = {}

        # Entries are being read back from the disk.
        self._loading = False

        # Who waits in `flush`.
        self._waiters: list[asyncio.Future[None]] = []

        self._closed = False
        if journal.at_start.outbox_first:
            self._windowed = journal.at_start.outbox_first - 1
            self._load()

    @property
    def pending(self) -> int:
        """How many events the log has not acknowledged yet."""
        return len(self._sent) + len(self._ready) + (self._last - self._windowed)

    # -- coming in

    def send(
        self,
        subject: str,
        event: c.Event,
        *,
        ends: str = "",
        on_ack: Callable[[], None] | None = None,
    ) -> None:
        """Send an event. `ends` names the route whose run it finishes, if any.

        `on_ack` is called once the log has it.
        """
        self._last += 1
        entry = OutboxEntry(self._last, subject, fit(event), ends)
        if on_ack is not None:
            self._on_ack[entry.n] = on_ack
        spilling = self._windowed != entry.n - 1
        if spilling or self._full():
            self._tail.append(entry)
            self._to_disk([entry])
            self._forget_stored()
            self._refill()
            return
        self._windowed = entry.n
        self._window_bytes += entry.size
        self._ready.append(entry)
        self._later_to_disk(entry)
        self._pump()

    def _full(self) -> bool:
        held = len(self._sent) + len(self._ready)
        return held >= WINDOW or self._window_bytes >= WINDOW_BYTES

    def _forget_stored(self) -> None:
        """Let go of what is on the disk beyond the window."""
        while self._tail and self._tail[0].stored:
            self._tail.popleft()

    # -- going out

    def connection(self, up: bool) -> None:
        """The connection to the log came back, or went."""
        self._connected = up
        if not up:
            # What is in flight is the log's to say again; the rest waits here.
            self._write_unwritten()
            return
        self._tries = 0
        if self._stalled:
            self._resume()
        else:
            self._pump()
            self._refill()

    def _pump(self) -> None:
        while (
            self._ready
            and self._in_flight < IN_FLIGHT
            and self._connected
            and not self._stalled
            and not self._closed
        ):
            entry = self._ready.popleft()
            self._sent.append(entry)
            self._in_flight += 1
            settled = partial(self._settled, entry)
            try:
                self._log.append_then(entry.subject, entry.event, settled)
            except (ValueError, TypeError) as error:  # it cannot be encoded
                self._loop.call_soon(settled, 0, error)

    def _settled(
        self, entry: OutboxEntry, _seq: int, problem: Exception | None
    ) -> None:
        self._in_flight -= 1
        if self._closed:
            return
        if problem is None:
            self._tries = 0
            self._acknowledged(entry)
        elif isinstance(problem, LogError) and not isinstance(problem, TooLarge):
            self._stall(problem)
        else:
            self._refused(entry, problem)
        if self._stalled:
            if self._in_flight == 0:
                self._try_again_later()
            return
        self._pump()
        self._refill()

    def _acknowledged(self, entry: OutboxEntry) -> None:
        entry.placed = True
        if not entry.acked:
            entry.acked = True
            if (on_ack := self._on_ack.pop(entry.n, None)) is not None:
                on_ack()
            if entry.ends:
                self._reported(entry.ends)
        if self._stalled:
            # What comes before it may still fail: it may have to be said again.
            return
        trim = 0
        while self._sent and self._sent[0].placed:
            gone = self._sent.popleft()
            self._window_bytes -= gone.size
            if gone.on_disk:
                trim = gone.n
        if trim:
            self._journal.trim(trim)
        self._wake_if_empty()

    def _wake_if_empty(self) -> None:
        if self._waiters and self.pending == 0:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _refused(self, entry: OutboxEntry, problem: BaseException) -> None:
        """The log will never take it as it is: cut it, or give it up, loudly."""
        if isinstance(problem, TooLarge):
            smaller = fit(entry.event, problem.limit // 2)
            if smaller is not entry.event:
                entry.event = smaller
                self._stall(problem)
                return
        logger.error(
            "event not deliverable",
            subject=entry.subject,
            what=type(entry.event).__name__,
            problem=str(problem),
        )
        self._acknowledged(entry)

    # -- when the log fails

    def _stall(self, problem: BaseException) -> None:
        if not self._stalled:
            self._stalled = True
            if self._tries == 0:
                logger.warning(
                    "the log does not take events", problem=str(problem), tries=1
                )
            self._write_unwritten()

    def _try_again_later(self) -> None:
        if self._retry is None:
            delay = _RETRY_S[min(self._tries, len(_RETRY_S) - 1)]
            self._tries += 1
            self._retry = self._loop.call_later(delay, self._resume)

    def _resume(self) -> None:
        """Say again what is unacknowledged, and what of its subjects came after it."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._closed or not self._stalled or self._in_flight or not self._connected:
            return
        self._stalled = False
        again: list[OutboxEntry] = []
        open_subjects: set[str] = set()
        trim = 0
        for entry in self._sent:
            if not entry.placed or entry.subject in open_subjects:
                open_subjects.add(entry.subject)
                entry.placed = False
                again.append(entry)
            else:
                self._window_bytes -= entry.size
                if not again and entry.on_disk:
                    trim = entry.n
        self._sent.clear()
        self._ready.extendleft(reversed(again))
        if trim:
            self._journal.trim(trim)
        self._wake_if_empty()
        self._pump()
        self._refill()

    # -- the disk

    def _later_to_disk(self, entry: OutboxEntry) -> None:
        """Write it down, unless the log has it by then; sooner what finishes a run."""
        if self._stalled or not self._connected:
            self._to_disk([entry])
            return
        after_s = _WRITE_ENDS_AFTER_S if entry.ends else _WRITE_AFTER_S
        self._unwritten.setdefault(after_s, []).append(entry)
        if after_s not in self._writing:
            self._writing[after_s] = self._loop.call_later(
                after_s, self._write_waiting, after_s
            )

    def _write_waiting(self, after_s: float) -> None:
        self._writing.pop(after_s).cancel()
        self._to_disk(self._unwritten.pop(after_s))

    def _write_unwritten(self) -> None:
        for after_s in list(self._writing):
            self._write_waiting(after_s)

    def _to_disk(self, entries: list[OutboxEntry]) -> None:
        entries = [e for e in entries if not e.acked and _encodable(e)]
        for entry in entries:
            entry.on_disk = True
        if entries:
            self._journal.put(entries)

    def _refill(self) -> None:
        """Read on from the disk once the window is half empty."""
        held = len(self._sent) + len(self._ready)
        if (
            self._windowed < self._last
            and held < WINDOW // 2
            and self._window_bytes < WINDOW_BYTES // 2
            and not self._stalled
        ):
            self._load()

    def _load(self) -> None:
        if self._loading or self._closed:
            return
        self._loading = True
        rows = self._journal.outbox_after(
            self._windowed, WINDOW // 2, WINDOW_BYTES // 2
        )
        rows.add_done_callback(self._loaded)

    def _loaded(
        self, future: asyncio.Future[list[tuple[int, str, bytes, str]]]
    ) -> None:
        self._loading = False
        if self._closed or future.cancelled():
            return
        if (error := future.exception()) is not None:
            logger.error("outbox not readable", problem=str(error))
            self._loop.call_later(1.0, self._refill)
            return
        rows = future.result()
        for n, subject, raw, ends in rows:
            self._take_in(n, subject, raw, ends)
        # What is not committed yet, or could not be, is still here.
        while self._tail and self._tail[0].n <= self._windowed + 1 and not self._full():
            self._into_window(self._tail.popleft())
        if not rows and self._windowed < self._last and not self._full():
            # Numbers that were acknowledged before they were written.
            self._windowed = self._tail[0].n - 1 if self._tail else self._last
            self._wake_if_empty()
        self._pump()
        self._refill()

    def _take_in(self, n: int, subject: str, raw: bytes, ends: str) -> None:
        if self._tail and self._tail[0].n == n:
            self._into_window(self._tail.popleft())
            return
        try:
            event = decode_event(raw)
        except Malformed as error:
            logger.error("outbox entry unreadable", n=n, problem=str(error))
            self._windowed = n
            return
        entry = OutboxEntry(n, subject, event, ends)
        entry.on_disk = entry.stored = True
        self._into_window(entry)

    def _into_window(self, entry: OutboxEntry) -> None:
        self._windowed = entry.n
        self._window_bytes += entry.size
        self._ready.append(entry)

    # -- the end

    async def flush(self) -> None:
        """Return once the log has everything."""
        if self.pending:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    async def close(self) -> None:
        """Write down what the log has not got, and stop."""
        self._write_unwritten()
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        await self._journal.settle()


def _encodable(entry: OutboxEntry) -> bool:
    """Whether it can be written at all; the log will refuse what cannot."""
    try:
        entry.raw()
    except (ValueError, TypeError):
        return False
    return True


# -- Size ------------------------------------------------------------------------------


def fit(event: c.Event, limit: int = EVENT_LIMIT) -> c.Event:
    """Return `event`, its result cut until that takes at most `limit` encoded."""
    result: c.Result | None = getattr(event, "result", None)
    if result is None or _roughly(event) < min(_SURELY_SMALL, limit // 8):
        return event
    fitted = fitting(result, limit)
    if fitted is result:
        return event
    return structs.replace(event, result=fitted)


def _roughly(event: c.Event) -> int:
    """Estimate an event's size without encoding it."""
    result: c.Result | None = getattr(event, "result", None)
    if result is None:
        return 512
    return 1_024 + len(result.output) + len(result.stderr)
