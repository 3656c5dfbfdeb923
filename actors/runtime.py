"""What every actor runs on: a mailbox on a subject, bounded, one message at a time.

An actor's handler gets one message after the other and never two at once, so its state
needs no lock. A message that finds the mailbox full is answered with `busy`, one whose
handling fails is answered with `fault` and counted; neither stops the actor. Mail that
is no mail at all is answered with what is wrong with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from events.codec import Reader, encode
from events.commands import Reply
from events.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from events.bus import Bus, Listening, Message

M = TypeVar("M")

CAPACITY: Final = 65_536


class Mailbox(Generic[M]):
    """One actor's mailbox.

    `kind` is the union of mail it understands, `handle` takes one message and its subject
    and returns the answer. `faults` gets what the handler raised.
    """

    def __init__(
        self,
        bus: Bus,
        subject: str,
        kind: object,
        handle: Callable[[M, str], Awaitable[Reply]],
        *,
        faults: Callable[[BaseException], None],
        capacity: int = CAPACITY,
    ) -> None:
        self._bus = bus
        self._subject = subject
        self._reader: Reader[M] = Reader(kind)
        self._handle = handle
        self._faults = faults
        self._capacity = capacity
        self._waiting: deque[Message] = deque()
        self._woken = asyncio.Event()
        self._listening: Listening | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.refused = 0
        self.malformed = 0

    async def open(self) -> None:
        """Begin to receive."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._listening = await self._bus.listen(self._subject, self._on)

    async def close(self) -> None:
        """Receive nothing more, finish what has been received."""
        if self._listening is not None:
            await self._listening.stop()
        self._closing = True
        self._woken.set()
        if self._task is not None:
            await self._task

    def _on(self, message: Message) -> None:
        if len(self._waiting) >= self._capacity:
            self.refused += 1
            _answer(message, Reply(ok=False, code="busy", detail="the mailbox is full"))
            return
        self._waiting.append(message)
        self._woken.set()

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._waiting:
                message = self._waiting.popleft()
                _answer(message, await self._one(message))
            if self._closing:
                return

    async def _one(self, message: Message) -> Reply:
        try:
            mail = self._reader.decode(message.data)
        except Malformed as error:
            self.malformed += 1
            return Reply(ok=False, code=error.code, detail=str(error))
        try:
            return await self._handle(mail, message.subject)
        except Exception as error:  # noqa: BLE001 - the actor's edge: a fault answers
            self._faults(error)
            return Reply(
                ok=False, code="fault", detail=f"{type(error).__name__}: {error}"
            )


def _answer(message: Message, reply: Reply) -> None:
    if message.wants_answer:
        message.respond(encode(reply))
