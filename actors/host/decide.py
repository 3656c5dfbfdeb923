"""The host: which runs a machine holds, in which slots, and what it answers to mail.

`decide(command, state, now, new_id)` says what follows, `evolve(state, fact)` what is
true afterwards. A fact is an event for the log, or a note that concerns this machine
alone (a slot reserved, an epoch seen). Effects are carried out by the sidecar: answer,
persist, start, stop, forget. Nothing here touches disk, network or processes.

A run's way: reserved (the journal is writing), accepted, running, finished (its last
event is on its way to the log), gone. After a restart a run comes back as recovered (it
never started: an `Assign` for the same route starts it), interrupted (it had started:
it is returned once the log knows this incarnation) or continuing (it goes on where it
was, as soon as the host has joined: an agent's work outlives the sidecar). A slot is taken from reserved until
the run's processes are gone; the journal's row stays until the log has acknowledged the
run's last event.

The state is kept in place, not copied: at thousands of tasks a second a fresh dict per
event would be most of the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, assert_never

from msgspec import Struct, field

from actors.host.outcomes import Finished, Outcome, Returned, Stopped
from events import catalogue as cat
from events import commands as mail
from events.codec import instant, rfc3339
from events.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Callable

REMEMBERED = 8_192
"""How many finished routes a host knows by heart, to answer a late repeat."""

Phase = Literal[
    "reserved",
    "accepted",
    "running",
    "recovered",
    "interrupted",
    "continuing",
    "finished",
]
_HOLDING: frozenset[str] = frozenset({"reserved", "accepted", "running", "continuing"})
_SHOWN: dict[str, Literal["accepted", "running", "interrupted", "finished"]] = {
    "accepted": "accepted",
    "running": "running",
    "recovered": "accepted",
    "interrupted": "interrupted",
    "continuing": "running",
    "finished": "finished",
}

_Fields = dict[str, Any]

Wish = Literal["", "cancel", "drain"]
"""Why a run was asked to end."""


# -- State -----------------------------------------------------------------------------


class About(Struct, frozen=True, kw_only=True):
    """What a host says of itself when it joins, and what it could run."""

    version: str
    platform: str = ""
    capabilities: list[str] = []
    repos: list[str] = []
    default_repo: str | None = None
    ram_bytes: int | None = None
    targets: frozenset[str] = frozenset({"sidecar"})


class HeldRun(Struct):
    """A run on this machine. `wish` is set once it has been asked to end."""

    assign: mail.Assign
    slot: str
    phase: Phase
    wish: Wish = ""


class HostState(Struct, kw_only=True):
    """A host in one life of its process.

    `slots` and `used` are counted per kind (shell, claude, agent, noop) and per model
    endpoint by name. `done` maps the last routes that ended here to how they were
    refused, "" for those that ran. `journal_fault` says why nothing can be persisted.
    `turns` counts what this life was told of draining and resuming, by which it knows a
    word that comes late.
    """

    host: str
    incarnation: str
    about: About
    kinds: dict[str, int]
    slots: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    runs: dict[str, HeldRun] = field(default_factory=dict)
    by_task: dict[str, str] = field(default_factory=dict)
    done: dict[str, str] = field(default_factory=dict)
    endpoints: dict[str, cat.EndpointState] = field(default_factory=dict)
    shared: dict[str, mail.SharedEndpoint] = field(default_factory=dict)
    shared_as_of: int = 0
    epoch: int = 0
    draining: bool = False
    turns: int = 0
    leaving: bool = False
    joined: bool = False
    announcing: bool = False
    journal_fault: str = ""
    results_left: int = 0


def initial(
    host: str,
    incarnation: str,
    about: About,
    slots: dict[str, int],
    endpoints: dict[str, int] | None = None,
) -> HostState:
    """Make a host that holds nothing. `endpoints` maps its own endpoints to slots."""
    return HostState(
        host=host,
        incarnation=incarnation,
        about=about,
        kinds=dict(slots),
        slots={**slots, **(endpoints or {})},
    )


def held(state: HostState) -> list[cat.Held]:
    """List what this host holds, as beats and joining say it."""
    return [
        cat.Held(run.assign.task_id, route, _SHOWN[run.phase])
        for route, run in state.runs.items()
        if run.phase != "reserved"
    ]


def busy(state: HostState) -> int:
    """Count the runs that hold a slot."""
    return sum(state.used.values())


def slot_of(assign: mail.Assign) -> str:
    """Name the slot an assignment takes: its kind, or its model endpoint."""
    match assign.target_type:
        case "sidecar":
            return "shell"
        case "ollama" | "openai":
            return assign.endpoint
        case "claude" | "agent" | "noop":
            return assign.target_type
        case _:
            assert_never(assign.target_type)


# -- Commands: what happens to a host, beside its mail ---------------------------------


class Recovered(Struct, frozen=True):
    """The journal holds this from an earlier life."""

    assign: mail.Assign
    phase: Literal["recovered", "interrupted", "continuing", "finished"]


class Persisted(Struct, frozen=True):
    """The assignment is on the disk."""

    route: str


class NotPersisted(Struct, frozen=True):
    """The assignment could not be written."""

    route: str
    reason: str


class JournalState(Struct, frozen=True):
    """The journal fails, and why; or works again (empty)."""

    fault: str


class ResultsLeft(Struct, frozen=True):
    """So many results of agents lie here for tasks that are not at work here."""

    count: int


class Began(Struct, frozen=True):
    """The executor is about to run."""

    route: str
    executor: str
    simulated: bool = False


class Ended(Struct, frozen=True):
    """A run is over and no process of it is left."""

    route: str
    outcome: Outcome[cat.Result]


class Reported(Struct, frozen=True):
    """The log has acknowledged the run's last event."""

    route: str


