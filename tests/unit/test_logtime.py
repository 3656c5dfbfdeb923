"""Log time: durations that no wall clock's step changes, over a change of leaders too."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from msgspec.structs import replace

from actors.scheduler import role as roles
from actors.scheduler.decide import Scheduler
from actors.scheduler.logtime import ClockWatch, LogTime
from actors.scheduler.role import LED_KEY, SchedulerRole
from events import catalogue as c
from events import subjects
from events.codec import rfc3339
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLeases, MemoryLog
from tests.support.world import START, World

DAY = 86_400.0


def stepped(w: World, by: float) -> None:
    """The leader's wall clock is put forward, and it says so."""
    at = rfc3339(w.now + w.scheduler.state.time.ahead_s + by)
    event = c.ClockStepped(
        **w.head() | {"at": at},
        epoch=1,
        role="scheduler",
        name="s1",
        step_s=float(by),
    )
    w.store(subjects.SCHEDULER, event)
    w.turn()


@pytest.mark.parametrize("by", [3_600.0, -3_600.0, 30 * DAY])
def test_a_time_to_live_is_as_long_as_it_is_wherever_the_clock_is_put(by):
    w = World()
    w.shell("t1", ttl_s=60)
    w.wait(30)
    stepped(w, by)
    w.wait(29)
    assert w.scheduler.state.tasks["t1"].task.phase == "waiting"
    w.wait(2)
    assert "t1" not in w.scheduler.state.tasks


@pytest.mark.parametrize(("by", "over"), [(3_600.0, True), (-3_600.0, False)])
def test_a_deadline_is_an_instant_of_the_wall_clock(by, over):
    w = World()
    w.shell("t1", deadline=rfc3339(START + 100), ttl_s=10 * DAY)
    stepped(w, by)
    w.wait(200)
    assert ("t1" not in w.scheduler.state.tasks) is over
    w.wait(3_600)
    assert "t1" not in w.scheduler.state.tasks


def test_what_happens_after_a_step_is_stamped_as_the_clock_stands():
    w = World()
    stepped(w, DAY)
    w.join("h1")
    w.shell("t1")
    routed = next(r.event for r in w.log if isinstance(r.event, c.TaskRouted))
    assert routed.at == rfc3339(START + DAY)


def test_a_step_of_another_epoch_does_not_count():
    w = World()
    event = c.ClockStepped(**w.head(), epoch=7, role="scheduler", name="s9", step_s=DAY)
    w.store(subjects.SCHEDULER, event)
    assert w.scheduler.state.time.ahead_s == 0


def test_a_stamp_from_far_before_the_log_is_not_believed():
    time = LogTime()
    time.decided(rfc3339(START))
    assert time.of(rfc3339(START - 5)) == START - 5
    assert time.of(rfc3339(START - DAY)) == START
    time.now = START + 10
    assert time.of(rfc3339(START + DAY)) == START + 10


def test_an_outage_stamped_ahead_of_the_step_began_no_later_than_the_step():
    w = World()
    w.join("h1")
    w.shell("t1", needs=["tpu"])
    ahead = {**w.head(), "at": rfc3339(w.now + DAY), "epoch": 1}
    down = c.TierDown(**ahead, tier="complex")
    w.store(subjects.tier("complex"), down)
    ahead |= w.head() | {"at": rfc3339(w.now + DAY)}
    event = c.ClockStepped(**ahead, role="scheduler", name="s1", step_s=DAY)
    w.store(subjects.SCHEDULER, event)
    standby = Scheduler("s2", iter("abc").__next__)
    for recorded in w.log:
        standby.fold(recorded)
    assert standby.state.tiers["complex"].down_since == pytest.approx(w.now)


def test_a_history_read_later_says_nothing_of_the_present():
    w = World()
    w.join("h1")
    w.shell("t1")
    w.report("t1", c.TaskFailed, result=c.Result(status="failed"))
    w.store(subjects.task("t1"), c.TaskRetried(**w.head(), task_id="t1"))
    again = {**w.head(), "generation": 2, "epoch": 1}
    w.store(subjects.task("t1"), replace(w.routes("t1")[0], **again))
    standby = Scheduler("s2", iter("abc").__next__)
    for recorded in w.log:
        standby.fold(recorded)
    step = {**w.head(), "at": rfc3339(w.now - DAY), "epoch": 1}
    event = c.ClockStepped(**step, role="scheduler", name="s1", step_s=-DAY)
    standby.fold(c.Recorded(len(w.log) + 1, subjects.SCHEDULER, event))
    standby.adopt("t1", [r for r in w.log if r.subject.endswith(".t1")])
    assert "t1" in standby.state.tasks
    assert standby.state.time.last <= w.now


