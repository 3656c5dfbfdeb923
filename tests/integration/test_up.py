"""`agentcom up`: the broker's address, who hears it, and what an earlier one left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from cli.local.broker import StartFailed
from cli.local.instance import Instance
from cli.local.supervisor import Everything, Plan
from cli.render.terminal import EXIT_UNREACHABLE
from tests.support.command import (
    NOTHING_ELSE,
    PATIENCE_S,
    Running,
    System,
    agentcom_up,
    command,
)
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_a_broker_for_other_machines_stays_one_and_is_reached_from_here(
    tmp_path: Path,
) -> None:
    system = System(tmp_path)
    instance = Instance(system.data)
    listen = f"0.0.0.0:{free_port()}"
    assert system.run("keys", "--listen", listen).returncode == 0
    (system.data / "sidecar.toml").write_text(NOTHING_ELSE)

    with system.running("up", "--port", "0", "--name", "h1") as up:
        up.until("dashboard")
        done = system.run("submit", "--shell", "echo here", "--wait")
        assert done.stdout == "here\n"
        server = psutil.Process(int(instance.pid_file.read_text()))
        bound = {one.laddr.port for one in server.net_connections("tcp")}
        assert int(listen.rpartition(":")[2]) in bound
        up.signal(signal.SIGINT)
        assert up.end() == 0

    assert instance.listen == listen
    assert instance.url == listen.replace("0.0.0.0:", "nats://127.0.0.1:")


def children(pid: int) -> dict[str, int]:
    """The roles that an `agentcom up` runs, and their process ids."""
    found = {}
    for each in psutil.Process(pid).children():
        words = each.cmdline()
        found["nats-server" if "agentcom" not in words else words[4]] = each.pid
    return found


def test_it_goes_on_supervising_when_nobody_reads_it(tmp_path: Path) -> None:
    system = System(tmp_path)
    system.data.mkdir()
    (system.data / "sidecar.toml").write_text(NOTHING_ELSE)
    arguments = [*command(), "up", "--port", "0", "--nats-port", "0", "--name", "h1"]
    up = subprocess.Popen(
        arguments,
        env=system.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert up.stdout is not None
    try:
        while b"dashboard" not in up.stdout.readline():
            pass
        # Who read it goes away, and then there is something to say, twice.
        up.stdout.close()
        for role in ("web", "scheduler"):
            old = children(up.pid)[role]
            process = psutil.Process(old)
            process.kill()
            psutil.wait_procs([process])
            while children(up.pid).get(role) in (None, old):
                assert up.poll() is None
                time.sleep(0.05)
        # The new scheduler is there before it answers.
        while True:
            done = system.run("submit", "--shell", "echo here", "--wait")
            if done.returncode != EXIT_UNREACHABLE:
                break
            assert up.poll() is None
        assert done.stdout == "here\n", done.stderr
        up.send_signal(signal.SIGTERM)
        assert up.wait(PATIENCE_S) == 0
    finally:
        up.kill()
        up.wait()


@pytest.fixture
def hangups_end() -> Iterator[None]:
    """What is started is ended by a hangup, also where these tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups_end")
def test_nohup_is_what_it_is_and_without_it_a_hangup_ends_it(tmp_path: Path) -> None:
    system = System(tmp_path)
    system.data.mkdir()
    (system.data / "sidecar.toml").write_text(NOTHING_ELSE)
    arguments = ["up", "--port", "0", "--nats-port", "0", "--name", "h1"]
    program = ["nohup", *command()]
    up = Running(arguments, system.env, tmp_path, program=program)
    try:
        up.until("dashboard")
        up.signal(signal.SIGHUP)
        done = system.run("submit", "--shell", "echo here", "--wait")
        assert done.stdout == "here\n", done.stderr
        up.signal(signal.SIGTERM)
        assert up.end() == 0
        assert "starting it again" not in up.said["stderr"]
    finally:
        up.close()

    with system.running(*arguments) as other:
        other.until("dashboard")
        os.kill(children(other.process.pid)["sidecar"], signal.SIGHUP)
        assert "sidecar ended with status 0" in other.until("sidecar", "stderr")
        other.signal(signal.SIGHUP)
        assert other.end() == 0


