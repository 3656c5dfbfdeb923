"""What queries answer: read models in the shape that programs and pages receive.

Every answer carries `seq`, the last sequence folded into it. Instants are RFC 3339 as
they were written, "" where something has not happened; `_ms` is milliseconds, `_usd`
dollars; None means unknown.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct, field

from events.catalogue import (
    Chunk,
    Classification,
    Resources,
    Result,
    TaskRouted,
    TaskSpec,
)
from events.codec import instant, rfc3339
from events.errors import Malformed
from projections.fleet import AlertView, EndpointView, SharedView, TierView
from projections.queue import PRIORITIES, Oldest
from projections.stats import BUCKETS_MS, between_ms
from projections.store import CostLine
from projections.tasks import NANO, Void

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from projections.fleet import Beats, FleetState, HostView
    from projections.queue import QueueState
    from projections.stats import Histogram, StatsState
    from projections.tasks import Routing, TaskRecord
    from projections.world import World

WAITING_SHOWN: Final = 100
LISTED_DESCRIPTION: Final = 240
"""Characters of a description in a list; the task itself has all of it."""
USUAL_TTL_S: Final = 600.0
"""The policy's `task_ttl_s` where no policy was ever set."""
TIER_KINDS: Final = {"standard": ("ollama", "openai"), "complex": ("claude",)}
"""The kinds of endpoint that make a tier; every host runs commands, which is trivial."""
TIERLESS: Final = ("agent", "noop")
"""Executors that belong to no tier."""


class TaskRow(Struct, kw_only=True):
    """A task in a list.

    `fallback_used` is the badge: it ran, or runs, off its preferred tier. `wait_ms` is
    from when it last began to wait until it started, `run_ms` what the executor took.
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
    tokens_in: int
    tokens_out: int
    cost_usd: float
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
    error: str
    late: bool
    simulated: bool
    updated_seq: int


class AttemptView(Struct, kw_only=True):
    """One routing of a task and what came of it; `late` if it reported too late."""

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
    error: str
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
    tokens_in: int
    tokens_out: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: float
    equivalent_claude_cost_usd: float
    unpriced: bool


class TaskDetail(TaskRow, kw_only=True):
    """A task by itself: its row, its whole text, and what is known beyond that."""

    spec: TaskSpec | None
    classification: Classification | None
    submitter: str
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
    result: Result | None


class LoggedEvent(Struct, kw_only=True):
    """An event with its place in the log."""

    seq: int
    subject: str
    event: Any


class TasksAnswer(Struct, kw_only=True):
    """`tasks`: a page, and how many there are in all; `states` counts all tasks."""

    seq: int
    total: int
    tasks: list[TaskRow]
    states: dict[str, int]


class TaskAnswer(Struct, kw_only=True):
    """`task`: one task, its routing trace, its attempts, on request its events."""

    seq: int
    task: TaskDetail
    route: TaskRouted | None
    attempts: list[AttemptView]
    events: list[LoggedEvent]
    events_left_out: int


class LaneView(Struct, kw_only=True):
    """How many wait in one tier at one priority, and who longest."""

    tier: str
    priority: str
    waiting: int
    oldest: Oldest | None


class QueueAnswer(Struct, kw_only=True):
    """`queue`: who waits and who is under way.

    `running` holds the first of those under way (routed, accepted, running, returned,
    cancelling), `under_way` counts them all by state; `waiting_tasks` holds the first
    that wait, lane by lane.
    """

    seq: int
    waiting: int
    lanes: list[LaneView]
    under_way: dict[str, int]
    running: list[TaskRow]
    waiting_tasks: list[TaskRow]


class HostRow(Struct, kw_only=True):
    """A host, with what runs there now; `resources` is None where nothing is known."""

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
    resources: Resources | None
    outbox: int | None
    ram_bytes: int | None


class ModelRow(Struct, kw_only=True):
    """Where a model is: hosts that have it in memory, hosts that have it on disk."""

    model: str
    loaded: list[str]
    on_disk: list[str]


class HostsAnswer(Struct, kw_only=True):
    """`hosts`: the fleet."""

    seq: int
    hosts: list[HostRow]
    shared_endpoints: list[SharedView]
    models: list[ModelRow]
    tiers: list[TierView]
    alerts: list[AlertView]
    leader: str
    epoch: int
    policy_version: int


class AlertsAnswer(Struct, kw_only=True):
    """`alerts`: those of the past too, the newest first."""

    seq: int
    active: int
    alerts: list[AlertView]


class WhyAnswer(Struct, kw_only=True):
    """`why`: what a task waits for, as facts and as sentences.

    `ahead` counts who waits in the same tier before it, by priority and then by time;
    None where the task does not wait. `expires_at` is when it is given up unless
    somebody can take it before, "" where nothing is known to end its waiting.
    """

    seq: int
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


class CostsAnswer(Struct, kw_only=True):
    """`costs`: what was spent, by a dimension and in all."""

    seq: int
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


class StatsAnswer(Struct, kw_only=True):
    """`stats`: counts over everything. Decisions are counted, not attempts."""

    seq: int
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


class StatusAnswer(Struct, kw_only=True):
    """`status`: how far the read models are, and what in the log did not count.

    `outdated`: another version's are shown while new ones are made. `rebuilding` is how
    far those are, None if none are made; `rebuilt` counts those that took their place,
    `rebuild_failed` says why the last ones did not. `checkpoints` are the sequences
    from which the past is near.
    """

    seq: int
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


class OutputAnswer(Struct, kw_only=True):
    """`output`: a task's live output so far; `left_out` counts what did not fit."""

    seq: int
    task_id: str
    state: str
    chunks: list[Chunk] = field(default_factory=list)
    left_out: int = 0


