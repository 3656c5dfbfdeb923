"""A small process that starts the sidecar's children: `python -I -S forker.py FD PARENT`.

To fork a sidecar copies its page tables, and what has to be done in the child between fork
and exec keeps Python from the short way (vfork): 4 to 10 ms of CPU a child. This process
imports nothing to speak of, so that its fork is cheap; and it forks with CLONE_PARENT, so
that the child is the *sidecar's*: the sidecar waits for it, adopts what it leaves behind,
and takes it along when it is killed (PDEATHSIG), as if it had forked it itself.

`sidecar.processes.starter` talks to it over the socket FD, one request at a time: eight
bytes of length, with the child's stdin, stdout and stderr, then the marshalled order. The
answer is two numbers: the child's pid and 0, or an errno and which step it came from. It
ends when the socket does.
"""

from __future__ import annotations

import ctypes
import errno
import marshal
import os
import platform
import resource
import signal
import socket
import struct
import sys
from typing import Any

ORDER = struct.Struct("=Q")
ANSWER = struct.Struct("=ii")
NO_STEP, FORK, PREPARE, FOLDER, EXEC = range(5)
"""Which step an errno came from."""

SYS_CLONE = {"x86_64": 56, "aarch64": 220}
"""The number of clone(2), where its arguments begin with the flags."""
_CLONE_PARENT = 0x8000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DEFAULT = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
"""A program starts as if nobody had ignored anything: Python does, nohup and shells do."""
_ENV, _PROGRAMS, _ARGV, _CWD, _UMASK, _LIMITS, _WHO = range(7)
"""The places in an order."""


def main(number: int, parent: int) -> None:
    """Serve the socket `number` of the process `parent` to its end."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # It is handed environments with secrets.
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if os.getppid() != parent:
        return
    for each in _IGNORED:
        # What ends the sidecar's group is the sidecar's to translate.
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    with socket.socket(fileno=number) as sidecar:
        sidecar.set_inheritable(False)
        while True:
            head, fds, _, _ = socket.recv_fds(sidecar, ORDER.size, 3)
            if not head:
                return
            for fd in fds:
                os.set_inheritable(fd, False)
            head += _exactly(sidecar, ORDER.size - len(head))
            order = marshal.loads(_exactly(sidecar, *ORDER.unpack(head)))
            answer = _forked(libc, parent, order, fds)
            for fd in fds:
                os.close(fd)
            sidecar.sendall(ANSWER.pack(*answer))


def _exactly(stream: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = stream.recv(min(size, 1 << 20))
        if not part:
            sys.exit()
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _forked(
    libc: ctypes.CDLL, parent: int, order: tuple[Any, ...], fds: list[int]
) -> tuple[int, int]:
    """Start the child; returns once it runs its program, or could not."""
    theirs, ours = os.pipe()
    try:
        pid = libc.syscall(
            SYS_CLONE[platform.machine()], _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0
        )
        if pid == 0:
            _become(libc, parent, order, fds, ours)
        refused: int = ctypes.get_errno()
    finally:
        os.close(ours)
    with open(theirs, "rb", 0) as request:
        if pid < 0:
            return -refused, FORK
        failed = request.read(ANSWER.size)
    if failed:
        # It has ended, or is about to: the sidecar's to reap, by this pid.
        number, step = ANSWER.unpack(failed)
        return pid, number << 3 | step
    return pid, NO_STEP


def _become(
    libc: ctypes.CDLL,
    parent: int,
    order: tuple[Any, ...],
    fds: list[int],
    failures: int,
) -> None:
    """In the child: take its place, and never return."""
    step, error = PREPARE, 0
    try:
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        os.setsid()
        if order[_UMASK] >= 0:
            os.umask(order[_UMASK])
        step = FOLDER
        os.chdir(order[_CWD])
        step = PREPARE
        if order[_WHO] is not None:
            uid, gid, groups = order[_WHO]
            os.setgroups(groups)
            os.setregid(gid, gid)
            os.setreuid(uid, uid)
        # After the change of user, which resets it.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(127)  # the parent died before the line above
        for each in _DEFAULT:
            signal.signal(each, signal.SIG_DFL)
        for which, value in order[_LIMITS]:
            _, hard = resource.getrlimit(which)
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (bound, bound))
        step = EXEC
        error = _execute(order)
    except OSError as wrong:
        error = wrong.errno or 0
    except BaseException:  # noqa: BLE001 - a child that must not go on as its parent
        error = errno.EIO
    os.write(failures, ANSWER.pack(error, step))
    os._exit(127)


def _execute(order: tuple[Any, ...]) -> int:
    """Run the first of the programs that is there; returns an errno."""
    missing, refused = 0, 0
    for program in order[_PROGRAMS]:
        try:
            os.execve(program, order[_ARGV], order[_ENV])
        except (FileNotFoundError, NotADirectoryError) as wrong:
            missing = wrong.errno or missing
        except OSError as wrong:
            refused = wrong.errno or refused
    return refused or missing


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
