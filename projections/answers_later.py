"""What `schedules` and `graph` answer: what is planned, and what comes after what."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from projections.answers import QueryAnswer


class ScheduleRun(Struct, array_like=True, kw_only=True):
    """A planned time that was dealt with, or a task that somebody let run.

    `what`: `fired` (with `task_id`), `by_hand`, `missed` or `overlap`; of skipped times
    `until` is the last and `count` how many they are.
    """

    planned: str
    what: Literal["fired", "by_hand", "missed", "overlap"]
    task_id: str = ""
    until: str = ""
    count: int = 1


class ScheduleView(Struct, kw_only=True):
    """A schedule, as it is kept. `cursor` is the last planned time that was dealt with."""

    schedule: str
    cron: str
    tz: str
    missed: str
    overlap: str
    description: str
    tier: str
    added_at: str
    added_by: str
    added_seq: int
    cursor: str
    changed_at: str = ""
    changed_by: str = ""
    changed_seq: int = 0
    paused: bool = False
    paused_for: str = ""
    fired: int = 0
    skipped: int = 0
    runs: list[ScheduleRun] = []


class RunRow(Struct, kw_only=True):
    """A run of a schedule; `state` is where its task stands, "" for none."""

    planned: str
    what: Literal["fired", "by_hand", "missed", "overlap"]
    task_id: str
    until: str
    count: int
    state: str


class ScheduleRow(Struct, kw_only=True):
    """A schedule with its next ten times and its last runs, the newest first.

    At `added_seq` of the log stands the event that added it, at `changed_seq` the one that
    changed it last (0 for none): the later one of them has its whole task.
    """

    schedule: str
    cron: str
    tz: str
    missed: str
    overlap: str
    description: str
    tier: str
    added_at: str
    added_by: str
    added_seq: int = 0
    changed_at: str = ""
    changed_by: str = ""
    changed_seq: int = 0
    paused: bool
    paused_for: str
    fired: int
    skipped: int
    next: list[str]
    runs: list[RunRow]


class PlannedAnswer(QueryAnswer, kw_only=True):
    """`planned`: the next instants, in UTC; fewer than were asked for where no more come."""

    next: list[str]


class SchedulesAnswer(QueryAnswer, kw_only=True):
    """`schedules`: all of them by name, or the one that was asked for."""

    schedules: list[ScheduleRow]


class GraphNode(Struct, kw_only=True):
    """A task of a graph. `before` names those that it comes after; `how` says of each
    whether that has to complete (`after`, `input_from`) or to be over (`after_any`).

    `level` is 0 for those that come after nothing, and else one more than the highest of
    those before.
    """

    task_id: str
    name: str
    description: str
    state: str
    held: bool
    level: int
    before: list[str]
    how: list[Literal["after", "after_any", "input_from"]]


class GraphAnswer(QueryAnswer, kw_only=True):
    """`graph`: the tasks that a task comes after and that come after it, near ones first.

    `left_out` says that there are more than are here.
    """

    task_id: str
    nodes: list[GraphNode]
    left_out: bool = False