class Join(Struct, frozen=True):
    """Say who is here."""


class Announced(Struct, frozen=True):
    """The log has acknowledged that this host joined or recovered."""


class EndpointFound(Struct, frozen=True):
    """An endpoint answers, as described."""

    state: cat.EndpointState


class EndpointGone(Struct, frozen=True):
    """An endpoint does not answer. `state` describes it, its `reason` says why."""

    state: cat.EndpointState


class Leave(Struct, frozen=True):
    """This process is to end: take nothing more."""

    reason: str


class HandBack(Struct, frozen=True):
    """The time to finish is over: return what still runs."""


class Left(Struct, frozen=True):
    """Everything has ended; say goodbye."""

    reason: str


HostCommand = (
    mail.HostMail
    | Recovered
    | Persisted
    | NotPersisted
    | JournalState
    | ResultsLeft
    | Began
    | Ended
    | Reported
    | Join
    | Announced
    | EndpointFound
    | EndpointGone
    | Leave
    | HandBack
    | Left
)


# -- Notes: facts that concern this machine alone --------------------------------------


class Holding(Struct, frozen=True):
    """A run is in this phase here; from reserved on it takes its slot."""

    assign: mail.Assign
    phase: Phase


class Wished(Struct, frozen=True):
    """A run was asked to end."""

    route: str
    wish: Wish


class Gone(Struct, frozen=True):
    """A run is no longer held. `refused` is how it was, where it never ran."""

    route: str
    refused: str = ""


class EpochSeen(Struct, frozen=True):
    """A leader of this epoch has spoken."""

    epoch: int


class Sharing(Struct, frozen=True):
    """These are the shared endpoints now."""

    endpoints: list[mail.SharedEndpoint]


class ListSeen(Struct, frozen=True):
    """The list of shared endpoints is known as of this place in the log."""

    as_of: int


class Turned(Struct, frozen=True):
    """This host was told to drain or to resume, so often now."""

    turns: int


class EndpointKnown(Struct, frozen=True):
    """What is known of an endpoint before the host has joined."""

    state: cat.EndpointState


class Journal(Struct, frozen=True):
    """The journal fails, or works (empty)."""

    fault: str


class LeftLying(Struct, frozen=True):
    """So many results lie here that nobody asked for."""

    count: int


class Leaving(Struct, frozen=True):
    """This life is coming to its end."""


class WasAnnounced(Struct, frozen=True):
    """The log knows that this host is here."""


Note = (
    Holding
    | Wished
    | Gone
    | EpochSeen
    | Sharing
    | ListSeen
    | Turned
    | EndpointKnown
    | Journal
    | LeftLying
    | Leaving
    | WasAnnounced
)


# -- Effects: what the sidecar is to do ------------------------------------------------


