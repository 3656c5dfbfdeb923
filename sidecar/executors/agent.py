"""Woken agents: work that is done by a program which is not ours.

The host writes the assignment to the results folder, runs the wake command, and waits:
for `<task>.started` a short while, then for `<task>.json`. What the agent needs to know is
in the task's file, in the wake command's environment, and in its places.

| step | what happens | ends in |
| --- | --- | --- |
| `waking` | the command runs, is tried again after 5, 15 and 30 s | given back for another host |
| `waking_confirmation` | the agent has 30 s to say that it has begun | failure, never a loop |
| `working` | it has 30 min | its result, or failure |

Each step is on the disk before it begins, so that the sidecar's next incarnation goes on
where this one ended, and wakes nobody twice. Without a wake command an agent finds its work
by itself, and `working` is the only step.

What the wake command has left running belongs to the run: it ends with the run.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from actors.rules.prompt import prompt_for
from events import catalogue as c
from events.codec import encode
from events.errors import AgentComError
from events.races import first
from sidecar.executors.port import Finished, RawResult, Returned, Stopped, time_limit
from sidecar.executors.wake_command import ARGUMENT_LIMIT, WakeCommand, sayable
from sidecar.output import HeadTail, Utf8, counted, cut
from sidecar.processes.ending import shell_stages
from sidecar.processes.family import ProcessLimits
from sidecar.processes.survivors import sweep
from sidecar.processes.table import Ident
from sidecar.results import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.mail import Assign
    from sidecar.executors.port import Emit, Outcome, Run, Stop
    from sidecar.processes.family import Child, Processes
    from sidecar.results import Results, TaskFiles

Step = Literal["waking", "waking_confirmation", "working", "removed"]
WakeNews = Literal["result", "started", "stopped", "time"]
"""What a step may end with: a file of the agent's, the wish to stop, its time is up."""

_SHOWN_OF_STDERR = 500
_KEPT_OF_STDERR = 16 * 1024


class Bookmark(Struct, frozen=True, omit_defaults=True):
    """Where a run is: its step, since when (epoch seconds), how many wakes were begun.

    `read`: the result has been read, and goes once the log has what came of it. `process`
    is what an earlier incarnation of the sidecar had started for it.
    """

    step: Step
    since: float
    tries: int = 0
    read: bool = False
    process: Ident | None = None


class WakeSteps(Protocol):
    """Where the steps of runs are kept."""

    def bookmark(self, route: str) -> Bookmark | None:
        """Return what an earlier incarnation of the sidecar had noted of this run."""
        ...

    def turn(self, assign: Assign, bookmark: Bookmark) -> None:
        """Note it, at leisure."""
        ...

    async def step(self, assign: Assign, bookmark: Bookmark, detail: str) -> None:
        """Have it on the disk, then say it to the log; raises AgentComError."""
        ...


class AgentOptions(Struct, frozen=True, kw_only=True):
    """What an operator sets for woken agents on a host."""

    command: WakeCommand | None = None
    confirm_s: float | None = None
    """Instead of what the assignment says."""
    limits: ProcessLimits = ProcessLimits()


class AgentResult(Struct, frozen=True):
    """What an agent writes; fields that nobody knows are passed over."""

    status: Literal["success", "failed"]
    output: str = ""
    reason: str | None = None
    model_used: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None


class TaskFile(Struct, frozen=True, kw_only=True):
    """What an agent finds in `<task>.task.json`."""

    task_id: str
    route: str
    generation: int
    attempt: int
    host: str
    prompt: str
    folder: str
    started_file: str
    result_file: str
    task: Any
    schema: str = "agentcom.task.v1"
    result_format: dict[str, str] = field(
        default_factory=lambda: {
            "status": "success | failed",
            "output": "text",
            "reason": "text, optional",
            "model_used": "text, optional",
            "tokens_in": "number, optional",
            "tokens_out": "number, optional",
        }
    )


def read_result(raw: bytes) -> AgentResult:
    """Read what an agent wrote; raises Unreadable."""
    name = "the result"
    try:
        result = msgspec.json.decode(raw, type=AgentResult)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(name, str(error) or type(error).__name__) from error
    for field_name in ("tokens_in", "tokens_out"):
        count = getattr(result, field_name)
        if count is not None and counted(count) is None:
            raise Unreadable(name, f"{field_name}: expected a count, got {count}")
    return result


