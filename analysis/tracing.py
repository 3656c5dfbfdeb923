"""A task as a trace: spans in OpenTelemetry's shape, made from the task's own events.

Nothing is kept between tasks, and a span's id follows from what it is about, so the same
events give the same spans today and in a year: they can be sent again for any span of
time. Names of attributes about models are those of the semantic conventions for
generative AI (https://github.com/open-telemetry/semantic-conventions-genai); all others
begin with `agentcom.`. Neither descriptions, commands nor output are in a trace.

    task ─┬─ wait                      from its submission to its routing
          ├─ run ─┬─ deliver           from the routing to the start on the host
          │       ├─ invoke_agent …    the work, a span for each of its rounds
          │       │   └─ try 2         a try of the host's own
          │       └─ verify ─── step   the commands that look at the work
          ├─ wait
          └─ run
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct, field

from events import catalogue as c
from events.codec import instant, rfc3339
from events.lifecycle import FINAL
from events.traceparent import TraceParent
from projections import tasks
from projections.judged import judge
from projections.record import NANO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from projections.record import Spent

Attribute = str | int | float | bool

PROVIDER: Final = {"claude": "anthropic", "ollama": "ollama", "openai": "openai"}
"""`gen_ai.provider.name` by what a task was given to."""


class Mark(Struct, frozen=True):
    """Something that happened at one instant within a span."""

    name: str
    at: str
    attributes: dict[str, Attribute] = {}


class SpanLink(Struct, frozen=True):
    """Another task's span that this one has to do with; `relation` says how."""

    trace_id: str
    span_id: str
    relation: str


class Span(Struct, kw_only=True):
    """A piece of a task's time. Ids are lower-case hexadecimal, 32 and 16 digits.

    `error` is why it did not do what it was for, "" where it did. `start` and `end` are
    RFC 3339 in UTC.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str = ""
    kind: Literal["internal", "client", "consumer"] = "internal"
    start: str
    end: str = ""
    attributes: dict[str, Attribute] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    links: list[SpanLink] = field(default_factory=list)
    error: str = ""


def trace_id(task_id: str, traceparent: str = "") -> str:
    """Return the id of a task's trace: the caller's, where it named one."""
    caller = TraceParent.read(traceparent)
    return caller.trace_id if caller else _hex(f"trace:{task_id}")[:32]


def root_id(task_id: str, life: int = 0) -> str:
    """Return the id of the span of a task's whole life; `life` counts its retries."""
    return _span_id(task_id, f"{life}")


class Life(Struct, frozen=True):
    """The spans of a task from its submission, or a retry, to its end at `seq`.

    Parents come first.
    """

    seq: int
    spans: list[Span]


def relatives(history: Sequence[c.Recorded]) -> list[str]:
    """Return the ids of a task's parent and children."""
    found = []
    for event in (recorded.event for recorded in history):
        if isinstance(event, c.TaskSubmitted) and event.parent:
            found.append(event.parent)
        elif isinstance(event, c.TaskDelegated):
            found.append(event.child)
    return found


def lives(
    history: Sequence[c.Recorded], traceparents: Mapping[str, str] | None = None
) -> list[Life]:
    """Return a task's spans from all its events and the elections, in the log's order.

    A task that was retried after its end lives again: that is a second tree in the same
    trace, linked to the first. A life that has not ended yet is left out. Parent and
    children are linked; `traceparents` says of those that have one what their own is.
    """
    state, ended = tasks.TasksState(), []
    life: _OpenLife | None = None
    for recorded in history:
        judged = judge(recorded)
        tasks.evolve(state, judged)
        if judged.verdict != "applied":
            continue
        event: Any = judged.recorded.event
        if judged.task is None:
            continue
        if isinstance(event, c.TaskSubmitted):
            life = _OpenLife(event, event, 0, traceparents or {})
        elif isinstance(event, c.TaskRetried) and life is not None:
            life = _OpenLife(life.submitted, event, life.number + 1, life.traceparents)
        if life is None:
            continue
        life.take(event)
        if judged.after in FINAL and not life.over:
            spans = life.close(event, judged.after, judged.task.spent)
            ended.append(Life(recorded.seq, spans))
    return ended


