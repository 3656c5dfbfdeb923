"""Verification for real: commands, and simulated backends that are told what failed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from events import catalogue as c
from events import mail, subjects
from events.codec import encode
from sidecar.config import ClaudeConfig, ShellConfig
from tests.support.hosting import REPLIES, assign, world
from tests.support.runs import QUICK

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.simulated.claude import SimulatedClaude
    from sidecar.simulated.ollama import SimulatedOllama

ONCE = "[ -e seen ] || { touch seen; echo only 3 of 4 pass; exit 7; }"
"""A step that fails the first time and passes from then on."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of a program stay with their test."""
    monkeypatch.setenv("HOME", str(tmp_path))


def task(*steps: str, command: str | None = "true", **fields: object) -> c.TaskSpec:
    shell = None if command is None else c.Shell(command=command)
    return c.TaskSpec(
        description="do it", shell=shell, verification_steps=list(steps), **fields
    )


async def test_steps_run_in_order_in_the_working_folder(tmp_path: Path) -> None:
    async with world(tmp_path) as w, w.living():
        spec = task("cat made", "test -s made", command="echo hi > made")
        assert (await w.tell(assign(spec=spec))).ok
        [done] = await w.until(c.TaskCompleted)
        steps = await w.until(c.TaskVerified, count=2)
        lines = [e for e in await w.events() if isinstance(e, c.TaskStatus)]
    assert done.result.verified is True
    assert [line.round for line in lines if line.spent is not None] == [1]
    assert [(s.round, s.step, s.of, s.passed) for s in steps] == [
        (1, 1, 2, True),
        (1, 2, 2, True),
    ]
    assert steps[0].output == "hi\n"
    assert steps[0].spent is not None
    assert steps[1].spent is None


async def test_what_fails_its_verification_never_completes(tmp_path: Path) -> None:
    async with world(tmp_path) as w, w.living():
        spec = task("echo no; exit 3", "touch too-far")
        assert (await w.tell(assign(spec=spec))).ok
        [failed] = await w.until(c.TaskFailed)
        [step] = await w.until(c.TaskVerified)
    assert (failed.result.status, failed.result.verified) == ("failed", False)
    assert failed.result.error.code == "verification"
    assert (step.passed, step.exit_code, step.output) == (False, 3, "no\n")
    assert "task.completed" not in await w.names("t1")


async def test_without_steps_nothing_is_said_of_verification(tmp_path: Path) -> None:
    async with world(tmp_path) as w, w.living():
        assert (await w.tell(assign(spec=task()))).ok
        [done] = await w.until(c.TaskCompleted)
    assert done.result.verified is None


async def test_work_that_failed_is_not_verified(tmp_path: Path) -> None:
    async with world(tmp_path) as w, w.living():
        limits = replace(QUICK, shell_retries=0)
        spec = task("true", command="exit 4")
        assert (await w.tell(assign(spec=spec, limits=limits))).ok
        [failed] = await w.until(c.TaskFailed)
    assert (failed.result.exit_code, failed.result.verified) == (4, None)
    assert "task.verified" not in await w.names("t1")


async def test_a_step_has_a_limit_and_its_family_is_ended(tmp_path: Path) -> None:
    async with world(tmp_path) as w, w.living():
        limits = replace(QUICK, verify_timeout_s=0.2)
        spec = task("sleep 1000 & sleep 1000")
        assert (await w.tell(assign(spec=spec, limits=limits))).ok
        [step] = await w.until(c.TaskVerified)
        [failed] = await w.until(c.TaskFailed)
    assert step.code == "timeout"
    assert failed.result.error.code == "verification"


async def test_cancelled_in_the_midst_of_a_step_it_is_stopped(tmp_path: Path) -> None:
    async with world(tmp_path) as w, w.living() as sidecar:
        assert (await w.tell(assign(spec=task("echo on; sleep 1000")))).ok
        while not any(chunk.text == "on\n" for chunk in w.output):
            w._news.clear()
            await w._news.wait()
        cancel = mail.Cancel(epoch=1, task_id="t1", route="t1-r1")
        subject = subjects.task_mailbox("h1", "t1")
        raw = await w.theirs.request(subject, encode(cancel), timeout=60)
        assert REPLIES.decode(raw).ok
        [stopped] = await w.until(c.TaskStopped)
        assert sidecar.state.used["shell"] == 0
    assert stopped.result.status == "failed"
    assert "task.completed" not in await w.names("t1")


