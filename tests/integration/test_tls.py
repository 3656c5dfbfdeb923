"""`tls://` and a broker that speaks none: nothing is said to it in the clear."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import nkeys
import pytest
from msgspec import structs

from agentcom import errors
from agentcom.finding import Broker
from agentcom.over_nats import OverNats
from agentcom.tls import TlsClient, not_trusted
from cli.local.instance import explicit_credentials
from cli.local.streams import provision_with
from events.errors import LogUnavailable
from events.nats.link import Link, key_file
from events.nats.provision import Retention
from tests.support.links import until

REFUSED = "speaks no TLS: is it in site.conf"


class Relay:
    """Passes bytes between clients and a broker, and keeps what the clients said."""

    def __init__(self, url: str) -> None:
        self._port = urlsplit(url).port
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.met = 0
        self.said = bytearray()

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.met += 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, far_writer}

        async def back() -> None:
            while data := await far_reader.read(65536):
                writer.write(data)
            writer.close()

        backward = asyncio.ensure_future(back())
        try:
            while data := await reader.read(65536):
                self.said += data
                far_writer.write(data)
        except ConnectionError:
            pass
        finally:
            far_writer.close()
            await asyncio.wait([backward])
            self._writers -= {writer, far_writer}

    def cut(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def relayed(broker):
    relay = Relay(broker.url)
    listening = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = listening.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        listening.close()
        relay.cut()


async def test_a_broker_without_tls_is_told_nothing(broker, monkeypatch):
    monkeypatch.setattr("agentcom.over_nats._CONNECT_S", 3.0)
    credentials = broker.credentials("operator")
    async with relayed(broker) as relay:
        url = f"tls://127.0.0.1:{relay.port}"
        with pytest.raises(LogUnavailable, match=REFUSED):
            await Link.connect(
                structs.replace(credentials.address(), url=url), timeout=1
            )
        assert relay.met

        seed, _ = key_file(credentials.seed_path)
        met = relay.met
        with pytest.raises(errors.Unreachable, match=REFUSED):
            await OverNats(Broker([url], seed, "operator")).query("tasks", {})
        assert relay.met > met

        met = relay.met
        admin = explicit_credentials(url, broker.credentials("admin").seed_path)
        with pytest.raises(LogUnavailable, match=REFUSED):
            await provision_with(admin, Retention())
        assert relay.met > met
        assert bytes(relay.said) == b""


async def test_nor_is_it_when_a_connection_is_made_anew(broker, monkeypatch):
    """As if the broker had been started again without TLS."""
    address = broker.credentials("operator").address()
    async with relayed(broker) as relay:
        url = f"nats://127.0.0.1:{relay.port}"
        link = await Link.connect(structs.replace(address, url=url))
        try:
            assert b"CONNECT" in relay.said
            for server in link._client._server_pool:
                server.uri = server.uri._replace(scheme="tls")
            relay.said.clear()
            relay.cut()
            async with asyncio.timeout(60):
                await until(lambda: REFUSED in link.reason, seconds=60)
            assert not link.up
            assert b"CONNECT" not in relay.said
            # Set right meanwhile: what has been connected comes back by itself.
            for server in link._client._server_pool:
                server.uri = server.uri._replace(scheme="nats")
            await until(lambda: link.up, seconds=60)
        finally:
            await link.close()


async def test_the_library_says_what_keeps_it_from_the_broker(broker, monkeypatch):
    monkeypatch.setattr("agentcom.over_nats._CONNECT_S", 3.0)
    known, _ = key_file(broker.credentials("operator").seed_path)
    nobody = Broker(["nats://127.0.0.1:1"], known, "operator")
    async with asyncio.timeout(60):
        with pytest.raises(errors.Unreachable, match="no broker at nats"):
            await OverNats(nobody).query("tasks", {})
        seed = nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER).decode()
        stranger = Broker([broker.url], seed, "operator")
        with pytest.raises(errors.Denied, match="does not take this key"):
            await OverNats(stranger).query("tasks", {})


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (18, "its issuer is not known here: SSL_CERT_FILE names"),
        (20, "its issuer is not known here: SSL_CERT_FILE names"),
        (62, "its certificate does not name this address"),
        (64, "its certificate does not name this address"),
        (10, "certificate has expired"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_said(number, why):
    assert why in not_trusted("b:2", number, "certificate has expired")


@pytest.mark.parametrize("offer", ["tls_required", "tls_available"])
async def test_a_broker_that_offers_tls_is_asked_for_it(offer):
    client = TlsClient()
    client._setup_server_pool(["nats://a:1", "tls://b:2"])
    client._current_server = client._server_pool[0]
    info = {offer: True}
    await client._process_info(info, initial_connection=True)
    assert info["tls_required"]
