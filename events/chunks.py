"""Live output as it was stored: repeats left out, and what is missing among it.

A host sends a chunk again when it has not heard that it is stored, so one may be there
twice. A number that is not there at all is text that nobody can show any more: it was
dropped while the stream took nothing, or the stream no longer keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable

    from events import catalogue as c

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
