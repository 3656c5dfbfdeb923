"""The logs of the roles that `agentcom up` runs: appended to, bounded, quoted."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

LOG_BYTES: Final = 16 * 1024 * 1024
"""A longer log is put aside; there is one such beside it."""


def open_log(path: Path) -> IO[bytes]:
    """Open a role's log to append to; readable by its owner alone."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.fdopen(os.open(path, flags, 0o600), "ab")


def bound_log(path: Path, limit: int = LOG_BYTES) -> None:
    """Put what stands in a log of more than `limit` bytes aside, as `.log.1`.

    The role has the file open to append to, and goes on at its new end: so the text is
    copied and the file is emptied. What is written in the midst of the copy is copied too.
    """
    try:
        if path.stat().st_size <= limit:
            return
        aside = path.with_suffix(".log.1")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with (
            path.open("r+b") as log,
            os.fdopen(os.open(aside, flags, 0o600), "wb") as kept,
        ):
            while part := log.read(1024 * 1024):
                kept.write(part)
                kept.flush()
            log.truncate(0)
    except OSError:
        # No room, or nothing there: the log is looked at again soon.
        return


def last_words(log: Path) -> str:
    """Return the last line of a log that tells of trouble, as `: line`."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    if not lines or '"level": "info"' in lines[-1]:
        return f" (see {log})"
    return f": {lines[-1][:300]} (more in {log})"
