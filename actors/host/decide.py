"""What one machine accepts, runs and reports: the host actor's decisions.

`decide(command, state, now, new_id)` says what follows from a command, as facts and
effects (`actors.host.messages`); `actors.host.state.evolve` folds the facts. Nothing here
touches disk, network or processes: the sidecar does (`sidecar.host`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from actors.host import messages as msg
from actors.host.outcomes import Finished, Returned, Stopped
from actors.host.state import HOLDING, runs_held, slot_of
from events import catalogue as c
from events import mail
from events.codec import instant, rfc3339
from events.errors import Malformed, shown
from events.lifecycle import UNSUITED

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.host.messages import Effect, HostCommand, HostDecision, Note
    from actors.host.state import HeldRun, HostState

_OK = mail.Reply(ok=True)


def decide(
    command: HostCommand, state: HostState, now: float, new_id: Callable[[], str]
) -> HostDecision:
    """Say what follows from a command; `now` in Unix seconds."""
    return _Decider(state, now, new_id).decide(command)


class _Decider:
    """One decision in the making: what every branch needs, held together."""

    def __init__(self, state: HostState, now: float, new_id: Callable[[], str]) -> None:
        self.state = state
        self.now = now
        self.new_id = new_id
        self.decision = msg.HostDecision()

    def decide(self, command: HostCommand) -> HostDecision:
        match command:
            case mail.Assign():
                self.assign(command)
            case msg.Persisted():
                self.persisted(command)
            case msg.Began():
                self.began(command)
            case msg.RunEnded():
                self.ended(command)
            case msg.Reported():
                self.reported(command)
            case mail.Cancel():
                self.cancel(command)
            case mail.Drain():
                self.drain(command)
            case mail.Resume():
                self.resume(command)
            case mail.Rejoin():
                self.rejoin(command)
            case mail.Evict():
                self.evict(command)
            case mail.UseEndpoints():
                self.use_endpoints(command)
            case mail.Inspect():
                self.answer(True, info=_view(self.state))
            case msg.Recovered():
                self.fact(msg.Holding(command.assign, command.phase))
            case msg.NotPersisted():
                self.not_persisted(command)
            case msg.Preparing():
                self.announce(command.route)
            case msg.JournalState():
                if command.fault != self.state.journal_fault:
                    self.fact(command)
            case msg.ResultsLeft():
                self.fact(command)
            case msg.Join():
                self.join()
            case msg.Announced():
                self.announced(command)
            case msg.EndpointProbed():
                self.endpoint_probed(command.state)
            case msg.Leave():
                self.leave(command)
            case msg.HandBack():
                self.hand_back()
            case msg.Left():
                self.host_event(c.HostLeft, reason=command.reason)
            case _:
                assert_never(command)
        return self.decision

    # -- assignments

    def assign(self, assign: mail.Assign) -> None:
        state = self.state
        if self.stale(assign.epoch) or self.for_another(assign.incarnation):
            return
        route = assign.route
        run = state.runs.get(route)
        if run is None and (refused := state.done.get(route)) is not None:
            self.answer(not refused, refused, "this route has ended here")
            return
        if run is not None and run.phase != "recovered":
            self.answer(True, detail="already here")
            return
        slot = slot_of(assign)
        if refusal := self.refusal(assign, slot):
            reason, detail, holders = refusal
            self.run_event(
                c.TaskRejected, assign, reason=reason, detail=detail, holders=holders
            )
            if run is None:
                self.fact(msg.Gone(route, reason))
            self.answer(False, reason, detail)
            return
        older = state.by_task.get(assign.task_id)
        if older is not None and older != route:
            self.supersede(older)
        if run is not None:
            self.start(assign)
            self.answer(True)
            return
        self.fact(msg.Holding(assign, "reserved"))
        self.effect(msg.Persist(assign))

    def refusal(
        self, assign: mail.Assign, slot: str
    ) -> tuple[str, str, list[str]] | None:
        """Return why this host does not take it: reason, detail, who holds the slots."""
        state = self.state
        if state.draining or state.leaving:
            return "draining", "this host takes no more work", []
        if state.journal_fault:
            return "journal", state.journal_fault, []
        if assign.target_type not in state.about.targets:
            kinds = ", ".join(sorted(state.about.targets)) or "nothing"
            detail = f"this host runs {kinds}, not {assign.target_type}"
            return "unknown_target", detail, []
        total = state.slots.get(slot)
        if total is None:
            return "unknown_target", f"this host has no endpoint {shown(slot)}", []
        lent = sum(
            run.slot == slot and run.phase in HOLDING
            for run in map(state.runs.get, assign.lent)
            if run is not None
        )
        if state.used.get(slot, 0) - lent < total:
            return None
        holders = [
            run.assign.task_id
            for run in state.runs.values()
            if run.slot == slot and run.phase in HOLDING
        ]
        held_by = ", ".join(holders[:4]) or "none, there are no such slots"
        return "busy", f"all {total} {slot} slots are taken ({held_by})", holders[:64]

    def supersede(self, older: str) -> None:
        """End or return what an older route of the same task has left here."""
        run = self.state.runs.get(older)
        if run is None or run.wish:
            return
        if run.phase in ("recovered", "interrupted"):
            self.give_back(run, "interrupted", "the task came anew")
        elif run.phase in HOLDING:
            self.fact(msg.Wished(older, "cancel"))
            self.effect(msg.StopRun(older, "superseded by a newer route"))

    def start(self, assign: mail.Assign) -> None:
        self.fact(msg.Ready(assign.route, rfc3339(self.now)))
        self.effect(msg.Start(assign))

    def announce(self, route: str) -> None:
        """Say by itself that a run is accepted, where its start has not said it."""
        run = self.state.runs.get(route)
        if run is not None and run.phase == "accepted" and not run.announced:
            self.run_event(c.TaskAccepted, run.assign)

    def persisted(self, command: msg.Persisted) -> None:
        run = self.state.runs.get(command.route)
        if run is None or run.phase != "reserved":
            return
        self.effect(msg.Respond(_OK, command.route))
        self.start_if_wanted(run, "it had not started")

    def start_if_wanted(self, run: HeldRun, detail: str) -> None:
        """Start a run, unless it was asked to end; `detail` then says how far it was."""
        if run.wish == "cancel":
            self.run_event(c.TaskStopped, run.assign)
        elif run.wish == "drain":
            self.give_back(run, "draining", detail)
        else:
            self.start(run.assign)

    def not_persisted(self, command: msg.NotPersisted) -> None:
        run = self.state.runs.get(command.route)
        if run is None or run.phase != "reserved":
            return
        self.run_event(
            c.TaskRejected, run.assign, reason="journal", detail=command.reason
        )
        self.fact(msg.Gone(command.route, "journal"))
        reply = mail.Reply(ok=False, code="journal", detail=command.reason)
        self.effect(msg.Respond(reply, command.route))

    def began(self, command: msg.Began) -> None:
        run = self.state.runs.get(command.route)
        if run is None or run.phase != "accepted":
            return
        self.run_event(
            c.TaskStarted,
            run.assign,
            accepted_at="" if run.announced else run.accepted_at,
            executor=command.executor,
            endpoint=run.assign.endpoint,
            model=run.assign.model,
            simulated=command.simulated,
            cwd=command.cwd,
            env=command.env,
        )

    def ended(self, command: msg.RunEnded) -> None:
        run = self.state.runs.get(command.route)
        if run is None or run.phase not in HOLDING:
            return
        self.announce(command.route)
        assign, outcome = run.assign, command.outcome
        result = outcome.result
        if run.wish == "cancel":
            left = outcome.descendants_left if isinstance(outcome, Stopped) else 0
            self.run_event(c.TaskStopped, assign, result=result, descendants_left=left)
            return
        match outcome:
            case Finished():
                good = outcome.result.status == "success"
                self.run_event(
                    c.TaskCompleted if good else c.TaskFailed,
                    assign,
                    result=result,
                    late=self.late(assign.spec),
                )
            case Returned():
                until = outcome.limited_until
                self.run_event(
                    c.TaskReturned,
                    assign,
                    reason=outcome.reason,
                    detail=outcome.detail,
                    exclude=outcome.exclude,
                    limited_until=None if until is None else rfc3339(until),
                    result=result,
                    unsuited=_is_unsuited(assign, outcome),
                )
            case Stopped():
                reason = "draining" if run.wish == "drain" else "interrupted"
                self.give_back(run, reason, "it was ended", result)
            case _:
                assert_never(outcome)

    def late(self, spec: c.TaskSpec) -> bool:
        if spec.deadline is None:
            return False
        try:
            return self.now > instant(spec.deadline, "deadline")
        except Malformed:
            return False

    def give_back(
        self,
        run: HeldRun,
        reason: str,
        detail: str,
        result: c.Result | None = None,
    ) -> None:
        self.run_event(
            c.TaskReturned, run.assign, reason=reason, detail=detail, result=result
        )

    def reported(self, command: msg.Reported) -> None:
        run = self.state.runs.get(command.route)
        if run is not None and run.phase == "finished":
            self.fact(msg.Gone(command.route))
            self.effect(msg.Forget(command.route))

    # -- the rest of the mail

    def cancel(self, command: mail.Cancel) -> None:
        if self.stale(command.epoch):
            return
        state = self.state
        route = command.route or state.by_task.get(command.task_id, "")
        run = state.runs.get(route)
        if run is None:
            if route and route in state.done:
                self.answer(True, detail="it has ended already")
            else:
                self.answer(False, "unknown_route", "nothing of the kind runs here")
            return
        self.answer(True)
        if run.phase in ("recovered", "interrupted"):
            self.run_event(c.TaskStopped, run.assign)
        elif run.phase in HOLDING and run.wish != "cancel":
            self.fact(msg.Wished(route, "cancel"))
            self.effect(msg.StopRun(route, command.reason or "cancelled"))

    def drain(self, command: mail.Drain) -> None:
        if not self.next_drain_version(command):
            return
        if not self.state.draining:
            self.host_event(c.HostDraining, reason=command.reason)
        self.answer(True)

    def resume(self, command: mail.Resume) -> None:
        if self.state.leaving:
            self.answer(False, "leaving", "this host is about to end")
            return
        if not self.next_drain_version(command):
            return
        if self.state.draining:
            self.host_event(c.HostResumed)
        self.effect(msg.LookAgain())
        self.answer(True)

    def next_drain_version(self, command: mail.DrainOrResume) -> bool:
        """Count this command, unless another has come since its sender looked."""
        if command.epoch and self.stale(command.epoch):
            return False
        now = (self.state.incarnation, self.state.drain_version)
        # An older gateway does not look before it sends, and names no incarnation.
        if command.incarnation and (command.incarnation, command.version) != now:
            self.answer(False, "conflict", "it was drained or resumed since")
            return False
        self.fact(msg.DrainVersion(self.state.drain_version + 1))
        return True

    def rejoin(self, command: mail.Rejoin) -> None:
        if self.stale(command.epoch):
            return
        state = self.state
        self.answer(True, info={"incarnation": state.incarnation})
        if not state.joined or state.announcing:
            return
        if command.incarnation == state.incarnation:
            self.host_event(c.HostRecovered, held=runs_held(state))
        else:
            self.host_joined()

    def evict(self, command: mail.Evict) -> None:
        if self.stale(command.epoch) or self.for_another(command.incarnation):
            return
        self.answer(True)
        if not self.state.leaving:
            self.effect(msg.End(command.reason or "another process is this host"))

    def for_another(self, incarnation: str) -> bool:
        """Refuse what is meant for another process that is, or was, this host."""
        if incarnation in ("", self.state.incarnation):
            return False
        detail = f"it is for {incarnation}, this is {self.state.incarnation}"
        self.answer(False, "other_incarnation", detail)
        return True

    def use_endpoints(self, command: mail.UseEndpoints) -> None:
        if self.stale(command.epoch):
            return
        if command.as_of < self.state.shared_as_of:
            self.answer(True, detail="a newer list has come")
            return
        self.fact(msg.ListSeen(command.as_of))
        own = self.state.slots.keys() - self.state.shared.keys()
        shared = [each for each in command.endpoints if each.endpoint not in own]
        self.answer(True)
        if {each.endpoint: each for each in shared} != self.state.shared:
            self.fact(msg.SharedChanged(shared))
            self.effect(msg.Watch(shared))

    # -- presence and endpoints

    def join(self) -> None:
        self.host_joined()
        for run in self.state.runs.values():
            if run.phase == "continuing":
                self.start_if_wanted(run, "it had not gone on")

    def host_joined(self) -> None:
        state, about = self.state, self.state.about
        self.host_event(
            c.HostJoined,
            version=about.version,
            platform=about.platform,
            slots=state.kinds,
            capabilities=about.capabilities,
            repos=about.repos,
            clones=about.clones,
            default_repo=about.default_repo,
            endpoints=list(state.endpoints.values()),
            ram_bytes=about.ram_bytes,
            held=runs_held(state),
            draining=state.draining,
            journal_lost=about.journal_lost,
            verifies=about.verifies,
        )

    def announced(self, command: msg.Announced) -> None:
        self.fact(command)
        for run in self.state.runs.values():
            if run.phase == "interrupted":
                self.give_back(run, "interrupted", "the host was restarted")

    def endpoint_probed(self, now: c.EndpointState) -> None:
        before = self.state.endpoints.get(now.endpoint)
        if not self.state.joined:
            self.fact(msg.EndpointKnown(now))
        elif now.up:
            if before is None or not before.up:
                self.host_event(c.EndpointUp, state=now)
            elif before != now:
                self.host_event(c.EndpointChanged, state=now)
        elif before is None or before.up:
            self.host_event(
                c.EndpointDown,
                endpoint=now.endpoint,
                kind=now.kind,
                reason=now.reason,
                again_at=now.again_at,
            )

    def leave(self, command: msg.Leave) -> None:
        self.fact(msg.Leaving())
        if not self.state.draining and self.state.joined:
            self.host_event(c.HostDraining, reason=command.reason)

    def hand_back(self) -> None:
        for route, run in self.state.runs.items():
            if run.phase in HOLDING and not run.wish:
                self.fact(msg.Wished(route, "drain"))
                self.effect(msg.StopRun(route, "draining"))

    # -- what every branch uses

    def stale(self, epoch: int) -> bool:
        """Refuse a deposed leader; take note of a new one."""
        if epoch < self.state.epoch:
            detail = f"epoch {self.state.epoch} has spoken, this is {epoch}"
            self.answer(False, "stale_epoch", detail)
            return True
        if epoch > self.state.epoch:
            self.fact(msg.EpochSeen(epoch))
            self.effect(msg.RememberEpoch(epoch))
        return False

    def answer(
        self,
        ok: bool,
        code: str = "",
        detail: str = "",
        info: dict[str, object] | None = None,
    ) -> None:
        reply = mail.Reply(ok=ok, code=code, detail=detail, info=info or {})
        self.effect(msg.Respond(reply))

    def fact(self, fact: c.Event | Note) -> None:
        self.decision.facts.append(fact)

    def effect(self, effect: Effect) -> None:
        self.decision.effects.append(effect)

    def host_event(
        self, kind: type[c.HostEvent] | type[c.RunEvent], /, **fields: Any
    ) -> None:
        """Say what happened to the host."""
        state = self.state
        self.fact(
            kind(
                id=self.new_id(),
                at=rfc3339(self.now),
                by="host:" + state.host,
                host=state.host,
                incarnation=state.incarnation,
                **fields,
            )
        )

    def run_event(
        self, kind: type[c.RunEvent], assign: mail.Assign, /, **fields: Any
    ) -> None:
        """Say what happened to a run."""
        self.host_event(
            kind,
            task_id=assign.task_id,
            route=assign.route,
            generation=assign.generation,
            attempt=assign.attempt,
            **fields,
        )


def _view(state: HostState) -> dict[str, Any]:
    """Show a host to whoever inspects it."""
    return {
        "host": state.host,
        "incarnation": state.incarnation,
        "epoch": state.epoch,
        "draining": state.draining,
        "turns": state.drain_version,  # a name from before; gateways read it
        "journal_fault": state.journal_fault,
        "slots": dict(state.slots),
        "used": {slot: used for slot, used in state.used.items() if used},
        "held": [
            {"task_id": each.task_id, "route": each.route, "phase": each.phase}
            for each in runs_held(state)
        ],
        "endpoints": {name: each.up for name, each in state.endpoints.items()},
        "results_left": state.results_left,
    }


def _is_unsuited(assign: mail.Assign, outcome: Returned[c.Result]) -> bool:
    """Whether this place could do nothing about a run, and another one may.

    Where there is no other place its runs are attempts, so that they end.
    """
    if outcome.reason not in UNSUITED or assign.last_resort:
        return False
    result = outcome.result
    return result is None or not (
        result.tokens_out or result.output or result.estimated_cost_usd
    )
