"""What is measured: a broker of its own, the real role processes, a client that counts."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cli.broker import Broker
from cli.instance import Instance
from cli.keys import provision_with
from events.link import Link
from events.provision import Retention

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from events.link import LinkMessage

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


class Process:
    """A child that is part of what is measured."""

    def __init__(self, arguments: list[str], env: dict[str, str], log: Path) -> None:
        self._log = log.open("ab")
        self.child = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **env},
        )

    def first_line(self) -> str:
        """Wait for the first line it prints."""
        assert self.child.stdout is not None
        return self.child.stdout.readline().decode()

    def rss(self) -> int:
        """Resident memory in bytes."""
        pages = Path(f"/proc/{self.child.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2]
        user, system = fields.split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

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
    made = []
    for part, role in (("core", "scheduler"), ("worker", f"host-{BARE_HOST}")):
        credentials = instance.credentials(role)
        made.append(
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
    for process in made:
        process.first_line()
    return made


def ring_processes(instance: Instance, *, host: bool = True) -> list[Process]:
    """Start the real scheduler and, with `host`, a real sidecar that offers noop."""
    env = {"AGENTCOM_DATA": str(instance.data)}
    made = [Process(["-m", "cli", "scheduler"], env, instance.data / "scheduler.log")]
    if host:
        config = instance.data / "sidecar.toml"
        config.write_text(
            f'name = "{HOST}"\nnoop = true\ndiscover = false\n'
            f"[slots]\nshell = 0\nclaude = 0\nagent = 0\nnoop = {SLOTS}\n"
        )
        made.append(
            Process(
                ["-m", "cli", "sidecar", "--config", str(config)],
                env,
                instance.data / "sidecar.log",
            )
        )
    return made


class Client:
    """Submits, and watches runs start and end."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.started: dict[str, float] = {}
        self.completed = 0
        self._awaited: dict[str, asyncio.Future[float]] = {}
        self._target = 0
        self._reached = asyncio.Event()
        self.sizes: dict[str, int] = {}
        self.elected = asyncio.Event()

    async def watch(self) -> None:
        """Begin to count."""
        await self.link.subscribe("agentcom.evt.>", self._on)

    def _on(self, message: LinkMessage) -> None:
        head = message.data[:40]
        if b'"task.started' in head:
            task = message.subject.rpartition(".")[2]
            now = self.started[task] = time.perf_counter()
            waiting = self._awaited.pop(task, None)
            if waiting is not None:
                waiting.set_result(now)
        elif b'"task.completed' in head:
            self.completed += 1
            if self.completed == self._target:
                self._reached.set()
        elif b'"scheduler.elected' in head:
            self.elected.set()
        stage = head[14 : head.find(b".v1")].decode() if b'"task.' in head else ""
        if stage:
            self.sizes[stage] = len(message.data)

    async def until_started(self, task: str) -> float:
        """Return when a task started (perf_counter seconds)."""
        if task not in self.started:
            future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
            self._awaited[task] = future
            return await asyncio.wait_for(future, 30)
        return self.started[task]

    def count_to(self, tasks: int) -> asyncio.Event:
        """Return an event that is set once so many more have completed."""
        self._target = self.completed + tasks
        self._reached = asyncio.Event()
        return self._reached


@asynccontextmanager
async def client(instance: Instance) -> AsyncIterator[Client]:
    """A client that reads along, as the operator."""
    link = await Link.connect(instance.credentials("operator").address())
    try:
        made = Client(link)
        await made.watch()
        yield made
    finally:
        await link.close()
