"""Folders on the disk: made, listed, and removed whatever is in them."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from events.diagnostics import Diagnostics
from events.errors import AgentComError

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.task_user import TaskUser

logger = Diagnostics("agentcom.sidecar")


class WorkspaceError(AgentComError):
    """A run has no place to work on this host: `what` could not be had, and why."""

    code = "workspace"

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")


class FolderBusy(WorkspaceError):
    """Somebody else is at work in it just now: it may be had a little later."""

    code = "folder_busy"


class FolderMissing(WorkspaceError):
    """The folder that a task names is not there."""

    code = "cwd_missing"

    def __init__(self, folder: Path) -> None:
        super().__init__("no such folder", str(folder))


def make(folder: Path, user: TaskUser | None = None) -> None:
    """Make it where it is missing, the user's where one is named; raises WorkspaceError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if user is not None:
            user.own(folder)
    except OSError as wrong:
        kind = FolderBusy if wrong.errno == errno.EBUSY else WorkspaceError
        raise kind(f"folder {folder}", str(wrong)) from wrong


def is_as_made(folder: Path, user: TaskUser | None = None) -> bool:
    """Whether nothing is in it and nobody has put anything in its place."""
    try:
        about = folder.lstat()
        with os.scandir(folder) as entries:
            empty = next(entries, None) is None
    except OSError:
        return False
    owner = os.geteuid() if user is None else user.uid
    return empty and about.st_mode == stat.S_IFDIR | 0o700 and about.st_uid == owner


def put(file: Path, body: bytes, user: TaskUser | None = None) -> None:
    """Write a file anew, its owner's alone, the user's where one is named; raises OSError.

    Tasks may write to its folder: nothing that they leave there, or put there meanwhile, is
    followed.
    """
    with suppress(FileNotFoundError):
        file.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(file, flags, 0o600), "wb") as stream:
        if user is not None:
            user.own(stream.fileno())
        stream.write(body)


async def remove(folder: Path) -> None:
    """Remove it with all that is in it; says in the log where it cannot."""
    try:
        os.rmdir(folder)  # most are empty
    except FileNotFoundError:
        return
    except OSError:
        if not await asyncio.to_thread(remove_tree, folder):
            logger.warning("folder remains", folder=str(folder))


def remove_tree(folder: Path) -> bool:
    """Remove it, with folders that nobody may write to (Go's module cache); if it went.

    Root writes to them anyway, and must not follow what a task puts in its way meanwhile.
    """
    if os.geteuid() != 0:
        for place, _, _ in os.walk(folder, onerror=None):
            _make_writable(place)  # before its folders are looked into
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _make_writable(place: str) -> None:
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)
    with suppress(OSError):
        os.chmod(place, 0o700)


def folders(parent: Path) -> list[Path]:
    """List the folders in `parent`, by name; none where it is not there."""
    try:
        return sorted(each for each in parent.iterdir() if each.is_dir())
    except OSError:
        return []
