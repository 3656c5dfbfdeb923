"""The fold over tasks; it completes the verdict on every event about one.

What is long and never changes stays in the log and is fetched by its sequence when
somebody looks: the specification, the whole routing trace, the result's text. A record
holds what lists, filters and totals need.

A task's cost is the sum over all its runs, also of failed, cancelled and superseded
ones: a late report changes nothing else, but what it spent was spent. Dollars are kept
as whole billionths, so that sums do not depend on how they were grouped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from events import catalogue as c
from events.lifecycle import (
    BY_LEADER,
    OVER,
    RANK,
    TABLE,
    Phase,
    refuses_step,
)
from projections.booking import book
from projections.held import comes_after, not_while
from projections.judged import (
    ANOTHER_HOSTS,
    ANOTHER_LEADERS,
    NO_ROUTE,
    NO_SUCH_STEP,
    NO_TASK,
    NOT_IN_FORCE,
    ROUTED_BEFORE,
    SUBMITTED_BEFORE,
    VoidReason,
    on_the_logs_clock,
)
from projections.newcomers import new_record
from projections.record import Routing, TaskRecord, Void, clock_stepped
from projections.steps import EFFECTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.judged import JudgedEvent, Verdict
    from projections.submitted import SubmittedIds

VOIDS_KEPT: Final = 16
"""Void steps of one task that are remembered; the rest are counted."""
NUMBERED: Final = frozenset(
    {c.TaskStatus, c.TaskErrorLine, c.TaskRetrying, c.TaskVerified}
)
"""Lines of a run: many of one type, told apart by their running number."""
VERSION: Final = 20
"""Goes up whenever this fold makes other records of the same log."""


def _not_stored(task_id: str) -> TaskRecord | None:
    """Find nothing: a fold without a store has no tasks but those in memory."""
    return None


class TasksState:
    """Every task that is open, and those that were looked at lately.

    `fetch` looks for a task that is not in memory where the store keeps it; `touched`
    are the records that changed since the store last took them. `submitted` is there
    where the fold began with the log's first event. `epoch` is the newest leader's.
    """

    def __init__(self) -> None:
        self.submitted: SubmittedIds | None = None
        self.records: dict[str, TaskRecord] = {}
        self.touched: dict[str, TaskRecord] = {}
        self.fetch: Callable[[str], TaskRecord | None] = _not_stored
        self.epoch = 0

    def find(self, task_id: str) -> TaskRecord | None:
        """Return the task, from memory or from the store."""
        record = self.records.get(task_id)
        if record is None:
            record = self.fetch(task_id)
            if record is not None:
                self.records[task_id] = record
        return record


def evolve(state: TasksState, judged: JudgedEvent) -> None:
    """Fold one event; complete its verdict, and what it is about, if it is a task's."""
    if judged.verdict != "applied":
        return
    family, event = judged.family, judged.recorded.event
    if family == "run" or family == "task":
        about: Any = event
        if type(event) is c.TaskSubmitted:
            _submitted(state, judged, about)
        else:
            _about_task(state, judged, about)
    elif isinstance(event, c.SchedulerElected):
        state.epoch = max(state.epoch, event.epoch)
    elif isinstance(event, c.ClockStepped) and event.epoch == state.epoch:
        state.touched |= clock_stepped(state.records, event.step_s)


def _about_task(state: TasksState, judged: JudgedEvent, event: Any) -> None:
    task_id: str = event.task_id
    record = state.records.get(task_id) or state.find(task_id)
    if record is None:
        _void(judged, NO_TASK)
        return
    judged.task = record
    judged.before = record.phase
    if judged.family == "run":
        verdict = _report(judged, record, event)
    else:
        verdict = _decision(state, judged, record, event)
    judged.after = record.phase
    if verdict != "applied":
        judged.verdict = verdict
        if verdict == "repeat" and judged.spent is None:
            return
        _note_void(record, judged)
    record.updated_seq = judged.recorded.seq
    if judged.family == "task":
        record.own_seq = judged.recorded.seq
    state.touched[task_id] = record


