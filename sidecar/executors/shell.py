"""A shell command, run to its end on this machine.

`/bin/sh -c <command>` in a session of its own, stdout and stderr apart, each in its own
order. When the shell itself has ended the run has ended: what it left in the background
is ended too, first politely.

A command that could not be started is started once more. One that failed is, as often as
the task says (`retries`) or else the policy, and not where another try cannot differ: the
command does not exist (exit code 127 or 126), the host's policy refuses it, its folder is
missing. A command that ran out of time is not tried again either: it would double the wait
that the task's own limit was meant to bound. `max_attempts` counts every start.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shlex
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace

from events import catalogue as c
from events.errors import shown
from events.lifecycle import REFUSED
from events.races import first
from sidecar.executors.port import (
    Finished,
    RawResult,
    Returned,
    Stopped,
    shortage,
    time_limit,
)
from sidecar.output import ShownStream
from sidecar.processes.ending import Exit, shell_stages
from sidecar.processes.family import Processes, ProcessLimits
from sidecar.verification import write_answer

if TYPE_CHECKING:
    from pathlib import Path

    from events.mail import Assign
    from sidecar.executors.port import Emit, Outcome, Run, Stop
    from sidecar.output import HeadTail
    from sidecar.task_user import TaskUser

How = Literal["ended", "timeout", "stopped"]

_SHELL = "/bin/sh"
_ARGUMENT_LIMIT = 128 * 1024 - 1
"""Bytes that the kernel takes as one argument; a longer command is run from a file."""
_INFRASTRUCTURE_RETRIES = 1
"""So often a command is started again that could not be started."""
_PAUSE_S = 0.5
"""Before a command is started again that could not be started: what is busy may be done."""
_BUSY = {
    errno.EBUSY: ("folder_busy", "its working folder is busy"),
    errno.ETXTBSY: ("file_locked", "a file that it needs is being written"),
    errno.EDEADLK: ("file_locked", "a file that it needs is locked"),
    errno.ENOLCK: ("file_locked", "a file that it needs cannot be locked"),
}
"""Why a command cannot be started just now, by what the system says."""
_ENDS: tuple[How, How] = ("ended", "stopped")
_OPERATORS = re.compile(r"[;&|<>()`$\n\r\\{}!#*?\[\]~]")
_STEERS_THE_SHELL = re.compile(r"PATH|ENV|BASH_ENV|IFS|SHELLOPTS|LD_.*|DYLD_.*")


class CommandPolicy(Struct, frozen=True):
    """Which commands a host runs at all; an empty list means every command.

    An entry is a command, or its beginning, in words: `make`, `git status`. A task's
    command must begin with the words of an entry and hold no shell syntax, or be exactly
    an entry. Then neither may the task's environment change what a word
    means (PATH, LD_*, ENV, ...). The list keeps tasks to what the operator has thought of;
    it is no sandbox: what `make` runs is up to the Makefile.
    """

    allowed: tuple[str, ...] = ()

    def refusal(self, shell: c.Shell) -> str | None:
        """Why `shell` may not run here, None where it may."""
        if not self.allowed:
            return None
        steering = sorted(
            name
            for name in (*shell.env, *shell.secret_env)
            if _STEERS_THE_SHELL.fullmatch(name)
        )
        if steering:
            return (
                f"it sets {', '.join(steering)}, and this host has a list of commands"
            )
        if shell.command.strip() in self.allowed:
            return None
        if _OPERATORS.search(shell.command):
            return "it holds shell syntax, and this host has a list of commands"
        try:
            words = shlex.split(shell.command)
        except ValueError as wrong:
            return f"its words cannot be told apart ({wrong})"
        for entry in self.allowed:
            allowed = shlex.split(entry)
            if allowed and words[: len(allowed)] == allowed:
                return None
        first = words[0] if words else ""
        return f"{shown(first)} is not on this host's list of commands"


class ShellOptions(Struct, frozen=True, kw_only=True):
    """What an operator sets for shell tasks on a host."""

    policy: CommandPolicy = CommandPolicy()
    limits: ProcessLimits = ProcessLimits()


class ShellTry(Struct, frozen=True):
    """How one try ended."""

    result: RawResult
    why: How = "ended"
    again: bool = False
    left: int = 0
    started: bool = True


class ShellExecutor:
    """Runs `assign.spec.shell`."""

    def __init__(
        self, processes: Processes, options: ShellOptions | None = None
    ) -> None:
        self._processes = processes
        self._options = options or ShellOptions()

    async def run(self, run: Run, emit: Emit, stop: Stop) -> Outcome:
        """Run it, and once more if it fails."""
        began = time.monotonic()
        shell = run.assign.spec.shell
        if shell is None:
            return Finished(_failure("bad_request", "the task has no shell command"))
        refusal = self._options.policy.refusal(shell)
        if refusal is not None:
            text = f"Command refused: {refusal}"
            emit.error(text, REFUSED)
            return Finished(_failure(REFUSED, text))
        retries = _retries(run.assign)
        starts = run.assign.spec.max_attempts - run.assign.attempt + 1
        for number in range(1, max(retries, _INFRASTRUCTURE_RETRIES) + 2):
            try_ = await self._try(
                run, shell, emit, stop, timeout_s=time_limit(run.assign)
            )
            if isinstance(try_, Returned):
                emit.error(f"This host is short: {try_.detail}", try_.reason)
                return try_
            result = replace(
                try_.result, execution_ms=(time.monotonic() - began) * 1000
            )
            if try_.why == "stopped":
                return Stopped(result=result, descendants_left=try_.left)
            if result.error is None:
                return Finished(result)
            more = retries if try_.started else _INFRASTRUCTURE_RETRIES
            more = min(more, starts - 1)
            if not try_.again or number > more:
                tries = "1 attempt" if number == 1 else f"{number} attempts"
                text = f"Shell failed after {tries}: {result.error.message}"
                emit.error(text, result.error.code)
                return Finished(result)
            if not try_.started:
                await first(stop.wait(), timeout=_PAUSE_S)
            if stop.requested:
                return Stopped(result=result)
            emit.retrying(
                f"Shell retry {number}/{more}... (try {number + 1} of {more + 1})",
                retry=number,
                of=more,
                reason=result.error.message,
            )
        raise AssertionError("unreachable")

    def step_refusal(self, command: str) -> str | None:
        """Why this host does not run a verification step, None where it does."""
        return self._options.policy.refusal(c.Shell(command=command))

    async def save_answer(self, run: Run, answer: str) -> None:
        """Put a chat's answer into the run's folder; raises OSError."""
        await asyncio.to_thread(write_answer, run.cwd, answer, self._processes.user)

    async def step(self, run: Run, command: str, emit: Emit, stop: Stop) -> Outcome:
        """Run a verification step, once."""
        began = time.monotonic()
        try_ = await self._try(
            replace(run, env=run.steps_env),
            c.Shell(command=command),
            emit,
            stop,
            timeout_s=run.assign.limits.verify_timeout_s,
        )
        if isinstance(try_, Returned):
            return try_
        result = replace(try_.result, execution_ms=(time.monotonic() - began) * 1000)
        if try_.why == "stopped":
            return Stopped(result=result, descendants_left=try_.left)
        return Finished(result)

    async def _try(
        self,
        run: Run,
        shell: c.Shell,
        emit: Emit,
        stop: Stop,
        *,
        timeout_s: float | None,
    ) -> ShellTry | Returned[RawResult]:
        limit = run.assign.limits.output_limit_bytes
        out = ShownStream(emit, "stdout", limit)
        err = ShownStream(emit, "stderr", limit // 4)
        stages = shell_stages(run.assign.limits.shell_term_grace_s)
        script: str | None = None
        try:
            script = _script(shell.command, run.tmp, self._processes.user)
            child = self._processes.start(
                [_SHELL, script] if script else [_SHELL, "-c", shell.command],
                cwd=run.cwd,
                env=run.env,
                route=run.assign.route,
                limits=self._options.limits,
                on_stdout=out.feed,
                on_stderr=err.feed,
            )
        except (OSError, ValueError) as wrong:
            _forget(script)
            failed = _unstarted(wrong)
            again = isinstance(wrong, OSError)
            return shortage(wrong, failed) or ShellTry(
                failed, again=again, started=False
            )
        why: How = "stopped"
        try:
            winner = await first(child.wait(), stop.wait(), timeout=timeout_s)
            why = "timeout" if winner is None else _ENDS[winner.place]
            if why == "timeout":
                text = f"Command timed out after {timeout_s:g}s, sending SIGTERM..."
                emit.error(text, "timeout")
            left = await child.end(stages)
        finally:
            await child.end()
            _forget(script)
        out.close()
        err.close()
        exit_ = child.exit or Exit(None)
        return _judged(out.kept, err.kept, exit_, why, left, timeout_s)


def _judged(
    out: HeadTail,
    err: HeadTail,
    exit_: Exit,
    why: How,
    left: int,
    timeout_s: float | None,
) -> ShellTry:
    """The try's result: success is exit code 0, and nothing else is."""
    error, again = None, False
    if why == "stopped":
        error = c.RunError("stopped", f"stopped ({exit_})")
    elif why == "timeout":
        error = c.RunError("timeout", f"timed out after {timeout_s:g}s ({exit_})")
    elif exit_.code == 127:
        error = c.RunError("command_not_found", f"command not found ({exit_})")
    elif exit_.code == 126:
        error = c.RunError("not_executable", f"command cannot be executed ({exit_})")
    elif exit_.signal is not None:
        error, again = c.RunError("signal", str(exit_)), True
    elif not exit_.ok:
        error, again = c.RunError("exit_code", str(exit_)), True
    result = RawResult(
        status="failed" if error else "success",
        output=out.text(),
        stderr=err.text(),
        error=error,
        exit_code=exit_.code,
        signal=exit_.signal,
        output_bytes=out.size,
        stderr_bytes=err.size,
        output_sha256=out.sha256,
        truncated=out.truncated or err.truncated,
    )
    return ShellTry(result, why, again, left)


def _retries(assign: Assign) -> int:
    """How often a command may be started again because it failed."""
    wished = assign.spec.retries
    return assign.limits.shell_retries if wished is None else wished


def _script(
    command: str, folder: Path | None, user: TaskUser | None = None
) -> str | None:
    """A file that holds a command too long for an argument; None for any other."""
    text = command.encode("utf-8", "surrogateescape")
    if len(text) <= _ARGUMENT_LIMIT:
        return None
    handle, name = tempfile.mkstemp(prefix="agentcom-", suffix=".sh", dir=folder)
    with open(handle, "wb") as file:
        if user is not None:
            user.own(handle)
        file.write(text)
    return name


def _forget(script: str | None) -> None:
    if script is not None:
        with suppress(OSError):
            os.unlink(script)


def _unstarted(wrong: Exception) -> RawResult:
    number = wrong.errno if isinstance(wrong, OSError) else None
    code, why = _BUSY.get(number or 0, ("cannot_start", ""))
    text = f"{why} ({wrong})" if why else str(wrong)
    return _failure(code, f"the command cannot start: {text}")


def _failure(code: str, message: str) -> RawResult:
    return RawResult(status="failed", error=c.RunError(code, message))
