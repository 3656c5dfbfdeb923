"""The fleet as the log knows it: hosts, their endpoints and models, tiers, alerts, leader.

How busy a machine is is not logged: hosts publish it every few seconds as a beat. `Beats`
keeps each host's last one; after three missed beats its resources are unknown.
"""

from __future__ import annotations

import re
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct, field

from events import catalogue as c
from events.beats import BEAT_INTERVAL_S, CLOCKS_KEPT, FRESH_BEATS
from events.codec import instant
from events.errors import Malformed
from events.lifecycle import TASK_TTL_S, endpoint_of, heard_before
from projections.record import later, same

if TYPE_CHECKING:
    from projections.judged import JudgedEvent

ALERTS_KEPT: Final = 100
VERSION: Final = 12


class EndpointView(Struct):
    """An endpoint on one host. `since` is when it last went up or down.

    `again_at`: down because it refused work, and not believed before then. `notice`: its
    last run said that the policy's model is retired, will be, or is not found.
    """

    endpoint: str
    kind: str
    up: bool
    since: str
    url: str = ""
    version: str = ""
    models: list[str] = []
    loaded: list[str] = []
    slots: int = 1
    reason: str = ""
    shared: bool = False
    simulated: bool = False
    again_at: str = ""
    capabilities: list[str] = []
    model_capabilities: dict[str, list[str]] = {}
    context_tokens: dict[str, int] = {}
    notice: str = ""
    embedders: list[str] = []


class HostView(Struct):
    """A host: `state` is up, draining, left or lost; `since` is when it became so.

    `journal_lost` says that its journal does not hold what it once did, "" otherwise.
    `joined_id` is the id of its last join, `last_ids` are those of the last events since, by
    the endpoint that they are about, see `events.lifecycle.heard_before`.
    """

    host: str
    incarnation: str
    state: Literal["up", "draining", "left", "lost"]
    since: str
    joined_at: str
    seq: int
    version: str = ""
    platform: str = ""
    slots: dict[str, int] = {}
    capabilities: list[str] = []
    repos: list[str] = []
    default_repo: str | None = None
    ram_bytes: int | None = None
    reason: str = ""
    endpoints: dict[str, EndpointView] = {}
    joined_id: str = ""
    last_ids: dict[str, str] = {}
    journal_lost: str = ""


class SharedView(Struct):
    """An endpoint that an operator added for several hosts to call."""

    endpoint: str
    kind: str
    url: str
    slots: int
    added_at: str
    by: str = ""


class TierView(Struct):
    """A tier's outages and limits in the log: unknown before the first of them."""

    tier: str
    state: Literal["unknown", "up", "down", "limited"] = "unknown"
    since: str = ""
    until: str | None = None
    account: str = ""
    reason: str = ""


class AlertView(Struct):
    """An alert: a tier was down for too long, or something is wrong with a host.

    Active until it is cleared. One about a host names the host and a `code`, and no tier.
    """

    tier: str
    seq: int
    raised_at: str
    down_s: float
    reason: str = ""
    acknowledged_at: str | None = None
    acknowledged_by: str = ""
    cleared_at: str | None = None
    host: str = ""
    code: str = ""


class InForce(Struct):
    """What there is one of: the leader and the policy in force.

    `policy_seq` is where the log has the whole policy, 0 while none was set. Of it,
    `task_ttl_s` and `allow_downgrade` say until when a task waits, and for what;
    `resources_fresh_beats` for how many beats a host's resources count as known;
    `escalation_budget_usd` is what a day's escalations to complex may cost, None: anything.
    """

    epoch: int = 0
    leader: str = ""
    policy_version: int = 0
    policy_changed_at: str = ""
    policy_by: str = ""
    policy_seq: int = 0
    task_ttl_s: float = TASK_TTL_S
    allow_downgrade: bool = False
    escalation_budget_usd: float | None = None
    resources_fresh_beats: int = FRESH_BEATS


