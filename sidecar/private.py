"""Who may read the data folder: its owner alone, also where it was there before.

A folder made by hand, or by an earlier version, may have files that everybody reads; each
role mends what it finds at its start. Only what AgentCom itself makes is touched.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_OURS: Final = (
    "keys",
    "keys/*",
    "logs",
    "logs/*",
    "jetstream",
    "work",
    "results",
    "ports",
    "journal-*.db*",
    "projections*",
    "nats-server.log",
    "nats-server.pid",
    "nats.conf",
    "local.conf",
    "hosts.conf",
    "site.conf",
    "address.json",
    "web-tokens.json*",
    "*.lock",
)
"""What lies in a data folder, by name; `work` and `jetstream` are closed as a whole."""

PASSABLE: Final = 0o711
"""A folder that others may go through, and not look into."""


def mend(data: Path) -> None:
    """Close the data folder and what is ours in it to others.

    Folders that others may only pass through stay so: a host's tasks may have a user of
    their own, who has to reach `work`. Raises nothing: what belongs to somebody else is
    left.
    """
    for path in _ours(data):
        with suppress(OSError):
            _mend(path)


def _mend(path: Path) -> None:
    # Not through a link, and without waiting at a pipe.
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        mode, folder = stat.S_IMODE(status.st_mode), stat.S_ISDIR(status.st_mode)
        ours = folder or stat.S_ISREG(status.st_mode)
        if ours and mode & 0o077 and not (folder and mode == PASSABLE):
            os.fchmod(file, mode & ~0o077)
    finally:
        os.close(file)


def _ours(data: Path) -> Iterator[Path]:
    with suppress(OSError):
        shared = data.stat().st_mode & stat.S_ISVTX
        if not shared and data.resolve() not in (Path("/"), Path.home().resolve()):
            yield data
        for pattern in _OURS:
            yield from data.glob(pattern)
