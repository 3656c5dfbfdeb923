"""Connections live through whatever befalls their broker while they come back to it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest
import uvloop
from nats.aio.client import Client
from nats.errors import FlushTimeoutError, StaleConnectionError

from agentcom.steady import SteadyClient
from events.nats.link import Address, Link
from events.nats.wire import Wire
from tests.support.links import until

GREETING = b'INFO {"server_id":"A","max_payload":1000000,"headers":true}\r\n'


class Server:
    """Greets each client and answers its pings while `answers` holds.

    While `reads` is not set, it reads nothing more from its first client. Where it `dies`,
    it ends with the greeting of its second.
    """

    def __init__(self) -> None:
        self.met: list[asyncio.StreamWriter] = []
        self.ended: list[int] = []
        self.reads = asyncio.Event()
        self.answers = True
        self.dies = False
        self.reads.set()

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        place = len(self.met)
        self.met.append(writer)
        writer.write(GREETING)
        try:
            while line := await reader.readline():
                if line.startswith(b"PING") and self.answers:
                    writer.write(b"PONG\r\n")
                    if self.dies and place == 1:
                        writer.write(b"PING\r\n")
                        break
                if place == 0:
                    await self.reads.wait()
        except (ConnectionError, ValueError):
            pass
        finally:
            self.ended.append(place)
            writer.close()

    def cut(self) -> None:
        """End the connection that was made last."""
        self.met[-1].transport.abort()


@asynccontextmanager
async def a_server():
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield server, f"nats://127.0.0.1:{port}"
    finally:
        listening.close()
        for writer in server.met:
            writer.transport.abort()
        server.reads.set()


@asynccontextmanager
async def a_link(url: str):
    link = await Link.connect(Address(url=url))
    try:
        yield link
    finally:
        await link.close()


async def test_a_broker_that_reads_no_more_is_left_with_what_it_was_to_have():
    async with a_server() as (server, url), a_link(url) as link:
        server.reads.clear()
        for _ in range(64):
            link.publish("a", bytes(900_000))
            await asyncio.sleep(0)
        # As after some pings that were not answered.
        await link._client._process_op_err(StaleConnectionError())
        await until(lambda: len(server.met) == 2 and link.up)


async def test_of_an_attempt_that_failed_half_way_nothing_is_left(monkeypatch):
    flush, late = Client.flush, []

    async def flushed_late(self, timeout=10):
        if not late:
            late.append(self)
            raise FlushTimeoutError
        await flush(self, timeout)

    async with a_server() as (server, url), a_link(url) as link:
        monkeypatch.setattr(Client, "flush", flushed_late)
        tasks = asyncio.all_tasks()
        server.cut()
        await until(lambda: len(server.met) == 3 and link.up)
        await until(lambda: server.ended == [0, 1])
        await until(lambda: len(asyncio.all_tasks()) == len(tasks))


async def test_what_nobody_expected_does_not_end_the_reconnecting(monkeypatch):
    greet, failed = Client._process_connect_init, []

    async def greeted(self):
        if not failed:
            failed.append(self)
            # As uvloop does where the other end has closed meanwhile.
            raise RuntimeError("the handler is closed")
        await greet(self)

    async with a_server() as (server, url), a_link(url) as link:
        monkeypatch.setattr(Client, "_process_connect_init", greeted)
        server.cut()
        await until(lambda: failed and link.up)


async def test_what_came_with_the_end_of_a_connection_does_not_end_the_reader(
    monkeypatch,
):
    read, ended = Wire._read_loop, []

    async def read_late(self):
        while len(server.met) == 2 and not self._transport._io_reader._eof:
            await asyncio.sleep(0)
        try:
            await read(self)
        except AssertionError as error:
            ended.append(error)
            raise

    async with a_server() as (server, url), a_link(url) as link:
        monkeypatch.setattr(Wire, "_read_loop", read_late)
        server.dies = True
        server.cut()
        await until(lambda: len(server.met) == 3 and link.up)
        assert ended == []


async def test_a_connection_that_is_read_no_more_is_left(monkeypatch):
    async with a_server() as (server, url):
        client = SteadyClient()
        await client.connect(url, reconnect_time_wait=0.01)

        async def misread(data: bytes) -> None:
            raise ValueError(data)

        monkeypatch.setattr(client._ps, "parse", misread)
        server.met[0].write(b"+OK\r\n")
        await until(lambda: client.is_reconnecting)
        monkeypatch.undo()
        await until(lambda: len(server.met) == 2 and client.is_connected)
        await client.close()


async def test_a_handler_that_fails_keeps_nobody_from_a_reconnect():
    async with a_server() as (server, url), a_link(url) as link:
        told = []

        def fail(up: bool) -> None:
            raise ValueError(up)

        link.on_connection(fail)
        link.on_connection(told.append)
        server.cut()
        await until(lambda: told == [False, True])
        assert link.faults == 2


async def test_a_connection_lost_in_the_breath_in_which_it_came_back_is_not_up():
    async with a_server() as (_server, url), a_link(url) as link:
        told = []
        link.on_connection(told.append)
        await link._disconnected()
        link._client._status = Client.RECONNECTING
        await link._reconnected()
        assert (link.up, told) == (False, [False])
        link._client._status = Client.CONNECTED
        await link._reconnected()
        assert (link.up, told) == (True, [False, True])


async def test_listening_that_begins_as_the_connection_is_lost_waits_for_no_answer(
    monkeypatch,
):
    async with a_server() as (server, url), a_link(url) as link:
        never, asked = asyncio.Event(), []

        async def unanswered(self, timeout=10):
            asked.append(self)
            await never.wait()

        monkeypatch.setattr(Client, "flush", unanswered)
        beginning = asyncio.ensure_future(link.listen("a", print))
        await until(lambda: asked)
        server.cut()
        async with asyncio.timeout(60):
            await beginning


async def test_of_listening_that_is_given_up_as_it_begins_nothing_is_left():
    async with a_server() as (server, url), a_link(url) as link:
        listened = dict(link._client._straight)
        server.answers = False
        beginning = asyncio.ensure_future(link.listen("a", print))
        await until(lambda: len(link._client._straight) > len(listened))
        beginning.cancel()
        await asyncio.gather(beginning, return_exceptions=True)
        assert link._client._straight == listened
        server.answers = True


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_the_library_comes_back_whatever_the_broker_says_at_its_end(loop):
    async def come_back() -> None:
        async with a_server() as (server, url):
            client = SteadyClient()
            await client.connect(url, reconnect_time_wait=0.01)
            server.met[0].write(b"-ERR 'Maximum Connections Exceeded'\r\n")
            await until(lambda: len(server.met) == 2 and client.is_connected)
            await client.close()

    if loop == "asyncio":
        await come_back()
    else:
        await asyncio.to_thread(uvloop.run, come_back())


@pytest.mark.parametrize("flusher", ["waits", "has ended"])
def test_what_is_asked_for_just_as_the_connection_ends_is_known_to_the_next(flusher):
    async def asking() -> None:
        async with a_server() as (server, url), a_link(url) as link:
            client = link._client
            if flusher == "has ended":
                client._flusher_task.cancel()
                await asyncio.gather(client._flusher_task, return_exceptions=True)
            # uvloop raises RuntimeError for what is sent until that has been noticed.
            client._transport._io_writer.transport.abort()
            assert client.is_connected
            subscription = await link.subscribe("a", print)
            await until(lambda: len(server.met) == 2 and link.up)
            assert subscription._subscription._id in client._subs

    uvloop.run(asking())


async def test_an_attempt_that_is_replaced_has_ended_before_the_next_begins(
    monkeypatch,
):
    greet, stayed = Client._process_connect_init, []

    async def greeted(self):
        if not stayed:
            stayed.append(self)
            # As `asyncio.wait_for` does where what it waits for comes at the same time.
            with suppress(asyncio.CancelledError):
                self._status = Client.CONNECTING
                await asyncio.Event().wait()
        await greet(self)

    async with a_server() as (server, url), a_link(url) as link:
        monkeypatch.setattr(Client, "_process_connect_init", greeted)
        server.cut()
        await until(lambda: stayed)
        await link._client._process_op_err(StaleConnectionError())
        await until(lambda: link.up and link._client._reconnection_task.done())
        await until(lambda: len(server.ended) == len(server.met) - 1)
        reading = [t for t in asyncio.all_tasks() if "_read_loop" in repr(t)]
        assert reading == [link._client._reading_task]
