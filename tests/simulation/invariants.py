"""What must hold after every event and at the end, judged from outside.

The judge reads the log as the server holds it and keeps an account of its own for each
task, in rules of a few lines, beside the write side's fold and the read side's: three
that must agree. It hears every mail that arrives and every answer to one, sees every run
begin, and looks into the schedulers and hosts whenever they have come to rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actors import lifecycle
from actors.lifecycle import Epochs, TaskState
from actors.scheduler.decide import Scheduler
from actors.scheduler.outputs import HistoryNeeded
from events import catalogue as c
from events import mail as m
from events import subjects
from events.codec import Reader, instant
from events.lifecycle import FINAL, FIXED_KINDS, ON_HOST, SUSPECT_FROM, UNUSABLE
from projections.tasks import NUMBERED
from projections.world import World as ReadModels
from tests.simulation.families import FamilyJudge
from tests.simulation.later import LaterJudge
from tests.simulation.planned import PlannedJudge
from tests.simulation.verified import VerificationJudge

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actors.host.state import HostState
    from actors.scheduler.live import LiveTask
    from actors.scheduler.outputs import Decision
    from events.catalogue import Recorded
    from tests.simulation.machine import SidecarProcess
    from tests.simulation.network import Link, SimMessage

_mail: Reader[m.HostMail] = Reader(m.HostMail)
_replies: Reader[m.Reply] = Reader(m.Reply)

ENDS = (c.TaskCompleted, c.TaskFailed)
HOPS = {
    "standard": {"complex", "trivial"},
    "complex": {"standard"},
    "trivial": set[str](),
}
LOSSES = ("host lost", "host restarted", "host lost it", "not accepted")
"""Reasons for which a leader may take back a route that no report has ended."""

DECISIONS = (
    c.TaskReleased,
    c.TaskDeferred,
    c.TaskRouted,
    c.TaskRequeued,
    c.TaskExpired,
    c.TaskDeadLettered,
    c.TaskAbandoned,
    c.HostLost,
    c.TierDown,
    c.TierUp,
    c.TierLimited,
    c.AlertRaised,
    c.AlertCleared,
)


ACCEPTANCE_LEEWAY = 1.5
"""So much later than the time-out a leader that turns twice a second has noticed."""

ALERT_LEEWAY = 1.5
"""So much later than it falls due a leader that turns twice a second raises an alert."""

EARLY_S = 22.0
"""How much too early a time to live may end: stamps of other gateways are off by their
clocks' skew, and by what an append took; a stamp that is farther off is not believed."""

DISK_TAKES = 3.0
"""By then an ended run's last event is on the disk, if the log has not got it."""


class Broken(AssertionError):
    """An invariant does not hold."""

    def __init__(self, invariant: str, what: str) -> None:
        self.invariant = invariant
        self.what = what
        super().__init__(f"{invariant}: {what}")


class Account:
    """What the judge notes about one task."""

    def __init__(self, event: c.TaskSubmitted) -> None:
        self.submitted = event
        self.preferred = event.classification.effective_tier
        self.open_route: c.TaskRouted | None = None
        self.last_route: c.TaskRouted | None = None
        self.generation = 0
        self.hops = 0
        self.results = 0
        self.started: set[str] = set()
        self.attempts = 0
        self.cancelled = False
        self.read_attempts = 0
        # When its route in force, and its wait, were stored, in the loop's seconds.
        self.routed_at = 0.0
        # What reports in the log say that its routes have cost, and that sum as it was
        # when its routes were stored.
        self.bills: dict[str, float] = {}
        self.rounds: dict[tuple[str, int], float] = {}
        self.billed_at: dict[str, float] = {}
        self.claude_on: dict[str, str] = {}
        # What the tasks may spend that its runs have submitted.
        self.given_usd = 0.0
        self.waits_since = 0.0