def texts_for(assign: Assign, files: TaskFiles, body: bytes) -> dict[str, str]:
    """The wake command's variables, for its places and its environment alike.

    `body` is the task file's JSON.
    """
    text = body.decode("utf-8", "replace")
    if len(body) > ARGUMENT_LIMIT:
        # No argument can hold it; the file does.
        short = {"task_id": assign.task_id, "file": str(files.task_file)}
        text = msgspec.json.encode(short).decode()
    description = assign.spec.description
    if len(description.encode("utf-8", "replace")) > ARGUMENT_LIMIT:
        description = (
            f"The task is longer than an argument can be. Read it in {files.task_file}: "
            "its field `prompt` is all of it."
        )
    return {
        "TASK_ID": assign.task_id,
        "TASK_JSON": sayable(text),
        "TASK_DESCRIPTION": sayable(description),
        "TASK_FILE": str(files.task_file),
        "STARTED_FILE": str(files.started_file),
        "RESULT_FILE": str(files.result_file),
    }


class AgentExecutor:
    """Hands a task to a woken agent, and waits for what comes of it."""

    def __init__(
        self,
        host: str,
        processes: Processes,
        results: Results,
        steps: Callable[[], WakeSteps],
        options: AgentOptions | None = None,
    ) -> None:
        """`steps` is asked for by each run: the sidecar is made after its executors."""
        self.host = host
        self.processes = processes
        self.results = results
        self.steps = steps
        self.options = options or AgentOptions()

    async def run(self, run: Run, emit: Emit, stop: Stop) -> Outcome:
        """Wake, wait, read."""
        with self.results.expecting(run.assign.task_id) as files:
            waking = _Waking(self, run, emit, stop, files)
            try:
                outcome = await waking.all()
            finally:
                left = await waking.end()
            files.withdraw()
            if isinstance(outcome, Stopped):
                return replace(outcome, descendants_left=left)
            return outcome


