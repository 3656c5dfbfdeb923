"""The tiers: what they are made of, how they stand, and how that is worded for people.

The log holds a tier's changes only: outages and limits. A tier that never had one is as
the fleet is, absent where nobody offers it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

from msgspec.structs import asdict

from events.codec import instant
from events.errors import Malformed
from events.lifecycle import FIXED_KINDS, TIER_KINDS
from events.models import model_named
from projections.answers import TierRow
from projections.fleet import TierView

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from projections.fleet import EndpointView, FleetState, HostView
    from projections.world import World

LIVING: Final = ("up", "draining")
"""The states of a host that counts as one that offers what it has."""


def rows(world: World, now: float) -> list[TierRow]:
    """Show the tiers; `now` is the time that they are shown for, in epoch seconds."""
    queue = world.queue
    taken: Counter[tuple[str, str]] = Counter()
    for record in queue.under_way.values():
        if record.phase != "returned" and record.executor not in FIXED_KINDS:
            taken[record.host, record.endpoint] += 1
            taken["", record.endpoint] += 1
    return [
        _row(
            world.fleet,
            tier,
            sum(len(lane) for (of, _), lane in queue.lanes.items() if of == tier),
            _slots(world.fleet, tier),
            taken,
            now,
        )
        for tier in TIER_KINDS
    ]


def _row(
    fleet: FleetState,
    tier: str,
    waiting: int,
    slots: dict[tuple[str, str], int],
    taken: Counter[tuple[str, str]],
    now: float,
) -> TierRow:
    view = view_at(fleet, tier, now)
    free = sum(max(n - taken[place], 0) for place, n in slots.items())
    row = TierRow(
        **asdict(view),
        offered=offered(fleet, tier),
        condition=condition(fleet, tier, now),
        waiting=waiting,
        free=free,
        slots=sum(slots.values()),
    )
    match row.condition:
        case "absent" if any(host.state in LIVING for host in fleet.hosts.values()):
            row.wording = "not set up"
        case "absent":
            row.wording = "no host"
        case "limited":
            row.wording, row.wording_at = "limited until", view.until or ""
        case "down" if view.state == "down":
            row.wording, row.wording_at = "down since", view.since
        case "down":
            row.wording = "down"
        case _ if waiting:
            # What waits while slots are free, waits for something else: a host, a model.
            row.condition = "up" if free else "busy"
            row.wording = f"{row.condition}, {waiting} waiting"
        case _:
            row.wording = "up"
    return row


def view_at(fleet: FleetState, tier: str, now: float) -> TierView:
    """Show a tier for a time: a limit is over at the end that it was given."""
    view = fleet.tiers.get(tier, TierView(tier))
    if view.state != "limited" or instant_of(view.until or "") > now:
        return view
    return TierView(tier, state="up", since=view.until or view.since)


def condition(
    fleet: FleetState, tier: str, now: float
) -> Literal["absent", "limited", "down", "up"]:
    """Say how a tier stands, from the log's outages and limits and from the fleet."""
    view, there = fleet.tiers.get(tier, TierView(tier)), offered(fleet, tier)
    if there == "absent":
        return "absent"
    if view.state == "limited" and instant_of(view.until or "") > now:
        return "limited"
    if view.state == "down" or (view.state == "unknown" and there == "down"):
        return "down"
    return "up"


def offered(fleet: FleetState, tier: str) -> Literal["up", "down", "absent"]:
    """Say what the fleet has of a tier: some of it up, all of it down, or nothing."""
    if not TIER_KINDS[tier]:
        living = any(host.state in LIVING for host in fleet.hosts.values())
        return "up" if living else "absent"
    ups = [endpoint.up for _, endpoint in endpoints_of(fleet, tier)]
    return "absent" if not ups else "up" if any(ups) else "down"


def endpoints_of(
    fleet: FleetState, tier: str
) -> Iterator[tuple[HostView, EndpointView]]:
    """Yield a tier's endpoints on the hosts that are there."""
    for host in fleet.hosts.values():
        if host.state in LIVING:
            for endpoint in host.endpoints.values():
                if endpoint.kind in TIER_KINDS[tier]:
                    yield host, endpoint


def models_of(fleet: FleetState, tier: str) -> Iterator[tuple[EndpointView, str]]:
    """Yield the models of a tier's endpoints that answer, each with its endpoint."""
    for _, endpoint in endpoints_of(fleet, tier):
        if endpoint.up:
            for name in (*endpoint.models, *endpoint.loaded):
                yield endpoint, name


def has_model(fleet: FleetState, tier: str, model: str) -> bool:
    """Whether an endpoint that answers has the model that somebody names."""
    return any(
        model_named(model, endpoint.kind, (name,))
        for endpoint, name in models_of(fleet, tier)
    )


def gone_since(fleet: FleetState, tier: str) -> float | None:
    """Return since when a tier is down or absent, None while it is there."""
    view = fleet.tiers.get(tier)
    if view is not None and view.state == "down":
        return instant_of(view.since)
    return None if offered(fleet, tier) == "up" else 0.0


def _slots(fleet: FleetState, tier: str) -> dict[tuple[str, str], int]:
    """Count a tier's slots on hosts that take work, by host and endpoint."""
    slots: dict[tuple[str, str], int] = {}
    for host in fleet.hosts.values():
        if host.state != "up":
            continue
        if not TIER_KINDS[tier]:
            slots[host.host, ""] = host.slots.get("shell", 0)
        for name, endpoint in host.endpoints.items():
            if endpoint.up and endpoint.kind in TIER_KINDS[tier]:
                # Hosts that share an endpoint share its slots.
                slots["" if endpoint.shared else host.host, name] = endpoint.slots
    return slots


def instant_of(text: str) -> float:
    """Read when something was, in epoch seconds; what cannot be read was long ago."""
    try:
        return instant(text)
    except Malformed:
        return 0.0


def unmet_need(hosts: Iterable[HostView], needs: Iterable[str]) -> str:
    """Return the first of a task's needs that none of these hosts offers, "" for none."""
    offers = {each for host in hosts for each in host.capabilities}
    return next((need for need in needs if need not in offers), "")
