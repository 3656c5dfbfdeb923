"""The real log: JetStream, spoken over a `Link`.

Three techniques carry it. Appends name the sequence their subject must stand at, and one
whose acknowledgement got lost is resolved by looking at what came next on that subject:
if it is ours, it was stored; if it is another's, that is the conflict; if it is nothing,
it is sent again. Readers with the right to make consumers pull, with two batches asked
for ahead, and reopen where they stood when a delivery number is missing. Readers without
it (operators, watchers) follow what the stream republishes and fetch what they missed.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any, Final

import msgspec

from events import subjects
from events.catalogue import Chunk, Event, Recorded
from events.codec import Reader, decode_event, encode
from events.errors import (
    Conflict,
    Denied,
    LogError,
    LogUnavailable,
    Malformed,
    TooLarge,
    Unreachable,
)
from events.log import MAX_EVENT_BYTES
from events.nats.link import NO_RESPONDERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nats.aio.subscription import Subscription

    from events.log import Follower
    from events.nats.link import Link, LinkMessage

EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
TTL: Final = "Nats-TTL"
BATCH_ID: Final = "Nats-Batch-Id"
BATCH_SEQUENCE: Final = "Nats-Batch-Sequence"
BATCH_COMMIT: Final = "Nats-Batch-Commit"
SEQUENCE: Final = "Nats-Sequence"
SUBJECT: Final = "Nats-Subject"

WRONG_LAST_SEQUENCE: Final = 10071
READ_AGAIN: Final = 10164
NO_MESSAGE_FOUND: Final = 10037
REFUSED_FOR_GOOD: Final = frozenset({400, 403, 404, 413})

ACK_TIMEOUT: Final = 2.0
APPEND_DEADLINE: Final = 10.0
SWEEP: Final = 0.25
PULL_BATCH: Final = 2_000
PULL_AHEAD: Final = 2
PULL_EXPIRES: Final = 30.0
HEARTBEAT: Final = 2.0
DIRECT_BATCH: Final = 1_000
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
    duplicate: bool = False
    error: ApiError | None = None


class StoredMessage(msgspec.Struct):
    """A message as STREAM.MSG.GET returns it; `data` in base64."""

    subject: str
    seq: int
    data: str = ""


class MessageFound(msgspec.Struct):
    """The answer of STREAM.MSG.GET."""

    message: StoredMessage | None = None
    error: ApiError | None = None


class StreamState(msgspec.Struct):
    """How far a stream is."""

    first_seq: int = 0
    last_seq: int = 0
    messages: int = 0
    bytes: int = 0


class StreamFound(msgspec.Struct):
    """The answer of STREAM.INFO, as far as it is read here."""

    state: StreamState | None = None
    error: ApiError | None = None


class ConsumerMade(msgspec.Struct):
    """The answer of CONSUMER.CREATE."""

    name: str = ""
    num_pending: int = 0
    error: ApiError | None = None


_acks: Reader[PubAck] = Reader(PubAck)
_found: Reader[MessageFound] = Reader(MessageFound)
_streams: Reader[StreamFound] = Reader(StreamFound)
_consumers: Reader[ConsumerMade] = Reader(ConsumerMade)
_chunks: Reader[Chunk] = Reader(Chunk)


class Append:
    """One append on its way: until acknowledged, refused, or given up."""

    __slots__ = (
        "data",
        "due",
        "event_id",
        "expect",
        "future",
        "give_up",
        "reply",
        "subject",
    )

    def __init__(
        self,
        subject: str,
        data: bytes,
        event_id: str,
        expect: int | None,
        future: asyncio.Future[int],
        now: float,
    ) -> None:
        self.subject = subject
        self.data = data
        self.event_id = event_id
        self.expect = expect
        self.future = future
        self.due = now + ACK_TIMEOUT
        self.give_up = now + APPEND_DEADLINE
        self.reply = ""


class JetStreamLog:
    """`events.log.EventLog` over a link.

    `consumers` says whether the role may make consumers; without, `follow` listens to
    what the stream republishes.
    """

    def __init__(self, link: Link, *, consumers: bool = True) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._consumers = consumers
        self._pending: dict[Append, None] = {}
        self._resolving: dict[Append, asyncio.Task[None]] = {}
        self._batches = 0
        self._sweeper: asyncio.Task[None] | None = None
        link.on_connection(self._connection)

    async def close(self) -> None:
        """Give up what is not acknowledged; the link stays open."""
        tasks = [task for task in (self._sweeper, *self._resolving.values()) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for append in list(self._pending):
            self._fail(append, LogUnavailable(f"append to {append.subject}", "closed"))

    # -- appending ---------------------------------------------------------------------

    def append(
        self, subject: str, event: Event, *, expect: int | None = None
    ) -> asyncio.Future[int]:
        return self.append_raw(subject, encode(event), event.id, expect=expect)

    def append_raw(
        self, subject: str, data: bytes, event_id: str, *, expect: int | None = None
    ) -> asyncio.Future[int]:
        """Append an event that is encoded already; `event_id` is the id inside it."""
        future: asyncio.Future[int] = self._loop.create_future()
        if len(data) > MAX_EVENT_BYTES:
            future.set_exception(TooLarge(subject, len(data), MAX_EVENT_BYTES))
            return future
        append = Append(subject, data, event_id, expect, future, self._loop.time())
        self._pending[append] = None
        if self._sweeper is None:
            self._sweeper = self._loop.create_task(self._sweep())
        self._send(append)
        return future

    @property
    def in_flight(self) -> int:
        """How many appends are neither acknowledged nor given up."""
        return len(self._pending)

    def _send(self, append: Append) -> None:
        def heard(answer: LinkMessage | Denied) -> None:
            self._answered(append, answer)

        append.reply = self._link.expect(append.subject, heard)
        append.due = self._loop.time() + ACK_TIMEOUT
        headers = None if append.expect is None else {EXPECTED: str(append.expect)}
        if not self._link.post(
            append.subject, append.data, reply=append.reply, headers=headers
        ):
            self._link.forget(append.reply)
            append.reply = ""

    def _answered(self, append: Append, answer: LinkMessage | Denied) -> None:
        if append.future.done():
            self._pending.pop(append, None)
            return
        if isinstance(answer, Denied):
            self._fail(append, answer)
            return
        if not answer.data and answer.status == NO_RESPONDERS:
            # The server is up but its stream is not yet: the sweeper sends it again.
            append.due = self._loop.time() + SWEEP
            return
        try:
            ack = _acks.decode(answer.data)
        except Malformed as error:
            self._fail(
                append, LogUnavailable(f"append to {append.subject}", str(error))
            )
            return
        if ack.error is None:
            self._settle(append, ack.seq)
        elif ack.error.err_code in (WRONG_LAST_SEQUENCE, READ_AGAIN):
            self._resolve(append)
        elif ack.error.code in REFUSED_FOR_GOOD:
            self._fail(
                append,
                LogUnavailable(f"append to {append.subject}", ack.error.description),
            )
        else:
            append.due = self._loop.time() + SWEEP

    def _settle(self, append: Append, seq: int) -> None:
        self._pending.pop(append, None)
        if not append.future.done():
            append.future.set_result(seq)

    def _fail(self, append: Append, error: LogError) -> None:
        self._pending.pop(append, None)
        if append.reply:
            self._link.forget(append.reply)
        if not append.future.done():
            append.future.set_exception(error)

    def _connection(self, up: bool) -> None:
        if not up:
            return
        # Before anything new is sent, and in the order it was said first.
        for append in list(self._pending):
            if append.reply:
                self._link.forget(append.reply)
            if append.expect is None:
                self._send(append)
            else:
                self._resolve(append)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            now = self._loop.time()
            for append in list(self._pending):
                if append.due > now:
                    # Insertion order is nearly due order, but a resent one is not.
                    continue
                if append.future.done():
                    self._pending.pop(append, None)
                elif now > append.give_up:
                    reason = "no acknowledgement" if self._link.up else "no connection"
                    self._fail(
                        append, LogUnavailable(f"append to {append.subject}", reason)
                    )
                elif not self._link.up:
                    continue
                elif append.expect is None:
                    self._link.forget(append.reply)
                    self._send(append)
                else:
                    self._resolve(append)

    def _resolve(self, append: Append) -> None:
        if append in self._resolving:
            return
        self._link.forget(append.reply)
        task = self._loop.create_task(self._look(append))
        self._resolving[append] = task
        task.add_done_callback(lambda _: self._resolving.pop(append, None))

    async def _look(self, append: Append) -> None:
        """See what follows `expect` on the subject: ours, another's, or nothing."""
        assert append.expect is not None
        try:
            following = await self._next(append.subject, append.expect + 1)
        except (LogError, Unreachable):
            append.due = self._loop.time() + SWEEP
            return
        if append not in self._pending:
            return
        if following is None:
            standing = await self._stands_at(append)
            if standing is None:
                self._send(append)
            else:
                self._fail(append, Conflict(append.subject, append.expect, standing))
        elif _event_id(following[2]) == append.event_id:
            self._settle(append, following[0])
        else:
            last = await self._stands_at(append)
            self._fail(
                append, Conflict(append.subject, append.expect, last or following[0])
            )

    async def _stands_at(self, append: Append) -> int | None:
        """Return the subject's last sequence if it is not the expected one."""
        try:
            last = await self._api_get({"last_by_subj": append.subject})
        except (LogError, Unreachable):
            return None
        seq = last[0] if last else 0
        return None if seq == append.expect else seq

    async def append_batch(self, items: Sequence[tuple[str, Event, int]]) -> list[int]:
        encoded = [
            (subject, encode(event), event.id, expect)
            for subject, event, expect in items
        ]
        for subject, data, _, _ in encoded:
            if len(data) > MAX_EVENT_BYTES:
                raise TooLarge(subject, len(data), MAX_EVENT_BYTES)
        if len(encoded) == 1:
            subject, data, event_id, expect = encoded[0]
            return [await self.append_raw(subject, data, event_id, expect=expect)]
        give_up = self._loop.time() + APPEND_DEADLINE
        while True:
            ack = await self._send_batch(encoded)
            if ack is not None and ack.error is None:
                return list(range(ack.seq - len(encoded) + 1, ack.seq + 1))
            landed = await self._batch_landed(encoded)
            if landed is not None:
                return landed
            if (
                ack is not None
                and ack.error is not None
                and ack.error.code in REFUSED_FOR_GOOD
            ):
                raise LogUnavailable("append a batch", ack.error.description)
            if self._loop.time() > give_up:
                raise LogUnavailable("append a batch", "no acknowledgement")
            await asyncio.sleep(SWEEP)

    async def _send_batch(
        self, encoded: list[tuple[str, bytes, str, int]]
    ) -> PubAck | None:
        self._batches += 1
        batch = f"{encoded[0][2]}-{self._batches}"
        for n, (subject, data, _, expect) in enumerate(encoded, 1):
            headers = {BATCH_ID: batch, BATCH_SEQUENCE: str(n), EXPECTED: str(expect)}
            if n < len(encoded):
                self._link.post(subject, data, headers=headers)
                continue
            headers[BATCH_COMMIT] = "1"
            try:
                answer = await self._link.call(
                    subject,
                    data,
                    timeout=ACK_TIMEOUT + len(encoded) / 200,
                    headers=headers,
                )
            except Unreachable:
                return None
            return _acks.decode(answer.data)
        return None

    async def _batch_landed(
        self, encoded: list[tuple[str, bytes, str, int]]
    ) -> list[int] | None:
        """Look where every subject stands: all ours, or somebody came first."""
        found: list[int] = []
        for subject, _, event_id, expect in encoded:
            try:
                following = await self._next(subject, expect + 1)
            except (LogError, Unreachable):
                return None
            if following is None:
                continue
            if _event_id(following[2]) != event_id:
                raise Conflict(subject, expect, following[0])
            found.append(following[0])
        return found if len(found) == len(encoded) else None

    # -- looking up --------------------------------------------------------------------

    async def _next(self, subject: str, seq: int) -> tuple[int, str, bytes] | None:
        return await self._api_get({"seq": seq, "next_by_subj": subject})

    async def _api_get(self, request: dict[str, Any]) -> tuple[int, str, bytes] | None:
        """Ask the stream's leader for one message; None if there is none."""
        answer = await self._link.call(
            f"$JS.API.STREAM.MSG.GET.{subjects.EVENTS}",
            encode(request),
            timeout=ACK_TIMEOUT,
        )
        found = _found.decode(answer.data)
        if found.error is not None:
            if found.error.err_code == NO_MESSAGE_FOUND:
                return None
            raise LogUnavailable("look up", found.error.description)
        if found.message is None:
            return None
        message = found.message
        return message.seq, message.subject, base64.b64decode(message.data)

    async def get(self, seq: int) -> Recorded | None:
        answer = await _ask(
            self._link, f"$JS.API.DIRECT.GET.{subjects.EVENTS}", {"seq": seq}
        )
        return None if answer.status == "404" else _recorded(answer)

    async def last(self, subject: str) -> Recorded | None:
        if not self._consumers:
            answer = await _ask(
                self._link,
                f"$JS.API.DIRECT.GET.{subjects.EVENTS}",
                {"last_by_subj": subject},
            )
            return None if answer.status == "404" else _recorded(answer)
        found = await self._api_get({"last_by_subj": subject})
        if found is None:
            return None
        return Recorded(found[0], found[1], decode_event(found[2]))

    async def last_sequence(self) -> int:
        if not self._consumers:
            answer = await _ask(
                self._link,
                f"$JS.API.DIRECT.GET.{subjects.EVENTS}",
                {"last_by_subj": subjects.ALL_EVENTS},
            )
            return 0 if answer.status == "404" else int(answer.headers[SEQUENCE])
        answer = await _ask(self._link, f"$JS.API.STREAM.INFO.{subjects.EVENTS}", {})
        found = _streams.decode(answer.data)
        if found.state is None:
            reason = found.error.description if found.error else "no state"
            raise LogUnavailable("ask for the log's state", reason)
        return found.state.last_seq

    async def read(
        self, subject: str, *, start: int = 1, limit: int = 1_000_000
    ) -> list[Recorded]:
        found: list[Recorded] = []
        async for message in direct(
            self._link, subjects.EVENTS, subject, start=start, limit=limit
        ):
            recorded = _recorded(message)
            if recorded is not None:
                found.append(recorded)
        return found

    async def follow(
        self,
        callback: Callable[[Recorded], None],
        *,
        start: int = 1,
        subjects: Sequence[str] = (),
    ) -> Follower:
        kind = PullFollower if self._consumers else TapFollower
        follower = kind(self._link, callback, start, tuple(subjects))
        follower.start()
        return follower