class _OpenLife:
    """A task from its submission, or a retry, to its end."""

    def __init__(
        self,
        submitted: c.TaskSubmitted,
        begun: c.TaskSubmitted | c.TaskRetried,
        number: int,
        traceparents: Mapping[str, str],
    ) -> None:
        self.submitted = submitted
        self.traceparents = traceparents
        self.number = number
        self.over = False
        spec, task_id = submitted.spec, submitted.task_id
        traceparent = spec.traceparent or ""
        self._trace_id = trace_id(task_id, traceparent)
        caller = TraceParent.read(traceparent)
        self.root = Span(
            name="task",
            trace_id=self._trace_id,
            span_id=root_id(task_id, number),
            parent_id=caller.span_id if caller else "",
            kind="consumer",
            start=begun.at,
            attributes={
                "agentcom.task.id": task_id,
                "agentcom.task.priority": spec.priority,
                "agentcom.task.tier": submitted.classification.effective_tier,
                "agentcom.task.classified": submitted.classification.reason,
                "agentcom.task.submitter": submitted.submitter,
                **{f"agentcom.label.{key}": text for key, text in spec.labels.items()},
            },
        )
        if submitted.parent and not number:
            self._relate(submitted.parent, "parent")
        if submitted.mode:
            self.root.attributes["agentcom.task.mode"] = submitted.mode
        if number:
            before = root_id(task_id, number - 1)
            self.root.links.append(SpanLink(self._trace_id, before, "retry_of"))
        self._spans = [self.root]
        self._wait: Span | None = self.begin("wait", self.root, begun.at)
        self._run: _OpenRun | None = None
        self._runs = 0

    def _relate(self, task_id: str, relation: str) -> None:
        trace = trace_id(task_id, self.traceparents.get(task_id, ""))
        self.root.links.append(SpanLink(trace, root_id(task_id), relation))

    def begin(self, name: str, parent: Span, at: str) -> Span:
        """Begin a span of this task below another one."""
        span = Span(
            name=name,
            trace_id=self._trace_id,
            span_id=_span_id(
                self.submitted.task_id, f"{self.number}/{len(self._spans)}"
            ),
            parent_id=parent.span_id,
            start=at,
        )
        self._spans.append(span)
        return span

    def take(self, event: Any) -> None:
        """Take an event that counted."""
        match event:
            case c.TaskDeferred():
                self.root.marks.append(
                    Mark("deferred", event.at, {"agentcom.reason": event.reason})
                )
            case c.TaskDelegated():
                self._relate(event.child, "child")
            case c.TaskRouted():
                _end(self._wait, event.at)
                self._wait = None
                self._runs += 1
                self._run = _OpenRun(
                    self, event, self.begin("run", self.root, event.at)
                )
            case c.TaskRequeued() | c.TaskReassigned():
                self._close_run(event.at, "requeued", event.reason)
                self._wait = self._wait or self.begin("wait", self.root, event.at)
                self._wait.attributes["agentcom.reason"] = event.reason
            case _:
                if self._run is not None:
                    self._run.take(event)

    def _close_run(self, at: str, outcome: str, error: str) -> None:
        if self._run is not None:
            self._run.close(at, outcome, error)
            self._run = None

    def close(self, event: Any, phase: str, spent: Spent) -> list[Span]:
        """End what is open; return all spans."""
        self.over = True
        reason = "" if phase == "completed" else _why(event, phase)
        self._close_run(event.at, phase, reason)
        _end(self._wait, event.at)
        root = self.root
        root.attributes["agentcom.task.state"] = phase
        root.attributes["agentcom.task.runs"] = self._runs
        root.attributes["agentcom.cost.usd"] = spent.usd_nano / NANO
        root.attributes["agentcom.cost.basis"] = spent.basis
        root.error = reason
        _end(root, event.at)
        return self._spans


