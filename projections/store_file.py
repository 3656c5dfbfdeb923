"""A file of read models: what is in it, and what may be done with it beside its owner."""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
from contextlib import closing
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

from events.errors import AgentComError
from events.lifecycle import OPEN
from events.position import Position
from projections.answers_later import ScheduleView
from projections.fleet import AlertView, HostView, InForce, SharedView, TierView
from projections.record import Spent
from projections.stats import StatsState
from projections.tables import SCHEMA, decoded
from projections.world import VERSIONS, World

if TYPE_CHECKING:
    from pathlib import Path

if sys.platform != "win32":
    import fcntl


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


def loaded(connection: sqlite3.Connection) -> World:
    """Read what a fold goes on from: open tasks, hosts, sums, counts."""
    world = World()
    world.position = int(meta(connection, "position") or 0)
    world.loaded_at = stands(connection)
    world.tasks.epoch = int(meta(connection, "epoch") or 0)
    marks = ",".join("?" * len(OPEN))
    rows = connection.execute(
        f"select body from task where state in ({marks})",
        OPEN,
    )
    for (body,) in rows:
        record = decoded(body)
        world.tasks.records[record.id] = record
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
                world.costs.stored = _read(body, Spent)


def documents(connection: sqlite3.Connection) -> int:
    """Count the documents: hosts, tiers, schedules, sums."""
    return int(connection.execute("select count(*) from document").fetchone()[0])


def disagreement(connection: sqlite3.Connection, world: World) -> str:
    """Say what in a file does not fit the rest of it; "" where all does.

    Looks at counts: of the documents, and of the tasks in each state by an index. It
    takes milliseconds for each hundred thousand tasks.
    """
    if not world.position:
        return ""
    count = meta(connection, "documents")
    if count is not None and int(count) != (there := documents(connection)):
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


def readable(connection: sqlite3.Connection, maker: str) -> bool:
    """Whether a file that another version made can still be looked at by this one."""
    if not maker.startswith(f"schema={SCHEMA} "):
        return False
    try:
        loaded(connection)
        rows = connection.execute("select body from task order by seq desc limit 100")
        for (body,) in rows:
            decoded(body)
    except (sqlite3.DatabaseError, msgspec.MsgspecError, ValueError):
        return False
    return True


def stands(connection: sqlite3.Connection) -> Position:
    """Return the last event whose effect is in a file.

    A file of before the event was kept names no event, so no log holds it.
    """
    position = int(meta(connection, "position") or 0)
    return Position.parse(meta(connection, "stands") or str(position))


def about(path: Path) -> tuple[str, Position]:
    """Return what made a store's file, and the last event that is in it."""
    with closing(beside(path)) as connection:
        return meta(connection, "made_by") or "", stands(connection)


def beside(path: Path) -> sqlite3.Connection:
    """Open a store's file to read in it, beside the process that writes it."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


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
    with closing(beside(path)) as connection:
        connection.execute("begin")
        return meta(connection, "made_by") or "", rows_of(connection)


def rows_of(connection: sqlite3.Connection) -> dict[str, list[Any]]:
    """Return every row by its table, and the position, to hold files against each other."""
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
    tables["position"] = [int(meta(connection, "position") or 0)]
    return tables


def made_by() -> str:
    """Name the schema and the folds that make a file, by their versions."""
    folds = " ".join(f"{name}={version}" for name, version in sorted(VERSIONS.items()))
    return f"schema={SCHEMA} {folds}"


def meta(connection: sqlite3.Connection, key: str) -> str | None:
    """Return what a file says of itself under `key`; None where it says nothing."""
    there = connection.execute(
        "select 1 from sqlite_master where name = 'meta'"
    ).fetchone()
    if there is None:
        return None
    row = connection.execute("select value from meta where key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def _read(body: bytes, kind: Any) -> Any:
    return msgspec.msgpack.decode(body, type=kind)


def locked(path: Path) -> IO[str]:
    """Lock a file for its owner; raises StoreInUse."""
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
