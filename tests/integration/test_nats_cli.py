"""The real `nats` command line as each role: what works, what is refused, as documented."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cli.local.instance import Instance
from tests.support.command import agentcom_up

if TYPE_CHECKING:
    from tests.support.command import System

PAGE = Path(__file__).parents[2] / "docs" / "nats-cli.md"
ROLES = ("watcher", "operator", "submitter", "host-h1")
TIMEOUT = "5s"
"""Long enough for an answer on a busy machine; a refused command waits as long."""
TASK = '{"description":"say","shell":{"command":"echo here"}}'
COMMANDS: dict[str, list[str]] = {
    "nats stream ls": [],
    "nats stream info AGENTCOM_EVENTS": [],
    "nats stream get AGENTCOM_EVENTS 1": [],
    "nats consumer ls AGENTCOM_EVENTS": [],
    "nats kv ls": [],
    "nats kv get AGENTCOM_LEASE led": [],
    "nats sub --count 1 --wait 1s agentcom.evt.>": [],
    "nats sub --count 1 --wait 1s agentcom.out.>": [],
    "nats req agentcom.query.tasks {}": [],
    "nats req agentcom.cmd.task.submit": [TASK],
    "nats micro ls": [],
    "nats micro info agentcom": [],
    "nats micro stats agentcom": [],
    "nats micro ping agentcom": [],
    "nats account info": [],
    "nats pub agentcom.evt.policy {}": [],
    "nats stream purge -f AGENTCOM_EVENTS": [],
    "nats stream rm -f AGENTCOM_EVENTS": [],
    "nats server ls": [],
}


def program() -> str:
    """The nats CLI; skips the test where it is not installed."""
    beside = Path(sys.executable).with_name("nats")
    found = str(beside) if beside.exists() else shutil.which("nats")
    if found is None:
        pytest.skip("no nats CLI here: `make natscli` installs it where Go is")
    return found


async def _ask(
    nats: str, system: System, role: str, words: list[str]
) -> tuple[int, str]:
    credentials = Instance(system.data).credentials(role)
    process = await asyncio.create_subprocess_exec(
        *(nats, "--server", credentials.url, "--nkey", str(credentials.seed_path)),
        *("--inbox-prefix", credentials.inbox_prefix, "--timeout", TIMEOUT, *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=system.env,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def _cell(nats: str, system: System, role: str, command: str) -> str:
    words = [*command.split()[1:], *COMMANDS[command]]
    code, said = await _ask(nats, system, role, words)
    if "ermissions" in said or re.search(r"Permissions Violation", said):
        return "in part" if "Account Information" in said else "refused"
    return "yes" if code == 0 else "no"


async def test_what_each_role_may_is_as_the_page_says(tmp_path: Path) -> None:
    nats = program()
    with agentcom_up(tmp_path) as (system, _):
        await asyncio.to_thread(system.run, "submit", "--shell", "echo hello", "--wait")
        # All at once: what is refused waits its whole time for an answer.
        cells = await asyncio.gather(
            *(_cell(nats, system, role, each) for each in COMMANDS for role in ROLES)
        )
    rows = [cells[at : at + len(ROLES)] for at in range(0, len(cells), len(ROLES))]
    found = dict(zip(COMMANDS, rows, strict=True))
    said = {
        cells[0].strip("` "): [each.strip() for each in cells[1:]]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| `nats ")
        for cells in [line.strip("|").split("|")]
    }
    assert found == said


async def test_a_context_is_all_that_the_nats_cli_needs(tmp_path: Path) -> None:
    nats = program()
    with agentcom_up(tmp_path) as (system, _):
        # The program asks the password file for its home, not HOME.
        system.env["XDG_CONFIG_HOME"] = str(tmp_path / ".config")
        made = await asyncio.to_thread(system.run, "keys", "--nats-contexts")
        assert "agentcom-operator" in made.stdout, made.stderr
        process = await asyncio.create_subprocess_exec(
            *(nats, "--context", "agentcom-operator", "req", "--raw"),
            *("agentcom.query.tasks", "{}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=system.env,
        )
        said, _ = await process.communicate()
        assert json.loads(said)["tasks"] == []
        files = list((tmp_path / ".config" / "nats" / "context").iterdir())
        assert {each.stat().st_mode & 0o077 for each in files} == {0}
