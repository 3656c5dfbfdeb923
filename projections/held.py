"""Tasks that are held: they wait for a time outside the queue, until they are released."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from events import catalogue as c
from events.lifecycle import FINAL
from projections.judged import NO_SUCH_STEP, VoidReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from projections.record import TaskRecord
    from projections.world import World


FOLLOWERS_KEPT: Final = 1_000
SHOWN: Final = 5


def comes_after(
    record: TaskRecord, spec: c.TaskSpec, find: Callable[[str], TaskRecord | None]
) -> Iterator[TaskRecord]:
    """Note what a task comes after; yield the records that changed besides its own."""
    record.after, record.after_any = tuple(spec.after), tuple(spec.after_any)
    record.input_from = tuple(spec.input_from)
    for task_id in c.predecessors(spec):
        before = find(task_id)
        if before is not None and len(before.followers) < FOLLOWERS_KEPT:
            before.followers += (record.id,)
            yield before


def released(
    record: TaskRecord, routing: object, event: c.TaskReleased, seq: int
) -> None:
    """Let a task stand in the queue; it ages from here on."""
    record.held = False
    record.phase_seq = seq
    record.waiting_since = event.at


def not_while(record: TaskRecord) -> VoidReason:
    """Say why a step was void that the table alone would allow."""
    held = "held" if record.held else "not held"
    return VoidReason(NO_SUCH_STEP, f"a task that is {held} takes no such step")


def held_for(record: TaskRecord, world: World) -> Iterator[str]:
    """Say in sentences what a task is held for."""
    for what, ids in (
        ("have completed", [*record.after, *record.input_from]),
        ("are over", record.after_any),
    ):
        before = [world.tasks.find(each) for each in dict.fromkeys(ids)]
        open_ones = [
            one for one in before if one is not None and one.phase not in FINAL
        ]
        if not open_ones:
            continue
        shown = ", ".join(
            f"{one.name or one.id} ({one.phase})" for one in open_ones[:SHOWN]
        )
        more = f" and {len(open_ones) - SHOWN} more" if len(open_ones) > SHOWN else ""
        of = f"{len(open_ones)} of {len(before)} tasks"
        yield f"It starts when {of} {what}: {shown}{more}."
    if record.not_before:
        yield f"It is not to start before {record.not_before}; until then it does not age."
