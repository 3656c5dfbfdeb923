"""Hosts: what their events change, which runs are gone with them, when one is lost, and
the alerts about them.

A run is gone where the log has it on a host and the host does not hold it: it restarted
without it, its beats do not name it, it left, or it was silent for its whole lease.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from actors.scheduler.live import RouteEnd
from actors.scheduler.outputs import Decision
from actors.scheduler.places import RIVALS_AFTER, RIVALS_FORGOTTEN_S
from events import catalogue as c
from events import subjects
from events.beats import CLOCKS_KEPT, SKEW_S
from events.codec import instant
from events.errors import Malformed
from events.lifecycle import STARTED, endpoint_of, heard_before

if TYPE_CHECKING:
    from actors.scheduler.leadership import Leadership
    from actors.scheduler.live import LiveTask
    from actors.scheduler.places import Host
    from actors.scheduler.state import SchedulerState, Verdict

SILENCE_CHECK_S: Final = 0.5
"""How often hosts that are silent, or unwell, are looked for."""

FOUND_AGAIN: Final = ("host lost", "host lost it")
"""Why a route ended whose host may turn out to hold it after all."""

JOINS_KEPT: Final = 16
"""Of so many incarnations of a host it is known which came first."""

ALERT_AFTER_S: Final = 10.0
CLEAR_AFTER_S: Final = 60.0
"""How long a host says that it can take no work before that is an alert, and how long it
has to be well again before the alert ends."""


# -- the fold --------------------------------------------------------------------------


def fold_host(state: SchedulerState, name: str, recorded: c.Recorded) -> Verdict:
    """Fold what a host says of itself and its endpoints."""
    event, fleet = recorded.event, state.fleet
    if not isinstance(event, c.HostEvent) or event.host != name:
        return "void"
    host = fleet.host(name)
    if event.incarnation == host.incarnation and heard_before(
        event, host.joined_id, host.last_ids
    ):
        # Said again, perhaps behind what came after it.
        return "repeat"
    if isinstance(event, c.HostJoined):
        restarted = event.incarnation != host.incarnation
        host.joins.setdefault(event.incarnation, recorded.seq)
        while len(host.joins) > JOINS_KEPT:
            del host.joins[next(iter(host.joins))]
        fleet.joined(_without_removed(state, event), recorded.seq, state.now)
        if restarted:
            for live in list(state.on_host.get(name, {}).values()):
                after_restart(state, live, host)
        state.regroup()
    elif event.incarnation != host.incarnation:
        return "void"
    if isinstance(event, c.HostJoined):
        host.joined_id, host.last_ids = event.id, {}
    else:
        host.last_ids[endpoint_of(event)] = event.id
    state.tiers_dirty = True
    match event:
        case c.HostRecovered():
            fleet.recovered(name, recorded.seq, state.now)
            state.regroup()
            compare(state, host, {run.route for run in event.held}, patience=0)
        case c.HostDraining():
            fleet.draining(name, True)
        case c.HostResumed():
            fleet.draining(name, False)
        case c.HostLeft():
            fleet.left(name)
            compare(state, host, set(), patience=0)
        case c.EndpointUp() | c.EndpointChanged():
            if _is_removed(state, event.state):
                return "void"
            fleet.endpoint_seen(name, event.state, recorded.seq)
            if isinstance(event, c.EndpointUp):
                state.regroup()
        case c.EndpointDown():
            fleet.endpoint_down(name, event.endpoint, event.reason)
        case _:
            pass
    return "applied"


def fold_fleet(state: SchedulerState, name: str, event: c.Event) -> Verdict:
    """Fold what was decided about a host or a shared endpoint."""
    if isinstance(event, c.HostLost | c.HostAlertRaised | c.HostAlertCleared) and (
        event.epoch != state.epochs.current or event.host != name
    ):
        return "void"
    match event:
        case c.HostLost():
            if state.fleet.host(name).incarnation == event.incarnation:
                state.fleet.lost(name)
                silent = f"silent for {event.silent_s:.1f} s"
                for live in list(state.on_host.get(name, {}).values()):
                    lose(state, live, "host lost", silent)
        case c.HostForgotten():
            if event.host != name or state.fleet.host(name).live:
                return "void"
            state.fleet.forget(name)
            state.regroup()
        case c.HostAlertRaised():
            state.fleet.host(name).alerts.setdefault(
                event.code, state.time.of(event.at)
            )
        case c.HostAlertCleared():
            state.fleet.host(name).alerts.pop(event.code, None)
        case c.EndpointAdded():
            state.shared[name] = event
            state.ever_shared = True
        case c.EndpointRemoved():
            state.shared.pop(name, None)
            state.fleet.remove_endpoint(name)
        case _:
            return "void"
    state.tiers_dirty = True
    return "applied"


def _is_removed(state: SchedulerState, endpoint: c.EndpointState) -> bool:
    """Whether a host speaks of a shared endpoint that an operator has taken away."""
    return endpoint.shared and endpoint.endpoint not in state.shared


def _without_removed(state: SchedulerState, event: c.HostJoined) -> c.HostJoined:
    endpoints = [one for one in event.endpoints if not _is_removed(state, one)]
    if len(endpoints) == len(event.endpoints):
        return event
    return msgspec.structs.replace(event, endpoints=endpoints)


# -- runs that are gone ----------------------------------------------------------------


def after_restart(state: SchedulerState, live: LiveTask, host: Host) -> None:
    """Look at a run from before a restart: one that is not there any more, or had not
    begun, is lost."""
    phase = host.runs.get(live.task.route)
    if phase is None:
        lose(state, live, "host restarted", "its new incarnation does not hold the run")
    elif phase == "accepted" and live.task.phase in ("accepted", "running"):
        # Not on its disk as begun: nothing there will ever begin it by itself.
        lose(state, live, "host restarted", "it had not begun the run")
    else:
        found_again(state, live)


def back_on_host(state: SchedulerState, live: LiveTask) -> None:
    """Look at a retried task whose history has been read, and that has a route in force:
    its host may be gone, or have restarted, by now."""
    host = state.fleet.hosts.get(live.task.host)
    if host is None or not host.live:
        lose(state, live, "host lost", "gone while its history was read")
    elif live.incarnation and live.incarnation < host.incarnation:
        after_restart(state, live, host)


def compare(
    state: SchedulerState, host: Host, there: set[str], *, patience: int
) -> None:
    """Find runs that the log has on a host and the host does not hold.

    `there` are the routes that it holds, `patience` is how many times in a row one may be
    missing. With any, a route that is not accepted yet is left to the acceptance time-out:
    its host may not have got it yet.
    """
    for live in list(state.on_host.get(host.name, {}).values()):
        route = live.task.route
        if live.task.phase == "routed" and patience:
            continue
        if route in there:
            host.missing.pop(route, None)
            found_again(state, live)
            continue
        missed = host.missing.get(route, 0) + 1
        host.missing[route] = missed
        if missed > patience:
            lose(state, live, "host lost it", f"{host.name} does not hold the run")


def found_again(state: SchedulerState, live: LiveTask) -> None:
    """A host holds a run that was taken for gone, which is not in the log yet."""
    end = state.ended.get(live.task.task_id)
    if end is not None and end.reason in FOUND_AGAIN:
        del state.ended[live.task.task_id]


def is_back(state: SchedulerState, live: LiveTask, end: RouteEnd) -> bool:
    """Whether a host that was lost has come back: it has said since which runs it holds."""
    host = state.fleet.hosts.get(live.task.host)
    return end.reason == "host lost" and host is not None and host.live


def lose(state: SchedulerState, live: LiveTask, reason: str, detail: str) -> None:
    """A run is gone without a report; it was an attempt if it had been started."""
    started = live.task.reported >= STARTED
    state.ended[live.task.task_id] = RouteEnd(reason, detail, None, started)


# -- silence ---------------------------------------------------------------------------


def decide_lost(state: SchedulerState, lead: Leadership, now: float) -> list[Decision]:
    """Declare hosts lost that have been silent for their whole lease, each once."""
    lead.silence_check_at = now + SILENCE_CHECK_S
    decisions = []
    for host in state.fleet.hosts.values():
        if _is_newly_lost(state, lead, host, now):
            lead.lost.add(host.name)
            event = lead.write(
                now,
                c.HostLost,
                host=host.name,
                incarnation=host.incarnation,
                silent_s=round(now - host.last_beat, 3),
            )
            decisions.append(_about_host(state, host, event))
    return decisions


def _about_host(state: SchedulerState, host: Host, event: c.FleetEvent) -> Decision:
    subject = subjects.fleet(host.name)
    return Decision(subject, event, state.subject_seqs.get(subject, 0))


# -- alerts ----------------------------------------------------------------------------


def decide_alerts(
    state: SchedulerState, lead: Leadership, now: float
) -> list[Decision]:
    """Decide which alerts about hosts begin and end."""
    decisions = []
    for host in state.fleet.hosts.values():
        for code, (text, over) in _wrong_with(host, now).items():
            if (host.name, code) in lead.alerting:
                continue
            about = {"host": host.name, "code": code}
            event: c.FleetEvent
            if text and code not in host.alerts:
                event = lead.write(
                    now,
                    c.HostAlertRaised,
                    **about,
                    incarnation=host.incarnation,
                    text=text,
                )
            elif over and code in host.alerts:
                lasted = round(max(0.0, now - host.alerts[code]), 3)
                event = lead.write(now, c.HostAlertCleared, **about, lasted_s=lasted)
            else:
                continue
            lead.alerting.add((host.name, code))
            decisions.append(_about_host(state, host, event))
    return decisions


def _wrong_with(host: Host, now: float) -> dict[str, tuple[str, bool]]:
    """Return by code what is to be alerted about a host, "" for nothing, and whether an
    alert about it may end. Between the two nothing changes."""
    for_s = now - host.fault_since
    unwell = host.fault if host.live and for_s >= ALERT_AFTER_S else ""
    well = not host.lost and not host.fault and for_s >= CLEAR_AFTER_S
    rivals, quiet = "", now - host.swapped_at >= RIVALS_FORGOTTEN_S
    if host.swaps >= RIVALS_AFTER and not quiet:
        names = " and ".join(sorted(host.heard[-2:]))
        rivals = f"two processes are this host: {names}; the later one is told to leave"
    ahead_s = host.clock_ahead_s
    known = host.live and len(host.clocks) == CLOCKS_KEPT
    skew = ""
    if known and abs(ahead_s) > SKEW_S:
        where = "ahead of" if ahead_s > 0 else "behind"
        skew = f"its clock is {abs(ahead_s):.1f} s {where} the scheduler's"
    notices = "; ".join(sorted({p.notice for p in host.places() if p.notice}))
    return {
        "claude_model": (notices if host.live else "", not (host.present and notices)),
        "clock_skew": (
            skew,
            not host.present or (known and abs(ahead_s) < SKEW_S / 2),
        ),
        "cannot_persist": (unwell, well or not host.present),
        "two_incarnations": (rivals, quiet),
    }


def note_clock(state: SchedulerState, host: Host, at: str) -> None:
    """Hold a host's clock, as it stamped what has just come in, against the log's."""
    try:
        host.clocks.append(instant(at) - state.time.wall(state.now))
    except Malformed:
        return


def with_old_resources(
    state: SchedulerState, lead: Leadership, now: float
) -> list[Host]:
    """Return hosts whose resources are too old to be true, but that are not lost yet."""
    beats, interval_s = state.policy.resources_fresh_beats, state.policy.beat_interval_s
    return [
        host
        for host in state.fleet.hosts.values()
        if host.live
        and now - host.last_beat >= beats * (host.beat_interval_s or interval_s)
        and not _is_newly_lost(state, lead, host, now)
    ]


def _is_newly_lost(
    state: SchedulerState, lead: Leadership, host: Host, now: float
) -> bool:
    """Whether a host was silent for its whole lease, and nothing is decided about it."""
    silent_s = now - host.last_beat
    return (
        host.live
        and silent_s >= state.policy.host_lease_s
        and host.name not in lead.lost
    )
