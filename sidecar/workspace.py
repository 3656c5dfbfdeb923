"""Where a run works, and in what surroundings.

`actors.rules.folders` says in which folder: one of its own, kept for a while; the host's
checkout of its repository, shared; a git worktree of its own on its branch; or one that
was named.

In a shared checkout Claude and woken agents work one at a time; shell commands share it,
as people do, unless the task asks for `exclusive`. Who waits is served in turn.

When its run has ended, a worktree lets its branch go and stays for a while
(`sidecar.kept`), and no work goes with it: what was not committed (or was committed to no
branch, because the branch is checked out elsewhere) is kept as the commit
`refs/agentcom/<task>/<route>` of the repository, and the run's notes say so.

Branch names come from tasks and are not trusted: git itself has to find them well-formed
as a full reference name, and none can pass for an option.

The environment is built up, never inherited: a shell task sees no credential of the
sidecar. Claude Code also gets what decides how it logs in and runs (`ANTHROPIC_*`,
`CLAUDE_CODE_*`, those of the cloud that it is told to use) and what it needs to reach its
servers from behind a proxy; nobody else gets those. `OwnVariables` is what a host adds.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from msgspec import Struct, structs

from actors.rules.folders import WorkingFolder, working_folder
from actors.rules.repos import plain_repo
from events.errors import Malformed, shown
from events.ids import token
from events.mail import Limits
from sidecar import kept
from sidecar.changes import Checkout
from sidecar.clones import Clones
from sidecar.executors.port import Run
from sidecar.folders import (
    FolderBusy,
    FolderMissing,
    WorkspaceError,
    folders,
    is_as_made,
    logger,
    make,
    remove,
)
from sidecar.git import FOR_SERVERS, Git, add_worktree, remove_worktree, retire
from sidecar.processes.table import ROUTE_MARK, SIDECAR_MARK, TASK_MARK
from sidecar.task_secrets import TaskSecrets
from sidecar.verification import answers

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Collection,
        Mapping,
        Sequence,
    )

    from events import catalogue as c
    from events.mail import Assign
    from sidecar.processes.family import Processes

BUSY_PAUSES_S = (0.5, 2.0)
"""Before a worktree is made that could not be made because another git was at work."""
_BASICS = ("HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME")
_FOR_CLAUDE = (
    *FOR_SERVERS,
    "CLAUDE_CONFIG_DIR",
    "ALL_PROXY",
    "all_proxy",
    "NODE_EXTRA_CA_CERTS",
    "NODE_USE_SYSTEM_CA",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
_CLOUDS = {
    "CLAUDE_CODE_USE_BEDROCK": ("AWS_",),
    "CLAUDE_CODE_USE_VERTEX": (
        "GOOGLE_",
        "GCLOUD_",
        "CLOUDSDK_",
        "CLOUD_ML_REGION",
        "VERTEX_REGION_",
    ),
    "CLAUDE_CODE_USE_FOUNDRY": ("AZURE_",),
}
"""What of the sidecar's variables Claude Code needs for the cloud that one turns on."""


class OwnVariables(Struct, frozen=True, kw_only=True):
    """What a host adds to the environments: for commands `env`, another PATH and names of
    its own variables (`shell`), for Claude Code more names (`claude`)."""

    env: dict[str, str] = {}
    path: str | None = None
    shell: tuple[str, ...] = ()
    claude: tuple[str, ...] = ()


# -- Surroundings ----------------------------------------------------------------------


def environment(
    assign: Assign,
    source: Mapping[str, str],
    tmp: Path,
    own: OwnVariables | None = None,
) -> dict[str, str]:
    """Build a child's environment; `source` is what the sidecar was started with.

    The host's own variables come before the task's, these before the marks, which nobody
    can change.
    """
    own = own or OwnVariables()
    env = {name: source[name] for name in _BASICS if name in source}
    env["PATH"] = source.get("PATH") or os.defpath
    env["TERM"] = source.get("TERM") or "dumb"
    env.setdefault("HOME", str(tmp))
    env.setdefault("LANG", "C.UTF-8")
    env["TMPDIR"] = str(tmp)
    if assign.target_type == "claude":
        env |= for_claude(source, own.claude)
    if assign.target_type == "sidecar":
        env |= {name: source[name] for name in own.shell if name in source}
        env |= own.env
        if own.path is not None:
            env["PATH"] = own.path
        if assign.spec.shell is not None:
            env |= assign.spec.shell.env
    return env | {TASK_MARK: assign.task_id, ROUTE_MARK: assign.route}


