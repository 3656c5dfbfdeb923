"""JetStream's JSON API: its requests and answers, as far as AgentCom uses it.

The shapes are those of https://github.com/nats-io/nats-server (`server/jetstream_api.go`
and `server/stream.go`); what is not read here is left out.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any, Final

import msgspec

from events import catalogue as c
from events import header
from events.codec import Reader, decode_event, encode
from events.errors import Denied, LogUnavailable, Malformed, Unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from events.nats.link import Link, LinkMessage

# `err_code` of an answer (`server/errors.json` of nats-server).
WRONG_LAST_SEQUENCE: Final = 10071
"""The subject does not stand where the publish expected it."""
READ_AGAIN: Final = 10164
"""The same, where another write of the subject was under way."""
NO_MESSAGE_FOUND: Final = 10037
STREAM_NOT_FOUND: Final = 10059
REFUSED_FOR_GOOD: Final = frozenset({400, 403, 404, 413})
"""Values of `code` after which sending the same again is of no use."""

ACK_TIMEOUT: Final = 2.0
"""Seconds until an answer counts as lost."""
DIRECT_BATCH: Final = 1_000
"""Messages in one answer of direct get; the server's own limit is 1,024."""
DIRECT_BYTES: Final = 2 * 1024 * 1024
"""Bytes after which such an answer ends. Without it the server puts up to 64 MiB into its
memory for one reader, and as much is held here."""
DIRECT_MOST_BYTES: Final = 4 * DIRECT_BYTES
"""So far this grows for who reads on and on: beginning an answer costs the server more than
a mebibyte in it."""
DIRECT_TRIES: Final = 4
"""How often a batch is asked for that nobody answers; a broker under load is slow at it."""
ALL: Final = 2**63 - 1
"""As many as there are."""


