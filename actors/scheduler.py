"""The scheduler: folds the log into queue, fleet and tiers, and decides from them.

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

import msgspec

from actors import lifecycle, routing
from actors import policy as policies
from actors.fleet import Fleet, plain
from actors.lifecycle import FINAL, ON_HOST, Epochs, Head, TaskState
from actors.queue import (
    LANES,
    TIER_KIND,
    Group,
    Queue,
    Requirement,
    Waiting,
    rank_of,
    requirement,
)
from actors.tiers import TIERS, TierWatch
from events import catalogue as c
from events import subjects
from events.codec import instant, rfc3339
from events.commands import Assign, Cancel, HostMail, Rejoin

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.fleet import Host, Place, Pool
    from actors.policy import Policy
    from events.catalogue import Event, Recorded, TaskSpec, Tier

MISSED_BEATS: Final = 3
"""After so many beats that do not name a run which the log has there, it is lost."""

REJECTED_PAUSE_S: Final = 0.5
"""A host that refused is not offered more work for so long: its slots disagree with ours,
and asking again at once would only fill the log."""

LEASE_CHECK_S: Final = 0.5

BODIES: Final = 4_096
"""Task bodies kept in memory for a prompt assignment; others are read from the log."""


class Decision(NamedTuple):
    """An event to append, and where its subject must stand."""

    subject: str
    event: Event
    expect: int | None


class Mail(NamedTuple):
    """Something to say to a host's mailbox."""

    host: str
    message: HostMail


class Body(NamedTuple):
    """An assignment whose task has to be read from the log before it can be mailed."""

    task_id: str
    route: str
    seq: int


class History(NamedTuple):
    """A task that has to be read from the log whole, and brought back by `adopt`."""

    task_id: str


Effect = Mail | Body | History


class Live:
    """A task that is not final: its state, and what choosing a place for it needs."""

    __slots__ = ("base", "deciding", "lane", "reason", "repo", "routed", "state")

    def __init__(
        self,
        state: TaskState,
        base: Requirement,
        lane: int,
        repo: str | None,
        reason: str,
    ) -> None:
        self.state = state
        self.base = base
        self.lane = lane
        self.repo = repo
        self.reason = reason
        self.deciding = False
        self.routed: c.TaskRouted | None = None

    def requirement(self, tier: Tier, excluded: tuple[str, ...]) -> Requirement:
        """What it requires while in `tier`."""
        base, state = self.base, self.state
        fixed = base.kind in ("agent", "noop")
        return Requirement(
            kind=base.kind if fixed else TIER_KIND[tier],
            tier=tier,
            model=base.model,
            needs=base.needs,
            assign_to=state.assign_to or "",
            shell=base.shell,
            hopped=state.hopped_from is not None,
            excluded=excluded,
        )


class Counts:
    """What happened, for metrics: counters that only rise."""

    __slots__ = ("decisions", "repeats", "undecided", "unknown", "void")

    def __init__(self) -> None:
        self.decisions = 0
        self.repeats = 0
        self.void = 0
        self.unknown = 0
        self.undecided = 0


