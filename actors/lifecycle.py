"""A task as deciders know it: the fold over its events, and what may be decided of it.

The table of phases and allowed steps is `events.lifecycle`, which also says what counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
from msgspec import Struct

from events import catalogue as c
from events import subjects
from events.commands import no_task, refuse
from events.ids import FULL_ID
from events.lifecycle import (
    BY_LEADER,
    FINAL,
    LOST_RUN,
    NO_ATTEMPT,
    RANK,
    TABLE,
    VERIFICATION,
    Absent,
    Phase,
    is_held,
    refuses_step,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actors.stamp import Stamp
    from events.commands import Refusal


class Unbilled(NamedTuple):
    """A run that costs money and has not ended: what its rounds told of it so far."""

    route: str
    host: str
    rounds: int = 0
    told_usd: float = 0.0


class TaskState(Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """What must be known of a task to decide about it; its body stays in the log.

    `last_seq` is where the task's own subject stands, void events included: the next
    decision expects it. `route` is the one in force, or the last one while it waits.
    `reported` is how far the reports on that route have come (1 accepted, 2 started,
    3 ended), `restarted` how often its host has started the command again; every start of a
    command is an attempt. `excluded` are endpoints and hosts not to be tried, each with the
    place in the log since when; coming up after it lifts it. `preferred` is the tier of its
    classification, `tier` the one it was last routed to, `hopped_from` the one it
    left in its one hop. `losses` counts the runs that were lost with their host.
    `spent_usd` is what its runs of Claude Code are known to have cost, before a retry of
    the task too, and what the tasks may spend that they have submitted; `unbilled` are those
    routes of which no whole cost was reported, each with its host, and the rounds and
    dollars that its verification has told.
    `delegated` counts the children that its runs have submitted.
    `unverified`: its tier's work did not pass the verification, so that it is not tried
    there again. `held`: it was not to start at once, and has not been released. `inputs`
    are the tasks whose output goes into its prompt, each with where in the log that stands;
    `input_tokens` is how long they make it, about.
    """

    task_id: str
    phase: Phase | Absent = "absent"
    submitted_seq: int = 0
    last_seq: int = 0
    generation: int = 0
    route: str = ""
    host: str = ""
    endpoint: str = ""
    preferred: c.Tier = "standard"
    tier: c.Tier = "standard"
    hopped_from: c.Tier | None = None
    unverified: bool = False
    reported: int = 0
    is_command: bool = False
    restarted: int = 0
    attempts: int = 0
    losses: int = 0
    max_attempts: int = c.MAX_ATTEMPTS
    excluded: tuple[tuple[str, int], ...] = ()
    assign_to: str | None = None
    waiting_since: str = ""
    submitted_at: str = ""
    max_budget_usd: float | None = None
    spent_usd: float = 0.0
    unbilled: tuple[Unbilled, ...] = ()
    held: bool = False
    delegated: int = 0
    inputs: tuple[tuple[str, int], ...] = ()
    input_tokens: int = 0


class Step(NamedTuple):
    """What an event did: the state after it, and whether it counted.

    A `repeat` says again what is known already; a `void` one was not allowed.
    """

    state: TaskState
    verdict: Literal["applied", "repeat", "void"]


def initial(task_id: str) -> TaskState:
    """Return a task of which nothing is known."""
    return TaskState(task_id=task_id)


def evolve(
    state: TaskState, recorded: c.Recorded, *, epoch: int, host: str = ""
) -> Step:
    """Fold one event of this task.

    `epoch` is the leader's in force at this place in the log, `host` the one whose
    subject a report stands on ("" for the task's own subject).
    """
    event = recorded.event
    if host:
        if not isinstance(event, c.RunEvent) or event.host != host:
            return Step(state, "void")
        if event.task_id != state.task_id:
            return Step(state, "void")
        return _report(_billed(state, event), event)
    phase = TABLE.get((state.phase, type(event)))
    if (
        phase is None
        or not isinstance(event, c.TaskEvent)
        or event.task_id != state.task_id
        or (event.epoch != epoch and isinstance(event, BY_LEADER))
        or (isinstance(event, c.TaskRouted) and event.generation <= state.generation)
        or refuses_step(type(event), held=state.held)
    ):
        return Step(msgspec.structs.replace(state, last_seq=recorded.seq), "void")
    return _decision(state, event, phase, recorded.seq)


def _report(state: TaskState, event: c.RunEvent) -> Step:
    # Of the route in force, and from the host that has it: another host may know the
    # route's id, but it speaks on its own subject.
    if not state.route or event.route != state.route or event.host != state.host:
        return Step(state, "void")
    kind = type(event)
    rank = RANK.get(kind, 0)
    if rank and rank <= state.reported:
        return Step(state, "repeat")
    phase = TABLE.get((state.phase, kind))
    if phase is None:
        return Step(state, "void")
    if not rank:
        return Step(_started_again(state, event), "applied")
    changes: dict[str, object] = {"phase": phase, "reported": rank}
    if kind is c.TaskReturned and _counts(event):
        changes["attempts"] = state.attempts + 1
        changes["losses"] = state.losses + _is_loss(event)
    elif kind is c.TaskStopped and phase == "returned":
        # Ended by the host without a cancellation: like a run given back.
        changes["attempts"] = state.attempts + 1
    if isinstance(event, c.TaskReturned) and event.reason == VERIFICATION:
        changes["unverified"] = True
    return Step(msgspec.structs.replace(state, **changes), "applied")


def _billed(state: TaskState, event: c.RunEvent) -> TaskState:
    """Count what a run has cost, once; a run that is no longer wanted was paid for too.

    What a round of verification told stays counted where the run's end tells nothing.
    """
    bill = next(
        (e for e in state.unbilled if (e.route, e.host) == (event.route, event.host)),
        None,
    )
    if bill is None:
        return state
    others = tuple(each for each in state.unbilled if each is not bill)
    result = getattr(event, "result", None)
    if isinstance(result, c.Result):
        more = (result.estimated_cost_usd or 0.0) - bill.told_usd
    elif (
        isinstance(event, c.TaskStatus | c.TaskVerified)
        and event.spent
        and event.round > bill.rounds
    ):
        more = max(0.0, event.spent.estimated_cost_usd or 0.0)
        others += (bill._replace(rounds=event.round, told_usd=bill.told_usd + more),)
    else:
        return state
    return msgspec.structs.replace(
        state, spent_usd=state.spent_usd + max(0.0, more), unbilled=others
    )


def budget_left(state: TaskState, most_usd: float | None) -> float | None:
    """What may still be spent, of the task's budget and `most_usd`; None: without bound."""
    bounds = [each for each in (state.max_budget_usd, most_usd) if each is not None]
    if not bounds:
        return None
    return max(0.0, round(min(bounds) - state.spent_usd, 9))


def _started_again(state: TaskState, event: c.RunEvent) -> TaskState:
    """Count the try that is over where a host starts a command again by itself."""
    if not isinstance(event, c.TaskRetrying) or not state.is_command:
        return state
    if event.retry <= state.restarted:
        return state
    return msgspec.structs.replace(
        state, attempts=state.attempts + 1, restarted=event.retry
    )


def _is_one_more(state: TaskState, event: c.TaskRequeued) -> bool:
    """Whether a requeue is an attempt: not where the run's own end has said so first."""
    return event.counts_as_attempt and state.phase != "returned"


def _is_loss(event: c.TaskRequeued | c.RunEvent) -> bool:
    return getattr(event, "reason", "") in LOST_RUN


def _counts(event: c.RunEvent) -> bool:
    return (
        isinstance(event, c.TaskReturned)
        and not event.unsuited
        and event.reason not in NO_ATTEMPT
    )


def _decision(state: TaskState, event: c.TaskEvent, phase: Phase, seq: int) -> Step:
    changes: dict[str, object] = {"phase": phase, "last_seq": seq}
    match event:
        case c.TaskRouted():
            changes |= {
                "generation": event.generation,
                "route": event.id,
                "host": event.selected_host,
                "endpoint": event.selected_endpoint,
                "tier": event.effective_tier,
                "reported": 0,
                "is_command": event.target_type == "sidecar",
                "restarted": 0,
            }
            if event.fallback_used:
                changes["hopped_from"] = event.fallback_from_tier
            if event.target_type == "claude":
                bill = Unbilled(event.id, event.selected_host)
                changes["unbilled"] = (*state.unbilled[-31:], bill)
        case c.TaskSubmitted():
            changes |= {
                "submitted_seq": seq,
                "preferred": event.classification.effective_tier,
                "tier": event.classification.effective_tier,
                "max_attempts": event.spec.max_attempts,
                "max_budget_usd": event.spec.max_budget_usd,
                "assign_to": event.spec.assign_to,
                "waiting_since": event.at,
                "submitted_at": event.at,
                "held": is_held(event.spec),
            }
        case c.TaskReleased():
            changes |= {
                "held": False,
                "waiting_since": event.at,
                "inputs": tuple(event.inputs.items()),
                "input_tokens": event.input_tokens_estimate,
            }
        case c.TaskRequeued():
            counts = _is_one_more(state, event)
            changes |= {
                "attempts": state.attempts + counts,
                "losses": state.losses + (counts and _is_loss(event)),
                "waiting_since": event.at,
            }
            if event.exclude is not None:
                others = [one for one in state.excluded if one[0] != event.exclude]
                changes["excluded"] = (*others, (event.exclude, seq))
        case c.TaskRetried():
            changes |= {
                "attempts": 0,
                "losses": 0,
                "excluded": (),
                "tier": state.preferred,
                "hopped_from": None,
                "unverified": False,
                "route": "",
                "assign_to": event.assign_to or state.assign_to,
                "waiting_since": event.at,
            }
        case c.TaskReassigned():
            changes |= {
                "assign_to": event.host,
                "excluded": (),
                "unverified": False,
                "waiting_since": event.at,
            }
        case c.TaskDelegated():
            changes |= {
                "delegated": state.delegated + 1,
                "spent_usd": state.spent_usd + event.budget_usd,
            }
        case _:
            pass
    return Step(msgspec.structs.replace(state, **changes), "applied")


def fold(task_id: str, history: Iterable[c.Recorded], epochs: Epochs) -> TaskState:
    """Fold a task's whole history, both subjects in the log's order."""
    state = initial(task_id)
    for recorded in history:
        place = subjects.parse(recorded.subject)
        state = evolve(
            state, recorded, epoch=epochs.at(recorded.seq), host=place.host
        ).state
    return state


class Epochs:
    """Which leader's epoch was in force at each place in the log."""

    def __init__(self) -> None:
        self._from: list[tuple[int, int]] = []

    @property
    def current(self) -> int:
        """The newest epoch, 0 before the first leader."""
        return self._from[-1][1] if self._from else 0

    def observe(self, seq: int, epoch: int) -> bool:
        """Note an election; False if it is not newer than what is known."""
        if epoch <= self.current:
            return False
        self._from.append((seq, epoch))
        return True

    def at(self, seq: int) -> int:
        """Return the epoch in force at `seq`."""
        for start, epoch in reversed(self._from):
            if start <= seq:
                return epoch
        return 0


# -- What may be decided ---------------------------------------------------------------


def cancel(
    state: TaskState, stamp: Stamp, *, reason: str, requested_by: str
) -> c.TaskCancelled | Refusal | None:
    """Decide a cancellation; None if it is cancelled or cancelling already."""
    if state.phase == "absent":
        return _not_found(state)
    if state.phase in ("cancelling", "cancelled"):
        return None
    if state.phase in FINAL:
        return refuse("too_late", f"task {state.task_id} is {state.phase} already")
    return stamp.on(
        c.TaskCancelled,
        task_id=state.task_id,
        reason=reason,
        requested_by=requested_by,
        generation=state.generation,
    )


def retry(
    state: TaskState, stamp: Stamp, *, reason: str, requested_by: str
) -> c.TaskRetried | Refusal | None:
    """Decide to try a final task anew; None if it waits or runs already."""
    if state.phase == "absent":
        return _not_found(state)
    if (state.phase, c.TaskRetried) not in TABLE:
        if state.phase not in FINAL:
            return None
        return refuse(
            "not_retriable",
            f"task {state.task_id} is {state.phase}: only failed, dead, "
            "cancelled and expired tasks can be tried again",
        )
    return stamp.on(
        c.TaskRetried,
        task_id=state.task_id,
        reason=reason,
        requested_by=requested_by,
    )


def reassign(
    state: TaskState, stamp: Stamp, *, host: str, reason: str, requested_by: str
) -> c.TaskReassigned | Refusal | None:
    """Decide to give a task that is not over to another host; None if it waits for it."""
    if state.phase == "absent":
        return _not_found(state)
    if (state.phase, c.TaskReassigned) not in TABLE:
        return refuse(
            "too_late",
            f"task {state.task_id} is {state.phase}: only tasks that wait or run "
            "can be given to another host",
        )
    if state.phase == "waiting" and state.assign_to == host:
        return None
    return stamp.on(
        c.TaskReassigned,
        task_id=state.task_id,
        host=host,
        reason=reason,
        requested_by=requested_by,
    )


def _not_found(state: TaskState) -> Refusal:
    if len(state.task_id) < FULL_ID:
        return refuse(
            "not_found",
            f"there is no task {state.task_id}; a command takes a task's whole id "
            f"({FULL_ID} characters), which {subjects.query('task')} tells of its "
            "beginning",
            "task_id",
        )
    return no_task(state.task_id, "task_id")
