"""A task's stored output, part by part: as much of it as one answer holds.

Output is found in its stream by sequence alone, and asked for by a run's own numbers. So
where an answer ended is remembered: whoever asks for what follows is not read all that
came before once more.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from events.codec import encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from events import catalogue as c

PLACES: Final = 1_000
"""Of so many answers it is remembered where they ended."""


class OutputReader(Protocol):
    """The live output that the output stream still has."""

    async def read(self, task_id: str, *, start: int = 1) -> list[c.Chunk]:
        """Return a task's chunks, oldest first, from all hosts it ran on."""
        ...

    def pieces(self, task_id: str, *, start: int = 1) -> AsyncIterator[c.Chunk]:
        """Yield the same, as they are read."""
        ...

    def placed(
        self, task_id: str, *, start: int = 1
    ) -> AsyncIterator[tuple[int, c.Chunk]]:
        """Yield the same, each with its sequence in the stream."""
        ...

    async def count(self, task_id: str, *, start: int = 1) -> int:
        """Count a task's chunks from a sequence on, repeats too."""
        ...


class _PartEnd(NamedTuple):
    """Where an answer ended: its last chunk. `alone`: up to there none is of another run."""

    seq: int
    route: str
    n: int
    alone: bool


class OutputParts:
    """Parts of tasks' outputs."""

    def __init__(self, output: OutputReader) -> None:
        self._output = output
        # By task, route and number: up to there is no chunk of the route with a higher one.
        self._ends: OrderedDict[tuple[str, str, int], _PartEnd] = OrderedDict()

    async def after(
        self, task_id: str, route: str, n: int | None, most: int, *, others: bool
    ) -> tuple[list[c.Chunk], int]:
        """Return chunks of at most `most` bytes, and how many are stored behind them.

        Of `route` those behind number `n`; with `others` those of the task's other runs
        too. Raises LogUnavailable.
        """
        reached = -1 if n is None else n
        end = self._ends.get((task_id, route, reached))
        if end is not None and (end.alone or not others):
            part = await self._read(task_id, route, reached, most, others, end)
            if part is not None:
                return part
        part = await self._read(task_id, route, reached, most, others)
        assert part is not None
        return part

    async def _read(
        self,
        task_id: str,
        route: str,
        reached: int,
        most: int,
        others: bool,
        end: _PartEnd | None = None,
    ) -> tuple[list[c.Chunk], int] | None:
        """Read from where an answer ended; None where something else stands there now."""
        after, size, left_out = reached, 0, 0
        chunks: list[c.Chunk] = []
        begin = end
        alone = end is None or end.alone
        start = 1 if end is None else end.seq
        async for seq, chunk in self._output.placed(task_id, start=start):
            if begin is not None and begin[:3] != (seq, chunk.route, chunk.n):
                return None
            begin = None
            alone = alone and chunk.route == route
            if chunk.n <= after and chunk.route == route:
                continue
            if chunk.route != route and not others:
                continue
            size += len(encode(chunk))
            if size > most:
                left_out = await self._output.count(task_id, start=seq)
                break
            chunks.append(chunk)
            if chunk.route == route:
                reached = max(reached, chunk.n)
            end = _PartEnd(seq, chunk.route, chunk.n, alone)
        if chunks and end is not None:
            self._ends[task_id, route, reached] = end
            if len(self._ends) > PLACES:
                self._ends.popitem(last=False)
        return chunks, left_out
