"""The journal on a real disk: grouped commits, killed writers, full disks."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from events.errors import AgentComError
from sidecar.journal import Journal, open_journal
from sidecar.journal_file import JournalError, JournalHeld

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]

# Accepts runs for ever; says each acceptance that it was told of on stdout. Odd ones end:
# their last event is put into the outbox and, once that is safe, said as well.
WRITER = """
import asyncio, os, sys
from pathlib import Path
from sidecar.journal import open_journal

class Entry:
    acked = stored = False
    def __init__(self, n): self.n, self.subject, self.ends = n, "s", f"r{n}"
    def raw(self): return b"done %d" % self.n

def say(word, n):
    os.write(1, b"%s %d\\n" % (word, n))

async def one(journal, n):
    await journal.accept(f"r{n}", f"t{n}", b"assign %d" % n)
    say(b"accepted", n)
    if n % 2:
        entry = Entry(n)
        journal.put([entry])
        while not entry.stored:
            await asyncio.sleep(0)
        say(b"finished", n)
    if n % 3 == 0:
        journal.finish(f"r{n}")

async def main():
    journal = await open_journal(Path(sys.argv[1]), flush_all=sys.argv[2] == "all")
    n = journal.at_start.outbox_last + len(journal.at_start.rows) + 100_000 * journal.at_start.incarnations
    while True:
        await asyncio.gather(*(one(journal, n + i) for i in range(20)))
        n += 20

asyncio.run(main())
"""


def killed_writer(path: Path, after: float, flush: str) -> dict[str, set[int]]:
    """Run the writer, kill it `after` seconds past its first word; what it had said."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), flush],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert writer.stdout is not None
    first = writer.stdout.readline()
    time.sleep(after)
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.stdout.read()
    writer.stdout.close()
    writer.wait()
    said: dict[str, set[int]] = {"accepted": set(), "finished": set()}
    for line in (first + rest).splitlines():
        word, _, n = line.partition(b" ")
        if n and word.decode() in said:
            said[word.decode()].add(int(n))
    return said


@pytest.mark.parametrize("seed", range(10))
async def test_what_was_accepted_or_finished_survives_a_kill(
    tmp_path: Path, seed: int
) -> None:
    path = tmp_path / "journal.db"
    said = await asyncio.to_thread(
        killed_writer,
        path,
        random.Random(seed).uniform(0, 0.1),
        "all" if seed % 2 else "results",
    )
    journal = await open_journal(path)
    try:
        rows = {int(row.route[1:]) for row in journal.at_start.rows}
        done = {int(route[1:]) for route in journal.at_start.done}
        ended = {int(route[1:]) for route in journal.at_start.ended}
        assert journal.at_start.lost == ""
        assert said["accepted"]
        assert said["accepted"] <= rows | done
        assert said["finished"] <= ended
        assert not rows & done
        entries = await journal.outbox_after(0, 1_000_000, 1 << 40)
        assert {n for n, *_ in entries} == ended
    finally:
        await journal.close()


async def test_a_second_process_is_refused_and_told_who_holds_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.db"
    journal = await open_journal(path)
    second = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), "all"],
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    _, said = await asyncio.to_thread(second.communicate)
    assert second.returncode == 1
    assert f"process {os.getpid()} holds it".encode() in said
    with pytest.raises(JournalHeld):
        await open_journal(path)
    await journal.close()
    await (await open_journal(path)).close()


def emptied(path: Path, _: Path) -> None:
    for each in path.parent.glob(f"{path.name}*"):
        if not each.name.endswith(".lock"):
            each.unlink()


def truncated(path: Path, _: Path) -> None:
    emptied(path, _)
    path.touch()


def put_back(path: Path, copy: Path) -> None:
    emptied(path, copy)
    shutil.copy(copy, path)