class FleetState(Struct):
    """The fleet; `touched` names what changed since the store last took it."""

    hosts: dict[str, HostView] = field(default_factory=dict)
    shared: dict[str, SharedView] = field(default_factory=dict)
    tiers: dict[str, TierView] = field(default_factory=dict)
    alerts: list[AlertView] = field(default_factory=list)
    in_force: InForce = field(default_factory=InForce)
    touched: set[tuple[str, str]] = field(default_factory=set)

    @property
    def active_alerts(self) -> list[AlertView]:
        """The alerts that have not been cleared."""
        return [alert for alert in self.alerts if alert.cleared_at is None]


def evolve(state: FleetState, judged: JudgedEvent) -> None:
    """Fold one event; complete its verdict if it is about hosts, tiers, policy or leaders."""
    if judged.verdict != "applied" or judged.family in ("task", "run"):
        return
    event, seq = judged.recorded.event, judged.recorded.seq
    refused = ""
    if isinstance(event, c.HostEvent):
        if _is_repeat(state, event):
            judged.verdict = "repeat"
            return
        refused = _host(state, event, seq)
    elif isinstance(event, c.FleetEvent | c.TierEvent) and _outdated(state, event):
        refused = "another leader's"
    elif isinstance(event, c.FleetEvent):
        refused = _decided(state, event, seq)
    elif isinstance(event, c.TierEvent):
        refused = _tier(state, event, seq)
    elif isinstance(event, c.PolicyChanged):
        in_force, policy = state.in_force, event.policy
        in_force.policy_version, in_force.policy_seq = event.version, seq
        in_force.policy_changed_at, in_force.policy_by = event.at, event.requested_by
        ttl_s = policy.get("task_ttl_s")
        in_force.task_ttl_s = ttl_s if isinstance(ttl_s, int | float) else TASK_TTL_S
        in_force.allow_downgrade = policy.get("allow_downgrade") is True
        budget = policy.get("escalation_budget_usd_per_day")
        in_force.escalation_budget_usd = (
            budget if isinstance(budget, int | float) else None
        )
        fresh = policy.get("resources_fresh_beats")
        in_force.resources_fresh_beats = (
            fresh if isinstance(fresh, int) else FRESH_BEATS
        )
        state.touched.add(("head", ""))
    elif isinstance(event, c.SchedulerElected):
        refused = _elected(state, event)
    elif isinstance(event, c.ClockStepped):
        refused = _clock_stepped(state, event)
    if refused:
        judged.verdict, judged.reason = "void", refused
        judged.reason_code = "fleet"


def _elected(state: FleetState, event: c.SchedulerElected) -> str:
    if event.epoch <= state.in_force.epoch:
        return "an older epoch"
    state.in_force.epoch, state.in_force.leader = event.epoch, event.name
    state.touched.add(("head", ""))
    return ""


def _clock_stepped(state: FleetState, event: c.ClockStepped) -> str:
    """What lasts has lasted as long as before, though the time of day is another."""
    if event.epoch != state.in_force.epoch:
        return "another leader's"
    for host in state.hosts.values():
        if host.state != "up":
            host.since = later(host.since, event.step_s)
            state.touched.add(("host", host.host))
    for tier in state.tiers.values():
        tier.since = later(tier.since, event.step_s)
        state.touched.add(("tiers", ""))
    return ""


def _host(state: FleetState, event: c.HostEvent, seq: int) -> str:
    if isinstance(event, c.HostJoined):
        return _joined(state, event, seq)
    host = state.hosts.get(event.host)
    if host is None:
        return "no such host"
    if host.incarnation != event.incarnation:
        return "an earlier incarnation of the host"
    host.last_ids = {**host.last_ids, endpoint_of(event): event.id}
    state.touched.add(("host", host.host))
    match event:
        case c.HostRecovered():
            _become(host, "up", event.at)
        case c.HostDraining():
            _become(host, "draining", event.at, event.reason)
        case c.HostResumed():
            _become(host, "up", event.at)
        case c.HostLeft():
            _become(host, "left", event.at, event.reason)
        case c.EndpointUp() | c.EndpointChanged():
            endpoint = host.endpoints.get(event.state.endpoint)
            since = endpoint.since if endpoint and endpoint.up else event.at
            host.endpoints[event.state.endpoint] = _endpoint(event.state, since)
        case c.EndpointDown():
            endpoint = host.endpoints.get(event.endpoint)
            if endpoint is None:
                endpoint = EndpointView(event.endpoint, event.kind, True, event.at)
                host.endpoints[event.endpoint] = endpoint
            if endpoint.up:
                endpoint.up, endpoint.since, endpoint.loaded = False, event.at, []
            endpoint.reason, endpoint.again_at = event.reason, event.again_at
        case _:
            return "nothing we know of a host"
    return ""