class Answer(Struct, frozen=True):
    """Answer the mail that was decided on, or the waiting assignment of `route`."""

    reply: mail.Reply
    route: str = ""


class Persist(Struct, frozen=True):
    """Write the assignment to the journal, then say Persisted or NotPersisted."""

    assign: mail.Assign


class Start(Struct, frozen=True):
    """Run it."""

    assign: mail.Assign


class StopRun(Struct, frozen=True):
    """Ask the run to end."""

    route: str
    reason: str


class Forget(Struct, frozen=True):
    """Take the run out of the journal."""

    route: str


class RememberEpoch(Struct, frozen=True):
    """Write the highest epoch to the journal."""

    epoch: int


class Watch(Struct, frozen=True):
    """Probe these shared endpoints, and no other shared ones."""

    endpoints: list[mail.SharedEndpoint]


Effect = Answer | Persist | Start | StopRun | Forget | RememberEpoch | Watch


class Decision(Struct):
    """What follows: facts, in order (the events among them go to the log), effects."""

    facts: list[cat.Event | Note] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)


# -- Decide ----------------------------------------------------------------------------

_OK = mail.Reply(ok=True)


def decide(
    command: HostCommand, state: HostState, now: float, new_id: Callable[[], str]
) -> Decision:
    """Say what follows from a command; `now` in epoch seconds."""
    return _Decider(state, now, new_id).decide(command)


