"""Killing any part at any moment, under load, loses no task and leaves none stuck."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.support.ring import Observer, observing, ring_on

TASKS = 120


def fold_final(observer: Observer, task: str) -> list[dict]:
    """The finishing events that counted: one for each task, whatever was repeated."""
    from actors import lifecycle
    from events import catalogue as c
    from events import subjects
    from events.codec import decode_event, encode
    from events.lifecycle import FINAL

    epochs = lifecycle.Epochs()
    state = lifecycle.initial(task)
    counted = []
    for seq, body in observer.events:
        elected = body["type"].startswith("scheduler.elected.")
        if body.get("task_id") != task and not elected:
            continue
        event = decode_event(encode(body))
        if isinstance(event, c.SchedulerElected):
            epochs.observe(seq, event.epoch)
        if body.get("task_id") != task:
            continue
        host = body.get("host", "") if isinstance(event, c.RunEvent) else ""
        subject = subjects.run(host, task) if host else subjects.task(task)
        step = lifecycle.evolve(
            state, c.Recorded(seq, subject, event), epoch=epochs.at(seq), host=host
        )
        ended = step.state.phase in FINAL and step.state.phase != state.phase
        if step.verdict == "applied" and ended:
            counted.append(body)
        state = step.state
    return counted


@pytest.mark.parametrize("victim", ["scheduler", "h1", "nats-server"])
async def test_kill_9_under_load_loses_nothing(victim, broker, tmp_path):
    chance = random.Random(victim)
    async with ring_on(broker, tmp_path) as ring, observing(broker) as observer:
        ring.scheduler()
        ring.sidecar("h1")

        async def load() -> list[str]:
            tasks = []
            for n in range(TASKS):
                if n % 4 == 0:
                    shell = {"command": f"sleep 0.0{n % 10}; echo {n}"}
                    tasks.append(await observer.submit(description="s", shell=shell))
                else:
                    tasks.append(
                        await observer.submit(description="n", executor="noop")
                    )
            return tasks

        loading = asyncio.create_task(load())
        for round_ in range(3):
            milestone = chance.randrange(5, 30) + 30 * round_
            await observer.until(
                lambda m=milestone: len(observer.of("task.submitted")) >= m
            )
            if victim == "nats-server":
                broker.kill()
                broker.restart()
            else:
                await asyncio.to_thread(ring.restart, victim)
        tasks = await loading
        await observer.until(
            lambda: {e["task_id"] for e in observer.of("task.completed")} >= set(tasks),
            seconds=90,
        )
        assert len(observer.of("task.submitted")) == TASKS == len(set(tasks))
        for task in tasks:
            (final,) = fold_final(observer, task)
            assert final["type"] == "task.completed.v1"


async def test_a_standby_takes_over_and_what_the_deposed_one_writes_is_void(
    broker, tmp_path
):
    async with ring_on(broker, tmp_path) as ring, observing(broker) as observer:
        ring.scheduler("s1")
        ring.sidecar("h1")
        await observer.until(lambda: observer.of("scheduler.elected"))
        ring.scheduler("s2")
        first = await observer.submit(description="n", executor="noop")
        await observer.until(lambda: observer.of("task.completed", first))
        ring.pause("s1")
        await observer.until(lambda: len(observer.of("scheduler.elected")) == 2)
        second = await observer.submit(description="n", executor="noop")
        await observer.until(lambda: observer.of("task.completed", second))
        ring.resume("s1")
        third = await observer.submit(description="n", executor="noop")
        await observer.until(lambda: observer.of("task.completed", third))
        ring.kill("s2")
        await observer.until(lambda: len(observer.of("scheduler.elected")) == 3)
        fourth = await observer.submit(description="n", executor="noop")
        await observer.until(lambda: observer.of("task.completed", fourth))
        leaders = [e["name"].split("-")[-2] for e in observer.of("scheduler.elected")]
        assert leaders == [str(ring.pid(name)) for name in ("s1", "s2", "s1")]
        for task in (first, second, third, fourth):
            assert len(fold_final(observer, task)) == 1


async def test_a_task_on_a_killed_host_runs_again_elsewhere_and_is_accepted_once(
    broker, tmp_path
):
    async with ring_on(broker, tmp_path) as ring, observing(broker) as observer:
        ring.scheduler()
        ring.sidecar("h1")
        ring.sidecar("h2")
        await observer.until(lambda: len(observer.of("host.joined")) == 2)
        gate = tmp_path / "gate"
        wait = f"while [ ! -e {gate} ]; do sleep 0.05; done; echo done"
        tasks = [
            await observer.submit(description="w", shell={"command": wait})
            for _ in range(10)
        ]
        await observer.until(lambda: len(observer.of("task.started")) >= 8)
        ring.kill("h1")
        gate.touch()
        await observer.until(
            lambda: {e["task_id"] for e in observer.of("task.completed")} >= set(tasks)
        )
        assert len(observer.of("host.lost")) == 1
        for task in tasks:
            assert len(fold_final(observer, task)) == 1
