"""Messages that are not history: requests, mailboxes, signs of life.

A request finds nobody (`Unreachable.absent`), times out, or is answered. Nothing here is
kept: what must not be lost is in the log, and is sent again after a reconnect.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from events.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

T = TypeVar("T")

ABSENT_PAUSE_S: Final = 0.05


async def once_listened(ask: Callable[[], Awaitable[T]], until: float) -> T:
    """Ask, and while nobody listens ask again, until the loop's time `until`.

    After a reconnect, or while a scheduler is started again, nobody listens: then nobody
    has the request, so that any may be given again. Raises what `ask` raises.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            return await ask()
        except Unreachable as error:
            if not error.absent or loop.time() + ABSENT_PAUSE_S >= until:
                raise
        await asyncio.sleep(ABSENT_PAUSE_S)


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

    def on_connection(self, handler: Callable[[bool], None]) -> Callable[[], None]:
        """Call `handler` with True after each reconnect and False after each loss.

        Return what ends that: whoever asks for it and ends before the connection calls it.
        """
        ...
