"""A task's output in parts: nothing twice, nothing missing, and no more read than is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from events import catalogue as c
from events.codec import encode
from projections.output import OutputParts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MOST = 1_000


def piece(route: str, n: int) -> c.Chunk:
    return c.Chunk(
        task_id="T",
        event_type="stdout",
        text=f"{route}{n}\n",
        timestamp="",
        route=route,
        generation=1,
        attempt=1,
        segment=0,
        n=n,
    )


FITTING = MOST // len(encode(piece("a", 10)))


class Stored:
    """A stream that others write to as well; it notes what was read."""

    def __init__(self, *written: tuple[str, int]) -> None:
        self.stored = {3 * at: piece(*each) for at, each in enumerate(written, 1)}
        self.read_: list[int] = []

    async def placed(
        self, task_id: str, *, start: int = 1
    ) -> AsyncIterator[tuple[int, c.Chunk]]:
        seen = set()
        for seq, chunk in self.stored.items():
            if seq >= start and (chunk.route, chunk.n) not in seen:
                seen.add((chunk.route, chunk.n))
                self.read_.append(seq)
                yield seq, chunk

    async def count(self, task_id: str, *, start: int = 1) -> int:
        return sum(seq >= start for seq in self.stored)


def of(route: str, first: int, last: int) -> list[tuple[str, int]]:
    return [(route, n) for n in range(first, last + 1)]


async def all_of(parts: OutputParts, route: str, *, others: bool = False) -> list[str]:
    """Read on behind the highest number that was told, as clients do."""
    told: list[str] = []
    reached: int | None = None
    while True:
        chunks, _ = await parts.after("T", route, reached, MOST, others=others)
        if not chunks:
            return told
        told += [chunk.text.strip() for chunk in chunks]
        numbers = [chunk.n for chunk in chunks if chunk.route == route]
        reached = max([*numbers, reached or 0])


async def test_each_part_is_read_from_where_the_one_before_it_ended():
    stored = Stored(*of("a", 1, 200))
    assert await all_of(OutputParts(stored), "a") == [f"a{n}" for n in range(1, 201)]
    # Of each part besides: where the one before ended, and the first that does not fit.
    parts = 200 // FITTING + 2
    assert len(stored.read_) <= 200 + 2 * parts


async def test_what_is_left_out_is_counted_and_not_read():
    stored = Stored(*of("a", 1, 200))
    chunks, left_out = await OutputParts(stored).after(
        "T", "a", None, MOST, others=True
    )
    assert len(chunks) + left_out == 200
    assert len(stored.read_) == len(chunks) + 1


@pytest.mark.parametrize(
    "written",
    [
        [*of("a", 1, 30), *of("b", 1, 40), *of("a", 31, 60)],
        [*of("a", 1, 20), *of("a", 11, 40), *of("a", 11, 60)],
        [*of("a", 1, 20), ("a", 22), ("a", 21), *of("a", 20, 60)],
        [*of("a", 1, 30), *of("a", 1_000_001, 1_000_030)],
    ],
)
async def test_runs_that_speak_at_once_and_repeats_are_told_whole(written):
    stored = Stored(*written)
    told = await all_of(OutputParts(stored), "a")
    mine = {f"a{n}" for route, n in written if route == "a"}
    assert sorted(told) == sorted(mine)


async def test_where_other_runs_are_told_too_theirs_is_not_passed_by():
    written = [*of("b", 1, 3), *of("a", 1, 3)]
    parts = OutputParts(Stored(*written))
    first, _ = await parts.after("T", "a", None, MOST, others=True)
    later, _ = await parts.after("T", "a", 3, MOST, others=True)
    assert [chunk.text.strip() for chunk in first] == [
        "b1",
        "b2",
        "b3",
        "a1",
        "a2",
        "a3",
    ]
    assert [chunk.text.strip() for chunk in later] == ["b1", "b2", "b3"]


async def test_a_stream_that_is_another_one_now_is_read_from_its_beginning():
    stored = Stored(*of("a", 1, 3))
    parts = OutputParts(stored)
    await parts.after("T", "a", None, MOST, others=False)
    stored.stored = Stored(*of("a", 4, 9)).stored
    chunks, _ = await parts.after("T", "a", 3, MOST, others=False)
    assert [chunk.n for chunk in chunks] == [4, 5, 6, 7, 8, 9]
