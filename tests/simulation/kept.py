"""A scheduler's checkpoint in a simulated world: bytes that outlive processes.

What a forked child would write of its copy of memory is written here of a copy made for
it, at the same moment. Both schedulers share it, as they do in one data folder.
"""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING

from actors.scheduler.checkpoint import restore
from actors.scheduler.checkpoint_file import AGAIN_S
from actors.scheduler.decide import Scheduler
from events.errors import LogUnavailable
from events.position import stands

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random
    from typing import Any

    from actors.scheduler.state import SchedulerState
    from events.log import EventLog
    from events.position import Position

SHARE = 0.3
"""In so many seeds schedulers begin with checkpoints."""


class KeptState:
    """In place of a `CheckpointFile`; when one is written is drawn."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self.written: tuple[Position, list[bytes]] | None = None
        self.used = 0

    async def of(self, log: EventLog) -> tuple[Position, SchedulerState] | None:
        if self.written is None:
            return None
        position, frames = self.written
        while True:
            try:
                assert await stands(log, position)
                break
            except LogUnavailable:
                await asyncio.sleep(AGAIN_S)
        self.used += 1
        return position, restore(frames)

    def keep(self, _position: int, _now: float, work: Callable[[], Any]) -> None:
        if self._chance.random() < 0.2:
            role = work.__self__  # type: ignore[attr-defined]
            mine = copy.copy(role)
            mine.scheduler = copied(role.scheduler)
            position, frames = type(role)._to_checkpoint(mine)
            self.written = position, list(frames)

    def stop(self) -> None:
        pass


def copied(scheduler: Scheduler) -> Scheduler:
    """Copy a scheduler as a fork does; its clock, ids and log are not part of it."""
    mine = Scheduler(scheduler.name, lambda: "none")
    mine.state = copy.deepcopy(scheduler.state)
    lead = scheduler.leadership
    if lead is not None:
        mine.leadership = copy.copy(lead)
        for name in ("timers", "limits", "lost", "alerting", "unaccepted"):
            setattr(mine.leadership, name, copy.copy(getattr(lead, name)))
    return mine
