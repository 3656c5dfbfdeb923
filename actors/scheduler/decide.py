"""The scheduler: the state that the log means, and the deciders that look at it in turn.

It does no I/O. Events, beats and the time come in; decisions (events to append, with the
sequence they expect) and effects (mostly mail) come out. What it decided counts only once
it has come back from the log and was valid there: until then a slot is reserved, nothing
more, and an assignment is mailed on the fold. So a decision that lost a race costs a
reservation, and a standby that folds the same log is ready to lead at any moment.

It is event-driven: a fold or a beat marks the few groups that might move, `decide` looks
at those, and `next_wake` says when time alone would change something.

A decider is a function of the state, the leadership and the time: it reads no clock, leaves
nothing to chance and sends nothing. It returns decisions. What it writes is for itself and
its like: that they are on their way (`SchedulerState.in_flight`, `reserve`), what it has
looked at (`look_at`, `unmet`, what a group remembers), and timers of the leadership. None
of that is in the log, and a new leader begins without it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from actors.scheduler import (
    dispatch,
    expiry,
    families,
    held,
    hosts,
    mailing,
    returns,
    schedules,
    tiers,
)
from actors.scheduler.leadership import Leadership, ReportedLimit, Unaccepted
from actors.scheduler.live import RouteEnd
from actors.scheduler.outputs import HistoryNeeded, Mail
from actors.scheduler.state import FoldedStep, SchedulerState
from actors.stamp import Stamp
from events import catalogue as c
from events.lifecycle import ON_HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from actors.scheduler.fleet import Fleet
    from actors.scheduler.outputs import Decision, Effect
    from actors.scheduler.tiers import TierWatch

MISSED_BEATS: Final = 3
"""So many beats in a row may leave out a run that the log has there; one more, and the run
is gone."""

LOOKED_AT_ONCE: Final = 20_000
"""In one turn a new leader looks at so many of the tasks that it found: 3 ms of CPU."""


_ACTED_UPON: Final = frozenset(
    {
        c.TaskRouted,
        c.TaskAccepted,
        c.TaskStarted,
        c.TaskRejected,
        c.TaskReturned,
        c.TaskCancelled,
        c.TaskReassigned,
    }
)
"""The steps of a task that a leader acts upon at once."""


class Scheduler:
    """One scheduler, leading or standing by. A standby folds and decides nothing.

    `name` is written into its events, `ids` makes event ids, `ticks` is a microsecond
    counter for measuring decisions (0 where nobody measures). `effects` is for the caller
    to empty and perform.
    """

    def __init__(
        self,
        name: str,
        ids: Callable[[], str],
        *,
        ticks: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.name = name
        self.state = SchedulerState()
        self.leadership: Leadership | None = None
        self.effects: list[Effect] = []
        self._ids = ids
        self._ticks = ticks

    @property
    def leading(self) -> bool:
        """Whether it decides."""
        return self.leadership is not None

    @property
    def fleet(self) -> Fleet:
        """The hosts and places, for the gateway."""
        return self.state.fleet

    @property
    def schedules(self) -> schedules.Schedules:
        """The schedules, for the gateway."""
        return self.state.schedules

    @property
    def tiers(self) -> dict[c.Tier, TierWatch]:
        """The tiers, for the gateway."""
        return self.state.tiers

    # -- leading -----------------------------------------------------------------------

    def lead(self, epoch: int, now: float) -> None:
        """Begin to decide: the election of `epoch` is in the log and has been folded.

        Every host gets one full lease; what is routed and not accepted is sent again,
        what is being cancelled is cancelled again; timers are rebuilt.
        """
        state = self.state
        lead = self.leadership = Leadership(self.name, self._ids, epoch, state.time)
        state.time.now = now
        state.at(now)
        state.tier_pending.clear()
        # The timers that would have ended pauses of an earlier leadership are gone.
        state.fleet.resume_paused(float("inf"))
        for host in state.fleet.hosts.values():
            host.last_beat = host.fault_since = now
            # What a standby noted, it noted by a clock that may have stood elsewhere.
            host.swapped_at = min(host.swapped_at, now)
            host.clocks.clear()
            host.missing.clear()
            if not host.live:
                for live in list(state.on_host.get(host.name, {}).values()):
                    hosts.lose(
                        state, live, "host lost", "gone before this leader's time"
                    )
        state.cap_times(now)
        for group in state.queue.groups.values():
            group.begin_anew()
        lead.unlooked = deque(state.tasks.values())
        self._look_at_found(lead, now)
        state.schedules.begin_anew()
        state.held.asked.clear()
        state.held.look_at_all()
        self.effects += mailing.share_with_all(state, lead)
        for until in state.fleet.limited_until.values():
            lead.wake_at(until)
        state.tiers_dirty = state.alerts_moved = True
        state.look_at.update(state.queue.groups)

    def _look_at_found(self, lead: Leadership, now: float) -> None:
        """Look at the next of the tasks that were there when this one began to lead.

        Meanwhile it decides already: what it has routed itself was mailed then.
        """
        state = self.state
        for _ in range(min(len(lead.unlooked), LOOKED_AT_ONCE)):
            live = lead.unlooked.popleft()
            task, routed = live.task, live.routed
            if task.phase == "routed":
                if routed is None or routed.epoch != lead.epoch:
                    lead.unaccepted.append(Unaccepted(now, task.task_id, task.route))
                    self.effects += mailing.send_assignment(state, lead, live)
            elif task.phase == "cancelling":
                self.effects.append(mailing.cancellation(lead, task))
            elif task.phase == "returned":
                if not live.deciding:
                    state.ended.setdefault(task.task_id, RouteEnd("returned"))
            elif task.phase == "waiting" and live.deadline is not None:
                due = live.deadline - state.time.ahead_s
                lead.wake_at(due, task_id=task.task_id)

    def step_down(self) -> None:
        """Stop deciding; what is on its way to the log is given up."""
        self.leadership = None
        self.state.time.now = float("inf")
        self.state.time.unsaid_s, self.state.time.saying = 0.0, False
        self.effects = [one for one in self.effects if isinstance(one, HistoryNeeded)]
        self.state.give_up_in_flight()
        self._set_timers()

    def settle_for_checkpoint(self, on_its_way: Iterable[Decision]) -> None:
        """Make the state one that a checkpoint may hold: nobody leads, nothing is on its way.

        It does not lead again: this is a copy of the process that does. What is `on_its_way`
        to the log counts as not stored: where it was, it stands behind this place, and will
        be folded by whoever reads the checkpoint.
        """
        for decision in on_its_way:
            self.undecided(decision)
        self.step_down()

    def resume(self, state: SchedulerState) -> None:
        """Go on from a state that was written as a checkpoint."""
        self.state = state
        self.effects = [HistoryNeeded(task_id) for task_id in state.coming_back]

    # -- what comes in -----------------------------------------------------------------

    def fold(self, recorded: c.Recorded) -> None:
        """Take in one event of the log, and do what follows from it at once."""
        change = self.state.fold(recorded)
        if self.state.arrived:
            self._set_timers()
        if isinstance(change, FoldedStep):
            if type(change.event) in _ACTED_UPON and self.leadership is not None:
                self._after_step(self.leadership, change)
        elif isinstance(change, HistoryNeeded):
            self.effects.append(change)
        elif change is not None:
            self._after_event(change)

    def adopt(self, task_id: str, history: list[c.Recorded]) -> None:
        """Take in the whole history of a retried task, as `HistoryNeeded` asked for it."""
        steps = self.state.adopt(task_id, history)
        self._set_timers()
        for step in steps:
            if self.leadership is not None:
                self._after_step(self.leadership, step)

    def beat(self, beat: c.Beat, now: float) -> None:
        """Take in a host's sign of life."""
        state, lead = self.state, self.leadership
        state.at(now)
        host = state.fleet.hosts.get(beat.host)
        leaver = host.hear(beat.incarnation, now) if host is not None else ""
        if host is not None and leaver and leaver == beat.incarnation:
            if lead is not None:
                reason = f"another process is host {host.name}, and was first"
                mail = mailing.evict(lead, host.name, leaver, reason)
                self.effects.append(mail)
            if beat.incarnation != host.incarnation:
                return
        if host is None or not host.live or host.incarnation != beat.incarnation:
            if lead is not None:
                self.effects.append(mailing.rejoin(state, lead, beat.host))
            return
        state.fleet.beat(beat, now)
        hosts.note_clock(state, host, beat.at)
        if lead is not None:
            self.effects += mailing.stop_strays(state, lead, beat)
            there = {one.route for one in beat.held}
            hosts.compare(state, host, there, patience=MISSED_BEATS)

    def undecided(self, decision: Decision) -> None:
        """A decision was not stored: somebody else was first, or the log is away.

        The fold of what was stored instead has come or will come; here only what was
        taken for granted is given back.
        """
        state, lead, event = self.state, self.leadership, decision.event
        state.counts.undecided += 1
        state.release(event.id)
        state.schedules.undecided(event)
        if isinstance(event, c.TierEvent):
            state.tier_pending.discard(event.tier)
            state.tiers_dirty = state.alerts_moved = True
            if isinstance(event, c.TierLimited) and lead is not None:
                until = event.until if event.known_end else None
                limit = ReportedLimit(event.tier, until, event.at, event.reason)
                lead.limits.append(limit)
        elif isinstance(event, c.HostLost) and lead is not None:
            lead.lost.discard(event.host)
        elif isinstance(event, c.HostAlertRaised | c.HostAlertCleared) and lead:
            lead.alerting.discard((event.host, event.code))
        elif isinstance(event, c.TaskEvent):
            self._task_undecided(event)
            self._set_timers()

    def _task_undecided(self, event: c.TaskEvent) -> None:
        state = self.state
        state.forget_route(event.task_id)
        live = state.tasks.get(event.task_id)
        if live is None:
            return
        if isinstance(event, c.TaskDeferred):
            live.deferred = False
        # It may be stored all the same and have been folded, and more have followed.
        if live.deciding == event.id:
            live.deciding = ""
            state.wait_again(live)
        end = returns.end_behind(event, live.task.route)
        if end is not None and not hosts.is_back(state, live, end):
            state.ended.setdefault(event.task_id, end)

    # -- what follows at once ----------------------------------------------------------

    def _after_step(self, lead: Leadership, step: FoldedStep) -> None:
        state, task, event = self.state, step.live.task, step.event
        match event:
            case c.TaskRouted():
                sent = Unaccepted(state.now, task.task_id, task.route)
                lead.unaccepted.append(sent)
                self.effects += mailing.send_assignment(state, lead, step.live)
            case c.TaskAccepted() | c.TaskStarted():
                state.fleet.accepted(task.host)
            case c.TaskRejected():
                lead.wake_at(state.fleet.pause(step.before.host, state.now))
            case c.TaskReturned() if (
                event.reason == "limited" and step.live.kind == "claude"
            ):
                # Of any other kind of place it is no account's word.
                limit = ReportedLimit(
                    task.tier, event.limited_until, event.at, event.detail
                )
                lead.limits.append(limit)
            case c.TaskCancelled() if task.phase == "cancelling":
                self.effects.append(mailing.cancellation(lead, task))
                host = state.fleet.hosts.get(task.host)
                if host is None or not host.live:
                    # It was routed there while the host's loss was on its way to the log.
                    gone = "gone before it was cancelled"
                    hosts.lose(state, step.live, "host lost", gone)
            case c.TaskReassigned() if step.before.phase in ON_HOST:
                self.effects.append(mailing.cancellation(lead, step.before))
            case _:
                pass

    def _after_event(self, event: c.Event) -> None:
        state, lead = self.state, self.leadership
        if lead is None:
            return
        match event:
            case c.HostJoined() | c.HostRecovered():
                lead.lost.discard(event.host)
                hosts.note_clock(state, state.fleet.host(event.host), event.at)
                if state.ever_shared:
                    self.effects.append(mailing.share_with(state, lead, event.host))
            case c.HostAlertRaised() | c.HostAlertCleared():
                lead.alerting.discard((event.host, event.code))
            case c.EndpointAdded() | c.EndpointRemoved():
                self.effects += mailing.share_with_all(state, lead)
            case c.SchedulerElected() if event.epoch != lead.epoch:
                self.step_down()
            case c.ClockStepped():
                self._after_clock(lead)
            case _:
                pass

    def _after_clock(self, lead: Leadership) -> None:
        """Set the timers of instants that somebody named: the wall clock stands elsewhere."""
        state = self.state
        for host in state.fleet.hosts.values():
            host.clocks.clear()
        for live in state.tasks.values():
            if live.deadline is not None:
                due = live.deadline - state.time.ahead_s
                lead.wake_at(due, task_id=live.task.task_id)
        for until in state.fleet.limited_until.values():
            lead.wake_at(until)
        state.held.look_at_all()

    def _set_timers(self) -> None:
        """Time those who have begun to wait; a standby need not."""
        arrived, self.state.arrived = self.state.arrived, []
        if self.leadership is not None:
            expiry.set_timers(self.state, self.leadership, arrived)

    # -- deciding ----------------------------------------------------------------------

    def decide(self, now: float) -> list[Decision]:
        """Decide everything that can be decided now; nothing while not leading."""
        state, lead = self.state, self.leadership
        state.at(now)
        if lead is None:
            return []
        decisions: list[Decision] = []
        if lead.unlooked:
            self._look_at_found(lead, now)
        if lead.timers and lead.timers[0].when <= now:
            self._decide_due(lead, now, decisions)
        if now >= lead.silence_check_at:
            # Asked first: those declared lost below forget theirs when that is folded.
            old = hosts.with_old_resources(state, lead, now)
            decisions += hosts.decide_lost(state, lead, now)
            decisions += hosts.decide_alerts(state, lead, now)
            for host in old:
                state.fleet.forget_resources(host)
        if lead.limits:
            decisions += tiers.decide_limits(state, lead, now)
        alert_at = self._next_alert(lead)
        alert_is_due = alert_at is not None and alert_at <= now
        if state.tiers_dirty or state.fleet.changed_kinds or alert_is_due:
            decisions += tiers.decide_tiers(state, lead, now)
        due = state.schedules.next_wake()
        if state.schedules.busy or (due and due <= now + state.time.ahead_s):
            decisions += schedules.decide_schedules(state, lead, now)
        if state.held.look_at:
            decisions += held.decide_held(state, lead, now)
            self.effects += held.outcomes_needed(state)
        returns.note_unaccepted(state, lead, now)
        if state.families.orphans:
            decisions += families.decide_orphans(state, lead, now)
        if state.ended:
            decisions += returns.decide_ended(state, lead, now)
        if state.fleet.changed_pools:
            state.look_at_changed()
        if state.look_at:
            decisions += self._decide_waiting(lead, now)
        return decisions

    def _decide_due(
        self, lead: Leadership, now: float, decisions: list[Decision]
    ) -> None:
        """Do what time alone has brought."""
        state = self.state
        for timer in lead.due(now):
            if timer.task_id:
                state.held.look_again(timer.task_id)
                decisions += expiry.decide_deadline(state, lead, timer.task_id, now)
            elif timer.required is None:
                state.lift_limits(now)
            elif timer.required in state.queue.groups:
                state.queue.groups[timer.required].wake_at = None
                state.look_at.add(timer.required)

    def _decide_waiting(self, lead: Leadership, now: float) -> list[Decision]:
        """Route who can be routed; say why the others wait; expire who has starved."""
        state = self.state
        decisions, unmet = dispatch.decide_routes(state, lead, now, self._ticks)
        for group, blocked in unmet:
            if blocked.again_at is not None:
                lead.wake_group(blocked.again_at, group)
            why = blocked.why
            decisions += dispatch.decide_deferred(state, lead, group, why, now)
            if blocked.starving:
                decisions += expiry.decide_starving(state, lead, group, now)
        return decisions

    def next_wake(self) -> float | None:
        """When time alone changes something next (log time), None if never."""
        state, lead = self.state, self.leadership
        if lead is None:
            return None
        wakes = [lead.timers[0].when] if lead.timers else []
        alert_at = self._next_alert(lead)
        if alert_at is not None:
            wakes.append(alert_at)
        if lead.unaccepted:
            wakes.append(lead.unaccepted[0].since + state.policy.accept_timeout_s)
        if state.fleet.hosts:
            wakes.append(lead.silence_check_at)
        if lead.unlooked or state.held.look_at or state.schedules.changed:
            wakes.append(state.now)
        due = state.schedules.next_wake()
        if due is not None:
            wakes.append(due - state.time.ahead_s)
        return min(wakes, default=None)

    def _next_alert(self, lead: Leadership) -> float | None:
        if self.state.alerts_moved:
            tiers.reckon_alert(self.state, lead)
        return lead.alert_at

    # -- for the role ------------------------------------------------------------------

    def assignment(self, task_id: str, route: str, spec: c.TaskSpec) -> Mail | None:
        """Return the assignment of a route whose task has been read, if still good."""
        if self.leadership is None:
            return None
        return mailing.assignment(self.state, self.leadership, task_id, route, spec)

    def outcome(self, task_id: str, found: held.TaskEnd | None) -> None:
        """Take in what became of a task that a held one comes after, as the log says.

        `found` is None where it is not over: then the fold will tell.
        """
        state = self.state
        there = task_id in state.tasks or task_id in state.coming_back
        if self.leadership is not None and found is not None and not there:
            state.held.learned(task_id, found)

    def resend(self, task_id: str, route: str) -> None:
        """Mail an assignment once more, if it still waits to be accepted."""
        live, lead = self.state.tasks.get(task_id), self.leadership
        if lead is None or live is None or live.task.phase != "routed":
            return
        if live.task.route == route:
            self.effects += mailing.send_assignment(self.state, lead, live)

    def share_with(self, name: str) -> None:
        """Tell a host again which endpoints are shared, if it is still here."""
        host, lead = self.state.fleet.hosts.get(name), self.leadership
        if lead is not None and host is not None and host.live:
            self.effects.append(mailing.share_with(self.state, lead, name))

    def would_route(
        self, spec: c.TaskSpec, classification: c.Classification
    ) -> tuple[c.TaskRouted | None, str]:
        """Return the decision as it would be now, or why the task would wait."""
        stamp = Stamp(self._ids(), self.state.time.stamp(self.state.now), self.name)
        return dispatch.would_route(self.state, stamp, spec, classification)
