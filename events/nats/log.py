"""The log in JetStream, over a `Link`.

Three techniques carry it. Appends name the sequence their subject must stand at, and one
whose acknowledgement got lost is resolved by looking at what came next on that subject:
if it is ours, it was stored; if it is another's, that is the conflict; if it is nothing,
it is sent again. Readers with the right to make consumers pull, with two batches asked
for ahead, and reopen where they stood when a delivery number is missing. Readers without
it (operators, watchers) follow what the stream republishes and fetch what they missed.
Both kinds of reader are in `events.nats.follow`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from events import catalogue as c
from events import header, subjects
from events.codec import decode_event, encode
from events.errors import (
    Conflict,
    Denied,
    LogError,
    LogUnavailable,
    Malformed,
    TooLarge,
    Unreachable,
)
from events.log import MAX_EVENT_BYTES, Appended
from events.nats.api import (
    ACK_TIMEOUT,
    READ_AGAIN,
    REFUSED_FOR_GOOD,
    WRONG_LAST_SEQUENCE,
    PubAck,
    ask,
    direct,
    read_ack,
    recorded_of,
    stored_message,
    stream_state,
)
from events.nats.follow import PullFollower, TapFollower
from events.nats.link import NO_RESPONDERS
from events.nats.volume import HostVolume
from events.position import NOWHERE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from events.log import Follower
    from events.nats.link import Link, LinkMessage
    from events.position import Position

APPEND_DEADLINE: Final = 10.0
"""Seconds after which an append that nobody acknowledged is given up."""
SWEEP: Final = 0.25
"""Seconds between two looks for appends whose acknowledgement is overdue."""


class Append(Struct, eq=False):
    """One append on its way: until acknowledged, refused, or given up.

    `done` is called at its end. Where somebody waits for it in `future`, that may have been
    cancelled: then nobody asks for it any more. At `due` its acknowledgement is overdue
    (seconds of the loop's clock, as `give_up`); `reply` is the subject where it will come.
    """

    subject: str
    data: bytes
    event_id: str
    expect: int | None
    done: Appended
    give_up: float
    future: asyncio.Future[int] | None = None
    over: bool = False
    due: float = 0.0
    reply: str = ""

    @property
    def wanted(self) -> bool:
        return not self.over and (self.future is None or not self.future.done())


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
        self.volume = HostVolume(self._loop.time)
        self._batches = 0
        self._sweeper: asyncio.Task[None] | None = None
        self._forget = link.on_connection(self._connection)

    async def close(self) -> None:
        """Give up what is not acknowledged; the link stays open."""
        self._forget()
        tasks = [task for task in (self._sweeper, *self._resolving.values()) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for append in list(self._pending):
            self._fail(append, LogUnavailable(f"append to {append.subject}", "closed"))

    # -- appending ---------------------------------------------------------------------

    def append(
        self, subject: str, event: c.Event, *, expect: int | None = None
    ) -> asyncio.Future[int]:
        return self.append_raw(subject, encode(event), event.id, expect=expect)

    def append_raw(
        self, subject: str, data: bytes, event_id: str, *, expect: int | None = None
    ) -> asyncio.Future[int]:
        """Append an event that is encoded already; `event_id` is the id inside it."""
        future: asyncio.Future[int] = self._loop.create_future()

        def done(seq: int, error: LogError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(seq)
            else:
                future.set_exception(error)

        give_up = self._loop.time() + APPEND_DEADLINE
        self._begin(Append(subject, data, event_id, expect, done, give_up, future))
        return future

    def append_then(
        self, subject: str, event: c.Event, done: Appended, *, expect: int | None = None
    ) -> None:
        give_up = self._loop.time() + APPEND_DEADLINE
        self._begin(Append(subject, encode(event), event.id, expect, done, give_up))

    def _begin(self, append: Append) -> None:
        size = len(append.data)
        if size > MAX_EVENT_BYTES:
            error = TooLarge(append.subject, size, MAX_EVENT_BYTES)
            self._loop.call_soon(append.done, 0, error)
            return
        self._pending[append] = None
        if self._sweeper is None:
            self._sweeper = self._loop.create_task(self._sweep())
        self._send(append)

    def _send(self, append: Append) -> None:
        def heard(answer: LinkMessage | Denied) -> None:
            self._answered(append, answer)

        append.reply = self._link.expect(append.subject, heard)
        append.due = self._loop.time() + ACK_TIMEOUT
        headers = (
            None
            if append.expect is None
            else {header.EXPECTED_LAST: str(append.expect)}
        )
        if not self._link.post(
            append.subject, append.data, reply=append.reply, headers=headers
        ):
            self._link.forget(append.reply)
            append.reply = ""

    def _answered(self, append: Append, answer: LinkMessage | Denied) -> None:
        if not append.wanted:
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
            ack = read_ack.decode(answer.data)
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
        if not append.over:
            append.over = True
            append.done(seq, None)

    def _fail(self, append: Append, error: LogError) -> None:
        self._pending.pop(append, None)
        if append.reply:
            self._link.forget(append.reply)
        if not append.over:
            append.over = True
            append.done(0, error)

    def _connection(self, up: bool) -> None:
        if not up:
            return
        # Before anything new is sent, and in the order in which it was sent first.
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
                if not append.wanted:
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
        if following is None and await self._may_stand(append):
            self._send(append)
        elif following is not None and _event_id(following[2]) == append.event_id:
            self._settle(append, following[0])
        else:
            self._fail(append, Conflict(append.subject, append.expect))

    async def _may_stand(self, append: Append) -> bool:
        """Whether the subject stands where it is expected, as far as anybody says."""
        try:
            last = await self._leader_get({"last_by_subj": append.subject})
        except (LogError, Unreachable):
            return True
        return append.expect == (last[0] if last else 0)

    async def append_batch(
        self, items: Sequence[tuple[str, c.Event, int]]
    ) -> list[int]:
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
            headers = {
                header.BATCH_ID: batch,
                header.BATCH_SEQUENCE: str(n),
                header.EXPECTED_LAST: str(expect),
            }
            if n < len(encoded):
                self._link.post(subject, data, headers=headers)
                continue
            headers[header.BATCH_COMMIT] = "1"
            try:
                answer = await self._link.call(
                    subject,
                    data,
                    timeout=ACK_TIMEOUT + len(encoded) / 200,
                    headers=headers,
                )
            except Unreachable:
                return None
            return read_ack.decode(answer.data)
        return None

    async def _batch_landed(
        self, encoded: list[tuple[str, bytes, str, int]]
    ) -> list[int] | None:
        """Look where every subject stands: all ours, or somebody came first."""
        sequences: list[int] = []
        for subject, _, event_id, expect in encoded:
            try:
                following = await self._next(subject, expect + 1)
            except (LogError, Unreachable):
                return None
            if following is None:
                continue
            if _event_id(following[2]) != event_id:
                raise Conflict(subject, expect)
            sequences.append(following[0])
        return sequences if len(sequences) == len(encoded) else None

    # -- looking up --------------------------------------------------------------------

    async def _next(self, subject: str, seq: int) -> tuple[int, str, bytes] | None:
        return await self._leader_get({"seq": seq, "next_by_subj": subject})

    async def _leader_get(
        self, request: dict[str, Any]
    ) -> tuple[int, str, bytes] | None:
        """Ask the stream's leader for one message; None if there is none."""
        return await stored_message(self._link, subjects.EVENTS, request)

    async def _direct_get(self, request: dict[str, Any]) -> LinkMessage | None:
        """Ask any copy of the stream for one message; None if there is none."""
        answer = await ask(self._link, f"$JS.API.DIRECT.GET.{subjects.EVENTS}", request)
        return None if answer.status == "404" else answer

    async def get(self, seq: int) -> c.Recorded | None:
        message = await self._direct_get({"seq": seq})
        return None if message is None else recorded_of(message)

    async def last(self, subject: str) -> c.Recorded | None:
        if not self._consumers:
            message = await self._direct_get({"last_by_subj": subject})
            return None if message is None else recorded_of(message)
        stored = await self._leader_get({"last_by_subj": subject})
        if stored is None:
            return None
        return c.Recorded(stored[0], stored[1], decode_event(stored[2]))

    async def last_sequence(self) -> int:
        if not self._consumers:
            message = await self._direct_get({"last_by_subj": subjects.ALL_EVENTS})
            return int(message.headers[header.SEQUENCE]) if message else 0
        return (await stream_state(self._link, subjects.EVENTS)).last_seq

    async def read(
        self, subject: str, *, start: int = 1, limit: int = 1_000_000
    ) -> list[c.Recorded]:
        events: list[c.Recorded] = []
        async for message in direct(
            self._link, subjects.EVENTS, subject, start=start, limit=limit
        ):
            recorded = recorded_of(message)
            if recorded is not None:
                events.append(recorded)
        return events

    async def follow(
        self,
        callback: Callable[[c.Recorded], None],
        *,
        start: int = 1,
        after: Position | None = None,
        subjects: Sequence[str] = (),
    ) -> Follower:
        behind = after or NOWHERE
        start = behind.seq + 1 if behind.seq else start
        about = (self._link, callback, start, tuple(subjects), behind)
        if self._consumers:
            return PullFollower(*about, self.volume.weigh)
        return TapFollower(*about)


def _event_id(data: bytes) -> str:
    try:
        return decode_event(data).id
    except Malformed:
        return ""
