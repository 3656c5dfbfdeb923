"""The network and the server behind it: log, bus and leases, as one process sees them.

The server is never wrong: it holds one order of events, checks what a write expects, and
passes messages on. What happens between it and a process is a matter of chance: delay,
loss, repetition, other orders, an acknowledgement that never comes, a connection that is
cut with or without the process noticing. As over TCP, the writes of one connection stay
in order as long as none has to be repeated.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from events.catalogue import Recorded
from events.codec import decode_event, encode
from events.errors import Conflict, LogUnavailable, Unreachable
from events.subjects import matches
from tests.support.fakes import MemoryLeases, receivers, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from events.bus import Listening, Message
    from events.catalogue import Event
    from events.log import Appended, Follower
    from events.position import Position
    from tests.simulation.loop import Process, SimLoop

ACK_TIMEOUT = 2.0
APPEND_DEADLINE = 15.0


class Weather:
    """How bad the network is: chances from 0 to 1, delays in seconds."""

    def __init__(self) -> None:
        self.delay = (0.001, 0.006)
        self.slow = 0.0
        self.slow_s = (0.3, 6.0)
        self.lost = 0.0
        self.twice = 0.0
        self.unacknowledged = 0.0
        self.gives_up = 0.0

    def calm(self) -> None:
        """From here on everything arrives, once, soon."""
        self.slow = self.lost = self.twice = 0.0
        self.unacknowledged = self.gives_up = 0.0


class Server:
    """What is true: the log in its one order, who listens, who holds which lease."""

    def __init__(self, loop: SimLoop, chance: Random, weather: Weather) -> None:
        self.loop = loop
        self.chance = chance
        self.weather = weather
        self.entries: list[Recorded] = []
        self.last: dict[str, int] = {}
        self.by_subject: dict[str, list[int]] = {}
        self.subscriptions: list[Subscription] = []
        self.followers: list[SimFollower] = []
        self.leases = MemoryLeases(loop.elapsed)
        self.given_up: set[str] = set()
        self.on_stored: Callable[[Recorded, str], None] = lambda _recorded, _by: None
        self.on_mail: Callable[[Link, SimMessage], None] = lambda _link, _message: None
        self.on_answer: Callable[[SimMessage, bytes], None] = lambda _mail, _data: None

    def store(self, subject: str, event: Event, by: str) -> int:
        """Write an event that nothing speaks against."""
        seq = len(self.entries) + 1
        recorded = Recorded(seq, subject, event)
        self.entries.append(recorded)
        self.last[subject] = seq
        self.by_subject.setdefault(subject, []).append(seq)
        self.on_stored(recorded, by)
        for follower in self.followers:
            follower.wake()
        return seq

    def find(self, subject: str, start: int = 1) -> list[Recorded]:
        """Read a subject, wildcards allowed, oldest first."""
        if "*" in subject or ">" in subject:
            seqs = sorted(
                seq
                for name, found in self.by_subject.items()
                if matches(subject, name)
                for seq in found
            )
        else:
            seqs = self.by_subject.get(subject, [])
        return [self.entries[seq - 1] for seq in seqs if seq >= start]

    def write(
        self, subject: str, event: Event, expect: int | None, by: str
    ) -> int | Conflict:
        """Store, or say who was first; one's own earlier try is no conflict."""
        last = self.last.get(subject, 0)
        if expect is None or expect == last:
            return self.store(subject, event, by)
        following = self.find(subject, expect + 1)
        if following and following[0].event.id == event.id:
            return following[0].seq
        return Conflict(subject, expect)


class Subscription:
    """Somebody who listens."""

    def __init__(
        self, link: Link, subject: str, queue: str, handler: Callable[[Message], None]
    ) -> None:
        self.link = link
        self.subject = subject
        self.queue = queue
        self.handler = handler

    async def stop(self) -> None:
        found = self.link.server.subscriptions
        if self in found:
            found.remove(self)


