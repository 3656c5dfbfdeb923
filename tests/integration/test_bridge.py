"""The bridge: snapshots, changes, resuming, live output, and clients that do not keep up."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
import msgspec
import pytest

from events.catalogue import Chunk
from events.codec import encode, rfc3339
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog
from tests.support.histories import START, History, tell
from tests.support.links import until
from web import pages
from web.live import OutputFeed, OutputWatch, encode_chunk
from web.main import projecting
from web.server import Server
from web.topics import TOPICS


class Output:
    """An output stream in memory, with what republishes it."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.stored: list[Chunk] = []
        self.n: dict[str, int] = {}

    async def read(self, task_id, *, start=1):
        return [chunk for chunk in self.stored if chunk.task_id == task_id]

    async def pieces(self, task_id, *, start=1):
        async for _, chunk in self.placed(task_id, start=start):
            yield chunk

    async def placed(self, task_id, *, start=1):
        for seq, chunk in enumerate(self.stored, 1):
            if chunk.task_id == task_id:
                yield seq, chunk

    def say(self, route, text, kind="stdout", *, heard=True, segment=0) -> Chunk:
        n = self.n[route.id] = self.n.get(route.id, -1) + 1
        chunk = Chunk(
            task_id=route.task,
            event_type=kind,
            text=text,
            timestamp=rfc3339(START),
            route=route.id,
            generation=route.generation,
            attempt=route.attempt,
            segment=segment,
            n=n,
        )
        self.stored.append(chunk)
        if heard:
            self.bus.publish(f"agentcom.tap.{route.host}.{route.task}", encode(chunk))
        return chunk


class Site:
    """A running server over in-memory fakes."""

    def __init__(self, base, session, log, bus, output, server, runner) -> None:
        self.base = base
        self.session = session
        self.log = log
        self.bus = bus
        self.output = output
        self.server = server
        self.runner = runner
        self.history = History()
        self.appended = 0

    async def tell(self) -> int:
        """Put what the history has gained into the log; wait until it is folded."""
        fresh = self.history.recorded[self.appended :]
        self.appended = len(self.history.recorded)
        last = await tell(self.log, fresh)
        assert await self.runner.wait_for(last, 60)
        return last

    @asynccontextmanager
    async def page(self, **options):
        async with self.session.ws_connect(f"{self.base}/ws", **options) as socket:
            yield Client(socket)


class Client:
    """What a page does."""

    def __init__(self, socket) -> None:
        self.socket = socket
        self.data: dict[str, dict] = {}
        self.seq: dict[str, int] = {}

    async def subscribe(self, id_, topic, since=None, at="", **params) -> None:
        request = {"op": "subscribe", "id": id_, "topic": topic, "params": params}
        await self.socket.send_json(
            request
            | ({} if since is None else {"since": since})
            | ({"position": at} if at else {})
        )

    async def next(self) -> dict:
        message = await self.socket.receive_json(timeout=60)
        if message["type"] == "snapshot":
            self.data[message["id"]] = message["data"]
        elif message["type"] == "change":
            self.data.setdefault(message["id"], {}).update(message["data"])
        if "seq" in message:
            self.seq[message["id"]] = message["seq"]
        return message

    async def until(self, matches):
        """Take messages until `matches(message)`; return that one."""
        async with asyncio.timeout(60):
            while True:
                message = await self.next()
                if matches(message):
                    return message

    async def text(self, enough: str, task=None) -> list[dict]:
        """Take live output until it ends in `enough`."""
        messages = []
        while not messages or messages[-1].get("text") != enough:
            message = await self.next()
            if message["type"] in ("execution_event", "gap"):
                messages.append(message)
        return messages


@pytest.fixture
async def place():
    log, bus = MemoryLog(), MemoryBus(MemoryBroker())
    output = Output(bus)
    async with projecting(log, bus, None, output=output) as (runner, queries):
        server = Server(runner, queries, bus, log, output=output)
        port = await server.open("127.0.0.1", 0)
        async with aiohttp.ClientSession() as session:
            base = f"http://127.0.0.1:{port}"
            yield Site(base, session, log, bus, output, server, runner)
        await server.close()


async def test_a_snapshot_says_its_sequence_and_a_change_its_own(place):
    place.history.submit("one")
    first = await place.tell()
    async with place.page() as client:
        await client.subscribe("t", "tasks")
        snapshot = await client.next()
        assert (snapshot["type"], snapshot["seq"]) == ("snapshot", first)
        assert snapshot["data"]["total"] == 1
        place.history.submit("two")
        second = await place.tell()
        change = await client.next()
        assert (change["type"], change["seq"]) == ("change", second)
        assert change["data"]["total"] == 2
        assert "offset" not in change["data"]