class RebuildAnswer(Struct, kw_only=True):
    """`rebuild`: it has begun. Done when `rebuilt` of `status` is larger than here."""

    seq: int
    names: list[str]
    rebuilt: int
    last_seq: int


class Changed(Struct, kw_only=True):
    """A decision that would have been another one.

    `then` is where it would have gone, "" where the record does not say: nobody wrote
    down places that were no candidates. `usd_then` is None where nothing is known.
    """

    seq: int
    task_id: str
    at: str
    what: str
    was: str
    then: str
    why: str
    usd: float | None
    usd_then: float | None


class WhatIfAnswer(Struct, kw_only=True):
    """`whatif`: recorded decisions, decided again under another policy.

    `reproduced` counts decisions that come out as recorded under the policy of their
    time, which is what makes the rest worth reading; `not_reproduced` should be 0.
    `fallbacks_then`, `waited_s_then` and `cost_usd_then` are what would have been.
    `changed` counts by kind: route, model, fallback_avoided, fallback_added,
    fallback_sooner, fallback_later, held_back.
    `stays` holds what could not be decided from the record, by reason. `said` is what
    must be known to read the figures.
    """

    seq: int
    from_seq: int
    to_seq: int
    policy_version: int
    differences: list[str]
    decisions: int
    reproduced: int
    not_reproduced: int
    changed: dict[str, int]
    fallbacks: int
    fallbacks_then: int
    waited_s: float
    waited_s_then: float
    cost_usd: float
    cost_usd_then: float
    estimated_decisions: int
    unknown_dollars: int
    by_place: dict[str, int]
    by_place_then: dict[str, int]
    stays: dict[str, int]
    changes: list[Changed]
    changes_left_out: int
    said: list[str]


def usd(nano: int) -> float:
    """Turn whole billionths into dollars."""
    return nano / NANO


def row(record: TaskRecord, description: str | None = None) -> TaskRow:
    """Show a task in a list."""
    return TaskRow(
        **_row(record, description or record.description[:LISTED_DESCRIPTION])
    )