def test_a_stamp_ahead_of_the_step_that_explains_it_is_forgotten_with_that_step():
    time = LogTime()
    time.decided(rfc3339(START + DAY))
    assert time.stepped(DAY, rfc3339(START + DAY + 1)) == START + 1
    assert time.of(rfc3339(START + DAY + 2)) == START + 2


def test_what_a_step_back_overtakes_in_the_log_was_stamped_by_the_clock_before_it():
    time = LogTime()
    time.decided(rfc3339(START))
    assert time.stepped(-30.0, rfc3339(START - 30 + 1)) == START + 1
    # It was on its way when the step was said.
    time.decided(rfc3339(START + 1.5))
    assert time.of(rfc3339(START + 1.5)) == START + 1.5
    assert time.last == START + 1.5
    # What comes then is believed, and not moved to where that stamp seemed to be.
    assert time.of(rfc3339(START - 30 + 3)) == START + 3
    # Long after the step nothing is on its way any more.
    assert time.of(rfc3339(START - 30 + 60)) == START + 60


def test_a_watch_says_each_step_once_and_no_drift():
    watch = ClockWatch(1_000.0, 5.0)
    assert watch.stepped(1_010.0, 15.0) == 0
    assert watch.stepped(1_010.4, 15.0) == 0
    assert watch.stepped(4_610.0, 15.0) == 3_600
    assert watch.stepped(4_611.0, 16.0) == 0
    assert watch.stepped(1_011.0, 16.0) == -3_600


class Clocks:
    """A wall clock that somebody puts forward and back, beside an even one."""

    def __init__(self) -> None:
        self.ahead = START

    def wall(self) -> float:
        return self.monotonic() + self.ahead

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


async def elected(clocks: Clocks, log: MemoryLog, leases: MemoryLeases):
    """Start a scheduler; return it once it leads, with what ends it."""
    numbers = itertools.count(1)
    role = SchedulerRole(
        "s1", log, MemoryBus(MemoryBroker()), leases,
        ids=lambda: f"{clocks.ahead:.0f}-{next(numbers):04d}", version="0",
        clock=clocks.wall, monotonic=clocks.monotonic,
    )  # fmt: skip
    stop = asyncio.Event()
    running = asyncio.create_task(role.run(stop))
    async with asyncio.timeout(60):
        while not role.scheduler.leading:
            await asyncio.sleep(0.01)
    return role, stop, running


async def steps_in(log: MemoryLog, count: int) -> list[float]:
    async with asyncio.timeout(60):
        while True:
            found = await log.read(subjects.SCHEDULER)
            steps = [r.event.step_s for r in found if type(r.event) is c.ClockStepped]
            if len(steps) >= count:
                return steps
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("by", [3_600.0, -120.0])
async def test_a_leader_says_in_the_log_that_its_clock_was_put_elsewhere(by):
    clocks, log = Clocks(), MemoryLog()
    role, stop, running = await elected(clocks, log, MemoryLeases(clocks.monotonic))
    before = role._now()
    clocks.ahead += by
    steps = await steps_in(log, 1)
    assert [round(step) for step in steps] == [by]
    # For its decisions no time has passed but what really did.
    assert 0 <= role._now() - before < 10
    assert abs(role._stamping() - clocks.wall()) < 1
    stop.set()
    await running


async def test_after_a_wrong_future_time_goes_on_where_the_log_was():
    clocks, log = Clocks(), MemoryLog()
    leases = MemoryLeases(clocks.monotonic)
    clocks.ahead += DAY
    role, stop, running = await elected(clocks, log, leases)
    before = role._now()
    await leases.note(LED_KEY, rfc3339(clocks.wall()), timeout=1)
    stop.set()
    await running
    clocks.ahead -= DAY
    role, stop, running = await elected(clocks, log, MemoryLeases(clocks.monotonic))
    # Without a note, from what is decided in the log; here nothing was.
    stop.set()
    await running
    role, stop, running = await elected(clocks, log, leases)
    assert [round(step / 10) for step in await steps_in(log, 1)] == [-DAY / 10]
    assert abs(role._now() - before) < 60
    stop.set()
    await running