async def _ask(link: Link, subject: str, request: dict[str, Any]) -> LinkMessage:
    """Ask an API that answers at once; a server that is just coming up is asked again."""
    for _ in range(20):
        try:
            return await link.call(subject, encode(request), timeout=ACK_TIMEOUT)
        except Unreachable as error:
            if not error.absent:
                raise LogUnavailable(f"ask {subject}", "no answer in time") from error
            await asyncio.sleep(0.01)
    raise LogUnavailable(f"ask {subject}", "nobody answers there")


async def direct(
    link: Link, stream: str, subject: str, *, start: int = 1, limit: int = 1_000_000
) -> Any:
    """Yield a stream's messages on a subject, oldest first, batch by batch."""
    seq, left = max(start, 1), limit
    while left > 0:
        batch = min(DIRECT_BATCH, left)
        messages, more = await _direct_batch(link, stream, subject, seq, batch)
        for message in messages:
            yield message
        left -= len(messages)
        if not messages or not more:
            return
        seq = int(messages[-1].headers[SEQUENCE]) + 1


async def _direct_batch(
    link: Link, stream: str, subject: str, seq: int, batch: int
) -> tuple[list[LinkMessage], bool]:
    """Ask for a batch by direct get; return it and whether there is more behind it."""
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    messages: list[LinkMessage] = []

    def on(message: LinkMessage) -> None:
        if done.done():
            return
        if message.status == "204":
            done.set_result(int(message.headers.get("Nats-Num-Pending", "0")) > 0)
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
        request = {"seq": seq, "next_by_subj": subject, "batch": batch}
        if not link.post(api, encode(request), reply=inbox):
            raise LogUnavailable(f"read {subject}", "no connection")
        async with asyncio.timeout(ACK_TIMEOUT + batch / 500):
            more = await done
    except TimeoutError as error:
        raise LogUnavailable(f"read {subject}", "no answer in time") from error
    finally:
        link.forget(marker)
        await link.unsubscribe(subscription)
    return messages, more


