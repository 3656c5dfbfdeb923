"""What is kept of output without end: its head and its tail, its size, its digest.

A run may write a hundred megabytes; its result holds at most `limit` bytes of them. What
is left out is marked in the text itself, so that nobody takes the rest for the whole.
The live stream has all of it; this is the result's copy.
"""

from __future__ import annotations

import codecs
import hashlib
from collections import deque
from typing import TYPE_CHECKING, Literal

import msgspec

from events import catalogue as c

if TYPE_CHECKING:
    from sidecar.executors.port import Emit

EVENT_LIMIT = 480_000
"""Bytes a result may take when encoded: an event holds 512 KiB, other fields included."""

NAME_LIMIT = 200
"""Bytes that are kept of a name that a model server or a program says."""

_MARK_ROOM = 96


def _mark(left_out: int) -> str:
    return f"\n[... {left_out:,} bytes left out here ...]\n"


def cut(text: str, limit: int) -> str:
    """`text` if it takes at most `limit` bytes in UTF-8, else its head and tail."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit:
        return text
    kept = max(limit - _MARK_ROOM, 0)
    head, tail = raw[: kept - kept // 2], raw[len(raw) - kept // 2 :]
    return _joined(head, len(raw) - kept, tail)


def _joined(head: bytes, left_out: int, tail: bytes) -> str:
    """Head, mark and tail; a character that was cut through goes to the left-out part."""
    before = head.decode("utf-8", "replace").removesuffix("\ufffd")
    after = tail.decode("utf-8", "replace").lstrip("\ufffd")
    return before + _mark(left_out) + after


class HeadTail:
    """Takes bytes without end, keeps at most `limit` of them.

    `size` counts all that came, `sha256` is over all of it, `truncated` says whether
    anything was left out.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._digest = hashlib.sha256()
        self._head = bytearray()
        self._head_room = limit - limit // 2
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._tail_room = limit // 2

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self.size += len(data)
        self._digest.update(data)
        room = self._head_room - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data or not self._tail_room:
            return
        if len(data) >= self._tail_room:
            self._tail.clear()
            data = data[len(data) - self._tail_room :]
            self._tail_size = 0
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail_size - len(self._tail[0]) >= self._tail_room:
            self._tail_size -= len(self._tail.popleft())
        if len(self._tail) > 4096:  # many tiny pieces: one object instead
            whole = b"".join(self._tail)[-self._tail_room :]
            self._tail = deque([whole])
            self._tail_size = len(whole)

    @property
    def truncated(self) -> bool:
        """Whether anything was left out."""
        return self.size > self.limit

    @property
    def sha256(self) -> str:
        """Over everything that came, in hexadecimal digits."""
        return self._digest.hexdigest()

    def text(self) -> str:
        """What was kept, as text; broken UTF-8 shows as U+FFFD."""
        tail = b"".join(self._tail)
        if not self.truncated:
            whole = (bytes(self._head) + tail).decode("utf-8", "replace")
            return cut(whole, self.limit)
        tail = tail[len(tail) - self._tail_room :] if self._tail_room else b""
        spare = min(_MARK_ROOM, self.limit)
        head = bytes(self._head[: max(len(self._head) - spare, 0)])
        left_out = self.size - len(head) - len(tail)
        return cut(_joined(head, left_out, tail), self.limit)


class Utf8:
    """Turns bytes into text as they come; a character may end in the next piece."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        """The text that is whole so far."""
        return self._decoder.decode(data)

    def close(self) -> str:
        """What is left: U+FFFD where a character never ended."""
        return self._decoder.decode(b"", final=True)


class ShownStream:
    """A stream of a program: its text is shown as it comes, head and tail are `kept`."""

    def __init__(
        self, emit: Emit, kind: Literal["stdout", "stderr"], limit: int
    ) -> None:
        self.kept = HeadTail(limit)
        self._emit = emit
        self._kind = kind
        self._text = Utf8()

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self.kept.feed(data)
        if text := self._text.feed(data):
            self._emit.text(self._kind, text)

    def close(self) -> None:
        """Show what is left of a character that never ended."""
        if rest := self._text.close():
            self._emit.text(self._kind, rest)


def counted(tokens: int | None) -> int | None:
    """`tokens` where an event can hold them; else nobody knows how many there were."""
    fits = tokens is not None and 0 <= tokens <= c.TOKENS_MOST
    return tokens if fits else None


def charged(usd: float | None) -> float | None:
    """`usd` where it is an amount that an event can hold; else nobody knows it."""
    return usd if usd is not None and 0 <= usd <= c.USD_MOST else None


def fitting(result: c.Result, limit: int = EVENT_LIMIT) -> c.Result:
    """`result` with its texts cut until it takes at most `limit` bytes when encoded.

    A patch may take two thirds of it, cut between files. Text that needs escaping grows in JSON, up to six times; output keeps twice as much as
    stderr.
    """
    room = limit
    if result.changes is not None:
        changes = _patch_within(result.changes, limit * 2 // 3)
        result = msgspec.structs.replace(result, changes=changes)
    while len(msgspec.json.encode(result)) > limit and room > 256:
        room = room * 2 // 3
        error = result.error
        if error is not None and len(error.message) > room // 8:
            error = msgspec.structs.replace(
                error, message=cut(error.message, room // 8)
            )
        result = msgspec.structs.replace(
            result,
            output=cut(result.output, room // 2),
            stderr=cut(result.stderr, room // 4),
            error=error,
            truncated=True,
        )
    return result


def whole_files(patch: str, limit: int) -> str:
    """Return the part of a patch that has at most `limit` characters, cut between files."""
    if len(patch) <= limit:
        return patch
    end = patch.rfind("\ndiff --git ", 0, limit)
    return patch[: end + 1]


def _patch_within(changes: c.Changes, limit: int) -> c.Changes:
    room = limit
    while len(msgspec.json.encode(changes)) > limit and room > 256:
        room = room * 2 // 3
        changes = msgspec.structs.replace(
            changes,
            patch=whole_files(changes.patch, room),
            changed=changes.changed[: room // 256],
            patch_truncated=True,
        )
    return changes