class _Waking:
    """One run, from the first step that is still to be taken."""

    def __init__(
        self,
        executor: AgentExecutor,
        run: Run,
        emit: Emit,
        stop: Stop,
        files: TaskFiles,
    ) -> None:
        self._executor = executor
        self._processes = executor.processes
        self._steps = executor.steps()
        self._options = executor.options
        self._run = run
        self._assign = run.assign
        self._limits = run.assign.limits
        self._emit = emit
        self._stop = stop
        self._files = files
        self._loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        # The run's step; None before its first. Of an earlier incarnation of the sidecar
        # where the run began under that one, and then with the process it had started.
        self._mark = self._steps.bookmark(run.assign.route)
        # When the step began, by the loop's clock; None while it is an earlier life's.
        self._step_at: float | None = None
        self._before = self._mark.process if self._mark is not None else None
        # Wake commands that ended well stay here: what they started may be the agent.
        self._children: list[Child] = []
        self._stderr = HeadTail(_KEPT_OF_STDERR)
        # One task for each kind of news, waiting for the whole run; "result" yields the
        # file's bytes, or why they cannot be read.
        self._waits: dict[WakeNews, asyncio.Task[Any]] = {}

    # -- the steps

    async def all(self) -> Outcome:
        """Take the steps that are left; each says how it ended, or goes on to the next."""
        self._waits = {
            "result": self._loop.create_task(self._read_result()),
            "started": self._loop.create_task(self._files.started.wait()),
            "stopped": self._loop.create_task(self._stop.wait()),
        }
        outcome = await self._begin()
        if outcome is None and self._at("waking"):
            outcome = await self._wake()
        if outcome is None and self._at("waking_confirmation"):
            outcome = await self._confirm()
        return outcome if outcome is not None else await self._work()

    async def _read_result(self) -> bytes | Unreadable:
        try:
            return await self._files.result()
        except Unreadable as error:
            return error

    def _at(self, step: Step) -> bool:
        return self._mark is not None and self._mark.step == step

    async def _begin(self) -> Outcome | None:
        command = self._options.command
        try:
            if self._mark is None:
                self._files.forget_started()
                await self._step("working" if command is None else "waking")
            else:
                self._emit.status(f"Going on where the host was: {self._mark.step}")
            if not self._waits["result"].done():
                await asyncio.to_thread(self._files.write_task, self._task_file())
        except (AgentComError, OSError) as error:
            self._emit.error(f"Wake not begun: {error}", "results_folder")
            return self._elsewhere("results_folder", str(error))
        if self._at("waking") and command is None:
            await self._go_on("working")  # it was configured away meanwhile
        return None

    async def _wake(self) -> Outcome | None:
        """Run the wake command until it ends well, or the agent shows by itself."""
        assert self._mark is not None
        retries, waits = self._limits.wake_retries, self._limits.wake_backoff_s or [0.0]
        reason = "the host was restarted meanwhile"
        number = self._mark.tries
        while not self._files.has_result:
            if number > 0:
                if number > retries:
                    return self._not_woken(number, reason)
                seconds = waits[min(number, len(waits)) - 1]
                self._emit.retrying(
                    f"Wake retry {number}/{retries}, backing off {seconds:g}s...",
                    retry=number,
                    of=retries,
                    backoff_s=seconds,
                    reason=reason,
                )
                news = await self._until(self._loop.time() + seconds, started=True)
                if news == "stopped":
                    return Stopped(result=self._failed("stopped", "stopped"))
                if news != "time":
                    break
            number += 1
            self._mark = replace(self._mark, tries=number)
            self._steps.turn(self._assign, self._mark)
            why = await self._try()
            if why is None:
                return Stopped(result=self._failed("stopped", "stopped"))
            if not why:
                break
            reason = why
        await self._go_on("waking_confirmation")
        return None

    async def _confirm(self) -> Outcome | None:
        """Wait until the agent says that it has begun; if it never does, that is that."""
        own = self._options.confirm_s
        seconds = self._limits.wake_confirm_s if own is None else own
        news = await self._until(self._deadline(seconds), started=True)
        if news == "stopped":
            return Stopped(result=self._failed("stopped", "stopped"))
        if news == "time":
            name = self._files.started_file.name
            message = f"no {name} within {seconds:g}s of the wake command's end"
            self._emit.error(f"Agent did not begin: {message}", "wake_not_confirmed")
            return Finished(self._failed("wake_not_confirmed", message))
        await self._go_on("working")
        return None

    async def _work(self) -> Outcome:
        """Wait for the result, as long as an agent may take."""
        seconds = time_limit(self._assign)
        deadline = inf if seconds is None else self._deadline(seconds)
        news = await self._until(deadline, started=False)
        if news == "stopped":
            return Stopped(result=self._failed("stopped", "stopped"))
        if news == "time":
            message = f"no result within {seconds:g}s"
            self._emit.error(f"Agent timed out: {message}", "timeout")
            return Finished(self._failed("timeout", message))
        if self._mark is not None:
            self._mark = replace(self._mark, read=True)
            self._steps.turn(self._assign, self._mark)
        raw = self._waits["result"].result()
        try:
            if isinstance(raw, Unreadable):
                raise raw
            return Finished(self._result(raw))
        except Unreadable as error:
            self._emit.error(f"Result not understood: {error}", error.code)
            return Finished(self._failed(error.code, str(error)))

    async def _step(self, step: Step) -> None:
        tries = self._mark.tries if self._mark is not None else 0
        mark = Bookmark(step, time.time(), tries, process=self._before)
        detail = f"{tries} tries" if tries > 1 else ""
        self._mark, self._step_at = mark, self._loop.time()
        await self._steps.step(self._assign, mark, detail)

    async def _go_on(self, step: Step) -> None:
        """Take a step that cannot be undone: a disk that fails does not stop it."""
        try:
            await self._step(step)
        except AgentComError as error:
            self._emit.error(f"Step {step} is not on the disk: {error}", error.code)

    def _deadline(self, seconds: float) -> float:
        """When a step is over that may take so long, by the loop's clock.

        Where it began under an earlier incarnation of the sidecar there is only the wall
        clock: set back meanwhile, it gives no more than `seconds` from now.
        """
        if self._step_at is not None:
            return self._step_at + seconds
        gone = time.time() - self._mark.since if self._mark is not None else 0.0
        return self._loop.time() + min(max(seconds - gone, 0.0), seconds)

    async def _until(self, deadline: float, *, started: bool) -> WakeNews:
        """Wait for the first of: a result, the start, the wish to stop, the time."""
        names: list[WakeNews] = ["result", "stopped"]
        if started:
            names.insert(1, "started")
        left = None if deadline == inf else max(deadline - self._loop.time(), 0.0)
        winner = await first(*(self._waits[name] for name in names), timeout=left)
        return names[winner.place] if winner is not None else "time"

    # -- the command

    async def _try(self) -> str | None:
        """Run the wake command once: "" where it ended well, else why not; None: stop."""
        command = self._options.command
        assert command is not None
        texts = texts_for(self._assign, self._files, self._task_file())
        out, err = Utf8(), Utf8()
        last_stderr: deque[bytes] = deque(maxlen=8)

        def stdout(data: bytes) -> None:
            self._emit.text("stdout", out.feed(data))

        def stderr(data: bytes) -> None:
            self._stderr.feed(data)
            last_stderr.append(data)
            self._emit.text("stderr", err.feed(data))

        try:
            child = self._processes.start(
                command.filled(texts),
                cwd=self._run.cwd,
                env={**self._run.env, **texts},
                route=self._assign.route,
                limits=self._options.limits,
                on_stdout=stdout,
                on_stderr=stderr,
            )
        except (OSError, ValueError) as wrong:
            return f"the wake command cannot start: {wrong}"
        self._children.append(child)
        seconds = self._limits.wake_timeout_s
        winner = await first(child.wait(), self._waits["stopped"], timeout=seconds)
        if winner is None:
            why = f"the wake command did not end within {seconds:g}s"
        elif winner.place == 1:
            return None
        elif winner.value.ok:
            return ""  # what it has started goes on, it may be the agent
        else:
            detail = b"".join(last_stderr).decode("utf-8", "replace").strip()
            why = f"{winner.value}: {detail}" if detail else str(winner.value)
            why = cut(why, _SHOWN_OF_STDERR)
        await child.end(shell_stages(self._limits.shell_term_grace_s))
        self._children.remove(child)
        return why

    def _task_file(self) -> bytes:
        assign, files = self._assign, self._files
        return encode(
            TaskFile(
                task_id=assign.task_id,
                route=assign.route,
                generation=assign.generation,
                attempt=assign.attempt,
                host=self._executor.host,
                prompt=prompt_for(assign.spec),
                folder=str(self._run.cwd),
                started_file=str(files.started_file),
                result_file=str(files.result_file),
                task=assign.spec,
            )
        )

    async def end(self) -> int:
        """End what the wake has left running; returns what could not be ended."""
        for wait in self._waits.values():
            wait.cancel()
        await asyncio.gather(*self._waits.values(), return_exceptions=True)
        left = 0
        stages = shell_stages(self._limits.shell_term_grace_s)
        try:
            for child in self._children:
                left += await child.end(stages)
        finally:
            for child in self._children:
                await child.end()
        if self._before is not None:
            left += (await sweep([self._before], stages))[1]
        return left

    # -- what came of it

    def _result(self, raw: bytes) -> RawResult:
        result = read_result(raw)
        output = HeadTail(self._limits.output_limit_bytes)
        output.feed(result.output.encode("utf-8", "replace"))
        error = None
        if result.status == "failed":
            reason = cut(result.reason or "the agent says that it failed", 2_000)
            error = c.RunError("agent_failed", reason)
        return RawResult(
            status=result.status,
            output=output.text(),
            stderr=self._stderr.text(),
            error=error,
            model_used=cut(result.model_used or "none", 200),
            tokens_in=self._count(result.tokens_in, result),
            tokens_out=self._count(result.tokens_out, result),
            execution_ms=self._took(),
            output_bytes=output.size,
            stderr_bytes=self._stderr.size,
            output_sha256=output.sha256,
            truncated=output.truncated or self._stderr.truncated,
        )

    def _count(self, count: int | None, result: AgentResult) -> int | None:
        """Nobody who used a model used nothing: what was not said is unknown."""
        counts = (result.tokens_in, result.tokens_out)
        nothing = not result.model_used and counts == (None, None)
        return 0 if nothing else count

    def _failed(self, code: str, message: str) -> RawResult:
        return RawResult(
            status="failed",
            stderr=self._stderr.text(),
            stderr_bytes=self._stderr.size,
            error=c.RunError(code, message),
            execution_ms=self._took(),
        )

    def _not_woken(self, tries: int, reason: str) -> Outcome:
        code = f"wake_failed_after_{tries - 1}_attempts"
        self._emit.error(f"Wake failed after {tries} attempts: {reason}", code)
        return self._elsewhere(code, reason)

    def _elsewhere(self, code: str, reason: str) -> Returned[RawResult]:
        return Returned(
            reason=code,
            detail=reason,
            exclude=self._executor.host,
            result=self._failed(code, reason),
        )

    def _took(self) -> float:
        return (time.monotonic() - self._began) * 1000
