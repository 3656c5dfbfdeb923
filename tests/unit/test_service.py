"""The gateway as a NATS service: ADR-32's shapes, and who asked."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from actors.gateway.service import NAME, QUEUE, Service, requester
from events.codec import encode
from events.commands import Done, Refusal, refuse
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryMessage

SERVICE_NAME = re.compile(r"[A-Za-z0-9_-]+")
SEMVER = re.compile(r"\d+\.\d+\.\d+")


class Commands:
    """A gateway of three commands."""

    commands = ("task.submit", "task.cancel", "host.drain")

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def submit(self, body, who, done, *, traceparent="") -> bool:
        return False

    async def answer(
        self, name: str, body: bytes, who: str, *, traceparent: str = ""
    ) -> Done | Refusal:
        self.received.append((name, body, who))
        await self.gate.wait()
        if name == "task.cancel":
            return refuse(
                "malformed", "task_id: expected str,\r\n got 'é\x00\x1b[31m'", "task_id"
            )
        if name == "host.drain":
            raise ZeroDivisionError("something of ours is broken")
        return Done(task_id="t1")


@pytest.fixture
def gateway():
    return Commands()


@pytest.fixture
def bus():
    return MemoryBus(MemoryBroker())


@pytest.fixture
async def service(gateway, bus):
    ticks = iter(range(0, 1_000_000, 7))
    service = Service(
        gateway,
        bus,
        service_id="S1",
        version="1.2.3",
        started_at="2026-01-01T00:00:00.000000Z",
        ticks=lambda: next(ticks),
    )
    await service.start()
    yield service
    await service.stop()


async def ask(bus, subject: str, body: bytes = b"") -> dict:
    return json.loads(await bus.request(subject, body, timeout=60))


async def ask_with_headers(bus, service, subject: str) -> tuple[bytes, dict[str, str]]:
    """What the answer's headers are, which the in-memory bus's request does not show."""
    answered = asyncio.get_running_loop().create_future()

    class Asking(MemoryMessage):
        def respond(self, data, headers=None):
            answered.set_result((data, headers))

    service._on(Asking(subject, b"{}", None), "agentcom.cmd.")
    return await answered


@pytest.mark.parametrize(
    "where", ["$SRV.PING", f"$SRV.PING.{NAME}", f"$SRV.PING.{NAME}.S1"]
)
async def test_a_ping_says_who_is_there(bus, service, where):
    assert await ask(bus, where) == {
        "type": "io.nats.micro.v1.ping_response",
        "name": "agentcom",
        "id": "S1",
        "version": "1.2.3",
        "metadata": {},
    }


async def test_info_names_every_command_and_its_subject(bus, service, gateway):
    info = await ask(bus, f"$SRV.INFO.{NAME}")
    assert info["type"] == "io.nats.micro.v1.info_response"
    assert info["description"]
    assert SERVICE_NAME.fullmatch(info["name"])
    assert SEMVER.fullmatch(info["version"])
    assert [e["subject"] for e in info["endpoints"]] == [
        f"agentcom.cmd.{name}" for name in gateway.commands
    ]
    for endpoint in info["endpoints"]:
        assert set(endpoint) == {"name", "subject", "queue_group", "metadata"}
        assert SERVICE_NAME.fullmatch(endpoint["name"])
        assert endpoint["queue_group"] == QUEUE


async def test_stats_count_requests_errors_and_time(bus, service):
    await ask(bus, "agentcom.cmd.task.submit", b"{}")
    await ask(bus, "agentcom.cmd.task.submit", b"{}")
    await ask(bus, "agentcom.cmd.task.cancel", b"{}")
    stats = await ask(bus, "$SRV.STATS")
    assert stats["type"] == "io.nats.micro.v1.stats_response"
    assert stats["started"] == "2026-01-01T00:00:00.000000Z"
    submit, cancel, drain = stats["endpoints"]
    assert submit == {
        "name": "task-submit",
        "subject": "agentcom.cmd.task.submit",
        "queue_group": QUEUE,
        "num_requests": 2,
        "num_errors": 0,
        "last_error": "",
        "processing_time": 14,
        "average_processing_time": 7,
    }
    assert (cancel["num_requests"], cancel["num_errors"]) == (1, 1)
    assert cancel["last_error"].startswith("task_id: ")
    assert (drain["num_requests"], drain["average_processing_time"]) == (0, 0)


async def test_a_refusal_is_in_the_headers_and_in_the_body(bus, service):
    body, headers = await ask_with_headers(bus, service, "agentcom.cmd.task.cancel")
    assert headers == {
        "Nats-Service-Error": "task_id: expected str, got '???[31m'",
        "Nats-Service-Error-Code": "400",
    }
    answer = json.loads(body)
    assert (answer["ok"], answer["code"], answer["path"]) == (
        False,
        "malformed",
        "task_id",
    )


async def test_a_fault_answers_and_the_next_command_is_served(bus, service):
    answer = await ask(bus, "agentcom.cmd.host.drain", b"{}")
    assert (answer["code"], answer["status"], service.faults) == ("fault", 500, 1)
    assert "something of ours" not in answer["error"]
    assert (await ask(bus, "agentcom.cmd.task.submit", b"{}"))["ok"]


async def test_commands_are_answered_side_by_side(bus, service, gateway):
    gateway.gate.clear()
    answers = [
        asyncio.ensure_future(ask(bus, "agentcom.cmd.task.submit")) for _ in range(3)
    ]
    while len(gateway.received) < 3:
        await asyncio.sleep(0)
    gateway.gate.set()
    assert all(answer["ok"] for answer in await asyncio.gather(*answers))


async def test_too_many_at_once_are_told_so(bus, service, gateway, monkeypatch):
    monkeypatch.setattr("actors.gateway.service.IN_FLIGHT", 1)
    gateway.gate.clear()
    first = asyncio.ensure_future(ask(bus, "agentcom.cmd.task.submit"))
    while not gateway.received:
        await asyncio.sleep(0)
    second = await ask(bus, "agentcom.cmd.task.submit")
    assert (second["code"], second["status"]) == ("busy", 429)
    assert len(gateway.received) == 1
    gateway.gate.set()
    assert (await first)["ok"]


async def test_stopping_finishes_what_is_under_way(bus, service, gateway):
    gateway.gate.clear()
    answer = asyncio.ensure_future(ask(bus, "agentcom.cmd.task.submit"))
    while not gateway.received:
        await asyncio.sleep(0)
    stopping = asyncio.ensure_future(service.stop())
    await asyncio.sleep(0)
    gateway.gate.set()
    await stopping
    assert (await answer)["ok"]


@pytest.mark.parametrize(
    ("headers", "who"),
    [
        ({}, "core"),
        ({"Nats-Request-Info": '{"acc":"CLIENTS","user":"UABC","rtt":1}'}, "UABC"),
        ({"Nats-Request-Info": '{"acc":"CLIENTS"}'}, "CLIENTS"),
        ({"Nats-Request-Info": "{}"}, "unknown"),
        ({"Nats-Request-Info": "not json"}, "unknown"),
        ({"Nats-Request-Info": '{"user":7}'}, "unknown"),
        ({"nats-request-info": '{"user":"forged"}'}, "core"),
    ],
)
def test_who_asked_is_what_the_broker_says(headers, who):
    assert requester(headers) == who


async def test_who_asked_reaches_the_gateway_and_never_from_the_body(
    bus, service, gateway
):
    headers = {"Nats-Request-Info": '{"acc":"CLIENTS","user":"UABC"}'}
    service._on(
        MemoryMessage(
            "agentcom.cmd.task.submit", encode({"by": "root"}), None, headers
        ),
        "agentcom.cmd.",
    )
    while not gateway.received:
        await asyncio.sleep(0)
    assert gateway.received == [("task.submit", b'{"by":"root"}', "UABC")]
