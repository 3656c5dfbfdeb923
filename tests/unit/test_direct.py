"""Batches of a stream's messages, read from a broker that is slow to answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from events import header
from events.errors import LogUnavailable
from events.nats import api

if TYPE_CHECKING:
    from collections.abc import Callable


class SlowBroker:
    """Stands for a link: answers the n-th question with `scripts[n]`, then not at all.

    A number is a message with that sequence, "end" the end of the answer, "more" one behind
    which there is more.
    """

    def __init__(self, *scripts: list[int | str]) -> None:
        self.asked: list[int] = []
        self.most_bytes: list[int] = []
        self._scripts = list(scripts)
        self._on: Callable[[Any], None] = lambda message: None

    def new_inbox(self) -> str:
        return "inbox"

    async def subscribe(self, subject: str, on: Callable[[Any], None]) -> Any:
        self._on = on
        return self

    async def stop(self) -> None:
        self._on = lambda message: None

    def expect(self, subject: str, heard: Callable[[Any], None]) -> str:
        return "marker"

    def forget(self, marker: str) -> None:
        pass

    def post(self, subject: str, data: bytes, *, reply: str) -> bool:
        request = msgspec.json.decode(data)
        self.asked.append(request["seq"])
        self.most_bytes.append(request.get("max_bytes", 0))
        for said in self._scripts.pop(0) if self._scripts else []:
            status = "204" if said in ("end", "more") else ""
            headers = {header.SEQUENCE: str(said)}
            headers[header.NUM_PENDING] = str(int(said == "more"))
            self._on(SimpleNamespace(status=status, headers=headers))
        return True


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(api, "ACK_TIMEOUT", 0.01)


async def sequences(broker: SlowBroker, limit: int = 3) -> list[str]:
    link: Any = broker
    found = api.direct(link, "STREAM", "subject", limit=limit)
    return [message.headers[header.SEQUENCE] async for message in found]


async def test_a_question_that_nobody_answers_is_asked_again():
    broker = SlowBroker([], [], [4, 7, "end"])
    assert await sequences(broker) == ["4", "7"]
    assert broker.asked == [1, 1, 1]


async def test_an_answer_that_breaks_off_goes_on_behind_its_last_message():
    broker = SlowBroker([4], [], [7, "end"])
    assert await sequences(broker) == ["4", "7"]
    assert broker.asked == [1, 5, 5]


async def test_no_answer_is_larger_than_a_reader_should_hold():
    broker = SlowBroker([4, 7, "end"])
    assert await sequences(broker) == ["4", "7"]
    # What is not bounded the broker holds itself, up to 64 MiB for each reader.
    assert 0 < broker.most_bytes[0] <= 4 * 1024 * 1024


async def test_who_reads_on_is_sent_more_at_once_until_an_answer_breaks_off():
    broker = SlowBroker(*([n, "more"] for n in range(1, 6)), [6], [7, "end"])
    assert len(await sequences(broker, limit=10)) == 7
    first, most = api.DIRECT_BYTES, api.DIRECT_MOST_BYTES
    assert broker.most_bytes[:2] == [first, 2 * first]
    assert broker.most_bytes[2:] == [most, most, most, most, first]
    assert most <= 8 * 1024 * 1024


async def test_silence_ends_in_a_refusal():
    broker = SlowBroker()
    with pytest.raises(LogUnavailable, match="no answer in time"):
        await sequences(broker)
    assert broker.asked == [1] * api.DIRECT_TRIES
