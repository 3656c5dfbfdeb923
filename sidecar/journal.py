"""The host's disk: assignments before they are accepted, events before they are safe.

One SQLite file (WAL). Whatever waits goes into one commit. An acceptance is answered after
the commit that holds it. Everything else is lazy: an outbox entry that the log acknowledges
before it would be written never is, a deletion waits for the next batch.

A commit is flushed to the disk by a thread (`synchronous=FULL`): while it writes, the next
batch gathers on the loop's side. One that holds nothing but runs taken, begun and over is
made at once and left to the system to flush (`synchronous=NORMAL`), unless the
configuration wants every commit flushed: what is in it outlives this process in any case,
and after a power cut only says of a run what the log says too. docs/decisions/0521.

When the disk is full or broken, the batch stays, `fault` says why, and the journal tries
again after a second, then after twice as long each time, up to two minutes; the host takes
no work meanwhile. A try writes as much as had no room, so that it does not succeed by
being small; and a disk that fails again soon is waited for as long as before. Another
process holding the journal is an error at once.

    assignments  one row per run held: the raw `Assign`, its phase, its process
    outbox       events not yet acknowledged by the log, in order
    done         the last routes that ended here, against late repeats
    meta         how many incarnations there were (`lives`) and commits (`commits`); the
                 highest epoch heard
    probe        empty: what is written to see whether there is room again

The lock file beside it holds the process id and, after each commit, the number of commits:
a journal that has fewer than that has lost some, and says so.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct, field

from events.errors import AgentComError
from sidecar.journal_file import DONE_KEPT, JournalError, opened
from sidecar.journal_thread import (
    PID_BYTES,
    JournalThread,
    commits_marked,
    hold,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from sidecar.journal_file import JournalContents

_LAZY_S = 0.05
_RETRY_S = 1.0
_MOST_RETRY_S = 120.0
_STEADY_S = 60.0
"""A journal that has worked for so long begins its pauses anew when it fails."""
_LEAST_PROBE = 64 * 1024
_TIDY_EVERY = 256
"""After so many commits the thread copies the write-ahead log into the file."""


class Pending(Protocol):
    """An outbox entry on its way to the disk, unless `acked` comes first."""

    n: int
    subject: str
    ends: str
    acked: bool
    stored: bool

    def raw(self) -> bytes: ...


class _Batch(Struct):
    """What goes into one commit.

    `accepting` and `noting` are resolved by it. `trim` and `epoch` are the highest wanted,
    0 for none.
    """

    accepts: list[tuple[str, str, bytes, str]] = field(default_factory=list)
    accepting: list[asyncio.Future[None]] = field(default_factory=list)
    puts: list[Pending] = field(default_factory=list)
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    noting: list[asyncio.Future[None]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    trim: int = 0
    epoch: int = 0

    def empty(self) -> bool:
        return self == _Batch()


class Journal:
    """The loop's side: gathers batches, resolves futures. Made by `open_journal`."""

    def __init__(
        self,
        path: Path,
        thread: JournalThread,
        at_start: JournalContents,
        *,
        flush_all: bool,
    ) -> None:
        self.path = path
        self._flush_all = flush_all
        self.at_start = at_start
        self.commits = 0
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._next = _Batch()
        self._busy = False
        self._kicked = False
        self._lazy: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None

        # The next pause after a failure; when writing last began to work again (time of
        # the loop); how many bytes had no room, 0 where the next batch is no retry.
        self._pause = _RETRY_S
        self._works_since = -_STEADY_S
        self._probe = 0

        self._settled = asyncio.Event()
        self._on_fault: Callable[[str], None] = lambda _fault: None
        self._closed = False
        self.fault = ""

    def on_fault(self, handler: Callable[[str], None]) -> None:
        """Call `handler` with what is wrong, and with "" once it works again."""
        self._on_fault = handler

    # -- what is written

    def accept(self, route: str, task: str, assign: bytes) -> asyncio.Future[None]:
        """Write an assignment; resolves after the commit, raises JournalError."""
        if not self.fault:
            self._next.accepts.append((route, task, assign, "accepted"))
        return self._committed_with(self._next.accepting)

    def note(self, route: str, **columns: Any) -> None:
        """Write phase, pid, started or session of a run, at leisure."""
        self._next.notes.setdefault(route, {}).update(columns)
        self._kick_lazily()

    def write(self, route: str, **columns: Any) -> asyncio.Future[None]:
        """`note`, now; resolves after the commit, raises JournalError.

        What could not be written is still written once that can be done.
        """
        self._next.notes.setdefault(route, {}).update(columns)
        return self._committed_with(self._next.noting)

    def _committed_with(
        self, waiting: list[asyncio.Future[None]]
    ) -> asyncio.Future[None]:
        """A future that the next commit resolves, which begins now, or the fault breaks."""
        future: asyncio.Future[None] = self._loop.create_future()
        if self.fault:
            future.set_exception(JournalError(self.path, self.fault))
        else:
            waiting.append(future)
            self._kick()
        return future

    def finish(self, route: str) -> None:
        """Take a run out, at leisure; its route is remembered as done."""
        self._next.notes.pop(route, None)
        self._next.finished.append(route)
        self._kick_lazily()

    def put(self, entries: Iterable[Pending]) -> None:
        """Write outbox entries, now; those acknowledged before their turn are not."""
        self._next.puts.extend(entries)
        self._kick()

    def trim(self, n: int) -> None:
        """Take the outbox out up to and including entry `n`, at leisure."""
        self._next.trim = max(self._next.trim, n)
        self._kick_lazily()

    def remember_epoch(self, epoch: int) -> None:
        """Write the highest epoch heard, at leisure."""
        self._next.epoch = max(self._next.epoch, epoch)
        self._kick_lazily()

    def outbox_after(
        self, n: int, limit: int, limit_bytes: int
    ) -> asyncio.Future[list[tuple[int, str, bytes, str]]]:
        """Read committed outbox entries after `n`, oldest first, at least one."""
        future: asyncio.Future[list[tuple[int, str, bytes, str]]]
        future = self._loop.create_future()

        def done(rows: Any, error: str) -> None:
            if future.done():
                return
            if error:
                future.set_exception(JournalError(self.path, error))
            else:
                future.set_result(rows)

        self._thread.ask(lambda db: _read_outbox(db, n, limit, limit_bytes), done)
        return future

    def is_in_place(self) -> bool:
        """Whether the file's name still leads to the file that this process has open."""
        return self._thread.is_in_place()

    async def settle(self) -> None:
        """Write everything that waits; returns when it is committed or has failed."""
        if self._next.empty() and not self._busy:
            return
        self._settled.clear()
        self._kick(try_again=True)
        await self._settled.wait()

    async def close(self) -> None:
        """Write what waits, let go of the file and of the lock."""
        await self.settle()
        self._closed = True
        for timer in (self._lazy, self._retry):
            if timer is not None:
                timer.cancel()
        await asyncio.to_thread(self._thread.close)

    # -- batches

    def _kick(self, *, try_again: bool = False) -> None:
        """Commit in the loop's next turn; while the journal fails only as a try."""
        if not self._kicked and not self._busy and (try_again or not self.fault):
            self._kicked = True
            self._loop.call_soon(self._commit)

    def _kick_lazily(self) -> None:
        if self._lazy is None:
            self._lazy = self._loop.call_later(_LAZY_S, self._kick)

    def _commit(self) -> None:
        self._kicked = False
        if self._busy or self._closed:
            return
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None
        batch, self._next = self._next, _Batch()
        batch.puts = [entry for entry in batch.puts if not entry.acked]
        if batch.empty():
            self._settled.set()
            return
        statements, probe = _statements(batch), self._probe
        if self._flush_all or self.fault or batch.puts or batch.noting:
            self._busy = True
            self._thread.ask(
                lambda db: self._thread.write(db, statements, probe),
                lambda _, error: self._committed(batch, error),
            )
        else:
            self._committed(batch, self._thread.write_now(statements))

    def _committed(self, batch: _Batch, error: str) -> None:
        self._busy = False
        if error:
            self._failed(batch, error)
            return
        self.commits += 1
        if self.commits % _TIDY_EVERY == 0:
            self._busy = True
            self._thread.ask(_tidy, self._tidied)
        for entry in batch.puts:
            entry.stored = True
        for future in batch.accepting + batch.noting:
            if not future.done():
                future.set_result(None)
        if self.fault:
            self.fault, self._probe = "", 0
            self._works_since = self._loop.time()
            self._on_fault("")
        urgent = self._next.accepts or self._next.puts or self._next.noting
        if urgent or not self._settled.is_set():
            self._kick()
        elif not self._next.empty():
            self._kick_lazily()

    def _tidied(self, _: object, _error: str) -> None:
        # What is wrong with the disk is the next commit's to say.
        self._busy = False
        if not self._next.empty() or not self._settled.is_set():
            self._kick(try_again=not self._settled.is_set())

    def _failed(self, batch: _Batch, error: str) -> None:
        """Refuse what asked to be accepted, keep the rest, try again in a while."""
        waiting, self._next = self._next, _Batch()
        for future in (
            *batch.accepting,
            *waiting.accepting,
            *batch.noting,
            *waiting.noting,
        ):
            if not future.done():
                future.set_exception(JournalError(self.path, error))
        notes = {**batch.notes}
        for route, columns in waiting.notes.items():
            notes.setdefault(route, {}).update(columns)
        self._next = _Batch(
            puts=batch.puts + waiting.puts,
            notes=notes,
            finished=batch.finished + waiting.finished,
            trim=max(batch.trim, waiting.trim),
            epoch=max(batch.epoch, waiting.epoch),
        )
        if not self.fault or self.fault != error:
            self.fault = error
            self._on_fault(error)
        self._settled.set()
        if self._probe == 0 and self._loop.time() - self._works_since > _STEADY_S:
            self._pause = _RETRY_S
        size = sum(len(assign) for _, _, assign, _ in batch.accepts + waiting.accepts)
        self._probe = max(self._probe, _LEAST_PROBE, size)
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._loop.call_later(self._pause, self._try_again)
        self._pause = min(2 * self._pause, _MOST_RETRY_S)

    def _try_again(self) -> None:
        """Write what waits, to see whether the disk is back; nothing waiting, epoch 0.

        Epoch 0 changes no row, since the journal keeps the highest one.
        """
        self._retry = None
        self._next.epoch = self._next.epoch or -1
        self._kick(try_again=True)


