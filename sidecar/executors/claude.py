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
import importlib.util
import os
import shutil
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from events.catalogue import RunError
from sidecar.executors import stream_json as said
from sidecar.executors.ndjson import Broken
from sidecar.executors.port import Finished, RawResult, Returned, Stopped
from sidecar.executors.prompt import prompt_for
from sidecar.executors.watch import Ring, Watch, pause
from sidecar.output import HeadTail, Utf8, cut
from sidecar.processes.ending import Exit, Stage, claude_stages
from sidecar.processes.family import ProcessLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from events.commands import Assign, Limits
    from sidecar.executors.port import Emit, Outcome, Run, Stop
    from sidecar.processes.family import Child, Processes

PermissionMode = Literal[
    "plan", "dontAsk", "default", "acceptEdits", "bypassPermissions"
]
"""What may be done without asking, from little to everything."""

NOT_FOUND = (
    "Claude Code CLI not found, install it with "
    "npm install -g @anthropic-ai/claude-code"
)

_MODES: tuple[PermissionMode, ...] = (
    "plan",
    "dontAsk",
    "default",
    "acceptEdits",
    "bypassPermissions",
)
_SESSIONS = uuid.UUID("7d3ac1c6-6f6e-5f0c-9c1e-5b1a4c0e7a11")
_SHOWN_OF_A_TOOL = 4_096
_SHOWN_OF_STDERR = 500


class ClaudeOptions(Struct, frozen=True, kw_only=True):
    """What an operator sets for Claude Code on a host. A task may only narrow it.

    A task says what it wants in `metadata.claude`: `permission_mode`, `allowed_tools`,
    `disallowed_tools`, `max_turns`.
    """

    program: str | None = None
    permission_mode: PermissionMode = "acceptEdits"
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    max_turns: int | None = None
    keep_sessions: bool = True
    """Sessions stay on disk, so that an interrupted run can be resumed."""
    limits: ProcessLimits = ProcessLimits()


class _Wishes(Struct, forbid_unknown_fields=True):
    """`metadata.claude` of a task."""

    permission_mode: PermissionMode | None = None
    allowed_tools: list[str] | None = None
    disallowed_tools: list[str] = []
    max_turns: int | None = None


def find_program(configured: str | None, path: str | None) -> Path | None:
    """Find Claude Code: as configured, on PATH, or in the wheel `claude-agent-sdk`."""
    if configured is not None:
        found = shutil.which(os.path.expanduser(configured), path=path)
        return Path(found) if found else None
    found = shutil.which("claude", path=path)
    if found is not None:
        return Path(found)
    wheel = importlib.util.find_spec("claude_agent_sdk")
    if wheel is not None and wheel.origin is not None:
        bundled = Path(wheel.origin).parent / "_bundled" / "claude"
        if os.access(bundled, os.X_OK):
            return bundled
    return None


class Probe(Struct, frozen=True):
    """What `claude --version` said; `reason` where there is no version."""

    version: str = ""
    simulated: bool = False
    reason: str = ""


async def probe(
    processes: Processes,
    program: Path | None,
    env: Mapping[str, str],
    timeout_s: float = 10.0,
) -> Probe:
    """Ask the program for its version: whether Claude Code is usable as far as it knows."""
    if program is None:
        return Probe(reason=NOT_FOUND)
    try:
        brief = await processes.brief(
            [str(program), "--version"], cwd=Path("/"), env=env, timeout_s=timeout_s
        )
    except OSError as wrong:
        return Probe(reason=f"{program} cannot be started: {wrong}")
    text = brief.stdout.strip()
    if not brief.ok or not text:
        ended = (
            f"no answer in {timeout_s:g}s" if brief.exit is None else str(brief.exit)
        )
        return Probe(reason=f"{program} --version: {ended}")
    return Probe(version=text.split()[0], simulated="simulated" in text)


def session_of(route: str, number: int) -> str:
    """The session id of a run's try, from 1: known before it starts."""
    return str(uuid.uuid5(_SESSIONS, f"{route}/{number}"))


# -- The command line ------------------------------------------------------------------


