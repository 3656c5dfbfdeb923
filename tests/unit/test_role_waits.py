"""A role that was connected waits for its broker; only a refused key ends it."""

from __future__ import annotations

import asyncio
import errno
import re
from contextlib import asynccontextmanager
from types import SimpleNamespace

import msgspec
import nkeys
import pytest
from msgspec import structs
from nats.aio.client import Client

from agentcom import errors
from agentcom.finding import Broker
from agentcom.over_nats import OverNats
from agentcom.tls import TlsClient
from cli.local.instance import Credentials, Instance
from cli.local.process import StoppedWaiting, role_link, until_answered
from cli.local.roles import ServedPlace
from cli.local.streams import lease_copies, missing_streams
from cli.render.terminal import Problem
from events.errors import LogUnavailable, Unreachable
from events.nats.link import Address, Link
from events.nats.wire import Wire
from events.position import LogChanged, Position
from tests.support.links import until
from web import main as web

PATIENCE_S = 60.0


class Server:
    """Greets each client, answers its pings, and says `last` to the first as it ends it."""

    def __init__(self, last: bytes, answered: int) -> None:
        """`answered` is how many pings of the first one it answers."""
        self.last = last
        self.answered = answered
        self.met = 0
        self.subscribed: list[bytes] = []
        self.say = asyncio.Event()

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.met += 1
        left = self.answered if self.met == 1 else 1_000
        writer.write(b'INFO {"server_id":"A","max_payload":1000,"headers":true}\r\n')
        try:
            if self.met == 1:
                ending = asyncio.ensure_future(self.end(writer))
            while line := await reader.readline():
                if line.startswith(b"PING") and left > 0:
                    left -= 1
                    writer.write(b"PONG\r\n")
                if line.startswith(b"SUB") and self.met > 1:
                    self.subscribed.append(line)
            if self.met == 1:
                await ending
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def end(self, writer: asyncio.StreamWriter) -> None:
        await self.say.wait()
        if self.last:
            writer.write(b"-ERR '" + self.last + b"'\r\n")
            await writer.drain()
        writer.close()


@asynccontextmanager
async def a_link(server: Server):
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    link = await Link.connect(Address(url=f"nats://127.0.0.1:{port}"))
    try:
        yield link
    finally:
        await link.close()
        listening.close()


@pytest.mark.parametrize(
    "last",
    [
        b"",
        b"Authentication Timeout",
        b"Maximum Connections Exceeded",
        b"Server Shutdown",
        b"Slow Consumer",
        b"Stale Connection",
    ],
)
async def test_whatever_the_server_says_as_it_ends_a_connection_another_is_made(last):
    server = Server(last, answered=1_000)
    async with a_link(server) as link, asyncio.timeout(PATIENCE_S):
        heard = []
        await link.listen("a.b", heard.append)
        server.say.set()
        await until(lambda: server.met > 1 and link.up, seconds=PATIENCE_S)
        await until(
            lambda: any(b"a.b" in line for line in server.subscribed),
            seconds=PATIENCE_S,
        )
        assert not link.closed.is_set()


@pytest.mark.parametrize(
    "last",
    [
        b"Authorization Violation",
        b"User Authentication Revoked",
        b"User Authentication Expired",
    ],
)
async def test_a_key_that_is_taken_away_ends_it(last):
    server = Server(last, answered=1_000)
    async with a_link(server) as link, asyncio.timeout(PATIENCE_S):
        server.say.set()
        await link.closed.wait()
        assert server.met == 1


async def test_what_is_listened_to_as_the_broker_goes_away_is_heard_when_it_is_back(
    monkeypatch,
):
    monkeypatch.setattr(
        Wire, "flush", lambda self, timeout=1: Client.flush(self, timeout)
    )
    # The pings of connecting are answered, those that would confirm it are not.
    server = Server(b"", answered=3)
    async with a_link(server) as link, asyncio.timeout(PATIENCE_S):
        asyncio.get_running_loop().call_later(0.2, server.say.set)
        await link.listen("a.b", lambda _message: None)
        await until(
            lambda: any(b"a.b" in line for line in server.subscribed),
            seconds=PATIENCE_S,
        )


def answering(*bodies):
    """A link whose broker gives these answers, one after the other, the last for ever."""
    left = list(bodies)

    async def call(_subject, _data, *, timeout):
        body = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(body, Exception):
            raise body
        return SimpleNamespace(data=msgspec.json.encode(body))

    return SimpleNamespace(call=call)


BUSY = {"error": {"code": 503, "err_code": 10008, "description": "no leader"}}
NONE = {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}}


async def test_a_broker_that_chooses_its_leader_has_no_stream_missing():
    with pytest.raises(LogUnavailable, match="no leader"):
        await missing_streams(answering(BUSY))
    with pytest.raises(LogUnavailable, match="no leader"):
        await lease_copies(answering(BUSY))
    assert len(await missing_streams(answering(NONE))) == 4
    assert await lease_copies(answering({"config": {"num_replicas": 3}})) == 3


async def test_what_a_role_asks_in_its_start_is_asked_until_it_is_answered(monkeypatch):
    monkeypatch.setattr("cli.local.process.ASK_AGAIN_S", 0.01)
    link = answering(
        Unreachable("x", absent=False), BUSY, {"config": {"num_replicas": 3}}
    )
    stop = asyncio.Event()
    assert await until_answered(lambda: lease_copies(link), stop) == 3


async def test_who_is_told_to_stop_waits_no_longer():
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, stop.set)
    async with asyncio.timeout(PATIENCE_S):
        assert (
            await until_answered(lambda: lease_copies(answering(BUSY)), stop)
        ) is None


