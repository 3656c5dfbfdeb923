"""The fold over the queue: which tasks wait, by tier and priority, which are under way,
which are held until they may stand in it.

An index over the open tasks' records: made of them when somebody first asks, which a log
that is read from its beginning need not do for every step, and kept up from then on.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, get_args

from msgspec import Struct

from events import catalogue as c
from events.lifecycle import FINAL, TIER_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from projections.judged import JudgedEvent
    from projections.record import TaskRecord

PRIORITIES: Final[tuple[str, ...]] = get_args(c.Priority)
VERSION: Final = 2

Lane = tuple[str, str]
"""A tier and a priority."""


class Oldest(Struct, frozen=True):
    """The task that has waited longest."""

    task_id: str
    submitted_at: str
    waiting_since: str


class QueueState:
    """The open tasks, each in the lane it waits in, among those held, or those under way.

    A lane keeps the order in which tasks came, so its first is the one that waits longest.
    (A plain dictionary would look for it past all that have gone.)
    """

    def __init__(self) -> None:
        self.lanes: dict[Lane, OrderedDict[str, TaskRecord]] = {
            (tier, priority): OrderedDict()
            for tier in TIER_KINDS
            for priority in PRIORITIES
        }
        self.under_way: dict[str, TaskRecord] = {}
        self.held: dict[str, TaskRecord] = {}
        self._lane_of: dict[str, Lane] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._lane_of)

    def place(self, record: TaskRecord) -> None:
        """Put a task where its phase says."""
        task_id = record.id
        lane = self._lane_of.pop(task_id, None)
        if lane is not None:
            del self.lanes[lane][task_id]
        else:
            self.under_way.pop(task_id, None)
            self.held.pop(task_id, None)
        if record.phase in FINAL:
            return
        if record.phase == "waiting" and record.held:
            self.held[task_id] = record
        elif record.phase == "waiting":
            lane = (record.tier, record.priority)
            self._lane_of[task_id] = lane
            self.lanes.setdefault(lane, OrderedDict())[task_id] = record
        else:
            self.under_way[task_id] = record

    def oldest(self, lane: Lane) -> Oldest | None:
        """Return who has waited longest in a lane."""
        for record in self.lanes.get(lane, {}).values():
            return Oldest(record.id, record.submitted_at, record.waiting_since)
        return None


def queue_of(records: Iterable[TaskRecord]) -> QueueState:
    """Make the queue of all tasks there are; those that are over are not in it."""
    state = QueueState()
    for record in sorted(records, key=lambda record: record.phase_seq):
        state.place(record)
    return state


def evolve(state: QueueState, judged: JudgedEvent) -> None:
    """Put the task that an event is about where its phase says."""
    released = type(judged.recorded.event) is c.TaskReleased
    if judged.task is not None and (judged.before != judged.after or released):
        state.place(judged.task)
