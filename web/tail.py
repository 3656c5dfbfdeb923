"""The log itself on a page: its last events, then each as it is folded in."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from events import catalogue as c
from events.codec import encode
from events.errors import AgentComError
from events.position import Position, stands
from events.subjects import matches
from web.documents import encode_position

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.log import EventLog
    from projections.runner import Runner

EVENTS_KEPT: Final = 5_000
"""Events held in memory; a page that is further behind starts with a snapshot again."""
EVENTS_SHOWN: Final = 300
"""Events in a snapshot."""
EVENTS_AT_ONCE: Final = 500
"""Events in a change, at most."""
REACH: Final = 100_000
"""So far back the log is searched for events that match a pattern."""
MESSAGE_BYTES: Final = 1_000_000
AGAIN_S: Final = 1.0
"""How long to wait until a log that did not answer is read again."""


class RecentEvents:
    """The end of the log, in memory, for all pages that watch it."""

    def __init__(self, runner: Runner, log: EventLog) -> None:
        self._runner = runner
        self._log = log
        self._events: deque[c.Recorded] = deque(maxlen=EVENTS_KEPT)
        self._first_kept = runner.position + 1
        # What `after` answered; many pages ask the same between two events.
        self._encoded: dict[tuple[int, int, str], tuple[list[bytes], Position]] = {}

    @property
    def stands(self) -> Position:
        """The last event that is folded into the read models."""
        return self._runner.world.stands

    async def knows(self, position: Position) -> bool:
        """Whether `position` is one of this log; raises LogError."""
        return await stands(self._log, position)

    def begin(self) -> None:
        """Hold what is folded in from now on."""
        self._first_kept = self.stands.seq + 1

    def take(self, recorded: c.Recorded) -> None:
        """Hold an event that was just folded in."""
        self._events.append(recorded)
        if len(self._events) == EVENTS_KEPT:
            self._first_kept = self._events[0].seq
        self._encoded.clear()

    def holds_after(self, seq: int) -> int:
        """Return the first sequence that is held here, at least the one after `seq`."""
        return max(self._first_kept, seq + 1)

    def after(self, seq: int, pattern: str) -> tuple[list[bytes], Position]:
        """Encode what came after `seq`; say how far in the log that reaches."""
        key = (seq, self.stands.seq, pattern)
        answer = self._encoded.get(key)
        if answer is None:
            answer = self._encoded[key] = self._after(seq, pattern)
        return answer

    def _after(self, seq: int, pattern: str) -> tuple[list[bytes], Position]:
        newer: list[c.Recorded] = []
        for recorded in reversed(self._events):
            if recorded.seq <= seq:
                break
            newer.append(recorded)
        encoded: list[bytes] = []
        size = 0
        last = newer[-1] if newer else None
        for recorded in reversed(newer):
            before, last = last, recorded
            if not matches(pattern, recorded.subject):
                continue
            raw = encode_recorded(recorded)
            size += len(raw)
            if encoded and (size > MESSAGE_BYTES or len(encoded) >= EVENTS_AT_ONCE):
                return encoded, Position.of(before or recorded)
            encoded.append(raw)
        return encoded, self.stands

    async def latest(self, pattern: str, position: int) -> list[bytes]:
        """Encode the last events up to `position` that match, as one message holds.

        Raises LogError.
        """
        reach = EVENTS_SHOWN
        while True:
            start = max(1, position - reach + 1)
            # Behind it there may be millions that have not been folded in yet.
            most = position - start + 1
            events = await self._log.read(pattern, start=start, limit=most)
            events = [recorded for recorded in events if recorded.seq <= position]
            if len(events) >= EVENTS_SHOWN or start == 1 or reach >= REACH:
                return _last_that_fit(events[-EVENTS_SHOWN:])
            reach *= 16


class EventTail:
    """A page's interest in the log: the events whose subject matches a pattern.

    It begins with a snapshot, or after `since` where that is still held.
    """

    def __init__(
        self,
        wake: Callable[[], None],
        id_: str,
        pattern: str,
        recent: RecentEvents,
        since: int | None,
    ) -> None:
        self.id = id_
        self.pattern = pattern
        self._wake = wake
        self._recent = recent
        self._snapshot: bytes | None = None
        # How far the page has been sent the log; None until the first message is ready.
        self._position: int | None = None
        self._opening = asyncio.get_running_loop().create_task(self._open(since))

    def close(self) -> None:
        """Follow no more."""
        self._opening.cancel()

    async def _open(self, since: int | None) -> None:
        while True:
            at = self._recent.stands
            position = at.seq
            if since is not None and self._recent.holds_after(since) <= position:
                self._position = min(since, position)
                self._wake()
                return
            try:
                events = await self._recent.latest(self.pattern, position)
            except AgentComError:
                await asyncio.sleep(AGAIN_S)
                continue
            self._snapshot = self._message(b"snapshot", at, events)
            self._position = position
            self._wake()
            return

    def next(self) -> bytes | None:
        """Return the next message, None while there is nothing new."""
        if self._snapshot is not None:
            snapshot, self._snapshot = self._snapshot, None
            return snapshot
        position = self._position
        if position is None or position >= self._recent.stands.seq:
            return None
        if self._recent.holds_after(position) > position + 1:
            # It was too slow for what is held: a new snapshot of the log's end.
            self._position = None
            self._opening = asyncio.get_running_loop().create_task(self._open(None))
            return None
        events, at = self._recent.after(position, self.pattern)
        self._position = at.seq
        if not events:
            return self.next()
        return self._message(b"change", at, events)

    def _message(self, kind: bytes, at: Position, events: list[bytes]) -> bytes:
        head = b'{"type":"%s","id":"%s","topic":"events",%s,"data":{"events":[%s]}}'
        return head % (
            kind,
            self.id.encode(),
            encode_position(at),
            b",".join(events),
        )


def encode_recorded(recorded: c.Recorded) -> bytes:
    """Encode an event with its place in the log."""
    event = recorded.event
    return encode(
        {
            "seq": recorded.seq,
            "subject": recorded.subject,
            "event": event.body if isinstance(event, c.Unknown) else event,
        }
    )


def _last_that_fit(events: list[c.Recorded]) -> list[bytes]:
    """Encode as many of the last events as one message may hold, at least one."""
    encoded: list[bytes] = []
    size = 0
    for recorded in reversed(events):
        raw = encode_recorded(recorded)
        size += len(raw)
        if encoded and size > MESSAGE_BYTES:
            break
        encoded.append(raw)
    return encoded[::-1]
