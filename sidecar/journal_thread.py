"""The thread that owns a journal's database, and the lock that keeps others away."""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sidecar.journal_file import COUNT, JournalHeld

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PID_BYTES = 32
"""How long the holder's process id is in the lock file; behind it stand the commits."""
SURVIVED = (sqlite3.Error, OSError, MemoryError, ArithmeticError, ValueError)
"""What a job may raise without ending the thread: it becomes the journal's fault."""


def write(
    db: sqlite3.Connection,
    statements: list[tuple[str, list[tuple[Any, ...]]]],
    probe: int = 0,
) -> None:
    """Commit the statements; first of all `probe` bytes that are taken out again."""
    if probe:
        filler = "INSERT OR REPLACE INTO probe (n, filler) VALUES (1, zeroblob(?))"
        write(db, [(filler, [(probe,)])])
        statements = [("DELETE FROM probe WHERE n = ?", [(1,)]), *statements]
    db.execute("BEGIN IMMEDIATE")
    try:
        for sql, rows in statements:
            db.executemany(sql, rows)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


class JournalThread:
    """The thread that owns the database: does one job at a time, calls the loop back."""

    def __init__(
        self, path: Path, lock: int, db: sqlite3.Connection, commits: int
    ) -> None:
        """`commits` is how many there have been; raises OSError where there is no file."""
        self._path = path
        self._lock = lock
        self._file = os.stat(path)
        self._db = db
        # Whether commits are flushed, as the connection stands.
        self._flushes = True
        self._commits = commits
        self._mark()
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[
            tuple[Callable[[sqlite3.Connection], Any], Callable[[Any, str], None]]
            | None
        ] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def ask(
        self,
        job: Callable[[sqlite3.Connection], Any],
        done: Callable[[Any, str], None],
    ) -> None:
        """Do `job` in the thread, then call `done(answer, error)` in the loop."""
        self._jobs.put((job, done))

    def write(
        self,
        db: sqlite3.Connection,
        statements: list[tuple[str, list[tuple[Any, ...]]]],
        probe: int = 0,
        *,
        flush: bool = True,
    ) -> None:
        """Commit, and count it: in the journal with it, in the lock file after it."""
        if flush != self._flushes:
            db.execute(f"PRAGMA synchronous = {'FULL' if flush else 'NORMAL'}")
            self._flushes = flush
        write(db, [*statements, (COUNT, [(self._commits + 1,)])], probe)
        self._commits += 1
        self._mark()

    def write_now(self, statements: list[tuple[str, list[tuple[Any, ...]]]]) -> str:
        """Commit here and not in the thread, which has no job now; do not flush.

        Returns what went wrong, "" where nothing did.
        """
        try:
            self.write(self._db, statements, flush=False)
        except SURVIVED as error:
            return f"{error} ({type(error).__name__})"
        return ""

    def _mark(self) -> None:
        # A number that is too low accuses nobody.
        with suppress(OSError):
            os.pwrite(self._lock, b"%020d" % self._commits, PID_BYTES)

    def is_in_place(self) -> bool:
        try:
            return all(
                os.path.samestat(mine, os.stat(name))
                for mine, name in (
                    (self._file, self._path),
                    (os.fstat(self._lock), f"{self._path}.lock"),
                )
            )
        except FileNotFoundError:
            return False
        except OSError:
            # A disk that does not answer is the next commit's to say.
            return True

    def close(self) -> None:
        """Do what is queued, end, let go of the lock."""
        self._jobs.put(None)
        self._thread.join()
        os.close(self._lock)

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            answer, problem = None, ""
            try:
                answer = job(self._db)
            except SURVIVED as error:
                problem = f"{error} ({type(error).__name__})"
            self._call_back(done, answer, problem)
        self._db.close()

    def _call_back(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            # The loop has closed meanwhile: nobody waits for it any more.
            return


def commits_marked(lock: int) -> int:
    """Read how many commits a journal is known to have had; 0 where that is not said."""
    text = os.pread(lock, 20, PID_BYTES)
    return int(text) if text.isdigit() else 0


def hold(path: Path, lock: int) -> None:
    """Lock the open lock file; else close it and raise JournalHeld."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        pid = os.pread(lock, PID_BYTES, 0).decode("ascii", "replace").strip()
        os.close(lock)
        raise JournalHeld(path, pid) from error


def require_not_held(path: Path) -> None:
    """Raise JournalHeld where a sidecar works with the journal at `path`."""
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR)
    except OSError:
        return
    hold(path, lock)
    os.close(lock)
