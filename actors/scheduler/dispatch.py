"""Dispatch: which waiting task goes to which place, and when one may leave its tier.

A group is offered its own pool first. Is nothing open there because all is taken or
limited, it queues. Is nothing there at all, the wait for the tier runs (from the tier's
own `down`, not from the task's arrival), and after it one hop, one step, may follow. What
all its tiers refuse starves: only then does its TTL run.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from actors.rules import routing
from actors.scheduler.queue import (
    LANES,
    TIER_KIND,
    Group,
    Requirement,
    Waiting,
    rank_of,
    requirement,
)
from events import catalogue as c
from events.codec import rfc3339
from events.lifecycle import FIXED_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.lifecycle import Head
    from actors.scheduler.places import Place, Pool
    from actors.scheduler.state import Board, Live
    from events.catalogue import TaskSpec, Tier


class Target(NamedTuple):
    """A pool to choose from, and the hop that leads there."""

    pool: Pool
    excluded: tuple[str, ...]
    hop_from: Tier | None = None
    code: c.FallbackCode | None = None
    reason: str | None = None
    wait: c.Wait | None = None


class Held(NamedTuple):
    """Why a group's head has no place now, and when time alone may change that.

    `starving` says that none of its tiers could take it even with all slots free.
    """

    why: str
    again_at: float | None = None
    starving: bool = False


class Dispatch:
    """Routes for the waiting. `head` makes the ids and times of the events."""

    def __init__(
        self,
        board: Board,
        head: Callable[[], Head],
        wake_at: Callable[[float, Requirement], None],
        ticks: Callable[[], float],
    ) -> None:
        self._board = board
        self._head = head
        self._wake_at = wake_at
        self._ticks = ticks

    def run(
        self, now: float, take: Callable[[Live, c.TaskRouted, Place], None]
    ) -> list[Group]:
        """Offer open places to the groups that might move, the best head first.

        `take` reserves what was decided. Returns the groups that stay without a place
        because nothing is there for them.
        """
        board = self._board
        ageing = board.policy.ageing_s
        heads: list[tuple[tuple[int, int], Group]] = []
        ready, board.ready = board.ready, set()
        for required in ready:
            group = board.queue.groups.get(required)
            first = group.head(now, ageing) if group is not None else None
            if group is not None and first is not None:
                heads.append((rank_of(first, now, ageing), group))
        heapq.heapify(heads)
        unmet: list[Group] = []
        while heads:
            _, group = heapq.heappop(heads)
            waiting = group.head(now, ageing)
            if waiting is None:
                continue
            target = self.target(group, now)
            if isinstance(target, Held):
                if target.again_at is not None:
                    self._wake_at(target.again_at, group.requirement)
                if group.requirement in board.unmet:
                    unmet.append(group)
                continue
            routed = self._route(waiting, target, now)
            if routed is None:
                continue
            take(*routed)
            following = group.head(now, ageing)
            if following is not None:
                heapq.heappush(heads, (rank_of(following, now, ageing), group))
        return unmet

    # -- where to ----------------------------------------------------------------------

    def target(self, group: Group, now: float) -> Target | Held:
        """Find the pool that a group's head may use now, with the hop if there is one."""
        board, required = self._board, group.requirement
        pool = board.fleet.pool(required)
        excluded = required.excluded
        if pool.available_to(excluded):
            board.unmet.discard(required)
            group.unmet_since = group.starving_since = None
            group.expiries = group.untold = None
            if pool.open_to(excluded):
                return Target(pool, excluded)
            return Held("all that could take it are busy or limited")
        board.unmet.add(required)
        held = self._elsewhere(group, pool, now)
        if isinstance(held, Held) and held.starving:
            if group.starving_since is None:
                group.starving_since = self._starving_since(required, now)
        else:
            group.starving_since = group.expiries = None
        return held

    def _elsewhere(self, group: Group, pool: Pool, now: float) -> Target | Held:
        """Its own pool has nobody for it: hop, wait, or try the excluded again."""
        board, required = self._board, group.requirement
        since = self._unavailable_since(group, now)
        tiers = self._one_step(required)
        pools = [(tier, self._pool_in(tier, required)) for tier in tiers]
        reachable = any(other.available_to(required.excluded) for _, other in pools)
        if pool.available and not reachable:
            # Nothing but what failed on it: the exclusions are dropped.
            if pool.open_to(()):
                return Target(pool, ())
            return Held("all that could take it are busy or limited")
        absent = not board.fleet.offered(required.kind)
        hop_at = since if absent else since + board.policy.fallback_wait_s
        if not reachable:
            return Held(self._why_none(required, pool), None, starving=True)
        if now < hop_at:
            return Held(f"waiting for {required.tier} to come back", hop_at)
        for tier, other in pools:
            if not other.available_to(required.excluded):
                continue
            if tier == "complex":
                refused = self._may_not_escalate()
                if refused is not None:
                    return Held(refused)
            if not other.open_to(required.excluded):
                return Held(f"{tier}, where it may fall back to, is busy or limited")
            waited = round(max(0.0, now - since), 6)
            return Target(
                other,
                required.excluded,
                required.tier,
                *self._why_hop(required, pool, absent, waited),
                c.Wait(required.tier, rfc3339(since), waited, "taken"),
            )
        return Held(self._why_none(required, pool), None, starving=True)

    def _pool_in(self, tier: Tier, required: Requirement) -> Pool:
        return self._board.fleet.pool(
            Requirement(
                kind=TIER_KIND[tier],
                tier=tier,
                needs=required.needs,
                assign_to=required.assign_to,
            )
        )

    def tier_pool(self, tier: Tier) -> Pool:
        """Return the pool of a whole tier."""
        return self._board.fleet.pool(Requirement(kind=TIER_KIND[tier], tier=tier))

    def _unavailable_since(self, group: Group, now: float) -> float:
        required = group.requirement
        down_since = self._board.tiers[required.tier].down_since
        if down_since is not None and required.kind not in FIXED_KINDS:
            return down_since
        if group.unmet_since is None:
            group.unmet_since = now
        return group.unmet_since

    def _one_step(self, required: Requirement) -> list[Tier]:
        """Where one hop may lead: at most one step, never for an exact model."""
        if required.hopped or required.model or required.kind in FIXED_KINDS:
            return []
        tier_is_up = self.tier_pool(required.tier).available > 0
        if required.assign_to and tier_is_up and not required.excluded:
            return []
        if required.tier == "standard":
            complex_is_up = self.tier_pool("complex").available > 0
            lower: list[Tier] = (
                ["trivial"] if required.shell and not complex_is_up else []
            )
            return ["complex", *lower]
        if required.tier == "complex" and self._board.policy.allow_downgrade:
            # It acts on a tier that is down; what failed on Claude never goes lower.
            return ["standard"] if not tier_is_up else []
        return []

    def _may_not_escalate(self) -> str | None:
        board = self._board
        most = board.policy.max_escalations_in_flight
        if len(board.escalated) >= most:
            return f"{most} escalations to complex are in flight already"
        budget = board.policy.escalation_budget_usd_per_day
        day, spent = board.escalated_usd
        if budget is not None and day == rfc3339(board.now)[:10] and spent >= budget:
            return f"today's ${budget:.2f} for escalations are spent"
        return None

    def _why_hop(
        self, required: Requirement, pool: Pool, absent: bool, waited: float
    ) -> tuple[c.FallbackCode, str]:
        if absent:
            return "absent", f"{required.tier} is not set up"
        if pool.available and required.excluded:
            failed = ", ".join(required.excluded)
            return "failed", f"every {required.tier} endpoint failed on it ({failed})"
        if self.tier_pool(required.tier).available:
            return (
                "unmet",
                f"nothing in {required.tier} met its needs for {waited:.1f} s",
            )
        return "down", f"{required.tier} was down for {waited:.1f} s"

    def _why_none(self, required: Requirement, pool: Pool) -> str:
        counted = [f"{n} × {why}" for why, n in sorted(pool.counts.items())]
        return "; ".join(counted) or f"no host offers {required.kind}"

    # -- starving ----------------------------------------------------------------------

    def options(self, required: Requirement) -> list[Tier]:
        """All tiers that could take a task of this requirement: its own, and one step."""
        return [required.tier, *self._one_step(required)]

    def _starving_since(self, required: Requirement, now: float) -> float:
        """Since when none of its tiers could take it: the latest of their outages."""
        watches = [self._board.tiers[tier] for tier in self.options(required)]
        begins = [w.down_since for w in watches if w.down_since is not None]
        if required.kind in FIXED_KINDS or self.tier_pool(required.tier).available:
            return now
        return max(begins, default=now)

    # -- the decision ------------------------------------------------------------------

    def _route(
        self, waiting: Waiting, target: Target, now: float
    ) -> tuple[Live, c.TaskRouted, Place] | None:
        board = self._board
        live = board.tasks[waiting.task_id]
        state = live.state
        began = self._ticks()
        decided = routing.route(
            routing.Subject(
                task_id=state.task_id,
                generation=state.generation + 1,
                attempt=state.attempts + 1,
                repo=live.repo,
                excluded=target.excluded,
                classification_reason=live.reason,
                fallback_from=target.hop_from,
                fallback_reason=target.reason,
                fallback_code=target.code,
                wait=target.wait or self._avoided(waiting, now),
            ),
            target.pool,
            board.policy,
            self._head(),
            epoch=board.epochs.current,
            policy_version=board.policy_version,
            log_seq=board.position,
        )
        if decided is None:
            return None
        event, place = decided
        took = round(self._ticks() - began, 1)
        return live, msgspec.structs.replace(event, decided_us=took), place

    def _avoided(self, waiting: Waiting, now: float) -> c.Wait | None:
        """A wait for the tier that ended well, if this task was part of one."""
        watch = self._board.tiers[waiting.requirement.tier]
        outage = watch.outage
        if outage is None or waiting.requirement.kind in FIXED_KINDS:
            return None
        # An outage that is over may not have come back from the log as over yet.
        until = now if outage.until is None else outage.until
        if waiting.since > until:
            return None
        waited = round(max(0.0, until - max(outage.since, waiting.since)), 6)
        return c.Wait(watch.tier, rfc3339(outage.since), waited, "avoided")

    # -- asking without doing ----------------------------------------------------------

    def would_route(
        self, spec: TaskSpec, classification: c.Classification
    ) -> tuple[c.TaskRouted | None, str]:
        """Return the decision as it would be now, or why the task would wait.

        Nothing is reserved and nothing remembered.
        """
        board = self._board
        required = requirement(
            spec, classification.effective_tier, assign_to=spec.assign_to
        )
        group = Group(required)
        target = self.target(group, board.now)
        if required not in board.queue.groups:
            board.unmet.discard(required)
        if isinstance(target, Held):
            return None, target.why
        waiting = Waiting("dry-run", 0, LANES[spec.priority], board.now, required)
        decided = routing.route(
            routing.Subject(
                task_id="dry-run",
                generation=1,
                attempt=1,
                repo=spec.repo,
                excluded=(),
                classification_reason=classification.reason,
                fallback_from=target.hop_from,
                fallback_reason=target.reason,
                fallback_code=target.code,
                wait=target.wait or self._avoided(waiting, board.now),
            ),
            target.pool,
            board.policy,
            self._head(),
            epoch=board.epochs.current,
            policy_version=board.policy_version,
            log_seq=board.position,
        )
        return (decided[0], "") if decided is not None else (None, "no place is open")
