"""The results folder: where woken agents find their work, and leave what came of it.

    <task>.task.json   written by this host: the assignment
    <task>.started     made by the agent: it has begun
    <task>.json        written by the agent: its result

The folder is watched, nothing polls. What agents leave is not trusted: it may be half
written, no file at all, a link to somewhere, or without end. A result for a task that is
not at work here is left where it is, and counted.
"""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from watchfiles import awatch

from events.diagnostics import Diagnostics
from events.errors import AgentComError
from events.ids import is_token, token
from sidecar.folders import put

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator
    from pathlib import Path

    from sidecar.task_user import TaskUser

STILL_S: Final = 0.5
"""How long a result must not have changed before it is read."""

RESULT_LIMIT: Final = 16 * 2**20
"""Bytes of a result that are read; more is no result."""

_TASK: Final = ".task.json"
_STARTED: Final = ".started"
_RESULT: Final = ".json"
_STEP_MS: Final = 20
_LOOK_ANYWAY_MS: Final = 5_000
_WATCH_AGAIN_S: Final = 1.0

logger = Diagnostics(__name__)


class Unreadable(AgentComError):
    """A result that cannot be read, and why."""

    code = "result_parse_error"

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")


class ResultsFolderError(AgentComError):
    """The results folder cannot be used, and why."""

    code = "results_folder"

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"results folder {folder}: {problem}")


class TaskFiles:
    """One task's three files, while it is at work here."""

    def __init__(
        self,
        folder: Path,
        task_id: str,
        still: Callable[[], Awaitable[None]],
        user: TaskUser | None = None,
    ) -> None:
        """`still` waits as long as a result must not have changed; `user` as below."""
        self._user = user
        name = token(task_id, "task_id")
        self.task_file = folder / f"{name}{_TASK}"
        self.started_file = folder / f"{name}{_STARTED}"
        self.result_file = folder / f"{name}{_RESULT}"
        self.started = asyncio.Event()
        self._still = still
        self._news = asyncio.Event()

    def look(self) -> None:
        """See what is there now."""
        if os.path.lexists(self.started_file):
            self.started.set()
        self._news.set()

    def write_task(self, body: bytes) -> None:
        """Put the assignment there, whole or not at all; raises OSError."""
        part = self.task_file.with_name(f".{self.task_file.name}.part")
        put(part, body, self._user)
        os.replace(part, self.task_file)

    def forget_started(self) -> None:
        """Take away the mark of an earlier attempt."""
        _remove(self.started_file)
        self.started.clear()

    @property
    def has_result(self) -> bool:
        """Whether a result is there, finished or not."""
        return os.path.lexists(self.result_file)

    def withdraw(self) -> None:
        """Take away what would have an agent begin; a result stays."""
        _remove(self.task_file)
        _remove(self.started_file)

    async def result(self) -> bytes:
        """Wait for a result that has been still for a while; raises Unreadable."""
        while True:
            self._news.clear()
            seen = _stamp(self.result_file)
            if seen is None:
                await self._news.wait()
                continue
            await self._still()
            if _stamp(self.result_file) == seen:
                return await asyncio.to_thread(_read, self.result_file, self._user)


