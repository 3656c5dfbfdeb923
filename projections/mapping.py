"""Read models into answers: records, queue, fleet and counts as queries show them."""

from __future__ import annotations

from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from events import catalogue as c
from events.lifecycle import FINAL
from projections import tiers
from projections.answers import (
    CheckView,
    CostLine,
    Durations,
    FirstRoundRow,
    HostRow,
    HostsAnswer,
    LaneView,
    ModelRow,
    QueueAnswer,
    RouteView,
    StatsAnswer,
    TaskDetail,
    TaskRow,
)
from projections.record import NANO, same
from projections.stats import BUCKETS_MS, between_ms

if TYPE_CHECKING:
    from collections.abc import Iterable
    from zoneinfo import ZoneInfo

    from projections.fleet import Beats, EndpointView, FleetState, HostView
    from projections.queue import QueueState
    from projections.record import CheckedStep, Routing, TaskRecord
    from projections.stats import Histogram, StatsState
    from projections.world import World

WAITING_SHOWN: Final = 100
LISTED_DESCRIPTION: Final = 240
"""Characters of a description in a list; the task itself has all of it."""
SHOWN_DESCRIPTION: Final = 10_000
"""Characters of a description beside its specification, which has all of it."""


def usd(nano: int) -> float:
    """Turn whole billionths into dollars."""
    return nano / NANO


def row(record: TaskRecord, description: str | None = None) -> TaskRow:
    """Show a task in a list."""
    shown = description or record.description[:LISTED_DESCRIPTION]
    return TaskRow(**_row(record, shown, TaskRow))


def _row(record: TaskRecord, description: str, kind: type[TaskRow]) -> dict[str, Any]:
    spent = record.spent
    waited = None
    if record.started_at:
        waited = between_ms(record.waiting_since, record.started_at)
    return {
        **same(record, kind),
        "task_id": record.id,
        "state": record.phase,
        "description": description,
        "attempts": record.attempts_begun,
        "tokens_in": None if spent.unknown_in else spent.tokens_in,
        "tokens_out": None if spent.unknown_out else spent.tokens_out,
        "cost_usd": usd(spent.usd_nano),
        "cost_basis": spent.basis,
        "equivalent_claude_cost_usd": usd(spent.equivalent_nano),
        "saved_usd": usd(spent.saved_nano),
        "unpriced_runs": spent.unpriced,
        "wait_ms": waited,
        "run_ms": record.execution_ms,
        "estimated_cost_usd": None if spent.unpriced else usd(spent.usd_nano),
        "model_used": record.model_used or "none",
        "error": why_not(record),
        "held": record.held and record.phase == "waiting",
        "root": record.tree,
        "comes_after": len({*record.after, *record.after_any, *record.input_from}),
    }


def why_not(record: TaskRecord) -> c.RunError | None:
    """Say why a task did not complete; None where it did, or nothing is known yet."""
    code, message = record.error_code, record.error_message
    if record.phase == "completed" or not (code or message or record.phase in FINAL):
        return None
    reason = message or record.reason or f"the task is {record.phase}"
    return c.RunError(code=code or record.phase, message=reason)


def detail(
    record: TaskRecord,
    *,
    submission: c.TaskSubmitted | None,
    result: c.Result | None,
    env: dict[str, str],
) -> TaskDetail:
    """Show a task by itself."""
    spec = submission.spec if submission is not None else None
    description = spec.description if spec is not None else record.description
    shown = _row(record, description[:SHOWN_DESCRIPTION], TaskDetail)
    return TaskDetail(
        **shown | {"voids": list(record.voids)},
        spec=spec,
        classification=submission.classification if submission is not None else None,
        warnings=submission.warnings if submission is not None else [],
        mode=submission.mode if submission is not None else None,
        mode_reason=submission.mode_reason if submission is not None else "",
        cache_read_tokens=record.spent.cache_read,
        cache_write_tokens=record.spent.cache_write,
        result=result,
        env=env,
    )


def route(routing: Routing) -> RouteView:
    """Show one route."""
    spent = routing.spent
    shown = same(routing, RouteView) | {
        "error": c.RunError(routing.error_code, routing.error_message)
        if routing.error_code
        else None,
        "run_ms": routing.execution_ms,
        "estimated_cost_usd": None if spent.unpriced else usd(spent.usd_nano),
        "tokens_in": None if spent.unknown_in else spent.tokens_in,
        "tokens_out": None if spent.unknown_out else spent.tokens_out,
        "cache_read_tokens": spent.cache_read,
        "cache_write_tokens": spent.cache_write,
        "cost_usd": usd(spent.usd_nano),
        "cost_basis": spent.basis,
        "equivalent_claude_cost_usd": usd(spent.equivalent_nano),
        "unpriced": spent.unpriced > 0,
        "checks": [_check(each) for each in routing.checks],
    }
    return RouteView(**shown)


def _check(check: CheckedStep) -> CheckView:
    return CheckView(
        **same(check, CheckView),
        run_ms=check.execution_ms,
        cost_usd=check.usd,
        estimated_cost_usd=check.usd,
    )