def _joined(state: FleetState, event: c.HostJoined, seq: int) -> str:
    before = state.hosts.get(event.host)
    again = before is not None and before.incarnation == event.incarnation
    joined = same(event, HostView) | {
        "state": "draining" if event.draining else "up",
        "since": event.at,
        "joined_at": before.joined_at if before is not None and again else event.at,
        "seq": seq,
        "endpoints": {s.endpoint: _endpoint(s, event.at) for s in event.endpoints},
        "joined_id": event.id,
        "journal_lost": event.journal_lost or _began_anew(before, event),
    }
    state.hosts[event.host] = HostView(**joined)
    state.touched.add(("host", event.host))
    return ""


_LIVES = re.compile(r"(\d{6})-")


def _began_anew(before: HostView | None, event: c.HostJoined) -> str:
    """Say that a host counts its lives, which stand in its journal, from the start again."""
    if before is None:
        return ""
    if before.incarnation == event.incarnation:
        return before.journal_lost
    earlier, now = _LIVES.match(before.incarnation), _LIVES.match(event.incarnation)
    if earlier is None or now is None or int(now[1]) > int(earlier[1]):
        return ""
    return (
        f"its journal is of life {int(now[1])}, after life {int(earlier[1])}: it was "
        "deleted or put back, or this is another machine with the same key"
    )


def _decided(state: FleetState, event: c.FleetEvent, seq: int) -> str:
    match event:
        case c.HostLost():
            host = state.hosts.get(event.host)
            if host is None or host.incarnation != event.incarnation:
                return "another incarnation of the host"
            _become(host, "lost", event.at, f"silent for {event.silent_s:g} s")
            state.touched.add(("host", host.host))
        case c.HostForgotten():
            host = state.hosts.get(event.host)
            if host is None or host.state not in ("left", "lost"):
                return "the host is there, or was never"
            del state.hosts[event.host]
            state.touched.add(("host", event.host))
        case c.HostAlertRaised():
            if _active(state, host=event.host, code=event.code) is not None:
                return "an alert is active already"
            alert = AlertView("", seq, event.at, 0.0, event.text)
            alert.host, alert.code = event.host, event.code
            state.alerts = [*state.alerts, alert][-ALERTS_KEPT:]
            state.touched.add(("tiers", ""))
        case c.HostAlertCleared():
            active = _active(state, host=event.host, code=event.code)
            if active is None:
                return "no active alert"
            active.cleared_at, active.down_s = event.at, event.lasted_s
            state.touched.add(("tiers", ""))
        case c.EndpointAdded():
            state.shared[event.endpoint] = SharedView(
                event.endpoint,
                event.kind,
                event.url,
                event.slots,
                event.at,
                event.requested_by,
            )
            state.touched.add(("shared", event.endpoint))
        case c.EndpointRemoved():
            if state.shared.pop(event.endpoint, None) is None:
                return "no such endpoint"
            state.touched.add(("shared", event.endpoint))
            for host in state.hosts.values():
                endpoint = host.endpoints.get(event.endpoint)
                if endpoint is not None and endpoint.shared:
                    del host.endpoints[event.endpoint]
                    state.touched.add(("host", host.host))
        case _:
            return "nothing we know of a fleet"
    return ""


