"""The children of this machine: started so that they can all be found and ended.

A run's process leads a session of its own and dies with the sidecar (PDEATHSIG). Its
descendants may leave the session, the group and the parent; they are found all the same:

- by descent, and by the session that the run's process leads;
- by the mark `AGENTCOM_ROUTE=<route>` in their environment, whatever their parent is now,
  as long as it is none outside: two sidecars on a machine may know a route by one name;
- as strays: the sidecar is a *child subreaper*, so that what loses its parent becomes its
  own child. A stray without a mark belongs to a run that was there when it began; it is
  ended with the last run of which that is true.

Processes are told apart by pid and start time, because pids come again. Ends are awaited
on pidfds: nothing polls. Children are started by `sidecar.processes.starter` and reaped
here, pid by pid, so that neither asyncio's nor anybody else's children are reaped by mistake;
whoever starts a child in a session of its own elsewhere in this process says `spare(pid)`.

Reading follows the process, not the pipe: a descendant may hold a pipe for ever.

Elsewhere than on Linux the table comes from psutil, and there are no strays.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import resource
import select
import signal
import subprocess
import tempfile
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from msgspec import Struct

from sidecar.processes.ending import Exit, killed, signal_all, signal_name, signalled
from sidecar.processes.starter import (
    Forker,
    Order,
    by_forker,
    by_ourselves,
    can_fork,
    libc,
)
from sidecar.processes.table import (
    LINUX,
    ROUTE_MARK,
    SIDECAR_MARK,
    Ident,
    Proc,
    add_descendants,
    is_outside,
    look_up,
    own_children,
    process_table,
    route_of,
)
from sidecar.shield import child_umask

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )
    from pathlib import Path
    from typing import Self

    from sidecar.processes.ending import Stage
    from sidecar.processes.starter import Spawned
    from sidecar.task_user import TaskUser

_PR_SET_CHILD_SUBREAPER = 36
_CHUNK = 65_536
_DRAIN_LIMIT = 8 * 2**20
_LOOKS = 3
"""So often we look at our children alone before at the whole process table."""


class ProcessLimits(Struct, frozen=True, kw_only=True):
    """What a host lets a run's processes have; None is the system's own limit.

    All but `processes` hold for each process by itself. `processes` counts those of the
    whole user, as the kernel does, and does not bind root.
    """

    memory_bytes: int | None = None
    processes: int | None = None
    cpu_s: int | None = None
    open_files: int | None = None
    file_bytes: int | None = None

    def rlimits(self) -> list[tuple[int, int]]:
        """Pairs of resource and value, for `setrlimit`."""
        limits = [
            (resource.RLIMIT_AS, self.memory_bytes),
            (resource.RLIMIT_NPROC, self.processes),
            (resource.RLIMIT_CPU, self.cpu_s),
            (resource.RLIMIT_NOFILE, self.open_files),
            (resource.RLIMIT_FSIZE, self.file_bytes),
        ]
        return [(which, value) for which, value in limits if value is not None]


class Child:
    """A run's process and all that came of it. Made by `Processes.start`.

    As a context manager it leaves nothing alive at the block's end, however that comes.
    """

    def __init__(
        self,
        family: Processes,
        started: Spawned,
        route: str,
        on_stdout: Callable[[bytes], None],
        on_stderr: Callable[[bytes], None],
    ) -> None:
        self._family = family
        self._process = started
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Exit] = self._loop.create_future()
        # Pid to start time of all that was once seen as this run's: a process that has
        # since left session and parent, and cleared its mark, is still known by this.
        self._seen: dict[int, int] = {}
        self._fault: BaseException | None = None
        # First what may fail: nothing is being watched yet.
        self._handle = os.pidfd_open(started.pid) if LINUX else None
        self._closed = False
        proc = look_up(started.pid) or Proc(started.pid, 0, "Z", 0, 0, 0)
        self.pid = started.pid
        self.started = proc.started
        self.ident = Ident(started.pid, proc.stamp, route, family.sidecar)
        self._readers: dict[int, Callable[[bytes], None]] = {}
        for pipe, sink in ((started.stdout, on_stdout), (started.stderr, on_stderr)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._readers[pipe.fileno()] = sink
        if not family.is_held(route):
            self.read_on()
        if self._handle is not None:
            self._loop.add_reader(self._handle, self._reap)
        else:
            watcher = self._loop.run_in_executor(None, started.wait)
            watcher.add_done_callback(lambda _: self._reap())

    @property
    def route(self) -> str:
        """The mark that its environment carries."""
        return self.ident.mark

    @property
    def exit(self) -> Exit | None:
        """How the run's own process ended, None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> Exit:
        """Wait for the run's own process; descendants may live on, and hold pipes.

        Raises what a sink raised; the process has then been killed.
        """
        ended = await asyncio.shield(self._ended)
        if self._fault is not None:
            raise self._fault
        return ended

    def members(self) -> list[Proc]:
        """Every living process of the run, seen now."""
        return self._family.members(self)

    def signal(self, number: signal.Signals) -> None:
        """Signal the run's own process."""
        if not self._ended.done():
            self._process.send_signal(number)

    async def end(self, stages: Sequence[Stage] = ()) -> int:
        """End every process of the run; returns how many could not be ended.

        Each stage is given its time; what still lives then is killed. What was written
        until the end has been read when this returns. A second call does nothing.
        """
        if self._closed:
            return 0
        try:
            left = 0
            for stage in stages:
                if not await self._survives(stage):
                    await asyncio.shield(self._ended)
                    break
            else:
                left = await self._killed()
        except BaseException:
            self.abandon()
            raise
        self._close()
        return left

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    def kill(self) -> None:
        """SIGKILL to all of them, now, without waiting."""
        if not self._ended.done():
            self._process.kill()
        signal_all(self.members(), signal.SIGKILL)

    async def _survives(self, stage: Stage) -> bool:
        """Take one stage; whether anything is left after it."""
        if stage.to == "tree":
            return bool(await signalled(self.members, stage.signal, stage.grace_s))
        if not self._ended.done():
            self.signal(stage.signal)
            with suppress(TimeoutError):
                async with asyncio.timeout(stage.grace_s):
                    await asyncio.shield(self._ended)
        return bool(self.members())

    async def _killed(self) -> int:
        left = await killed(self.members)
        if not self._ended.done() and self.pid not in {each.pid for each in left}:
            await asyncio.shield(self._ended)
        return len(left)

    def abandon(self) -> None:
        """Kill, reap and close at once: nobody can wait for the end any more."""
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self._close()

    def hold(self) -> None:
        """Read no more for now: who writes into the pipes waits once they are full."""
        for pipe in self._readers:
            self._loop.remove_reader(pipe)

    def read_on(self) -> None:
        """Read what comes."""
        for pipe in self._readers:
            self._loop.add_reader(pipe, self._read, pipe)

    def _read(self, pipe: int) -> None:
        try:
            data = os.read(pipe, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._stop_reading(pipe)
            return
        try:
            self._readers[pipe](data)
        except Exception as fault:  # noqa: BLE001 - handed to `wait`
            self._fault = fault
            self._stop_reading(pipe)
            self.kill()

    def _stop_reading(self, pipe: int) -> None:
        if self._readers.pop(pipe, None) is not None:
            self._loop.remove_reader(pipe)

    def drain(self) -> None:
        """Read what is in the pipes now."""
        for pipe in list(self._readers):
            before = _DRAIN_LIMIT
            while pipe in self._readers and before > 0:
                ready = _readable(pipe)
                if not ready:
                    break
                self._read(pipe)
                before -= _CHUNK

    def _reap(self) -> None:
        code = self._process.poll()
        if code is None or self._ended.done():
            return
        if self._handle is not None:
            self._loop.remove_reader(self._handle)
            os.close(self._handle)
            self._handle = None
        self.drain()
        ended = Exit(code) if code >= 0 else Exit(None, signal_name(-code))
        self._ended.set_result(ended)

    def _close(self) -> None:
        self._closed = True
        self._reap()
        self.drain()
        for pipe in list(self._readers):
            self._stop_reading(pipe)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._family.forget(self)


def _readable(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, select.POLLIN | select.POLLHUP)
    return bool(poll.poll(0))


class Brief(Struct, frozen=True):
    """What a short command printed; `exit` is None where it took too long.

    `raw` is what `stdout` was made of.
    """

    exit: Exit | None
    stdout: str
    stderr: str
    raw: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether it ended in time, with code 0."""
        return self.exit is not None and self.exit.ok


class Processes:
    """All runs' children of this process. One for each sidecar.

    Start children from the thread that lives as long as the sidecar: PDEATHSIG follows
    the thread, not the process. `on_start` is told of each (the journal writes it down,
    so that the sidecar's next incarnation can find what survived this one).
    """

    def __init__(
        self,
        on_start: Callable[[Ident], None] | None = None,
        user: TaskUser | None = None,
        sidecar: str = "",
    ) -> None:
        """`user` is whose every process is; None: this process's own. `sidecar` is what
        each is marked with beside its route, the same in the next incarnation."""
        self.user = user
        self.sidecar = sidecar
        self._on_start = on_start
        self._children: dict[int, Child] = {}
        self._spared: set[int] = set()

        # Routes whose children are not read from for now.
        self._held: set[str] = set()

        self._briefs = 0
        self._subreaper = False
        self._forker: Forker | None = None

    def become_subreaper(self) -> bool:
        """Make descendants that lose their parent children of this process."""
        if libc is not None and not self._subreaper:
            self._subreaper = libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        return self._subreaper

    def spare(self, pid: int) -> None:
        """Never take this child, which somebody else started and reaps, for a stray."""
        self._spared.add(pid)

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        route: str,
        stdin: bytes = b"",
        limits: ProcessLimits | None = None,
        on_stdout: Callable[[bytes], None] = lambda _: None,
        on_stderr: Callable[[bytes], None] = lambda _: None,
    ) -> Child:
        """Start `argv` in a session of its own; the sinks get bytes as they come.

        `stdin` is all that it can ever read there. Raises OSError where it cannot be
        started, ValueError where an argument or variable holds what none may hold.
        """
        order = Order(
            list(argv),
            cwd,
            {**env, ROUTE_MARK: route, SIDECAR_MARK: self.sidecar},
            child_umask(),
            (limits or ProcessLimits()).rlimits(),
            self.user,
        )
        with _as_file(stdin) as source:
            begun = self._begun(order, source)
        try:
            child = Child(self, begun, route, on_stdout, on_stderr)
            self._children[child.pid] = child
            if self._on_start is not None:
                self._on_start(child.ident)
        except BaseException:
            # Nobody would know of it: it must not live.
            watched = self._children.get(begun.pid)
            if watched is not None:
                watched.abandon()
            else:
                _discard(begun)
            raise
        return child

    def _begun(self, order: Order, stdin: int) -> Spawned:
        """Start it by the forker, which is made with the first child; else ourselves."""
        if not self._subreaper or not can_fork():
            return by_ourselves(order, stdin)
        if self._forker is None or not self._forker.lives:
            self._forker = Forker()
            weakref.finalize(self, self._forker.close)
        try:
            return by_forker(self._forker, order, stdin)
        except ConnectionError as killed:
            # It may have forked before it was killed, and said no more.
            self._end_unknown(order.env[ROUTE_MARK])
            raise OSError(errno.EIO, f"{killed}", order.argv[0]) from killed

    def _end_unknown(self, route: str) -> None:
        """Kill what became our child with this mark without our knowing."""
        unknown = [
            proc
            for proc in map(look_up, self._unknown())
            if proc is not None and route_of(proc.pid) == route
        ]
        signal_all(unknown, signal.SIGKILL)

    async def brief(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        route: str | None = None,
        timeout_s: float = 30.0,
        keep: int = 65_536,
        stdin: bytes = b"",
    ) -> Brief:
        """Run a short command to its end; of its output `keep` bytes each."""
        self._briefs += 1
        mark = route or f"brief-{os.getpid()}-{self._briefs}"
        texts: tuple[bytearray, bytearray] = (bytearray(), bytearray())

        def take(into: bytearray, data: bytes) -> None:
            into += data[: keep - len(into)]

        async with self.start(
            argv,
            cwd=cwd,
            env=env,
            route=mark,
            stdin=stdin,
            on_stdout=functools.partial(take, texts[0]),
            on_stderr=functools.partial(take, texts[1]),
        ) as child:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await child.wait()
            ended = child.exit
        out, err = (bytes(each).decode("utf-8", "replace") for each in texts)
        return Brief(ended, out, err, bytes(texts[0]))

    def hold(self, route: str, held: bool) -> None:
        """Stop reading what a run's processes print, or go on: they wait meanwhile."""
        if held == self.is_held(route):
            return
        (self._held.add if held else self._held.discard)(route)
        for child in self._children.values():
            if child.route == route:
                child.hold() if held else child.read_on()

    def is_held(self, route: str) -> bool:
        """Whether what the run's processes print is not read for now."""
        return route in self._held

    def members(self, child: Child) -> list[Proc]:
        """Every living process of `child`'s run. Reaps strays that have ended.

        Once the run's own process has ended, whatever it left alive has one of our
        children above it, because we are its subreaper. So where all our children are
        known ones, nothing is left, and nobody need look through the process table.
        """
        if child.exit is not None and self._nothing_left():
            return []
        table = process_table()
        me = os.getpid()
        procs: dict[int, Proc] = {}
        for proc in table.values():
            if (
                (proc.session == child.pid and proc.started >= child.started)
                or (proc.pid == child.pid and proc.started == child.started)
                or child._seen.get(proc.pid) == proc.started
            ):
                procs[proc.pid] = proc
        add_descendants(table, procs)
        for proc in table.values():
            if proc.pid in procs or proc.started < child.started or proc.pid == me:
                continue
            route = route_of(proc.pid)
            if route == child.route:
                # What began under its subreaper stays there.
                ours = not (self._subreaper and is_outside(proc, me, table))
            else:
                ours = route is None and self._is_stray(proc, child)
            if ours:
                procs[proc.pid] = proc
        add_descendants(table, procs)
        for other in self._children.values():
            if other is not child:
                procs.pop(other.pid, None)
        procs.pop(me, None)
        self._reap(procs.values())
        living = [proc for proc in procs.values() if proc.state not in "ZX"]
        child._seen.update((proc.pid, proc.started) for proc in living)
        return living

    def _unknown(self) -> list[int]:
        """Our children that are neither a run's own process nor somebody else's."""
        known = {*self._children, *self._spared}
        if self._forker is not None:
            known.add(self._forker.pid)
        return [pid for pid in own_children() if pid not in known]

    def _nothing_left(self) -> bool:
        """Whether all our living children are known ones."""
        for _ in range(_LOOKS if self._subreaper else 0):
            strays = self._strays()
            if any(proc.state not in "ZX" for proc in strays):
                return False
            if not strays:
                return True
            # What they left became ours as they ended, maybe after we looked.
            self._reap(strays)
        return False

    def _strays(self) -> list[Proc]:
        """What became our child by losing its parent, ended or not."""
        processes = map(look_up, self._unknown())
        return [
            proc for proc in processes if proc is not None and self._is_orphan(proc)
        ]

    def _is_stray(self, proc: Proc, child: Child) -> bool:
        """Whether an unmarked process can only be what `child`'s run left behind."""
        if not self._subreaper or not self._is_orphan(proc):
            return False
        return not any(
            other.started <= proc.started
            for other in self._children.values()
            if other is not child
        )

    def _is_orphan(self, proc: Proc) -> bool:
        """Whether it became our child by losing its parent."""
        return (
            proc.ppid == os.getpid()
            and proc.session != os.getsid(0)
            and proc.pid not in self._children
            and proc.pid not in self._spared
        )

    def _reap(self, procs: Iterable[Proc]) -> None:
        me = os.getpid()
        for proc in procs:
            if proc.state == "Z" and proc.ppid == me and proc.pid not in self._children:
                with suppress(ChildProcessError):
                    os.waitpid(proc.pid, os.WNOHANG)

    def forget(self, child: Child) -> None:
        """Called by a child that has been ended; reaps what it left and has ended too."""
        self._children.pop(child.pid, None)
        if self._subreaper:
            self._reap(self._strays())


def _discard(started: Spawned) -> None:
    """End a child that was never watched."""
    started.kill()
    started.wait()
    for stream in (started.stdout, started.stderr):
        if stream is not None:
            stream.close()


@contextmanager
def _as_file(data: bytes) -> Iterator[int]:
    """A nameless file that holds `data`: it cannot block and ends where it ends."""
    if not data:
        with open(os.devnull, "rb", 0) as empty:
            yield empty.fileno()
        return
    with tempfile.TemporaryFile(buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) or 0 :]
        file.seek(0)
        yield file.fileno()