class _Decider:
    """One decision in the making: what every branch needs, held together."""

    def __init__(self, state: HostState, now: float, new_id: Callable[[], str]) -> None:
        self.state = state
        self.now = now
        self.new_id = new_id
        self.made = Decision()

    def decide(self, command: HostCommand) -> Decision:
        match command:
            case mail.Assign():
                self.assign(command)
            case Persisted():
                self.persisted(command)
            case Began():
                self.began(command)
            case Ended():
                self.ended(command)
            case Reported():
                self.reported(command)
            case mail.Cancel():
                self.cancel(command)
            case mail.Drain():
                self.drain(command)
            case mail.Resume():
                self.resume(command)
            case mail.Rejoin():
                self.rejoin(command)
            case mail.UseEndpoints():
                self.use_endpoints(command)
            case mail.Inspect():
                self.answer(True, info=_view(self.state))
            case Recovered():
                self.fact(Holding(command.assign, command.phase))
            case NotPersisted():
                self.not_persisted(command)
            case JournalState():
                if command.fault != self.state.journal_fault:
                    self.fact(Journal(command.fault))
            case ResultsLeft():
                self.fact(LeftLying(command.count))
            case Join():
                self.join()
            case Announced():
                self.announced()
            case EndpointFound():
                self.found(command.state)
            case EndpointGone():
                self.gone(command.state)
            case Leave():
                self.leave(command)
            case HandBack():
                self.hand_back()
            case Left():
                self.fact(cat.HostLeft(**self.mine(), reason=command.reason))
            case _:
                assert_never(command)
        return self.made

    # -- assignments

    def assign(self, assign: mail.Assign) -> None:
        state = self.state
        if self.stale(assign.epoch):
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
            self.fact(
                cat.TaskRejected(
                    **self.of(assign), reason=reason, detail=detail, holders=holders
                )
            )
            if run is None:
                self.fact(Gone(route, reason))
            self.answer(False, reason, detail)
            return
        older = state.by_task.get(assign.task_id)
        if older is not None and older != route:
            self.supersede(older)
        if run is not None:
            self.start(assign)
            self.answer(True)
            return
        self.fact(Holding(assign, "reserved"))
        self.effect(Persist(assign))

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
            return "unknown_target", f"this host has no endpoint {slot!r}", []
        if state.used.get(slot, 0) < total:
            return None
        holders = [
            run.assign.task_id
            for run in state.runs.values()
            if run.slot == slot and run.phase in _HOLDING
        ]
        shown = ", ".join(holders[:4]) or "none, there are no such slots"
        return "busy", f"all {total} {slot} slots are taken ({shown})", holders[:64]

    def supersede(self, older: str) -> None:
        """A task came anew: what an older route of it left here has no future."""
        run = self.state.runs.get(older)
        if run is None or run.wish:
            return
        if run.phase in ("recovered", "interrupted"):
            self.give_back(run, "interrupted", "the task came anew")
        elif run.phase in _HOLDING:
            self.fact(Wished(older, "cancel"))
            self.effect(StopRun(older, "superseded by a newer route"))

    def start(self, assign: mail.Assign) -> None:
        self.fact(cat.TaskAccepted(**self.of(assign)))
        self.effect(Start(assign))

    def persisted(self, command: Persisted) -> None:
        run = self.state.runs.get(command.route)
        if run is None or run.phase != "reserved":
            return
        self.effect(Answer(_OK, command.route))
        if run.wish == "cancel":
            self.fact(cat.TaskStopped(**self.of(run.assign)))
        elif run.wish == "drain":
            self.give_back(run, "draining", "it had not started")
        else:
            self.start(run.assign)

    def not_persisted(self, command: NotPersisted) -> None:
        run = self.state.runs.get(command.route)
        if run is None or run.phase != "reserved":
            return
        self.fact(
            cat.TaskRejected(
                **self.of(run.assign), reason="journal", detail=command.reason
            )
        )
        self.fact(Gone(command.route, "journal"))
        reply = mail.Reply(ok=False, code="journal", detail=command.reason)
        self.effect(Answer(reply, command.route))

    def began(self, command: Began) -> None:
        run = self.state.runs.get(command.route)
        if run is None or run.phase != "accepted":
            return
        self.fact(
            cat.TaskStarted(
                **self.of(run.assign),
                executor=command.executor,
                endpoint=run.assign.endpoint,
                model=run.assign.model,
                simulated=command.simulated,
            )
        )

    def ended(self, command: Ended) -> None:
        run = self.state.runs.get(command.route)
        if run is None or run.phase not in _HOLDING:
            return
        outcome, of = command.outcome, self.of(run.assign)
        if run.wish == "cancel":
            left = outcome.descendants_left if isinstance(outcome, Stopped) else 0
            self.fact(
                cat.TaskStopped(**of, result=outcome.result, descendants_left=left)
            )
            return
        match outcome:
            case Finished(result=result):
                kind = (
                    cat.TaskCompleted if result.status == "success" else cat.TaskFailed
                )
                self.fact(kind(**of, result=result, late=self.late(run.assign.spec)))
            case Returned():
                until = outcome.limited_until
                self.fact(
                    cat.TaskReturned(
                        **of,
                        reason=outcome.reason,
                        detail=outcome.detail,
                        exclude=outcome.exclude,
                        limited_until=None if until is None else rfc3339(until),
                        result=outcome.result,
                    )
                )
            case Stopped():
                reason = "draining" if run.wish == "drain" else "interrupted"
                self.give_back(run, reason, "it was ended", outcome.result)
            case _:
                assert_never(outcome)

    def late(self, spec: cat.TaskSpec) -> bool:
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
        result: cat.Result | None = None,
    ) -> None:
        self.fact(
            cat.TaskReturned(
                **self.of(run.assign), reason=reason, detail=detail, result=result
            )
        )

    def reported(self, command: Reported) -> None:
        run = self.state.runs.get(command.route)
        if run is not None and run.phase == "finished":
            self.fact(Gone(command.route))
            self.effect(Forget(command.route))

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
            self.fact(cat.TaskStopped(**self.of(run.assign)))
        elif run.phase in _HOLDING and run.wish != "cancel":
            self.fact(Wished(route, "cancel"))
            self.effect(StopRun(route, command.reason or "cancelled"))

    def drain(self, command: mail.Drain) -> None:
        if not self.turns(command):
            return
        if not self.state.draining:
            self.fact(cat.HostDraining(**self.mine(), reason=command.reason))
        self.answer(True)

    def resume(self, command: mail.Resume) -> None:
        if self.state.leaving:
            self.answer(False, "leaving", "this host is about to end")
            return
        if not self.turns(command):
            return
        if self.state.draining:
            self.fact(cat.HostResumed(**self.mine()))
        self.answer(True)

    def turns(self, command: mail.Turn) -> bool:
        """Take one more turn, unless another has come since the sender looked."""
        if command.epoch and self.stale(command.epoch):
            return False
        now = (self.state.incarnation, self.state.turns)
        # An older gateway does not look before it speaks, and names no life.
        if command.incarnation and (command.incarnation, command.turn) != now:
            self.answer(False, "conflict", "it was drained or resumed since")
            return False
        self.fact(Turned(self.state.turns + 1))
        return True

    def rejoin(self, command: mail.Rejoin) -> None:
        if self.stale(command.epoch):
            return
        state = self.state
        self.answer(True, info={"incarnation": state.incarnation})
        if not state.joined or state.announcing:
            return
        if command.incarnation == state.incarnation:
            self.fact(cat.HostRecovered(**self.mine(), held=held(state)))
        else:
            self.fact(self.joined())

    def use_endpoints(self, command: mail.UseEndpoints) -> None:
        if self.stale(command.epoch):
            return
        if command.as_of < self.state.shared_as_of:
            self.answer(True, detail="a newer list has come")
            return
        self.fact(ListSeen(command.as_of))
        own = self.state.slots.keys() - self.state.shared.keys()
        wanted = [each for each in command.endpoints if each.endpoint not in own]
        self.answer(True)
        if {each.endpoint: each for each in wanted} != self.state.shared:
            self.fact(Sharing(wanted))
            self.effect(Watch(wanted))

    # -- presence and endpoints

    def join(self) -> None:
        self.fact(self.joined())
        for run in self.state.runs.values():
            if run.phase != "continuing":
                continue
            if run.wish == "cancel":
                self.fact(cat.TaskStopped(**self.of(run.assign)))
            elif run.wish == "drain":
                self.give_back(run, "draining", "it had not gone on")
            else:
                self.start(run.assign)

    def joined(self) -> cat.HostJoined:
        state, about = self.state, self.state.about
        return cat.HostJoined(
            **self.mine(),
            version=about.version,
            platform=about.platform,
            slots=state.kinds,
            capabilities=about.capabilities,
            repos=about.repos,
            default_repo=about.default_repo,
            endpoints=list(state.endpoints.values()),
            ram_bytes=about.ram_bytes,
            held=held(state),
            draining=state.draining,
        )

    def announced(self) -> None:
        self.fact(WasAnnounced())
        for run in self.state.runs.values():
            if run.phase == "interrupted":
                self.give_back(run, "interrupted", "the host was restarted")

    def found(self, found: cat.EndpointState) -> None:
        known = self.state.endpoints.get(found.endpoint)
        if not self.state.joined:
            self.fact(EndpointKnown(found))
        elif known is None or not known.up:
            self.fact(cat.EndpointUp(**self.mine(), state=found))
        elif known != found:
            self.fact(cat.EndpointChanged(**self.mine(), state=found))

    def gone(self, gone: cat.EndpointState) -> None:
        known = self.state.endpoints.get(gone.endpoint)
        if not self.state.joined:
            self.fact(EndpointKnown(gone))
        elif known is None or known.up:
            self.fact(
                cat.EndpointDown(
                    **self.mine(),
                    endpoint=gone.endpoint,
                    kind=gone.kind,
                    reason=gone.reason,
                )
            )

    def leave(self, command: Leave) -> None:
        self.fact(Leaving())
        if not self.state.draining and self.state.joined:
            self.fact(cat.HostDraining(**self.mine(), reason=command.reason))

    def hand_back(self) -> None:
        for route, run in self.state.runs.items():
            if run.phase in _HOLDING and not run.wish:
                self.fact(Wished(route, "drain"))
                self.effect(StopRun(route, "draining"))

    # -- words

    def stale(self, epoch: int) -> bool:
        """Refuse a deposed leader; take note of a new one."""
        if epoch < self.state.epoch:
            seen = f"epoch {self.state.epoch} has spoken, this is {epoch}"
            self.answer(False, "stale_epoch", seen)
            return True
        if epoch > self.state.epoch:
            self.fact(EpochSeen(epoch))
            self.effect(RememberEpoch(epoch))
        return False

    def answer(
        self,
        ok: bool,
        code: str = "",
        detail: str = "",
        info: dict[str, object] | None = None,
    ) -> None:
        reply = mail.Reply(ok=ok, code=code, detail=detail, info=info or {})
        self.effect(Answer(reply))

    def fact(self, fact: cat.Event | Note) -> None:
        self.made.facts.append(fact)

    def effect(self, effect: Effect) -> None:
        self.made.effects.append(effect)

    def mine(self) -> _Fields:
        """Spell what every event of the host carries."""
        return {
            "id": self.new_id(),
            "at": rfc3339(self.now),
            "by": "host:" + self.state.host,
            "host": self.state.host,
            "incarnation": self.state.incarnation,
        }

    def of(self, assign: mail.Assign) -> _Fields:
        """Spell what every event of a run carries."""
        return {
            **self.mine(),
            "task_id": assign.task_id,
            "route": assign.route,
            "generation": assign.generation,
            "attempt": assign.attempt,
        }


