"""The history of every task: where it stands, where it ran, what it took and cost.

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
from events.lifecycle import BY_LEADER, FINAL, NO_ATTEMPT
from projections.lifecycle import is_repeat, said, step
from projections.record import Routing, TaskRecord, Void, spent_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.projection import Moment, Standing

DESCRIPTION_KEPT: Final = 1_000
"""Characters of a description that lists and searches see; the log has all of it."""
ROUTINGS_KEPT: Final = 64
"""Routings of one task that are remembered; of more, those that never started go."""
VOIDS_KEPT: Final = 16
SUBMITTED_MASK: Final = 2**26 - 1


def nobody(task_id: str) -> TaskRecord | None:
    """Find nothing: what a fold without a store has beside its own memory."""
    return None


class SubmittedIds:
    """Which ids have been submitted, roughly: it may say yes for one that has not.

    Kept while the log is folded from its beginning, where nearly every submission is a
    new one and need not be looked for in the store. Eight megabytes, however many.
    """

    def __init__(self) -> None:
        self._bits = bytearray((SUBMITTED_MASK + 1) // 8)

    def add(self, task_id: str) -> bool:
        """Note an id; return whether it may have been noted before."""
        digest = hash(task_id)
        bits, there = self._bits, True
        for place in (digest & SUBMITTED_MASK, (digest >> 32) & SUBMITTED_MASK):
            byte, bit = place >> 3, 1 << (place & 7)
            if not bits[byte] & bit:
                bits[byte] |= bit
                there = False
        return there


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


class Tasks:
    """The fold over tasks; it judges every event about one."""

    name = "tasks"
    version = 3
    subjects = (
        "agentcom.evt.task.*",
        "agentcom.evt.run.*.*",
        "agentcom.evt.scheduler",
    )

    def initial(self) -> TasksState:
        return TasksState()

    def evolve(self, state: TasksState, moment: Moment) -> None:
        if moment.standing != "taken":
            return
        family, event = moment.family, moment.recorded.event
        if family == "run" or family == "task":
            about: Any = event
            if type(event) is c.TaskSubmitted:
                self._submitted(state, moment, about)
            else:
                self._step(state, moment, about)
        elif isinstance(event, c.SchedulerElected):
            state.epoch = max(state.epoch, event.epoch)

    def _step(self, state: TasksState, moment: Moment, event: Any) -> None:
        task_id: str = event.task_id
        record = state.records.get(task_id) or state.find(task_id)
        if record is None:
            moment.standing, moment.reason = "void", "no such task"
            return
        moment.task = record
        moment.before = record.state
        if moment.family == "run":
            standing = self._report(moment, record, event)
        else:
            standing = self._decision(state, moment, record, event)
        moment.after = record.state
        if standing != "taken":
            moment.standing = standing
            if standing == "repeat":
                return
            _note_void(record, moment)
        record.updated_seq = moment.recorded.seq
        state.touched[task_id] = record

    def _submitted(
        self, state: TasksState, moment: Moment, event: c.TaskSubmitted
    ) -> None:
        submitted = state.submitted
        if (submitted is None or submitted.add(event.task_id)) and (
            state.find(event.task_id) is not None
        ):
            moment.standing, moment.reason = "void", "submitted before"
            return
        record = _new(event, moment.recorded.seq)
        state.records[record.id] = state.touched[record.id] = record
        moment.task = record
        moment.after = "waiting"

    def _decision(
        self,
        state: TasksState,
        moment: Moment,
        record: TaskRecord,
        event: c.TaskEvent,
    ) -> Standing:
        if event.epoch != state.epoch and isinstance(event, BY_LEADER):
            moment.reason = "another leader's"
            return "void"
        seq, route = moment.recorded.seq, record.route
        routing = record.routing(route) if route else None
        if reason := step(record, event, seq):
            moment.reason = reason
            return "void"
        _EFFECTS[type(event)](record, routing, event, seq)
        route = record.route
        moment.routing = record.routing(route) if route else None
        return "taken"

    def _report(
        self, moment: Moment, record: TaskRecord, event: c.RunEvent
    ) -> Standing:
        routing = record.routing(event.route)
        if routing is None:
            moment.reason = "no such route"
            return "void"
        if routing.host != event.host:
            moment.reason = "another host's route"
            return "void"
        moment.routing = routing
        if event.route != record.route:
            _book(moment, record, routing, event)
            _too_late(moment, routing, event)
            moment.reason = "the route is not in force"
            return "void"
        if is_repeat(routing, event):
            return "repeat"
        if type(event) in _WITH_RESULT:
            _book(moment, record, routing, event)
        seq = moment.recorded.seq
        if reason := step(record, event, seq):
            moment.reason = reason
            _too_late(moment, routing, event)
            return "void"
        said(routing, event)
        _EFFECTS[type(event)](record, routing, event, seq)
        return "taken"


_WITH_RESULT: Final = frozenset(
    kind for kind in c.types().values() if "result" in kind.__struct_fields__
)


def _new(event: c.TaskSubmitted, seq: int) -> TaskRecord:
    spec, classed = event.spec, event.classification
    return TaskRecord(
        id=event.task_id,
        seq=seq,
        updated_seq=seq,
        state_seq=seq,
        description=spec.description[:DESCRIPTION_KEPT],
        priority=spec.priority,
        tier=classed.effective_tier,
        preferred_tier=classed.effective_tier,
        explicit_tier=classed.explicit_tier,
        inferred_tier=classed.inferred.tier,
        confidence=classed.inferred.confidence,
        classification_reason=classed.reason,
        repo=spec.repo or "",
        executor=spec.executor or "",
        assign_to=spec.assign_to or "",
        max_attempts=spec.max_attempts,
        deadline=spec.deadline or "",
        submitter=event.submitter,
        submitted_at=event.at,
        waiting_since=event.at,
    )


def _book(
    moment: Moment, record: TaskRecord, routing: Routing, event: c.RunEvent
) -> None:
    """Book what a report says was spent, once a routing and type, counting or not."""
    result: c.Result | None = getattr(event, "result", None)
    kind = type(event).__name__
    if result is None or kind in routing.booked:
        return
    routing.booked.append(kind)
    moment.booked = result
    moment.spent = spent = spent_on(result)
    routing.spent += spent
    record.spent += spent
    record.simulated = record.simulated or result.simulated


def _too_late(moment: Moment, routing: Routing, event: c.RunEvent) -> None:
    if moment.booked is not None:
        routing.late = True
        routing.ended_at = routing.ended_at or event.at
        routing.execution_ms = moment.booked.execution_ms


def _note_void(record: TaskRecord, moment: Moment) -> None:
    record.void += 1
    if len(record.voids) < VOIDS_KEPT:
        kind = type(moment.recorded.event).__struct_config__.tag
        record.voids.append(Void(moment.recorded.seq, str(kind), moment.reason))


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
            waited_s=event.wait.waited_s if event.wait is not None else 0.0,
            simulated=event.simulated,
            routed_at=event.at,
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
        said = routing.outcome in ("rejected", "returned", "stopped")
        if not said:
            routing.outcome = "requeued"
        routing.reason = routing.reason or event.reason
        routing.detail = routing.detail or event.detail
        routing.ended_at = routing.ended_at or event.at
        _attempt(record, routing, counts=event.counts_as_attempt and not said)
    record.waiting_for = event.detail or event.reason
    record.exclude = event.exclude or ""
    record.waiting_since = event.at
    record.accepted_at = record.started_at = ""


def _attempt(record: TaskRecord, routing: Routing, *, counts: bool) -> None:
    """Say of a routing that is over whether it was an attempt, unless that was said."""
    if counts:
        record.used += 1
        routing.counted = True
    routing.started = routing.counted


def _ended(record: TaskRecord, routing: Routing | None, at: str, outcome: str) -> None:
    if routing is not None:
        routing.outcome = outcome
        routing.ended_at = routing.ended_at or at
    if record.state in FINAL:
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
    record.used = event.attempts
    record.reason = event.detail or event.reason
    record.error_code, record.error_message = event.reason, record.reason
    _ended(record, None, event.at, "")


def _retried(
    record: TaskRecord, routing: object, event: c.TaskRetried, seq: int
) -> None:
    record.used = 0
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
    record.reason = record.cancelled_by = record.exclude = ""
    record.result_seq, record.execution_ms, record.late = 0, None, False
    record.waiting_for = event.reason
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
    routing.accepted_at = routing.accepted_at or event.at
    record.accepted_at = record.accepted_at or event.at
    routing.started = True
    routing.outcome = "running"
    routing.endpoint = record.endpoint = event.endpoint or record.endpoint
    routing.model = record.model = event.model or record.model
    record.simulated = record.simulated or event.simulated


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
    _attempt(record, routing, counts=event.reason not in NO_ATTEMPT)
    _ended(record, routing, event.at, "returned")


def _stopped(
    record: TaskRecord, routing: Routing, event: c.TaskStopped, seq: int
) -> None:
    _result(record, routing, event.result, seq)
    if record.state == "returned":
        _attempt(record, routing, counts=True)
        record.waiting_for = "stopped"
    _ended(record, routing, event.at, "stopped")


_EFFECTS: Final[dict[type[c.Event], Any]] = {
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
    c.TaskCompleted: _finished,
    c.TaskFailed: _finished,
    c.TaskReturned: _returned,
    c.TaskStopped: _stopped,
}