class Scheduler:
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
        self.name = name
        self._ids = ids
        self._ticks = ticks
        self.policy: Policy = policies.Policy()
        self.policy_version = 0
        self.policy_seq = 0
        self.epochs = Epochs()
        self.scheduler_seq = 0
        self.epoch = 0
        self.leading = False
        self.position = 0
        self.now = 0.0
        self.queue = Queue()
        self.fleet = Fleet(self.policy)
        self.tiers: dict[Tier, TierWatch] = {tier: TierWatch(tier) for tier in TIERS}
        self.tasks: dict[str, Live] = {}
        self.effects: list[Effect] = []
        self.counts = Counts()
        self.shared: dict[str, c.EndpointAdded] = {}
        self._on_host: dict[str, dict[str, Live]] = {}
        self._reserved: dict[str, Place] = {}
        self._ready: set[Requirement] = set()
        self._by_pool: dict[Requirement, set[Requirement]] = {}
        self._unmet: set[Requirement] = set()
        self._give_back: dict[str, tuple[str, str, str | None, bool]] = {}
        self._accepting: deque[tuple[float, str, str]] = deque()
        self._bodies: dict[str, TaskSpec] = {}
        self._interned: dict[Requirement, Requirement] = {}
        self._reasons: dict[str, str] = {}
        self._timers: list[tuple[float, Requirement | None]] = []
        self._lost: dict[str, bool] = {}
        self._tiers_dirty = True
        self._tier_pending: set[Tier] = set()
        self._escalated: set[str] = set()
        self._limits: list[tuple[Tier, str | None, str]] = []
        self._lease_due = 0.0

    # -- folding -----------------------------------------------------------------------

    def fold(self, recorded: Recorded) -> None:
        """Take in one event of the log."""
        self.position = recorded.seq
        event = recorded.event
        if isinstance(event, c.Unknown):
            self.counts.unknown += 1
            return
        parts = recorded.subject.split(".")
        match parts[2]:
            case "task":
                self._fold_task(parts[3], recorded, "")
            case "run":
                self._fold_task(parts[4], recorded, parts[3])
            case "host":
                self._fold_host(parts[3], recorded)
            case "fleet":
                self._fold_fleet(parts[3], event)
            case "tier":
                self._fold_tier(parts[3], event)
            case "policy":
                self._fold_policy(recorded)
            case "scheduler":
                self._fold_scheduler(recorded)
            case _:
                self.counts.void += 1

    def _fold_task(self, task_id: str, recorded: Recorded, host: str) -> None:
        live = self.tasks.get(task_id)
        event = recorded.event
        if live is None:
            if not host and isinstance(event, c.TaskSubmitted):
                live = self._appears(task_id, event)
            else:
                # Of a task that is over: what still comes in changes no state here. A
                # retried one is brought back from its whole history.
                if isinstance(event, c.TaskRetried):
                    self.effects.append(History(task_id))
                self.counts.repeats += 1
                return
        before = live.state
        state, verdict = lifecycle.evolve(
            before, recorded, epoch=self.epochs.at(recorded.seq), host=host
        )
        live.state = state
        if verdict == "applied":
            self._moved(live, before, state, event)
        elif verdict == "void":
            self.counts.void += 1
            self._release(event.id)
            if before.phase == "absent":
                self.tasks.pop(task_id, None)
        else:
            self.counts.repeats += 1
        if not host:
            live.deciding = False
            if state.phase == "waiting" and task_id not in self.queue.tasks:
                self._enqueue(live)

    def _appears(self, task_id: str, event: c.TaskSubmitted) -> Live:
        spec = event.spec
        tier = event.classification.effective_tier
        base = requirement(spec, tier, assign_to=spec.assign_to)
        base = self._interned.setdefault(base, base)
        reason = event.classification.reason
        reason = self._reasons.setdefault(reason, reason)
        if len(self._reasons) > 10_000:
            self._reasons.clear()
        live = Live(
            lifecycle.initial(task_id), base, LANES[spec.priority], spec.repo, reason
        )
        self.tasks[task_id] = live
        if len(self._bodies) < BODIES:
            self._bodies[task_id] = spec
        return live

    def adopt(self, task_id: str, history: list[Recorded]) -> None:
        """Bring back a task that was over and is retried, from its whole history.

        What the log holds beyond our own position will be folded in its turn.
        """
        known = [one for one in history if one.seq <= self.position]
        first = known[0].event if known else None
        if not isinstance(first, c.TaskSubmitted) or task_id in self.tasks:
            return
        retried = [
            n for n, one in enumerate(known) if isinstance(one.event, c.TaskRetried)
        ]
        cut = retried[-1] + 1 if retried else len(known)
        state = lifecycle.fold(task_id, known[:cut], self.epochs)
        if state.phase in FINAL:
            return
        live = self._appears(task_id, first)
        live.state = state
        self._enqueue(live)
        for recorded in known[cut:]:
            place = subjects.parse(recorded.subject)
            self._fold_task(task_id, recorded, place.host)

    def _moved(
        self, live: Live, before: TaskState, state: TaskState, event: Event
    ) -> None:
        was_on_host, is_on_host = before.phase in ON_HOST, state.phase in ON_HOST
        if isinstance(event, c.TaskRouted):
            self._routed(live, event)
        elif was_on_host and not is_on_host:
            self._off_host(live, before)
        if before.phase == "waiting" and state.phase != "waiting":
            self._dequeue(state.task_id)
        if (
            state.phase == "cancelling"
            and before.phase != "cancelling"
            and self.leading
        ):
            self._mail_cancel(state)
        if state.phase == "returned":
            self._returned(state, event)
        elif state.phase == "waiting" and before.phase != "waiting":
            self._enqueue(live)
        elif state.phase in FINAL:
            self._over(live)
        if isinstance(event, c.TaskReturned) and event.reason == "limited":
            self._limits.append((state.tier, event.limited_until, event.detail))
        elif isinstance(event, c.TaskRejected) and self.leading:
            self.fleet.pause(before.host, self.now + REJECTED_PAUSE_S)
            self._wake_at(self.now + REJECTED_PAUSE_S, None)

    def _routed(self, live: Live, event: c.TaskRouted) -> None:
        state = live.state
        kind = self._kind(live)
        slots = self.fleet.slots_of(state.host, state.endpoint, kind)
        slots.in_flight += 1
        if self._reserved.pop(event.id, None) is not None:
            slots.reserved -= 1
        else:
            self.fleet.slots_changed(state.host, state.endpoint, kind)
        live.routed = event
        self._on_host.setdefault(state.host, {})[state.task_id] = live
        if live.repo is not None:
            self.fleet.ran_on(live.repo, state.host)
        if state.hopped_from is not None and state.tier == "complex":
            self._escalated.add(state.task_id)
        if self.leading:
            self._accepting.append((self.now, state.task_id, state.route))
            self._mail_assignment(live)

    def _off_host(self, live: Live, before: TaskState) -> None:
        kind = self._kind(live)
        slots = self.fleet.slots_of(before.host, before.endpoint, kind)
        slots.in_flight -= 1
        self._on_host.get(before.host, {}).pop(before.task_id, None)
        host = self.fleet.hosts.get(before.host)
        if host is not None:
            host.missing.pop(before.route, None)
        self._escalated.discard(before.task_id)
        live.routed = None
        self.fleet.slots_changed(before.host, before.endpoint, kind)

    def _kind(self, live: Live) -> str:
        fixed = live.base.kind in ("agent", "noop")
        return live.base.kind if fixed else TIER_KIND[live.state.tier]

    def _over(self, live: Live) -> None:
        task_id = live.state.task_id
        self._bodies.pop(task_id, None)
        self._give_back.pop(task_id, None)
        self.tasks.pop(task_id, None)

    def _enqueue(self, live: Live) -> None:
        state = live.state
        excluded = tuple(
            sorted(
                name
                for name, seq in state.excluded
                if not self.fleet.came_up_after(name, seq)
            )
        )
        required = live.requirement(state.tier, excluded)
        required = self._interned.setdefault(required, required)
        waiting = Waiting(
            state.task_id,
            state.submitted_seq,
            live.lane,
            instant(state.waiting_since),
            required,
        )
        self.queue.add(waiting)
        self._by_pool.setdefault(plain(required), set()).add(required)
        self._ready.add(required)

    def _dequeue(self, task_id: str) -> None:
        waiting = self.queue.remove(task_id)
        if waiting is not None and waiting.requirement not in self.queue.groups:
            self._group_gone(waiting.requirement)

    def _group_gone(self, required: Requirement) -> None:
        self._unmet.discard(required)
        key = plain(required)
        siblings = self._by_pool.get(key)
        if siblings is not None:
            siblings.discard(required)
            if not siblings:
                del self._by_pool[key]

    def _returned(self, state: TaskState, event: Event) -> None:
        reason, detail, exclude = "returned", "", None
        if isinstance(event, c.TaskReturned):
            reason, detail, exclude = event.reason, event.detail, event.exclude
        elif isinstance(event, c.TaskRejected):
            reason, detail = f"rejected: {event.reason}", event.detail
        elif isinstance(event, c.TaskStopped):
            reason = "stopped"
        self._give_back[state.task_id] = (reason, detail, exclude, False)

    # -- hosts, tiers, policy, leaders -------------------------------------------------

    def _fold_host(self, name: str, recorded: Recorded) -> None:
        event = recorded.event
        if not isinstance(event, c.HostEvent) or event.host != name:
            self.counts.void += 1
            return
        host = self.fleet.host(name)
        if isinstance(event, c.HostJoined):
            if event.incarnation != host.incarnation:
                self._new_life(name, event)
            self.fleet.joined(event, recorded.seq, self.now)
            self._lost.pop(name, None)
            self._regroup()
        elif event.incarnation != host.incarnation:
            self.counts.void += 1
            return
        match event:
            case c.HostRecovered():
                self.fleet.recovered(name, recorded.seq, self.now)
                self._lost.pop(name, None)
                self._regroup()
                self._compare(host, {h.route for h in event.held}, patience=0)
            case c.HostDraining():
                self.fleet.draining(name, True)
            case c.HostResumed():
                self.fleet.draining(name, False)
            case c.HostLeft():
                self.fleet.left(name)
                self._compare(host, set(), patience=0)
            case c.EndpointUp():
                self.fleet.endpoint_seen(name, event.state, recorded.seq)
                self._regroup()
            case c.EndpointChanged():
                self.fleet.endpoint_seen(name, event.state, recorded.seq)
            case c.EndpointDown():
                self.fleet.endpoint_down(name, event.endpoint, event.reason)
            case _:
                pass
        self._tiers_dirty = True

    def _new_life(self, name: str, event: c.HostJoined) -> None:
        """A new incarnation: what it does not hold any more has to run again."""
        held = {one.route for one in event.held}
        for live in list(self._on_host.get(name, {}).values()):
            if live.state.route not in held:
                self._lose(live, "host restarted", "its new life does not hold the run")

    def _fold_fleet(self, name: str, event: Event) -> None:
        if not isinstance(event, c.FleetEvent):
            self.counts.void += 1
            return
        match event:
            case c.HostLost():
                if event.epoch != self.epochs.current or event.host != name:
                    self.counts.void += 1
                    return
                host = self.fleet.host(name)
                self._lost.pop(name, None)
                if host.incarnation == event.incarnation:
                    self.fleet.gave_up(name)
                    for live in list(self._on_host.get(name, {}).values()):
                        self._lose(
                            live, "host lost", f"silent for {event.silent_s:.1f} s"
                        )
            case c.EndpointAdded():
                self.shared[name] = event
            case c.EndpointRemoved():
                self.shared.pop(name, None)
            case _:
                pass
        self._tiers_dirty = True

    def _lose(self, live: Live, reason: str, detail: str) -> None:
        """A run is gone without a report; whether it was an attempt, its start tells."""
        started = live.state.reported >= 2
        self._give_back[live.state.task_id] = (reason, detail, None, started)

    def _fold_tier(self, name: str, event: Event) -> None:
        watch = self.tiers.get(name)  # type: ignore[call-overload]
        if watch is None or not isinstance(event, c.TierEvent):
            self.counts.void += 1
            return
        if event.epoch != self.epochs.current and not isinstance(
            event, c.AlertAcknowledged
        ):
            self.counts.void += 1
            return
        watch.evolve(event)
        self._tier_pending.discard(watch.tier)
        self._tiers_dirty = True
        if isinstance(event, c.TierLimited):
            kind = TIER_KIND[watch.tier]
            self.fleet.limit(kind, watch.limited_until)
            self._wake_at(watch.limited_until, None)
        # What waits for this tier, or could hop from or to it, is looked at again.
        self._ready.update(self.queue.groups)

    def _fold_policy(self, recorded: Recorded) -> None:
        event = recorded.event
        self.policy_seq = recorded.seq
        if (
            not isinstance(event, c.PolicyChanged)
            or event.version != self.policy_version + 1
        ):
            self.counts.void += 1
            return
        self.policy_version = event.version
        self.policy = policies.parse(event.policy)
        self.fleet.set_policy(self.policy)
        self._tiers_dirty = True
        self._ready.update(self.queue.groups)

    def _fold_scheduler(self, recorded: Recorded) -> None:
        event = recorded.event
        self.scheduler_seq = recorded.seq
        if not isinstance(event, c.SchedulerElected) or not self.epochs.observe(
            recorded.seq, event.epoch
        ):
            self.counts.void += 1
            return
        if self.leading and event.epoch != self.epoch:
            self.step_down()

    # -- leading -----------------------------------------------------------------------

    def lead(self, epoch: int, now: float) -> None:
        """Begin to decide: the election of `epoch` is in the log and has been folded.

        Every host gets one full lease; what is routed and unconfirmed is sent again,
        what is being cancelled is cancelled again.
        """
        self.leading = True
        self.epoch = epoch
        self.now = now
        for host in self.fleet.hosts.values():
            host.last_beat = now
            host.missing.clear()
        self._accepting.clear()
        for live in self.tasks.values():
            live.deciding = False
            phase = live.state.phase
            if phase == "routed":
                self._accepting.append((now, live.state.task_id, live.state.route))
                self._mail_assignment(live)
            elif phase == "cancelling":
                self._mail_cancel(live.state)
            elif phase == "returned" and live.state.task_id not in self._give_back:
                self._give_back[live.state.task_id] = ("returned", "", None, False)
        for host in self.fleet.hosts.values():
            if not host.live and self._on_host.get(host.name):
                for live in list(self._on_host[host.name].values()):
                    self._lose(live, "host lost", "gone before this leader's time")
        self._tier_pending.clear()
        self._tiers_dirty = True
        self._ready.update(self.queue.groups)

    def step_down(self) -> None:
        """Stop deciding; what was reserved and not confirmed is released."""
        self.leading = False
        self.effects.clear()
        for event_id in list(self._reserved):
            self._release(event_id)
        for live in self.tasks.values():
            live.deciding = False
            if (
                live.state.phase == "waiting"
                and live.state.task_id not in self.queue.tasks
            ):
                self._enqueue(live)

    def _release(self, event_id: str) -> None:
        """Give up the reservation of a decision that did not come to count."""
        place = self._reserved.pop(event_id, None)
        if place is not None:
            place.slots.reserved -= 1
            self.fleet.slots_changed(place.host.name, place.endpoint, place.kind)

    def undecided(self, decision: Decision) -> None:
        """A decision was not stored: somebody else was first, or the log is away.

        The fold of what was stored instead has come or will come; here only what was
        taken for granted is given back.
        """
        self.counts.undecided += 1
        event = decision.event
        if isinstance(event, c.TierEvent):
            self._tier_pending.discard(event.tier)
            self._tiers_dirty = True
        elif isinstance(event, c.HostLost):
            self._lost.pop(event.host, None)
        elif isinstance(event, c.TaskEvent):
            self._release(event.id)
            live = self.tasks.get(event.task_id)
            if live is None:
                return
            live.deciding = False
            if isinstance(event, c.TaskRouted):
                if (
                    live.state.phase == "waiting"
                    and event.task_id not in self.queue.tasks
                ):
                    self._enqueue(live)
            elif isinstance(event, c.TaskRequeued | c.TaskDeadLettered):
                counts = (
                    event.counts_as_attempt
                    if isinstance(event, c.TaskRequeued)
                    else False
                )
                exclude = event.exclude if isinstance(event, c.TaskRequeued) else None
                self._give_back.setdefault(
                    event.task_id, (event.reason, event.detail, exclude, counts)
                )

    # -- mail --------------------------------------------------------------------------

    def _mail_assignment(self, live: Live) -> None:
        spec = self._bodies.get(live.state.task_id)
        if spec is None:
            self.effects.append(
                Body(live.state.task_id, live.state.route, live.state.submitted_seq)
            )
            return
        mail = self.assignment(live.state.task_id, live.state.route, spec)
        if mail is not None:
            self.effects.append(mail)

    def assignment(self, task_id: str, route: str, spec: TaskSpec) -> Mail | None:
        """Spell the assignment of a route; None if it is no longer to be sent."""
        live = self.tasks.get(task_id)
        if (
            live is None
            or not self.leading
            or live.routed is None
            or live.state.route != route
            or live.state.phase != "routed"
        ):
            return None
        routed = live.routed
        place = self.fleet.find(
            routed.selected_host, routed.selected_endpoint, self._kind(live)
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
        self.effects.append(
            Mail(
                state.host,
                Cancel(
                    epoch=self.epoch,
                    task_id=state.task_id,
                    route=state.route,
                    reason="cancelled",
                ),
            )
        )

    # -- beats -------------------------------------------------------------------------

    def beat(self, beat: c.Beat, now: float) -> None:
        """Take in a host's sign of life."""
        self.now = self.fleet.now = now
        host = self.fleet.hosts.get(beat.host)
        if host is None or host.incarnation != beat.incarnation or not host.present:
            if self.leading:
                known = host.incarnation if host is not None else ""
                self.effects.append(
                    Mail(beat.host, Rejoin(epoch=self.epoch, incarnation=known))
                )
            return
        self.fleet.beat(beat, now)
        if host.lost:
            if self.leading:
                self.effects.append(
                    Mail(
                        beat.host,
                        Rejoin(epoch=self.epoch, incarnation=beat.incarnation),
                    )
                )
            return
        if self.leading:
            self._stop_strays(beat)
            held = {one.route for one in beat.held}
            self._compare(host, held, patience=MISSED_BEATS)

    def _stop_strays(self, beat: c.Beat) -> None:
        """Cancel what a host runs on a route that is not in force."""
        for one in beat.held:
            if one.phase == "finished":
                continue
            live = self.tasks.get(one.task_id)
            in_force = (
                live is not None
                and live.state.route == one.route
                and live.state.phase in ("routed", "accepted", "running")
            )
            if not in_force:
                self.effects.append(
                    Mail(
                        beat.host,
                        Cancel(
                            epoch=self.epoch,
                            task_id=one.task_id,
                            route=one.route,
                            reason="its route is not in force",
                        ),
                    )
                )

    def _compare(self, host: Host, held: set[str], *, patience: int) -> None:
        """Find runs that the log has on a host and the host does not know."""
        for live in list(self._on_host.get(host.name, {}).values()):
            state = live.state
            if state.phase == "routed" and patience:
                continue
            if state.route in held:
                host.missing.pop(state.route, None)
                continue
            missed = host.missing.get(state.route, 0) + 1
            host.missing[state.route] = missed
            if missed > patience:
                self._lose(live, "host lost it", f"{host.name} does not hold the run")

    # -- deciding ----------------------------------------------------------------------

    def decide(self, now: float) -> list[Decision]:
        """Decide everything that can be decided now; nothing while not leading."""
        self.now = self.fleet.now = now
        if not self.leading:
            return []
        made: list[Decision] = []
        self._due(now)
        self._decide_hosts(now, made)
        if self._limits:
            self._decide_limits(now, made)
        if self._tiers_dirty or self.fleet.changed_kinds or self._alert_due(now):
            self._decide_tiers(now, made)
        if self._give_back:
            self._decide_given_back(now, made)
        self._expire_acceptance(now)
        if self._give_back:
            self._decide_given_back(now, made)
        if self.fleet.opened:
            for key in self.fleet.opened:
                self._ready.update(self._by_pool.get(key, ()))
            self.fleet.opened.clear()
            self._ready.update(self._unmet)
        if self._ready:
            self._dispatch(now, made)
        return made

    def next_wake(self) -> float | None:
        """When time alone changes something next (epoch seconds), None if never."""
        if not self.leading:
            return None
        wakes = [self._timers[0][0]] if self._timers else []
        if self._accepting:
            wakes.append(self._accepting[0][0] + self.policy.accept_timeout_s)
        if self.fleet.hosts:
            wakes.append(self._lease_due)
        wakes += self._alerts_at()
        return min(wakes, default=None)

    def _alerts_at(self) -> list[float]:
        """When an outage that lasts is to be alerted."""
        return [
            watch.down_since + self.policy.tier_alert_after_s
            for watch in self.tiers.values()
            if watch.down_since is not None
            and not watch.alerted
            and watch.tier not in self._tier_pending
        ]

    def _alert_due(self, now: float) -> bool:
        return any(when <= now for when in self._alerts_at())

    def _wake_at(self, when: float, required: Requirement | None) -> None:
        heapq.heappush(self._timers, _Timer((when, required)))

    def _due(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, required = heapq.heappop(self._timers)
            if required is None:
                self.fleet.resume_paused(now)
                for kind, until in self.fleet.limited_until.items():
                    if until <= now:
                        self.fleet.refresh(kind)
                self._tiers_dirty = True
                self._ready.update(self.queue.groups)
            elif required in self.queue.groups:
                self._ready.add(required)

    def _head(self) -> Head:
        return Head(self._ids(), rfc3339(self.now), self.name)

    def _decide_hosts(self, now: float, made: list[Decision]) -> None:
        if now < self._lease_due:
            return
        self._lease_due = now + LEASE_CHECK_S
        for host in self.fleet.hosts.values():
            if not host.live:
                continue
            silent = now - host.last_beat
            if silent >= self.policy.host_lease_s and host.name not in self._lost:
                self._lost[host.name] = True
                id_, at, by = self._head()
                made.append(
                    Decision(
                        subjects.fleet(host.name),
                        c.HostLost(
                            id=id_,
                            at=at,
                            by=by,
                            epoch=self.epoch,
                            host=host.name,
                            incarnation=host.incarnation,
                            silent_s=round(silent, 3),
                        ),
                        None,
                    )
                )
            elif (
                silent
                >= self.policy.resources_fresh_beats * self.policy.beat_interval_s
            ):
                self.fleet.unconfirmed(host)

    def _decide_tiers(self, now: float, made: list[Decision]) -> None:
        self._tiers_dirty = False
        self.fleet.changed_kinds.clear()
        for tier, watch in self.tiers.items():
            if tier in self._tier_pending:
                continue
            said = watch.decide(
                self._tier_pool(tier).available,
                self.fleet.offered(TIER_KIND[tier]),
                now,
                self.policy,
                self.epoch,
                self._head,
            )
            for event in said:
                made.append(Decision(subjects.tier(tier), event, None))
                self._tier_pending.add(tier)

    def _decide_limits(self, now: float, made: list[Decision]) -> None:
        limits, self._limits = self._limits, []
        for tier, until, detail in limits:
            event = self.tiers[tier].limit(
                instant(until) if until else None,
                detail,
                now,
                self.policy,
                self.epoch,
                self._head,
            )
            if event is not None:
                made.append(Decision(subjects.tier(tier), event, None))

    def _tier_pool(self, tier: Tier) -> Pool:
        return self.fleet.pool(Requirement(kind=TIER_KIND[tier], tier=tier))

    def _decide_given_back(self, now: float, made: list[Decision]) -> None:
        for task_id, (reason, detail, exclude, counts) in list(self._give_back.items()):
            live = self.tasks.get(task_id)
            if live is None or live.state.phase in ("waiting", *FINAL):
                del self._give_back[task_id]
                continue
            if live.deciding:
                continue
            del self._give_back[task_id]
            live.deciding = True
            state = live.state
            event: Event
            if state.phase == "cancelling":
                id_, at, by = self._head()
                event = c.TaskAbandoned(
                    id=id_,
                    at=at,
                    by=by,
                    task_id=task_id,
                    epoch=self.epoch,
                    route=state.route,
                    generation=state.generation,
                    host=state.host,
                    reason=reason,
                )
            else:
                event = lifecycle.give_back(
                    state,
                    self._head(),
                    epoch=self.epoch,
                    reason=reason,
                    detail=detail,
                    exclude=exclude,
                    counts=counts,
                )
            made.append(Decision(subjects.task(task_id), event, state.last_seq))

    def _expire_acceptance(self, now: float) -> None:
        limit = self.policy.accept_timeout_s
        while self._accepting and self._accepting[0][0] + limit <= now:
            _, task_id, route = self._accepting.popleft()
            live = self.tasks.get(task_id)
            if (
                live is not None
                and live.state.route == route
                and live.state.phase == "routed"
            ):
                self._give_back.setdefault(
                    task_id,
                    (
                        "not accepted",
                        f"{live.state.host} did not accept it in {limit:g} s",
                        live.state.host,
                        False,
                    ),
                )

    # -- dispatch ----------------------------------------------------------------------

    def _dispatch(self, now: float, made: list[Decision]) -> None:
        """Offer open places to the groups that might move, best head first."""
        ageing = self.policy.ageing_s
        heads: list[tuple[tuple[int, int], Group]] = []
        ready, self._ready = self._ready, set()
        for required in ready:
            group = self.queue.groups.get(required)
            head = group.head(now, ageing) if group is not None else None
            if group is not None and head is not None:
                heads.append((rank_of(head, now, ageing), group))
        if len(heads) > 1:
            heads.sort(key=lambda one: one[0])
        while heads:
            _, group = heapq.heappop(heads) if len(heads) > 1 else heads.pop()
            waiting = group.head(now, ageing)
            if waiting is None:
                continue
            target = self._target(group, waiting, now)
            if target is None:
                continue
            if not self._route(waiting, target, now, made):
                continue
            following = group.head(now, ageing)
            if following is not None:
                heapq.heappush(heads, (rank_of(following, now, ageing), group))

    def _target(self, group: Group, waiting: Waiting, now: float) -> _Target | None:
        """Find the pool that a group's head may use now, with the hop if there is one."""
        required = group.requirement
        pool = self.fleet.pool(required)
        if pool.open_to(required.excluded):
            self._unmet.discard(required)
            group.unmet_since = None
            return _Target(pool, required.excluded, None, None)
        if pool.available_to(required.excluded):
            self._unmet.discard(required)
            group.unmet_since = None
            return None
        self._unmet.add(required)
        return self._hop(group, pool, now)

    def _hop(self, group: Group, pool: Pool, now: float) -> _Target | None:
        required = group.requirement
        since = self._unavailable_since(group, pool, now)
        absent = not self.fleet.offered(required.kind)
        ready_at = since if absent else since + self.policy.fallback_wait_s
        if now < ready_at:
            self._wake_at(ready_at, required)
            return None
        for tier in self._lower_or_higher(required, pool):
            other = self.fleet.pool(
                Requirement(
                    kind=TIER_KIND[tier],
                    tier=tier,
                    needs=required.needs,
                    assign_to=required.assign_to,
                )
            )
            if tier == "complex" and not self._may_escalate():
                return None
            if other.open_to(required.excluded):
                reason = self._why_hop(required, pool, absent, since, now)
                wait = c.Wait(
                    required.tier,
                    rfc3339(since),
                    round(max(0.0, now - since), 6),
                    "taken",
                )
                return _Target(other, required.excluded, required.tier, (reason, wait))
            if other.available_to(required.excluded):
                return None
        if required.excluded and pool.available:
            # Nothing else can take it: the exclusions are dropped and it is tried again.
            return _Target(pool, (), None, None) if pool.open_to(()) else None
        return None

    def _unavailable_since(self, group: Group, pool: Pool, now: float) -> float:
        required = group.requirement
        watch = self.tiers[required.tier]
        if watch.down_since is not None and required.kind == TIER_KIND[required.tier]:
            return watch.down_since
        if group.unmet_since is None:
            group.unmet_since = now
        return group.unmet_since

    def _lower_or_higher(self, required: Requirement, pool: Pool) -> list[Tier]:
        """Where one hop may lead: at most one step, never for an exact model."""
        if required.hopped or required.model or required.kind in ("agent", "noop"):
            return []
        tier_is_up = self._tier_pool(required.tier).available > 0
        if required.assign_to and tier_is_up:
            return []
        if required.tier == "standard":
            lower: list[Tier] = []
            if required.shell and not self._tier_pool("complex").available:
                lower = ["trivial"]
            return ["complex", *lower]
        if (
            required.tier == "complex"
            and self.policy.allow_downgrade
            and not tier_is_up
        ):
            return ["standard"]
        return []

    def _may_escalate(self) -> bool:
        return len(self._escalated) < self.policy.max_escalations_in_flight

    def _why_hop(
        self, required: Requirement, pool: Pool, absent: bool, since: float, now: float
    ) -> str:
        if absent:
            return f"{required.tier} is not set up"
        if pool.available and required.excluded:
            failed = ", ".join(required.excluded)
            return f"every {required.tier} endpoint failed on it ({failed})"
        waited = f"for {max(0.0, now - since):.1f} s"
        if self._tier_pool(required.tier).available:
            return f"nothing in {required.tier} met its needs {waited}"
        return f"{required.tier} was down {waited}"

    def _route(
        self, waiting: Waiting, target: _Target, now: float, made: list[Decision]
    ) -> bool:
        live = self.tasks[waiting.task_id]
        state = live.state
        began = self._ticks()
        reason, wait = target.hop or (None, self._avoided(waiting))
        decided = routing.route(
            routing.Subject(
                task_id=state.task_id,
                generation=state.generation + 1,
                attempt=state.attempts + 1,
                repo=live.repo,
                excluded=target.excluded,
                classification_reason=live.reason,
                fallback_from=target.hop_from,
                fallback_reason=reason,
                wait=wait,
            ),
            target.pool,
            self.policy,
            self._head(),
            epoch=self.epoch,
            policy_version=self.policy_version,
            log_seq=self.position,
        )
        if decided is None:
            return False
        event, place = decided
        event = msgspec.structs.replace(
            event, decided_us=round(self._ticks() - began, 1)
        )
        self._dequeue(state.task_id)
        place.slots.reserved += 1
        self._reserved[event.id] = place
        live.deciding = True
        if target.hop_from is not None and event.effective_tier == "complex":
            self._escalated.add(state.task_id)
        self.fleet.slots_changed(place.host.name, place.endpoint, place.kind)
        self.counts.decisions += 1
        made.append(Decision(subjects.task(state.task_id), event, state.last_seq))
        return True

    def _avoided(self, waiting: Waiting) -> c.Wait | None:
        """A wait for the tier that ended well, if this task was part of one."""
        watch = self.tiers[waiting.requirement.tier]
        outage = watch.outage
        if outage is None or waiting.requirement.kind != TIER_KIND[watch.tier]:
            return None
        # An outage that is over may not have come back from the log as over yet.
        until = self.now if outage.until is None else outage.until
        if waiting.since > until:
            return None
        began = max(outage.since, waiting.since)
        waited = round(max(0.0, until - began), 6)
        return c.Wait(watch.tier, rfc3339(outage.since), waited, "avoided")

    def would_route(
        self, spec: TaskSpec, classification: c.Classification
    ) -> tuple[c.TaskRouted | None, str]:
        """Return the decision as it would be now, or why the task would wait.

        Nothing is reserved and nothing remembered.
        """
        tier = classification.effective_tier
        required = requirement(spec, tier, assign_to=spec.assign_to)
        group = Group(required)
        waiting = Waiting("dry-run", 0, LANES[spec.priority], self.now, required)
        target = self._target(group, waiting, self.now)
        if required not in self.queue.groups:
            self._unmet.discard(required)
        if target is None:
            pool = self.fleet.pool(required)
            counted = [f"{n} × {why}" for why, n in sorted(pool.counts.items())]
            return None, "; ".join(counted) or f"nothing offers {required.kind}"
        decided = routing.route(
            routing.Subject(
                task_id="dry-run",
                generation=1,
                attempt=1,
                repo=spec.repo,
                excluded=(),
                classification_reason=classification.reason,
                fallback_from=target.hop_from,
                fallback_reason=target.hop[0] if target.hop else None,
                wait=target.hop[1] if target.hop else None,
            ),
            target.pool,
            self.policy,
            Head("dry-run", rfc3339(self.now), self.name),
            epoch=self.epoch,
            policy_version=self.policy_version,
            log_seq=self.position,
        )
        return (decided[0], "") if decided is not None else (None, "no place is open")

    def _regroup(self) -> None:
        """Something came up: tasks that had excluded it may try it again."""
        for required in [r for r in self.queue.groups if r.excluded]:
            for waiting in list(self.queue.groups[required]):
                live = self.tasks[waiting.task_id]
                self._dequeue(waiting.task_id)
                self._enqueue(live)


class _Target(NamedTuple):
    """A pool to choose from, and the hop that leads there."""

    pool: Pool
    excluded: tuple[str, ...]
    hop_from: Tier | None
    hop: tuple[str, c.Wait] | None


class _Timer(tuple[float, "Requirement | None"]):
    """A timer that sorts by its time alone."""

    __slots__ = ()

    def __lt__(self, other: tuple[object, ...]) -> bool:
        return bool(self[0] < other[0])  # type: ignore[operator]
