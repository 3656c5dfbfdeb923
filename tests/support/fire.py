"""A cluster of three servers with its roles, and what can be done to it: see `KINDS`.

Where it is allowed (root, Linux) each server has a network namespace of its own on a bridge,
so that a link can be cut while both ends live on; a slow disk is strace's doing, which holds
up every write of a server; a stepped clock is libfaketime's, for roles alone, since a Go
program like nats-server asks the kernel directly. What a machine cannot do is left out, and
`Fleet.without` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import psutil
import pytest

from cli.local.instance import Instance
from tests.integration.test_stepped_clock import FakeClock
from tests.support.command import NOTHING_ELSE, PATIENCE_S, System

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BIN = Path(sys.executable).parent
SERVERS = ("n1", "n2", "n3")
SCHEDULERS = ("scheduler-1", "scheduler-2")
HOSTS = ("one", "two")
ROLES = (*SCHEDULERS, *HOSTS, "web")
PORT = 4222

KINDS: dict[str, tuple[tuple[str, ...], float, float]] = {
    "killed": ((*SERVERS, *ROLES), 0.2, 8.0),
    "ended": ((*SERVERS, *ROLES), 0.2, 8.0),
    "stopped": ((*SERVERS, *ROLES), 1.0, 12.0),
    "cut off": (SERVERS, 1.0, 20.0),
    "parted": (SERVERS, 1.0, 20.0),
    "slow disk": (SERVERS, 5.0, 20.0),
    "clock stepped": (ROLES, 0.5, 4.0),
}
"""What can happen, to whom, and the least and the most seconds that it lasts.

parted: two servers do not hear each other, the third hears both.
"""
STEPS_S = (-7_200, -600, -40, -5, 5, 40, 600, 7_200)
DISK_MS = 20
"""So long a slow disk takes for each write and each sync."""


class Trouble(NamedTuple):
    """One thing that happens: what, to whom, for how long, a clock by how much."""

    kind: str
    victim: str
    lasts_s: float
    step_s: int = 0


class Plan:
    """Troubles, one after another, for ever: every kind comes once before one comes again."""

    def __init__(self, kinds: Iterable[str], chance: random.Random) -> None:
        self._kinds = sorted(kinds)
        self._chance = chance
        self._next: list[str] = []

    def draw(self) -> Trouble:
        """What comes next."""
        if not self._next:
            self._next = self._chance.sample(self._kinds, len(self._kinds))
        kind = self._next.pop()
        victims, least, most = KINDS[kind]
        return Trouble(
            kind,
            self._chance.choice(victims),
            self._chance.uniform(least, most),
            self._chance.choice(STEPS_S) if kind == "clock stepped" else 0,
        )


class Network:
    """A namespace for each server, all on one bridge, which this machine is on too."""

    def __init__(self) -> None:
        self._name = f"ac{os.getpid()}"
        part = f"10.{random.randint(200, 250)}.{random.randint(0, 250)}"
        self.address = {
            name: f"{part}.{number}" for number, name in enumerate(SERVERS, 1)
        }
        self._own = f"{part}.254/24"

    @staticmethod
    def is_allowed() -> bool:
        """Whether this process may make one."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            return False
        trial = f"ac{os.getpid()}t"
        made = not _ip_says("netns", "add", trial)
        bridged = made and not _ip_says("link", "add", trial, "type", "bridge")
        _ip_says("link", "del", trial)
        _ip_says("netns", "del", trial)
        return bridged

    def __enter__(self) -> Self:
        _ip("link", "add", self._name, "type", "bridge")
        _ip("addr", "add", self._own, "dev", self._name)
        _ip("link", "set", self._name, "up")
        for server, address in self.address.items():
            space = outer = self._name + server
            _ip("netns", "add", space)
            peer = ("peer", "name", "eth0", "netns", space)
            _ip("link", "add", outer, "type", "veth", *peer)
            _ip("link", "set", outer, "master", self._name, "up")
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.address:
            _ip_says("netns", "del", self._name + server)
        _ip_says("link", "del", self._name)

    def inside(self, server: str) -> list[str]:
        """What to put before a command that is to run where a server is."""
        return ["ip", "netns", "exec", self._name + server]

    def cut_off(self, server: str) -> None:
        """Nobody hears this server any more, and no one is told."""
        _ip("link", "set", self._name + server, "down")

    def join(self, server: str) -> None:
        """It is heard again."""
        _ip("link", "set", self._name + server, "up")

    def part(self, one: str, other: str) -> None:
        """These two do not hear each other."""
        for here, there in ((one, other), (other, one)):
            way = f"{self.address[there]}/32"
            _ip("-n", self._name + here, "route", "add", "blackhole", way)

    def rejoin(self, one: str, other: str) -> None:
        """They do again."""
        for here, there in ((one, other), (other, one)):
            way = f"{self.address[there]}/32"
            _ip("-n", self._name + here, "route", "del", "blackhole", way)


