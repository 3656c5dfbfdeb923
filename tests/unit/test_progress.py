"""Live output: first at once, then in batches, in order, numbered, bounded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from events import catalogue as c
from events import mail
from events.chunks import Gap, Seen, gaps
from sidecar import progress as under_test
from sidecar.output_queue import OutputQueue, Pace
from sidecar.progress import CHUNK_BYTES, Progress, split
from tests.support.fakes import MemoryBroker, MemoryBus

if TYPE_CHECKING:
    import pytest


class Sink:
    """Keeps chunks; refuses them while `full`."""

    def __init__(self) -> None:
        self.chunks: list[c.Chunk] = []
        self.full = False
        self.news = asyncio.Event()

    def publish(self, subject: str, data: bytes, *, must: bool = False) -> bool:
        assert subject == "agentcom.out.h1.t1"
        if self.full and not must:
            return False
        self.chunks.append(msgspec.json.decode(data, type=c.Chunk))
        self.news.set()
        return True

    @property
    def said(self) -> list[tuple[str, str]]:
        return [(chunk.event_type, chunk.text) for chunk in self.chunks]

    @property
    def numbers(self) -> list[int]:
        return [chunk.n for chunk in self.chunks]


class Speaker:
    host, incarnation = "h1", "incarnation-1"

    def __init__(self) -> None:
        self.events: list[Any] = []

    def now(self) -> float:
        return 1_770_000_000.0

    def new_id(self) -> str:
        return "e"

    def say(self, subject: str, event: c.Event) -> None:
        assert subject == "agentcom.evt.run.h1.t1"
        self.events.append(event)


class Told:
    def __init__(self, limits: mail.Limits | None = None) -> None:
        self.sink, self.speaker = Sink(), Speaker()
        assign = mail.Assign(
            epoch=1,
            task_id="t1",
            route="r1",
            generation=2,
            attempt=3,
            spec=c.TaskSpec(description="x"),
            tier="standard",
            target_type="ollama",
            model="m",
            limits=limits or mail.Limits(),
        )
        self.progress = Progress(assign, self.sink, self.speaker)


async def test_the_first_piece_leaves_at_once_and_the_next_wait_together() -> None:
    told = Told()
    for word in ("one", " two", " three"):
        told.progress.text("token", word)
    assert told.sink.said == [("token", "one")]
    told.sink.news.clear()
    await told.sink.news.wait()
    assert told.sink.said == [("token", "one"), ("token", " two three")]
    told.progress.close()


async def test_a_piece_after_a_pause_leaves_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(under_test, "JOIN_S", 0.001)
    told = Told()
    told.progress.text("stdout", "a")
    while told.progress._timer is not None:
        await asyncio.sleep(0.001)
    told.progress.text("stdout", "b")
    assert told.sink.said == [("stdout", "a"), ("stdout", "b")]
    told.progress.close()


async def test_much_text_does_not_wait() -> None:
    told = Told()
    told.progress.text("stdout", "x")
    told.progress.text("stdout", "y" * CHUNK_BYTES)
    assert told.sink.said[1:] == [("stdout", "y" * CHUNK_BYTES)]
    told.progress.close()


async def test_lines_never_overtake_text_and_kinds_keep_their_order() -> None:
    told = Told()
    say = told.progress
    say.text("stdout", "1")
    say.text("stdout", "2")
    say.text("stderr", "3")
    say.text("stderr", "4")
    say.text("stdout", "5")
    say.status("6")
    say.text("token", "7")
    say.error("8", "bad")
    say.close()
    assert told.sink.said == [
        ("stdout", "1"),
        ("stdout", "2"),
        ("stderr", "34"),
        ("stdout", "5"),
        ("status", "6"),
        ("token", "7"),
        ("error", "8"),
    ]
    assert told.sink.numbers == [1, 2, 3, 4, 5, 6, 7]


async def test_lines_are_events_with_the_number_of_their_chunk() -> None:
    told = Told()
    told.progress.text("token", "x")
    told.progress.status("going")
    told.progress.error("broken", "oops")
    told.progress.close()
    status, error = told.speaker.events
    assert (status.text, status.n, status.segment) == ("going", 2, 0)
    assert (error.text, error.code, error.n) == ("broken", "oops", 3)
    assert (status.route, status.generation, status.attempt) == ("r1", 2, 3)
    assert status.incarnation == "incarnation-1"


async def test_a_retry_starts_a_new_segment() -> None:
    told = Told()
    told.progress.text("token", "a")
    told.progress.text("token", "b")
    told.progress.retrying("Ollama retry 1/2...", retry=1, of=2, reason="refused")
    told.progress.text("token", "c")
    told.progress.close()
    assert [chunk.segment for chunk in told.sink.chunks] == [0, 0, 1, 1]
    [event] = told.speaker.events
    assert isinstance(event, c.TaskRetrying)
    assert (event.retry, event.of, event.segment, event.n) == (1, 2, 1, 3)


async def test_tokens_so_far_and_the_model_travel_along() -> None:
    told = Told()
    told.progress.text("token", "a", tokens_so_far=1)
    told.progress.text("token", "b", tokens_so_far=2)
    told.progress.text("token", "c", tokens_so_far=3)
    told.progress.close()
    assert [chunk.tokens_so_far for chunk in told.sink.chunks] == [1, 3]
    assert {chunk.model for chunk in told.sink.chunks} == {"m"}


async def test_dropped_text_leaves_a_gap_in_the_numbers_and_a_mark_in_the_text() -> (
    None
):
    told = Told()
    told.progress.text("stdout", "a")
    told.sink.full = True
    told.progress.text("stdout", "b" * CHUNK_BYTES)
    told.sink.full = False
    told.progress.status("c")
    assert told.sink.numbers == [1, 3, 4]
    kind, mark = told.sink.said[1]
    assert (kind, "65,536 bytes are missing here" in mark) == ("stdout", True)
    assert told.progress.dropped == 1
    told.progress.close()
    assert len(told.sink.chunks) == 3


async def test_text_dropped_at_the_end_is_marked_whatever_room_there_is() -> None:
    told = Told()
    told.progress.text("stdout", "a")
    told.sink.full = True
    told.progress.text("stdout", "b" * CHUNK_BYTES)
    told.progress.close()
    assert "65,536 bytes are missing" in told.sink.said[-1][1]


async def test_a_run_that_shows_too_much_is_cut_with_one_notice_and_goes_on() -> None:
    told = Told(mail.Limits(live_output_bytes=10))
    told.progress.text("stdout", "12345")
    told.progress.text("stdout", "67890123")
    told.progress.status("still here")
    for _ in range(3):
        told.progress.text("stdout", "more")
    told.progress.close()
    kinds = [kind for kind, _ in told.sink.said]
    text = "".join(text for kind, text in told.sink.said if kind == "stdout")
    assert kinds == ["stdout", "stdout", "status", "status"]
    assert text == "1234567890"
    assert "may show 10 bytes" in told.sink.said[2][1]
    assert "may show 10 bytes" in told.speaker.events[0].text


async def test_nothing_is_said_once_closed() -> None:
    told = Told()
    told.progress.close()
    told.progress.text("stdout", "a")
    told.progress.status("b")
    told.progress.retrying("c", retry=1, of=1)
    assert (told.sink.chunks, told.speaker.events) == ([], [])


async def test_half_surrogates_are_replaced_not_fatal() -> None:
    told = Told()
    told.progress.text("stdout", "a\ud800b")
    told.progress.status("c\udfffd")
    assert told.sink.said == [("stdout", "a?b"), ("status", "c?d")]
    told.progress.close()


@given(st.text(max_size=400), st.integers(4, 40))
def test_pieces_fit_and_join_to_the_whole(text: str, limit: int) -> None:
    text = text.encode("utf-8", "replace").decode()
    pieces = split(text, limit)
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= limit for piece in pieces)


# -- the way to the stream


class Stream:
    """The output stream's side of the bus: acknowledges when told to."""

    def __init__(self) -> None:
        broker = MemoryBroker()
        self.bus, self._theirs = MemoryBus(broker), MemoryBus(broker)
        self.messages: list[Any] = []
        self.holding = False
        self.answer = b"{}"

    async def open(self) -> Stream:
        await self._theirs.listen("agentcom.out.>", self._on)
        return self

    def _on(self, message: Any) -> None:
        self.messages.append(message)
        if not self.holding:
            message.respond(self.answer)

    def release(self) -> None:
        self.holding = False
        for message in self.messages:
            message.respond(b"{}")

    @property
    def texts(self) -> list[bytes]:
        return [message.data for message in self.messages]


