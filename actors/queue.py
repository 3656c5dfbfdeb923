"""What waits: tasks grouped by what they require, in lanes by priority.

Tasks with the same requirement are interchangeable to the router, so a freed place is
offered to a handful of groups and never to a million tasks. Inside a group four lanes are
heaps by submission; a head that has waited ages up a lane, and since a lane's head is its
oldest, looking at four heads is enough. Removal is lazy: an entry that no longer waits is
dropped when it comes to the top.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from events.catalogue import Tier

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterator

    from events.catalogue import Priority, TaskSpec

LANES: Final[dict[Priority, int]] = {"urgent": 0, "high": 1, "normal": 2, "low": 3}
TIER_KIND: Final[dict[Tier, str]] = {
    "trivial": "sidecar",
    "standard": "local",
    "complex": "claude",
}


class Requirement(Struct, frozen=True, kw_only=True):
    """What a place must be to take a task. Equal requirements share a group.

    `kind` is the kind of place (`sidecar`, `local`, `claude`, `agent`, `noop`), `tier`
    the one it belongs to now, `shell` whether it could also run as a command, `hopped`
    whether its one hop is used up, `excluded` the places not to be tried.
    """

    kind: str
    tier: Tier
    model: str = ""
    needs: tuple[str, ...] = ()
    assign_to: str = ""
    shell: bool = False
    hopped: bool = False
    excluded: tuple[str, ...] = ()


def requirement(
    spec: TaskSpec,
    tier: Tier,
    *,
    assign_to: str | None,
    excluded: tuple[str, ...] = (),
    hopped: bool = False,
) -> Requirement:
    """Say what a task requires while it is in `tier`."""
    kind = spec.executor or TIER_KIND[tier]
    return Requirement(
        kind=kind,
        tier=tier,
        model="" if kind in ("sidecar", "noop", "agent") else spec.model or "",
        needs=tuple(sorted(set(spec.needs))),
        assign_to=assign_to or "",
        shell=spec.shell is not None,
        hopped=hopped,
        excluded=tuple(sorted(excluded)),
    )


class Waiting:
    """A task in the queue: what is needed to choose it, and no more."""

    __slots__ = ("group", "lane", "requirement", "seq", "since", "task_id")

    def __init__(
        self, task_id: str, seq: int, lane: int, since: float, required: Requirement
    ) -> None:
        self.task_id = task_id
        self.seq = seq
        self.lane = lane
        self.since = since
        self.requirement = required
        self.group: Group | None = None

    def __lt__(self, other: Waiting) -> bool:
        return self.seq < other.seq


class Group:
    """All waiting tasks with one requirement. Times in epoch seconds."""

    __slots__ = (
        "count",
        "expiries",
        "lanes",
        "requirement",
        "starving_since",
        "unmet_since",
        "untold",
        "wake_at",
    )

    def __init__(self, required: Requirement) -> None:
        self.requirement = required
        self.lanes: tuple[list[Waiting], ...] = ([], [], [], [])
        self.count = 0
        # Who has not been told yet why it waits; None while nobody is to be told.
        self.untold: deque[Waiting] | None = None
        # Since when nothing is there for it; since when none of its tiers could take it,
        # and then when which of its tasks expires: (time, task id), a heap.
        self.unmet_since: float | None = None
        self.starving_since: float | None = None
        self.expiries: list[tuple[float, str]] | None = None
        self.wake_at: float | None = None

    def head(self, now: float, ageing_s: float) -> Waiting | None:
        """Return who is next: the best lane after ageing, then the oldest."""
        best: Waiting | None = None
        best_rank = (99, 0)
        for lane in self.lanes:
            while lane and lane[0].group is not self:
                heapq.heappop(lane)
            if lane:
                rank = rank_of(lane[0], now, ageing_s)
                if rank < best_rank:
                    best, best_rank = lane[0], rank
        return best

    def __iter__(self) -> Iterator[Waiting]:
        for lane in self.lanes:
            for waiting in lane:
                if waiting.group is self:
                    yield waiting


def rank_of(waiting: Waiting, now: float, ageing_s: float) -> tuple[int, int]:
    """Rank a task among all: its lane after ageing, then its place in the log."""
    aged = int(max(0.0, now - waiting.since) // ageing_s)
    return max(0, waiting.lane - aged), waiting.seq


class Queue:
    """All groups."""

    def __init__(self) -> None:
        self.groups: dict[Requirement, Group] = {}
        self.tasks: dict[str, Waiting] = {}

    def __len__(self) -> int:
        return len(self.tasks)

    def add(self, waiting: Waiting) -> Group:
        """Put a task in its group; one that waits already is moved."""
        self.remove(waiting.task_id)
        group = self.groups.get(waiting.requirement)
        if group is None:
            group = self.groups[waiting.requirement] = Group(waiting.requirement)
        # The group's own spelling, so that a million tasks share one requirement.
        waiting.requirement = group.requirement
        waiting.group = group
        group.count += 1
        if group.untold is not None:
            group.untold.append(waiting)
        self.tasks[waiting.task_id] = waiting
        heapq.heappush(group.lanes[waiting.lane], waiting)
        return group

    def remove(self, task_id: str) -> Waiting | None:
        """Take a task out; None if it does not wait."""
        waiting = self.tasks.pop(task_id, None)
        if waiting is None:
            return None
        group = waiting.group
        waiting.group = None
        if group is not None:
            group.count -= 1
            if group.count == 0:
                self.groups.pop(group.requirement, None)
        return waiting