class Judge:
    """Takes in everything; raises Broken through `complain`, kept for the simulation."""

    def __init__(self) -> None:
        self.broken: Broken | None = None
        self.now = 0.0
        self.verification = VerificationJudge(self.complain)
        self.later = LaterJudge(self.complain)
        self.epochs = Epochs()
        self.states: dict[str, TaskState] = {}
        self.planned = PlannedJudge(self.complain, self.states, self.later)
        self.accounts: dict[str, Account] = {}
        self.families = FamilyJudge(self.complain, self.states)
        self.read = ReadModels()
        self.in_force: set[str] = set()
        self.slots: dict[str, dict[str, int]] = {}
        self.endpoints: dict[str, dict[str, int]] = {}
        self.shared: dict[str, int] = {}
        self.repos: dict[str, list[str]] = {}
        self.clones: dict[str, list[str]] = {}
        self.verifying: set[str] = set()
        # How often each route's command was started, and where last.
        self.commands: dict[str, tuple[int, SidecarProcess]] = {}
        # How often its host has told that it started a route's command again.
        self.restarts_told: dict[str, int] = {}
        self.able: dict[tuple[str, str], c.EndpointState] = {}
        self.taken: dict[tuple[str, str], set[str]] = {}
        self.silenced: dict[str, str] = {}
        self.acknowledged: set[str] = set()
        self.verdicts: dict[str, int] = {}
        self.tiers: dict[str, tuple[bool, bool]] = {}
        self.stored_ids: set[str] = set()
        self.given_up: set[str] = set()
        self._unaccepted: dict[tuple[int, str], tuple[str, float]] = {}
        self._unalerted: dict[tuple[int, str], float] = {}
        self._drain_versions: dict[tuple[str, str], int] = {}
        self._heard_epoch: dict[int, int] = {}
        self._was_stale: dict[int, tuple[int, int]] = {}
        self._counted: set[str] = set()
        self._budgets_told: set[tuple[str, float]] = set()
        self._carried_out: set[tuple[str, str, str]] = set()
        # When a scheduler last heard a host, in the loop's seconds.
        self._heard: dict[tuple[int, str], float] = {}

    def complain(self, invariant: str, what: str) -> None:
        """Note the first thing that is wrong."""
        if self.broken is None:
            self.broken = Broken(invariant, what)

    # -- the log -----------------------------------------------------------------------

    def stored(self, recorded: Recorded, now: float) -> None:
        """Judge one more event of the log; `now` in the loop's seconds."""
        event = recorded.event
        self.now = now
        place = subjects.parse(recorded.subject)
        current = self.epochs.current
        if isinstance(event, c.SchedulerElected):
            if event.epoch != current + 1:
                self.complain("epochs rise by one", f"{current} then {event.epoch}")
            self.epochs.observe(recorded.seq, event.epoch)
        elif isinstance(event, c.HostJoined):
            self.slots[event.host] = dict(event.slots)
            self.repos[event.host] = event.repos
            self.clones[event.host] = event.clones
            if event.verifies:
                self.verifying.add(event.host)
            known = self.endpoints.setdefault(event.host, {})
            known.clear()
            known.update({e.endpoint: e.slots for e in event.endpoints})
            self.able |= {(event.host, e.endpoint): e for e in event.endpoints}
        elif isinstance(event, c.EndpointUp | c.EndpointChanged):
            self.able[event.host, event.state.endpoint] = event.state
            known = self.endpoints.setdefault(event.host, {})
            known[event.state.endpoint] = event.state.slots
        elif isinstance(event, c.EndpointAdded):
            self.shared[event.endpoint] = event.slots
        elif isinstance(event, c.TierEvent):
            self._tier(event)
        elif isinstance(event, c.ScheduleEvent):
            where = f"seq {recorded.seq}, {event.schedule}, {c.name(event)}"
            self.planned.stored(event, self.epochs.current, where)
        self.stored_ids.add(event.id)
        self._once(event, f"seq {recorded.seq}")
        self.families.stored(recorded)
        if place.kind in ("task", "run"):
            self._task(place.task, place.host, recorded)
        else:
            self.read.fold(recorded)

    def _once(self, event: Any, where: str) -> None:
        """A command that says its id is carried out once, however many copies come."""
        command = getattr(event, "command_id", "")
        if not command or isinstance(event, c.TaskSubmitted):
            return
        said = (c.name(event), event.requested_by, command)
        if said in self._carried_out:
            self.complain("a command is carried out once", f"{where}: {said}")
        self._carried_out.add(said)

    def _task(self, task_id: str, host: str, recorded: Recorded) -> None:
        event = recorded.event
        current = self.epochs.current
        before = self.states.get(task_id, lifecycle.initial(task_id))
        after, verdict = lifecycle.evolve(before, recorded, epoch=current, host=host)
        self.states[task_id] = after
        self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
        self._bill(task_id, host, event)
        if isinstance(event, c.TaskRetrying):
            told = self.restarts_told.get(event.route, 0)
            self.restarts_told[event.route] = max(told, event.retry)
        judged = self.read.fold(recorded)
        self._both_sides(task_id, recorded, after, verdict, judged.verdict)
        if verdict != "applied":
            return
        where = f"seq {recorded.seq}, {task_id}, {c.name(event)}"
        if isinstance(event, DECISIONS) and event.epoch != current:
            self.complain(
                "a deposed leader's decisions are void",
                f"{where}: of epoch {event.epoch} counted under {current}",
            )
        account = self.accounts.get(task_id)
        if account is None:
            if isinstance(event, c.TaskSubmitted):
                self.accounts[task_id] = account = Account(event)
                self._part(event, where)
                self.later.submitted(event, where)
                self.planned.submitted(event, where)
                account.waits_since = self.now
            return
        if isinstance(event, c.TaskRouted):
            account.routed_at = self.now
        elif after.waiting_since != before.waiting_since:
            account.waits_since = self.now
        if isinstance(event, c.RunEvent):
            self._report(account, event, host, where)
            self._told(after, event, where)
        else:
            self._decision(account, event, before, after, where)
        self._attempts(account, before, after, event, where)
        if after.phase in FINAL and before.phase not in FINAL:
            self.later.ended(task_id, after.phase, recorded)

    def _bill(self, task_id: str, host: str, event: c.Event) -> None:
        account = self.accounts.get(task_id)
        if account is None:
            return
        if isinstance(event, c.TaskRouted):
            told = [
                usd
                for (route, _), usd in account.rounds.items()
                if route not in account.bills
            ]
            spent = sum(account.bills.values()) + sum(told) + account.given_usd
            account.billed_at.setdefault(event.id, spent)
            account.claude_on[event.id] = event.selected_host
        if (
            isinstance(event, c.TaskStatus | c.TaskVerified)
            and event.spent is not None
            and account.claude_on.get(event.route) == host
        ):
            usd = event.spent.estimated_cost_usd or 0.0
            account.rounds.setdefault((event.route, event.round), usd)
        result = getattr(event, "result", None)
        if (
            isinstance(event, c.RunEvent)
            and isinstance(result, c.Result)
            and result.estimated_cost_usd is not None
            and account.claude_on.get(event.route) == host
        ):
            # Where an end tells nothing, what its rounds have told stays counted.
            account.bills.setdefault(event.route, result.estimated_cost_usd)

    def _part(self, child: c.TaskSubmitted, where: str) -> None:
        """What a child may spend is parted from what its parent has left."""
        parent = self.accounts.get(child.parent)
        most = parent.submitted.spec.max_budget_usd if parent is not None else None
        if parent is None or most is None:
            return
        part = child.spec.max_budget_usd or 0.0
        left = most - sum(parent.bills.values()) - parent.given_usd
        if part > left + 1e-5:
            self.complain(
                "no dollar of a tree is given twice", f"{where}: {part} of {left}"
            )
        if not part and "complex" in (
            child.classification.effective_tier,
            child.tier_limit,
        ):
            self.complain(
                "who may spend nothing runs nowhere dear",
                f"{where}: {child.tier_limit}",
            )
        parent.given_usd += part

    def _budget(self, assign: m.Assign) -> None:
        """A start gets what the log had left of the task's budget when it was routed."""
        account = self.accounts.get(assign.task_id)
        if account is None or assign.target_type != "claude":
            return
        most = account.submitted.spec.max_budget_usd
        spent = account.billed_at.get(assign.route, 0.0)
        given = assign.max_budget_usd
        if most is not None and (given is None or given > max(most - spent, 0) + 1e-6):
            self.complain(
                "a start gets what is left of the task's budget",
                f"{assign.task_id}: {given} of {most}, {spent} were spent",
            )

    def _both_sides(
        self,
        task_id: str,
        recorded: Recorded,
        after: TaskState,
        verdict: str,
        seen: str,
    ) -> None:
        record = self.read.tasks.find(task_id)
        shown = record.phase if record is not None else "absent"
        where = f"seq {recorded.seq}, {task_id}, {c.name(recorded.event)}"
        if shown != after.phase:
            self.complain(
                "read side and write side agree",
                f"{where}: read {shown}, write {after.phase}",
            )
        comparable = seen if seen in ("applied", "repeat") else "void"
        if comparable != verdict and type(recorded.event) not in NUMBERED:
            self.complain(
                "read side and write side agree",
                f"{where}: {seen} for the read side, {verdict} for the write side",
            )
        if record is None or record.phase in ("absent", "dead"):
            return
        mine = (after.attempts, after.generation)
        if (record.attempts, record.generation) != mine:
            self.complain(
                "read side and write side agree",
                f"{where}: attempts and generation {record.attempts, record.generation}"
                f" against {mine}",
            )

    def _decision(
        self,
        account: Account,
        event: c.Event,
        before: TaskState,
        after: TaskState,
        where: str,
    ) -> None:
        match event:
            case c.TaskRouted():
                self._routed(account, event, before, where)
            case c.TaskRequeued() | c.TaskDeadLettered():
                if event.route != before.route:
                    self.complain(
                        "only the route in force is taken back",
                        f"{where}: {event.route}, in force is {before.route}",
                    )
                lost = event.reason in LOSSES
                if before.phase in ("routed", "accepted", "running") and not lost:
                    self.complain(
                        "no healthy run is taken back",
                        f"{where}: {before.phase} on {before.host}, said to be over: "
                        f"{event.reason}",
                    )
                self._close(account)
            case c.TaskReleased():
                self.later.released(account.submitted, event, after, where)
            case c.TaskRetried():
                self.verification.retried(event.task_id)
                self._close(account)
                account.hops = account.results = account.attempts = 0
                account.last_route = None
                account.cancelled = False
            case c.TaskReassigned():
                self.verification.reassigned(event.task_id)
                self._close(account)
            case c.TaskCancelled():
                account.cancelled = True
                self.later.cancelled(account.submitted, event, where)
            case c.TaskExpired():
                if before.phase != "waiting":
                    self.complain("only a waiting task expires", where)
            case c.TaskAbandoned():
                self._close(account)
            case _ if after.phase not in ON_HOST:
                self._close(account)
            case _:
                pass

    def _routed(
        self, account: Account, event: c.TaskRouted, before: TaskState, where: str
    ) -> None:
        if account.open_route is not None:
            self.complain(
                "never two live generations",
                f"{where}: {account.open_route.id} is in force",
            )
        if event.generation != account.generation + 1:
            self.complain(
                "each routing raises the generation",
                f"{where}: {event.generation} after {account.generation}",
            )
        account.generation = event.generation
        self.later.routed(event, where)
        self.verification.routed(event, where)
        if event.fallback_used:
            account.hops += 1
            origin = event.fallback_from_tier or "trivial"
            if event.effective_tier not in HOPS[origin]:
                self.complain(
                    "one step, never skipping a tier",
                    f"{where}: from {origin} to {event.effective_tier}",
                )
        fixed = account.submitted.spec.executor in FIXED_KINDS
        if account.hops > 1:
            self.complain("never two hops", where)
        hopped = account.hops > 0 or fixed
        if not hopped and event.effective_tier != account.preferred:
            self.complain(
                "no hop without saying so",
                f"{where}: {event.effective_tier}, preferred {account.preferred}",
            )
        spec = account.submitted.spec
        if (
            spec.model
            and not fixed
            and event.selected_model.split(":")[0] != spec.model
        ):
            self.complain(
                "never silently another model",
                f"{where}: {event.selected_model} for {spec.model}",
            )
        has = self.repos.get(event.selected_host, ())
        begins = self.clones.get(event.selected_host, ())
        there = spec.repo in has or any(
            f"{spec.repo}/".startswith(f"{each}/") for each in begins
        )
        if spec.repo and spec.executor != "noop" and not there:
            self.complain(
                "work goes where its repository is",
                f"{where}: {event.selected_host} has {has}, not {spec.repo}",
            )
        if spec.verification_steps and event.selected_host not in self.verifying:
            self.complain(
                "work to verify goes where it is verified",
                f"{where}: {event.selected_host} runs no steps",
            )
        if event.target_type in ("ollama", "openai"):
            self._able(account.submitted, event, where)
        wanted = before.assign_to
        if wanted and event.selected_host != wanted:
            self.complain(
                "assign_to is kept", f"{where}: {event.selected_host} for {wanted}"
            )
        if before.losses >= SUSPECT_FROM:
            self._apart(event, where)
        account.open_route = account.last_route = event
        self.in_force.add(event.id)
        for key in self._places(event):
            taken = self.taken.setdefault(key, set())
            taken.add(event.id)
            total = self._total(key)
            # What its leader was told may not be stored, and was, comes on top; its host
            # refuses it as busy.
            firm = taken - self.given_up
            if account.submitted.parent:
                # A child may have the slots of those who have children.
                firm -= {self.route_of(each) for each in self.families.parents}
            if total is not None and len(firm) > total:
                self.complain(
                    "slots are never overcommitted",
                    f"{where}: {len(taken)} of {total} at {key}",
                )

    def _apart(self, event: c.TaskRouted, where: str) -> None:
        """Tasks that may be what ends their hosts are never beside one another."""
        for task_id, other in self.accounts.items():
            route = other.open_route
            if (
                route is not None
                and route.id not in self.given_up
                and route.selected_host == event.selected_host
                and self.states[task_id].losses >= SUSPECT_FROM
            ):
                self.complain(
                    "suspects run apart", f"{where}: beside {task_id} on its host"
                )

    def _able(
        self, submitted: c.TaskSubmitted, event: c.TaskRouted, where: str
    ) -> None:
        """A model's endpoint must be able to do what it is given."""
        state = self.able[event.selected_host, event.selected_endpoint]
        model = event.selected_model
        words = state.model_capabilities.get(model, state.capabilities)
        context = state.context_tokens.get(model)
        if submitted.mode == "work" and not (
            "hands" in state.capabilities and "tools" in words
        ):
            self.complain(
                "work is done where there are hands",
                f"{where}: {event.selected_endpoint} can {state.capabilities}, "
                f"its {model} {words}",
            )
        least = 32_768 if submitted.mode == "work" else submitted.prompt_tokens_estimate
        if context is not None and context < least:
            self.complain(
                "a task fits the context of its model",
                f"{where}: {context} tokens for at least {least}",
            )

    def _places(self, event: c.TaskRouted) -> Iterable[tuple[str, str]]:
        if event.selected_endpoint in self.shared:
            return [("", event.selected_endpoint)]
        if event.selected_endpoint:
            return [(event.selected_host, event.selected_endpoint)]
        slot = {"sidecar": "shell"}.get(event.target_type, event.target_type)
        return [(event.selected_host, slot)]

    def _total(self, key: tuple[str, str]) -> int | None:
        host, what = key
        if not host:
            return self.shared.get(what)
        endpoint = self.endpoints.get(host, {}).get(what)
        return endpoint if endpoint is not None else self.slots.get(host, {}).get(what)

    def _close(self, account: Account) -> None:
        event, account.open_route = account.open_route, None
        if event is not None:
            for key in self._places(event):
                self.taken.get(key, set()).discard(event.id)

    def _report(
        self, account: Account, event: c.RunEvent, host: str, where: str
    ) -> None:
        last = account.last_route
        if last is None or event.route != last.id:
            self.complain(
                "reports count for the last route alone",
                f"{where}: of {event.route}, the last is {last.id if last else None}",
            )
            return
        if host != last.selected_host:
            self.complain("a host speaks for its own runs", f"{where}: {host}")
        self.verification.reported(account.submitted.spec, event, where)
        if isinstance(event, ENDS):
            account.results += 1
            if account.results > 1:
                self.complain("one accepted result a task", where)
        if isinstance(event, (*ENDS, c.TaskRejected, c.TaskReturned, c.TaskStopped)):
            self._close(account)

    def _attempts(
        self,
        account: Account,
        before: TaskState,
        after: TaskState,
        event: c.Event,
        where: str,
    ) -> None:
        """An attempt is a routing that started, counted when it is over without result.

        A command that its host starts again by itself is one more.
        """
        most = account.submitted.spec.max_attempts
        if isinstance(event, c.TaskRouted) and after.attempts >= most:
            self.complain(
                "after the last attempt comes the dead letter",
                f"{where}: {after.attempts} attempts of {most} and routed again",
            )
        if after.attempts > before.attempts + 1:
            self.complain("an attempt counts once", where)
        if isinstance(event, c.TaskRetrying):
            if after.attempts >= most and before.is_command:
                self.complain("a command is started max_attempts times", where)
        elif after.attempts > before.attempts:
            route = before.route
            if route in self._counted:
                self.complain("an attempt counts once", f"{where}: again {route}")
            self._counted.add(route)
        if isinstance(event, c.TaskReturned) and event.reason == "endpoint_unfit":
            at = {before.host, before.endpoint, f"{before.endpoint}@{before.host}"}
            again = any(name in at for name, _ in before.excluded)
            if after.attempts - before.attempts != again:
                self.complain(
                    "who cannot do it costs an attempt as the last resort alone",
                    f"{where}: {event.exclude}, excluded {before.excluded}",
                )
        unusable = isinstance(event, c.TaskReturned) and event.reason == UNUSABLE
        if unusable and after.attempts != before.attempts:
            self.complain("what a place cannot be used for costs no attempt", where)
        if isinstance(event, c.TaskDeadLettered) and event.attempts < most:
            self.complain("dead letters have used all attempts", where)

    def over(self, task_id: str) -> bool:
        """Whether the log says that a task is over."""
        state = self.states.get(task_id)
        return state is not None and state.phase in FINAL

    def route_of(self, task_id: str) -> str:
        """The route of a task that is in force, "" without one."""
        account = self.accounts.get(task_id)
        route = account.open_route if account is not None else None
        return route.id if route is not None else ""

    def wanted(self, task_id: str, route: str) -> bool:
        """Whether a run's work is still wanted by anybody."""
        state = self.states.get(task_id)
        if state is None or state.route != route:
            return False
        return state.phase in ("routed", "accepted", "running", "waiting")

    def _tier(self, event: c.TierEvent) -> None:
        """One outage begins once and ends once, one alert for each."""
        if isinstance(event, c.AlertAcknowledged) or event.epoch != self.epochs.current:
            return
        down, alerted = self.tiers.get(event.tier, (False, False))
        if isinstance(event, c.TierBudgetSpent):
            said = (event.day, event.budget_usd)
            if said in self._budgets_told or event.spent_usd < event.budget_usd:
                self.complain("a day's budget is said to be spent once", f"{event}")
            self._budgets_told.add(said)
        match event:
            case c.TierDown():
                fits, down = not down, True
            case c.TierUp():
                fits, down = down, False
            case c.AlertRaised():
                fits, alerted = down and not alerted, True
            case c.AlertCleared():
                fits, alerted = alerted, False
            case _:
                return
        self.tiers[event.tier] = (down, alerted)
        if not fits:
            self.complain(
                "an outage begins and ends once, its alert too",
                f"{c.name(event)} of {event.tier}",
            )

    # -- decisions, as they are made ---------------------------------------------------

    def beaten(self, scheduler: Scheduler, subject: str, now: float) -> None:
        """A scheduler heard a beat; one that counts is of the incarnation it knows."""
        name = subject.rpartition(".")[2]
        host = scheduler.fleet.hosts.get(name)
        if host is not None and host.last_beat == scheduler.state.now:
            self._heard[id(scheduler), name] = now

    def decided(self, scheduler: Scheduler, decision: Decision, now: float) -> None:
        """A leader has decided something: does it follow from what it knows?"""
        event = decision.event
        # Who slept through another's election decides what will be void.
        in_force = getattr(event, "epoch", 0) == self.epochs.current
        if isinstance(event, c.HostLost) and in_force:
            heard = self._heard.get((id(scheduler), event.host), float("-inf"))
            if now - heard < scheduler.state.policy.host_lease_s - 0.01:
                self.complain(
                    "a host is lost for its silence alone",
                    f"{scheduler.name}: {event.host} was heard {now - heard:.1f} s before",
                )
        if not isinstance(event, c.TaskEvent) or isinstance(event, c.TaskSubmitted):
            return
        if in_force:
            self._in_time(scheduler, event, now)
        live = scheduler.state.tasks[event.task_id]
        # A decision that does not get through is made again: the patience starts over.
        self._unaccepted.pop((id(scheduler), event.task_id), None)
        where = f"{scheduler.name}, {event.task_id}, {c.name(event)}"
        match event:
            case c.TaskReleased():
                self.later.decided(scheduler, event, where)
            case c.TaskRouted():
                self._decided_route(scheduler, live, event, where)
            case c.TaskRequeued() | c.TaskDeadLettered():
                self._decided_end(scheduler, live, event, where)
            case c.TaskExpired(reason="ttl"):
                required = live.requirement(self._excluded(scheduler, live))
                pool = scheduler.state.fleet.pool(required)
                # Its own tier has had its turn where what it did was not verified.
                if not required.unverified and pool.available_to(required.excluded):
                    self.complain("the TTL runs only while nobody could take it", where)
            case _:
                pass

    def stamped(self, scheduler: Scheduler, decision: Decision, wall: float) -> None:
        """Who leads stamps by its wall clock, as soon as it has said its steps."""
        off_s = instant(decision.event.at) - wall
        if abs(off_s) > 1.1:
            self.complain(
                "times of day are right for people",
                f"{scheduler.name}: {c.name(decision.event)} is {off_s:.1f} s off",
            )

    def _in_time(self, scheduler: Scheduler, event: c.TaskEvent, now: float) -> None:
        """Durations are as long as they are, whatever the wall clocks say meanwhile."""
        account = self.accounts[event.task_id]
        policy, since, least = scheduler.state.policy, 0.0, 0.0
        if isinstance(event, c.TaskRequeued) and event.reason == "not accepted":
            since, least = account.routed_at, policy.accept_timeout_s - 0.05
        elif isinstance(event, c.TaskExpired) and event.reason == "ttl":
            own_s = account.submitted.spec.ttl_s
            ttl_s = policy.task_ttl_s if own_s is None else own_s
            since, least = account.waits_since, ttl_s - EARLY_S
        if now - since < least:
            self.complain(
                "no duration is shorter than it is",
                f"{scheduler.name}, {event.task_id}: {c.name(event)} after "
                f"{now - since:.1f} of {least:.1f} s",
            )

    def _excluded(self, scheduler: Scheduler, live: LiveTask) -> tuple[str, ...]:
        return tuple(
            name
            for name, seq in live.task.excluded
            if not scheduler.state.fleet.came_up_after(name, seq)
        )

    def _decided_route(
        self, scheduler: Scheduler, live: LiveTask, event: c.TaskRouted, where: str
    ) -> None:
        if live.task.phase != "waiting":
            self.complain("only who waits is routed", f"{where}: {live.task.phase}")
        wall = scheduler.state.now + scheduler.state.time.ahead_s
        if live.deadline is not None and live.deadline < wall - 1.0:
            self.complain("nothing is routed after its deadline", where)
        place = scheduler.state.reserved[event.id]
        slots = place.slots
        lent = slots.lent if live.base.child else 0
        if slots.in_flight + slots.reserved - lent > slots.total:
            self.complain(
                "slots are never overcommitted",
                f"{where}: {slots.in_flight} and {slots.reserved} of {slots.total}",
            )
        excluded = self._excluded(scheduler, live)
        names = {place.name, place.host.name, place.endpoint}
        pool = scheduler.state.fleet.pool(live.requirement(()))
        others = any(
            {each.name, each.host.name, each.endpoint}.isdisjoint(excluded)
            for name, each in pool.places.items()
            if name in pool._available
        )
        if names & set(excluded) and others:
            self.complain(
                "what failed on a task is not tried while others are left",
                f"{where}: {place.name}, excluded {excluded}",
            )
        ageing = scheduler.state.policy.ageing_s
        mine = _rank(live, scheduler.state.now, ageing)
        group = scheduler.state.queue.groups.get(live.requirement(excluded))
        for waiting in group or ():
            other = scheduler.state.tasks[waiting.task_id]
            rank = _rank(other, scheduler.state.now, ageing)
            if rank < mine:
                # A task that was given back keeps its place in the log, and ages anew.
                same = rank[0] == mine[0]
                self.complain(
                    "first in, first out inside a lane" if same else "best lane first",
                    f"{where}: {mine} before {other.task.task_id} {rank}",
                )

    def _decided_end(
        self,
        scheduler: Scheduler,
        live: LiveTask,
        event: c.TaskRequeued | c.TaskDeadLettered,
        where: str,
    ) -> None:
        state = live.task
        host = scheduler.state.fleet.hosts.get(state.host)
        fits = {
            "not accepted": state.phase == "routed",
            "host lost": host is None or not host.live,
            "attempts used up": state.attempts >= state.max_attempts,
        }.get(event.reason, state.phase == "returned" or event.reason in LOSSES)
        if not fits:
            self.complain(
                "no healthy run is taken back",
                f"{where}: {event.reason}, it is {state.phase} on {state.host}",
            )

    # -- mail --------------------------------------------------------------------------

    def mail(self, link: Link, message: SimMessage) -> None:
        """A message arrives."""
        if not message.subject.startswith("agentcom.mbx."):
            return
        mail: Any = _mail.decode(message.data)
        epoch = getattr(mail, "epoch", 0)
        if not epoch:
            return
        key = id(link.process)
        heard = self._heard_epoch.get(key, 0)
        if epoch < heard:
            self._was_stale[id(message)] = (epoch, heard)
            message.stale = True
        self._heard_epoch[key] = max(heard, epoch)
        if isinstance(mail, m.Assign) and mail.route not in self.in_force:
            self.complain(
                "nothing is mailed that was not in force",
                f"{mail.route} of {mail.task_id} to {link.process.name}",
            )

    def answered(self, message: SimMessage, data: bytes) -> None:
        """A host answered its mail."""
        self._turned(message, data)
        if message.stale and _replies.decode(data).ok:
            self.complain(
                "a host that has heard a newer leader refuses an older one",
                f"{message.to.process.name} took mail of an older epoch",
            )

    def _turned(self, message: SimMessage, data: bytes) -> None:
        if not message.subject.startswith("agentcom.mbx.host."):
            return
        mail: Any = _mail.decode(message.data)
        if not isinstance(mail, m.DrainOrResume) or not _replies.decode(data).ok:
            return
        incarnation = (message.to.process.name, mail.incarnation)
        if mail.version <= self._drain_versions.get(incarnation, -1):
            self.complain(
                "a late word of draining or resuming is passed by",
                f"{incarnation[0]} took drain version {mail.version} after {self._drain_versions[incarnation]}",
            )
        self._drain_versions[incarnation] = mail.version

    # -- hosts -------------------------------------------------------------------------

    def ran(self, process: SidecarProcess, assign: m.Assign) -> None:
        """A run's work begins."""
        self._budget(assign)
        self.later.ran(self.accounts[assign.task_id].submitted.spec, assign)
        if assign.route in process.runs:
            self.complain(
                "a route runs once at a time", f"{assign.route} on {process.name}"
            )
        state = process.machine.endpoints.get(assign.endpoint)
        mode = self.accounts[assign.task_id].submitted.mode
        chat = not assign.by_hands or state is None or "hands" not in state.capabilities
        if mode == "work" and assign.target_type in ("ollama", "openai") and chat:
            self.complain(
                "work is done where there are hands",
                f"{assign.route} on {process.name} as {assign.mode}",
            )
        if not process.machine.disk.holds(assign.route):
            self.complain(
                "nothing runs that is not on the disk",
                f"{assign.route} on {process.name}",
            )

    def commanded(self, process: SidecarProcess, assign: m.Assign) -> None:
        """A command is started."""
        spec = assign.spec
        again = 1 if spec.retries is None else spec.retries
        most = min(spec.max_attempts - assign.attempt + 1, 1 + max(1, again))
        before, _ = self.commands.get(assign.route, (0, process))
        self.commands[assign.route] = (before + 1, process)
        if before >= most:
            self.complain(
                "a command is started as often as it may be",
                f"{assign.route} on {process.name}: {before + 1} times, {most} allowed",
            )

    def _told(self, after: TaskState, event: c.RunEvent, where: str) -> None:
        """Each start of a command is an attempt, and told, unless its teller is gone."""
        starts, process = self.commands.get(event.route, (0, None))
        if not after.is_command or process is None or not isinstance(event, ENDS):
            return
        told = self.restarts_told.get(event.route, 0)
        if told > starts - 1 or (told < starts - 1 and process.alive):
            self.complain(
                "each start of a command is told",
                f"{where}: {starts} starts, started again {told} times",
            )

    def died(self, process: SidecarProcess, now: float) -> None:
        """A host's process is gone: what had ended there must be on disk or log."""
        disk = process.machine.disk
        for route, (ended, event_id) in process.ended.items():
            young = now - ended < DISK_TAKES
            if young or disk.was_full or event_id in self.stored_ids:
                continue
            if not disk.promises(route):
                self.complain(
                    "no result is lost with its process",
                    f"{process.name}: {route} ended {now - ended:.1f} s before",
                )

    def host(self, state: HostState) -> None:
        """Recount a host's slots."""
        used: dict[str, int] = {}
        lent: dict[str, int] = {}
        for run in state.runs.values():
            if run.phase in ("reserved", "accepted", "running"):
                used[run.slot] = used.get(run.slot, 0) + 1
                if run.assign.task_id in self.families.parents:
                    lent[run.slot] = lent.get(run.slot, 0) + 1
        counted = {slot: n for slot, n in state.used.items() if n}
        if used != counted:
            self.complain(
                "a host counts its slots right", f"{state.host}: {counted} for {used}"
            )
        for slot, n in used.items():
            most = state.slots.get(slot, 0) + lent.get(slot, 0)
            if n > most and slot not in self.shared:
                self.complain(
                    "a host never runs more than it has room for",
                    f"{state.host}: {n} in {slot}",
                )

    # -- schedulers --------------------------------------------------------------------

    def scheduler(self, scheduler: Scheduler, *, able: bool) -> None:
        """Recount a scheduler's slots, queue and index from its tasks.

        `able` says whether it could have decided what there was to decide.
        """
        self.families.scheduler(scheduler, able=able)
        self._acceptance(scheduler, able=able and scheduler.leading)
        self._alerts(scheduler, able=able and scheduler.leading)
        slots: dict[int, int] = {}
        on_host: dict[str, set[str]] = {}
        for task_id, live in scheduler.state.tasks.items():
            state = live.task
            if state.phase in FINAL:
                self.complain("what is over is let go", f"{scheduler.name}: {task_id}")
            if state.phase in ON_HOST:
                found = scheduler.state.fleet.slots_of(
                    state.host, state.endpoint, live.kind
                )
                slots[id(found)] = slots.get(id(found), 0) + 1
                on_host.setdefault(state.host, set()).add(task_id)
            queued = task_id in scheduler.state.queue.tasks
            waits = state.phase == "waiting" and not live.deciding
            if (task_id in scheduler.state.held.tasks) != (waits and state.held):
                self.complain(
                    "who is held stands outside the queue",
                    f"{scheduler.name}: {task_id} held {state.held}, queued {queued}",
                )
            if queued != (waits and not state.held):
                self.complain(
                    "who waits is in the queue",
                    f"{scheduler.name}: {task_id} is {state.phase}, deciding "
                    f"{live.deciding}, queued {queued}",
                )
        for task_id in scheduler.state.queue.tasks:
            if task_id not in scheduler.state.tasks:
                self.complain(
                    "who waits is in the queue", f"{scheduler.name}: {task_id}"
                )
        reserved: dict[int, int] = {}
        for place in scheduler.state.reserved.values():
            key = id(place.slots)
            reserved[key] = reserved.get(key, 0) + 1
        for name, host in scheduler.state.fleet.hosts.items():
            for what, one in host.slots.items():
                counted = (one.in_flight, one.reserved)
                real = (slots.get(id(one), 0), reserved.get(id(one), 0))
                if counted != real:
                    self.complain(
                        "slots are counted right",
                        f"{scheduler.name}: {what} of {name} has {counted} in flight and "
                        f"reserved, it is {real}",
                    )
        indexed = {
            host: set(found) for host, found in scheduler.state.on_host.items() if found
        }
        if indexed != on_host:
            self.complain(
                "who runs where is known", f"{scheduler.name}: {indexed} for {on_host}"
            )
        for group in scheduler.state.queue.groups.values():
            if group.count != sum(1 for _ in group):
                self.complain(
                    "groups are counted right", f"{scheduler.name}: {group.count}"
                )

    def told(self, scheduler: Scheduler, state: HostState) -> None:
        """Every host knows the shared endpoints, and the scheduler what it has."""
        if set(state.shared) != set(scheduler.state.shared):
            self.complain(
                "every host knows the shared endpoints",
                f"{state.host}: {sorted(state.shared)} for {sorted(scheduler.state.shared)}",
            )
        known = scheduler.state.fleet.hosts[state.host].endpoints
        real = {name for name, each in state.endpoints.items() if each.up}
        shown = {name for name, place in known.items() if place.up}
        if real != shown:
            self.complain(
                "what a host offers is known",
                f"{state.host}: {sorted(shown)} for {sorted(real)}",
            )

    def _acceptance(self, scheduler: Scheduler, *, able: bool) -> None:
        """No acceptance in time: the route is taken back, as soon as anybody can."""
        patience = scheduler.state.policy.accept_timeout_s + ACCEPTANCE_LEEWAY
        for task_id, live in scheduler.state.tasks.items():
            state = live.task
            if state.phase != "routed" or not able:
                self._unaccepted.pop((id(scheduler), task_id), None)
                continue
            key = (id(scheduler), task_id)
            # Whatever is written about it upsets a decision that is on its way.
            stands = f"{state.route} {state.last_seq}"
            seen, since = self._unaccepted.get(key, ("", 0.0))
            if seen != stands:
                self._unaccepted[key] = (stands, scheduler.state.now)
            elif scheduler.state.now - since > patience and not live.deciding:
                self.complain(
                    "what nobody accepts is taken back",
                    f"{scheduler.name}: {task_id} on {state.host} for {scheduler.state.now - since} s",
                )

    def _alerts(self, scheduler: Scheduler, *, able: bool) -> None:
        """An outage that lasts is alerted, as soon as anybody can."""
        for tier, watch in scheduler.state.tiers.items():
            since, key = watch.down_since, (id(scheduler), tier)
            late = able and since is not None and not watch.alerted
            if not late or tier in scheduler.state.tier_pending or since is None:
                self._unalerted.pop(key, None)
                continue
            if scheduler.state.now < scheduler.state.time.after(
                since, scheduler.state.policy.tier_alert_after_s
            ):
                self._unalerted.pop(key, None)
                continue
            first = self._unalerted.setdefault(key, scheduler.state.now)
            if scheduler.state.now - first > ALERT_LEEWAY:
                self.complain(
                    "an outage that lasts is alerted",
                    f"{scheduler.name}: {tier} is down since {scheduler.state.now - since:.1f} s",
                )

    def left_over(self, scheduler: Scheduler) -> None:
        """A leader at rest has nothing reserved, pending or waiting to be done."""
        state, lead = scheduler.state, scheduler.leadership
        left = {
            "ended": state.ended,
            "reserved": state.reserved,
            "escalated": state.escalated,
            "suspects": state.suspects,
            "unmet": state.unmet,
            "held": state.held.tasks,
            "followers": state.held.followers,
            "firings": state.schedules.firings,
            "replaced": state.schedules.replaced,
            "outcomes": state.held.outcomes,
            "arrived": state.arrived,
            "limits": lead.limits if lead is not None else [],
        }
        for what, found in left.items():
            if found:
                self.complain("at rest nothing is left over", f"{what}: {found}")

    def booked(self) -> None:
        """What runs of Claude said they cost, a lost run's rounds too, is in the books."""
        whole = 0.0
        for task_id, account in self.accounts.items():
            told: dict[str, float] = dict(account.bills)
            for (route, _), usd in account.rounds.items():
                if route not in account.bills:
                    told[route] = told.get(route, 0.0) + usd
            record = self.read.tasks.find(task_id)
            shown = record.spent.usd_nano / 1e9 if record is not None else 0.0
            whole += shown
            if abs(sum(told.values()) - shown) > 1e-6:
                self.complain(
                    "what a run cost is in the books", f"{task_id}: {shown} for {told}"
                )
        total = self.read.costs.total.usd_nano / 1e9
        if abs(total - whole) > 1e-6:
            self.complain("what a run cost is in the books", f"{total} for {whole}")

    def same(self, scheduler: Scheduler, log: list[Recorded]) -> None:
        """Compare a scheduler with two fresh ones that fold the log from its start."""
        first, second = refolded(log), refolded(log)
        if first != second:
            self.complain("replaying twice gives the same", _differ(first, second))
        live = signature(scheduler)
        if live != first:
            self.complain(
                "what a scheduler knows is what the log says",
                f"{scheduler.name}: {_differ(live, first)}",
            )
        shown = {
            name: (instant(one.cursor), one.paused, one.cron, one.tz, one.overlap)
            for name, one in self.read.schedules.by_name.items()
        }
        kept = {
            name: (one.cursor, one.paused, rule.cron, rule.tz, rule.overlap)
            for name, one in scheduler.state.schedules.by_name.items()
            for rule in (one.rule,)
        }
        if shown != kept:
            self.complain("read side and write side agree", f"schedules: {shown}")
        for task_id, state in self.states.items():
            known = scheduler.state.tasks.get(task_id)
            if state.phase in FINAL:
                if known is not None:
                    self.complain(
                        "what is over is let go", f"{scheduler.name}: {task_id}"
                    )
            elif known is None or known.task != state:
                said = known.task if known is not None else None
                self.complain(
                    "what a scheduler knows is what the log says",
                    f"{scheduler.name}: {task_id} is {said}, the log says {state}",
                )


