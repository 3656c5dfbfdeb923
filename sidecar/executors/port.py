"""The executors' port: what a run is given, what it says meanwhile, what it ends as.

An executor runs one assignment to its end, with the retries that belong to the host. It
returns raw counts, never dollars (`sidecar.costs` makes them, nowhere else), and it ends
in exactly one of three ways: `Finished`, `Returned`, `Stopped`. An exception out of
`run` is a fault of ours; whoever runs executors turns it into a failure that says so.
Whatever way it ends, no process of the run is alive when `run` returns.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol

from msgspec import Struct

from actors.host import outcomes
from actors.host.outcomes import Finished as Finished
from actors.host.outcomes import Returned as Returned
from actors.host.outcomes import Stopped as Stopped
from events import catalogue as c
from events.mail import Assign


class Turn(Struct, frozen=True):
    """A round whose verification failed: what was answered, and what is said to it."""

    answer: str
    feedback: str


class Run(Struct, frozen=True, kw_only=True):
    """One assignment, resolved on this host.

    `cwd` is the working folder (made, and locked where that is asked for), `env` the whole
    environment of a child process: built up, never inherited; `tmp` is the run's own
    temporary folder, whatever a task's TMPDIR says. `previous_cost_usd` is what
    the session that is resumed (`assign.resume_session`) has cost so far, where known.
    `changes` says what has changed in the checkout since the run began, None outside one.
    `files` are the bytes of `assign.spec.attachments`, by digest.
    `turns` are the rounds before this one; whoever takes turns goes on behind the last.
    `steps_env` is the environment of verification steps, which is a command's.
    """

    assign: Assign
    cwd: Path
    env: dict[str, str]
    tmp: Path | None = None
    previous_cost_usd: float | None = None
    changes: Callable[[], Awaitable[c.Changes | None]] | None = None
    turns: tuple[Turn, ...] = ()
    files: Mapping[str, bytes] = {}
    steps_env: dict[str, str] = {}


class Emit(Protocol):
    """What a run says while it runs. Never blocks; order is kept over all kinds."""

    def text(
        self,
        kind: Literal["token", "thinking", "stdout", "stderr", "tool", "call"],
        text: str,
        *,
        tokens_so_far: int | None = None,
        tool: c.ToolUse | None = None,
    ) -> None:
        """Say a piece of output; `tool` says in fields what a tool was asked or answered."""
        ...

    def status(self, text: str) -> None:
        """Say a line about the run; logged as an event too."""
        ...

    def error(self, text: str, code: str = "") -> None:
        """Say that something went wrong; logged as an event too."""
        ...

    def retrying(
        self,
        text: str,
        *,
        retry: int,
        of: int,
        backoff_s: float = 0.0,
        reason: str = "",
    ) -> None:
        """Say that try `retry` of `of` comes next; starts a new segment of output."""
        ...


class Stop:
    """The wish that a run ends. Set at most once; the first reason stays."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reason = ""

    def request(self, reason: str) -> None:
        """Ask the run to end."""
        if not self._event.is_set():
            self.reason = reason
            self._event.set()

    @property
    def requested(self) -> bool:
        """Whether the run has been asked to end."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Return once the run has been asked to end."""
        await self._event.wait()


class RawResult(Struct, frozen=True, kw_only=True):
    """What came of a run, in counts. None among tokens means unknown.

    `output` and `stderr` are already cut to head and tail where they were too long;
    `*_bytes` count all of it. `reported_cost_usd` is what the program itself said this
    run cost, `cost_known` False where it said so about a model it has no price for.
    `length_limited`: the model was cut off at a limit of tokens (`truncated` is ours).
    `session_cost_usd` is what the session has cost since it began, None where unknown.
    `notice` is what the program says of its model: retired soon or already, not found.
    """

    status: Literal["success", "failed"]
    output: str = ""
    stderr: str = ""
    error: c.RunError | None = None
    model_used: str = "none"
    tokens_in: int | None = 0
    tokens_out: int | None = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reported_cost_usd: float | None = None
    cost_known: bool = True
    execution_ms: float = 0.0
    exit_code: int | None = None
    signal: str | None = None
    output_bytes: int = 0
    stderr_bytes: int = 0
    output_sha256: str | None = None
    truncated: bool = False
    length_limited: bool = False
    session_id: str | None = None
    session_cost_usd: float | None = None
    simulated: bool = False
    notice: str = ""
    tool_calls: list[c.CalledTool] = []


Outcome = outcomes.Outcome[RawResult]
"""How a run ends here: in counts, which the host turns into dollars."""


_SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT}
)


def shortage(wrong: Exception, result: RawResult) -> Returned[RawResult] | None:
    """What a run comes to that could not start for want of something on its host.

    None where the work itself is at fault. `result` holds what was spent before.
    """
    if not isinstance(wrong, OSError) or wrong.errno not in _SHORTAGES:
        return None
    return Returned(reason="host_short", detail=str(wrong), result=result)


def time_limit(assign: Assign) -> float | None:
    """How long a run may take, in seconds: the task's word, else the policy's; None: for ever."""
    spec, limits = assign.spec, assign.limits
    limit = spec.timeout_s
    if limit is None and assign.target_type == "sidecar" and spec.shell is not None:
        limit = spec.shell.timeout_s or limits.shell_timeout_s
    if limit is None:
        limit = limits.run_timeout_s
    return limit or None


class Executor(Protocol):
    """Runs one kind of work."""

    async def run(self, run: Run, emit: Emit, stop: Stop) -> Outcome:
        """Run it to its end. Cancelling the coroutine kills the run's processes too."""
        ...
