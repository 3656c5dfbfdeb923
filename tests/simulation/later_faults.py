"""Faults of a line each in what starts later, for `test_planted_faults.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from actors import lifecycle
from actors.rules import later
from actors.scheduler import decide, held, role, schedules, state
from events import catalogue as c
from events import planned

if TYPE_CHECKING:
    import pytest

    Patch = pytest.MonkeyPatch


def delayed_task_aged(patch: Patch) -> None:
    """A task ages while it is held."""
    decision = lifecycle._decision

    def ageing(before: Any, event: Any, *rest: Any) -> Any:
        step = decision(before, event, *rest)
        if not isinstance(event, c.TaskReleased):
            return step
        since = before.waiting_since
        return step._replace(
            state=msgspec.structs.replace(step.state, waiting_since=since)
        )

    patch.setattr(lifecycle, "_decision", ageing)


def delayed_task_starts_early(patch: Patch) -> None:
    """A task is released some seconds before its time."""
    hold_of = held.hold_of

    def early(spec: c.TaskSpec) -> Any:
        hold = hold_of(spec)
        at = hold.at if hold is not None else None
        return hold if hold is None or at is None else hold._replace(at=at - 3)

    patch.setattr(held, "hold_of", early)


def held_task_is_routed(patch: Patch) -> None:
    """A held task stands in the queue like any other."""
    enqueue = state.SchedulerState.enqueue

    def careless(self: Any, live: Any) -> None:
        was = live.task
        live.task = msgspec.structs.replace(was, held=False)
        enqueue(self, live)
        live.task = was

    patch.setattr(state.SchedulerState, "enqueue", careless)


def dependency_ignored(patch: Patch) -> None:
    """What a task comes after is forgotten."""
    hold_of = held.hold_of

    def lone(spec: c.TaskSpec) -> Any:
        hold = hold_of(spec)
        return hold and hold._replace(completed=hold.inputs, over=())

    patch.setattr(held, "hold_of", lone)


def failed_predecessor_counts(patch: Patch) -> None:
    """A task that has failed is as good as one that has completed."""
    outcome_of = held.outcome_of
    patch.setattr(
        held,
        "outcome_of",
        lambda *of: outcome_of(*of)._replace(phase="completed"),
    )


def failure_wakes_nobody(patch: Patch) -> None:
    """What comes after a failed task is not looked at."""
    ended = held.HeldTasks.ended

    def quiet(self: Any, task_id: str, outcome: Any) -> None:
        if outcome.phase == "completed":
            ended(self, task_id, outcome)

    patch.setattr(held.HeldTasks, "ended", quiet)


def outcome_not_read(patch: Patch) -> None:
    """What was over before its follower came is never asked for."""
    patch.setattr(decide.held, "outcomes_needed", lambda state: [])


def cycle_accepted(patch: Patch) -> None:
    """A batch whose tasks wait for each other is taken."""

    class AnyOrder:
        def __init__(self, before: dict[int, list[int]]) -> None:
            self.before = before

        def static_order(self) -> list[int]:
            return list(self.before)

    patch.setattr(later, "TopologicalSorter", AnyOrder)


def planned_time_fired_twice(patch: Patch) -> None:
    """A new leader fires again what the one before has fired."""
    derived, n = schedules.derived, iter(range(1_000_000))
    patch.setattr(schedules, "derived", lambda *of: derived(*of, str(next(n))))
    patch.setattr(schedules, "_counts", lambda state, schedule, event: True)
    begin_anew = schedules.Schedules.begin_anew

    def again(self: Any) -> None:
        begin_anew(self)
        for schedule in self.by_name.values():
            schedule.cursor -= 5

    patch.setattr(schedules.Schedules, "begin_anew", again)


def firing_without_its_task(patch: Patch) -> None:
    """A leader that dies between a firing and its task leaves it so."""
    begin_anew = schedules.Schedules.begin_anew

    def forgetful(self: Any) -> None:
        begin_anew(self)
        self.firings.clear()

    patch.setattr(schedules.Schedules, "begin_anew", forgetful)


def missed_times_forgotten(patch: Patch) -> None:
    """A new leader begins with now, whatever was planned before."""
    decide_schedules = schedules.decide_schedules

    def fresh(of: Any, lead: Any, now: float) -> Any:
        for schedule in of.schedules.by_name.values():
            schedule.cursor = max(schedule.cursor, now + of.time.ahead_s - 1)
        return decide_schedules(of, lead, now)

    patch.setattr(schedules, "decide_schedules", fresh)


def overlap_ignored(patch: Patch) -> None:
    """A schedule's task is submitted beside the one before."""
    fire = schedules._fire

    def careless(of: Any, lead: Any, one: Any, due: float, now: float) -> Any:
        last, one.last_task = one.last_task, ""
        try:
            return fire(of, lead, one, due, now)
        finally:
            one.last_task = last

    patch.setattr(schedules, "_fire", careless)


def rule_before_forgotten(patch: Patch) -> None:
    """What was planned before a change, and is due, is fired by nobody."""
    changes = schedules.Schedule.changes

    def forgetful(self: Any, changed: Any) -> None:
        changes(self, changed)
        self.earlier.clear()

    patch.setattr(schedules.Schedule, "changes", forgetful)


def rule_from_long_ago(patch: Patch) -> None:
    """A changed schedule fires by its new rule what that names before the change."""
    changes = schedules.Schedule.changes

    def early(self: Any, changed: Any) -> None:
        changes(self, changed)
        self.since = 0.0

    patch.setattr(schedules.Schedule, "changes", early)


def task_of_another_rule(patch: Patch) -> None:
    """What was planned before a change submits the new task."""
    applied = schedules._applied

    def hasty(of: Any, schedule: Any, event: Any) -> Any:
        verdict = applied(of, schedule, event)
        for task_id, firing in of.schedules.firings.items():
            if firing.schedule == event.schedule:
                newer = firing._replace(rule=schedule.rule)
                of.schedules.firings[task_id] = newer
        return verdict

    patch.setattr(schedules, "_applied", hasty)


def inputs_left_out(patch: Patch) -> None:
    """What a task was to get of its predecessors is not in its prompt."""
    patch.setattr(role, "with_inputs", lambda spec, outputs: spec)


def hour_fired_twice(patch: Patch) -> None:
    """Of an hour that comes twice, both are fired."""
    instants = planned.instants

    def both(cron: str, *when: Any) -> Any:
        return instants(cron if len(cron.split()) == 6 else f"0 {cron}", *when)

    patch.setattr(planned, "instants", both)


def late_copy_counts(patch: Patch) -> None:
    """What a command that was carried out before asks for is done again."""
    patch.setattr(schedules, "_remember", lambda carried_out, event: None)


PLANTED = [
    rule_before_forgotten,
    rule_from_long_ago,
    task_of_another_rule,
    late_copy_counts,
    hour_fired_twice,
    inputs_left_out,
    planned_time_fired_twice,
    firing_without_its_task,
    missed_times_forgotten,
    overlap_ignored,
    delayed_task_aged,
    delayed_task_starts_early,
    held_task_is_routed,
    dependency_ignored,
    failed_predecessor_counts,
    failure_wakes_nobody,
    outcome_not_read,
    cycle_accepted,
]
