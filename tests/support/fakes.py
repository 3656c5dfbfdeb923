"""In-memory fakes of the ports, which keep the promises of tests/contract.

Everything stored goes through the codec, so that what cannot be encoded cannot be
stored. Nothing here is installed with the product.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, TypeVar

from events.catalogue import Event, Recorded
from events.codec import decode_event, encode
from events.errors import Conflict, LogError, Malformed, TooLarge, Unreachable
from events.log import MAX_EVENT_BYTES, Follower
from events.position import NOWHERE, LogChanged, Position
from events.subjects import matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from events.bus import Listening, Message
    from events.log import Appended


def tell(appended: asyncio.Future[int], done: Appended) -> None:
    """Call `done` with what becomes of an append."""

    def settled(future: asyncio.Future[int]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        assert error is None or isinstance(error, LogError)
        done(0 if error is not None else future.result(), error)

    appended.add_done_callback(settled)


class MemoryLog:
    """The same promises as the real log, kept in a list.

    Everything goes through the codec, so that what cannot be encoded cannot be stored.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[str, bytes]] = []
        self._last: dict[str, int] = {}
        self._followers: list[MemoryFollower] = []

    def append(
        self, subject: str, event: Event, *, expect: int | None = None
    ) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        raw = encode(event)
        last = self._last.get(subject, 0)
        if len(raw) > MAX_EVENT_BYTES:
            future.set_exception(TooLarge(subject, len(raw), MAX_EVENT_BYTES))
        elif expect is not None and expect != last:
            ours = self._ours(subject, event.id, expect)
            if ours is None:
                future.set_exception(Conflict(subject, expect))
            else:
                future.set_result(ours)
        else:
            future.set_result(self._store(subject, raw))
        return future

    def append_then(
        self, subject: str, event: Event, done: Appended, *, expect: int | None = None
    ) -> None:
        tell(self.append(subject, event, expect=expect), done)

    def _ours(self, subject: str, event_id: str, expect: int) -> int | None:
        """Return where this very event stands, if it came next after `expect`."""
        for seq in range(expect + 1, len(self._entries) + 1):
            if self._entries[seq - 1][0] == subject:
                recorded = self.recorded(seq)
                same = recorded is not None and recorded.event.id == event_id
                return seq if same else None
        return None

    async def append_batch(self, items: Sequence[tuple[str, Event, int]]) -> list[int]:
        encoded = [(subject, encode(event), expect) for subject, event, expect in items]
        seen: set[str] = set()
        for subject, raw, expect in encoded:
            last = self._last.get(subject, 0)
            if expect != last or subject in seen:
                raise Conflict(subject, expect)
            if len(raw) > MAX_EVENT_BYTES:
                raise TooLarge(subject, len(raw), MAX_EVENT_BYTES)
            seen.add(subject)
        return [self._store(subject, raw) for subject, raw, _ in encoded]

    def store_raw(self, subject: str, raw: bytes) -> int:
        """Store bytes as they are, as a stranger with publish rights could."""
        return self._store(subject, raw)

    def _store(self, subject: str, raw: bytes) -> int:
        self._entries.append((subject, raw))
        seq = self._last[subject] = len(self._entries)
        for follower in self._followers:
            follower.wake()
        return seq

    async def follow(
        self,
        callback: Callable[[Recorded], None],
        *,
        start: int = 1,
        after: Position | None = None,
        subjects: Sequence[str] = (),
    ) -> Follower:
        behind = after or NOWHERE
        start = behind.seq + 1 if behind.seq else start
        follower = MemoryFollower(self, callback, start, tuple(subjects), behind)
        self._followers.append(follower)
        follower.wake()
        return follower

    def put_back(self, seq: int) -> None:
        """Be as after `seq` again, as a restored backup would be; followers reconnect."""
        del self._entries[seq:]
        self._last = {subject: at for at, (subject, _) in enumerate(self._entries, 1)}
        for follower in self._followers:
            follower.reconnect()

    async def read(
        self, subject: str, *, start: int = 1, limit: int = 1_000_000
    ) -> list[Recorded]:
        found = (
            self.recorded(seq)
            for seq in range(max(start, 1), len(self._entries) + 1)
            if matches(subject, self._entries[seq - 1][0])
        )
        return [recorded for recorded in found if recorded is not None][:limit]

    async def get(self, seq: int) -> Recorded | None:
        return self.recorded(seq) if 1 <= seq <= len(self._entries) else None

    async def last(self, subject: str) -> Recorded | None:
        seq = self._last.get(subject)
        return self.recorded(seq) if seq else None

    async def last_sequence(self) -> int:
        return len(self._entries)

    def recorded(self, seq: int) -> Recorded | None:
        """Return the event at `seq`, None where the bytes are no event."""
        subject, raw = self._entries[seq - 1]
        try:
            return Recorded(seq, subject, decode_event(raw))
        except Malformed:
            return None

    def subject_at(self, seq: int) -> str:
        """Return the subject at `seq`, which must exist."""
        return self._entries[seq - 1][0]

    def forget(self, follower: MemoryFollower) -> None:
        """Wake this follower no more."""
        if follower in self._followers:
            self._followers.remove(follower)


