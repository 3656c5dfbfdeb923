"""Readers of the log over NATS: one that pulls, one that follows what is republished."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

from events import catalogue as c
from events import header, subjects
from events.codec import decode_event, encode
from events.errors import LogError, LogUnavailable, Malformed, Unreachable
from events.nats.api import ALL, direct, read_consumer, recorded_of, stored_message
from events.position import LogChanged, Position
from events.races import give_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.nats.link import Link, LinkMessage, LinkSubscription

PULL_BATCH: Final = 2_000
"""Events asked for in one pull request."""
PULL_AHEAD: Final = 2
"""Pull requests kept open, so that the server need not wait for the next."""
PULL_EXPIRES: Final = 30.0
"""Seconds after which the server ends a pull request that is not filled."""
HEARTBEAT: Final = 2.0
"""Seconds of silence after which the server says that it is still there."""
LOOK_AGAIN: Final = 5
"""Heartbeats' lengths without an event after which a tap looks whether it missed one."""
PAUSE: Final = 0.05
"""Seconds before what has just failed, or did not bring what was missed, is tried anew."""


async def check(link: Link, last: c.Recorded | Position) -> None:
    """Raise LogChanged where the log's leader does not hold what was read last."""
    position = last if isinstance(last, Position) else Position.of(last)
    if not position.seq:
        return
    stored = await stored_message(link, subjects.EVENTS, {"seq": position.seq})
    try:
        recorded = stored and c.Recorded(stored[0], stored[1], decode_event(stored[2]))
    except Malformed:
        recorded = None
    if not position.holds(recorded):
        raise LogChanged(position)


class LinkFollower(ABC):
    """Where a reader stands, and who gets what it reads; see `events.log.Follower`."""

    def __init__(
        self,
        link: Link,
        callback: Callable[[c.Recorded], None],
        start: int,
        filters: tuple[str, ...],
        after: Position,
    ) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._next = max(start, 1)
        self._filters = filters
        # The event handed on last, by which the log is known again.
        self._last: c.Recorded | Position = after
        # Whether something may have been missed, so that it is to begin anew where it stands.
        self._behind = True
        self._nudge = asyncio.Event()
        self.position = 0
        self.undecodable = 0
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self.caught_up = asyncio.Event()
        self._forget = link.on_connection(self._connection)
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._ended)

    @abstractmethod
    async def _run(self) -> None:
        """Read for ever."""

    async def stop(self) -> None:
        self._forget()
        await give_up(self._task)

    def _connection(self, up: bool) -> None:
        if up:
            self._begin_anew()

    def _begin_anew(self) -> None:
        self._behind = True
        self._nudge.set()

    def _hand_on(self, seq: int, recorded: c.Recorded | None) -> None:
        """Give the callback an event; None stands for a message that is none."""
        self._next = seq + 1
        self.position = seq
        if recorded is None:
            self.undecodable += 1
            return
        self._last = recorded
        try:
            self._callback(recorded)
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)


class PullFollower(LinkFollower):
    """Follows the log with a pull consumer of its own.

    `weigh` is told of what comes once all that was there has been read.
    """

    def __init__(
        self,
        link: Link,
        callback: Callable[[c.Recorded], None],
        start: int,
        filters: tuple[str, ...],
        after: Position,
        weigh: Callable[[str, int], None],
    ) -> None:
        super().__init__(link, callback, start, filters, after)
        self._weigh = weigh
        self._subscription: LinkSubscription | None = None
        self._generation = 0
        self._delivered = 0
        self._requested = 0
        self._seen = 0.0
        self._live = False
        self._inbox = ""
        self._pull_subject = ""

    async def stop(self) -> None:
        self._generation += 1
        await super().stop()
        await self._drop()

    async def _run(self) -> None:
        while True:
            try:
                if self._link.up and (self._behind or self._silent()):
                    await self._open()
                async with asyncio.timeout(HEARTBEAT if not self._behind else PAUSE):
                    await self._nudge.wait()
                self._nudge.clear()
            except TimeoutError:
                continue
            except LogChanged as error:
                self._fail(error)
                return
            except (LogError, Unreachable, Malformed):
                self._behind = True
                await asyncio.sleep(PAUSE)

    def _silent(self) -> bool:
        return self._loop.time() - self._seen > 3 * HEARTBEAT

    async def _drop(self) -> None:
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await subscription.stop()

    async def _open(self) -> None:
        """Make a consumer that begins where we stand, and ask it for two batches."""
        # What is lost while it is made, such as the consumer itself, is heard of then.
        self._behind = False
        self._generation += 1
        await self._drop()
        await check(self._link, self._last)
        self._delivered = self._requested = 0
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
        consumer = read_consumer.decode(answer.data)
        if consumer.error is not None:
            raise LogUnavailable("follow the log", consumer.error.description)
        self._pull_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer.name}"
        self._inbox = self._link.new_inbox()
        generation = self._generation
        self._subscription = await self._link.subscribe(
            self._inbox, lambda message: self._on(generation, message)
        )
        self._seen = self._loop.time()
        if consumer.num_pending == 0:
            self.caught_up.set()
            self._live = True
        self._pull()

    def _pull(self) -> None:
        while self._requested <= PULL_BATCH * (PULL_AHEAD - 1):
            self._requested += PULL_BATCH
            request = {
                "batch": PULL_BATCH,
                "expires": int(PULL_EXPIRES * 1e9),
                "idle_heartbeat": int(HEARTBEAT * 1e9),
            }
            self._link.post(self._pull_subject, encode(request), reply=self._inbox)

    def _on(self, generation: int, message: LinkMessage) -> None:
        if generation != self._generation or self._behind:
            return
        self._seen = self._loop.time()
        if not message.reply.startswith("$JS.ACK"):
            self._on_status(message)
            return
        # $JS.ACK.<stream>.<consumer>.<times>.<seq>.<delivery>.<time>.<pending>
        parts = message.reply.split(".")
        seq, delivery = int(parts[5]), int(parts[6])
        if delivery != self._delivered + 1:
            self._begin_anew()
            return
        self._delivered = delivery
        self._requested -= 1
        try:
            recorded = c.Recorded(seq, message.subject, decode_event(message.data))
        except Malformed:
            recorded = None
        if self._live:
            self._weigh(message.subject, len(message.data))
        self._hand_on(seq, recorded)
        if parts[8] == "0":
            self.caught_up.set()
            self._live = True
        if self._requested <= PULL_BATCH * (PULL_AHEAD - 1):
            self._pull()

    def _on_status(self, message: LinkMessage) -> None:
        status = message.status
        if status == "100":
            if int(message.headers.get(header.LAST_CONSUMER, 0)) > self._delivered:
                # What was delivered last did not arrive, and nothing else came after it.
                self._begin_anew()
            return
        if status == "408":
            # A request has expired: what it has not brought is asked for anew.
            left = message.headers.get(header.PENDING_MESSAGES, PULL_BATCH)
            self._requested = max(self._requested - int(left), 0)
            self._pull()
            return
        # The consumer is gone (503, 409) or takes no more requests: another one, and not at
        # once, for that may fare like this one.
        self._behind = True
        self._loop.call_later(PAUSE, self._nudge.set)

    def _fail(self, error: BaseException) -> None:
        self._generation += 1
        self._task.cancel()
        super()._fail(error)


