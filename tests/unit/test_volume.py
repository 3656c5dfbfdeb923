"""What hosts write is weighed: a flood is counted and named, work and late journals are not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from events.nats import volume
from events.nats.volume import BURST_S, BYTES_S, EVENTS_S, HostVolume


@pytest.fixture
def said(monkeypatch):
    said = []
    log = SimpleNamespace(warning=lambda _, **facts: said.append(facts["host"]))
    monkeypatch.setattr(volume, "_log", log)
    return said


def weighed(host, *, each, a_second, seconds, kind="run"):
    now = [0.0]
    seen = HostVolume(lambda: now[0])
    for n in range(int(a_second * seconds)):
        now[0] = n / a_second
        seen.weigh(
            f"agentcom.evt.{kind}.{host}" + (".t" if kind == "run" else ""), each
        )
    return seen.beyond


def test_a_busy_host_is_within_its_budget(said):
    assert not weighed("h1", each=4_000, a_second=EVENTS_S * 0.9, seconds=60)
    assert not weighed("h1", each=300, a_second=EVENTS_S * BURST_S, seconds=0.9)
    assert said == []


@pytest.mark.parametrize("kind", ["run", "host"])
def test_large_events_without_end_are_counted_and_named_once_a_minute(said, kind):
    beyond = weighed("h1", each=500_000, a_second=20, seconds=90, kind=kind)
    # 10 MB a second: the burst is used up after 8 s, then four of five are beyond.
    assert 1_000 < beyond["h1"] < 1_600
    assert said == ["h1", "h1"]


def test_many_small_events_are_counted_too(said):
    assert weighed("h2", each=10, a_second=EVENTS_S * 4, seconds=30)["h2"] > 1_000
    assert said == ["h2"]


def test_who_decides_has_no_budget(said):
    seen = HostVolume(lambda: 0.0)
    for _ in range(int(2 * BYTES_S * BURST_S / 500_000)):
        seen.weigh("agentcom.evt.task.t1", 500_000)
    assert not seen.beyond
    assert said == []
