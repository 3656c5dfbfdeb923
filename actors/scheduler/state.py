"""The scheduler's state: what the log says of tasks, hosts, tiers, policy and leaders.

One fold for all of it, kept incrementally. It decides nothing and sends nothing, and it
is the same in the leader and in every standby: what a leader has to look at because of an
event is put on lists (`look_at`, `ended`, `arrived`), which a standby lets lie. `fold`
returns what an event changed, for the scheduler to act upon.

Beside what the log says the state holds what has been decided and is not back from the
log yet (`reserved`, `tier_pending`, and `LiveTask.deciding`), because nothing may be
decided twice. All of that is given up when a leadership ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from actors import lifecycle
from actors.lifecycle import Epochs, TaskState
from actors.rules import policy as policies
from actors.scheduler import held, hosts, schedules, tiers
from actors.scheduler.families import Families
from actors.scheduler.fleet import Fleet, pool_key
from actors.scheduler.live import LiveTask, Newcomers, RouteEnd, end_said_by
from actors.scheduler.logtime import LogTime
from actors.scheduler.outputs import HistoryNeeded
from actors.scheduler.queue import PLACE_KIND, Queue, Requirement, Waiting
from actors.scheduler.specs import KeptSpecs
from actors.scheduler.tiers import Outage, TierWatch
from events import catalogue as c
from events import subjects
from events.errors import Malformed
from events.lifecycle import FINAL, ON_HOST

if TYPE_CHECKING:
    from actors.rules.policy import Policy
    from actors.scheduler.places import Place


Verdict = Literal["applied", "repeat", "void"]
"""Whether an event counted, said again what was known, or was not allowed."""


class FoldedStep(NamedTuple):
    """A task took a step that counts. `live.task` is its state after the event."""

    live: LiveTask
    before: TaskState
    event: c.Event


class FoldCounts:
    """How many events did not count, for the metrics: counters that only rise.

    `unknown` are another version's events; `undecided` are decisions of this process that
    were not stored.
    """

    def __init__(self) -> None:
        self.repeats = 0
        self.void = 0
        self.unknown = 0
        self.undecided = 0


class SchedulerState:
    """The fold and its lists. `now` is the time of the last turn.

    All times are log time, see `logtime`.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.time = LogTime()
        self.counts = FoldCounts()

        # -- what the log says --
        # The last sequence folded. Whoever leads has folded its own election.
        self.position = 0
        # The policy in force. One that cannot be read leaves the one before in force.
        self.policy: Policy = policies.Policy()
        self.policy_version = 0
        # Which leader's epoch was in force where: decisions of another are void. And
        # where the elections' subject stands: the next one expects it.
        self.epochs = Epochs()
        self.scheduler_seq = 0
        # Every task that is not over. One that is over is forgotten here; what comes in
        # about it later changes nothing, and a retry reads its history from the log.
        self.tasks: dict[str, LiveTask] = {}
        # Tasks with a route in force, by host: whom the loss of a host concerns.
        self.on_host: dict[str, dict[str, LiveTask]] = {}
        # Children that are not over, and the slots that their parents lend.
        self.families = Families()
        # Tasks that wait and about which nothing is on its way to the log: in the queue,
        # or held until they may stand there.
        self.queue = Queue()
        self.held = held.HeldTasks()
        self.schedules = schedules.Schedules()
        # Hosts and places, with the slots that routes in force hold.
        self.fleet = Fleet(self.policy)
        self.tiers: dict[c.Tier, TierWatch] = {
            tier: TierWatch(tier) for tier in PLACE_KIND
        }
        # Endpoints that operators have added for several hosts to call, by name. Where
        # there never was one, no host has to be told of them.
        self.shared: dict[str, c.EndpointAdded] = {}
        self.ever_shared = False
        # Tasks of the standard tier that run in the complex one, those decided and not
        # yet stored included: only so many may at once.
        self.escalated: set[str] = set()
        # The day (UTC), and what the runs of such tasks have cost on it, in dollars.
        self.escalated_usd: tuple[str, float] = ("", 0.0)
        # Suspects with the host where each runs, those decided and not yet stored included:
        # one at a time on a host.
        self.suspects: dict[str, str] = {}
        # The last sequence of each tier's subject and of each `fleet` subject. Decisions
        # about them expect it: an outage that two leaders wrote down would begin twice.
        self.subject_seqs: dict[str, int] = {}

        # -- what is decided and not back from the log --
        # The place whose slot a routing will take, by the routed event's id. The fold of
        # that event, or the news that it was not stored, gives it up.
        self.reserved: dict[str, Place] = {}
        # Tiers about which a decision is on its way: there is one at a time.
        self.tier_pending: set[c.Tier] = set()

        # -- what a leader has to look at --
        # Groups of the queue that may have a place now.
        self.look_at: set[Requirement] = set()
        # Groups that were unmet when last looked at; they look elsewhere, or starve.
        self.unmet: set[Requirement] = set()
        # The groups that share a pool, by the pool's key: when a place opens in it
        # they are looked at, and with the last of them the pool is let go.
        self.by_pool: dict[Requirement, set[Requirement]] = {}
        # Routes that are over without a result, by task: `returns` decides what follows.
        self.ended: dict[str, RouteEnd] = {}
        # Tasks that began to wait: the leader sets timers for their deadline and TTL.
        self.arrived: list[Waiting] = []
        # Whether tiers are to be compared with the fleet.
        self.tiers_dirty = True
        # Whether `Leadership.alert_at` is to be reckoned anew: an outage, a decision about
        # one, the policy or a gap has changed.
        self.alerts_moved = True

        # -- caches --
        self.specs = KeptSpecs()
        # Retried tasks whose history is being read, with the events that came meanwhile.
        self.coming_back: dict[str, list[c.Recorded]] = {}
        self.newcomers = Newcomers()

    def at(self, now: float) -> None:
        """Note the time."""
        self.now = self.fleet.now = now
        if self.time.now < float("inf"):
            self.time.now = now

    def fold(self, recorded: c.Recorded) -> FoldedStep | HistoryNeeded | c.Event | None:
        """Take in one event of the log; return what it changed, None if it did not count.

        That is the step of a task, a retried task whose history is to be read, or the
        event itself.
        """
        self.position = recorded.seq
        event = recorded.event
        if isinstance(event, c.Unknown):
            self.counts.unknown += 1
            return None
        # `events.subjects` says what stands where: `agentcom.evt.<kind>.<names>`. Split
        # here, because every event of the log comes this way.
        parts = recorded.subject.split(".")
        verdict: Verdict = "void"
        match parts[2]:
            case "task":
                return self._fold_task(parts[3], recorded, "")
            case "run":
                return self._fold_task(parts[4], recorded, parts[3])
            case "host":
                verdict = hosts.fold_host(self, parts[3], recorded)
            case "fleet":
                self.subject_seqs[recorded.subject] = recorded.seq
                verdict = hosts.fold_fleet(self, parts[3], event)
            case "tier":
                self.subject_seqs[recorded.subject] = recorded.seq
                verdict = tiers.fold_tier(self, parts[3], event)
            case "policy":
                verdict = self._fold_policy(event)
            case "schedule":
                verdict = schedules.fold_schedule(self, parts[3], recorded)
            case "scheduler":
                verdict = self._fold_scheduler(recorded)
            case _:
                pass
        if verdict == "applied":
            return event
        self._count(verdict)
        return None

    def _count(self, verdict: Verdict) -> None:
        if verdict == "repeat":
            self.counts.repeats += 1
        else:
            self.counts.void += 1

    def cap_times(self, now: float) -> None:
        """Let begin now what was stamped by a clock that was ahead, and so lies in the future."""
        for live in self.tasks.values():
            if live.since > now:
                live.since = now
                if live.task.task_id in self.queue.tasks:
                    self.dequeue(live.task.task_id)
                    self.enqueue(live)
        for watch in self.tiers.values():
            if watch.down_since is not None and watch.down_since > now:
                watch.outage = Outage(now)

    # -- tasks -------------------------------------------------------------------------

    def _fold_task(
        self, task_id: str, recorded: c.Recorded, host: str
    ) -> FoldedStep | HistoryNeeded | None:
        """Fold an event about a task; `host` is "" for all but a host's reports."""
        live = self.tasks.get(task_id)
        event = recorded.event
        if live is None:
            if host or not isinstance(event, c.TaskSubmitted):
                # Of a task that is over: what still comes in changes no state here. A
                # retried one is brought back from its whole history; what comes in
                # while that is being read is kept for it.
                self.release(event.id)
                self.forget_route(task_id)
                self.counts.repeats += 1
                if task_id in self.coming_back:
                    self.coming_back[task_id].append(recorded)
                elif isinstance(event, c.TaskRetried):
                    self.held.begun_again(task_id)
                    self.coming_back[task_id] = [recorded]
                    return HistoryNeeded(task_id)
                return None
            live = self._appears(task_id, event, child=event.parent != "")
        before = live.task
        task, verdict = lifecycle.evolve(
            before, recorded, epoch=self.epochs.at(recorded.seq), host=host
        )
        live.task = task
        if verdict == "applied":
            if task.waiting_since != before.waiting_since:
                live.since = self.time.of(task.waiting_since)
            if not host and getattr(event, "epoch", None):
                self.time.decided(event.at)
            if before.phase != "absent":  # what is new is put in the queue below
                self._take_step(live, before, task, event)
            elif isinstance(event, c.TaskSubmitted) and event.parent:
                parent = self.tasks.get(event.parent)
                self.families.born(task_id, event, parent)
                self._lend(parent)
            if task.phase in FINAL:
                self.held.ended(task_id, held.outcome_of(task, recorded))
                self.schedules.replaced.pop(task_id, None)
            if live.hold is not None:
                self.held.settle(live)
        else:
            self._count(verdict)
            if verdict == "void":
                self.release(event.id)
                self.forget_route(task_id)
                if before.phase == "absent":
                    self.tasks.pop(task_id, None)
        if not host:
            # Decisions about a task expect where its subject stands: what was on its way
            # is this event, or will not be stored.
            live.deciding = ""
            if task.phase == "waiting" and task_id not in self.queue.tasks:
                self.enqueue(live)
        return FoldedStep(live, before, event) if verdict == "applied" else None

    def _appears(
        self, task_id: str, event: c.TaskSubmitted, *, child: bool
    ) -> LiveTask:
        live = self.newcomers.make(task_id, event, child=child)
        live.hold = held.hold_of(event.spec)
        self.held.watch(task_id, live)
        self.schedules.submitted(task_id)
        self.tasks[task_id] = live
        self.specs.keep(task_id, event.spec)
        return live

    def adopt(self, task_id: str, history: list[c.Recorded]) -> list[FoldedStep]:
        """Bring back a task that was over and is retried, from its whole history.

        What is beyond our own position comes in its turn; what we have folded since the
        history was read has been kept. Returns the task's steps after its retry.
        """
        whole = {one.seq: one for one in history if one.seq <= self.position}
        whole |= {one.seq: one for one in self.coming_back.pop(task_id, ())}
        self.held.unsure_of(task_id)
        ordered = [whole[seq] for seq in sorted(whole)]
        first = ordered[0].event if ordered else None
        if not isinstance(first, c.TaskSubmitted) or task_id in self.tasks:
            return []
        retried = [
            n for n, r in enumerate(ordered) if isinstance(r.event, c.TaskRetried)
        ]
        cut = retried[-1] + 1 if retried else len(ordered)
        task = lifecycle.fold(task_id, ordered[:cut], self.epochs)
        if task.phase in FINAL:
            return []
        live = self._appears(task_id, first, child=False)
        live.task = task
        live.since = self.time.of(task.waiting_since)
        self.held.settle(live)
        self.enqueue(live)
        last = self.time.last  # the clock may have been put elsewhere since
        steps = [
            self._fold_task(task_id, recorded, subjects.parse(recorded.subject).host)
            for recorded in ordered[cut:]
        ]
        self.time.last = last
        if task_id in self.tasks and live.task.phase in ON_HOST:
            hosts.back_on_host(self, live)
        return [step for step in steps if isinstance(step, FoldedStep)]

    def _take_step(
        self, live: LiveTask, before: TaskState, task: TaskState, event: c.Event
    ) -> None:
        task_id = task.task_id
        if isinstance(event, c.TaskRouted):
            self._begin_route(live, event)
        elif before.phase in ON_HOST and task.phase not in ON_HOST:
            self._end_route(live, before)
        if task_id in self.families.children:
            self.families.parent_stepped(task)
        if task.phase == "returned":
            self.ended[task_id] = end_said_by(event)
        elif task.phase != before.phase and not self._is_lost(task):
            self.ended.pop(task_id, None)
        if isinstance(event, (c.TaskAccepted, c.TaskStarted)):
            live.incarnation = event.incarnation
            host = self.fleet.hosts.get(event.host)
            if host is not None and event.incarnation < host.incarnation:
                # Said before the restart, come after it.
                hosts.after_restart(self, live, host)
        if before.phase == "waiting" and (
            task.phase != "waiting" or isinstance(event, c.TaskReassigned)
        ):
            self.dequeue(task_id)
        if task.phase == "waiting" and before.phase != "waiting":
            live.deferred = False
            self.enqueue(live)
        elif task.phase in FINAL:
            self.specs.drop(task_id)
            self.tasks.pop(task_id, None)
            self._lend(self.tasks.get(self.families.over(task_id)))
        elif isinstance(event, c.TaskDeferred):
            live.deferred = True
        if task.hopped_from == "standard" and isinstance(event, c.RunEvent):
            self._book(event)

    def _is_lost(self, task: TaskState) -> bool:
        """Whether a route is in force on a host that is gone.

        Then what it still reports does not take back that the route is over.
        """
        host = self.fleet.hosts.get(task.host)
        return task.phase in ON_HOST and host is not None and not host.live

    def _begin_route(self, live: LiveTask, event: c.TaskRouted) -> None:
        task = live.task
        slots = self.fleet.slots_of(task.host, task.endpoint, live.kind)
        slots.in_flight += 1
        place = self.reserved.pop(event.id, None)
        if place is not None:
            place.slots.reserved -= 1
        if place is None or place.slots is not slots:
            self.fleet.slots_changed(task.host, task.endpoint, live.kind)
        live.routed = event
        live.incarnation = ""
        self.on_host.setdefault(task.host, {})[task.task_id] = live
        if live.repo is not None:
            self.fleet.ran_on(live.repo, task.host)
        if task.hopped_from == "standard" and task.tier == "complex":
            self.escalated.add(task.task_id)
        if live.suspect:
            self.suspects[task.task_id] = task.host
        self._lend(live)  # an earlier run's children may be on their way out

    def _end_route(self, live: LiveTask, before: TaskState) -> None:
        slots = self.fleet.slots_of(before.host, before.endpoint, live.kind)
        slots.in_flight -= 1
        self.on_host.get(before.host, {}).pop(before.task_id, None)
        host = self.fleet.hosts.get(before.host)
        if host is not None:
            host.missing.pop(before.route, None)
        if before.task_id in self.escalated:
            # There is room for another escalation: who was kept back may go.
            self.escalated.discard(before.task_id)
            self.look_at.update(self.unmet)
        self.forget_suspect(before.task_id)
        self.families.lend(live, slots)
        live.routed = None
        self.fleet.slots_changed(before.host, before.endpoint, live.kind)

    def _lend(self, parent: LiveTask | None) -> None:
        """Lend the slot of a parent to children, or take it back."""
        if parent is None or parent.task.phase not in ON_HOST:
            return
        at = (parent.task.host, parent.task.endpoint, parent.kind)
        if self.families.lend(parent, self.fleet.slots_of(*at)):
            self.fleet.slots_changed(*at)

    def _book(self, event: c.RunEvent) -> None:
        """Count what escalated work cost today, for the budget."""
        result = getattr(event, "result", None)
        usd = result.estimated_cost_usd if isinstance(result, c.Result) else None
        # A host that reports a negative sum must not enlarge the others' budget.
        if usd and usd > 0:
            day, spent = self.escalated_usd
            today = event.at[:10]
            spent = spent if day == today else 0.0
            self.escalated_usd = (today, spent + usd)
            self.tiers_dirty = True

    # -- what is on its way to the log -------------------------------------------------

    def in_flight(self, live: LiveTask, event: c.Event) -> None:
        """Note that a decision about a task is on its way to the log."""
        live.deciding = event.id
        self.dequeue(live.task.task_id)

    def reserve(self, live: LiveTask, event: c.TaskRouted, place: Place) -> None:
        """Note that a routing is on its way to the log, and hold its slot."""
        self.in_flight(live, event)
        place.slots.reserved += 1
        self.reserved[event.id] = place
        if event.fallback_used and event.effective_tier == "complex":
            self.escalated.add(event.task_id)
        if live.suspect:
            self.suspects[event.task_id] = place.host.name
        self.fleet.slots_changed(place.host.name, place.endpoint, place.kind)

    def release(self, event_id: str) -> None:
        """Give up the reservation of a decision that did not come to count."""
        place = self.reserved.pop(event_id, None)
        if place is not None:
            place.slots.reserved -= 1
            self.fleet.slots_changed(place.host.name, place.endpoint, place.kind)

    def forget_route(self, task_id: str) -> None:
        """Take back what a decision to route did beside its slot: it came to nothing."""
        live = self.tasks.get(task_id)
        if live is None or live.task.phase not in ON_HOST:
            self.escalated.discard(task_id)
            self.forget_suspect(task_id)

    def forget_suspect(self, task_id: str) -> None:
        """Let other suspects have the host where this one ran."""
        if self.suspects.pop(task_id, None) is not None:
            self.look_at.update(r for r in self.queue.groups if r.suspect)

    def wait_again(self, live: LiveTask) -> None:
        """Put a waiting task back that was taken out of the queue for a decision."""
        if live.task.phase == "waiting" and live.task.task_id not in self.queue.tasks:
            self.enqueue(live)

    def give_up_in_flight(self) -> None:
        """Give up whatever is on its way to the log: if it is stored, it will be folded."""
        for event_id in list(self.reserved):
            self.release(event_id)
        for live in self.tasks.values():
            live.deciding = ""
            self.wait_again(live)
        for task_id in [*self.escalated, *self.suspects]:
            self.forget_route(task_id)

    # -- the queue ---------------------------------------------------------------------

    def excluded(self, live: LiveTask) -> tuple[str, ...]:
        """Name what a task is not to try: what has come up since may be tried again."""
        return tuple(
            sorted(
                name
                for name, seq in live.task.excluded
                if not self.fleet.came_up_after(name, seq)
            )
        )

    def enqueue(self, live: LiveTask) -> None:
        """Put a waiting task where those with its requirement wait, or with the held."""
        task = live.task
        if task.held:
            self.held.add(live)
            return
        self.held.remove(task.task_id)
        if live.is_new:
            required = live.base
        else:
            required = live.requirement(self.excluded(live))
            required = self.newcomers.one(required)
        waiting = Waiting(
            task.task_id,
            task.submitted_seq,
            live.lane,
            live.since,
            required,
        )
        if self.queue.add(waiting).count == 1:
            self.by_pool.setdefault(pool_key(required), set()).add(required)
        self.look_at.add(required)
        self.arrived.append(waiting)

    def dequeue(self, task_id: str) -> None:
        """Take a task out of the queue; its group goes with its last task."""
        self.held.remove(task_id)
        waiting = self.queue.remove(task_id)
        if waiting is None or waiting.requirement in self.queue.groups:
            return
        required = waiting.requirement
        self.unmet.discard(required)
        key = pool_key(required)
        siblings = self.by_pool.get(key, set())
        siblings.discard(required)
        if not siblings:
            self.by_pool.pop(key, None)
            self.fleet.release_pool(required)
            # Who may hop into this pool makes it anew, and hears when a place opens there.
            self.look_at.update(self.unmet)

    def regroup(self) -> None:
        """Let tasks try again what they had excluded: something has come up."""
        for required in [r for r in self.queue.groups if r.excluded]:
            for waiting in list(self.queue.groups[required]):
                live = self.tasks[waiting.task_id]
                self.dequeue(waiting.task_id)
                self.enqueue(live)

    def look_at_changed(self) -> None:
        """Have those looked at in whose pool a place has opened or gone, and the unmet."""
        for key in self.fleet.changed_pools:
            self.look_at.update(self.by_pool.get(key, ()))
        self.fleet.changed_pools.clear()
        self.look_at.update(self.unmet)

    def lift_limits(self, now: float) -> None:
        """Have those looked at that pauses of hosts or limits of accounts kept back."""
        self.fleet.resume_paused(now)
        for kind, until in self.fleet.limited_until.items():
            if until <= now:
                self.fleet.refresh(kind)
        self.tiers_dirty = True
        self.look_at.update(self.queue.groups)

    # -- policy, leaders ---------------------------------------------------------------

    def _fold_policy(self, event: c.Event) -> Verdict:
        if (
            not isinstance(event, c.PolicyChanged)
            or event.version != self.policy_version + 1
        ):
            return "void"
        try:
            policy = policies.parse(event.policy)
        except Malformed:
            # A newer version's document; the old numbers stay until ours can be read.
            return "void"
        self.policy_version = event.version
        self.policy = policy
        self.fleet.set_policy(self.policy)
        for group in self.queue.groups.values():
            # Timers keep their start; their end is another one now.
            group.expiries = None
        self.tiers_dirty = self.alerts_moved = True
        self.look_at.update(self.queue.groups)
        return "applied"

    def _fold_scheduler(self, recorded: c.Recorded) -> Verdict:
        event = recorded.event
        self.scheduler_seq = recorded.seq
        if isinstance(event, c.ClockStepped):
            return self._fold_step(event)
        if not isinstance(event, c.SchedulerElected) or not self.epochs.observe(
            recorded.seq, event.epoch
        ):
            return "void"
        if event.leaderless_s > 0:
            self.time.nobody_led(event.leaderless_s, event.at)
            self.alerts_moved = True
        return "applied"

    def _fold_step(self, event: c.ClockStepped) -> Verdict:
        """The leader's wall clock was put forward or back: durations go on evenly."""
        if event.epoch != self.epochs.current:
            return "void"
        now = self.time.stepped(event.step_s, event.at)
        self.cap_times(now)  # what was stamped by a clock that was ahead already
        if event.step_s > 0:
            tiers.move_limits(self, event.step_s)
        self.alerts_moved = True
        self.look_at.update(self.queue.groups)
        return "applied"
