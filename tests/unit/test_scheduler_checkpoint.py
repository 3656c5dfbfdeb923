"""A scheduler that begins with a checkpoint knows what one knows that folded it all."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import types
from collections import deque
from pathlib import Path

import msgspec
import pytest

from actors.rules.classification import classify
from actors.scheduler import checkpoint_file
from actors.scheduler.checkpoint import dump, restore
from actors.scheduler.checkpoint_file import CheckpointFile
from actors.scheduler.decide import Scheduler
from actors.scheduler.fleet import Fleet
from actors.scheduler.outputs import HistoryNeeded
from actors.scheduler.role import SchedulerRole
from actors.scheduler.state import SchedulerState
from events import catalogue as c
from events import subjects
from events.position import Position
from tests.simulation.simulation import Simulation
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLeases, MemoryLog
from tests.support.world import World

# -- what is compared: every field, but those that are lists for a leader or caches --------

NOT_COMPARED = {"now", "counts", "specs", "newcomers", "arrived"}
CACHES = (
    *("now", "changed_pools", "changed_kinds"),
    *("_pools", "_pools_by_kind", "_pools_by_host"),
)


def plain(value, seen: dict[int, int]):
    """Everything below an object, with what is met twice as the number of its first."""
    if isinstance(value, str | int | float | bool | None | type(...)):
        return value
    if isinstance(value, set | frozenset):
        return (type(value).__name__, sorted((plain(v, {}) for v in value), key=repr))
    if isinstance(value, dict):
        return {repr(plain(k, {})): plain(v, seen) for k, v in value.items()}
    if isinstance(value, list | tuple | deque):
        return (type(value).__name__, [plain(v, seen) for v in value])
    kind = type(value)
    if not getattr(getattr(kind, "__struct_config__", None), "frozen", False):
        if id(value) in seen:
            return ("again", seen[id(value)])
        seen[id(value)] = len(seen)
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    else:
        names = vars(value) if hasattr(value, "__dict__") else kind.__slots__
    left = CACHES if kind is Fleet else ()
    return (
        kind.__name__,
        {n: plain(getattr(value, n), seen) for n in names if n not in left},
    )


def known(state: SchedulerState) -> dict:
    """Everything that a standby knows."""
    seen: dict[int, int] = {}
    names = sorted(set(vars(state)) - NOT_COMPARED - {"queue", "look_at"})
    found = {name: plain(getattr(state, name), seen) for name in names}
    found["look_at"] = state.look_at & state.queue.groups.keys() == set(
        state.queue.groups
    )
    for required, group in state.queue.groups.items():
        waiting = [(w.task_id, w.seq, w.lane, w.since, w.waits) for w in group]
        found[f"group {required}"] = (group.count, sorted(waiting))
        head = group.head(1e12, 60.0)
        found[f"head {required}"] = head and head.task_id
    for task_id, waiting in state.queue.tasks.items():
        found[f"waits {task_id}"] = waiting.requirement
    return found


def folded(
    log: list[c.Recorded], scheduler: Scheduler, whole: list[c.Recorded]
) -> Scheduler:
    """Fold on; a retried task's history is there at once, as far as the log goes."""
    for recorded in (None, *log):
        if recorded is not None:
            scheduler.fold(recorded)
        wanted, scheduler.effects = scheduler.effects, []
        for effect in wanted:
            if isinstance(effect, HistoryNeeded):
                about = (f"task.{effect.task_id}", f".{effect.task_id}")
                scheduler.adopt(
                    effect.task_id, [r for r in whole if r.subject.endswith(about)]
                )
    return scheduler


def fresh() -> Scheduler:
    return Scheduler("s", iter(map(str, range(10**9))).__next__)