@pytest.mark.parametrize("by", [DAY, -DAY, -90.0])
async def test_a_clock_put_elsewhere_in_the_moment_of_an_election_loses_nobody(by):
    clocks = Clocks()

    class Meanwhile(MemoryLog):
        """The clock is put elsewhere while the election, or the step, is on its way."""

        def append(self, subject, event, *, expect=None):
            if type(event) in moments:
                moments.remove(type(event))
                clocks.ahead += by
            return super().append(subject, event, expect=expect)

    moments = [c.SchedulerElected, c.ClockStepped]
    log, leases = Meanwhile(), MemoryLeases(clocks.monotonic)
    said = {"host": "h1", "incarnation": "i1", "by": "h1", "version": "0"}
    joined = c.HostJoined(id="I1", at=rfc3339(clocks.wall()), **said)
    await log.append(subjects.host("h1"), joined)
    role, stop, running = await elected(clocks, log, leases)
    role._take_turn()
    assert [round(step) for step in await steps_in(log, 2)] == [by, by]
    host = role.scheduler.fleet.hosts["h1"]
    assert host.live
    assert abs(role._now() - host.last_beat) < 10
    assert not await log.read(subjects.fleet("h1"))
    stop.set()
    await running


def test_time_without_a_leader_lies_where_it_was_though_its_end_was_stamped_ahead():
    w = World()
    w.shell("t1", ttl_s=60)
    w.wait(10)
    at = rfc3339(w.now + DAY)
    elected = {**w.head(), "at": at, "epoch": 2, "name": "s1", "leaderless_s": 5.0}
    w.store(subjects.SCHEDULER, c.SchedulerElected(**elected))
    step = {**w.head(), "at": at, "epoch": 2, "role": "scheduler", "name": "s1"}
    w.store(subjects.SCHEDULER, c.ClockStepped(**step, step_s=DAY))
    standby = Scheduler("s2", iter("abc").__next__)
    for recorded in w.log:
        standby.fold(recorded)
    state = standby.state
    assert state.time.gaps == [pytest.approx((w.now - 5, w.now))]
    assert state.time.after(w.now - 10, 60) == pytest.approx(w.now + 55)


async def test_nobody_was_without_a_leader_for_longer_than_since_they_led_themselves():
    clocks, log = Clocks(), MemoryLog()
    leases = MemoryLeases(clocks.monotonic)
    role, stop, running = await elected(clocks, log, leases)
    async with asyncio.timeout(60):
        while await leases.holder(LED_KEY, timeout=1) is None:
            await asyncio.sleep(0.01)
        del leases._keys["scheduler"]
        while role.scheduler.leading:
            await asyncio.sleep(0.01)
        clocks.ahead += DAY
        while not role.scheduler.leading:
            await asyncio.sleep(0.01)
    found = await log.read(subjects.SCHEDULER)
    _, second = [r.event for r in found if type(r.event) is c.SchedulerElected]
    assert second.leaderless_s < 60
    assert [round(step / 10) for step in await steps_in(log, 1)] == [DAY / 10]
    stop.set()
    await running


async def test_who_leads_notes_it_at_once(monkeypatch):
    monkeypatch.setattr(roles, "LED_EVERY_S", 3_600.0)
    clocks = Clocks()
    leases = MemoryLeases(clocks.monotonic)
    _, stop, running = await elected(clocks, MemoryLog(), leases)
    async with asyncio.timeout(60):
        while await leases.holder(LED_KEY, timeout=1) is None:
            await asyncio.sleep(0.01)
    stop.set()
    await running


async def test_who_decided_has_led_whether_it_is_noted_or_not():
    clocks, log = Clocks(), MemoryLog()
    leases = MemoryLeases(clocks.monotonic)
    role, stop, running = await elected(clocks, log, leases)
    role.scheduler.state.time.last = role._now()
    await leases.note(LED_KEY, rfc3339(clocks.wall() - DAY), timeout=1)
    del leases._keys["scheduler"]
    async with asyncio.timeout(60):
        while len(await log.read(subjects.SCHEDULER)) < 2:
            await asyncio.sleep(0.01)
    found = await log.read(subjects.SCHEDULER)
    assert [type(r.event) for r in found] == [c.SchedulerElected] * 2
    assert found[1].event.leaderless_s < 60
    stop.set()
    await running


async def test_a_step_that_is_undone_while_it_is_being_said_is_said_to_be_undone():
    clocks = Clocks()

    class Slow(MemoryLog):
        """The first step is in the log once the clock stands where it stood."""

        def append(self, subject, event, *, expect=None):
            if type(event) is not c.ClockStepped or undone.is_set():
                return super().append(subject, event, expect=expect)

            async def later() -> int:
                await undone.wait()
                return await super(Slow, self).append(subject, event, expect=expect)

            return asyncio.ensure_future(later())

    undone, log = asyncio.Event(), Slow()
    role, stop, running = await elected(clocks, log, MemoryLeases(clocks.monotonic))
    for by in (-30.0, 30.0):
        clocks.ahead += by
        role._look_at_clock()
        await asyncio.sleep(0.05)
    undone.set()
    assert [round(step) for step in await steps_in(log, 2)] == [-30, 30]
    assert abs(role._stamping() - clocks.wall()) < 1
    stop.set()
    await running
