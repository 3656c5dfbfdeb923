"""The tiers: up, down, absent, limited; their outages and the alerts about them.

A tier's outage is one event, not one for each task that waits for it. `tier.down` is the
start of the wait, `tier.up` its end; an alert is raised once when an outage lasts, and
cleared once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from events import catalogue as c
from events.codec import instant, rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.lifecycle import Head
    from actors.rules.policy import Policy

TIERS: Final[tuple[c.Tier, ...]] = ("trivial", "standard", "complex")
State = Literal["absent", "up", "limited", "down"]


class Outage:
    """From when to when a tier was down; `until` None while it lasts. Epoch seconds."""

    __slots__ = ("since", "until")

    def __init__(self, since: float) -> None:
        self.since = since
        self.until: float | None = None


class TierWatch:
    """What the log says about one tier."""

    __slots__ = ("alerted", "limited_for", "limited_until", "outage", "tier")

    def __init__(self, tier: c.Tier) -> None:
        self.tier = tier
        self.outage: Outage | None = None
        self.alerted = False
        self.limited_until = 0.0
        self.limited_for = 0.0

    @property
    def down_since(self) -> float | None:
        """When the present outage began, None while there is none."""
        if self.outage is None or self.outage.until is not None:
            return None
        return self.outage.since

    def evolve(self, event: c.Event) -> None:
        """Fold an event about this tier."""
        match event:
            case c.TierDown():
                if self.down_since is None:
                    self.outage = Outage(instant(event.at))
            case c.TierUp():
                if self.outage is not None and self.outage.until is None:
                    self.outage.until = instant(event.at)
            case c.TierLimited():
                self.limited_until = instant(event.until)
                since = instant(event.at)
                self.limited_for = (
                    0.0 if event.known_end else self.limited_until - since
                )
            case c.AlertRaised():
                self.alerted = True
            case c.AlertCleared():
                self.alerted = False
            case _:
                pass

    def state(self, available: int, offered: bool, now: float) -> State:
        """Name the tier's state from what the fleet offers at this moment."""
        if self.limited_until > now:
            return "limited"
        if available:
            return "up"
        return "down" if offered else "absent"

    def limit(
        self,
        until: float | None,
        reason: str,
        now: float,
        policy: Policy,
        epoch: int,
        head: Callable[[], Head],
    ) -> c.TierLimited | None:
        """Decide until when the account is limited; None if that is known already.

        Without a known end the limit starts short and doubles while it lasts.
        """
        known = until is not None
        if until is None:
            if self.limited_until > now:
                return None
            again = self.limited_for and now < self.limited_until + self.limited_for
            longer = min(2 * self.limited_for, policy.limited_cap_s)
            until = now + (longer if again else policy.limited_initial_s)
        # A host's word alone must not shut a tier for years.
        until = min(until, now + policy.limited_known_cap_s)
        if until <= max(now, self.limited_until):
            return None
        id_, at, by = head()
        return c.TierLimited(
            id=id_,
            at=at,
            by=by,
            tier=self.tier,
            epoch=epoch,
            until=rfc3339(until),
            reason=reason,
            known_end=known,
        )

    def decide(
        self,
        available: int,
        offered: bool,
        now: float,
        down_for: float,
        policy: Policy,
        epoch: int,
        head: Callable[[], Head],
    ) -> c.TierEvent | None:
        """Compare the log with the fleet; return what has to be said next.

        `available` places could run it with all slots free; `down_for` seconds of the
        present outage had a leader.
        """
        since = self.down_since
        if since is None:
            if self.alerted:
                id_, at, by = head()
                return c.AlertCleared(
                    id=id_, at=at, by=by, tier=self.tier, epoch=epoch,
                    down_s=self._lasted(),
                )  # fmt: skip
            if available or not offered:
                return None
            id_, at, by = head()
            return c.TierDown(
                id=id_, at=at, by=by, tier=self.tier, epoch=epoch,
                reason="nothing could run it even with all slots free",
            )  # fmt: skip
        down_s = round(max(0.0, now - since), 6)
        if available:
            id_, at, by = head()
            return c.TierUp(
                id=id_, at=at, by=by, tier=self.tier, epoch=epoch, down_s=down_s
            )
        if self.alerted or down_for < policy.tier_alert_after_s:
            return None
        id_, at, by = head()
        return c.AlertRaised(
            id=id_, at=at, by=by, tier=self.tier, epoch=epoch, down_s=down_s,
            reason=f"{self.tier} is down",
        )  # fmt: skip

    def _lasted(self) -> float:
        """How long the outage that is over lasted, in seconds."""
        if self.outage is None or self.outage.until is None:
            return 0.0
        return round(max(0.0, self.outage.until - self.outage.since), 6)
