"""The journal's file: its tables, and what stood in it when it was opened."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from msgspec import Struct

from events.errors import AgentComError

if TYPE_CHECKING:
    from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS assignments (
    route TEXT PRIMARY KEY, task TEXT NOT NULL, assign BLOB NOT NULL,
    phase TEXT NOT NULL, pid INTEGER, started TEXT, mark TEXT, session TEXT)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    n INTEGER PRIMARY KEY, subject TEXT NOT NULL, event BLOB NOT NULL, ends TEXT);
CREATE TABLE IF NOT EXISTS done (n INTEGER PRIMARY KEY, route TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS probe (n INTEGER PRIMARY KEY, filler BLOB NOT NULL);
"""

_VERSION = 1

DONE_KEPT = 4_096


def journal_path(folder: Path, host: str) -> Path:
    """Where a host's journal lies in a data folder."""
    return folder.resolve() / f"journal-{host}.db"


class JournalError(AgentComError):
    """The journal at `path` cannot be used, and why."""

    code = "journal"

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"journal {path}: {problem}")


class JournalHeld(JournalError):
    """Another process holds the journal; `pid` is what it left in the lock file."""

    code = "journal_held"

    def __init__(self, path: Path, pid: str) -> None:
        self.pid = pid
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            path,
            f"{who} holds it; a second sidecar needs a name and key of its own "
            "(`agentcom host add NAME`) and a data folder of its own (`data` in "
            "sidecar.toml)",
        )


class JournalGone(JournalError):
    """The journal's file was taken away while it was used."""

    code = "journal_gone"

    def __init__(self, path: Path) -> None:
        super().__init__(
            path,
            "it was deleted or replaced while this sidecar used it: nothing more is kept "
            "there, and another sidecar could be this host beside it. This one delivers "
            "what it has and ends; start it anew on a folder that stays",
        )


class Row(Struct, frozen=True):
    """An assignment as the journal holds it, and the last process started for it."""

    route: str
    assign: bytes
    phase: str
    pid: int | None = None
    started: str | None = None
    session: str | None = None


class JournalContents(Struct, frozen=True, kw_only=True):
    """What the journal held when it was opened: what an earlier incarnation left."""

    # How many incarnations have opened this journal, this one included.
    incarnations: int

    # The highest leader's epoch heard.
    epoch: int

    # The runs held, by route.
    rows: list[Row]

    # Those of them whose last event is in the outbox: they have ended.
    ended: set[str]

    # The last routes that ended and were reported, oldest first.
    done: list[str]

    # The numbers of the first and the last outbox entry; 0 where there are none.
    outbox_first: int
    outbox_last: int

    # How many commits it has had, and what of them is not in it any more, in words.
    commits: int = 0
    lost: str = ""


COUNT = (
    "INSERT INTO meta (name, value) VALUES ('commits', ?)"
    " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
"""What each commit writes; the number stands beside the file too, in the lock file."""


def opened(path: Path, marked: int = 0) -> tuple[sqlite3.Connection, JournalContents]:
    """Open the journal's file and count one more incarnation; raises JournalError.

    `marked` commits are known to have been made: with fewer of them in it, the file was
    emptied, put back to an earlier state, or lost the end of its write-ahead log.
    """
    db = sqlite3.connect(
        path, isolation_level=None, timeout=2.0, check_same_thread=False
    )
    try:
        # Alone with the file: no shared memory, no locking per transaction.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise JournalError(
                path,
                f"it was written by a newer AgentCom (format {version}, this one "
                f"reads {_VERSION})",
            )
        db.executescript(_SCHEMA)
        db.execute(f"PRAGMA user_version = {_VERSION}")
        db.execute(
            "INSERT INTO meta (name, value) VALUES ('lives', 1)"
            " ON CONFLICT (name) DO UPDATE SET value = value + 1"
        )
        return db, _contents(db, marked)
    except BaseException:
        db.close()
        raise


def _contents(db: sqlite3.Connection, marked: int) -> JournalContents:
    meta = dict(db.execute("SELECT name, value FROM meta"))
    there = meta.get("commits", 0)
    commits = max(there, marked) + 1
    db.execute(COUNT, (commits,))
    rows = [
        Row(*columns)
        for columns in db.execute(
            "SELECT route, assign, phase, pid, started, session"
            " FROM assignments ORDER BY route"
        )
    ]
    first, last = db.execute(
        "SELECT coalesce(min(n), 0), coalesce(max(n), 0) FROM outbox"
    ).fetchone()
    done = [
        route
        for (route,) in db.execute(
            "SELECT route FROM (SELECT n, route FROM done ORDER BY n DESC LIMIT ?)"
            " ORDER BY n",
            (DONE_KEPT,),
        )
    ]
    db.execute(
        "DELETE FROM done WHERE n <= (SELECT max(n) FROM done) - ?", (DONE_KEPT,)
    )
    return JournalContents(
        incarnations=meta["lives"],
        epoch=meta.get("epoch", 0),
        rows=rows,
        ended={
            route
            for (route,) in db.execute("SELECT ends FROM outbox WHERE ends IS NOT NULL")
        },
        done=done,
        outbox_first=first,
        outbox_last=last,
        commits=commits,
        lost=""
        if there >= marked
        else f"it has {there} of its {marked} commits: it was emptied, put back or damaged",
    )
