"""`agentcom up` and the address that the operator gave the broker."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import psutil

from cli.local.instance import Instance
from cli.local.supervisor import free_port
from tests.support.command import NOTHING_ELSE, System

if TYPE_CHECKING:
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