def narrowed(options: ClaudeOptions, assign: Assign) -> tuple[ClaudeOptions, list[str]]:
    """The host's options as far as the task does not want less; and what was refused."""
    wanted = assign.spec.metadata.get("claude")
    if wanted is None:
        return options, []
    try:
        wishes = msgspec.convert(wanted, _Wishes)
    except msgspec.ValidationError as wrong:
        return options, [f"metadata.claude is not understood: {wrong}"]
    refused: list[str] = []
    mode = options.permission_mode
    if wishes.permission_mode is not None:
        if _MODES.index(wishes.permission_mode) <= _MODES.index(mode):
            mode = wishes.permission_mode
        else:
            refused.append(
                f"permission mode {wishes.permission_mode}: here it is {mode}"
            )
    allowed = options.allowed_tools
    if wishes.allowed_tools is not None:
        wider = [tool for tool in wishes.allowed_tools if tool not in allowed]
        refused += [f"tool {tool}: not allowed here" for tool in wider]
        allowed = tuple(tool for tool in allowed if tool in wishes.allowed_tools)
    turns = options.max_turns
    if wishes.max_turns is not None:
        turns = min(wishes.max_turns, turns or wishes.max_turns)
    return replace(
        options,
        permission_mode=mode,
        allowed_tools=allowed,
        disallowed_tools=(*options.disallowed_tools, *wishes.disallowed_tools),
        max_turns=turns,
    ), refused


def command_line(
    program: Path, options: ClaudeOptions, assign: Assign, session: str, *, resume: bool
) -> list[str]:
    """The arguments. Values stand behind `=`, so that none can pass for an option."""
    words = [
        str(program),
        "-p",
        "--output-format=stream-json",
        "--verbose",
        "--include-partial-messages",
        f"--permission-mode={options.permission_mode}",
    ]
    if assign.model:
        words.append(f"--model={assign.model}")
    if options.allowed_tools:
        words.append(f"--allowedTools={','.join(options.allowed_tools)}")
    if options.disallowed_tools:
        words.append(f"--disallowedTools={','.join(options.disallowed_tools)}")
    if options.max_turns is not None:
        words.append(f"--max-turns={options.max_turns}")
    if assign.max_budget_usd is not None:
        words.append(f"--max-budget-usd={assign.max_budget_usd:f}")
    words.append(f"--resume={session}" if resume else f"--session-id={session}")
    if not options.keep_sessions and not resume:
        words.append("--no-session-persistence")
    return words


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """`env` without what an outer Claude Code left in it, and with its retries off."""
    kept = {
        name: value
        for name, value in env.items()
        if name != "CLAUDECODE" and not name.startswith("CLAUDE_CODE_")
    }
    return {**kept, "CLAUDE_CODE_MAX_RETRIES": "0"}


# -- What a run says -------------------------------------------------------------------


class _Spent(Struct, kw_only=True):
    """Tokens and dollars; `usd` None where nobody said how many."""

    tokens_in: int = 0
    tokens_out: int = 0
    cache_read: int = 0
    cache_write: int = 0
    usd: float | None = 0.0
    known: bool = True

    def plus(self, other: _Spent) -> _Spent:
        """Both together; unknown dollars make the sum unknown."""
        unknown = self.usd is None or other.usd is None
        return _Spent(
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
            cache_read=self.cache_read + other.cache_read,
            cache_write=self.cache_write + other.cache_write,
            usd=None if unknown else (self.usd or 0.0) + (other.usd or 0.0),
            known=self.known and other.known,
        )


