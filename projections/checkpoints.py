"""Read models as they were, kept so that going back does not begin at the beginning.

Each is a copy of the store's file, taken now and then while it is written. The world at
a sequence is the nearest copy before it and the events in between. Copies of another
version or another log are useless, and go; so do those that stand too close together,
so that a longer log has copies further apart, never more of them.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

from events.errors import Malformed
from events.position import NOWHERE, stands
from projections.store_file import about, beside, made_by

if TYPE_CHECKING:
    from pathlib import Path

    from events.log import EventLog

EVERY: Final = 100_000
"""Events between two copies, at least."""
KEPT: Final = 6
"""So many copies take three to four times what the store itself takes."""


class Checkpoints:
    """The copies of one store, in a folder of their own."""

    def __init__(self, folder: Path, *, every: int = EVERY, kept: int = KEPT) -> None:
        self.folder = folder
        self.fault = ""
        self._every = every
        self._kept = kept
        self._places = sorted(
            int(path.stem) for path in folder.glob("*.db") if path.stem.isdigit()
        )

    @property
    def places(self) -> tuple[int, ...]:
        """The sequences that there are copies of."""
        return tuple(self._places)

    def due(self, position: int, *, behind: bool = False) -> bool:
        """Whether a copy should be taken now; fewer while the log is still being read."""
        last = self._places[-1] if self._places else 0
        apart = max(self._every, position // (2 * self._kept))
        if behind:
            apart = max(2 * self._every, position // 3)
        return position - last >= apart

    def take(self, source: Path) -> None:
        """Copy the store's file; blocks for as long as that takes. Never raises.

        What goes wrong (a full disk, say) is kept in `fault`: without a copy the past
        takes longer, nothing else.
        """
        scratch = self.folder / "making.db"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            scratch.unlink(missing_ok=True)
            position = _copied(source, scratch)
            scratch.rename(self._path(position))
        except (OSError, sqlite3.Error) as error:
            self.fault = str(error)
            with suppress(OSError):
                scratch.unlink(missing_ok=True)
            return
        self.fault = ""
        self._places = sorted({*self._places, position})
        self._thin()

    async def nearest(self, log: EventLog, seq: int) -> tuple[int, Path] | None:
        """Return the last copy at or before `seq` that is of this log: position, file.

        Those before it that are not go. Raises LogError.
        """
        for place in reversed([place for place in self._places if place <= seq]):
            path = self._path(place)
            try:
                maker, position = about(path)
            except (sqlite3.Error, Malformed):
                maker, position = "", NOWHERE
            if (
                maker == made_by()
                and position.seq == place
                and await stands(log, position)
            ):
                return place, path
            self.drop(place)
        return None

    def drop(self, place: int) -> None:
        """Delete one copy."""
        self._path(place).unlink(missing_ok=True)
        self._places = [each for each in self._places if each != place]

    async def drop_strangers(self, log: EventLog) -> None:
        """Delete the copies that are not of this log. Raises LogError."""
        while self._places:
            last = self._places[-1]
            nearest = await self.nearest(log, last)
            if nearest is not None and nearest[0] == last:
                return

    def _path(self, place: int) -> Path:
        return self.folder / f"{place}.db"

    def _thin(self) -> None:
        while len(self._places) > self._kept:
            places = [0, *self._places]
            closest = min(
                range(1, len(places) - 1), key=lambda i: places[i + 1] - places[i - 1]
            )
            self.drop(places[closest])


def _copied(source: Path, target: Path) -> int:
    """Copy a store's file beside the process that writes it.

    Returns the last sequence in it. Raises what SQLite raises; then there is no copy.
    """
    try:
        with (
            closing(beside(source)) as reading,
            closing(sqlite3.connect(target)) as copy,
        ):
            reading.backup(copy)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return about(target)[1].seq
