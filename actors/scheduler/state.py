"""The board: what the log says of tasks, hosts, tiers, policy and leaders, right now.

One fold for all of it, kept incrementally. It decides nothing and sends nothing; what a
leader has to look at because of an event is put on the lists at its end (`ready`,
`give_back`, `effects`), which a standby lets lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from actors import lifecycle
from actors.lifecycle import Epochs, TaskState
from actors.rules import policy as policies
from actors.scheduler.places import Fleet, plain
from actors.scheduler.queue import (
    LANES,
    TIER_KIND,
    Queue,
    Requirement,
    Waiting,
    requirement,
)
from actors.scheduler.tiers import TIERS, TierWatch
from events import catalogue as c
from events import subjects
from events.codec import instant
from events.errors import Malformed
from events.lifecycle import FINAL, FIXED_KINDS, ON_HOST, STARTED

if TYPE_CHECKING:
    from actors.rules.policy import Policy
    from actors.scheduler.places import Host, Place
    from events.catalogue import Event, Recorded, TaskSpec, Tier
    from events.commands import HostMail

BODIES: Final = 4_096
"""Task bodies kept in memory for a prompt assignment; others are read from the log."""


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


class GivenBack(NamedTuple):
    """A route that is over without a result, and why."""

    reason: str
    detail: str = ""
    exclude: str | None = None
    counts: bool = False


class Live:
    """A task that is not over: its state, and what choosing a place for it needs.

    `deciding` is the id of the decision about it that is on its way to the log,
    `incarnation` the life of its host that reported of its run, and lives sort.
    """

    __slots__ = (
        "base",
        "deadline",
        "deciding",
        "deferred",
        "incarnation",
        "lane",
        "reason",
        "repo",
        "routed",
        "state",
        "ttl_s",
    )

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
        self.ttl_s: float | None = None
        self.deadline: float | None = None
        self.deciding = ""
        self.incarnation = ""
        self.deferred = False
        self.routed: c.TaskRouted | None = None

    @property
    def kind(self) -> str:
        """The kind of place it is at, or wants next."""
        return self.base.kind if self.fixed else TIER_KIND[self.state.tier]

    @property
    def fixed(self) -> bool:
        """Whether its kind of work belongs to no tier."""
        return self.base.kind in FIXED_KINDS

    def requirement(self, excluded: tuple[str, ...]) -> Requirement:
        """What it requires in the tier it is in now."""
        base, state = self.base, self.state
        return Requirement(
            kind=self.kind,
            tier=state.tier,
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


class Board:
    """The fold. `leading` and `now` are set by the scheduler that stands before it."""

    def __init__(self) -> None:
        self.policy: Policy = policies.Policy()
        self.policy_version = 0
        self.epochs = Epochs()
        self.scheduler_seq = 0
        self.position = 0
        self.gaps: list[tuple[float, float]] = []
        self.leading = False
        self.now = 0.0
        self.queue = Queue()
        self.fleet = Fleet(self.policy)
        self.tiers: dict[Tier, TierWatch] = {tier: TierWatch(tier) for tier in TIERS}
        self.ever_shared = False
        self.tasks: dict[str, Live] = {}
        self.on_host: dict[str, dict[str, Live]] = {}
        self.shared: dict[str, c.EndpointAdded] = {}
        self.escalated: set[str] = set()
        self.escalated_usd: tuple[str, float] = ("", 0.0)
        self.counts = Counts()
        # Where the subjects of hosts' losses and of tiers stand: said twice, a loss or
        # an outage would begin anew.
        self.stands: dict[str, int] = {}
        # What a leader has to look at, or to do.
        self.effects: list[Effect] = []
        self.ready: set[Requirement] = set()
        self.unmet: set[Requirement] = set()
        self.by_pool: dict[Requirement, set[Requirement]] = {}
        self.give_back: dict[str, GivenBack] = {}
        self.limits: list[tuple[Tier, str | None, str]] = []
        self.reserved: dict[str, Place] = {}
        self.tiers_dirty = True
        self.tier_pending: set[Tier] = set()
        # An outage, what is decided about one, the policy or a gap: alerts fall due at
        # another time than before.
        self.alerts_moved = True
        self.bodies: dict[str, TaskSpec] = {}
        # Retried tasks whose history is being read, and what came in meanwhile.
        self.coming_back: dict[str, list[Recorded]] = {}
        self._interned: dict[Requirement, Requirement] = {}
        self._reasons: dict[str, str] = {}

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
                self.stands[recorded.subject] = recorded.seq
                self._fold_fleet(parts[3], event)
            case "tier":
                self.stands[recorded.subject] = recorded.seq
                self._fold_tier(parts[3], event)
            case "policy":
                self._fold_policy(event)
            case "scheduler":
                self._fold_scheduler(recorded)
            case _:
                self.counts.void += 1

    # -- time without a leader ---------------------------------------------------------

    def elapsed(self, since: float, now: float) -> float:
        """Seconds from `since` to `now` in which somebody led."""
        led = now - since
        for start, end in self.gaps:
            led -= max(0.0, min(end, now) - max(start, since))
        return led

    def after(self, since: float, wait: float) -> float:
        """When `wait` seconds of leadership will have passed since then."""
        lost = sum(max(0.0, end - max(start, since)) for start, end in self.gaps)
        return since + wait + lost

    # -- tasks -------------------------------------------------------------------------

    def _fold_task(self, task_id: str, recorded: Recorded, host: str) -> None:
        live = self.tasks.get(task_id)
        event = recorded.event
        if live is None:
            if host or not isinstance(event, c.TaskSubmitted):
                # Of a task that is over: what still comes in changes no state here. A
                # retried one is brought back from its whole history; what comes in
                # while that is being read is kept for it.
                if task_id in self.coming_back:
                    self.coming_back[task_id].append(recorded)
                elif isinstance(event, c.TaskRetried):
                    self.coming_back[task_id] = [recorded]
                    self.effects.append(History(task_id))
                self.release(event.id)
                self.not_escalated(task_id)
                self._book(event, escalated=False)
                self.counts.repeats += 1
                return
            live = self._appears(task_id, event)
        before = live.state
        state, verdict = lifecycle.evolve(
            before, recorded, epoch=self.epochs.at(recorded.seq), host=host
        )
        live.state = state
        if verdict == "applied":
            self._moved(live, before, state, event)
        elif verdict == "void":
            self.counts.void += 1
            self.release(event.id)
            self.not_escalated(task_id)
            if before.phase == "absent":
                self.tasks.pop(task_id, None)
        else:
            self.counts.repeats += 1
        if not host:
            live.deciding = ""
            if state.phase == "waiting" and task_id not in self.queue.tasks:
                self.enqueue(live)

    def _appears(self, task_id: str, event: c.TaskSubmitted) -> Live:
        spec = event.spec
        tier = event.classification.effective_tier
        base = requirement(spec, tier, assign_to=spec.assign_to)
        base = self._interned.setdefault(base, base)
        if len(self._reasons) > 10_000:
            self._reasons.clear()
        reason = event.classification.reason
        reason = self._reasons.setdefault(reason, reason)
        live = Live(
            lifecycle.initial(task_id), base, LANES[spec.priority], spec.repo, reason
        )
        live.ttl_s = spec.ttl_s
        if spec.deadline is not None:
            live.deadline = instant(spec.deadline)
        self.tasks[task_id] = live
        if len(self.bodies) < BODIES:
            self.bodies[task_id] = spec
        return live

    def adopt(self, task_id: str, history: list[Recorded]) -> None:
        """Bring back a task that was over and is retried, from its whole history.

        What the log holds beyond our own position will be folded in its turn; what we
        have folded since the history was read has been kept.
        """
        whole = {one.seq: one for one in history if one.seq <= self.position}
        whole |= {one.seq: one for one in self.coming_back.pop(task_id, ())}
        known = [whole[seq] for seq in sorted(whole)]
        first = known[0].event if known else None
        if not isinstance(first, c.TaskSubmitted) or task_id in self.tasks:
            return
        retried = [n for n, r in enumerate(known) if isinstance(r.event, c.TaskRetried)]
        cut = retried[-1] + 1 if retried else len(known)
        state = lifecycle.fold(task_id, known[:cut], self.epochs)
        if state.phase in FINAL:
            return
        live = self._appears(task_id, first)
        live.state = state
        self.enqueue(live)
        for recorded in known[cut:]:
            place = subjects.parse(recorded.subject)
            self._fold_task(task_id, recorded, place.host)
        if task_id in self.tasks and live.state.phase in ON_HOST:
            self._back_on_host(live)

    def _moved(
        self, live: Live, before: TaskState, state: TaskState, event: Event
    ) -> None:
        task_id = state.task_id
        if isinstance(event, c.TaskRouted):
            self._on(live, event)
        elif before.phase in ON_HOST and state.phase not in ON_HOST:
            self._off(live, before)
        if state.phase == "returned":
            self.give_back[task_id] = _why_returned(event)
        elif state.phase != before.phase and not self._is_lost(state):
            self.give_back.pop(task_id, None)
        if isinstance(event, c.TaskAccepted | c.TaskStarted):
            live.incarnation = event.incarnation
            host = self.fleet.hosts.get(event.host)
            if host is not None and event.incarnation < host.incarnation:
                # Said before the restart, come after it.
                self._in_new_life(live, host)
        if before.phase == "waiting" and (
            state.phase != "waiting" or isinstance(event, c.TaskReassigned)
        ):
            self.dequeue(task_id)
        if state.phase == "waiting" and before.phase != "waiting":
            live.deferred = False
            self.enqueue(live)
        elif state.phase in FINAL:
            self.bodies.pop(task_id, None)
            self.tasks.pop(task_id, None)
        elif isinstance(event, c.TaskDeferred):
            live.deferred = True
        self._book(event, escalated=state.hopped_from == "standard")
        self.moved(live, before, state, event)

    def _is_lost(self, state: TaskState) -> bool:
        """Whether a route is in force on a host that is gone: words change nothing."""
        host = self.fleet.hosts.get(state.host)
        return state.phase in ON_HOST and host is not None and not host.live

    def moved(
        self, live: Live, before: TaskState, state: TaskState, event: Event
    ) -> None:
        """For whoever stands before the board: a task took a step."""

    def _on(self, live: Live, event: c.TaskRouted) -> None:
        state = live.state
        slots = self.fleet.slots_of(state.host, state.endpoint, live.kind)
        slots.in_flight += 1
        place = self.reserved.pop(event.id, None)
        if place is not None:
            place.slots.reserved -= 1
        if place is None or place.slots is not slots:
            self.fleet.slots_changed(state.host, state.endpoint, live.kind)
        live.routed = event
        live.incarnation = ""
        self.on_host.setdefault(state.host, {})[state.task_id] = live
        if live.repo is not None:
            self.fleet.ran_on(live.repo, state.host)
        if state.hopped_from == "standard" and state.tier == "complex":
            self.escalated.add(state.task_id)

    def _off(self, live: Live, before: TaskState) -> None:
        slots = self.fleet.slots_of(before.host, before.endpoint, live.kind)
        slots.in_flight -= 1
        self.on_host.get(before.host, {}).pop(before.task_id, None)
        host = self.fleet.hosts.get(before.host)
        if host is not None:
            host.missing.pop(before.route, None)
        if before.task_id in self.escalated:
            # There is room for another escalation: who was held back may go.
            self.escalated.discard(before.task_id)
            self.ready.update(self.unmet)
        live.routed = None
        self.fleet.slots_changed(before.host, before.endpoint, live.kind)

    def _book(self, event: Event, *, escalated: bool) -> None:
        """Count what escalated work cost today, for the budget."""
        if not escalated or not isinstance(event, c.RunEvent):
            return
        result = getattr(event, "result", None)
        if isinstance(result, c.Result) and result.estimated_cost_usd:
            day, spent = self.escalated_usd
            today = event.at[:10]
            spent = spent if day == today else 0.0
            self.escalated_usd = (today, spent + result.estimated_cost_usd)

    def release(self, event_id: str) -> None:
        """Give up the reservation of a decision that did not come to count."""
        place = self.reserved.pop(event_id, None)
        if place is not None:
            place.slots.reserved -= 1
            self.fleet.slots_changed(place.host.name, place.endpoint, place.kind)

    def not_escalated(self, task_id: str) -> None:
        """Forget a hop that was decided and did not come to count."""
        live = self.tasks.get(task_id)
        if live is None or live.state.phase not in ON_HOST:
            self.escalated.discard(task_id)

    def enqueue(self, live: Live) -> None:
        """Put a waiting task where those with its requirement wait."""
        state = live.state
        excluded = sorted(
            name
            for name, seq in state.excluded
            if not self.fleet.came_up_after(name, seq)
        )
        required = live.requirement(tuple(excluded))
        required = self._interned.setdefault(required, required)
        waiting = Waiting(
            state.task_id,
            state.submitted_seq,
            live.lane,
            instant(state.waiting_since),
            required,
        )
        self.queue.add(waiting)
        self.by_pool.setdefault(plain(required), set()).add(required)
        self.ready.add(required)
        self.queued(live, waiting)

    def queued(self, live: Live, waiting: Waiting) -> None:
        """For whoever stands before the board: a task waits."""

    def dequeue(self, task_id: str) -> None:
        """Take a task out of the queue; its group goes with its last task."""
        waiting = self.queue.remove(task_id)
        if waiting is None or waiting.requirement in self.queue.groups:
            return
        required = waiting.requirement
        self.unmet.discard(required)
        key = plain(required)
        siblings = self.by_pool.get(key, set())
        siblings.discard(required)
        if not siblings:
            self.by_pool.pop(key, None)
            self.fleet.release_pool(required)

    def _regroup(self) -> None:
        """Something came up: tasks that had excluded it may try it again."""
        for required in [r for r in self.queue.groups if r.excluded]:
            for waiting in list(self.queue.groups[required]):
                live = self.tasks[waiting.task_id]
                self.dequeue(waiting.task_id)
                self.enqueue(live)

    # -- hosts -------------------------------------------------------------------------

    def _fold_host(self, name: str, recorded: Recorded) -> None:
        event = recorded.event
        if not isinstance(event, c.HostEvent) or event.host != name:
            self.counts.void += 1
            return
        host = self.fleet.host(name)
        if event.incarnation == host.incarnation and event.id <= host.last_id:
            # Said again, perhaps behind what came after it: a host's ids rise.
            self.counts.repeats += 1
            return
        if isinstance(event, c.HostJoined):
            new = event.incarnation != host.incarnation
            self.fleet.joined(self._still_shared(event), recorded.seq, self.now)
            if new:
                for live in list(self.on_host.get(name, {}).values()):
                    self._in_new_life(live, host)
            self._regroup()
        elif event.incarnation != host.incarnation:
            self.counts.void += 1
            return
        host.last_id = event.id
        match event:
            case c.HostRecovered():
                self.fleet.recovered(name, recorded.seq, self.now)
                self._regroup()
                self.compare(host, {held.route for held in event.held}, patience=0)
            case c.HostDraining():
                self.fleet.draining(name, True)
            case c.HostResumed():
                self.fleet.draining(name, False)
            case c.HostLeft():
                self.fleet.left(name)
                self.compare(host, set(), patience=0)
            case c.EndpointUp() | c.EndpointChanged() if not self._is_still_shared(
                event.state
            ):
                self.counts.void += 1
            case c.EndpointUp():
                self.fleet.endpoint_seen(name, event.state, recorded.seq)
                self._regroup()
            case c.EndpointChanged():
                self.fleet.endpoint_seen(name, event.state, recorded.seq)
            case c.EndpointDown():
                self.fleet.endpoint_down(name, event.endpoint, event.reason)
            case _:
                pass
        self.tiers_dirty = True
        self.host_changed(host, event)

    def host_changed(self, host: Host, event: c.HostEvent) -> None:
        """For whoever stands before the board: a host said something of itself."""

    def _is_still_shared(self, state: c.EndpointState) -> bool:
        """Whether a host speaks of its own, or of what no operator has taken away."""
        return not state.shared or state.endpoint in self.shared

    def _still_shared(self, event: c.HostJoined) -> c.HostJoined:
        kept = [state for state in event.endpoints if self._is_still_shared(state)]
        if len(kept) == len(event.endpoints):
            return event
        return msgspec.structs.replace(event, endpoints=kept)

    def _in_new_life(self, live: Live, host: Host) -> None:
        """A run of an earlier life: not held, or held and not begun, it runs again."""
        phase = host.held.get(live.state.route)
        if phase is None:
            self.lose(live, "host restarted", "its new life does not hold the run")
        elif phase == "accepted" and live.state.phase in ("accepted", "running"):
            # Not on its disk as begun: nothing there will ever begin it by itself.
            self.lose(live, "host restarted", "it had not begun the run")

    def _back_on_host(self, live: Live) -> None:
        """A task came back with a route in force: its host may be another by now."""
        host = self.fleet.hosts.get(live.state.host)
        if host is None or not host.live:
            self.lose(live, "host lost", "gone while its history was read")
        elif live.incarnation and live.incarnation < host.incarnation:
            self._in_new_life(live, host)

    def compare(self, host: Host, held: set[str], *, patience: int) -> None:
        """Find runs that the log has on a host and the host does not hold.

        `patience` is how many times in a row one may be missing; the acceptance time-out
        watches over those not accepted yet.
        """
        for live in list(self.on_host.get(host.name, {}).values()):
            state = live.state
            if state.phase == "routed" and patience:
                continue
            if state.route in held:
                host.missing.pop(state.route, None)
                continue
            missed = host.missing.get(state.route, 0) + 1
            host.missing[state.route] = missed
            if missed > patience:
                self.lose(live, "host lost it", f"{host.name} does not hold the run")

    def lose(self, live: Live, reason: str, detail: str) -> None:
        """A run is gone without a report; whether it was an attempt, its start tells."""
        started = live.state.reported >= STARTED
        self.give_back[live.state.task_id] = GivenBack(reason, detail, None, started)

    def _fold_fleet(self, name: str, event: Event) -> None:
        match event:
            case c.HostLost():
                if event.epoch != self.epochs.current or event.host != name:
                    self.counts.void += 1
                    return
                if self.fleet.host(name).incarnation == event.incarnation:
                    self.fleet.gave_up(name)
                    for live in list(self.on_host.get(name, {}).values()):
                        self.lose(
                            live, "host lost", f"silent for {event.silent_s:.1f} s"
                        )
            case c.EndpointAdded():
                self.shared[name] = event
                self.ever_shared = True
                self.shared_changed()
            case c.EndpointRemoved():
                self.shared.pop(name, None)
                self.fleet.remove_endpoint(name)
                self.shared_changed()
            case _:
                self.counts.void += 1
        self.tiers_dirty = True

    def shared_changed(self) -> None:
        """For whoever stands before the board: the shared endpoints are others now."""

    # -- tiers, policy, leaders --------------------------------------------------------

    def _fold_tier(self, name: str, event: Event) -> None:
        watch = next((w for tier, w in self.tiers.items() if tier == name), None)
        if watch is None or not isinstance(event, c.TierEvent) or event.tier != name:
            self.counts.void += 1
            return
        by_anybody = isinstance(event, c.AlertAcknowledged)
        if event.epoch != self.epochs.current and not by_anybody:
            self.counts.void += 1
            return
        watch.evolve(event)
        self.tier_pending.discard(watch.tier)
        self.tiers_dirty = self.alerts_moved = True
        if isinstance(event, c.TierLimited):
            self.fleet.limit(TIER_KIND[watch.tier], watch.limited_until)
        # What waits for this tier, or could hop from or to it, is looked at again.
        self.ready.update(self.queue.groups)

    def _fold_policy(self, event: Event) -> None:
        if (
            not isinstance(event, c.PolicyChanged)
            or event.version != self.policy_version + 1
        ):
            self.counts.void += 1
            return
        try:
            policy = policies.parse(event.policy)
        except Malformed:
            # A newer version's document; the old numbers stay until ours can be read.
            self.counts.void += 1
            return
        self.policy_version = event.version
        self.policy = policy
        self.fleet.set_policy(self.policy)
        for group in self.queue.groups.values():
            # Timers keep their start; their end is another one now.
            group.expiries = None
        self.tiers_dirty = self.alerts_moved = True
        self.ready.update(self.queue.groups)

    def _fold_scheduler(self, recorded: Recorded) -> None:
        event = recorded.event
        self.scheduler_seq = recorded.seq
        if not isinstance(event, c.SchedulerElected) or not self.epochs.observe(
            recorded.seq, event.epoch
        ):
            self.counts.void += 1
            return
        at = instant(event.at)
        if event.leaderless_s > 0:
            self.gaps.append((at - event.leaderless_s, at))
            # Nothing that is still timed began before a few of them.
            del self.gaps[:-64]
            self.alerts_moved = True
        self.elected(event)

    def elected(self, event: c.SchedulerElected) -> None:
        """For whoever stands before the board: there is a new leader."""


def _why_returned(event: Event) -> GivenBack:
    match event:
        case c.TaskReturned():
            return GivenBack(event.reason, event.detail, event.exclude)
        case c.TaskRejected():
            return GivenBack(f"rejected: {event.reason}", event.detail)
        case _:
            return GivenBack("stopped")
