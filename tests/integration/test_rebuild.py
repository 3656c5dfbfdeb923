"""Read models are made anew beside the running ones; the past is near its copies."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from events.position import Position
from projections.checkpoints import Checkpoints
from projections.main import projecting
from projections.runner import AlreadyRebuilding, Runner
from projections.store import Store
from projections.store_file import about, saved
from projections.tables import SCHEMA
from projections.timetravel import TimeTravel
from projections.world import World, fold
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog
from tests.support.histories import plausible, tell


def as_another_version(path, schema=f"schema={SCHEMA}"):
    """Make a store's file look as if an older version had made it."""
    store = Store(path)
    store._writing.execute(
        "update meta set value = ? where key = 'made_by'", (f"{schema} tasks=0",)
    )
    store.close()


async def project(log, path):
    store = Store(path)
    runner = Runner(log, store)
    await runner.start()
    await runner.until(await log.last_sequence())
    await runner.stop()
    store.close()


async def test_another_versions_read_models_are_shown_until_new_ones_are_made(tmp_path):
    path, log = tmp_path / "read.db", MemoryLog()
    history = plausible(4, tasks=30)
    half = len(history) // 2
    await tell(log, history[:half])
    await project(log, path)
    as_another_version(path)
    await tell(log, history[half:])
    store = Store(path, keep_outdated=True)
    runner = Runner(log, store)
    seen: list[int] = []
    runner.watch(lambda moment: seen.append(moment.recorded.seq))

    await runner.start()
    assert (store.outdated, runner.position) == (True, half)
    assert not runner.caught_up.is_set()
    assert await runner.wait_for(len(history), 60)

    await runner.until_caught_up()
    assert (store.outdated, runner.rebuilt) == (False, 1)
    assert runner.world.stats == fold(await log.read("agentcom.evt.>")).stats
    assert seen == list(range(half + 1, len(history) + 1))
    await runner.stop()
    store.close()


@pytest.mark.parametrize("schema", ["schema=0", "something"])
async def test_read_models_that_cannot_be_read_are_not_shown(tmp_path, schema):
    path, log = tmp_path / "read.db", MemoryLog()
    await tell(log, plausible(4, tasks=3))
    await project(log, path)
    as_another_version(path, schema)

    store = Store(path, keep_outdated=True)

    assert (store.outdated, store.position) == (False, 0)
    store.close()


async def test_who_watches_sees_every_event_once_across_a_rebuild(tmp_path):
    log = MemoryLog()
    history = plausible(7, tasks=60)
    third = len(history) // 3
    await tell(log, history[:third])
    store = Store(tmp_path / "read.db")
    runner = Runner(log, store)
    seen: list[int] = []
    runner.watch(lambda moment: seen.append(moment.recorded.seq))
    await runner.start()
    rebuilding = asyncio.create_task(runner.rebuild())
    await asyncio.sleep(0)
    await tell(log, history[third : 2 * third])
    await rebuilding
    await tell(log, history[2 * third :])
    await runner.until(len(history))

    assert seen == list(range(1, len(history) + 1))
    await runner.stop()
    store.close()


async def test_one_rebuild_at_a_time(tmp_path):
    log = MemoryLog()
    await tell(log, plausible(1, tasks=5))
    store = Store(tmp_path / "read.db")
    runner = Runner(log, store)
    await runner.start()
    first = asyncio.create_task(runner.rebuild())
    await asyncio.sleep(0)

    with pytest.raises(AlreadyRebuilding):
        await runner.rebuild()
    await first
    await runner.stop()
    store.close()


async def test_a_rebuild_is_asked_for_on_the_bus_and_status_tells_of_it(tmp_path):
    log, broker = MemoryLog(), MemoryBroker()
    await tell(log, plausible(2, tasks=10))
    path = tmp_path / "read.db"
    async with projecting(log, MemoryBus(broker), path) as (runner, queries):
        await runner.until_caught_up()
        before = await queries.answer("rebuild", b'{"name": "costs"}')
        await queries._rebuilding
        after = await queries.answer("status", b"")
        refused = await queries.answer("rebuild", b'{"name": "nonsense"}')

    assert (before.rebuilt, after.rebuilt, after.rebuilding) == (0, 1, None)
    assert after.rebuild_failed == ""
    assert refused.path == "name"