async def test_chunks_arrive_in_order_through_a_window() -> None:
    stream = await Stream().open()
    queue = OutputQueue(stream.bus, in_flight_bytes=10)
    chunks = [b"%04d" % n for n in range(50)]
    assert all(queue.publish("agentcom.out.h1.t1", chunk) for chunk in chunks)
    await queue.flush()
    assert stream.texts == chunks


def test_a_pace_allows_a_burst_and_then_so_much_a_second() -> None:
    now = 0.0
    pace = Pace(rate=10, burst=100, clock=lambda: now)
    pace.spend(100)
    assert not pace.is_open()
    now = 1.0
    assert pace.is_open()
    pace.spend(10)
    assert not pace.is_open()
    now = 1_000.0
    assert pace.is_open()
    pace.spend(100)
    assert not pace.is_open()


async def test_a_flood_goes_at_its_pace_and_is_held_up_not_lost() -> None:
    stream = await Stream().open()
    held: list[bool] = []
    queue = OutputQueue(
        stream.bus,
        rate=4_000,
        burst_bytes=100,
        per_run_bytes=400,
        throttle=lambda _subject, wish: held.append(wish),
    )
    chunks = [b"%010d" % n for n in range(45)]
    assert all(queue.publish("agentcom.out.h1.t1", chunk) for chunk in chunks)
    await asyncio.sleep(0)
    assert 10 <= len(stream.messages) < 45
    await queue.flush()
    assert stream.texts == chunks
    assert held == [True, False]