class MemoryFollower:
    """Follows a MemoryLog, one callback round of the loop behind it."""

    def __init__(
        self,
        log: MemoryLog,
        callback: Callable[[Recorded], None],
        start: int,
        subjects: tuple[str, ...],
        after: Position,
    ) -> None:
        self._log = log
        self._callback = callback
        self._last = after
        self._unchecked = True
        self._subjects = subjects
        self._scanned = max(start, 1) - 1
        self._woken = False
        self._stopped = False
        self.position = 0
        self.undecodable = 0
        self.caught_up = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        """Look for news in the next round of the loop."""
        if not self._woken and not self._stopped:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._run)

    def reconnect(self) -> None:
        """See whether the log is still the one that was read."""
        self._unchecked = True
        self.wake()

    def _stands(self) -> bool:
        seq = self._last.seq
        there = 1 <= seq <= len(self._log._entries)
        return self._last.holds(self._log.recorded(seq) if there else None)

    def _run(self) -> None:
        self._woken = False
        if self._unchecked and not self._stands():
            self._stopped = True
            self.failed.set_exception(LogChanged(self._last))
        self._unchecked = False
        while not self._stopped and self._scanned < len(self._log._entries):
            self._scanned += 1
            subject = self._log.subject_at(self._scanned)
            if self._subjects and not any(matches(p, subject) for p in self._subjects):
                continue
            recorded = self._log.recorded(self._scanned)
            if recorded is None:
                self.undecodable += 1
                continue
            self.position = self._scanned
            self._last = Position.of(recorded)
            try:
                self._callback(recorded)
            except BaseException as error:
                self._stopped = True
                self.failed.set_exception(error)
                raise
        if not self._stopped:
            self.caught_up.set()

    async def stop(self) -> None:
        self._stopped = True
        self._log.forget(self)


