"""A task that is not over, as the scheduler holds it, and the end of one of its routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from actors.scheduler.queue import TIER_KIND, Requirement
from events import catalogue as c
from events.lifecycle import FIXED_KINDS

if TYPE_CHECKING:
    from actors.lifecycle import TaskState


class LiveTask:
    """A task that is not over: its state, and what choosing a place for it needs."""

    __slots__ = (
        "base",
        "deadline",
        "deciding",
        "deferred",
        "incarnation",
        "lane",
        "reason",
        "repo",
        "routed",
        "state",
        "ttl_s",
    )

    def __init__(
        self,
        state: TaskState,
        base: Requirement,
        lane: int,
        repo: str | None,
        reason: str,
    ) -> None:
        # The fold of its events, see `actors.lifecycle`.
        self.state = state
        # What it requires as it was submitted, before hops and exclusions.
        self.base = base
        self.lane = lane
        self.repo = repo
        # Why it was classified as it is; every route repeats it.
        self.reason = reason
        # Its own limits to waiting: seconds of which nobody could take it (None: the
        # policy's), and an instant (epoch seconds).
        self.ttl_s: float | None = None
        self.deadline: float | None = None
        # The id of the decision about it that is on its way to the log, "" for none.
        # Until that is back, or is known not to have been stored, nothing else is
        # decided about it and it stands in no queue.
        self.deciding = ""
        # The incarnation of its host that accepted or started the route in force.
        self.incarnation = ""
        # Whether the log says already why it waits.
        self.deferred = False
        # The route in force, None while there is none.
        self.routed: c.TaskRouted | None = None

    @property
    def kind(self) -> str:
        """The kind of place it is at, or wants next."""
        return self.base.kind if self.fixed else TIER_KIND[self.state.tier]

    @property
    def fixed(self) -> bool:
        """Whether its kind of work belongs to no tier."""
        return self.base.kind in FIXED_KINDS

    def requirement(self, excluded: tuple[str, ...]) -> Requirement:
        """What it requires in the tier it is in now."""
        base, state = self.base, self.state
        return Requirement(
            kind=self.kind,
            tier=state.tier,
            model=base.model,
            needs=base.needs,
            assign_to=state.assign_to or "",
            shell=base.shell,
            hopped=state.hopped_from is not None,
            excluded=excluded,
        )


class RouteEnd(NamedTuple):
    """A route that is over without a result, and why.

    `exclude` is an endpoint or host that the task should not be sent to again; `counts`
    says whether this end is an attempt that the task's fold has not counted.
    """

    reason: str
    detail: str = ""
    exclude: str | None = None
    counts: bool = False


def end_said_by(event: c.Event) -> RouteEnd:
    """Return the end of a route as its host's own report says it."""
    match event:
        case c.TaskReturned():
            return RouteEnd(event.reason, event.detail, event.exclude)
        case c.TaskRejected():
            return RouteEnd(f"rejected: {event.reason}", event.detail)
        case _:
            return RouteEnd("stopped")