def _view(state: HostState) -> dict[str, Any]:
    """Show a host to whoever inspects it."""
    return {
        "host": state.host,
        "incarnation": state.incarnation,
        "epoch": state.epoch,
        "draining": state.draining,
        "turns": state.turns,
        "journal_fault": state.journal_fault,
        "slots": dict(state.slots),
        "used": {slot: used for slot, used in state.used.items() if used},
        "held": [
            {"task_id": each.task_id, "route": each.route, "phase": each.phase}
            for each in held(state)
        ],
        "endpoints": {name: each.up for name, each in state.endpoints.items()},
        "results_left": state.results_left,
    }


# -- Evolve ----------------------------------------------------------------------------


def evolve(state: HostState, fact: cat.Event | Note) -> HostState:
    """Say what is true after a fact. Changes `state` in place and returns it."""
    match fact:
        case Holding():
            _hold(state, fact)
        case cat.TaskAccepted():
            _move(state, fact.route, "accepted")
        case cat.TaskStarted():
            _move(state, fact.route, "running")
        case (
            cat.TaskCompleted()
            | cat.TaskFailed()
            | cat.TaskReturned()
            | cat.TaskStopped()
            | cat.TaskRejected()
        ):
            _move(state, fact.route, "finished")
        case Gone():
            _let_go(state, fact)
        case Wished():
            if (run := state.runs.get(fact.route)) is not None:
                run.wish = fact.wish
        case EpochSeen():
            state.epoch = fact.epoch
        case Sharing():
            _share(state, fact.endpoints)
        case ListSeen():
            state.shared_as_of = fact.as_of
        case Turned():
            state.turns = fact.turns
        case EndpointKnown() | cat.EndpointUp() | cat.EndpointChanged():
            state.endpoints[fact.state.endpoint] = fact.state
        case cat.EndpointDown():
            state.endpoints[fact.endpoint] = cat.EndpointState(
                endpoint=fact.endpoint, kind=fact.kind, up=False, reason=fact.reason
            )
        case Journal():
            state.journal_fault = fact.fault
        case LeftLying():
            state.results_left = fact.count
        case Leaving():
            state.leaving = True
        case WasAnnounced():
            state.announcing = False
        case cat.HostJoined() | cat.HostRecovered():
            state.joined = state.announcing = True
        case cat.HostDraining():
            state.draining = True
        case cat.HostResumed():
            state.draining = False
        case _:
            pass
    return state


