"""Chunks on their way to the output stream: in order, acknowledged, at a pace, bounded.

While the stream is slow or away, chunks wait and the runs that make them are held up. Only
where that lasts too long is one dropped; whoever gave it then says so (`progress`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.bus import Bus

PACED_S = 0.02
"""How long output waits that is faster than its pace, before more of it goes."""

PATIENCE_S = 20.0
"""For how long runs are held up while the output stream takes nothing at all."""

RETRY_S = 0.5
MOST_RETRY_S = 10.0
"""After how long chunks that the stream has not acknowledged are sent again; each time in
a row twice as long, up to the second."""


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


class _OutputPiece(Struct, eq=False):
    """A chunk on its way."""

    subject: str
    data: bytes
    acked: bool = False


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
        self._answers: set[asyncio.Future[bytes]] = set()

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
        """Send a chunk, or let it wait; False, and dropped, where there is no room.

        `must` for what is small and says something of what was dropped.
        """
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
            self._answers.discard(future)
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

        self._answers.add(answer)
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
            # How it failed before says nothing of the new one.
            self._failures = 0
            self._again()
            return
        # They will hardly come any more: what they are of is sent first when it is back.
        self._failing = self._failing or bool(self._answers)
        for answer in list(self._answers):
            answer.cancel()

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