def damaged(path: Path, _: Path) -> None:
    log = path.with_name(f"{path.name}-wal")
    with log.open("r+b") as file:
        file.seek(log.stat().st_size // 2)
        file.write(b"\xff" * 64)


def log_deleted(path: Path, _: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


@pytest.mark.parametrize("damage", [emptied, truncated, put_back, damaged, log_deleted])
async def test_a_journal_that_lost_something_says_so_once(
    tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    path, copy = tmp_path / "journal.db", tmp_path / "copy"
    first = await open_journal(path)
    assert first.at_start.lost == ""
    await first.close()
    shutil.copy(path, copy)
    await asyncio.to_thread(killed_writer, path, 0.05, "all")
    damage(path, copy)

    journal = await open_journal(path)
    assert "commits" in journal.at_start.lost
    await journal.accept("r1", "t", b"{}")
    await journal.close()
    again = await open_journal(path)
    assert again.at_start.lost == ""
    assert [row.route for row in again.at_start.rows if row.route == "r1"] == ["r1"]
    await again.close()


async def test_a_journal_whose_folder_was_deleted_is_not_in_its_place(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data" / "journal.db"
    journal = await open_journal(path)
    assert journal.is_in_place()
    shutil.rmtree(path.parent)
    assert not journal.is_in_place()
    # Nor where another sidecar has made one meanwhile.
    other = await open_journal(path)
    assert not journal.is_in_place()
    assert other.is_in_place()
    await other.close()
    await journal.close()


async def test_what_waits_together_is_committed_together(journal: Journal) -> None:
    await asyncio.gather(*(journal.accept(f"r{n}", "t", b"{}") for n in range(500)))
    assert journal.commits == 1


class Entry:
    def __init__(self, n: int, ends: str = "") -> None:
        self.n, self.subject, self.ends = n, f"s{n}", ends
        self.acked = self.stored = False

    def raw(self) -> bytes:
        return b"event %d" % self.n


async def test_an_entry_acknowledged_before_its_turn_is_never_written(
    journal: Journal,
) -> None:
    first, second = Entry(1), Entry(2, "r2")
    journal.put([first, second])
    first.acked = True
    await journal.settle()
    assert await journal.outbox_after(0, 10, 1000) == [(2, "s2", b"event 2", "r2")]
    assert (first.stored, second.stored) == (False, True)


async def test_an_incarnation_is_given_what_the_last_one_left(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = await open_journal(path)
    await journal.accept("r1", "t1", b"one")
    await journal.accept("r2", "t2", b"two")
    journal.note("r1", phase="running", pid=7, started="boot:8")
    journal.finish("r2")
    journal.put([Entry(5, "r1")])
    journal.remember_epoch(9)
    await journal.close()
    journal = await open_journal(path)
    left = journal.at_start
    [row] = left.rows
    assert (row.route, row.assign, row.phase, row.pid) == ("r1", b"one", "running", 7)
    assert (left.incarnations, left.epoch, left.ended, left.done) == (
        2,
        9,
        {"r1"},
        ["r2"],
    )
    assert (left.outbox_first, left.outbox_last) == (5, 5)
    journal.trim(5)
    await journal.close()
    journal = await open_journal(path)
    assert (journal.at_start.incarnations, journal.at_start.outbox_last) == (3, 0)
    await journal.close()


async def test_a_full_disk_is_said_and_what_waits_is_written_once_there_is_room(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.journal._RETRY_S", 0.01)
    faults: asyncio.Queue[str] = asyncio.Queue()
    journal.on_fault(faults.put_nowait)
    await _limit_pages(journal, 1)
    with pytest.raises(JournalError, match="full"):
        await journal.accept("r1", "t1", b"x" * 100_000)
    assert "full" in await faults.get()
    with pytest.raises(JournalError, match="full"):
        await journal.accept("r2", "t2", b"{}")
    big = Entry(1, "r9")
    big.raw = lambda: b"x" * 100_000  # type: ignore[method-assign]
    journal.put([big])
    await journal.settle()
    assert not big.stored
    await _limit_pages(journal, 1_000_000)
    assert await faults.get() == ""
    await journal.settle()
    assert big.stored
    await journal.accept("r3", "t3", b"{}")
    assert journal.fault == ""


async def test_a_disk_that_stays_full_is_tried_ever_more_seldom(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a try that is small: what has no room is more than a row."""
    monkeypatch.setattr("sidecar.journal._RETRY_S", 0.001)
    monkeypatch.setattr("sidecar.journal._MOST_RETRY_S", 0.064)
    faults: list[str] = []
    journal.on_fault(faults.append)
    await _limit_pages(journal, 1)
    with pytest.raises(JournalError, match="full"):
        await journal.accept("r1", "t1", b"x" * 100_000)
    pauses = [journal._pause]
    while journal._pause < 0.064:
        journal.remember_epoch(1)
        await asyncio.sleep(0.001)
        if journal._pause != pauses[-1]:
            pauses.append(journal._pause)
    assert pauses == [0.002, 0.004, 0.008, 0.016, 0.032, 0.064]
    assert len(faults) == 1
    await _limit_pages(journal, 1_000_000)
    while journal.fault:
        await asyncio.sleep(0.001)
    # It fails again soon: the pauses go on where they were.
    await _limit_pages(journal, 1)
    with pytest.raises(JournalError, match="full"):
        await journal.accept("r2", "t2", b"x" * 1_000_000)
    assert journal._retry is not None
    assert journal._pause == 0.064
    await _limit_pages(journal, 1_000_000)


async def _limit_pages(journal: Journal, pages: int) -> None:
    """Let the file grow to no more than it has (1), or far beyond."""
    done = asyncio.get_running_loop().create_future()

    def job(db: sqlite3.Connection) -> None:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (now,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {max(pages, now)}")

    journal._thread.ask(job, lambda _, error: done.set_result(error))
    assert await done == ""


async def test_a_file_that_is_no_journal_is_an_error_that_says_what_to_do(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"these are not the bytes of a database" * 100)
    with pytest.raises(JournalError, match="move it away"):
        await open_journal(path)
    path.unlink()
    await (await open_journal(path)).close()


async def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AgentComError, match="cannot be opened"):
        await open_journal(tmp_path / "file" / "journal.db")


@pytest.fixture
async def journal(tmp_path: Path):
    journal = await open_journal(tmp_path / "journal.db")
    yield journal
    await journal.close()
