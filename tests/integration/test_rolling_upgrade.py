"""A fleet of 0.1 becomes one of 0.2, role by role, while tasks come in; and back."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import tarfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from cli.local.broker import Broker
from cli.local.instance import Instance
from events.nats.link import Link
from tests.support.command import command, environment
from tests.support.livelog import ROOT
from tests.support.ports import free_port
from tests.support.ring import Observer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

RUN_OLD = (
    "import sys; sys.path.insert(0, {tree!r}); sys.argv[0] = 'agentcom'; "
    "from cli.main import main; main()"
)


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> list[str]:
    """The command of the last commit of 0.1, run from its sources in our environment."""
    git = ["git", "-C", str(ROOT)]
    asked = ["log", "--format=%H", "--diff-filter=A", "--", "agentcom/__init__.py"]
    first = subprocess.run([*git, *asked], capture_output=True, text=True, check=False)
    if not first.stdout.strip():
        pytest.skip("this is no checkout with its history: 0.1 is not at hand")
    before = first.stdout.split()[-1] + "~1"
    packed = subprocess.run(
        [*git, "archive", before], capture_output=True, check=False
    ).stdout
    if not packed:
        pytest.skip("the history of this checkout is cut: 0.1 is not at hand")
    tree = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(tree, filter="data")
    return [sys.executable, "-P", "-c", RUN_OLD.format(tree=str(tree))]


class Fleet:
    """Roles of two versions on one broker's data folder."""

    def __init__(self, folder: Path, old: list[str]) -> None:
        self.folder = folder
        self.commands = {"0.1": old, "0.2": command()}
        self.data = folder / "data"
        self.instance = Instance(self.data)
        self.broker = Broker(self.instance)
        self.roles: dict[str, subprocess.Popen[bytes]] = {}
        self._env = environment(folder, self.data)

    async def run(self, version: str, *words: str) -> str:
        """Run a command of one version to its end; it has to succeed."""
        child = await asyncio.create_subprocess_exec(
            *self.commands[version],
            *words,
            env=self._env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        out, _ = await child.communicate()
        assert child.returncode == 0, (version, words, out.decode())
        return out.decode()

    def start(self, version: str, name: str, *words: str) -> None:
        with (self.folder / f"{name}-{version}.log").open("ab") as log:
            self.roles[name] = subprocess.Popen(
                [*self.commands[version], *words],
                env=self._env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def host(self, version: str, name: str) -> None:
        config = self.folder / f"{name}.toml"
        config.write_text(
            f'name = "{name}"\ndata = "{self.folder / name}"\ndiscover = false\n'
            "[slots]\nshell = 2\n[claude]\nenabled = false\n"
        )
        self.start(version, name, "sidecar", "--config", str(config))

    async def stop(self, name: str) -> None:
        role = self.roles.pop(name)
        role.terminate()
        await asyncio.to_thread(role.wait, 60)

    def close(self) -> None:
        for role in self.roles.values():
            role.terminate()
        for role in self.roles.values():
            role.wait(60)
        self.broker.stop()


@asynccontextmanager
async def fleet_of_0_1(
    folder: Path, old: list[str]
) -> AsyncIterator[tuple[Fleet, Observer]]:
    fleet = Fleet(folder, old)
    address = f"127.0.0.1:{free_port()}"
    await fleet.run("0.1", "keys", "--listen", address)
    for name in ("h1", "h2"):
        await fleet.run("0.1", "host", "add", name)
    fleet.broker.start()
    try:
        await fleet.run("0.1", "provision")
        link = await Link.connect(
            fleet.instance.credentials("operator").address(), timeout=60
        )
        observer = Observer(link)
        await observer.watch()
        try:
            yield fleet, observer
        finally:
            await observer.follower.stop()
            await link.close()
    finally:
        await asyncio.to_thread(fleet.close)


async def submitting(observer: Observer, tasks: list[str], stop: asyncio.Event) -> None:
    """Hand in a short task again and again, as a program that knows of nothing."""
    while not stop.is_set():
        n = len(tasks)
        tasks.append(
            await observer.submit(
                description=f"task {n}",
                shell={"command": f"sleep 0.{n % 3}; echo {n}"},
            )
        )
        await asyncio.sleep(0.1)


async def test_roles_are_replaced_one_by_one_and_nothing_is_lost_or_done_twice(
    old: list[str], tmp_path: Path
) -> None:
    async with fleet_of_0_1(tmp_path, old) as (fleet, observer):
        tasks: list[str] = []
        stop = asyncio.Event()

        def leaders() -> int:
            return len(observer.of("scheduler.elected"))

        def joined(host: str) -> int:
            return len([e for e in observer.of("host.joined") if e["host"] == host])

        async def more(count: int = 5) -> None:
            """Return once so many tasks that are submitted from now on have completed."""
            until = len(tasks) + count
            await observer.until(
                lambda: len(tasks) >= until and done(observer) >= {*tasks[:until]}
            )

        fleet.start("0.1", "scheduler", "scheduler")
        fleet.start("0.1", "web", "web", "--port", "0")
        fleet.host("0.1", "h1")
        fleet.host("0.1", "h2")
        await observer.until(lambda: joined("h1") and joined("h2") and leaders())
        submitter = asyncio.create_task(submitting(observer, tasks, stop))
        await more()

        # Keys and streams first, for the rights of the new version. Some of the broker's
        # settings are new, too, which a reload would refuse.
        await fleet.run("0.2", "keys")
        await asyncio.to_thread(fleet.broker.stop)
        await asyncio.to_thread(fleet.broker.start)
        await fleet.run("0.2", "provision")
        await more()

        # A scheduler of the new version stands by, then leads hosts of the old one.
        fleet.start("0.2", "new", "scheduler")
        await fleet.stop("scheduler")
        await observer.until(lambda: leaders() == 2)
        await more()

        # Then web, and one host after the other.
        await fleet.stop("web")
        fleet.start("0.2", "web", "web", "--port", "0")
        await fleet.stop("h1")
        fleet.host("0.2", "h1")
        await observer.until(lambda: joined("h1") == 2)
        await more()

        # Somebody thinks better of it: a scheduler of the old version leads both kinds.
        fleet.start("0.1", "scheduler", "scheduler")
        await fleet.stop("new")
        await observer.until(lambda: leaders() == 3)
        await more()
        fleet.start("0.2", "new", "scheduler")
        await fleet.stop("scheduler")
        await observer.until(lambda: leaders() == 4)
        await fleet.stop("h2")
        fleet.host("0.2", "h2")
        await observer.until(lambda: joined("h2") == 2)
        await more()

        stop.set()
        await submitter
        await observer.until(lambda: done(observer) >= {*tasks})
        checked = await fleet.run("0.2", "verify")
        listed = await fleet.run("0.2", "tasks", "--state", "failed", "--json")

    assert len(observer.of("task.completed")) == len(tasks)
    assert observer.of("task.failed") == observer.of("task.dead_lettered") == []
    assert "all is well" in checked
    assert task_ids(listed) == []


def done(observer: Observer) -> set[str]:
    return {event["task_id"] for event in observer.of("task.completed")}


def task_ids(listed: str) -> list[str]:
    return [line for line in listed.splitlines() if '"task_id"' in line]
