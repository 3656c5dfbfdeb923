"""Git as the sidecar runs it: worktrees, and what is kept of them.

No hook, no filter and no transport of a repository's own configuration is ever run, and no
question asked.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING

from events.errors import shown
from sidecar.folders import FolderBusy, WorkspaceError, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from sidecar.processes.family import Brief, Child, Processes
    from sidecar.task_user import TaskUser

_GIT_TIMEOUT_S = 120.0
_KEEP = 65_536
FOR_SERVERS = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
"""Variables that programs need to reach their servers from behind a proxy."""
_FOR_NET = ("SSH_AUTH_SOCK", *FOR_SERVERS)
_LOCKED = re.compile(
    r"\.lock': File exists|could not lock|cannot lock|is locked|Another git process"
)
"""What git says where another one has locked what it needs."""
_QUIET = {"core.hooksPath": "/dev/null", "core.fsmonitor": "false"}
_FILTER_KEYS = ("clean", "smudge", "process")


class Git:
    """Git, with an environment of its own, no hooks and no questions."""

    def __init__(
        self, processes: Processes, route: str, source: Mapping[str, str]
    ) -> None:
        self._processes = processes
        self._route = route
        self._source = source
        self._env = {
            "PATH": source.get("PATH") or os.defpath,
            "HOME": source.get("HOME") or "/",
            "LC_ALL": "C.UTF-8",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_AUTHOR_NAME": "AgentCom",
            "GIT_AUTHOR_EMAIL": "agentcom@localhost",
            "GIT_COMMITTER_NAME": "AgentCom",
            "GIT_COMMITTER_EMAIL": "agentcom@localhost",
        }

    @property
    def user(self) -> TaskUser | None:
        """Whose processes these are; None: this process's own."""
        return self._processes.user

    async def run(
        self,
        folder: Path,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = _GIT_TIMEOUT_S,
        keep: int = _KEEP,
    ) -> Brief:
        """Run a git command; of its output `keep` bytes. Raises WorkspaceError."""
        quiet = {**_QUIET, **await self._no_filters(folder)}
        more = {**_settings(quiet), "GIT_ALLOW_PROTOCOL": "none", **(env or {})}
        return await self._brief(folder, words, more, stdin, timeout_s, keep)

    async def transfer(
        self,
        folder: Path,
        words: Sequence[str],
        url: str,
        on_stderr: Callable[[bytes], None],
    ) -> Child:
        """Start a git command that reads from `url`, by that transport and no other.

        Raises WorkspaceError where it cannot be started.
        """
        quiet = {
            **_QUIET,
            "http.followRedirects": "false",
            "submodule.recurse": "false",
            "fetch.recurseSubmodules": "false",
        }
        if (folder / ".git").exists():
            quiet |= await self._no_filters(folder)
        env = {
            **self._env,
            **{name: self._source[name] for name in _FOR_NET if name in self._source},
            **_settings(quiet),
            # Of the repository's settings, none can allow another.
            "GIT_ALLOW_PROTOCOL": url.partition("://")[0],
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
        }
        try:
            return self._processes.start(
                ["git", *words],
                cwd=folder,
                env=env,
                route=self._route,
                on_stderr=on_stderr,
            )
        except OSError as wrong:
            raise WorkspaceError(f"git {words[0]}", str(wrong)) from wrong

    async def _no_filters(self, folder: Path) -> dict[str, str]:
        """Settings that turn off the filters that the repository itself sets.

        Those of the host's own configuration are the operator's, and stay.
        """
        words = ("config", "-z", "--show-scope", "--name-only", "--get-regexp")
        brief = await self._brief(folder, (*words, r"^filter\."), {}, b"", 30.0, _KEEP)
        if len(brief.raw) >= _KEEP:
            raise WorkspaceError("git", "its configuration names too many filters")
        fields = brief.stdout.split("\0")
        keys = zip(fields[::2], fields[1::2], strict=False)
        names = {
            key.removeprefix("filter.").rpartition(".")[0]
            for scope, key in keys
            if scope in ("local", "worktree")
        }
        quiet: dict[str, str] = {}
        for name in sorted(names):
            quiet |= {f"filter.{name}.{key}": "" for key in _FILTER_KEYS}
            quiet[f"filter.{name}.required"] = "false"
        return quiet

    async def _brief(
        self,
        folder: Path,
        words: Sequence[str],
        env: Mapping[str, str],
        stdin: bytes,
        timeout_s: float,
        keep: int,
    ) -> Brief:
        try:
            return await self._processes.brief(
                ["git", *words],
                cwd=folder,
                env={**self._env, **env},
                route=self._route,
                timeout_s=timeout_s,
                keep=keep,
                stdin=stdin,
            )
        except OSError as wrong:
            raise WorkspaceError(f"git {words[0]}", str(wrong)) from wrong

    async def line(self, folder: Path, *words: str) -> str:
        """Run a git command that must go well; its stdout.

        Raises WorkspaceError; FolderBusy where another git is at work there.
        """
        answer = await self.run(folder, words)
        if not answer.ok:
            wrong = answer.stderr.strip()
            kind = FolderBusy if _LOCKED.search(wrong) else WorkspaceError
            raise kind(f"git {words[0]}", wrong or "failed without a word")
        return answer.stdout.strip()


