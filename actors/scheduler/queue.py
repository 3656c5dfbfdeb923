"""What waits: tasks grouped by what they require, in lanes by priority.

Tasks with the same requirement are interchangeable to the router, so a freed place is
offered to a handful of groups and never to a million tasks. Inside a group four lanes,
one for each priority, are heaps by submission.

A task *ages*: for each `ageing_s` of the policy that it waits it counts as if it stood one
lane better. Who is next is the best lane after ageing, and there the first submitted. Where
those of a lane began to wait in the order they were submitted, its head has waited longest
too and is the best of it at any time, so looking at four heads is enough. A task that waits
again after a route breaks that order: it was submitted early and has hardly aged. Such
tasks are kept apart (`Disordered`), where each is moved up as it ages.

Removal is lazy: an entry that no longer waits is dropped when it comes to the top.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from sortedcontainers import SortedKeyList

from actors.rules.chats import needs_choice
from actors.rules.contexts import context_needed
from events import catalogue as c

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


PLACE_KIND: Final[dict[c.Tier, str]] = {
    "trivial": "sidecar",
    "standard": "local",
    "complex": "claude",
}
"""The kind of place where a tier's tasks run: a host's shell, a local model, Claude Code.

`events.lifecycle.TIER_KINDS` says which kinds of endpoint are places of a tier.
"""
LANES: Final[dict[c.Priority, int]] = {"urgent": 0, "high": 1, "normal": 2, "low": 3}
"""A priority's lane; the lowest number goes first."""


class Requirement(Struct, frozen=True, kw_only=True, cache_hash=True):
    """What a place must be to take a task. Equal requirements share a group.

    Of the place: its `kind`, the `model` it must have ("" for any), the capabilities that
    its host must have (`needs`), the only host that it may be on (`assign_to`, "" for any),
    the repository that its host must have or may clone (`repo`, "" for none), that its
    host runs verification steps (`verifies`).
    Of a model endpoint: that an agent can work there (`work`), that its model calls tools
    (`tools`), as the task prescribes (`choice`), sees pictures (`vision`), makes vectors
    (`embeds`) and reads so many tokens (`context`).
    Of its slots: that those which parents lend are free (`child`).
    `actors.scheduler.fleet.pool_key` keeps these: pools go by them alone.

    Of what the task may still try: `shell`, whether it could also run as a command;
    `chat`, whether it has options that a model server alone honours;
    `hopped`, whether its one hop is used up; `unverified`, whether its own tier's work did
    not pass its verification; `excluded`, the hosts and endpoints not to be tried. `tier` is
    the one it is in now. `suspect`: it lost runs with their hosts, and runs on a host where
    no other suspect does.
    """

    kind: str
    tier: c.Tier
    model: str = ""
    needs: tuple[str, ...] = ()
    assign_to: str = ""
    repo: str = ""
    verifies: bool = False
    work: bool = False
    tools: bool = False
    choice: bool = False
    vision: bool = False
    embeds: bool = False
    context: int = 0
    child: bool = False
    shell: bool = False
    chat: bool = False
    hopped: bool = False
    unverified: bool = False
    excluded: tuple[str, ...] = ()
    suspect: bool = False


def requirement(
    spec: c.TaskSpec,
    tier: c.Tier,
    *,
    assign_to: str | None,
    mode: c.Mode | None = None,
    prompt_tokens: int = 0,
    child: bool = False,
    hopped: bool = False,
) -> Requirement:
    """Return what a task requires of a place as it was submitted.

    `mode` is None, and `prompt_tokens` 0, where its submission does not say them. `hopped`
    is for a task that may not leave its tier at all.
    """
    kind = spec.executor or PLACE_KIND[tier]
    return Requirement(
        kind=kind,
        tier=tier,
        model="" if kind in ("sidecar", "noop", "agent") else spec.model or "",
        needs=tuple(sorted(set(spec.needs))),
        assign_to=assign_to or "",
        repo="" if kind == "noop" else spec.repo or "",
        verifies=bool(spec.verification_steps),
        work=mode == "work",
        tools=spec.chat is not None and bool(spec.chat.tools),
        choice=needs_choice(spec),
        vision=any(map(c.is_picture, spec.attachments)),
        embeds=spec.embed is not None,
        context=context_needed(prompt_tokens, work=mode == "work") if mode else 0,
        child=child,
        shell=spec.shell is not None,
        chat=bool(c.chat_options(spec)),
        hopped=hopped,
    )


