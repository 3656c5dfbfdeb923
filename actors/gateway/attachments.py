"""`task.attach`: files on their way into the store, and whether a task's are there."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from actors.rules.modes import resolve
from events import commands as m
from events.attachments import LIMIT_BYTES, PIECE_BYTES, RENEWED_S, digest_of
from events.errors import Malformed, shown
from events.ids import derived

if TYPE_CHECKING:
    from collections.abc import Callable

    from events import catalogue as c
    from events.attachments import AttachmentStore


class AttachmentCommands:
    """Takes files piece by piece. `ids` names an upload that has no name yet.

    The store forgets by age, so that a file which has been there for long is taken anew,
    as if it were not there.
    """

    def __init__(
        self,
        store: AttachmentStore | None,
        ids: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._ids = ids
        self._clock = clock

    async def attach(self, command: m.Attach, who: str) -> m.Attached | m.Refusal:
        """Take a piece of a file; with its last one the file has its name."""
        piece = _bytes_of(command.data)
        if self._store is None:
            return m.refuse("unavailable", "there is no store of attachments here")
        since = self._clock() - RENEWED_S
        if command.digest:
            size = await self._store.size(command.digest, since=since)
            return m.Attached(digest=command.digest, size_bytes=size)
        # Under a name of the sender's own nobody else can put anything.
        upload = (
            derived("upload", who, command.upload) if command.upload else self._ids()
        )
        before = await self._store.collected(upload) if command.upload else []
        data = b"".join((*before, piece))
        if len(data) > LIMIT_BYTES:
            raise Malformed(
                "data", f"at most {LIMIT_BYTES} bytes in all", f"{len(data)}"
            )
        digest = digest_of(data)
        existing = None
        if command.last:
            existing = await self._store.size(digest, since=since)
        if existing is None:
            await self._store.add(upload, piece)
            if command.last:
                await self._store.name(upload, digest, len(data), len(before) + 1)
        return m.Attached(
            digest=digest if command.last else "",
            size_bytes=len(data),
            existing=existing is not None,
        )

    async def check(self, spec: c.TaskSpec) -> None:
        """Refuse a task whose attachments are not stored: raises Malformed.

        An answer sees no file but those, so that its hints have to be among them.
        """
        names = {each.name for each in spec.attachments}
        if resolve(spec).mode == "answer":
            for n, hint in enumerate(spec.file_hints):
                if hint.path not in names:
                    raise Malformed(
                        f"file_hints[{n}].path",
                        "an attachment of that name, because an answer sees no other "
                        "file (as work, an agent looks for it)",
                        shown(hint.path),
                    )
        for n, each in enumerate(spec.attachments):
            size = None
            if self._store is not None:
                size = await self._store.size(each.digest)
            if size is None:
                raise Malformed(
                    f"attachments[{n}].digest",
                    f"{shown(each.name)} to be stored before it is named (task.attach)",
                    "a digest of nothing that is stored",
                )
            if size != each.size_bytes:
                raise Malformed(
                    f"attachments[{n}].size_bytes", f"{size}", f"{each.size_bytes}"
                )


def _bytes_of(data: str) -> bytes:
    try:
        piece = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as wrong:
        raise Malformed("data", "base64", str(wrong)[:80]) from wrong
    if len(piece) > PIECE_BYTES:
        raise Malformed("data", f"at most {PIECE_BYTES} bytes at once", f"{len(piece)}")
    return piece