def test_it_waits_for_the_sidecar_of_a_killed_one(tmp_path: Path) -> None:
    with agentcom_up(tmp_path, NOTHING_ELSE.replace("5.0", "30.0")) as (system, up):
        gate = tmp_path / "gate"
        wait = f"echo x >>{tmp_path}/count; while [ ! -e {gate} ]; do sleep 0.05; done"
        task = system.run("submit", "--shell", wait).stdout.strip()
        while not (tmp_path / "count").exists():
            time.sleep(0.05)
        up.signal(signal.SIGKILL)
        up.process.wait()
        arguments = ["up", "--port", "0", "--nats-port", "0", "--name", "h1"]
        with system.running(*arguments) as second:
            said = second.until("waiting", "stderr")
            assert "is the sidecar of h1" in said
            gate.touch()
            second.until("dashboard")
            # The sidecar's next life tells how it ended.
            assert system.run("logs", task, "--follow").returncode == 0
            done = system.run("task", task, "--json").json
            leaders = system.run("events", "--type", "scheduler.elected", "--json")
            second.signal(signal.SIGINT)
            assert second.end() == 0
        assert done["task"]["status"] == "success"
        assert (tmp_path / "count").read_text() == "x\n"
        assert len(leaders.stdout.splitlines()) == 2


def test_a_port_that_was_taken_meanwhile_is_another_one(tmp_path: Path) -> None:
    instance = Instance(tmp_path / "data")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        plan = Plan(host="h1", port=1, nats_port=port, any_nats_port=True)
        everything = Everything(instance, plan, print)
        everything._start_broker()
        try:
            assert everything.plan.nats_port != port
            assert instance.url.endswith(f":{everything.plan.nats_port}")
            assert instance.listen == f"127.0.0.1:{everything.plan.nats_port}"
        finally:
            everything.kill()
        chosen = Everything(instance, Plan(host="h1", port=1, nats_port=port), print)
        with pytest.raises(StartFailed, match="address already in use"):
            chosen._start_broker()


async def test_a_dashboards_port_that_was_taken_meanwhile_is_another_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "c.toml").write_text(NOTHING_ELSE)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        plan = Plan(
            host="h1",
            port=port,
            nats_port=free_port(),
            any_port=True,
            any_nats_port=True,
            config=tmp_path / "c.toml",
        )
        everything = Everything(Instance(tmp_path / "data"), plan, print)
        try:
            await everything.start()
            assert everything.plan.port != port
            url = everything.url.partition("#")[0]
            async with httpx.AsyncClient() as client:
                assert (await client.get(url)).status_code == 200
        finally:
            await everything.stop()


def test_who_has_a_port_and_who_runs_here_is_named_with_what_to_do(
    tmp_path: Path,
) -> None:
    (tmp_path / "one").mkdir()
    with agentcom_up(tmp_path / "one") as (system, up):
        broker = Instance(system.data).url.rpartition(":")[2]
        web = up.said["stdout"].partition("http://127.0.0.1:")[2].partition("/")[0]
        other = str(tmp_path / "other")
        for ports, what in (
            (("--nats-port", broker, "--port", "0"), "broker"),
            (("--nats-port", "0", "--port", web), "dashboard"),
        ):
            refused = system.run("up", "--data", other, *ports)
            assert refused.returncode == 1
            taken = f"is taken by the {what} of the AgentCom on {system.data} (process"
            assert taken in refused.stderr, refused.stderr
        told = system.run("keys", "--data", other, "--listen", f"127.0.0.1:{broker}")
        assert f"the broker of the AgentCom on {system.data}" in told.stderr
        assert system.run("keys").stderr == ""
        elsewhere = system.run("keys", "--listen", f"127.0.0.1:{free_port()}")
        assert f"`agentcom up` (process {up.process.pid})" in elsewhere.stderr
        assert f"goes on listening on 127.0.0.1:{broker}" in elsewhere.stderr


def test_a_data_folder_deleted_under_a_sidecar_ends_it_with_the_reason(
    tmp_path: Path,
) -> None:
    own = tmp_path / "own"
    config = f'data = "{own}"\nbeat_every_s = 0.2\n' + NOTHING_ELSE
    with agentcom_up(tmp_path, config) as (system, up):
        sidecar = psutil.Process(children(up.process.pid)["sidecar"])
        done = system.run("submit", "--shell", "echo here", "--wait")
        assert done.stdout == "here\n", done.stderr
        # What it closes meanwhile is gone before we get to it.
        shutil.rmtree(own, ignore_errors=True)
        said = up.until("sidecar ended with status 1", "stderr")
        assert "was deleted or replaced" in said
        psutil.wait_procs([sidecar])
        # The next one makes its folder anew; that its journal is gone is not unsaid.
        while "its journal is of life 1" not in system.run("hosts").stdout:
            assert up.process.poll() is None
        assert "its journal is of life 1" in system.run("doctor").stdout
