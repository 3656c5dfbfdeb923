"""What the log says about each routing decision of a span, gathered in one walk.

A decision is judged by what was known when it was made (the endpoints' models, how many
escalations were in flight) and by what came of it, which is known only later (what its
runs were booked for, when a tier came back).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from events import catalogue as c
from events.lifecycle import ON_HOST
from events.models import listed_models
from projections.tiers import instant_of

if TYPE_CHECKING:
    from projections.judged import JudgedEvent
    from projections.world import World


class PastDecision(NamedTuple):
    """A recorded decision, and what was true around it."""

    seq: int
    event: c.TaskRouted
    preferred: c.Tier
    ready_at: float
    """Since when the task could be routed, seconds since 1970."""
    fixed: bool
    """Whether the task named its host or executor, and so could go nowhere else."""
    endpoints: dict[tuple[str, str], tuple[str, list[str], list[str]]]
    """(host, endpoint) of each local candidate to its models and those in memory."""
    escalated: int
    """Other tasks that were in flight on a tier above their own."""
    escalated_usd: float
    """Dollars of escalated runs that had ended that day."""
    other_tier_up: bool
    """Whether the tier that the task could have fallen back to was up."""
    submitted_seq: int


class Bill:
    """What a route was booked for.

    `unknown` is set where the dollars of one of its runs are not known; `equivalent` is
    what local runs would have cost on Claude, None where there is no estimate.
    """

    __slots__ = ("equivalent", "result", "unknown", "usd")

    def __init__(self) -> None:
        self.usd = 0.0
        self.equivalent: float | None = None
        self.unknown = False
        self.result: c.Result | None = None

    @property
    def usd_if_known(self) -> float | None:
        """The dollars, None where nobody knows all of them."""
        return None if self.unknown else self.usd

    def add(self, result: c.Result) -> None:
        """Book a result."""
        self.result = result
        if result.estimated_cost_usd is None:
            self.unknown = True
        else:
            self.usd += result.estimated_cost_usd
        if result.equivalent_claude_cost_usd is not None:
            self.equivalent = (
                self.equivalent or 0.0
            ) + result.equivalent_claude_cost_usd


class Reading:
    """What the walk through the log gathers; `see` is handed to `TimeTravel.walk`.

    `bills` are by route; `ups` are the instants at which each tier came up, in order;
    `named_models` are the exact models that tasks asked for, "" for none.
    """

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.decisions: list[PastDecision] = []
        self.bills: dict[str, Bill] = {}
        self.ups: dict[str, list[float]] = {}
        self.named_models: dict[str, str] = {}
        self._escalated: set[str] = set()
        self._escalated_usd: dict[str, float] = {}

    def see(self, world: World, judged: JudgedEvent) -> None:
        """Take one event in; `world` is what it has led to."""
        if judged.verdict == "foreign":
            return
        event = judged.recorded.event
        task = judged.task
        if judged.result is not None and judged.routing is not None:
            bill = self.bills.get(judged.routing.route)
            if bill is not None:
                bill.add(judged.result)
            if judged.routing.fallback_used and judged.routing.tier == "complex":
                day = event.at[:10]
                spent = judged.result.estimated_cost_usd or 0.0
                self._escalated_usd[day] = self._escalated_usd.get(day, 0.0) + spent
        if task is not None and judged.after not in ON_HOST:
            self._escalated.discard(task.id)
        if judged.verdict != "applied":
            return
        if isinstance(event, c.TaskSubmitted):
            self.named_models[event.task_id] = event.spec.model or ""
        elif isinstance(event, c.TierUp):
            self.ups.setdefault(event.tier, []).append(instant_of(event.at))
        elif isinstance(event, c.TaskRouted) and task is not None:
            if judged.recorded.seq <= self.end:
                self._decision(world, judged, event)
            if event.fallback_used and event.effective_tier == "complex":
                self._escalated.add(task.id)

    def _decision(self, world: World, judged: JudgedEvent, event: c.TaskRouted) -> None:
        task = judged.task
        assert task is not None
        self.bills[event.id] = Bill()
        endpoints = {}
        for one in event.candidates:
            host = world.fleet.hosts.get(one.host)
            endpoint = host.endpoints.get(one.endpoint) if host is not None else None
            if endpoint is not None and endpoint.kind != "claude":
                endpoints[one.host, one.endpoint] = (
                    endpoint.kind,
                    listed_models(endpoint.kind, endpoint.models),
                    listed_models(endpoint.kind, endpoint.loaded),
                )
        other = "standard" if task.preferred_tier == "complex" else "complex"
        tier = world.fleet.tiers.get(other)
        self.decisions.append(
            PastDecision(
                seq=judged.recorded.seq,
                event=event,
                preferred=_tier(task.preferred_tier),
                ready_at=instant_of(task.waiting_since),
                fixed=bool(task.assign_to or task.executor),
                endpoints=endpoints,
                escalated=len(self._escalated - {task.id}),
                escalated_usd=self._escalated_usd.get(event.at[:10], 0.0),
                other_tier_up=tier is not None and tier.state == "up",
                submitted_seq=task.seq,
            )
        )


def _tier(name: str) -> c.Tier:
    match name:
        case "trivial" | "standard" | "complex":
            return name
        case _:
            return "standard"
