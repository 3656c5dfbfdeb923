"""What a host actor is told, what it notes for itself, and what it has the sidecar do.

*Commands* go into `decide`: the host's mail, and what the sidecar reports. *Notes* and the
host's events are the facts that come out of it and that `evolve` folds; events go to the
log as well, notes concern this machine alone. *Effects* are carried out by the sidecar.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from actors.host.outcomes import Outcome
from events import catalogue as c
from events import mail

Phase = Literal[
    "reserved",
    "accepted",
    "running",
    "recovered",
    "interrupted",
    "continuing",
    "finished",
]
"""Where a run on this host stands; `actors.host.state` tells the way through them."""

Wish = Literal["", "cancel", "drain"]
"""Why a run was asked to end; "" while it was not."""


# -- Commands: what the sidecar reports, beside the host's mail ------------------------


class Recovered(Struct, frozen=True):
    """The journal holds this run from an earlier incarnation."""

    assign: mail.Assign
    phase: Literal["recovered", "interrupted", "continuing", "finished"]


class Persisted(Struct, frozen=True):
    """The assignment is on the disk."""

    route: str


class NotPersisted(Struct, frozen=True):
    """The assignment could not be written."""

    route: str
    reason: str


class Preparing(Struct, frozen=True):
    """A run that was accepted a moment ago has not begun yet."""

    route: str


class Began(Struct, frozen=True):
    """The executor is about to run."""

    route: str
    executor: str
    simulated: bool = False
    cwd: str = ""
    env: dict[str, str] = {}


class RunEnded(Struct, frozen=True):
    """A run is over and no process of it is left."""

    route: str
    outcome: Outcome[c.Result]


class Reported(Struct, frozen=True):
    """The log has acknowledged the run's last event."""

    route: str


class Join(Struct, frozen=True):
    """Say who is here."""


class EndpointProbed(Struct, frozen=True):
    """An endpoint answers, as described, or does not, and `state.reason` says why."""

    state: c.EndpointState


class Leave(Struct, frozen=True):
    """This process is to end: take nothing more."""

    reason: str


class HandBack(Struct, frozen=True):
    """The time to finish is over: return what still runs."""


class Left(Struct, frozen=True):
    """Everything has ended; say goodbye."""

    reason: str


# -- Commands that are noted as they are -----------------------------------------------


class JournalState(Struct, frozen=True):
    """The journal fails, and why; or works again (empty)."""

    fault: str


class ResultsLeft(Struct, frozen=True):
    """So many results of agents lie here for tasks that are not at work here."""

    count: int


class Announced(Struct, frozen=True):
    """The log has acknowledged that this host joined or recovered."""


HostCommand = (
    mail.HostMail
    | Recovered
    | Persisted
    | NotPersisted
    | Preparing
    | Began
    | RunEnded
    | Reported
    | Join
    | EndpointProbed
    | Leave
    | HandBack
    | Left
    | JournalState
    | ResultsLeft
    | Announced
)


# -- Notes: facts that concern this machine alone --------------------------------------


class Holding(Struct, frozen=True):
    """A run is in this phase here; from reserved on it takes its slot."""

    assign: mail.Assign
    phase: Phase


class Ready(Struct, frozen=True):
    """A run is accepted and about to begin; its start will say so."""

    route: str
    at: str


class Wished(Struct, frozen=True):
    """A run was asked to end."""

    route: str
    wish: Wish


class Gone(Struct, frozen=True):
    """A run is no longer held. `refused` is the reply's code, where it never ran."""

    route: str
    refused: str = ""


class EpochSeen(Struct, frozen=True):
    """A leader of this epoch has sent mail."""

    epoch: int


class SharedChanged(Struct, frozen=True):
    """These are the shared endpoints now; what was known of them is void."""

    endpoints: list[mail.SharedEndpoint]


class ListSeen(Struct, frozen=True):
    """The list of shared endpoints is known as of this place in the log."""

    as_of: int


class DrainVersion(Struct, frozen=True):
    """This host was told to drain or to resume, so often now."""

    version: int


class EndpointKnown(Struct, frozen=True):
    """What is known of an endpoint before the host has joined."""

    state: c.EndpointState


class Leaving(Struct, frozen=True):
    """This incarnation is coming to its end."""


Note = (
    Holding
    | Ready
    | Wished
    | Gone
    | EpochSeen
    | SharedChanged
    | ListSeen
    | DrainVersion
    | EndpointKnown
    | Leaving
    | JournalState
    | ResultsLeft
    | Announced
)


# -- Effects: what the sidecar is to do ------------------------------------------------


class Respond(Struct, frozen=True):
    """Answer the mail that was decided on, or the waiting assignment of `route`."""

    reply: mail.Reply
    route: str = ""


class Persist(Struct, frozen=True):
    """Write the assignment to the journal, then say Persisted or NotPersisted."""

    assign: mail.Assign


class Start(Struct, frozen=True):
    """Run it; say Began and RunEnded."""

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


class End(Struct, frozen=True):
    """End this process, in good order: another one is this host."""

    reason: str


class Watch(Struct, frozen=True):
    """Probe these shared endpoints, and no other shared ones."""

    endpoints: list[mail.SharedEndpoint]


class LookAgain(Struct, frozen=True):
    """Look at every endpoint now, also at those that are not believed for a while."""


Effect = (
    Respond
    | Persist
    | Start
    | StopRun
    | Forget
    | RememberEpoch
    | End
    | Watch
    | LookAgain
)


class HostDecision(Struct):
    """What follows: facts, in order (the events among them go to the log), effects."""

    facts: list[c.Event | Note] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