def _row(record: TaskRecord, description: str) -> dict[str, Any]:
    spent = record.spent
    waited = None
    if record.started_at:
        waited = between_ms(record.waiting_since, record.started_at)
    return {
        "task_id": record.id,
        "seq": record.seq,
        "state": record.state,
        "description": description,
        "priority": record.priority,
        "tier": record.tier,
        "preferred_tier": record.preferred_tier,
        "explicit_tier": record.explicit_tier,
        "target_type": record.target_type,
        "host": record.host,
        "endpoint": record.endpoint,
        "model": record.model,
        "repo": record.repo,
        "fallback_used": record.fallback_used,
        "fallback_from_tier": record.fallback_from_tier,
        "attempts": record.attempts,
        "max_attempts": record.max_attempts,
        "generation": record.generation,
        "tokens_in": spent.tokens_in,
        "tokens_out": spent.tokens_out,
        "cost_usd": usd(spent.usd_nano),
        "equivalent_claude_cost_usd": usd(spent.equivalent_nano),
        "saved_usd": usd(spent.saved_nano),
        "unpriced_runs": spent.unpriced,
        "submitted_at": record.submitted_at,
        "waiting_since": record.waiting_since,
        "waiting_for": record.waiting_for,
        "routed_at": record.routed_at,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "wait_ms": waited,
        "run_ms": record.execution_ms,
        "status": record.status,
        "error_code": record.error_code,
        "error": record.error_message,
        "late": record.late,
        "simulated": record.simulated,
        "updated_seq": record.updated_seq,
    }


def detail(
    record: TaskRecord,
    *,
    spec: TaskSpec | None,
    classification: Classification | None,
    warnings: list[str],
    result: Result | None,
) -> TaskDetail:
    """Show a task by itself."""
    description = spec.description if spec is not None else record.description
    return TaskDetail(
        **_row(record, description),
        spec=spec,
        classification=classification,
        submitter=record.submitter,
        warnings=warnings,
        accepted_at=record.accepted_at,
        cache_read_tokens=record.spent.cache_read,
        cache_write_tokens=record.spent.cache_write,
        reason=record.reason,
        cancelled_by=record.cancelled_by,
        assign_to=record.assign_to,
        deadline=record.deadline,
        exclude=record.exclude,
        void=record.void,
        voids=record.voids,
        result=result,
    )


def attempt(routing: Routing) -> AttemptView:
    """Show one routing."""
    return AttemptView(
        route=routing.route,
        seq=routing.seq,
        generation=routing.generation,
        attempt=routing.attempt,
        tier=routing.tier,
        target_type=routing.target_type,
        host=routing.host,
        endpoint=routing.endpoint,
        model=routing.model,
        fallback_used=routing.fallback_used,
        fallback_from_tier=routing.fallback_from_tier,
        fallback_reason=routing.fallback_reason,
        waited_s=routing.waited_s,
        outcome=routing.outcome,
        reason=routing.reason,
        detail=routing.detail,
        error_code=routing.error_code,
        error=routing.error_message,
        routed_at=routing.routed_at,
        accepted_at=routing.accepted_at,
        started_at=routing.started_at,
        ended_at=routing.ended_at,
        run_ms=routing.execution_ms,
        local_retries=routing.local_retries,
        lines=routing.lines,
        last_line=routing.last_line,
        late=routing.late,
        simulated=routing.simulated,
        tokens_in=routing.spent.tokens_in,
        tokens_out=routing.spent.tokens_out,
        cache_read_tokens=routing.spent.cache_read,
        cache_write_tokens=routing.spent.cache_write,
        cost_usd=usd(routing.spent.usd_nano),
        equivalent_claude_cost_usd=usd(routing.spent.equivalent_nano),
        unpriced=routing.spent.unpriced > 0,
    )


def queue(state: QueueState, seq: int, limit: int) -> QueueAnswer:
    """Show the queue, with at most `limit` of those under way and of those waiting."""
    under_way: dict[str, int] = {}
    for record in state.under_way.values():
        under_way[record.state] = under_way.get(record.state, 0) + 1
    shown = [row(record) for record in _first(state.under_way.values(), limit)]
    lanes = [
        LaneView(
            tier=lane[0],
            priority=lane[1],
            waiting=len(waiting),
            oldest=state.oldest(lane),
        )
        for lane, waiting in state.lanes.items()
        if waiting
    ]
    waiting = chain.from_iterable(lane.values() for lane in state.lanes.values())
    return QueueAnswer(
        seq=seq,
        waiting=state.waiting,
        lanes=lanes,
        under_way=under_way,
        running=shown,
        waiting_tasks=[
            row(record) for record in _first(waiting, min(limit, WAITING_SHOWN))
        ],
    )


