"""The process table of this machine: who runs, whose child it is, which run's mark it has.

Read from `/proc`; elsewhere than on Linux from psutil, which knows no marks.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

ROUTE_MARK = "AGENTCOM_ROUTE"
"""The variable that marks every process of a run with its route."""

SIDECAR_MARK = "AGENTCOM_SIDECAR"
"""The variable that marks them with their sidecar, by a digest of where its journal is: two
instances on a machine may know a route by one name."""

TASK_MARK = "AGENTCOM_TASK_ID"
"""The variable that tells a run's processes which task they work on."""

LINUX = sys.platform == "linux"
_CHUNK = 65_536


class Ident(Struct, frozen=True):
    """A run's process, as the journal keeps it: findable after a restart.

    `started` is the boot's id and the start time in ticks since then, `mark` the route,
    `sidecar` what the sidecar marks its processes with; "": nothing.
    """

    pid: int
    started: str
    mark: str
    sidecar: str = ""


class Proc(NamedTuple):
    """A line of the process table. `started` in clock ticks since boot."""

    pid: int
    ppid: int
    state: str
    pgrp: int
    session: int
    started: int

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from an earlier or later process of the same pid."""
        return self.pid, self.started

    @property
    def stamp(self) -> str:
        """Its start, told from one in another boot of this machine."""
        return f"{_boot()}:{self.started}"


def sidecar_mark(journal: Path | str) -> str:
    """What the sidecar with this journal marks its processes with: tasks see it, and learn
    nothing of where the journal is."""
    return hashlib.sha256(os.fsencode(journal)).hexdigest()[:16]


def parse_stat(stat: bytes) -> Proc:
    """Read `/proc/<pid>/stat`; the name in parentheses may itself hold parentheses."""
    pid, _, rest = stat.partition(b" ")
    fields = rest[rest.rindex(b")") + 2 :].split()
    return Proc(
        pid=int(pid),
        state=fields[0].decode(),
        ppid=int(fields[1]),
        pgrp=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
    )


def look_up(pid: int) -> Proc | None:
    """The process with this pid now, None where there is none."""
    if not LINUX:
        return process_table().get(pid)
    try:
        return parse_stat(_slurp(f"/proc/{pid}/stat"))
    except (OSError, ValueError):
        return None


def process_table() -> dict[int, Proc]:
    """Every process of this machine by its pid, as seen now; zombies too."""
    if not LINUX:
        return _foreign_table()
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, ValueError):
                proc = parse_stat(_slurp(f"/proc/{name}/stat"))
                table[proc.pid] = proc
    return table


def _foreign_table() -> dict[int, Proc]:
    import psutil

    table = {}
    for each in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            pid = each.pid
            state = "Z" if each.status() == psutil.STATUS_ZOMBIE else "S"
            started = int(each.create_time() * 100)
            group, session = os.getpgid(pid), os.getsid(pid)
            table[pid] = Proc(pid, each.ppid(), state, group, session, started)
    return table


def _slurp(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(file, _CHUNK)]
        while len(parts[-1]) == _CHUNK:
            parts.append(os.read(file, _CHUNK))
        return b"".join(parts)
    finally:
        os.close(file)


def route_of(pid: int) -> str | None:
    """The route in a process's environment, None where there is none or it is hidden."""
    return mark_of(pid, ROUTE_MARK)


def mark_of(pid: int, name: str) -> str | None:
    """A variable of a process's environment, None where there is none or it is hidden."""
    try:
        environment = _slurp(f"/proc/{pid}/environ")
    except OSError:
        return None
    prefix = name.encode() + b"="
    for entry in environment.split(b"\0"):
        if entry.startswith(prefix):
            return entry[len(prefix) :].decode("utf-8", "replace")
    return None


@functools.cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"


def is_outside(proc: Proc, pid: int, table: Mapping[int, Proc]) -> bool:
    """Whether `pid` is nowhere above a process, as its whole line in `table` shows.

    A line that is broken off, because somebody in it ended while the table was read,
    shows nothing.
    """
    for _ in table:  # a pid that comes again while it is read may bend a line to a ring
        if proc.ppid in (0, pid):
            return not proc.ppid
        above = table.get(proc.ppid)
        if above is None:
            return False
        proc = above
    return False


def add_descendants(table: Mapping[int, Proc], procs: dict[int, Proc]) -> None:
    """Add to `procs` whatever descends from them."""
    children: dict[int, list[Proc]] = {}
    for proc in table.values():
        children.setdefault(proc.ppid, []).append(proc)
    queue = list(procs)
    while queue:
        for child in children.get(queue.pop(), ()):
            if child.pid not in procs:
                procs[child.pid] = child
                queue.append(child.pid)


def own_children() -> list[int]:
    """The pids of this process's children."""
    pids: list[int] = []
    try:
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError):
                listed = _slurp(f"/proc/self/task/{thread}/children")
                pids += map(int, listed.split())
    except OSError:
        me = os.getpid()
        pids = [proc.pid for proc in process_table().values() if proc.ppid == me]
    return pids
