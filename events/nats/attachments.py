"""Attachments in a JetStream object store, in the layout that the nats CLI reads.

The chunks of an upload lie under one subject, in order; what names them, by the digest of
the whole, lies under another (https://github.com/nats-io/nats-architecture-and-design,
ADR-20). Only the gateway writes; hosts read, by direct get.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import msgspec

from events import header, subjects
from events.attachments import AttachmentLost, StoreRefused, digest_of
from events.codec import instant
from events.errors import LogUnavailable, Malformed, Unreachable
from events.nats.api import ACK_TIMEOUT, direct, read_ack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from events.nats.link import Link


class _ObjectInfo(msgspec.Struct, omit_defaults=True):
    name: str
    nuid: str
    size: int = 0
    chunks: int = 0
    digest: str = ""
    bucket: str = subjects.FILES


class JetStreamAttachments:
    """The object store, over one link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def add(self, upload: str, piece: bytes) -> None:
        """Keep the next piece of an upload."""
        await self._store(subjects.file_chunks(upload), piece)

    async def collected(self, upload: str) -> list[bytes]:
        """Return the pieces of an upload so far."""
        return [
            message.data
            async for message in direct(
                self._link, subjects.FILES_STREAM, subjects.file_chunks(upload)
            )
        ]

    async def name(self, upload: str, digest: str, size: int, pieces: int) -> None:
        """Keep a whole upload under its digest."""
        sha = base64.urlsafe_b64encode(bytes.fromhex(digest)).decode()
        info = _ObjectInfo(digest, upload, size, pieces, f"SHA-256={sha}")
        await self._store(
            subjects.file_info(digest),
            msgspec.json.encode(info),
            {header.ROLL_UP: "sub"},
        )

    async def size(self, digest: str, *, since: float = 0.0) -> int | None:
        """Return how many bytes a file has, None where none was stored since then."""
        info = await self._info(digest, since)
        return None if info is None else info.size

    async def read(self, digest: str) -> bytes:
        """Return a file; raises AttachmentLost."""
        info = await self._info(digest)
        if info is None:
            raise AttachmentLost(digest, "it is not stored any more")
        data = b"".join(await self.collected(info.nuid))
        if digest_of(data) != digest:
            raise AttachmentLost(digest, "what is stored is not what was submitted")
        return data

    async def _info(self, digest: str, since: float = 0.0) -> _ObjectInfo | None:
        subject = subjects.file_info(digest)
        last = None
        async for message in direct(self._link, subjects.FILES_STREAM, subject):
            last = message
        if last is None or instant(last.headers[header.TIME_STAMP]) < since:
            return None
        try:
            return msgspec.json.decode(last.data, type=_ObjectInfo)
        except msgspec.MsgspecError:
            return None

    async def _store(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        try:
            answer = await self._link.call(
                subject, data, timeout=ACK_TIMEOUT, headers=headers
            )
            ack = read_ack.decode(answer.data)
        except (Unreachable, Malformed) as error:
            raise LogUnavailable("store an attachment", str(error)) from error
        if ack.error is not None:
            raise StoreRefused(ack.error.description)
