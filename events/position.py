"""Where a reader stands in the log, told by the event there and not by a number alone.

A log can be put back to an earlier point: a backup or snapshot restored, the last seconds
lost in a power cut. Then the same sequence holds another event, and whoever goes on from
its number has read what never happened. So every reader that remembers how far it came
remembers the event, and compares it on each start and reconnect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from events.errors import LogError, Malformed, shown

if TYPE_CHECKING:
    from events import catalogue as c
    from events.log import EventLog


class Position(msgspec.Struct, frozen=True):
    """The event that a reader has come to: sequence, id and time; 0 before the first.

    As text `4711:01J…:2026-01-01T00:00:00.000000Z`.
    """

    seq: int = 0
    id: str = ""
    at: str = ""

    @classmethod
    def of(cls, recorded: c.Recorded) -> Position:
        """Return the position at an event."""
        return cls(recorded.seq, recorded.event.id, recorded.event.at)

    @classmethod
    def parse(cls, text: str, path: str = "position") -> Position:
        """Read what `str` writes; raises Malformed naming `path`."""
        seq, _, rest = text.partition(":")
        if not (seq.isascii() and seq.isdigit() and len(seq) < 20):
            raise Malformed(path, "a sequence, an id and a time", shown(text))
        id_, _, at = rest.partition(":")
        return cls(int(seq), id_, at)

    def __str__(self) -> str:
        return f"{self.seq}:{self.id}:{self.at}"

    def holds(self, recorded: c.Recorded | None) -> bool:
        """Whether `recorded` is what the log holds where this position is."""
        return not self.seq or (recorded is not None and Position.of(recorded) == self)


NOWHERE = Position()
"""Before the first event."""


class LogChanged(LogError):
    """The log does not hold the event any more that a reader had come to."""

    code = "log_changed"

    def __init__(self, position: Position) -> None:
        self.position = position
        super().__init__(
            f"the log was put back or is another one: event {position.id}"
            + (f" of {position.at}" if position.at else "")
            + f", read at {position.seq}, is not there any more"
        )


async def stands(log: EventLog, position: Position) -> bool:
    """Whether the log still holds the event at `position`; raises LogError."""
    return not position.seq or position.holds(await log.get(position.seq))