class TapFollower(LinkFollower):
    """Follows the log by what the stream republishes, and fetches what it missed.

    For roles that may not make consumers. Live messages wait in a buffer while the past
    is read; a gap in the sequence means that some were missed, so they are read too.
    With filters a gap cannot be seen, so after a reconnect everything since is read.
    """

    LIMIT: Final = 50_000

    def __init__(
        self,
        link: Link,
        callback: Callable[[c.Recorded], None],
        start: int,
        filters: tuple[str, ...],
        after: Position,
    ) -> None:
        filters = filters or (subjects.ALL_EVENTS,)
        super().__init__(link, callback, start, filters, after)
        self._buffer: dict[int, LinkMessage] = {}
        # Heartbeats' lengths without any event.
        self._quiet = 0
        self._subscriptions: list[LinkSubscription] = []

    async def stop(self) -> None:
        await super().stop()
        for subscription in self._subscriptions:
            await subscription.stop()

    def _on(self, message: LinkMessage) -> None:
        sequence = message.headers.get(header.SEQUENCE)
        if sequence is None:
            return
        if len(self._buffer) >= self.LIMIT:
            self._buffer.clear()
            self._behind = True
        self._buffer[int(sequence)] = message
        self._nudge.set()

    async def _run(self) -> None:
        while True:
            try:
                for filter_subject in self._filters[len(self._subscriptions) :]:
                    self._subscriptions.append(
                        await self._link.subscribe(filter_subject, self._on)
                    )
                if self._behind and self._link.up:
                    self._behind = False
                    self._quiet = 0
                    await check(self._link, self._last)
                    await self._read_past()
                    self.caught_up.set()
                    self._hand_on_live()
                    if self._behind:
                        # Whoever was asked, such as a copy that lags, does not have it yet.
                        await asyncio.sleep(PAUSE)
                elif not self._behind:
                    self._hand_on_live()
                async with asyncio.timeout(HEARTBEAT):
                    await self._nudge.wait()
                self._nudge.clear()
                self._quiet = 0
            except TimeoutError:
                self._quiet += 1
                if self._quiet >= LOOK_AGAIN:
                    self._behind = True
            except LogChanged as error:
                self._fail(error)
                return
            except (LogError, Unreachable):
                self._behind = True
                await asyncio.sleep(PAUSE)

    async def _read_past(self) -> None:
        if len(self._filters) == 1:
            async for message in direct(
                self._link,
                subjects.EVENTS,
                self._filters[0],
                start=self._next,
                limit=ALL,
            ):
                self._take(message)
            return
        # What is stored while one filter after the other is read is heard as well, and in
        # order: read of one filter, it would pass ahead of another's.
        last = await stored_message(
            self._link, subjects.EVENTS, {"last_by_subj": subjects.ALL_EVENTS}
        )
        end = last[0] if last is not None else 0
        messages: dict[int, LinkMessage] = {}
        for filter_subject in self._filters:
            async for message in direct(
                self._link,
                subjects.EVENTS,
                filter_subject,
                start=self._next,
                limit=ALL,
            ):
                messages[int(message.headers[header.SEQUENCE])] = message
        for seq in sorted(messages):
            if seq <= end:
                self._take(messages[seq])

    def _hand_on_live(self) -> None:
        whole = self._filters == (subjects.ALL_EVENTS,)
        for seq in sorted(self._buffer):
            if whole and seq > self._next:
                self._begin_anew()
                return
            self._take(self._buffer.pop(seq))

    def _take(self, message: LinkMessage) -> None:
        seq = int(message.headers[header.SEQUENCE])
        if seq >= self._next:
            self._hand_on(seq, recorded_of(message))
