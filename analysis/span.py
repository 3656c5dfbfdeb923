"""Spans of the log: a point is a sequence or an RFC 3339 instant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from projections.timetravel import TimeTravel


async def first_from(past: TimeTravel, point: int | str) -> int:
    """Return the first sequence from `point` on, at least 1; raises Malformed."""
    if isinstance(point, str):
        point = await past.sequence_at(point) + 1
    return max(point, 1)


async def last_until(past: TimeTravel, point: int | str | None, last: int) -> int:
    """Return the last sequence up to `point`, at most `last`; raises Malformed."""
    if isinstance(point, str):
        point = await past.sequence_at(point)
    return last if point is None else min(point, last)
