"""Tasks that are not to start at once: held outside the queue, then released."""

from __future__ import annotations

from datetime import UTC, datetime

import click
import pytest

from actors.gateway.validate import check
from cli.client.spans import time_to_come
from events import catalogue as c
from events import subjects
from events.codec import instant, rfc3339
from events.errors import Malformed
from tests.support.world import START, World


def at(seconds: float) -> str:
    return rfc3339(START + seconds)


def releases(w: World) -> list[c.TaskReleased]:
    return [r.event for r in w.log if isinstance(r.event, c.TaskReleased)]


def test_a_delayed_task_is_routed_at_its_time_and_not_before():
    w = World()
    w.join("h1")
    w.shell("t1", at=at(7_200))
    w.beat_on(7_190, "h1")
    assert w.routes() == []
    w.beat_on(12, "h1")
    (routed,) = w.routes("t1")
    assert instant(routed.at) >= START + 7_200


def test_a_time_that_has_passed_is_no_reason_to_wait():
    w = World()
    w.join("h1")
    w.shell("t1", at=at(-5))
    assert len(w.routes("t1")) == 1


def test_it_does_not_age_while_it_is_held():
    w = World()
    w.join("h1", slots={"shell": 1})
    w.shell("first")
    w.report("first", c.TaskAccepted)
    w.shell("low", priority="low", at=at(620))
    w.shell("normal", at=at(630))
    w.beat_on(640, "h1")
    w.report("first", c.TaskCompleted, result=c.Result(status="success"))
    assert w.routes()[-1].task_id == "normal"


def test_its_release_is_in_the_log_and_survives_who_decided_it():
    w = World()
    w.join("h1")
    w.shell("t1", at=at(60))
    w.elect(2, "s2")
    w.wait(120)
    assert releases(w) == []
    w.elect(3)
    (released,) = releases(w)
    assert released.epoch == 3
    assert w.scheduler.state.queue.tasks.keys() | {r.task_id for r in w.routes()} == {
        "t1"
    }


def test_a_clock_that_is_put_forward_brings_its_time_nearer():
    w = World()
    w.join("h1")
    w.shell("t1", at=at(3_600))
    assert releases(w) == []
    step = c.ClockStepped(
        **w.head(), epoch=1, role="scheduler", name="s1", step_s=3_600
    )
    w.store(subjects.SCHEDULER, step)
    w.turn()
    assert len(releases(w)) == 1


def test_a_held_task_expires_at_its_deadline_and_can_be_cancelled():
    w = World()
    w.join("h1")
    w.shell("t1", at=at(600), deadline=at(60))
    w.shell("t2", at=at(600))
    w.store(subjects.task("t2"), c.TaskCancelled(**w.head(), task_id="t2"))
    w.wait(700)
    assert w.scheduler.state.tasks == w.scheduler.state.held.tasks == {}
    assert w.routes() == releases(w) == []


def test_a_routing_of_a_held_task_is_void():
    w = World()
    w.join("h1")
    w.shell("t1")
    (routed,) = w.routes("t1")
    w.shell("t2", at=at(600))
    w.store(
        subjects.task("t2"),
        c.TaskRouted(
            **{
                name: getattr(routed, name)
                for name in routed.__struct_fields__
                if name != "task_id"
            },
            task_id="t2",
        ),
    )
    assert w.scheduler.state.tasks["t2"].state.phase == "waiting"
    assert "t2" in w.scheduler.state.held.tasks


def test_a_deadline_before_the_start_is_refused():
    spec = c.TaskSpec(description="x", at=at(60), deadline=at(50))
    with pytest.raises(Malformed, match="deadline: expected a time after at"):
        check(spec, START)


@pytest.mark.parametrize("text", ["soon", "25:00", "2026-13-01", "18.30"])
def test_what_is_no_time_is_refused_with_what_would_be_one(text):
    with pytest.raises(click.BadParameter, match="18:30, tomorrow 9:00"):
        time_to_come(text)


def test_a_time_of_day_is_the_next_one_where_it_is_typed():
    now = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)

    def read(text: str) -> datetime:
        return datetime.fromisoformat(time_to_come(text, lambda: now)).astimezone()

    here = now.astimezone()
    for text in ("0:01", "23:59", f"{here:%H:%M}"):
        then = read(text)
        assert 0 < (then - here).total_seconds() <= 86_400
        hour, _, minute = text.partition(":")
        assert (then.hour, then.minute) == (int(hour), int(minute))
    assert read("tomorrow 9:00").date() > here.date()
