"""Where a run works, and in what surroundings.

| the task has | it works in |
| --- | --- |
| no repository, and the host no default one | a folder of its own, kept for a while |
| a repository | the host's checkout of it, shared |
| a repository and a branch | a git worktree of its own |

In a shared checkout Claude and woken agents work one at a time; shell commands share it,
as people do, unless the task asks for `exclusive`. Who waits is served in turn.

A worktree goes when its run has ended, and no work goes with it: what was not committed
(or was committed to no branch, because the branch is checked out elsewhere) is kept as the
commit `refs/agentcom/<task>/<route>` of the repository, and the run's notes say so.

Branch names come from tasks and are not trusted: git itself has to find them well-formed
as a full reference name, and none can pass for an option.

The environment is built up, never inherited: a shell task sees no credential of the
sidecar. Claude Code also gets `ANTHROPIC_*` and what it needs to reach its servers from
behind a proxy; nobody else gets those.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections import deque
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from events.errors import AgentComError
from events.ids import token
from sidecar.executors.port import Run
from sidecar.processes.table import ROUTE_MARK, TASK_MARK

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Callable,
        Collection,
        Mapping,
        Sequence,
    )

    from events.commands import Assign
    from sidecar.processes.family import Processes

logger = structlog.get_logger("agentcom.sidecar")

KEEP_FOLDERS_S = 7 * 86_400.0

_BASICS = ("HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME")
_FOR_CLAUDE = (
    "CLAUDE_CONFIG_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
_GIT_TIMEOUT_S = 120.0


class WorkspaceError(AgentComError):
    """A run has no place to work on this host: `what` could not be had, and why."""

    code = "workspace"

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what}: {reason}")


# -- Surroundings ----------------------------------------------------------------------


def environment(assign: Assign, source: Mapping[str, str], tmp: Path) -> dict[str, str]:
    """Build a child's environment; `source` is what the sidecar was started with.

    The task's own variables come before the marks, which nobody can change.
    """
    env = {name: source[name] for name in _BASICS if name in source}
    env["PATH"] = source.get("PATH") or os.defpath
    env["TERM"] = source.get("TERM") or "dumb"
    env.setdefault("HOME", str(tmp))
    env.setdefault("LANG", "C.UTF-8")
    env["TMPDIR"] = str(tmp)
    if assign.target_type == "claude":
        env |= {
            name: value
            for name, value in source.items()
            if name.startswith("ANTHROPIC_") or name in _FOR_CLAUDE
        }
    if assign.target_type == "sidecar" and assign.spec.shell is not None:
        env |= assign.spec.shell.env
    return env | {TASK_MARK: assign.task_id, ROUTE_MARK: assign.route}


# -- Taking turns ----------------------------------------------------------------------


class Turns:
    """Either many who share, or one alone; in the order in which they came."""

    def __init__(self) -> None:
        self._sharing = 0
        self._alone = False
        self._queue: deque[tuple[bool, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def taken(self, *, alone: bool) -> AsyncIterator[None]:
        """Hold a turn for the length of the block."""
        await self._take(alone)
        try:
            yield
        finally:
            self._give_back(alone)

    @property
    def idle(self) -> bool:
        """Whether nobody holds or awaits a turn."""
        return not (self._sharing or self._alone or self._queue)

    def would_wait(self, *, alone: bool) -> bool:
        """Whether a turn would have to be waited for now."""
        return bool(self._queue) or not self._is_free(alone)

    def _is_free(self, alone: bool) -> bool:
        return not self._alone and not (alone and self._sharing)

    async def _take(self, alone: bool) -> None:
        if not self.would_wait(alone=alone):
            self._grant(alone)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((alone, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(alone)  # it had just been granted
            else:
                self._queue.remove((alone, turn))
                self._call()
            raise

    def _grant(self, alone: bool) -> None:
        if alone:
            self._alone = True
        else:
            self._sharing += 1

    def _give_back(self, alone: bool) -> None:
        if alone:
            self._alone = False
        else:
            self._sharing -= 1
        self._call()

    def _call(self) -> None:
        while self._queue and self._is_free(self._queue[0][0]):
            alone, turn = self._queue.popleft()
            if not turn.done():
                self._grant(alone)
                turn.set_result(None)


# -- Folders ---------------------------------------------------------------------------


class Workspace:
    """A host's working folders, under `root`.

    `repos` maps a repository's name or URL to the host's checkout of it. `note` is told
    what people should know of a run's folder.
    """

    def __init__(
        self,
        root: Path,
        processes: Processes,
        *,
        repos: Mapping[str, Path] | None = None,
        default_repo: str | None = None,
        source: Mapping[str, str] | None = None,
        note: Callable[[Assign, str], None] = lambda _assign, _text: None,
    ) -> None:
        self._root = root.absolute()
        self._processes = processes
        self._repos = {_plain(name): path for name, path in (repos or {}).items()}
        self._default = default_repo
        self._source = dict(source or {})
        self._note = note
        self._turns: dict[Path, Turns] = {}
        self._git_locks: dict[Path, asyncio.Lock] = {}

    @asynccontextmanager
    async def prepare(self, assign: Assign) -> AsyncIterator[Run]:
        """Make a run's surroundings, and unmake them at the end of the block.

        Waits for its turn where others work. Raises WorkspaceError where this host has no
        place for it.
        """
        if assign.target_type not in ("sidecar", "claude", "agent"):
            yield Run(assign=assign, cwd=self._root, env={})
            return
        async with self._temporary(assign) as tmp, self._folder(assign) as folder:
            env = environment(assign, self._source, tmp)
            yield Run(assign=assign, cwd=folder, env=env)

    @asynccontextmanager
    async def _temporary(self, assign: Assign) -> AsyncIterator[Path]:
        folder = self._root / "tmp" / token(assign.route, "route")
        _make(folder)
        try:
            yield folder
        finally:
            await _remove(folder)

    @asynccontextmanager
    async def _folder(self, assign: Assign) -> AsyncIterator[Path]:
        repo = self._checkout(assign)
        if repo is None:
            folder = self._root / "tasks" / token(assign.task_id, "task_id")
            async with self._turn(folder, alone=True):
                _make(folder)
                yield folder
        elif assign.spec.branch is not None:
            async with self._worktree(assign, repo, assign.spec.branch) as folder:
                yield folder
        else:
            shell = assign.spec.shell
            alone = assign.target_type != "sidecar" or (
                shell is not None and shell.exclusive
            )
            if self._would_wait(repo, alone=alone):
                self._note(assign, f"Waiting for others to leave {repo}")
            async with self._turn(repo, alone=alone):
                yield repo

    def _checkout(self, assign: Assign) -> Path | None:
        """The host's checkout of the task's repository; None where none is meant."""
        repo = assign.spec.repo or self._default
        if repo is None:
            if assign.spec.branch is not None:
                reason = (
                    "the task names no repository, and this host has no default one"
                )
                raise WorkspaceError(f"branch {assign.spec.branch!r}", reason)
            return None
        path = self._repos.get(_plain(repo))
        if path is None:
            names = ", ".join(sorted(self._repos)) or "none"
            reason = f"this host has no checkout of it (it has: {names})"
            raise WorkspaceError(f"repository {repo!r}", reason)
        if not path.is_dir():
            reason = f"its checkout {path} is not there"
            raise WorkspaceError(f"repository {repo!r}", reason)
        return path.resolve()

    def _would_wait(self, folder: Path, *, alone: bool) -> bool:
        turns = self._turns.get(folder)
        return turns is not None and turns.would_wait(alone=alone)

    @asynccontextmanager
    async def _turn(self, folder: Path, *, alone: bool) -> AsyncIterator[None]:
        turns = self._turns.setdefault(folder, Turns())
        try:
            async with turns.taken(alone=alone):
                yield
        finally:
            if turns.idle:
                self._turns.pop(folder, None)

    async def tidy(
        self, going_on: Collection[str] = (), keep_s: float = KEEP_FOLDERS_S
    ) -> int:
        """Remove what earlier runs left; returns how many folders went.

        For when no run is under way: at the start, after the sweep of processes.
        Worktrees give up their work to `refs/agentcom` first; a task's own folder goes
        when nothing in it has changed for `keep_s`. What belongs to the routes `going_on`
        stays: others may be at work there.
        """
        gone = 0
        for folder in _folders(self._root / "tmp"):
            if folder.name in going_on:
                continue
            await _remove(folder)
            gone += 1
        for task in _folders(self._root / "worktrees"):
            for folder in _folders(task):
                if folder.name in going_on:
                    continue
                await self._recover(task.name, folder)
                gone += 1
            with suppress(OSError):
                task.rmdir()
        oldest = time.time() - keep_s
        for folder in _folders(self._root / "tasks"):
            if await asyncio.to_thread(_last_change, folder) < oldest:
                await _remove(folder)
                gone += 1
        return gone

    # -- worktrees

    @asynccontextmanager
    async def _worktree(
        self, assign: Assign, repo: Path, branch: str
    ) -> AsyncIterator[Path]:
        git = Git(self._processes, assign.route, self._source)
        task = token(assign.task_id, "task_id")
        folder = self._root / "worktrees" / task / token(assign.route, "route")
        lock = self._git_locks.setdefault(repo, asyncio.Lock())
        _make(folder.parent)
        detached, base = False, None
        if not folder.is_dir():  # else an earlier incarnation has made it
            async with lock:
                detached = await _add_worktree(git, repo, folder, branch)
            base = await git.line(folder, "rev-parse", "HEAD")
        if detached:
            self._note(
                assign,
                f"Branch {branch} is checked out elsewhere: working on a copy of its tip",
            )
        try:
            yield folder
        finally:
            reference = f"refs/agentcom/{task}/{assign.route}"
            async with lock:
                kept = await _take_down(git, repo, folder, reference, base)
            if kept:
                self._note(assign, f"Kept uncommitted work as {reference} in {repo}")
            with suppress(OSError):
                folder.parent.rmdir()

    async def _recover(self, task: str, folder: Path) -> None:
        """Take down a worktree that an earlier incarnation of the sidecar left."""
        git = Git(self._processes, "tidy", self._source)
        question = ("rev-parse", "--path-format=absolute", "--git-common-dir")
        with suppress(WorkspaceError):
            common = await git.line(folder, *question)
            reference = f"refs/agentcom/{task}/{folder.name}"
            await _take_down(git, Path(common), folder, reference, None)


class Git:
    """Git, with an environment of its own, no hooks and no questions."""

    def __init__(
        self, processes: Processes, route: str, source: Mapping[str, str]
    ) -> None:
        self._processes = processes
        self._route = route
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

    async def ask(self, folder: Path, *words: str) -> tuple[bool, str, str]:
        """Run a git command; whether it went well, its stdout, its stderr."""
        quiet = ["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"]
        for name in await self._filters(folder):
            for key in ("clean", "smudge", "process"):
                quiet += ["-c", f"filter.{name}.{key}="]
            quiet += ["-c", f"filter.{name}.required=false"]
        return await self._run(folder, quiet, words)

    async def _filters(self, folder: Path) -> list[str]:
        """Names of the filters that the repository itself sets, which are never run.

        Those of the host's own configuration are the operator's, and stay.
        """
        words = ("config", "-z", "--show-scope", "--name-only", "--get-regexp")
        _, out, _ = await self._run(folder, [], (*words, r"^filter\."))
        fields = out.split("\0")
        keys = zip(fields[::2], fields[1::2], strict=False)
        names = {
            key.removeprefix("filter.").rpartition(".")[0]
            for scope, key in keys
            if scope in ("local", "worktree")
        }
        return sorted(names)

    async def _run(
        self, folder: Path, quiet: Sequence[str], words: Sequence[str]
    ) -> tuple[bool, str, str]:
        try:
            brief = await self._processes.brief(
                ["git", *quiet, *words],
                cwd=folder,
                env=self._env,
                route=self._route,
                timeout_s=_GIT_TIMEOUT_S,
            )
        except OSError as wrong:
            raise WorkspaceError(f"git {words[0]}", str(wrong)) from wrong
        return brief.ok, brief.stdout, brief.stderr.strip()

    async def line(self, folder: Path, *words: str) -> str:
        """Run a git command that must go well; its stdout. Raises WorkspaceError."""
        ok, out, err = await self.ask(folder, *words)
        if not ok:
            raise WorkspaceError(f"git {words[0]}", err or "failed without a word")
        return out.strip()


async def _add_worktree(git: Git, repo: Path, folder: Path, branch: str) -> bool:
    """Check `branch` out in `folder`; whether only a copy of its tip could be had."""
    full = f"refs/heads/{branch}"
    if branch.startswith("-") or not (await git.ask(repo, "check-ref-format", full))[0]:
        raise WorkspaceError(f"branch {branch!r}", "that is no branch name")
    exists, _, _ = await git.ask(repo, "show-ref", "--verify", "--quiet", full)
    if exists:
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


async def _take_down(
    git: Git, repo: Path, folder: Path, reference: str, base: str | None
) -> bool:
    """Remove a worktree; whether work had to be kept under `reference` first."""
    try:
        kept = await _keep_work(git, folder, reference, base)
    except WorkspaceError:
        return False  # better a folder too many than work that is lost
    removed, _, _ = await git.ask(
        repo, "worktree", "remove", "--force", "--force", "--", str(folder)
    )
    if not removed:
        await _remove(folder)
        await git.ask(repo, "worktree", "prune")
    return kept


async def _keep_work(git: Git, folder: Path, reference: str, base: str | None) -> bool:
    """Save what is on no branch as a commit of its own, through no hook."""
    changed = await git.line(folder, "status", "--porcelain", "--untracked-files=all")
    head = await git.line(folder, "rev-parse", "HEAD")
    attached, _, _ = await git.ask(folder, "symbolic-ref", "--quiet", "HEAD")
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


# -- Names and files -------------------------------------------------------------------


def _plain(repo: str) -> str:
    """One form for all of a repository's URLs; a plain name stays as it is."""
    plain = repo.strip().rstrip("/").removesuffix(".git")
    if "://" in plain:
        _, _, plain = plain.partition("://")
        host, slash, path = plain.partition("/")
        return f"{host.rpartition('@')[2].lower()}{slash}{path}"
    host, colon, path = plain.partition(":")
    if colon and "/" not in host:
        return f"{host.rpartition('@')[2].lower()}/{path}"
    return plain


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as wrong:
        raise WorkspaceError(f"folder {folder}", str(wrong)) from wrong


async def _remove(folder: Path) -> None:
    try:
        os.rmdir(folder)  # most are empty
    except FileNotFoundError:
        return
    except OSError:
        if not await asyncio.to_thread(_remove_tree, folder):
            logger.warning("folder remains", folder=str(folder))


def _remove_tree(folder: Path) -> bool:
    """Remove it, with folders that nobody may write to (Go's module cache); if it went."""
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


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(each for each in parent.iterdir() if each.is_dir())
    except OSError:
        return []


def _last_change(folder: Path) -> float:
    """When anything in `folder` last changed; links are not followed."""
    newest = 0.0
    for place, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            with suppress(OSError):
                newest = max(newest, Path(place, name).lstat().st_mtime)
    return newest