def summed(lines: Iterable[CostLine], key: str = "total", part: str = "") -> CostLine:
    """Add up lines of a bill; tokens of which none are known stay None."""
    rows = list(lines)
    fields: dict[str, Any] = {
        name: sum(getattr(line, name) or 0 for line in rows)
        for name in CostLine.__struct_fields__
        if name not in ("key", "part")
    }
    for name in ("tokens_in", "tokens_out"):
        if not fields[name] and any(getattr(line, name) is None for line in rows):
            fields[name] = None
    return CostLine(key=key, part=part, **fields)


def days_in(zone: ZoneInfo, lines: Iterable[CostLine]) -> list[CostLine]:
    """Add up lines by UTC's hours, oldest first, to the days of a zone, part by part."""
    days: dict[tuple[str, str], list[CostLine]] = {}
    for line in lines:
        then = datetime.fromisoformat(f"{line.key}:00:00+00:00").astimezone(zone)
        days.setdefault((then.strftime("%Y-%m-%d"), line.part), []).append(line)
    return [summed(each, day, part) for (day, part), each in days.items()]


def queue(state: QueueState, seq: int, limit: int) -> QueueAnswer:
    """Show the queue, with at most `limit` of those under way and of those waiting."""
    under_way: dict[str, int] = {}
    for record in state.under_way.values():
        under_way[record.phase] = under_way.get(record.phase, 0) + 1
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
        held=len(state.held),
        lanes=lanes,
        under_way=under_way,
        running=shown,
        waiting_tasks=[
            row(record) for record in _first(waiting, min(limit, WAITING_SHOWN))
        ],
    )


def _first(records: Iterable[TaskRecord], limit: int) -> list[TaskRecord]:
    return [record for record, _ in zip(records, range(limit), strict=False)]


def hosts(world: World, beats: Beats, *, monotonic: float, now: float) -> HostsAnswer:
    """Show the fleet: `beats` were noted by the clock that says `monotonic`.

    `now` is the time that it is shown for, in epoch seconds.
    """
    fleet, queued = world.fleet, world.queue
    fresh = fleet.in_force.resources_fresh_beats
    in_flight: dict[str, dict[str, int]] = {}
    for record in queued.under_way.values():
        if record.phase != "returned":
            running = in_flight.setdefault(record.host, {})
            running[record.endpoint] = running.get(record.endpoint, 0) + 1
    return HostsAnswer(
        seq=world.position,
        hosts=[
            _host(host, in_flight.get(host.host, {}), beats, monotonic, fresh)
            for _, host in sorted(fleet.hosts.items())
        ],
        shared_endpoints=[shared for _, shared in sorted(fleet.shared.items())],
        models=models(fleet),
        tiers=tiers.rows(world, now),
        alerts=fleet.active_alerts,
        leader=fleet.in_force.leader,
        epoch=fleet.in_force.epoch,
        policy_version=fleet.in_force.policy_version,
    )


def _host(
    host: HostView, running: dict[str, int], beats: Beats, now: float, fresh: int
) -> HostRow:
    beat = beats.of(host, now, fresh)
    shown = same(host, HostRow) | {
        "slots": _slots(host),
        "in_flight": sum(running.values()),
        "in_flight_by_endpoint": running,
        "endpoints": [_seen(host, each) for _, each in sorted(host.endpoints.items())],
        "resources": None if beat is None else beat.resources,
        "outbox": None if beat is None else beat.outbox,
        "fault": "" if beat is None else beat.fault,
        "clock_ahead_s": beats.clock_ahead_s(host, now, fresh),
    }
    return HostRow(**shown)


def _slots(host: HostView) -> dict[str, int]:
    """Return how many runs at once a host takes; those of Claude Code where it has that."""
    there = any(each.kind == "claude" for each in host.endpoints.values())
    return {kind: n for kind, n in host.slots.items() if kind != "claude" or there}


def _seen(host: HostView, endpoint: EndpointView) -> EndpointView:
    """Show an endpoint; nobody knows one to be up whose host is gone."""
    if host.state in tiers.LIVING or not endpoint.up:
        return endpoint
    reason = f"its host {'left' if host.state == 'left' else 'is lost'}"
    return replace(endpoint, up=False, since=host.since, loaded=[], reason=reason)


def models(fleet: FleetState) -> list[ModelRow]:
    """Show which live hosts have which model, in memory or on disk."""
    rows: dict[str, ModelRow] = {}
    for name, host in sorted(fleet.hosts.items()):
        if host.state in ("lost", "left"):
            continue
        for endpoint in host.endpoints.values():
            if not endpoint.up:
                continue
            for model in sorted({*endpoint.models, *endpoint.loaded}):
                place = rows.setdefault(
                    model, ModelRow(model=model, loaded=[], on_disk=[])
                )
                where = place.loaded if model in endpoint.loaded else place.on_disk
                if name not in where:
                    where.append(name)
    return [place for _, place in sorted(rows.items())]


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
        estimated_cost_usd=usd(usd_nano),
        saved_usd=usd(saved_nano),
        first_rounds=first_rounds(state),
    )


def first_rounds(state: StatsState) -> list[FirstRoundRow]:
    """Show how often work passed at the first round, by tier and model."""
    return [
        FirstRoundRow(tier=tier, model=model, passed=n.passed, failed=n.failed)
        for tier, by_model in sorted(state.first_rounds.items())
        for model, n in sorted(by_model.items())
    ]
