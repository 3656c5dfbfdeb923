"""The simulated `claude`: recorded streams, its signals, and how runs are ordered."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.simulated.claude import CONTROL_VARIABLE, Scenario, SimulatedClaude
from tests.support.backends import run_claude, shape

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDED = Path(__file__).parents[1] / "golden" / "claude-code"
TOOLS = ("--permission-mode", "acceptEdits")
SCENARIOS = {
    "ok": (Scenario(), ()),
    "tool": (Scenario(kind="denied"), ()),
    "r429": (Scenario(kind="r429"), ()),
    "o529": (Scenario(kind="o529"), ()),
    "e500": (Scenario(kind="e500"), ()),
    "a401": (Scenario(kind="a401"), ()),
    "n404": (Scenario(kind="n404"), ()),
    "p400": (Scenario(kind="p400"), ()),
    "nokey": (Scenario(kind="nokey"), ()),
    "middrop": (Scenario(kind="middrop"), ()),
    "maxturns": (Scenario(kind="maxturns"), (*TOOLS, "--max-turns", "2")),
    "budget": (Scenario(kind="budget"), (*TOOLS, "--max-budget-usd", "0.0001")),
}


def recorded(name: str) -> list[dict[str, Any]]:
    lines = (RECORDED / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def second_token(event: dict[str, Any]) -> bool:
    return event.get("event", {}).get("delta", {}).get("text") == "is "


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_stream_has_the_shape_that_was_recorded(
    name: str, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    scenario, flags = SCENARIOS[name]
    quick = {"kind": scenario.kind, "retry_delay_s": 0.0}
    ended = await run_claude(
        simulated_claude.program,
        *flags,
        folder=tmp_path,
        environment={
            CONTROL_VARIABLE: json.dumps(quick),
            "CLAUDE_CODE_MAX_RETRIES": "2",  # as when it was recorded
        },
    )
    assert shape(ended.events) == shape(recorded(name))


async def test_an_interrupted_stream_has_the_shape_that_was_recorded(
    simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.order("stall")
    ended = await run_claude(
        simulated_claude.program,
        folder=tmp_path,
        stop=(signal.SIGINT, second_token),
    )
    assert ended.exit == 0
    assert ended.result["total_cost_usd"] > 0
    assert shape(ended.events) == shape(recorded("sigINT"))


EXITS = [
    ("ok", 0, "success", False, None),
    ("r429", 1, "success", True, 429),
    ("o529", 1, "success", True, 529),
    ("e500", 1, "success", True, 500),
    ("a401", 1, "success", True, 401),
    ("credit", 1, "success", True, 400),
    ("n404", 1, "success", True, 404),
    ("p400", 1, "success", True, 400),
    ("nokey", 1, "success", True, None),
    ("refused", 1, "success", True, None),
    ("middrop", 1, "success", True, None),
    ("maxturns", 1, "error_max_turns", True, None),
    ("budget", 1, "error_max_budget_usd", True, None),
    ("denied", 0, "success", False, None),
]


@pytest.mark.parametrize(("kind", "code", "subtype", "is_error", "status"), EXITS)
async def test_exit_and_result_are_those_of_the_table(
    kind: Any,
    code: int,
    subtype: str,
    is_error: bool,
    status: int | None,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    simulated_claude.order(kind)
    ended = await run_claude(simulated_claude.program, folder=tmp_path)
    assert ended.exit == code
    assert ended.result["subtype"] == subtype
    assert ended.result["is_error"] is is_error
    assert ended.result.get("api_error_status") == status
    assert bool(ended.result["permission_denials"]) is (kind == "denied")


async def test_runs_take_the_ordered_scenarios_one_after_the_other(
    simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.order("r429", "ok")
    simulated_claude.always("a401")
    exits = [
        (await run_claude(simulated_claude.program, folder=tmp_path)).exit
        for _ in range(3)
    ]
    assert exits == [1, 0, 1]
    assert [run.scenario for run in simulated_claude.runs] == ["r429", "ok", "a401"]


async def test_runs_at_once_never_share_a_scenario(
    simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.order("ok", "r429", "a401", "e500")
    simulated_claude.always("n404")
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(run_claude(simulated_claude.program, folder=tmp_path))
    taken = sorted(run.scenario for run in simulated_claude.runs)
    assert taken == ["a401", "e500", "ok", "r429"]


async def test_a_run_records_its_prompt_and_no_value_of_its_environment(
    simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    await run_claude(
        simulated_claude.program,
        folder=tmp_path,
        prompt="Mend the roof",
        environment={"ANTHROPIC_API_KEY": "a-secret"},
    )
    [run] = simulated_claude.runs
    assert run.prompt == "Mend the roof"
    assert "ANTHROPIC_API_KEY" in run.environment
    assert all(
        b"a-secret" not in file.read_bytes()
        for file in simulated_claude.control.parent.rglob("*")
        if file.is_file()
    )


async def test_the_answer_says_that_it_is_simulated(
    simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    ended = await run_claude(simulated_claude.program, folder=tmp_path)
    assert "simulated" in ended.result["result"]
    assert "simulated" in ended.events[0]["claude_code_version"]
    version = subprocess.run(
        [simulated_claude.program, "--version"], capture_output=True, check=True
    )
    assert version.stdout == b"2.1.330 (Claude Code, simulated)\n"


async def test_the_program_runs_as_a_module_too(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    program = tmp_path / "module"
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -m sidecar.simulated.claude "$@"\n'
    )
    program.chmod(stat.S_IRWXU)
    environment = {
        "PYTHONPATH": str(root),
        CONTROL_VARIABLE: '{"kind":"ok","answer":"All done."}',
    }
    ended = await run_claude(program, folder=tmp_path, environment=environment)
    assert ended.result["result"] == "All done."


async def test_its_sessions_lie_beside_it_and_not_in_the_home(
    simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    ended = await run_claude(simulated_claude.program, folder=home)
    again = await run_claude(
        simulated_claude.program, "--resume", ended.result["session_id"], folder=home
    )
    assert again.exit == 0
    assert list(home.iterdir()) == []


async def test_a_tool_s_children_outlive_a_killed_claude(
    simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    """As with the real one: its Bash tool has a process group of its own."""
    pid_file = tmp_path / "pid"
    os.mkfifo(pid_file)
    simulated_claude.order(
        Scenario(kind="tool", command=f"tail -f /dev/null & echo $! > {pid_file}; wait")
    )
    killed: list[int] = []

    def uses_tool(event: dict[str, Any]) -> bool:
        if event.get("event", {}).get("type") != "message_stop":
            return False
        killed.append(int(pid_file.read_text()))  # waits until the child runs
        return True

    ended = await run_claude(
        simulated_claude.program,
        *TOOLS,
        folder=tmp_path,
        stop=(signal.SIGKILL, uses_tool),
    )
    assert ended.exit == -signal.SIGKILL
    os.kill(killed[0], 0)  # it lives
    os.killpg(os.getpgid(killed[0]), signal.SIGKILL)


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        ("hang_at_start", lambda event: False),
        ("hang", lambda event: event.get("status") == "requesting"),
        (
            "hang_before_result",
            lambda event: event.get("event", {}).get("type") == "message_stop",
        ),
        ("hang_after_result", lambda event: event["type"] == "result"),
    ],
)
async def test_a_hanging_run_stays_where_it_hangs(
    kind: Any,
    last: Callable[[dict[str, Any]], bool],
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    simulated_claude.order(Scenario(kind=kind, ignores=("int",)))
    running: list[int] = []
    ended = asyncio.create_task(
        run_claude(
            simulated_claude.program,
            folder=tmp_path,
            stop=(signal.SIGTERM, last),
            started=running.append,
        )
    )
    if kind == "hang_at_start":
        while not simulated_claude.runs:
            await asyncio.sleep(0.01)
        os.kill(running[0], signal.SIGTERM)
    assert (await ended).exit == 143


@pytest.mark.parametrize("kind", ["huge_line", "unknown_type"])
async def test_a_strange_line_does_not_end_the_run(
    kind: Any, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.order(kind)
    ended = await run_claude(simulated_claude.program, folder=tmp_path)
    assert ended.exit == 0
    assert len(max(map(str, ended.events), key=len)) > 500_000 or kind != "huge_line"


async def test_a_run_may_end_without_a_result(
    simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.order(Scenario(kind="no_result", exit_code=7))
    ended = await run_claude(simulated_claude.program, folder=tmp_path)
    assert ended.exit == 7
    assert all(event["type"] != "result" for event in ended.events)


async def test_an_unknown_model_s_price_is_marked_as_a_guess(
    simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    ended = await run_claude(
        simulated_claude.program, "--model", "claude-nonesuch-9", folder=tmp_path
    )
    assert ended.result["modelUsage"]["claude-nonesuch-9"]["costBasis"] == "unknown"