def _event_id(data: bytes) -> str:
    try:
        return decode_event(data).id
    except Malformed:
        return ""


def _recorded(message: LinkMessage) -> Recorded | None:
    """Read a message of direct get or of the republished log; None if it is no event."""
    try:
        event = decode_event(message.data)
    except Malformed:
        return None
    seq = int(message.headers[SEQUENCE])
    return Recorded(seq, message.headers.get(SUBJECT, message.subject), event)


class PullFollower:
    """Follows the log with a pull consumer of its own; see `events.log.Follower`."""

    def __init__(
        self,
        link: Link,
        callback: Callable[[Recorded], None],
        start: int,
        filters: tuple[str, ...],
    ) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._next = max(start, 1)
        self._filters = filters
        self._subscription: Subscription | None = None
        self._generation = 0
        self._delivered = 0
        self._asked = 0
        self._seen = 0.0
        self._broken = True
        self._inbox = ""
        self._pull_subject = ""
        self._task: asyncio.Task[None] | None = None
        self._nudge = asyncio.Event()
        self.position = 0
        self.undecodable = 0
        self.reopened = 0
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self.caught_up = asyncio.Event()
        link.on_connection(self._connection)

    def start(self) -> None:
        """Begin."""
        self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        self._generation += 1
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._drop()

    def _connection(self, up: bool) -> None:
        if up:
            self._broken = True
            self._nudge.set()

    async def _run(self) -> None:
        while True:
            try:
                if self._link.up and (self._broken or self._silent()):
                    await self._open()
                async with asyncio.timeout(HEARTBEAT if not self._broken else 0.05):
                    await self._nudge.wait()
                self._nudge.clear()
            except TimeoutError:
                continue
            except (LogError, Unreachable, Malformed):
                self._broken = True
                await asyncio.sleep(0.05)

    def _silent(self) -> bool:
        return self._loop.time() - self._seen > 3 * HEARTBEAT

    async def _drop(self) -> None:
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await self._link.unsubscribe(subscription)

    async def _open(self) -> None:
        """Make a consumer that begins where we stand, and ask it for two batches."""
        await self._drop()
        self._generation += 1
        self._delivered = self._asked = 0
        self.reopened += 1
        stream = subjects.EVENTS
        config: dict[str, Any] = {
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(60e9),
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._next,
            "max_waiting": 16,
        }
        if len(self._filters) == 1:
            config["filter_subject"] = self._filters[0]
        elif self._filters:
            config["filter_subjects"] = list(self._filters)
        answer = await self._link.call(
            f"$JS.API.CONSUMER.CREATE.{stream}",
            encode({"stream_name": stream, "config": config}),
            timeout=5.0,
        )
        made = _consumers.decode(answer.data)
        if made.error is not None:
            raise LogUnavailable("follow the log", made.error.description)
        self._pull_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{made.name}"
        self._inbox = self._link.new_inbox()
        generation = self._generation
        self._subscription = await self._link.subscribe(
            self._inbox, lambda message: self._on(generation, message)
        )
        self._broken = False
        self._seen = self._loop.time()
        if made.num_pending == 0:
            self.caught_up.set()
        self._pull()

    def _pull(self) -> None:
        while self._asked <= PULL_BATCH * (PULL_AHEAD - 1):
            self._asked += PULL_BATCH
            request = {
                "batch": PULL_BATCH,
                "expires": int(PULL_EXPIRES * 1e9),
                "idle_heartbeat": int(HEARTBEAT * 1e9),
            }
            self._link.post(self._pull_subject, encode(request), reply=self._inbox)

    def _on(self, generation: int, message: LinkMessage) -> None:
        if generation != self._generation or self._broken:
            return
        self._seen = self._loop.time()
        if not message.reply.startswith("$JS.ACK"):
            self._on_status(message)
            return
        # $JS.ACK.<stream>.<consumer>.<times>.<seq>.<delivery>.<time>.<pending>
        parts = message.reply.split(".")
        seq, delivery = int(parts[5]), int(parts[6])
        if delivery != self._delivered + 1:
            self._reopen()
            return
        self._delivered = delivery
        self._next = seq + 1
        self._asked -= 1
        try:
            recorded = Recorded(seq, message.subject, decode_event(message.data))
        except Malformed:
            self.undecodable += 1
            recorded = None
        self.position = seq
        if recorded is not None:
            try:
                self._callback(recorded)
            except BaseException as error:
                self._broken = True
                self._generation += 1
                if not self.failed.done():
                    self.failed.set_exception(error)
                raise
        if parts[8] == "0":
            self.caught_up.set()
        if self._asked <= PULL_BATCH * (PULL_AHEAD - 1):
            self._pull()

    def _on_status(self, message: LinkMessage) -> None:
        status = message.status
        if status == "100":
            return
        if status == "409" and "Exceeded" not in message.headers.get("Description", ""):
            self._reopen()
            return
        # The requests made so far have expired (404, 408): ask anew.
        self._asked = 0
        self._pull()

    def _reopen(self) -> None:
        self._broken = True
        self._nudge.set()