class _OpenRun:
    """One routing of a task and what came of it."""

    def __init__(self, life: _OpenLife, routed: c.TaskRouted, span: Span) -> None:
        self._life = life
        self._routed = routed
        self._span = span
        span.attributes.update(
            {
                "agentcom.route": routed.id,
                "agentcom.attempt": routed.attempt,
                "agentcom.host": routed.selected_host,
                "agentcom.endpoint": routed.selected_endpoint,
                "agentcom.tier": routed.effective_tier,
                "agentcom.target": routed.target_type,
                "agentcom.candidates": routed.candidate_count,
                "agentcom.policy.version": routed.policy_version,
                "agentcom.simulated": routed.simulated,
            }
        )
        if routed.fallback_used:
            span.attributes["agentcom.fallback.from"] = routed.fallback_from_tier or ""
            span.attributes["agentcom.fallback.code"] = routed.fallback_code or ""
        self._deliver: Span | None = life.begin("deliver", span, routed.at)
        self._started: c.TaskStarted | None = None
        self._work: Span | None = None
        self._try: Span | None = None
        self._verify: Span | None = None
        self._rounds = 0

    def take(self, event: Any) -> None:
        """Take a host's report that counted."""
        match event:
            case c.TaskAccepted():
                self._span.marks.append(Mark("accepted", event.at))
            case c.TaskStarted():
                if event.accepted_at:
                    self._span.marks.append(Mark("accepted", event.accepted_at))
                _end(self._deliver, event.at)
                self._started, self._deliver = event, None
                self._begin_work(event.at)
            case c.TaskRetrying():
                self._retry(event)
            case c.TaskErrorLine():
                code = {"agentcom.error.code": event.code} if event.code else {}
                self._span.marks.append(Mark("error", event.at, {**code}))
            case c.TaskStep():
                self._span.marks.append(Mark(event.step, event.at))
            case c.TaskStatus() if event.round:
                self._end_work(event.at, event.spent)
                self._begin_verify(event.at, event.round)
            case c.TaskVerified():
                self._verified(event)
            case c.TaskCompleted() | c.TaskFailed() | c.TaskStopped():
                self._finish(event, event.result)
            case c.TaskReturned():
                self._finish(event, event.result, event.reason)
            case c.TaskRejected():
                self.close(event.at, "rejected", event.reason)
            case _:
                pass

    def _begin_work(self, at: str) -> None:
        self._rounds += 1
        target, model = self._routed.target_type, self._model
        provider = PROVIDER.get(target)
        agent = self._executor in ("claude", "agent")
        operation = "invoke_agent" if agent else "chat" if provider else ""
        name = f"{operation} {model}".strip() if operation else self._executor or "work"
        work = self._life.begin(name, self._span, at)
        work.attributes["agentcom.round"] = self._rounds
        work.attributes["agentcom.executor"] = self._executor
        if operation:
            work.kind = "client"
            work.attributes["gen_ai.operation.name"] = operation
            if provider:
                work.attributes["gen_ai.provider.name"] = provider
            if model:
                work.attributes["gen_ai.request.model"] = model
        if self._executor == "claude":
            work.attributes["gen_ai.agent.name"] = "claude-code"
        self._work = work

    @property
    def _executor(self) -> str:
        return self._started.executor if self._started else ""

    @property
    def _model(self) -> str:
        started = self._started.model if self._started else ""
        return started or self._routed.selected_model

    def _retry(self, event: c.TaskRetrying) -> None:
        parent = self._work or self._span
        _end(self._try, event.at)
        parent.marks.append(
            Mark(
                "retrying",
                event.at,
                {
                    "agentcom.reason": event.reason,
                    "agentcom.backoff_s": event.backoff_s,
                },
            )
        )
        starts = rfc3339(instant(event.at) + event.backoff_s)
        self._try = self._life.begin(f"try {event.retry}", parent, starts)
        self._try.attributes["agentcom.tries"] = event.of

    def _end_work(self, at: str, spent: c.RoundSpent | None) -> None:
        if self._work is not None:
            _end(self._try, at)
            _end(self._work, at)
            if spent is not None:
                self._work.attributes.update(usage(spent))
        self._work = self._try = None

    def _begin_verify(self, at: str, round_: int) -> None:
        _end(self._verify, at)
        self._verify = self._life.begin("verify", self._span, at)
        self._verify.attributes["agentcom.round"] = round_

    def _verified(self, event: c.TaskVerified) -> None:
        began = rfc3339(instant(event.at) - event.execution_ms / 1000)
        if self._verify is None:
            self._end_work(began, event.spent)
            self._begin_verify(began, event.round)
        assert self._verify is not None
        step = self._life.begin("step", self._verify, max(began, self._verify.start))
        step.attributes.update(
            {
                "agentcom.step": event.step,
                "agentcom.steps": event.of,
                "agentcom.passed": event.passed,
            }
        )
        if event.exit_code is not None:
            step.attributes["process.exit.code"] = event.exit_code
        _end(step, event.at)
        last = event.step == event.of or not event.passed
        if not event.passed:
            step.error = self._verify.error = event.code or "verification"
        if last:
            _end(self._verify, event.at)
            self._verify = None
            if not event.passed and event.round < event.rounds:
                self._begin_work(event.at)

    def _finish(self, event: Any, result: c.Result | None, reason: str = "") -> None:
        error = result.error.code if result is not None and result.error else reason
        outcome = c.name(event).removeprefix("task.")
        if result is not None:
            self._span.attributes.update(usage(result))
            if result.exit_code is not None:
                self._span.attributes["process.exit.code"] = result.exit_code
            if result.verified is not None:
                self._span.attributes["agentcom.verified"] = result.verified
            if self._rounds == 1 and self._work is not None:
                self._work.attributes.update(usage(result))
        if error and self._work is not None:
            self._work.error = error
        self.close(event.at, outcome, error)

    def close(self, at: str, outcome: str, error: str = "") -> None:
        """End what is open; a run that has ended keeps its end."""
        if self._span.end:
            return
        for span in (self._deliver, self._try, self._work, self._verify, self._span):
            _end(span, at)
        self._span.attributes["agentcom.outcome"] = outcome
        self._span.error = error


