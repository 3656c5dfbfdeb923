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

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from actors.rules.prompt import prompt_for
from events import catalogue as c
from events.codec import rfc3339
from events.lifecycle import REFUSED
from events.races import first
from sidecar.executors.claude.command import (
    NOT_FOUND,
    ClaudeOptions,
    command_line,
    delegating,
    environment,
    find_program,
    mcp_config,
    narrowed,
    runs_commands,
    session_of,
)
from sidecar.executors.claude.purse import Purse, cost_of
from sidecar.executors.claude.reading import ClaudeTry, ClaudeUsage
from sidecar.executors.claude.verdict import (
    Verdict,
    known_of,
    verdict_on,
    without_result,
)
from sidecar.executors.port import (
    Finished,
    RawResult,
    Returned,
    Stopped,
    shortage,
    time_limit,
)
from sidecar.executors.watch import Interruption, Watchdog, pause
from sidecar.processes.ending import Exit, claude_stages

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidecar.delegation import RunsDoor
    from sidecar.executors.port import Emit, Outcome, Run, Stop
    from sidecar.processes.family import Child, Processes


_SESSIONS_A_ROUND = 1_000
"""More than a round begins: the sessions of two rounds never share an id."""


_LEAST_USD = 0.000001
"""The least that the program takes for a budget."""


class ClaudeExecutor:
    """Runs prompts with Claude Code."""

    def __init__(
        self,
        processes: Processes,
        options: ClaudeOptions | None = None,
        variables: Mapping[str, str] | None = None,
        door: RunsDoor | None = None,
    ) -> None:
        """`variables` are set for the program over those of its run. By `door` its runs
        submit tasks; None: they may not."""
        self._door = door
        self._processes = processes
        self._options = options or ClaudeOptions()
        self._variables = variables or {}

    async def run(self, run: Run, emit: Emit, stop: Stop) -> Outcome:
        """Run it, with our own retries."""
        program = find_program(self._options.program, run.env.get("PATH"))
        if program is None:
            emit.error(NOT_FOUND, "claude_not_found")
            error = c.RunError("claude_not_found", NOT_FOUND)
            failed = RawResult(status="failed", error=error)
            return Finished(replace(failed, model_used=_model(run)), unusable=True)
        options, refused = narrowed(self._options, run.assign.spec)
        if refused:
            text = f"Claude Code refused: this host allows less: {'; '.join(refused)}"
            emit.error(text, REFUSED)
            error = c.RunError(REFUSED, text)
            return Finished(RawResult(status="failed", error=error))
        watch = Watchdog(stop, time_limit(run.assign))
        purse = Purse(run.assign.max_budget_usd)
        try:
            async with AsyncExitStack() as stack:
                if self._door is not None:
                    lent = self._door.lent(
                        run.assign,
                        watch.heard,
                        purse.gave,
                        runs_commands=runs_commands(options),
                    )
                    options = delegating(options, await stack.enter_async_context(lent))
                return await _ClaudeRun(
                    run,
                    emit,
                    stop,
                    watch,
                    purse,
                    self._processes,
                    program,
                    options,
                    self._variables,
                ).all()
        finally:
            watch.close()


def _prompt(run: Run, *, resumed: bool) -> str:
    """What is said to it: in the session of a round before, only what is new."""
    if not run.turns:
        return prompt_for(run.assign.spec, run.files)
    if resumed:
        return run.turns[-1].feedback
    return f"{prompt_for(run.assign.spec, run.files)}\n\n{run.turns[-1].feedback}"


async def _ended(child: Child, try_: ClaudeTry, grace_s: float) -> None:
    """Until the program has ended, or it does not end though nothing goes on in it."""
    exited = asyncio.ensure_future(child.wait())
    try:
        while (await first(exited, try_.over.wait())).place == 1:
            more = await first(exited, try_.going_on.wait(), timeout=grace_s)
            if more is None or more.place == 0:
                return
    finally:
        exited.cancel()