class Results:
    """A host's results folder. `open` before anything else, `close` at the end."""

    def __init__(
        self,
        folder: Path,
        *,
        still: Callable[[], Awaitable[None]] | None = None,
        user: TaskUser | None = None,
    ) -> None:
        """`user` is who writes the results, and owns a folder that is made; None: we."""
        self.folder = folder
        self._user = user
        # Names of results for no task at work here; `on_left` is told how many they are.
        self.left: set[str] = set()
        self.on_left: Callable[[int], None] = lambda _count: None
        self._still = still or partial(asyncio.sleep, STILL_S)
        self._expected: dict[str, TaskFiles] = {}
        # Tasks that this host has still to do with, though no run of theirs waits for a
        # result just now: theirs is not a stranger's.
        self._concerned: frozenset[str] = frozenset()
        self._watching: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    def make(self) -> None:
        """Make the folder; raises ResultsFolderError where nobody can write there."""
        try:
            self._make_folder()
        except OSError as error:
            raise ResultsFolderError(self.folder, str(error.strerror)) from error
        if not os.access(self.folder, os.R_OK | os.W_OK | os.X_OK):
            raise ResultsFolderError(self.folder, "it cannot be read and written")

    def _make_folder(self) -> None:
        if self.folder.is_dir():
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._user is not None:
            self._user.own(self.folder)

    async def open(self, host: str, held: Collection[str] = ()) -> None:
        """Begin to watch; `held` are tasks that this host has still to do with."""
        self._concerned = frozenset(held)
        self._stop = asyncio.Event()
        self.make()
        await asyncio.to_thread(self._tidy, host)
        self._watching = asyncio.create_task(self._watch())
        await asyncio.sleep(0)  # from here on changes are seen
        self._look_at_all()

    async def close(self) -> None:
        """Watch no longer."""
        self._stop.set()
        if self._watching is not None:
            await self._watching
            self._watching = None

    @contextmanager
    def expecting(self, task_id: str) -> Iterator[TaskFiles]:
        """Have a task at work here for the length of the block."""
        files = self._expected[task_id] = TaskFiles(
            self.folder, task_id, self._still, self._user
        )
        if files.result_file.name in self.left:
            self.left.discard(files.result_file.name)
            self.on_left(len(self.left))
        files.look()
        try:
            yield files
        finally:
            if self._expected.get(task_id) is files:
                del self._expected[task_id]
            self._concerned |= {task_id}

    def remove(self, task_id: str, *, result: bool) -> None:
        """Take away the files of a task whose end the log has; `result`: that one too."""
        files = TaskFiles(self.folder, task_id, self._still)
        files.withdraw()
        if result:
            _remove(files.result_file)

    def let_go(self, task_id: str) -> None:
        """Have nothing more to do with a task: a result that comes now is left."""
        self._concerned -= {task_id}
        self._look_at(f"{task_id}{_RESULT}")

    # -- looking

    def _tidy(self, host: str) -> None:
        """Take away work that this host has no more to do with."""
        for name in os.listdir(self.folder):
            task = name.removesuffix(_TASK)
            if task != name and is_token(task) and task not in self._concerned:
                path = self.folder / name
                with suppress(AgentComError, OSError, msgspec.DecodeError):
                    body: Any = msgspec.json.decode(_read(path))
                    if isinstance(body, dict) and body.get("host") == host:
                        _remove(path)

    async def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                await self._watch_on()
            except (OSError, RuntimeError) as error:
                logger.error("results folder", folder=str(self.folder), why=str(error))
                with suppress(OSError):
                    self._make_folder()
                self._look_at_all()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_WATCH_AGAIN_S):
                        await self._stop.wait()

    async def _watch_on(self) -> None:
        changes = awatch(
            self.folder,
            watch_filter=None,
            step=_STEP_MS,
            debounce=_STEP_MS * 5,
            rust_timeout=_LOOK_ANYWAY_MS,
            yield_on_timeout=True,
            recursive=False,
            stop_event=self._stop,
        )
        async for batch in changes:
            if batch:
                for _, path in batch:
                    self._look_at(os.path.basename(path))
            else:
                self._look_at_all()

    def _look_at_all(self) -> None:
        """For what was there before, and what the system did not tell."""
        with suppress(OSError):
            for name in os.listdir(self.folder):
                self._look_at(name)
        for name in list(self.left):
            self._look_at(name)

    def _look_at(self, name: str) -> None:
        if name.endswith(_TASK):
            return
        started = name.removesuffix(_STARTED)
        if started != name:
            if (files := self._expected.get(started)) is not None:
                files.look()
            return
        task = name.removesuffix(_RESULT)
        if task == name or not is_token(task):
            return
        if (files := self._expected.get(task)) is not None:
            files.look()
        elif task not in self._concerned:
            self._leave(name)

    def _leave(self, name: str) -> None:
        before = len(self.left)
        if os.path.lexists(self.folder / name):
            self.left.add(name)
        else:
            self.left.discard(name)
        if len(self.left) > before:
            logger.warning("a result for no task at work here", file=name)
        if len(self.left) != before:
            self.on_left(len(self.left))


# -- Files that nobody vouches for -----------------------------------------------------


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written to; None where there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read(path: Path, user: TaskUser | None = None) -> bytes:
    """Read a plain file, whole, which is the user's own; raises Unreadable."""
    try:
        # Not through a link, and without waiting at a pipe that nobody writes to.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unreadable(
            path.name, f"it cannot be opened ({error.strerror})"
        ) from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable(path.name, "it is no plain file")
        if user is not None and status.st_uid != user.uid:
            # A link to what only we may read.
            raise Unreadable(path.name, f"it is not {user.name}'s")
        parts, size = [], 0
        while size <= RESULT_LIMIT and (part := os.read(file, 2**20)):
            parts.append(part)
            size += len(part)
    except OSError as error:
        raise Unreadable(path.name, f"it cannot be read ({error.strerror})") from error
    finally:
        os.close(file)
    if size > RESULT_LIMIT:
        raise Unreadable(path.name, f"it is larger than {RESULT_LIMIT:,} bytes")
    return b"".join(parts)


def _remove(path: Path) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("file not removed", file=path.name, why=str(error))
