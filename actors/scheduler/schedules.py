"""Schedules: when each fires next, and what becomes of times that were missed or overlap.

What is planned is fired by an event on the schedule's own subject, which expects that to
stand where the decider saw it. So a planned time is fired or skipped once, whoever leads.
The task is submitted when that event has come back from the log; its id follows from the
schedule and the time, and a leader that finds a firing without its task submits that.

Planned times are instants of the wall clock. The *cursor* of a schedule is the last one
that was dealt with: what the clock shows again because it was put back is not fired again.
A changed schedule goes by its new rule for what is planned later than the change; what the
rule before had planned until then is dealt with by that one.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from actors.scheduler.outputs import Decision, about_task
from events import catalogue as c
from events import planned, subjects
from events.codec import instant
from events.ids import derived

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actors.scheduler.leadership import Leadership
    from actors.scheduler.state import SchedulerState

MISSED_AFTER_S: Final = 60.0
"""A planned time that is over for longer was missed; else it is fired as planned."""
ALL_MOST: Final = 100
"""So many missed times are fired at most, the last ones, by a rule that says `all`."""
COUNTED: Final = 1_000
"""Skipped times are counted up to here."""
REMEMBERED: Final = 100
"""So many commands are remembered of each name, the last ones, also when it is removed."""
RECKONED_AT_ONCE: Final = 500
"""So many schedules' next times are reckoned in one turn: a turn must not take long."""


class RuleSpan(NamedTuple):
    """A rule of a schedule, for what is planned later than `since` and not later than `until`
    (Unix seconds, `inf`: for good)."""

    rule: c.ScheduleRule
    since: float
    until: float


class Schedule:
    """A schedule: its rule, and how far it is."""

    def __init__(self, added: c.ScheduleAdded, cursor: float) -> None:
        # The id of the event that added it: its tasks' ids follow from that.
        self.id = added.id
        self.rule: c.ScheduleRule = added
        # The rule is for what is planned later than this (Unix seconds).
        self.since = cursor
        # Rules before it by which something that was planned is still to be dealt with.
        self.earlier: list[RuleSpan] = []
        # The last planned time that was fired or skipped (Unix seconds).
        self.cursor = cursor
        self.paused = False
        # The task that it submitted last, "" for none.
        self.last_task = ""
        # The tasks that somebody let it submit beside what is planned, the last ones.
        self.by_hand: deque[str] = deque(maxlen=100)
        # The id of the decision about it that is on its way to the log.
        self.deciding = ""
        # When it fires next, as it stands in the heap.
        self.next_at: float | None = None

    def rule_at(self, time: float) -> RuleSpan:
        """Return the rule of a planned time (Unix seconds)."""
        for each in self.earlier:
            if time <= each.until:
                return each
        return RuleSpan(self.rule, self.since, math.inf)

    def next_time(self) -> float | None:
        """Reckon the planned time after the cursor (Unix seconds), None for none."""
        for rule, since, until in self.earlier:
            after = max(self.cursor, since)
            due = planned.next_after(rule.cron, rule.tz, after)
            if due is not None and due <= until:
                return due
        after = max(self.cursor, self.since)
        return planned.next_after(self.rule.cron, self.rule.tz, after)

    def passes(self, time: float) -> None:
        """Put the cursor on a time (Unix seconds); what is planned until then is over."""
        self.cursor = time
        self.earlier = [each for each in self.earlier if each.until > time]

    def changes(self, changed: c.ScheduleChanged) -> None:
        """Go by another rule from the whole second of the change on."""
        until = max(self.since, float(math.floor(instant(changed.at))))
        after = max(self.cursor, self.since)
        due = planned.next_after(self.rule.cron, self.rule.tz, after)
        if due is not None and due <= until:
            self.earlier.append(RuleSpan(self.rule, self.since, until))
        self.rule, self.since, self.next_at = changed, until, None


class Firing(NamedTuple):
    """A firing whose task is not in the log yet."""

    schedule: str
    rule: c.ScheduleRule
    fired: c.ScheduleFired


