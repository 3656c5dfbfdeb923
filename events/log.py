"""The log as a port: append, replay, follow, look up. And its twin in memory.

One order for everything: a sequence from 1, without gaps. An append may name the
sequence its subject must stand at (`expect`, 0 for a subject that must not exist yet);
who comes second gets a Conflict. Both implementations pass one contract suite.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from events.catalogue import Event, Recorded
from events.codec import decode_event, encode
from events.errors import Conflict, Malformed, TooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_EVENT_BYTES = 512 * 1024
"""No event is larger than this once encoded."""


class Follower(Protocol):
    """Somebody who reads along. `position` is the last sequence handed on."""

    @property
    def position(self) -> int:
        """The last sequence that was handed to the callback; 0 before the first."""
        ...

    @property
    def caught_up(self) -> asyncio.Event:
        """Set once everything that was there at the start has been handed on."""
        ...

    @property
    def undecodable(self) -> int:
        """How many messages were not events at all; they are counted and passed by."""
        ...

    @property
    def failed(self) -> asyncio.Future[None]:
        """Holds what the callback raised, if it ever did; nothing follows after that."""
        ...

    async def stop(self) -> None:
        """Hand on nothing more."""
        ...


class EventLog(Protocol):
    """The immutable log."""

    def append(
        self, subject: str, event: Event, *, expect: int | None = None
    ) -> asyncio.Future[int]:
        """Write one event; the future yields its sequence.

        Appends of one caller are stored in the order of the calls. With `expect` an
        append whose acknowledgement got lost is resolved by looking, so it is stored
        once. Without, it is stored at least once while the caller lives; readers drop
        the repeat. Raises through the future: Conflict, TooLarge, LogUnavailable.
        """
        ...

    async def append_batch(self, items: Sequence[tuple[str, Event, int]]) -> list[int]:
        """Write (subject, event, expect) all or none, at most 1,000.

        Raises Conflict naming the first subject that refused, TooLarge, LogUnavailable.
        """
        ...

    async def follow(
        self,
        callback: Callable[[Recorded], None],
        *,
        start: int = 1,
        subjects: Sequence[str] = (),
    ) -> Follower:
        """Hand on every event from `start`, in order, once each, and go on for ever.

        Survives reconnects and restarts of the server without gap or repeat. An empty
        `subjects` means all. The callback must not block; what it raises ends the
        follower loudly.
        """
        ...

    async def read(
        self, subject: str, *, start: int = 1, limit: int = 1_000_000
    ) -> list[Recorded]:
        """Return the events of one subject (wildcards allowed), oldest first."""
        ...

    async def get(self, seq: int) -> Recorded | None:
        """Return the event at `seq`."""
        ...

    async def last(self, subject: str) -> Recorded | None:
        """Return the newest event of one literal subject, as its leader knows it."""
        ...

    async def last_sequence(self) -> int:
        """Return the newest sequence of the log, 0 when it is empty."""
        ...


def matches(pattern: str, subject: str) -> bool:
    """Whether a NATS pattern (`*` one part, `>` the rest) covers a literal subject."""
    wanted, given = pattern.split("."), subject.split(".")
    for i, part in enumerate(wanted):
        if part == ">":
            return len(given) > i
        if i >= len(given) or (part != "*" and part != given[i]):
            return False
    return len(wanted) == len(given)


class MemoryLog:
    """The twin: the same promises, kept in a list.

    Everything goes through the codec, so that what cannot be spelled cannot be stored.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[str, bytes]] = []
        self._last: dict[str, int] = {}
        self._followers: list[MemoryFollower] = []

    def append(
        self, subject: str, event: Event, *, expect: int | None = None
    ) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        raw = encode(event)
        last = self._last.get(subject, 0)
        if len(raw) > MAX_EVENT_BYTES:
            future.set_exception(TooLarge(subject, len(raw), MAX_EVENT_BYTES))
        elif expect is not None and expect != last:
            ours = self._ours(subject, event.id, expect)
            if ours is None:
                future.set_exception(Conflict(subject, expect, last))
            else:
                future.set_result(ours)
        else:
            future.set_result(self._store(subject, raw))
        return future

    def _ours(self, subject: str, event_id: str, expect: int) -> int | None:
        """Return where this very event stands, if it came next after `expect`."""
        for seq in range(expect + 1, len(self._entries) + 1):
            if self._entries[seq - 1][0] == subject:
                recorded = self.recorded(seq)
                same = recorded is not None and recorded.event.id == event_id
                return seq if same else None
        return None

    async def append_batch(self, items: Sequence[tuple[str, Event, int]]) -> list[int]:
        encoded = [(subject, encode(event), expect) for subject, event, expect in items]
        seen: set[str] = set()
        for subject, raw, expect in encoded:
            last = self._last.get(subject, 0)
            if expect != last or subject in seen:
                raise Conflict(subject, expect, last)
            if len(raw) > MAX_EVENT_BYTES:
                raise TooLarge(subject, len(raw), MAX_EVENT_BYTES)
            seen.add(subject)
        return [self._store(subject, raw) for subject, raw, _ in encoded]

    def store_raw(self, subject: str, raw: bytes) -> int:
        """Store bytes as they are, as a stranger with publish rights could."""
        return self._store(subject, raw)

    def _store(self, subject: str, raw: bytes) -> int:
        self._entries.append((subject, raw))
        seq = self._last[subject] = len(self._entries)
        for follower in self._followers:
            follower.wake()
        return seq

    async def follow(
        self,
        callback: Callable[[Recorded], None],
        *,
        start: int = 1,
        subjects: Sequence[str] = (),
    ) -> Follower:
        follower = MemoryFollower(self, callback, start, tuple(subjects))
        self._followers.append(follower)
        follower.wake()
        return follower

    async def read(
        self, subject: str, *, start: int = 1, limit: int = 1_000_000
    ) -> list[Recorded]:
        found = (
            self.recorded(seq)
            for seq in range(max(start, 1), len(self._entries) + 1)
            if matches(subject, self._entries[seq - 1][0])
        )
        return [recorded for recorded in found if recorded is not None][:limit]

    async def get(self, seq: int) -> Recorded | None:
        return self.recorded(seq) if 1 <= seq <= len(self._entries) else None

    async def last(self, subject: str) -> Recorded | None:
        seq = self._last.get(subject)
        return self.recorded(seq) if seq else None

    async def last_sequence(self) -> int:
        return len(self._entries)

    def recorded(self, seq: int) -> Recorded | None:
        """Return the event at `seq`, None where the bytes are no event."""
        subject, raw = self._entries[seq - 1]
        try:
            return Recorded(seq, subject, decode_event(raw))
        except Malformed:
            return None

    def subject_at(self, seq: int) -> str:
        """Return the subject at `seq`, which must exist."""
        return self._entries[seq - 1][0]

    def forget(self, follower: MemoryFollower) -> None:
        """Wake this follower no more."""
        if follower in self._followers:
            self._followers.remove(follower)


class MemoryFollower:
    """Follows a MemoryLog, one callback round of the loop behind it."""

    def __init__(
        self,
        log: MemoryLog,
        callback: Callable[[Recorded], None],
        start: int,
        subjects: tuple[str, ...],
    ) -> None:
        self._log = log
        self._callback = callback
        self._subjects = subjects
        self._scanned = max(start, 1) - 1
        self._woken = False
        self._stopped = False
        self.position = 0
        self.undecodable = 0
        self.caught_up = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        """Look for news in the next round of the loop."""
        if not self._woken and not self._stopped:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._woken = False
        while not self._stopped and self._scanned < len(self._log._entries):
            self._scanned += 1
            subject = self._log.subject_at(self._scanned)
            if self._subjects and not any(matches(p, subject) for p in self._subjects):
                continue
            recorded = self._log.recorded(self._scanned)
            if recorded is None:
                self.undecodable += 1
                continue
            self.position = self._scanned
            try:
                self._callback(recorded)
            except BaseException as error:
                self._stopped = True
                self.failed.set_exception(error)
                raise
        self.caught_up.set()

    async def stop(self) -> None:
        self._stopped = True
        self._log.forget(self)
