"""What an append makes of each answer that JetStream gives, over a link that is scripted."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from msgspec import json

from events import catalogue as c
from events.codec import decode_event
from events.errors import Conflict, LogUnavailable, Unreachable
from events.nats import log as under_test
from events.nats.link import NO_RESPONDERS
from events.nats.log import JetStreamLog

if TYPE_CHECKING:
    from collections.abc import Callable

SUBJECT = "agentcom.evt.policy"


class Answer(NamedTuple):
    data: bytes
    status: str = ""


def stored(seq: int) -> Answer:
    return Answer(json.encode({"stream": "E", "seq": seq}))


def refused(code: int, said: str, err_code: int = 0) -> Answer:
    error = {"code": code, "err_code": err_code, "description": said}
    return Answer(json.encode({"error": error}))


class ScriptedLink:
    """Gives `answers` in their order, one for each post; what was put is in `kept`.

    `lost` says whether the answer to a batch is lost on its way back.
    """

    def __init__(self, *answers: Answer, up: bool = True) -> None:
        self.answers = list(answers)
        self.up = up
        self.posted: list[bytes] = []
        self.kept: dict[int, tuple[str, bytes]] = {}
        self.lost = False
        self._heard: Callable[[Any], None] = print

    def on_connection(self, _: Any) -> Callable[[], None]:
        return lambda: None

    def expect(self, _: str, heard: Callable[[Any], None]) -> str:
        self._heard = heard
        return "inbox.1"

    def forget(self, reply: str) -> None:
        pass

    def post(self, subject: str, data: bytes, **more: Any) -> bool:
        if not self.up:
            return False
        self.posted.append(data)
        if more.get("reply"):
            self._heard(self.answers.pop(0))
        return True

    async def call(self, subject: str, data: bytes, **more: Any) -> Answer:
        if not subject.startswith("$JS.API.STREAM.MSG.GET"):
            self.posted.append(data)
            if self.lost:
                raise Unreachable(subject, absent=False)
            return self.answers.pop(0)
        asked = json.decode(data)
        of = asked.get("next_by_subj") or asked["last_by_subj"]
        found = [
            seq
            for seq, (where, _) in sorted(self.kept.items())
            if where == of and seq >= asked.get("seq", 0)
        ]
        if not found:
            return refused(404, "no message found", 10037)
        seq = found[0] if "seq" in asked else found[-1]
        body = base64.b64encode(self.kept[seq][1]).decode()
        return Answer(
            json.encode({"message": {"subject": of, "seq": seq, "data": body}})
        )


def event(name: str) -> c.Event:
    return c.PolicyChanged(
        id=name, at="2026-01-01T00:00:00Z", by="t", version=1, policy={}
    )


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "SWEEP", 0.001)


async def append(link: ScriptedLink) -> int:
    log = JetStreamLog(link)  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(60):
            return await log.append(SUBJECT, event("a"))
    finally:
        await log.close()


@pytest.mark.parametrize(
    "at_first",
    [Answer(b"", NO_RESPONDERS), refused(503, "no suitable peers")],
    ids=["nobody listens yet", "not now"],
)
async def test_what_may_pass_is_sent_again_until_it_is_stored(at_first: Answer):
    link = ScriptedLink(at_first, at_first, stored(7))
    assert await append(link) == 7
    assert [decode_event(each).id for each in link.posted] == ["a", "a", "a"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refused(413, "message size exceeds maximum allowed"), "exceeds maximum"),
        (Answer(b"<html>"), SUBJECT),
    ],
    ids=["refused for good", "no answer of JetStream's"],
)
async def test_what_will_not_pass_fails_at_once_and_says_why(answer: Answer, said: str):
    link = ScriptedLink(answer)
    with pytest.raises(LogUnavailable, match=said):
        await append(link)
    assert len(link.posted) == 1


async def test_without_a_connection_an_append_is_given_up_in_the_end(monkeypatch):
    monkeypatch.setattr(under_test, "APPEND_DEADLINE", 0.0)
    monkeypatch.setattr(under_test, "ACK_TIMEOUT", 0.0)
    with pytest.raises(LogUnavailable, match="no connection"):
        await append(ScriptedLink(up=False))


async def batch(link: ScriptedLink) -> list[int]:
    log = JetStreamLog(link)  # type: ignore[arg-type]
    try:
        return await log.append_batch(
            [(f"{SUBJECT}.1", event("a"), 0), (f"{SUBJECT}.2", event("b"), 0)]
        )
    finally:
        await log.close()


async def test_a_batch_that_is_refused_for_good_says_why():
    with pytest.raises(LogUnavailable, match="too many"):
        await batch(ScriptedLink(refused(400, "too many in one batch")))


async def test_a_batch_whose_answer_is_lost_is_looked_for_and_not_written_twice():
    link = ScriptedLink()
    link.lost = True
    put = link.call

    async def keep(subject: str, data: bytes, **more: Any) -> Answer:
        if subject == f"{SUBJECT}.2":
            link.kept = {
                4: (f"{SUBJECT}.1", link.posted[0]),
                5: (f"{SUBJECT}.2", data),
            }
        return await put(subject, data, **more)

    link.call = keep  # type: ignore[method-assign]
    assert await batch(link) == [4, 5]
    assert len(link.posted) == 2


async def test_a_batch_that_somebody_was_before_conflicts():
    link = ScriptedLink(refused(400, "wrong last sequence", 10071))
    link.kept = {3: (f"{SUBJECT}.1", b'{"not": "ours"}')}
    with pytest.raises(Conflict):
        await batch(link)
