"""Why a task waits, and when it expires: what is ahead of it, what is missing.

The rule of the time to live is in `events.lifecycle`; here it is applied to what the log
says of the tiers and hosts that could take the task.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, cast

from events.codec import rfc3339
from events.lifecycle import (
    FIXED_KINDS,
    LOST_RUN,
    SUSPECT_FROM,
    TIER_KINDS,
    VERIFICATION,
    hops,
    time_to_live,
)
from projections.answers import WhyAnswer
from projections.held import held_for
from projections.queue import PRIORITIES
from projections.tiers import (
    LIVING,
    condition,
    endpoints_of,
    gone_since,
    has_model,
    instant_of,
    models_of,
    offered,
    unmet_need,
    view_at,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from events import catalogue as c
    from projections.fleet import FleetState, HostView, TierView
    from projections.queue import QueueState
    from projections.record import TaskRecord
    from projections.world import World

EXPIRING_SOUGHT: Final = 100
"""So many of a lane are looked at; the others came later."""
SUSPECTS_NAMED: Final = 5
MODELS_NAMED: Final = 10
"""So many models are named to whoever waits for one that nobody has."""


def why(record: TaskRecord, world: World, now: float) -> WhyAnswer:
    """Say why a task waits; `now` is the present time, in epoch seconds."""
    fleet = world.fleet
    tier = view_at(fleet, record.seeks, now)
    held = record.held and record.phase == "waiting"
    queued = record.phase == "waiting" and not held
    ahead = _ahead(record, world.queue) if queued else None
    up = sum(host.state == "up" for host in fleet.hosts.values())
    in_flight = sum(
        other.tier == record.seeks and other.phase != "returned"
        for other in world.queue.under_way.values()
    )
    expires_at = ""
    if ahead is not None and (end := expires_at_of(record, fleet)) is not None:
        expires_at = rfc3339(end)
    if held:
        because = list(held_for(record, world))
    else:
        because = list(_because(record, fleet, tier, ahead, up, in_flight, now))
    if queued and _losses(record) >= SUSPECT_FROM:
        because += _kept_apart(world.queue)
    if expires_at:
        because.append(f"Unless something takes it before, it expires at {expires_at}.")
    return WhyAnswer(
        seq=world.position,
        task_id=record.id,
        state=record.phase,
        tier=record.seeks,
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


def away_since(fleet: FleetState, host: str, otherwise: float | None) -> float | None:
    """Return since when a task's only host is away; without one, `otherwise`."""
    if not host:
        return otherwise
    view = fleet.hosts.get(host)
    if view is None:
        return 0.0
    return otherwise if view.state == "up" else instant_of(view.since)


def expires_at_of(record: TaskRecord, fleet: FleetState) -> float | None:
    """Return when a waiting task expires if nothing takes it before, in epoch seconds.

    None where it waits for something that is there and has no deadline.
    """
    ends = [instant_of(record.deadline)] if record.deadline else []
    gone: float | None = None
    if record.executor not in FIXED_KINDS:
        tiers = (record.seeks, *_other_tiers(record, fleet))
        since = [gone_since(fleet, tier) for tier in tiers]
        outages = [at for at in since if at is not None]
        gone = max(outages) if len(outages) == len(since) else None
    away = away_since(fleet, record.assign_to, gone)
    if away is not None:
        waits_since = instant_of(record.waiting_since)
        policy_s = fleet.in_force.task_ttl_s
        began, ttl_s = time_to_live(waits_since, away, record.ttl_s, policy_s)
        ends.append(began + ttl_s)
    return min(ends, default=None)


def expiring(world: World) -> dict[str, int]:
    """Say of each lane when its first task expires, in epoch milliseconds."""
    first: dict[str, int] = {}
    for (tier, priority), records in world.queue.lanes.items():
        ends = [
            end
            for record in islice(records.values(), EXPIRING_SOUGHT)
            if (end := expires_at_of(record, world.fleet)) is not None
        ]
        if ends:
            first[f"{tier}/{priority}"] = round(min(ends) * 1_000)
    return first


def _other_tiers(record: TaskRecord, fleet: FleetState) -> list[str]:
    """Name the tiers that could take it instead of its own."""

    def is_up(tier: str) -> bool:
        return gone_since(fleet, tier) is None

    tiers = hops(
        cast("c.Tier", record.tier),
        fixed=record.executor in FIXED_KINDS,
        stays=record.stays or record.fallback_used or record.unverified,
        model=record.wanted_model,
        tied=bool(record.assign_to and not record.exclude),
        has_command=record.has_command,
        of_a_model=record.of_a_model,
        is_up=is_up,
        allow_downgrade=fleet.in_force.allow_downgrade,
    )
    return list(tiers)


