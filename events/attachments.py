"""Files that go with a task: kept beside the log, named by what they hold.

A file's name here is the SHA-256 of its bytes, in hex. So nobody can put another content
under a name that is there, and whoever reads checks what came. Nothing of it is ever run.
"""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

from events.errors import AgentComError

LIMIT_BYTES: Final = 1_048_576
"""Of a task's attachments, all together."""
PIECE_BYTES: Final = 384 * 1024
"""Of a file, in one command."""
KEPT_S: Final = 90 * 24 * 3600
"""Seconds for which the store keeps what it is sent, finished or not."""
RENEWED_S: Final = KEPT_S // 2
"""A file that has been kept for longer is stored anew when it is attached again."""
PICTURES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")


class AttachmentLost(AgentComError):
    """An attachment is not there, or is no longer what its name says."""

    code = "attachment"

    def __init__(self, digest: str, problem: str) -> None:
        super().__init__(f"attachment {digest[:12]}: {problem}")


class StoreRefused(AgentComError):
    """The store keeps nothing more: it is full, or its disk is. Nothing was stored."""

    code = "unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the store of files takes nothing now ({reason}): `agentcom doctor` says how "
            "full it is"
        )


class AttachmentStore(Protocol):
    """Where attachments are.

    Raises LogUnavailable where it cannot be reached, StoreRefused where it takes no more.
    """

    async def add(self, upload: str, piece: bytes) -> None:
        """Keep the next piece of an upload."""
        ...

    async def collected(self, upload: str) -> list[bytes]:
        """Return the pieces of an upload so far."""
        ...

    async def name(self, upload: str, digest: str, size: int, pieces: int) -> None:
        """Keep a whole upload under its digest."""
        ...

    async def size(self, digest: str, *, since: float = 0.0) -> int | None:
        """Return how many bytes a file has, None where none was stored since then.

        `since` is in seconds since 1970.
        """
        ...

    async def read(self, digest: str) -> bytes:
        """Return a file; raises AttachmentLost."""
        ...


def digest_of(data: bytes) -> str:
    """Return a file's name."""
    return hashlib.sha256(data).hexdigest()
