"""Tasks that are held: they wait for a time outside the queue, until they are released."""

from __future__ import annotations

from typing import TYPE_CHECKING

from projections.judged import NO_SUCH_STEP, VoidReason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from events import catalogue as c
    from projections.record import TaskRecord


def released(
    record: TaskRecord, routing: object, event: c.TaskReleased, seq: int
) -> None:
    """Let a task stand in the queue; it ages from here on."""
    record.held = False
    record.waiting_since = event.at


def not_while(record: TaskRecord) -> VoidReason:
    """Say why a step was void that the table alone would allow."""
    held = "held" if record.held else "not held"
    return VoidReason(NO_SUCH_STEP, f"a task that is {held} takes no such step")


def held_for(record: TaskRecord) -> Iterator[str]:
    """Say in sentences what a task is held for."""
    if record.not_before:
        yield f"It is not to start before {record.not_before}; until then it does not age."
