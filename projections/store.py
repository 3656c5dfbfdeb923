"""Where read models are kept: one SQLite file, rows and log position in one transaction.

So a crash can neither skip nor repeat an event: what is in the file is exactly the fold
up to its position. The state that a fold goes on from is in there too, so a restart takes
as long as there are open tasks and hosts, however long the log is.

The file can be deleted at any time; the log makes it anew. A file of another version,
or one that was made from another log, is set aside and made anew as well.
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from events.diagnostics import Diagnostics
from events.errors import Malformed
from events.lifecycle import OPEN
from projections.store_file import (
    Damaged,
    disagreement,
    documents,
    loaded,
    locked,
    made_by,
    may_pass,
    meta,
    readable,
    remove,
    rows_of,
    set_aside,
)
from projections.submitted import SubmittedIds
from projections.tables import (
    PUT_DOCUMENT,
    PUT_SPEND,
    PUT_TASK,
    TABLES,
    decoded,
    encoder,
    spend_rows,
    task_row,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from projections.record import TaskRecord
    from projections.world import World

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
            self._lock = locked(path)
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
            maker = meta(connection, "made_by")
        except sqlite3.OperationalError:
            connection.close()
            raise
        except sqlite3.DatabaseError:
            maker = "something else"
        if maker not in (None, made_by()):
            if self._keep_outdated and readable(connection, str(maker)):
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
        return int(meta(self._settled(), "position") or 0)

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
            world = loaded(connection)
            if not self.outdated and (why := disagreement(connection, world)):
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
            total = world.costs.total
            connection.execute(PUT_DOCUMENT, ("costs", "", encoder.encode(total)))
            connection.executemany(
                "insert or replace into meta values (?, ?)",
                (
                    ("position", str(world.position)),
                    ("epoch", str(world.tasks.epoch)),
                    ("stands", str(world.stands)),
                    ("documents", str(documents(connection))),
                ),
            )
        self._forget_finished(world)
        touched.clear()
        world.fleet.touched.clear()
        world.schedules.touched.clear()
        world.costs.stored = total
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
        return rows_of(self._settled())
