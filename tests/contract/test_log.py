"""What every EventLog promises; the in-memory fake and the real server both keep it."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress

import msgspec
import pytest

from actors.scheduler.state import SchedulerState
from events import subjects
from events.catalogue import Recorded, TaskCancelled, TaskDeferred
from events.codec import encode
from events.errors import Conflict, LogUnavailable, TooLarge
from events.nats.follow import PullFollower, TapFollower
from events.nats.link import Link
from events.nats.log import JetStreamLog
from events.position import LogChanged, Position
from projections.world import fold
from tests.support.broker import live_broker
from tests.support.fakes import MemoryLog
from tests.support.links import address, linked, until


@pytest.fixture(params=["memory", "jetstream"])
async def log(request, tmp_path):
    if request.param == "memory":
        yield MemoryLog()
        return
    broker = await live_broker(tmp_path / "instance")
    try:
        async with linked(broker, "scheduler") as link:
            log = JetStreamLog(link)
            yield log
            await log.close()
    finally:
        await broker.close()


def event(task: str, n: int = 0, reason: str = "r") -> TaskDeferred:
    return TaskDeferred(
        id=f"E{task}{n}",
        at="2026-01-01T00:00:00.000000Z",
        by="t",
        task_id=task,
        reason=reason,
    )


async def test_sequences_rise_by_one_in_the_order_of_the_calls(log):
    futures = [log.append(subjects.task("a"), event("a", n)) for n in range(50)]
    assert await asyncio.gather(*futures) == list(range(1, 51))


async def test_an_append_that_expects_the_wrong_sequence_conflicts(log):
    first = await log.append(subjects.task("a"), event("a", 1), expect=0)
    with pytest.raises(Conflict):
        await log.append(subjects.task("a"), event("a", 2), expect=0)
    assert await log.append(subjects.task("a"), event("a", 3), expect=first) == 2
    with pytest.raises(Conflict):
        await log.append(subjects.task("b"), event("b"), expect=7)


async def test_of_many_who_race_for_a_subject_exactly_one_wins(log):
    results = await asyncio.gather(
        *(log.append(subjects.task("a"), event("a", n), expect=0) for n in range(20)),
        return_exceptions=True,
    )
    assert [r for r in results if isinstance(r, int)] == [1]
    assert sum(isinstance(r, Conflict) for r in results) == 19


async def test_the_same_event_again_is_recognised_and_not_stored_twice(log):
    same = event("a", 1)
    first = await log.append(subjects.task("a"), same, expect=0)
    await log.append(subjects.task("b"), event("b"), expect=0)
    assert await log.append(subjects.task("a"), same, expect=0) == first
    assert len(await log.read(subjects.task("a"))) == 1


async def test_a_batch_is_stored_whole_or_not_at_all(log):
    await log.append(subjects.task("b"), event("b"), expect=0)
    with pytest.raises(Conflict):
        await log.append_batch(
            [(subjects.task(t), event(t, 9), 0) for t in ("a", "b", "c")]
        )
    assert await log.last(subjects.task("a")) is None
    seqs = await log.append_batch(
        [(subjects.task(t), event(t, 9), 0) for t in ("a", "c", "d")]
    )
    assert seqs == [2, 3, 4]


async def test_a_batch_of_five_hundred_is_whole(log):
    items = [(subjects.task(f"t{n}"), event(f"t{n}"), 0) for n in range(500)]
    assert await log.append_batch(items) == list(range(1, 501))


async def test_an_event_too_large_is_refused_before_it_is_sent(log):
    with pytest.raises(TooLarge):
        await log.append(subjects.task("a"), event("a", 1, "x" * 600_000))
    assert await log.last_sequence() == 0


async def test_an_append_without_a_future_tells_its_end_later_and_once(log):
    told: list[tuple[str, int, type | None]] = []
    everything = asyncio.Event()

    def tell(name: str):
        def done(seq: int, error: Exception | None) -> None:
            told.append((name, seq, None if error is None else type(error)))
            if len(told) == 4:
                everything.set()

        return done

    a = subjects.task("a")
    log.append_then(a, event("a", 1), tell("first"), expect=0)
    log.append_then(a, event("a", 2), tell("too late"), expect=0)
    log.append_then(a, event("a", 3, "x" * 600_000), tell("too large"))
    log.append_then(subjects.task("b"), event("b"), tell("last"))
    assert told == []
    await asyncio.wait_for(everything.wait(), 60)
    assert sorted(told, key=str) == [
        ("first", 1, None),
        ("last", 2, None),
        ("too large", 0, TooLarge),
        ("too late", 0, Conflict),
    ]
    assert [r.event.id for r in await log.read(a)] == ["Ea1"]
    with pytest.raises((TypeError, ValueError)):
        log.append_then(a, event("a", 4, object()), tell("no JSON"))


async def test_a_follower_sees_past_and_future_in_order(log):
    for n in range(10):
        await log.append(subjects.task("a"), event("a", n))
    seen: list[Recorded] = []
    follower = await log.follow(seen.append)
    await follower.caught_up.wait()
    assert [r.seq for r in seen] == list(range(1, 11))
    await log.append(subjects.task("b"), event("b"))
    await until(lambda: len(seen) == 11)
    assert seen[-1].subject == subjects.task("b")
    assert seen[-1].event == event("b")
    assert follower.position == 11
    await follower.stop()


async def test_a_follower_with_subjects_sees_only_those(log):
    await log.append(subjects.task("a"), event("a"))
    await log.append(subjects.tier("standard"), event("a", 2))
    seen: list[int] = []
    follower = await log.follow(
        lambda r: seen.append(r.seq), subjects=["agentcom.evt.tier.*"]
    )
    await follower.caught_up.wait()
    await log.append(subjects.task("b"), event("b"))
    await log.append(subjects.tier("complex"), event("b", 2))
    await until(lambda: len(seen) == 2)
    assert seen == [2, 4]
    await follower.stop()


async def test_a_follower_begins_where_it_is_told(log):
    for n in range(5):
        await log.append(subjects.task("a"), event("a", n))
    seen: list[int] = []
    follower = await log.follow(lambda r: seen.append(r.seq), start=4)
    await until(lambda: seen == [4, 5])
    await follower.stop()


async def test_look_ups_find_what_was_stored(log):
    for n in range(3):
        await log.append(subjects.task("a"), event("a", n))
    await log.append(
        subjects.task("b"),
        TaskCancelled(id="X", at="2026-01-01T00:00:00.000000Z", by="t", task_id="b"),
    )
    assert [r.seq for r in await log.read(subjects.task("a"))] == [1, 2, 3]
    assert [r.seq for r in await log.read("agentcom.evt.task.*", start=2, limit=2)] == [
        2,
        3,
    ]
    assert await log.get(4) is not None
    assert (await log.get(4)).event.task_id == "b"
    assert await log.get(99) is None
    assert (await log.last(subjects.task("a"))).seq == 3
    assert await log.last(subjects.task("zz")) is None
    assert await log.last_sequence() == 4
    assert await log.read(subjects.task("zz")) == []


# -- what only the real one can go through ---------------------------------------------


async def test_a_follower_survives_kills_of_the_server_without_gap_or_repeat(broker):
    async with linked(broker, "scheduler") as link:
        log = JetStreamLog(link)
        seen: list[int] = []
        follower = await log.follow(lambda r: seen.append(r.seq))
        stored: list[int] = []

        async def write() -> None:
            for n in range(1500):
                while True:
                    try:
                        stored.append(
                            await log.append(
                                subjects.task(f"t{n}"), event(f"t{n}"), expect=0
                            )
                        )
                        break
                    except LogUnavailable:
                        continue

        writer = asyncio.create_task(write())
        for milestone in (300, 700):
            await until(lambda m=milestone: len(stored) > m)
            broker.kill()
            broker.restart()
        await writer
        await until(lambda: follower.position == stored[-1])
        # Each was stored once, whatever became of its acknowledgement.
        assert len(stored) == len(set(stored)) == 1500
        assert seen == list(range(1, 1501))
        await follower.stop()
        await log.close()


async def test_an_append_without_the_right_fails_at_once_and_says_so(broker):
    from events.errors import Denied

    link = await Link.connect(address(broker, "watcher"))
    log = JetStreamLog(link, consumers=False)
    with pytest.raises(Denied):
        await log.append(subjects.task("a"), event("a"), expect=0)
    await log.close()
    await link.close()


async def until_stored(log, n: int) -> None:
    async with asyncio.timeout(60):
        while await log.last_sequence() < n:
            await asyncio.sleep(0.01)


async def test_a_subject_that_is_no_text_stops_nobody(broker):
    async with (
        linked(broker, "scheduler") as link,
        linked(broker, "watcher") as watching,
        linked(broker, "host-h1") as host,
    ):
        log, tap = JetStreamLog(link), JetStreamLog(watching, consumers=False)
        raw = encode(event("a", 1))
        # As a host may, who writes what he likes.
        for subject in (b"agentcom.evt.run.h1.\xff", b"agentcom.evt.run.h1.a"):
            host._client.send(b"PUB %b %d\r\n%b\r\n" % (subject, len(raw), raw))
        await until_stored(log, 2)
        for one in (log, tap):
            seen: list[Recorded] = []
            follower = await one.follow(seen.append)
            await asyncio.wait_for(follower.caught_up.wait(), 60)
            await until(lambda seen=seen: len(seen) == 2)
            assert seen[0].subject == "agentcom.evt.run.h1.\ufffd"
            assert fold(seen).stats.refused["foreign"] == 2
            board = SchedulerState()
            for recorded in seen:
                board.fold(recorded)
            assert board.tasks == {}
            await follower.stop()
        assert link.up
        assert link.faults == watching.faults == 0
        await log.close()
        await tap.close()


async def test_a_reply_subject_that_is_no_text_stops_nobody(broker):
    async with (
        linked(broker, "operator") as asking,
        linked(broker, "scheduler") as serving,
    ):
        heard: list[bytes] = []

        def on(message) -> None:
            heard.append(message.data)
            message.respond(b"ok")

        await serving.listen("agentcom.cmd.>", on)
        asking._client.send(b"PUB agentcom.cmd.x _INBOX.\xff 3\r\nodd\r\n")
        assert await asking.request("agentcom.cmd.x", b"even", timeout=60) == b"ok"
        assert heard == [b"odd", b"even"]


async def test_a_watcher_follows_past_and_future_over_a_restart(broker):
    async with (
        linked(broker, "scheduler") as writing,
        linked(broker, "watcher") as reading,
    ):
        log = JetStreamLog(writing)
        for n in range(1200):
            log.append(subjects.task(f"t{n}"), event(f"t{n}"))
        await log.append(subjects.task("x"), event("x"))
        seen: list[int] = []
        watching = JetStreamLog(reading, consumers=False)
        follower = await watching.follow(lambda r: seen.append(r.seq))
        await follower.caught_up.wait()
        for n in range(50):
            await log.append(subjects.task("y"), event("y", n))
        await until(lambda: len(seen) == 1251)
        broker.restart()
        await until(lambda: writing.up and reading.up)
        for n in range(50):
            await log.append(subjects.task("z"), event("z", n))
        await until(lambda: len(seen) == 1301)
        assert seen == list(range(1, 1302))
        assert await watching.last_sequence() == 1301
        await follower.stop()
        await log.close()


async def test_what_was_missed_is_not_waited_for_before_the_link_is_up(
    broker, monkeypatch
):
    """The server sends again as soon as it knows the subscriptions.

    The link is up only after that, so it must be heard of meanwhile: a reader that asked
    itself again and again for what it had missed would let nothing else have its turn.
    """
    heard, lost, turns = asyncio.Event(), [], []
    take, reconnected = TapFollower._on, Link._reconnected
    hand_on = TapFollower._hand_on_live

    def taking(self, message) -> None:
        if not self._link.up and not lost:
            lost.append(message)
            return
        take(self, message)
        if not self._link.up:
            heard.set()

    def handing_on(self) -> None:
        if not self._link.up:
            turns.append(self.position)
            assert len(turns) < 1000, "it goes round without a pause"
        hand_on(self)

    async def reconnecting(self) -> None:
        if self is reading:
            await heard.wait()
            # Long enough for the reader to look at what came.
            for _ in range(10):
                await asyncio.sleep(0)
        await reconnected(self)

    monkeypatch.setattr(TapFollower, "_on", taking)
    monkeypatch.setattr(TapFollower, "_hand_on_live", handing_on)
    monkeypatch.setattr(Link, "_reconnected", reconnecting)
    async with (
        linked(broker, "scheduler") as writing,
        linked(broker, "watcher") as reading,
    ):
        log, seen = JetStreamLog(writing), []
        watching = JetStreamLog(reading, consumers=False)
        follower = await watching.follow(lambda recorded: seen.append(recorded.seq))
        await follower.caught_up.wait()
        broker.restart()
        stored = 0
        while not heard.is_set():
            with suppress(LogUnavailable):
                stored = await log.append(subjects.task("a"), event("a", stored))
            await asyncio.sleep(0.01)
        last = await log.append(subjects.task("b"), event("b"))
        await until(lambda: follower.position == last)
        assert seen == list(range(1, last + 1))
        await follower.stop()
        await log.close()


async def test_an_unreachable_server_is_one_clear_error(tmp_path):
    from events.nats.link import Address

    with pytest.raises(LogUnavailable) as error:
        await Link.connect(Address(url="nats://127.0.0.1:1"), timeout=0.5)
    assert "127.0.0.1:1" in str(error.value)


# -- a log that is put back ------------------------------------------------------------


@pytest.fixture(params=["memory", "pulls", "taps"])
async def past(request, tmp_path):
    """A log to follow, one to write, and what puts both back to where it was kept."""
    if request.param == "memory":
        log, kept = MemoryLog(), []

        async def keep() -> None:
            kept.append(await log.last_sequence())

        async def put_back() -> None:
            log.put_back(kept[0])

        yield log, log, keep, put_back
        return
    broker = await live_broker(tmp_path / "instance")
    store = broker.instance.store
    role = "scheduler" if request.param == "pulls" else "operator"
    async with linked(broker, "scheduler") as link, linked(broker, role) as reading:

        async def while_stopped(act) -> None:
            broker.stop()
            await until(lambda: not link.up and not reading.up)
            act()
            broker.start()
            await until(lambda: link.up and reading.up)

        async def keep() -> None:
            await while_stopped(lambda: shutil.copytree(store, tmp_path / "kept"))

        async def put_back() -> None:
            def replace() -> None:
                shutil.rmtree(store)
                shutil.copytree(tmp_path / "kept", store)

            await while_stopped(replace)

        log = JetStreamLog(link)
        reads = JetStreamLog(reading, consumers=request.param == "pulls")
        yield reads, log, keep, put_back
        await log.close()
        await reads.close()
    await broker.close()


async def test_a_follower_tells_a_log_that_was_put_back(past):
    reads, log, keep, put_back = past
    await log.append(subjects.task("a"), event("a"))
    await keep()
    seen: list[Recorded] = []
    follower = await reads.follow(seen.append)
    for n in (1, 2):
        await log.append(subjects.task("b"), event("b", n))
    await until(lambda: len(seen) == 3)

    await put_back()

    with pytest.raises(LogChanged) as changed:
        await asyncio.wait_for(follower.failed, 60)
    assert changed.value.position == Position.of(seen[-1])
    await follower.stop()


@pytest.mark.parametrize("instead", [{"id": "other"}, {"at": "2026-01-02T00:00:00Z"}])
async def test_a_follower_tells_a_log_that_has_grown_again_since(past, instead):
    reads, log, keep, put_back = past
    await log.append(subjects.task("a"), event("a"))
    await keep()
    there = event("b", 1)
    await log.append(subjects.task("b"), there)
    stood = Position.of(await log.get(2))
    first = Position.of(await log.get(1))
    await put_back()
    # One that differs in its id, or in its time alone: ids made of parts come again.
    await log.append(subjects.task("b"), msgspec.structs.replace(there, **instead))
    for n in (3, 4):
        await log.append(subjects.task("b"), event("b", n))
    seen: list[Recorded] = []

    follower = await reads.follow(seen.append, after=stood)
    with pytest.raises(LogChanged):
        await asyncio.wait_for(follower.failed, 60)
    await follower.stop()
    assert seen == []

    follower = await reads.follow(seen.append, after=first)
    await until(lambda: len(seen) == 3)
    await follower.stop()
    assert [recorded.seq for recorded in seen] == [2, 3, 4]


@pytest.mark.parametrize(
    ("role", "kind"), [("scheduler", PullFollower), ("operator", TapFollower)]
)
async def test_a_lost_last_message_is_noticed(broker, role, kind, monkeypatch):
    monkeypatch.setattr("events.nats.follow.HEARTBEAT", 0.1)
    # By what the heartbeat says: it is not silent, so silence must not be what tells.
    monkeypatch.setattr(PullFollower, "_silent", lambda _: False)
    take, lost = kind._on, []

    def losing(self, *message) -> None:
        if not lost and b"Ea2" in message[-1].data:
            lost.append(message)
        else:
            take(self, *message)

    monkeypatch.setattr(kind, "_on", losing)
    async with linked(broker, "scheduler") as link, linked(broker, role) as reading:
        log = JetStreamLog(link)
        await sees_both(log, JetStreamLog(reading, consumers=role == "scheduler"))
        assert len(lost) == 1
        await log.close()


async def test_a_consumer_that_falls_silent_is_made_anew(broker, monkeypatch):
    monkeypatch.setattr("events.nats.follow.HEARTBEAT", 0.1)
    take, lost = PullFollower._on, []

    def losing(self, generation, message) -> None:
        if not lost and b"Ea2" in message.data:
            lost.append(generation)
        if generation not in lost:
            take(self, generation, message)

    monkeypatch.setattr(PullFollower, "_on", losing)
    async with linked(broker, "scheduler") as link:
        log = JetStreamLog(link)
        await sees_both(log, log)
        assert len(lost) == 1
        await log.close()


@pytest.mark.parametrize("role", ["scheduler", "operator"])
async def test_nothing_is_handed_on_after_what_a_callback_raised(
    broker, role, monkeypatch
):
    monkeypatch.setattr("events.nats.follow.HEARTBEAT", 0.1)
    async with linked(broker, "scheduler") as link, linked(broker, role) as reading:
        log, seen = JetStreamLog(link), []

        def take(recorded: Recorded) -> None:
            seen.append(recorded.seq)
            raise ValueError(recorded.seq)

        reads = JetStreamLog(reading, consumers=role == "scheduler")
        follower = await reads.follow(take)
        await log.append(subjects.task("a"), event("a", 1))
        with pytest.raises(ValueError, match=r"^1$"):
            await asyncio.wait_for(follower.failed, 60)
        await sees_both(log, log, after=1)
        # Longer than it takes to make a consumer anew.
        await asyncio.sleep(0.5)
        assert seen == [1]
        await follower.stop()
        await log.close()


async def sees_both(log, reads, *, after: int = 0) -> None:
    """Store two events one after the other, and wait until a follower has seen both.

    `after` is the last sequence that is there already.
    """
    seen: list[int] = []
    follower = await reads.follow(
        lambda recorded: seen.append(recorded.seq), start=after + 1
    )
    for n in (1, 2):
        await log.append(subjects.task("a"), event("a", after + n))
        await until(lambda: seen == [after + 1, after + 2][:n], seconds=60)  # noqa: B023
    await follower.stop()
