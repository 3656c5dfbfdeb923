"""Folders that are kept when their run is over: found, read from, and ended by policy.

A task's own folder stays where anything is in it, a branch's worktree in any case; the
branch itself is let go. The oldest go where there are more than `keep_folders` or where
they are older than `keep_folders_s` (numbers of the policy's `limits`). How old they are
says a mark beside each, in log time: a file's own time is the task's to set, and this
machine's clock may be put forward.

What is in them was written by tasks and is not trusted: no link is followed, not on the
way either, and nothing but plain files is read.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from events.errors import AgentComError
from sidecar.folders import folders

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

FETCH_BYTES: Final = 256 * 2**20
"""A file that is larger is not fetched."""
PIECE_BYTES: Final = 384 * 1024
"""So much of a file goes into one answer, which a message of 1 MB holds in base64."""
LISTED: Final = 1_000

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotKept(AgentComError):
    """What is asked for cannot be had from here, and why."""

    code = "not_found"


class Piece(Struct, frozen=True):
    """A piece of a file, or the names in a folder. `version` changes with the file."""

    data: bytes = b""
    size: int = 0
    mode: int = 0
    version: str = ""
    names: list[str] | None = None
    more: int = 0


def kept_folder(root: Path, task_id: str) -> Path:
    """Return the folder of a task's last run that is still here; raises NotKept."""
    runs = sorted(folders(root / "worktrees" / task_id), key=_ended)
    own = root / "tasks" / task_id
    candidates = [*([own] if own.is_dir() else []), *runs]
    if not candidates:
        raise NotKept(
            "no folder of this task is kept here: it left nothing in a folder of its "
            "own, worked in a checkout or a folder that was named, or its folder has "
            "ended by policy (limits.keep_folders, limits.keep_folders_s)"
        )
    return candidates[-1]


def mark_of(folder: Path) -> Path:
    """Return the file that says when the last run in it ended, and that its work is saved."""
    return folder.with_name(f"{folder.name}.saved")


def _ended(folder: Path) -> float:
    """When its last run ended (log time); infinite while that is not said."""
    try:
        return float(mark_of(folder).read_text())
    except (OSError, ValueError):
        return float("inf")


def newest(root: Path, usual: float) -> float:
    """Return when the last run here ended, as far as that is said; else `usual`."""
    ends = [end for each in _all(root) if (end := _ended(each)) < float("inf")]
    return max(ends, default=usual)


def _all(root: Path) -> list[Path]:
    found = folders(root / "tasks")
    for task in folders(root / "worktrees"):
        found += folders(task)
    return found


def read_piece(folder: Path, path: str, offset: int) -> Piece:
    """Read a piece of `path` in `folder`, or list it; raises NotKept."""
    steps = [step for step in path.split("/") if step not in ("", ".")]
    if path.startswith("/") or ".." in steps or "\0" in path:
        raise NotKept("path: expected one below the task's folder, without '..'")
    handle = os.open(folder, _OPEN | os.O_DIRECTORY)
    owner = os.fstat(handle).st_uid
    try:
        for n, step in enumerate(steps):
            try:
                below = os.open(step, _OPEN, dir_fd=handle)
            except OSError as wrong:
                raise NotKept(_why(wrong, "/".join(steps[: n + 1]))) from wrong
            os.close(handle)
            handle = below
        if owner and not os.fstat(handle).st_uid:
            # A task with a user of its own may have linked what only root reads.
            raise NotKept(f"{path} is root's, not the task's")
        return _read(handle, path, offset)
    finally:
        os.close(handle)


def _why(wrong: OSError, path: str) -> str:
    if wrong.errno in (errno.ELOOP, errno.EMLINK):
        return f"{path} is a link, and links are not followed"
    if wrong.errno == errno.ENOTDIR:
        return f"there is no {path}: what is before it is no folder"
    return f"{path} cannot be opened: {wrong.strerror}"


def _read(handle: int, path: str, offset: int) -> Piece:
    about = os.fstat(handle)
    if stat.S_ISDIR(about.st_mode):
        with os.scandir(handle) as entries:
            names = sorted(
                each.name + ("/" if each.is_dir(follow_symlinks=False) else "")
                for each in entries
            )
        shown = [
            os.fsencode(name).decode("utf-8", "replace") for name in names[:LISTED]
        ]
        return Piece(names=shown, more=len(names) - len(shown))
    if not stat.S_ISREG(about.st_mode):
        raise NotKept(f"{path} is no plain file")
    if about.st_size > FETCH_BYTES:
        raise NotKept(
            f"{path} has {about.st_size:,} bytes; a file may have {FETCH_BYTES:,}"
        )
    data = os.pread(handle, PIECE_BYTES, offset)
    version = f"{about.st_ino}.{about.st_size}.{about.st_mtime_ns}"
    return Piece(data, about.st_size, about.st_mode & 0o111, version)


def ended(folder: Path, log_s: float) -> None:
    """Note that a run in `folder` is over: from now on it ages."""
    with suppress(OSError):
        mark_of(folder).write_text(f"{log_s:.3f}")


def begin_to_age(root: Path, log_s: float, going_on: Collection[str]) -> None:
    """Have those age of which nobody has said when their run ended; not `going_on`."""
    for folder in _all(root):
        # A worktree without a mark has work that is not saved.
        own = folder.parent.name == "tasks"
        if folder.name in going_on or not (own or mark_of(folder).exists()):
            continue
        if _ended(folder) == float("inf"):
            ended(folder, log_s)


def surplus(root: Path, busy: set[Path], most: int, oldest: float) -> list[Path]:
    """Return the folders that are to go: beyond the `most` youngest, or from before
    `oldest` (log time). The `busy` ones and those without a mark count, and stay."""
    kept = _all(root)
    kept.sort(key=_ended, reverse=True)
    return [
        folder
        for n, folder in enumerate(kept)
        if folder not in busy
        and (end := _ended(folder)) < float("inf")
        and (n >= most or end < oldest)
    ]
