"""nats-py's client with its two busiest paths made short.

nats-py keeps the connection: handshake, keys, pings, reconnects, subscriptions. But it
reads each message in a task of its own, with five regular expressions, takes it through a
queue and another task, reads headers that nobody asks for, and sends through a coroutine
and two more tasks. Here messages are taken out of the connection's bytes as these come in
and go to their handlers at once; every other line is left to nats-py. And what is sent in
one turn of the loop leaves in one write at its end. docs/decisions/0203 and 0220 say what
that saves and what it leans on.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from nats.protocol.command import hpub_cmd, pub_cmd

from agentcom.steady import SteadyClient
from events.errors import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    Straight = Callable[[str, str, bytes, bytes], None]
    """Called with subject, reply (or ""), data and raw headers (or b"")."""

HEADER_LINE: Final = b"NATS/1.0"
_ONE_WORD: Final = re.compile(r"[^\s\x00]+")
_LINE_ENDS: Final = re.compile(r"[\r\n]+")


class Wire(SteadyClient):
    """A nats-py client; `listen` and `send` are the short ways."""

    def __init__(self) -> None:
        super().__init__()
        self._straight: dict[Any, Straight] = {}
        self._by_sid: dict[bytes, Straight] = {}
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
            self._by_sid.pop(b"%d" % subscription._id, None)

    async def _read_loop(self) -> None:
        """Have messages taken out of what comes in; nats-py reads the rest."""
        transport: Any = self._transport
        if transport is None:
            return
        reader = transport._io_reader
        # Where the connection has ended already, nothing may be fed to its reader.
        leave = reader._buffer.extend if reader._eof else reader.feed_data
        messages = Messages(self._handler_of, leave)
        # What came with the handshake's last answer has not been read by anybody.
        waiting = bytes(reader._buffer)
        reader._buffer.clear()
        reader._maybe_resume_transport()
        reader.feed_data = messages.feed
        try:
            messages.feed(waiting)
            await super()._read_loop()
        finally:
            # What an abandoned connection still brings is nobody's.
            del reader.feed_data

    async def _process_pong(self) -> None:
        """Pass by what nobody waits for any more, who was given up or came too late.

        nats-py would fail at it and read nothing after it, on a connection that stands.
        """
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    def _handler_of(self, sid: bytes) -> Straight | None:
        """Return who takes a subscription's messages, None where that is nats-py."""
        handler = self._by_sid.get(sid)
        if handler is None:
            subscription = self._subs.get(int(sid))
            if subscription is None:
                return _nobody
            handler = self._straight.get(subscription._cb)
            if handler is not None:
                self._by_sid[sid] = handler
        return handler

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


_FIXED: Final = {b"MSG": 4, b"HMSG": 5}
"""How many words such a line has where no answer is wanted:
`MSG subject sid [reply] size`, `HMSG subject sid [reply] size-of-headers size`."""


def _extent(words: list[bytes], fixed: int, after: int) -> tuple[int, int] | None:
    """Return where the data of a message begin and end; None if its line makes no sense.

    `after` is where its line has ended.
    """
    if len(words) - fixed not in (0, 1):
        return None
    try:
        body = after + int(words[-2]) if fixed == 5 else after
        end = after + int(words[-1])
    except ValueError:
        return None
    return (body, end) if words[2].isdigit() and after <= body <= end else None


def _nobody(_subject: str, _reply: str, _data: bytes, _headers: bytes) -> None:
    """Take what still comes in after a subscription has ended."""


class Messages:
    """Takes the messages out of a connection's bytes, wherever these are cut.

    `handler_of` returns who gets the messages of a subscription (its number as it stands in
    the line). What nobody gets, and every line that is no message, goes to `leave`, whole.
    """

    def __init__(
        self,
        handler_of: Callable[[bytes], Straight | None],
        leave: Callable[[bytes], None],
    ) -> None:
        self._handler_of = handler_of
        self._leave = leave
        # The beginning of what has not come whole yet, and how long that will be, 0 where
        # that is not known.
        self._begun = bytearray()
        self._whole = 0

    def feed(self, data: bytes) -> None:
        """Take what has come in."""
        if self._begun:
            self._begun += data
            if len(self._begun) < self._whole:
                return
            data = bytes(self._begun)
            self._begun.clear()
        at, size = 0, len(data)
        while at < size:
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                self._whole = 0
                break
            after = line_end + 2
            words = data[at:line_end].split()
            fixed = _FIXED.get(words[0]) if words else None
            if fixed is not None:
                extent = _extent(words, fixed, after)
                if extent is None:
                    # nats-py says what is wrong with it, and connects anew.
                    self._leave(data[at:])
                    return
                body, end = extent
                if end + 2 > size:
                    self._whole = end + 2 - at
                    break
                start, at = at, end + 2
                handler = self._handler_of(words[2])
                if handler is None:
                    self._leave(data[start:at])
                    continue
                # Either may hold bytes that are no UTF-8: they must not end the reader.
                # With the replacements it is no subject of ours.
                handler(
                    words[1].decode("utf-8", "replace"),
                    words[3].decode("utf-8", "replace") if len(words) > fixed else "",
                    data[body:end],
                    data[after:body],
                )
            else:
                self._leave(data[at:after])
                at = after
        if at < size:
            self._begun += data[at:]


def frame(
    subject: str, reply: str, data: bytes, headers: Mapping[str, str] | None
) -> bytes:
    """Encode a publish; raises ValueError for a subject that would break the line."""
    if not _ONE_WORD.fullmatch(subject):
        raise ValueError(f"not a subject: {shown(subject)}")
    if reply and not _ONE_WORD.fullmatch(reply):
        raise ValueError(f"not a subject: {shown(reply)}")
    if not headers:
        return pub_cmd(subject, reply, data)
    lines = [HEADER_LINE.decode()]
    for name, value in headers.items():
        if not _ONE_WORD.fullmatch(name) or ":" in name:
            raise ValueError(f"not a header name: {shown(name)}")
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
