"""Children of real runs: found and ended, whatever they do to get away."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from sidecar.processes.ending import claude_stages, shell_stages
from sidecar.processes.family import Processes, ProcessLimits
from sidecar.processes.starter import Forker, Order
from sidecar.processes.survivors import survivors, sweep
from sidecar.processes.table import (
    Ident,
    Proc,
    is_outside,
    parse_stat,
    process_table,
    route_of,
    sidecar_mark,
)
from tests.support.runs import alive, is_alive, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.processes.family import Child

# Forks, makes a session of its own, forks again, and cleans its environment if asked to.
DAEMON = """
import os, sys, signal
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        env = {} if "bare" in sys.argv else dict(os.environ)
        code = "import os,time,signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        code += "print(os.getpid(), flush=True); time.sleep(1000)"
        os.execve(sys.executable, [sys.executable, "-Sc", code], env)
    os._exit(0)
os.wait()
"""


@pytest.fixture
def processes() -> Iterator[Processes]:
    family = Processes()
    assert family.become_subreaper()
    yield family
    assert running(family) == []


class Out:
    """The lines of a child's stdout, awaited one by one."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        self._rest = b""

    def __call__(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._lines.put_nowait(line.decode())

    async def line(self) -> str:
        async with asyncio.timeout(60):
            return await self._lines.get()


def begin(processes: Processes, script: str, *args: str, route: str, out: Out) -> Child:
    return processes.start(
        [sys.executable, "-Sc", script, *args],
        cwd=Path("/"),
        env={"PATH": os.environ["PATH"]},
        route=route,
        on_stdout=out,
    )


def shell(processes: Processes, command: str, **more: object) -> Child:
    env = {"PATH": os.environ["PATH"]}
    return processes.start(
        ["/bin/sh", "-c", command], cwd=Path("/"), env=env, **{"route": "r", **more}
    )


@pytest.mark.parametrize("way", ["marked", "bare"])
async def test_a_daemonised_grandchild_ends_with_its_run(
    processes: Processes, way: str
) -> None:
    out = Out()
    child = begin(processes, DAEMON, way, route=f"daemon-{way}", out=out)
    daemon = int(await out.line())
    assert (await child.wait()).ok
    assert is_alive(daemon)
    assert await child.end() == 0
    assert not is_alive(daemon)


async def test_a_bare_stray_of_two_runs_ends_with_the_last_of_them(
    processes: Processes,
) -> None:
    first, second = shell(processes, "read x", route="a"), None
    out = Out()
    second = begin(processes, DAEMON, "bare", route="b", out=out)
    daemon = int(await out.line())
    await second.end()
    assert is_alive(daemon)  # it might be the first one's
    await first.end()
    assert not is_alive(daemon)


async def test_a_run_never_takes_another_runs_processes(processes: Processes) -> None:
    mine, other = (
        shell(processes, "sleep 1000"),
        shell(processes, "sleep 1000", route="s"),
    )
    await mine.end()
    assert is_alive(other.pid)
    await other.end()
    assert not is_alive(other.pid)


async def test_a_tree_that_ignores_sigterm_is_killed(processes: Processes) -> None:
    out = Out()
    child = shell(
        processes,
        "trap '' TERM; (sleep 1000 & sleep 1000) & echo up; wait",
        on_stdout=out,
    )
    await out.line()
    assert await child.end(shell_stages(0.05)) == 0
    assert child.exit is not None
    assert child.exit.signal == "SIGKILL"
    assert alive("r") == []


async def test_sigterm_comes_first_and_its_handler_is_heard(
    processes: Processes,
) -> None:
    out = Out()
    script = "trap 'echo ended; exit 3' TERM; echo up; while :; do sleep 0.01; done"
    child = shell(processes, script, on_stdout=out)
    await out.line()
    assert await child.end(shell_stages(20)) == 0
    assert await out.line() == "ended"
    assert child.exit is not None
    assert child.exit.code == 3


async def test_sigint_goes_to_the_program_alone(processes: Processes) -> None:
    out = Out()
    script = (
        "trap 'echo told; exit 0' INT\n"
        "(trap 'echo tool; exit 1' INT; trap '' TERM; echo up; sleep 1000) &\n"
        "wait"
    )
    child = shell(processes, script, on_stdout=out)
    await out.line()
    assert await child.end(claude_stages(20, 0.05)) == 0
    assert await out.line() == "told"
    assert child.exit is not None
    assert child.exit.code == 0
    assert alive("r") == []


async def test_a_stopped_process_ends_too(processes: Processes) -> None:
    child = shell(processes, "kill -STOP $$")
    assert await child.end(shell_stages(5)) == 0
    assert child.exit is not None


async def test_a_fork_bomb_ends(processes: Processes) -> None:
    out = Out()
    script = """
import os, time
print("up", flush=True)
end = time.monotonic() + 20
while time.monotonic() < end:
    if os.fork() == 0:
        os.setpgid(0, 0)
        time.sleep(0.05)
        if os.fork():
            time.sleep(1000)
    else:
        time.sleep(0.02)
"""
    child = begin(processes, script, route="bomb", out=out)
    await out.line()
    assert await child.end() == 0
    assert alive("bomb") == []


async def test_waiting_follows_the_process_and_not_the_pipe(
    processes: Processes,
) -> None:
    child = shell(processes, "sleep 1000 & exit 7")
    assert (await child.wait()).code == 7
    await child.end()
    assert alive("r") == []


async def test_all_that_was_written_is_read(processes: Processes) -> None:
    got = bytearray()
    child = shell(
        processes, "head -c 1000000 /dev/zero; echo end", on_stdout=got.extend
    )
    await child.wait()
    await child.end()
    assert len(got) == 1_000_004
    assert got.endswith(b"end\n")


async def test_what_is_held_waits_with_its_output_and_loses_none(
    processes: Processes,
) -> None:
    got, began = bytearray(), asyncio.Event()

    def take(data: bytes) -> None:
        got.extend(data)
        if not began.is_set():
            began.set()
            processes.hold("r", True)

    child = shell(processes, "head -c 1000000 /dev/zero; echo end", on_stdout=take)
    await began.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(got) <= 65_536
    assert child.exit is None
    processes.hold("r", False)
    await child.wait()
    await child.end()
    assert len(got) == 1_000_004


async def test_stdin_is_what_was_given_and_then_ends(processes: Processes) -> None:
    got = bytearray()
    child = shell(processes, "wc -c", stdin=b"x" * 300_000, on_stdout=got.extend)
    assert (await child.wait()).ok
    await child.end()
    assert int(got) == 300_000


async def test_limits_hold(processes: Processes) -> None:
    got = bytearray()
    limits = ProcessLimits(open_files=33, cpu_s=7, memory_bytes=2**33, file_bytes=1024)
    child = shell(
        processes,
        "ulimit -n; ulimit -t; ulimit -v",
        limits=limits,
        on_stdout=got.extend,
    )
    await child.wait()
    await child.end()
    assert got.split() == [b"33", b"7", str(2**23).encode()]


async def test_cancelling_whoever_waits_ends_the_run(processes: Processes) -> None:
    started = asyncio.Event()

    async def hold() -> None:
        env = {"PATH": os.environ["PATH"]}
        argv = ["/bin/sh", "-c", "trap '' TERM; sleep 1000 & wait"]
        async with processes.start(argv, cwd=Path("/"), env=env, route="c") as child:
            started.set()
            await child.wait()

    task = asyncio.create_task(hold())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert alive("c") == []


async def test_what_a_sink_raises_reaches_whoever_waits(processes: Processes) -> None:
    def sink(_: bytes) -> None:
        raise RuntimeError("no room")

    child = shell(processes, "echo x; sleep 1000", on_stdout=sink)
    with pytest.raises(RuntimeError, match="no room"):
        await child.wait()
    await child.end()


async def test_adopted_orphans_are_reaped_and_asyncios_children_are_not(
    processes: Processes,
) -> None:
    other = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 5")
    with subprocess.Popen(["/bin/sh", "-c", "exit 6"], start_new_session=True) as third:
        processes.spare(third.pid)
        out = Out()
        orphan = "setsid sh -c 'echo $$' & wait"
        child = shell(processes, orphan, on_stdout=out)
        pid = int(await out.line())
        await child.wait()
        await child.end()
        assert not Path(f"/proc/{pid}").exists()
        assert await other.wait() == 5
        assert third.wait() == 6


async def test_a_killed_sidecar_takes_its_child_along_and_the_rest_is_swept() -> None:
    route = f"swept-{os.getpid()}"
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
from sidecar.processes.family import Processes
async def main():
    processes = Processes(on_start=lambda i: print(i.pid, i.started, i.mark, flush=True))
    processes.become_subreaper()
    argv = ["/bin/sh", "-c", "setsid sh -c 'echo up; exec sleep 1000' & wait"]
    def show(data):
        sys.stdout.buffer.write(data); sys.stdout.buffer.flush()
    child = processes.start(argv, cwd=Path("/"), env={{'PATH': '/usr/bin:/bin'}}, route={route!r}, on_stdout=show)
    await child.wait()
asyncio.run(main())
"""
    sidecar = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=subprocess.PIPE
    )
    assert sidecar.stdout is not None
    pid, started, mark = (await sidecar.stdout.readline()).decode().split()
    ident = Ident(int(pid), started, mark)
    await sidecar.stdout.readline()
    sidecar.kill()
    await sidecar.wait()
    handle = os.pidfd_open(int(pid)) if is_alive(int(pid)) else None
    if handle is not None:
        with os.fdopen(handle):
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            loop = asyncio.get_running_loop()
            loop.add_reader(handle, lambda: ended.done() or ended.set_result(None))
            await ended
            loop.remove_reader(handle)
    assert not is_alive(int(pid))
    assert len(alive(route)) == 1
    assert await sweep([ident], shell_stages(5)) == (1, 0)
    assert alive(route) == []


async def test_a_pid_that_came_again_is_nobodys_survivor(processes: Processes) -> None:
    child = shell(processes, "sleep 1000")
    assert survivors([Ident(child.pid, "another boot:1", "gone")]) == []
    assert [each.pid for each in survivors([child.ident])][:1] == [child.pid]
    await child.end()


# A sidecar of its own with one run, "r1", which it ends when its stdin does.
SIDECAR = """
import asyncio, sys
from pathlib import Path
from sidecar.processes.ending import shell_stages
from sidecar.processes.family import Processes

async def main():
    family = Processes(sidecar=sys.argv[1])
    assert family.become_subreaper()
    async with family.start(["sleep", "1000"], cwd=Path("/"), env={}, route="r1") as run:
        print("begun", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await run.end(shell_stages(1))

asyncio.run(main())
"""


def test_a_run_of_the_same_name_under_another_sidecar_is_left_alone() -> None:
    with (
        subprocess.Popen(
            [sys.executable, "-c", SIDECAR, "/here"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as sidecar,
    ):
        assert sidecar.stdout is not None
        assert sidecar.stdout.readline() == b"begun\n"
        with subprocess.Popen(["sleep", "1000"], env={"AGENTCOM_ROUTE": "r1"}) as other:
            sidecar.communicate(timeout=60)
            left = other.poll()
            other.kill()
    assert sidecar.returncode == 0
    assert left is None


def test_a_sidecar_that_comes_back_leaves_another_ones_run_of_the_same_name() -> None:
    def left_of(sidecar: str) -> set[int]:
        return {each.pid for each in survivors([Ident(-1, "", "r1", sidecar)])}

    with subprocess.Popen(
        [sys.executable, "-c", SIDECAR, "/other"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"begun\n"
        children = psutil.Process(other.pid).children()
        (run,) = (each.pid for each in children if route_of(each.pid) == "r1")
        assert run not in left_of("/here")
        assert run in left_of("/other")
        # As a version before this one marked it, with its journal's path.
        assert run in left_of(sidecar_mark("/other"))
        assert run not in left_of(sidecar_mark("/here"))
        # As a version before this one marked what it started.
        with subprocess.Popen(["sleep", "1000"], env={"AGENTCOM_ROUTE": "r1"}) as older:
            assert older.pid in left_of("/here")
            older.kill()
        other.communicate(timeout=60)
    assert other.returncode == 0


def test_a_line_that_is_broken_off_does_not_say_whose_a_process_is() -> None:
    def proc(pid: int, ppid: int) -> Proc:
        return Proc(pid, ppid, "S", pid, pid, 0)

    table = {pid: proc(pid, ppid) for pid, ppid in [(1, 0), (5, 1), (6, 5), (7, 1)]}
    assert not is_outside(proc(9, 6), 5, table)
    assert is_outside(proc(9, 7), 5, table)
    assert is_outside(table[1], 5, table)
    assert not is_outside(proc(9, 8), 5, table)
    assert not is_outside(proc(9, 2), 5, table | {2: proc(2, 3), 3: proc(3, 2)})


def test_a_name_with_parentheses_does_not_confuse_the_table() -> None:
    fields = b" ".join(str(number).encode() for number in range(4, 53))
    proc = parse_stat(b"42 (a) Z (b)) S " + fields)
    assert (proc.pid, proc.state, proc.ppid, proc.started) == (42, "S", 4, 22)


async def test_a_child_that_cannot_be_written_down_does_not_live() -> None:
    started: list[int] = []

    def full(ident: Ident) -> None:
        started.append(ident.pid)
        raise OSError("disk full")

    family = Processes(on_start=full)
    with pytest.raises(OSError, match="disk full"):
        shell(family, "sleep 1000")
    assert not is_alive(started[0])
    assert running(family) == []


async def test_a_child_that_cannot_be_watched_does_not_live(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(pid: int) -> int:
        raise OSError(f"no handle for {pid}")

    monkeypatch.setattr(os, "pidfd_open", full)
    with pytest.raises(OSError, match="no handle"):
        shell(processes, "exec sleep 1000", route="unwatched")
    assert alive("unwatched") == []


async def test_a_program_that_is_not_there_says_so(processes: Processes) -> None:
    with pytest.raises(FileNotFoundError):
        processes.start(["/nowhere/at/all"], cwd=Path("/"), env={}, route="r")


# -- who forks -------------------------------------------------------------------------


async def said(child: Child, out: Out) -> str:
    line = await out.line()
    await child.end()
    return line


async def test_a_child_is_ours_with_default_signals_and_no_file_of_anybody(
    processes: Processes,
) -> None:
    code = (
        "import os, signal; print(os.getppid(), os.getsid(0) == os.getpid(),"
        "[str(s) for s in (2, 13, 15) if signal.getsignal(s) == signal.SIG_IGN],"
        "sorted(os.listdir('/proc/self/fd'))[:3], len(os.listdir('/proc/self/fd')))"
    )
    out = Out()
    # Python itself ignores SIGPIPE, so a shell asks the kernel.
    ignored = "grep SigIgn /proc/self/status | cut -f2"
    child = begin(processes, code, route="r", out=out)
    assert await said(child, out) == f"{os.getpid()} True ['13'] ['0', '1', '2'] 4"
    child = shell(processes, ignored, on_stdout=out)
    # The C library's own two (32, 33) are set by no program, and inherited as they are.
    of_the_library = 0b11 << 31
    assert int(await said(child, out), 16) & ~of_the_library == 0


async def test_a_child_starts_though_the_forker_was_killed(
    processes: Processes,
) -> None:
    out = Out()
    first = shell(processes, "echo one", on_stdout=out)
    assert await said(first, out) == "one"
    assert processes._forker is not None
    os.kill(processes._forker.pid, signal.SIGKILL)
    os.waitid(os.P_PID, processes._forker.pid, os.WEXITED | os.WNOWAIT)
    second = shell(processes, "echo two", on_stdout=out)
    assert await said(second, out) == "two"


async def test_what_was_begun_as_the_forker_was_killed_does_not_live(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Forker, order: Order, fds: list[int]) -> int:
        pid = start(self, order, fds)
        begun.append(pid)
        raise ConnectionResetError("the forker has ended")

    begun: list[int] = []
    start = Forker.start
    monkeypatch.setattr(Forker, "start", killed)
    with pytest.raises(OSError, match="the forker has ended"):
        shell(processes, "exec sleep 1000", route="begun")
    os.waitid(os.P_PID, begun[0], os.WEXITED)
    assert alive("begun") == []


async def test_what_cannot_be_started_names_the_program_or_the_folder(
    processes: Processes, tmp_path: Path
) -> None:
    no_program = tmp_path / "text"
    no_program.write_text("no program")
    for argv, cwd, named in (
        (["nowhere-at-all"], tmp_path, "nowhere-at-all"),
        ([str(no_program)], tmp_path, str(no_program)),
        (["/bin/true"], tmp_path / "gone", str(tmp_path / "gone")),
    ):
        with pytest.raises(OSError, match=r"No such file|Permission denied") as wrong:
            processes.start(argv, cwd=cwd, env={"PATH": "/bin:/usr/bin"}, route="r")
        assert wrong.value.filename == named
    assert running(processes) == []


async def test_where_a_run_left_nothing_nobody_looks_through_the_process_table(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def table() -> dict[int, Proc]:
        looked.append("looked")
        return process_table()

    monkeypatch.setattr("sidecar.processes.family.process_table", table)
    child = shell(processes, "true")
    await child.wait()
    await child.end()
    assert looked == []
    child = shell(processes, "sleep 1000 & true")
    await child.wait()
    await child.end()
    assert looked


def test_signal_names_are_in_the_exit() -> None:
    from sidecar.processes.ending import Exit

    assert str(Exit(137)) == "exit code 137 (SIGKILL)"
    assert str(Exit(None, signal.SIGSEGV.name)) == "killed by SIGSEGV"
