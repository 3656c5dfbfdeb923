"""Follows the log and keeps every read model up to date, in one process.

Events are folded as they come; what changed is saved in groups, a tenth of a second or
some thousands of events at a time. Readers who need their own write wait for its
sequence: `await runner.wait_for(seq)`.
"""

from __future__ import annotations

import asyncio
import heapq
import sqlite3
from typing import TYPE_CHECKING, Any, Final

from events.diagnostics import Diagnostics
from events.errors import AgentComError
from events.position import LogChanged, stands
from events.races import first
from projections.store import Store
from projections.store_file import Damaged, may_pass, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from events import catalogue as c
    from events.log import EventLog, Follower
    from projections.checkpoints import Checkpoints
    from projections.judged import JudgedEvent
    from projections.world import World

_log = Diagnostics("agentcom.projections")

GROUP_EVENTS: Final = 10_000
"""Events folded before what they changed is saved, at the latest."""
GROUP_S: Final = 0.1
"""Seconds after which what changed is saved, at the latest."""
AGAIN_S: Final = 1.0
"""Seconds after which a store that could not be written is tried again."""
REBUILD_S: Final = 2.0
"""The same while what was there at the start is still being read."""


class AlreadyRebuilding(AgentComError):
    """The read models are being made anew at this moment."""

    code = "busy"

    def __init__(self) -> None:
        super().__init__("the read models are being made anew already")