def _ahead(record: TaskRecord, queued: QueueState) -> int:
    if record.unverified:
        return _ahead_above(record, queued)
    ahead = 0
    for priority in PRIORITIES:
        lane = queued.lanes.get((record.tier, priority)) or ()
        if priority != record.priority:
            ahead += len(lane)
            continue
        for task_id in lane:
            if task_id == record.id:
                return ahead
            ahead += 1
    return ahead


def _ahead_above(record: TaskRecord, queued: QueueState) -> int:
    """Count who waits for the tier above before it, their own tier or not."""
    place = _place(record)
    return sum(
        one.seeks == record.seeks and _place(one) < place
        for tier in (record.tier, record.seeks)
        for priority in PRIORITIES
        for one in queued.lanes.get((tier, priority), {}).values()
    )


def _place(record: TaskRecord) -> tuple[int, str, int]:
    return PRIORITIES.index(record.priority), record.waiting_since, record.seq


def _because(
    record: TaskRecord,
    fleet: FleetState,
    tier: TierView,
    ahead: int | None,
    up: int,
    in_flight: int,
    now: float,
) -> Iterator[str]:
    if ahead is None:
        yield f"It does not wait: it is {record.phase}" + (
            f" on {record.host}." if record.host else "."
        )
        return
    if record.unverified:
        yield _unverified(record)
    there = offered(fleet, record.seeks)
    tiered = record.executor not in FIXED_KINDS
    drained = _drained(record, fleet)
    if not up and not drained:
        yield "No host is up."
    if tiered and up and there == "absent":
        yield _NOT_SET_UP[record.seeks]
    elif tiered and there == "down":
        since = f" since {tier.since}" if tier.state == "down" else ""
        down = _down(fleet, record.seeks)
        yield f"The {record.seeks} tier is down{since}: {down}."
    elif tier.state == "down" and not drained:
        reason = f": {tier.reason}" if tier.reason else ""
        yield f"The {tier.tier} tier is down since {tier.since}{reason}."
    if tiered and up and there != "up":
        yield from _nor(fleet, _other_tiers(record, fleet))
    if condition(fleet, record.seeks, now) == "limited":
        reason = f" ({tier.reason})" if tier.reason else ""
        yield f"The {tier.tier} tier is limited until {tier.until}{reason}."
    if record.assign_to and not any(host.host == record.assign_to for host in drained):
        yield _only_on(record, fleet)
    for host in drained:
        yield _drain_of(host, only=bool(record.assign_to))
    if record.exclude:
        yield f"It is not to be tried on {record.exclude} until that is up again."
    model = record.wanted_model
    lacking = _lacking(fleet, record.seeks, model) if model and there == "up" else ""
    able = [
        host
        for host in fleet.hosts.values()
        if host.state in LIVING and host.host == (record.assign_to or host.host)
    ]
    need = unmet_need(able, record.needs) if able else ""
    if lacking:
        yield lacking
    elif need:
        who = (
            f"{record.assign_to} does not offer"
            if record.assign_to
            else "no host offers"
        )
        yield f"It needs {need}, which {who}; a host's sidecar.toml names its capabilities."
    # Of a host that is away, the scheduler says only that nobody offers the kind of work.
    elif (
        record.waiting_for not in ("", VERIFICATION)
        and not drained
        and away_since(fleet, record.assign_to, None) is None
    ):
        yield f"Last said about it: {record.waiting_for}."
    if ahead:
        others_wait = "1 other waits" if ahead == 1 else f"{ahead} others wait"
        yield f"{others_wait} in the {record.seeks} tier before it."
    if in_flight:
        tasks_are = "1 task" if in_flight == 1 else f"{in_flight} tasks"
        verb = "is" if in_flight == 1 else "are"
        yield f"{tasks_are} of the {record.seeks} tier {verb} under way."


def _unverified(record: TaskRecord) -> str:
    """Say which step did not pass, and where alone it may go on."""
    checks = record.routings[-1].checks if record.routings else []
    failed = next((each for each in reversed(checks) if not each.passed), None)
    what = "."
    if failed is not None:
        how = failed.signal or failed.code or f"exit code {failed.exit_code}"
        what = f": {failed.command} ended with {how} in round {failed.round} of {failed.rounds}."
    return (
        f"What {record.tier} did has not passed its verification{what} It waits for "
        f"{_WORK[record.seeks]}, and is not tried in {record.tier} again."
    )


