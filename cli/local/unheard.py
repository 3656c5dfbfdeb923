"""Output of what must go on when nobody hears it: supervisors and roles.

Who reads their output may go away (EPIPE), the terminal may close (EIO), the disk behind
`>log` may be full (ENOSPC), a pager may stop reading. None of that may end or hold up
what watches over other processes: what cannot be written is left out.
"""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Buffer

_WAIT_MS: Final = 200
"""How long a reader that does not read is waited for, each time."""


class _Unheard(io.RawIOBase):
    """Writes to a descriptor, and leaves out what it does not take."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Buffer, /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            try:
                if not self._poll.poll(_WAIT_MS):
                    break
                # A pipe that takes anything takes so much at once.
                written = os.write(self._descriptor, rest[: select.PIPE_BUF])
            except OSError:
                break
            rest = rest[written:]
        return size


def unheard(stream: IO[str]) -> IO[str]:
    """Return a stream like this one that raises nothing and waits for nobody for long."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    with suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Unheard(stream.fileno())),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=True,
    )


def speak_unheard() -> None:
    """Let stdout and stderr of this process be such streams from now on."""
    sys.stdout, sys.stderr = unheard(sys.stdout), unheard(sys.stderr)
