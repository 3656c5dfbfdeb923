"""Follows the log and keeps every read model up to date, in one process.

Events are folded as they come; what changed is saved in groups, a tenth of a second or
some thousands of events at a time. Readers who need their own write wait for its
sequence: `await runner.wait_for(seq)`.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import TYPE_CHECKING, Final

from projections.store import Store, remove

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.catalogue import Recorded
    from events.log import EventLog, Follower
    from projections.projection import Moment
    from projections.world import World

GROUP_EVENTS: Final = 5_000
"""Events folded before what they changed is saved, at the latest."""
GROUP_S: Final = 0.1
"""Seconds after which what changed is saved, at the latest."""
REBUILD_S: Final = 2.0
"""The same while what was there at the start is still being read."""


class Runner:
    """Keeps one world up to date and one store behind it.

    `start` returns once the store is loaded and the log is being followed; `caught_up`
    is set when all has been folded that was there then. `failed` is a future that holds
    what ended the runner, if anything did: whoever runs it waits for that too.
    """

    def __init__(
        self,
        log: EventLog,
        store: Store,
        *,
        group_events: int = GROUP_EVENTS,
        group_s: float = GROUP_S,
    ) -> None:
        self.world: World = store.load()
        self.store = store
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._log = log
        self._group_events = group_events
        self._group_s = group_s
        self._follower: Follower | None = None
        self._origin = store.origin or ""
        self._unsaved = 0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._waits = 0
        self._watchers: list[Callable[[Moment], None]] = []

    # -- its life ----------------------------------------------------------------------

    async def start(self) -> None:
        """Make sure that the store belongs to this log, then follow on from there."""
        if self.world.position and not await self._same_log():
            self.store.begin_anew()
            self.world = self.store.load()
            self._origin = ""
        self._follower = await self._log.follow(
            self._take, start=self.world.position + 1
        )
        self._follower.failed.add_done_callback(self._follower_failed)

    async def _same_log(self) -> bool:
        """Whether the log's first event is the one that the store began with."""
        seq = int(self._origin.partition(":")[0] or 0)
        first = await self._log.get(seq) if seq else None
        return (
            first is not None
            and _origin_of(first) == self._origin
            and await self._log.last_sequence() >= self.world.position
        )

    async def stop(self) -> None:
        """Follow no more, save what is folded, let go of those who wait."""
        if self._follower is not None:
            await self._follower.stop()
            self._follower = None
        if not self.failed.done():
            self.save()
            self.failed.cancel()
        self._let_go()

    async def rebuild(self) -> int:
        """Make the read models anew beside these and swap; return the position.

        Questions are answered from the old ones until the new ones have caught up.
        """
        path = self.store.path
        beside = None if path is None else path.with_name(f"{path.name}.new")
        if beside is not None:
            remove(beside)
        fresh = Runner(self._log, Store(beside), group_events=self._group_events)
        try:
            await fresh.start()
            await fresh.wait_for(self.position)
            await fresh.stop()
            if self._follower is not None:
                await self._follower.stop()
            self._let_go_of_timer()
            self._unsaved = 0
            if path is None or beside is None:
                self.store.close()
                self.store, self.world = fresh.store, fresh.world
            else:
                fresh.store.close()
                self.store.take_over(beside)
                self.world = self.store.load()
        except BaseException:
            fresh.store.close()
            raise
        self._origin = self.store.origin or ""
        await self.start()
        return self.position

    @property
    def caught_up(self) -> asyncio.Event:
        """Set once everything is folded that was there at the start."""
        assert self._follower is not None, "start the runner first"
        return self._follower.caught_up

    @property
    def position(self) -> int:
        """The last sequence that is folded in."""
        return self.world.position

    async def lag(self) -> int:
        """How many events of the log are not folded in yet."""
        return max(await self._log.last_sequence() - self.world.position, 0)

    # -- folding -----------------------------------------------------------------------

    def watch(self, watcher: Callable[[Moment], None]) -> None:
        """Show every event to `watcher` once it is folded in, with what it counted for."""
        self._watchers.append(watcher)

    def _take(self, recorded: Recorded) -> None:
        if self.failed.done():
            return
        try:
            moment = self.world.fold(recorded)
            self._unsaved += 1
            if not self._origin:
                self._origin = _origin_of(recorded)
            if self._unsaved >= self._group_events:
                self.save()
            elif self._timer is None:
                self._set_timer()
            for watcher in self._watchers:
                watcher(moment)
        except Exception as error:  # noqa: BLE001 - the runner's edge
            self._fail(error)
            return
        while self._waiting and self._waiting[0][0] <= recorded.seq:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)

    def _set_timer(self) -> None:
        behind = self._follower is None or not self._follower.caught_up.is_set()
        delay = REBUILD_S if behind else self._group_s
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(delay, self._save_in_time)

    def save(self) -> None:
        """Save what has been folded since the last time."""
        self._let_go_of_timer()
        if self._unsaved:
            self.store.save(self.world, self._origin)
            self._unsaved = 0

    def _save_in_time(self) -> None:
        self._timer = None
        try:
            self.save()
        except Exception as error:  # noqa: BLE001 - the runner's edge
            self._fail(error)

    def _follower_failed(self, failed: asyncio.Future[None]) -> None:
        if not failed.cancelled() and isinstance(
            error := failed.exception(), Exception
        ):
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)
        self._let_go()

    def _let_go_of_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _let_go(self) -> None:
        self._let_go_of_timer()
        for _, _, future in self._waiting:
            future.cancel()
        self._waiting.clear()

    # -- waiting -----------------------------------------------------------------------

    async def wait_for(self, seq: int, timeout: float | None = None) -> bool:
        """Return once `seq` is folded in; False if it is not after `timeout` seconds."""
        if seq <= self.world.position:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waits += 1
        heapq.heappush(self._waiting, (seq, self._waits, future))
        done, _ = await asyncio.wait((future,), timeout=timeout)
        if not done:
            future.cancel()
        return seq <= self.world.position


def _origin_of(first: Recorded) -> str:
    return f"{first.seq}:{first.event.id}"