class TapFollower:
    """Follows the log by what the stream republishes, and fetches what it missed.

    For roles that may not make consumers. Live messages wait in a buffer while the past
    is read; a gap in the sequence means that some were missed, so they are read too.
    With filters a gap cannot be seen, so after a reconnect everything since is read.
    """

    LIMIT: Final = 50_000

    def __init__(
        self,
        link: Link,
        callback: Callable[[Recorded], None],
        start: int,
        filters: tuple[str, ...],
    ) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._next = max(start, 1)
        self._filters = filters or (subjects.ALL_EVENTS,)
        self._buffer: dict[int, LinkMessage] = {}
        self._behind = True
        self._nudge = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._subscriptions: list[Subscription] = []
        self.position = 0
        self.undecodable = 0
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self.caught_up = asyncio.Event()
        link.on_connection(self._connection)

    def start(self) -> None:
        """Begin."""
        self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for subscription in self._subscriptions:
            await self._link.unsubscribe(subscription)

    def _connection(self, up: bool) -> None:
        if up:
            self._behind = True
            self._nudge.set()

    def _on(self, message: LinkMessage) -> None:
        sequence = message.headers.get(SEQUENCE)
        if sequence is None:
            return
        if len(self._buffer) >= self.LIMIT:
            self._buffer.clear()
            self._behind = True
        self._buffer[int(sequence)] = message
        self._nudge.set()

    async def _run(self) -> None:
        for filter_subject in self._filters:
            self._subscriptions.append(
                await self._link.subscribe(filter_subject, self._on)
            )
        while True:
            try:
                if self._behind and self._link.up:
                    self._behind = False
                    await self._read_past()
                    self.caught_up.set()
                self._hand_on_live()
                async with asyncio.timeout(HEARTBEAT):
                    await self._nudge.wait()
                self._nudge.clear()
            except TimeoutError:
                continue
            except (LogError, Unreachable):
                self._behind = True
                await asyncio.sleep(0.05)

    async def _read_past(self) -> None:
        if len(self._filters) == 1:
            async for message in direct(
                self._link,
                subjects.EVENTS,
                self._filters[0],
                start=self._next,
                limit=ALL,
            ):
                self._hand_on(message)
            return
        found: dict[int, LinkMessage] = {}
        for filter_subject in self._filters:
            async for message in direct(
                self._link,
                subjects.EVENTS,
                filter_subject,
                start=self._next,
                limit=ALL,
            ):
                found[int(message.headers[SEQUENCE])] = message
        for seq in sorted(found):
            self._hand_on(found[seq])

    def _hand_on_live(self) -> None:
        whole = self._filters == (subjects.ALL_EVENTS,)
        for seq in sorted(self._buffer):
            if whole and seq > self._next:
                self._behind = True
                self._nudge.set()
                return
            self._hand_on(self._buffer.pop(seq))

    def _hand_on(self, message: LinkMessage) -> None:
        seq = int(message.headers[SEQUENCE])
        if seq < self._next:
            return
        self._next = seq + 1
        self.position = seq
        recorded = _recorded(message)
        if recorded is None:
            self.undecodable += 1
            return
        try:
            self._callback(recorded)
        except BaseException as error:
            if not self.failed.done():
                self.failed.set_exception(error)
            raise


