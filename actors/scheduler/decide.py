"""The scheduler: decides from the board, and mails what has been decided.

It does no I/O. Events, beats and the time come in; decisions (events to append, with the
sequence they expect) and mail come out. What it decided counts only once it has come back
from the log and was valid there: until then a slot is reserved, nothing more, and an
assignment is mailed on the fold. So a decision that lost a race costs a reservation, and
a standby that folds the same log is ready to lead at any moment.

It is event-driven: a fold or a beat marks the few groups that might move, `decide` looks
at those, and `next_wake` says when time alone would change something.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from actors import lifecycle
from actors.lifecycle import Head, TaskState
from actors.scheduler.dispatch import Dispatch, Held
from actors.scheduler.queue import TIER_KIND, Group, Requirement, Waiting
from actors.scheduler.state import (
    Board,
    Body,
    Effect,
    GivenBack,
    History,
    Live,
    Mail,
)
from events import catalogue as c
from events import subjects
from events.codec import instant, rfc3339
from events.commands import Assign, Cancel, Rejoin, SharedEndpoint, UseEndpoints
from events.lifecycle import FINAL, FIXED_KINDS, ON_HOST, time_to_live

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.scheduler.places import Host, Place
    from events.catalogue import Event, TaskSpec

MISSED_BEATS: Final = 3
"""After so many beats that do not name a run which the log has there, it is lost."""

REJECTED_PAUSE_S: Final = 0.5
"""A host that refused is not offered more work for so long: its slots disagree with ours,
and asking again at once would only fill the log."""

NOT_ACCEPTED: Final = "not accepted"
"""The reason that an acceptance takes back, if it comes before the decision."""

LEASE_CHECK_S: Final = 0.5
DEFER_AT_ONCE: Final = 200
DEFER_PAUSE_S: Final = 0.05
"""So many tasks are told at once why they wait; the rest in the turns that follow, so
that a million of them do not hold up everybody else."""

EXPIRE_AT_ONCE: Final = 1_000
"""At most so many tasks expire in one turn; the rest follow in the next."""

__all__ = [
    "Body",
    "Decision",
    "Effect",
    "History",
    "Mail",
    "Scheduler",
]


class Decision(NamedTuple):
    """An event to append, and where its subject must stand."""

    subject: str
    event: Event
    expect: int | None


class Timer(NamedTuple):
    """When to look again at a group (`required`), a task (`task_id`), or at all."""

    when: float
    order: int
    required: Requirement | None = None
    task_id: str = ""


class Scheduler(Board):
    """One scheduler's mind, leading or standing by.

    `name` is written into its events, `ids` makes event ids, `ticks` is a microsecond
    counter for measuring decisions (0 where nobody measures).
    """

    def __init__(
        self,
        name: str,
        ids: Callable[[], str],
        *,
        ticks: Callable[[], float] = lambda: 0.0,
    ) -> None:
        super().__init__()
        self.name = name
        self.epoch = 0
        self._ids = ids
        self._dispatch = Dispatch(self, self._head, self._wake_group, ticks)
        self._accepting: deque[tuple[float, str, str]] = deque()
        self._timers: list[Timer] = []
        self._timers_made = 0
        self._lost: set[str] = set()
        self._lease_due = 0.0
        self._alert_at: float | None = None

    # -- leading -----------------------------------------------------------------------

    def lead(self, epoch: int, now: float) -> None:
        """Begin to decide: the election of `epoch` is in the log and has been folded.

        Every host gets one full lease; what is routed and unconfirmed is sent again,
        what is being cancelled is cancelled again; timers are rebuilt.
        """
        self.leading = True
        self.epoch = epoch
        self.now = self.fleet.now = now
        self._lost.clear()
        self._accepting.clear()
        self._timers.clear()
        self.tier_pending.clear()
        self.alerts_moved = True
        # The timers that would have ended pauses of an earlier leadership are gone.
        self.fleet.resume_paused(float("inf"))
        for host in self.fleet.hosts.values():
            host.last_beat = now
            host.missing.clear()
            if not host.live:
                for live in list(self.on_host.get(host.name, {}).values()):
                    self.lose(live, "host lost", "gone before this leader's time")
        for group in self.queue.groups.values():
            # What we timed when we led before has gone with its timers.
            group.wake_at = group.expiries = None
            group.unmet_since = group.starving_since = None
        for live in self.tasks.values():
            live.deciding = ""
            phase = live.state.phase
            if phase == "routed":
                self._accepting.append((now, live.state.task_id, live.state.route))
                self._mail_assignment(live)
            elif phase == "cancelling":
                self._mail_cancel(live.state)
            elif phase == "returned":
                self.give_back.setdefault(live.state.task_id, GivenBack("returned"))
            elif phase == "waiting" and live.deadline is not None:
                self._wake_at(live.deadline, task_id=live.state.task_id)
        self.shared_changed()
        for until in self.fleet.limited_until.values():
            self._wake_at(until)
        self.tiers_dirty = True
        self.ready.update(self.queue.groups)

    def step_down(self) -> None:
        """Stop deciding; what was reserved and not confirmed is released."""
        self.leading = False
        self.effects = [one for one in self.effects if isinstance(one, History)]
        self.limits.clear()
        for event_id in list(self.reserved):
            self.release(event_id)
        for live in self.tasks.values():
            live.deciding = ""
            self._wait_again(live)
        for task_id in list(self.escalated):
            self.not_escalated(task_id)

    def _wait_again(self, live: Live) -> None:
        """Put back a task that was taken out of the queue for a decision."""
        task_id = live.state.task_id
        if live.state.phase == "waiting" and task_id not in self.queue.tasks:
            self.enqueue(live)

    def undecided(self, decision: Decision) -> None:
        """A decision was not stored: somebody else was first, or the log is away.

        The fold of what was stored instead has come or will come; here only what was
        taken for granted is given back.
        """
        self.counts.undecided += 1
        event = decision.event
        self.release(event.id)
        if isinstance(event, c.TierEvent):
            self.tier_pending.discard(event.tier)
            self.tiers_dirty = self.alerts_moved = True
            if isinstance(event, c.TierLimited) and self.leading:
                until = event.until if event.known_end else None
                self.limits.append((event.tier, until, event.reason))
        elif isinstance(event, c.HostLost):
            self._lost.discard(event.host)
        if not isinstance(event, c.TaskEvent):
            return
        self.not_escalated(event.task_id)
        live = self.tasks.get(event.task_id)
        if live is None:
            return
        if isinstance(event, c.TaskDeferred):
            live.deferred = False
        # It may be stored all the same and have been folded, and more have followed.
        if live.deciding == event.id:
            live.deciding = ""
            self._wait_again(live)
        if not isinstance(event, c.TaskRequeued | c.TaskDeadLettered | c.TaskAbandoned):
            return
        if event.route != live.state.route:
            return
        if isinstance(event, c.TaskRequeued):
            again = GivenBack(
                event.reason, event.detail, event.exclude, event.counts_as_attempt
            )
            self.give_back.setdefault(event.task_id, again)
        else:
            self.give_back.setdefault(event.task_id, GivenBack(event.reason))

    # -- what follows from a fold ------------------------------------------------------

    def moved(
        self, live: Live, before: TaskState, state: TaskState, event: Event
    ) -> None:
        if not self.leading:
            return
        match event:
            case c.TaskRouted():
                self._accepting.append((self.now, state.task_id, state.route))
                self._mail_assignment(live)
            case c.TaskRejected():
                self.fleet.pause(before.host, self.now + REJECTED_PAUSE_S)
                self._wake_at(self.now + REJECTED_PAUSE_S)
            case c.TaskReturned() if event.reason == "limited":
                self.limits.append((state.tier, event.limited_until, event.detail))
            case c.TaskCancelled() if state.phase == "cancelling":
                self._mail_cancel(state)
            case c.TaskReassigned() if before.phase in ON_HOST:
                self._mail_cancel(before)
            case _:
                pass

    def queued(self, live: Live, waiting: Waiting) -> None:
        if self.leading and live.deadline is not None:
            self._wake_at(live.deadline, task_id=waiting.task_id)
        group = waiting.group
        if group is not None and group.expiries is not None:
            self._may_expire(group, waiting)

    def host_changed(self, host: Host, event: c.HostEvent) -> None:
        if isinstance(event, c.HostJoined | c.HostRecovered):
            self._lost.discard(host.name)
            if self.leading and self.ever_shared:
                self.effects.append(Mail(host.name, self._shared_endpoints()))

    def shared_changed(self) -> None:
        if self.leading:
            mail = self._shared_endpoints()
            self.effects += [
                Mail(host.name, mail) for host in self.fleet.hosts.values() if host.live
            ]

    def share_with(self, name: str) -> None:
        """Tell a host again which endpoints are shared, if it is still here."""
        host = self.fleet.hosts.get(name)
        if self.leading and host is not None and host.live:
            self.effects.append(Mail(name, self._shared_endpoints()))

    def _shared_endpoints(self) -> UseEndpoints:
        return UseEndpoints(
            epoch=self.epoch,
            as_of=self.position,
            endpoints=[
                SharedEndpoint(
                    endpoint=one.endpoint,
                    kind=one.kind,
                    url=one.url,
                    slots=one.slots,
                    added=one.id,
                )
                for one in self.shared.values()
            ],
        )

    def elected(self, event: c.SchedulerElected) -> None:
        if self.leading and event.epoch != self.epoch:
            self.step_down()

    # -- mail --------------------------------------------------------------------------

    def _mail_assignment(self, live: Live) -> None:
        state = live.state
        spec = self.bodies.get(state.task_id)
        if spec is None:
            self.effects.append(Body(state.task_id, state.route, state.submitted_seq))
            return
        mail = self.assignment(state.task_id, state.route, spec)
        if mail is not None:
            self.effects.append(mail)

    def assignment(self, task_id: str, route: str, spec: TaskSpec) -> Mail | None:
        """Spell the assignment of a route; None if it is no longer to be sent."""
        live = self.tasks.get(task_id)
        if live is None or live.routed is None or not self.leading:
            return None
        if live.state.route != route or live.state.phase != "routed":
            return None
        routed = live.routed
        place = self.fleet.find(
            routed.selected_host, routed.selected_endpoint, live.kind
        )
        return Mail(
            routed.selected_host,
            Assign(
                epoch=self.epoch,
                task_id=task_id,
                route=route,
                generation=routed.generation,
                attempt=routed.attempt,
                spec=spec,
                tier=routed.effective_tier,
                target_type=routed.target_type,
                endpoint=routed.selected_endpoint,
                endpoint_kind=place.endpoint_kind if place is not None else None,
                endpoint_url=place.url if place is not None else "",
                model=routed.selected_model,
                equivalent_model=self.policy.equivalent,
                max_budget_usd=self.policy.max_budget_usd_per_task,
                limits=self.policy.limits,
            ),
        )

    def resend(self, task_id: str, route: str) -> None:
        """Mail an assignment once more, if it still waits to be accepted."""
        live = self.tasks.get(task_id)
        if (
            live is not None
            and live.state.phase == "routed"
            and live.state.route == route
        ):
            self._mail_assignment(live)

    def _mail_cancel(self, state: TaskState) -> None:
        self._cancel_at(state.host, state.task_id, state.route, "cancelled")

    def _cancel_at(self, host: str, task_id: str, route: str, reason: str) -> None:
        self.effects.append(
            Mail(
                host,
                Cancel(epoch=self.epoch, task_id=task_id, route=route, reason=reason),
            )
        )

    # -- beats -------------------------------------------------------------------------

    def beat(self, beat: c.Beat, now: float) -> None:
        """Take in a host's sign of life."""
        self.now = self.fleet.now = now
        host = self.fleet.hosts.get(beat.host)
        stranger = host is None or not host.present
        if (
            host is None
            or stranger
            or host.incarnation != beat.incarnation
            or host.lost
        ):
            if self.leading:
                known = host.incarnation if host is not None and not stranger else ""
                self.effects.append(
                    Mail(beat.host, Rejoin(epoch=self.epoch, incarnation=known))
                )
            return
        self.fleet.beat(beat, now)
        if self.leading:
            self._stop_strays(beat)
            held = {one.route for one in beat.held}
            self.compare(host, held, patience=MISSED_BEATS)

    def _stop_strays(self, beat: c.Beat) -> None:
        """Cancel what a host runs on a route that is not in force."""
        for one in beat.held:
            if one.phase == "finished" or one.task_id in self.coming_back:
                continue
            live = self.tasks.get(one.task_id)
            if (
                live is None
                or live.state.route != one.route
                or live.state.phase not in ("routed", "accepted", "running")
            ):
                reason = "its route is not in force"
                self._cancel_at(beat.host, one.task_id, one.route, reason)

    # -- deciding ----------------------------------------------------------------------

    def decide(self, now: float) -> list[Decision]:
        """Decide everything that can be decided now; nothing while not leading."""
        self.now = self.fleet.now = now
        if not self.leading:
            return []
        made: list[Decision] = []
        if self._timers and self._timers[0].when <= now:
            self._due(now, made)
        if now >= self._lease_due:
            self._decide_hosts(now, made)
        if self.limits:
            self._decide_limits(now, made)
        if self.tiers_dirty or self.fleet.changed_kinds or self._alert_due(now):
            self._decide_tiers(now, made)
        self._expire_acceptance(now)
        if self.give_back:
            self._decide_given_back(made)
        if self.fleet.opened:
            for key in self.fleet.opened:
                self.ready.update(self.by_pool.get(key, ()))
            self.fleet.opened.clear()
            self.ready.update(self.unmet)
        if self.ready:
            self._decide_routes(now, made)
        return made

    def next_wake(self) -> float | None:
        """When time alone changes something next (epoch seconds), None if never."""
        if not self.leading:
            return None
        wakes = [self._timers[0].when] if self._timers else []
        if self._accepting:
            wakes.append(self._accepting[0][0] + self.policy.accept_timeout_s)
        if self.fleet.hosts:
            wakes.append(self._lease_due)
        alert = self._next_alert()
        if alert is not None:
            wakes.append(alert)
        return min(wakes, default=None)

    def _head(self) -> Head:
        return Head(self._ids(), rfc3339(self.now), self.name)

    # -- time --------------------------------------------------------------------------

    def _wake_at(
        self, when: float, required: Requirement | None = None, task_id: str = ""
    ) -> None:
        self._timers_made += 1
        timer = Timer(when, self._timers_made, required, task_id)
        heapq.heappush(self._timers, timer)

    def _wake_group(self, when: float, required: Requirement) -> None:
        group = self.queue.groups.get(required)
        if group is not None and group.wake_at != when:
            group.wake_at = when
            self._wake_at(when, required)

    def _due(self, now: float, made: list[Decision]) -> None:
        while self._timers and self._timers[0].when <= now:
            timer = heapq.heappop(self._timers)
            if timer.task_id:
                self._deadline(timer.task_id, now, made)
            elif timer.required is None:
                self._lift(now)
            elif timer.required in self.queue.groups:
                group = self.queue.groups[timer.required]
                group.wake_at = None
                self.ready.add(timer.required)

    def _lift(self, now: float) -> None:
        """Pauses and limits may be over."""
        self.fleet.resume_paused(now)
        for kind, until in self.fleet.limited_until.items():
            if until <= now:
                self.fleet.refresh(kind)
        self.tiers_dirty = True
        self.ready.update(self.queue.groups)

    def _deadline(self, task_id: str, now: float, made: list[Decision]) -> None:
        live = self.tasks.get(task_id)
        if live is None or live.deadline is None or live.deadline > now:
            return
        if live.state.phase == "waiting" and not live.deciding:
            self._expire(live, made, "deadline", "its deadline has passed", [])

    # -- expiry ------------------------------------------------------------------------

    def _starve(self, group: Group, now: float, made: list[Decision]) -> None:
        """None of a group's tiers could take it: its tasks' TTL runs."""
        if group.expiries is None:
            group.expiries = []
            for waiting in group:
                self._may_expire(group, waiting)
        count = 0
        while group.expiries and group.expiries[0][0] <= now and count < EXPIRE_AT_ONCE:
            _, task_id = heapq.heappop(group.expiries)
            waiting_now = self.queue.tasks.get(task_id)
            live = self.tasks.get(task_id)
            if waiting_now is None or waiting_now.group is not group or live is None:
                continue
            due = self._expires_at(group, waiting_now, live)
            if due > now:
                heapq.heappush(group.expiries, (due, task_id))
                continue
            self._expire_starved(group, live, now, made)
            count += 1
        if group.expiries and group.requirement in self.queue.groups:
            self._wake_group(max(group.expiries[0][0], now), group.requirement)

    def _may_expire(self, group: Group, waiting: Waiting) -> None:
        live = self.tasks.get(waiting.task_id)
        if live is not None and group.expiries is not None:
            due = self._expires_at(group, waiting, live)
            heapq.heappush(group.expiries, (due, waiting.task_id))

    def _expires_at(self, group: Group, waiting: Waiting, live: Live) -> float:
        """The TTL began when the task waited and all its tiers were gone."""
        starving = group.starving_since or waiting.since
        policy_ttl_s = self.policy.task_ttl_s
        return self.after(
            *time_to_live(waiting.since, starving, live.ttl_s, policy_ttl_s)
        )

    def _expire_starved(
        self, group: Group, live: Live, now: float, made: list[Decision]
    ) -> None:
        outages = [
            c.TierOutage(
                tier,
                "down" if self.fleet.offered(TIER_KIND[tier]) else "absent",
                round(now - (self.tiers[tier].down_since or now), 3),
            )
            for tier in self._dispatch.options(group.requirement)
            if not self._dispatch.tier_pool(tier).available
        ]
        said = [f"{o.tier} was {o.state} for {o.down_s:.0f} s" for o in outages]
        pool = self.fleet.pool(group.requirement)
        said += [] if outages else [f"{n} × {why}" for why, n in pool.counts.items()]
        self._expire(live, made, "ttl", "; ".join(said), outages)

    def _expire(
        self,
        live: Live,
        made: list[Decision],
        reason: str,
        detail: str,
        outages: list[c.TierOutage],
    ) -> None:
        state = live.state
        self.dequeue(state.task_id)
        id_, at, by = self._head()
        live.deciding = id_
        event = c.TaskExpired(
            id=id_,
            at=at,
            by=by,
            task_id=state.task_id,
            epoch=self.epoch,
            reason="ttl" if reason == "ttl" else "deadline",
            detail=detail,
            tiers=outages,
            generation=state.generation,
        )
        made.append(Decision(subjects.task(state.task_id), event, state.last_seq))

    # -- hosts and tiers ---------------------------------------------------------------

    def _decide_hosts(self, now: float, made: list[Decision]) -> None:
        self._lease_due = now + LEASE_CHECK_S
        for host in self.fleet.hosts.values():
            interval = host.beat_interval_s or self.policy.beat_interval_s
            fresh = self.policy.resources_fresh_beats * interval
            silent = now - host.last_beat
            if not host.live or silent < min(fresh, self.policy.host_lease_s):
                continue
            if silent >= self.policy.host_lease_s and host.name not in self._lost:
                self._lost.add(host.name)
                id_, at, by = self._head()
                event = c.HostLost(
                    id=id_,
                    at=at,
                    by=by,
                    epoch=self.epoch,
                    host=host.name,
                    incarnation=host.incarnation,
                    silent_s=round(silent, 3),
                )
                subject = subjects.fleet(host.name)
                expect = self.stands.get(subject, 0)
                made.append(Decision(subject, event, expect))
            elif silent >= fresh:
                self.fleet.unconfirmed(host)

    def _decide_limits(self, now: float, made: list[Decision]) -> None:
        limits, self.limits = self.limits, []
        for tier, until, detail in limits:
            if tier in self.tier_pending:
                self.limits.append((tier, until, detail))
                continue
            event = self.tiers[tier].limit(
                instant(until) if until else None,
                detail,
                now,
                self.policy,
                self.epoch,
                self._head,
            )
            if event is not None:
                made.append(self._about_tier(event))
                self._wake_at(instant(event.until))

    def _about_tier(self, event: c.TierEvent) -> Decision:
        """One at a time about each tier, and each once."""
        self.tier_pending.add(event.tier)
        self.alerts_moved = True
        subject = subjects.tier(event.tier)
        return Decision(subject, event, self.stands.get(subject, 0))

    def _decide_tiers(self, now: float, made: list[Decision]) -> None:
        self.tiers_dirty = False
        self.fleet.changed_kinds.clear()
        for tier, watch in self.tiers.items():
            if tier in self.tier_pending:
                continue
            since = watch.down_since
            said = watch.decide(
                self._dispatch.tier_pool(tier).available,
                self.fleet.offered(TIER_KIND[tier]),
                now,
                0.0 if since is None else self.elapsed(since, now),
                self.policy,
                self.epoch,
                self._head,
            )
            if said is not None:
                made.append(self._about_tier(said))

    def _next_alert(self) -> float | None:
        """When the next outage that lasts is to be alerted.

        Asked for in every turn, so it is remembered until something it rests on moves.
        """
        if self.alerts_moved:
            self.alerts_moved = False
            waits = (
                self.after(watch.down_since, self.policy.tier_alert_after_s)
                for watch in self.tiers.values()
                if watch.down_since is not None
                and not watch.alerted
                and watch.tier not in self.tier_pending
            )
            self._alert_at = min(waits, default=None)
        return self._alert_at

    def _alert_due(self, now: float) -> bool:
        alert = self._next_alert()
        return alert is not None and alert <= now

    # -- routes that are over, and new ones --------------------------------------------

    def _expire_acceptance(self, now: float) -> None:
        limit = self.policy.accept_timeout_s
        while self._accepting and self._accepting[0][0] + limit <= now:
            _, task_id, route = self._accepting.popleft()
            live = self.tasks.get(task_id)
            if live is None or live.state.route != route:
                continue
            if live.state.phase == "routed":
                host = live.state.host
                why = f"{host} did not accept it in {limit:g} s"
                self.give_back.setdefault(task_id, GivenBack(NOT_ACCEPTED, why, host))

    def _decide_given_back(self, made: list[Decision]) -> None:
        for task_id, given in list(self.give_back.items()):
            live = self.tasks.get(task_id)
            if live is None or live.state.phase in ("waiting", *FINAL):
                del self.give_back[task_id]
                continue
            if live.deciding:
                continue
            del self.give_back[task_id]
            if given.reason == NOT_ACCEPTED and live.state.phase != "routed":
                continue
            event = self._after_route(live.state, given)
            live.deciding = event.id
            made.append(Decision(subjects.task(task_id), event, live.state.last_seq))

    def _after_route(self, state: TaskState, given: GivenBack) -> Event:
        if state.phase == "cancelling":
            id_, at, by = self._head()
            return c.TaskAbandoned(
                id=id_,
                at=at,
                by=by,
                task_id=state.task_id,
                epoch=self.epoch,
                route=state.route,
                generation=state.generation,
                host=state.host,
                reason=given.reason,
            )
        return lifecycle.give_back(
            state,
            self._head(),
            epoch=self.epoch,
            reason=given.reason,
            detail=given.detail,
            exclude=given.exclude,
            counts=given.counts,
        )

    def _decide_routes(self, now: float, made: list[Decision]) -> None:
        def take(live: Live, event: c.TaskRouted, place: Place) -> None:
            state = live.state
            self.dequeue(state.task_id)
            if state.attempts >= state.max_attempts:
                # Its last run ended while its route was being taken back already.
                made.append(self._used_up(live))
                return
            live.deciding = event.id
            place.slots.reserved += 1
            self.reserved[event.id] = place
            if event.fallback_used and event.effective_tier == "complex":
                self.escalated.add(state.task_id)
            self.fleet.slots_changed(place.host.name, place.endpoint, place.kind)
            self.counts.decisions += 1
            made.append(Decision(subjects.task(state.task_id), event, state.last_seq))

        for group in self._dispatch.run(now, take):
            self._defer(group, made)
            if group.starving_since is not None:
                self._starve(group, now, made)

    def _used_up(self, live: Live) -> Decision:
        state = live.state
        event = lifecycle.give_back(
            state, self._head(), epoch=self.epoch, reason="attempts used up"
        )
        live.deciding = event.id
        return Decision(subjects.task(state.task_id), event, state.last_seq)

    def _defer(self, group: Group, made: list[Decision]) -> None:
        """Say once of each task that its own requirement, not its tier, is what waits."""
        required = group.requirement
        fixed = required.kind in FIXED_KINDS
        own = fixed or self._dispatch.tier_pool(required.tier).available
        if not own:
            return
        if group.untold is None:
            group.untold = deque(group)
        held = self._dispatch.target(group, self.now)
        why = held.why if isinstance(held, Held) else ""
        told = 0
        while group.untold and told < DEFER_AT_ONCE:
            waiting = group.untold.popleft()
            live = self.tasks.get(waiting.task_id)
            if waiting.group is not group or live is None:
                continue
            if live.deferred or live.deciding:
                continue
            live.deferred = True
            told += 1
            id_, at, by = self._head()
            event = c.TaskDeferred(
                id=id_,
                at=at,
                by=by,
                task_id=waiting.task_id,
                epoch=self.epoch,
                reason=why,
            )
            made.append(
                Decision(subjects.task(waiting.task_id), event, live.state.last_seq)
            )
        if group.untold:
            self._wake_group(self.now + DEFER_PAUSE_S, required)

    def would_route(
        self, spec: TaskSpec, classification: c.Classification
    ) -> tuple[c.TaskRouted | None, str]:
        """Return the decision as it would be now, or why the task would wait."""
        return self._dispatch.would_route(spec, classification)
