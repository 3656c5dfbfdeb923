"""The stream of live output over NATS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from events import catalogue as c
from events import header, subjects
from events.chunks import Seen
from events.codec import Reader
from events.errors import Malformed
from events.nats.api import direct

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from events.nats.link import Link, LinkMessage, LinkSubscription

_chunks: Reader[c.Chunk] = Reader(c.Chunk)


class JetStreamOutput:
    """The output stream: pieces of live output, written by hosts, read by anybody."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def publish(self, subject: str, data: bytes) -> None:
        """Send a chunk; lost while disconnected (its number tells)."""
        self._link.post(subject, data)

    async def read(self, task_id: str, *, start: int = 1) -> list[c.Chunk]:
        """Return a task's chunks, each once, oldest first, from all its hosts."""
        return [chunk async for chunk in self.pieces(task_id, start=start)]

    async def pieces(self, task_id: str, *, start: int = 1) -> AsyncIterator[c.Chunk]:
        """Yield the same, as they are read: of much output never all is held here."""
        async for _, chunk in self.placed(task_id, start=start):
            yield chunk

    async def placed(
        self, task_id: str, *, start: int = 1
    ) -> AsyncIterator[tuple[int, c.Chunk]]:
        """Yield the same, each with its sequence in the stream."""
        seen = Seen()
        async for message in direct(
            self._link, subjects.OUTPUT, subjects.outputs_of(task_id), start=start
        ):
            try:
                chunk = _chunks.decode(message.data)
            except Malformed:
                continue
            if seen.is_new(chunk):
                yield int(message.headers[header.SEQUENCE]), chunk

    async def count(self, task_id: str, *, start: int = 1) -> int:
        """Count a task's chunks that are stored from a sequence on, repeats too."""
        subject = subjects.outputs_of(task_id)
        async for message in direct(
            self._link, subjects.OUTPUT, subject, start=start, limit=1
        ):
            return 1 + int(message.headers[header.NUM_PENDING])
        return 0

    async def listen(
        self, task_id: str, callback: Callable[[c.Chunk], None], *, republished: bool
    ) -> LinkSubscription:
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
            subject = subjects.republished(subject)
        return await self._link.subscribe(subject, on)
