"""Schedules: what is planned fires once, whoever leads and wherever the clocks stand."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from itertools import takewhile
from random import Random
from zoneinfo import ZoneInfo

import pytest

from actors.rules.classification import classify
from actors.scheduler import schedules
from actors.scheduler.decide import Scheduler
from events import catalogue as c
from events import planned, subjects
from events.codec import instant
from events.errors import Malformed
from events.lifecycle import FINAL
from projections.schedules import answer, next_times
from projections.world import fold
from tests.support.world import START, World

pytest.importorskip("cronsim", reason="this environment is older than its checkout")

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
TASK = c.TaskSpec(description="report", shell=c.Shell("true"))


def local(text: str, tz: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz)).timestamp()


def clocks(cron: str, tz: str, day: str) -> list[str]:
    """The times of a day at which it fires, before seven, as clocks there show them."""
    zone, begin = ZoneInfo(tz), local(day, tz) - 1
    found = takewhile(
        lambda t: t < local(f"{day}T07:00", tz), planned.instants(cron, tz, begin)
    )
    return [datetime.fromtimestamp(each, zone).strftime("%H:%M%z") for each in found]


@pytest.mark.parametrize(
    ("cron", "tz", "day", "expected"),
    [
        ("30 2 * * *", BERLIN, "2026-03-29", ["03:00+0200"]),
        ("30 2 * * *", BERLIN, "2026-10-25", ["02:30+0200"]),
        ("30 2 * * *", NEW_YORK, "2026-03-08", ["03:00-0400"]),
        ("30 1 * * *", NEW_YORK, "2026-11-01", ["01:30-0400"]),
        ("0 3 * * *", BERLIN, "2026-10-25", ["03:00+0100"]),
        ("0 6 * * mon-fri", BERLIN, "2026-10-25", []),
    ],
)
def test_a_time_of_day_comes_once_though_its_hour_is_left_out_or_comes_twice(
    cron, tz, day, expected
):
    assert clocks(cron, tz, day) == expected


@pytest.mark.parametrize(
    ("tz", "day", "hours"),
    [
        (BERLIN, "2026-03-29", 6),
        (BERLIN, "2026-10-25", 8),
        (NEW_YORK, "2026-03-08", 6),
        (NEW_YORK, "2026-11-01", 8),
    ],
)
def test_what_comes_every_minute_comes_in_every_minute_there_is(tz, day, hours):
    found = clocks("* * * * *", tz, day)
    assert len(found) == len(set(found)) == hours * 60


@pytest.mark.parametrize(
    ("cron", "tz", "said"),
    [
        ("0 3 * *", "UTC", "cron: expected five fields"),
        ("0 25 * * *", "UTC", "Bad hour"),
        ("0 0 30 2 *", "UTC", "Bad day"),
        ("0 3 * * *", "Mars/Olympus", "tz: expected a time zone such as"),
        ("0 3 * * *", "../../etc/passwd", "tz: expected a time zone such as"),
        ("0 0 3 * * *", "UTC", "cron: expected minute and hour that begin with"),
    ],
)
def test_what_names_no_time_is_refused(cron, tz, said):
    with pytest.raises(Malformed, match=said):
        planned.check(cron, tz)


# -- firing ----------------------------------------------------------------------------


def add(w: World, name: str = "s", cron: str = "* * * * *", tz="UTC", **rules) -> None:
    w.store(
        subjects.schedule(name),
        c.ScheduleAdded(
            **w.head(),
            schedule=name,
            cron=cron,
            tz=tz,
            task=TASK,
            classification=classify(TASK),
            **rules,
        ),
    )
    w.turn()


def fired(w: World, name: str = "s") -> list[c.ScheduleFired]:
    return [each for each in w.events(c.ScheduleFired) if each.schedule == name]


def skipped(w: World, name: str = "s") -> list[c.ScheduleSkipped]:
    return [each for each in w.events(c.ScheduleSkipped) if each.schedule == name]


def take_over(w: World) -> None:
    """Another process leads, which knows the log and nothing else."""
    elections = len(w.events(c.SchedulerElected))
    w.scheduler = Scheduler("s1", lambda: w.head()["id"])
    for recorded in w.log:
        w.scheduler.fold(recorded)
    event = c.SchedulerElected(**w.head(), epoch=elections + 1, name="s1")
    w.store(subjects.SCHEDULER, event)
    w.scheduler.lead(elections + 1, w.now)


def over(w: World, task_id: str) -> None:
    w.store(subjects.task(task_id), c.TaskCancelled(**w.head(), task_id=task_id))


def test_each_planned_time_is_an_event_and_a_task():
    w = World()
    add(w)
    w.wait(190)
    times = [instant(each.planned) for each in fired(w)]
    assert times == [START // 60 * 60 + 60 * n for n in (1, 2, 3)]
    tasks = w.events(c.TaskSubmitted)
    assert [t.task_id for t in tasks] == [each.task_id for each in fired(w)]
    assert {(t.schedule, t.planned) for t in tasks} == {
        ("s", each.planned) for each in fired(w)
    }


def test_a_firing_whose_task_is_not_there_is_submitted_by_who_leads_next():
    w = World()
    add(w)
    w.now = w.scheduler.next_wake()
    (decision,) = w.scheduler.decide(w.now)
    w.take(decision)
    assert w.events(c.TaskSubmitted) == []
    take_over(w)
    w.turn()
    assert len(fired(w)) == len(w.events(c.TaskSubmitted)) == 1


def test_a_clock_that_is_put_back_fires_nothing_again():
    w = World()
    add(w)
    w.wait(130)
    step = c.ClockStepped(
        **w.head(), epoch=1, role="scheduler", name="s1", step_s=-120.0
    )
    w.store(subjects.SCHEDULER, step)
    w.wait(110)
    assert len(fired(w)) == 2
    w.wait(80)
    assert len({each.planned for each in fired(w)}) == len(fired(w)) == 3


@pytest.mark.parametrize(("rule", "fires"), [("skip", 0), ("one", 1), ("all", 3)])
def test_what_was_missed_goes_by_its_rule(rule, fires):
    w = World()
    add(w, cron="*/5 * * * *", missed=rule)
    w.now = START // 300 * 300 + 1_020  # two minutes after the third
    w.turn()
    assert len(fired(w)) == fires
    assert sum(each.count for each in skipped(w)) == 3 - fires
    if fires:
        assert instant(fired(w)[-1].planned) == w.now - 120
    w.wait(180)
    assert len(fired(w)) == fires + 1


@pytest.mark.parametrize(("rule", "fires"), [("skip", 1), ("one", 1), ("all", 3)])
def test_a_time_of_this_minute_makes_up_for_those_missed_before(rule, fires):
    w = World()
    add(w, cron="*/5 * * * *", missed=rule)
    w.now = START // 300 * 300 + 930  # half a minute after the third
    w.turn()
    assert instant(fired(w)[-1].planned) == w.now - 30
    assert len(fired(w)) == fires
    assert sum(each.count for each in skipped(w)) == 3 - fires


def test_of_all_that_was_missed_the_last_hundred_are_fired():
    w = World()
    add(w, missed="all")
    w.now = START // 60 * 60 + 150 * 60
    while decided := w.scheduler.decide(w.now):
        for decision in decided:
            w.take(decision)
    assert len(fired(w)) == schedules.ALL_MOST
    (skip,) = skipped(w)
    assert skip.count == 50


@pytest.mark.parametrize("rule", ["skip", "queue", "replace"])
def test_a_task_that_is_not_over_goes_by_the_rule_of_overlap(rule):
    w = World()
    add(w, overlap=rule)
    w.wait(130)
    first = fired(w)[0].task_id
    live = w.scheduler.state.tasks
    if rule == "skip":
        assert [each.task_id for each in skipped(w)] == [first]
        assert list(live) == [first]
        over(w, first)
        w.wait(60)
        assert len(fired(w)) == 2
        return
    second = fired(w)[1]
    (submitted,) = [e for e in w.events(c.TaskSubmitted) if e.task_id == second.task_id]
    assert submitted.spec.after_any == [first]
    if rule == "queue":
        assert second.waits_for == first
        assert live[second.task_id].task.held
        over(w, first)
        w.turn()
    else:
        assert second.replaces == first
        assert first not in live
    assert not live[second.task_id].task.held


def test_a_paused_schedule_fires_nothing_and_leaves_out_what_it_slept_through():
    w = World()
    add(w, missed="all")
    w.store(subjects.schedule("s"), c.SchedulePaused(**w.head(), schedule="s"))
    w.wait(600)
    w.store(subjects.schedule("s"), c.ScheduleResumed(**w.head(), schedule="s"))
    w.wait(60)
    assert len(fired(w)) == 1
    w.store(subjects.schedule("s"), c.ScheduleRemoved(**w.head(), schedule="s"))
    w.wait(300)
    assert len(fired(w)) == 1
    add(w)
    w.wait(60)
    assert len({each.task_id for each in fired(w)}) == 2


def change(w: World, cron: str = "* * * * *", **about) -> None:
    """Change the schedule `s`, and let nobody decide anything yet."""
    task = c.TaskSpec(description="another report", shell=c.Shell("true"))
    w.store(
        subjects.schedule("s"),
        c.ScheduleChanged(
            **w.head(),
            schedule="s",
            cron=cron,
            tz="UTC",
            task=task,
            classification=classify(task),
            **about,
        ),
    )


def when_and_what(w: World) -> list[tuple[float, str]]:
    """The times that were fired, in minutes after the start, and what was submitted."""
    begin = START // 60 * 60
    return [
        ((instant(each.planned) - begin) / 60, each.spec.description)
        for each in w.events(c.TaskSubmitted)
        if each.schedule
    ]


def test_a_changed_schedule_fires_by_the_new_rule_from_the_change_on():
    w = World()
    add(w, cron="*/2 * * * *")
    w.wait(130)
    change(w, "*/3 * * * *")
    w.wait(600)
    clock = START // 60
    old = [(n, "report") for n in (1, 2) if (clock + n) % 2 == 0]
    new = [(n, "another report") for n in range(3, 13) if (clock + n) % 3 == 0]
    assert when_and_what(w) == old + new
    (row,) = answer(fold(w.log), "s", w.now).schedules
    assert (row.cron, row.description) == ("*/3 * * * *", "another report")
    assert row.changed_seq > row.added_seq > 0
    # It is the same schedule: its last runs stand with it.
    assert row.fired == len(row.runs) == len(old + new)


def test_a_rule_between_two_changes_is_for_what_is_planned_between_them():
    w = World()
    add(w, cron="*/10 * * * *", missed="all", overlap="queue")
    # Nobody leads for three minutes, and it is changed at their first and their third.
    w.now = START // 60 * 60 + 60 * (10 - START // 60 % 10) + 61
    w.turn()
    before = when_and_what(w)
    w.now += 120
    change(w, "* * * * *", missed="all", overlap="queue")
    changed = w.now
    w.now += 120
    change(w, "0 0 1 1 *")
    w.turn()
    w.wait(60)
    later = when_and_what(w)[len(before) :]
    first = int(changed // 60 - START // 60) + 1
    assert [n for n, _ in later] == [first, first + 1]


@pytest.mark.parametrize("dies", [False, True])
def test_what_was_due_before_a_change_is_dealt_with_by_the_rule_before(dies):
    w = World()
    add(w, missed="all", overlap="queue")
    # Nobody leads for three minutes and a half; meanwhile it is changed twice.
    w.now = START // 60 * 60 + 150
    change(w, "0 0 1 1 *", overlap="replace")
    w.now += 60
    change(w, missed="skip")
    w.now += 5
    if dies:
        take_over(w)
    w.turn()
    w.wait(60)
    assert when_and_what(w) == [
        (1, "report"),
        (2, "report"),
        (4, "another report"),
    ]
    assert skipped(w) == []
    first, second, _ = fired(w)
    assert second.waits_for == first.task_id
    assert w.scheduler.state.schedules.by_name["s"].earlier == []


@pytest.mark.parametrize(("rule", "left_out"), [("skip", 3), ("one", 2)])
def test_what_is_left_out_by_the_rule_before_ends_with_the_change(rule, left_out):
    w = World()
    add(w, missed=rule)
    w.now = START // 60 * 60 + 190
    change(w, missed="all")
    w.now += 150
    w.turn()
    assert [(each.count, each.reason) for each in skipped(w)] == [(left_out, "missed")]
    old = [(3, "report")] if rule == "one" else []
    assert when_and_what(w) == [*old, (4, "another report"), (5, "another report")]


def test_a_paused_schedule_that_is_changed_stays_paused():
    w = World()
    add(w)
    w.store(subjects.schedule("s"), c.SchedulePaused(**w.head(), schedule="s"))
    w.wait(100)
    change(w, missed="all")
    w.wait(100)
    assert fired(w) == []
    w.store(subjects.schedule("s"), c.ScheduleResumed(**w.head(), schedule="s"))
    w.wait(60)
    assert [what for _, what in when_and_what(w)] == ["another report"]


def test_a_time_that_the_old_rule_had_ready_is_not_fired_after_the_change(monkeypatch):
    """Many are changed at once, and reckoned in turns: what was reckoned before is stale."""
    w = World()
    add(w)
    monkeypatch.setattr(schedules, "RECKONED_AT_ONCE", 0)
    change(w, "0 0 1 1 *")
    w.wait(600)
    assert fired(w) == []


def test_a_deposed_leaders_firing_is_void():
    w = World()
    add(w)
    w.elect(2, "s2")
    event = c.ScheduleFired(
        **w.head(),
        schedule="s",
        planned=planned.in_utc(START + 60),
        task_id="T",
        epoch=1,
    )
    w.store(subjects.schedule("s"), event)
    assert w.scheduler.state.schedules.firings == {}


def test_ten_thousand_schedules_cost_nothing_while_none_is_due(monkeypatch):
    w = World()
    for n in range(10_000):
        about = {"schedule": f"s{n}", "cron": f"{n % 60} 3 1 1 *", "tz": BERLIN}
        event = c.ScheduleAdded(
            **w.head(), **about, task=TASK, classification=classify(TASK)
        )
        recorded = c.Recorded(w.log[-1].seq + 1 + n, subjects.schedule(f"s{n}"), event)
        w.scheduler.fold(recorded)
    turns = 0
    while w.scheduler.state.schedules.changed:
        w.scheduler.decide(w.now)
        turns += 1
    assert turns == 10_000 / schedules.RECKONED_AT_ONCE
    reckoned: list[str] = []
    monkeypatch.setattr(planned, "next_after", lambda cron, *_: reckoned.append(cron))
    for _ in range(100):
        w.now += 1.0
        assert w.scheduler.decide(w.now) == []
    assert reckoned == []
    assert w.scheduler.next_wake() > START + 86_400


@pytest.mark.parametrize(
    ("tz", "day"),
    [
        (BERLIN, "2026-03-28"),
        (BERLIN, "2026-10-24"),
        (NEW_YORK, "2026-03-07"),
        (NEW_YORK, "2026-10-31"),
    ],
)
def test_every_planned_time_of_a_night_of_kills_is_fired_once_or_skipped_by_its_rule(
    tz, day
):
    night(tz, day)


def test_an_hour_that_comes_twice_and_is_fired_twice_is_found(monkeypatch):
    """The night above finds it, planted."""
    instants = planned.instants
    monkeypatch.setattr(
        planned, "instants", lambda cron, *when: instants(f"0 {cron}", *when)
    )
    with pytest.raises(AssertionError):
        night(BERLIN, "2026-10-24")


def night(tz: str, day: str) -> None:
    """Play a night from before midnight on, with leaders that die; look at all of it."""
    begin, end = local(f"{day}T23:40", tz), local(f"{day}T23:40", tz) + 4.5 * 3_600
    chance = Random(f"{tz} {day}")
    w = World()
    w.now = begin
    take_over(w)
    rules = {
        "all": {"missed": "all", "overlap": "queue"},
        "one": {"missed": "one", "overlap": "replace"},
        "skip": {"missed": "skip", "overlap": "skip"},
    }
    for name, rule in rules.items():
        add(w, name, tz=tz, **rule)
    add(w, "nightly", "30 2 * * *", tz, missed="one")
    while w.now < end:
        due = w.scheduler.next_wake()
        w.now = min(max(w.now + 0.01, due or 0), w.now + 45)
        for task_id in list(w.scheduler.state.tasks):
            if chance.random() < 0.3:
                over(w, task_id)
        dies = chance.random() < 0.06
        for decision in w.scheduler.decide(w.now):
            if dies and chance.random() < 0.4:
                break
            w.take(decision)
        if dies:
            w.now += chance.choice((1, 20, 300)) * chance.random()
            take_over(w)
    w.turn()
    for name in (*rules, "nightly"):
        cron = "30 2 * * *" if name == "nightly" else "* * * * *"
        every = planned.instants(cron, tz, begin)
        times = list(takewhile(lambda t: t <= end - 400, every))
        fires = Counter(instant(each.planned) for each in fired(w, name))
        assert set(fires.values()) == {1}
        spans = [(instant(s.planned), instant(s.until)) for s in skipped(w, name)]
        for time in times:
            covered = sum(first <= time <= last for first, last in spans)
            assert (fires[time], covered) in ((1, 0), (0, 1)), (name, time)
    tasks = Counter(each.task_id for each in w.events(c.TaskSubmitted) if each.schedule)
    assert tasks == Counter(each.task_id for each in w.events(c.ScheduleFired))
    assert len(fired(w, "nightly")) == 1
    assert not any(s.reason == "missed" for s in skipped(w, "all"))
    assert all(t.task.phase not in FINAL for t in w.scheduler.state.tasks.values())


def test_people_are_shown_the_next_ten_times_and_the_last_runs():
    w = World()
    add(w, overlap="skip", tz=BERLIN)
    w.wait(130)
    (row,) = answer(fold(w.log), "s", w.now).schedules
    assert (row.fired, row.skipped, len(row.next)) == (1, 1, 10)
    assert instant(row.next[0]) == START // 60 * 60 + 180
    assert [(run.what, run.state) for run in row.runs] == [
        ("overlap", "waiting"),
        ("fired", "waiting"),
    ]
    w.store(subjects.schedule("s"), c.SchedulePaused(**w.head(), schedule="s"))
    (row,) = answer(fold(w.log), None, w.now).schedules
    assert (row.paused, row.next) == (True, [])


def test_when_a_schedule_would_fire_is_said_before_there_is_one():
    begin = local("2026-03-28T12:00", BERLIN)
    said = next_times(fold([]), "0 3 * * *", BERLIN, begin, 2).next
    assert said == ["2026-03-29T01:00:00Z", "2026-03-30T01:00:00Z"]
    with pytest.raises(Malformed) as wrong:
        next_times(fold([]), "0 25 * * *", BERLIN, begin, 2)
    assert wrong.value.path == "cron"
