"""A host killed at random moments, again and again, under load.

Nothing accepted is lost, nothing finished is lost or run again, nothing is left running.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_crashes import fold_final
from tests.support.ring import Observer, observing, ring_on
from tests.support.runs import alive

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.broker import LiveBroker
    from tests.support.ring import Ring

AT_WORK = 12
"""So many tasks are under way at any time."""

WAKE = """
setsid sh {folder}/agent.sh </dev/null >/dev/null 2>&1 &
"""
"""Wakes an agent that outlives it and the host, as an agent does. One that is the command
itself dies with its host, perhaps after it has said that it has begun: then its result is
waited for as long as an agent may take, since nobody is woken twice."""

AGENT = """
touch "$STARTED_FILE"
echo "$AGENTCOM_ROUTE" >> {folder}/woken
echo '{{"status": "success", "output": "by an agent"}}' > "$RESULT_FILE.part"
mv "$RESULT_FILE.part" "$RESULT_FILE"
"""

long = [
    pytest.mark.chaos,
    pytest.mark.skipif("not config.getoption('-m')", reason="a long run: -m chaos"),
]


class Load:
    """Keeps tasks under way; shell tasks write down that they ran, each on its route."""

    def __init__(self, observer: Observer, folder: Path) -> None:
        self._observer = observer
        self._folder = folder
        self.tasks: list[str] = []
        self.ending = False

    async def go_on(self) -> None:
        chance = random.Random(0)
        while not self.ending:
            over = {e["task_id"] for e in self._observer.of("task.completed")}
            while len(self.tasks) - len(over & set(self.tasks)) < AT_WORK:
                self.tasks.append(await self._submit(chance))
            self._observer.news.clear()
            await self._observer.news.wait()

    async def _submit(self, chance: random.Random) -> str:
        usual: dict[str, Any] = {"description": "chaos", "max_attempts": 100}
        kind = chance.random()
        if kind < 0.2:
            return await self._observer.submit(executor="noop", **usual)
        if kind < 0.4:
            return await self._observer.submit(executor="agent", **usual)
        nap = f"{chance.random() * 0.15:.3f}"
        ran = self._folder / "ran"
        command = (
            f"echo $AGENTCOM_ROUTE >> {ran}; sleep {nap}; setsid sleep {nap} & echo ok"
        )
        return await self._observer.submit(shell={"command": command}, **usual)


async def chaos(rounds: int, broker: LiveBroker, folder: Path) -> None:
    chance = random.Random(rounds)
    (folder / "agent.sh").write_text(AGENT.format(folder=folder))
    (folder / "wake.sh").write_text(WAKE.format(folder=folder))
    async with ring_on(broker, folder) as ring, observing(broker) as observer:
        ring.scheduler()
        ring.sidecar("h1", wake_command=f"sh {folder}/wake.sh")
        load = Load(observer, folder)
        loading = asyncio.create_task(load.go_on())
        loop = asyncio.get_running_loop()
        began = loop.time()
        for lives in range(1, rounds + 1):
            if chance.random() < 0.9:
                await observer.until(
                    lambda n=lives: (
                        len(observer.of("host.joined")) >= n or loading.done()
                    )
                )
                # Some while it recovers, most while it works; on a slow machine it gets
                # as much done before it is killed as on a fast one.
                start_s = loop.time() - began
                await asyncio.sleep(chance.expovariate(1 / (0.3 * start_s)))
            else:
                await asyncio.sleep(chance.random())
            if not observer.of("host.joined") or chance.random() < 0.1:
                await kill_early(ring, chance)
            began = loop.time()
            await asyncio.to_thread(ring.restart, "h1")
            joined = len(observer.of("host.joined"))
            await observer.until(lambda n=joined: len(observer.of("host.joined")) > n)
        load.ending = True
        observer.news.set()
        await loading
        await observer.until(
            lambda: (
                {e["task_id"] for e in observer.of("task.completed")} >= set(load.tasks)
            ),
            seconds=120,
        )
        judge(observer, load, folder)
    assert left_running(observer) == []


async def kill_early(ring: Ring, chance: random.Random) -> None:
    """A life that ends before it has begun in earnest."""
    await asyncio.to_thread(ring.restart, "h1")
    await asyncio.sleep(chance.uniform(0.2, 1.0))


def judge(observer: Observer, load: Load, folder: Path) -> None:
    counted: set[str] = set()
    for task in load.tasks:
        (final,) = fold_final(observer, task)
        assert final["type"] == "task.completed.v1", final
        assert final["result"].get("output", "") in ("ok\n", "by an agent", ""), final
        counted.add(final["id"])
    over: set[str] = set()
    for _, event in observer.events:
        # A host that was taken for lost may end a run that another has replaced: its end
        # does not count, and the task goes on.
        if event["id"] in counted:
            over.add(event["task_id"])
        elif event["type"] == "task.routed.v1":
            # A woken agent's run says again that it has begun; a task is never routed.
            task = event["task_id"]
            assert task not in over, f"{task} was begun after its end"
    assert not observer.of("task.dead_lettered")
    # An agent that has begun is not woken again. A command runs again on its route only
    # where the log had never heard that the host had taken it.
    assert begun_twice(folder / "woken") == set()
    taken = observer.of("task.accepted") + [
        started for started in observer.of("task.started") if "accepted_at" in started
    ]
    heard = Counter(event["route"] for event in taken)
    assert {r for r in begun_twice(folder / "ran") if heard[r] > 1} == set()


def begun_twice(file: Path) -> set[str]:
    begun = Counter(file.read_text().split())
    return {route for route, times in begun.items() if times > 1}


def left_running(observer: Observer) -> list[int]:
    routes = {e["id"] for e in observer.of("task.routed")}
    return [pid for route in routes for pid in alive(route)]


@pytest.mark.parametrize("rounds", [10, pytest.param(300, marks=long)])
async def test_a_host_killed_again_and_again_loses_and_repeats_nothing(
    rounds: int, broker: LiveBroker, tmp_path: Path
) -> None:
    await chaos(rounds, broker, tmp_path)
    print(json.dumps({"kills": rounds}))
