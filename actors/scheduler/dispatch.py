"""Dispatch: which waiting task goes to which place, and when one may leave its tier.

A group is offered its own pool first. If all places there are taken or limited, it queues.
If it is unmet, the wait before a hop runs. Where the tier is down the wait began with that
outage, not with the task's arrival; where the tier is up and only what this group needs is
missing, it began when the group was first seen unmet. After the wait its tasks may hop, to
the tier next to theirs. Where the tier is absent, nothing is waited for.

`look` asks and changes nothing; `note` writes what it showed into the group. Places come
from the fleet's pools, tasks from the queue's groups, outages from the tiers.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from msgspec import structs

from actors.lifecycle import TaskState
from actors.rules import routing
from actors.rules.modes import resolve
from actors.rules.prompt import estimate
from actors.scheduler import returns
from actors.scheduler.live import LiveTask
from actors.scheduler.outputs import about_task
from actors.scheduler.queue import (
    LANES,
    PLACE_KIND,
    Group,
    Requirement,
    rank_of,
    requirement,
)
from events import catalogue as c
from events.lifecycle import FIXED_KINDS, VERIFICATION, hops

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from actors.rules.policy import Policy
    from actors.scheduler.leadership import Leadership
    from actors.scheduler.outputs import Decision
    from actors.scheduler.places import Place, Pool
    from actors.scheduler.state import SchedulerState
    from actors.stamp import Stamp

TOLD_AT_ONCE: Final = 200
TELL_PAUSE_S: Final = 0.05
"""So many tasks of a group are told at once why they wait; the rest in the turns that
follow, so that a million of them do not hold up everybody else."""
PASSED_AT_ONCE: Final = 20_000
"""So many are looked at for it in one turn: after an election most have been told."""

_BUSY: Final = "all that could take it are busy or limited"
_APART: Final = "what could take it runs another task that lost runs with its host"


class Hop(NamedTuple):
    """A task leaves its tier: which that was, why, and how long it waited for it."""

    tier: c.Tier
    code: c.FallbackCode
    reason: str
    wait: c.Wait | None


class Target(NamedTuple):
    """A pool with a place for a group's head, and the hop that leads there.

    `barred` are what the head may not have, and why: what is excluded for it, and, where
    it is a suspect, the hosts of others. `met` says whether the group is met: no hop, and
    no exclusion dropped. `unmet_since` is what the group has to remember, see
    `Group.unmet_since`.
    """

    pool: Pool
    barred: Mapping[str, c.ExclusionCode]
    hop: Hop | None = None
    met: bool = True
    unmet_since: float | None = None


class Blocked(NamedTuple):
    """Why a group's head has no place now, and when time alone may change that.

    `starving` and `met` say whether the group is that; a group that is met waits for a
    slot or a limit. `unmet_since` is as in `Target`.
    """

    why: str
    again_at: float | None = None
    starving: bool = False
    met: bool = False
    unmet_since: float | None = None


# -- where to --------------------------------------------------------------------------


def look(state: SchedulerState, group: Group, now: float) -> Target | Blocked:
    """Find the pool that a group's head may use now, with the hop if there is one."""
    required = group.requirement
    if required.unverified:
        return _look_above(state, group)
    pool = state.fleet.pool(required)
    if not pool.available_to(required.excluded):
        return _look_elsewhere(state, group, pool, now)
    barred = _barred(state, required, required.excluded)
    if pool.open_to(barred):
        return Target(pool, barred)
    return Blocked(_why_taken(pool, required.excluded), met=True)


def _barred(
    state: SchedulerState, required: Requirement, excluded: tuple[str, ...]
) -> Mapping[str, c.ExclusionCode]:
    """Return what a group's head may not have, and why: what is excluded, and, for a
    suspect, the hosts where other suspects run.

    Of several tasks that were lost together one is to blame. Side by side they would be
    lost together again; apart, the innocent ones end well.
    """
    barred: dict[str, c.ExclusionCode] = {}
    if required.suspect:
        barred |= dict.fromkeys(state.suspects.values(), "suspect")
    if excluded:
        barred |= dict.fromkeys(excluded, "failed")
    return barred


def _why_taken(pool: Pool, excluded: tuple[str, ...]) -> str:
    """Say why a pool has places for a group, and none now."""
    return _APART if pool.open_to(excluded) else _BUSY