def _submitted(state: TasksState, judged: JudgedEvent, event: c.TaskSubmitted) -> None:
    submitted = state.submitted
    if (submitted is None or submitted.add(event.task_id)) and (
        state.find(event.task_id) is not None
    ):
        _void(judged, SUBMITTED_BEFORE)
        return
    record = new_record(event, judged.recorded.seq)
    if record.held:
        for before in comes_after(record, event.spec, state.find):
            state.touched[before.id] = before
    state.records[record.id] = state.touched[record.id] = record
    judged.task = record
    judged.after = "waiting"


def _decision(
    state: TasksState,
    judged: JudgedEvent,
    record: TaskRecord,
    event: c.TaskEvent,
) -> Verdict:
    if event.epoch != state.epoch and isinstance(event, BY_LEADER):
        return _void(judged, ANOTHER_LEADERS)
    seq, route = judged.recorded.seq, record.route
    routing = record.routing(route) if route else None
    if refused := _take_step(record, event, seq):
        return _void(judged, refused)
    EFFECTS[type(event)](record, routing, event, seq)
    route = record.route
    judged.routing = record.routing(route) if route else None
    return "applied"


def _report(judged: JudgedEvent, record: TaskRecord, event: Any) -> Verdict:
    routing = record.routing(event.route)
    if routing is None:
        return _void(judged, NO_ROUTE)
    if routing.host != event.host:
        return _void(judged, ANOTHER_HOSTS)
    judged.routing = routing
    if routing.clock_ahead_s:
        event = on_the_logs_clock(judged, event, routing.clock_ahead_s)
    if event.route != record.route:
        book(judged, record, routing, event)
        _too_late(judged, routing, event)
        return _void(judged, NOT_IN_FORCE)
    kind = type(event)
    rank = RANK.get(kind)
    if rank is not None:
        if rank <= routing.reported:
            return "repeat"
        if rank == OVER:
            book(judged, record, routing, event)
    elif kind in NUMBERED:
        # What a round used is told once, behind later lines too.
        book(judged, record, routing, event)
        if _was_said(routing, event):
            return "repeat"
    seq = judged.recorded.seq
    if refused := _take_step(record, event, seq):
        _too_late(judged, routing, event)
        return _void(judged, refused)
    if rank is not None:
        routing.reported = rank
    elif kind in NUMBERED:
        routing.line = max(routing.line, event.n)
    EFFECTS[kind](record, routing, event, seq)
    return "applied"


def _was_said(routing: Routing, event: Any) -> bool:
    """Whether the routing in force has told this line, or a later one, before."""
    if type(event) is c.TaskRetrying and routing.target_type == "sidecar":
        # Lines may change places; a command's starts have numbers of their own.
        return bool(event.retry <= routing.restarted)
    return bool(event.n <= routing.line)


_AFTER: Final[dict[type[c.Event], dict[str, Phase]]] = {
    kind: {phase: after for (phase, of), after in TABLE.items() if of is kind}
    for _, kind in TABLE
}
"""The table by event: a step is looked up for every event."""


def _take_step(record: TaskRecord, event: Any, seq: int) -> VoidReason | None:
    """Take the step if the table allows it; return why not otherwise, None if it did."""
    kind, phase = type(event), record.phase
    after = _AFTER[kind].get(phase)
    if after is None:
        return VoidReason(NO_SUCH_STEP, f"a task that is {phase} takes no such step")
    if phase == "waiting":
        if refuses_step(kind, held=record.held):
            return not_while(record)
        if kind is c.TaskRouted and event.generation <= record.generation:
            text = f"generation {record.generation} has been routed already"
            return VoidReason(ROUTED_BEFORE, text)
    if after != phase:
        record.phase = after
        record.phase_seq = seq
    return None


def _too_late(judged: JudgedEvent, routing: Routing, event: c.RunEvent) -> None:
    if judged.result is not None:
        routing.late = True
        routing.ended_at = routing.ended_at or event.at
        routing.execution_ms = judged.result.execution_ms


def _void(judged: JudgedEvent, reason: VoidReason) -> Verdict:
    judged.verdict = "void"
    judged.reason_code, judged.reason = reason
    return "void"


def _note_void(record: TaskRecord, judged: JudgedEvent) -> None:
    record.void += 1
    if len(record.voids) < VOIDS_KEPT:
        kind = type(judged.recorded.event).__struct_config__.tag
        record.voids += (Void(judged.recorded.seq, str(kind), judged.reason),)
