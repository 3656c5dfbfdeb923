"""What comes back: tasks, results, pieces of output, explanations.

Fields are named as everywhere in AgentCom (docs/doors.md). None means unknown, which is
not 0; instants are RFC 3339 in UTC, "" where something has not happened.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field, structs

from agentcom.errors import TaskFailed

__all__ = [
    "Changed",
    "Chunk",
    "CostLine",
    "Costs",
    "Explanation",
    "Fleet",
    "Result",
    "Route",
    "Schedule",
    "ScheduleRun",
    "TaskInfo",
    "WouldRoute",
]

FINAL = frozenset({"completed", "failed", "dead", "cancelled", "expired"})


class Chunk(Struct, frozen=True, kw_only=True):
    """A piece of live output: of a model `token`, `thinking`, `tool`; of a command
    `stdout`, `stderr`; of either the lines `status` and `error`.

    `n` counts the pieces of one `route`, which is one sending of the task to a place.
    """

    event_type: Literal[
        "token", "thinking", "stdout", "stderr", "status", "error", "tool"
    ]
    text: str
    task_id: str = ""
    timestamp: str = ""
    route: str = ""
    generation: int = 0
    attempt: int = 0
    segment: int = 0
    n: int = 0
    tokens_so_far: int | None = None
    model: str | None = None


class ErrorInfo(Struct, frozen=True, kw_only=True):
    """Why a task did not complete: a stable word, and a sentence."""

    code: str
    message: str


class Result(Struct, frozen=True, kw_only=True):
    """How a task ended. Tokens and dollars are those of all its runs together."""

    task_id: str
    state: str
    output: str = ""
    stderr: str = ""
    error: ErrorInfo | None = None
    exit_code: int | None = None
    truncated: bool = False
    length_limited: bool = False
    tier: str = ""
    host: str = ""
    endpoint: str = ""
    model: str = ""
    model_used: str = "none"
    fallback_used: bool = False
    attempts: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    estimated_cost_usd: float | None = None
    saved_usd: float = 0.0
    cost_basis: str = "none"
    execution_ms: float | None = None
    verified: bool | None = None
    cwd: str = ""
    changes: dict[str, Any] | None = None
    simulated: bool = False

    @property
    def ok(self) -> bool:
        """Whether the task is completed."""
        return self.state == "completed"

    def raise_for_state(self) -> Result:
        """Return it where the task is completed, else raise TaskFailed."""
        if self.ok:
            return self
        error = self.error or ErrorInfo(code=self.state, message="no reason is known")
        raise TaskFailed(self.task_id, self.state, error.code, error.message)


class TaskInfo(Struct, frozen=True, kw_only=True):
    """A task in a list. `model` is the one that it was sent to, `model_used` its result's."""

    task_id: str
    state: str
    seq: int = 0
    description: str = ""
    priority: str = "normal"
    tier: str = ""
    host: str = ""
    endpoint: str = ""
    model: str = ""
    model_used: str = "none"
    repo: str = ""
    fallback_used: bool = False
    attempts: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    estimated_cost_usd: float | None = None
    saved_usd: float = 0.0
    cost_basis: str = "none"
    execution_ms: float | None = None
    error: ErrorInfo | None = None
    labels: dict[str, str] = {}
    parent: str = ""
    root: str = ""
    submitted_at: str = ""
    started_at: str = ""
    finished_at: str = ""
    simulated: bool = False


class Route(Struct, frozen=True, kw_only=True):
    """One sending of a task to a place, and what came of it."""

    route: str
    tier: str = ""
    host: str = ""
    endpoint: str = ""
    model: str = ""
    outcome: str = ""
    reason: str = ""
    fallback_used: bool = False
    fallback_reason: str | None = None
    waited_s: float = 0.0
    routed_at: str = ""
    started_at: str = ""
    ended_at: str = ""


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a task went where it went, and what it waits for.

    `routes` are its routes, the last one last. `classification` and `route` are as they
    stand in the log (docs/events.md: Classification and task.routed), `because` sentences
    about what it waits for.
    """

    task_id: str
    state: str
    classification: dict[str, Any] | None = None
    route: dict[str, Any] | None = None
    routes: list[Route] = field(default_factory=list)
    because: list[str] = field(default_factory=list)


class ScheduleRun(Struct, frozen=True, kw_only=True):
    """A planned time that was dealt with.

    `what`: `fired` (task `task_id`, which stands at `state`), `by_hand`, or left out:
    `missed`, `overlap`; then `count` times from `planned` to `until`.
    """

    planned: str
    what: Literal["fired", "by_hand", "missed", "overlap"]
    task_id: str = ""
    until: str = ""
    count: int = 1
    state: str = ""


class Schedule(Struct, frozen=True, kw_only=True):
    """A task at each time of `cron` in the zone `tz`, as it stands.

    `next` are its next ten times, none while it is paused; `runs` its last ones, the newest
    first; `fired` and `skipped` count all there ever were.
    """

    schedule: str
    cron: str
    tz: str
    missed: str
    overlap: str
    description: str = ""
    tier: str = ""
    added_at: str = ""
    added_by: str = ""
    changed_at: str = ""
    changed_by: str = ""
    paused: bool = False
    paused_for: str = ""
    fired: int = 0
    skipped: int = 0
    next: list[str] = field(default_factory=list)
    runs: list[ScheduleRun] = field(default_factory=list)


# -- as they come ----------------------------------------------------------------------


class StoredResult(Struct, kw_only=True):
    """The last run's own result, as the log has it."""

    output: str = ""
    stderr: str = ""
    exit_code: int | None = None
    truncated: bool = False
    length_limited: bool = False
    verified: bool | None = None
    changes: dict[str, Any] | None = None
    output_bytes: int = 0


