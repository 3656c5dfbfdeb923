"""How a notice is delivered: as a signed webhook, or by Apprise.

A webhook is signed as standardwebhooks.com has it, so that receivers have libraries for it:
`webhook-id`, `webhook-timestamp` (Unix seconds) and `webhook-signature`, which is `v1,` and
the base64 of HMAC-SHA256 over `id.timestamp.body`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import importlib
import importlib.util
import ipaddress
import socket
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from events.codec import encode
from events.errors import AgentComError

if TYPE_CHECKING:
    from collections.abc import Callable

    from web.notify.notices import Notice

_METADATA: Final = frozenset({"fd00:ec2::254", "100.100.100.200"})


class DeliveryFailed(AgentComError):
    """A notice that did not arrive, and why; the address and the secret are not in it."""

    code = "delivery_failed"


def signature(secret: bytes, delivery: str, timestamp: int, body: bytes) -> str:
    """Sign a delivery, as `webhook-signature` has it."""
    signed = b"%b.%d.%b" % (delivery.encode(), timestamp, body)
    digest = hmac.new(secret, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def is_forbidden(address: str) -> bool:
    """Whether nothing is ever sent there: addresses by which machines ask about themselves,
    and such as are no machine's."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    ip = mapped or ip
    return (
        ip.is_link_local or ip.is_multicast or ip.is_unspecified or str(ip) in _METADATA
    )


class _Vetted(AbstractResolver):
    """Resolves names, but to no address where nothing may be sent."""

    def __init__(self) -> None:
        self._inner = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if any(is_forbidden(each["host"]) for each in found):
            raise OSError(None, "its address is one that nothing is sent to")
        return found

    async def close(self) -> None:
        await self._inner.close()


class Webhook:
    """Posts to one address. It follows no redirection.

    `send` raises DeliveryFailed, here and below.
    """

    def __init__(
        self, url: str, secret: bytes, timeout_s: float, clock: Callable[[], float]
    ) -> None:
        self._url = url
        self._secret = secret
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._clock = clock
        self._client: aiohttp.ClientSession | None = None

    async def send(self, notice: Notice) -> None:
        """Deliver once; anything but a 2xx is a failure."""
        body = encode(notice)
        now = int(self._clock())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "AgentCom",
            "webhook-id": notice.id,
            "webhook-timestamp": str(now),
            "webhook-signature": signature(self._secret, notice.id, now, body),
        }
        if self._client is None:
            connector = aiohttp.TCPConnector(resolver=_Vetted(), force_close=True)
            self._client = aiohttp.ClientSession(
                connector=connector, timeout=self._timeout, trust_env=False
            )
        try:
            host = urlsplit(self._url).hostname or ""
            if is_forbidden(host):
                raise DeliveryFailed("its address is one that nothing is sent to")
            async with self._client.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                status = answer.status
        except TimeoutError as error:
            raise DeliveryFailed(
                f"no answer within {self._timeout.total:g} s"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DeliveryFailed(f"{_plain(error)}") from error
        if not 200 <= status < 300:
            raise DeliveryFailed(f"it answered with status {status}")

    async def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            await self._client.close()


def _plain(error: Exception) -> str:
    """Say what went wrong without the address, which may hold a secret."""
    inner = getattr(error, "os_error", None) or error
    text = getattr(inner, "strerror", None)
    return text or f"it cannot be reached ({type(error).__name__})"


class ByApprise:
    """Sends the sentence by Apprise."""

    def __init__(self, url: str, timeout_s: float) -> None:
        if importlib.util.find_spec("apprise") is None:
            raise DeliveryFailed(
                "a target of kind apprise needs the extra notify: "
                "pip install 'agentcom[notify]'"
            )
        apprise: Any = importlib.import_module("apprise")
        self._timeout_s = timeout_s
        self._apprise: Any = apprise.Apprise()
        if not self._apprise.add(url):
            raise DeliveryFailed("Apprise does not know such an address")

    async def send(self, notice: Notice) -> None:
        """Deliver once."""
        try:
            async with asyncio.timeout(self._timeout_s):
                sent = await self._apprise.async_notify(
                    title=f"AgentCom: {notice.type}", body=notice.text
                )
        except TimeoutError as error:
            raise DeliveryFailed(f"not sent within {self._timeout_s:g} s") from error
        if not sent:
            raise DeliveryFailed("Apprise could not send it")

    async def close(self) -> None:
        """There is nothing to let go of."""


NoticeSender = Webhook | ByApprise
