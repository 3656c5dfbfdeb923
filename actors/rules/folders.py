"""Where a task works: one rule, for commands, Claude, local agents and verification.

It goes by what was asked and by where it was typed, never by how many hosts there are.
`typed` is the half of whoever submits from a terminal, `working_folder` the half of the
host that runs it. The page for people is docs/working-folder.md.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from events.errors import Malformed, shown

if TYPE_CHECKING:
    from events import catalogue as c


class Typed(Struct, frozen=True, kw_only=True):
    """What somebody typed of a place. `command`: it is a shell command.

    `elsewhere`: they named a repository, a branch, a host, or what the host must be able
    to. `anywhere`: they said that any host may take it.
    """

    command: bool
    cwd: str = ""
    elsewhere: bool = False
    in_checkout: bool = False
    anywhere: bool = False


class Stand(Struct, frozen=True):
    """Where what was typed is to run: in `cwd` ("": as the host has it), on `host` alone
    ("": on any)."""

    cwd: str = ""
    host: str = ""


def typed(task: Typed, here: str, host: str) -> Stand:
    """Say where a task runs that was typed in the folder `here`, an absolute path.

    `host` is the host that this machine is, "" where it is none. A folder of this machine
    binds the task to it. Raises Malformed for a relative folder that leads nowhere.
    """
    if task.in_checkout:
        return Stand(task.cwd)
    if task.cwd and not (task.anywhere or task.elsewhere) and host:
        return Stand(posixpath.normpath(posixpath.join(here, task.cwd)), host)
    if task.cwd and not posixpath.isabs(task.cwd):
        raise Malformed(
            "--cwd",
            "an absolute path, because the task may run on another machine than this",
            shown(task.cwd),
        )
    if task.cwd or task.elsewhere or task.anywhere or not task.command or not host:
        return Stand(task.cwd)
    return Stand(here, host)


Kind = Literal["own", "checkout", "worktree", "named"]


class WorkingFolder(Struct, frozen=True):
    """Which folder: a task's own, the checkout of `repo`, a git worktree of it on `branch`,
    or the one that is named. `below` leads from it to where the work begins."""

    kind: Kind
    repo: str = ""
    branch: str = ""
    below: str = ""


def working_folder(spec: c.TaskSpec, default_repo: str | None) -> WorkingFolder:
    """Say in which folder of its host a task works; `default_repo` is the host's.

    Raises Malformed for a branch of no repository.
    """
    cwd = asked_cwd(spec)
    if posixpath.isabs(cwd) and not spec.repo:
        return WorkingFolder("named", below=cwd)
    repo = spec.repo or default_repo or ""
    if spec.branch:
        if not repo:
            raise Malformed(
                "branch",
                "a repository beside it, because this host has no default one",
                shown(spec.branch),
            )
        return WorkingFolder("worktree", repo, spec.branch, cwd)
    if repo:
        return WorkingFolder("checkout", repo, below=cwd)
    return WorkingFolder("own", below=cwd)


def asked_cwd(spec: c.TaskSpec) -> str:
    """Return the folder that a task names, its command's where only that names one."""
    return spec.cwd or (spec.shell.cwd if spec.shell is not None else None) or ""


def check_folder(spec: c.TaskSpec) -> None:
    """Refuse folders that contradict each other: raises Malformed with the JSON path."""
    of_command = spec.shell.cwd if spec.shell is not None else None
    if spec.cwd and of_command and spec.cwd != of_command:
        raise Malformed(
            "shell.cwd", f"{shown(spec.cwd)} as in cwd, or none", of_command[:80]
        )
    cwd = asked_cwd(spec)
    if posixpath.isabs(cwd) and (spec.repo or spec.branch):
        raise Malformed(
            "cwd" if spec.cwd else "shell.cwd",
            "a path below the checkout, because a repo or branch is named",
            shown(cwd),
        )
