"""What queries answer: one struct for each query, and the structs those are made of.

Every answer carries `seq`, the last sequence folded into it. Instants are RFC 3339 as
they were written, "" where something has not happened; `_ms` is milliseconds, `_usd`
dollars; None means unknown. Field names are part of the interface for programs: new
ones are added, none is renamed or removed.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from events import catalogue as c
from events.filters import TaskFilter
from projections.fleet import AlertView, EndpointView, SharedView, TierView
from projections.queue import Oldest
from projections.record import Void


class QueryAnswer(Struct, kw_only=True):
    """What every answer says: the last sequence folded into it."""

    seq: int


class TaskRow(Struct, kw_only=True):
    """A task in a list.

    `fallback_used` is the badge: it ran, or runs, off its preferred tier. `wait_ms` is
    from when it last began to wait until it started, `execution_ms` what the executor took.
    `tokens_in` and `tokens_out` are None where those of a run are unknown. `cost_basis` is
    what the dollars rest on, of several runs the least certain: `estimated` and
    `reported_unpriced` are a guess; `estimated_cost_usd` is None where those of a run are
    unknown. `model` is the one that it was sent to, `model_used` the one that its result
    names, "none" before and without. `error` says why it did not complete. `short_id` is
    the beginning of its id that no other task's has, "" where nobody looked. `not_before`
    is the instant before which it is not to start, "" for none; `held`: it waits for that,
    or for the tasks that it comes after, outside the queue, and does not age. `comes_after`
    counts those, `name` is what its batch calls it. `schedule` has submitted it.
    A child task has a `parent`; `root` is the first of its tree, "" for a task that has
    neither parent nor children; `depth` is how many are above it, `children` how many its
    own runs have submitted.

    Older names, kept for one release: `cost_usd` of `estimated_cost_usd` (without the runs
    that nobody could price), `run_ms` of `execution_ms`, `status` of `state`,
    `error_code` and `error_message` of what is in `error`.
    """

    task_id: str
    seq: int
    state: str
    description: str
    priority: str
    tier: str
    preferred_tier: str
    explicit_tier: str | None
    target_type: str
    host: str
    endpoint: str
    model: str
    repo: str
    fallback_used: bool
    fallback_from_tier: str | None
    attempts: int
    max_attempts: int
    generation: int
    tokens_in: int | None
    tokens_out: int | None
    cost_usd: float
    cost_basis: str
    equivalent_claude_cost_usd: float
    saved_usd: float
    unpriced_runs: int
    submitted_at: str
    waiting_since: str
    waiting_for: str
    routed_at: str
    started_at: str
    finished_at: str
    wait_ms: float | None
    run_ms: float | None
    status: str
    error_code: str
    late: bool
    simulated: bool
    updated_seq: int
    error: c.RunError | None = None
    error_message: str = ""
    model_used: str = "none"
    estimated_cost_usd: float | None = None
    execution_ms: float | None = None
    submitter: str = ""
    labels: dict[str, str] = {}
    short_id: str = ""
    not_before: str = ""
    held: bool = False
    parent: str = ""
    root: str = ""
    depth: int = 0
    children: int = 0
    name: str = ""
    comes_after: int = 0
    schedule: str = ""


class RouteView(Struct, kw_only=True):
    """One route of a task and what came of it; `late` if it reported too late.

    Older names, kept for one release: `cost_usd`, `run_ms`, `error_code`, `error_message`.
    """

    route: str
    seq: int
    generation: int
    attempt: int
    tier: str
    target_type: str
    host: str
    endpoint: str
    model: str
    fallback_used: bool
    fallback_from_tier: str | None
    fallback_reason: str | None
    waited_s: float
    outcome: str
    reason: str
    detail: str
    error_code: str
    routed_at: str
    accepted_at: str
    started_at: str
    ended_at: str
    run_ms: float | None
    local_retries: int
    lines: int
    last_line: str
    late: bool
    simulated: bool
    tokens_in: int | None
    tokens_out: int | None
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: float
    cost_basis: str
    equivalent_claude_cost_usd: float
    unpriced: bool
    checks: list[CheckView] = []
    error: c.RunError | None = None
    error_message: str = ""
    estimated_cost_usd: float | None = None
    execution_ms: float | None = None


class CheckView(Struct, kw_only=True):
    """One verification step of a round, counted from 1, and how it ended.

    Tokens and dollars are of the work before it, on the first step of each round.
    `run_ms` and `cost_usd` are older names, kept for one release.
    """

    round: int
    rounds: int
    step: int
    of: int
    command: str
    passed: bool
    exit_code: int | None
    signal: str | None
    code: str
    output: str
    run_ms: float
    tokens_in: int | None
    tokens_out: int | None
    cost_usd: float | None
    estimated_cost_usd: float | None = None
    execution_ms: float | None = None


class TaskDetail(TaskRow, kw_only=True):
    """A task by itself: its row, its whole text, and what is known beyond that.

    The whole text is `spec.description`, `description` its first 10,000 characters. `mode`
    is None where it has none (`mode_reason` says why), or of before there were modes.
    `cwd` is the folder on `host` that it works or worked in, "" where it needs none; `env`
    what its command found in its environment, without secrets, empty where there is none.
    """

    spec: c.TaskSpec | None
    classification: c.Classification | None
    warnings: list[str]
    accepted_at: str
    cache_read_tokens: int
    cache_write_tokens: int
    reason: str
    cancelled_by: str
    assign_to: str
    deadline: str
    exclude: str
    void: int
    voids: list[Void]
    result: c.Result | None
    cwd: str = ""
    env: dict[str, str] = {}
    mode: c.Mode | None = None
    mode_reason: str = ""


class LoggedEvent(Struct, kw_only=True):
    """An event with its place in the log."""

    seq: int
    subject: str
    event: Any


class TasksAnswer(QueryAnswer, kw_only=True):
    """`tasks`: a page, and how many there are in all.

    `states` counts what the filter finds, were it not narrowed to some states. `next` is
    the `cursor` of the page that follows, None where there is none.
    """

    total: int
    tasks: list[TaskRow]
    states: dict[str, int]
    next: str | None = None


Severity = Literal["error", "warning", "info"]
"""How bad something is that wants a person."""


class AttentionRow(Struct, kw_only=True):
    """Something that wants a person: one cause, however many tasks it holds up.

    `key` stays the same while the cause does. `kind` is `host_lost`, `host_alert`,
    `endpoint_down`, `model_retired`, `tier_down`, `tier_limited`, `tier_absent`, `stuck`
    (nobody can run what waits), `long_wait`, `budget`, `failures` or `dead`. `filter` lists the
    tasks, None where it is about none; `count` is how many. `since` is when it began, or
    the first of them ended or was submitted, `last` the last; `until` the end of a limit.
    `action` is the one thing to do: `retry` or `cancel` those of the filter, `acknowledge`
    or `clear_limit` of the `tier`, `open_host` of the `host`, or "" for none; `label` is
    what its button says.
    """

    key: str
    kind: str
    severity: Severity
    sentence: str
    since: str
    last: str = ""
    until: str = ""
    count: int = 0
    filter: TaskFilter | None = None
    host: str = ""
    tier: str = ""
    action: Literal[
        "", "retry", "cancel", "acknowledge", "clear_limit", "open_host"
    ] = ""
    label: str = ""


class AttentionAnswer(QueryAnswer, kw_only=True):
    """`attention`: the worst first; `errors` and `warnings` count the rows."""

    errors: int
    warnings: int
    rows: list[AttentionRow]


class MeantAnswer(QueryAnswer, kw_only=True):
    """`meant`: how many there are, and a page of them as [id, state, own_seq].

    `own_seq` is the sequence that the task's subject must stand at for a decision about
    it to be sure of its outcome, 0 where the whole task has to be read for that.
    """

    total: int
    tasks: list[tuple[str, str, int]]


class TaskAnswer(QueryAnswer, kw_only=True):
    """`task`: one task, its last route, all its routes, on request its events.

    `attempts` is the older name of `routes`, kept for one release: elsewhere it is the
    number of those that count.
    """

    task: TaskDetail
    route: c.TaskRouted | None
    attempts: list[RouteView]
    events: list[LoggedEvent]
    events_left_out: int
    routes: list[RouteView] = []


class EndedTask(Struct, kw_only=True):
    """A task that is over, and how it ended."""

    task_id: str
    state: str


class EndedAnswer(QueryAnswer, kw_only=True):
    """`ended`: those of the tasks asked about that are over, none where none is."""

    ended: list[EndedTask]


class LaneView(Struct, kw_only=True):
    """How many wait in one tier at one priority, and who longest."""

    tier: str
    priority: str
    waiting: int
    oldest: Oldest | None


class QueueAnswer(QueryAnswer, kw_only=True):
    """`queue`: who waits and who is under way.

    `running` holds the first of those under way (routed, accepted, running, returned,
    cancelling), `under_way` counts them all by state; `waiting_tasks` holds the first
    that wait, lane by lane. `held` counts those that may not stand in the queue yet; they
    are in no lane and not among the `waiting`.
    """

    waiting: int
    lanes: list[LaneView]
    under_way: dict[str, int]
    running: list[TaskRow]
    waiting_tasks: list[TaskRow]
    held: int = 0


class HostRow(Struct, kw_only=True):
    """A host, with what runs there now; `resources` is None where nothing is known.

    `fault` says why it can take no work at present, by its last beat; `clock_ahead_s` how
    far its clock is ahead of the answering process's; `journal_lost` that its journal does
    not hold what it once did, so that results may be gone.
    """

    host: str
    state: str
    since: str
    reason: str
    incarnation: str
    joined_at: str
    version: str
    platform: str
    slots: dict[str, int]
    in_flight: int
    in_flight_by_endpoint: dict[str, int]
    capabilities: list[str]
    repos: list[str]
    default_repo: str | None
    endpoints: list[EndpointView]
    resources: c.Resources | None
    outbox: int | None
    ram_bytes: int | None
    fault: str = ""
    clock_ahead_s: float | None = None
    journal_lost: str = ""


class ModelRow(Struct, kw_only=True):
    """Where a model is: hosts that have it in memory, hosts that have it on disk."""

    model: str
    loaded: list[str]
    on_disk: list[str]


class TierRow(TierView, kw_only=True):
    """A tier, and how it stands. What the log says of it is in the fields of TierView.

    `offered` is what the living hosts have of it, `slots` how many those that take work
    have and `free` how many of them nothing holds, `waiting` how many tasks wait for it. `condition` is how it stands: absent,
    limited, down, busy or up. `wording` says that to people; where it ends in "since" or
    "until", `wording_at` is the instant that belongs behind it.
    """

    offered: str = ""
    free: int = 0
    waiting: int = 0
    condition: str = ""
    wording: str = ""
    wording_at: str = ""
    slots: int = 0


class HostsAnswer(QueryAnswer, kw_only=True):
    """`hosts`: the fleet."""

    hosts: list[HostRow]
    shared_endpoints: list[SharedView]
    models: list[ModelRow]
    tiers: list[TierRow]
    alerts: list[AlertView]
    leader: str
    epoch: int
    policy_version: int


class AlertsAnswer(QueryAnswer, kw_only=True):
    """`alerts`: those of the past too, the newest first."""

    active: int
    alerts: list[AlertView]


class WhyAnswer(QueryAnswer, kw_only=True):
    """`why`: what a task waits for, as facts and as sentences.

    `ahead` counts who waits in the same tier before it, by priority and then by time;
    None where the task does not wait. `expires_at` is when it is given up unless
    somebody can take it before, "" where nothing is known to end its waiting.
    """

    task_id: str
    state: str
    tier: str
    tier_state: str
    tier_since: str
    limited_until: str | None
    ahead: int | None
    waiting_since: str
    waiting_for: str
    exclude: str
    hosts_up: int
    in_flight: int
    expires_at: str = ""
    because: list[str]


class CostLine(Struct, frozen=True, kw_only=True):
    """What was spent under one value of a dimension; `part` is that of `stack`.

    Tokens are those that are known, None where nothing is; `unknown_tokens` counts the
    runs whose tokens are not among them, `unpriced` those whose dollars are not, and
    `guessed` those whose dollars are a guess. `cost_usd` is the older name of
    `estimated_cost_usd`, kept for one release.
    """

    key: str
    runs: int
    completed: int
    late: int
    tokens_in: int | None
    tokens_out: int | None
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: float
    equivalent_claude_cost_usd: float
    saved_usd: float
    unpriced: int
    guessed: int = 0
    unknown_tokens: int = 0
    part: str = ""
    estimated_cost_usd: float = 0.0


class CostsAnswer(QueryAnswer, kw_only=True):
    """`costs`: what was spent, by a dimension and in all."""

    by: str
    since: str
    lines: list[CostLine]
    total: CostLine


class Durations(Struct, kw_only=True):
    """How long something took: counts by bucket (upper edges in ms), and quantiles."""

    n: int
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    counts: list[int]


class FirstRoundRow(Struct, kw_only=True):
    """How often a model's work in a tier passed its verification at the first round."""

    tier: str
    model: str
    passed: int
    failed: int


