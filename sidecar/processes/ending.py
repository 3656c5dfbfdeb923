"""How a process has ended, and how processes are made to end.

A process is signalled by pid *and* start time, because pids come again. Ends are awaited
on pidfds: nothing polls. `find` in this module is a function that looks for the processes
to be ended, anew at every call, because a run may start more of them meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from sidecar.processes.table import LINUX, look_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.processes.table import Proc

_KILL_ROUNDS = 40
_KILL_WAIT_S = 0.25


class Exit(Struct, frozen=True):
    """How a process ended: a code, or the name of the signal that ended it."""

    code: int | None
    signal: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it ended with code 0."""
        return self.code == 0

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by {self.signal}"
        code = self.code or 0
        # A shell reports its command's signal as 128 + number.
        cause = f" ({signal_name(code - 128)})" if 128 < code < 160 else ""
        return f"exit code {code}{cause}"


class Stage(Struct, frozen=True):
    """One step of ending a run: a signal, to whom, and how long they may take."""

    signal: signal.Signals
    grace_s: float
    to: Literal["tree", "root"] = "tree"


def shell_stages(grace_s: float) -> list[Stage]:
    """SIGTERM to the whole tree; SIGKILL always follows where that was not enough."""
    return [Stage(signal.SIGTERM, grace_s)]


def claude_stages(int_grace_s: float, term_grace_s: float) -> list[Stage]:
    """SIGINT to the program alone, so that it prints its cost; then SIGTERM to all."""
    return [
        Stage(signal.SIGINT, int_grace_s, "root"),
        Stage(signal.SIGTERM, term_grace_s),
    ]


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; `signal 99` for what has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


async def signalled(
    find: Callable[[], list[Proc]], number: signal.Signals, grace_s: float
) -> list[Proc]:
    """Signal each process once, late ones too; returns who is left after `grace_s`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + grace_s
    signalled: set[tuple[int, int]] = set()
    while procs := find():
        new = [each for each in procs if each.key not in signalled]
        signal_all(new, number)
        signalled |= {each.key for each in new}
        if not await _gone(procs, deadline - loop.time()):
            return find()
    return []


async def killed(find: Callable[[], list[Proc]]) -> list[Proc]:
    """SIGKILL until nobody is found; returns who could not be ended."""
    for _ in range(_KILL_ROUNDS):
        procs = find()
        if not procs:
            return []
        signal_all(procs, signal.SIGKILL)
        await _gone(procs, _KILL_WAIT_S)
    return find()


def _send(proc: Proc, number: signal.Signals) -> None:
    """Signal exactly this process, never another one that got its pid."""
    with suppress(ProcessLookupError, PermissionError):
        if not LINUX:
            os.kill(proc.pid, number)
            return
        handle = os.pidfd_open(proc.pid)
        try:
            now = look_up(proc.pid)
            if now is not None and now.started == proc.started:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def signal_all(procs: list[Proc], number: signal.Signals) -> None:
    """Signal them; a stopped one is also continued, so that it can act on it."""
    if number is signal.SIGKILL:
        # A whole group at one blow: what forks meanwhile does not get away.
        ours = os.getpgrp()
        for group in {proc.pgrp for proc in procs} - {0, 1, ours}:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)
    for proc in procs:
        _send(proc, number)
    if number is not signal.SIGKILL:
        for proc in procs:
            if proc.state == "T":
                _send(proc, signal.SIGCONT)


async def _gone(procs: Iterable[Proc], timeout_s: float) -> bool:
    """Wait until all of them have ended; False where they have not in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    for proc in procs:
        if not await _one_gone(proc, deadline - loop.time()):
            return False
    return True


async def _one_gone(proc: Proc, timeout_s: float) -> bool:
    now = look_up(proc.pid)
    if now is None or now.started != proc.started or now.state == "Z":
        return True
    if not LINUX:
        await asyncio.sleep(min(max(timeout_s, 0), 0.05))
        return timeout_s > 0 and await _one_gone(proc, timeout_s - 0.05)
    try:
        handle = os.pidfd_open(proc.pid)
    except OSError:
        return True
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()
    loop.add_reader(handle, _settle, end)
    try:
        async with asyncio.timeout(max(timeout_s, 0)):
            await end
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(handle)
        os.close(handle)
    return True


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