class TaskDetail(Struct, kw_only=True):
    """A task by itself."""

    task_id: str
    state: str
    seq: int = 0
    tier: str = ""
    host: str = ""
    endpoint: str = ""
    fallback_used: bool = False
    attempts: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    model: str = ""
    model_used: str = "none"
    estimated_cost_usd: float | None = None
    cost_basis: str = "none"
    saved_usd: float = 0.0
    execution_ms: float | None = None
    error: ErrorInfo | None = None
    cwd: str = ""
    simulated: bool = False
    classification: dict[str, Any] | None = None
    result: StoredResult | None = None


class TaskAnswer(Struct, kw_only=True):
    """`task`."""

    seq: int
    task: TaskDetail
    route: dict[str, Any] | None = None
    routes: list[Route] = []


class TasksAnswer(Struct, kw_only=True):
    """`tasks`."""

    seq: int
    total: int
    tasks: list[TaskInfo]
    next: str | None = None


class EndedTask(Struct, kw_only=True):
    """A task that is over."""

    task_id: str
    state: str


class EndedAnswer(Struct, kw_only=True):
    """`ended`."""

    seq: int
    ended: list[EndedTask]


class WhyAnswer(Struct, kw_only=True):
    """`why`."""

    because: list[str] = []


class OutputAnswer(Struct, kw_only=True):
    """`output`."""

    chunks: list[Chunk] = []
    left_out: int = 0


class Submitted(Struct, kw_only=True):
    """`task.submit`."""

    task_id: str
    seq: int
    warnings: list[str] = []


class Attached(Struct, kw_only=True):
    """`task.attach`."""

    digest: str = ""
    size_bytes: int | None = None


class BatchSubmitted(Struct, kw_only=True):
    """`task.batch`."""

    task_ids: list[str]
    seq: int = 0


class Done(Struct, kw_only=True):
    """A command that was carried out."""

    seq: int = 0
    state: str = ""
    task_id: str = ""


class SchedulesAnswer(Struct, kw_only=True):
    """`schedules`."""

    schedules: list[Schedule]


class Changed(Struct, frozen=True, kw_only=True):
    """What became of the tasks that a command was for.

    `matched` were meant; `done` were changed, `unchanged` stood so already, `refused`
    could not be. `outcomes` counts by where tasks stand now, `unchanged`, or the code of
    a refusal. Of a dry run nothing is changed, and `ids` are the first hundred meant.
    """

    matched: int
    done: int = 0
    unchanged: int = 0
    refused: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    dry_run: bool = False
    finished: bool = True
    bulk_id: str = ""


class CostLine(Struct, frozen=True, kw_only=True):
    """What was spent under one value (`key`) of what the bill is by."""

    key: str
    part: str = ""
    runs: int = 0
    completed: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    estimated_cost_usd: float = 0.0
    equivalent_claude_cost_usd: float = 0.0
    saved_usd: float = 0.0
    unpriced: int = 0
    guessed: int = 0


class Costs(Struct, frozen=True, kw_only=True):
    """A bill: its lines, and their sum."""

    by: str
    lines: list[CostLine]
    total: CostLine


class WouldRoute(Struct, frozen=True, kw_only=True):
    """Where a task would go now, or what it would wait for.

    `classification` and `decision` are as the log would have them (docs/events.md:
    Classification and task.routed).
    """

    classification: dict[str, Any]
    decision: dict[str, Any] | None = None
    waiting_for: str = ""


class Fleet(Struct, frozen=True, kw_only=True):
    """Hosts, model servers of several hosts, models and tiers; docs/doors.md: hosts."""

    hosts: list[dict[str, Any]]
    shared_endpoints: list[dict[str, Any]]
    models: list[dict[str, Any]]
    tiers: list[dict[str, Any]]


class RefusalAnswer(Struct, kw_only=True):
    """What was not carried out."""

    code: str
    error: str
    path: str = ""
    expected: str = ""
    got: str = ""
    status: int = 500


def result_of(answer: TaskAnswer) -> Result:
    """Say how a task ended: what its last run's result has, and what is the task's own."""
    task = structs.asdict(answer.task)
    known = structs.asdict(answer.task.result or StoredResult()) | task
    return Result(**{name: known[name] for name in Result.__struct_fields__})
