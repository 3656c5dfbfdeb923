"""An event of the log, and what it counts for: the verdict that all folds go by.

`judge` holds an event's body against its subject. The first fold to which the event
belongs (tasks for what is said about tasks, fleet for hosts, tiers and leaders) completes
the verdict; the folds after it go by that, so that nothing is judged twice and all of
them agree.

A fold is a module with a `VERSION`, a state, and `evolve(state, judged)`, which changes
the state in place: a history of a million tasks is too large to copy. Folds do no I/O,
read no clock and draw no lots, so the same log folds to the same state, today and in a
year.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from events import catalogue as c
from events import subjects
from events.errors import UnknownSubject
from events.ids import is_token
from projections.record import Routing, Spent, TaskRecord, later

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.subjects import Subject

Verdict = Literal["applied", "repeat", "void", "foreign", "unknown"]
"""What an event counts for.

`applied`: it changed something, or was right to come. `repeat`: it was said before.
`void`: the state it met refuses it. `foreign`: its body disagrees with its subject, or
the subject is none of ours. `unknown`: a tag that this version does not know.
"""

Family = Literal[
    "task", "run", "host", "fleet", "tier", "policy", "scheduler", "bulk", "schedule"
]
"""What an event is about: the third part of its subject."""


class VoidReason(NamedTuple):
    """Why an event about a task counts for nothing: a code for programs, and words."""

    code: str
    text: str


NO_TASK: Final = VoidReason("no_task", "no such task")
SUBMITTED_BEFORE: Final = VoidReason("submitted_before", "submitted before")
ANOTHER_LEADERS: Final = VoidReason("another_leaders", "another leader's")
NO_ROUTE: Final = VoidReason("no_route", "no such route")
ANOTHER_HOSTS: Final = VoidReason("another_hosts", "another host's route")
NOT_IN_FORCE: Final = VoidReason("not_in_force", "the route is not in force")
NO_SUCH_STEP: Final = "no_such_step"
"""The code where the table has no cell for the event in the task's phase."""
ROUTED_BEFORE: Final = "routed_before"
"""The code where a routing does not raise the generation."""


class JudgedEvent(Struct, gc=False):
    """One event on its way through the folds.

    `family` is None for a tag that this version does not know; `reason` says why an event
    that was not applied was not, `reason_code` the same for programs ("fleet" where it is
    not about a task). `task` and `routing` are the records that it is about,
    `before` and `after` the task's phases around it ("" before its submission). `result`
    is the run's result whose tokens and dollars have not been booked before, `spent` what
    it says was spent; None where it brings none.
    """

    recorded: c.Recorded
    family: Family | None
    verdict: Verdict = "applied"
    reason: str = ""
    reason_code: str = ""
    task: TaskRecord | None = None
    routing: Routing | None = None
    before: str = ""
    after: str = ""
    result: c.Result | None = None
    spent: Spent | None = None


_FAMILIES: tuple[tuple[type[c.Event], Family], ...] = (
    (c.TaskEvent, "task"),
    (c.RunEvent, "run"),
    (c.HostEvent, "host"),
    (c.FleetEvent, "fleet"),
    (c.TierEvent, "tier"),
    (c.PolicyChanged, "policy"),
    (c.SchedulerElected, "scheduler"),
    (c.ClockStepped, "scheduler"),
    (c.BulkEvent, "bulk"),
    (c.ScheduleEvent, "schedule"),
)

FAMILY: dict[type[c.Event], Family] = {
    kind: next(family for base, family in _FAMILIES if issubclass(kind, base))
    for kind in c.types().values()
}


_is_token = lru_cache(maxsize=65_536)(is_token)
"""A task's id comes five times or more; every name must be fit for a subject."""


def judge(recorded: c.Recorded) -> JudgedEvent:
    """Hold an event's body against its subject; return it, to be folded.

    The broker lets each writer speak on its own subjects only, so the subject says who
    spoke and about what. A body that says something else is foreign.
    """
    event: Any = recorded.event
    family = FAMILY.get(type(event))
    # Nearly all events are about tasks: what their subject must be is made sooner than
    # the subject is parsed.
    if family == "run":
        task, host = event.task_id, event.host
        if (
            subjects.is_run(recorded.subject, host, task)
            and _is_token(task)
            and _is_token(host)
        ):
            return JudgedEvent(recorded, family)
    elif family == "task":
        task = event.task_id
        if subjects.is_task(recorded.subject, task) and _is_token(task):
            return JudgedEvent(recorded, family)
    return _parsed(recorded, family)


def on_the_logs_clock(judged: JudgedEvent, event: Any, ahead_s: float) -> Any:
    """Return a host's event with its time by the scheduler's clock, for all folds.

    The host's own is `ahead_s` seconds ahead of that.
    """
    event = replace(event, at=later(event.at, -ahead_s))
    if isinstance(event, c.TaskStarted) and event.accepted_at:
        event = replace(event, accepted_at=later(event.accepted_at, -ahead_s))
    judged.recorded = replace(judged.recorded, event=event)
    return event


def _parsed(recorded: c.Recorded, family: Family | None) -> JudgedEvent:
    try:
        subject = subjects.parse(recorded.subject)
    except UnknownSubject:
        return JudgedEvent(recorded, family, "foreign", "not one of our subjects")
    if family is None:
        return JudgedEvent(recorded, None, "unknown", "a tag of another version")
    if subject.kind != family or not _AGREES[family](subject, recorded.event):
        return JudgedEvent(recorded, family, "foreign", "body against subject")
    return JudgedEvent(recorded, family)


def _about(event: Any) -> str:
    shared = isinstance(event, c.EndpointAdded | c.EndpointRemoved)
    name: str = event.endpoint if shared else event.host
    return name


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
    "bulk": lambda subject, event: event.bulk_id == subject.name,
    "schedule": lambda subject, event: event.schedule == subject.name,
}
