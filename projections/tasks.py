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
from events.codec import fallback_code
from events.lifecycle import (
    BY_LEADER,
    FINAL,
    NO_ATTEMPT,
    RANK,
    TABLE,
    VERIFICATION,
    Phase,
    refuses_step,
)
from projections.booking import book
from projections.checks import note_step
from projections.held import not_while, released
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
from projections.newcomers import DESCRIPTION_KEPT, delegated, new_record
from projections.record import Routing, TaskRecord, Void, clock_stepped

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.judged import JudgedEvent, Verdict
    from projections.submitted import SubmittedIds

ROUTINGS_KEPT: Final = 64
"""Routings of one task that are remembered; of more, those that never started go."""
VOIDS_KEPT: Final = 16
"""Void steps of one task that are remembered; the rest are counted."""
_LINES: Final = (c.TaskStatus, c.TaskErrorLine, c.TaskRetrying, c.TaskVerified)
NUMBERED: Final = frozenset(_LINES)
"""Lines of a run: many of one type, told apart by their running number."""
VERSION: Final = 15
"""Goes up whenever this fold makes other records of the same log."""


def nobody(task_id: str) -> TaskRecord | None:
    """Find nothing: a fold without a store has no tasks but those in memory."""
    return None


class TasksState:
    """Every task that is open, and those that were looked at lately.

    `fetch` looks for a task that is not in memory where the store keeps it; `touched`
    are the records that changed since the store last took them. `submitted` is there
    where the fold began at the beginning.
    """

    def __init__(self) -> None:
        self.submitted: SubmittedIds | None = None
        self.records: dict[str, TaskRecord] = {}
        self.touched: dict[str, TaskRecord] = {}
        self.fetch: Callable[[str], TaskRecord | None] = nobody
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
    _EFFECTS[type(event)](record, routing, event, seq)
    route = record.route
    judged.routing = record.routing(route) if route else None
    return "applied"


def _report(judged: JudgedEvent, record: TaskRecord, event: c.RunEvent) -> Verdict:
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
    if type(event) in NUMBERED:
        # What a round used is told once, behind later lines too.
        book(judged, record, routing, event)
    if _is_repeat(routing, event):
        return "repeat"
    if type(event) in _WITH_RESULT:
        book(judged, record, routing, event)
    seq = judged.recorded.seq
    if refused := _take_step(record, event, seq):
        _too_late(judged, routing, event)
        return _void(judged, refused)
    _note_report(routing, event)
    _EFFECTS[type(event)](record, routing, event, seq)
    return "applied"


def _is_repeat(routing: Routing, event: Any) -> bool:
    """Whether the routing in force has reported this, or more than this, before."""
    kind = type(event)
    rank = RANK.get(kind)
    if rank is not None:
        return rank <= routing.reported
    if kind is c.TaskRetrying and routing.target_type == "sidecar":
        # Lines may change places; a command's starts have numbers of their own.
        return bool(event.retry <= routing.restarted)
    return kind in NUMBERED and event.n <= routing.line


def _note_report(routing: Routing, event: Any) -> None:
    """Remember that the routing reported this, which was no repeat, and that it counted."""
    kind = type(event)
    rank = RANK.get(kind)
    if rank is not None:
        routing.reported = rank
    elif kind in NUMBERED:
        routing.line = max(routing.line, event.n)


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
    if refuses_step(kind, held=record.held):
        return not_while(record)
    if kind is c.TaskRouted and event.generation <= record.generation:
        text = f"generation {record.generation} has been routed already"
        return VoidReason(ROUTED_BEFORE, text)
    if after != phase:
        record.phase = after
        record.phase_seq = seq
    return None


_WITH_RESULT: Final = frozenset(
    kind for kind in c.types().values() if "result" in kind.__struct_fields__
)


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
        record.voids.append(Void(judged.recorded.seq, str(kind), judged.reason))


# -- What each step leaves behind ------------------------------------------------------


def _deferred(
    record: TaskRecord, routing: object, event: c.TaskDeferred, seq: int
) -> None:
    record.waiting_for = event.reason


def _routed(record: TaskRecord, routing: object, event: c.TaskRouted, seq: int) -> None:
    record.route = event.id
    record.generation = event.generation
    record.tier = event.effective_tier
    record.target_type = event.target_type
    record.host = event.selected_host
    record.endpoint = event.selected_endpoint
    record.model = event.selected_model
    record.fallback_used = event.fallback_used
    record.fallback_from_tier = event.fallback_from_tier
    record.routed_at = event.at
    record.accepted_at = record.started_at = record.finished_at = ""
    record.waiting_for = record.exclude = ""
    record.unverified = False
    record.trace_seq = seq
    record.simulated = record.simulated or event.simulated
    if len(record.routings) >= ROUTINGS_KEPT:
        _forget_one(record)
    record.routings.append(
        Routing(
            route=event.id,
            host=event.selected_host,
            attempt=event.attempt,
            seq=seq,
            generation=event.generation,
            tier=event.effective_tier,
            target_type=event.target_type,
            endpoint=event.selected_endpoint,
            model=event.selected_model,
            fallback_used=event.fallback_used,
            fallback_from_tier=event.fallback_from_tier,
            fallback_reason=event.fallback_reason,
            fallback_since=event.wait.since
            if event.fallback_used and event.wait is not None
            else "",
            fallback_code=fallback_code(event),
            waited_s=event.wait.waited_s if event.wait is not None else 0.0,
            simulated=event.simulated,
            routed_at=event.at,
            clock_ahead_s=event.clock_ahead_s,
        )
    )


