"""Several results, background work, and figures that are missing: what a run comes to.

A `claude` of a few lines prints what the real one was seen to print; each case is the
body of that program.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from sidecar.costs import settle
from sidecar.executors.claude.command import ClaudeOptions
from sidecar.executors.claude.executor import ClaudeExecutor
from sidecar.executors.port import Finished, Returned, Run, Stop
from sidecar.processes.family import Processes
from sidecar.simulated.claude import Scenario
from tests.support.messages_api import Reply
from tests.support.runs import QUICK, Ear, alive, assignment, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.executors.port import Outcome, RawResult
    from sidecar.simulated.claude import SimulatedClaude
    from tests.support.messages_api import MessagesApi

PRELUDE = """
import json, os, signal, sys, time
S = "11111111-2222-3333-4444-555555555555"
sys.stdin.read()
open("runs", "a").write("x")
def out(o): print(json.dumps(o), flush=True)
def system(subtype, **k): out({"type": "system", "subtype": subtype, **k})
def init(): system("init", session_id=S, model="claude-sonnet-4-5")
def text(t): out({"type": "stream_event", "event": {"type": "content_block_delta",
    "index": 0, "delta": {"type": "text_delta", "text": t}}, "parent_tool_use_id": None})
def use(usd, i=100, o=50): return {"claude-sonnet-4-5": {"inputTokens": i,
    "outputTokens": o, "costUSD": usd, "costBasis": "list"}}
def result(t, usd, **k):
    d = {"type": "result", "subtype": "success", "is_error": False, "result": t,
         "session_id": S, "num_turns": 1, "total_cost_usd": usd,
         "usage": {"input_tokens": 100, "output_tokens": 50},
         "modelUsage": use(usd or 0), "permission_denials": [], **k}
    out({n: v for n, v in d.items() if v != "-"})
TASK = {"task_id": "b1", "task_type": "local_bash", "description": "work"}
def opened():
    system("background_tasks_changed", tasks=[TASK])
    system("task_started", is_backgrounded=True, **TASK)
def closed():
    system("task_updated", task_id="b1", patch={"status": "completed"})
    system("task_notification", task_id="b1", status="completed")
    system("background_tasks_changed", tasks=[])
"""


@pytest.fixture
def processes() -> Iterator[Processes]:
    family = Processes()
    family.become_subreaper()
    yield family
    assert running(family) == []


class Claude:
    """Runs `claude` programs that are given as their bodies."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._processes = processes
        self._folder = folder
        self.ear = Ear()

    async def ends(self, body: str, **fields: Any) -> Outcome:
        program = self._folder / "claude"
        program.write_text(f"#!{sys.executable}\n{PRELUDE}\n{body}\n")
        program.chmod(0o755)
        usual = {
            "tier": "complex",
            "target_type": "claude",
            "model": "claude-sonnet-4-5",
        }
        self.assign = assignment(**{**usual, "limits": QUICK, **fields})
        env = {"PATH": os.environ["PATH"], "HOME": str(self._folder)}
        asked = Run(assign=self.assign, cwd=self._folder, env=env)
        executor = ClaudeExecutor(self._processes, ClaudeOptions(program=str(program)))
        outcome = await executor.run(asked, self.ear, Stop())
        assert alive(self.assign.route) == []
        return outcome

    async def result(self, body: str, **fields: Any) -> RawResult:
        outcome = await self.ends(body, **fields)
        assert isinstance(outcome, Finished)
        return outcome.result

    @property
    def runs(self) -> int:
        return len((self._folder / "runs").read_text())


@pytest.fixture
def claude(processes: Processes, tmp_path: Path) -> Claude:
    return Claude(processes, tmp_path)


ONE = 'init(); text("The answer."); result("The answer.", 0.25)\n'


# -- all results count ------------------------------------------------------------------