class _ClaudeRun:
    """A run from its first try to its last."""

    def __init__(
        self,
        run: Run,
        emit: Emit,
        stop: Stop,
        watch: Watchdog,
        purse: Purse,
        processes: Processes,
        program: Path,
        options: ClaudeOptions,
        variables: Mapping[str, str],
    ) -> None:
        self._purse = purse
        self._processes = processes
        self._env = {
            **environment(run.env, repo_settings=options.repo_settings),
            **variables,
        }
        self._run = run
        self._emit = emit
        self._stop = stop
        self._watch = watch
        self._program = program
        self._options = options
        self._limits = run.assign.limits
        self._began = time.monotonic()
        self._spent = ClaudeUsage()
        self._model = _model(run)
        self._resume = run.assign.resume_session
        self._mcp = mcp_config(options, run.tmp or run.cwd, processes.user)

    async def all(self) -> Outcome:
        """Try until it succeeds, or nothing is left to be tried."""
        retries = self._limits.claude_retries
        number, sessions = 1, 1 + _SESSIONS_A_ROUND * len(self._run.turns)
        while True:
            resume = self._resume
            session = resume or session_of(self._run.assign.route, sessions)
            sessions += 1
            resumed = resume is not None
            left_usd = self._left_usd()
            if left_usd is not None and left_usd < _LEAST_USD:
                return self._paid_out()
            words = command_line(
                self._program,
                self._options,
                replace(self._run.assign, max_budget_usd=left_usd),
                session,
                resume=resumed,
                mcp=self._mcp,
            )
            try:
                try_, exit_, interruption, left = await self._once(words, resumed)
            except (OSError, ValueError) as wrong:
                return self._unstartable(wrong)
            self._spent = self._spent.plus(try_.spent())
            self._model = self._model_of(try_)
            verdict = _whose_model(self._verdict(try_, exit_, interruption), self._run)
            result = self._result(try_, exit_, verdict, session)
            if interruption == "stopped":
                return Stopped(result=result, descendants_left=left)
            if verdict.ok:
                return Finished(result)
            if verdict.lost_session and resumed:
                self._emit.status("The session to resume is gone: starting anew")
                self._resume = None
                continue
            until = verdict.limited_until or try_.resets_at
            if verdict.limited and until is not None:
                return self._limited(verdict, result, until)
            if not verdict.again or number > retries:
                return self._failed(verdict, result, number)
            if not await self._back_off(number, retries, verdict):
                return Stopped(result=result)
            number += 1

    async def _once(
        self, words: list[str], resumed: bool
    ) -> tuple[ClaudeTry, Exit, Interruption | None, int]:
        """One run of the program: what it said, how it ended, and what ended it."""
        run, limits = self._run, self._limits
        try_ = ClaudeTry(run, self._emit, self._watch, resumed=resumed)

        def heard(data: bytes) -> None:
            try_.stdout(data)
            self._look_at_cost(try_)

        child = self._processes.start(
            words,
            cwd=run.cwd,
            env=self._env,
            route=run.assign.route,
            stdin=_prompt(run, resumed=resumed).encode("utf-8", "replace"),
            limits=self._options.limits,
            on_stdout=heard,
            on_stderr=try_.errors.feed,
        )
        try:
            self._watch.allow(limits.idle_timeout_s)
            interruption = await self._watch.guard(
                _ended(child, try_, limits.claude_result_grace_s)
            )
            self._watch.allow(None)
            stages = claude_stages(
                limits.claude_int_grace_s, limits.claude_term_grace_s
            )
            left = await child.end(stages)
        finally:
            await child.end()
        try_.close()
        return try_, child.exit or Exit(None), interruption, left

    def _left_usd(self) -> float | None:
        """What may still be spent; None without a budget.

        What has no price may have cost everything.
        """
        usd = cost_of(self._spent, self._model)
        return self._purse.left_usd(float("inf") if usd is None else usd)

    def _model_of(self, try_: ClaudeTry) -> str:
        """The model as the program names it, else as it was last called."""
        return (try_.start.model if try_.start else "") or self._model

    def _look_at_cost(self, try_: ClaudeTry) -> None:
        """End the program where nothing is left beside what its tasks may spend.

        Its own budget the program watches itself; of theirs it knows nothing.
        """
        if self._purse.given_usd:
            usd = cost_of(self._spent.plus(try_.spent()), self._model_of(try_))
            if usd is not None and self._purse.left_usd(usd) == 0.0:
                self._watch.paid_out()

    def _paid_out(self) -> Outcome:
        """Nothing is left of the budget: fail without another start."""
        message = "nothing is left of the task's budget for Claude Code"
        self._emit.error(message, "budget")
        return Finished(self._failure("budget", message))

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
            if not try_.answer.size and not try_.used_tools:
                message = "Claude Code ended without an answer"
                return Verdict(code="empty_answer", message=message)
            if not try_.is_unfinished:
                return verdict  # a result that arrived counts
            if try_.in_turn:
                verdict = None  # the turn after it has none
        if interruption == "overtime":
            message = f"not finished after {time_limit(self._run.assign):g}s"
            if try_.background:
                message += f": {try_.background} background tasks still open"
            return Verdict(code="timeout", message=message)
        if interruption == "paid_out":
            return Verdict(code="budget", message=self._purse.spent_words())
        if interruption == "silent":
            message = f"nothing heard for {self._limits.idle_timeout_s:g}s"
            return Verdict(code="idle_timeout", message=message)
        if interruption == "stopped":
            return Verdict(code="stopped", message="stopped")
        if verdict is None:
            return without_result(try_, exit_)
        if try_.end is not None and not (try_.end.text or try_.end.errors):
            return replace(
                verdict, message=f"{verdict.message} {known_of(try_, exit_)}"
            )
        return verdict

    def _result(
        self, try_: ClaudeTry, exit_: Exit, verdict: Verdict, session: str
    ) -> RawResult:
        output = try_.answer if verdict.ok else try_.text
        start = try_.start
        return replace(
            self._failure(verdict.code, verdict.message),
            status="success" if verdict.ok else "failed",
            output=output.text(),
            stderr=try_.stderr.text(),
            error=None if verdict.ok else c.RunError(verdict.code, verdict.message),
            model_used=(start.model if start else "") or _model(self._run),
            execution_ms=(time.monotonic() - self._began) * 1000,
            exit_code=exit_.code,
            signal=exit_.signal,
            output_bytes=output.size,
            stderr_bytes=try_.stderr.size,
            output_sha256=output.sha256,
            truncated=output.truncated or try_.stderr.truncated,
            session_id=(start.session_id if start else "") or session,
            session_cost_usd=try_.session_usd,
            simulated=start is not None and "simulated" in start.version,
            notice=verdict.message
            if verdict.code == "model_not_found"
            else try_.notice,
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
            self._emit.status(
                f"Claude is rate limited until {rfc3339(until)}, given back"
            )
        return Returned(
            reason="limited",
            detail=verdict.message,
            limited_until=until,
            result=result,
        )

    def _unstartable(self, wrong: OSError | ValueError) -> Outcome:
        message = f"Claude Code cannot be started: {wrong}"
        self._emit.error(message, "claude_cannot_start")
        failed = self._failure("claude_cannot_start", message)
        return shortage(wrong, failed) or Finished(failed, unusable=True)

    def _failure(self, code: str, message: str) -> RawResult:
        """Make the result of a run that failed, with what its tries have used."""
        spent = self._spent
        return RawResult(
            status="failed",
            error=c.RunError(code, message),
            model_used=_model(self._run),
            tokens_in=spent.tokens_in,
            tokens_out=spent.tokens_out,
            cache_read_tokens=spent.cache_read,
            cache_write_tokens=spent.cache_write,
            reported_cost_usd=spent.usd,
            cost_known=spent.known,
        )


def _whose_model(verdict: Verdict, run: Run) -> Verdict:
    """Say of a model that is not found who named it."""
    assign = run.assign
    if verdict.code != "model_not_found" or assign.target_type != "claude":
        return verdict
    named = "the task's model" if assign.spec.model else "the policy's claude_model"
    message = f"{verdict.message} (it is {named}: {_model(run)})"
    return replace(verdict, message=message)


def _model(run: Run) -> str:
    return run.assign.model or "unknown"
