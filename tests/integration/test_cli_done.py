"""What a newcomer types first: it is refused by name, or it is done whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.simulated.claude import SimulatedClaude
from tests.support.command import System, agentcom_up

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def claude(tmp_path_factory: pytest.TempPathFactory) -> SimulatedClaude:
    return SimulatedClaude(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="module")
def up(
    tmp_path_factory: pytest.TempPathFactory, claude: SimulatedClaude
) -> Iterator[System]:
    config = (
        "discover = false\ndrain_timeout_s = 5.0\n"
        f'[claude]\nenabled = true\nprogram = "{claude.program}"\n'
    )
    with agentcom_up(tmp_path_factory.mktemp("up"), config) as (system, _):
        yield system


def test_a_repository_that_no_host_has_is_refused_and_named(up: System) -> None:
    ended = up.run("submit", "fix the login", "--repo", "nowhere")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "nowhere" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert up.json("tasks", "--text", "fix the login")["tasks"] == []


def test_a_long_diff_from_a_pipe_reaches_claude_whole(
    up: System, claude: SimulatedClaude
) -> None:
    line = "+    return é, 'a line of a long diff'\n"
    diff = (line * (120_000 // len(line) + 1))[:119_990] + "\n+the end"
    ended = up.run("submit", "-", "--tier", "complex", "--wait", "--json", stdin=diff)
    assert ended.returncode == 0, ended.stderr
    assert ended.json["status"] == "completed"
    # Other tests of this file give it work as well.
    (run,) = [each for each in claude.runs if "+the end" in (each.prompt or "")]
    assert diff.strip() in run.prompt


def test_a_command_that_may_be_tried_once_runs_once_and_its_failure_has_its_code(
    up: System,
) -> None:
    lines = up.data / "lines"
    once = ("--max-attempts", "1", "--wait", "--shell")
    ended = up.run("submit", *once, f"echo x >> {lines}; exit 7")
    assert ended.returncode == 3
    assert lines.read_text() == "x\n"
    ended = up.run("submit", *once, "--", "sh", "-c", "exit 3")
    assert ended.returncode == 3
    assert "exit code 3" in ended.stderr


@pytest.mark.parametrize("how", [("--shell", "true"), ("--tier", "complex")])
def test_what_is_not_verified_is_no_success_of_the_command(
    up: System, how: tuple[str, ...]
) -> None:
    ended = up.run(
        *("submit", "verified", *how, "--verify", "exit 1", "--wait", "--json")
    )
    assert ended.returncode != 0
    assert ended.json["status"] != "completed"
    assert ended.json["error"]["code"] == "verification"