@pytest.mark.parametrize("which", ["real", "simulated"])
async def test_work_in_the_background_is_waited_for_and_every_turn_of_it_counts(
    which: str,
    request: pytest.FixtureRequest,
    processes: Processes,
    messages_api: MessagesApi,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    late = "sleep 2; echo late > mark"
    if which == "real":
        program = request.getfixturevalue("real_claude")
        work = Reply(kind="tool", command=late, background=True)
        messages_api.reply_next(work, Reply(text="I wait."), Reply(text="It is done."))
        words = "I wait.\n\nIt is done."
    else:
        program = simulated_claude.program
        simulated_claude.order(
            Scenario(kind="background", command=late, answer="So.", input_tokens=25)
        )
        words = "So.\n\nSo."
    folder = tmp_path / "work"
    folder.mkdir()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "ANTHROPIC_BASE_URL": messages_api.url,
        "ANTHROPIC_API_KEY": "any",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    of = {"tier": "complex", "target_type": "claude", "model": "claude-sonnet-4-5"}
    assign = assignment(**of, limits=replace(QUICK, idle_timeout_s=60.0))
    executor = ClaudeExecutor(
        processes, ClaudeOptions(program=str(program), allowed_tools=("Bash",))
    )
    outcome = await executor.run(Run(assign=assign, cwd=folder, env=env), Ear(), Stop())
    assert isinstance(outcome, Finished)
    result = outcome.result
    assert (folder / "mark").read_text() == "late\n"
    assert (result.status, result.output) == ("success", words)
    assert (result.tokens_in, result.cache_read_tokens) == (75, 60_000)
    assert result.reported_cost_usd is not None
    assert 0.02 < result.reported_cost_usd < 0.04


@pytest.mark.parametrize(
    ("second", "usd", "tokens"),
    [
        # The second turn adds nothing, or says what it adds, or gives totals alone.
        (
            "0.95, modelUsage=use(0.95, 500, 350), model_usage_since_last_result={}",
            0.95,
            500,
        ),
        (
            "1.2, modelUsage=use(1.2, 700, 400), "
            "model_usage_since_last_result=use(0.25, 200, 50)",
            1.2,
            700,
        ),
        ("1.2, modelUsage=use(1.2, 700, 400)", 1.2, 700),
        ('1.2, modelUsage="-"', 1.2, 600),
        # A program that counts each turn by itself: a total that falls began anew.
        ("0.25, modelUsage=use(0.25, 200, 50)", 1.2, 700),
    ],
)
async def test_every_result_adds_what_it_says_was_used_since_the_last(
    claude: Claude, second: str, usd: float, tokens: int
) -> None:
    result = await claude.result(
        'init(); text("I wait."); opened()\n'
        'result("I wait.", 0.95, modelUsage=use(0.95, 500, 350), '
        "model_usage_since_last_result=use(0.95, 500, 350))\n"
        f'closed(); init(); text("REVIEW"); result("REVIEW", {second})'
    )
    assert result.reported_cost_usd == pytest.approx(usd)
    assert result.tokens_in == tokens
    assert result.output == "I wait.\n\nREVIEW"


async def test_a_later_note_does_not_replace_the_answer(claude: Claude) -> None:
    result = await claude.result(
        f'{ONE}init(); text("Noted."); result("Noted.", 0.3, modelUsage=use(0.3))'
    )
    assert result.status == "success"
    assert result.output == "The answer.\n\nNoted."
    assert result.reported_cost_usd == pytest.approx(0.3)


SPURIOUS = (
    'out({"type": "result", "subtype": "error_during_execution", "is_error": True, '
    '"num_turns": 0, "total_cost_usd": 0, "usage": {}, "modelUsage": {}, '
    '"errors": ["only prompt commands"]})\n'
)


async def test_an_error_after_a_good_result_without_work_between_spoils_nothing(
    claude: Claude,
) -> None:
    result = await claude.result(f"{ONE}{SPURIOUS}sys.exit(1)")
    assert (result.status, result.output) == ("success", "The answer.")
    assert result.reported_cost_usd == 0.25
    assert claude.runs == 1


async def test_a_turn_that_fails_after_a_good_one_has_failed(claude: Claude) -> None:
    result = await claude.result(
        f'{ONE}opened(); closed(); init(); text("Now"); result("Prompt is too long", '
        '0.5, is_error=True, terminal_reason="prompt_too_long")'
    )
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.code == "prompt_too_long"
    assert result.reported_cost_usd == 0.5


async def test_what_a_turn_that_was_cut_short_used_is_not_forgotten(
    claude: Claude,
) -> None:
    result = await claude.result(
        f'{ONE}init(); out({{"type": "stream_event", "event": {{"type": "message_start", '
        '"message": {"usage": {"input_tokens": 7, "output_tokens": 1}}}}); '
        'text("More"); sys.exit(1)',
        limits=replace(QUICK, claude_retries=0),
    )
    assert (result.status, result.tokens_in) == ("failed", 107)
    assert result.reported_cost_usd is None


# -- unknown is not zero ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "usd", "tokens", "basis"),
    [
        ('0.25, modelUsage="-"', 0.25, 100, "reported"),
        (
            "0.25, modelUsage={}, model_usage_since_last_result={}",
            0.25,
            100,
            "reported",
        ),
        ("None", None, 100, "estimated"),
        ('None, modelUsage="-"', None, 100, "estimated"),
        ('None, modelUsage="-", usage="-"', None, None, "unknown"),
        ('0.25, modelUsage="-", usage={}', 0.25, None, "reported"),
    ],
)
async def test_what_was_not_said_is_unknown_and_what_was_said_counts(
    claude: Claude, fields: str, usd: float | None, tokens: int | None, basis: str
) -> None:
    result = await claude.result(f'init(); text("Done."); result("Done.", {fields})')
    assert (result.reported_cost_usd, result.tokens_in) == (usd, tokens)
    booked = settle(result, claude.assign)
    assert booked.cost_basis == basis
    assert booked.estimated_cost_usd != 0.0


