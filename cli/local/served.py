"""A role as a process of this machine: how it is started, kept alive, and ended.

A role that ends unasked is started again, sooner first and later more patiently. It dies
with this process (Linux: parent-death signals).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from cli.local.broker import die_with_parent
from cli.local.process import descendants, kill_all
from cli.local.role_logs import last_words, open_log
from sidecar.shield import SECRETS_FD, child_umask, encoded, held

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Role = Literal["scheduler", "web", "sidecar", "notify"]

BACKOFF_S: Final = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0)
"""The waits before each start in a row."""
STEADY_S: Final = 30.0
"""A role that has lived this long begins again with the shortest wait."""


class ServedRole:
    """One role's process, started again whenever it ends unasked."""

    def __init__(
        self, role: Role, arguments: list[str], log: Path, say: Callable[[str], None]
    ) -> None:
        self.role = role
        self.arguments = arguments
        self.log = log
        self._say = say
        # Told why it ended before it is started again.
        self.again: Callable[[str], None] = lambda _why: None
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._stopping = False
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    def start(self) -> None:
        """Start it, and keep it alive from now on."""
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        failures = 0
        while not self._stopping:
            began = time.monotonic()
            try:
                status = await self._live()
            except OSError as error:
                # No room, memory, processes or descriptors: the next try may have them.
                how, why = "could not be started", f": {error}"
            else:
                # A killed process writes no reason: the log's last line is an old one.
                why = last_words(self.log) if status >= 0 else ""
                how = ended_how(status)
            if self._stopping:
                return
            if time.monotonic() - began > STEADY_S:
                failures = 0
            wait = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            failures += 1
            self._say(f"{self.role} {how}; starting it again in {wait:g} s{why}")
            self.again(why)
            await asyncio.sleep(wait)

    async def _live(self) -> int:
        mine = held() if self.role in ("sidecar", "notify") else {}
        with open_log(self.log) as log, _Secrets(mine) as secrets:
            self._process = await asyncio.create_subprocess_exec(
                *program(self.role, *self.arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment(), **secrets.environment},
                pass_fds=secrets.descriptors,
                start_new_session=True,
                preexec_fn=_as_we_began(),
            )
            self.starts += 1
            await secrets.give()
        return await self._process.wait()

    async def stop(self, timeout: float) -> None:
        """End it politely; after `timeout` seconds, at once."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            self._signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(timeout):
                    await process.wait()
            except TimeoutError:
                self._say(f"{self.role} did not end in {timeout:g} s; it is killed")
                self.kill()
                await process.wait()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    def kill(self) -> None:
        """End it at once, with what it runs: nobody comes to sweep that up."""
        self._stopping = True
        family = descendants(self.pid) if self.pid is not None else []
        self._signal(signal.SIGKILL)
        kill_all(family)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                return


def _as_we_began() -> Callable[[], None]:
    """Make what runs in a role's process first: our mask is not what tasks should have."""
    dying, umask = die_with_parent(), child_umask()

    def begin() -> None:
        if umask >= 0:
            os.umask(umask)
        if dying is not None:
            dying()

    return begin


class _Secrets:
    """The way of a role's secrets to it: a socket, used once the role asks."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = secrets
        self._ours, self._theirs = socket.socketpair()
        self.descriptors = (self._theirs.fileno(),) if secrets else ()
        self.environment = {SECRETS_FD: str(self._theirs.fileno())} if secrets else {}

    def __enter__(self) -> _Secrets:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._theirs.close()

    async def give(self) -> None:
        """Wait for the role to ask, and answer; nothing where it ends before it does."""
        self._theirs.close()
        self._ours.setblocking(False)
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            if await loop.sock_recv(self._ours, 1):
                await loop.sock_sendall(self._ours, encoded(self._secrets))


def program(*arguments: str) -> list[str]:
    """Return how a process of AgentCom is started; see `agentcom/__main__.py`.

    `-P`: not from the working folder, which may have an `agentcom` of its own.
    """
    return [sys.executable, "-P", "-m", "agentcom", *arguments]


def environment() -> dict[str, str]:
    """Return such a process's environment: ours, and where a checkout's modules are."""
    source = Path(__file__).parents[2]
    if not (source / "pyproject.toml").exists():
        return dict(os.environ)
    paths = [str(source), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def ended_how(status: int) -> str:
    """Say how a process ended."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
