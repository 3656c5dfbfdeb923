"""nats-py's client with its two busiest paths made short.

nats-py keeps the connection: handshake, keys, pings, reconnects, subscriptions. But it
takes each message through a queue and a task of its subscription, reads headers that
nobody asks for, and sends through a coroutine and two more tasks. Here a message goes from
the parser to its handler at once, and what is sent in one turn of the loop leaves in one
write at its end; docs/decisions/0203 says what that saves and what it leans on.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from nats.aio.client import Client
from nats.protocol.command import hpub_cmd, pub_cmd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    Straight = Callable[[str, str, bytes, bytes], None]
    """Called with subject, reply (or ""), data and raw headers (or b"")."""

HEADER_LINE: Final = b"NATS/1.0"
_ONE_WORD: Final = re.compile(r"[^\s\x00]+")
_LINE_ENDS: Final = re.compile(r"[\r\n]+")


class Wire(Client):
    """A nats-py client; `listen` and `send` are the short ways."""

    def __init__(self) -> None:
        super().__init__()
        self._straight: dict[Any, Straight] = {}
        self._frames: list[bytes] = []

    async def listen(self, subject: str, queue: str, handler: Straight) -> Subscription:
        """Subscribe; `handler` is called in the reader itself and must not raise.

        Nothing queues up in between, so a slow handler slows the connection: that is
        backpressure, and no message is dropped for it.
        """

        async def never(_message: Msg) -> None:
            raise AssertionError("every message goes straight")

        self._straight[never] = handler
        try:
            return await self.subscribe(subject, queue, cb=never)
        except BaseException:
            del self._straight[never]
            raise

    async def deafen(self, subscription: Subscription) -> None:
        """End what `listen` began."""
        try:
            await subscription.unsubscribe()
        finally:
            self._straight.pop(subscription._cb, None)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        subscription = self._subs.get(sid)
        if subscription is None:
            return
        handler = self._straight.get(subscription._cb)
        if handler is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        # A subject may hold bytes that are no UTF-8: they must not end the reader. With
        # the replacements it is no subject of ours.
        handler(
            subject.decode("utf-8", "replace"),
            reply.decode("utf-8", "replace"),
            data,
            headers or b"",
        )

    def send(self, frame: bytes) -> None:
        """Send a frame, with whatever else is sent in this turn of the loop.

        Nothing is kept for later: where there is no connection it is dropped, and what
        the transport has not sent yet goes with the connection.
        """
        self._frames.append(frame)
        if len(self._frames) == 1:
            asyncio.get_running_loop().call_soon(self.write)

    def write(self) -> None:
        """Hand the transport what was sent."""
        frames, self._frames = self._frames, []
        if frames and self._transport is not None and self.is_connected:
            # uvloop refuses a transport that has just been closed by the other end.
            with suppress(RuntimeError, OSError):
                self._transport.write(b"".join(frames))


def frame(
    subject: str, reply: str, data: bytes, headers: Mapping[str, str] | None
) -> bytes:
    """Encode a publish; raises ValueError for a subject that would break the line."""
    if not _ONE_WORD.fullmatch(subject):
        raise ValueError(f"not a subject: {subject!r}")
    if reply and not _ONE_WORD.fullmatch(reply):
        raise ValueError(f"not a subject: {reply!r}")
    if not headers:
        return pub_cmd(subject, reply, data)
    lines = [HEADER_LINE.decode()]
    for name, value in headers.items():
        if not _ONE_WORD.fullmatch(name) or ":" in name:
            raise ValueError(f"not a header name: {name!r}")
        lines.append(f"{name}: {_LINE_ENDS.sub(' ', value)}")
    block = "\r\n".join([*lines, "", ""]).encode()
    return hpub_cmd(subject, reply, block, data)


def status_of(raw: bytes) -> str:
    """Return the inline status of raw headers (`503`), or ""."""
    return raw[9:12].decode("ascii", "replace") if raw[8:9] == b" " else ""


def headers_of(raw: bytes) -> dict[str, str]:
    """Read raw headers; an inline status becomes `Status` and `Description`."""
    first, _, rest = raw.partition(b"\r\n")
    headers: dict[str, str] = {}
    status, _, description = first[len(HEADER_LINE) :].strip().partition(b" ")
    if status:
        headers["Status"] = status.decode("ascii", "replace")
    if description:
        headers["Description"] = description.decode("utf-8", "replace")
    for line in rest.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            key = name.strip().decode("ascii", "replace")
            headers[key] = value.strip().decode("utf-8", "replace")
    return headers