def _first(records: Iterable[TaskRecord], limit: int) -> list[TaskRecord]:
    return [record for record, _ in zip(records, range(limit), strict=False)]


def why(
    record: TaskRecord,
    world: World,
    *,
    spec: TaskSpec | None = None,
    policy: dict[str, Any] | None = None,
) -> WhyAnswer:
    """Say why a task waits; `policy` is the one in force, None the built-in one."""
    tier = world.fleet.tiers.get(record.tier, TierView(record.tier))
    ahead = _ahead(record, world.queue) if record.state == "waiting" else None
    up = sum(host.state == "up" for host in world.fleet.hosts.values())
    in_flight = sum(
        other.tier == record.tier and other.state != "returned"
        for other in world.queue.under_way.values()
    )
    others = _other_tiers(record, spec, policy or {})
    expires_at = ""
    if ahead is not None:
        expires_at = _expires_at(record, world.fleet, others, spec, policy or {})
    said = _because(record, world.fleet, tier, others, ahead, up, in_flight)
    because = list(said)
    if expires_at:
        because.append(f"Unless something takes it before, it expires at {expires_at}.")
    return WhyAnswer(
        seq=world.position,
        task_id=record.id,
        state=record.state,
        tier=record.tier,
        tier_state=tier.state,
        tier_since=tier.since,
        limited_until=tier.until,
        ahead=ahead,
        waiting_since=record.waiting_since,
        waiting_for=record.waiting_for,
        exclude=record.exclude,
        hosts_up=up,
        in_flight=in_flight,
        expires_at=expires_at,
        because=because,
    )


def offered(fleet: FleetState, tier: str) -> Literal["up", "down", "absent"]:
    """Say what the log's tier events leave open: absent, or up since the first probe."""
    kinds = TIER_KINDS.get(tier)
    hosts = [h for h in fleet.hosts.values() if h.state in ("up", "draining")]
    if kinds is None:
        return "up" if hosts else "absent"
    found = [e for h in hosts for e in h.endpoints.values() if e.kind in kinds]
    if not found:
        return "absent"
    return "up" if any(endpoint.up for endpoint in found) else "down"


def gone_since(fleet: FleetState, tier: str) -> float | None:
    """Return since when a tier is down or absent, None while it is there."""
    view = fleet.tiers.get(tier)
    if view is not None and view.state == "down":
        return instant_of(view.since)
    return None if offered(fleet, tier) == "up" else 0.0


def away_since(fleet: FleetState, host: str, otherwise: float | None) -> float | None:
    """Return since when a task's only host is away; without one, `otherwise`."""
    if not host:
        return otherwise
    view = fleet.hosts.get(host)
    if view is None:
        return 0.0
    return otherwise if view.state == "up" else instant_of(view.since)


def instant_of(text: str) -> float:
    """Read when something was; what cannot be read was long ago."""
    try:
        return instant(text)
    except Malformed:
        return 0.0


def _other_tiers(
    record: TaskRecord, spec: TaskSpec | None, policy: dict[str, Any]
) -> list[str]:
    """Name the tiers that could take it instead of its own: at most one step away."""
    exact = spec is not None and spec.model is not None
    if exact or record.fallback_used or record.executor in TIERLESS:
        return []
    if record.tier == "standard":
        shell = spec is not None and spec.shell is not None
        return ["complex", "trivial"] if shell else ["complex"]
    if record.tier == "complex" and policy.get("allow_downgrade", False):
        return ["standard"]
    return []


def _expires_at(
    record: TaskRecord,
    fleet: FleetState,
    others: list[str],
    spec: TaskSpec | None,
    policy: dict[str, Any],
) -> str:
    """Return when it expires: at its deadline, or so long after nobody could take it."""
    ends = [instant_of(record.deadline)] if record.deadline else []
    gone: float | None = None
    if record.executor not in TIERLESS:
        since = [gone_since(fleet, tier) for tier in (record.tier, *others)]
        known = [at for at in since if at is not None]
        gone = max(known) if len(known) == len(since) else None
    away = away_since(fleet, record.assign_to, gone)
    if away is not None:
        own = spec.ttl_s if spec is not None else None
        ttl_s = policy.get("task_ttl_s", USUAL_TTL_S) if own is None else own
        ends.append(max(instant_of(record.waiting_since), away) + ttl_s)
    return rfc3339(min(ends)) if ends else ""


