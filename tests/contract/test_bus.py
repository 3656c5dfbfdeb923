"""What every Bus promises; the in-memory fake and the real server both keep it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
import uvloop

from events.errors import Denied, LogUnavailable, Unreachable
from events.nats.link import Address, Link
from tests.support.broker import live_broker
from tests.support.fakes import MemoryBroker, MemoryBus
from tests.support.links import linked, until

SUBJECT = "agentcom.cmd.test.do"


class Fleet:
    """Buses of several processes that can hear each other, and the wire they share."""

    def __init__(self) -> None:
        self.asking = None
        self.serving = []
        self.cut = None
        self.mend = None


@asynccontextmanager
async def memory_fleet():
    broker = MemoryBroker()
    fleet = Fleet()
    fleet.asking = MemoryBus(broker)
    fleet.serving = [MemoryBus(broker), MemoryBus(broker)]
    every = [fleet.asking, *fleet.serving]

    def connect(connected: bool) -> None:
        for bus in every:
            bus.set_connected(connected)

    fleet.cut = lambda: connect(False)
    fleet.mend = lambda: connect(True)
    yield fleet


@asynccontextmanager
async def nats_fleet(folder):
    broker = await live_broker(folder / "instance")
    try:
        async with (
            linked(broker, "projections") as asking,
            linked(broker, "scheduler") as one,
            linked(broker, "scheduler") as other,
        ):
            fleet = Fleet()
            fleet.asking, fleet.serving = asking, [one, other]
            fleet.cut, fleet.mend = broker.kill, broker.start
            yield fleet
    finally:
        await broker.close()


@pytest.fixture(params=["memory", "nats"])
async def fleet(request, tmp_path):
    opened = memory_fleet() if request.param == "memory" else nats_fleet(tmp_path)
    async with opened as running:
        yield running


async def settled(fleet) -> None:
    """Return when every bus is connected and the first one is being heard."""
    await until(lambda: all(b.connected for b in (fleet.asking, *fleet.serving)))
    async with asyncio.timeout(60):
        while True:
            try:
                await fleet.asking.request(SUBJECT, b"settled?", timeout=1)
            except Unreachable:
                await asyncio.sleep(0.01)
            else:
                return


async def test_a_request_is_answered_by_whoever_listens(fleet):
    heard = []

    def answer(message) -> None:
        heard.append((message.subject, message.data, message.wants_answer))
        message.respond(b"you said " + message.data)

    await fleet.serving[0].listen(SUBJECT, answer)
    assert (
        await fleet.asking.request(SUBJECT, b"hello", timeout=60) == b"you said hello"
    )
    assert heard == [(SUBJECT, b"hello", True)]


async def test_a_request_brings_its_headers(fleet):
    await fleet.serving[0].listen(
        SUBJECT, lambda message: message.respond(message.headers["A-B"].encode())
    )
    answer = await fleet.asking.request(
        SUBJECT, b"", timeout=60, headers={"A-B": "c d"}
    )
    assert answer == b"c d"


async def test_an_answer_may_come_later_and_in_another_order(fleet):
    kept = []
    await fleet.serving[0].listen(SUBJECT, kept.append)
    asked = [
        fleet.asking.request(SUBJECT, str(n).encode(), timeout=60) for n in range(3)
    ]
    await until(lambda: len(kept) == 3)
    for message in reversed(kept):
        message.respond(message.data * 2)
    assert await asyncio.gather(*asked) == [b"00", b"11", b"22"]


async def test_only_the_first_answer_counts(fleet):
    def twice(message) -> None:
        message.respond(b"first")
        message.respond(b"second")

    await fleet.serving[0].listen(SUBJECT, twice)
    assert [await fleet.asking.request(SUBJECT, b"", timeout=60) for _ in range(3)] == [
        b"first"
    ] * 3


async def test_nobody_there_is_known_and_is_not_a_time_out(fleet):
    with pytest.raises(Unreachable) as absent:
        await fleet.asking.request(SUBJECT, b"", timeout=60)
    assert (absent.value.absent, absent.value.subject) == (True, SUBJECT)


async def test_silence_is_a_time_out_and_is_not_nobody(fleet):
    heard = []
    await fleet.serving[0].listen(SUBJECT, heard.append)
    with pytest.raises(Unreachable) as silent:
        await fleet.asking.request(SUBJECT, b"", timeout=0.05)
    assert not silent.value.absent
    await until(lambda: heard)
    heard[0].respond(b"too late, and no harm done")


async def test_a_request_that_is_given_up_does_no_harm(fleet):
    heard = []
    await fleet.serving[0].listen(SUBJECT, heard.append)
    asked = fleet.asking.request(SUBJECT, b"", timeout=60)
    await until(lambda: heard)
    asked.cancel()
    heard[0].respond(b"nobody waits")
    await fleet.serving[1].listen("agentcom.cmd.test.other", lambda m: m.respond(b"x"))
    assert (
        await fleet.asking.request("agentcom.cmd.test.other", b"", timeout=60) == b"x"
    )


async def test_listening_that_is_given_up_as_it_begins_does_no_harm(fleet):
    one = fleet.serving[0]
    await one.listen(SUBJECT, lambda message: message.respond(b"heard"))
    for turns in range(8):
        begun = asyncio.ensure_future(one.listen(f"{SUBJECT}.{turns}", print))
        for _ in range(turns):
            await asyncio.sleep(0)
        begun.cancel()
        await asyncio.gather(begun, return_exceptions=True)
        assert await fleet.asking.request(SUBJECT, b"", timeout=60) == b"heard"


async def test_messages_are_heard_in_the_order_they_were_sent(fleet):
    heard = []
    await fleet.serving[0].listen("agentcom.cmd.>", lambda m: heard.append(m.data))
    sent = [str(n).encode() for n in range(500)]
    for n, data in enumerate(sent):
        fleet.asking.publish(f"agentcom.cmd.test.n{n % 3}", data)
    await until(lambda: len(heard) == 500)
    assert heard == sent


async def test_what_is_published_wants_no_answer(fleet):
    heard = []

    def on(message) -> None:
        heard.append(message.wants_answer)
        message.respond(b"to nobody")

    await fleet.serving[0].listen(SUBJECT, on)
    fleet.asking.publish(SUBJECT, b"")
    await until(lambda: heard)
    assert heard == [False]


async def test_a_message_goes_to_one_of_a_queue_group_and_to_all_others(fleet):
    group, apart = [], []
    for bus in fleet.serving:
        await bus.listen(SUBJECT, lambda m: group.append(m.data), queue="q")
        await bus.listen(SUBJECT, lambda m: apart.append(m.data))
    sent = [str(n).encode() for n in range(100)]
    for data in sent:
        fleet.asking.publish(SUBJECT, data)
    await until(lambda: len(group) >= 100 and len(apart) >= 200)
    assert sorted(group) == sorted(sent)
    assert sorted(apart) == sorted(sent * 2)


async def test_who_has_stopped_listening_hears_nothing_more(fleet):
    first, second = [], []
    listening = await fleet.serving[0].listen(SUBJECT, first.append)
    await fleet.serving[1].listen(SUBJECT, second.append)
    await listening.stop()
    await listening.stop()
    fleet.asking.publish(SUBJECT, b"")
    await until(lambda: second)
    assert first == []


async def test_a_loss_and_a_reconnect_are_told_and_listening_goes_on(fleet):
    changes: list[bool] = []
    unheard: list[bool] = []
    fleet.asking.on_connection(changes.append)
    forget = fleet.asking.on_connection(unheard.append)
    forget()
    forget()
    await fleet.serving[0].listen(SUBJECT, lambda m: m.respond(b"still here"))
    assert await fleet.asking.request(SUBJECT, b"", timeout=60) == b"still here"
    assert fleet.asking.connected
    for times in (1, 2):
        fleet.cut()
        await until(lambda: not fleet.asking.connected)
        with pytest.raises(Unreachable) as away:
            await fleet.asking.request(SUBJECT, b"", timeout=60)
        assert not away.value.absent
        fleet.asking.publish(SUBJECT, b"dropped, not kept for later")
        fleet.mend()
        await settled(fleet)
        assert changes == [False, True] * times


async def test_what_is_sent_while_disconnected_never_comes_late(fleet):
    heard = []

    def on(message) -> None:
        heard.append(message.data)
        message.respond(b"")

    await fleet.serving[0].listen(SUBJECT, on)
    await settled(fleet)
    fleet.cut()
    await until(lambda: not fleet.asking.connected)
    fleet.asking.publish(SUBJECT, b"late")
    with pytest.raises(Unreachable):
        await fleet.asking.request(SUBJECT, b"late", timeout=60)
    fleet.mend()
    await settled(fleet)
    assert b"late" not in heard


# -- what only the real one can go through ---------------------------------------------


async def test_headers_arrive_and_come_back(broker):
    async with (
        linked(broker, "projections") as asking,
        linked(broker, "scheduler") as one,
    ):
        await one.listen(SUBJECT, lambda m: m.respond(m.data, dict(m.headers)))
        answer = await asking.call(SUBJECT, b"x", timeout=60, headers={"A-B": "c d"})
        assert (answer.data, answer.headers["A-B"]) == (b"x", "c d")


async def test_a_request_that_is_not_allowed_fails_at_once_and_says_so(broker):
    async with linked(broker, "watcher") as link:
        with pytest.raises(Denied):
            await link.request("agentcom.cmd.task.submit", b"{}", timeout=60)


@pytest.mark.parametrize(
    "subject",
    ["$JS.API.DIRECT.GET.AGENTCOM_EVENTS", "$JS.API.STREAM.INFO.AGENTCOM_EVENTS"],
)
async def test_a_question_to_the_log_that_is_not_allowed_fails_at_once(broker, subject):
    # The first is refused in lower case, the second by the name that nats.conf gives it.
    async with linked(broker, "submitter") as link:
        with pytest.raises(Denied) as refused:
            await link.request(subject, b"{}", timeout=60)
        assert refused.value.doing == subject


async def test_a_request_larger_than_the_broker_takes_fails_at_once(broker):
    async with (
        linked(broker, "projections") as asking,
        linked(broker, "scheduler") as one,
    ):
        await one.listen(SUBJECT, lambda m: m.respond(b"ok"))
        with pytest.raises(Denied):
            await asking.request(SUBJECT, b"x" * (asking.max_payload + 1), timeout=60)
        assert await asking.request(SUBJECT, b"x", timeout=60) == b"ok"


async def test_a_handler_that_fails_does_not_end_the_listening(broker):
    async with (
        linked(broker, "projections") as asking,
        linked(broker, "scheduler") as one,
    ):

        def on(message) -> None:
            if message.data == b"bad":
                raise ValueError("no")
            message.respond(b"ok")

        await one.listen(SUBJECT, on)
        asking.publish(SUBJECT, b"bad")
        assert await asking.request(SUBJECT, b"good", timeout=60) == b"ok"
        assert one.faults == 1


async def test_a_subject_that_would_break_the_line_fails_at_once(broker):
    async with (
        linked(broker, "projections") as asking,
        linked(broker, "scheduler") as one,
    ):
        await one.listen(SUBJECT, lambda m: m.respond(b"ok"))
        with pytest.raises(Denied, match="not a subject"):
            await asking.request(f"{SUBJECT}.a b\r\nPING", b"x", timeout=60)
        assert await asking.request(SUBJECT, b"x", timeout=60) == b"ok"


async def test_what_was_said_before_closing_arrives(broker):
    heard = []
    async with linked(broker, "scheduler") as one:
        await one.listen(SUBJECT, lambda m: heard.append(m.data))
        async with linked(broker, "projections") as saying:
            for n in range(200):
                saying.publish(SUBJECT, str(n).encode())
        await until(lambda: len(heard) == 200)
    assert heard == [str(n).encode() for n in range(200)]


async def test_a_websocket_address_is_refused_and_said_so():
    with pytest.raises(LogUnavailable, match="websocket"):
        await Link.connect(Address(url="ws://127.0.0.1:9"))


async def test_what_is_sent_as_the_server_dies_is_dropped_and_no_fault(broker):
    faults = []

    async def send() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context))
        async with linked(broker, "scheduler") as link:
            link._client._transport._io_writer.transport.abort()
            for _ in range(50):
                link.publish("agentcom.evt.task.a", b"{}")
                await asyncio.sleep(0)
            await until(lambda: link.up and link._client.is_connected)

    # The loop that the roles run on.
    await asyncio.to_thread(uvloop.run, send())
    assert faults == []
