"""A real broker for tests: the shipped accounts, a free port, a store of its own.

    async def test_x(broker):
        connection = await broker.connect("scheduler")

Every connection made through it is closed, and the server ended, when the test is over.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

import nats

from cli.local.broker import Broker, reload
from cli.local.instance import Instance
from events.nats.provision import Retention, provision

if TYPE_CHECKING:
    from pathlib import Path

    from nats.aio.client import Client

    from cli.local.instance import ConnectOptions, Credentials

HOSTS = ("h1", "h2")
RELOADED = "Reloaded server configuration"
SMALL = Retention(output_max_bytes=64 * 1024**2)


class LiveBroker:
    """A running nats-server with all accounts; hosts h1 and h2 may connect."""

    def __init__(self, data: Path, hosts: tuple[str, ...] = HOSTS) -> None:
        self.instance = Instance(data)
        self.instance.prepare("127.0.0.1:-1", hosts)
        self._broker = Broker(self.instance)
        self._connections: list[Client] = []
        # What the server refused, by connection, as it told the client.
        self.refusals: list[str] = []

    @property
    def url(self) -> str:
        """nats://127.0.0.1:PORT; the same after `restart`."""
        return self.instance.url

    @property
    def pid(self) -> int | None:
        """The server's process id."""
        return self._broker.pid

    def options(self, role: str) -> ConnectOptions:
        """Keyword arguments for `nats.connect` as `scheduler`, `host-h1`, ..."""
        return self.credentials(role).connect_options()

    def credentials(self, role: str) -> Credentials:
        """What `--nats URL --creds FILE` would say."""
        return self.instance.credentials(role)

    async def connect(self, role: str, **more: object) -> Client:
        """Connect as a role; refusals are kept in `refusals`, reconnects are quick."""

        async def note(error: Exception) -> None:
            self.refusals.append(str(error))

        options = {
            "error_cb": note,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.02,
            **self.options(role),
            **more,
        }
        connection = await nats.connect(**options)
        self._connections.append(connection)
        return connection

    async def provision(self, retention: Retention = SMALL) -> None:
        """Make the streams and the bucket (the fixture has done it already)."""
        connection = await self.connect("admin")
        await provision(connection, retention)
        await connection.close()

    def add_host(self, name: str) -> Credentials:
        """Let another host connect; returns once the running server knows it."""
        credentials = self.instance.add_host(name)
        before = self.log().count(RELOADED)
        reload(self.instance)
        deadline = time.monotonic() + 60
        while self.log().count(RELOADED) == before:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.002)
        return credentials

    def start(self) -> None:
        """Start the server, on the port it had before."""
        self._broker.start()
        address = self.url.removeprefix("nats://")
        if self.instance.listen != address:
            self.instance.prepare(address)

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL)."""
        self._broker.kill()

    def stop(self) -> None:
        """End the server politely."""
        self._broker.stop()

    def restart(self) -> None:
        """Start again on the same port and store, after `kill` or `stop` or neither."""
        self._broker.stop()
        self.start()

    def pause(self) -> None:
        """Stop the process without ending it (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self.pid is not None
        os.kill(self.pid, number)

    def log(self) -> str:
        """What the server printed since its last start."""
        return self.instance.log_file.read_text()

    async def close(self) -> None:
        """Close the connections made here and end the server."""
        await asyncio.gather(*(connection.close() for connection in self._connections))
        self._broker.stop()


async def live_broker(data: Path, hosts: tuple[str, ...] = HOSTS) -> LiveBroker:
    """Start a provisioned broker on `data`; whoever asks must `close` it."""
    broker = LiveBroker(data, hosts)
    broker.start()
    try:
        await broker.provision()
    except BaseException:
        await broker.close()
        raise
    return broker