def for_claude(source: Mapping[str, str], more: Collection[str]) -> dict[str, str]:
    """Return what Claude Code alone gets of `source`, and of it the names in `more`."""
    prefixes: tuple[str, ...] = ("ANTHROPIC_", "CLAUDE_CODE_")
    for switch, needed in _CLOUDS.items():
        if source.get(switch, "") not in ("", "0", "false"):
            prefixes += needed
    names = {*_FOR_CLAUDE, *more}
    return {
        name: value
        for name, value in source.items()
        if name.startswith(prefixes) or name in names
    }


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

    `repos` maps a repository's name or URL to the host's checkout of it, `clones` are the
    beginnings of URLs that may be cloned. `note` is told
    what people should know of a run's folder.
    """

    def __init__(
        self,
        root: Path,
        processes: Processes,
        *,
        repos: Mapping[str, Path] | None = None,
        default_repo: str | None = None,
        clones: Sequence[str] = (),
        source: Mapping[str, str] | None = None,
        own: OwnVariables | None = None,
        secrets: TaskSecrets | None = None,
        note: Callable[[Assign, str], None] = lambda _assign, _text: None,
    ) -> None:
        self._root = root.resolve()
        self._processes = processes
        self._repos = {plain_repo(name): path for name, path in (repos or {}).items()}
        self._default = default_repo
        self._clones = Clones(self._root / "clones", clones)
        self._source = dict(source or {})
        self._own = own
        self._secrets = secrets or TaskSecrets()
        self._note = note
        self._turns: dict[Path, Turns] = {}
        self._git_locks: dict[Path, asyncio.Lock] = {}
        # Worktrees that a run is at work in.
        self._working: set[Path] = set()
        # Log time as the last assignment said it, and when that was by our own clock.
        self._log_time: tuple[float, float] | None = None
        # Temporary folders that their run left empty, for the next ones.
        self._empty: list[Path] = []

    @asynccontextmanager
    async def prepare(self, assign: Assign) -> AsyncIterator[Run]:
        """Make a run's surroundings, and unmake them at the end of the block.

        Waits for its turn where others work. Raises WorkspaceError where this host has no
        place for it, SecretNotHere where it has not a secret that the task names.
        """
        self._log_time = assign.log_s or time.time(), time.monotonic()
        async with self._temporary(assign) as tmp, self._folder(assign) as folder:
            shell = assign.spec.shell
            secret = self._secrets.of(shell.secret_env if shell is not None else ())
            marks = {TASK_MARK, ROUTE_MARK, SIDECAR_MARK}
            secret = {name: secret[name] for name in secret if name not in marks}
            env = environment(assign, self._source, tmp, self._own)
            if assign.target_type == "sidecar":
                env |= secret
            # Each process gets it as it starts; it is told with the others.
            env[SIDECAR_MARK] = self._processes.sidecar
            as_command = structs.replace(assign, target_type="sidecar")
            steps_env = environment(as_command, self._source, tmp, self._own) | secret
            async with self._watched(assign, folder) as changes:
                yield Run(
                    assign=assign,
                    cwd=folder,
                    env=env,
                    tmp=tmp,
                    changes=changes,
                    steps_env=steps_env,
                )

    @asynccontextmanager
    async def _watched(
        self, assign: Assign, folder: Path
    ) -> AsyncIterator[Callable[[], Awaitable[c.Changes | None]] | None]:
        """Remember how a checkout is before the run; None where nobody asks for it."""
        kind = working_folder(assign.spec, self._default).kind
        commands = assign.target_type == "sidecar" and not assign.spec.repo
        if answers(assign):
            kind = "own"
        if kind == "own" or (commands and kind != "worktree"):
            yield None
            return
        scratch = self._root / "snapshots" / token(assign.route, "route")
        checkout = Checkout(Git(self._processes, assign.route, self._source), scratch)
        try:
            before = None
            try:
                before = await checkout.begin(folder)
            except (WorkspaceError, OSError) as wrong:
                self._note(assign, f"What it changes will not be known: {wrong}")

            async def changes() -> c.Changes | None:
                if before is None:
                    return None
                try:
                    return await checkout.end(before)
                except (WorkspaceError, OSError) as wrong:
                    self._note(assign, f"What it changed is not known: {wrong}")
                    return None

            yield changes
        finally:
            await remove(scratch)

    @asynccontextmanager
    async def _temporary(self, assign: Assign) -> AsyncIterator[Path]:
        """Have a folder for temporary files; a command's may be one that stayed empty.

        Most do, and to make and remove one for each of many short commands costs more
        than to look into it. What may outlive this process has one of its own name.
        """
        shared = assign.target_type == "sidecar"
        if shared and self._empty:
            folder = self._empty.pop()
        else:
            folder = self._root / "tmp" / token(assign.route, "route")
            make(folder, self._processes.user)
        try:
            yield folder
        finally:
            if shared and is_as_made(folder, self._processes.user):
                self._empty.append(folder)
            else:
                await remove(folder)

    @asynccontextmanager
    async def _folder(self, assign: Assign) -> AsyncIterator[Path]:
        try:
            where = working_folder(assign.spec, self._default)
            if answers(assign):
                where = WorkingFolder("own")
        except Malformed as wrong:
            raise WorkspaceError(
                f"branch {shown(assign.spec.branch)}", str(wrong)
            ) from wrong
        async with self._outer(assign, where) as outer:
            folder = outer / where.below if where.below else outer
            if not folder.is_dir():
                raise FolderMissing(folder)
            yield folder

    @asynccontextmanager
    async def _outer(self, assign: Assign, where: WorkingFolder) -> AsyncIterator[Path]:
        """Have the folder that the rule names, in turn with others."""
        match where.kind:
            case "own":
                folder = self._root / "tasks" / token(assign.task_id, "task_id")
                async with self._turn(folder, alone=True):
                    make(folder, self._processes.user)
                    yield folder
                    await self._keep(assign, folder)
            case "worktree":
                repo = await self._checkout(assign, where.repo)
                async with self._worktree(assign, repo, where.branch) as folder:
                    yield folder
            case "checkout":
                repo = await self._checkout(assign, where.repo)
                async with self._shared(assign, repo) as folder:
                    yield folder
            case "named":
                folder = Path(where.below)
                if not folder.is_dir():
                    raise FolderMissing(folder)
                async with self._shared(assign, _checkout_around(folder)):
                    yield folder
            case _:
                assert_never(where.kind)

    async def _keep(self, assign: Assign, folder: Path) -> None:
        """Keep a task's own folder, unless nothing is in it."""
        try:
            os.rmdir(folder)
        except OSError:
            kept.ended(folder, self._now())
            await self._end_old(assign.limits)

    def _now(self) -> float:
        """Return log time; before any assignment, as it was when a run here ended last."""
        if self._log_time is None:
            return kept.newest(self._root, time.time())
        said, at = self._log_time
        return said + time.monotonic() - at

    @asynccontextmanager
    async def _shared(self, assign: Assign, folder: Path) -> AsyncIterator[Path]:
        """Share a folder: commands with commands, an agent with nobody."""
        shell = assign.spec.shell
        alone = assign.target_type != "sidecar" or (
            shell is not None and shell.exclusive
        )
        if self._would_wait(folder, alone=alone):
            self._note(assign, f"Waiting for others to leave {folder}")
        async with self._turn(folder, alone=alone):
            yield folder

    async def _checkout(self, assign: Assign, repo: str) -> Path:
        """Return the host's checkout of a repository, cloned where it may be."""
        path = self._repos.get(plain_repo(repo))
        if path is None and self._clones.may(repo):
            git = Git(self._processes, assign.route, self._source)
            cloned = await self._clones.checkout(
                git, repo, assign.limits, lambda text: self._note(assign, text)
            )
            if not self._would_wait(cloned, alone=True):
                async with self._turn(cloned, alone=True):
                    # Where tasks have left it as it was: what is new is worked on.
                    words = ("merge", "--quiet", "--ff-only", "@{upstream}")
                    await git.run(cloned, words)
            return cloned
        if path is None:
            names = ", ".join(sorted(self._repos)) or "none"
            reason = f"this host has no checkout of it (it has: {names})"
            raise WorkspaceError(f"repository {shown(repo)}", reason)
        if not path.is_dir():
            reason = f"its checkout {path} is not there"
            raise WorkspaceError(f"repository {shown(repo)}", reason)
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
        self, going_on: Collection[str] = (), limits: Limits | None = None
    ) -> None:
        """Put away what earlier runs left.

        For when no run is under way: at the start, after the sweep of processes. Worktrees
        give up their work to `refs/agentcom` first. What belongs to the routes `going_on`
        stays: others may be at work there.
        """
        for place in ("tmp", "snapshots"):
            for folder in folders(self._root / place):
                if folder.name not in going_on:
                    await remove(folder)
        await self._clones.tidy()
        for task in folders(self._root / "worktrees"):
            for folder in folders(task):
                if folder.name not in going_on and not kept.mark_of(folder).exists():
                    await self._recover(task.name, folder)
        for folder in folders(self._root / "tasks"):
            with suppress(OSError):
                folder.rmdir()  # nothing is in it
                kept.mark_of(folder).unlink(missing_ok=True)
        kept.begin_to_age(self._root, self._now(), going_on)
        await self._end_old(limits or Limits(), going_on)

    async def _end_old(self, limits: Limits, going_on: Collection[str] = ()) -> None:
        """End kept folders by policy."""
        oldest = self._now() - limits.keep_folders_s
        busy = {*self._turns, *self._working}
        old = await asyncio.to_thread(
            kept.surplus, self._root, busy, limits.keep_folders, oldest
        )
        for folder in old:
            if folder.name in going_on:
                continue
            if folder.parent.name != "tasks":
                await self._drop_worktree(folder)
            else:
                await remove(folder)
                kept.mark_of(folder).unlink(missing_ok=True)

    def read(self, task_id: str, path: str, offset: int) -> kept.Piece:
        """Read from the folder that is kept of a task; raises NotKept."""
        folder = kept.kept_folder(self._root, token(task_id, "task_id"))
        return kept.read_piece(folder, path, offset)

    # -- worktrees

    @asynccontextmanager
    async def _worktree(
        self, assign: Assign, repo: Path, branch: str
    ) -> AsyncIterator[Path]:
        git = Git(self._processes, assign.route, self._source)
        task = token(assign.task_id, "task_id")
        folder = self._root / "worktrees" / task / token(assign.route, "route")
        lock = self._git_locks.setdefault(repo, asyncio.Lock())
        make(folder.parent, self._processes.user)
        detached, base = False, None
        if not folder.is_dir():  # else an earlier incarnation has made it
            async with lock:
                detached = await self._added(assign, git, repo, folder, branch)
            base = await git.line(folder, "rev-parse", "HEAD")
        if detached:
            self._note(
                assign,
                f"Branch {branch} is checked out elsewhere: working on a copy of its tip",
            )
        self._working.add(folder)
        try:
            yield folder
        finally:
            reference = f"refs/agentcom/{task}/{assign.route}"
            try:
                async with lock:
                    saved = await retire(git, folder, reference, base)
            except WorkspaceError as wrong:
                why = f"uncommitted work cannot be saved as {reference}: {wrong}"
                self._note(assign, f"{folder} stays, its {why}")
            else:
                if saved:
                    text = f"Kept uncommitted work as {reference} in {repo}"
                    self._note(assign, text)
                kept.ended(folder, self._now())
            self._working.discard(folder)
            await self._end_old(assign.limits)

    async def _added(
        self, assign: Assign, git: Git, repo: Path, folder: Path, branch: str
    ) -> bool:
        """Add a worktree, again after a while where another git is at work there."""
        for pause_s in BUSY_PAUSES_S:
            try:
                return await add_worktree(git, repo, folder, branch)
            except FolderBusy as busy:
                self._note(assign, f"Trying again in {pause_s:g} s: {busy}")
                await asyncio.sleep(pause_s)
        return await add_worktree(git, repo, folder, branch)

    async def _recover(self, task: str, folder: Path) -> None:
        """Save the work in a worktree that an earlier incarnation of the sidecar left."""
        git = Git(self._processes, "tidy", self._source)
        reference = f"refs/agentcom/{task}/{folder.name}"
        try:
            await retire(git, folder, reference, None)
            kept.mark_of(folder).touch()
        except (WorkspaceError, OSError) as wrong:
            logger.warning("work not saved", folder=str(folder), why=str(wrong))

    async def _drop_worktree(self, folder: Path) -> None:
        """Remove a worktree whose run is over."""
        git = Git(self._processes, "tidy", self._source)
        question = ("rev-parse", "--path-format=absolute", "--git-common-dir")
        try:
            repo = Path(await git.line(folder, *question))
        except WorkspaceError:
            await remove(folder)  # its repository is gone
        else:
            lock = self._git_locks.setdefault(repo.parent, asyncio.Lock())
            async with lock:
                await remove_worktree(git, repo, folder)
        kept.mark_of(folder).unlink(missing_ok=True)
        with suppress(OSError):
            folder.parent.rmdir()


def _checkout_around(folder: Path) -> Path:
    """Return the checkout that a folder lies in, which is what is shared; else itself."""
    folder = folder.resolve()
    around = (each for each in (folder, *folder.parents) if (each / ".git").exists())
    return next(around, folder)