@pytest.mark.parametrize("seed", [1, 4, 7, 23, 52])
def test_checkpoint_and_rest_are_the_whole_fold_to_the_last_field(seed):
    world = Simulation(seed)
    assert world.run().broken is None
    log = list(world.server.entries)
    expected = known(folded(log, fresh(), log).state)
    for cut in range(0, len(log) + 1, max(1, len(log) // 6)):
        first = folded(log[:cut], fresh(), log)
        again = fresh()
        again.resume(restore(dump(first.state)))
        assert known(again.state) == known(first.state), cut
        folded(log[cut:], again, log)
        assert known(again.state) == expected, cut


def test_of_what_a_leader_has_on_its_way_nothing_counts():
    w = World()
    w.join("h1", slots={"shell": 2})
    w.shell("t1")
    w.report("t1", c.TaskAccepted)
    w.report("t1", c.TaskStarted, executor="x")
    host = {"host": "h1", "version": "1", "endpoints": [], "slots": {"shell": 2}}
    joined = c.HostJoined(**w.head(), incarnation="i2", **host)
    w.store(subjects.host("h1"), joined)  # without the run, which is to be given back
    spec = c.TaskSpec(description="run", shell=c.Shell(command="true"))
    about = {"task_id": "t2", "spec": spec, "classification": classify(spec)}
    w.store(subjects.task("t2"), c.TaskSubmitted(**w.head(), **about))
    on_its_way = w.scheduler.decide(w.now)
    assert {type(d.event) for d in on_its_way} >= {c.TaskRequeued, c.TaskRouted}
    w.scheduler.settle_for_checkpoint(on_its_way)
    again = restore(dump(w.scheduler.state))
    whole = folded(w.log, fresh(), w.log).state
    assert {t: plain(live, {}) for t, live in again.tasks.items()} == {
        t: plain(live, {}) for t, live in whole.tasks.items()
    }
    assert again.queue.tasks.keys() == whole.queue.tasks.keys() == {"t2"}
    assert again.ended == whole.ended
    assert again.ended.keys() == {"t1"}
    slots = again.fleet.hosts["h1"].slots["shell"]
    assert (slots.in_flight, slots.reserved) == (1, 0)


def test_what_the_state_is_not_known_to_hold_is_never_written():
    state = SchedulerState()
    state.something_new = object()
    with pytest.raises(TypeError, match="no checkpoint holds a object"):
        list(dump(state))


# -- the file ------------------------------------------------------------------------------


def some_state(tasks: int = 3) -> tuple[Position, Scheduler]:
    w = World()
    for n in range(tasks):
        w.submit(f"t{n}")
    return Position.of(w.log[-1]), folded(w.log, fresh(), w.log)


def test_a_file_comes_back_and_is_its_owners_alone(tmp_path):
    position, scheduler = some_state()
    file = CheckpointFile(tmp_path / "kept")
    assert file.load() is None
    file.write(position, dump(scheduler.state))
    found = CheckpointFile(tmp_path / "kept").load()
    assert found is not None
    assert found[0] == position
    assert known(found[1]) == known(scheduler.state)
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["kept"]


def test_a_file_that_is_not_as_it_was_written_is_not_used(tmp_path):
    position, scheduler = some_state()
    file = CheckpointFile(tmp_path / "kept")
    file.write(position, dump(scheduler.state))
    good = file.path.read_bytes()
    for at in range(0, len(good), 37):
        file.path.write_bytes(good[:at])
        assert file.load() is None, f"cut at {at}"
        file.path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        assert file.load() is None, f"another byte at {at}"
    file.path.write_bytes(good + good)
    file.path.write_bytes(good)
    assert file.load() is not None


def test_one_of_another_version_or_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    position, scheduler = some_state()
    file = CheckpointFile(tmp_path / "kept")
    file.write(position, dump(scheduler.state))
    file.path.chmod(0o644)
    assert file.load() is None
    file.path.chmod(0o600)
    assert file.load() is not None
    monkeypatch.setattr(checkpoint_file, "made_by", lambda: "other code")
    assert CheckpointFile(file.path).load() is None


def test_another_line_of_the_fold_is_another_version(tmp_path, monkeypatch):
    package = types.SimpleNamespace(__path__=[str(tmp_path)])
    monkeypatch.setattr(checkpoint_file, "actors", package)
    before = checkpoint_file.made_by()
    (tmp_path / "fold.py").write_text("x = 1\n")
    one = checkpoint_file.made_by()
    (tmp_path / "fold.py").write_text("x = 2\n")
    assert len({before, one, checkpoint_file.made_by()}) == 3


DIES_WHILE_IT_WRITES = """
import os, signal, sys
from pathlib import Path
from actors.scheduler.checkpoint_file import CheckpointFile
from events.position import Position

def frames():
    yield b"x" * 5_000_000
    os.kill(os.getpid(), signal.SIGKILL)
    yield b"y"

CheckpointFile(Path(sys.argv[1])).write(Position(9, "i", "a"), frames())
"""


def test_whoever_is_killed_while_it_writes_leaves_the_one_before(tmp_path):
    position, scheduler = some_state()
    file = CheckpointFile(tmp_path / "kept")
    file.write(position, dump(scheduler.state))
    root = Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", DIES_WHILE_IT_WRITES, str(file.path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert sorted(os.listdir(tmp_path)) == ["kept", "kept.new"]
    found = file.load()
    assert found is not None
    assert found[0] == position
    file.write(position, dump(scheduler.state))  # what is left over is in nobody's way
    assert file.load() is not None
    assert os.listdir(tmp_path) == ["kept"]


def test_it_is_time_after_so_many_events_and_not_too_often(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_file, "EVERY", 2)
    position, scheduler = some_state()
    file, other = CheckpointFile(tmp_path / "kept"), CheckpointFile(tmp_path / "kept")
    assert not file.due(1, 100.0)
    assert file.due(2, 100.0)
    file.write(position, dump(scheduler.state))
    # Another scheduler of this data folder sees that it has been done.
    assert not other.due(position.seq + 1, 100.0)
    assert other.due(position.seq + 2, 100.0)


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_child_writes_it(tmp_path):
    position, scheduler = some_state()
    file = CheckpointFile(tmp_path / "kept")
    file.begin(position.seq, 5.0, lambda: (position, dump(scheduler.state)))
    assert not file.due(10**9, 5.0)

    def written() -> bool:
        file.poll(9.0)
        return not file._child

    await until(written)
    assert file.load() is not None
    # Four seconds it took: for ten times as long there is none.
    assert not file.due(10**9, 44.0)
    assert file.due(10**9, 46.0)


# -- the role ------------------------------------------------------------------------------


async def ready(log: MemoryLog, path: Path, name: str):
    role = SchedulerRole(
        name,
        log,
        MemoryBus(MemoryBroker()),
        MemoryLeases(lambda: 0.0),
        ids=iter(f"{name}-{n}" for n in range(10**6)).__next__,
        version="0",
        checkpoint=CheckpointFile(path),
    )
    stop = asyncio.Event()
    running = asyncio.create_task(role.run(stop))
    await until(lambda: role.ready.is_set() or running.done())
    return role, stop, running


async def test_a_scheduler_begins_where_the_checkpoint_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_file, "EVERY", 3)
    w = World()
    for n in range(6):
        w.submit(f"t{n}")
    log, path = MemoryLog(), tmp_path / "kept"
    for recorded in w.log:
        await log.append(recorded.subject, recorded.event)
    role, stop, running = await ready(log, path, "a")
    await until(path.exists)
    stop.set()
    await running
    at = role.scheduler.state.position

    folds: list[int] = []
    fold = Scheduler.fold
    monkeypatch.setattr(
        Scheduler, "fold", lambda self, r: (folds.append(r.seq), fold(self, r))[1]
    )
    again, stop, running = await ready(log, path, "b")
    assert len(again.scheduler.state.tasks) == 6
    await until(lambda: again.scheduler.state.position >= at)
    assert min(folds, default=at) > 6
    stop.set()
    await running

    # The log is put back: what it says counts, and the checkpoint goes.
    log.put_back(4)
    folds.clear()
    third, stop, running = await ready(log, path, "c")
    await until(lambda: third.scheduler.state.position >= 4)
    assert folds[:4] == [1, 2, 3, 4]
    assert len(third.scheduler.state.tasks) < 6
    stop.set()
    await running
