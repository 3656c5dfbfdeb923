"""Claude Code, run as a program: prompt on stdin, its event stream on stdout.

Its own retries are off (`CLAUDE_CODE_MAX_RETRIES=0`); ours come instead, visible, and only
for what is worth one: overload, the server's errors, a lost connection, a rate limit
without an end. A rate limit whose end is known is handed back at once, one without an end
after the retries. Success is a `result` that is no error, with no tool denied.

Whoever is asked to stop is interrupted first, because Claude Code then prints what it has
spent. Its tools run in process groups of their own; `sidecar.processes` ends them all.

Dollars and tokens are those of this run: the program says what was used *since its last
result*, which leaves out what a resumed session had cost before. Where no result came, the
tokens seen in the stream are reported, without dollars.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec.structs import replace

from events import catalogue as c
from events.races import first
from sidecar.executors.claude.command import (
    NOT_FOUND,
    ClaudeOptions,
    command_line,
    environment,
    find_program,
    narrowed,
    session_of,
)
from sidecar.executors.claude.reading import ClaudeTry, ClaudeUsage
from sidecar.executors.claude.verdict import Verdict, verdict_on, without_result
from sidecar.executors.port import Finished, RawResult, Returned, Stopped
from sidecar.executors.prompt import prompt_for
from sidecar.executors.watch import Interruption, Watchdog, pause
from sidecar.output import HeadTail
from sidecar.processes.ending import Exit, Stage, claude_stages

if TYPE_CHECKING:
    from pathlib import Path

    from events.commands import Limits
    from sidecar.executors.port import Emit, Outcome, Run, Stop
    from sidecar.processes.family import Child, Processes


class ClaudeExecutor:
    """Runs prompts with Claude Code."""

    def __init__(
        self, processes: Processes, options: ClaudeOptions | None = None
    ) -> None:
        self._processes = processes
        self._options = options or ClaudeOptions()

    async def run(self, run: Run, emit: Emit, stop: Stop) -> Outcome:
        """Run it, with our own retries."""
        program = find_program(self._options.program, run.env.get("PATH"))
        if program is None:
            emit.error(NOT_FOUND, "claude_not_found")
            error = c.RunError("claude_not_found", NOT_FOUND)
            failed = RawResult(status="failed", error=error)
            return Finished(replace(failed, model_used=_model(run)), unusable=True)
        options, refused = narrowed(self._options, run.assign)
        for refusal in refused:
            emit.status(f"The task may only narrow what this host allows; {refusal}")
        watch = Watchdog(stop, run.assign.limits.run_timeout_s)
        try:
            return await _ClaudeRun(
                self, run, emit, stop, watch, program, options
            ).all()
        finally:
            watch.close()

    async def once(
        self, run: Run, emit: Emit, watch: Watchdog, words: list[str]
    ) -> tuple[ClaudeTry, Exit, Interruption | None, int]:
        """One run of the program: what it said, how it ended, and what ended it."""
        limits = run.assign.limits
        try_ = ClaudeTry(run, emit, watch)
        child = self._processes.start(
            words,
            cwd=run.cwd,
            env=environment(run.env),
            route=run.assign.route,
            stdin=prompt_for(run.assign.spec).encode("utf-8", "replace"),
            limits=self._options.limits,
            on_stdout=try_.stdout,
            on_stderr=try_.errors,
        )
        try:
            watch.allow(limits.idle_timeout_s)
            interruption = await watch.guard(
                _ended(child, try_, limits.claude_result_grace_s)
            )
            watch.allow(None)
            left = await child.end(_stages(limits, interruption))
        finally:
            await child.end()
        try_.close()
        return try_, child.exit or Exit(None), interruption, left


async def _ended(child: Child, try_: ClaudeTry, grace_s: float) -> None:
    """Until the program has ended, or its result is here and it does not end."""
    if (await first(child.wait(), try_.has_ended)).place == 1:
        await first(child.wait(), timeout=grace_s)


def _stages(limits: Limits, interruption: Interruption | None) -> list[Stage]:
    """How to end the program; one that has given its result needs no SIGINT any more."""
    stages = claude_stages(limits.claude_int_grace_s, limits.claude_term_grace_s)
    return stages[1:] if interruption is None else stages


class _ClaudeRun:
    """A run from its first try to its last."""

    def __init__(
        self,
        executor: ClaudeExecutor,
        run: Run,
        emit: Emit,
        stop: Stop,
        watch: Watchdog,
        program: Path,
        options: ClaudeOptions,
    ) -> None:
        self._executor = executor
        self._run = run
        self._emit = emit
        self._stop = stop
        self._watch = watch
        self._program = program
        self._options = options
        self._limits = run.assign.limits
        self._began = time.monotonic()
        self._spent = ClaudeUsage()
        self._resume = run.assign.resume_session

    async def all(self) -> Outcome:
        """Try until it succeeds, or nothing is left to be tried."""
        retries = self._limits.claude_retries
        number = sessions = 1
        while True:
            resume = self._resume
            session = resume or session_of(self._run.assign.route, sessions)
            sessions += 1
            words = command_line(
                self._program,
                self._options,
                self._run.assign,
                session,
                resume=resume is not None,
            )
            try:
                try_, exit_, interruption, left = await self._executor.once(
                    self._run, self._emit, self._watch, words
                )
            except (OSError, ValueError) as wrong:
                return self._unstartable(wrong)
            resumed = resume is not None
            self._spent = self._spent.plus(try_.spent(self._run, resumed=resumed))
            verdict = self._verdict(try_, exit_, interruption)
            result = self._result(try_, exit_, verdict, session)
            if interruption == "stopped":
                return Stopped(result=result, descendants_left=left)
            if verdict.ok:
                return Finished(result)
            if verdict.lost_session and resumed:
                self._emit.status("The session to resume is gone: starting anew")
                self._resume = None
                continue
            if verdict.limited and try_.resets_at is not None:
                return self._limited(verdict, result, try_.resets_at)
            if not verdict.again or number > retries:
                return self._failed(verdict, result, number)
            if not await self._back_off(number, retries, verdict):
                return Stopped(result=result)
            number += 1

    async def _back_off(self, number: int, retries: int, verdict: Verdict) -> bool:
        waits = self._limits.claude_backoff_s or [0.0]
        seconds = waits[min(number, len(waits)) - 1]
        self._emit.retrying(
            f"Claude retry {number}/{retries}, backing off {seconds:g}s...",
            retry=number,
            of=retries,
            backoff_s=seconds,
            reason=verdict.message,
        )
        return await pause(self._stop, seconds)

    def _verdict(
        self, try_: ClaudeTry, exit_: Exit, interruption: Interruption | None
    ) -> Verdict:
        verdict = verdict_on(try_.end, try_.error, try_.denials)
        if verdict is not None and verdict.ok:
            return verdict  # a result that arrived counts
        if interruption == "overtime":
            message = f"not finished after {self._limits.run_timeout_s:g}s"
            return Verdict(code="timeout", message=message)
        if interruption == "silent":
            message = f"nothing heard for {self._limits.idle_timeout_s:g}s"
            return Verdict(code="idle_timeout", message=message)
        if interruption == "stopped":
            return Verdict(code="stopped", message="stopped")
        return without_result(try_, exit_) if verdict is None else verdict

    def _result(
        self, try_: ClaudeTry, exit_: Exit, verdict: Verdict, session: str
    ) -> RawResult:
        answer = try_.end.text if try_.end is not None and verdict.ok else None
        output = try_.text
        if answer is not None:
            output = HeadTail(self._limits.output_limit_bytes)
            output.feed(answer.encode("utf-8", "replace"))
        spent = self._spent
        start = try_.start
        return RawResult(
            status="success" if verdict.ok else "failed",
            output=output.text(),
            stderr=try_.stderr.text(),
            error=None if verdict.ok else c.RunError(verdict.code, verdict.message),
            model_used=(start.model if start else "") or _model(self._run),
            tokens_in=spent.tokens_in,
            tokens_out=spent.tokens_out,
            cache_read_tokens=spent.cache_read,
            cache_write_tokens=spent.cache_write,
            reported_cost_usd=spent.usd,
            cost_known=spent.known,
            execution_ms=(time.monotonic() - self._began) * 1000,
            exit_code=exit_.code,
            signal=exit_.signal,
            output_bytes=output.size,
            stderr_bytes=try_.stderr.size,
            output_sha256=output.sha256,
            truncated=output.truncated or try_.stderr.truncated,
            session_id=(start.session_id if start else "") or session,
            simulated=start is not None and "simulated" in start.version,
        )

    def _failed(self, verdict: Verdict, result: RawResult, tries: int) -> Outcome:
        attempts = "1 attempt" if tries == 1 else f"{tries} attempts"
        text = f"Claude failed after {attempts}: {verdict.message}"
        self._emit.error(text, verdict.code)
        if verdict.limited:
            return Returned(reason="limited", detail=verdict.message, result=result)
        return Finished(result, unusable=verdict.unusable)

    def _limited(self, verdict: Verdict, result: RawResult, until: float) -> Outcome:
        with suppress(ValueError, OverflowError, OSError):
            shown = datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
            self._emit.status(f"Claude is rate limited until {shown}, given back")
        return Returned(
            reason="limited",
            detail=verdict.message,
            limited_until=until,
            result=result,
        )

    def _unstartable(self, wrong: OSError | ValueError) -> Outcome:
        message = f"Claude Code cannot be started: {wrong}"
        self._emit.error(message, "claude_cannot_start")
        error = c.RunError("claude_cannot_start", message)
        failed = RawResult(status="failed", error=error, model_used=_model(self._run))
        return Finished(failed, unusable=True)


def _model(run: Run) -> str:
    return run.assign.model or "unknown"