async def test_a_slow_stream_bounds_what_waits() -> None:
    stream = await Stream().open()
    stream.holding = True
    queue = OutputQueue(
        stream.bus, in_flight_bytes=10, waiting_bytes=40, per_run_bytes=20
    )
    flood = [queue.publish("agentcom.out.h1.t1", b"12345") for _ in range(100)]
    assert sum(flood) == 2 + 4
    assert queue.publish("agentcom.out.h1.t2", b"12345")
    assert queue.dropped == 94
    await asyncio.sleep(0)
    stream.release()
    await queue.flush()
    assert len(stream.messages) == 7


async def test_what_waits_while_the_connection_is_away_goes_when_it_is_back() -> None:
    stream = await Stream().open()
    queue = OutputQueue(stream.bus)
    stream.bus.set_connected(False)
    assert queue.publish("agentcom.out.h1.t1", b"a")
    assert queue.publish("agentcom.out.h1.t1", b"b")
    stream.bus.set_connected(True)
    await queue.flush()
    assert stream.texts == [b"a", b"b"]
    assert (queue.dropped, queue.resent) == (0, 0)


async def test_what_was_on_its_way_as_the_connection_went_is_sent_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sidecar.output_queue.MOST_RETRY_S", 3_600.0)
    stream = await Stream().open()
    stream.holding = True
    # Neither is it waited for its answer, nor for long after what has failed.
    queue = OutputQueue(stream.bus, timeout_s=3_600.0, retry_s=3_600.0)
    assert queue.publish("agentcom.out.h1.t1", b"a")
    while not stream.messages:
        await asyncio.sleep(0)
    stream.bus.set_connected(False)
    await asyncio.sleep(0)
    assert queue.publish("agentcom.out.h1.t1", b"b")
    stream.holding = False
    stream.bus.set_connected(True)
    async with asyncio.timeout(60):
        await queue.flush()
    assert stream.texts == [b"a", b"a", b"b"]
    assert (queue.dropped, queue.resent) == (0, 1)


async def test_what_was_not_acknowledged_is_sent_again_in_order() -> None:
    stream = await Stream().open()
    queue = OutputQueue(stream.bus, timeout_s=0.01, retry_s=0.001)
    stream.holding = True
    chunks = [b"%04d" % n for n in range(20)]
    assert all(queue.publish("agentcom.out.h1.t1", chunk) for chunk in chunks)
    while len(stream.messages) < 40:
        await asyncio.sleep(0)
    stream.holding = False
    await queue.flush()
    assert list(dict.fromkeys(stream.texts)) == chunks
    assert stream.texts[-20:] == chunks
    assert queue.dropped == 0