class Schedules:
    """All schedules, by name, and the heap of their next times (Unix seconds).

    `changed` are those whose next time is to be reckoned; a standby lets them lie. `firings`
    are those without a task, by the task's id; `submitting` of these are on their way.
    `seqs` says where each schedule's subject stands, of removed ones too: decisions expect
    it. `carried_out` are by name the commands that the log has of it, see `key_of`, each with
    the task that it submitted: so none is carried out twice, though what it added was removed
    since. `replaced` are tasks that are to be cancelled, by id, with the schedule's name.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, Schedule] = {}
        self.seqs: dict[str, int] = {}
        self.carried_out: dict[str, dict[str, str]] = {}
        self.heap: list[tuple[float, str]] = []
        self.changed: set[str] = set()
        self.firings: dict[str, Firing] = {}
        self.submitting: set[str] = set()
        self.replaced: dict[str, str] = {}

    def begin_anew(self) -> None:
        """Forget what an earlier leadership reckoned and sent."""
        self.heap.clear()
        self.submitting.clear()
        self.changed.update(self.by_name)
        for schedule in self.by_name.values():
            schedule.deciding, schedule.next_at = "", None

    def submitted(self, task_id: str) -> None:
        """Note that a task is in the log."""
        firing = self.firings.pop(task_id, None)
        if firing is not None:
            self.submitting.discard(task_id)
            if firing.schedule in self.by_name:
                self.changed.add(firing.schedule)

    def undecided(self, event: c.Event) -> None:
        """A decision was not stored."""
        if isinstance(event, c.ScheduleEvent):
            schedule = self.by_name.get(event.schedule)
            if schedule is not None and schedule.deciding == event.id:
                schedule.deciding = ""
                self.changed.add(event.schedule)
        elif isinstance(event, c.TaskSubmitted):
            self.submitting.discard(event.task_id)

    def next_wake(self) -> float | None:
        """When the next one is due (Unix seconds), None for never."""
        return self.heap[0][0] if self.heap else None

    @property
    def busy(self) -> bool:
        """Whether there is something to be done at once."""
        return bool(
            self.changed or self.replaced or len(self.submitting) < len(self.firings)
        )


def key_of(
    kind: type[c.Event], who: str, command_id: str | None, digest: str = ""
) -> str:
    """Return what makes a command about a schedule the same again, "" without an id: the
    event that it asks for, who gave it, its id, and a digest of the rule it asks for."""
    return derived(kind.__name__, who, command_id, digest) if command_id else ""


# -- the fold --------------------------------------------------------------------------


def fold_schedule(
    state: SchedulerState, name: str, recorded: c.Recorded
) -> Literal["applied", "void"]:
    """Fold an event of a schedule's subject."""
    event, all_of_them = recorded.event, state.schedules
    if not isinstance(event, c.ScheduleEvent) or event.schedule != name:
        return "void"
    all_of_them.seqs[name] = recorded.seq
    if event.command_id:
        _remember(all_of_them.carried_out.setdefault(name, {}), event)
    schedule = all_of_them.by_name.get(name)
    if schedule is not None:
        schedule.deciding = ""
        all_of_them.changed.add(name)
    if isinstance(event, c.ScheduleAdded):
        if schedule is not None:
            return "void"
        schedule = Schedule(event, instant(event.at))
        all_of_them.by_name[name] = schedule
        all_of_them.changed.add(name)
        return "applied"
    if schedule is None:
        return "void"
    return _applied(state, schedule, event)


def _remember(carried_out: dict[str, str], event: Any) -> None:
    """Note the command behind an event; the oldest one makes room."""
    digest = event.body_digest if isinstance(event, c.ScheduleRule) else ""
    key = key_of(type(event), event.requested_by, event.command_id, digest)
    carried_out[key] = event.task_id if isinstance(event, c.ScheduleFired) else ""
    if len(carried_out) > REMEMBERED:
        del carried_out[next(iter(carried_out))]


def _applied(
    state: SchedulerState, schedule: Schedule, event: c.ScheduleEvent
) -> Literal["applied", "void"]:
    match event:
        case c.ScheduleChanged():
            schedule.changes(event)
        case c.SchedulePaused():
            schedule.paused = True
        case c.ScheduleResumed():
            schedule.paused = False
            schedule.passes(max(schedule.cursor, instant(event.at)))
        case c.ScheduleRemoved():
            del state.schedules.by_name[event.schedule]
            state.schedules.changed.discard(event.schedule)
        case c.ScheduleFired() if event.requested_by or _counts(state, schedule, event):
            rule = schedule.rule
            if event.requested_by:
                schedule.by_hand.append(event.task_id)
            else:
                time = instant(event.planned)
                rule = schedule.rule_at(time).rule
                schedule.passes(time)
            schedule.last_task = event.task_id
            firing = Firing(event.schedule, rule, event)
            state.schedules.firings[event.task_id] = firing
            if event.replaces in state.tasks:
                state.schedules.replaced[event.replaces] = event.schedule
        case c.ScheduleSkipped() if _counts(state, schedule, event):
            schedule.passes(instant(event.until))
        case _:
            return "void"
    return "applied"


def _counts(
    state: SchedulerState,
    schedule: Schedule,
    event: c.ScheduleFired | c.ScheduleSkipped,
) -> bool:
    """Whether a leader's word about a planned time counts: its own, and once."""
    return (
        event.epoch == state.epochs.current
        and not schedule.paused
        and instant(event.planned) > schedule.cursor
    )


# -- decisions -------------------------------------------------------------------------