def _losses(record: TaskRecord) -> int:
    """Count the runs that it lost with their hosts since it was last tried anew."""
    counted = [each for each in record.routings if each.counted]
    since = counted[max(len(counted) - record.attempts, 0) :]
    return sum(each.reason in LOST_RUN for each in since)


def _kept_apart(queued: QueueState) -> Iterator[str]:
    """Name the tasks that a suspect, which lost runs with their hosts, is kept apart from."""
    others = [
        f"{other.id} on {other.host}"
        for other in queued.under_way.values()
        if _losses(other) >= SUSPECT_FROM
    ]
    if others:
        more = len(others) - SUSPECTS_NAMED
        yield (
            "It lost runs with their hosts, and goes nowhere where another such task "
            f"runs: {', '.join(others[:SUSPECTS_NAMED])}"
            + (f" and {more} more." if more > 0 else ".")
        )


def _drained(record: TaskRecord, fleet: FleetState) -> list[HostView]:
    """Return the drained hosts that could take it, where no other host could."""
    able = [
        host
        for host in fleet.hosts.values()
        if host.state in LIVING
        and (not record.assign_to or host.host == record.assign_to)
        and _offers(host, record)
    ]
    return [] if any(host.state == "up" for host in able) else able


def _offers(host: HostView, record: TaskRecord) -> bool:
    kinds = TIER_KINDS[record.seeks]
    if record.executor in FIXED_KINDS or not kinds:
        return True
    return any(
        endpoint.up and endpoint.kind in kinds for endpoint in host.endpoints.values()
    )


def _drain_of(host: HostView, *, only: bool) -> str:
    reason = f" ({host.reason})" if host.reason else ""
    waits = f"It waits for host {host.host}, which" if only else f"Host {host.host}"
    return (
        f"{waits} is drained since {host.since}{reason}; "
        f"`agentcom resume {host.host}` has it take work again."
    )


def _lacking(fleet: FleetState, tier: str, model: str) -> str:
    """Say that none of a tier's endpoints lists a model, and which there are."""
    if "claude" in TIER_KINDS[tier] or not TIER_KINDS[tier]:
        # Claude Code lists none; a command needs none.
        return ""
    if has_model(fleet, tier, model):
        return ""
    names = {name for _, name in models_of(fleet, tier)}
    some = sorted(names)[:MODELS_NAMED]
    more = f" and {len(names) - len(some)} more" if len(names) > len(some) else ""
    there = f"there are: {', '.join(some)}{more}" if some else "there is none at all"
    return f"Nobody has the model {model}; {there}."


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
    """Name a tier's endpoints that are down: since when, why, and what comes next."""
    silent, refusing = [], []
    for host, endpoint in endpoints_of(fleet, tier):
        where = f"{endpoint.endpoint} on {host.host}"
        reason = f" ({endpoint.reason})" if endpoint.reason else ""
        if endpoint.kind != "claude" and not endpoint.again_at:
            silent.append(f"{where} since {endpoint.since}{reason}")
            continue
        again = f"at {endpoint.again_at}" if endpoint.again_at else "all the time"
        refusing.append(
            f"{where} cannot be used since {endpoint.since}{reason}, "
            f"and is looked at again {again}"
        )
    parts = []
    if silent:
        more = f" and {len(silent) - 3} more" if len(silent) > 3 else ""
        parts.append("nothing answers at " + ", ".join(silent[:3]) + more)
    if refusing:
        more = f"; and {len(refusing) - 3} more" if len(refusing) > 3 else ""
        parts.append("; ".join(refusing[:3]) + more)
    return "; ".join(parts)


def _only_on(record: TaskRecord, fleet: FleetState) -> str:
    name = record.assign_to
    host = fleet.hosts.get(name)
    if host is None:
        return (
            f"It waits for host {name}, which is not known: none of that name joined."
        )
    if host.state != "up":
        state = "away" if host.state == "left" else host.state
        return f"It waits for host {name}, which is {state} since {host.since}."
    kinds = TIER_KINDS[record.seeks]
    there = any(endpoint.kind in kinds for endpoint in host.endpoints.values())
    if there or not kinds or record.executor in FIXED_KINDS:
        return f"It may run on {name} only."
    return f"It may run on {name} only, which does not offer {_WORK[record.seeks]}."