class Waiting(Struct, eq=False, gc=False):
    """A task in the queue: what is needed to choose it, and no more.

    `seq` is its submission's place in the log, `since` when it began to wait (log
    time). `waits` is true from when a group takes it in until it is taken out, which is
    for good. It is part of no cycle, so it is none of the garbage collector's.
    """

    task_id: str
    seq: int
    lane: int
    since: float
    requirement: Requirement
    waits: bool = False

    def __lt__(self, other: Waiting) -> bool:
        return self.seq < other.seq


class Disordered:
    """The tasks of a group that began to wait in another order than they came.

    Heaps by submission, one for each rank after ageing, and beside them, by the start of
    the wait, who is to move up next: each task moves at most three times. None moves down:
    who has aged stays aged where the clock is put back.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._ageing_s = 0.0
        self._clear()

    def _clear(self) -> None:
        self._ranks: tuple[list[Waiting], ...] = ([], [], [], [])
        # (lane, rank it has now) to those who may still move up, longest waiting first.
        self._moving: dict[tuple[int, int], SortedKeyList[Waiting, float]] = {}
        self._entries = 0

    def add(self, waiting: Waiting) -> None:
        """Take a task in, unaged; `head` moves it to where it belongs."""
        if self._entries > 2 * self._group.count + 64:
            # Most entries are of tasks that wait no longer, or have moved up. So the heaps
            # are made anew once in so many additions; 64 spares small groups that.
            remaining = list(self._standing())
            self._clear()
            for rank, one in remaining:
                self._put(one, rank)
        self._put(waiting, waiting.lane)

    def _put(self, waiting: Waiting, rank: int) -> None:
        heapq.heappush(self._ranks[rank], waiting)
        self._entries += 1
        if rank:
            moving = self._moving.get((waiting.lane, rank))
            if moving is None:
                moving = SortedKeyList(key=_since)
                self._moving[waiting.lane, rank] = moving
            moving.add(waiting)

    def head(self, now: float, ageing_s: float) -> Waiting | None:
        """Return the best of them."""
        if ageing_s != self._ageing_s:
            self._ageing_s = ageing_s
            remaining = list(self)
            self._clear()
            for waiting in remaining:
                self._put(waiting, waiting.lane)
        self._move_up(now)
        for rank, heap in enumerate(self._ranks):
            # One that moved up stands in a better rank, which has been looked at.
            while heap and (
                not heap[0].waits or rank_of(heap[0], now, ageing_s)[0] < rank
            ):
                heapq.heappop(heap)
            if heap:
                return heap[0]
        return None

    def _move_up(self, now: float) -> None:
        for (lane, rank), moving in sorted(self._moving.items(), reverse=True):
            while moving:
                first = moving[0]
                better = rank_of(first, now, self._ageing_s)[0]
                if first.waits and better >= rank:
                    break
                del moving[0]
                if first.waits:
                    self._put(first, better)
            if not moving:
                del self._moving[lane, rank]

    def _standing(self) -> Iterator[tuple[int, Waiting]]:
        """Yield each that still waits, once, with the best rank it has reached."""
        seen: set[str] = set()
        for rank, heap in enumerate(self._ranks):
            for waiting in heap:
                if waiting.waits and waiting.task_id not in seen:
                    seen.add(waiting.task_id)
                    yield rank, waiting

    def __iter__(self) -> Iterator[Waiting]:
        return (waiting for _, waiting in self._standing())


def _since(waiting: Waiting) -> float:
    return waiting.since


class Expiries:
    """The waiting tasks of a starving group, by when they expire (log time).

    Nearly all come in the order in which they expire, and of those only the order is kept:
    a million of them cost eight bytes each. The others are in a heap. Who waits no longer
    is passed over when it comes to the front.

    Those that wait already are taken in part by part, so that a million of them hold nobody
    up. Each part is sorted; where it begins after the end of the part before, the two are
    one row.
    """

    def __init__(self, group: Group, due: Callable[[Waiting], float]) -> None:
        """`take` takes in a group; `due` tells when one expires, the same at any time."""
        self._due = due
        self._coming = deque(group)
        self._rows: list[deque[Waiting]] = [deque()]
        # When the last one of the last row expires.
        self._latest = float("-inf")
        self._early: list[tuple[float, int, Waiting]] = []

    def take(self, most: int) -> bool:
        """Take in at most so many of those that waited already; whether that was all."""
        coming = self._coming
        part = [coming.popleft() for _ in range(min(most, len(coming)))]
        if part:
            part.sort(key=self._due)
            if self._due(part[0]) < self._latest:
                self._rows.append(deque())
            self._rows[-1].extend(part)
            self._latest = self._due(part[-1])
        return not coming

    def add(self, waiting: Waiting) -> None:
        """Take in one that has begun to wait."""
        due = self._due(waiting)
        if due >= self._latest:
            self._latest = due
            self._rows[-1].append(waiting)
        else:
            heapq.heappush(self._early, (due, waiting.seq, waiting))

    def first(self) -> tuple[float, Waiting] | None:
        """Return when the next one expires, and which; None where nobody waits."""
        early = self._early
        while early and not early[0][2].waits:
            heapq.heappop(early)
        first = (early[0][0], early[0][2]) if early else None
        for row in self._rows:
            while row and not row[0].waits:
                row.popleft()
            if row and (first is None or self._due(row[0]) <= first[0]):
                first = (self._due(row[0]), row[0])
        return first


class Group:
    """All waiting tasks with one requirement. Times are log time."""

    def __init__(self, required: Requirement) -> None:
        self.requirement = required
        # By priority, each a heap by submission. An entry that waits no longer is dropped
        # when it comes to the top.
        self.lanes: tuple[list[Waiting], ...] = ([], [], [], [])
        # The last that came into each lane, by which the next is known to be in order.
        self._newest: list[Waiting | None] = [None, None, None, None]
        self._disordered: Disordered | None = None
        self.count = 0
        # Those not deferred yet: the log is still to say why they wait. None while the
        # group is met and nothing is to be said.
        self.untold: deque[Waiting] | None = None
        # Since when it is unmet, as far as that was seen. The wait before a hop runs from
        # here where its tier is up, and from the tier's own outage where it is down.
        self.unmet_since: float | None = None
        # Since when it starves: its tasks' time to live runs. While it does, `expiries`
        # says which of them expires next.
        self.starving_since: float | None = None
        self.expiries: Expiries | None = None
        # The timer that is set for this group, so that none is set twice.
        self.wake_at: float | None = None

    def begin_anew(self) -> None:
        """Forget what an earlier leadership timed."""
        self.wake_at = self.expiries = None
        self.unmet_since = self.starving_since = None

    def add(self, waiting: Waiting) -> None:
        """Take a task in."""
        waiting.waits = True
        self.count += 1
        if self.untold is not None:
            self.untold.append(waiting)
        if self._is_in_order(waiting):
            self._newest[waiting.lane] = waiting
            heapq.heappush(self.lanes[waiting.lane], waiting)
            return
        if self._disordered is None:
            self._disordered = Disordered(self)
        self._disordered.add(waiting)

    def _is_in_order(self, waiting: Waiting) -> bool:
        """Whether it was submitted and began to wait after all others of its lane."""
        newest = self._newest[waiting.lane]
        if newest is None or not self.lanes[waiting.lane]:
            return True
        return waiting.seq > newest.seq and waiting.since >= newest.since

    def head(self, now: float, ageing_s: float) -> Waiting | None:
        """Return who is next: the best lane after ageing, then the first submitted."""
        best: Waiting | None = None
        best_rank = (len(LANES), 0)  # behind every lane
        if self._disordered is not None:
            best = self._disordered.head(now, ageing_s)
            if best is None:
                self._disordered = None
            else:
                best_rank = rank_of(best, now, ageing_s)
        for lane in self.lanes:
            while lane and not lane[0].waits:
                heapq.heappop(lane)
            if lane:
                rank = rank_of(lane[0], now, ageing_s)
                if rank < best_rank:
                    best, best_rank = lane[0], rank
        return best

    def __iter__(self) -> Iterator[Waiting]:
        for lane in self.lanes:
            for waiting in lane:
                if waiting.waits:
                    yield waiting
        if self._disordered is not None:
            yield from self._disordered


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
        if waiting.task_id in self.tasks:
            self.remove(waiting.task_id)
        group = self.groups.get(waiting.requirement)
        if group is None:
            group = self.groups[waiting.requirement] = Group(waiting.requirement)
        # The group's own object, so that a million tasks share one requirement.
        waiting.requirement = group.requirement
        self.tasks[waiting.task_id] = waiting
        group.add(waiting)
        return group

    def remove(self, task_id: str) -> Waiting | None:
        """Take a task out; None if it does not wait."""
        waiting = self.tasks.pop(task_id, None)
        if waiting is None:
            return None
        waiting.waits = False
        group = self.groups[waiting.requirement]
        group.count -= 1
        if group.count == 0:
            del self.groups[waiting.requirement]
        return waiting
