"""The world as it was: the log folded up to a sequence or an instant.

A world is folded from the first event on, off to the side of the one that is kept up to
date, with a temporary store behind it so that a long log fits. The last one is kept, so
that going forward from there costs only the events in between; going back begins anew.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from events.codec import instant
from events.errors import Malformed
from projections.runner import GROUP_EVENTS
from projections.store import Store
from projections.world import World

if TYPE_CHECKING:
    from events.catalogue import Recorded
    from events.log import EventLog, Follower


class TimeTravel:
    """Worlds of one log."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._store: Store | None = None
        self._world = World()
        self._one_at_a_time = asyncio.Lock()

    def close(self) -> None:
        """Let go of the world that was kept."""
        if self._store is not None:
            self._store.close()
            self._store = None
        self._world = World()

    async def world(self, seq: int) -> World:
        """Return the world after `seq`, or after the last event if that is earlier.

        It is true until somebody asks for another one.
        """
        async with self._one_at_a_time:
            wanted = min(seq, await self._log.last_sequence())
            if self._world.position > wanted:
                self.close()
            if self._world.position < wanted:
                await self._forward(wanted)
            return self._world

    async def rows(self, seq: int) -> dict[str, list[Any]]:
        """Return what a store would hold after `seq`."""
        world = await self.world(seq)
        store = self._behind()
        store.save(world, "")
        return store.dump()

    def _behind(self) -> Store:
        if self._store is None:
            self._store = Store()
            self._world = self._store.load()
        return self._store

    async def _forward(self, wanted: int) -> None:
        store = self._behind()
        world, arrived = self._world, asyncio.Event()
        failed: list[Exception] = []

        def take(recorded: Recorded) -> None:
            if arrived.is_set():
                return
            if recorded.seq <= wanted:
                try:
                    world.fold(recorded)
                    if not recorded.seq % GROUP_EVENTS:
                        store.save(world, "")
                except Exception as error:  # noqa: BLE001 - handed to who asked
                    failed.append(error)
            if failed or recorded.seq >= wanted:
                arrived.set()

        follower = await self._log.follow(take, start=world.position + 1)
        try:
            await _either(arrived, follower)
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
        wanted = instant(at)
        low, high = 0, await self._log.last_sequence()
        while low < high:
            middle = (low + high + 1) // 2
            if await self._instant_near(middle, low) <= wanted:
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


async def _either(arrived: asyncio.Event, follower: Follower) -> None:
    """Wait until the place is reached, or the end of what was there is."""
    waits = [
        asyncio.ensure_future(arrived.wait()),
        asyncio.ensure_future(follower.caught_up.wait()),
    ]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
