"""The way in which gateway and scheduler make events: one stamp for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from events import catalogue as c

E = TypeVar("E", bound="c.Event")


class Stamp(NamedTuple):
    """What every event carries, made at the edge: its id, its time (RFC 3339), its author.

    Each stamp is for one event.
    """

    id: str
    at: str
    by: str

    def on(self, kind: type[E], /, **fields: Any) -> E:
        """Make an event of this kind with this stamp; raises TypeError for wrong fields."""
        return kind(id=self.id, at=self.at, by=self.by, **fields)
