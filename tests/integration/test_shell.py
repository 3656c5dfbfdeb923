"""Shell commands, run for real."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from sidecar.executors.port import Finished, Returned, Stop, Stopped, time_limit
from sidecar.executors.shell import CommandPolicy, ShellExecutor, ShellOptions
from sidecar.processes.family import Processes, ProcessLimits
from tests.support.runs import QUICK, Ear, alive, shell_run

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.executors.port import RawResult


@pytest.fixture
def shell() -> ShellExecutor:
    processes = Processes()
    processes.become_subreaper()
    return ShellExecutor(processes)


async def result_of(
    shell: ShellExecutor,
    command: str,
    folder: Path,
    ear: Ear | None = None,
    **more: object,
) -> RawResult:
    run = shell_run(command, folder, **more)
    outcome = await shell.run(run, ear or Ear(), Stop())
    assert isinstance(outcome, Finished)
    assert alive(run.assign.route) == []
    return outcome.result


async def test_stdout_and_stderr_stand_apart(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    ear = Ear()
    result = await result_of(shell, "echo out; echo err >&2", tmp_path, ear)
    assert (result.status, result.output, result.stderr) == (
        "success",
        "out\n",
        "err\n",
    )
    assert (result.exit_code, result.model_used, result.tokens_in) == (0, "none", 0)
    assert (ear.said("stdout"), ear.said("stderr")) == ("out\n", "err\n")
    assert result.execution_ms > 0


async def test_a_failing_command_is_tried_once_more(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    ear = Ear()
    command = "test -e seen || { touch seen; echo first; exit 3; }; echo second"
    result = await result_of(shell, command, tmp_path, ear)
    assert (result.status, result.output) == ("success", "second\n")
    assert ear.lines("retrying", "error") == ["Shell retry 1/1... (try 2 of 2)"]


async def test_two_failures_are_the_answer(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    ear = Ear()
    result = await result_of(shell, "echo so far; exit 3", tmp_path, ear)
    assert (result.status, result.exit_code, result.output) == ("failed", 3, "so far\n")
    assert result.error is not None
    assert (result.error.code, result.error.message) == ("exit_code", "exit code 3")
    assert ear.lines("error") == ["Shell failed after 2 attempts: exit code 3"]


@pytest.mark.parametrize(
    ("command", "code"),
    [("no-such-command-here", "command_not_found"), ("./plain", "not_executable")],
)
async def test_a_missing_command_is_not_tried_again(
    shell: ShellExecutor, tmp_path: Path, command: str, code: str
) -> None:
    (tmp_path / "plain").write_text("no program")
    ear = Ear()
    result = await result_of(shell, command, tmp_path, ear)
    assert result.error is not None
    assert result.error.code == code
    assert ear.lines("retrying") == []


async def test_a_signal_is_named(shell: ShellExecutor, tmp_path: Path) -> None:
    result = await result_of(shell, "kill -SEGV $$", tmp_path)
    assert (result.signal, result.exit_code) == ("SIGSEGV", None)
    assert result.error is not None
    assert result.error.message == "killed by SIGSEGV"


async def test_time_out_ends_the_whole_tree_and_is_not_tried_again(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    ear = Ear()
    command = "trap '' TERM; echo begun; (setsid sleep 1000 &) ; sleep 1000"
    quick = replace(QUICK, shell_term_grace_s=0.05)
    result = await result_of(shell, command, tmp_path, ear, limits=quick, timeout_s=1.5)
    assert result.error is not None
    assert (result.error.code, result.signal) == ("timeout", "SIGKILL")
    assert result.output == "begun\n"
    assert ear.lines("error") == [
        "Command timed out after 1.5s, sending SIGTERM...",
        "Shell failed after 1 attempt: timed out after 1.5s (killed by SIGKILL)",
    ]
    assert ear.lines("retrying") == []


async def test_stopping_ends_the_tree_and_keeps_what_was_said(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    ear, stop = Ear(), Stop()
    ear.on_each(lambda: stop.request("cancelled"))
    run = shell_run("echo begun; (setsid sleep 1000 &); sleep 1000", tmp_path)
    outcome = await shell.run(run, ear, stop)
    assert isinstance(outcome, Stopped)
    assert outcome.descendants_left == 0
    assert outcome.result is not None
    assert outcome.result.output == "begun\n"
    assert alive(run.assign.route) == []


async def test_cancelling_the_coroutine_ends_the_tree(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    ear, begun = Ear(), asyncio.Event()
    ear.on_each(begun.set)
    run = shell_run("echo begun; sleep 1000 & wait", tmp_path)
    task = asyncio.create_task(shell.run(run, ear, Stop()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert alive(run.assign.route) == []


async def test_what_was_left_in_the_background_ends_with_the_command(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    result = await result_of(shell, "sleep 1000 & echo done", tmp_path)
    assert (result.status, result.output) == ("success", "done\n")


async def test_the_environment_is_what_was_built_and_the_folder_is_the_tasks(
    shell: ShellExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    (tmp_path / "inner").mkdir()
    result = await result_of(
        shell, "env; pwd", tmp_path / "inner", env={"COLOUR": "blue"}
    )
    assert "secret" not in result.output
    assert "COLOUR=blue" in result.output
    assert result.output.rstrip().endswith("/inner")


async def test_a_variable_that_none_may_have_is_an_answer(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    result = await result_of(shell, "true", tmp_path, env={"A\0B": "x"})
    assert result.error is not None
    assert result.error.code == "cannot_start"


async def test_a_flood_keeps_head_tail_and_digest(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    quick = replace(QUICK, output_limit_bytes=10_000)

    class Deaf(Ear):
        def _hear(self, kind: str, text: str, **more: object) -> None:
            pass

    command = "echo first; yes | head -c 20000000; printf '\\377last'"
    result = await result_of(shell, command, tmp_path, Deaf(), limits=quick)
    assert result.truncated
    assert result.output_bytes == 20_000_011
    assert len(result.output.encode()) <= 10_000
    assert result.output.startswith("first\ny\n")
    assert result.output.endswith("\ufffdlast")
    assert "bytes left out here" in result.output


async def test_broken_utf8_never_breaks_the_stream(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    ear = Ear()
    await result_of(shell, "printf 'a\\377\\303'; printf '\\251\\342'", tmp_path, ear)
    assert ear.said("stdout") == "a\ufffd\u00e9\ufffd"


async def test_host_limits_hold(tmp_path: Path) -> None:
    options = ShellOptions(limits=ProcessLimits(open_files=17))
    shell = ShellExecutor(Processes(), options)
    result = await result_of(shell, "ulimit -n", tmp_path)
    assert result.output == "17\n"


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf /",
        "make; rm x",
        "make && rm x",
        "make $(rm x)",
        "make `rm x`",
        "make > out",
        "make\nrm x",
        "makefile",
        "./make",
        "'",
        "git push",
        "",
    ],
)
def test_the_policy_refuses_what_is_not_on_the_list(command: str) -> None:
    policy = CommandPolicy(("make", "git status", "echo a | cat"))
    shell = shell_run("x", None).assign.spec.shell
    assert policy.refusal(replace(shell, command=command)) is not None


@pytest.mark.parametrize(
    "command", ["make", "make test", "git status -s", "echo a | cat", "make 'a b'"]
)
def test_the_policy_lets_through_what_is_on_the_list(command: str) -> None:
    policy = CommandPolicy(("make", "git status", "echo a | cat"))
    shell = shell_run("x", None).assign.spec.shell
    assert policy.refusal(replace(shell, command=command)) is None


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "ENV", "BASH_ENV"])
def test_with_a_list_no_variable_changes_what_a_word_means(name: str) -> None:
    shell = shell_run("make", None).assign.spec.shell
    assert CommandPolicy(("make",)).refusal(replace(shell, env={name: "x"})) is not None


async def test_a_refused_command_never_starts(tmp_path: Path) -> None:
    options = ShellOptions(policy=CommandPolicy(("echo",)))
    ear = Ear()
    result = await result_of(
        ShellExecutor(Processes(), options), "touch x", tmp_path, ear
    )
    assert result.error is not None
    assert result.error.code == "refused_by_policy"
    assert ear.lines("retrying") == []
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("letter", ["x", "日"])
async def test_a_command_longer_than_an_argument_may_be_runs(
    shell: ShellExecutor, tmp_path: Path, letter: str
) -> None:
    """100,000 characters are allowed; the kernel counts bytes."""
    text = letter * (60_000 if letter != "x" else 140_000)
    result = await result_of(shell, f"printf %s {text} | wc -c", tmp_path)
    assert (result.status, result.output.strip()) == (
        "success",
        str(len(text.encode())),
    )


@pytest.mark.parametrize("number", ["EMFILE", "ENFILE", "EAGAIN", "ENOMEM", "ENOSPC"])
async def test_a_shortage_of_the_host_gives_the_task_back(
    shell: ShellExecutor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: str,
) -> None:
    def start(*_: object, **__: object) -> None:
        raise OSError(getattr(errno, number), "short")

    monkeypatch.setattr(shell._processes, "start", start)
    outcome = await shell.run(shell_run("true", tmp_path), Ear(), Stop())
    assert isinstance(outcome, Returned)
    assert outcome.reason == "host_short"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        ("EBUSY", "folder_busy"),
        ("ETXTBSY", "file_locked"),
        ("ENOLCK", "file_locked"),
        ("EACCES", "cannot_start"),
    ],
)
@pytest.mark.parametrize("for_good", [True, False])
async def test_what_keeps_a_command_from_starting_is_named_and_waited_for_once(
    shell: ShellExecutor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: str,
    code: str,
    for_good: bool,
) -> None:
    real, tries = shell._processes.start, []

    def start(*parts: object, **named: object) -> object:
        tries.append(parts)
        if for_good or len(tries) == 1:
            raise OSError(getattr(errno, number), "just now")
        return real(*parts, **named)

    monkeypatch.setattr(shell._processes, "start", start)
    ear = Ear()
    outcome = await shell.run(shell_run("true", tmp_path), ear, Stop())
    assert isinstance(outcome, Finished)
    assert len(tries) == 2
    assert len(ear.lines("retrying")) == 1
    error = outcome.result.error
    assert (error.code if error is not None else None) == (code if for_good else None)


async def test_max_attempts_counts_every_start_of_the_command(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    run = shell_run("echo x >> starts; exit 7", tmp_path)
    spec = replace(run.assign.spec, max_attempts=1)
    run = replace(run, assign=replace(run.assign, spec=spec))
    assert isinstance(await shell.run(run, Ear(), Stop()), Finished)
    assert (tmp_path / "starts").read_text() == "x\n"


@pytest.mark.parametrize(
    ("retries", "attempt", "starts"), [(0, 1, 1), (2, 1, 3), (2, 2, 2)]
)
async def test_a_command_is_tried_as_often_as_the_task_says(
    shell: ShellExecutor, tmp_path: Path, retries: int, attempt: int, starts: int
) -> None:
    run = shell_run("echo x >> starts; exit 7", tmp_path)
    spec = replace(run.assign.spec, retries=retries)
    run = replace(run, assign=replace(run.assign, spec=spec, attempt=attempt))
    ear = Ear()
    assert isinstance(await shell.run(run, ear, Stop()), Finished)
    assert len((tmp_path / "starts").read_text().split()) == starts
    if starts == 3:
        assert ear.lines("retrying")[-1] == "Shell retry 2/2... (try 3 of 3)"


async def test_the_tasks_own_limit_comes_before_the_policys(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    short = replace(QUICK, shell_timeout_s=0.05)
    run = shell_run("sleep 0.3; echo done", tmp_path, limits=short)
    spec = replace(run.assign.spec, timeout_s=60)
    shell_alone = replace(
        spec, timeout_s=None, shell=replace(spec.shell, timeout_s=None)
    )
    for each, status in ((spec, "success"), (shell_alone, "failed")):
        each = replace(each, shell=replace(each.shell, timeout_s=None))
        outcome = await shell.run(
            replace(run, assign=replace(run.assign, spec=each)), Ear(), Stop()
        )
        assert isinstance(outcome, Finished)
        assert outcome.result.status == status


async def test_no_limit_is_none(shell: ShellExecutor, tmp_path: Path) -> None:
    run = shell_run("echo done", tmp_path, limits=replace(QUICK, shell_timeout_s=0.001))
    spec = replace(run.assign.spec, timeout_s=0)
    run = replace(run, assign=replace(run.assign, spec=spec))
    assert time_limit(run.assign) is None
    outcome = await shell.run(run, Ear(), Stop())
    assert isinstance(outcome, Finished)
    assert outcome.result.output == "done\n"
