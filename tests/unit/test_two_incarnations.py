"""One host, two processes: mail names its incarnation, and the later one has to leave."""

from __future__ import annotations

from events import catalogue as c
from events.mail import Evict
from tests.support.world import World


def evicted(w: World) -> set[str]:
    return {m.message.incarnation for m in w.mail if isinstance(m.message, Evict)}


def test_an_assignment_names_the_incarnation_that_it_was_routed_to():
    w = World()
    w.join("h1", "i7")
    w.shell("t1")
    (mail,) = w.assigned("t1")
    assert mail.message.incarnation == "i7"


def test_two_incarnations_that_beat_in_turns_are_an_alert_and_the_later_one_leaves():
    w = World()
    w.join("h1", "i1")
    w.join("h1", "i2")
    for _ in range(6):
        for incarnation in ("i1", "i2"):
            w.beat("h1", incarnation)
            w.wait(1.0)
    assert evicted(w) == {"i2"}
    (raised,) = w.events(c.HostAlertRaised)
    assert raised.code == "two_incarnations"
    assert "i1 and i2" in raised.text
    w.host_says("h1", c.HostLeft, incarnation="i2", reason="told to")
    w.join("h1", "i1")
    for _ in range(70):
        w.beat("h1", "i1")
        w.wait(1.0)
    assert len(w.events(c.HostAlertCleared)) == 1


def test_which_one_was_first_is_not_forgotten_when_it_joins_again():
    w = World()
    w.join("h1", "i1")
    for _ in range(4):
        w.join("h1", "i2")
        w.wait(1.0)
        w.join("h1", "i1")
        w.wait(1.0)
    assert evicted(w) == {"i2"}


def test_a_restart_and_a_late_beat_of_the_process_before_it_are_no_conflict():
    w = World()
    w.join("h1", "i1")
    for number in range(2, 12):
        w.join("h1", f"i{number}")
        w.beat("h1", f"i{number - 1}")
        for _ in range(40):
            w.beat("h1", f"i{number}")
            w.wait(2.0)
    assert evicted(w) == set()
    assert w.events(c.HostAlertRaised) == []
