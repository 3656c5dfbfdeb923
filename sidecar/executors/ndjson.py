"""Lines of JSON as bytes come in; where the network cut them makes no difference.

`Lines` splits, `Ndjson` also decodes. What cannot be read is an item too, a `Broken`, so
that one bad line neither ends the stream nor passes unseen. A line longer than the limit
is `Broken` as soon as that is certain, and dropped as far as it goes: memory is bounded.
"""

from __future__ import annotations

import json
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

LINE_LIMIT = 16 * 2**20

T = TypeVar("T")

_SHOWN = 200


class Broken(Struct, frozen=True):
    """A piece of the stream that cannot be read: why, and how it begins."""

    reason: str
    excerpt: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.excerpt}" if self.excerpt else self.reason


def excerpt(raw: bytes) -> str:
    """The beginning of `raw`, for people."""
    shown = raw[:_SHOWN].decode("utf-8", "replace")
    return shown + "..." if len(raw) > _SHOWN else shown


class Lines:
    """Splits bytes at line feeds; a carriage return before one belongs to it."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | Broken]:
        """The lines that end in `data`, without their ends; empty ones are left out."""
        items: list[bytes | Broken] = []
        *ended, rest = data.split(b"\n")
        for piece in ended:
            self._hold(piece, items)
            self._end(items)
        self._hold(rest, items)
        return items

    def close(self) -> list[bytes | Broken]:
        """The last line, where it had no end."""
        items: list[bytes | Broken] = []
        self._end(items)
        return items

    def _hold(self, piece: bytes, items: list[bytes | Broken]) -> None:
        if self._skipping or not piece:
            return
        self._parts.append(piece)
        self._size += len(piece)
        if self._size > self._limit:
            shown = excerpt(b"".join(self._parts)[: self._limit])
            items.append(Broken(f"a line longer than {self._limit:,} bytes", shown))
            self._parts.clear()
            self._size = 0
            self._skipping = True

    def _end(self, items: list[bytes | Broken]) -> None:
        line = b"".join(self._parts).removesuffix(b"\r")
        self._parts.clear()
        self._size = 0
        self._skipping = False
        if line:
            items.append(line)


class Ndjson(Generic[T]):
    """Decodes each line as a `T`."""

    def __init__(self, type_: type[T], limit: int = LINE_LIMIT) -> None:
        self._lines = Lines(limit)
        self._decode = Decoder(type_)

    def feed(self, data: bytes) -> list[T | Broken]:
        """The values whose lines end in `data`."""
        return self._decoded(self._lines.feed(data))

    def close(self) -> list[T | Broken]:
        """The last value, where its line had no end."""
        return self._decoded(self._lines.close())

    def _decoded(self, lines: list[bytes | Broken]) -> list[T | Broken]:
        return [
            line if isinstance(line, Broken) else self._decode(line)
            for line in lines
            if isinstance(line, Broken) or not line.isspace()
        ]


class Decoder(Generic[T]):
    """Reads JSON as a `T`, more tolerant than the standard asks for.

    Broken UTF-8 and halves of surrogate pairs, which a program that cuts strings by
    UTF-16 units may write, become U+FFFD.
    """

    def __init__(self, type_: type[T]) -> None:
        self._type = type_
        self._decoder = msgspec.json.Decoder(type_)

    def __call__(self, raw: bytes) -> T | Broken:
        """The value, or why there is none."""
        try:
            return self._decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as wrong:
            return self._patiently(raw, wrong)

    def _patiently(self, raw: bytes, wrong: Exception) -> T | Broken:
        try:
            value = json.loads(raw.decode("utf-8", "replace"))
            return msgspec.convert(_scrubbed(value), self._type)
        except (ValueError, RecursionError, msgspec.MsgspecError) as still:
            reason = still if isinstance(still, msgspec.ValidationError) else wrong
            return Broken(f"not as expected ({reason})", excerpt(raw))


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_scrubbed(each) for each in value]
    if isinstance(value, dict):
        return {_scrubbed(name): _scrubbed(each) for name, each in value.items()}
    return value
