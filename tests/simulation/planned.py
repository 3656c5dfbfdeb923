"""What must hold of schedules: each planned time is fired once, or skipped by its rule."""

from __future__ import annotations

import math
from datetime import datetime
from importlib.util import find_spec
from random import Random
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from events import catalogue as c
from events import planned
from events.codec import instant
from events.lifecycle import FINAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.lifecycle import TaskState
    from tests.simulation.later import LaterJudge


EDGES = {
    "Europe/Berlin": ("2026-03-29T01:00:00+00:00", "2026-10-25T01:00:00+00:00"),
    "America/New_York": ("2026-03-08T07:00:00+00:00", "2026-11-01T06:00:00+00:00"),
}
"""When the clocks of a zone are put forward, and back."""


def begins(chance: Random) -> float:
    """Draw when a world begins: in some seeds shortly before clocks are changed."""
    if chance.random() < 0.85:
        return 1_700_000_000.0
    edge = chance.choice([edge for edges in EDGES.values() for edge in edges])
    return instant(edge) - round(chance.uniform(9.0, 14.0), 3)


def schedules(
    chance: Random, until: float, begin: float
) -> list[tuple[float, str, dict[str, Any]]]:
    """Draw what is asked of schedules when, as (at, command, fields); often nothing.

    `begin` is when the world begins: where clocks are changed soon, it is of their zone.
    """
    near = [
        zone
        for zone, edges in EDGES.items()
        if any(0 < instant(edge) - begin < 60 for edge in edges)
    ]
    if chance.random() < (0.2 if near else 0.75) or find_spec("cronsim") is None:
        # Without it an environment is older than its checkout; the rest can be played.
        return []
    fixed = ("0 1 * * *", "0 2 * * *", "30 2 * * *", "* * * * *")
    crons = [f"*/{n} * * * * *" for n in (2, 3, 5)] + [*fixed, *fixed] * bool(near)
    asked: list[tuple[float, str, dict[str, Any]]] = []
    for n in range(chance.choice((1, 1, 2))):
        name = f"plan{n}"
        task = {"description": "again", "tier": "trivial", "shell": {"command": "true"}}
        at = chance.uniform(0.5, 8.0)
        rules = {
            "cron": chance.choice(crons),
            "tz": chance.choice(near or ["UTC", *EDGES]),
            "missed": chance.choice(("skip", "one", "all")),
            "overlap": chance.choice(("skip", "queue", "replace")),
        }
        add = {"schedule": name, "id": f"add-{name}", "task": task, **rules}
        asked.append((at, "schedule.add", add))
        for _ in range(chance.choice((0, 0, 1, 2))):
            then = chance.uniform(at + 0.5, until - 3)
            asked.append((then, "schedule.pause", {"schedule": name}))
            then += chance.uniform(0.1, 3)
            asked.append((then, "schedule.resume", {"schedule": name}))
        if chance.random() < 0.3:
            run = {"schedule": name, "id": f"run{n}"}
            asked.append((chance.uniform(at, until), "schedule.run", run))
        asked += _changes(Random(f"changes {name} {at}"), name, at, until, near)
        asked.append((until, "schedule.remove", {"schedule": name}))
        # Of each command a copy may come late, from a process that slept: here one does.
        late = until + Random(f"late {name} {at}").uniform(2.0, 6.0)
        asked.append((late, "schedule.add", add))
    return asked


def _changes(
    chance: Random, name: str, at: float, until: float, near: list[str]
) -> list[tuple[float, str, dict[str, Any]]]:
    """Draw how a schedule is changed, often just when something is due; each time its task
    is another one, and a copy of the command may come late."""
    asked: list[tuple[float, str, dict[str, Any]]] = []
    for n in range(chance.choice((0, 1, 2, 3))):
        then = chance.uniform(at + 0.2, until - 0.5)
        if chance.random() < 0.5:
            then = math.floor(then) + chance.uniform(0.0, 0.1)
        drawn: dict[str, Any] = {
            "cron": f"*/{chance.choice((2, 3, 4, 7))} * * * * *",
            "tz": chance.choice(near or ["UTC", *EDGES]),
            "missed": chance.choice(("skip", "one", "all")),
            "overlap": chance.choice(("skip", "queue", "replace")),
        }
        kept = chance.sample(sorted(drawn), chance.randint(0, 4))
        task = {"description": f"other {n}", "tier": "trivial"}
        change = {
            **{name: value for name, value in drawn.items() if name not in kept},
            "task": {**task, "shell": {"command": "true"}},
            "schedule": name,
            "id": f"change{n}-{name}",
        }
        asked.append((then, "schedule.change", change))
        if chance.random() < 0.4:
            asked.append((then + chance.uniform(0.5, 6.0), "schedule.change", change))
    return asked