def _tier(state: FleetState, event: c.TierEvent, seq: int) -> str:
    match event:
        case c.TierDown():
            _turn(state, event, "down", event.reason)
        case c.TierUp():
            _turn(state, event, "up")
        case c.TierLimited():
            tier = _turn(state, event, "limited", event.reason)
            tier.until, tier.account = event.until, event.account
        case c.TierLimitCleared():
            limited = state.tiers.get(event.tier)
            if limited is not None and limited.state == "limited":
                _turn(state, event, "up")
        case c.TierBudgetSpent():
            pass
        case c.AlertRaised():
            if _active(state, event.tier) is not None:
                return "an alert is active already"
            alert = AlertView(event.tier, seq, event.at, event.down_s, event.reason)
            state.alerts = [*state.alerts, alert][-ALERTS_KEPT:]
        case c.AlertCleared():
            active = _active(state, event.tier)
            if active is None:
                return "no active alert"
            active.cleared_at, active.down_s = event.at, event.down_s
        case c.AlertAcknowledged():
            active = _active(state, event.tier)
            if active is None:
                return "no active alert"
            active.acknowledged_at = event.at
            active.acknowledged_by = event.requested_by
        case _:
            return "nothing we know of a tier"
    state.touched.add(("tiers", ""))
    return ""


def _is_repeat(state: FleetState, event: c.HostEvent) -> bool:
    """Whether a host repeats an event, perhaps behind others that came after it."""
    host = state.hosts.get(event.host)
    return (
        host is not None
        and host.incarnation == event.incarnation
        and heard_before(event, host.joined_id, host.last_ids)
    )


def _outdated(state: FleetState, event: c.FleetEvent | c.TierEvent) -> bool:
    by_gateway = (
        c.EndpointAdded
        | c.EndpointRemoved
        | c.AlertAcknowledged
        | c.TierLimitCleared
        | c.HostForgotten
    )
    if isinstance(event, by_gateway):
        return False
    return event.epoch != state.in_force.epoch


def _become(
    host: HostView,
    state: Literal["up", "draining", "left", "lost"],
    at: str,
    reason: str = "",
) -> None:
    if host.state != state:
        host.state, host.since = state, at
    host.reason = reason


def _turn(
    state: FleetState,
    event: c.TierEvent,
    into: Literal["up", "down", "limited"],
    reason: str = "",
) -> TierView:
    tier = state.tiers.setdefault(event.tier, TierView(event.tier))
    if tier.state != into:
        tier.state, tier.since = into, event.at
    tier.reason, tier.until, tier.account = reason, None, ""
    return tier


def _active(
    state: FleetState, tier: str = "", *, host: str = "", code: str = ""
) -> AlertView | None:
    about = (tier, host, code)
    for alert in reversed(state.alerts):
        if (alert.tier, alert.host, alert.code) == about and alert.cleared_at is None:
            return alert
    return None


def _endpoint(state: c.EndpointState, since: str) -> EndpointView:
    return EndpointView(**same(state, EndpointView), since=since)


class Beats:
    """The last beat of each host. Instants are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, c.Beat]] = {}
        # How far each host's clock was ahead of ours with its last beats, as they came.
        self._clocks: dict[str, deque[float]] = {}

    def note(self, beat: c.Beat, now: float, wall: float) -> None:
        """Keep a beat in place of the host's last one; `wall` is the time of day."""
        self._last[beat.host] = (now, beat)
        with suppress(Malformed):
            clocks = self._clocks.setdefault(beat.host, deque(maxlen=CLOCKS_KEPT))
            clocks.append(instant(beat.at) - wall)

    def clock_ahead_s(
        self, host: HostView, now: float, fresh_beats: int = FRESH_BEATS
    ) -> float | None:
        """Return how far a host's clock is ahead of ours, None where that is not known.

        What a beat took on its way makes it look behind: the fastest counts.
        """
        clocks = self._clocks.get(host.host)
        if not clocks or self.of(host, now, fresh_beats) is None:
            return None
        return round(max(clocks), 3)

    def of(
        self, host: HostView, now: float, fresh_beats: int = FRESH_BEATS
    ) -> c.Beat | None:
        """Return the host's last beat, None if it is of before or too old.

        It is too old after `fresh_beats` of the interval that it says.
        """
        heard, beat = self._last.get(host.host, (0.0, None))
        if beat is None or beat.incarnation != host.incarnation:
            return None
        fresh_s = fresh_beats * (beat.interval_s or BEAT_INTERVAL_S)
        return beat if now - heard <= fresh_s else None