# -- The thread's side -----------------------------------------------------------------


def _statements(batch: _Batch) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """Turn a batch into SQL, on the loop's side: the thread touches no shared state."""
    statements: list[tuple[str, list[tuple[Any, ...]]]] = []
    if batch.accepts:
        statements.append(
            (
                "INSERT OR REPLACE INTO assignments (route, task, assign, phase)"
                " VALUES (?, ?, ?, ?)",
                list(batch.accepts),
            )
        )
    for route, columns in batch.notes.items():
        names = ", ".join(f"{name} = ?" for name in columns)
        statements.append(
            (
                f"UPDATE assignments SET {names} WHERE route = ?",
                [(*columns.values(), route)],
            )
        )
    if batch.puts:
        statements.append(
            (
                "INSERT OR REPLACE INTO outbox (n, subject, event, ends)"
                " VALUES (?, ?, ?, ?)",
                [(e.n, e.subject, e.raw(), e.ends or None) for e in batch.puts],
            )
        )
    if batch.finished:
        routes = [(route,) for route in batch.finished]
        statements.append(("DELETE FROM assignments WHERE route = ?", routes))
        statements.append(("INSERT INTO done (route) VALUES (?)", list(routes)))
    if batch.trim:
        statements.append(("DELETE FROM outbox WHERE n <= ?", [(batch.trim,)]))
    if batch.epoch:
        statements.append(
            (
                "INSERT INTO meta (name, value) VALUES ('epoch', ?) ON CONFLICT (name)"
                " DO UPDATE SET value = max(value, excluded.value)",
                [(max(batch.epoch, 0),)],
            )
        )
    return statements


