"""How children come to be: `started`, by the forker where there is one.

On Linux a sidecar's children are forked by a small process beside it (`forker` says why);
elsewhere, and where that process cannot do it, by `subprocess.Popen`. Both give the same
child: in a session of its own, dying with the sidecar, with default signals and the limits
that were asked for. What they return can be used alike, too.
"""

from __future__ import annotations

import ctypes
import functools
import marshal
import os
import platform
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from sidecar.processes import forker
from sidecar.processes.table import LINUX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.task_user import TaskUser

_PR_SET_PDEATHSIG = 1
_ERRNO = 3
"""By so many bits an errno stands above the step in an answer."""

libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


class Order(NamedTuple):
    """What is to be started, and in what surroundings.

    `user` is whose it is; None: our own.
    """

    argv: list[str]
    cwd: Path
    env: Mapping[str, str]
    umask: int
    rlimits: list[tuple[int, int]]
    user: TaskUser | None


class Forked:
    """A child of this process that the forker has forked."""

    def __init__(self, pid: int, stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self.pid = pid
        self.stdout: IO[bytes] | None = stdout
        self.stderr: IO[bytes] | None = stderr
        self._code: int | None = None

    def poll(self) -> int | None:
        """How it has ended, as Popen says it; None while it runs. Reaps it."""
        if self._code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._code = 0  # somebody else reaped it: as Popen has it
            else:
                if pid:
                    self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises subprocess.TimeoutExpired."""
        if timeout is None and self._code is None:
            with suppress(ChildProcessError):
                _, status = os.waitpid(self.pid, 0)
                self._code = os.waitstatus_to_exitcode(status)
        if (code := self.poll()) is not None:
            return code
        handle = os.pidfd_open(self.pid)
        try:
            ended = select.poll()
            ended.register(handle, select.POLLIN)
            ended.poll((timeout or 0) * 1e3)
        finally:
            os.close(handle)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, sig: int) -> None:
        """Signal it, unless it has been reaped."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)


Spawned = Forked | subprocess.Popen[bytes]
"""A child that has been started."""


class Forker:
    """The process that forks for us. Made with the first child, ended with this object."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            program = str(Path(forker.__file__))
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", program),
                    *(str(theirs.fileno()), str(os.getpid())),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
            )
        self._socket = ours

    @property
    def pid(self) -> int:
        """Its process, which is no run's."""
        return self._process.pid

    @property
    def lives(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def start(self, order: Order, fds: Sequence[int]) -> int:
        """Start a child with these three files; returns its pid.

        Raises OSError where it cannot be started, ConnectionError where nobody forks.
        """
        user = order.user
        who = None if user is None else (user.uid, user.gid, list(user.groups))
        body = marshal.dumps(
            (
                _encoded(order.env),
                _programs(order),
                [os.fsencode(word) for word in order.argv],
                os.fsencode(order.cwd),
                order.umask,
                order.rlimits,
                who,
            )
        )
        socket.send_fds(self._socket, [forker.ORDER.pack(len(body))], fds)
        self._socket.sendall(body)
        answer = b""
        while len(answer) < forker.ANSWER.size:
            part = self._socket.recv(forker.ANSWER.size - len(answer))
            if not part:
                raise ConnectionResetError("the forker has ended")
            answer += part
        pid: int
        pid, status = forker.ANSWER.unpack(answer)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid), order.argv[0])
        if status:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
            number, step = status >> _ERRNO, status & 7
            place = order.cwd if step == forker.FOLDER else order.argv[0]
            raise OSError(number, os.strerror(number), str(place))
        return pid

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait()


def can_fork() -> bool:
    """Whether a forker works here: Linux, a known machine, the main thread."""
    # PDEATHSIG follows the thread that the forker is a child of.
    return (
        LINUX
        and platform.machine() in forker.SYS_CLONE
        and threading.current_thread() is threading.main_thread()
    )


def by_forker(forker: Forker, order: Order, stdin: int) -> Forked:
    """Start it by the forker; raises OSError, ValueError, ConnectionError."""
    pipes = [os.pipe(), os.pipe()]
    try:
        pid = forker.start(order, [stdin, *(write for _, write in pipes)])
    except BaseException:
        for read, _ in pipes:
            os.close(read)
        raise
    finally:
        for _, write in pipes:
            os.close(write)
    out, err = (open(read, "rb", 0) for read, _ in pipes)  # noqa: SIM115 - the child's
    return Forked(pid, out, err)


def by_ourselves(order: Order, stdin: int) -> subprocess.Popen[bytes]:
    """Start it ourselves; raises OSError, ValueError."""
    return subprocess.Popen(
        order.argv,
        cwd=order.cwd,
        env=order.env,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
        umask=order.umask,
        **(order.user.start_options if order.user is not None else {}),
        preexec_fn=functools.partial(_prepare, os.getpid(), order.rlimits),
    )


def _prepare(parent: int, rlimits: list[tuple[int, int]]) -> None:
    """In the child, between fork and exec."""
    if libc is not None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(127)  # the parent died before the line above
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for which, value in rlimits:
        _, hard = resource.getrlimit(which)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (bound, bound))


def _encoded(env: Mapping[str, str]) -> dict[bytes, bytes]:
    """Encode an environment; raises ValueError for a name or value that none may have."""
    encoded = {}
    for name, value in env.items():
        if "=" in name:
            raise ValueError("illegal environment variable name")
        if "\0" in name or "\0" in value:
            raise ValueError("embedded null byte")
        encoded[os.fsencode(name)] = os.fsencode(value)
    return encoded


def _programs(order: Order) -> list[bytes]:
    """Where the program may be, in the order in which it is looked for."""
    if any("\0" in word for word in order.argv):
        raise ValueError("embedded null byte")
    name = os.fsencode(order.argv[0])
    if os.path.dirname(name):
        return [name]
    path = os.get_exec_path(order.env)
    return [os.path.join(os.fsencode(folder), name) for folder in path]
