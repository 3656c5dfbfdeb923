"""What a host remembers: its runs, its slots, its endpoints; `evolve` folds a fact in.

A run's way: reserved (the journal is writing), accepted, running, finished (its last
event is on its way to the log), gone. After a restart a run comes back as recovered (it
never started: an `Assign` for the same route starts it), interrupted (it had started:
it is returned once the log knows this incarnation) or continuing (it goes on where it
was, as soon as the host has joined: an agent's work outlives the sidecar).

A slot is taken from reserved until the run's processes are gone; the journal's row stays
until the log has acknowledged the run's last event.

The state is changed in place, not copied: at thousands of tasks a second a fresh dict per
event would be most of the work.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Literal, assert_never

from msgspec import Struct, field

from actors.host import messages as msg
from actors.host.messages import Phase, Wish
from events import catalogue as c
from events import mail

if TYPE_CHECKING:
    from actors.host.messages import Note

REMEMBERED: Final = 8_192
"""How many ended routes a host remembers, to answer a late repeat of their mail."""

HOLDING: Final = frozenset({"reserved", "accepted", "running", "continuing"})
"""The phases in which a run takes its slot."""

_SHOWN: dict[str, Literal["accepted", "running", "interrupted", "finished"]] = {
    "accepted": "accepted",
    "running": "running",
    "recovered": "accepted",
    "interrupted": "interrupted",
    "continuing": "running",
    "finished": "finished",
}
"""How a phase reads to others; what is only reserved is shown to nobody."""


class About(Struct, frozen=True, kw_only=True):
    """What a host says of itself when it joins, and what it could run."""

    version: str
    platform: str = ""
    capabilities: list[str] = []
    repos: list[str] = []
    clones: list[str] = []
    default_repo: str | None = None
    ram_bytes: int | None = None
    journal_lost: str = ""
    verifies: bool = False
    targets: frozenset[str] = frozenset({"sidecar"})


class HeldRun(Struct):
    """A run on this machine. `wish` is set once it has been asked to end.

    `accepted_at` is when it was accepted, `announced` whether an event has said so.
    """

    assign: mail.Assign
    slot: str
    phase: Phase
    wish: Wish = ""
    accepted_at: str = ""
    announced: bool = False


class HostState(Struct, kw_only=True):
    """A host in one incarnation of its process."""

    host: str

    # Names this start of the process. It stands in every event, so that readers can drop
    # repeats and see that a host was restarted.
    incarnation: str

    about: About

    # Slots per kind of work (shell, claude, agent, noop), as the host joins with them.
    kinds: dict[str, int]

    # All slots: those of `kinds`, and per model endpoint by its name, own and shared.
    slots: dict[str, int] = field(default_factory=dict)

    # How many of each are taken: the runs in a phase of HOLDING, counted as they move.
    used: dict[str, int] = field(default_factory=dict)

    # Every run held, by route, from reserved until the log has its last event.
    runs: dict[str, HeldRun] = field(default_factory=dict)

    # The newest route here of each task held.
    by_task: dict[str, str] = field(default_factory=dict)

    # The last REMEMBERED routes that ended here, oldest first, and the code with which
    # they were refused, "" for those that ran. A repeat of their mail is answered alike.
    done: OrderedDict[str, str] = field(default_factory=OrderedDict)

    # What is known of each endpoint. Before the host has joined it is only noted, then
    # said with joining; after that each change is an event.
    endpoints: dict[str, c.EndpointState] = field(default_factory=dict)

    # The shared endpoints that the leader has us probe, by name, and the place in the log
    # that their list was true for: an older list that comes late is passed by.
    shared: dict[str, mail.SharedEndpoint] = field(default_factory=dict)
    shared_as_of: int = 0

    # The highest leader's epoch heard; mail of an older one is refused. In the journal.
    epoch: int = 0

    # Takes no work until it is resumed. Not remembered over a restart.
    draining: bool = False

    # How often this incarnation was told to drain or to resume. Whoever tells it names
    # the version that it saw; mail that comes late names an older one and is refused.
    drain_version: int = 0

    # The process is about to end: takes no work, and is not resumed.
    leaving: bool = False

    # The host has said that it is here.
    joined: bool = False

    # It has, and the log has not acknowledged that yet.
    announcing: bool = False

    # Why nothing can be persisted, so that nothing is accepted; "" while the journal works.
    journal_fault: str = ""

    # Results of agents that lie here for tasks that are not at work here.
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


def runs_held(state: HostState) -> list[c.Held]:
    """List what this host holds, as beats and joining say it."""
    return [
        c.Held(run.assign.task_id, route, _SHOWN[run.phase])
        for route, run in state.runs.items()
        if run.phase != "reserved"
    ]


def slots_taken(state: HostState) -> int:
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


# -- Evolve ----------------------------------------------------------------------------


def evolve(state: HostState, fact: c.Event | Note) -> HostState:
    """Say what is true after a fact. Changes `state` in place and returns it."""
    match fact:
        case msg.Holding():
            _hold(state, fact)
        case msg.Ready():
            move(state, fact.route, "accepted")
            if (run := state.runs.get(fact.route)) is not None:
                run.accepted_at = fact.at
        case c.TaskAccepted():
            if (run := state.runs.get(fact.route)) is not None:
                run.announced = True
        case c.TaskStarted():
            move(state, fact.route, "running")
        case (
            c.TaskCompleted()
            | c.TaskFailed()
            | c.TaskReturned()
            | c.TaskStopped()
            | c.TaskRejected()
        ):
            move(state, fact.route, "finished")
        case msg.Gone():
            _let_go(state, fact)
        case msg.Wished():
            if (run := state.runs.get(fact.route)) is not None:
                run.wish = fact.wish
        case msg.EpochSeen():
            state.epoch = fact.epoch
        case msg.SharedChanged():
            _share(state, fact.endpoints)
        case msg.ListSeen():
            state.shared_as_of = fact.as_of
        case msg.DrainVersion():
            state.drain_version = fact.version
        case msg.EndpointKnown() | c.EndpointUp() | c.EndpointChanged():
            state.endpoints[fact.state.endpoint] = fact.state
        case c.EndpointDown():
            state.endpoints[fact.endpoint] = c.EndpointState(
                endpoint=fact.endpoint,
                kind=fact.kind,
                up=False,
                reason=fact.reason,
                again_at=fact.again_at,
            )
        case msg.JournalState():
            state.journal_fault = fact.fault
        case msg.ResultsLeft():
            state.results_left = fact.count
        case msg.Leaving():
            state.leaving = True
        case msg.Announced():
            state.announcing = False
        case c.HostJoined() | c.HostRecovered():
            state.joined = state.announcing = True
        case c.HostDraining():
            state.draining = True
        case c.HostResumed():
            state.draining = False
        case _:
            pass
    return state


def _hold(state: HostState, fact: msg.Holding) -> None:
    assign, slot = fact.assign, slot_of(fact.assign)
    state.runs[assign.route] = HeldRun(assign, slot, fact.phase)
    state.by_task[assign.task_id] = assign.route
    if fact.phase in HOLDING:
        state.used[slot] = state.used.get(slot, 0) + 1


def move(state: HostState, route: str, phase: Phase) -> None:
    """Put a run into a phase; its slot is taken or freed as that goes."""
    run = state.runs.get(route)
    if run is None:
        return
    was, now = run.phase in HOLDING, phase in HOLDING
    run.phase = phase
    if was != now:
        state.used[run.slot] = state.used.get(run.slot, 0) + (1 if now else -1)


def _let_go(state: HostState, fact: msg.Gone) -> None:
    move(state, fact.route, "finished")
    run = state.runs.pop(fact.route, None)
    if run is not None and state.by_task.get(run.assign.task_id) == fact.route:
        del state.by_task[run.assign.task_id]
    state.done[fact.route] = fact.refused
    if len(state.done) > REMEMBERED:
        state.done.popitem(last=False)


def _share(state: HostState, endpoints: list[mail.SharedEndpoint]) -> None:
    for name in state.shared:
        state.slots.pop(name, None)
        state.endpoints.pop(name, None)
    state.shared = {each.endpoint: each for each in endpoints}
    state.slots.update({each.endpoint: each.slots for each in endpoints})
