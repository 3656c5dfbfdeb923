"""The life of a task as people see it: one table, and one function that consults it.

The scheduler keeps a table of its own for its decisions; this is the reader's. A test
over seeded histories keeps the two agreeing.

    waiting ──routed──▶ routed ──accepted──▶ accepted ──started──▶ running
       ▲                   └───────── rejected, returned ─────────────┤
       └──requeued── returned ◀──────────────────────────────────────┤
                                         cancelling ◀──cancelled──────┤
                                                                      ▼
                completed · failed · dead (lettered) · cancelled · expired

A later phase implies the earlier ones: a result is good from `routed` on. The result of
the last routing counts even after a requeue, until the task is routed anew or tried
anew. What the table has no cell for is void: counted and shown, and without effect; so
is a routing that does not raise the task's generation.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Struct

from events.catalogue import (
    Event,
    TaskAbandoned,
    TaskAccepted,
    TaskCancelled,
    TaskCompleted,
    TaskDeadLettered,
    TaskDeferred,
    TaskErrorLine,
    TaskExpired,
    TaskFailed,
    TaskReassigned,
    TaskRejected,
    TaskRequeued,
    TaskRetried,
    TaskRetrying,
    TaskReturned,
    TaskRouted,
    TaskStarted,
    TaskStatus,
    TaskStep,
    TaskStopped,
)

State = Literal[
    "waiting",
    "routed",
    "accepted",
    "running",
    "returned",
    "cancelling",
    "completed",
    "failed",
    "dead",
    "cancelled",
    "expired",
]

FINAL: Final[frozenset[str]] = frozenset(
    {"completed", "failed", "dead", "cancelled", "expired"}
)
OPEN: Final[tuple[State, ...]] = (
    "waiting",
    "routed",
    "accepted",
    "running",
    "returned",
    "cancelling",
)
STATES: Final[tuple[State, ...]] = (
    *OPEN,
    "completed",
    "failed",
    "dead",
    "cancelled",
    "expired",
)

_UNDER_WAY: Final[tuple[State, ...]] = ("routed", "accepted", "running")


def _lead(to: State, *states: State) -> dict[State, State]:
    return dict.fromkeys(states, to)


def _stay(*states: State) -> dict[State, State]:
    return {state: state for state in states}


TABLE: Final[dict[type[Event], dict[State, State]]] = {
    TaskDeferred: _stay("waiting"),
    TaskRouted: _lead("routed", "waiting"),
    TaskRequeued: _lead("waiting", *_UNDER_WAY, "returned"),
    TaskExpired: _lead("expired", "waiting"),
    TaskCancelled: _lead("cancelled", "waiting", "returned")
    | _lead("cancelling", *_UNDER_WAY),
    TaskAbandoned: _lead("cancelled", "cancelling"),
    TaskDeadLettered: _lead("dead", "waiting", *_UNDER_WAY, "returned"),
    TaskRetried: _lead("waiting", "failed", "dead", "cancelled", "expired"),
    TaskReassigned: _lead("waiting", "waiting", *_UNDER_WAY, "returned"),
    TaskAccepted: _lead("accepted", "routed") | _stay("cancelling"),
    TaskRejected: _lead("returned", "routed", "accepted")
    | _lead("cancelled", "cancelling"),
    TaskStarted: _lead("running", "routed", "accepted") | _stay("cancelling"),
    TaskStatus: _stay(*_UNDER_WAY, "cancelling"),
    TaskErrorLine: _stay(*_UNDER_WAY, "cancelling"),
    TaskRetrying: _stay(*_UNDER_WAY, "cancelling"),
    # A woken agent's last step, its files removed, comes after the run's end.
    TaskStep: _stay(*STATES),
    TaskCompleted: _lead("completed", "waiting", *_UNDER_WAY)
    | _lead("cancelled", "cancelling"),
    TaskFailed: _lead("failed", "waiting", *_UNDER_WAY)
    | _lead("cancelled", "cancelling"),
    TaskReturned: _lead("returned", *_UNDER_WAY) | _lead("cancelled", "cancelling"),
    TaskStopped: _lead("returned", *_UNDER_WAY) | _lead("cancelled", "cancelling"),
}
"""Event, state before, state after. `task.submitted` makes a task and stands outside."""

OF_THE_GATEWAY: Final = (TaskCancelled, TaskRetried, TaskReassigned)
"""Decisions that any gateway writes, leader or not: no epoch can make them void."""

NUMBERED: Final = frozenset({TaskStatus, TaskErrorLine, TaskRetrying})
"""Lines of a run: many of one type, told apart by their running number."""

RANK: Final[dict[type[Event], int]] = {
    TaskAccepted: 1,
    TaskStarted: 2,
    TaskRejected: 3,
    TaskCompleted: 3,
    TaskFailed: 3,
    TaskReturned: 3,
    TaskStopped: 3,
}
"""How far a report takes its routing: 1 accepted, 2 started, 3 over."""

NO_ATTEMPT: Final = frozenset({"busy", "draining", "limited"})
"""A run given back for these reasons was not an attempt of the task's."""


class Fence(Struct):
    """What has to be remembered of one routing, to tell news from repeats.

    `reported` is the highest rank of a report that counted, `line` the highest number
    of a line, `booked` the types of report whose dollars are in the books. `started`
    and `counted` are about attempts: the run began, and it has been added to those used.
    """

    route: str
    host: str
    attempt: int
    reported: int = 0
    line: int = -1
    booked: list[str] = []
    started: bool = False
    counted: bool = False


class Life(Struct):
    """Where a task stands. `route` is the one in force, or the last one while it waits.

    `used` counts the attempts that are over and counted.
    """

    state: State = "waiting"
    state_seq: int = 0
    route: str = ""
    generation: int = 0
    used: int = 0


def is_repeat(fence: Fence, event: Any) -> bool:
    """Whether the routing in force has said this, or more than this, before."""
    kind = type(event)
    if kind in RANK:
        return RANK[kind] <= fence.reported
    return kind in NUMBERED and event.n <= fence.line


def said(fence: Fence, event: Any) -> None:
    """Remember that the routing said this, and that it counted."""
    kind = type(event)
    if kind in RANK:
        if RANK[kind] > fence.reported:
            fence.reported = RANK[kind]
    elif kind in NUMBERED:
        fence.line = event.n


def step(life: Life, event: Any, seq: int) -> str:
    """Take the step if the table allows it; say why not otherwise, "" if it did."""
    kind, state = type(event), life.state
    after = TABLE[kind].get(state) if kind in TABLE else None
    if after is None:
        return f"a task that is {state} takes no such step"
    if kind is TaskRouted and event.generation <= life.generation:
        return f"generation {life.generation} has been routed already"
    if after != state:
        life.state = after
        life.state_seq = seq
    return ""
