"""The fold over schedules: what is planned, what was fired, what was left out.

It goes by the same rules as the scheduler's own: what a deposed leader said, what was said
of a time that had been dealt with, and what a paused schedule would have fired is void.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from msgspec.structs import asdict

from events import catalogue as c
from events import planned
from events.codec import instant
from projections.answers_later import (
    GraphAnswer,
    GraphNode,
    PlannedAnswer,
    RunRow,
    ScheduleRow,
    ScheduleRun,
    SchedulesAnswer,
    ScheduleView,
)
from projections.record import same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projections.judged import JudgedEvent
    from projections.record import TaskRecord
    from projections.world import World

VERSION: Final = 2
RUNS_KEPT: Final = 20
NEXT_SHOWN: Final = 10
NODES_SHOWN: Final = 200
DESCRIPTION_SHOWN: Final = 200


class SchedulesState:
    """All schedules, by name; `touched` are those that changed since they were stored."""

    def __init__(self) -> None:
        self.by_name: dict[str, ScheduleView] = {}
        self.touched: set[str] = set()


def evolve(state: SchedulesState, judged: JudgedEvent, epoch: int) -> None:
    """Fold one event about a schedule; `epoch` is the leader's in force."""
    event = judged.recorded.event
    if judged.verdict != "applied" or not isinstance(event, c.ScheduleEvent):
        return
    view = state.by_name.get(event.schedule)
    if not _applied(state, view, event, judged.recorded.seq, epoch):
        judged.verdict, judged.reason_code = "void", "schedule"
        judged.reason = "the schedule takes no such step"
        return
    state.touched.add(event.schedule)


def _applied(
    state: SchedulesState,
    view: ScheduleView | None,
    event: c.ScheduleEvent,
    seq: int,
    epoch: int,
) -> bool:
    if isinstance(event, c.ScheduleAdded):
        if view is None:
            state.by_name[event.schedule] = _new(event, seq)
        return view is None
    if view is None:
        return False
    match event:
        case c.ScheduleChanged():
            _rule(view, event)
            view.changed_at, view.changed_by = event.at, event.requested_by
            view.changed_seq = seq
        case c.SchedulePaused():
            view.paused, view.paused_for = True, event.reason
        case c.ScheduleResumed():
            view.paused, view.paused_for = False, ""
            if instant(event.at) > instant(view.cursor):
                view.cursor = event.at
        case c.ScheduleRemoved():
            del state.by_name[event.schedule]
        case c.ScheduleFired(requested_by=by) if by or _counts(view, event, epoch):
            view.fired += 1
            if not by:
                view.cursor = event.planned
            what = ScheduleRun(
                planned=event.planned,
                what="by_hand" if by else "fired",
                task_id=event.task_id,
            )
            view.runs = [*view.runs[1 - RUNS_KEPT :], what]
        case c.ScheduleSkipped() if _counts(view, event, epoch):
            view.skipped += event.count
            view.cursor = event.until
            what = ScheduleRun(
                planned=event.planned,
                what=event.reason,
                task_id=event.task_id,
                until=event.until,
                count=event.count,
            )
            view.runs = [*view.runs[1 - RUNS_KEPT :], what]
        case _:
            return False
    return True


def _new(event: c.ScheduleAdded, seq: int) -> ScheduleView:
    return ScheduleView(
        **same(event, ScheduleView),
        description=event.task.description[:DESCRIPTION_SHOWN],
        tier=event.classification.effective_tier,
        added_at=event.at,
        added_by=event.requested_by,
        added_seq=seq,
        cursor=event.at,
    )


def _rule(view: ScheduleView, event: c.ScheduleRule) -> None:
    view.cron, view.tz = event.cron, event.tz
    view.missed, view.overlap = event.missed, event.overlap
    view.description = event.task.description[:DESCRIPTION_SHOWN]
    view.tier = event.classification.effective_tier


def _counts(
    view: ScheduleView, event: c.ScheduleFired | c.ScheduleSkipped, epoch: int
) -> bool:
    return (
        event.epoch == epoch
        and not view.paused
        and instant(event.planned) > instant(view.cursor)
    )


# -- answers ---------------------------------------------------------------------------


def answer(world: World, name: str | None, now: float) -> SchedulesAnswer:
    """Show the schedules, or one; `now` in epoch seconds."""
    views = sorted(world.schedules.by_name.items())
    return SchedulesAnswer(
        seq=world.position,
        schedules=[
            _row(view, world, now) for key, view in views if name in (None, key)
        ],
    )


def next_times(
    world: World, cron: str, tz: str, now: float, most: int
) -> PlannedAnswer:
    """Say when a schedule that is added at `now` (epoch seconds) would fire.

    Raises Malformed for `cron` or `tz`.
    """
    planned.check(cron, tz)
    times = islice(planned.instants(cron, tz, now), most)
    return PlannedAnswer(
        seq=world.position, next=[planned.in_utc(each) for each in times]
    )


def _row(view: ScheduleView, world: World, now: float) -> ScheduleRow:
    after = max(now, instant(view.cursor))
    times = planned.instants(view.cron, view.tz, after)
    shown = [] if view.paused else list(islice(times, NEXT_SHOWN))
    rows = same(view, ScheduleRow) | {
        "next": [planned.in_utc(each) for each in shown],
        "runs": [_run(each, world) for each in reversed(view.runs)],
    }
    return ScheduleRow(**rows)


def _run(run: ScheduleRun, world: World) -> RunRow:
    record = world.tasks.find(run.task_id) if run.task_id else None
    return RunRow(**asdict(run), state=record.phase if record is not None else "")


def graph(world: World, task_id: str) -> GraphAnswer:
    """Show what a task comes after and what comes after it, and so on, near ones first."""
    found: dict[str, TaskRecord] = {}
    left_out = False
    ahead = deque([task_id])
    while ahead:
        one = ahead.popleft()
        record = None if one in found else world.tasks.find(one)
        if record is None:
            continue
        if len(found) >= NODES_SHOWN:
            left_out = True
            break
        found[one] = record
        ahead += [each for each, _ in _before(record)]
        ahead.extend(record.followers)
    levels: dict[str, int] = {}
    for one in sorted(found, key=lambda each: found[each].seq):
        # Nothing stands in the log before what it comes after.
        above = [levels[each] + 1 for each, _ in _before(found[one]) if each in levels]
        levels[one] = max(above, default=0)
    return GraphAnswer(
        seq=world.position,
        task_id=task_id,
        nodes=[_node(record, levels[one], found) for one, record in found.items()],
        left_out=left_out,
    )


def _before(record: TaskRecord) -> Iterator[tuple[str, str]]:
    for how in ("after", "input_from", "after_any"):
        for each in getattr(record, how):
            yield each, how


def _node(record: TaskRecord, level: int, found: dict[str, TaskRecord]) -> GraphNode:
    before = {each: how for each, how in _before(record) if each in found}
    return GraphNode(
        task_id=record.id,
        name=record.name,
        description=record.description[:DESCRIPTION_SHOWN],
        state=record.phase,
        held=record.held and record.phase == "waiting",
        level=level,
        before=list(before),
        how=list(before.values()),  # type: ignore[arg-type]
    )
