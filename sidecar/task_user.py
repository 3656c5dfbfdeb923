"""A user of their own for what tasks start: `[shell] user` in sidecar.toml.

Files that the sidecar's user alone may read (keys, tokens, the journal) are then out of a
task's reach. Only root can start processes as somebody else and still end them, so the
sidecar has to be root for it; everything that a run starts is this user's then: commands,
git, Claude Code, wake commands and what they leave behind.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from events.errors import AgentComError, shown
from sidecar.private import PASSABLE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_CHECK = """cd "$1" || exit 3
shift
for file; do if [ -r "$file" ]; then printf '%s\\n' "$file"; fi; done"""


class TaskUserError(AgentComError):
    """Tasks cannot run as the user that `[shell] user` names, and why."""

    code = "task_user"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"shell.user = {shown(name)}: {reason}")


class TaskUser(Struct, frozen=True):
    """Whom tasks run as: ids as the kernel has them, and the home folder."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    @property
    def variables(self) -> dict[str, str]:
        """What an environment says of the user."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}

    @property
    def start_options(self) -> dict[str, Any]:
        """How `subprocess.Popen` starts a process of this user."""
        return {
            "user": self.uid,
            "group": self.gid,
            "extra_groups": list(self.groups),
        }

    def own(self, file: int | Path) -> None:
        """Make a file or folder, which we have just made, the user's. Raises OSError."""
        if isinstance(file, int):
            os.fchown(file, self.uid, self.gid)
        else:
            os.chown(file, self.uid, self.gid, follow_symlinks=False)


def task_user(name: str) -> TaskUser:
    """Look a user up; raises TaskUserError where nothing can run as them here."""
    import pwd  # not on Windows

    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise TaskUserError(
            name, f"there is no such user here (`useradd --system {name}` makes one)"
        ) from None
    if entry.pw_uid == 0:
        raise TaskUserError(name, "that is root, who reads every key")
    if os.geteuid() != 0:
        raise TaskUserError(
            name,
            "only root starts tasks as another user and can end them: run the sidecar "
            f"as root, or leave this out and run the sidecar itself as {name}",
        )
    groups = tuple(os.getgrouplist(name, entry.pw_gid))
    return TaskUser(name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)


def make_room(user: TaskUser, data: Path, work: Path, private: Iterable[Path]) -> None:
    """Let the user reach the working folders in `work`, and none of the files `private`.

    `work` lies in `data`. Raises TaskUserError where a folder above bars the way, or where
    the user can read what they must not.
    """
    places = [data, *[data / each for each in _steps(work.relative_to(data))]]
    places += [work / name for name in ("tmp", "tasks", "worktrees", "snapshots")]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        os.chmod(place, PASSABLE)
    clones = work / "clones"
    clones.mkdir(exist_ok=True)
    user.own(clones)
    keys = [*(data / "keys").glob("*.nk"), data / "web-tokens.json"]
    keys += [*data.glob("journal-*.db"), data / "projections.db"]
    keys.append(data / "scheduler.checkpoint")
    check = subprocess.run(
        ["/bin/sh", "-c", _CHECK, "sh", str(work), *map(str, [*keys, *private])],
        cwd="/",
        env={},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **user.start_options,
    )
    if check.returncode:
        raise TaskUserError(
            user.name,
            f"the working folders are not within reach: {check.stderr.strip()} (every "
            "folder above must let others pass, as /var/lib does; `data` names another)",
        )
    if readable := check.stdout.splitlines():
        raise TaskUserError(
            user.name, f"tasks could read {', '.join(readable)}: close it (chmod 600)"
        )


def _steps(path: Path) -> list[Path]:
    return [*reversed(path.parents[:-1]), path]