def _hold(state: HostState, fact: Holding) -> None:
    assign, slot = fact.assign, slot_of(fact.assign)
    state.runs[assign.route] = HeldRun(assign, slot, fact.phase)
    state.by_task[assign.task_id] = assign.route
    if fact.phase in _HOLDING:
        state.used[slot] = state.used.get(slot, 0) + 1


def _move(state: HostState, route: str, phase: Phase) -> None:
    run = state.runs.get(route)
    if run is None:
        return
    was, now = run.phase in _HOLDING, phase in _HOLDING
    run.phase = phase
    if was != now:
        state.used[run.slot] = state.used.get(run.slot, 0) + (1 if now else -1)


def _let_go(state: HostState, fact: Gone) -> None:
    _move(state, fact.route, "finished")
    run = state.runs.pop(fact.route, None)
    if run is not None and state.by_task.get(run.assign.task_id) == fact.route:
        del state.by_task[run.assign.task_id]
    state.done[fact.route] = fact.refused
    if len(state.done) > REMEMBERED:
        del state.done[next(iter(state.done))]


def _share(state: HostState, endpoints: list[mail.SharedEndpoint]) -> None:
    for name in state.shared:
        state.slots.pop(name, None)
        state.endpoints.pop(name, None)
    state.shared = {each.endpoint: each for each in endpoints}
    state.slots.update({each.endpoint: each.slots for each in endpoints})