def _look_elsewhere(
    state: SchedulerState, group: Group, pool: Pool, now: float
) -> Target | Blocked:
    """Find what an unmet group may do: hop, wait, or try the excluded again."""
    required, policy = group.requirement, state.policy
    unmet_since = group.unmet_since
    since = None
    if required.kind not in FIXED_KINDS:
        since = state.tiers[required.tier].down_since
    if since is None:
        since = unmet_since = now if unmet_since is None else unmet_since

    def blocked(
        why: str, again_at: float | None = None, *, starving: bool = False
    ) -> Blocked:
        return Blocked(why, again_at, starving, False, unmet_since)

    others = [
        (tier, _pool_in(state, tier, required)) for tier in _hops(state, required)
    ]
    reachable = [
        (tier, other) for tier, other in others if other.available_to(required.excluded)
    ]
    if not reachable:
        if not pool.available:
            return blocked(_why_none(state, required, pool), starving=True)
        # Nothing but what failed on it: the exclusions are dropped.
        barred = _barred(state, required, ())
        if pool.open_to(barred):
            return Target(pool, barred, None, False, unmet_since)
        return blocked(_why_taken(pool, ()))
    absent = not state.fleet.offered(required.kind)
    hop_at = hop_due(since, policy, absent=absent)
    if now < hop_at:
        if state.fleet.tier_pool(required.tier).available:
            why = _why_none(state, required, pool)
            return blocked(f"what it needs is not in {required.tier}: {why}", hop_at)
        return blocked(f"waiting for {required.tier} to come back", hop_at)
    tier, other = reachable[0]
    if tier == "complex":
        refusal = _may_not_escalate(state)
        if refusal is not None:
            return blocked(refusal)
    barred = _barred(state, required, required.excluded)
    if not other.open_to(barred):
        why = _why_taken(other, required.excluded)
        return blocked(f"in {tier}, where it may fall back to, {why}")
    waited_s = round(max(0.0, now - since), 6)
    hop = Hop(
        required.tier,
        *_why_hop(state, required, pool, absent, waited_s),
        c.Wait(required.tier, state.time.text(since), waited_s, "taken"),
    )
    return Target(other, barred, hop, False, unmet_since)


def hop_due(since: float, policy: Policy, *, absent: bool = False) -> float:
    """Return when the wait before a fallback ends that began at `since`.

    An absent tier is not waited for.
    """
    return since if absent else since + policy.fallback_wait_s


def may_escalate(state: SchedulerState, required: Requirement) -> bool:
    """Whether work that does not pass its verification may go to the next tier, at all."""
    return (
        required.tier == "standard"
        and not (required.hopped or required.model)
        and required.kind not in FIXED_KINDS
        and state.policy.max_escalations_in_flight > 0
        and state.fleet.offered(PLACE_KIND["complex"])
    )


def _look_above(state: SchedulerState, group: Group) -> Target | Blocked:
    """Find the pool in complex for standard work that did not pass its verification.

    Its own tier is up and has done its part, so there is nothing to wait for there.
    """
    required = group.requirement
    pool = _pool_in(state, "complex", required)
    if not may_escalate(state, required) or not pool.available_to(required.excluded):
        why = f"nothing in complex may take over ({_why_none(state, required, pool)})"
        return Blocked(why, starving=True)
    refusal = _may_not_escalate(state)
    if refusal is not None:
        spent = exhausted(state.policy, 0, _spent_today(state)) == "budget"
        return Blocked(refusal, starving=spent)
    barred = _barred(state, required, required.excluded)
    if not pool.open_to(barred):
        why = _why_taken(pool, required.excluded)
        return Blocked(f"in complex, where it is to be tried, {why}")
    hop = Hop(
        required.tier,
        VERIFICATION,
        f"what {required.tier} did has not passed its verification",
        None,
    )
    return Target(pool, barred, hop, met=False)


def note(state: SchedulerState, group: Group, outlook: Target | Blocked) -> None:
    """Write into a group what a look at it showed."""
    if outlook.met:
        state.unmet.discard(group.requirement)
        group.unmet_since = group.starving_since = None
        group.expiries = group.untold = None
        return
    state.unmet.add(group.requirement)
    group.unmet_since = outlook.unmet_since
    if isinstance(outlook, Target) or not outlook.starving:
        group.starving_since = group.expiries = None


def options(state: SchedulerState, required: Requirement) -> list[c.Tier]:
    """All tiers that could take a task of this requirement: its own, and where it may hop."""
    return [required.tier, *_hops(state, required)]


