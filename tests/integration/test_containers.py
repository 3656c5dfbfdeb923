"""compose.yaml: what its services run makes a whole, working AgentCom.

There is no container engine where tests run, so each service's command runs as a process,
in the order that the file says, with the folders that its volumes stand for.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from tests.support.command import PATIENCE_S, environment, family, survivors
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


class Composition:
    """The services of the file as processes; ports and folders are this test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.web, scheduler, worker = free_port(), free_port(), free_port()
        broker = free_port()
        self.ports = {
            "broker:4222": f"127.0.0.1:{broker}",
            "0.0.0.0:4222": f"127.0.0.1:{broker}",
            "('127.0.0.1', 4222)": f"('127.0.0.1', {broker})",
            "0.0.0.0": "127.0.0.1",
            "4000": str(self.web),
            "9101": str(scheduler),
            "9102": str(worker),
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def volume(self, name: str) -> Path:
        """The folder of a volume."""
        path = self.folder / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def words(self, name: str, words: list[str]) -> list[str]:
        """A command's words as this machine has them."""
        mounts = [each.split(":")[:2] for each in SERVICES[name].get("volumes", ())]
        mounts += [
            [f"tmpfs-{name}", each]
            for each in SERVICES[name]["tmpfs"]
            if each != "/tmp"
        ]
        places = {inside: str(self.volume(volume)) for volume, inside in mounts}
        new = {**places, **self.ports}
        longest_first = sorted(new, key=len, reverse=True)
        old = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})")
        return [old.sub(lambda match: new[match[0]], word) for word in words]

    def command(self, name: str) -> tuple[list[str], dict[str, str]]:
        """What a service runs, and its environment."""
        service = SERVICES[name]
        program = service.get("entrypoint", ["agentcom"])
        beside = Path(sys.executable).parent
        found = shutil.which(program[0], path=f"{beside}:/usr/bin:/bin")
        assert found is not None, program
        words = self.words(name, [*program[1:], *service.get("command", [])])
        (data,) = self.words(name, ["/data"])
        env = environment(self.folder, Path(data)) | service.get("environment", {})
        env["PATH"] = f"{beside}:{env['PATH']}"
        return [found, *words], env

    async def ready(self, name: str) -> None:
        """Wait until the service's own health check passes."""
        shell, line = SERVICES[name]["healthcheck"]["test"]
        assert shell == "CMD-SHELL"
        program, *words = shlex.split(line)
        assert program == "python3"
        ends = time.monotonic() + PATIENCE_S
        while True:
            said = (self.folder / f"{name}.log").read_text()
            assert self.running[name].poll() is None, said
            check = await asyncio.create_subprocess_exec(
                sys.executable,
                *self.words(name, words),
                stderr=asyncio.subprocess.DEVNULL,
            )
            if await check.wait() == 0:
                return
            assert time.monotonic() < ends, f"{name} is not healthy"

    def close(self) -> None:
        """Stop all, the last started first; no process is left."""
        tree = [each for one in self.running.values() for each in family(one.pid)]
        for each in reversed(self.running.values()):
            each.terminate()
            each.wait(PATIENCE_S)
        assert survivors(tree) == []


def order() -> Iterator[str]:
    """The services, each after those it depends on."""
    done: list[str] = []
    while len(done) < len(SERVICES):
        for name, service in SERVICES.items():
            if name not in done and set(service.get("depends_on", ())) <= set(done):
                done.append(name)
                yield name


async def test_what_the_services_run_is_a_whole_agentcom(tmp_path: Path) -> None:
    composition = Composition(tmp_path)
    with ExitStack() as stack:
        stack.callback(composition.close)
        for name in order():
            command, env = composition.command(name)
            if SERVICES[name]["restart"] == "no":
                done = subprocess.run(
                    command,
                    env=env,
                    capture_output=True,
                    timeout=PATIENCE_S,
                    check=False,
                )
                assert done.returncode == 0, done.stderr.decode()
                continue
            with (tmp_path / f"{name}.log").open("w") as said:
                composition.running[name] = subprocess.Popen(
                    command, env=env, stdout=said, stderr=said, cwd=tmp_path
                )
            await composition.ready(name)

        tokens = json.loads((composition.volume("web") / "web-tokens.json").read_text())
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{composition.web}/api/v1",
            headers={"Authorization": f"Bearer {tokens['operator']}"},
            timeout=PATIENCE_S,
        ) as http:
            task = {"description": "say", "shell": {"command": "echo here"}}
            accepted = (await http.post("/tasks", json=task)).json()
            path = f"/tasks/{accepted['task_id']}"
            ends = time.monotonic() + PATIENCE_S
            found: dict[str, Any] = {}
            while found.get("state") != "completed" and time.monotonic() < ends:
                found = (await http.get(path)).json().get("task", {})
                await asyncio.sleep(0.05)
        assert found["result"]["output"] == "here\n"


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    # The volume with everybody's keys is the broker's; a role has its own key.
    volumes = {each.split(":")[0] for each in service.get("volumes", ())}
    if name not in ("keys", "broker", "provision"):
        assert "broker" not in volumes
        assert len([each for each in volumes if each.endswith("-key")]) == 1
