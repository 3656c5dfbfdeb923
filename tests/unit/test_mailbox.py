"""The mailbox: one message at a time, bounded, and no message ends the actor."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from actors.host.mailbox import Envelope, Mailbox
from events import mail as m
from events.codec import encode
from events.errors import Unreachable
from tests.support.fakes import MemoryBroker, MemoryBus

SUBJECT = "agentcom.mbx.host.h1"
_replies = msgspec.json.Decoder(m.Reply)


class Actor:
    """Writes down what it gets; answers at once unless told to wait."""

    def __init__(self, capacity: int = 100) -> None:
        broker = MemoryBroker()
        self.theirs = MemoryBus(broker)
        self.got: list[m.HostMail] = []
        self.kept: list[Envelope] = []
        self.keep = False
        self.fault: Exception | None = None
        self.faults: list[Exception] = []
        self.mailbox: Mailbox[m.HostMail] = Mailbox(
            MemoryBus(broker),
            SUBJECT,
            m.HostMail,
            self.handle,
            faults=self.faults.append,
            capacity=capacity,
        )

    def handle(self, mail: m.HostMail, envelope: Envelope) -> None:
        self.got.append(mail)
        if self.fault is not None:
            raise self.fault
        if self.keep:
            self.kept.append(envelope)
        else:
            envelope.respond(encode(m.Reply(ok=True)))

    async def tell(self, mail: object, timeout: float = 10) -> m.Reply:
        data = mail if isinstance(mail, bytes) else encode(mail)
        return _replies.decode(
            await self.theirs.request(SUBJECT, data, timeout=timeout)
        )


@pytest.fixture
async def actor():
    made = Actor()
    await made.mailbox.open()
    return made


async def test_mail_is_read_handled_and_answered_in_its_order(actor):
    mails = [m.Drain(reason=str(n)) for n in range(50)]
    replies = await asyncio.gather(*(actor.tell(mail) for mail in mails))
    assert actor.got == mails
    assert all(reply.ok for reply in replies)
    assert actor.mailbox.waiting == 0


async def test_an_answer_may_come_later_and_others_are_handled_meanwhile(actor):
    actor.keep = True
    first, second = actor.tell(m.Inspect()), actor.tell(m.Resume())
    asked = [asyncio.ensure_future(one) for one in (first, second)]
    while len(actor.kept) < 2:
        await asyncio.sleep(0)
    assert actor.mailbox.waiting == 2
    for n, envelope in enumerate(reversed(actor.kept)):
        envelope.respond(encode(m.Reply(ok=True, detail=str(n))))
    assert [(await one).detail for one in asked] == ["1", "0"]
    assert actor.mailbox.waiting == 0


async def test_a_letter_takes_one_answer(actor):
    actor.keep = True
    asked = asyncio.ensure_future(actor.tell(m.Inspect()))
    while not actor.kept:
        await asyncio.sleep(0)
    (envelope,) = actor.kept
    for n in range(3):
        envelope.respond(encode(m.Reply(ok=True, detail=str(n))))
    assert envelope.answered
    assert (await asked).detail == "0"
    assert actor.mailbox.waiting == 0


async def test_what_is_no_mail_is_answered_with_what_is_wrong(actor):
    for raw, said in (
        (b"", "expected JSON"),
        (b"\xff\xfe", "expected JSON"),
        (b'{"type":"sing"}', "type: expected one of assign, cancel, "),
        (b'{"type":"cancel","task_id":1,"epoch":1}', "task_id: expected text, got 1"),
        (b'{"a":' + b"[" * 100_000, "expected JSON of a reasonable depth"),
    ):
        reply = await actor.tell(raw)
        assert (reply.ok, reply.code) == (False, "malformed")
        assert reply.detail.startswith(said)
    assert actor.got == []
    assert (await actor.tell(m.Inspect())).ok


@pytest.mark.parametrize(
    "fault", [RuntimeError("no"), RecursionError(), OSError(2, "no", "a\udcff")]
)
async def test_a_fault_answers_is_told_and_ends_nothing(actor, fault):
    actor.fault = fault
    reply = await actor.tell(m.Inspect())
    assert (reply.ok, reply.code) == (False, "fault")
    assert reply.detail.startswith(type(fault).__name__)
    assert actor.faults == [fault]
    actor.fault = None
    assert (await actor.tell(m.Inspect())).ok
    assert actor.mailbox.waiting == 0


async def test_a_full_mailbox_says_busy_and_has_room_again_after_an_answer():
    actor = Actor(capacity=2)
    await actor.mailbox.open()
    actor.keep = True
    asked = [asyncio.ensure_future(actor.tell(m.Inspect())) for _ in range(2)]
    while len(actor.kept) < 2:
        await asyncio.sleep(0)
    assert (await actor.tell(m.Inspect())).code == "busy"
    assert actor.mailbox.waiting == 2
    actor.keep = False
    actor.kept.pop().respond(encode(m.Reply(ok=True)))
    assert (await actor.tell(m.Inspect())).ok
    actor.kept.pop().respond(encode(m.Reply(ok=True)))
    await asyncio.gather(*asked)


async def test_a_letter_that_nobody_holds_any_more_gives_up_its_place(actor):
    actor.keep = True
    asked = actor.theirs.request(SUBJECT, encode(m.Inspect()), timeout=60)
    while not actor.kept:
        await asyncio.sleep(0)
    assert actor.mailbox.waiting == 1
    actor.kept.clear()
    assert actor.mailbox.waiting == 0
    asked.cancel()


async def test_mail_that_wants_no_answer_is_handled_too(actor):
    actor.theirs.publish(SUBJECT, encode(m.Resume()))
    actor.theirs.publish(SUBJECT, b"nonsense")
    await actor.tell(m.Inspect())
    assert actor.got == [m.Resume(), m.Inspect()]
    assert actor.mailbox.waiting == 0


async def test_closing_waits_for_the_answers_and_receives_nothing_more(actor):
    actor.keep = True
    asked = asyncio.ensure_future(actor.tell(m.Inspect()))
    while not actor.kept:
        await asyncio.sleep(0)
    closing = asyncio.ensure_future(actor.mailbox.close())
    await asyncio.sleep(0)
    assert not closing.done()
    with pytest.raises(Unreachable):
        await actor.tell(m.Inspect())
    actor.kept.pop().respond(encode(m.Reply(ok=True)))
    await closing
    assert (await asked).ok
