"""Live output as it was stored: repeats left out, and what is missing among it.

A host sends a chunk again when it has not heard that it is stored, so one may be there
twice. A number that is not there at all is text that nobody can show any more: it was
dropped while the stream took nothing, or the stream no longer keeps it.

A chat's calls of tools come in pieces as well: `Calls` puts them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from events import catalogue as c

if TYPE_CHECKING:
    from collections.abc import Iterable

NEXT_INCARNATION: Final = 1_000_000
"""Numbers of a run that goes on in a later incarnation of its host begin so much higher: how
far it had counted is not known exactly, and a number must not come twice."""


class Gap(Struct, frozen=True):
    """Chunks of a route that are not there: `count` of them, behind number `after`."""

    route: str
    after: int
    count: int


class Seen:
    """Which chunks were there already: a host sends one again rather than not at all."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, int]] = set()

    def is_new(self, chunk: c.Chunk) -> bool:
        """Whether a chunk comes for the first time."""
        key = (chunk.route, chunk.n)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True


def gaps(chunks: Iterable[c.Chunk]) -> list[Gap]:
    """Name what is missing, by the numbers; how much was behind the last is not known."""
    by_route: dict[str, set[int]] = {}
    for chunk in chunks:
        by_route.setdefault(chunk.route, set()).add(chunk.n)
    missing = []
    for route, numbers in by_route.items():
        last = 0
        for n in sorted(numbers):
            if n // NEXT_INCARNATION != last // NEXT_INCARNATION:
                last = n - n % NEXT_INCARNATION
            if n > last + 1:
                missing.append(Gap(route, last, n - last - 1))
            last = n
    return missing


class _FunctionPiece(Struct):
    name: str | None = None
    arguments: str | None = None


class CallPiece(Struct):
    """A piece of a call as OpenAI streams it: which call, its name once, its arguments bit
    by bit."""

    index: int = 0
    id: str | None = None
    function: _FunctionPiece = msgspec.field(default_factory=_FunctionPiece)


_pieces: Final = msgspec.json.Decoder(CallPiece)


class Calls:
    """Calls of tools, put together from their pieces."""

    def __init__(self) -> None:
        # By index: id, name, pieces of the arguments.
        self._calls: dict[int, tuple[str, str, list[str]]] = {}
        self._rest = ""
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    def __contains__(self, index: int) -> bool:
        return index in self._calls

    def add(self, index: int, id_: str, name: str, arguments: str) -> None:
        """Take the next piece of a call."""
        known_id, known_name, pieces = self._calls.get(index, ("", "", []))
        pieces.append(arguments)
        self._calls[index] = (known_id or id_, known_name or name, pieces)
        self.size += len(arguments) + len(name) + len(id_)

    def feed(self, text: str) -> list[CallPiece]:
        """Take live output of kind `call`; return the pieces whose lines end in it."""
        *lines, self._rest = (self._rest + text).split("\n")
        chunks = []
        for line in lines:
            try:
                piece = _pieces.decode(line)
            except msgspec.MsgspecError:
                continue
            function = piece.function
            self.add(
                piece.index,
                piece.id or "",
                function.name or "",
                function.arguments or "",
            )
            chunks.append(piece)
        return chunks

    def whole(self) -> list[c.CalledTool]:
        """Return the calls as far as they are known, in their order."""
        return [
            c.CalledTool(id=id_, function=c.CalledFunction(name, "".join(pieces)))
            for _, (id_, name, pieces) in sorted(self._calls.items())
        ]


def call_line(index: int, id_: str, name: str, arguments: str) -> str:
    """Encode a piece of a call as live output holds it; "" is left out."""
    function: dict[str, Any] = {"name": name} if name else {}
    piece: dict[str, Any] = {"index": index}
    if id_:
        piece |= {"id": id_, "type": "function"}
    piece["function"] = function | {"arguments": arguments}
    return msgspec.json.encode(piece).decode() + "\n"


def called(text: str) -> str:
    """Say lines of calls as people read them: `calls weather {"city": ...}`."""
    words = ""
    for piece in Calls().feed(text):
        function = piece.function
        words += f"calls {function.name} " if function.name else ""
        words += function.arguments or ""
    return words + "\n"
