"""Why a task waits, and until when: what could take it, what is ahead of it, what is missing."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal

from events.codec import instant, rfc3339
from events.errors import Malformed
from projections.answers import WhyAnswer
from projections.fleet import TierView
from projections.queue import PRIORITIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from events import catalogue as c
    from projections.fleet import FleetState
    from projections.queue import QueueState
    from projections.record import TaskRecord
    from projections.world import World

USUAL_TTL_S: Final = 600.0
"""The policy's `task_ttl_s` where no policy was ever set."""
TIER_KINDS: Final = {"standard": ("ollama", "openai"), "complex": ("claude",)}
"""The kinds of endpoint that make a tier; every host runs commands, which is trivial."""
EXPIRING_SOUGHT: Final = 100
"""So many of a lane are looked at; the others came later."""
TIERLESS: Final = ("agent", "noop")
"""Executors that belong to no tier."""


def why(
    record: TaskRecord,
    world: World,
    *,
    spec: c.TaskSpec | None = None,
    policy: dict[str, Any] | None = None,
) -> WhyAnswer:
    """Say why a task waits; `policy` is the one in force, None the built-in one."""
    tier = world.fleet.tiers.get(record.tier, TierView(record.tier))
    ahead = _ahead(record, world.queue) if record.phase == "waiting" else None
    up = sum(host.state == "up" for host in world.fleet.hosts.values())
    in_flight = sum(
        other.tier == record.tier and other.phase != "returned"
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
        state=record.phase,
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
    record: TaskRecord, spec: c.TaskSpec | None, policy: dict[str, Any]
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
    spec: c.TaskSpec | None,
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


def expiring(world: World, ttl_s: float) -> dict[str, int]:
    """Say of each lane when its first task expires, in ms, if nothing can take it before.

    A task expires that long after it waits and there is nobody who could take it: its
    host is away, or its tier is.
    """
    found: dict[str, int] = {}
    for (tier, priority), records in world.queue.lanes.items():
        gone = gone_since(world.fleet, tier)
        begins = [
            max(instant_of(record.waiting_since), since)
            for record in islice(records.values(), EXPIRING_SOUGHT)
            if (since := away_since(world.fleet, record.assign_to, gone)) is not None
        ]
        if begins:
            found[f"{tier}/{priority}"] = round((min(begins) + ttl_s) * 1_000)
    return found


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
        yield f"It does not wait: it is {record.phase}" + (
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
