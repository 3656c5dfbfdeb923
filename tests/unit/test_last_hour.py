"""How long tasks waited and ran in the last hour: as it happens, and looked up."""

from __future__ import annotations

import pytest

from projections.runner import Runner
from projections.store import Store
from tests.support.fakes import MemoryLog
from tests.support.histories import History, tell
from web.lasthour import LastHour

HOUR_S = 3_600


@pytest.fixture
def history() -> History:
    """Two tasks that ran in the first minutes, one an hour later."""
    history = History()
    history.join("h1")
    for later in (0, 60, HOUR_S):
        task = history.submit(tier="standard")
        history.now += 4
        route = history.route(task)
        history.start(route)
        history.complete(route)
        history.now += later
    return history


class Place:
    """A clock, and the last hour by it."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.stepped = 0.0
        self.hour = LastHour(lambda: self.now + self.stepped, lambda: self.now)

    def counted(self, kind: str) -> int:
        return self.hour.figures(kind).get("standard", {"n": 0})["n"]


async def follow(history: History, *, watched: LastHour | None = None) -> Runner:
    log = MemoryLog()
    last = await tell(log, history.recorded)
    runner = Runner(log, Store())
    if watched is not None:
        runner.watch(watched.take)
    await runner.start()
    assert await runner.wait_for(last, 60)
    return runner


@pytest.mark.parametrize("live", [True, False], ids=["live", "looked up"])
async def test_what_is_older_than_an_hour_does_not_count(history, live):
    place = Place(history.now - HOUR_S)
    runner = await follow(history, watched=place.hour if live else None)
    runner.save()
    if not live:
        await place.hour.look_back(runner, runner.position)
    assert place.counted("wait") == place.counted("run") == 3
    wait = place.hour.figures("wait")["standard"]
    assert wait["p50_ms"] == 4096.0 * 2
    assert sum(wait["counts"]) == 3

    place.now += HOUR_S - 30
    assert place.counted("wait") == place.counted("run") == 1
    place.now += HOUR_S
    assert place.hour.figures("wait") == place.hour.figures("run") == {}
    await runner.stop()


async def test_nothing_counts_twice_when_the_process_starts(history):
    place = Place(history.now - HOUR_S)
    runner = await follow(history)
    runner.save()
    upto = runner.position
    runner.watch(place.hour.take)
    task = history.submit(tier="standard")
    route = history.route(task)
    history.start(route)
    history.complete(route)
    last = await tell(runner._log, history.recorded[upto:])
    assert await runner.wait_for(last, 60)
    runner.save()
    await place.hour.look_back(runner, upto)
    assert place.counted("wait") == place.counted("run") == 4
    await runner.stop()


@pytest.mark.parametrize("by", [2 * HOUR_S, -2 * HOUR_S])
async def test_it_gets_old_evenly_wherever_the_clock_is_put(history, by):
    place = Place(history.now - HOUR_S)
    runner = await follow(history, watched=place.hour)
    before = place.counted("run")
    assert before
    place.stepped = by
    assert place.counted("run") == before
    place.now += 2 * HOUR_S
    assert place.counted("run") == 0
    await runner.stop()


async def test_the_hour_s_curves_say_how_many_ran_and_how_long_was_waited():
    history = History()
    history.now -= history.now % 60
    began = history.now
    history.join("h1")
    task = history.submit(tier="standard")
    history.now += 4
    route = history.route(task)
    history.start(route)
    history.now = began + 150
    history.complete(route, execution_ms=120_000.0)
    place = Place(began + 240)
    runner = await follow(history, watched=place.hour)
    curves = place.hour.curves([])
    busy = curves["busy"]["standard"]
    assert len(busy) == 60
    # It ran for two minutes up to the middle of the third; the latest is last.
    assert busy[-4:] == [0.5, 1.0, 0.5, 0.0]
    assert curves["hosts"] == {"h1": busy}
    assert curves["wait"]["standard"][-4:] == [8192.0, None, None, None]
    assert place.hour.curves([]) is curves
    # What runs now counts up to now, from the next minute on.
    other = history.submit(tier="standard")
    history.start(history.route(other))
    last = await tell(runner._log, history.recorded[-3:])
    assert await runner.wait_for(last, 60)
    place.now = began + 360
    running = list(runner.world.queue.under_way.values())
    assert place.hour.curves(running)["busy"]["standard"][-3:] == [1.0] * 3
    await runner.stop()