@pytest.mark.parametrize("topic", ["overview", "events"])
async def test_who_comes_back_from_a_log_that_was_put_back_gets_all(place, topic):
    place.history.submit("a")
    await place.tell()
    async with place.page() as client:
        # Somebody watches all the time.
        await client.subscribe("w", topic)
        message = await client.until(lambda m: m["seq"])
        seen, at = message["seq"], message["position"]
        place.history.submit("b")
        await place.tell()
        await client.until(lambda m: m["seq"] > seen)

        await client.subscribe("o", topic, since=seen, at=at)
        assert (await client.next())["type"] == "change"
        # Another event than the one that stands there.
        await client.subscribe("o", topic, since=seen, at=f"{seen}:ghost:{at[-27:]}")
        assert (await client.next())["type"] == "snapshot"
        await client.subscribe("o", topic, since=seen, at="nonsense")
        assert (await client.next())["type"] == "refused"


async def test_who_comes_back_gets_what_changed_since(place):
    place.history.join("h1")
    seen = await place.tell()
    async with place.page() as client:
        await client.subscribe("o", "overview")
        before = (await client.next())["data"]
        async with place.page() as other:
            place.history.submit("while away")
            now = await place.tell()
            await client.until(lambda m: m.get("seq") == now)
            await other.subscribe("o", "overview", since=seen)
            change = await other.next()
            assert (change["type"], change["seq"]) == ("change", now)
            assert change["data"]["waiting"] == 1
            whole = {**before, **change["data"]}
            assert whole == client.data["o"]


async def test_costs_since_a_year_that_nothing_lies_before_are_told(place):
    async with place.page() as page:
        for id_, since in (("c", "1000-01-01T00:00:00Z"), ("d", "2h")):
            params = {"by": "target", "since": since}
            request = {"op": "subscribe", "id": id_, "topic": "costs", "params": params}
            await page.socket.send_json(request)
            said = await page.until(lambda each, id_=id_: each.get("id") == id_)
            assert said["type"] == "snapshot"
            assert ("before" in said["data"]) is (id_ == "d")


async def test_who_was_told_more_than_there_is_gets_a_snapshot(place):
    place.history.submit("x")
    await place.tell()
    async with place.page() as client:
        await client.subscribe("o", "overview", since=1_000)
        assert (await client.next())["type"] == "snapshot"


async def test_the_log_goes_on_where_somebody_left_it(place):
    for _ in range(3):
        place.history.submit("x")
    await place.tell()
    async with place.page() as client:
        await client.subscribe("e", "events", subject="agentcom.evt.task.*")
        seen = [each["seq"] for each in (await client.next())["data"]["events"]]
    assert seen == [1, 2, 3]
    for _ in range(4):
        place.history.submit("y")
    place.history.join("h1")
    await place.tell()
    async with place.page() as client:
        await client.subscribe("e", "events", since=3, subject="agentcom.evt.task.*")
        message = await client.next()
        assert message["type"] == "change"
        assert [each["seq"] for each in message["data"]["events"]] == [4, 5, 6, 7]


async def test_live_output_is_what_the_dashboard_s_rules_say(place):
    history, output = place.history, place.output
    route = history.route(history.submit("x"))
    history.start(route)
    await place.tell()
    output.say(route, "before")
    async with place.page() as client:
        await client.subscribe("t", "task", task_id=route.task)
        assert [each["text"] for each in await client.text("before")] == ["before"]
        output.say(route, "trying again", "status", segment=1)
        (message,) = await client.text("trying again")
        assert message == {
            "type": "execution_event",
            "task_id": route.task,
            "event_type": "status",
            "text": "trying again",
            "tokens_so_far": None,
            "model": None,
            "timestamp": rfc3339(START),
            "route": route.id,
            "generation": 1,
            "attempt": 1,
            "segment": 1,
            "n": 1,
        }


async def test_output_has_no_gap_and_no_repeat_when_the_broker_was_away(place):
    history, output = place.history, place.output
    route = history.route(history.submit("x"))
    await place.tell()
    async with place.page() as client:
        await client.subscribe("t", "task", task_id=route.task)
        output.say(route, "0")
        await client.text("0")
        place.bus.set_connected(False)
        for n in range(1, 5):
            output.say(route, str(n), heard=False)
        # The server sends again before the connection is said to be up.
        early = output.say(route, "5", heard=False)
        subject = f"agentcom.tap.{route.host}.{route.task}"
        message = SimpleNamespace(subject=subject, data=encode(early))
        place.server.bridge.output._on(message)
        place.bus.set_connected(True)
        output.say(route, "6")
        assert [each["text"] for each in await client.text("6")] == list("123456")


