"""What is held: tasks that wait for a time, outside the queue, and when they are released.

A held task is offered to nobody, does not age and has no time to live; its deadline holds.
When what it is held for has come, the leader says so in the log (`task.released`), and with
the fold of that it begins to wait as others do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from actors.scheduler.live import Hold
from actors.scheduler.outputs import about_task
from events import catalogue as c
from events.codec import instant
from events.lifecycle import is_held

if TYPE_CHECKING:
    from actors.scheduler.leadership import Leadership
    from actors.scheduler.live import LiveTask
    from actors.scheduler.outputs import Decision
    from actors.scheduler.state import SchedulerState

AT_ONCE: Final = 1_000
"""At most so many tasks are released in one turn; the rest follow in the next."""


def hold_of(spec: c.TaskSpec) -> Hold | None:
    """Return what a task is to be held for, None where it is not."""
    if not is_held(spec):
        return None
    return Hold(at=None if spec.at is None else instant(spec.at))


class HeldTasks:
    """The held tasks about which nothing is on its way to the log.

    `ready` are those that a leader has to look at; a standby lets them lie.
    """

    __slots__ = ("ready", "tasks")

    def __init__(self) -> None:
        self.tasks: dict[str, LiveTask] = {}
        self.ready: set[str] = set()

    def add(self, live: LiveTask) -> None:
        """Hold a task; one that is held already is looked at again."""
        self.tasks[live.state.task_id] = live
        self.ready.add(live.state.task_id)

    def remove(self, task_id: str) -> None:
        """Let go of a task, if it is held."""
        if self.tasks.pop(task_id, None) is not None:
            self.ready.discard(task_id)

    def look_again(self, task_id: str) -> None:
        """Have a leader look at a task, if it is held."""
        if task_id in self.tasks:
            self.ready.add(task_id)

    def look_at_all(self) -> None:
        """Have a leader look at all of them: it is a new one, or its clock was put elsewhere."""
        self.ready.update(self.tasks)


def decide_released(
    state: SchedulerState, lead: Leadership, now: float
) -> list[Decision]:
    """Release the held tasks for which what they wait for has come; time the others."""
    decisions: list[Decision] = []
    for task_id in sorted(state.held.ready):
        if len(decisions) >= AT_ONCE:
            break
        state.held.ready.discard(task_id)
        live = state.held.tasks[task_id]
        if live.deadline is not None:
            lead.wake_at(live.deadline - state.time.ahead_s, task_id=task_id)
        reason = _missing_time(state, lead, live, now)
        if reason is None:
            event = lead.write(now, c.TaskReleased, task_id=task_id)
            state.in_flight(live, event)
            decisions.append(about_task(event, live.state))
    return decisions


def _missing_time(
    state: SchedulerState, lead: Leadership, live: LiveTask, now: float
) -> str | None:
    """Say that a task's time has not come, and have it looked at then; None if it has."""
    at = live.hold.at if live.hold is not None else None
    if at is None or at <= now + state.time.ahead_s:
        return None
    lead.wake_at(at - state.time.ahead_s, task_id=live.state.task_id)
    return "its time"