def _forget_one(record: TaskRecord) -> None:
    for i, routing in enumerate(record.routings):
        if not routing.started:
            del record.routings[i]
            return
    del record.routings[0]


def _requeued(
    record: TaskRecord, routing: Routing | None, event: c.TaskRequeued, seq: int
) -> None:
    if routing is not None:
        has_ended = routing.outcome in ("rejected", "returned", "stopped")
        if not has_ended:
            routing.outcome = "requeued"
        routing.reason = routing.reason or event.reason
        routing.detail = routing.detail or event.detail
        routing.ended_at = routing.ended_at or event.at
        _attempt(record, routing, counts=event.counts_as_attempt and not has_ended)
    record.waiting_for = event.detail or event.reason
    record.exclude = event.exclude or ""
    record.waiting_since = event.at
    record.accepted_at = record.started_at = ""


def _attempt(record: TaskRecord, routing: Routing, *, counts: bool) -> None:
    """Note of a routing that is over whether it was an attempt."""
    if counts:
        record.attempts += 1
        routing.counted = True
    routing.started = routing.counted


def _ended(record: TaskRecord, routing: Routing | None, at: str, outcome: str) -> None:
    if routing is not None:
        routing.outcome = outcome
        routing.ended_at = routing.ended_at or at
    if record.phase in FINAL:
        record.finished_at = at
        record.waiting_for = ""


def _expired(
    record: TaskRecord, routing: object, event: c.TaskExpired, seq: int
) -> None:
    record.reason = event.detail or event.reason
    record.error_code, record.error_message = f"expired_{event.reason}", record.reason
    _ended(record, None, event.at, "")


def _cancelled(
    record: TaskRecord, routing: object, event: c.TaskCancelled, seq: int
) -> None:
    record.reason = event.reason
    record.cancelled_by = event.requested_by
    _ended(record, None, event.at, "")


def _abandoned(
    record: TaskRecord, routing: Routing | None, event: c.TaskAbandoned, seq: int
) -> None:
    if routing is not None:
        routing.reason = event.reason
    _ended(record, routing, event.at, "abandoned")


def _dead(
    record: TaskRecord, routing: Routing | None, event: c.TaskDeadLettered, seq: int
) -> None:
    last = record.routings[-1] if record.routings else None
    if last is not None:
        last.counted = True
        if not last.ended_at:
            last.outcome, last.reason, last.ended_at = "dead", event.reason, event.at
    record.attempts = event.attempts
    record.reason = event.detail or event.reason
    record.error_code, record.error_message = event.reason, record.reason
    _ended(record, None, event.at, "")


def _retried(
    record: TaskRecord, routing: object, event: c.TaskRetried, seq: int
) -> None:
    record.attempts = 0
    record.route = ""
    for last in record.routings[-1:]:
        last.started = last.counted = False
    record.tier = record.preferred_tier
    record.host = record.endpoint = record.model = record.target_type = ""
    record.fallback_used, record.fallback_from_tier = False, None
    if event.assign_to is not None:
        record.assign_to = event.assign_to
    record.routed_at = record.accepted_at = record.started_at = ""
    record.finished_at = record.status = record.error_code = record.error_message = ""
    record.cwd, record.env_seq = "", 0
    record.reason = record.cancelled_by = record.exclude = ""
    record.result_seq, record.execution_ms, record.late = 0, None, False
    record.model_used = ""
    record.waiting_for = event.reason
    record.unverified = False
    record.waiting_since = event.at


def _reassigned(
    record: TaskRecord, routing: Routing | None, event: c.TaskReassigned, seq: int
) -> None:
    if routing is not None and not routing.ended_at:
        routing.outcome, routing.reason = "requeued", "reassigned"
        routing.detail, routing.ended_at = event.reason, event.at
        _attempt(record, routing, counts=False)
    record.assign_to = event.host
    record.exclude = ""
    record.unverified = False
    record.waiting_for = event.reason or f"reassigned to {event.host}"
    record.waiting_since = event.at
    record.accepted_at = record.started_at = ""


def _accepted(
    record: TaskRecord, routing: Routing, event: c.TaskAccepted, seq: int
) -> None:
    record.accepted_at = routing.accepted_at = event.at
    routing.outcome = "accepted"


