"""A broker of three real servers: made by the command, run by the documented script, killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from agentcom import AsyncClient
from agentcom.errors import Refused, TimedOut, Unreachable
from cli.client.health import replicas_unwell
from cli.local.cluster import BadCluster, make_cluster, parse_node, write_nodes
from cli.local.instance import Instance
from tests.support.command import (
    NOTHING_ELSE,
    PATIENCE_S,
    Running,
    System,
    family,
    survivors,
)
from tests.support.fire import first_of_four

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPT = Path(__file__).parents[2] / "docs" / "deploy" / "cluster.sh"
BIN = Path(sys.executable).parent
NODES = ("n1", "n2", "n3")


class Cluster:
    """What the script runs, by name; each can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.system = System(folder)
        self.system.data.mkdir(mode=0o700)
        self.port = first_of_four()
        (self.system.data / "sidecar.toml").write_text(NOTHING_ELSE)
        self.env = {
            **self.system.env,
            "PORT": str(self.port),
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        self.script = Running([str(SCRIPT)], self.env, folder, ["sh"])
        self.pids: dict[str, int] = {}
        self.mine: dict[str, subprocess.Popen[bytes]] = {}
        while (line := self.script.line()) != "ready":
            name, _, rest = line.partition("\t")
            if rest:
                self.pids[name] = int(rest.partition("\t")[0])
        self.server = psutil.Process(self.pids["n1"]).exe()
        self.tree = family(self.script.process.pid)

    def command(self, name: str) -> list[str]:
        """What the script runs under this name."""
        agentcom = str(BIN / "agentcom")
        if name in NODES:
            return [self.server, "-c", f"nodes/{name}/nats.conf"]
        if name == "web":
            return [agentcom, "web", "--port", str(self.port + 3)]
        if name == "sidecar":
            return [agentcom, "sidecar", "--name", "one"]
        return [agentcom, "scheduler"]

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End a process at once."""
        if (mine := self.mine.pop(name, None)) is not None:
            mine.send_signal(how)
            mine.wait(PATIENCE_S)
            return
        process = psutil.Process(self.pids[name])
        process.send_signal(how)
        psutil.wait_procs([process], PATIENCE_S)

    def start(self, name: str) -> None:
        """Start it again."""
        with (self.system.data / f"{name}.log").open("ab") as log:
            self.mine[name] = subprocess.Popen(
                self.command(name),
                cwd=self.system.data,
                env=self.env,
                stdout=log,
                stderr=log,
            )

    def streams(self) -> dict[str, str]:
        """What doctor says of the streams."""
        said = self.system.run("doctor", "--json").json["checks"]
        return next(each for each in said if each["name"] == "streams")

    def close(self) -> None:
        """End all; no process is left."""
        for name in list(self.mine):
            self.kill(name, signal.SIGTERM if name not in NODES else signal.SIGKILL)
        self.script.signal(signal.SIGTERM)
        self.script.end()
        assert survivors(self.tree) == []


@pytest.fixture
def cluster(tmp_path: Path):
    running = Cluster(tmp_path)
    yield running
    running.close()


async def _work(cluster: Cluster, count: int, pause_s: float) -> dict[str, Any]:
    """Submit so many tasks, one after the other, each until it is accepted; wait for all."""
    marks = cluster.system.data / "marks"
    marks.mkdir()
    url = Instance(cluster.system.data).url
    creds = str(cluster.system.data / "keys" / "operator.nk")
    longest = 0.0
    ids: dict[int, str] = {}
    async with AsyncClient(nats=url, creds=creds) as client:
        for number in range(count):
            began = time.monotonic()
            while number not in ids:
                try:
                    task = await client.submit(
                        shell=f"echo x >> {marks}/{number}; echo {number}",
                        cwd="/",
                        idempotency_key=f"mark-{number}",
                    )
                    ids[number] = task.task_id
                except (Unreachable, TimedOut, Refused):
                    assert time.monotonic() - began < 10 * PATIENCE_S
                    await asyncio.sleep(0.2)
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(pause_s)
        states: dict[int, str] = {}
        ends = time.monotonic() + 5 * PATIENCE_S
        while len(states) < count and time.monotonic() < ends:
            for number in set(ids) - set(states):
                try:
                    result = await client.task(ids[number]).wait(timeout=1)
                    states[number] = result.state
                except (Unreachable, TimedOut, Refused):
                    break
            await asyncio.sleep(0.1)
    return {
        "submitted": count,
        "ids": len(set(ids.values())),
        "stuck": sorted(set(ids) - set(states)),
        "not completed": {n: s for n, s in states.items() if s != "completed"},
        "never ran": [n for n in range(count) if not (marks / str(n)).exists()],
        "longest pause": round(longest, 1),
    }


async def _trouble(
    cluster: Cluster, victims: Sequence[str], chance: random.Random, down_s: float
) -> None:
    """Kill one after another, each until it has been away for a while."""
    for victim in victims:
        cluster.kill(victim)
        await asyncio.sleep(chance.uniform(0.2, down_s))
        cluster.start(victim)
        if victim in NODES:
            async with asyncio.timeout(5 * PATIENCE_S):
                while (await asyncio.to_thread(cluster.streams))["status"] != "ok":
                    await asyncio.sleep(0.5)


async def _streams(cluster: Cluster, says: str) -> dict[str, str]:
    """What doctor says of the streams, once it says this: leaders are still being chosen."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            said = await asyncio.to_thread(cluster.streams)
            if says in said["found"]:
                return said


async def test_nothing_is_lost_while_servers_and_roles_are_killed(cluster: Cluster):
    first = await _streams(cluster, "on 3 servers, led by")
    leader = first["found"].rpartition(" ")[2]
    victims = [leader, "scheduler-1", "sidecar", "web"]
    told, _ = await asyncio.gather(
        _work(cluster, 60, 0.1), _trouble(cluster, victims, random.Random(1), 3.0)
    )
    assert told["ids"] == told["submitted"]
    assert told["stuck"] == told["never ran"] == []
    assert told["not completed"] == {}

    # What is not named stays as it is: three servers hold each stream.
    ran = cluster.system.run("provision", "--output-days", "7")
    assert ran.returncode == 0, ran.stderr
    await _streams(cluster, "on 3 servers")
    added = cluster.system.run("host", "add", "gpu-box")
    assert "signal reload" not in added.stdout + added.stderr
    assert "`agentcom keys --cluster" in added.stdout
    assert "agentcom up" not in added.stdout
    assert cluster.system.run("up").returncode != 0


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        (["n1=a", "n2=b"], "2 nodes: a cluster has 3"),
        (["n1=a", "n2=b", "n3=c", "n4=d"], "4 nodes"),
        (["n1=a", "n1=b", "n3=c"], "two nodes have the name n1"),
        (["n1=a", "n2=a", "n3=c"], "two nodes have the address nats://a:4222"),
        (["n1=a", "n2", "n3=c"], "n2: a node is NAME=HOST"),
        (["n1=a:70000", "n2=b", "n3=c"], "n1=a:70000: a node is NAME=HOST"),
        (["n1=a", 'n2=b"; x: "', "n3=c"], "a node is NAME=HOST"),
    ],
)
def test_what_is_no_cluster_is_refused(
    tmp_path: Path, nodes: list[str], says: str
) -> None:
    instance = Instance(tmp_path)
    instance.prepare(hosts=("h1",))
    with pytest.raises(BadCluster, match=says.replace("(", r"\(")):
        make_cluster(instance, "c", [parse_node(each) for each in nodes], None, None)


