"""How the host actor hears: a mailbox on a subject, bounded, one message at a time.

The handler is a plain function: it gets one message, decides, folds, and returns, so two
messages never meet inside an actor and its state needs no lock. An answer may come later
(after the commit that makes it true): until then the message holds a place in the
mailbox. One that finds no place is answered with `busy`, one whose handling fails with
`fault`, one that is no mail at all with what is wrong with it; none stops the actor.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from events.codec import Reader, encode
from events.errors import Malformed
from events.mail import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from events.bus import Bus, Listening, Message

M = TypeVar("M")

CAPACITY: Final = 65_536
"""So many messages may wait for their answers; the next is answered with `busy`."""


class Envelope:
    """A message in a mailbox (see `events.bus.Message`) that takes one answer.

    It holds its place until it is answered, or until nobody holds it any more.
    """

    __slots__ = ("_leave", "_message", "answered")

    def __init__(self, message: Message, leave: Callable[[], None]) -> None:
        self.answered = False
        self._message = message
        self._leave = leave

    @property
    def subject(self) -> str:
        return self._message.subject

    @property
    def data(self) -> bytes:
        return self._message.data

    @property
    def headers(self) -> Mapping[str, str]:
        return self._message.headers

    @property
    def wants_answer(self) -> bool:
        return self._message.wants_answer

    def respond(self, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        if self.answered:
            return
        self.answered = True
        self._leave()
        if self._message.wants_answer:
            self._message.respond(data, headers)

    def __del__(self) -> None:
        if not self.answered:
            self.answered = True
            self._leave()


class Mailbox(Generic[M]):
    """One actor's mailbox.

    `kind` is the union of mail it understands. `handle` takes one piece of mail with its
    envelope, and answers the envelope, now or later. `faults` gets what it raised.
    `capacity` bounds how many envelopes may wait for their answers.

    `waiting` counts the envelopes that do.
    """

    def __init__(
        self,
        bus: Bus,
        subject: str,
        kind: object,
        handle: Callable[[M, Envelope], None],
        *,
        faults: Callable[[Exception], None],
        capacity: int = CAPACITY,
    ) -> None:
        self._bus = bus
        self._subject = subject
        self._reader: Reader[M] = Reader(kind)
        self._handle = handle
        self._faults = faults
        self._capacity = capacity
        self._listening: Listening | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self.waiting = 0

    async def open(self) -> None:
        """Begin to receive."""
        self._listening = await self._bus.listen(self._subject, self._on)

    async def close(self) -> None:
        """Receive nothing more; return when what was received is answered."""
        if self._listening is not None:
            await self._listening.stop()
            self._listening = None
        await self._empty.wait()

    def _on(self, message: Message) -> None:
        if self.waiting >= self._capacity:
            _answer(message, "busy", "the mailbox is full")
            return
        try:
            mail = self._reader.decode(message.data)
        except Malformed as error:
            _answer(message, error.code, str(error))
            return
        self.waiting += 1
        self._empty.clear()
        envelope = Envelope(message, self._left)
        try:
            self._handle(mail, envelope)
        except Exception as error:  # noqa: BLE001 - the actor's edge: a fault answers
            _answer(envelope, "fault", f"{type(error).__name__}: {error}")
            self._faults(error)

    def _left(self) -> None:
        self.waiting -= 1
        if self.waiting == 0:
            self._empty.set()


def _answer(message: Message, code: str, detail: str) -> None:
    if message.wants_answer:
        # What an error says of a path may hold what UTF-8 cannot.
        text = detail[:1_000].encode("utf-8", "backslashreplace").decode()
        message.respond(encode(Reply(ok=False, code=code, detail=text)))