def _tidy(db: sqlite3.Connection) -> None:
    """Forget routes that ended long ago; copy the write-ahead log into the file."""
    db.execute(
        "DELETE FROM done WHERE n <= (SELECT max(n) FROM done) - ?", (DONE_KEPT,)
    )
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _read_outbox(
    db: sqlite3.Connection, n: int, limit: int, limit_bytes: int
) -> list[tuple[int, str, bytes, str]]:
    rows: list[tuple[int, str, bytes, str]] = []
    size = 0
    for number, subject, raw, ends in db.execute(
        "SELECT n, subject, event, ends FROM outbox WHERE n > ? ORDER BY n LIMIT ?",
        (n, limit),
    ):
        rows.append((number, subject, raw, ends or ""))
        size += len(raw)
        if size > limit_bytes:
            break
    return rows


async def open_journal(path: Path, *, flush_all: bool = False) -> Journal:
    """Open or make the journal at `path`; raises JournalHeld, JournalError.

    `flush_all` has every commit flushed to the disk, those too that need not be.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise JournalError(path, f"cannot be opened ({error})") from error
    hold(path, lock)
    marked = commits_marked(lock)
    os.pwrite(lock, str(os.getpid()).encode().ljust(PID_BYTES), 0)
    try:
        db, contents = await asyncio.to_thread(opened, path, marked)
        thread = JournalThread(path, lock, db, contents.commits)
    except AgentComError:
        os.close(lock)
        raise
    except (sqlite3.Error, OSError) as error:
        os.close(lock)
        raise JournalError(
            path,
            f"cannot be read: {error}; move it away to start with an empty one "
            "(what it held is then lost to this host)",
        ) from error
    return Journal(path, thread, contents, flush_all=flush_all)