def _ahead(record: TaskRecord, queued: QueueState) -> int:
    ahead = 0
    for priority in PRIORITIES:
        lane = queued.lanes.get((record.tier, priority), {})
        if priority != record.priority:
            ahead += len(lane)
            continue
        for task_id in lane:
            if task_id == record.id:
                return ahead
            ahead += 1
    return ahead


def _because(
    record: TaskRecord,
    fleet: FleetState,
    tier: TierView,
    others: list[str],
    ahead: int | None,
    up: int,
    in_flight: int,
) -> Iterator[str]:
    if ahead is None:
        yield f"It does not wait: it is {record.state}" + (
            f" on {record.host}." if record.host else "."
        )
        return
    there = offered(fleet, record.tier)
    tiered = record.executor not in TIERLESS
    if not up:
        yield "No host is up."
    if tiered and up and there == "absent":
        yield _NOT_SET_UP[record.tier]
    elif tier.state == "down":
        said = f": {tier.reason}" if tier.reason else ""
        yield f"The {tier.tier} tier is down since {tier.since}{said}."
    elif tiered and up and there == "down":
        yield f"The {record.tier} tier is down: {_down(fleet, record.tier)}."
    if tiered and up and there != "up":
        yield from _nor(fleet, others)
    if tier.state == "limited":
        yield f"The {tier.tier} tier is limited until {tier.until}."
    if record.assign_to:
        yield _only_on(record, fleet)
    if record.exclude:
        yield f"It is not to be tried on {record.exclude} until that is up again."
    # Of a host that is away, the scheduler says only that nobody offers the kind of work.
    if record.waiting_for and away_since(fleet, record.assign_to, None) is None:
        yield f"Last said about it: {record.waiting_for}."
    if ahead:
        others_wait = "1 other waits" if ahead == 1 else f"{ahead} others wait"
        yield f"{others_wait} in the {record.tier} tier before it."
    if in_flight:
        tasks_are = "1 task" if in_flight == 1 else f"{in_flight} tasks"
        verb = "is" if in_flight == 1 else "are"
        yield f"{tasks_are} of the {record.tier} tier {verb} under way."


_NOT_SET_UP: Final = {
    "trivial": "No host is there to run commands (trivial).",
    "standard": "No host offers a local model (standard): set up Ollama or an "
    "OpenAI-compatible server on a host, or name one with `agentcom endpoints add`.",
    "complex": "No host offers Claude Code (complex): install it on a host and log in.",
}
_WORK: Final = {
    "trivial": "commands (trivial)",
    "standard": "a local model (standard)",
    "complex": "Claude Code (complex)",
}


def _nor(fleet: FleetState, others: list[str]) -> Iterator[str]:
    """Say that the tiers that could take it instead cannot either."""
    for tier in others:
        there = offered(fleet, tier)
        if there == "absent":
            yield f"No host offers {_WORK[tier]} either, which could take it instead."
        elif there == "down":
            yield f"The {tier} tier, which could take it instead, is down too."


def _down(fleet: FleetState, tier: str) -> str:
    """Name a tier's endpoints that are down, and why."""
    kinds = TIER_KINDS.get(tier, ())
    found = [
        f"{endpoint.endpoint} on {host.host}"
        + (f" ({endpoint.reason})" if endpoint.reason else "")
        for host in fleet.hosts.values()
        if host.state in ("up", "draining")
        for endpoint in host.endpoints.values()
        if endpoint.kind in kinds
    ]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return "nothing answers at " + ", ".join(found[:3]) + more