def _hops(state: SchedulerState, required: Requirement) -> list[c.Tier]:
    """Return where the one hop may lead, the nearest first."""

    def is_up(tier: c.Tier) -> bool:
        return state.fleet.tier_pool(tier).available > 0

    return hops(
        required.tier,
        fixed=required.kind in FIXED_KINDS,
        stays=required.hopped,
        model=required.model,
        tied=bool(required.assign_to and not required.excluded),
        has_command=required.shell,
        of_a_model=required.chat,
        is_up=is_up,
        allow_downgrade=state.policy.allow_downgrade,
    )


def _pool_in(state: SchedulerState, tier: c.Tier, required: Requirement) -> Pool:
    """Return the pool of a requirement in another tier, by whatever model that has."""
    other = structs.replace(required, kind=PLACE_KIND[tier], tier=tier, model="")
    return state.fleet.pool(other)


def _may_not_escalate(state: SchedulerState) -> str | None:
    """Why no more tasks may go from standard to complex now, None if they may."""
    policy = state.policy
    match exhausted(policy, len(state.escalated), _spent_today(state)):
        case "in flight":
            most = policy.max_escalations_in_flight
            return f"{most} escalations to complex are in flight already"
        case "budget":
            budget = policy.escalation_budget_usd_per_day
            return f"today's ${budget:.2f} for escalations are spent"
        case None:
            return None


def exhausted(
    policy: Policy, in_flight: int, spent_usd: float
) -> Literal["in flight", "budget"] | None:
    """Which limit allows no further escalation, None if there is room for one.

    `in_flight` are the escalated tasks that run, `spent_usd` is what such runs have cost
    this day (UTC).
    """
    budget = policy.escalation_budget_usd_per_day
    if in_flight >= policy.max_escalations_in_flight:
        return "in flight"
    return "budget" if budget is not None and spent_usd >= budget else None


def _spent_today(state: SchedulerState) -> float:
    day, spent_usd = state.escalated_usd
    return spent_usd if day == state.time.text(state.now)[:10] else 0.0


def _why_hop(
    state: SchedulerState,
    required: Requirement,
    pool: Pool,
    absent: bool,
    waited_s: float,
) -> tuple[c.FallbackCode, str]:
    tier = required.tier
    if absent:
        return "absent", f"{tier} is not set up"
    if pool.available and required.excluded:
        failed = ", ".join(required.excluded)
        return "failed", f"every {tier} endpoint failed on it ({failed})"
    if state.fleet.tier_pool(tier).available:
        why = _why_none(state, required, pool)
        return "unmet", f"nothing in {tier} met its needs for {waited_s:.1f} s: {why}"
    return "down", f"{tier} was down for {waited_s:.1f} s"


_NEEDED: Final = {
    "sidecar": "to run commands",
    "local": "a local model",
    "claude": "Claude Code",
    "agent": "an agent",
}


def _why_none(state: SchedulerState, required: Requirement, pool: Pool) -> str:
    """Say why nothing could run it: of each place that might, or that there is none."""
    counted = [f"{n} × {why}" for why, n in sorted(pool.counts.items())]
    if counted:
        return "; ".join(counted)
    what = _NEEDED.get(required.kind, required.kind)
    host = state.fleet.hosts.get(required.assign_to) if required.assign_to else None
    if required.assign_to and (host is None or not host.present):
        return f"host {required.assign_to} is not here"
    if host is not None:
        return f"host {host.name} does not offer {what}"
    return f"no host offers {what}"


# -- routes ----------------------------------------------------------------------------


def decide_routes(
    state: SchedulerState,
    lead: Leadership,
    now: float,
    ticks: Callable[[], float],
) -> tuple[list[Decision], list[tuple[Group, Blocked]]]:
    """Offer open places to the groups that might move, the best head first.

    Each routing holds its slot at once, so that the next head finds what is left. Returns
    the decisions, and the groups that stay unmet, with the reason.
    """
    ageing_s = state.policy.ageing_s
    heads: list[tuple[tuple[int, int], Group]] = []
    marked, state.look_at = state.look_at, set()
    for required in marked:
        group = state.queue.groups.get(required)
        first = group.head(now, ageing_s) if group is not None else None
        if group is not None and first is not None:
            heads.append((rank_of(first, now, ageing_s), group))
    heapq.heapify(heads)
    decisions: list[Decision] = []
    unmet: list[tuple[Group, Blocked]] = []
    while heads:
        _, group = heapq.heappop(heads)
        waiting = group.head(now, ageing_s)
        if waiting is None:
            continue
        outlook = look(state, group, now)
        note(state, group, outlook)
        if isinstance(outlook, Blocked):
            if not outlook.met:
                unmet.append((group, outlook))
            continue
        live = state.tasks[waiting.task_id]
        decision = _route_head(state, lead, live, outlook, now, ticks)
        if decision is None:
            continue
        decisions.append(decision)
        following = group.head(now, ageing_s)
        if following is not None:
            heapq.heappush(heads, (rank_of(following, now, ageing_s), group))
    return decisions, unmet