async def test_a_refusal_of_the_stream_is_no_acknowledgement() -> None:
    stream = await Stream().open()
    stream.answer = b'{"error":{"code":503}}'
    queue = OutputQueue(stream.bus, retry_s=0.001)
    queue.publish("agentcom.out.h1.t1", b"a")
    while len(stream.messages) < 2:
        await asyncio.sleep(0)
    stream.answer = b"{}"
    await queue.flush()
    assert set(stream.texts) == {b"a"}
    assert queue.resent >= 2


class Valve:
    """Which runs are held up."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []
        self.news = asyncio.Event()

    def __call__(self, subject: str, held: bool) -> None:
        self.calls.append((subject, held))
        self.news.set()


async def test_a_run_is_held_up_before_anything_is_dropped_and_let_go_again() -> None:
    stream, valve = await Stream().open(), Valve()
    stream.holding = True
    queue = OutputQueue(
        stream.bus, in_flight_bytes=10, per_run_bytes=40, throttle=valve
    )
    flood = "agentcom.out.h1.t1"
    sent = 0
    while not valve.calls:
        assert queue.publish(flood, b"12345")
        sent += 1
    assert valve.calls == [(flood, True)]
    await asyncio.sleep(0)
    stream.release()
    await queue.flush()
    assert valve.calls == [(flood, True), (flood, False)]
    assert (len(stream.messages), queue.dropped) == (sent, 0)


async def test_nobody_is_held_up_for_ever() -> None:
    stream, valve = await Stream().open(), Valve()
    stream.bus.set_connected(False)
    queue = OutputQueue(stream.bus, per_run_bytes=40, throttle=valve, patience_s=0.001)
    run = "agentcom.out.h1.t1"
    while not valve.calls:
        assert queue.publish(run, b"12345")
    valve.news.clear()
    await valve.news.wait()
    assert valve.calls == [(run, True), (run, False)]
    while queue.publish(run, b"12345"):
        pass
    assert (valve.calls[2:], queue.dropped) == ([], 1)
    stream.bus.set_connected(True)
    await queue.flush()
    assert len(stream.messages) == 8


# -- what is stored


def chunk(n: int, route: str = "r1") -> c.Chunk:
    return c.Chunk(
        task_id="t1",
        event_type="stdout",
        text=str(n),
        timestamp="2026-01-01T00:00:00Z",
        route=route,
        generation=1,
        attempt=1,
        segment=0,
        n=n,
    )


def test_repeats_are_left_out_and_gaps_are_named() -> None:
    stored = [chunk(n) for n in (2, 3, 3, 6, 1_000_001, 1_000_003)] + [chunk(1, "r2")]
    seen = Seen()
    once = [chunk for chunk in stored if seen.is_new(chunk)]
    assert [each.n for each in once] == [2, 3, 6, 1_000_001, 1_000_003, 1]
    assert gaps(once) == [
        Gap("r1", 0, 1),
        Gap("r1", 3, 2),
        Gap("r1", 1_000_001, 1),
    ]
    assert gaps([chunk(n) for n in (1, 2, 3, 1_000_001)]) == []


async def test_what_a_tool_was_asked_and_answered_is_said_in_fields() -> None:
    told = Told()
    progress, sink = told.progress, told.sink
    asked = c.ToolUse(id="t1", name="Bash", input={"command": "ls"})
    progress.text("token", "I look. ")
    progress.text("tool", "Bash ls\n", tool=asked)
    progress.text("tool", "a\n", tool=c.ToolUse(id="t1", is_error=False))
    progress.text("tool", "inner ")
    progress.text("tool", "text")
    progress.close()
    assert [(each.text, each.tool) for each in sink.chunks] == [
        ("I look. ", None),
        ("Bash ls\n", asked),
        ("a\n", c.ToolUse(id="t1", is_error=False)),
        ("inner text", None),
    ]
