"""The store: rows and position are one, whatever happens to the process."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from events import catalogue as c
from events.position import LogChanged
from projections import search, tasks
from projections.runner import Runner
from projections.store import Store
from projections.store_file import Damaged, StoreInUse, saved
from projections.verify import verify
from projections.world import fold
from tests.support.fakes import MemoryLog
from tests.support.histories import History, plausible, tell
from tests.support.links import until
from tests.support.projecting import read, written

ROOT = Path(__file__).parents[2]
CHAOS = (
    pytest.mark.chaos,
    pytest.mark.skipif("not config.getoption('-m')", reason="a long run: -m chaos"),
)


def fresh(history):
    """What a store holds that folded the history in one go."""
    store = Store()
    world = store.load()
    for recorded in history:
        world.fold(recorded)
    store.save(world)
    try:
        return store.dump()
    finally:
        store.close()


def in_groups(path, history, sizes):
    """Fold in groups, closing and opening the store after each."""
    at = 0
    while at < len(history):
        store = Store(path)
        world = store.load()
        assert world.position == at
        size = next(sizes)
        for recorded in history[at : at + size]:
            world.fold(recorded)
        at = world.position
        store.save(world)
        store.close()
    store = Store(path)
    try:
        return store.dump()
    finally:
        store.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_restart_anywhere_changes_nothing(tmp_path, seed):
    history = plausible(seed, tasks=30)
    chance = random.Random(seed)

    made = in_groups(
        tmp_path / "read.db", history, iter(lambda: chance.randrange(1, 40), None)
    )

    assert made == fresh(history)


@pytest.mark.parametrize(
    ("tasks", "kills"), [(6_000, 10), pytest.param(12_000, 100, marks=CHAOS)]
)
def test_a_killed_process_leaves_exactly_the_fold_up_to_its_position(
    tmp_path, tasks, kills
):
    path, chance = tmp_path / "read.db", random.Random(kills)
    log = written(tmp_path / "log", plausible(kills, tasks=tasks))
    history = read(log)
    groups = len(history) // 250
    reference = Store()
    world = reference.load()
    for kill in range(kills):
        process = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "tests.support.projecting",
                    str(path),
                    str(log),
                    "250",
                ),
                *(["behind"] if kill % 2 else []),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            for _ in range(chance.randrange(1, max(2, 2 * groups // kills))):
                if process.stdout.readline() in ("", "done\n"):
                    break
            process.kill()

        _, rows = saved(path)
        (position,) = rows["position"]
        assert position >= world.position
        for recorded in history[world.position : position]:
            world.fold(recorded)
        reference.save(world)
        assert rows == reference.dump(), f"kill {kill}"
    reference.close()


def test_a_store_in_use_is_not_shared(tmp_path):
    store = Store(tmp_path / "read.db")
    try:
        with pytest.raises(StoreInUse, match="in use by another process"):
            Store(tmp_path / "read.db")
    finally:
        store.close()
    Store(tmp_path / "read.db").close()


def test_a_save_that_fails_is_made_up_for_by_the_next(tmp_path):
    history = plausible(3, tasks=10)
    store = Store(tmp_path / "read.db")
    world = store.load()
    for recorded in history[:20]:
        world.fold(recorded)
    broken = store._writing
    store._writing = sqlite3.connect(":memory:", isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        store.save(world)
    store._writing.close()
    store._writing = broken
    for recorded in history[20:]:
        world.fold(recorded)
    store.save(world)

    try:
        assert store.dump() == fresh(history)
    finally:
        store.close()


class FullDisk(sqlite3.Connection):
    """A connection that cannot commit."""

    def execute(self, statement, *values):
        if statement == "commit":
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(statement, *values)


def test_a_group_on_its_way_is_waited_for_and_its_failure_is_raised(
    tmp_path, monkeypatch
):
    history = plausible(3, tasks=10)
    path = tmp_path / "read.db"
    store = Store(path)
    store.hurry(behind=True)
    world = store.load()
    for recorded in history[:20]:
        world.fold(recorded)
    store.save(world)
    assert store.dump() == fresh(history[:20])
    store.close()

    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *at, **how: connect(*at, factory=FullDisk, **how)
    )
    store = Store(path)
    monkeypatch.undo()
    store.hurry(behind=True)
    world = store.load()
    for recorded in history[20:]:
        world.fold(recorded)
    store.save(world)
    # Whoever asks first is told, and everybody after him: nothing may follow the gap.
    for ask in (store.dump, store.dump, lambda: store.save(world)):
        with pytest.raises(sqlite3.OperationalError, match="disk is full"):
            ask()
    store.close()

    there = Store(path)
    assert there.dump() == fresh(history[:20])
    there.close()


async def test_a_disk_that_fills_up_while_it_catches_up_ends_the_runner(
    tmp_path, monkeypatch
):
    log = MemoryLog()
    await tell(log, plausible(5, tasks=20))
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *at, **how: connect(*at, factory=FullDisk, **how)
    )
    store = Store(tmp_path / "read.db")
    monkeypatch.undo()
    runner = Runner(log, store, group_events=7)
    await runner.start()
    with pytest.raises(sqlite3.OperationalError, match="disk is full"):
        await runner.until_caught_up()
    await runner.stop()
    store.close()


@pytest.mark.parametrize(
    "damage",
    [
        "update document set body = substr(body, 1, 7) where projection = 'stats'",
        "update document set body = x'c1' where projection = 'host'",
        "delete from document",
        "delete from document where projection = 'host'",
        "delete from document where projection = 'costs'",
        "delete from task where state = 'completed'",
        "delete from spend",
        "update meta set value = value + 1 where key = 'position'",
        "update meta set value = 'x' where key = 'stands'",
        "drop table spend",
    ],
)
async def test_read_models_that_do_not_agree_with_themselves_are_made_anew(
    tmp_path, damage
):
    history, path = plausible(5, tasks=20), tmp_path / "read.db"
    log = MemoryLog()
    await tell(log, history)
    await project(log, path)
    store = Store(path)
    store._writing.execute(damage)
    store.close()

    told = await log.read("agentcom.evt.>")
    assert await project(log, path) == fresh(told)


async def test_damage_that_is_met_later_ends_the_runner_and_says_so(tmp_path):
    history, path = plausible(5, tasks=20), tmp_path / "read.db"
    log = MemoryLog()
    await tell(log, history)
    await project(log, path)
    store = Store(path)
    store._writing.execute("update task set body = x'c1' where state = 'completed'")
    runner = Runner(log, store)
    await runner.start()

    with pytest.raises(Damaged, match="does not agree with itself"):
        await store.look(search.tasks(search.TaskPage(state=["completed"], limit=5)))

    with pytest.raises(Damaged):
        await asyncio.wait_for(runner.failed, 60)
    await runner.stop()
    store.close()


@pytest.mark.parametrize("trouble", ["locked", "full"])
async def test_a_store_that_cannot_be_written_is_waited_for(
    tmp_path, trouble, monkeypatch
):
    monkeypatch.setattr("projections.runner.AGAIN_S", 0.01)
    history, path = plausible(5, tasks=20), tmp_path / "read.db"
    log, half = MemoryLog(), len(history) // 2
    await tell(log, history[:half])
    store = Store(path)
    runner = Runner(log, store)
    await runner.start()
    await runner.until(half)
    assert runner.save() == half
    if trouble == "locked":
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("begin immediate")
    else:
        size = store._writing.execute("pragma page_count").fetchone()[0]
        store._writing.execute(f"pragma max_page_count = {size}")

    await tell(log, history[half:])
    await runner.until(len(history))
    assert runner.save() == half
    assert not runner.failed.done()

    if trouble == "locked":
        other.execute("rollback")
        other.close()
    else:
        store._writing.execute("pragma max_page_count = 1000000")
    await until(lambda: runner.save() == len(history))
    assert store.dump() == fresh(await log.read("agentcom.evt.>"))
    await runner.stop()
    store.close()


@pytest.mark.parametrize("made_by", ["another version", None])
def test_a_file_of_another_kind_is_set_aside_and_made_anew(tmp_path, made_by):
    path = tmp_path / "read.db"
    if made_by is None:
        path.write_bytes(b"not a database at all, but long enough to look like one" * 9)
    else:
        store = Store(path)
        store._writing.execute("update meta set value = ?", (made_by,))
        store.close()

    store = Store(path)

    assert store.position == 0
    store.close()
    assert path.with_name("read.db.old").exists()


async def project(log, path):
    """Run a runner until it has caught up; return what the store holds then."""
    store = Store(path)
    runner = Runner(log, store, group_events=7)
    await runner.start()
    await runner.wait_for(await log.last_sequence(), 60)
    await runner.stop()
    try:
        return store.dump()
    finally:
        store.close()


async def test_the_runner_goes_on_where_the_store_ends(tmp_path):
    history = plausible(5, tasks=20)
    log = MemoryLog()
    half = len(history) // 2
    await tell(log, history[:half])
    first = await project(log, tmp_path / "read.db")
    assert first["position"] == [half]
    await tell(log, history[half:])

    told = await log.read("agentcom.evt.>")
    assert await project(log, tmp_path / "read.db") == fresh(told)


async def test_a_store_hurries_only_until_the_runner_has_caught_up(tmp_path):
    log, pages = MemoryLog(), "pragma wal_autocheckpoint"
    await tell(log, plausible(5, tasks=20))
    store = Store(tmp_path / "read.db")
    usual = store._writing.execute(pages).fetchone()
    runner = Runner(log, store)
    await runner.start()
    assert store._writing.execute(pages).fetchone() > usual

    await runner.until_caught_up()
    await asyncio.sleep(0)

    assert store._writing.execute(pages).fetchone() == usual
    await runner.stop()
    store.close()


async def test_another_log_makes_the_read_models_anew(tmp_path):
    log, another = MemoryLog(), MemoryLog()
    await tell(log, plausible(5, tasks=20))
    await project(log, tmp_path / "read.db")
    history = plausible(6, tasks=30)
    await tell(another, history)

    told = await another.read("agentcom.evt.>")
    assert await project(another, tmp_path / "read.db") == fresh(told)


async def test_a_log_put_back_and_grown_again_makes_the_read_models_anew(tmp_path):
    log, history = MemoryLog(), plausible(5, tasks=20)
    await tell(log, history)
    await project(log, tmp_path / "read.db")
    log.put_back(len(history) // 2)
    await tell(log, plausible(6, tasks=60))

    told = await log.read("agentcom.evt.>")
    assert len(told) > len(history)
    assert await project(log, tmp_path / "read.db") == fresh(told)


async def test_a_log_put_back_under_a_running_runner_ends_it(tmp_path):
    log, history = MemoryLog(), plausible(5, tasks=20)
    await tell(log, history)
    store = Store(tmp_path / "read.db")
    runner = Runner(log, store)
    await runner.start()
    await runner.until(len(history))

    log.put_back(len(history) // 2)

    with pytest.raises(LogChanged):
        await asyncio.wait_for(runner.failed, 60)
    await runner.stop()
    store.close()


async def test_finished_tasks_leave_memory_and_are_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr("projections.store.RECENT_KEPT", 3)
    history = History()
    routes = []
    for _ in range(10):
        routes.append(history.route(history.submit()))
        history.complete(routes[-1], usd=0.5)
    log = MemoryLog()
    await tell(log, history.recorded)
    store = Store(tmp_path / "read.db")
    runner = Runner(log, store, group_events=5)
    await runner.start()
    await runner.wait_for(len(history.recorded), 60)
    runner.save()
    assert len(runner.world.tasks.records) == 3

    history.again(history.recorded[2])
    history.retry(routes[0].task)
    await tell(log, history.recorded[-2:])
    await runner.wait_for(len(history.recorded), 60)

    record = runner.world.tasks.find(routes[0].task)
    assert (record.phase, record.void) == ("completed", 1)
    await runner.stop()
    assert store.dump() == fresh(history.recorded)
    store.close()


async def test_what_breaks_the_runner_is_told_to_who_runs_it(tmp_path):
    log = MemoryLog()
    store = Store(tmp_path / "read.db")
    runner = Runner(log, store)
    runner.watch(lambda moment: 1 / 0)
    await runner.start()
    await tell(log, plausible(1, tasks=1)[:1])

    with pytest.raises(ZeroDivisionError):
        await runner.failed
    await runner.stop()
    store.close()


def test_the_same_log_folds_to_the_same_bytes():
    assert fresh(plausible(9)) == fresh(plausible(9))
    assert fold(plausible(9)).stats == fold(plausible(9)).stats


@pytest.mark.parametrize("kind", ["file", "memory"])
async def test_read_models_are_made_anew_beside_the_running_ones(tmp_path, kind):
    path = tmp_path / "read.db" if kind == "file" else None
    log = MemoryLog()
    history = plausible(4, tasks=30)
    half = len(history) // 2
    await tell(log, history[:half])
    runner = Runner(log, Store(path))
    await runner.start()
    await runner.wait_for(half, 60)
    runner.world.stats.events = 999_999

    assert await runner.rebuild() == half
    await tell(log, history[half:])
    await runner.wait_for(len(history), 60)
    runner.save()

    told = await log.read("agentcom.evt.>")
    assert runner.store.dump() == fresh(told)
    await runner.stop()
    runner.store.close()
    assert not list(tmp_path.glob("*.new*"))


async def test_verifying_tells_read_models_that_differ(tmp_path):
    path = tmp_path / "read.db"
    log = MemoryLog()
    await tell(log, plausible(4, tasks=30))
    assert (await verify(log, path)).read_models.startswith("not compared")
    await project(log, path)
    await tell(log, plausible(5, tasks=3))

    report = await verify(log, path)
    assert (report.ok, report.differences) == (True, [])
    assert report.events == await log.last_sequence()

    store = Store(path)
    store._writing.execute("update task set host = 'h9' where seq = 5")
    store._writing.execute("delete from task where seq = 6")
    try:
        report = await verify(log, path)
    finally:
        store.close()
    assert not report.ok
    assert [said.rpartition(": ")[2] for said in report.differences] in (
        ["differs", "is missing"],
        ["is missing", "differs"],
    )


async def test_verifying_counts_void_events_by_code_whatever_their_words(monkeypatch):
    history = History()
    task = history.submit()
    old = history.route(task)
    history.requeue(old, "busy")
    history.complete(history.route(task))
    history.complete(old)
    history.decide(c.TaskDeferred, task, reason="too late to wait")
    log = MemoryLog()
    await tell(log, history.recorded)
    expected = await verify(log)
    assert (expected.illegal, expected.late) == (1, 1)

    def reworded(reason):
        return reason and reason._replace(text="in other words")

    monkeypatch.setattr(tasks, "NOT_IN_FORCE", reworded(tasks.NOT_IN_FORCE))
    step = tasks._take_step
    monkeypatch.setattr(tasks, "_take_step", lambda *args: reworded(step(*args)))
    report = await verify(log)

    assert (report.illegal, report.late) == (1, 1)
    assert all(text.endswith(": in other words") for text in report.void)


async def test_verifying_tells_messages_that_are_no_events():
    log = MemoryLog()
    log.store_raw("agentcom.evt.policy", b"nonsense")
    await tell(log, plausible(4, tasks=1))

    report = await verify(log)

    assert (report.ok, report.undecodable) == (False, 1)


async def test_what_was_acknowledged_is_no_fault_any_more_of_this_log():
    log = MemoryLog()
    await tell(log, plausible(4, tasks=1)[:2])
    log.store_raw("agentcom.evt.run.h1.x", b"nonsense")
    log.store_raw("agentcom.evt.run.h1.x", b"more")
    await tell(log, plausible(5, tasks=1)[:2])

    report = await verify(log)
    assert not report.ok
    assert [(gap.first, gap.last) for gap in report.gaps] == [(3, 4)]
    known = set(report.gaps)
    report = await verify(log, acknowledged=known)
    assert (report.ok, report.acknowledged, report.undecodable) == (True, 2, 2)

    # Another one later, and the same place in another log, are new.
    log.store_raw("agentcom.evt.run.h1.x", b"again")
    await tell(log, plausible(6, tasks=1)[:1])
    report = await verify(log, acknowledged=known)
    assert (report.ok, [gap.first for gap in report.gaps]) == (False, [7])
    log.put_back(1)
    await tell(log, plausible(7, tasks=1)[:1])
    for _ in range(2):
        log.store_raw("agentcom.evt.run.h1.x", b"nonsense")
    await tell(log, plausible(8, tasks=1)[:1])
    assert not (await verify(log, acknowledged=known)).ok
