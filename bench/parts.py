"""What is measured: a broker of its own, the real role processes, a client that counts."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
from msgspec import Struct

from cli.local.broker import Broker
from cli.local.instance import Instance
from cli.local.served import environment, program
from cli.local.streams import provision_with
from events import subjects
from events.codec import Reader, instant
from events.nats.link import Link
from events.nats.provision import Retention

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from events.nats.link import LinkMessage

HOST = "bench"
BARE_HOST = "bare"
SLOTS = 256


@contextmanager
def broker_in(folder: Path) -> Iterator[Instance]:
    """A broker on a free port with everything provisioned, ended at the end."""
    instance = Instance(folder)
    instance.prepare("127.0.0.1:-1", (HOST, BARE_HOST))
    broker = Broker(instance)
    broker.start()
    try:
        asyncio.run(
            provision_with(
                instance.credentials("admin"), Retention(output_max_bytes=2**28)
            )
        )
        yield instance
    finally:
        broker.stop()


@contextmanager
def own_broker() -> Iterator[Instance]:
    """The same in a folder that is gone at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="agentcom-bench-") as folder,
        broker_in(Path(folder)) as instance,
    ):
        yield instance


class Process:
    """A child that is part of what is measured."""

    def __init__(self, arguments: list[str], env: dict[str, str], log: Path) -> None:
        """Start a process of AgentCom's, `env` beside its usual environment."""
        self._start(program(*arguments), {**environment(), **env}, log)

    @classmethod
    def of(cls, argv: list[str], env: dict[str, str], log: Path) -> Process:
        """Start any other program."""
        process = cls.__new__(cls)
        process._start(argv, env, log)
        return process

    def _start(self, argv: list[str], env: dict[str, str], log: Path) -> None:
        self._log = log.open("ab")
        self.child = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            env=env,
        )

    def first_line(self) -> str:
        """Wait for the first line it prints."""
        assert self.child.stdout is not None
        return self.child.stdout.readline().decode()

    def rss(self) -> int:
        """Resident memory in bytes."""
        pages = Path(f"/proc/{self.child.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def peak_rss(self) -> int:
        """The most resident memory that it ever had, in bytes."""
        return peak_rss(self.child.pid)

    def cpu_s(self) -> float:
        """CPU seconds used so far, by it and by what lives below it."""
        return cpu_s(self.child.pid)

    def stop(self) -> None:
        """End it, politely first."""
        self.child.terminate()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        if self.child.stdout is not None:
            self.child.stdout.close()
        self._log.close()


def peak_rss(pid: int | str = "self") -> int:
    """The most resident memory that a process ever had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def cpu_s(pid: int) -> float:
    """CPU seconds that a process and all that live below it have used so far."""
    root = psutil.Process(pid)
    times = [each.cpu_times() for each in (root, *root.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def spread(times: list[float]) -> dict[str, float]:
    """Return median, tail and the longest; nothing of fewer than two."""
    if len(times) < 2:
        return {}
    parts = statistics.quantiles(times, n=100, method="inclusive")
    return {
        "p50": round(statistics.median(times), 2),
        "p95": round(parts[94], 2),
        "p99": round(parts[98], 2),
        "max": round(max(times), 2),
    }


@contextmanager
def running(processes: list[Process]) -> Iterator[list[Process]]:
    """Have these run meanwhile."""
    try:
        yield processes
    finally:
        for process in reversed(processes):
            process.stop()


def bare_processes(instance: Instance, sizes: list[int]) -> list[Process]:
    """Start the bare pipeline; returns once it listens."""
    processes = []
    for part, role in (("core", "scheduler"), ("worker", f"host-{BARE_HOST}")):
        credentials = instance.credentials(role)
        processes.append(
            Process(
                [
                    "-m",
                    "bench.bare",
                    part,
                    credentials.url,
                    str(credentials.seed_path),
                    ",".join(map(str, sizes)),
                ],
                {},
                instance.data / "bare.log",
            )
        )
    for process in processes:
        process.first_line()
    return processes


def ring_processes(instance: Instance, *, host: bool = True) -> list[Process]:
    """Start the real scheduler and, with `host`, a real sidecar that offers noop."""
    env = {"AGENTCOM_DATA": str(instance.data)}
    processes = [Process(["scheduler"], env, instance.data / "scheduler.log")]
    if host:
        config = instance.data / "sidecar.toml"
        config.write_text(
            f'name = "{HOST}"\nnoop = true\ndiscover = false\n'
            f"[slots]\nshell = 0\nclaude = 0\nagent = 0\nnoop = {SLOTS}\n"
        )
        processes.append(
            Process(
                ["sidecar", "--config", str(config)],
                env,
                instance.data / "sidecar.log",
            )
        )
    return processes


class Started(NamedTuple):
    """A run's start: when it began by its own word (epoch s), when it was heard of."""

    began: float
    heard: float


class _At(Struct):
    """What is read of an event that started a run."""

    at: str


_at: Reader[_At] = Reader(_At)


class Counter:
    """Counts the tasks that have ended, and knows when each began."""

    def __init__(self) -> None:
        self.completed = 0
        self._begun: dict[str, Started] = {}
        self._awaited: dict[str, asyncio.Future[Started]] = {}
        self._target = 0
        self._reached = asyncio.Event()
        self._one_more = asyncio.Event()

    def begun(self, task: str, started: Started) -> None:
        """Note that a task has begun."""
        waiting = self._awaited.pop(task, None)
        if waiting is None:
            self._begun[task] = started
        else:
            waiting.set_result(started)

    def ended(self) -> None:
        """Note that a task has ended."""
        self.completed += 1
        self._one_more.set()
        if self.completed == self._target:
            self._reached.set()

    async def until_started(self, task: str) -> Started:
        """Return once a task's run has been heard to start."""
        if task not in self._begun:
            future: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
            self._awaited[task] = future
            return await asyncio.wait_for(future, 30)
        return self._begun.pop(task)

    async def one_more(self) -> None:
        """Return once another task has completed."""
        self._one_more.clear()
        await self._one_more.wait()

    def count_to(self, tasks: int) -> None:
        """From now on `reached` waits for so many more."""
        self._target = self.completed + tasks
        self._reached = asyncio.Event()

    async def reached(self, timeout: float) -> None:
        """Return once so many have completed; raises TimeoutError after so many seconds."""
        await asyncio.wait_for(self._reached.wait(), timeout)


class BenchClient(Counter):
    """Submits, and watches runs start and end.

    It subscribes to runs alone: on two cores, watching everything would cost time.
    """

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.link = link
        self.sizes: dict[str, int] = {}
        self.elected = asyncio.Event()

    async def watch(self) -> None:
        """Begin to count."""
        await self.link.subscribe(subjects.ALL_RUNS, self._on)
        await self.link.subscribe(subjects.SCHEDULER, self._on_scheduler)

    async def measure_sizes(self, patience_s: float) -> None:
        """Note how large each stage's event is, from those that come until `reached`."""
        subscriptions = [
            await self.link.subscribe(subject, self._on_size)
            for subject in (subjects.ALL_TASKS, subjects.ALL_RUNS)
        ]
        await self.reached(patience_s)
        for one in subscriptions:
            await one.stop()

    def _on_size(self, message: LinkMessage) -> None:
        kind = message.data[:40]
        if kind.startswith(b'{"type":"task.'):
            stage = kind[14 : kind.find(b".v1")].decode()
            self.sizes[stage] = len(message.data)

    def _on_scheduler(self, message: LinkMessage) -> None:
        if b'"scheduler.elected' in message.data[:40]:
            self.elected.set()

    def _on(self, message: LinkMessage) -> None:
        kind = message.data[:40]
        if b'"task.started' in kind:
            task = message.subject.rpartition(".")[2]
            self.begun(task, Started(instant(_at.decode(message.data).at), time.time()))
        elif b'"task.completed' in kind:
            self.ended()


@asynccontextmanager
async def client(instance: Instance) -> AsyncIterator[BenchClient]:
    """A client that reads along, as the operator."""
    link = await Link.connect(instance.credentials("operator").address())
    try:
        watching = BenchClient(link)
        await watching.watch()
        yield watching
    finally:
        await link.close()
