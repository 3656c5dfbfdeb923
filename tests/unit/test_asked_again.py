"""A command whose answer does not come is given again, beside the first: one may be cut off."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from agentcom import over_nats
from agentcom.finding import Broker
from agentcom.over_nats import OverNats
from cli.client import connection
from events.commands import Done
from events.errors import Unreachable
from web import api


class Bus:
    """Notes who asks for what; answers come when the test says so."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[bytes]] = []
        self.more = asyncio.Event()

    def request(self, subject: str, data: bytes, **_: Any) -> asyncio.Future[bytes]:
        self.asked.append(asyncio.get_running_loop().create_future())
        self.more.set()
        return self.asked[-1]

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(60):
            while len(self.asked) < times:
                self.more.clear()
                await self.more.wait()


def giving(bus: Bus, *, again: bool) -> asyncio.Task[bytes]:
    edge = api.Api(None, bus, None, {}, None)  # type: ignore[arg-type]
    return asyncio.create_task(
        edge.pass_on("agentcom.cmd.task.submit", b"{}", "alice", again=again)
    )


@pytest.mark.parametrize("answers", [0, 1])
async def test_web_gives_it_again_and_takes_whichever_answer_comes(
    answers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "AGAIN_S", 0.01)
    bus = Bus()
    given = giving(bus, again=True)
    await bus.until_asked(2)
    bus.asked[answers].set_result(b"done")
    assert await given == b"done"
    assert bus.asked[1 - answers].cancelled()


async def test_web_waits_for_the_other_where_one_of_them_is_not_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api, "AGAIN_S", 0.01)
    bus = Bus()
    given = giving(bus, again=True)
    await bus.until_asked(2)
    bus.asked[1].set_exception(Unreachable("x", absent=True))
    bus.asked[0].set_result(b"done")
    assert await given == b"done"


async def test_web_waits_for_a_gateway_while_nobody_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api, "ANSWER_S", 60.0)
    bus = Bus()
    given = giving(bus, again=False)
    for times in range(1, 21):
        await bus.until_asked(times)
        bus.asked[-1].set_exception(Unreachable("x", absent=True))
    await bus.until_asked(21)
    bus.asked[-1].set_result(b"done")
    assert await given == b"done"


async def test_web_says_in_the_end_that_nobody_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api, "ANSWER_S", 0.2)
    bus = Bus()
    given = giving(bus, again=False)
    given.add_done_callback(lambda _: bus.more.set())
    while not given.done():
        for one in bus.asked:
            if not one.done():
                one.set_exception(Unreachable("x", absent=True))
        bus.more.clear()
        async with asyncio.timeout(60):
            await bus.more.wait()
    with pytest.raises(Unreachable, match="nobody listens"):
        given.result()


class Link:
    """Nobody listens for `away_s` seconds; then whatever is asked is done."""

    max_payload = 1_000_000
    up = True

    def __init__(self, away_s: float) -> None:
        self._back = asyncio.get_running_loop().time() + away_s

    async def call(self, subject: str, data: bytes, *, timeout: float) -> Any:
        if asyncio.get_running_loop().time() < self._back:
            raise Unreachable(subject, absent=True)
        return SimpleNamespace(headers={}, data=b'{"event":"x"}')

    def on_connection(self, handler: Any) -> Any:
        return lambda: None


async def test_a_command_at_a_terminal_waits_for_a_scheduler_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connection, "WAITS_AFTER_S", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    client = connection.Session(Link(2 * connection.ABSENT_FOR_S), "operator")
    for _ in range(2):
        done = await client.command("host.drain", {"host": "h"}, Done)
        assert done.event == "x"
        client.link = Link(0.1)
    said = capsys.readouterr()
    assert said.err.count("waiting for the scheduler") == 1
    assert said.out == ""


async def test_a_program_that_gives_a_command_is_told_nothing_of_the_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connection, "WAITS_AFTER_S", 0.0)
    client = connection.Session(Link(0.1), "operator")
    await client.command("host.drain", {"host": "h"}, Done)
    assert capsys.readouterr() == ("", "")


async def test_what_looks_whether_a_scheduler_is_there_does_not_wait_for_one() -> None:
    client = connection.Session(Link(3_600.0), "operator")
    with pytest.raises(connection.NotRunning, match="not running"):
        await client.command("host.drain", {}, Done, absent_for=0.1)


async def test_web_gives_only_once_what_may_not_be_done_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api, "AGAIN_S", 0.01)
    bus = Bus()
    given = giving(bus, again=False)
    await bus.until_asked(1)
    for _ in range(10):
        await asyncio.sleep(0)
    bus.asked[0].set_result(b"done")
    assert await given == b"done"
    assert len(bus.asked) == 1


def library_on(bus: Bus) -> OverNats:
    """The library over NATS, whose connection is this bus."""

    async def request(subject: str, raw: bytes, **_: Any) -> Any:
        data = await bus.request(subject, raw)
        return SimpleNamespace(headers=None, data=data)

    library = OverNats(Broker(["nats://x"], "", "operator"))
    library._client = SimpleNamespace(request=request)  # type: ignore[assignment]
    return library


@pytest.mark.parametrize("answers", [0, 1])
async def test_the_library_gives_it_again_over_nats(
    answers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(over_nats, "_AGAIN_S", 0.01)
    bus = Bus()
    library = library_on(bus)
    given = asyncio.create_task(library.command("task.submit", {}))
    await bus.until_asked(2)
    bus.asked[answers].set_result(b"done")
    assert await given == b"done"


async def test_a_question_is_asked_once_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(over_nats, "_AGAIN_S", 0.01)
    bus = Bus()
    library = library_on(bus)
    given = asyncio.create_task(library.query("tasks", {}))
    await bus.until_asked(1)
    for _ in range(10):
        await asyncio.sleep(0)
    bus.asked[0].set_result(b"done")
    assert await given == b"done"
    assert len(bus.asked) == 1