def _settings(quiet: Mapping[str, str]) -> dict[str, str]:
    """Git's configuration as variables: as an option, a name would end at its first '='."""
    more = {"GIT_CONFIG_COUNT": str(len(quiet))}
    for n, (key, value) in enumerate(quiet.items()):
        more |= {f"GIT_CONFIG_KEY_{n}": key, f"GIT_CONFIG_VALUE_{n}": value}
    return more


async def add_worktree(git: Git, repo: Path, folder: Path, branch: str) -> bool:
    """Check `branch` out in `folder`; whether only a copy of its tip could be had."""
    full = f"refs/heads/{branch}"
    named = await git.run(repo, ("check-ref-format", full))
    if branch.startswith("-") or not named.ok:
        raise WorkspaceError(f"branch {shown(branch)}", "that is no branch name")
    if (await git.run(repo, ("show-ref", "--verify", "--quiet", full))).ok:
        listed = await git.line(repo, "worktree", "list", "--porcelain")
        in_use = f"branch {full}" in listed.splitlines()
        if in_use:
            await git.line(repo, "worktree", "add", "--detach", "--", str(folder), full)
        else:
            await git.line(repo, "worktree", "add", "--", str(folder), branch)
        return in_use
    pattern = f"refs/remotes/*/{branch}"
    listed = await git.line(repo, "for-each-ref", "--format=%(refname)", pattern)
    remote = sorted(listed.splitlines(), key=lambda ref: "/origin/" not in ref)[:1]
    start = remote[0] if remote else "HEAD"
    await git.line(repo, "worktree", "add", "-b", branch, "--", str(folder), start)
    return False


async def retire(git: Git, folder: Path, reference: str, base: str | None) -> bool:
    """Let go of a worktree's branch; whether work was saved under `reference` first.

    Raises WorkspaceError where that cannot be done, and leaves it as it is.
    """
    there = await asyncio.to_thread(folder.is_dir)
    if not there or not (await git.run(folder, ("rev-parse", "--git-dir"))).ok:
        return False  # it is gone, or its repository, which would keep what is saved
    saved = await _keep_work(git, folder, reference, base)
    head = await git.line(folder, "rev-parse", "HEAD")
    await git.line(folder, "update-ref", "--no-deref", "HEAD", head)
    return saved


async def remove_worktree(git: Git, repo: Path, folder: Path) -> None:
    """Remove a worktree whose work is saved."""
    words = ("worktree", "remove", "--force", "--force", "--", str(folder))
    if not (await git.run(repo, words)).ok:
        await remove(folder)
        await git.run(repo, ("worktree", "prune"))


async def _keep_work(git: Git, folder: Path, reference: str, base: str | None) -> bool:
    """Save what is on no branch as a commit of its own, through no hook."""
    changed = await git.line(folder, "status", "--porcelain", "--untracked-files=all")
    head = await git.line(folder, "rev-parse", "HEAD")
    attached = (await git.run(folder, ("symbolic-ref", "--quiet", "HEAD"))).ok
    if changed:
        await git.line(folder, "add", "--all")
        tree = await git.line(folder, "write-tree")
        message = "Work that a task had not committed"
        head = await git.line(folder, "commit-tree", tree, "-p", head, "-m", message)
    elif attached or head == base:
        return False
    elif base is None:
        # An earlier incarnation's: whether its tip moved is not known; keep it where no
        # branch has it.
        on = await git.line(folder, "for-each-ref", "--contains", head, "refs/heads")
        if on:
            return False
    await git.line(folder, "update-ref", reference, head)
    return True