class MemoryMessage:
    """A message of the in-memory fake."""

    def __init__(
        self,
        subject: str,
        data: bytes,
        answer: asyncio.Future[bytes] | None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.subject = subject
        self.data = data
        self.headers: Mapping[str, str] = headers or {}
        self._answer = answer

    @property
    def wants_answer(self) -> bool:
        return self._answer is not None

    def respond(self, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(data)


class MemorySubscription:
    """A subscription of the in-memory fake."""

    def __init__(
        self,
        broker: MemoryBroker,
        subject: str,
        queue: str,
        handler: Callable[[Message], None],
    ) -> None:
        self._broker = broker
        self.subject = subject
        self.queue = queue
        self.handler = handler

    async def stop(self) -> None:
        if self in self._broker.subscriptions:
            self._broker.subscriptions.remove(self)


class Subscribed(Protocol):
    """A subscription, as the choice of receivers sees it; `queue` "" for none."""

    subject: str
    queue: str


S = TypeVar("S", bound=Subscribed)


def receivers(
    subscriptions: Iterable[S], subject: str, pick: Callable[[list[S]], S]
) -> list[S]:
    """Return who gets a message on `subject`: every listener, and one of each queue.

    `pick` chooses among the members of a queue.
    """
    chosen: list[S] = []
    queues: dict[str, list[S]] = {}
    for subscription in subscriptions:
        if not matches(subscription.subject, subject):
            continue
        if subscription.queue:
            queues.setdefault(subscription.queue, []).append(subscription)
        else:
            chosen.append(subscription)
    return chosen + [pick(members) for members in queues.values()]


class MemoryBroker:
    """What the in-memory buses of several processes share."""

    def __init__(self) -> None:
        self.subscriptions: list[MemorySubscription] = []
        self._turn = 0

    def deliver(
        self,
        subject: str,
        data: bytes,
        answer: asyncio.Future[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Hand a message to whom it is for; False if nobody listens."""
        self._turn += 1
        turn = self._turn
        chosen = receivers(
            self.subscriptions, subject, lambda group: group[turn % len(group)]
        )
        loop = asyncio.get_running_loop()
        for subscription in chosen:
            message = MemoryMessage(subject, data, answer, headers)
            loop.call_soon(subscription.handler, message)
        return bool(chosen)


class MemoryBus:
    """The in-memory fake: one process's connection to a MemoryBroker."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._handlers: list[Callable[[bool], None]] = []
        self.connected = True

    def publish(self, subject: str, data: bytes) -> None:
        if self.connected:
            self._broker.deliver(subject, data)

    def request(
        self,
        subject: str,
        data: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> asyncio.Future[bytes]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        if not self.connected or not self._broker.deliver(
            subject, data, answer, headers
        ):
            answer.set_exception(Unreachable(subject, absent=self.connected))
            return answer

        def give_up() -> None:
            if not answer.done():
                answer.set_exception(Unreachable(subject, absent=False))

        timer = loop.call_later(timeout, give_up)
        answer.add_done_callback(lambda _: timer.cancel())
        return answer

    async def listen(
        self, subject: str, handler: Callable[[Message], None], *, queue: str = ""
    ) -> Listening:
        subscription = MemorySubscription(self._broker, subject, queue, handler)
        self._broker.subscriptions.append(subscription)
        return subscription

    def on_connection(self, handler: Callable[[bool], None]) -> Callable[[], None]:
        self._handlers.append(handler)

        def forget() -> None:
            if handler in self._handlers:
                self._handlers.remove(handler)

        return forget

    def set_connected(self, connected: bool) -> None:
        """Cut or restore this process's connection."""
        if connected != self.connected:
            self.connected = connected
            for handler in list(self._handlers):
                handler(connected)


class MemoryLeases:
    """The in-memory fake: keys that expire by a given clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._keys: dict[str, tuple[str, int, float]] = {}
        self._revision = 0

    async def put(
        self, key: str, holder: str, *, expect: int, ttl: float, timeout: float
    ) -> int:
        found = self._keys.get(key)
        if found is not None and found[2] <= self._clock():
            found = None
        if expect != (found[1] if found is not None else 0):
            raise Conflict(key, expect)
        self._revision += 1
        self._keys[key] = (holder, self._revision, self._clock() + ttl)
        return self._revision

    async def note(self, key: str, text: str, *, timeout: float) -> None:
        self._revision += 1
        self._keys[key] = (text, self._revision, float("inf"))

    async def holder(self, key: str, *, timeout: float) -> tuple[str, int] | None:
        found = self._keys.get(key)
        if found is None or found[2] <= self._clock():
            return None
        return found[0], found[1]