def _rejected(
    record: TaskRecord, routing: Routing, event: c.TaskRejected, seq: int
) -> None:
    routing.reason, routing.detail = event.reason, event.detail
    record.waiting_for = event.detail or event.reason
    routing.started = False
    _ended(record, routing, event.at, "rejected")


def _started(
    record: TaskRecord, routing: Routing, event: c.TaskStarted, seq: int
) -> None:
    record.started_at = routing.started_at = event.at
    routing.accepted_at = routing.accepted_at or event.accepted_at or event.at
    record.accepted_at = record.accepted_at or routing.accepted_at
    routing.started = True
    routing.outcome = "running"
    routing.endpoint = record.endpoint = event.endpoint or record.endpoint
    routing.model = record.model = event.model or record.model
    record.simulated = record.simulated or event.simulated
    record.cwd = event.cwd
    record.env_seq = seq if event.env else 0


def _line(
    record: TaskRecord,
    routing: Routing,
    event: c.TaskStatus | c.TaskErrorLine,
    seq: int,
) -> None:
    routing.lines += 1
    routing.last_line = event.text[:DESCRIPTION_KEPT]


def _retrying(
    record: TaskRecord, routing: Routing, event: c.TaskRetrying, seq: int
) -> None:
    if routing.target_type == "sidecar" and event.retry > routing.restarted:
        record.attempts += 1  # every start of a command is one
        routing.restarted = event.retry
    routing.local_retries += 1
    routing.lines += 1
    routing.last_line = event.text[:DESCRIPTION_KEPT]


def _stepped(record: TaskRecord, routing: Routing, event: c.TaskStep, seq: int) -> None:
    if routing.last_line != event.step:
        routing.lines += 1
        routing.last_line = event.step


def _finished(
    record: TaskRecord,
    routing: Routing,
    event: c.TaskCompleted | c.TaskFailed,
    seq: int,
) -> None:
    result = event.result
    routing.started = True
    routing.started_at = routing.started_at or event.at
    _result(record, routing, result, seq)
    record.started_at = routing.started_at
    record.accepted_at = routing.accepted_at or routing.started_at
    record.status = result.status
    record.late = event.late
    if result.model_used not in ("", "none"):
        record.model = result.model_used
    outcome = "completed" if isinstance(event, c.TaskCompleted) else "failed"
    routing.ended_at = ""
    _ended(record, routing, event.at, outcome)


def _result(
    record: TaskRecord, routing: Routing, result: c.Result | None, seq: int
) -> None:
    if result is None:
        return
    record.result_seq = seq
    record.model_used = result.model_used
    record.cwd = result.cwd or record.cwd
    record.execution_ms = routing.execution_ms = result.execution_ms
    if result.error is not None:
        routing.error_code = record.error_code = result.error.code
        routing.error_message = result.error.message[:DESCRIPTION_KEPT]
        record.error_message = routing.error_message


def _returned(
    record: TaskRecord, routing: Routing, event: c.TaskReturned, seq: int
) -> None:
    routing.reason, routing.detail = event.reason, event.detail
    if event.result is not None:
        routing.execution_ms = event.result.execution_ms
    if event.result is not None and event.result.error is not None:
        routing.error_code = event.result.error.code
        routing.error_message = event.result.error.message[:DESCRIPTION_KEPT]
    record.waiting_for = event.detail or event.reason
    record.exclude = event.exclude or ""
    record.unverified = event.reason == VERIFICATION
    counts = not event.unsuited and event.reason not in NO_ATTEMPT
    _attempt(record, routing, counts=counts)
    _ended(record, routing, event.at, "returned")


def _stopped(
    record: TaskRecord, routing: Routing, event: c.TaskStopped, seq: int
) -> None:
    _result(record, routing, event.result, seq)
    if record.phase == "returned":
        _attempt(record, routing, counts=True)
        record.waiting_for = "stopped"
    _ended(record, routing, event.at, "stopped")


_EFFECTS: Final[dict[type[c.Event], Any]] = {
    c.TaskReleased: released,
    c.TaskDelegated: delegated,
    c.TaskDeferred: _deferred,
    c.TaskRouted: _routed,
    c.TaskRequeued: _requeued,
    c.TaskExpired: _expired,
    c.TaskCancelled: _cancelled,
    c.TaskAbandoned: _abandoned,
    c.TaskDeadLettered: _dead,
    c.TaskRetried: _retried,
    c.TaskReassigned: _reassigned,
    c.TaskAccepted: _accepted,
    c.TaskRejected: _rejected,
    c.TaskStarted: _started,
    c.TaskStatus: _line,
    c.TaskErrorLine: _line,
    c.TaskRetrying: _retrying,
    c.TaskStep: _stepped,
    c.TaskVerified: note_step,
    c.TaskCompleted: _finished,
    c.TaskFailed: _finished,
    c.TaskReturned: _returned,
    c.TaskStopped: _stopped,
}
