"""One connection to the NATS server, and everything that goes over it.

All that is sent leaves in the order of the calls. While the server is away nothing is
buffered for later: what must arrive is kept by those who care (the log's appends, a host's
outbox) and sent again after the reconnect, which is announced to them before anything new
is sent. So nothing arrives late that was meant for an earlier time.

Requests share one inbox, answers are told apart by a number. The broker's refusals come
asynchronously and as text; they are matched to the waiting calls by subject, so that a
missing right is an error at once and not a time-out.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
import nats.errors

from events.diagnostics import Diagnostics
from events.errors import Denied, LogUnavailable, Unreachable, is_about_tls
from events.nats.wire import Wire, frame, headers_of, status_of
from events.races import first

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nats.aio.subscription import Subscription

    from events.bus import Listening, Message

T = TypeVar("T")

NO_RESPONDERS = "503"
_log = Diagnostics("agentcom.link")
NOT_ALLOWED = "the broker does not allow it"
_MAPPED = {
    "$js.api.stream.info.": "agentcom.js.stream.",
    "$js.api.stream.msg.get.": "agentcom.js.get.",
}
_PERMISSION = re.compile(r'permissions violation for (\w+) to "([^"]+)"', re.IGNORECASE)


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server is and as whom to come.

    `url` may be several, with commas between: the servers of a cluster. `seed` is an nkey
    seed file (`key_file`); None for a server that asks nobody for a key. `inbox` is the
    prefix that the role may receive answers under.
    """

    url: str
    seed: Path | None = None
    inbox: str = "_INBOX"
    name: str = "agentcom"


def servers_of(url: str) -> list[str]:
    """Return the servers that `A,B,C` names."""
    return [one for part in url.split(",") if (one := part.strip())]


def key_file(path: Path) -> tuple[str, str]:
    """Read a key's file: the seed, and the servers it names (`A,B,C`; "" for none).

    The seed is a line of its own, each server one too; lines with # say something to
    people. Raises OSError.
    """
    lines = [line.strip() for line in path.read_text().splitlines()]
    words = [line for line in lines if line and not line.startswith("#")]
    servers = [line for line in words if "://" in line]
    seed = next((line for line in words if "://" not in line), "")
    return seed, ",".join(servers)


def _named(subject: str) -> tuple[str, ...]:
    """Return how a refusal may name a subject: nats-py hands it on in lower case, and the
    server as it is after the mappings in nats.conf, which rename what readers ask."""
    asked = subject.lower()
    mapped = asked
    for before, after in _MAPPED.items():
        mapped = mapped.replace(before, after)
    return asked, mapped


