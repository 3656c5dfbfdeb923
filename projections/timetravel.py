"""The world as it was: the log folded up to a sequence or an instant.

A world is folded off to the side of the one that is kept up to date, with a temporary
store behind it so that a long log fits. It begins with the nearest copy of the read
models before that place, where there is one, and with the first event otherwise. The
last world is kept, so that going forward from there costs only the events in between.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from events.codec import instant
from events.errors import Malformed
from events.position import LogChanged, stands
from events.races import first
from projections.runner import GROUP_EVENTS
from projections.store import Store
from projections.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from events import catalogue as c
    from events.log import EventLog
    from projections.checkpoints import Checkpoints
    from projections.judged import JudgedEvent

WORTH_A_COPY: Final = 2_000
"""Events that are folded faster than a copy is opened."""


class TimeTravel:
    """Worlds of one log."""

    def __init__(
        self, log: EventLog, *, checkpoints: Checkpoints | None = None
    ) -> None:
        self._log = log
        self._checkpoints = checkpoints
        self._store: Store | None = None
        self._folder: Path | None = None
        self._world = World()
        self._one_at_a_time = asyncio.Lock()

    def close(self) -> None:
        """Let go of the world that was kept."""
        if self._store is not None:
            self._store.close()
            self._store = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        self._world = World()

    async def world(self, seq: int) -> World:
        """Return the world after `seq`, or after the last event if that is earlier.

        It stays as it is until the next call of any method here.
        """
        async with self._one_at_a_time:
            return await self._to(min(seq, await self._log.last_sequence()))

    async def walk(
        self, start: int, end: int, see: Callable[[World, JudgedEvent], None]
    ) -> World:
        """Show every event from `start` to `end` to `see`, with the world after it.

        What `see` raises ends the walk.
        """
        async with self._one_at_a_time:
            target = min(end, await self._log.last_sequence())
            if target < start:
                return self._world
            await self._to(start - 1)
            await self._forward(target, see)
            return self._world

    async def _to(self, target: int) -> World:
        if self._world.position > target or not await stands(
            self._log, self._world.stands
        ):
            self.close()
        if target - self._world.position > WORTH_A_COPY:
            await self._jump(target)
        if self._world.position < target:
            await self._forward(target)
        return self._world

    async def _jump(self, target: int) -> None:
        """Go on from the nearest copy, if it is nearer than the present world."""
        if self._checkpoints is None:
            return
        nearest = await self._checkpoints.nearest(self._log, target)
        if nearest is None or nearest[0] <= self._world.position:
            return
        _, path = nearest
        self.close()
        self._folder = Path(tempfile.mkdtemp(prefix="agentcom-past-"))
        copy = self._folder / "past.db"
        await asyncio.to_thread(shutil.copyfile, path, copy)
        self._store = Store(copy)
        self._world = self._store.load()

    async def rows(self, seq: int) -> dict[str, list[Any]]:
        """Return what a store would hold after `seq`."""
        world = await self.world(seq)
        store = self._behind()
        store.save(world)
        return store.dump()

    def _behind(self) -> Store:
        if self._store is None:
            self._store = Store()
            self._world = self._store.load()
        return self._store

    async def _forward(
        self,
        target: int,
        see: Callable[[World, JudgedEvent], None] | None = None,
    ) -> None:
        store = self._behind()
        world, arrived = self._world, asyncio.Event()
        failed: list[Exception] = []

        def take(recorded: c.Recorded) -> None:
            if arrived.is_set():
                return
            if recorded.seq <= target:
                try:
                    judged = world.fold(recorded)
                    if see is not None:
                        see(world, judged)
                    if not recorded.seq % GROUP_EVENTS:
                        store.save(world)
                except Exception as error:  # noqa: BLE001 - handed to who asked
                    failed.append(error)
            if failed or recorded.seq >= target:
                arrived.set()

        follower = await self._log.follow(take, after=world.stands)
        try:
            await first(arrived.wait(), follower.caught_up.wait(), follower.failed)
        except LogChanged:
            self.close()
            raise
        finally:
            await follower.stop()
        if failed:
            self.close()
            raise failed[0]

    async def sequence_at(self, at: str) -> int:
        """Return the last sequence at or before an RFC 3339 instant, 0 if none is.

        By the writers' clocks, which differ a little from machine to machine. Raises
        Malformed where `at` is no instant.
        """
        until = instant(at)
        low, high = 0, await self._log.last_sequence()
        while low < high:
            middle = (low + high + 1) // 2
            if await self._instant_near(middle, low) <= until:
                low = middle
            else:
                high = middle - 1
        return low

    async def _instant_near(self, seq: int, floor: int) -> float:
        """Return when the event at `seq` was made, or the one before it that is one."""
        for place in range(seq, floor, -1):
            recorded = await self._log.get(place)
            if recorded is not None:
                try:
                    return instant(recorded.event.at)
                except Malformed:
                    continue
        return float("-inf")
