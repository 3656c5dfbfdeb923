"""The Claude Code executor against the simulated program, and against the real one."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from events import catalogue as c
from sidecar.costs import settle
from sidecar.delegation import DoorAccess
from sidecar.executors.claude import executor as executors
from sidecar.executors.claude.command import (
    NOT_FOUND,
    ClaudeOptions,
    command_line,
    environment,
    find_program,
    narrowed,
    probe,
)
from sidecar.executors.claude.executor import ClaudeExecutor
from sidecar.executors.port import Finished, Returned, Run, Stop, Stopped
from sidecar.processes.family import Processes
from sidecar.simulated.claude import Scenario
from tests.support.messages_api import Reply
from tests.support.runs import QUICK, Ear, alive, assignment, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from events.mail import Limits
    from sidecar.executors.port import Outcome
    from sidecar.simulated.claude import SimulatedClaude
    from tests.support.messages_api import MessagesApi

MODEL = "claude-sonnet-4-5"


@pytest.fixture
def processes() -> Iterator[Processes]:
    family = Processes()
    family.become_subreaper()
    yield family
    assert running(family) == []


@pytest.fixture
def executor(processes: Processes, simulated_claude: SimulatedClaude) -> ClaudeExecutor:
    return ClaudeExecutor(
        processes, ClaudeOptions(program=str(simulated_claude.program))
    )


def asking(folder: Path, limits: Limits = QUICK, **fields: Any) -> Run:
    usual = {"tier": "complex", "target_type": "claude", "model": MODEL}
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), **fields.pop("env", {})}
    previous = fields.pop("previous", None)
    assign = assignment(limits=limits, **{**usual, **fields})
    return Run(assign=assign, cwd=folder, env=env, previous_cost_usd=previous)


async def run(
    executor: ClaudeExecutor, folder: Path, **fields: Any
) -> tuple[Outcome, Ear]:
    ear, asked = Ear(), asking(folder, **fields)
    outcome = await executor.run(asked, ear, Stop())
    assert alive(asked.assign.route) == []
    return outcome, ear


async def test_an_answer_is_streamed_and_costs_what_claude_says(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.order(Scenario(thinking="hm hm"))
    outcome, ear = await run(executor, tmp_path)
    assert isinstance(outcome, Finished)
    result = outcome.result
    assert (result.status, result.model_used, result.exit_code) == ("success", MODEL, 0)
    assert result.output == ear.said("token") != ""
    assert ear.said("thinking").strip() == "hm hm"
    assert result.cache_read_tokens == 20_000
    assert result.reported_cost_usd
    assert result.cost_known
    assert result.simulated
    assert settle(result, asking(tmp_path).assign).cost_basis == "simulated"


async def test_the_prompt_goes_to_stdin_and_no_secret_to_the_command_line(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    prompt = "--dangerously-skip-permissions " * 300  # the longest that a task may have
    env = {
        "CLAUDECODE": "1",
        "CLAUDE_CODE_SSE_PORT": "1",
        "ANTHROPIC_BASE_URL": "http://x",
    }
    await run(executor, tmp_path, spec={"description": prompt}, env=env)
    (seen,) = simulated_claude.runs
    assert seen.prompt == prompt
    assert prompt not in seen.argv
    assert "CLAUDE_CODE_MAX_RETRIES" in seen.environment
    assert "ANTHROPIC_BASE_URL" in seen.environment
    assert not {"CLAUDECODE", "CLAUDE_CODE_SSE_PORT"} & set(seen.environment)
    assert "--permission-mode=acceptEdits" in seen.argv
    assert f"--model={MODEL}" in seen.argv


@pytest.mark.parametrize("kind", ["o529", "e500", "refused", "middrop"])
async def test_what_may_pass_is_tried_again_and_all_tries_are_booked(
    executor: ClaudeExecutor,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
    kind: Any,
) -> None:
    simulated_claude.order(kind, "ok")
    outcome, ear = await run(executor, tmp_path)
    assert isinstance(outcome, Finished)
    assert outcome.result.status == "success"
    assert ear.lines("retrying", "error") == ["Claude retry 1/3, backing off 0.001s..."]
    calls = 2 if kind == "middrop" else 1
    assert outcome.result.cache_read_tokens == calls * 20_000


async def test_after_three_retries_it_has_failed(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.always("o529")
    limits = replace(QUICK, claude_backoff_s=[0.001, 0.002, 0.004])
    outcome, ear = await run(executor, tmp_path, limits=limits)
    assert isinstance(outcome, Finished)
    assert outcome.result.status == "failed"
    assert not outcome.unusable
    assert ear.lines("retrying") == [
        "Claude retry 1/3, backing off 0.001s...",
        "Claude retry 2/3, backing off 0.002s...",
        "Claude retry 3/3, backing off 0.004s...",
    ]
    (last,) = ear.lines("error")
    assert last.startswith("Claude failed after 4 attempts: API Error: 529")
    assert len(simulated_claude.runs) == 4


@pytest.mark.parametrize(
    ("scenario", "code", "unusable"),
    [
        ("a401", "authentication_failed", True),
        ("nokey", "authentication_failed", True),
        ("credit", "credit", True),
        ("n404", "model_not_found", False),
        ("p400", "prompt_too_long", False),
        ("refusal", "refused", False),
        ("maxturns", "max_turns", False),
        ("budget", "budget", False),
        ("denied", "permission_denied", False),
    ],
)
async def test_what_a_retry_cannot_help_fails_at_once(
    executor: ClaudeExecutor,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
    scenario: Any,
    code: str,
    unusable: bool,
) -> None:
    simulated_claude.always(scenario)
    budget = 0.0001 if scenario == "budget" else None
    outcome, ear = await run(executor, tmp_path, max_budget_usd=budget)
    assert isinstance(outcome, Finished)
    assert outcome.result.status == "failed"
    assert outcome.result.error is not None
    assert outcome.result.error.code == code
    assert outcome.unusable is unusable
    assert ear.lines("retrying") == []
    assert ear.lines("error")[-1].startswith("Claude failed after 1 attempt: ")
    assert len(simulated_claude.runs) == 1


RETIRED = "⚠ Claude Sonnet 4.5 was retired on 2026-11-30. Consider switching to a newer model."


@pytest.mark.parametrize("in_stream", [False, True])
async def test_what_the_program_says_of_its_model_s_end_is_in_the_result(
    executor: ClaudeExecutor,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
    in_stream: bool,
) -> None:
    simulated_claude.order(Scenario(notice=RETIRED, notice_in_stream=in_stream), "ok")
    outcome, ear = await run(executor, tmp_path)
    assert RETIRED.removeprefix("⚠ ") in ear.said("stderr") + "".join(
        ear.lines("status")
    )
    assert isinstance(outcome, Finished)
    assert outcome.result.status == "success"
    assert outcome.result.notice == RETIRED.removeprefix("⚠ ")
    outcome, _ = await run(executor, tmp_path)
    assert isinstance(outcome, Finished)
    assert outcome.result.notice == ""


@pytest.mark.parametrize(
    ("spec", "whose"),
    [
        ({"description": "x"}, "the policy's claude_model"),
        ({"description": "x", "model": MODEL}, "the task's model"),
    ],
)
async def test_a_model_that_is_not_found_is_told_with_who_named_it(
    executor: ClaudeExecutor,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
    spec: dict[str, Any],
    whose: str,
) -> None:
    simulated_claude.order("n404")
    outcome, _ = await run(executor, tmp_path, spec=spec)
    assert isinstance(outcome, Finished)
    error = outcome.result.error
    assert error is not None
    assert error.code == "model_not_found"
    assert error.message.endswith(f"(it is {whose}: {MODEL})")
    assert outcome.result.notice == error.message


async def test_a_rate_limit_with_an_end_is_handed_back_at_once(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.order(Scenario(kind="r429", resets_at=1_999_999_999))
    outcome, ear = await run(executor, tmp_path)
    assert isinstance(outcome, Returned)
    assert (outcome.reason, outcome.limited_until) == ("limited", 1_999_999_999)
    assert outcome.exclude is None
    assert ear.lines("retrying") == []


async def test_a_rate_limit_without_an_end_is_handed_back_after_the_retries(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.always("r429")
    outcome, ear = await run(executor, tmp_path)
    assert isinstance(outcome, Returned)
    assert (outcome.reason, outcome.limited_until) == ("limited", None)
    assert len(ear.lines("retrying")) == 3


async def test_a_lost_stream_that_claude_mends_itself_is_a_success(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.order("fallback")
    outcome, _ = await run(executor, tmp_path)
    assert isinstance(outcome, Finished)
    assert outcome.result.status == "success"
    assert outcome.result.output.startswith("This is a simulated")


@pytest.mark.parametrize("scenario", ["garbage_line", "unknown_type", "huge_line"])
async def test_a_strange_line_ends_nothing(
    executor: ClaudeExecutor,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
    scenario: Any,
) -> None:
    simulated_claude.order(scenario)
    outcome, _ = await run(executor, tmp_path)
    assert isinstance(outcome, Finished)
    assert outcome.result.status == "success"


async def test_a_missing_result_is_a_failure_even_with_exit_0(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.always(Scenario(kind="no_result", exit_code=0))
    outcome, ear = await run(executor, tmp_path)
    assert isinstance(outcome, Finished)
    assert outcome.result.error is not None
    assert outcome.result.error.code == "no_result"
    assert len(ear.lines("retrying")) == 3
    # Nobody said what it cost: the tokens are known, the dollars are not.
    assert outcome.result.reported_cost_usd is None
    assert outcome.result.cache_read_tokens == 4 * 20_000


async def test_a_refused_command_line_fails_at_once_and_says_why(
    executor: ClaudeExecutor, tmp_path: Path
) -> None:
    outcome, ear = await run(
        executor,
        tmp_path,
        spec={"metadata": {"claude": {"disallowed_tools": ["x"]}}, "description": " "},
    )
    assert isinstance(outcome, Finished)
    assert outcome.result.error is not None
    assert "Input must be provided" in outcome.result.error.message
    assert ear.lines("retrying") == []


@pytest.mark.parametrize("scenario", ["hang_at_start", "hang", "stall"])
async def test_silence_has_its_limit(
    executor: ClaudeExecutor,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
    scenario: Any,
) -> None:
    simulated_claude.always(Scenario(kind=scenario, ignores=("int",)))
    limits = replace(QUICK, idle_timeout_s=1.0, claude_int_grace_s=0.05)
    outcome, ear = await run(executor, tmp_path, limits=limits)
    assert isinstance(outcome, Finished)
    assert outcome.result.error is not None
    assert outcome.result.error.code == "idle_timeout"
    assert ear.lines("retrying") == []


async def test_a_tool_may_be_silent_longer_than_the_idle_limit(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.order(Scenario(kind="tool", command="sleep 2.3; echo worked"))
    limits = replace(QUICK, idle_timeout_s=2.0)
    outcome, ear = await run(executor, tmp_path, limits=limits, spec=BASH)
    assert isinstance(outcome, Finished)
    assert outcome.result.error is None
    assert "worked" in ear.said("tool")
    asked, answered = [e.more["tool"] for e in ear.heard if e.kind == "tool"]
    assert (asked.name, asked.input["command"]) == ("Bash", "sleep 2.3; echo worked")
    assert (answered.id, answered.is_error) == (asked.id, False)


async def test_who_does_not_exit_after_the_result_is_ended_and_the_result_counts(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.order(Scenario(kind="hang_after_result", ignores=("int",)))
    limits = replace(QUICK, claude_result_grace_s=0.05)
    outcome, _ = await run(executor, tmp_path, limits=limits)
    assert isinstance(outcome, Finished)
    assert outcome.result.status == "success"
    assert outcome.result.reported_cost_usd


async def test_the_time_in_all_keeps_the_cost(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.always("stall")
    limits = replace(QUICK, run_timeout_s=3.0)
    outcome, _ = await run(executor, tmp_path, limits=limits)
    assert isinstance(outcome, Finished)
    assert outcome.result.error is not None
    assert outcome.result.error.code == "timeout"
    assert outcome.result.reported_cost_usd


async def test_stopping_interrupts_first_and_keeps_the_cost(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.order("stall")
    ear, stop, asked = Ear(), Stop(), asking(tmp_path)
    ear.on_each(lambda: stop.request("cancelled"))
    outcome = await executor.run(asked, ear, stop)
    assert isinstance(outcome, Stopped)
    assert outcome.descendants_left == 0
    assert outcome.result is not None
    assert outcome.result.reported_cost_usd
    assert outcome.result.exit_code == 0
    assert alive(asked.assign.route) == []


BASH = {"metadata": {"claude": {}}}


@pytest.mark.parametrize("ignores", [(), ("int",), ("int", "term")])
async def test_stopping_ends_the_tools_too_whatever_claude_does(
    executor: ClaudeExecutor,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
    ignores: Any,
) -> None:
    command = f"touch {tmp_path}/up; trap '' TERM INT; sleep 1000 & sleep 1000"
    simulated_claude.order(
        Scenario(kind="tool", command=command, ignores=ignores, holds_stdout=True)
    )
    limits = replace(QUICK, claude_int_grace_s=0.2, claude_term_grace_s=0.1)
    ear, stop, asked = Ear(), Stop(), asking(tmp_path, limits=limits)
    ear.on_each(lambda: stop.request("x") if "sleep" in ear.said("tool") else None)
    outcome = await executor.run(asked, ear, stop)
    assert isinstance(outcome, Stopped)
    assert outcome.descendants_left == 0
    assert alive(asked.assign.route) == []


async def test_stopping_cuts_the_back_off_short(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.always("o529")
    limits = replace(QUICK, claude_backoff_s=[1000.0])
    ear, stop = Ear(), Stop()
    ear.on_each(lambda: stop.request("x") if ear.heard[-1].kind == "retrying" else None)
    outcome = await executor.run(asking(tmp_path, limits=limits), ear, stop)
    assert isinstance(outcome, Stopped)
    assert len(simulated_claude.runs) == 1


async def test_cancelling_the_coroutine_ends_the_program(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.order("stall")
    ear, begun, asked = Ear(), asyncio.Event(), asking(tmp_path)
    ear.on_each(begun.set)
    task = asyncio.create_task(executor.run(asked, ear, Stop()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert alive(asked.assign.route) == []


async def test_a_resumed_session_books_the_difference(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    first, _ = await run(executor, tmp_path)
    assert isinstance(first, Finished)
    session = first.result.session_id
    again, _ = await run(executor, tmp_path, resume_session=session)
    assert isinstance(again, Finished)
    assert again.result.session_id == session
    assert again.result.reported_cost_usd == first.result.reported_cost_usd
    assert again.result.tokens_in == first.result.tokens_in


async def test_a_lost_session_is_begun_anew(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    lost = "11111111-2222-4333-8444-555555555555"
    outcome, ear = await run(executor, tmp_path, resume_session=lost)
    assert isinstance(outcome, Finished)
    assert outcome.result.status == "success"
    assert ear.lines("status") == ["The session to resume is gone: starting anew"]


async def test_a_model_without_a_price_is_never_booked_as_exact(
    executor: ClaudeExecutor, tmp_path: Path
) -> None:
    outcome, _ = await run(executor, tmp_path, model="claude-nonsense-9")
    assert isinstance(outcome, Finished)
    assert not outcome.result.cost_known


async def test_no_claude_says_how_to_get_one(
    processes: Processes, tmp_path: Path
) -> None:
    executor = ClaudeExecutor(processes, ClaudeOptions(program="/nowhere/claude"))
    outcome, ear = await run(executor, tmp_path)
    assert isinstance(outcome, Finished)
    assert outcome.unusable
    assert ear.lines("error") == [NOT_FOUND]
    assert NOT_FOUND == (
        "Claude Code CLI not found, install it with "
        "npm install -g @anthropic-ai/claude-code"
    )


async def test_a_program_that_cannot_start_makes_the_endpoint_unusable(
    processes: Processes, tmp_path: Path
) -> None:
    broken = tmp_path / "claude"
    broken.write_text("#!/nowhere/interpreter\n")
    broken.chmod(0o755)
    executor = ClaudeExecutor(processes, ClaudeOptions(program=str(broken)))
    outcome, _ = await run(executor, tmp_path)
    assert isinstance(outcome, Finished)
    assert outcome.unusable


async def test_the_version_is_probed(
    processes: Processes, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    env = {"PATH": os.environ["PATH"]}
    found = await probe(processes, simulated_claude.program, env)
    assert (found.version, found.simulated, found.reason) == ("2.1.330", True, "")
    assert (await probe(processes, None, env)).reason == NOT_FOUND
    assert (await probe(processes, Path("/bin/false"), env)).reason


def test_a_task_may_only_narrow_what_the_host_allows() -> None:
    host = ClaudeOptions(allowed_tools=("Read", "Bash(git *)"), max_turns=10)

    def after(**wishes: Any) -> tuple[ClaudeOptions, list[str]]:
        spec = c.TaskSpec(description="x", claude=c.ClaudeWishes(**wishes))
        return narrowed(host, spec)

    options, refused = after(
        permission_mode="plan", allowed_tools=["Read"], max_turns=3
    )
    assert (options.permission_mode, options.allowed_tools) == ("plan", ("Read",))
    assert (options.max_turns, refused) == (3, [])
    options, refused = after(
        permission_mode="bypassPermissions",
        allowed_tools=["Read", "Bash"],
        max_turns=99,
    )
    assert (options.permission_mode, options.allowed_tools) == (
        "acceptEdits",
        ("Read",),
    )
    assert options.max_turns == 10
    assert len(refused) == 2
    assert after(mcp_servers=["github"])[1] == [
        "MCP server github: not in this host's [claude.mcp_servers] (there are: none)"
    ]


def test_what_an_older_task_wishes_is_read_or_refused_whole() -> None:
    host = ClaudeOptions()

    def older(**wishes: Any) -> tuple[ClaudeOptions, list[str]]:
        spec = c.TaskSpec(description="x", metadata={"claude": wishes})
        return narrowed(host, spec)

    assert older(permission_mode="plan")[0].permission_mode == "plan"
    [refusal] = older(permission_mode="plan", permision="x")[1]
    assert "wishes belong into the field claude" in refusal


async def test_a_wish_beyond_the_host_runs_nothing(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    wishes = c.ClaudeWishes(permission_mode="bypassPermissions")
    outcome, ear = await run(executor, tmp_path, spec={"claude": wishes})
    assert isinstance(outcome, Finished)
    assert outcome.result.error is not None
    assert outcome.result.error.code == "refused_by_policy"
    assert "permission mode bypassPermissions: here it is acceptEdits" in "".join(
        ear.lines("error")
    )


def test_only_the_marks_of_nesting_are_taken_out() -> None:
    nested = ("CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SSE_PORT")
    kept = ("CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_MAX_OUTPUT_TOKENS", "ANTHROPIC_X")
    env = environment(dict.fromkeys((*nested, *kept), "v"))
    assert sorted(env) == sorted((*kept, "CLAUDE_CODE_MAX_RETRIES"))


def test_no_value_can_pass_for_an_option() -> None:
    assign = assignment(model="--dangerously-skip-permissions", max_budget_usd=0.5)
    options = ClaudeOptions(disallowed_tools=("--x",))
    words = command_line(Path("c"), options, assign, "-s", resume=True)
    assert "--model=--dangerously-skip-permissions" in words
    assert "--disallowedTools=--x" in words
    assert "--max-budget-usd=0.500000" in words
    assert "--resume=-s" in words


def test_the_program_is_found_where_it_may_be(tmp_path: Path) -> None:
    program = tmp_path / "claude"
    program.write_text("")
    program.chmod(0o755)
    assert find_program(str(program), None) == program
    assert find_program(None, str(tmp_path)) == program
    assert find_program("/nowhere/claude", str(tmp_path)) is None


# -- the real program, over loopback ---------------------------------------------------


async def run_real(
    program: Path, api: MessagesApi, processes: Processes, folder: Path, **fields: Any
) -> tuple[Outcome, Ear]:
    options = ClaudeOptions(program=str(program), **fields.pop("options", {}))
    env = {"ANTHROPIC_BASE_URL": api.url, "ANTHROPIC_API_KEY": "any"}
    return await run(ClaudeExecutor(processes, options), folder, env=env, **fields)


async def test_the_real_program_answers_and_reports_its_dollars(
    real_claude: Path, messages_api: MessagesApi, processes: Processes, tmp_path: Path
) -> None:
    outcome, ear = await run_real(real_claude, messages_api, processes, tmp_path)
    assert isinstance(outcome, Finished)
    result = outcome.result
    assert (result.status, result.reported_cost_usd) == ("success", 0.01005)
    assert result.output == ear.said("token") == "This is a simulated answer."
    assert not result.simulated


@pytest.mark.parametrize(
    ("reply", "code", "unusable"),
    [
        ("a401", "authentication_failed", True),
        ("credit", "credit", True),
        ("n404", "model_not_found", False),
        ("p400", "prompt_too_long", False),
    ],
)
async def test_the_real_program_fails_at_once_where_nothing_helps(
    real_claude: Path,
    messages_api: MessagesApi,
    processes: Processes,
    tmp_path: Path,
    reply: Any,
    code: str,
    unusable: bool,
) -> None:
    messages_api.always = Reply(kind=reply)
    outcome, ear = await run_real(real_claude, messages_api, processes, tmp_path)
    assert isinstance(outcome, Finished)
    assert outcome.result.error is not None
    assert (outcome.result.error.code, outcome.unusable) == (code, unusable)
    assert ear.lines("retrying") == []


async def test_the_real_program_is_retried_for_each_passing_fault(
    real_claude: Path, messages_api: MessagesApi, processes: Processes, tmp_path: Path
) -> None:
    messages_api.reply_next("r429", "o529", "e500")
    outcome, ear = await run_real(real_claude, messages_api, processes, tmp_path)
    assert isinstance(outcome, Finished)
    assert (outcome.result.status, outcome.result.reported_cost_usd) == (
        "success",
        0.01005,
    )
    assert len(ear.lines("retrying")) == 3


async def test_the_real_program_denied_a_tool_has_failed(
    real_claude: Path, messages_api: MessagesApi, processes: Processes, tmp_path: Path
) -> None:
    messages_api.reply_next(Reply(kind="tool", command="touch x"))
    outcome, _ = await run_real(
        real_claude,
        messages_api,
        processes,
        tmp_path,
        options={"permission_mode": "default"},
    )
    assert isinstance(outcome, Finished)
    assert outcome.result.error is not None
    assert outcome.result.error.code == "permission_denied"
    assert outcome.result.reported_cost_usd


@pytest.mark.parametrize("reply", ["stall", "tool"])
async def test_the_real_program_is_stopped_with_its_tools_and_its_cost(
    real_claude: Path,
    messages_api: MessagesApi,
    processes: Processes,
    tmp_path: Path,
    reply: Any,
) -> None:
    messages_api.reply_next(Reply(kind=reply, command="sleep 1000"))
    options = ClaudeOptions(program=str(real_claude), allowed_tools=("Bash",))
    env = {"ANTHROPIC_BASE_URL": messages_api.url, "ANTHROPIC_API_KEY": "any"}
    ear, stop, asked = Ear(), Stop(), asking(tmp_path, env=env)
    ear.on_each(lambda: stop.request("cancelled"))
    outcome = await ClaudeExecutor(processes, options).run(asked, ear, stop)
    assert isinstance(outcome, Stopped)
    assert outcome.descendants_left == 0
    assert outcome.result is not None
    assert outcome.result.reported_cost_usd
    assert alive(asked.assign.route) == []


async def test_without_anything_left_nothing_is_started(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    outcome, _ = await run(executor, tmp_path, max_budget_usd=0.0)
    assert isinstance(outcome, Finished)
    assert outcome.result.error is not None
    assert outcome.result.error.code == "budget"
    assert list(simulated_claude.runs) == []


async def test_each_try_gets_what_is_left_of_the_budget(
    executor: ClaudeExecutor, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    simulated_claude.order("middrop", "ok")
    await run(executor, tmp_path, max_budget_usd=5.0)
    first, second = (
        float(word.partition("=")[2])
        for seen in simulated_claude.runs
        for word in seen.argv
        if word.startswith("--max-budget-usd=")
    )
    assert first == 5.0
    assert 0 < second < 5.0


async def test_a_run_ends_where_its_tasks_may_spend_what_is_left_of_its_budget(
    processes: Processes,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Door:
        @asynccontextmanager
        async def lent(self, assign: Any, heard: Any, gave: Any, **_: Any) -> Any:
            gave(0.49999)
            yield DoorAccess("http://127.0.0.1:1", "token")

    options = ClaudeOptions(program=str(simulated_claude.program))
    # The simulated program serves no tools.
    monkeypatch.setattr(executors, "delegating", lambda options, _access: options)
    door: Any = Door()
    simulated_claude.order(Scenario(kind="stall", after=3))
    executor = ClaudeExecutor(processes, options, door=door)
    outcome, ear = await run(executor, tmp_path, max_budget_usd=0.5)
    assert isinstance(outcome, Finished)
    assert outcome.result.error is not None
    assert outcome.result.error.code == "budget"
    assert "$0.50 is spent, of which $0.50 are for the tasks" in ear.said("error")