def usage(spent: c.Result | c.RoundSpent) -> dict[str, Attribute]:
    """Return tokens and dollars as attributes; what is unknown is left out.

    By the conventions the input tokens include those read from and written to a cache.
    """
    cached, written = spent.cache_read_tokens, spent.cache_write_tokens
    attributes: dict[str, Attribute] = {}
    if spent.model_used != "none":
        attributes["gen_ai.response.model"] = spent.model_used
        if spent.tokens_in is not None:
            total = spent.tokens_in + cached + written
            attributes["gen_ai.usage.input_tokens"] = total
        if spent.tokens_out is not None:
            attributes["gen_ai.usage.output_tokens"] = spent.tokens_out
    if cached:
        attributes["gen_ai.usage.cache_read.input_tokens"] = cached
    if written:
        attributes["gen_ai.usage.cache_creation.input_tokens"] = written
    if spent.estimated_cost_usd is not None:
        attributes["agentcom.cost.usd"] = spent.estimated_cost_usd
    if spent.cost_basis != "none":
        attributes["agentcom.cost.basis"] = spent.cost_basis
    return attributes


def _end(span: Span | None, at: str) -> None:
    if span is not None and not span.end:
        # Two clocks may disagree by a little; no span ends before it began.
        span.end = max(at, span.start)


def _why(event: Any, phase: str) -> str:
    result = getattr(event, "result", None)
    if result is not None and result.error is not None:
        return str(result.error.code)
    return str(getattr(event, "reason", "") or phase)


def _span_id(task_id: str, path: str) -> str:
    return _hex(f"span:{task_id}:{path}")[:16]


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def may_end(event: c.Event) -> bool:
    """Whether an event may be the last one of a task's life."""
    return isinstance(event, _ENDINGS)


_ENDINGS: Final = (
    c.TaskExpired,
    c.TaskCancelled,
    c.TaskAbandoned,
    c.TaskDeadLettered,
    c.TaskRejected,
    c.TaskCompleted,
    c.TaskFailed,
    c.TaskReturned,
    c.TaskStopped,
)