async def test_a_stream_of_a_task_that_is_over_waits_for_output_that_comes_late(place):
    history, output = place.history, place.output
    route = history.route(history.submit("x"))
    history.complete(route, output="12")
    await place.tell()
    output.say(route, "1")
    read = output.placed

    async def placed(task_id, *, start=1):
        async for each in read(task_id, start=start):
            yield each
        if len(output.stored) == 1:
            # Its host comes back to the broker.
            output.say(route, "2")

    output.placed = placed
    url = f"{place.base}/api/v1/tasks/{route.task}/output"
    headers = {"Accept": "text/event-stream"}
    async with place.session.get(url, headers=headers) as answer:
        said = await answer.text()
    assert said.count('"stdout"') == 2
    assert "event: end" in said


async def test_a_page_that_comes_back_gets_only_newer_output(place):
    history, output = place.history, place.output
    route = history.route(history.submit("x"))
    await place.tell()
    for n in range(5):
        output.say(route, str(n))
    async with place.page() as client:
        await client.subscribe("t", "task", task_id=route.task, after={route.id: 2})
        assert [each["text"] for each in await client.text("4")] == ["3", "4"]


async def test_of_long_output_a_page_gets_the_end_and_a_mark(place):
    history, output = place.history, place.output
    route = history.route(history.submit("x"))
    await place.tell()
    for n in range(40):
        output.say(route, f"{n} {'x' * 100_000}")
    output.say(route, "the end")
    async with place.page() as client:
        await client.subscribe("t", "task", task_id=route.task)
        messages = await client.text("the end")
        assert messages[0]["type"] == "gap"
        assert messages[0]["lost"] + len(messages[1:]) == 41
        assert 10 < len(messages) < 20


async def test_output_of_a_task_that_is_over_streams_whole_and_is_never_held_so(
    place, monkeypatch
):
    history, output = place.history, place.output
    route = history.route(history.submit("x"))
    history.start(route)
    for n in range(60):
        output.say(route, f"{n} {'x' * 100_000}")
    history.complete(route)
    await place.tell()
    monkeypatch.setattr(output, "read", None)
    url = f"{place.base}/api/v1/tasks/{route.task}/output"
    headers = {"Accept": "text/event-stream"}
    async with place.session.get(url, headers=headers) as answer:
        lines = (await answer.text()).splitlines()
    said = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert [each["n"] for each in said[:-1]] == list(range(60))
    assert said[-1] == {"task_id": route.task, "state": "completed"}


async def test_a_chunk_of_another_task_s_subject_is_nobody_s(place):
    history, output = place.history, place.output
    mine, other = history.route(history.submit("x")), history.route(history.submit("y"))
    await place.tell()
    async with place.page() as client:
        await client.subscribe("t", "task", task_id=mine.task)
        await client.next()
        forged = output.say(other, "forged", heard=False)
        as_mine = msgspec.structs.replace(forged, task_id=mine.task, route=mine.id)
        place.bus.publish(f"agentcom.tap.h1.{other.task}", encode(as_mine))
        output.say(mine, "true")
        assert [each["text"] for each in await client.text("true")] == ["true"]


async def test_a_stalled_page_loses_text_first_and_state_never(place):
    """And the page beside it is sent everything meanwhile."""
    history, output = place.history, place.output
    route = history.route(history.submit("x"))
    history.start(route)
    await place.tell()
    async with place.page() as stalled, place.page() as brisk:
        for page in (stalled, brisk):
            await page.subscribe("t", "task", task_id=route.task)
            await page.next()
        # The stalled one reads nothing: its kernel buffers fill, then its queue.
        stalled.socket._response.connection.transport.pause_reading()
        text = "x" * 50_000
        received = 0
        for n in range(600):
            output.say(route, f"{n} {text}")
            received += len(await brisk.text(f"{n} {text}"))
            if n % 100 == 0:
                output.say(route, f"status {n}", "status")
                received += len(await brisk.text(f"status {n}"))
        output.say(route, "the end", "status")
        received += len(await brisk.text("the end"))
        assert received == 600 + 6 + 1
        waiting = max(page._output_bytes for page in place.server.bridge.pages)
        assert waiting <= pages.QUEUE_BYTES + len(text) * 2

        history.complete(route)
        await place.tell()
        stalled.socket._response.connection.transport.resume_reading()
        messages = await stalled.text("the end")
        kinds = [each.get("event_type", each["type"]) for each in messages]
        assert kinds.count("status") == 7
        assert "gap" in kinds
        lost = sum(each.get("lost", 0) for each in messages)
        assert lost + kinds.count("stdout") == 600
        await stalled.until(
            lambda m: m.get("data", {}).get("task", {}).get("state") == "completed"
        )


