"""A host that cannot take work: it is left alone, said, and taken again when it is well."""

from __future__ import annotations

from events import catalogue as c
from tests.support.world import World

FULL = "cannot persist: database or disk is full"


def beat_on(w: World, seconds: float, *, fault: str = "") -> None:
    for _ in range(int(seconds / 2)):
        w.beat("h1", fault=fault)
        w.wait(2.0)


def alerts(w: World) -> list[str]:
    kinds = (c.HostAlertRaised, c.HostAlertCleared)
    return [type(one).__name__ for one in w.events() if isinstance(one, kinds)]


def test_a_host_whose_beats_carry_a_fault_is_offered_nothing_until_they_do_not():
    w = World()
    w.join("h1")
    w.beat("h1", fault=FULL)
    w.shell("t1")
    beat_on(w, 60, fault=FULL)
    assert w.routes() == []
    w.beat("h1")
    assert len(w.routes("t1")) == 1


def test_a_fault_that_lasts_is_one_alert_and_ends_when_the_host_has_been_well():
    w = World()
    w.join("h1")
    beat_on(w, 8, fault=FULL)
    assert alerts(w) == []
    for _ in range(20):
        beat_on(w, 12, fault=FULL)
        beat_on(w, 12)
    assert alerts(w) == ["HostAlertRaised"]
    (raised,) = w.events(c.HostAlertRaised)
    assert (raised.host, raised.code, raised.text) == ("h1", "cannot_persist", FULL)
    beat_on(w, 62)
    assert alerts(w) == ["HostAlertRaised", "HostAlertCleared"]


def test_an_alert_about_a_host_outlives_the_leader_who_raised_it():
    w = World()
    w.join("h1")
    beat_on(w, 12, fault=FULL)
    w.scheduler.step_down()
    w.elect(2)
    beat_on(w, 12, fault=FULL)
    assert alerts(w) == ["HostAlertRaised"]
    w.host_says("h1", c.HostLeft, reason="stopped")
    w.wait(1)
    assert alerts(w) == ["HostAlertRaised", "HostAlertCleared"]


def test_a_host_that_refuses_again_and_again_is_asked_ever_more_seldom():
    w = World()
    w.join("h1", slots={"shell": 1})
    w.shell("t1")
    asked = 0
    for _ in range(600):
        if w.phase("t1") == "routed":
            asked += 1
            w.report("t1", c.TaskRejected, reason="journal")
        w.beat("h1")
        w.wait(1.0)
    assert 9 <= asked <= 14
    while w.phase("t1") != "routed":
        w.beat("h1")
        w.wait(1.0)
    w.run("t1")
    w.shell("t2")
    w.report("t2", c.TaskRejected, reason="busy")
    w.wait(0.6)
    assert len(w.routes("t2")) == 2


RETIRED = "Claude Sonnet 4.5 was retired on 2026-11-30"


def claude(notice: str = "") -> c.EndpointState:
    return c.EndpointState(endpoint="h1-claude", kind="claude", up=True, notice=notice)


def test_what_claude_says_of_its_model_is_one_alert_until_a_run_shows_none():
    w = World()
    w.join("h1", endpoints=[claude()])
    w.host_says("h1", c.EndpointChanged, state=claude(RETIRED))
    beat_on(w, 12)
    w.host_says("h1", c.EndpointChanged, state=claude(RETIRED + ", use another"))
    beat_on(w, 12)
    (raised,) = w.events(c.HostAlertRaised)
    assert (raised.host, raised.code, raised.text) == ("h1", "claude_model", RETIRED)
    w.host_says("h1", c.EndpointChanged, state=claude())
    beat_on(w, 12)
    assert alerts(w) == ["HostAlertRaised", "HostAlertCleared"]


def test_a_notice_about_the_model_ends_with_its_host():
    w = World()
    w.join("h1", endpoints=[claude(RETIRED)])
    beat_on(w, 12)
    w.host_says("h1", c.HostLeft, reason="stopped")
    w.wait(2)
    assert alerts(w) == ["HostAlertRaised", "HostAlertCleared"]
