"""After a restart: what an earlier incarnation of the sidecar started and is still alive."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sidecar.processes.ending import killed, signalled
from sidecar.processes.table import (
    SIDECAR_MARK,
    Ident,
    Proc,
    add_descendants,
    mark_of,
    process_table,
    route_of,
    sidecar_mark,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidecar.processes.ending import Stage


def survivors(idents: Iterable[Ident]) -> list[Proc]:
    """What is still alive of runs that an earlier incarnation of the sidecar had started.

    A process counts by pid and start time (in the same boot), by its mark unless another
    sidecar has marked it, or as the descendant of one that counts.
    """
    idents = list(idents)
    table = process_table()
    by_pid = {ident.pid: ident.started for ident in idents}
    sidecars = {ident.mark: ident.sidecar for ident in idents if ident.mark}
    me = os.getpid()

    def is_marked(pid: int) -> bool:
        if (route := route_of(pid)) not in sidecars:
            return False
        mark, ours = mark_of(pid, SIDECAR_MARK), sidecars[route]
        # A version that named no sidecar, or its journal, may have started it.
        return mark in (None, ours) or sidecar_mark(mark) == ours

    procs = {
        proc.pid: proc
        for proc in table.values()
        if proc.pid != me
        and (by_pid.get(proc.pid) == proc.stamp or is_marked(proc.pid))
    }
    add_descendants(table, procs)
    procs.pop(me, None)
    return [proc for proc in procs.values() if proc.state not in "ZX"]


async def sweep(
    idents: Iterable[Ident], stages: Sequence[Stage] = ()
) -> tuple[int, int]:
    """End what survived; returns how many were found and how many could not be ended."""
    idents = list(idents)
    seen: set[tuple[int, int]] = set()

    def find() -> list[Proc]:
        procs = survivors(idents)
        seen.update(each.key for each in procs)
        return procs

    for stage in stages:
        await signalled(find, stage.signal, stage.grace_s)
    left = await killed(find)
    return len(seen), len(left)