def _only_on(record: TaskRecord, fleet: FleetState) -> str:
    name = record.assign_to
    host = fleet.hosts.get(name)
    if host is None:
        return (
            f"It waits for host {name}, which is not known: none of that name joined."
        )
    if host.state != "up":
        said = "away" if host.state == "left" else host.state
        return f"It waits for host {name}, which is {said} since {host.since}."
    kinds = TIER_KINDS.get(record.tier)
    if kinds is None or record.executor in TIERLESS:
        return f"It may run on {name} only."
    if any(endpoint.kind in kinds for endpoint in host.endpoints.values()):
        return f"It may run on {name} only."
    return f"It may run on {name} only, which does not offer {_WORK[record.tier]}."


def hosts(
    fleet: FleetState, queued: QueueState, beats: Beats, seq: int, now: float
) -> HostsAnswer:
    """Show the fleet; `now` is the monotonic clock that the beats were noted by."""
    in_flight: dict[str, dict[str, int]] = {}
    for record in queued.under_way.values():
        if record.state != "returned":
            held = in_flight.setdefault(record.host, {})
            held[record.endpoint] = held.get(record.endpoint, 0) + 1
    return HostsAnswer(
        seq=seq,
        hosts=[
            _host(host, in_flight.get(host.host, {}), beats, now)
            for _, host in sorted(fleet.hosts.items())
        ],
        shared_endpoints=[shared for _, shared in sorted(fleet.shared.items())],
        models=models(fleet),
        tiers=[
            fleet.tiers.get(tier, TierView(tier))
            for tier in ("trivial", "standard", "complex")
        ],
        alerts=fleet.active_alerts,
        leader=fleet.head.leader,
        epoch=fleet.head.epoch,
        policy_version=fleet.head.policy_version,
    )


def _host(host: HostView, held: dict[str, int], beats: Beats, now: float) -> HostRow:
    beat = beats.of(host, now)
    return HostRow(
        host=host.host,
        state=host.state,
        since=host.since,
        reason=host.reason,
        incarnation=host.incarnation,
        joined_at=host.joined_at,
        version=host.version,
        platform=host.platform,
        slots=host.slots,
        in_flight=sum(held.values()),
        in_flight_by_endpoint=held,
        capabilities=host.capabilities,
        repos=host.repos,
        default_repo=host.default_repo,
        endpoints=[endpoint for _, endpoint in sorted(host.endpoints.items())],
        resources=None if beat is None else beat.resources,
        outbox=None if beat is None else beat.outbox,
        ram_bytes=host.ram_bytes,
    )


def models(fleet: FleetState) -> list[ModelRow]:
    """Show which live hosts have which model, in memory or on disk."""
    found: dict[str, ModelRow] = {}
    for name, host in sorted(fleet.hosts.items()):
        if host.state in ("lost", "left"):
            continue
        for endpoint in host.endpoints.values():
            if not endpoint.up:
                continue
            for model in sorted({*endpoint.models, *endpoint.loaded}):
                place = found.setdefault(
                    model, ModelRow(model=model, loaded=[], on_disk=[])
                )
                where = place.loaded if model in endpoint.loaded else place.on_disk
                if name not in where:
                    where.append(name)
    return [place for _, place in sorted(found.items())]


def durations(histogram: Histogram) -> Durations:
    """Show a histogram."""
    mean = histogram.total_us / 1_000 / histogram.n if histogram.n else None
    return Durations(
        n=histogram.n,
        mean_ms=mean,
        p50_ms=histogram.quantile(0.5),
        p95_ms=histogram.quantile(0.95),
        p99_ms=histogram.quantile(0.99),
        counts=histogram.counts,
    )


def stats(state: StatsState, seq: int, usd_nano: int, saved_nano: int) -> StatsAnswer:
    """Show the counts."""
    return StatsAnswer(
        seq=seq,
        states=state.states,
        decisions_by_tier=state.decisions_by_tier,
        decisions_by_target=state.decisions_by_target,
        fallbacks=state.fallbacks,
        fallbacks_by_hop=state.hops,
        waits_avoided=state.waits_avoided,
        disagreements=state.disagreements,
        minutes=dict(sorted(state.minutes.items())),
        buckets_ms=list(BUCKETS_MS),
        wait={tier: durations(h) for tier, h in state.wait_ms.items()},
        run={tier: durations(h) for tier, h in state.run_ms.items()},
        cost_usd=usd(usd_nano),
        saved_usd=usd(saved_nano),
    )