class _Account:
    """What the judge notes about one schedule: its rules, each for what is planned later than
    the whole second at which it was said."""

    def __init__(self, added: c.ScheduleAdded) -> None:
        self.rules: list[tuple[float, c.ScheduleRule]] = [(instant(added.at), added)]
        self.cursor = instant(added.at)
        self.paused = False
        self.last = ""

    def changed(self, event: c.ScheduleChanged) -> None:
        """Note another rule."""
        since = max(self.rules[-1][0], math.floor(instant(event.at)))
        self.rules.append((since, event))

    def after(self, time: float) -> tuple[float, float, c.ScheduleRule]:
        """Find the first planned time after one, until when its rule holds, and that."""
        ends = [since for since, _ in self.rules[1:]] + [math.inf]
        for end, (since, rule) in zip(ends, self.rules, strict=True):
            due = planned.next_after(rule.cron, rule.tz, max(time, since))
            if due is not None and due <= end:
                return due, end, rule
        raise AssertionError("all that the simulator draws comes again")


class PlannedJudge:
    """Follows schedules through what the log says."""

    def __init__(
        self,
        complain: Callable[[str, str], None],
        states: dict[str, TaskState],
        later: LaterJudge,
    ) -> None:
        self._complain = complain
        self._states = states
        self._later = later
        self._known: dict[str, _Account] = {}
        # Firings that counted, by the task's id, and the (schedule, time) of all tasks.
        self.firings: dict[str, c.ScheduleFired] = {}
        self._rules: dict[str, c.ScheduleRule] = {}
        self._tasks: dict[tuple[str, str, str], str] = {}

    def open_tasks(self) -> list[str]:
        """Name the tasks of schedules that are not over."""
        return [
            task_id
            for task_id in self.firings
            if task_id in self._states and self._states[task_id].phase not in FINAL
        ]

    def stored(self, event: c.ScheduleEvent, epoch: int, where: str) -> None:
        """Judge one event about a schedule."""
        one = self._known.get(event.schedule)
        if isinstance(event, c.ScheduleAdded):
            self._known.setdefault(event.schedule, _Account(event))
        elif one is None:
            return
        elif isinstance(event, c.ScheduleChanged):
            one.changed(event)
        elif isinstance(event, c.ScheduleRemoved):
            del self._known[event.schedule]
        elif isinstance(event, c.SchedulePaused):
            one.paused = True
        elif isinstance(event, c.ScheduleResumed):
            one.paused = False
            one.cursor = max(one.cursor, instant(event.at))
        elif isinstance(event, c.ScheduleFired) and event.requested_by:
            self._fired(one, event, one.rules[-1][1])
        elif (
            isinstance(event, c.ScheduleFired | c.ScheduleSkipped)
            and event.epoch == epoch
            and not one.paused
        ):
            self._planned(one, event, where)

    def _planned(
        self, one: _Account, event: c.ScheduleFired | c.ScheduleSkipped, where: str
    ) -> None:
        due = instant(event.planned)
        expected, end, rule = one.after(one.cursor)
        if due <= one.cursor:
            self._complain("a planned time is dealt with once", f"{where}: {due}")
        elif due != expected:
            self._complain(
                "no planned time is passed over", f"{where}: {due}, due was {expected}"
            )
        open_one = self._open(one.last)
        if isinstance(event, c.ScheduleSkipped):
            one.cursor = instant(event.until)
            if one.cursor > end:
                self._complain("no planned time is passed over", f"{where}: {end}")
            if event.reason == "overlap" and rule.overlap != "skip":
                self._complain("a planned time is skipped by its rule", where)
            return
        local = datetime.fromtimestamp(due, ZoneInfo(rule.tz))
        if local.fold and not rule.cron.split()[-4].startswith("*"):
            self._complain("of an hour that comes twice one is fired", where)
        one.cursor = due
        seen = {"skip": "", "queue": event.waits_for, "replace": event.replaces}
        if open_one and seen[rule.overlap] != one.last:
            self._complain(
                "what overlaps goes by its rule",
                f"{where}: {one.last} is open, the rule is {rule.overlap}",
            )
        self._fired(one, event, rule)

    def _open(self, task_id: str) -> bool:
        """Whether a task has never been over."""
        state = self._states.get(task_id)
        return state is not None and not self._later.ever_over(task_id)

    def _fired(
        self, one: _Account, event: c.ScheduleFired, rule: c.ScheduleRule
    ) -> None:
        one.last = event.task_id
        self.firings[event.task_id] = event
        self._rules[event.task_id] = rule

    def submitted(self, event: c.TaskSubmitted, where: str) -> None:
        """Judge a task that a schedule has submitted."""
        if not event.schedule:
            return
        firing = self.firings.get(event.task_id)
        if firing is None or firing.planned != event.planned:
            self._complain("a schedule submits what it fired", where)
        rule = self._rules.get(event.task_id)
        if rule is not None and event.spec.description != rule.task.description:
            self._complain(
                "a task is that of the rule by which it was fired",
                f"{where}: {event.spec.description}, not {rule.task.description}",
            )
        by = firing.requested_by and firing.id if firing is not None else ""
        other = self._tasks.setdefault(
            (event.schedule, event.planned, by), event.task_id
        )
        if other != event.task_id:
            self._complain("a planned time is fired once", f"{where}: {other} too")

    def finally_there(self) -> None:
        """Judge at the end: each firing has its task."""
        for task_id, fired in self.firings.items():
            if task_id not in self._states:
                self._complain(
                    "each firing has its task", f"{fired.schedule} {fired.planned}"
                )
