"""Where read models are kept: one SQLite file, rows and log position in one transaction.

So a crash can neither skip nor repeat an event: what is in the file is exactly the fold
up to its position. The state that a fold goes on from is in there too, so a restart takes
as long as there are open tasks and hosts, however long the log is.

The file can be deleted at any time; the log makes it anew. A file of another version,
or one that was made from another log, is set aside and made anew as well.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from events.diagnostics import Diagnostics
from events.errors import AgentComError, Malformed
from events.lifecycle import OPEN
from events.position import Position
from projections.answers_later import ScheduleView
from projections.fleet import AlertView, HostView, InForce, SharedView, TierView
from projections.record import Spent, TaskRecord
from projections.stats import StatsState
from projections.submitted import SubmittedIds
from projections.tables import (
    PUT_DOCUMENT,
    PUT_SPEND,
    PUT_TASK,
    SCHEMA,
    TABLES,
    decoded,
    encoder,
    spend_rows,
    task_row,
)
from projections.world import VERSIONS, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if sys.platform != "win32":
    import fcntl

T = TypeVar("T")

_log = Diagnostics("agentcom.projections")

RECENT_KEPT: Final = 2_000
"""Finished tasks that stay in memory, because late reports come soon or not at all."""
CACHE_KIB: Final = 16 * 1024
"""The writer's pages in memory. New tasks are at the end of table and indexes: four times as
many made nothing faster."""
LOCKED_S: Final = 0.1
"""Seconds to wait in place for a file that another process has locked; who saves tries
again later, and is not to stand still meanwhile."""
WAL_PAGES: Final = 1_000
"""Pages of 4 KiB in the write-ahead log that make SQLite copy them into the file."""
WAL_PAGES_HURRIED: Final = 8_000
"""The same while many events are behind: a page that changes often is copied once."""
TEMPORARY: Final = ""
"""SQLite's name for a database of its own on disk that ends with the connection."""


class StoreInUse(AgentComError):
    """Another process keeps its read models in this file."""

    code = "store_in_use"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path} is in use by another process: stop it, or name another file"
        )


class Damaged(AgentComError):
    """A file of read models does not agree with itself, or cannot be read."""

    code = "read_models_damaged"

    def __init__(self, path: Path | None, why: str) -> None:
        self.path = path
        self.why = why
        super().__init__(f"{path} does not agree with itself: {why}")


_MAY_PASS: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)


