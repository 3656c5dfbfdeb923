"""The tiers' outages, the limits of their accounts, and the alerts about them.

A tier's outage is one event, not one for each task that waits for it. `tier.down` is the
start of the outage, `tier.up` its end; an alert is raised once when an outage lasts, and
cleared once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.scheduler.outputs import Decision
from actors.scheduler.queue import PLACE_KIND
from events import catalogue as c
from events import subjects
from events.codec import instant

if TYPE_CHECKING:
    from actors.scheduler.leadership import Leadership, ReportedLimit
    from actors.scheduler.logtime import LogTime
    from actors.scheduler.state import SchedulerState, Verdict


class Outage:
    """From when to when a tier was down, in log time; `until` None while it lasts."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.until: float | None = None


class TierWatch:
    """What the log says about one tier."""

    def __init__(self, tier: c.Tier) -> None:
        self.tier = tier
        # The last outage: the present one, or one that is over.
        self.outage: Outage | None = None
        # Whether an alert about an outage is raised and not cleared.
        self.alerted = False
        # Until when its account is limited (log time), and whether somebody named that
        # instant; how long the last limit was if nobody knew its end, else 0: if it
        # lasts, the next is twice as long.
        self.limited_until = float("-inf")
        self.known_end = False
        self.limited_for = 0.0
        # Of which day (UTC) and budget it was last said that it is spent.
        self.budget_told = ("", 0.0)

    @property
    def down_since(self) -> float | None:
        """When the present outage began, None while there is none."""
        if self.outage is None or self.outage.until is not None:
            return None
        return self.outage.since

    def evolve(self, event: c.Event, time: LogTime) -> None:
        """Fold an event about this tier."""
        match event:
            case c.TierDown():
                if self.down_since is None:
                    self.outage = Outage(time.of(event.at))
            case c.TierUp():
                if self.outage is not None and self.outage.until is None:
                    self.outage.until = time.of(event.at)
            case c.TierLimited():
                self.known_end = event.known_end
                self.limited_until = time.until(event.until)
                since = time.until(event.at)
                self.limited_for = (
                    0.0 if event.known_end else self.limited_until - since
                )
            case c.TierLimitCleared():
                self.limited_until = float("-inf")
                self.known_end = False
                self.limited_for = 0.0
            case c.TierBudgetSpent():
                self.budget_told = (event.day, event.budget_usd)
            case c.AlertRaised():
                self.alerted = True
            case c.AlertCleared():
                self.alerted = False
            case _:
                pass

    def lasted(self) -> float:
        """How long the outage that is over lasted, in seconds."""
        if self.outage is None or self.outage.until is None:
            return 0.0
        return round(max(0.0, self.outage.until - self.outage.since), 6)


def fold_tier(state: SchedulerState, name: str, event: c.Event) -> Verdict:
    """Fold what is said of a tier, by the leader in force or by a person."""
    watch = next((w for tier, w in state.tiers.items() if tier == name), None)
    if watch is None or not isinstance(event, c.TierEvent) or event.tier != name:
        return "void"
    by_anybody = isinstance(event, c.AlertAcknowledged | c.TierLimitCleared)
    if event.epoch != state.epochs.current and not by_anybody:
        return "void"
    watch.evolve(event, state.time)
    if not by_anybody:
        state.time.decided(event.at)
    state.tier_pending.discard(watch.tier)
    state.tiers_dirty = state.alerts_moved = True
    if isinstance(event, c.TierLimited | c.TierLimitCleared):
        state.fleet.limit(PLACE_KIND[watch.tier], watch.limited_until)
    # What waits for this tier, or could hop from or to it, is looked at again.
    state.look_at.update(state.queue.groups)
    return "applied"


def move_limits(state: SchedulerState, step_s: float) -> None:
    """The clock was put forward: instants that somebody named are nearer now.

    A clock that is put back was wrong before, and moves none.
    """
    for watch in state.tiers.values():
        if watch.known_end:
            watch.limited_until -= step_s
            state.fleet.limit(PLACE_KIND[watch.tier], watch.limited_until)


# -- deciding --------------------------------------------------------------------------


