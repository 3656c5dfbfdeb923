"""What must hold of tasks that are not to start at once, in an account of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.codec import instant

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.lifecycle import TaskState
    from actors.scheduler.decide import Scheduler
    from events import catalogue as c
    from events.mail import Assign

    Complain = Callable[[str, str], None]


class LaterJudge:
    """Follows tasks that are held, through what the log says and what leaders decide."""

    def __init__(self, complain: Complain) -> None:
        self._complain = complain
        # The submissions of those that were held and have not been released.
        self.held: dict[str, c.TaskSubmitted] = {}
        self._there: set[str] = set()
        # By task, the phases in which it was ever over, each with where in the log.
        self._ends: dict[str, dict[str, set[int]]] = {}

    def submitted(self, event: c.TaskSubmitted, where: str) -> None:
        """Note a task; one that names a time or other tasks is held."""
        spec = event.spec
        before = [*spec.after, *spec.after_any, *spec.input_from]
        self._there.add(event.task_id)
        if event.task_id in before or not self._there.issuperset(before):
            self._complain("a task comes after such as are there", f"{where}: {before}")
        if spec.at is not None or before:
            self.held[event.task_id] = event

    def ended(self, task_id: str, phase: str, recorded: c.Recorded) -> None:
        """Note that a task is over."""
        self._ends.setdefault(task_id, {}).setdefault(phase, set()).add(recorded.seq)

    def ever_over(self, task_id: str) -> bool:
        """Whether a task was over at any time."""
        return task_id in self._ends

    def cancelled(
        self, submitted: c.TaskSubmitted, event: c.TaskCancelled, where: str
    ) -> None:
        """Judge a cancellation that a scheduler gives another task as the reason of."""
        other, spec = event.predecessor, submitted.spec
        if other and (
            other not in (*spec.after, *spec.input_from)
            or not self._ends.get(other, {}).keys() - {"completed"}
        ):
            self._complain(
                "no task is given up without need", f"{where}: after {other}"
            )

    def ran(self, submitted: c.TaskSpec, assign: Assign) -> None:
        """Judge what a run is told: the outputs that were to be in its prompt are."""
        for other in submitted.input_from:
            if f"Output of task {other}:" not in assign.spec.description:
                self._complain(
                    "inputs stand in the prompt", f"{assign.task_id}: {other}"
                )

    def far_off(self, after: float) -> list[str]:
        """Name the tasks that do not start before then (epoch seconds)."""
        starts = ((task_id, each.spec.at) for task_id, each in self.held.items())
        return [task_id for task_id, at in starts if at and instant(at) > after]

    def released(
        self,
        submitted: c.TaskSubmitted,
        event: c.TaskReleased,
        after: TaskState,
        where: str,
    ) -> None:
        """Judge a release that counted."""
        spec = submitted.spec
        early = [t for t in spec.after_any if t not in self._ends]
        for other in (*spec.after, *spec.input_from):
            if "completed" not in self._ends.get(other, {}):
                early += [other]
        if early:
            self._complain("nothing runs before its predecessors", f"{where}: {early}")
        for other in spec.input_from:
            completed = self._ends.get(other, {}).get("completed", set())
            if event.inputs.get(other) not in completed:
                self._complain("inputs are its predecessors' results", where)
        if self.held.pop(event.task_id, None) is None:
            self._complain("a task is released once", where)
        if after.waiting_since != event.at:
            self._complain(
                "who was held ages from its release",
                f"{where}: it waits since {after.waiting_since}",
            )

    def routed(self, event: c.TaskRouted, where: str) -> None:
        """Judge a routing that counted."""
        if event.task_id in self.held:
            self._complain("nothing runs while it is held", where)

    def decided(self, scheduler: Scheduler, event: c.TaskReleased, where: str) -> None:
        """Judge a release that a leader decides, by that leader's clock."""
        submitted = self.held.get(event.task_id)
        at = submitted.spec.at if submitted is not None else None
        wall = scheduler.state.now + scheduler.state.time.ahead_s
        if at is not None and wall < instant(at) - 0.001:
            self._complain(
                "nothing starts before its time",
                f"{where}: {instant(at) - wall:.1f} s early",
            )
