"""The role: for each target it follows the log, delivers in order, and remembers where it is.

A target that does not answer holds up itself alone. What is written down about a target is
its position, behind the last event that was delivered or that no rule meant; so after a
kill a delivery may come again, under the same id, and none is left out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from events import catalogue as c
from events import subjects
from events.codec import rfc3339
from events.diagnostics import Diagnostics
from events.errors import AgentComError
from events.position import NOWHERE, LogChanged, Position, stands
from events.races import first
from projections.world import World
from web.notify.notices import about_task, names_of, notice_of
from web.notify.senders import DeliveryFailed
from web.notify.served import TargetServed, read_served, write_served

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from events.log import EventLog
    from projections.record import TaskRecord
    from web.notify.config import NotifyTarget, Rule
    from web.notify.notices import Notice
    from web.notify.senders import NoticeSender

FIRST_PAUSE_S: Final = 0.5
WRITE_EVERY_S: Final = 5.0
"""How often the position is written down while nothing is delivered."""
AGAIN_S: Final = 1.0

_log = Diagnostics("agentcom.notify")


class Deliveries:
    """One target's: from the log, by its rules, one after the other."""

    def __init__(
        self,
        target: NotifyTarget,
        rules: list[Rule],
        log: EventLog,
        sender: NoticeSender,
        folder: Path,
        clock: Callable[[], float],
    ) -> None:
        self._target = target
        self._rules = rules
        self._log = log
        self._sender = sender
        self._folder = folder
        self._clock = clock
        self._wanted = {name for rule in rules for name in rule.on}
        known = read_served(folder, target.name)
        self._is_new = known is None
        self.served = known or TargetServed(target=target.name)
        # Where events lie that may have to be told, and the last one that was passed by.
        self._queue: deque[Position] = deque()
        self._passed = self.served.position
        self._news = asyncio.Event()
        self._written = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop` is set; raises what ends the following of the log."""
        await self._begin()
        follower = await self._log.follow(self._take, after=self.served.position)
        working = asyncio.ensure_future(self._work())
        try:
            await first(working, stop.wait(), follower.failed)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await follower.stop()
            self._write()

    def forget(self) -> None:
        """Let go of what was read of the log, to read it anew from the position."""
        self._queue.clear()
        self._passed = self.served.position

    async def _begin(self) -> None:
        """Go on where it was; for a new target, or in another log, from now on."""
        position = self.served.position
        if not self._is_new and await stands(self._log, position):
            return
        if not self._is_new:
            _log.warning(
                "notifications begin anew",
                target=self._target.name,
                reason=str(LogChanged(position)),
            )
        last = await self._log.last_sequence()
        recorded = await self._log.get(last) if last else None
        self.served.position = Position.of(recorded) if recorded else NOWHERE
        self._passed = self.served.position
        self._is_new = False
        self._write()

    def _take(self, recorded: c.Recorded) -> None:
        position = Position.of(recorded)
        if self._wanted.intersection(names_of(recorded.event)):
            self._queue.append(position)
            self._news.set()
        elif not self._queue:
            self._passed = position
            self._news.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._queue:
                self.served.position = self._passed
                if loop.time() - self._written >= WRITE_EVERY_S:
                    self._write()
                await self._news.wait()
                self._news.clear()
                continue
            position = self._queue[0]
            notice = await self._notice(position)
            if notice is not None:
                await self._deliver(notice)
            self._queue.popleft()
            self.served.position = self._passed = position
            self._write()

    async def _notice(self, position: Position) -> Notice | None:
        """Return what is to be told of an event, None where it is not, or did not count."""
        recorded = await self._log.get(position.seq)
        if recorded is None or not position.holds(recorded):
            raise LogChanged(position)
        task_id = about_task(recorded.event)
        counts, task = await _judged(self._log, recorded, task_id)
        if not counts:
            return None
        return notice_of(recorded, task, self._rules, self._target.name)

    async def _deliver(self, notice: Notice) -> None:
        """Deliver, however often it takes; give it up after the target's `give_up_s`."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + self._target.give_up_s, FIRST_PAUSE_S
        served = self.served
        while True:
            try:
                await self._sender.send(notice)
            except DeliveryFailed as error:
                served.tries += 1
                served.last_error = str(error)
                served.failing_since = served.failing_since or rfc3339(self._clock())
                self._write()
                _log.warning(
                    "not delivered",
                    target=self._target.name,
                    delivery=notice.id,
                    reason=str(error),
                )
                if loop.time() >= until:
                    served.given_up += 1
                    return
                await asyncio.sleep(min(pause, self._target.longest_pause_s))
                pause *= 2
                continue
            served.delivered += 1
            served.tries, served.failing_since = 0, ""
            served.last_at, served.last_id = rfc3339(self._clock()), notice.id
            return

    def _write(self) -> None:
        self.served.waiting = len(self._queue)
        self._written = asyncio.get_running_loop().time()
        try:
            write_served(self._folder, self.served)
        except OSError as error:
            _log.warning("the position cannot be written", reason=str(error))


async def _judged(
    log: EventLog, recorded: c.Recorded, task_id: str
) -> tuple[bool, TaskRecord | None]:
    """Fold what an event is about; whether it counted, and the task as it was then."""
    history = await log.read(subjects.SCHEDULER)
    if not task_id:
        epochs = [
            each.event.epoch
            for each in history
            if each.seq < recorded.seq and isinstance(each.event, c.SchedulerElected)
        ]
        said = getattr(recorded.event, "epoch", 0)
        return said in (0, max(epochs, default=0)), None
    history += await log.read(subjects.task(task_id))
    history += await log.read(subjects.runs_of(task_id))
    world = World()
    for each in sorted(history, key=lambda each: each.seq):
        if each.seq > recorded.seq:
            break
        judged = world.fold(each)
        if each.seq == recorded.seq:
            return judged.verdict == "applied", judged.task
    return False, None


async def deliver_all(
    deliveries: list[Deliveries], stop: asyncio.Event, again_s: float = AGAIN_S
) -> None:
    """Serve every target until `stop` is set; what ends one is no other's affair."""

    async def keep(each: Deliveries) -> None:
        while not stop.is_set():
            try:
                await each.run(stop)
            except (AgentComError, OSError) as error:
                _log.warning(
                    "notifications begin again",
                    target=each.served.target,
                    reason=str(error),
                )
                each.forget()
                await first(stop.wait(), asyncio.sleep(again_s))

    async with asyncio.TaskGroup() as group:
        for each in deliveries:
            group.create_task(keep(each))