def decide_schedules(
    state: SchedulerState, lead: Leadership, now: float
) -> list[Decision]:
    """Fire or skip what is due, submit what was fired, cancel what is replaced."""
    schedules, wall = state.schedules, now + state.time.ahead_s
    _reckon(schedules)
    decisions = list(_due(state, lead, now, wall))
    for task_id in [t for t in schedules.firings if t not in schedules.submitting]:
        schedules.submitting.add(task_id)
        event = _submission(lead, now, schedules.firings[task_id])
        decisions.append(Decision(subjects.task(task_id), event, 0))
    for task_id, name in list(schedules.replaced.items()):
        live = state.tasks.get(task_id)
        if live is None or live.task.phase == "cancelling":
            del schedules.replaced[task_id]
        elif not live.deciding:
            cancelled = lead.write(
                now,
                c.TaskCancelled,
                task_id=task_id,
                reason=f"the next one of schedule {name} replaces it",
                requested_by="scheduler",
                generation=live.task.generation,
            )
            state.in_flight(live, cancelled)
            decisions.append(about_task(cancelled, live.task))
    return decisions


def _reckon(schedules: Schedules) -> None:
    """Reckon the next times of those that have changed; some now, the rest in turns to come."""
    for name in list(islice(schedules.changed, RECKONED_AT_ONCE)):
        schedules.changed.discard(name)
        one = schedules.by_name.get(name)
        if one is None or one.deciding or one.paused or _is_unsubmitted(schedules, one):
            continue
        one.next_at = one.next_time()
        if one.next_at is not None:
            heapq.heappush(schedules.heap, (one.next_at, name))


def _is_unsubmitted(schedules: Schedules, one: Schedule) -> bool:
    """Whether its last task is not in the log: no other comes before that."""
    return one.last_task in schedules.firings


def _due(
    state: SchedulerState, lead: Leadership, now: float, wall: float
) -> Iterator[Decision]:
    schedules = state.schedules
    while schedules.heap and schedules.heap[0][0] <= wall:
        due, name = heapq.heappop(schedules.heap)
        one = schedules.by_name.get(name)
        if one is None or one.next_at != due or one.deciding or one.paused:
            continue
        if _is_unsubmitted(schedules, one):
            continue
        one.next_at = None
        event = _missed(lead, one, due, now, wall) or _fire(state, lead, one, due, now)
        one.deciding = event.id
        yield Decision(subjects.schedule(name), event, schedules.seqs[name])


def _missed(
    lead: Leadership, one: Schedule, due: float, now: float, wall: float
) -> c.ScheduleSkipped | None:
    """Skip what was missed as its rule says; None where the time that is due is fired."""
    if due >= wall - MISSED_AFTER_S:
        return None
    rule, _, end = one.rule_at(due)
    cron, tz = rule.cron, rule.tz
    if rule.missed == "skip":
        until = min(wall - MISSED_AFTER_S, end)
    else:
        kept = 1 if rule.missed == "one" else ALL_MOST
        last = min(wall, end)
        following = planned.instants(cron, tz, due)
        if len([each for each in islice(following, kept) if each <= last]) < kept:
            return None
        first = last + 1.0
        for _ in range(kept):
            first = planned.last_before(cron, tz, first) or due
        until = first - 1.0
    return _skip(lead, rule, due, until, now, "missed")


def _skip(
    lead: Leadership,
    rule: c.ScheduleRule,
    due: float,
    until: float,
    now: float,
    reason: Literal["missed", "overlap"],
    task_id: str = "",
) -> c.ScheduleSkipped:
    """Skip the planned times from `due` to `until`."""
    count = 0
    for each in planned.instants(rule.cron, rule.tz, due - 1.0):
        if each > until or count >= COUNTED:
            break
        count += 1
    return lead.write(
        now,
        c.ScheduleSkipped,
        schedule=rule.schedule,
        planned=planned.in_utc(due),
        until=planned.in_utc(until),
        count=count,
        reason=reason,
        task_id=task_id,
    )


def _fire(
    state: SchedulerState, lead: Leadership, one: Schedule, due: float, now: float
) -> c.ScheduleFired | c.ScheduleSkipped:
    """Fire a planned time, unless the task before is not over and the rule is to skip."""
    before = one.last_task if one.last_task in state.tasks else ""
    rule = one.rule_at(due).rule
    if before and rule.overlap == "skip":
        return _skip(lead, rule, due, due, now, "overlap", before)
    return lead.write(
        now,
        c.ScheduleFired,
        schedule=rule.schedule,
        planned=planned.in_utc(due),
        task_id=derived("schedule", one.id, planned.in_utc(due)),
        waits_for=before if rule.overlap == "queue" else "",
        replaces=before if rule.overlap == "replace" else "",
    )


def _submission(lead: Leadership, now: float, firing: Firing) -> c.TaskSubmitted:
    """Write the submission of a firing's task."""
    rule, fired = firing.rule, firing.fired
    before = fired.waits_for or fired.replaces
    spec = rule.task
    if before:
        spec = msgspec.structs.replace(spec, after_any=[before])
    return lead.write(
        now,
        c.TaskSubmitted,
        task_id=fired.task_id,
        spec=spec,
        classification=rule.classification,
        submitter=rule.requested_by,
        mode=rule.mode,
        mode_reason=rule.mode_reason,
        prompt_tokens_estimate=rule.prompt_tokens_estimate,
        schedule=firing.schedule,
        planned=fired.planned,
    )
