"""All read models at one place in the log, and the fold that takes them to the next.

Pure: a world folded from the first event on says what was true then, with no store and
no connection. The runner keeps one up to date and lets the store take what changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from events.position import NOWHERE, Position
from projections import costs, fleet, queue, schedules, stats, tasks
from projections.judged import JudgedEvent, judge

if TYPE_CHECKING:
    from collections.abc import Iterable

    from events import catalogue as c

VERSIONS: Final = {
    "tasks": tasks.VERSION,
    "fleet": fleet.VERSION,
    "queue": queue.VERSION,
    "costs": costs.VERSION,
    "stats": stats.VERSION,
    "schedules": schedules.VERSION,
}
"""What the stored read models were made by; another version makes them anew."""


class World:
    """The states of all projections. `position` is the last sequence folded in."""

    def __init__(self) -> None:
        self.position = 0
        # The last event folded in; None until one is, after a store was loaded too.
        self._last: c.Recorded | None = None
        self.loaded_at = NOWHERE
        self.tasks = tasks.TasksState()
        self.fleet = fleet.FleetState()
        self._queue: queue.QueueState | None = None
        self.costs = costs.CostsState()
        self.stats = stats.StatsState()
        self.schedules = schedules.SchedulesState()

    @property
    def queue(self) -> queue.QueueState:
        """The queue: made of the open tasks when it is first asked for, folded from then on."""
        if self._queue is None:
            self._queue = queue.queue_of(self.tasks.records.values())
        return self._queue

    def fold(self, recorded: c.Recorded) -> JudgedEvent:
        """Fold one event; return it with its verdict."""
        judged = judge(recorded)
        tasks.evolve(self.tasks, judged)
        if judged.task is not None:
            if self._queue is not None:
                queue.evolve(self._queue, judged)
            if judged.spent is not None:
                costs.evolve(self.costs, judged)
        elif judged.family == "schedule":
            schedules.evolve(self.schedules, judged, self.tasks.epoch)
        else:
            fleet.evolve(self.fleet, judged)
        stats.evolve(self.stats, judged)
        self.position = recorded.seq
        self._last = recorded
        return judged

    @property
    def stands(self) -> Position:
        """The last event folded in, by which the log is known again."""
        return self.loaded_at if self._last is None else Position.of(self._last)


def fold(history: Iterable[c.Recorded]) -> World:
    """Return the world as it is after a history."""
    world = World()
    for recorded in history:
        world.fold(recorded)
    return world
