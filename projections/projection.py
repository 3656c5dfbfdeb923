"""What a projection is: a name, a version, what it reads, where it begins, how it folds.

Events arrive as moments. The first fold to whom an event belongs (tasks for what is said
about tasks, fleet for hosts, tiers and leaders) writes into the moment what the event
counts for; the folds after it go by that, so that nothing is judged twice and all of
them agree. Folds change their state in place: a history of a million tasks is too large
to copy. They do no I/O, read no clock and draw no lots, so the same log folds to the
same state, today and in a year.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from msgspec import Struct

from events import catalogue as c
from events import subjects
from events.errors import UnknownSubject
from events.ids import is_token
from projections.record import Routing, Spent, TaskRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.subjects import Subject

Standing = Literal["taken", "repeat", "void", "foreign", "unknown"]
"""What an event counts for.

`taken`: it changed something, or was right to come. `repeat`: it was said before.
`void`: the state it met refuses it. `foreign`: its body disagrees with its subject, or
the subject is none of ours. `unknown`: a tag that this version does not know.
"""

Family = Literal["task", "run", "host", "fleet", "tier", "policy", "scheduler"]


class Moment(Struct, gc=False):
    """One event on its way through the folds.

    `before` and `after` are the task's states around it ("" before its submission);
    `booked` is the result whose tokens and dollars it brings, `spent` is their sum.
    """

    recorded: c.Recorded
    family: Family | None
    standing: Standing = "taken"
    reason: str = ""
    task: TaskRecord | None = None
    routing: Routing | None = None
    before: str = ""
    after: str = ""
    booked: c.Result | None = None
    spent: Spent | None = None


S = TypeVar("S")


class Projection(Protocol[S]):
    """A fold for people. `subjects` is what it reads, empty for all."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def subjects(self) -> tuple[str, ...]: ...

    def initial(self) -> S:
        """Return the state before the first event."""
        ...

    def evolve(self, state: S, moment: Moment) -> None:
        """Take one event in."""
        ...


_FAMILIES: tuple[tuple[type[c.Event], Family], ...] = (
    (c.TaskEvent, "task"),
    (c.RunEvent, "run"),
    (c.HostEvent, "host"),
    (c.FleetEvent, "fleet"),
    (c.TierEvent, "tier"),
    (c.PolicyChanged, "policy"),
    (c.SchedulerElected, "scheduler"),
)

FAMILY: dict[type[c.Event], Family] = {
    kind: next(family for base, family in _FAMILIES if issubclass(kind, base))
    for kind in c.types().values()
}


_is_token = lru_cache(maxsize=65_536)(is_token)
"""A task's id comes five times or more; every name must be fit for a subject."""


def moment_of(recorded: c.Recorded) -> Moment:
    """Take an event up, and hold its body against its subject.

    The broker lets each writer speak on its own subjects only, so the subject says who
    spoke and about what. A body that says something else is foreign.
    """
    event: Any = recorded.event
    family = FAMILY.get(type(event))
    # Nearly all events are about tasks: what their subject must be is sooner spelled
    # than the subject is parsed.
    if family == "run":
        task, host = event.task_id, event.host
        if (
            recorded.subject == f"agentcom.evt.run.{host}.{task}"
            and _is_token(task)
            and _is_token(host)
        ):
            return Moment(recorded, family)
    elif family == "task":
        task = event.task_id
        if recorded.subject == f"agentcom.evt.task.{task}" and _is_token(task):
            return Moment(recorded, family)
    return _parsed(recorded, family)


def _parsed(recorded: c.Recorded, family: Family | None) -> Moment:
    try:
        subject = subjects.parse(recorded.subject)
    except UnknownSubject:
        return Moment(recorded, family, "foreign", "not one of our subjects")
    if family is None:
        return Moment(recorded, None, "unknown", "a tag of another version")
    if subject.kind != family or not _AGREES[family](subject, recorded.event):
        return Moment(recorded, family, "foreign", "body against subject")
    return Moment(recorded, family)


def _about(event: Any) -> str:
    return event.host if isinstance(event, c.HostLost) else event.endpoint


_AGREES: dict[Family, Callable[[Subject, Any], bool]] = {
    "run": lambda subject, event: (
        event.task_id == subject.task and event.host == subject.host
    ),
    "task": lambda subject, event: event.task_id == subject.task,
    "host": lambda subject, event: event.host == subject.host,
    "fleet": lambda subject, event: _about(event) == subject.name,
    "tier": lambda subject, event: event.tier == subject.name,
    "policy": lambda subject, event: True,
    "scheduler": lambda subject, event: True,
}
