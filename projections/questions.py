"""What can be asked: the parameters of each query, as they are decoded.

A question is a JSON object, or nothing where every field has a default. A point of time
is RFC 3339, `2h` or `7d` before the server's clock, `today`, `yesterday`, or a day in UTC
(`events.filters.timed` reads them). The documents that describe the interface are made
from these structs.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from events import catalogue as c
from events.filters import Short, TaskFilter
from projections import search
from projections.world import VERSIONS


class Question(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every question may carry: the sequence it wants to see."""

    wait_seq: Annotated[int, Meta(ge=0)] | None = None


WAIT_S: Final = 50
"""A question may wait so long for news: the broker keeps an answer's way open a minute."""
Wait = Annotated[float, Meta(ge=0, le=WAIT_S)]


class AskTasks(search.TaskPage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tasks`: a filter, an order, a page."""

    wait_seq: Annotated[int, Meta(ge=0)] | None = None


class AskMeant(Question, frozen=True, kw_only=True):
    """`meant`: the ids that a filter means, in their order, and where those tasks stand.

    `ids` narrows it to these; `until_seq` leaves out what was submitted, or has ended,
    later; `after` goes on behind an id.
    """

    filter: TaskFilter = TaskFilter()
    ids: Annotated[list[c.Token], Meta(max_length=10_000)] = []
    until_seq: Annotated[int, Meta(ge=0)] | None = None
    after: Annotated[str, Meta(max_length=64)] = ""
    limit: Annotated[int, Meta(ge=0, le=10_000)] = 1_000


class AskTask(Question, frozen=True, kw_only=True):
    """`task`; `events_from` goes on where `events_left_out` was not 0.

    `at` shows it as it was after a sequence or at a point of time. With `wait` it is answered
    once the task is over, or after that many seconds with how it stands then.
    """

    task_id: Annotated[str, Meta(min_length=1, max_length=64)]
    wait: Wait = 0
    at: int | str | None = None
    events: bool = False
    events_from: Annotated[int, Meta(ge=0)] = 0


class AskEnded(Question, frozen=True, kw_only=True):
    """`ended`: which of these tasks are over? Their ids may be shortened; answers have them whole.

    With `wait` it is answered as soon as one of them is, or after that many seconds.
    """

    task_ids: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=64)]],
        Meta(min_length=1, max_length=1_000),
    ]
    wait: Wait = 0


class AskThen(Question, frozen=True, kw_only=True):
    """`hosts`, `stats`: `at` is a sequence or a point of time, absent for now."""

    at: int | str | None = None


class AskSchedules(Question, frozen=True, kw_only=True):
    """`schedules`: all, or the one of this name."""

    schedule: str | None = None


class AskPlanned(Question, frozen=True, kw_only=True):
    """`planned`: when would a schedule of this cron expression fire next, in this zone?"""

    cron: Annotated[str, Meta(min_length=1, max_length=250)]
    tz: Annotated[str, Meta(min_length=1, max_length=100)] = "UTC"
    limit: Annotated[int, Meta(ge=1, le=100)] = 10


class AskGraph(Question, frozen=True, kw_only=True):
    """`graph`: what this task comes after, and what comes after it."""

    task_id: str


class AskQueue(AskThen, frozen=True, kw_only=True):
    """`queue`."""

    limit: Annotated[int, Meta(ge=0, le=500)] = 100


class AskCosts(Question, frozen=True, kw_only=True):
    """`costs`; `since` and `until` are points of time, taken by the hour.

    `by` is a dimension or `label:KEY`, and so is `stack`, by which each line is taken apart
    again; `label` narrows it to tasks that have these labels.
    """

    by: Short = "model"
    stack: Short = ""
    since: Short = ""
    until: Short = ""
    fallback: bool | None = None
    label: Annotated[list[Short], Meta(max_length=32)] = []


class AskWhy(Question, frozen=True, kw_only=True):
    """`why`: why does this task wait?"""

    task_id: Annotated[str, Meta(min_length=1, max_length=64)]


class AskOutput(Question, frozen=True, kw_only=True):
    """`output`; `after_n` leaves out the chunks of the present route up to that one."""

    task_id: Annotated[str, Meta(min_length=1, max_length=64)]
    after_n: int | None = None
    route: Annotated[str, Meta(max_length=64)] = ""


class AskWhatIf(Question, frozen=True, kw_only=True):
    """`whatif`: what would have been decided under another policy?

    `policy` holds what is different from the one in force, `{"scoring": {"warm": 2}}`.
    `since` and `until` are sequences or points of time; `limit` bounds the decisions
    that are shown one by one.
    """

    policy: dict[str, Any]
    since: int | str = 1
    until: int | str | None = None
    limit: Annotated[int, Meta(ge=0, le=1_000)] = 100


class AskRebuild(Question, frozen=True, kw_only=True):
    """`rebuild`: make the read models anew beside the running ones.

    They are kept in one file with one position, so a `name` of one means all of them.
    """

    name: Annotated[
        str,
        Meta(
            pattern=rf"^({'|'.join(sorted(VERSIONS))})?$",
            description=f"one of {', '.join(sorted(VERSIONS))}",
        ),
    ] = ""
