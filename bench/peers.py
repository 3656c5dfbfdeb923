"""Ours, the bare pipeline and two queues for Python that keep a result, in turns.

Every system gets a broker of its own of the same binary with the same settings, one
client, and what it calls a worker: one process with as many tasks at once as our host has
slots (ours has a scheduler besides). A task is submitted with an acknowledgement, does
nothing, and its result is stored in JetStream under the task's id; the client counts it
when it hears the result. What the peers leave out is listed in docs/benchmarks.md.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import statistics
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop

from bench.measure import WINDOW, Report, measure_bare, measure_ring, pace
from bench.parts import SLOTS, Counter, Process, Started, running
from bench.peer_settings import BATCH, RESULTS, STREAM, SUBJECT
from cli.local.broker import find_server, machine_memory, server_environment
from cli.local.supervisor import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

PEERS: Final = ("faststream", "taskiq")
SEQUENTIAL: Final = 100


class NoPeers(Exception):
    """The peers are not installed."""

    def __init__(self, missing: str) -> None:
        super().__init__(
            f"{missing} is not installed: pip install 'agentcom[bench-peers]' brings what "
            "is compared"
        )


def require_peers() -> dict[str, str]:
    """Return the peers' versions; raises NoPeers."""
    try:
        return {name: metadata.version(name) for name in (*PEERS, "taskiq-nats")}
    except metadata.PackageNotFoundError as missing:
        raise NoPeers(str(missing.name)) from missing


def measure_peers(
    tasks: int,
    rounds: int,
    say: Callable[[str], None] = lambda _text: None,
) -> Report:
    """Measure all of them `rounds` times in turns.

    Returns each system's rounds, its medians, and ours as a ratio to it: more than 1 is
    more tasks a second, or a shorter wait. Raises NoPeers.
    """
    versions = require_peers()
    runs: dict[str, list[Report]] = {"ring": [], "bare": []}
    runs |= {name: [] for name in PEERS}
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}: ours, bare, {', '.join(PEERS)}")
        ring = measure_ring(tasks, SEQUENTIAL)
        runs["ring"].append(ring)
        runs["bare"].append(measure_bare(tasks, ring["sizes"], SEQUENTIAL))
        for name in PEERS:
            runs[name].append(_measure(name, tasks))
    medians = {name: _medians(found) for name, found in runs.items()}
    ours = medians["ring"]
    return {
        "tasks": tasks,
        "rounds": rounds,
        "versions": versions,
        "medians": medians,
        "ratios": {
            name: {
                "tasks_per_s": round(ours["tasks_per_s"] / each["tasks_per_s"], 3),
                "submit_to_started": round(
                    ours["submit_to_started_p50_ms"] / each["submit_to_started_p50_ms"],
                    3,
                ),
            }
            for name, each in medians.items()
            if name != "ring"
        },
        "runs": runs,
    }


def _medians(runs: list[Report]) -> Report:
    return {
        "tasks_per_s": statistics.median(run["tasks_per_s"] for run in runs),
        "submit_to_started_p50_ms": statistics.median(
            run["submit_to_started_ms"]["p50"] for run in runs
        ),
        "cpu_us_per_task": round(
            statistics.median(sum(run["cpu_us_per_task"]) for run in runs), 1
        ),
        "broker_us_per_task": statistics.median(
            run["broker_us_per_task"] for run in runs
        ),
    }


def _measure(name: str, tasks: int) -> Report:
    with (
        tempfile.TemporaryDirectory(prefix="agentcom-bench-") as folder,
        plain_broker(Path(folder)) as (url, broker),
    ):
        return uvloop.run(_peer(name, url, Path(folder), broker, tasks))


@contextmanager
def plain_broker(folder: Path) -> Iterator[tuple[str, Process]]:
    """A broker of the same binary and settings as ours, without accounts."""
    port = free_port()
    conf = folder / "nats.conf"
    conf.write_text(
        f'listen: "127.0.0.1:{port}"\nmax_payload: 1MB\nmax_pending: 64MB\n'
        f'jetstream: {{ store_dir: "{folder}/jetstream", max_file: 1TB, '
        'sync_interval: "10s" }\n'
    )
    server = Process.of(
        [str(find_server()), "-c", str(conf)],
        server_environment(os.environ, os.cpu_count() or 1, machine_memory()),
        folder / "nats-server.log",
    )
    with running([server]):
        _until_listening(port)
        yield f"nats://127.0.0.1:{port}", server


