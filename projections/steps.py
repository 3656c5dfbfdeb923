"""What each step of a task leaves in its record; `tasks` says which steps count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from events import catalogue as c
from events.codec import fallback_code
from events.lifecycle import FINAL, NO_ATTEMPT, VERIFICATION
from projections.held import released
from projections.newcomers import DESCRIPTION_KEPT, delegated
from projections.record import CheckedStep, Routing, same

if TYPE_CHECKING:
    from projections.record import TaskRecord

ROUTINGS_KEPT: Final = 64
"""Routings of one task that are remembered; of more, those that never started go."""
STEPS_KEPT: Final = 100
"""Verification steps of one routing that are remembered."""
COMMAND_KEPT: Final = 1_000
OUTPUT_KEPT: Final = 2_000
"""Characters of a step's command, and of the end of its output, that readers see."""


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


def _verified(
    record: TaskRecord, routing: Routing, event: c.TaskVerified, seq: int
) -> None:
    routing.lines += 1
    routing.last_line = event.text[:COMMAND_KEPT]
    if len(routing.checks) >= STEPS_KEPT:
        return
    spent = event.spent or c.RoundSpent()
    step = same(event, CheckedStep) | {
        "command": event.command[:COMMAND_KEPT],
        "output": event.output[-OUTPUT_KEPT:],
        "tokens_in": spent.tokens_in,
        "tokens_out": spent.tokens_out,
        "usd": spent.estimated_cost_usd,
    }
    routing.checks += (CheckedStep(**step),)


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


EFFECTS: Final[dict[type[c.Event], Any]] = {
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
    c.TaskVerified: _verified,
    c.TaskCompleted: _finished,
    c.TaskFailed: _finished,
    c.TaskReturned: _returned,
    c.TaskStopped: _stopped,
}