class LinkMessage(msgspec.Struct, eq=False, gc=False):
    """A message that came in, see `events.bus.Message`; headers are read when asked."""

    _link: Link
    subject: str
    reply: str
    data: bytes
    _raw: bytes
    _headers: dict[str, str] | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        if self._headers is None:
            self._headers = headers_of(self._raw)
        return self._headers

    @property
    def wants_answer(self) -> bool:
        return bool(self.reply)

    @property
    def status(self) -> str:
        """The inline status of a message of the server's own (`503`), or ""."""
        return status_of(self._raw)

    def respond(self, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        if self.reply:
            self._link.post(self.reply, data, headers=headers)


class LinkSubscription:
    """A subscription over the link."""

    def __init__(self, client: Wire, subscription: Subscription) -> None:
        self._client = client
        self._subscription = subscription

    async def stop(self) -> None:
        """End it; no error if it or the connection has ended already."""
        with suppress(nats.errors.Error, OSError, ValueError):
            await self._client.deafen(self._subscription)


class PendingReply(NamedTuple):
    """An answer that is waited for. `heard` is called with it, at most once."""

    subject: str
    heard: Callable[[LinkMessage | Denied], None]


class Link:
    """A connection; make one with `Link.connect`. It is an `events.bus.Bus` too."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.up = False
        self.closed = asyncio.Event()
        self._lost = asyncio.Event()
        self.faults = 0
        self.reason = ""
        self._alone = False  # tried for the first time, and there is no other server
        self._client = Wire()
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, PendingReply] = {}
        self._count = 0
        self._inbox = ""
        self._handlers: list[Callable[[bool], None]] = []

    @classmethod
    async def connect(cls, address: Address, *, timeout: float = 10.0) -> Link:
        """Connect, or raise LogUnavailable or Denied after `timeout` seconds.

        The only server's certificate that is not trusted, or its lack of TLS, raises at
        once: to try again would be the same. Once connected, the link reconnects for ever.
        """
        servers = servers_of(address.url)
        if any(url.partition(":")[0] in ("ws", "wss") for url in servers):
            raise LogUnavailable(
                f"connect to {address.url}",
                "expected nats:// or tls://, got a websocket address",
            )
        link = cls(address)
        link._alone = len(servers) == 1
        options: dict[str, Any] = {
            "servers": servers,
            "name": address.name,
            "inbox_prefix": address.inbox,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.1,
            "connect_timeout": 2,
            "ping_interval": 3,  # a broker that is silent is left after 6 to 9 s
            "max_outstanding_pings": 2,
            "error_cb": link._error,
            "disconnected_cb": link._disconnected,
            "reconnected_cb": link._reconnected,
            "closed_cb": link._closed,
        }
        if address.seed is not None:
            options["nkeys_seed_str"] = key_file(address.seed)[0]
        try:
            async with asyncio.timeout(timeout):
                await link._client.connect(**options)
                link._alone = False
                link._inbox = link._client.new_inbox()
                link.up = True
                await link.subscribe(f"{link._inbox}.*", link._answered)
        except (TimeoutError, OSError, nats.errors.Error, LogUnavailable) as error:
            link.up = False
            reason = link.reason or str(error) or "no answer in time"
            await link._abandon()
            if "authorization" in reason.lower():
                raise Denied(f"connect to {address.url}", reason) from error
            raise LogUnavailable(f"connect to {address.url}", reason) from error
        return link

    async def _abandon(self) -> None:
        try:
            async with asyncio.timeout(1):
                await self._client.close()
        except (TimeoutError, OSError, RuntimeError, nats.errors.Error):
            return

    async def close(self) -> None:
        """Let the server have what was sent, then end the connection."""
        self.up = False
        try:
            async with asyncio.timeout(2):
                self._client.write()
                if self._client.is_connected:
                    await self._client.flush()
                await self._client.close()
        except (TimeoutError, OSError, RuntimeError, nats.errors.Error):
            await self._abandon()

    # -- sending -----------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self.up

    @property
    def max_payload(self) -> int:
        """Bytes that one message may hold."""
        return int(self._client.max_payload)

    def post(
        self,
        subject: str,
        data: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Send a message in its turn; False, and nothing sent, while disconnected."""
        if not self.up:
            return False
        try:
            encoded = frame(subject, reply, data, headers)
        except ValueError as error:
            self._loop.call_soon(self._failed, reply, subject, str(error))
            return True
        if len(data) > self._client.max_payload:
            reason = f"{len(data)} bytes are more than {self._client.max_payload}"
            self._loop.call_soon(self._failed, reply, subject, reason)
            return True
        self._client.send(encoded)
        return True

    def publish(self, subject: str, data: bytes) -> None:
        self.post(subject, data)

    def _failed(self, reply: str, subject: str, problem: str) -> None:
        waiting = self._waiting.pop(reply.rpartition(".")[2], None) if reply else None
        if waiting is not None:
            waiting.heard(Denied(subject, problem))

    # -- asking ------------------------------------------------------------------------

    def expect(
        self, subject: str, heard: Callable[[LinkMessage | Denied], None]
    ) -> str:
        """Wait for one answer; return the reply subject to send along."""
        self._count += 1
        number = str(self._count)
        self._waiting[number] = PendingReply(subject, heard)
        return f"{self._inbox}.{number}"

    def forget(self, reply: str) -> None:
        """Wait no longer for the answer to `reply`."""
        self._waiting.pop(reply.rpartition(".")[2], None)

    def _answered(self, message: LinkMessage) -> None:
        waiting = self._waiting.pop(message.subject.rpartition(".")[2], None)
        if waiting is not None:
            waiting.heard(message)

    def call(
        self,
        subject: str,
        data: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> asyncio.Future[LinkMessage]:
        """Ask; the answer is the message, whatever it says.

        Raises Unreachable (absent or no answer in `timeout` seconds) and Denied through
        the future.
        """
        return self._asked(subject, data, timeout, headers, lambda message: message)

    def request(
        self,
        subject: str,
        data: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> asyncio.Future[bytes]:
        return self._asked(
            subject, data, timeout, headers, lambda message: message.data
        )

    def _asked(
        self,
        subject: str,
        data: bytes,
        timeout: float,
        headers: Mapping[str, str] | None,
        read: Callable[[LinkMessage], T],
    ) -> asyncio.Future[T]:
        """Ask; the future yields what `read` makes of the answer."""
        future: asyncio.Future[T] = self._loop.create_future()

        def heard(answer: LinkMessage | Denied) -> None:
            timer.cancel()
            if future.done():
                return
            if isinstance(answer, Denied):
                future.set_exception(answer)
            elif answer.status == NO_RESPONDERS and not answer.data:
                future.set_exception(Unreachable(subject, absent=True))
            else:
                future.set_result(read(answer))

        def late() -> None:
            self.forget(reply)
            if not future.done():
                future.set_exception(Unreachable(subject, absent=False))

        reply = self.expect(subject, heard)
        timer = self._loop.call_later(timeout, late)
        if not self.post(subject, data, reply=reply, headers=headers):
            timer.cancel()
            self.forget(reply)
            future.set_exception(Unreachable(subject, absent=False))
        return future

    # -- listening ---------------------------------------------------------------------

    async def listen(
        self, subject: str, handler: Callable[[Message], None], *, queue: str = ""
    ) -> Listening:
        return await self.subscribe(subject, handler, queue)

    async def subscribe(
        self, subject: str, handler: Callable[[LinkMessage], None], queue: str = ""
    ) -> LinkSubscription:
        """Subscribe, and return once the server knows; `handler` gets a LinkMessage.

        While the connection is away the server learns of it with the next one.
        """

        def on(subject: str, reply: str, data: bytes, raw: bytes) -> None:
            try:
                handler(LinkMessage(self, subject, reply, data, raw))
            except Exception:  # noqa: BLE001 - one message's fault is not the link's
                self.faults += 1
                _log.exception("a handler failed", subject=subject)

        subscribed: LinkSubscription | None = None
        try:
            subscription = await self._client.listen(subject, queue, on)
            subscribed = LinkSubscription(self._client, subscription)
            if self.up:
                await first(self._flush_twice(), self._lost.wait())
        except (nats.errors.Error, OSError) as error:
            if subscribed is not None and not self.closed.is_set():
                return subscribed
            raise LogUnavailable(f"subscribe to {subject}", str(error)) from error
        except asyncio.CancelledError:
            if subscribed is not None:
                await subscribed.stop()
            raise
        return subscribed

    async def _flush_twice(self) -> None:
        # One flush does not cover a subscribe made just before it.
        await self._client.flush()
        if not self._lost.is_set():
            await self._client.flush()

    def new_inbox(self) -> str:
        """Return a subject under which this link may receive."""
        return self._client.new_inbox()

    # -- the connection comes and goes ---------------------------------------------------------

    def on_connection(self, handler: Callable[[bool], None]) -> Callable[[], None]:
        self._handlers.append(handler)

        def forget() -> None:
            if handler in self._handlers:
                self._handlers.remove(handler)

        return forget

    async def _disconnected(self) -> None:
        if self.up:
            self._tell(up=False)

    async def _reconnected(self) -> None:
        # It may have been lost again in the same breath: the next one is told then.
        if self._client.is_connected:
            self._tell(up=True)

    def _tell(self, *, up: bool) -> None:
        self.up = up
        self._lost.clear() if up else self._lost.set()
        for handler in list(self._handlers):
            try:
                handler(up)
            except Exception:  # noqa: BLE001 - one handler's fault is not the link's
                self.faults += 1
                _log.exception("a handler failed", up=up)

    async def _closed(self) -> None:
        self.up = False
        self._lost.set()
        self.closed.set()

    async def _error(self, error: Exception) -> None:
        self.reason = str(error)
        if self._alone and is_about_tls(self.reason):
            raise LogUnavailable(f"connect to {self.address.url}", self.reason)
        match = _PERMISSION.search(self.reason)
        if match is None:
            return
        subject = match[2].lower()
        # The server names a publish by its subject only, so the oldest one is meant.
        for number, waiting in list(self._waiting.items()):
            if subject in _named(waiting.subject):
                del self._waiting[number]
                waiting.heard(Denied(waiting.subject, NOT_ALLOWED))
                break