def decide_limits(
    state: SchedulerState, lead: Leadership, now: float
) -> list[Decision]:
    """Decide upon what hosts have said of limited accounts, once a tier at a time."""
    limits, lead.limits = lead.limits, []
    decisions = []
    for limit in limits:
        if limit.tier in state.tier_pending:
            lead.limits.append(limit)
            continue
        event = limited(state, lead, limit, now)
        if event is not None:
            decisions.append(_about_tier(state, event))
            lead.wake_at(state.time.until(event.until))
    return decisions


def limited(
    state: SchedulerState, lead: Leadership, limit: ReportedLimit, now: float
) -> c.TierLimited | None:
    """Decide until when an account is limited; None if that is known already.

    Without a known end the limit starts short and doubles while it lasts.
    """
    watch, policy = state.tiers[limit.tier], state.policy
    if limit.until is not None:
        until = now + instant(limit.until) - instant(limit.at)
    elif watch.limited_until > now:
        return None
    else:
        again = watch.limited_for and now < watch.limited_until + watch.limited_for
        longer = min(2 * watch.limited_for, policy.limited_cap_s)
        until = now + (longer if again else policy.limited_initial_s)
    # A host's word alone must not shut a tier for years.
    until = min(until, now + policy.limited_known_cap_s)
    if until <= max(now, watch.limited_until):
        return None
    return lead.write(
        now,
        c.TierLimited,
        tier=limit.tier,
        until=state.time.text(until),
        reason=limit.detail,
        known_end=limit.until is not None,
    )


def decide_tiers(state: SchedulerState, lead: Leadership, now: float) -> list[Decision]:
    """Decide which outages begin and end, and which alerts."""
    state.tiers_dirty = False
    state.fleet.changed_kinds.clear()
    decisions = []
    for tier, watch in state.tiers.items():
        if tier not in state.tier_pending:
            event = _next_event(state, lead, watch, now)
            if event is not None:
                decisions.append(_about_tier(state, event))
    return decisions


def _next_event(
    state: SchedulerState, lead: Leadership, watch: TierWatch, now: float
) -> c.TierEvent | None:
    """Compare what the log says of a tier with the fleet; return what to say next."""
    tier, since = watch.tier, watch.down_since
    if tier == "complex" and (spent := _budget_spent(state, lead, watch, now)):
        return spent
    available = state.fleet.tier_pool(tier).available
    if since is None:
        if watch.alerted:
            lasted = watch.lasted()
            return lead.write(now, c.AlertCleared, tier=tier, down_s=lasted)
        if available or not state.fleet.offered(PLACE_KIND[tier]):
            return None
        reason = "nothing could run it even with all slots free"
        return lead.write(now, c.TierDown, tier=tier, reason=reason)
    down_s = round(max(0.0, now - since), 6)
    if available:
        return lead.write(now, c.TierUp, tier=tier, down_s=down_s)
    if (
        watch.alerted
        or state.time.elapsed(since, now) < state.policy.tier_alert_after_s
    ):
        return None
    reason = f"{tier} is down"
    return lead.write(now, c.AlertRaised, tier=tier, down_s=down_s, reason=reason)


def _budget_spent(
    state: SchedulerState, lead: Leadership, watch: TierWatch, now: float
) -> c.TierBudgetSpent | None:
    """Say once that the day's dollars for escalations are spent."""
    budget, (day, spent) = (
        state.policy.escalation_budget_usd_per_day,
        state.escalated_usd,
    )
    if budget is None or spent < budget or not spent:
        return None
    if day != state.time.text(now)[:10] or watch.budget_told == (day, budget):
        return None
    about = {"tier": watch.tier, "day": day, "budget_usd": budget}
    return lead.write(now, c.TierBudgetSpent, spent_usd=round(spent, 9), **about)


def _about_tier(state: SchedulerState, event: c.TierEvent) -> Decision:
    """Return a decision about a tier, and remember that one is on its way."""
    state.tier_pending.add(event.tier)
    state.alerts_moved = True
    subject = subjects.tier(event.tier)
    return Decision(subject, event, state.subject_seqs.get(subject, 0))


def reckon_alert(state: SchedulerState, lead: Leadership) -> None:
    """Reckon when the next alert about an outage is due, if the outage lasts so long."""
    state.alerts_moved = False
    waits = (
        state.time.after(watch.down_since, state.policy.tier_alert_after_s)
        for watch in state.tiers.values()
        if watch.down_since is not None
        and not watch.alerted
        and watch.tier not in state.tier_pending
    )
    lead.alert_at = min(waits, default=None)