class _Try:
    """One run of the program, as its stream tells it."""

    def __init__(self, run: Run, emit: Emit, watch: Watch) -> None:
        limits = run.assign.limits
        self._emit = emit
        self._watch = watch
        self._idle_s = limits.idle_timeout_s
        self._stream = said.StreamJson()
        self._open: set[str] = set()  # tools that run
        self._stderr_text = Utf8()
        self.text = HeadTail(limits.output_limit_bytes)
        self.stderr = HeadTail(limits.output_limit_bytes // 4)
        self.begun: said.Begun | None = None
        self.ended: said.Ended | None = None
        self.error: str | None = None
        self.denied: list[str] = []
        self.resets_at: float | None = None
        self.broken = 0
        self.has_ended: asyncio.Future[None] = (
            asyncio.get_running_loop().create_future()
        )
        self._streamed = _Spent(usd=0.0)  # of messages that are over
        self._message = _Spent(usd=0.0)  # of the one under way
        self._said = 0  # characters of it

    def stdout(self, data: bytes) -> None:
        """Take what the program prints."""
        self._watch.heard()
        for event in self._stream.feed(data):
            self._take(event)

    def errors(self, data: bytes) -> None:
        """Take what it prints to stderr."""
        self.stderr.feed(data)
        text = self._stderr_text.feed(data)
        if text:
            self._emit.text("stderr", text)

    def close(self) -> None:
        """The last line, where it had no end."""
        for event in self._stream.close():
            self._take(event)
        rest = self._stderr_text.close()
        if rest:
            self._emit.text("stderr", rest)

    def _take(self, event: said.Event) -> None:
        match event:
            case said.Delta():
                self._delta(event)
            case said.MessageUsage():
                self._count(event)
            case said.Said():
                self.error = event.error or self.error
                for call in event.calls:
                    self._open.add(call.id)
                    self._show_tool(f"{call.name} {_json(call.input)}")
                self._wait_for_tools()
            case said.ToolResult():
                self._open.discard(event.id)
                self._show_tool(f"{'error: ' if event.is_error else ''}{event.text}")
                self._wait_for_tools()
            case said.Denied():
                self.denied.append(event.tool)
                text = cut(event.message, _SHOWN_OF_STDERR)
                self._emit.error(
                    f"Permission denied: {event.tool}: {text}", "permission_denied"
                )
            case said.RateLimit():
                self._limit(event)
            case said.ApiRetry():
                reason = event.error or str(event.status)
                self._emit.status(
                    f"Claude Code retries a call {event.attempt}/{event.of}: {reason}"
                )
            case said.Begun():
                self.begun = event
            case said.Ended():
                self.ended = event
                self._watch.allow(None)
                if not self.has_ended.done():
                    self.has_ended.set_result(None)
            case Broken():
                self.broken += 1
            case said.Ignored():
                pass

    def _delta(self, event: said.Delta) -> None:
        self._said += len(event.text)
        if event.inner:
            self._emit.text("tool", event.text)
        elif event.kind == "thinking":
            self._emit.text("thinking", event.text, tokens_so_far=self._so_far())
        else:
            self.text.feed(event.text.encode("utf-8", "replace"))
            self._emit.text("token", event.text, tokens_so_far=self._so_far())

    def _so_far(self) -> int:
        """Tokens written; of the message under way an estimate, until it is over."""
        here = max(self._message.tokens_out, self._said // 4)
        return self._streamed.tokens_out + here

    def _count(self, usage: said.MessageUsage) -> None:
        if usage.start:
            self._streamed = self.streamed()
            self._message = _Spent(
                tokens_in=usage.tokens_in or 0,
                cache_read=usage.cache_read or 0,
                cache_write=usage.cache_write or 0,
                tokens_out=usage.tokens_out or 0,
            )
            self._said = 0
        elif usage.tokens_out is not None:
            self._message.tokens_out = max(usage.tokens_out, self._message.tokens_out)

    def streamed(self) -> _Spent:
        """What the stream has told of tokens."""
        return self._streamed.plus(self._message)

    def _limit(self, limit: said.RateLimit) -> None:
        if limit.status == "rejected":
            self.resets_at = limit.resets_at
        elif limit.status == "allowed_warning":
            self._emit.status(
                f"Claude's rate limit is near ({limit.kind or 'account'})"
            )

    def _show_tool(self, text: str) -> None:
        self._emit.text("tool", cut(text, _SHOWN_OF_A_TOOL).rstrip("\n") + "\n")

    def _wait_for_tools(self) -> None:
        """A tool may be silent as long as it likes; the time in all bounds it."""
        self._watch.allow(None if self._open or self.ended else self._idle_s)

    def spent(self, run: Run, *, resumed: bool) -> _Spent:
        """What this run of the program has cost."""
        ended = self.ended
        if ended is None:
            spent = self.streamed()
            nothing = spent.tokens_in + spent.tokens_out + spent.cache_read == 0
            spent.usd = 0.0 if nothing else None
            return spent
        uses = ended.since
        if uses is None and not resumed:
            uses = ended.session
        if uses is not None:
            return _Spent(
                tokens_in=sum(use.tokens_in for use in uses),
                tokens_out=sum(use.tokens_out for use in uses),
                cache_read=sum(use.cache_read for use in uses),
                cache_write=sum(use.cache_write for use in uses),
                usd=sum(use.cost_usd for use in uses),
                known=all(use.priced for use in uses),
            )
        usage, before = ended.usage, run.previous_cost_usd
        total = ended.cost_usd
        return _Spent(
            tokens_in=usage.tokens_in or 0,
            tokens_out=usage.tokens_out or 0,
            cache_read=usage.cache_read or 0,
            cache_write=usage.cache_write or 0,
            usd=None if total is None or before is None else max(total - before, 0.0),
            known=all(use.priced for use in ended.session),
        )


# -- What it means ---------------------------------------------------------------------


class Verdict(Struct, frozen=True, kw_only=True):
    """What a try's end means.

    `unusable`: the next task would end the same way. `lost_session`: what was to be
    resumed is not there.
    """

    code: str = ""
    message: str = ""
    again: bool = False
    limited: bool = False
    unusable: bool = False
    lost_session: bool = False

    @property
    def ok(self) -> bool:
        """Whether it was a success."""
        return not self.code


_ACCOUNT = (
    "authentication_failed",
    "oauth_org_not_allowed",
    "account_on_hold",
    "verification_required",
    "cloud_credential_error",
)
_BY_NAME: dict[str, Verdict] = {
    **{name: Verdict(code=name, unusable=True) for name in _ACCOUNT},
    "billing_error": Verdict(code="credit", unusable=True),
    "rate_limit": Verdict(code="rate_limit", again=True, limited=True),
    "overloaded": Verdict(code="overloaded", again=True),
    "server_error": Verdict(code="server_error", again=True),
    "unknown": Verdict(code="unknown", again=True),
    "invalid_request": Verdict(code="bad_request"),
    "model_not_found": Verdict(code="model_not_found"),
    "max_output_tokens": Verdict(code="max_output_tokens"),
}
_BY_STATUS: dict[int, str] = {
    400: "invalid_request",
    401: "authentication_failed",
    402: "billing_error",
    403: "authentication_failed",
    404: "model_not_found",
    413: "invalid_request",
    429: "rate_limit",
    529: "overloaded",
}


def verdict_on(
    ended: said.Ended | None, error: str | None, denied: list[str]
) -> Verdict | None:
    """What a result means; None where there is none. `error` is Claude Code's own name."""
    if ended is None:
        return None
    text = ended.text or "; ".join(ended.errors) or ended.subtype
    if not ended.is_error and ended.subtype == "success":
        refused = sorted({*ended.denied, *denied})
        if ended.denied:
            message = f"permission denied: {', '.join(refused)}"
            return Verdict(code="permission_denied", message=message)
        return Verdict()
    if ended.subtype == "error_max_turns":
        return Verdict(code="max_turns", message=text)
    if ended.subtype == "error_max_budget_usd":
        return Verdict(code="budget", message=text)
    if ended.subtype == "error_during_execution":
        if any("No conversation found" in each for each in ended.errors):
            return Verdict(code="session_lost", message=text, lost_session=True)
        return Verdict(code="unknown", message=text, again=True)
    if ended.stop_reason == "refusal":
        return Verdict(code="refused", message=text)
    if ended.terminal_reason == "prompt_too_long":
        return Verdict(code="prompt_too_long", message=text)
    return replace(_by_error(error, ended.status), message=text)


def _by_error(error: str | None, status: int | None) -> Verdict:
    if error in _BY_NAME:
        return _BY_NAME[error]
    if status is not None:
        if status >= 500 or status in (408, 409):
            return _BY_NAME[_BY_STATUS.get(status, "server_error")]
        return _BY_NAME[_BY_STATUS.get(status, "invalid_request")]
    # A name that is not known here says nothing of a second try doing better.
    return Verdict(code=error) if error else _BY_NAME["unknown"]


def _without_result(tried: _Try, ended: Exit) -> Verdict:
    """No `result` came: a failure, whatever the exit code says."""
    detail = cut(tried.stderr.text().strip(), _SHOWN_OF_STDERR)
    message = f"Claude Code ended without a result ({ended})"
    message = f"{message}: {detail}" if detail else message
    # It never began and says why: another try would say the same.
    told = tried.begun is None and ended.code not in (None, 0) and bool(detail)
    return Verdict(code="no_result", message=message, again=not told)


# -- The executor ----------------------------------------------------------------------


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
            error = RunError("claude_not_found", NOT_FOUND)
            failed = RawResult(status="failed", error=error)
            return Finished(replace(failed, model_used=_model(run)), unusable=True)
        options, refused = narrowed(self._options, run.assign)
        for refusal in refused:
            emit.status(f"The task may only narrow what this host allows; {refusal}")
        watch = Watch(stop, run.assign.limits.run_timeout_s)
        try:
            return await _Tries(self, run, emit, stop, watch, program, options).all()
        finally:
            watch.close()

    async def once(
        self, run: Run, emit: Emit, watch: Watch, words: list[str]
    ) -> tuple[_Try, Exit, Ring | None, int]:
        """One run of the program: what it said, how it ended, and what ended it."""
        limits = run.assign.limits
        tried = _Try(run, emit, watch)
        child = self._processes.start(
            words,
            cwd=run.cwd,
            env=environment(run.env),
            route=run.assign.route,
            stdin=prompt_for(run.assign.spec).encode("utf-8", "replace"),
            limits=self._options.limits,
            on_stdout=tried.stdout,
            on_stderr=tried.errors,
        )
        try:
            watch.allow(limits.idle_timeout_s)
            rung = await watch.over(_ended(child, tried, limits.claude_result_grace_s))
            watch.allow(None)
            left = await child.end(_stages(limits, rung))
        finally:
            await child.end()
        tried.close()
        return tried, child.exit or Exit(None), rung, left


async def _ended(child: Child, tried: _Try, grace_s: float) -> None:
    """Until the program has ended, or its result is here and it does not end."""
    ending = asyncio.ensure_future(child.wait())
    try:
        either: list[asyncio.Future[Any]] = [ending, tried.has_ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            await asyncio.wait([ending], timeout=grace_s)
        if ending.done():
            ending.result()
    finally:
        ending.cancel()
        with suppress(asyncio.CancelledError):
            await ending


def _stages(limits: Limits, rung: Ring | None) -> list[Stage]:
    """Who has given its result needs no interruption any more."""
    stages = claude_stages(limits.claude_int_grace_s, limits.claude_term_grace_s)
    return stages[1:] if rung is None else stages


class _Tries:
    """A run from its first try to its last."""

    def __init__(
        self,
        executor: ClaudeExecutor,
        run: Run,
        emit: Emit,
        stop: Stop,
        watch: Watch,
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
        self._spent = _Spent()
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
                tried, ended, rung, left = await self._executor.once(
                    self._run, self._emit, self._watch, words
                )
            except (OSError, ValueError) as wrong:
                return self._unstartable(wrong)
            resumed = resume is not None
            self._spent = self._spent.plus(tried.spent(self._run, resumed=resumed))
            verdict = self._verdict(tried, ended, rung)
            result = self._result(tried, ended, verdict, session)
            if rung == "stopped":
                return Stopped(result=result, descendants_left=left)
            if verdict.ok:
                return Finished(result)
            if verdict.lost_session and resumed:
                self._emit.status("The session to resume is gone: starting anew")
                self._resume = None
                continue
            if verdict.limited and tried.resets_at is not None:
                return self._limited(verdict, result, tried.resets_at)
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

    def _verdict(self, tried: _Try, ended: Exit, rung: Ring | None) -> Verdict:
        verdict = verdict_on(tried.ended, tried.error, tried.denied)
        if verdict is not None and verdict.ok:
            return verdict  # a result that arrived counts
        if rung == "overtime":
            message = f"not finished after {self._limits.run_timeout_s:g}s"
            return Verdict(code="timeout", message=message)
        if rung == "silent":
            message = f"nothing heard for {self._limits.idle_timeout_s:g}s"
            return Verdict(code="idle_timeout", message=message)
        if rung == "stopped":
            return Verdict(code="stopped", message="stopped")
        return _without_result(tried, ended) if verdict is None else verdict

    def _result(
        self, tried: _Try, ended: Exit, verdict: Verdict, session: str
    ) -> RawResult:
        answer = tried.ended.text if tried.ended is not None and verdict.ok else None
        kept = tried.text
        if answer is not None:
            kept = HeadTail(self._limits.output_limit_bytes)
            kept.feed(answer.encode("utf-8", "replace"))
        spent = self._spent
        begun = tried.begun
        return RawResult(
            status="success" if verdict.ok else "failed",
            output=kept.text(),
            stderr=tried.stderr.text(),
            error=None if verdict.ok else RunError(verdict.code, verdict.message),
            model_used=(begun.model if begun else "") or _model(self._run),
            tokens_in=spent.tokens_in,
            tokens_out=spent.tokens_out,
            cache_read_tokens=spent.cache_read,
            cache_write_tokens=spent.cache_write,
            reported_cost_usd=spent.usd,
            cost_known=spent.known,
            execution_ms=(time.monotonic() - self._began) * 1000,
            exit_code=ended.code,
            signal=ended.signal,
            output_bytes=kept.size,
            stderr_bytes=tried.stderr.size,
            output_sha256=kept.sha256,
            truncated=kept.truncated or tried.stderr.truncated,
            session_id=(begun.session_id if begun else "") or session,
            simulated=begun is not None and "simulated" in begun.version,
        )

    def _failed(self, verdict: Verdict, result: RawResult, tries: int) -> Outcome:
        attempts = "1 attempt" if tries == 1 else f"{tries} attempts"
        said_last = f"Claude failed after {attempts}: {verdict.message}"
        self._emit.error(said_last, verdict.code)
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
        error = RunError("claude_cannot_start", message)
        failed = RawResult(status="failed", error=error, model_used=_model(self._run))
        return Finished(failed, unusable=True)


def _model(run: Run) -> str:
    return run.assign.model or "unknown"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode("utf-8", "replace")