def test_a_node_s_folder_holds_no_private_key(tmp_path: Path) -> None:
    instance = Instance(tmp_path)
    instance.prepare(hosts=("h1",))
    nodes = [parse_node(f"n{number}=10.0.0.{number}") for number in (1, 2, 3)]
    cluster = make_cluster(instance, "c", nodes, "/var/lib/agentcom", None)
    folders = write_nodes(instance, cluster)
    site = folders[0].site_conf
    site.write_text("# mine\n")
    write_nodes(instance, cluster)

    assert site.read_text() == "# mine\n"
    seeds = [path.read_text().strip() for path in instance.keys.glob("*.nk")]
    for folder in folders:
        text = "".join(
            path.read_text() for path in folder.data.rglob("*") if path.is_file()
        )
        assert not any(seed in text for seed in seeds)
        assert 'STORE: "/var/lib/agentcom/jetstream"' in text
        assert folder.local_conf.stat().st_mode & 0o077 == 0
    assert instance.url.count("nats://") == 3


def told(
    copies: int, leader: str, *others: tuple[str, bool, bool, int]
) -> dict[str, Any]:
    names = ("name", "current", "offline", "lag")
    replicas = [dict(zip(names, each, strict=True)) for each in others]
    return {
        "config": {"num_replicas": copies},
        "cluster": {"leader": leader, "replicas": replicas},
    }


def test_doctor_calls_a_server_down_that_its_leader_has_not_heard_for_a_while():
    info = told(3, "a", ("b", True, False, 0), ("c", True, False, 0))
    info["cluster"]["replicas"][0]["active"] = 900_000_000
    assert replicas_unwell(info) is None
    info["cluster"]["replicas"][0]["active"] = 7_000_000_000
    unwell = replicas_unwell(info)
    assert unwell is not None
    assert unwell[:2] == ("warn", "b down, led by a; none more may fail")


def test_doctor_calls_a_server_down_that_a_new_leader_has_never_heard():
    info = told(3, "a", ("b", False, False, 42), ("c", True, False, 0))
    info["cluster"]["replicas"][0]["active"] = 0
    info["cluster"]["leader_since"] = "2026-11-28T06:31:44.742448274Z"
    info["ts"] = "2026-11-28T06:31:46.1Z"
    unwell = replicas_unwell(info)
    assert unwell is not None
    assert unwell[1] == "led by a; behind: b by 42"
    info["ts"] = "2026-11-28T06:31:52.1Z"
    unwell = replicas_unwell(info)
    assert unwell is not None
    assert unwell[:2] == ("warn", "b down, led by a; none more may fail")


@pytest.mark.parametrize(
    ("info", "status", "says"),
    [
        (told(3, "a", ("b", True, False, 0), ("c", True, False, 0)), None, ""),
        (told(3, "a", ("b", False, False, 9), ("c", True, False, 0)), "warn", "b by 9"),
        (
            told(3, "a", ("b", False, True, 9), ("c", True, False, 0)),
            "warn",
            "none more",
        ),
        (
            told(3, "a", ("b", False, True, 9), ("c", False, True, 0)),
            "fail",
            "majority",
        ),
        (told(3, "", ("b", True, False, 0), ("c", True, False, 0)), "fail", "majority"),
        (
            told(5, "a", ("b", False, True, 0), *((n, True, False, 0) for n in "cde")),
            "warn",
            "1 more may fail",
        ),
    ],
)
def test_doctor_judges_replicas(info: dict[str, Any], status: str | None, says: str):
    unwell = replicas_unwell(info)
    assert (unwell and unwell[0]) == status
    assert says in (unwell[1] if unwell else "")
