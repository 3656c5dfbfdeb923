"""All read models at one moment of the log, and the fold that takes them to the next.

Pure: a world folded from the first event on says what was true then, with no store and
no connection. The runner keeps one up to date and lets the store take what changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from projections.costs import Costs
from projections.fleet import Fleet
from projections.projection import Moment, moment_of
from projections.queue import Queue
from projections.stats import Stats
from projections.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from events import catalogue as c

TASKS: Final = Tasks()
FLEET: Final = Fleet()
QUEUE: Final = Queue()
COSTS: Final = Costs()
STATS: Final = Stats()

VERSIONS: Final[dict[str, int]] = {
    fold.name: fold.version for fold in (TASKS, FLEET, QUEUE, COSTS, STATS)
}
"""What the stored read models were made by; another version makes them anew."""


class World:
    """The states of all projections. `position` is the last sequence folded in."""

    def __init__(self) -> None:
        self.position = 0
        self.tasks = TASKS.initial()
        self.fleet = FLEET.initial()
        self.queue = QUEUE.initial()
        self.costs = COSTS.initial()
        self.stats = STATS.initial()

    def fold(self, recorded: c.Recorded) -> Moment:
        """Take one event in; return what it counted for."""
        moment = moment_of(recorded)
        TASKS.evolve(self.tasks, moment)
        if moment.task is not None:
            QUEUE.evolve(self.queue, moment)
            if moment.booked is not None:
                COSTS.evolve(self.costs, moment)
        else:
            FLEET.evolve(self.fleet, moment)
        STATS.evolve(self.stats, moment)
        self.position = recorded.seq
        return moment


def fold(history: Iterable[c.Recorded]) -> World:
    """Return the world as it is after a history."""
    world = World()
    for recorded in history:
        world.fold(recorded)
    return world
