"""Routes that are over without a result: another one follows, or the dead letter.

A route ends because its host says so, because its run is gone (`hosts`), or because
nobody accepted it in time. What the end was is kept in `SchedulerState.ended` until a
decision about it is in the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from actors.scheduler.live import RouteEnd
from actors.scheduler.outputs import Decision, about_task
from events import catalogue as c
from events.lifecycle import FINAL

if TYPE_CHECKING:
    from actors.lifecycle import TaskState
    from actors.scheduler.leadership import Leadership
    from actors.scheduler.live import LiveTask
    from actors.scheduler.state import SchedulerState

NOT_ACCEPTED: Final = "not accepted"
"""Why a route ended that its host did not accept in time. If the host accepts it after
all, before anything is decided, the route goes on."""


def note_unaccepted(state: SchedulerState, lead: Leadership, now: float) -> None:
    """End the routes that their hosts have not accepted in time."""
    limit = state.policy.accept_timeout_s
    while lead.unaccepted and lead.unaccepted[0].since + limit <= now:
        _, task_id, route = lead.unaccepted.popleft()
        live = state.tasks.get(task_id)
        if live is None or live.task.route != route or live.task.phase != "routed":
            continue
        host = live.task.host
        detail = f"{host} did not accept it in {limit:g} s"
        state.ended.setdefault(task_id, RouteEnd(NOT_ACCEPTED, detail, host))


def decide_ended(state: SchedulerState, lead: Leadership, now: float) -> list[Decision]:
    """Decide what follows the routes that are over."""
    decisions = []
    for task_id, end in list(state.ended.items()):
        live = state.tasks.get(task_id)
        if live is None or live.task.phase in ("waiting", *FINAL):
            del state.ended[task_id]
            continue
        if live.deciding:
            continue
        del state.ended[task_id]
        if end.reason != NOT_ACCEPTED or live.task.phase == "routed":
            decisions.append(_decide(state, lead, live, end, now))
    return decisions


def decide_used_up(
    state: SchedulerState, lead: Leadership, live: LiveTask, now: float
) -> Decision | None:
    """Decide the end of a waiting task that has no attempt left, None if it has one.

    It waits because its last route was requeued; behind that in the log came the host's
    report of the run, which counted as an attempt too.
    """
    if not is_used_up(live.task, live.task.attempts):
        return None
    return _decide(state, lead, live, RouteEnd("attempts used up"), now)


def _decide(
    state: SchedulerState, lead: Leadership, live: LiveTask, end: RouteEnd, now: float
) -> Decision:
    event = after_route(live.task, end, lead, now)
    state.in_flight(live, event)
    return about_task(event, live.task)


def after_route(
    task: TaskState, end: RouteEnd, lead: Leadership, now: float
) -> c.TaskRequeued | c.TaskDeadLettered | c.TaskAbandoned:
    """Decide what follows a route that is over: another one, or the dead letter.

    A task that is being cancelled is taken for cancelled.
    """
    about = {
        "task_id": task.task_id,
        "route": task.route,
        "generation": task.generation,
        "reason": end.reason,
    }
    if task.phase == "cancelling":
        return lead.write(now, c.TaskAbandoned, **about, host=task.host)
    attempts = task.attempts + end.counts
    if is_used_up(task, attempts):
        return lead.write(
            now, c.TaskDeadLettered, **about, attempts=attempts, detail=end.detail
        )
    return lead.write(
        now,
        c.TaskRequeued,
        **about,
        detail=end.detail,
        exclude=end.exclude,
        counts_as_attempt=end.counts,
    )


def is_used_up(task: TaskState, attempts: int) -> bool:
    """Whether a task with so many attempts behind it has none left."""
    return attempts >= task.max_attempts


def end_behind(event: c.TaskEvent, route: str) -> RouteEnd | None:
    """Return the end from which `after_route` made an event, to decide about it again.

    None if the event is not about the end of this route.
    """
    match event:
        case c.TaskRequeued() if event.route == route:
            counts = event.counts_as_attempt
            return RouteEnd(event.reason, event.detail, event.exclude, counts)
        case c.TaskDeadLettered() | c.TaskAbandoned() if event.route == route:
            return RouteEnd(event.reason)
        case _:
            return None