async def test_a_rebuild_that_fails_leaves_the_old_read_models_running(
    tmp_path, monkeypatch
):
    log = MemoryLog()
    await tell(log, plausible(2, tasks=10))
    store = Store(tmp_path / "read.db")
    runner = Runner(log, store)
    await runner.start()
    await runner.until_caught_up()
    monkeypatch.setattr("projections.world.World.fold", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await runner.rebuild()
    monkeypatch.undo()

    seq = await tell(log, plausible(3, tasks=1)[:1])
    assert await runner.wait_for(seq, 60)
    await runner.stop()
    store.close()


# -- copies ----------------------------------------------------------------------------


async def with_copies(log, tmp_path, *, every, kept=6):
    path = tmp_path / "read.db"
    checkpoints = Checkpoints(tmp_path / "past", every=every, kept=kept)
    store = Store(path)
    runner = Runner(log, store, group_events=50, checkpoints=checkpoints)
    copied = asyncio.Event()
    take = checkpoints.take
    loop = asyncio.get_running_loop()

    def taking(source):
        take(source)
        loop.call_soon_threadsafe(copied.set)

    checkpoints.take = taking
    await runner.start()
    await runner.until_caught_up()
    await copied.wait()
    await runner.stop()
    store.close()
    return checkpoints


async def test_a_copy_is_exactly_the_fold_up_to_its_place(tmp_path):
    log = MemoryLog()
    history = plausible(9, tasks=80)
    await tell(log, history)

    checkpoints = await with_copies(log, tmp_path, every=50)

    assert checkpoints.fault == ""
    for place in checkpoints.places:
        _, rows = saved(checkpoints.folder / f"{place}.db")
        past = TimeTravel(log)
        assert rows == await past.rows(place)
        past.close()


async def test_the_past_begins_with_the_nearest_copy(tmp_path, monkeypatch):
    monkeypatch.setattr("projections.timetravel.WORTH_A_COPY", 0)
    log = MemoryLog()
    await tell(log, plausible(9, tasks=80))
    checkpoints = await with_copies(log, tmp_path, every=50)
    place = checkpoints.places[-1]
    near, far = TimeTravel(log, checkpoints=checkpoints), TimeTravel(log)

    folded: list[int] = []
    whole = World.fold
    monkeypatch.setattr(
        World, "fold", lambda self, one: folded.append(one.seq) or whole(self, one)
    )

    anew = await near.rows(place + 3)
    assert folded == [place + 1, place + 2, place + 3]
    assert anew == await far.rows(place + 3)
    assert folded[3:] == list(range(1, place + 4))
    assert await near.rows(1) == await far.rows(1)
    near.close()
    far.close()


async def test_copies_of_another_log_are_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("projections.timetravel.WORTH_A_COPY", 0)
    log, another = MemoryLog(), MemoryLog()
    await tell(log, plausible(9, tasks=80))
    await tell(another, plausible(10, tasks=80))
    checkpoints = await with_copies(log, tmp_path, every=50)
    last = await another.last_sequence()
    past, plain = TimeTravel(another, checkpoints=checkpoints), TimeTravel(another)

    assert await past.rows(last) == await plain.rows(last)

    past.close()
    plain.close()


async def test_copies_from_before_the_point_that_a_log_was_put_back_to_stay(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("projections.timetravel.WORTH_A_COPY", 0)
    log, history = MemoryLog(), plausible(9, tasks=80)
    await tell(log, history)
    checkpoints = await with_copies(log, tmp_path, every=50)
    first, last = checkpoints.places[0], checkpoints.places[-1]
    past = TimeTravel(log, checkpoints=checkpoints)
    await past.world(last + 1)

    log.put_back(first + 1)
    await tell(log, plausible(10, tasks=200))
    seq = await log.last_sequence()
    plain = TimeTravel(log)
    assert seq > last + 1
    assert await past.rows(last + 1) == await plain.rows(last + 1)
    assert await past.rows(seq) == await plain.rows(seq)
    assert checkpoints.places == (first,)

    past.close()
    plain.close()


def test_copies_that_stand_closest_go(tmp_path):
    store = Store(tmp_path / "read.db")
    world = store.load()
    checkpoints = Checkpoints(tmp_path / "past", every=10, kept=4)
    for position in range(10, 200, 10):
        world.position, world.loaded_at = position, Position(position, "e")
        store.save(world)
        if checkpoints.due(position):
            checkpoints.take(tmp_path / "read.db")
    store.close()

    places = checkpoints.places
    assert len(places) == 4
    assert max(b - a for a, b in zip((0, *places), places, strict=False)) <= 100
    assert [about(p)[1].seq for p in sorted(checkpoints.folder.glob("*.db"))]
    assert Checkpoints(tmp_path / "past").places == places


def test_a_copy_that_cannot_be_made_hurts_nobody(tmp_path):
    store = Store(tmp_path / "read.db")
    store.save(store.load())
    (tmp_path / "past").write_text("a file where a folder should be")
    checkpoints = Checkpoints(tmp_path / "past")

    checkpoints.take(tmp_path / "read.db")

    assert checkpoints.fault
    assert checkpoints.places == ()
    store.close()


async def test_damaged_copies_go(tmp_path):
    folder = tmp_path / "past"
    folder.mkdir()
    (folder / "70.db").write_bytes(b"nonsense" * 100)
    store = Store(tmp_path / "read.db")
    world = store.load()
    world.position, world.loaded_at = 30, Position(30, "e")
    store.save(world)
    shutil.copy(tmp_path / "read.db", folder / "40.db")
    store.close()
    checkpoints = Checkpoints(folder)

    assert await checkpoints.nearest(MemoryLog(), 100) is None
    assert checkpoints.places == ()
