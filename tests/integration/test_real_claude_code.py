"""The simulated `claude` prints what the real one prints, case by case.

The real program is driven over loopback, without an account. When a new version of it
behaves differently, this is where it shows.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.executors.claude.command import is_logged_out
from sidecar.processes.family import Processes
from sidecar.simulated.claude import CLAUDE_CODE, Scenario
from tests.support.backends import Ended, run_claude, shape
from tests.support.messages_api import Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidecar.simulated.claude import SimulatedClaude
    from tests.support.messages_api import MessagesApi

TOOLS = ("--permission-mode", "acceptEdits", "--allowedTools", "Bash")


async def run_real(
    program: Path,
    api: MessagesApi,
    folder: Path,
    *flags: str,
    key: dict[str, str] | None = None,
    **more: Any,
) -> Ended:
    environment = {
        "ANTHROPIC_BASE_URL": api.url,
        **({"ANTHROPIC_API_KEY": "any"} if key is None else key),
        **more.pop("environment", {}),
    }
    return await run_claude(
        program, *flags, folder=folder / "real", environment=environment, **more
    )


def outcome(ended: Ended) -> dict[str, Any]:
    """What a host decides by."""
    result = ended.result
    told = {"exit": ended.exit}
    for name in ("subtype", "is_error", "api_error_status", "terminal_reason"):
        told[name] = result.get(name)
    told["stop_reason"] = result.get("stop_reason")
    told["num_turns"] = result["num_turns"]
    told["denials"] = len(result["permission_denials"])
    told["has_cost"] = result["total_cost_usd"] > 0
    told["has_usage"] = result["usage"]["cache_read_input_tokens"] > 0
    told["has_result"] = "result" in result
    return told


TEXT = Reply(kind="text")
ECHO = "echo hi"
CASES = {
    "ok": ([TEXT], Scenario(), ()),
    "thinking": ([Reply(thinking="Well now")], Scenario(thinking="Well now"), ()),
    "tool": (
        [Reply(kind="tool", command=ECHO)],
        Scenario(kind="tool", command=ECHO),
        TOOLS,
    ),
    "tool fails": (
        [Reply(kind="tool", command="exit 3")],
        Scenario(kind="tool", command="exit 3"),
        TOOLS,
    ),
    "denied": (
        [Reply(kind="tool", command="rm -r gone")],
        Scenario(kind="tool", command="rm -r gone"),
        (),
    ),
    "background": (
        [Reply(kind="tool", command="sleep 2", background=True), TEXT, TEXT],
        Scenario(kind="background", command="sleep 2"),
        TOOLS,
    ),
    "background that fails": (
        [Reply(kind="tool", command="sleep 2; exit 3", background=True), TEXT, TEXT],
        Scenario(kind="background", command="sleep 2; exit 3"),
        TOOLS,
    ),
    "r429": ([Reply(kind="r429")], Scenario(kind="r429"), ()),
    "o529": ([Reply(kind="o529")], Scenario(kind="o529"), ()),
    "e500": ([Reply(kind="e500")], Scenario(kind="e500"), ()),
    "a401": ([Reply(kind="a401")], Scenario(kind="a401"), ()),
    "n404": ([Reply(kind="n404")] * 2, Scenario(kind="n404"), ()),
    "p400": ([Reply(kind="p400")], Scenario(kind="p400"), ()),
    "credit": ([Reply(kind="credit")], Scenario(kind="credit"), ()),
    "refusal": ([Reply(kind="refusal")] * 2, Scenario(kind="refusal"), ()),
    "middrop": ([Reply(kind="drop")] * 2, Scenario(kind="middrop"), ()),
    "fallback": ([Reply(kind="drop"), TEXT], Scenario(kind="fallback"), ()),
    "maxturns": (
        [Reply(kind="tool", command=ECHO)] * 2,
        Scenario(kind="maxturns", command=ECHO),
        (*TOOLS, "--max-turns", "2"),
    ),
    "budget": (
        [Reply(kind="tool", command=ECHO)],
        Scenario(kind="budget"),
        (*TOOLS, "--max-budget-usd", "0.0001"),
    ),
    "budget at the end": ([TEXT], Scenario(), ("--max-budget-usd", "0.0001")),
}


@pytest.mark.parametrize("case", CASES)
async def test_the_simulated_program_does_what_the_real_one_does(
    case: str,
    real_claude: Path,
    messages_api: MessagesApi,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    replies, scenario, flags = CASES[case]
    messages_api.reply_next(*replies)
    simulated_claude.order(scenario)
    real = await run_real(real_claude, messages_api, tmp_path, *flags)
    simulated = await run_claude(
        simulated_claude.program, *flags, folder=tmp_path / "simulated"
    )
    assert outcome(simulated) == outcome(real)
    shapes = shape(simulated.events), shape(real.events)
    if (
        case == "denied"
    ):  # the real one denies while the message is still being streamed
        shapes = sorted(shapes[0]), sorted(shapes[1])
    assert shapes[0] == shapes[1]


async def test_a_known_end_of_a_rate_limit_comes_as_an_event_of_its_own(
    real_claude: Path,
    messages_api: MessagesApi,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    resets_at = int(time.time()) + 3600  # a far one is not believed
    messages_api.reply_next(Reply(kind="r429", resets_at=resets_at))
    simulated_claude.order(Scenario(kind="r429", resets_at=resets_at))
    login = {"CLAUDE_CODE_OAUTH_TOKEN": "any"}  # with an API key there is none
    real = await run_real(real_claude, messages_api, tmp_path, key=login)
    simulated = await run_claude(simulated_claude.program, folder=tmp_path / "sim")
    [limit] = [e for e in simulated.events if e["type"] == "rate_limit_event"]
    assert limit["rate_limit_info"]["status"] == "rejected"
    assert limit["rate_limit_info"]["resetsAt"] == resets_at
    assert outcome(simulated) == outcome(real)
    assert shape(simulated.events) == shape(real.events)


async def test_without_a_login_it_says_so_and_asks_nobody(
    real_claude: Path,
    messages_api: MessagesApi,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    simulated_claude.order("nokey")
    real = await run_real(real_claude, messages_api, tmp_path, key={})
    simulated = await run_claude(simulated_claude.program, folder=tmp_path / "sim")
    assert messages_api.messages() == []
    assert outcome(simulated) == outcome(real)
    assert shape(simulated.events) == shape(real.events)
    assert simulated.result["result"] == real.result["result"]


async def test_a_refused_connection_is_an_error_without_a_status(
    real_claude: Path,
    messages_api: MessagesApi,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    simulated_claude.order("refused")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and never listening
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        environment = {"ANTHROPIC_BASE_URL": url}
        real = await run_real(
            real_claude, messages_api, tmp_path, environment=environment
        )
    simulated = await run_claude(simulated_claude.program, folder=tmp_path / "sim")
    assert outcome(simulated) == outcome(real)
    assert shape(simulated.events) == shape(real.events)


def second_token(event: dict[str, Any]) -> bool:
    return event.get("event", {}).get("delta", {}).get("text") == "is "


async def test_sigint_while_it_speaks_ends_with_exit_0_and_the_cost(
    real_claude: Path,
    messages_api: MessagesApi,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    messages_api.reply_next(Reply(kind="stall"))
    simulated_claude.order(Scenario(kind="stall"))
    stop = (signal.SIGINT, second_token)
    real = await run_real(real_claude, messages_api, tmp_path, stop=stop)
    simulated = await run_claude(
        simulated_claude.program, folder=tmp_path / "sim", stop=stop
    )
    assert outcome(simulated) == outcome(real)
    assert shape(simulated.events) == shape(real.events)


async def test_sigint_before_the_first_token_ends_with_exit_0_and_no_cost(
    real_claude: Path,
    messages_api: MessagesApi,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    messages_api.reply_next("hang")
    simulated_claude.order("hang")
    stop = (signal.SIGINT, lambda event: event.get("status") == "requesting")
    real = await run_real(real_claude, messages_api, tmp_path, stop=stop)
    simulated = await run_claude(
        simulated_claude.program, folder=tmp_path / "sim", stop=stop
    )
    assert outcome(simulated) == outcome(real)
    assert shape(simulated.events) == shape(real.events)


@asynccontextmanager
async def reading(pipe: Path) -> AsyncIterator[asyncio.StreamReader]:
    """What comes out of a named pipe; opening it waits for no writer."""
    reader = asyncio.StreamReader()
    end = open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0)  # noqa: SIM115
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), end
    )
    try:
        yield reader
    finally:
        transport.close()


async def test_sigint_while_a_tool_runs_ends_the_tool_too(
    real_claude: Path,
    messages_api: MessagesApi,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    """The tool says through a pipe that it runs; the pipe ends when the tool does."""

    async def interrupted(name: str, run: Any, home: Path = tmp_path) -> Ended:
        pipe = home / name / "pipe"
        pipe.parent.mkdir(parents=True)
        os.mkfifo(pipe)
        async with asyncio.TaskGroup() as group, reading(pipe) as tool:
            ended = group.create_task(run("exec > pipe; echo on; tail -f /dev/null"))
            assert await tool.readline() == b"on\n"
            os.kill(pids[name], signal.SIGINT)
            assert await tool.read() == b""
        return await ended

    pids: dict[str, int] = {}

    async def real(command: str) -> Ended:
        messages_api.reply_next(Reply(kind="tool", command=command))
        return await run_real(
            real_claude,
            messages_api,
            home,
            *TOOLS,
            started=lambda pid: pids.update(real=pid),
        )

    async def simulated(command: str) -> Ended:
        simulated_claude.order(Scenario(kind="tool", command=command))
        return await run_claude(
            simulated_claude.program,
            *TOOLS,
            folder=tmp_path / "simulated",
            started=lambda pid: pids.update(simulated=pid),
        )

    for again in range(5):
        home = tmp_path / str(again)
        of_real = await interrupted("real", real, home)
        # Interrupted in the moment in which it sets the tool going, it ends without a word.
        if of_real.events[-1]["type"] == "result":
            break
    of_simulated = await interrupted("simulated", simulated)
    assert outcome(of_simulated) == outcome(of_real)
    assert shape(of_simulated.events) == shape(of_real.events)


async def test_sigterm_ends_with_143_and_without_a_result(
    real_claude: Path,
    messages_api: MessagesApi,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    messages_api.reply_next(Reply(kind="stall"))
    simulated_claude.order(Scenario(kind="stall"))
    stop = (signal.SIGTERM, second_token)
    real = await run_real(real_claude, messages_api, tmp_path, stop=stop)
    simulated = await run_claude(
        simulated_claude.program, folder=tmp_path / "sim", stop=stop
    )
    assert simulated.exit == real.exit == 143
    assert all(event["type"] != "result" for event in real.events + simulated.events)


async def test_a_resumed_session_adds_up_its_cost(
    real_claude: Path,
    messages_api: MessagesApi,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    session = "5e1f0e6c-6a3e-4f0e-9f1d-3b7c5a2d1e00"

    async def growth(run: Any) -> list[float]:
        first = await run("--session-id", session)
        again = await run("--resume", session)
        since = again.result["model_usage_since_last_result"]
        spent = [each["costUSD"] for each in since.values()]
        cost = first.result["total_cost_usd"]
        return [again.result["total_cost_usd"] / cost, spent[0] / cost]

    async def real(*flags: str) -> Ended:
        return await run_real(real_claude, messages_api, tmp_path, *flags)

    async def simulated(*flags: str) -> Ended:
        return await run_claude(
            simulated_claude.program, *flags, folder=tmp_path / "sim"
        )

    assert await growth(simulated) == pytest.approx([2.0, 1.0])
    assert await growth(real) == pytest.approx([2.0, 1.0])


@pytest.mark.parametrize(
    "flags",
    [
        ("--session-id", "no-uuid"),
        ("--unheard-of",),
        ("--resume", "11111111-1111-4111-8111-111111111111"),
    ],
)
async def test_a_command_line_is_refused_in_the_same_words(
    flags: tuple[str, ...],
    real_claude: Path,
    messages_api: MessagesApi,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    real = await run_real(real_claude, messages_api, tmp_path, *flags)
    simulated = await run_claude(
        simulated_claude.program, *flags, folder=tmp_path / "sim"
    )
    assert simulated.exit == real.exit == 1
    assert simulated.stderr.strip() == real.stderr.strip()
    assert shape(simulated.events) == shape(real.events)


@pytest.mark.parametrize("key", [{}, {"ANTHROPIC_API_KEY": "any"}])
async def test_whether_it_is_logged_in_is_said_in_the_same_words(
    key: dict[str, str],
    real_claude: Path,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    simulated_claude.log_in(bool(key))
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], **key}
    exits, told = [], []
    for program in (real_claude, simulated_claude.program):
        logged_out = await is_logged_out(Processes(), program, CLAUDE_CODE, home, 60)
        assert logged_out is not bool(key)
        asked = await Processes().brief(
            [str(program), "auth", "status"], cwd=tmp_path, env=home, timeout_s=60
        )
        exits.append(asked.exit and asked.exit.code)
        told.append(json.loads(asked.stdout))
    assert exits[0] == exits[1]
    assert told[0].items() >= told[1].items()


async def test_an_older_program_is_not_asked_whether_it_is_logged_in(
    tmp_path: Path,
) -> None:
    older = tmp_path / "claude"
    older.write_text('#!/bin/sh\necho ran >> "$0.ran"; echo \'{"loggedIn": false}\'\n')
    older.chmod(0o755)
    for version, logged_out in (("2.1.40", False), ("2.1.41", True), ("3.0.0", True)):
        said = await is_logged_out(Processes(), older, version, {}, 60)
        assert said is logged_out
    assert (tmp_path / "claude.ran").read_text() == "ran\n" * 2


async def test_the_price_of_a_run_is_the_real_program_s_price(
    real_claude: Path,
    messages_api: MessagesApi,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    messages_api.reply_next(Reply(text="one two three", output_tokens=3))
    simulated_claude.order(Scenario(answer="one two three", input_tokens=25))
    real = await run_real(real_claude, messages_api, tmp_path)
    simulated = await run_claude(simulated_claude.program, folder=tmp_path / "sim")
    [of_real] = real.result["modelUsage"].values()
    [of_simulated] = simulated.result["modelUsage"].values()
    cost = real.result["total_cost_usd"]
    assert simulated.result["total_cost_usd"] == pytest.approx(cost)
    assert of_simulated.pop("costUSD") == pytest.approx(of_real.pop("costUSD"))
    assert of_simulated == of_real


async def test_the_version_simulated_is_the_version_at_hand(
    real_claude: Path, messages_api: MessagesApi, tmp_path: Path
) -> None:
    real = await run_real(real_claude, messages_api, tmp_path)
    version = real.events[0]["claude_code_version"]
    assert version == CLAUDE_CODE, json.dumps(real.events[0])[:200]