class Runner:
    """Keeps one world up to date and one store behind it.

    `start` returns once the store is loaded and the log is being followed; `caught_up`
    is set when all has been folded that was in the log then. `failed` is a future that
    gets the exception that ends the runner: whoever runs it waits for that too.

    An outdated store (another version's) answers as it is until a new one has been made
    beside it; its position says how old it is. `rebuilt` counts the swaps.
    """

    def __init__(
        self,
        log: EventLog,
        store: Store,
        *,
        group_events: int = GROUP_EVENTS,
        group_s: float = GROUP_S,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.caught_up = asyncio.Event()
        self.rebuilt = 0
        self.checkpoints = checkpoints
        self.world: World = store.load()
        self.store = store
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._log = log
        self._group_events = group_events
        self._group_s = group_s
        self._follower: Follower | None = None
        store.on_damage = self._fail
        self._unsaved = 0
        # The last sequence whose effect is in the store.
        self._saved = self.world.position
        # Why the store takes nothing at the moment; "" while it does.
        self._stuck = ""
        self._timer: asyncio.TimerHandle | None = None
        # Those who wait for a sequence: a heap of (sequence, a running number, future).
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._waits = 0
        self._watchers: list[Callable[[JudgedEvent], None]] = []
        # The last sequence shown to watchers: a swap must show no event twice.
        self._shown = 0
        # Makes the read models anew beside these, while a rebuild runs.
        self._fresh: Runner | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._copying: asyncio.Task[None] | None = None

    # -- start, stop, rebuild ----------------------------------------------------------------------

    async def start(self) -> None:
        """Make sure that the store belongs to this log, then follow on from there.

        A store of another log, or of one that was put back since, is made anew.
        """
        if not await stands(self._log, self.world.stands):
            _log.warning(
                "the read models are made anew",
                reason=str(LogChanged(self.world.stands)),
            )
            self.store.begin_anew()
            self.world = self.store.load()
            self._saved = 0
        if self.checkpoints is not None:
            await self.checkpoints.drop_strangers(self._log)
        if self.store.outdated:
            self._in_background(self._renew())
        else:
            await self._follow()

    async def _follow(self) -> None:
        self.store.hurry(behind=True)
        self._follower = await self._log.follow(self._take, after=self.world.stands)
        self._follower.failed.add_done_callback(self._follower_failed)
        self._in_background(self._notice(self._follower))

    async def _notice(self, follower: Follower) -> None:
        await follower.caught_up.wait()
        try:
            self.store.hurry(behind=False)
        except Exception as error:  # noqa: BLE001 - the runner's edge
            self._fail(error)
            return
        self.caught_up.set()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def stop(self) -> None:
        """Follow no more, save what is folded, let go of those who wait."""
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._follower is not None:
            await self._follower.stop()
            self._follower = None
        if not self.failed.done():
            self.save()
            self.failed.cancel()
        if self._copying is not None:
            await asyncio.gather(self._copying, return_exceptions=True)
        self._let_go()

    async def _renew(self) -> None:
        """Replace another version's read models, which answer meanwhile."""
        try:
            await self.rebuild()
        except Exception as error:  # noqa: BLE001 - the runner's edge
            self._fail(error)

    @property
    def rebuilding(self) -> int | None:
        """How far the read models are that are being made anew; None if none are."""
        return None if self._fresh is None else self._fresh.position

    async def rebuild(self) -> int:
        """Make the read models anew beside these and swap; return the position.

        Questions are answered from the old ones until the new ones have caught up, and
        watchers see every event once. Raises AlreadyRebuilding, and what ends the new
        ones; the old ones then go on.
        """
        if self._fresh is not None:
            raise AlreadyRebuilding
        path = self.store.path
        beside = None if path is None else path.with_name(f"{path.name}.new")
        if beside is not None:
            remove(beside)
        fresh = self._fresh = Runner(
            self._log, Store(beside), group_events=self._group_events
        )
        if self._follower is None:
            fresh.watch(self._show)
        try:
            await fresh.start()
            await fresh.until_caught_up()
            if self._follower is not None:
                await fresh.until(self.position)
            await fresh.stop()
            if self._follower is not None:
                # Watchers have then seen all that the new ones have folded. What came
                # since is read again after the swap, and shown then.
                await self.until(fresh.position)
                await self._follower.stop()
        except BaseException:
            await fresh.stop()
            fresh.store.close()
            raise
        finally:
            self._fresh = None
        self._shown = max(self._shown, self.position)
        self._swap(fresh)
        await self._follow()
        return self.position

    def _swap(self, fresh: Runner) -> None:
        self._let_go_of_timer()
        self._unsaved, self._stuck = 0, ""
        if self.store.path is None or fresh.store.path is None:
            self.store.close()
            self.store, self.world = fresh.store, fresh.world
        else:
            fresh.store.close()
            self.store.take_over(fresh.store.path)
            self.world = self.store.load()
        self.store.on_damage = self._fail
        self._saved = self.world.position
        self.rebuilt += 1
        self._wake(self.world.position)

    async def until_caught_up(self) -> None:
        """Return once all is folded that was there at the start; raise what prevents it."""
        await first(self.caught_up.wait(), self.failed)

    async def until(self, seq: int) -> None:
        """Return once `seq` is folded in; raise what prevents it."""
        await first(self.wait_for(seq), self.failed)

    @property
    def position(self) -> int:
        """The last sequence that is folded in."""
        return self.world.position

    async def lag(self) -> int:
        """How many events of the log are not folded in yet."""
        return max(await self._log.last_sequence() - self.world.position, 0)

    # -- folding -----------------------------------------------------------------------

    def watch(self, watcher: Callable[[JudgedEvent], None]) -> None:
        """Show every event to `watcher` once it is folded in, with what it counted for."""
        self._watchers.append(watcher)

    def _take(self, recorded: c.Recorded) -> None:
        if self.failed.done():
            return
        try:
            judged = self.world.fold(recorded)
            self._unsaved = unsaved = self._unsaved + 1
            if unsaved >= self._group_events and not self._stuck:
                self.save()
            elif self._timer is None:
                self._set_timer()
            if self._watchers:
                self._show(judged)
        except Exception as error:  # noqa: BLE001 - the runner's edge
            self._fail(error)
            return
        if self._waiting:
            self._wake(recorded.seq)

    def _show(self, judged: JudgedEvent) -> None:
        """Show an event to those who watch, unless they have seen it before a swap."""
        seq = judged.recorded.seq
        if seq <= self._shown:
            return
        if self._follower is None:
            if seq <= self.world.position:
                return
            self._shown = seq
        for watcher in self._watchers:
            watcher(judged)

    def _wake(self, seq: int) -> None:
        while self._waiting and self._waiting[0][0] <= seq:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)

    def _set_timer(self) -> None:
        behind = not self.caught_up.is_set()
        delay = REBUILD_S if behind else self._group_s
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(delay, self._save_in_time)

    def save(self) -> int:
        """Save what has been folded since the last time; return how far that reaches.

        While the store cannot be written (a full disk, a lock of another process), that
        is tried each second and said once; what is folded meanwhile stays in memory.
        """
        if self._unsaved and not self._stuck:
            self._let_go_of_timer()
            self._save()
        return self._saved

    def _save(self) -> None:
        try:
            self.store.save(self.world)
        except sqlite3.OperationalError as error:
            if self.store.gap or not may_pass(error):
                raise
            if not self._stuck:
                _log.warning(
                    "the read models cannot be written, and wait",
                    file=str(self.store.path),
                    reason=str(error),
                )
            self._stuck = str(error)
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(AGAIN_S, self._save_in_time)
            return
        if self._stuck:
            self._stuck = ""
            _log.info("the read models are written again", file=str(self.store.path))
        self._unsaved = 0
        self._saved = self.world.position
        self._copy_if_due()

    def _copy_if_due(self) -> None:
        """Start to copy the store's file for the checkpoints, if one is due."""
        checkpoints, path = self.checkpoints, self.store.path
        if (
            checkpoints is None
            or path is None
            or self._copying is not None
            or not checkpoints.due(
                self.world.position, behind=not self.caught_up.is_set()
            )
        ):
            return

        def done(_: object) -> None:
            self._copying = None

        self._copying = asyncio.get_running_loop().create_task(
            asyncio.to_thread(checkpoints.take, path)
        )
        self._copying.add_done_callback(done)

    def _save_in_time(self) -> None:
        self._timer = None
        try:
            if self._unsaved:
                self._save()
        except Exception as error:  # noqa: BLE001 - the runner's edge
            self._fail(error)

    def _follower_failed(self, failed: asyncio.Future[None]) -> None:
        if not failed.cancelled() and isinstance(
            error := failed.exception(), Exception
        ):
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, sqlite3.DatabaseError) and not may_pass(error):
            error = Damaged(self.store.path, str(error))
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
