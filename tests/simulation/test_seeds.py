"""Five hundred worlds, each from its seed; and the simulator held to its own promises."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.simulation.loop import Process, SimLoop, Stuck
from tests.simulation.many import seeds_of
from tests.simulation.plan import FAULTS
from tests.simulation.simulation import Simulation, play

ROOT = Path(__file__).parents[2]
SEEDS = 500
AT_ONCE = 50


class Tried(NamedTuple):
    """What was tried in a world, and what was wrong with it."""

    broken: str
    faults: frozenset[str]
    slept: frozenset[str]
    verdicts: frozenset[str]
    said: frozenset[str]
    begun_with_a_checkpoint: int


@cache
def tried_in(seed: int) -> Tried:
    """Play a seed's world once for all tests."""
    world = Simulation(seed)
    outcome = world.run()
    return Tried(
        "" if outcome.broken is None else outcome.report(),
        frozenset(world.plan.faults),
        frozenset(step.whom for step in world.sleeps),
        frozenset(outcome.seen),
        frozenset(r.event.__class__.__name__ for r in world.server.entries),
        world.kept.used if world.kept is not None else 0,
    )


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_seeds_run_clean(first):
    for seed in range(first, first + AT_ONCE):
        if broken := tried_in(seed).broken:
            pytest.fail(broken, pytrace=False)


def test_a_seed_gives_the_same_history_again_in_another_process():
    said = "from tests.simulation.simulation import play; print(play({}).digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", said.format(7)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hashing, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hashing in ("0", "1", "4242")
    }
    play(3)
    assert digests == {play(7).digest}


def test_the_seeds_try_every_kind_of_fault_and_every_kind_of_end():
    worlds = [tried_in(seed) for seed in range(100)]
    said = frozenset[str]().union(*(each.said for each in worlds))
    assert sum(each.begun_with_a_checkpoint for each in worlds) >= 10
    assert set().union(*(each.faults for each in worlds)) == set(FAULTS)
    slept = set().union(*(each.slept for each in worlds))
    assert slept >= {"s1", "s2", "all", "h1", "h2"}
    verdicts = set().union(*(each.verdicts for each in worlds))
    assert verdicts == {"applied", "repeat", "void"}
    assert said >= {
        "TaskRouted", "TaskRequeued", "TaskRejected", "TaskReturned", "TaskStopped",
        "TaskCompleted", "TaskFailed", "TaskExpired", "TaskCancelled", "TaskRetried",
        "TaskReassigned", "TaskDeadLettered", "TaskDeferred", "HostLost",
        "HostRecovered", "HostLeft", "TierDown", "TierUp", "TierLimited",
        "AlertRaised", "AlertCleared", "EndpointUp", "EndpointDown",
        "SchedulerElected", "PolicyChanged",
    }  # fmt: skip


def test_a_failing_seed_tells_how_to_see_it_again(monkeypatch):
    from actors.scheduler.places import Place

    monkeypatch.setattr(Place, "is_in", lambda self, barred: False)
    outcome = next(o for o in map(play, range(100)) if o.broken is not None)
    report = outcome.report()
    assert f"make simulate SEEDS={outcome.seed}" in report
    assert str(outcome.broken) in report
    assert "task.routed" in report


def test_seeds_are_written_alone_as_a_range_or_as_a_list():
    assert seeds_of("1234") == [1234]
    assert seeds_of("3,7,10..13") == [3, 7, 10, 11, 12]


# -- the loop under it -----------------------------------------------------------------


def test_time_passes_only_when_nothing_is_ready():
    loop = SimLoop()
    seen: list[float] = []

    async def wait() -> None:
        await asyncio.sleep(3600)
        seen.append(loop.time())

    Process(loop, "p").spawn(wait())
    loop.run(until=4000, done=lambda: bool(seen))
    assert seen == [3600]
    loop.close()


def test_a_frozen_process_does_everything_later_and_a_killed_one_nothing():
    loop = SimLoop()
    said: list[tuple[str, float]] = []
    processes = {name: Process(loop, name) for name in ("free", "frozen", "killed")}

    async def work(name: str) -> None:
        await asyncio.sleep(1)
        said.append((name, loop.time()))

    for name, process in processes.items():
        process.spawn(work(name))
    loop.call_at(0.5, processes["frozen"].freeze)
    loop.call_at(0.5, processes["killed"].kill)
    loop.call_at(5.0, processes["frozen"].thaw)
    loop.call_at(6.0, said.append, ("end", 6.0))
    loop.run(until=6.0, done=lambda: len(said) == 3)
    assert said == [("free", 1.0), ("frozen", 5.0), ("end", 6.0)]
    loop.drain()
    loop.close()


@pytest.mark.parametrize("clock_moved", [True, False])
def test_a_suspended_process_has_its_own_timers_later_and_its_mail_when_it_wakes(
    clock_moved,
):
    loop = SimLoop()
    said: list[tuple[str, float, float, float]] = []
    process = Process(loop, "p")

    def say(what: str) -> None:
        wall = process.clock() - 1_700_000_000
        said.append((what, loop.elapsed(), loop.time(), wall))

    async def work() -> None:
        await asyncio.sleep(3)
        say("timer")
        async with asyncio.timeout(1):
            await asyncio.sleep(0.5)
        say("end")

    process.spawn(work())
    loop.call_at(2, say, "mail", context=process.context)
    loop.call_at(1, process.suspend)
    loop.call_at(11, lambda: process.resume(clock_moved=clock_moved))
    loop.run(until=20, done=lambda: len(said) == 3)
    wall = 0 if clock_moved else -10
    assert said == [
        ("mail", 11, 1, 11 + wall),
        ("timer", 13, 3, 13 + wall),
        ("end", 13.5, 3.5, 13.5 + wall),
    ]
    loop.close()


def test_a_process_can_die_between_any_two_awaits():
    reached: list[int] = []
    for steps in range(1, 12):
        loop = SimLoop()
        done: list[int] = []

        async def work(done: list[int] = done) -> None:
            for n in range(10):
                done.append(n)
                await asyncio.sleep(0)

        process = Process(loop, "p")
        process.die_within(steps)
        process.spawn(work())
        loop.drain()
        loop.close()
        reached.append(len(done))
    assert reached == [*range(10), 10]


def test_a_world_in_which_nothing_can_happen_any_more_says_so():
    loop = SimLoop()
    with pytest.raises(Stuck):
        loop.run(until=1.0)
    loop.close()
