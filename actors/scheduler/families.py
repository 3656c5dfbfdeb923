"""Parents and children: tasks that a task's run has submitted, see docs/delegation.md.

A child belongs to one run of its parent. When that run is over, however it ended, a child
that is not over is an *orphan* and is cancelled. While a task holds a slot and has children
that are not over, its slot is *lent*: to a child, its own or another's, it counts as free.
So no child waits for a slot whose holder waits for children, and two parents on two slots
cannot hold each other up.

Somebody's retry of a child makes it a task by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from actors import lifecycle
from actors.scheduler.outputs import Decision, about_task
from events import catalogue as c
from events.lifecycle import FINAL, ON_HOST, UNDER_WAY

if TYPE_CHECKING:
    from actors.lifecycle import TaskState
    from actors.scheduler.leadership import Leadership
    from actors.scheduler.live import LiveTask
    from actors.scheduler.places import Slots
    from actors.scheduler.state import SchedulerState


class Parentage(NamedTuple):
    """Whose child a task is: of that task, by its run on that route."""

    task_id: str
    route: str


class Families:
    """The children that are not over, and the slots that their parents lend."""

    def __init__(self) -> None:
        # By child; and by parent its children, each with the route that submitted it.
        self.parents: dict[str, Parentage] = {}
        self.children: dict[str, dict[str, str]] = {}
        # Children whose parent's run is over, in the order in which that was found.
        self.orphans: dict[str, None] = {}
        # The slots that a parent holds and lends.
        self._lending: dict[str, Slots] = {}

    def born(self, child: str, event: c.TaskSubmitted, parent: LiveTask | None) -> None:
        """Take in a child's submission; `parent` is None where that is over."""
        self.parents[child] = Parentage(event.parent, event.parent_route)
        self.children.setdefault(event.parent, {})[child] = event.parent_route
        if parent is None or not _runs(parent.task, event.parent_route):
            self.orphans[child] = None

    def over(self, child: str) -> str:
        """Forget a child that is over; return its parent's id, "" if it was none."""
        self.orphans.pop(child, None)
        parent = self.parents.pop(child, None)
        if parent is None:
            return ""
        siblings = self.children[parent.task_id]
        del siblings[child]
        if not siblings:
            del self.children[parent.task_id]
        return parent.task_id

    def parent_stepped(self, task: TaskState) -> None:
        """Find the children that became orphans by a step of their parent, `task`."""
        for child, route in self.children.get(task.task_id, {}).items():
            if not _runs(task, route):
                self.orphans.setdefault(child)

    def lend(self, live: LiveTask, slots: Slots) -> bool:
        """Lend a parent's slot, or take it back, as it stands; whether that moved."""
        task = live.task
        lent = self._lending.get(task.task_id)
        lends = (
            slots if task.phase in ON_HOST and task.task_id in self.children else None
        )
        if lent is lends:
            return False
        if lent is not None:
            lent.lent -= 1
            del self._lending[task.task_id]
        if lends is not None:
            lends.lent += 1
            self._lending[task.task_id] = lends
        return True

    def lent_to(self, host: str, slots: Slots, tasks: dict[str, LiveTask]) -> list[str]:
        """Return the routes on a host whose slots of this kind are lent."""
        lending = [tasks[t].task for t, lent in self._lending.items() if lent is slots]
        return [task.route for task in lending if task.host == host]


def _runs(task: TaskState, route: str) -> bool:
    return task.route == route and task.phase in UNDER_WAY


def decide_orphans(
    state: SchedulerState, lead: Leadership, now: float
) -> list[Decision]:
    """Cancel the children whose parent's run is over."""
    families = state.families
    decisions = []
    for child in list(families.orphans):
        live = state.tasks.get(child)
        if live is None or live.task.phase in ("cancelling", *FINAL):
            families.orphans.pop(child)
        elif not live.deciding:
            parent = families.parents[child].task_id
            event = lifecycle.cancel(
                live.task,
                lead.stamp(now),
                reason=f"the run of its parent {parent} is over",
                requested_by=f"task:{parent}",
            )
            if isinstance(event, c.TaskCancelled):
                state.in_flight(live, event)
                decisions.append(about_task(event, live.task))
    return decisions