def _route_head(
    state: SchedulerState,
    lead: Leadership,
    live: LiveTask,
    target: Target,
    now: float,
    ticks: Callable[[], float],
) -> Decision | None:
    used_up = returns.decide_used_up(state, lead, live, now)
    if used_up is not None:
        return used_up
    began = ticks()
    routed = _route(state, live, target, now, lead.stamp(now))
    if routed is None:
        return None
    event, place = routed
    event = structs.replace(
        event,
        decided_us=round(ticks() - began, 1),
        clock_ahead_s=round(place.host.clock_ahead_s, 3),
    )
    state.reserve(live, event, place)
    return about_task(event, live.task)


def _route(
    state: SchedulerState, live: LiveTask, target: Target, now: float, stamp: Stamp
) -> tuple[c.TaskRouted, Place] | None:
    hop, task = target.hop, live.task
    return routing.route(
        routing.Routable(
            task_id=task.task_id,
            generation=task.generation + 1,
            attempt=task.attempts + 1,
            repo=live.repo,
            barred=target.barred,
            classification_reason=live.classification_reason,
            fallback_from=hop.tier if hop is not None else None,
            fallback_code=hop.code if hop is not None else None,
            fallback_reason=hop.reason if hop is not None else None,
            wait=hop.wait if hop is not None else _avoided(state, live, now),
        ),
        target.pool,
        state.policy,
        stamp,
        epoch=state.epochs.current,
        policy_version=state.policy_version,
        log_seq=state.position,
    )


def _avoided(state: SchedulerState, live: LiveTask, now: float) -> c.Wait | None:
    """Return the wait for its tier's last outage, which spared this task the hop."""
    watch = state.tiers[live.task.tier]
    outage = watch.outage
    if outage is None or live.fixed:
        return None
    # An outage that is over may not have come back from the log as over yet.
    until = now if outage.until is None else outage.until
    if live.since > until:
        return None
    waited_s = round(max(0.0, until - max(outage.since, live.since)), 6)
    return c.Wait(watch.tier, state.time.text(outage.since), waited_s, "avoided")


def would_route(
    state: SchedulerState,
    stamp: Stamp,
    spec: c.TaskSpec,
    classification: c.Classification,
) -> tuple[c.TaskRouted | None, str]:
    """Return the decision as it would be now, or why the task would wait.

    Nothing is reserved and nothing remembered.
    """
    now = state.now
    tier = classification.effective_tier
    required = requirement(
        spec,
        tier,
        assign_to=spec.assign_to,
        mode=resolve(spec).mode,
        prompt_tokens=estimate(spec),
    )
    live = LiveTask(
        TaskState(task_id="dry-run", tier=tier),
        required,
        LANES[spec.priority],
        spec.repo,
        classification.reason,
        since=now,
    )
    with state.fleet.passing():
        outlook = look(state, Group(required), now)
        if isinstance(outlook, Blocked):
            return None, outlook.why
        routed = _route(state, live, outlook, now, stamp)
    return (routed[0], "") if routed is not None else (None, "no place is open")


# -- why it waits ----------------------------------------------------------------------


def decide_deferred(
    state: SchedulerState, lead: Leadership, group: Group, why: str, now: float
) -> list[Decision]:
    """Say once of each task of an unmet group why it waits.

    Where its tier is not up, that is the reason for all, and is not said of each.
    """
    required = group.requirement
    tiered = required.kind not in FIXED_KINDS
    if tiered and not state.fleet.tier_pool(required.tier).available:
        return []
    if group.untold is None:
        group.untold = deque(group)
    decisions: list[Decision] = []
    for _ in range(min(len(group.untold), PASSED_AT_ONCE)):
        if len(decisions) == TOLD_AT_ONCE:
            break
        waiting = group.untold.popleft()
        live = state.tasks.get(waiting.task_id)
        if not waiting.waits or live is None:
            continue
        if live.deferred or live.deciding:
            continue
        live.deferred = True
        event = lead.write(now, c.TaskDeferred, task_id=waiting.task_id, reason=why)
        decisions.append(about_task(event, live.task))
    if group.untold:
        lead.wake_group(now + TELL_PAUSE_S, group)
    return decisions
