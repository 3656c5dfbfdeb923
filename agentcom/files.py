"""Files that go with a task: read here, kept beside the log under what they hold."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agentcom.answers import Attached
from agentcom.errors import AgentComError
from agentcom.transport import read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentcom.fields import AttachmentFields
    from agentcom.transport import Transport

_LIMIT_BYTES: Final = 1_048_576
"""Of a task's attachments, all together."""
_PIECE_BYTES: Final = 384 * 1024
_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)


async def kept(
    transport: Transport, file: str | Path | bytes, name: str
) -> AttachmentFields:
    """Have a file kept; return what `attachments` of a task say of it.

    What is kept already is not sent again. Raises AgentComError for a file that cannot be
    read or be attached.
    """
    if isinstance(file, bytes):
        name, data = name or "file", file
    else:
        name = name or str(file)
        data = await asyncio.to_thread(_contents, Path(file), name)
    if len(data) > _LIMIT_BYTES:
        raise _refused(
            name, f"at most {_LIMIT_BYTES:,} bytes", f"{len(data):,} or more"
        )
    kind = media_type(data)
    if kind is None:
        expected = "text in UTF-8 or a picture (png, jpeg, gif, webp)"
        raise _refused(name, expected, "neither")
    digest = hashlib.sha256(data).hexdigest()
    there = read(await transport.command("task.attach", {"digest": digest}), Attached)
    if there.size_bytes is None:
        for body in pieces(data):
            there = read(await transport.command("task.attach", body), Attached)
        if there.digest != digest:
            raise _refused(name, "the file as it was sent", "another one: try again")
    return {
        "name": name,
        "digest": digest,
        "size_bytes": len(data),
        "media_type": kind,
    }


def _contents(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LIMIT_BYTES + 1)
    except OSError as wrong:
        reason = wrong.strerror or str(wrong)
        raise _refused(name, "a file that can be read here", reason) from wrong


def media_type(data: bytes) -> str | None:
    """Return what a file may be attached as: a picture, or text in UTF-8; else None."""
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    try:
        data.decode()
    except UnicodeDecodeError:
        return None
    return "text/plain"


def pieces(data: bytes) -> Iterator[dict[str, Any]]:
    """Yield the bodies of `task.attach` that bring a file, one after the other."""
    upload = secrets.token_hex(16)
    for start in range(0, max(len(data), 1), _PIECE_BYTES):
        piece = data[start : start + _PIECE_BYTES]
        yield {
            "data": base64.b64encode(piece).decode(),
            "upload": upload,
            "last": start + _PIECE_BYTES >= len(data),
        }


def _refused(name: str, expected: str, got: str) -> AgentComError:
    return AgentComError(
        f"{name}: expected {expected}, got {got}",
        code="attachment",
        place=name,
        expected=expected,
        got=got,
    )