class ApiError(msgspec.Struct):
    """JetStream's own description of what went wrong."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct):
    """What JetStream answers to a publish."""

    stream: str = ""
    seq: int = 0
    error: ApiError | None = None


class StoredMessage(msgspec.Struct):
    """A message as STREAM.MSG.GET returns it; `data` in base64."""

    subject: str
    seq: int
    data: str = ""


class MessageAnswer(msgspec.Struct):
    """The answer of STREAM.MSG.GET."""

    message: StoredMessage | None = None
    error: ApiError | None = None


class StreamState(msgspec.Struct):
    """How far a stream is."""

    first_seq: int = 0
    last_seq: int = 0
    messages: int = 0
    bytes: int = 0
    first_ts: str = ""
    last_ts: str = ""


class StreamAnswer(msgspec.Struct):
    """The answer of STREAM.INFO, as far as it is read here."""

    state: StreamState | None = None
    ts: str = ""
    error: ApiError | None = None


class ConsumerAnswer(msgspec.Struct):
    """The answer of CONSUMER.CREATE."""

    name: str = ""
    num_pending: int = 0
    error: ApiError | None = None


read_ack: Reader[PubAck] = Reader(PubAck)
read_message: Reader[MessageAnswer] = Reader(MessageAnswer)
read_stream: Reader[StreamAnswer] = Reader(StreamAnswer)
read_consumer: Reader[ConsumerAnswer] = Reader(ConsumerAnswer)


async def ask(link: Link, subject: str, request: dict[str, Any]) -> LinkMessage:
    """Ask an API that answers at once; a server that is just coming up is asked again."""
    for _ in range(20):
        try:
            return await link.call(subject, encode(request), timeout=ACK_TIMEOUT)
        except Unreachable as error:
            if not error.absent:
                raise LogUnavailable(f"ask {subject}", "no answer in time") from error
            await asyncio.sleep(0.01)
    raise LogUnavailable(f"ask {subject}", "nobody answers there")


async def stream_state(link: Link, stream: str) -> StreamState:
    """Return how far a stream is; raises LogUnavailable."""
    message = await ask(link, f"$JS.API.STREAM.INFO.{stream}", {})
    answer = read_stream.decode(message.data)
    if answer.state is None:
        reason = answer.error.description if answer.error else "no state"
        raise LogUnavailable(f"ask how far {stream} is", reason)
    return answer.state


async def stored_message(
    link: Link, stream: str, request: dict[str, Any], *, timeout: float = ACK_TIMEOUT
) -> tuple[int, str, bytes] | None:
    """Ask a stream's leader for one message; return (sequence, subject, data).

    None where there is none. Raises LogUnavailable, and Unreachable after `timeout`
    seconds.
    """
    reply = await link.call(
        f"$JS.API.STREAM.MSG.GET.{stream}", encode(request), timeout=timeout
    )
    answer = read_message.decode(reply.data)
    if answer.error is not None:
        if answer.error.err_code == NO_MESSAGE_FOUND:
            return None
        raise LogUnavailable("look up", answer.error.description)
    if answer.message is None:
        return None
    message = answer.message
    return message.seq, message.subject, base64.b64decode(message.data)


async def direct(
    link: Link, stream: str, subject: str, *, start: int = 1, limit: int = 1_000_000
) -> AsyncIterator[LinkMessage]:
    """Yield a stream's messages on a subject, oldest first, batch by batch.

    What an unanswered batch has brought is kept, and the rest is asked for again. Raises
    LogUnavailable without a connection, and after some silence; Denied without the right.
    """
    seq, left, silent = max(start, 1), limit, 0
    size = DIRECT_BYTES
    while left > 0:
        batch = min(DIRECT_BATCH, left)
        messages, more = await _direct_batch(link, stream, subject, seq, batch, size)
        size = DIRECT_BYTES if more is None else min(2 * size, DIRECT_MOST_BYTES)
        for message in messages:
            yield message
        left -= len(messages)
        if messages:
            seq = int(messages[-1].headers[header.SEQUENCE]) + 1
        if more is None:
            silent = 0 if messages else silent + 1
            if silent == DIRECT_TRIES:
                raise LogUnavailable(f"read {subject}", "no answer in time")
        elif not messages or not more:
            return


async def _direct_batch(
    link: Link, stream: str, subject: str, seq: int, batch: int, size: int
) -> tuple[list[LinkMessage], bool | None]:
    """Ask for a batch of about `size` bytes; return it and whether there is more behind it.

    None: the answer did not come to its end in time.
    """
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    messages: list[LinkMessage] = []

    def on(message: LinkMessage) -> None:
        if done.done():
            return
        if message.status == "204":
            done.set_result(int(message.headers.get(header.NUM_PENDING, "0")) > 0)
        elif message.status == "404":
            done.set_result(False)
        elif message.status:
            reason = message.headers.get("Description", message.status)
            done.set_exception(LogUnavailable(f"read {subject}", reason))
        else:
            messages.append(message)

    def refused(answer: LinkMessage | Denied) -> None:
        if isinstance(answer, Denied) and not done.done():
            done.set_exception(answer)

    inbox = link.new_inbox()
    subscription = await link.subscribe(inbox, on)
    api = f"$JS.API.DIRECT.GET.{stream}"
    # The answers come to the inbox; this only hears of a missing right.
    marker = link.expect(api, refused)
    try:
        request = {
            "seq": seq,
            "next_by_subj": subject,
            "batch": batch,
            "max_bytes": size,
        }
        if not link.post(api, encode(request), reply=inbox):
            raise LogUnavailable(f"read {subject}", "no connection")
        async with asyncio.timeout(ACK_TIMEOUT + batch / 500):
            more: bool | None = await done
    except TimeoutError:
        more = None
    finally:
        link.forget(marker)
        await subscription.stop()
    return messages, more


def recorded_of(message: LinkMessage) -> c.Recorded | None:
    """Read a message of direct get or of the republished log; None if it is no event."""
    try:
        event = decode_event(message.data)
    except Malformed:
        return None
    seq = int(message.headers[header.SEQUENCE])
    return c.Recorded(seq, message.headers.get(header.SUBJECT, message.subject), event)
