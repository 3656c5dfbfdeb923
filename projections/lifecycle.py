"""The life of a task as people see it: one fold, and what it has to remember.

The scheduler folds the same events for its decisions (`actors.lifecycle`); both read the
table of `events.lifecycle`, and a test over seeded histories keeps the two agreeing.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from events import catalogue as c
from events.lifecycle import RANK, TABLE, Phase

NUMBERED: Final = frozenset({c.TaskStatus, c.TaskErrorLine, c.TaskRetrying})
"""Lines of a run: many of one type, told apart by their running number."""


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

    state: Phase = "waiting"
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
    after = TABLE.get((state, kind))
    if after is None:
        return f"a task that is {state} takes no such step"
    if kind is c.TaskRouted and event.generation <= life.generation:
        return f"generation {life.generation} has been routed already"
    if after != state:
        life.state = after
        life.state_seq = seq
    return ""
