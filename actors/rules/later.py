"""What is checked of a task that is not to start at once, and of a batch that is a graph."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import msgspec

from events import catalogue as c
from events.codec import instant
from events.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Sequence

FIELDS = ("after", "after_any", "input_from")


def check_later(spec: c.TaskSpec) -> None:
    """Refuse a start that cannot be: raises Malformed with the JSON path."""
    if spec.at is not None:
        at = instant(spec.at, "at")
        if spec.deadline is not None and instant(spec.deadline, "deadline") <= at:
            raise Malformed("deadline", "a time after at", spec.deadline)
    for path in FIELDS:
        ids: list[str] = getattr(spec, path)
        if len(set(ids)) != len(ids):
            raise Malformed(path, "each task once", "one twice")
    both = {*spec.after, *spec.input_from} & {*spec.after_any}
    if both:
        raise Malformed("after_any", "tasks that are not in after too", min(both))
    if spec.input_from and (spec.shell or spec.messages or spec.executor == "noop"):
        what = (
            "a shell command" if spec.shell else "a chat" if spec.messages else "noop"
        )
        raise Malformed("input_from", f"none, because {what} has no prompt", "some")


def graph_of(
    specs: Sequence[c.TaskSpec], ids: Sequence[str]
) -> tuple[list[c.TaskSpec], list[int]]:
    """Put ids in the place of a batch's own names, and find an order to submit it in.

    In that order, which is of places in the batch, no task comes before one that it comes
    after. Raises Malformed for a name that two have, and for a cycle, with its path.
    """
    named: dict[str, int] = {}
    for n, spec in enumerate(specs):
        if spec.name is not None and named.setdefault(spec.name, n) != n:
            raise Malformed(
                f"tasks[{n}].name",
                f"another name than tasks[{named[spec.name]}] has",
                spec.name,
            )
    places = {task_id: n for n, task_id in enumerate(ids)}
    resolved = [
        msgspec.structs.replace(
            spec,
            **{
                path: [
                    ids[named[each]] if each in named else each
                    for each in getattr(spec, path)
                ]
                for path in FIELDS
            },
        )
        if c.predecessors(spec)
        else spec
        for spec in specs
    ]
    before = {
        n: [places[each] for each in c.predecessors(spec) if each in places]
        for n, spec in enumerate(resolved)
    }
    if not any(before.values()):
        return resolved, list(range(len(resolved)))
    try:
        return resolved, list(TopologicalSorter(before).static_order())
    except CycleError as cycle:
        path = list(reversed(cycle.args[1]))
        shown = " after ".join(specs[n].name or ids[n] for n in path[:20])
        more = " ..." if len(path) > 20 else ""
        raise Malformed(
            f"tasks[{path[0]}].after", "tasks that do not come after it", shown + more
        ) from cycle