def may_pass(error: Exception) -> bool:
    """Whether an error is of the disk or a lock, not of what the file holds."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.OperationalError) and (
        code is None or code & 0xFF in _MAY_PASS
    )


class Store:
    """The file. One process at a time writes it; readers of the same process may read.

    Open it, `load` a world from it, and `save` what changed in that world. Raises
    StoreInUse; what SQLite raises (a full disk, say) goes up to whoever saves.

    With `keep_outdated` a file of another version that can still be read is opened as it
    is: `outdated` says so, and it may be looked at while a new one is made beside it.
    """

    def __init__(
        self, path: Path | None = None, *, keep_outdated: bool = False
    ) -> None:
        self.outdated = False
        # Told when the file turns out to be damaged while it is used.
        self.on_damage: Callable[[Damaged], None] = lambda _: None
        self._keep_outdated = keep_outdated
        self._path = path
        self._lock: IO[str] | None = None
        # Searches run on a thread and a connection of their own, beside the writer.
        self._reading: sqlite3.Connection | None = None
        self._pool: ThreadPoolExecutor | None = None
        # Finished tasks that are still in memory, the longest untouched first.
        self._recent: dict[str, None] = {}
        # While behind, commits run on a thread of their own; one at a time is open.
        self._behind = False
        self._committer: ThreadPoolExecutor | None = None
        self._committing: Future[sqlite3.Cursor] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path)
        try:
            self._writing = self._open()
        except BaseException:
            self._unlock()
            raise

    def _open(self) -> sqlite3.Connection:
        self.outdated = False
        connection = self._connect()
        try:
            connection.execute("pragma synchronous = normal")
            connection.execute(f"pragma cache_size = -{CACHE_KIB}")
            if self._path is not None:
                connection.execute("pragma journal_mode = wal")
            maker = _meta(connection, "made_by")
        except sqlite3.OperationalError:
            connection.close()
            raise
        except sqlite3.DatabaseError:
            maker = "something else"
        if maker not in (None, made_by()):
            if self._keep_outdated and _readable(connection, str(maker)):
                self.outdated = True
                return connection
            connection.close()
            self._set_aside()
            return self._open()
        if maker is None:
            insert = f"insert into meta values ('made_by', '{made_by()}')"
            connection.executescript(f"begin; {TABLES} {insert}; commit;")
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            str(self._path or TEMPORARY),
            timeout=LOCKED_S,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.create_function("folded", 1, str.casefold, deterministic=True)
        return connection

    def _set_aside(self) -> None:
        if self._path is not None:
            set_aside(self._path)

    def begin_anew(self) -> None:
        """Set the file aside and start an empty one: the log is another one."""
        self._end()
        self._recent.clear()
        self._set_aside()
        self._writing = self._open()

    def take_over(self, beside: Path) -> None:
        """Put another store's file, which nobody has open, in the place of this one's."""
        assert self._path is not None, "a temporary store has no place"
        self._end()
        self._recent.clear()
        remove(self._path, lock=False)
        beside.rename(self._path)
        remove(beside)
        self._writing = self._open()

    @property
    def path(self) -> Path | None:
        """The file, None for a temporary store."""
        return self._path

    # -- coming back -------------------------------------------------------------------

    @property
    def position(self) -> int:
        """The last sequence whose effect is in the file."""
        return int(_meta(self._settled(), "position") or 0)

    def load(self) -> World:
        """Return the world as it was at `position`; at 0 where the file is damaged."""
        try:
            world = self._loaded()
        except Damaged as damage:
            _log.warning("the read models are made anew", reason=str(damage))
            self.begin_anew()
            world = self._loaded()
        world.tasks.fetch = self.task
        if not world.position:
            world.tasks.submitted = SubmittedIds()
        return world

    def _loaded(self) -> World:
        connection = self._settled()
        with self._guarded():
            world = _loaded(connection)
            if not self.outdated and (why := _disagreement(connection, world)):
                raise Damaged(self._path, why)
        return world

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Tell what is wrong with the file from a disk or a lock that may come right."""
        try:
            yield
        except (sqlite3.DatabaseError, msgspec.MsgspecError, Malformed) as error:
            if may_pass(error):
                raise
            damage = Damaged(self._path, f"{type(error).__name__}: {error}")
            self.on_damage(damage)
            raise damage from error

    def task(self, task_id: str) -> TaskRecord | None:
        """Return a task by its id."""
        connection = self._settled()
        with self._guarded():
            row = connection.execute(
                "select body from task where id = ?", (task_id,)
            ).fetchone()
            return None if row is None else decoded(row[0])

    # -- keeping -----------------------------------------------------------------------

    def hurry(self, *, behind: bool) -> None:
        """Prepare for many large groups, or for small ones as events happen.

        While it is behind, a group is on its way to the disk as the next one is folded;
        what went wrong is raised by whatever is done next.
        """
        connection = self._settled()
        self._behind = behind
        pages = WAL_PAGES_HURRIED if behind else WAL_PAGES
        connection.execute(f"pragma wal_autocheckpoint = {pages}")

    def save(self, world: World) -> None:
        """Write what changed in the world since the last time, all of it or nothing."""
        touched = world.tasks.touched
        with self._transaction() as connection:
            connection.executemany(PUT_TASK, map(task_row, touched.values()))
            connection.executemany(PUT_SPEND, spend_rows(world))
            for kind, key in world.fleet.touched:
                self._save_fleet(world, kind, key)
            for name in world.schedules.touched:
                self._put("schedule", name, world.schedules.by_name.get(name))
            connection.execute(PUT_DOCUMENT, ("stats", "", encoder.encode(world.stats)))
            connection.execute(
                PUT_DOCUMENT, ("costs", "", encoder.encode(world.costs.total))
            )
            connection.executemany(
                "insert or replace into meta values (?, ?)",
                (
                    ("position", str(world.position)),
                    ("epoch", str(world.tasks.epoch)),
                    ("stands", str(world.stands)),
                    ("documents", str(_documents(connection))),
                ),
            )
        self._forget_finished(world)
        touched.clear()
        world.fleet.touched.clear()
        world.schedules.touched.clear()
        world.costs.cells.clear()

    def _save_fleet(self, world: World, kind: str, key: str) -> None:
        fleet = world.fleet
        body: Any
        match kind:
            case "host":
                body = fleet.hosts.get(key)
            case "shared":
                body = fleet.shared.get(key)
            case "tiers":
                body = (fleet.tiers, fleet.alerts)
            case _:
                body = fleet.in_force
        self._put(kind, key, body)

    def _put(self, kind: str, key: str, body: Any) -> None:
        if body is None:
            self._writing.execute(
                "delete from document where projection = ? and key = ?", (kind, key)
            )
        else:
            self._writing.execute(PUT_DOCUMENT, (kind, key, encoder.encode(body)))

    def _forget_finished(self, world: World) -> None:
        """Drop the finished tasks from memory that nobody has touched for long."""
        records, recent = world.tasks.records, self._recent
        for task_id, record in world.tasks.touched.items():
            recent.pop(task_id, None)
            if record.phase not in OPEN:
                recent[task_id] = None
        # All at once: each search for a dictionary's first key passes over those deleted.
        for oldest in list(islice(recent, max(len(recent) - RECENT_KEPT, 0))):
            del recent[oldest]
            records.pop(oldest, None)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._settled()
        connection.execute("begin immediate")
        try:
            yield connection
        except BaseException:
            # Of a full disk SQLite has taken it back already.
            if connection.in_transaction:
                connection.execute("rollback")
            raise
        if not self._behind:
            try:
                connection.execute("commit")
            except sqlite3.Error:
                if connection.in_transaction:
                    connection.execute("rollback")
                raise
            return
        if self._committer is None:
            self._committer = ThreadPoolExecutor(1, thread_name_prefix="commits")
        self._committing = self._committer.submit(connection.execute, "commit")

    @property
    def gap(self) -> bool:
        """Whether a group on its way to the disk was lost: the file must be loaded anew."""
        committing = self._committing
        return (
            committing is not None
            and committing.done()
            and committing.exception() is not None
        )

    def _settled(self) -> sqlite3.Connection:
        """Return the connection once the last group is in; raise what prevented it."""
        if self._committing is not None:
            # One that failed stays failed: what it held is nowhere else any more, so
            # nothing may be written after it.
            self._committing.result()
            self._committing = None
        return self._writing

    # -- looking -----------------------------------------------------------------------

    async def look(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Answer a question about what has been saved, beside the writer."""
        connection = self._settled()
        with self._guarded():
            if self._path is None:
                return question(connection)
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-models")
            return await asyncio.get_running_loop().run_in_executor(
                self._pool, self._ask, question
            )

    def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        if self._reading is None:
            self._reading = self._connect()
            self._reading.execute("pragma query_only = on")
        return question(self._reading)

    def _end_reading(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def close(self) -> None:
        """Let go of the file; what was not saved comes from the log again."""
        self._end()
        self._unlock()

    def _end(self) -> None:
        self._end_reading()
        with suppress(sqlite3.Error):
            self._settled()
        self._committing = None
        if self._committer is not None:
            self._committer.shutdown()
            self._committer = None
        self._writing.close()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def dump(self) -> dict[str, list[Any]]:
        """Return every row, to hold one store against another."""
        return _rows(self._settled())


def _loaded(connection: sqlite3.Connection) -> World:
    """Read what a fold goes on from: open tasks, hosts, sums, counts."""
    world = World()
    world.position = int(_meta(connection, "position") or 0)
    world.loaded_at = _stands(connection)
    world.tasks.epoch = int(_meta(connection, "epoch") or 0)
    marks = ",".join("?" * len(OPEN))
    rows = connection.execute(
        f"select body from task where state in ({marks})",
        OPEN,
    )
    records = [decoded(body) for (body,) in rows]
    for record in sorted(records, key=lambda record: record.phase_seq):
        world.tasks.records[record.id] = record
        world.queue.place(record)
    _load_documents(connection, world)
    return world


def _load_documents(connection: sqlite3.Connection, world: World) -> None:
    fleet = world.fleet
    rows = connection.execute("select projection, key, body from document")
    for projection, key, body in rows:
        match projection:
            case "host":
                fleet.hosts[key] = _read(body, HostView)
            case "shared":
                fleet.shared[key] = _read(body, SharedView)
            case "tiers":
                tiers, alerts = _read(body, tuple[dict[str, TierView], list[AlertView]])
                fleet.tiers, fleet.alerts = tiers, alerts
            case "head":
                fleet.in_force = _read(body, InForce)
            case "schedule":
                world.schedules.by_name[key] = _read(body, ScheduleView)
            case "stats":
                world.stats = _read(body, StatsState)
            case _:
                world.costs.total = _read(body, Spent)


def _documents(connection: sqlite3.Connection) -> int:
    return int(connection.execute("select count(*) from document").fetchone()[0])


def _disagreement(connection: sqlite3.Connection, world: World) -> str:
    """Say what in a file does not fit the rest of it; "" where all does.

    Looks at counts: of the documents, and of the tasks in each state by an index. It
    takes milliseconds for each hundred thousand tasks.
    """
    if not world.position:
        return ""
    count = _meta(connection, "documents")
    if count is not None and int(count) != (there := _documents(connection)):
        return f"{count} documents were saved, {there} are there"
    if world.stats.last_seq != world.position:
        return f"counts up to {world.stats.last_seq}, tasks up to {world.position}"
    spent = world.costs.total
    sums = connection.execute(
        "select total(tokens_in), total(tokens_out), total(usd_nano) from spend"
    ).fetchone()
    if sums != (spent.tokens_in, spent.tokens_out, spent.usd_nano):
        return f"costs sum up to {sums}, not to what was booked"
    tasks = dict(connection.execute("select state, count(*) from task group by state"))
    counted = {state: n for state, n in world.stats.states.items() if n}
    if tasks != counted:
        return f"tasks by state are {tasks}, counted were {counted}"
    return ""


def _readable(connection: sqlite3.Connection, maker: str) -> bool:
    """Whether a file that another version made can still be looked at by this one."""
    if not maker.startswith(f"schema={SCHEMA} "):
        return False
    try:
        _loaded(connection)
        rows = connection.execute("select body from task order by seq desc limit 100")
        for (body,) in rows:
            decoded(body)
    except (sqlite3.DatabaseError, msgspec.MsgspecError, ValueError):
        return False
    return True


def _stands(connection: sqlite3.Connection) -> Position:
    """Return the last event whose effect is in a file.

    A file of before the event was kept names no event, so no log holds it.
    """
    position = int(_meta(connection, "position") or 0)
    return Position.parse(_meta(connection, "stands") or str(position))


def about(path: Path) -> tuple[str, Position]:
    """Return what made a store's file, and the last event that is in it."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        return _meta(connection, "made_by") or "", _stands(connection)
    finally:
        connection.close()


def set_aside(path: Path) -> None:
    """Rename a store's files, so that the next one to open it makes them anew."""
    for suffix in ("", "-wal", "-shm"):
        old = path.with_name(path.name + suffix)
        if old.exists():
            old.rename(old.with_name(f"{path.name}.old{suffix}"))


def remove(path: Path, *, lock: bool = True) -> None:
    """Delete a store's files, whichever there are."""
    for suffix in ("", "-wal", "-shm", *((".lock",) if lock else ())):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def saved(path: Path) -> tuple[str, dict[str, list[Any]]]:
    """Return what made a store's file, and its rows, beside the process that writes it.

    Raises FileNotFoundError where there is none.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        connection.execute("begin")
        return _meta(connection, "made_by") or "", _rows(connection)
    finally:
        connection.close()


def _rows(connection: sqlite3.Connection) -> dict[str, list[Any]]:
    tables: dict[str, list[Any]] = {}
    for table in ("task", "spend", "document"):
        rows = connection.execute(f"select * from {table} order by 1, 2")
        tables[table] = [
            tuple(
                msgspec.msgpack.decode(value) if isinstance(value, bytes) else value
                for value in row
            )
            for row in rows
        ]
    tables["position"] = [int(_meta(connection, "position") or 0)]
    return tables


def made_by() -> str:
    folds = " ".join(f"{name}={version}" for name, version in sorted(VERSIONS.items()))
    return f"schema={SCHEMA} {folds}"


def _meta(connection: sqlite3.Connection, key: str) -> str | None:
    there = connection.execute(
        "select 1 from sqlite_master where name = 'meta'"
    ).fetchone()
    if there is None:
        return None
    row = connection.execute("select value from meta where key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def _read(body: bytes, kind: Any) -> Any:
    return msgspec.msgpack.decode(body, type=kind)


def _locked(path: Path) -> IO[str]:
    lock = path.with_name(path.name + ".lock").open("w")
    if sys.platform == "win32":
        return lock
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StoreInUse(path) from error
    os.set_inheritable(lock.fileno(), False)
    return lock