# -- success is never empty --------------------------------------------------------------


async def test_an_empty_result_after_streamed_text_is_that_text(claude: Claude) -> None:
    result = await claude.result('init(); text("The answer."); result("", 0.25)')
    assert (result.status, result.output) == ("success", "The answer.")


async def test_a_good_result_without_any_word_or_deed_has_failed(
    claude: Claude,
) -> None:
    result = await claude.result('init(); result("", 0.25)')
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.code == "empty_answer"
    assert (result.reported_cost_usd, claude.runs) == (0.25, 1)


@pytest.mark.parametrize(
    ("said", "until"),
    [
        ("Claude AI usage limit reached|1999999999", 1_999_999_999),
        ("Claude AI usage limit reached", None),
        ("You've hit your 5-hour limit · resets 3pm", None),
        ("5-hour limit reached ∙ resets 3pm", None),
    ],
)
async def test_the_text_of_a_usage_limit_is_no_answer(
    claude: Claude, said: str, until: float | None
) -> None:
    outcome = await claude.ends(f"init(); text({said!r}); result({said!r}, 0)")
    assert isinstance(outcome, Returned)
    assert (outcome.reason, outcome.limited_until) == ("limited", until)


async def test_an_answer_about_usage_limits_is_an_answer(claude: Claude) -> None:
    said = "You've hit your 5-hour limit is what it prints.\nTry later."
    result = await claude.result(f"init(); text({said!r}); result({said!r}, 0.1)")
    assert (result.status, result.output) == ("success", said)


# -- background work ----------------------------------------------------------------------


async def test_a_result_with_background_work_open_is_not_the_end(
    claude: Claude,
) -> None:
    """Neither the grace after a result nor the limit of silence ends it."""
    result = await claude.result(
        'init(); text("Waiting."); opened(); result("Waiting.", 0.25); time.sleep(1.5)\n'
        'closed(); init(); text("REVIEW"); result("REVIEW", 0.95)',
        limits=replace(QUICK, claude_result_grace_s=0.05, idle_timeout_s=0.5),
    )
    assert (result.status, result.output) == ("success", "Waiting.\n\nREVIEW")
    assert result.reported_cost_usd == pytest.approx(0.95)


@pytest.mark.parametrize(
    "ends",
    [
        'system("task_updated", task_id="b1", patch={"status": "killed"})',
        'system("task_notification", task_id="b1", status="failed")',
        'system("background_tasks_changed", tasks=[])',
    ],
)
async def test_each_word_of_its_end_closes_background_work(
    claude: Claude, ends: str
) -> None:
    result = await claude.result(
        f"{ONE}opened(); {ends}; time.sleep(100)",
        limits=replace(QUICK, claude_result_grace_s=0.05),
    )
    assert (result.status, result.output) == ("success", "The answer.")


async def test_background_work_that_never_ends_has_the_time_in_all(
    claude: Claude,
) -> None:
    result = await claude.result(
        f"{ONE}opened(); time.sleep(100)",
        limits=replace(QUICK, claude_result_grace_s=0.05, run_timeout_s=1.5),
    )
    assert result.error is not None
    assert result.error.code == "timeout"
    assert "background" in result.error.message
    assert result.reported_cost_usd == 0.25


async def test_who_hangs_after_the_result_is_interrupted_first_and_prints_its_cost(
    claude: Claude,
) -> None:
    late = 'result("", 0.4, is_error=True, subtype="error_during_execution")'
    result = await claude.result(
        f"def late(*_): {late}; os._exit(0)\n"
        f"signal.signal(signal.SIGINT, late)\n{ONE}time.sleep(100)",
        limits=replace(QUICK, claude_result_grace_s=0.05),
    )
    assert (result.status, result.output) == ("success", "The answer.")
    assert result.reported_cost_usd == pytest.approx(0.4)
    assert claude.runs == 1


# -- what is known is said ------------------------------------------------------------------


async def test_an_error_without_words_says_what_is_known(claude: Claude) -> None:
    await claude.ends(
        'init(); out({"type": "result", "subtype": "success", "is_error": True, '
        '"num_turns": 1, "total_cost_usd": 0, "session_id": S}); '
        'print("connect failed", file=sys.stderr, flush=True); sys.exit(1)'
    )
    (last,) = claude.ear.lines("error")
    assert last == (
        "Claude failed after 4 attempts: Claude Code reported an error without saying "
        "which (exit code 1): connect failed"
    )
