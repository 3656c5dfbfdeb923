"""The units for systemd: what they start is there, and ends as they expect."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cli.local.broker import server_environment
from tests.support.ring import observing

if TYPE_CHECKING:
    from tests.support.broker import LiveBroker

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))


def settings(unit: Path) -> dict[str, str]:
    lines = [line.partition("=") for line in unit.read_text().splitlines()]
    return {name: value for name, equals, value in lines if equals and name[0] != "#"}


@pytest.mark.parametrize("unit", UNITS, ids=[unit.stem for unit in UNITS])
def test_systemd_understands_the_unit(unit: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here")
    copy = tmp_path / unit.name
    program = settings(unit)["ExecStart"].split()[0]
    copy.write_text(unit.read_text().replace(program, "/bin/true"))
    found = subprocess.run(
        [analyze, "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in found.stderr.splitlines() if unit.name in line]
    assert said == []


@pytest.mark.parametrize("unit", UNITS, ids=[unit.stem for unit in UNITS])
def test_a_unit_comes_back_ends_whole_and_keeps_to_itself(unit: Path) -> None:
    said = settings(unit)
    assert said["Restart"] == "on-failure"
    # The program ends its own in good order; what is left goes with it.
    assert said["KillMode"] == "mixed"
    assert said["NoNewPrivileges"] == "true"
    assert said["UMask"] == "0077"


def test_the_broker_s_unit_has_what_up_gives_a_broker() -> None:
    said = settings(DEPLOY / "agentcom-broker.service")
    given = dict(each.split("=") for each in said["Environment"].split())
    assert set(given) == {"GOMEMLIMIT", "GOGC"}
    assert given["GOGC"] == server_environment({}, 4, 2**30)["GOGC"]
    assert said["ExecReload"] == "/bin/kill -HUP $MAINPID"


@pytest.mark.parametrize("role", ["broker", "scheduler", "web"])
def test_what_runs_no_tasks_is_shut_in(role: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here")
    unit = DEPLOY / f"agentcom-{role}.service"
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text())
    command = [analyze, "security", "--offline=true", "--threshold=49", str(copy)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if "offline" in found.stderr:
        pytest.skip(f"systemd-analyze is too old: {found.stderr.strip()}")
    assert found.returncode == 0, found.stdout.splitlines()[-1]


async def test_the_sidecars_unit_starts_one_and_stops_it_in_good_order(
    broker: LiveBroker, tmp_path: Path
) -> None:
    unit = settings(DEPLOY / "agentcom-sidecar.service")
    config = tmp_path / "sidecar.toml"
    config.write_text("discover = false\n[claude]\nenabled = false\n")
    words = {
        "/var/lib/agentcom-sidecar": str(tmp_path / "state"),
        "nats://broker.example:4222": broker.url,
        "/etc/agentcom/host-%l.nk": str(broker.credentials("host-h1").seed_path),
        "/etc/agentcom/sidecar.toml": str(config),
    }
    _, *arguments = shlex.split(unit["ExecStart"])
    assert set(words) <= set(arguments)
    # As systemd would have it: nothing of our own environment but what it sets itself.
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "USER": unit["User"]}
    async with observing(broker) as observer:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agentcom"),
            *(words.get(each, each) for each in arguments),
            env=env,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await observer.until(lambda: bool(observer.of("host.joined")))
            process.send_signal(getattr(signal, unit["KillSignal"]))
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        await observer.until(lambda: bool(observer.of("host.left")))
    assert (tmp_path / "state" / "journal-h1.db").exists()