def _ip_says(*words: str) -> str:
    """What `ip` complains of, nothing where it does as it is told."""
    done = subprocess.run(
        ["ip", *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return done.stderr or f"{done.returncode}" * (done.returncode != 0)


def _ip(*words: str) -> None:
    complaint = _ip_says(*words)
    assert not complaint, f"ip {' '.join(words)}: {complaint}"


def _slowed(command: list[str]) -> list[str]:
    """A command whose every write to a disk takes a while; strace ends with it."""
    calls = "pwrite64,pwritev,fsync,fdatasync"
    return [
        *("strace", "-D", "-f", "--seccomp-bpf", "-qqq", "-o", "/dev/null"),
        *("-e", f"trace={calls}", "-e", f"inject={calls}:delay_exit={DISK_MS}ms"),
        *command,
    ]


class Fleet:
    """The servers and roles as processes, by name; started by `start_all`."""

    def __init__(self, folder: Path, network: Network | None, ports: int) -> None:
        """Where there is no network of its own, `ports` is the first of four free ones."""
        self.system = System(folder)
        self.data = self.system.data
        self.data.mkdir(mode=0o700)
        self.network = network
        self._web = ports + 3
        (self.data / "sidecar.toml").write_text(NOTHING_ELSE)
        self.env = {**self.system.env, "PATH": f"{BIN}:{os.environ['PATH']}"}
        self._ports = ports
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._slow: set[str] = set()
        self._clocks: dict[str, FakeClock] = {}
        self.without: list[str] = []
        self.kinds = set(KINDS)
        if network is None:
            self._leave_out("network namespaces", "cut off", "parted")
        if shutil.which("strace") is None:
            self._leave_out("strace", "slow disk")
        try:
            for role in ROLES:
                place = folder / f"clock-{role}"
                place.mkdir()
                self._clocks[role] = FakeClock(place)
        except pytest.skip.Exception:
            self._clocks.clear()
            self._leave_out("libfaketime", "clock stepped")

    def _leave_out(self, lacking: str, *kinds: str) -> None:
        self.kinds -= set(kinds)
        self.without.append(f"no {lacking}: nothing was {', '.join(kinds)}")

    @property
    def instance(self) -> Instance:
        """Where it is configured."""
        return Instance(self.data)

    @property
    def page(self) -> str:
        """Where web answers."""
        return f"http://127.0.0.1:{self._web}"

    def address(self, server: str) -> str:
        """Where a server is reached."""
        if self.network is not None:
            return f"{self.network.address[server]}:{PORT}"
        return f"127.0.0.1:{self._ports + SERVERS.index(server)}"

    def start_all(self) -> None:
        """Make keys, servers and streams, then the roles."""
        nodes = [
            word
            for server in SERVERS
            for word in ("--node", f"{server}={self.address(server)}")
        ]
        hosts = [word for host in HOSTS for word in ("--host", host)]
        made = self.system.run("keys", "--cluster", "here", *hosts, *nodes)
        assert made.returncode == 0, made.stderr
        for server in SERVERS:
            self.start(server)
        while self.system.run("provision").returncode != 0:
            assert all(self._processes[server].poll() is None for server in SERVERS)
        for role in ROLES:
            self.start(role)

    def _command(self, name: str) -> list[str]:
        agentcom = str(BIN / "agentcom")
        if name in SERVERS:
            command = ["nats-server", "-c", f"nodes/{name}/nats.conf"]
            if name in self._slow:
                command = _slowed(command)
            inside = [] if self.network is None else self.network.inside(name)
            return [*inside, *command]
        if name == "web":
            return [agentcom, "web", "--port", str(self._web)]
        if name in HOSTS:
            return [agentcom, "sidecar", "--name", name]
        return [agentcom, "scheduler"]

    def start(self, name: str) -> None:
        """Start a server or a role, again too."""
        clock = self._clocks.get(name)
        with (self.data / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self._command(name),
                cwd=self.data,
                env={**self.env, **(clock.env if clock else {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def end(self, name: str, how: signal.Signals) -> None:
        """Signal a process, and wait until it has ended."""
        process = self._processes.pop(name)
        process.send_signal(how)
        process.wait(PATIENCE_S)

    async def suffer(self, trouble: Trouble, chance: random.Random) -> None:
        """Let it happen, from its beginning to its end."""
        kind, victim, lasts_s, step_s = trouble
        if kind in ("killed", "ended"):
            how = signal.SIGKILL if kind == "killed" else signal.SIGTERM
            await asyncio.to_thread(self.end, victim, how)
            await asyncio.sleep(lasts_s)
            self.start(victim)
        elif kind == "stopped":
            self._processes[victim].send_signal(signal.SIGSTOP)
            await asyncio.sleep(lasts_s)
            self._processes[victim].send_signal(signal.SIGCONT)
        elif kind == "slow disk":
            for slow in (True, False):
                await asyncio.to_thread(self.end, victim, signal.SIGTERM)
                (self._slow.add if slow else self._slow.discard)(victim)
                self.start(victim)
                await asyncio.sleep(lasts_s * slow)
        elif kind == "clock stepped":
            self._clocks[victim].put(step_s)
            await asyncio.sleep(lasts_s)
        else:
            assert self.network is not None
            other = chance.choice([each for each in SERVERS if each != victim])
            if kind == "cut off":
                self.network.cut_off(victim)
                await asyncio.sleep(lasts_s)
                self.network.join(victim)
            else:
                self.network.part(victim, other)
                await asyncio.sleep(lasts_s)
                self.network.rejoin(victim, other)

    def is_whole(self) -> bool:
        """Whether every server has all of the log, as doctor says."""
        told = self.system.run("doctor", "--json").json["checks"]
        streams = next(each for each in told if each["name"] == "streams")
        return streams["status"] == "ok"

    async def recover(self) -> None:
        """Return once every server has all of the log."""
        async with asyncio.timeout(5 * PATIENCE_S):
            while not await asyncio.to_thread(self.is_whole):
                await asyncio.sleep(0.5)

    def close(self) -> None:
        """End all of it."""
        for name in (*ROLES, *SERVERS):
            if name not in self._processes:
                continue
            process = self._processes[name]
            process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.end(name, signal.SIGTERM)
                continue
            process.kill()
            process.wait()


def first_of_four() -> int:
    """A port whose three next ones are free, and those 2,000 above as well."""
    for _ in range(100):
        port = random.randint(20_000, 28_000)
        taken = {each.laddr.port for each in psutil.net_connections("tcp")}
        if not taken & {*range(port, port + 4), *range(port + 2_000, port + 2_003)}:
            return port
    raise AssertionError("no four ports in a row are free")


# -- judging ---------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What became of the tasks, by their keys.

    lost: accepted, and never in the log or never run; twice: one key with two tasks, a task
    with two ends that counted, or a command that ran again though the log knew that it had
    been taken; stuck: no end. unfinished: ended otherwise than completed.
    """

    lost: list[str]
    twice: list[str]
    stuck: list[str]
    unfinished: list[str]


def judge(
    accepted: dict[str, set[str]],
    ran: dict[str, Sequence[str]],
    events: Sequence[dict[str, Any]],
    ends: dict[str, Sequence[str]],
) -> Verdict:
    """Judge by the log: `accepted` are task ids by key, `ran` are the routes that a key's
    command wrote down, `ends` a task's ends that counted."""
    known = {each["task_id"] for each in events if _is(each, "task.submitted")}
    taken = Counter(
        each["route"]
        for each in events
        if _is(each, "task.accepted")
        or (_is(each, "task.started") and "accepted_at" in each)
    )
    lost, twice, stuck, unfinished = [], [], [], []
    for key, tasks in sorted(accepted.items()):
        ended = [end for task in tasks for end in ends.get(task, ())]
        again = [r for r, times in Counter(ran.get(key, ())).items() if times > 1]
        if not tasks & known or (ended and not ran.get(key)):
            lost.append(key)
        if len(tasks) > 1 or len(ended) > 1 or any(taken[route] > 1 for route in again):
            twice.append(key)
        if not ended:
            stuck.append(key)
        elif set(ended) != {"task.completed"}:
            unfinished.append(f"{key}: {ended}")
    return Verdict(lost, twice, stuck, unfinished)


def _is(event: dict[str, Any], kind: str) -> bool:
    return str(event["type"]).startswith(kind + ".")
