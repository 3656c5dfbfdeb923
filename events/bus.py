"""Messages that are not history: requests, mailboxes, signs of life. Port and fake.

A request finds nobody (`Unreachable.absent`), times out, or is answered. Nothing here is
kept: what must not be lost is in the log, and is sent again after a reconnect.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, TypeVar

from events.errors import Unreachable
from events.log import matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class Message(Protocol):
    """A message that came in. `respond` answers it, once, if an answer is awaited."""

    @property
    def subject(self) -> str: ...

    @property
    def data(self) -> bytes: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def wants_answer(self) -> bool: ...

    def respond(
        self, data: bytes, headers: Mapping[str, str] | None = None
    ) -> None: ...


class Listening(Protocol):
    """A subscription."""

    async def stop(self) -> None:
        """Receive nothing more."""
        ...


class Bus(Protocol):
    """Core NATS, as far as the actors need it."""

    @property
    def connected(self) -> bool:
        """Whether the server can be reached at this moment."""
        ...

    def publish(self, subject: str, data: bytes) -> None:
        """Send and forget; dropped while disconnected."""
        ...

    def request(
        self,
        subject: str,
        data: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> asyncio.Future[bytes]:
        """Ask, and get the answer's bytes; raises Unreachable through the future.

        `timeout` in seconds. Not sent while disconnected.
        """
        ...

    async def listen(
        self, subject: str, handler: Callable[[Message], None], *, queue: str = ""
    ) -> Listening:
        """Hand every message on `subject` to `handler`, one at a time, in order.

        With `queue` each message goes to one member of that group. The handler must not
        block; it may answer later.
        """
        ...

    def on_connection(self, handler: Callable[[bool], None]) -> None:
        """Call `handler` with True after each reconnect and False after each loss."""
        ...


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

    def on_connection(self, handler: Callable[[bool], None]) -> None:
        self._handlers.append(handler)

    def set_connected(self, connected: bool) -> None:
        """Cut or restore this process's connection."""
        if connected != self.connected:
            self.connected = connected
            for handler in self._handlers:
                handler(connected)