class StatsAnswer(QueryAnswer, kw_only=True):
    """`stats`: counts over everything. Decisions are counted, not attempts.

    `minutes` are named by the beginning of an instant in UTC, `2026-01-31T10:05`.
    `cost_usd` is the older name of `estimated_cost_usd`, kept for one release.
    """

    states: dict[str, int]
    decisions_by_tier: dict[str, int]
    decisions_by_target: dict[str, int]
    fallbacks: int
    fallbacks_by_hop: dict[str, int]
    waits_avoided: int
    disagreements: dict[str, int]
    minutes: dict[str, Any]
    buckets_ms: list[float]
    wait: dict[str, Durations]
    run: dict[str, Durations]
    cost_usd: float
    saved_usd: float
    first_rounds: list[FirstRoundRow] = []
    estimated_cost_usd: float = 0.0


class StatusAnswer(QueryAnswer, kw_only=True):
    """`status`: how far the read models are, and what in the log did not count.

    `outdated`: another version's are shown while new ones are made. `rebuilding` is how
    far those are, None if none are made; `rebuilt` counts those that took their place,
    `rebuild_failed` says why the last ones did not. `checkpoints` are the sequences
    from which the past is near.
    """

    last_seq: int
    lag: int
    last_event_at: str
    versions: dict[str, int]
    outdated: bool
    rebuilding: int | None
    rebuilt: int
    rebuild_failed: str
    checkpoints: list[int]
    events: int
    types: dict[str, int]
    standings: dict[str, int]
    void: dict[str, int]
    unknown: dict[str, int]
    undecodable: int
    leader: str
    epoch: int
    active_alerts: int
    simulated: bool


class OutputAnswer(QueryAnswer, kw_only=True):
    """`output`: a task's live output so far; `left_out` counts the task's pieces that are
    stored behind what fitted."""

    task_id: str
    state: str
    chunks: list[c.Chunk] = field(default_factory=list)
    left_out: int = 0


class RebuildAnswer(QueryAnswer, kw_only=True):
    """`rebuild`: it has begun. Done when `rebuilt` of `status` is larger than here."""

    names: list[str]
    rebuilt: int
    last_seq: int