async def test_many_changes_reach_a_page_as_few(place):
    async with place.page() as client:
        await client.subscribe("t", "tasks")
        await client.next()
        for _ in range(500):
            place.history.submit("x")
        last = await place.tell()
        messages = 0
        while client.seq["t"] < last:
            await client.next()
            messages += 1
        assert client.data["t"]["total"] == 500
        assert messages < 50


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"op": "dance", "id": "a"}',
        '{"op": "subscribe", "id": "a b", "topic": "tasks"}',
        '{"op": "subscribe", "id": "a", "topic": "weather"}',
        '{"op": "subscribe", "id": "a", "topic": "tasks", "params": {"limit": 501}}',
        '{"op": "subscribe", "id": "a", "topic": "task", "params": {"task_id": 1}}',
        '{"op": "subscribe", "id": "a", "topic": "events", "params": {"subject": ">"}}',
        '{"op": "subscribe", "id": "a", "topic": "task", "params": {"task_id": "*.>"}}',
    ],
)
async def test_what_a_page_may_not_ask_is_refused_and_hurts_nobody(place, text):
    async with place.page() as client:
        await client.socket.send_str(text)
        assert (await client.next())["type"] == "refused"
        await client.subscribe("t", "tasks")
        assert (await client.next())["type"] == "snapshot"


async def test_a_page_has_only_so_many_subscriptions(place):
    async with place.page() as client:
        for n in range(pages.SUBSCRIPTIONS + 1):
            await client.subscribe(f"s{n}", "fleet")
        refused = await client.until(lambda m: m["type"] == "refused")
        assert refused["id"] == f"s{pages.SUBSCRIPTIONS}"


async def test_a_page_that_asks_without_end_is_slowed(place):
    async with place.page() as client:
        for _ in range(pages.REQUESTS_AT_ONCE + 50):
            await client.subscribe("t", "status")
        refused = await client.until(lambda m: m["type"] == "refused")
        assert "a second" in refused["error"]["error"]


async def test_a_tier_says_how_many_of_its_slots_are_free(place):
    history = place.history
    history.join("h1")
    history.submit("for nobody", tier="trivial", assign_to="nobody")
    async with place.page() as client:
        await place.tell()
        await client.subscribe("o", "overview")
        await client.next()

        async def free(*slots: int) -> None:
            await place.tell()
            async with asyncio.timeout(60):
                while [tier["free"] for tier in client.data["o"]["tiers"]] != [*slots]:
                    await client.next()

        await free(2, 1, 0)
        route = history.route(history.submit("x"), host="h1", endpoint="h1-ollama")
        await free(2, 0, 0)
        history.complete(route)
        await free(2, 1, 0)
        history.lose("h1")
        await free(0, 0, 0)


async def test_another_origin_s_page_gets_no_websocket(place):
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        async with place.page(origin="http://evil.example"):
            pass


async def test_nothing_is_made_for_nobody(place):
    async with place.page() as client:
        await client.subscribe("o", "overview")
        await client.subscribe("t", "task", task_id="01ARZ3NDEKTSV4RRFFQ69G5FAV")
        await client.until(lambda m: m["type"] == "refused")
        assert len(place.server.bridge.documents.watched) == 2
        await client.socket.send_json({"op": "unsubscribe", "id": "t"})
        await until(lambda: len(place.server.bridge.documents.watched) == 1)
    await until(lambda: not place.server.bridge.pages)
    assert place.server.bridge.documents.watched == {}
    assert place.server.bridge.output._listening == {}


async def test_the_last_lines_of_what_runs_are_kept_while_somebody_looks(place):
    history, output = place.history, place.output
    route = history.route(history.submit("x"))
    history.start(route)
    await place.tell()
    async with place.page() as client:
        await client.subscribe("l", "tails")
        await client.next()
        output.say(route, "one\ntw")
        output.say(route, "o\nthree")
        output.say(route, "oops", "error")
        message = await client.until(lambda m: len(str(m["data"])) > 60)
        lines = message["data"]["tails"][route.task]
        assert [(line["type"], line["text"]) for line in lines] == [
            ("stdout", "one"),
            ("stdout", "two"),
            ("stdout", "three"),
            ("error", "oops"),
        ]