def _until_listening(port: int) -> None:
    for _ in range(600):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"no broker listens on port {port}")


async def _peer(
    name: str, url: str, folder: Path, broker: Process, tasks: int
) -> Report:
    async with peer_client(name, url) as (watching, submit):
        with running([peer_worker(name, url, folder)]) as workers:
            watching.count_to(1)
            await submit()
            await watching.reached(120)
            before = broker.cpu_s()
            report = await pace(watching, submit, tasks, workers, SEQUENTIAL)
            used = broker.cpu_s() - before
    return report | {"broker_us_per_task": round(used / (tasks + SEQUENTIAL) * 1e6, 1)}


def peer_worker(name: str, url: str, folder: Path, slots: int = SLOTS) -> Process:
    """Start a peer's worker process, with so many tasks at once."""
    log = folder / f"{name}.log"
    if name == "faststream":
        return Process(["-m", "bench.peer_faststream", url], {}, log)
    return Process(
        [
            *("-m", "taskiq", "worker", "bench.peer_taskiq:broker"),
            *("--workers", "1", "--max-async-tasks", str(slots)),
            *("--max-prefetch", str(BATCH), "--log-level", "WARNING"),
        ],
        {"BENCH_PEERS_URL": url},
        log,
    )


@asynccontextmanager
async def peer_client(
    name: str, url: str
) -> AsyncIterator[tuple[Counter, Callable[[], Any]]]:
    """A client of a peer's own kind, and a counter that hears the results."""
    import nats

    listener = await nats.connect(url)
    await listener.jetstream().create_key_value(bucket=RESULTS)
    watching = Counter()

    async def heard(message: Any) -> None:
        body = json.loads(message.data)
        body = body.get("return_value", body)
        task = message.subject.rpartition(".")[2]
        watching.begun(task, Started(body["began"], time.time()))
        watching.ended()

    await listener.subscribe(f"$KV.{RESULTS}.>", cb=heard)
    try:
        async with (_faststream if name == "faststream" else _taskiq)(url) as submit:
            yield watching, submit
    finally:
        await listener.close()


@asynccontextmanager
async def _faststream(url: str) -> AsyncIterator[Callable[[], Any]]:
    from bench.peer_faststream import tasks_of

    numbers = count()
    broker, stream = tasks_of(url)
    # Declares the stream, as the worker will.
    broker.publisher(SUBJECT, stream=stream)
    async with broker:
        await broker.start()

        async def submit() -> str:
            task = f"t{next(numbers)}"
            await broker.publish({"id": task}, SUBJECT, stream=STREAM)
            return task

        yield submit


def _module() -> Any:
    return importlib.import_module("bench.peer_taskiq")


@asynccontextmanager
async def _taskiq(url: str) -> AsyncIterator[Callable[[], Any]]:
    os.environ["BENCH_PEERS_URL"] = url
    module = importlib.reload(_module())
    await module.broker.startup()
    try:

        async def submit() -> str:
            return str((await module.noop.kiq()).task_id)

        yield submit
    finally:
        await module.broker.shutdown()


def measure_taskiq_shell(tasks: int, slots: int, command: str) -> Report:
    """Have taskiq run so many commands as its users do, `create_subprocess_shell`."""
    with (
        tempfile.TemporaryDirectory(prefix="agentcom-bench-") as folder,
        plain_broker(Path(folder)) as (url, _),
    ):
        return uvloop.run(_taskiq_shell(url, Path(folder), tasks, slots, command))


async def _taskiq_shell(
    url: str, folder: Path, tasks: int, slots: int, command: str
) -> Report:
    from bench.peer_taskiq import shell

    async with peer_client("taskiq", url) as (watching, _):
        with running([peer_worker("taskiq", url, folder, slots)]) as (worker,):
            kick = shell.kicker().with_broker(_module().broker)
            watching.count_to(1)
            await kick.kiq(command)
            await watching.reached(120)
            before = worker.cpu_s()
            began = time.perf_counter()
            watching.count_to(tasks)
            left = iter(range(tasks))

            async def submitter() -> None:
                for _ in left:
                    await kick.kiq(command)

            await asyncio.gather(*(submitter() for _ in range(WINDOW)))
            await watching.reached(600)
            took = time.perf_counter() - began
            used = worker.cpu_s() - before
    return {
        "tasks_per_s": round(tasks / took, 1),
        "cpu_ms_per_task": [round(used / tasks * 1e3, 3)],
    }
