"""A host is drained and resumed as it was seen, however many gateways there are."""

from __future__ import annotations

import itertools

from actors.gateway.gateway import Gateway
from actors.host.decide import decide
from actors.host.state import About, evolve, initial
from events import commands as m
from events import subjects
from events.codec import Reader, encode
from events.ids import ulid
from events.mail import Drain, HostMail, Inspect, Reply, Resume
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog

NOW = 1_770_000_000.0


class Machine:
    """A host that answers mail; `before` is called with each before it is decided on."""

    def __init__(self) -> None:
        self.state = initial("h1", "incarnation-1", About(version="1"), {})
        self.heard: list[HostMail] = []
        self.before = lambda mail: None

    def hear(self, mail: HostMail) -> Reply:
        decision = decide(mail, self.state, NOW, lambda: "e1")
        for fact in decision.facts:
            evolve(self.state, fact)
        return decision.effects[-1].reply

    def on(self, message) -> None:
        mail = Reader(HostMail).decode(message.data)
        self.heard.append(mail)
        self.before(mail)
        message.respond(encode(self.hear(mail)))


async def answer_to(machine: Machine, command: str) -> m.Done | m.Refusal:
    """Ask a gateway for it that has nothing but a bus to this machine."""
    bus = MemoryBus(MemoryBroker())
    await bus.listen(subjects.host_mailbox("h1"), machine.on)
    ids = (ulid(NOW, n) for n in itertools.count())
    gateway = Gateway("g", MemoryLog(), bus, lambda: next(ids), lambda: NOW, None)
    return await gateway.answer(command, b'{"host":"h1"}', "alice")


async def test_a_host_is_told_what_it_was_seen_to_be():
    machine = Machine()
    assert (await answer_to(machine, "host.drain")).ok
    assert machine.heard == [
        Inspect(),
        Drain(incarnation="incarnation-1", version=0, reason="by alice"),
    ]
    assert machine.state.draining
    assert (await answer_to(machine, "host.resume")).ok
    assert machine.heard[-1] == Resume(incarnation="incarnation-1", version=1)
    assert not machine.state.draining


async def test_a_drain_that_is_overtaken_by_another_gateway_looks_again():
    machine = Machine()

    def overtake(mail: HostMail) -> None:
        if isinstance(mail, Drain) and machine.state.drain_version == 0:
            machine.hear(Resume(incarnation="incarnation-1", version=0))

    machine.before = overtake
    assert (await answer_to(machine, "host.drain")).ok
    assert [mail.version for mail in machine.heard if isinstance(mail, Drain)] == [
        0,
        1,
    ]
    assert machine.state.draining


async def test_a_host_that_others_turn_all_the_time_is_left_to_them():
    machine = Machine()
    machine.before = lambda mail: machine.hear(Resume())
    answer = await answer_to(machine, "host.drain")
    assert (answer.ok, answer.code, answer.status) == (False, "conflict", 409)


async def test_a_host_of_an_older_version_is_told_as_it_always_was():
    machine = Machine()
    hear = machine.hear
    machine.hear = lambda mail: (
        Reply(ok=True, info={"incarnation": "incarnation-1", "turns": "many"})
        if isinstance(mail, Inspect)
        else hear(mail)
    )
    assert (await answer_to(machine, "host.drain")).ok
    assert machine.heard[-1] == Drain(reason="by alice")


def test_the_version_is_called_turn_on_the_wire_as_hosts_of_0_1_know_it():
    raw = encode(Drain(incarnation="incarnation-1", version=3))
    assert raw == b'{"type":"drain","incarnation":"incarnation-1","turn":3}'