async def test_what_runs_silently_since_before_anybody_looked_has_its_last_lines(place):
    history, output = place.history, place.output
    route = history.route(history.submit("x"))
    history.start(route)
    output.say(route, "one\ntwo")
    await place.tell()
    async with place.page() as client:
        await client.subscribe("l", "tails")
        message = await client.until(lambda m: route.task in m["data"]["tails"])
        lines = message["data"]["tails"][route.task]
        assert [line["text"] for line in lines] == ["one", "two"]


def printed(n, text="x", kind="stdout"):
    chunk = Chunk(
        task_id="T",
        event_type=kind,
        text=text,
        timestamp="",
        route="R",
        generation=1,
        attempt=1,
        segment=0,
        n=n,
    )
    return chunk, encode_chunk(chunk)


def test_what_comes_while_the_past_is_read_is_bounded_and_what_is_dropped_is_a_gap():
    heard = Heard()
    watch = OutputWatch("T", heard, {})
    for n in range(1_000):
        watch.take(*printed(n, "x" * 10_000, "error" if n == 500 else "stdout"))
    watch.begin([printed(n) for n in range(300)], 0)
    watch.take(*printed(1_000))

    history, gaps = heard.told[:300], [n for what, n in heard.told if what == "gap"]
    live = [size for what, size in heard.told[300:] if what == "output"]
    assert [what for what, _ in history] == ["output"] * 300
    # Up to the error, which is never dropped, and from there to the end that was kept.
    assert gaps[0] == 500 - 300
    assert len(gaps) == 2
    assert 300 + sum(gaps) + len(live) == 1_001
    assert OutputWatch.history_bytes < sum(live) < OutputWatch.history_bytes + 40_000
    assert heard.told[-2] == ("begun", 0)


class Flood:
    """An output stream with so much of one task that nobody may hold it all."""

    async def read(self, task_id, *, start=1):
        raise AssertionError("all of it is held at once")

    async def placed(self, task_id, *, start=1):
        for n in range(1, 401):
            kind = "status" if n in (1, 300) else "stdout"
            text = f"{n}\n" + "x" * 10_000
            chunk = Chunk(
                task_id=task_id,
                event_type=kind,
                text=text,
                timestamp="",
                route="R",
                generation=1,
                attempt=1,
                segment=0,
                n=n,
            )
            yield n + 1_000, chunk


class Heard:
    """A sink that notes in what order it was told what."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.done = asyncio.Event()

    def output(self, chunk, raw, *, past):
        self.told.append(("output", len(raw)))

    def gap(self, task_id, lost):
        self.told.append(("gap", lost))

    def skipped(self, task_id, mark):
        self.told.append(("skipped", mark))

    def begun(self, task_id):
        self.told.append(("begun", 0))
        self.done.set()


async def test_of_a_flood_a_page_gets_the_end_and_all_of_it_is_never_held():
    flood, heard = Flood(), Heard()
    feed = OutputFeed(MemoryBus(MemoryBroker()), flood)
    watch = OutputWatch("T", heard, {})
    async with asyncio.timeout(60):
        await feed.attach(watch)
        await heard.done.wait()
    first, *rest, last = heard.told
    kept = [size for what, size in rest if what == "output"]
    assert last == ("begun", 0)
    assert first == ("gap", 400 - len(kept))
    assert OutputWatch.history_bytes < sum(kept) < OutputWatch.history_bytes + 40_000
    await feed.detach(watch)
    await feed.close()


async def test_of_more_than_a_page_can_show_it_is_told_where_that_begins(monkeypatch):
    monkeypatch.setattr("web.live.SHOWN_CHARACTERS", 2_000_000)
    heard = Heard()
    feed = OutputFeed(MemoryBus(MemoryBroker()), Flood())
    watch = OutputWatch("T", heard, {})
    async with asyncio.timeout(60):
        await feed.attach(watch)
        await heard.done.wait()
    (what, mark), (_, lost) = heard.told[:2]
    assert (what, mark.route, mark.seq) == ("skipped", "R", mark.n + 1_000)
    # A status line is not text, and no line of it.
    assert mark.lines == mark.n - 1 - 1
    # No more than was asked for, and as much of it as the marks allow.
    assert 175 < 400 - mark.n < 200
    # The page reads on there, up to what the socket brings.
    assert mark.n < lost
    await feed.detach(watch)
    await feed.close()


@pytest.mark.parametrize("name", ["overview", "attention", "fleet", "schedules"])
def test_what_ends_by_the_clock_alone_is_looked_at_again_though_nothing_happens(name):
    # A limit's end, a host's silence, a planned time: no event says that it has come.
    tick_s = TOPICS[name].tick_s
    assert tick_s is not None
    assert tick_s <= 20