class JetStreamOutput:
    """The output stream: pieces of live output, written by hosts, read by anybody."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def publish(self, subject: str, data: bytes) -> None:
        """Send a chunk; lost while disconnected (its number tells)."""
        self._link.post(subject, data)

    async def read(self, task_id: str, *, start: int = 1) -> list[Chunk]:
        """Return a task's chunks, oldest first, from all hosts it ran on."""
        found: list[Chunk] = []
        async for message in direct(
            self._link, subjects.OUTPUT, subjects.outputs_of(task_id), start=start
        ):
            try:
                found.append(_chunks.decode(message.data))
            except Malformed:
                continue
        return found

    async def listen(
        self, task_id: str, callback: Callable[[Chunk], None], *, republished: bool
    ) -> Subscription:
        """Hand on a task's chunks as they come.

        `republished` for readers inside the core account, where the stream's copy has a
        subject of its own; other accounts receive it under the original name.
        """

        def on(message: LinkMessage) -> None:
            try:
                callback(_chunks.decode(message.data))
            except Malformed:
                return

        subject = subjects.outputs_of(task_id)
        if republished:
            subject = subject.replace("agentcom.out.", "agentcom.tap.", 1)
        return await self._link.subscribe(subject, on)


class JetStreamLeases:
    """Leases in the key-value bucket: a key, its holder, and the server's own expiry.

    See `actors.scheduler.lease` for who holds on to one and for how long.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    async def put(
        self, key: str, holder: str, *, expect: int, ttl: float, timeout: float
    ) -> int:
        """Take (`expect` 0) or renew (`expect` the last revision) a lease.

        `ttl` in seconds. Returns the new revision. Raises Conflict, LogUnavailable.
        """
        headers = {EXPECTED: str(expect), TTL: f"{max(1, round(ttl))}s"}
        return await self._write(key, holder, expect, headers, timeout)

    async def note(self, key: str, text: str, *, timeout: float) -> None:
        """Write a key that does not expire. Raises LogUnavailable."""
        await self._write(key, text, 0, {}, timeout)

    async def _write(
        self, key: str, text: str, expect: int, headers: dict[str, str], timeout: float
    ) -> int:
        subject = f"$KV.{subjects.LEASES}.{key}"
        try:
            answer = await self._link.call(
                subject, text.encode(), timeout=timeout, headers=headers
            )
        except Unreachable as error:
            raise LogUnavailable("renew the lease", str(error)) from error
        ack = _acks.decode(answer.data)
        if ack.error is None:
            return ack.seq
        if ack.error.err_code in (WRONG_LAST_SEQUENCE, READ_AGAIN):
            raise Conflict(subject, expect, None)
        raise LogUnavailable("renew the lease", ack.error.description)

    async def holder(self, key: str, *, timeout: float) -> tuple[str, int] | None:
        """Return who holds a lease and its revision, as the bucket's leader knows it."""
        subject = f"$KV.{subjects.LEASES}.{key}"
        try:
            answer = await self._link.call(
                f"$JS.API.STREAM.MSG.GET.KV_{subjects.LEASES}",
                encode({"last_by_subj": subject}),
                timeout=timeout,
            )
        except Unreachable as error:
            raise LogUnavailable("look at the lease", str(error)) from error
        found = _found.decode(answer.data)
        if found.message is None:
            return None
        return base64.b64decode(found.message.data).decode(), found.message.seq