class SimMessage:
    """A message on its way to one listener."""

    def __init__(
        self,
        subject: str,
        data: bytes,
        answered: Callable[[Link, bytes], None] | None,
        to: Link,
        by: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.subject = subject
        self.data = data
        self.headers: Mapping[str, str] = headers or {}
        self.by = by
        self.to = to
        self._answered = answered
        self.stale = False

    @property
    def wants_answer(self) -> bool:
        return self._answered is not None

    def respond(self, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        del headers
        answered, self._answered = self._answered, None
        if not self.to.process.alive:
            return
        self.to.server.on_answer(self, data)
        if answered is not None:
            answered(self.to, data)


class SimFollower:
    """Reads along, a little behind."""

    def __init__(
        self,
        link: Link,
        callback: Callable[[Recorded], None],
        start: int,
        subjects: tuple[str, ...],
    ) -> None:
        self._link = link
        self._callback = callback
        self._subjects = subjects
        self._scanned = max(start, 1) - 1
        self._until = len(link.server.entries)
        self._woken = False
        self._stopped = False
        self.position = 0
        self.undecodable = 0
        self.caught_up = asyncio.Event()
        self.failed: asyncio.Future[None] = link.loop.create_future()

    def wake(self) -> None:
        link = self._link
        if self._woken or self._stopped or not link.up:
            return
        self._woken = True
        link.loop.call_later(link.delay(), self._run, context=link.process.context)

    def _run(self) -> None:
        self._woken = False
        if not self._link.up or not self._link.connected:
            return
        entries = self._link.server.entries
        while not self._stopped and self._scanned < len(entries):
            recorded = entries[self._scanned]
            self._scanned += 1
            if self._subjects and not any(
                matches(wanted, recorded.subject) for wanted in self._subjects
            ):
                continue
            self.position = recorded.seq
            try:
                self._callback(recorded)
            except BaseException as error:
                self._stopped = True
                if not self.failed.done():
                    self.failed.set_exception(error)
                raise
        if self._scanned >= self._until:
            self.caught_up.set()

    async def stop(self) -> None:
        self._stopped = True
        if self in self._link.server.followers:
            self._link.server.followers.remove(self)


class _Append:
    """A write that has not been answered yet."""

    __slots__ = ("deadline", "event", "expect", "future", "mute", "subject", "tries")

    def __init__(
        self,
        subject: str,
        event: Event,
        expect: int | None,
        future: asyncio.Future[int],
        deadline: float,
    ) -> None:
        self.subject = subject
        self.event = event
        self.expect = expect
        self.future = future
        self.deadline = deadline
        self.mute = False
        self.tries = 0


class Link:
    """One process's connection: an EventLog, a Bus and Leases in one.

    `up` is whether bytes get through, `connected` what the process believes.
    """

    def __init__(self, server: Server, process: Process) -> None:
        self.server = server
        self.process = process
        self.loop = server.loop
        self.up = True
        self.connected = True
        self.slowness = 1.0
        self._handlers: list[Callable[[bool], None]] = []
        self._pending: dict[_Append, None] = {}
        self._arrives = 0.0
        self._answers = 0.0
        self._cuts = 0
        self._era = 0

    @property
    def pending(self) -> int:
        """How many writes are on their way, for all their writer knows."""
        return len(self._pending)

    # -- chance

    def delay(self) -> float:
        """Draw how long something takes from here to the server, or back."""
        weather, chance = self.server.weather, self.server.chance
        if weather.slow and chance.random() < weather.slow:
            return chance.uniform(*weather.slow_s)
        return chance.uniform(*weather.delay) * self.slowness

    def _happens(self, odds: float) -> bool:
        return odds > 0 and self.server.chance.random() < odds

    # -- the connection

    def cut(self, notice_after: float) -> None:
        """Nothing gets through any more; the process notices after a while."""
        self.up = False
        self._cuts += 1
        cut = self._cuts

        def notice() -> None:
            if self._cuts == cut and not self.up:
                self._believe(False)

        self.loop.call_later(notice_after, notice, context=self.process.context)

    def heal(self, after: float) -> None:
        """The way is free again; the process comes back over a new connection."""
        if self.up:
            return
        self._cuts += 1
        cut = self._cuts

        def back() -> None:
            if self._cuts != cut:
                return
            # Also where it had not noticed: the old connection is gone.
            self._believe(False)
            self._era += 1
            self.up = True
            self.connected = True
            for append in list(self._pending):
                self._send(append)
            for follower in self.server.followers:
                if follower._link is self:
                    follower.wake()
            for handler in list(self._handlers):
                handler(True)

        self.loop.call_later(after, back, context=self.process.context)

    def _believe(self, connected: bool) -> None:
        if connected != self.connected:
            self.connected = connected
            for handler in list(self._handlers):
                handler(connected)

    def on_connection(self, handler: Callable[[bool], None]) -> Callable[[], None]:
        self._handlers.append(handler)
        return lambda: self._handlers.remove(handler)

    # -- the log: writing

    def append(
        self, subject: str, event: Event, *, expect: int | None = None
    ) -> asyncio.Future[int]:
        future: asyncio.Future[int] = self.loop.create_future()
        if not self.process.alive:
            return future
        patience = APPEND_DEADLINE
        impatient = self._happens(self.server.weather.gives_up)
        if impatient:
            patience = 0.5
        append = _Append(
            subject,
            decode_event(encode(event)),
            expect,
            future,
            self.loop.time() + patience,
        )
        # Stored, and its caller told that nobody knows.
        append.mute = impatient and self._happens(0.5)
        self._pending[append] = None
        self._send(append)
        return future

    def append_then(
        self, subject: str, event: Event, done: Appended, *, expect: int | None = None
    ) -> None:
        tell(self.append(subject, event, expect=expect), done)

    def _send(self, append: _Append) -> None:
        append.tries += 1
        patience = append.deadline - self.loop.time()
        self._later(append, min(ACK_TIMEOUT, max(0.0, patience)))
        if not self.connected or not self.up or not self.process.alive:
            return
        if self._happens(self.server.weather.lost):
            self._blip()
            return
        self._arrives = max(self._arrives + 0.000_001, self.loop.time() + self.delay())
        self.loop.call_at(
            self._arrives, self._arrived, append, append.tries, self._era,
            context=_NOBODY,
        )  # fmt: skip

    def _arrived(self, append: _Append, n: int, era: int) -> None:
        if not self.up or era != self._era:
            return
        name = self.process.name
        answer = self.server.write(append.subject, append.event, append.expect, name)
        if append.mute:
            return
        if self._happens(self.server.weather.unacknowledged):
            self._blip()
            return
        self._answers = max(self._answers + 0.000_001, self.loop.time() + self.delay())
        context = self.process.context
        self.loop.call_at(
            self._answers, self._answered, append, era, answer, context=context
        )

    def _answered(self, append: _Append, era: int, answer: int | Conflict) -> None:
        if not self.up or era != self._era:
            return
        if self._pending.pop(append, self) is self or append.future.done():
            return
        if isinstance(answer, Conflict):
            append.future.set_exception(answer)
        else:
            append.future.set_result(answer)

    def _blip(self) -> None:
        """A write or its answer is lost: over TCP that is the end of a connection."""
        if self.up and self.process.alive:
            self.cut(ACK_TIMEOUT)
            self.heal(self.server.chance.uniform(0.02, 2.5))

    def _later(self, append: _Append, after: float) -> None:
        if self.process.alive:
            self.loop.call_later(
                after, self._again, append, append.tries, context=self.process.context
            )

    def _again(self, append: _Append, n: int) -> None:
        if append not in self._pending or append.tries != n:
            return
        if append.future.done():
            del self._pending[append]
        elif self.loop.time() >= append.deadline - 0.001:
            del self._pending[append]
            self.server.given_up.add(append.event.id)
            append.future.set_exception(
                LogUnavailable(f"append to {append.subject}", "no acknowledgement")
            )
        elif self.connected:
            self._send(append)
        else:
            append.tries += 1
            self._later(append, ACK_TIMEOUT)

    async def append_batch(self, items: Sequence[tuple[str, Event, int]]) -> list[int]:
        encoded = [(s, decode_event(encode(event)), n) for s, event, n in items]
        await self._there("append a batch")
        server = self.server
        stored: list[int] = []
        for subject, event, expect in encoded:
            last = server.last.get(subject, 0)
            if last != expect:
                following = server.find(subject, expect + 1)
                if not following or following[0].event.id != event.id:
                    raise Conflict(subject, expect)
        for subject, event, expect in encoded:
            answer = server.write(subject, event, expect, self.process.name)
            assert isinstance(answer, int)
            stored.append(answer)
        if self._happens(server.weather.unacknowledged):
            await asyncio.sleep(ACK_TIMEOUT)
            raise LogUnavailable("append a batch", "no acknowledgement")
        await asyncio.sleep(self.delay())
        return stored

    # -- the log: reading

    async def _there(self, doing: str, timeout: float = ACK_TIMEOUT) -> None:
        """Bring a question to the server, or find that nobody answers."""
        if not self.connected:
            raise LogUnavailable(doing, "not connected")
        way = self.delay()
        lost = self._happens(self.server.weather.lost)
        if way >= timeout or lost or not self.up:
            await asyncio.sleep(timeout)
            raise LogUnavailable(doing, "no answer in time")
        await asyncio.sleep(way)
        if not self.up:
            await asyncio.sleep(timeout - way)
            raise LogUnavailable(doing, "no answer in time")
        if not self.process.alive:
            raise asyncio.CancelledError

    async def follow(
        self,
        callback: Callable[[Recorded], None],
        *,
        start: int = 1,
        after: Position | None = None,
        subjects: Sequence[str] = (),
    ) -> Follower:
        start = after.seq + 1 if after is not None else start
        follower = SimFollower(self, callback, start, tuple(subjects))
        self.server.followers.append(follower)
        follower.wake()
        return follower

    async def read(
        self, subject: str, *, start: int = 1, limit: int = 1_000_000
    ) -> list[Recorded]:
        await self._there(f"read {subject}")
        found = self.server.find(subject, start)[:limit]
        await asyncio.sleep(self.delay())
        return found

    async def get(self, seq: int) -> Recorded | None:
        await self._there(f"get {seq}")
        entries = self.server.entries
        return entries[seq - 1] if 1 <= seq <= len(entries) else None

    async def last(self, subject: str) -> Recorded | None:
        await self._there(f"last of {subject}")
        seq = self.server.last.get(subject)
        await asyncio.sleep(self.delay())
        return self.server.entries[seq - 1] if seq else None

    async def last_sequence(self) -> int:
        await self._there("last sequence")
        return len(self.server.entries)

    # -- leases

    async def put(
        self, key: str, holder: str, *, expect: int, ttl: float, timeout: float
    ) -> int:
        await self._there("lease", timeout)
        revision = await self.server.leases.put(
            key, holder, expect=expect, ttl=ttl, timeout=timeout
        )
        way = self.delay()
        if way >= timeout or self._happens(self.server.weather.unacknowledged):
            await asyncio.sleep(timeout)
            raise LogUnavailable("lease", "no answer in time")
        await asyncio.sleep(way)
        return revision

    async def holder(self, key: str, *, timeout: float) -> tuple[str, int] | None:
        await self._there("lease", timeout)
        found = await self.server.leases.holder(key, timeout=timeout)
        await asyncio.sleep(self.delay())
        return found

    async def note(self, key: str, text: str, *, timeout: float) -> None:
        await self._there("note", timeout)
        await self.server.leases.note(key, text, timeout=timeout)
        await asyncio.sleep(self.delay())

    # -- the bus

    async def listen(
        self, subject: str, handler: Callable[[Message], None], *, queue: str = ""
    ) -> Listening:
        subscription = Subscription(self, subject, queue, handler)
        self.server.subscriptions.append(subscription)
        return subscription

    def publish(self, subject: str, data: bytes) -> None:
        if self.connected and self.process.alive:
            self._post(subject, data, None)

    def request(
        self,
        subject: str,
        data: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = self.loop.create_future()
        if not self.process.alive:
            return future
        if not self.connected:
            future.set_exception(Unreachable(subject, absent=False))
            return future

        def give_up(*, absent: bool = False) -> None:
            if not future.done():
                future.set_exception(Unreachable(subject, absent=absent))

        def answered(_: Link, answer: bytes) -> None:
            self._back(future, answer)

        timer = self.loop.call_later(timeout, give_up)
        future.add_done_callback(lambda _: timer.cancel())
        self._post(subject, data, answered, lambda: give_up(absent=True), headers)
        return future

    def _back(self, future: asyncio.Future[bytes], answer: bytes) -> None:
        """Let an answer travel back here."""

        def arrive() -> None:
            if self.up and not future.done():
                future.set_result(answer)

        if not self._happens(self.server.weather.lost):
            context = self.process.context
            self.loop.call_later(self.delay(), arrive, context=context)

    def _post(
        self,
        subject: str,
        data: bytes,
        answered: Callable[[Link, bytes], None] | None,
        absent: Callable[[], None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        weather = self.server.weather
        if not self.up or self._happens(weather.lost):
            return
        times = 2 if self._happens(weather.twice) else 1
        for _ in range(times):
            self.loop.call_later(
                self.delay(), self._pass_on, subject, data, answered, absent, headers,
                context=_NOBODY,
            )  # fmt: skip

    def _pass_on(
        self,
        subject: str,
        data: bytes,
        answered: Callable[[Link, bytes], None] | None,
        absent: Callable[[], None] | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        """The server has it: hand it to every listener, and to one of each queue."""
        if not self.up:
            return
        chosen = receivers(
            self.server.subscriptions, subject, self.server.chance.choice
        )
        if not chosen and absent is not None:
            self.loop.call_later(self.delay(), absent, context=self.process.context)
        for one in chosen:
            message = SimMessage(
                subject, data, answered, one.link, self.process.name, headers
            )
            self.loop.call_later(
                one.link.delay(), _deliver, one, message,
                context=one.link.process.context,
            )  # fmt: skip

    def close(self) -> None:
        """The process is gone, and the server knows it."""
        server = self.server
        server.subscriptions = [s for s in server.subscriptions if s.link is not self]
        server.followers = [f for f in server.followers if f._link is not self]


def _deliver(subscription: Subscription, message: SimMessage) -> None:
    link = subscription.link
    if link.up and link.process.alive and subscription in link.server.subscriptions:
        link.server.on_mail(link, message)
        subscription.handler(message)


def _nobody() -> Any:
    import contextvars

    return contextvars.Context()


_NOBODY = _nobody()
