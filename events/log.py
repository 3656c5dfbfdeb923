"""The log as a port: append, replay, follow, look up.

One order for everything: a sequence from 1, without gaps. An append may name the
sequence its subject must stand at (`expect`, 0 for a subject that must not exist yet);
who comes second gets a Conflict. Every implementation passes the suite in tests/contract.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from events.errors import LogError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from events import catalogue as c
    from events.position import Position

Appended = Callable[[int, LogError | None], None]
"""Told of an append's end: its sequence, or 0 and what went wrong."""

MAX_EVENT_BYTES = 512 * 1024
"""No event is larger than this once encoded."""


class Follower(Protocol):
    """A reader that gets every new event. `position` is the last sequence handed on."""

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
        """Holds what the callback raised, or LogChanged; nothing follows after that."""
        ...

    async def stop(self) -> None:
        """Hand on nothing more."""
        ...


class EventLog(Protocol):
    """The immutable log."""

    def append(
        self, subject: str, event: c.Event, *, expect: int | None = None
    ) -> asyncio.Future[int]:
        """Write one event; the future yields its sequence.

        Appends of one caller are stored in the order of the calls. With `expect` an
        append whose acknowledgement got lost is resolved by looking, so it is stored
        once. Without, it is stored at least once while the caller lives; readers drop
        the repeat. Raises through the future: Conflict, TooLarge, LogUnavailable.
        """
        ...

    def append_then(
        self, subject: str, event: c.Event, done: Appended, *, expect: int | None = None
    ) -> None:
        """`append` without a future: `done` is called later, once, with the sequence, or
        with 0 and what went wrong. Raises what an event raises that cannot be encoded.
        """
        ...

    async def append_batch(
        self, items: Sequence[tuple[str, c.Event, int]]
    ) -> list[int]:
        """Write (subject, event, expect) all or none, at most 1,000.

        Raises Conflict naming the first subject that refused, TooLarge, LogUnavailable.
        """
        ...

    async def follow(
        self,
        callback: Callable[[c.Recorded], None],
        *,
        start: int = 1,
        after: Position | None = None,
        subjects: Sequence[str] = (),
    ) -> Follower:
        """Hand on every event from `start`, in order, once each, and go on for ever.

        With `after`, from the event behind that one. Survives reconnects and restarts of
        the server without gap or repeat. An empty `subjects` means all. The callback
        must not block; what it raises ends the follower loudly. So does a log that does
        not hold the event handed on last (or `after`) any more: `failed` gets LogChanged,
        at the start or after a reconnect, and nothing is handed on.
        """
        ...

    async def read(
        self, subject: str, *, start: int = 1, limit: int = 1_000_000
    ) -> list[c.Recorded]:
        """Return the events of one subject (wildcards allowed), oldest first."""
        ...

    async def get(self, seq: int) -> c.Recorded | None:
        """Return the event at `seq`."""
        ...

    async def last(self, subject: str) -> c.Recorded | None:
        """Return the newest event of one literal subject, as its leader knows it."""
        ...

    async def last_sequence(self) -> int:
        """Return the newest sequence of the log, 0 when it is empty."""
        ...
