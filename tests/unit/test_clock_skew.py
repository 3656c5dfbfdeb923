"""A host whose clock is off: it is said, and no figure has a difference of two clocks."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from events import catalogue as c
from events import subjects
from events.codec import instant, rfc3339
from projections.fleet import Beats
from projections.stats import between_ms
from projections.waiting import expires_at_of
from projections.world import fold
from tests.support.histories import History
from tests.support.world import World

HOUR = 3_600.0


def joined(w: World, ahead_s: float) -> None:
    event = c.HostJoined(
        **{**w.head(), "at": rfc3339(w.now + ahead_s)},
        host="h1", incarnation="i1", version="0", platform="linux", slots={"shell": 2},
    )  # fmt: skip
    w.store(subjects.host("h1"), event)
    w.turn()


def beat_on(w: World, beats: int, ahead_s: float) -> None:
    for _ in range(beats):
        w.beat("h1", ahead_s=ahead_s)
        w.wait(2.0)


def codes(w: World) -> list[tuple[str, str]]:
    kinds = (c.HostAlertRaised, c.HostAlertCleared)
    return [(type(e).__name__, e.code) for e in w.events() if isinstance(e, kinds)]


@pytest.mark.parametrize(
    ("ahead_s", "text"),
    [
        (HOUR, "its clock is 3600.0 s ahead of the scheduler's"),
        (-5.0, "its clock is 5.0 s behind the scheduler's"),
    ],
)
def test_a_clock_that_is_off_is_one_alert_until_it_is_right(ahead_s, text):
    w = World()
    joined(w, ahead_s)
    beat_on(w, 20, ahead_s)
    assert codes(w) == [("HostAlertRaised", "clock_skew")]
    assert w.events(c.HostAlertRaised)[0].text == text
    beat_on(w, 20, 0.1)
    assert codes(w)[1:] == [("HostAlertCleared", "clock_skew")]


def test_a_late_beat_is_no_clock_that_is_behind():
    w = World()
    joined(w, 0.0)
    for n in range(20):
        beat_on(w, 1, -3.0 if n % 2 else -0.01)
    assert codes(w) == []


@pytest.mark.parametrize(("ahead_s", "said"), [(HOUR, HOUR), (-HOUR, -HOUR), (0.1, 0)])
def test_a_route_says_how_far_its_hosts_clock_is_off(ahead_s, said):
    w = World()
    joined(w, ahead_s)
    beat_on(w, 3, ahead_s)
    w.shell("t1")
    assert w.routes("t1")[0].clock_ahead_s == said


@pytest.mark.parametrize("ahead_s", [HOUR, -HOUR])
def test_a_wait_is_measured_by_one_clock(ahead_s):
    history = History()
    history.join("h1")
    task = history.submit("something")
    route = history.route(task, clock_ahead_s=ahead_s)
    for say in (history.start, history.complete):
        say(route)
        recorded = history.recorded[-1]
        at = rfc3339(instant(recorded.event.at) + ahead_s)
        event = replace(recorded.event, at=at)
        history.recorded[-1] = replace(recorded, event=event)
    world = fold(history.recorded)
    record = world.tasks.find(task)
    assert 0 < between_ms(record.waiting_since, record.started_at) < 1_000
    assert 0 < between_ms(record.started_at, record.finished_at) < 1_000
    (waited,) = world.stats.wait_ms.values()
    assert 0 < waited.total_us < 1_000_000


@pytest.mark.parametrize("step_s", [86_400.0, -86_400.0])
def test_what_waits_expires_as_soon_as_it_would_without_the_step(step_s):
    history = History()
    history.elect(1)
    task = history.submit("something", ttl_s=60)
    before = fold(history.recorded)
    ends = expires_at_of(before.tasks.find(task), before.fleet)
    stepped = c.ClockStepped(
        **history.head("s1"), epoch=history.epoch, role="scheduler", name="s1",
        step_s=step_s,
    )  # fmt: skip
    history.say(subjects.SCHEDULER, stepped)
    world = fold(history.recorded)
    assert expires_at_of(world.tasks.find(task), world.fleet) == ends + step_s
    history.say(subjects.SCHEDULER, replace(stepped, epoch=history.epoch + 3))
    world = fold(history.recorded)
    assert expires_at_of(world.tasks.find(task), world.fleet) == ends + step_s


def test_the_hosts_page_knows_how_far_a_clock_is_off():
    history = History()
    history.join("h1")
    host = fold(history.recorded).fleet.hosts["h1"]
    beats = Beats()
    for n, wall in enumerate((1_000.0, 1_002.4, 1_004.01)):
        beat = c.Beat(
            host="h1", incarnation=host.incarnation, n=n,
            at=rfc3339(1_000 + 2 * n - HOUR), resources=c.Resources(),
        )  # fmt: skip
        assert beats.clock_ahead_s(host, 0.0) == (None if n == 0 else -HOUR)
        beats.note(beat, 0.0, wall)
    assert beats.clock_ahead_s(host, 500.0) is None