@pytest.mark.parametrize("refused", [True, False])
async def test_who_is_told_to_stop_while_there_is_no_broker_ends(
    monkeypatch, tmp_path, refused
):
    """The broker is not there, or takes the connection and says nothing."""
    stop = asyncio.Event()

    async def connect(address, *, timeout):
        stop.set()
        if refused:
            raise LogUnavailable("connect", "refused")
        await asyncio.Event().wait()

    monkeypatch.setattr(Link, "connect", connect)
    monkeypatch.setattr("cli.local.process.PATIENCE_S", 10 * PATIENCE_S)
    key = tmp_path / "x.nk"
    key.write_bytes(nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER))
    credentials = Credentials("nats://127.0.0.1:1", key, "watcher")
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(StoppedWaiting):
            async with role_link(credentials, stop):
                pass


async def test_a_role_without_a_broker_says_the_line_that_starts_it(
    monkeypatch, tmp_path
):
    """It works from any folder, also where the program is not on the PATH."""
    program = tmp_path / "its bin" / "nats-server"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("AGENTCOM_NATS_SERVER", str(program))
    monkeypatch.setenv("AGENTCOM_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("cli.local.process.PATIENCE_S", -1.0)

    async def connect(address, *, timeout):
        raise LogUnavailable("connect", "refused")

    monkeypatch.setattr(Link, "connect", connect)
    instance = Instance()
    instance.prepare("127.0.0.1:1", ["h1"])
    line = f"`'{program}' -c {instance.conf}`"
    here = instance.credentials("watcher")
    for credentials, said in (
        (here, line),
        (structs.replace(here, url="nats://elsewhere:1"), "on its machine"),
    ):
        with pytest.raises(Problem, match=re.escape(said)):
            async with role_link(credentials, asyncio.Event()):
                pass


def test_a_second_web_that_fails_leaves_the_first_one_s_address(tmp_path):
    file = tmp_path / "dashboard.json"
    first, second = ServedPlace(file), ServedPlace(file)
    first.tell("http://127.0.0.1:1")

    second.forget()
    assert b":1" in file.read_bytes()

    second.tell("http://127.0.0.1:2")
    first.forget()
    assert b":2" in file.read_bytes()
    second.forget()
    second.forget()
    assert not file.exists()


@pytest.mark.parametrize(
    "reason",
    ["certificate verify failed at b:2: why", "the broker at b:2 speaks no TLS: why"],
)
async def test_a_broker_that_is_not_trusted_is_not_waited_for(
    reason, monkeypatch, tmp_path
):
    async def connect(*_who, **_options):
        raise LogUnavailable("connect to tls://b:2", reason)

    monkeypatch.setattr(Link, "connect", connect)
    monkeypatch.setattr("cli.local.process.PATIENCE_S", 10 * PATIENCE_S)
    key = tmp_path / "x.nk"
    key.write_bytes(nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER))
    credentials = Credentials("tls://b:2", key, "watcher")
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(Problem) as said:
            async with role_link(credentials, asyncio.Event()):
                pass
    assert said.value.message == f"no connection to tls://b:2: {reason}"


async def test_web_at_any_port_takes_another_where_its_own_was_taken_meanwhile(
    monkeypatch,
):
    """It closes its port while the read models are made anew."""
    asked, told = [], []

    async def serve(_log, _bus, config, _stop, _output, listening, *_more):
        asked.append(config.port)
        if len(asked) == 1:
            listening(5000)
            raise LogChanged(Position(1, "x", "y"))
        if len(asked) == 2:
            raise OSError(errno.EADDRINUSE, "address already in use")
        listening(5001)

    monkeypatch.setattr(web, "_serve", serve)
    stop = asyncio.Event()
    config = web.WebConfig(store=None, port=0)
    await web.serve(None, None, config, stop, ready=told.append)
    assert (asked, told) == ([0, 5000, 0], [5000, 5001])

    asked.clear()
    with pytest.raises(OSError, match="in use"):
        await web.serve(None, None, structs.replace(config, port=5000), stop)


async def test_web_waits_for_a_log_that_does_not_answer_when_it_starts(monkeypatch):
    monkeypatch.setattr(web, "AGAIN_S", 0.01)
    tries = []

    async def serve(*_all):
        tries.append(1)
        if len(tries) < 3:
            raise LogUnavailable("read", "no leader")

    monkeypatch.setattr(web, "_serve", serve)
    await web.serve(None, None, web.WebConfig(store=None), asyncio.Event())
    assert len(tries) == 3


@pytest.mark.parametrize("who", ["a role", "the library"])
async def test_a_broker_that_is_silent_is_left_for_another_within_ten_seconds(
    who, monkeypatch
):
    """A cut link says nothing: only pings that nobody answers tell of it."""
    given = {}

    async def connect(*_who, **options):
        given.update(options)
        raise ConnectionRefusedError("nobody")

    async def no_connection(_wire):
        pass

    if who == "a role":
        monkeypatch.setattr(Wire, "connect", connect)
        monkeypatch.setattr(Wire, "close", no_connection)
        with pytest.raises(LogUnavailable):
            await Link.connect(Address(url="nats://nobody"))
    else:
        monkeypatch.setattr(TlsClient, "connect", connect)
        monkeypatch.setattr("agentcom.over_nats._CONNECT_S", 0.0)
        with pytest.raises(errors.Unreachable):
            await OverNats(Broker(["nats://nobody"], "", "operator")).query("x", {})
    assert given["ping_interval"] * (given["max_outstanding_pings"] + 1) < 10
