"""When a waiting task expires: at its deadline, or when its time to live is over.

The deadline is an instant of the wall clock. The time to live (TTL) runs only while a task
waits and its group *starves*, that is, none of its tiers has a place for it, full or not:
being behind others in a queue never expires a task. While a group starves it knows which
of its tasks expires next. Seconds in which nobody led do not count.

From when the TTL runs and how long it is says `events.lifecycle.time_to_live`, for this
file and for the read models.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from actors.scheduler import dispatch
from actors.scheduler.outputs import Decision, about_task
from actors.scheduler.queue import PLACE_KIND, Expiries
from events import catalogue as c
from events.lifecycle import FIXED_KINDS, time_to_live

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actors.scheduler.leadership import Leadership
    from actors.scheduler.live import LiveTask
    from actors.scheduler.queue import Group, Requirement, Waiting
    from actors.scheduler.state import SchedulerState

AT_ONCE: Final = 1_000
"""At most so many tasks of a group expire in one turn; the rest follow in the next."""
TIMED_AT_ONCE: Final = 20_000
"""In one turn it is reckoned of so many tasks of a group when they expire: 20 ms of CPU. A
million at once would hold up the renewal of the leader's lease on a busy machine."""


def set_timers(
    state: SchedulerState, lead: Leadership, arrived: Iterable[Waiting]
) -> None:
    """Have the scheduler wake when tasks expire that have begun to wait."""
    for waiting in arrived:
        live = state.tasks.get(waiting.task_id)
        if live is None:
            continue
        if live.deadline is not None:
            lead.wake_at(live.deadline - state.time.ahead_s, task_id=waiting.task_id)
        if waiting.waits:
            expiries = state.queue.groups[waiting.requirement].expiries
            if expiries is not None:
                expiries.add(waiting)


def decide_deadline(
    state: SchedulerState, lead: Leadership, task_id: str, now: float
) -> list[Decision]:
    """Expire a task whose deadline has passed while it waits."""
    live = state.tasks.get(task_id)
    if live is None or live.deadline is None:
        return []
    if live.deadline > now + state.time.ahead_s:
        return []
    if live.task.phase != "waiting" or live.deciding:
        return []
    return [_expire(state, lead, live, now, "deadline", "its deadline has passed", [])]


def decide_starving(
    state: SchedulerState, lead: Leadership, group: Group, now: float
) -> list[Decision]:
    """Expire the tasks of a starving group whose TTL is over."""
    if group.starving_since is None:
        group.starving_since = _starving_since(state, group.requirement, now)
    if group.expiries is None:
        group.expiries = Expiries(group, partial(_expires_at, state, group))
    if not group.expiries.take(TIMED_AT_ONCE):
        lead.wake_group(now, group)
        return []
    decisions: list[Decision] = []
    while (first := group.expiries.first()) is not None:
        due, waiting = first
        if due > now or len(decisions) == AT_ONCE:
            lead.wake_group(max(due, now), group)
            break
        live = state.tasks[waiting.task_id]
        outages = _outages(state, group.requirement, now)
        detail = _why(state, group.requirement, outages)
        # This takes the task out of the group, so that `first` is another one next.
        decisions.append(_expire(state, lead, live, now, "ttl", detail, outages))
    return decisions


def _expires_at(state: SchedulerState, group: Group, waiting: Waiting) -> float:
    """When a task's TTL is over, without the seconds in which nobody led."""
    live = state.tasks[waiting.task_id]
    starving_since = group.starving_since or waiting.since
    policy_s = state.policy.task_ttl_s
    return state.time.after(
        *time_to_live(waiting.since, starving_since, live.ttl_s, policy_s)
    )


def _starving_since(state: SchedulerState, required: Requirement, now: float) -> float:
    """Since when none of its tiers could take it: the latest of their outages."""
    if required.kind in FIXED_KINDS or state.fleet.tier_pool(required.tier).available:
        return now
    watches = [state.tiers[tier] for tier in dispatch.options(state, required)]
    begins = [w.down_since for w in watches if w.down_since is not None]
    return max(begins, default=now)


def _outages(
    state: SchedulerState, required: Requirement, now: float
) -> list[c.TierOutage]:
    """Return which of its tiers are down or absent, and for how long."""
    return [
        c.TierOutage(
            tier,
            "down" if state.fleet.offered(PLACE_KIND[tier]) else "absent",
            round(now - (state.tiers[tier].down_since or now), 3),
        )
        for tier in dispatch.options(state, required)
        if not state.fleet.tier_pool(tier).available
    ]


def _why(
    state: SchedulerState, required: Requirement, outages: list[c.TierOutage]
) -> str:
    reasons = [_outage(one) for one in outages]
    if not reasons:
        counts = state.fleet.pool(required).counts
        reasons = [f"{n} × {why}" for why, n in counts.items()]
    return "; ".join(reasons)


def _outage(one: c.TierOutage) -> str:
    # Nobody has ever offered it: a number would tell of an outage.
    if one.state == "absent" and not one.down_s:
        return f"{one.tier} is not set up"
    return f"{one.tier} was {one.state} for {one.down_s:.0f} s"


def _expire(
    state: SchedulerState,
    lead: Leadership,
    live: LiveTask,
    now: float,
    reason: str,
    detail: str,
    outages: list[c.TierOutage],
) -> Decision:
    event = lead.write(
        now,
        c.TaskExpired,
        task_id=live.task.task_id,
        reason=reason,
        detail=detail,
        tiers=outages,
        generation=live.task.generation,
    )
    state.in_flight(live, event)
    return about_task(event, live.task)