def refolded(log: list[Recorded]) -> dict[str, Any]:
    """Fold a log with a fresh scheduler, as a standby that starts now."""
    ids = iter(range(1_000_000))
    scheduler = Scheduler("fresh", lambda: f"F{next(ids)}")
    by_task: dict[str, list[Recorded]] = {}
    for recorded in log:
        place = subjects.parse(recorded.subject)
        if place.task:
            by_task.setdefault(place.task, []).append(recorded)
        scheduler.fold(recorded)
        wanted, scheduler.effects = scheduler.effects, []
        for effect in wanted:
            if isinstance(effect, HistoryNeeded):
                scheduler.adopt(effect.task_id, list(by_task[effect.task_id]))
    return signature(scheduler)


def signature(scheduler: Scheduler) -> dict[str, Any]:
    """Everything a scheduler knows from the log alone, comparable."""
    found: dict[str, Any] = {
        "position": scheduler.state.position,
        "epoch": scheduler.state.epochs.current,
        "policy": (scheduler.state.policy_version, scheduler.state.policy),
        "shared": sorted(scheduler.state.shared),
        "escalated": sorted(scheduler.state.escalated),
        "suspects": scheduler.state.suspects,
        "firings": sorted(scheduler.state.schedules.firings),
        "carried out": scheduler.state.schedules.carried_out,
        "schedules": {
            name: (one.cursor, one.paused, one.last_task, one.since, one.earlier)
            for name, one in scheduler.state.schedules.by_name.items()
        },
    }
    for task_id, live in scheduler.state.tasks.items():
        routed = live.routed.id if live.routed is not None else ""
        found[f"task {task_id}"] = (live.task, live.base, live.lane, routed)
        waiting = scheduler.state.queue.tasks.get(task_id)
        if waiting is not None:
            found[f"queue {task_id}"] = (
                waiting.requirement, waiting.lane, waiting.seq, waiting.since,
            )  # fmt: skip
    for name, host in scheduler.state.fleet.hosts.items():
        found[f"host {name}"] = (
            host.incarnation, host.present, host.lost, host.draining,
            host.capabilities, host.repos,
        )  # fmt: skip
        for what, slots in host.slots.items():
            found[f"slots {name} {what}"] = (slots.total, slots.in_flight)
        for endpoint, place in host.endpoints.items():
            found[f"endpoint {name} {endpoint}"] = (
                place.up, place.models, place.loaded, place.kind,
            )  # fmt: skip
    for tier, watch in scheduler.state.tiers.items():
        found[f"tier {tier}"] = (
            watch.down_since, watch.alerted, watch.limited_until, watch.limited_for,
            watch.budget_told,
        )  # fmt: skip
    return found


def _rank(live: LiveTask, now: float, ageing: float) -> tuple[int, int]:
    state = live.task
    waited = max(0.0, now - live.since)
    return max(0, live.lane - int(waited // ageing)), state.submitted_seq


def _differ(one: dict[str, Any], other: dict[str, Any]) -> str:
    said = [
        f"{key}: {one.get(key)} against {other.get(key)}"
        for key in sorted(set(one) | set(other))
        if one.get(key) != other.get(key)
    ]
    return "; ".join(said[:4])