async def test_a_host_that_may_not_run_a_step_does_no_work(tmp_path: Path) -> None:
    shell = ShellConfig(allowed=["true"])
    async with world(tmp_path) as w, w.living(shell=shell):
        assert (await w.tell(assign(spec=task("make test")))).ok
        [back] = await w.until(c.TaskReturned)
    assert (back.reason, back.exclude) == ("refused_by_policy", "h1")
    assert "task.started" not in await w.names("t1")


@pytest.fixture
def claude(simulated_claude: SimulatedClaude) -> ClaudeConfig:
    return ClaudeConfig(enabled=True, program=str(simulated_claude.program))


def for_claude(spec: c.TaskSpec, **fields: object) -> mail.Assign:
    usual = {"tier": "complex", "target_type": "claude", "limits": QUICK}
    return assign(spec=spec, **{**usual, "model": "claude-sonnet-4-5", **fields})


async def test_claude_is_told_what_failed_in_its_session_and_all_rounds_are_paid(
    tmp_path: Path, claude: ClaudeConfig, simulated_claude: SimulatedClaude
) -> None:
    async with world(tmp_path) as w, w.living(claude=claude):
        assert (await w.tell(for_claude(task(ONCE, command=None)))).ok
        [done] = await w.until(c.TaskCompleted)
        first, second = await w.until(c.TaskVerified, count=2)
    runs = [run for run in simulated_claude.runs if run.prompt]
    assert len(runs) == 2
    assert "only 3 of 4 pass" in runs[1].prompt
    assert "do it" not in runs[1].prompt
    assert f"--resume={done.result.session_id}" in runs[1].argv
    assert [(s.round, s.passed, s.exit_code) for s in (first, second)] == [
        (1, False, 7),
        (2, True, 0),
    ]
    paid = [s.spent.estimated_cost_usd for s in (first, second)]
    assert all(paid)
    assert done.result.estimated_cost_usd == pytest.approx(sum(paid))
    out = [s.spent.tokens_out for s in (first, second)]
    assert done.result.tokens_out == sum(out)
    assert done.result.verified is True


async def test_after_its_last_round_it_has_failed(
    tmp_path: Path, claude: ClaudeConfig, simulated_claude: SimulatedClaude
) -> None:
    async with world(tmp_path) as w, w.living(claude=claude):
        spec = task("exit 1", command=None, verify_rounds=3)
        assert (await w.tell(for_claude(spec))).ok
        [failed] = await w.until(c.TaskFailed)
        await w.until(c.TaskVerified, count=3)
    assert len([run for run in simulated_claude.runs if run.prompt]) == 3
    assert failed.result.error.code == "verification"
    assert failed.result.verified is False


async def test_what_may_escalate_is_given_back_with_what_it_cost(
    tmp_path: Path, claude: ClaudeConfig
) -> None:
    async with world(tmp_path) as w, w.living(claude=claude):
        order = for_claude(task("exit 1", command=None), escalates=True)
        assert (await w.tell(order)).ok
        [back] = await w.until(c.TaskReturned)
    assert back.reason == "verification"
    assert back.result.error.code == "verification"
    assert back.result.estimated_cost_usd > 0


async def test_a_step_sees_no_credential_of_claude_s(
    tmp_path: Path, claude: ClaudeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    async with world(tmp_path) as w, w.living(claude=claude):
        spec = task('test -z "$ANTHROPIC_API_KEY"', command=None)
        assert (await w.tell(for_claude(spec))).ok
        await w.until(c.TaskCompleted)


async def test_a_chat_s_answer_is_a_file_and_what_failed_is_its_next_message(
    tmp_path: Path, simulated_ollama: SimulatedOllama
) -> None:
    async with world(tmp_path) as w, w.living():
        order = assign(
            spec=task("test -s answer.md", ONCE, command=None),
            tier="standard",
            target_type="ollama",
            endpoint="gpu",
            endpoint_url=simulated_ollama.url,
            model="llama3.2",
            limits=QUICK,
        )
        # As an operator's endpoint: this host may call it.
        shared = mail.SharedEndpoint(
            endpoint="gpu", kind="ollama", url=simulated_ollama.url
        )
        assert (await w.tell(mail.UseEndpoints(epoch=1, endpoints=[shared]))).ok
        await w.until(c.EndpointUp)
        assert (await w.tell(order)).ok
        [done] = await w.until(c.TaskCompleted)
        await w.until(c.TaskVerified, count=4)
    asked = [each for each in simulated_ollama.runs() if each.path == "/api/chat"]
    assert [len(each.body["messages"]) for each in asked] == [1, 3]
    last = asked[1].body["messages"]
    assert [each["role"] for each in last] == ["user", "assistant", "user"]
    assert "only 3 of 4 pass" in json.dumps(last)
    assert done.result.verified is True
