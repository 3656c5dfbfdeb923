"""A sidecar on the in-memory log and bus: mail in, work done, events out."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path

import msgspec
import pytest

from events import catalogue as c
from events import mail, subjects
from events.codec import encode
from sidecar.executors.port import Finished, RawResult, Run, Stopped
from sidecar.executors.shell import ShellExecutor
from sidecar.processes.family import Processes
from tests.support.hosting import REPLIES, assign, world

ROOT = Path(__file__).parents[2]


class Scripted:
    """An executor that does as its test says."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.hold = False
        self.until: asyncio.Event | None = None
        self.fault: Exception | None = None

    async def run(self, run: Run, emit, stop):
        self.started.append(run.assign.route)
        emit.text("stdout", "hi\n")
        if self.fault is not None:
            raise self.fault
        if self.until is not None:
            await self.until.wait()
        if self.hold:
            await stop.wait()
            return Stopped(result=RawResult(status="failed", output="hi\n"))
        return Finished(RawResult(status="success", output="hi\n"))


async def test_a_task_is_accepted_run_and_completed(tmp_path: Path) -> None:
    async with world(tmp_path) as w, w.living({"sidecar": Scripted()}):
        reply = await w.tell(assign())
        assert reply.ok
        [done] = await w.until(c.TaskCompleted)
        assert done.result.output == "hi\n"
        assert await w.names("t1") == ["task.started", "task.completed"]
        [started] = await w.until(c.TaskStarted)
        assert started.accepted_at or await w.until(c.TaskAccepted)
        assert [chunk.text for chunk in w.output] == ["hi\n"]


async def test_a_shell_command_runs_for_real(tmp_path: Path) -> None:
    processes = Processes()
    async with (
        world(tmp_path) as w,
        w.living({"sidecar": ShellExecutor(processes)}),
    ):
        command = c.Shell(command="echo out; echo err >&2")
        spec = c.TaskSpec(description="x", shell=command)
        assert (await w.tell(assign(spec=spec))).ok
        [done] = await w.until(c.TaskCompleted)
        assert (done.result.output, done.result.stderr) == ("out\n", "err\n")
        assert done.result.exit_code == 0


async def test_a_repeat_is_answered_and_not_run_again(tmp_path: Path) -> None:
    work = Scripted()
    async with world(tmp_path) as w, w.living({"sidecar": work}):
        await w.tell(assign())
        await w.until(c.TaskCompleted)
        assert (await w.tell(assign())).ok
    assert work.started == ["t1-r1"]


async def test_a_full_host_says_who_holds_its_slots(tmp_path: Path) -> None:
    work = Scripted()
    work.hold = True
    async with world(tmp_path) as w, w.living({"sidecar": work}):
        await w.tell(assign("t1"))
        await w.tell(assign("t2"))
        reply = await w.tell(assign("t3"))
        assert (reply.ok, reply.code) == (False, "busy")
        [rejected] = await w.until(c.TaskRejected)
        assert rejected.holders == ["t1", "t2"]


async def test_a_cancelled_run_stops_and_frees_its_slot(tmp_path: Path) -> None:
    work = Scripted()
    work.hold = True
    async with world(tmp_path) as w, w.living({"sidecar": work}) as sidecar:
        await w.tell(assign())
        await w.until(c.TaskStarted)
        cancel = mail.Cancel(epoch=1, task_id="t1", route="t1-r1")
        raw = await w.theirs.request(
            subjects.task_mailbox("h1", "t1"), encode(cancel), timeout=60
        )
        assert REPLIES.decode(raw).ok
        [stopped] = await w.until(c.TaskStopped)
        assert stopped.result.output == "hi\n"
        assert sidecar.state.used["shell"] == 0


async def test_a_faulty_executor_fails_its_task_and_nothing_else(
    tmp_path: Path,
) -> None:
    work = Scripted()
    work.fault = RuntimeError("a bug")
    async with world(tmp_path) as w, w.living({"sidecar": work}):
        await w.tell(assign())
        [failed] = await w.until(c.TaskFailed)
        assert failed.result.error.code == "executor_fault"
        assert "a bug" in failed.result.error.message
        work.fault = None
        await w.tell(assign("t2"))
        await w.until(c.TaskCompleted)


@pytest.mark.parametrize(
    "raw", [b"", b"\xff\x00", b"[]", b'{"type":"assign"}', b'{"type":"nonsense"}']
)
async def test_hostile_mail_is_refused_and_the_host_lives(
    tmp_path: Path, raw: bytes
) -> None:
    async with world(tmp_path) as w, w.living({"sidecar": Scripted()}):
        for subject in (
            subjects.host_mailbox("h1"),
            subjects.task_mailbox("h1", "t1"),
        ):
            reply = REPLIES.decode(await w.theirs.request(subject, raw, timeout=60))
            assert (reply.ok, reply.code) == (False, "malformed")
        assert (await w.tell(mail.Inspect())).info["host"] == "h1"


@pytest.mark.parametrize("fields", [{"task_id": "a.b"}, {"route": "a b"}])
async def test_names_that_are_no_tokens_are_refused(
    tmp_path: Path, fields: dict
) -> None:
    async with world(tmp_path) as w, w.living({"sidecar": Scripted()}):
        reply = await w.tell(assign(**{"route": "r1", **fields}))
        assert not reply.ok
        assert reply.code in ("malformed", "bad_token")


async def test_a_host_beats_with_resources_and_what_it_holds(tmp_path: Path) -> None:
    work = Scripted()
    work.hold = True
    async with world(tmp_path) as w:
        beats: asyncio.Queue[c.Beat] = asyncio.Queue()

        def on(message) -> None:
            beats.put_nowait(msgspec.json.decode(message.data, type=c.Beat))

        await w.theirs.listen(subjects.ALL_BEATS, on)
        async with w.living({"sidecar": work}, beat_every_s=0.01) as sidecar:
            await w.tell(assign())
            await w.until(c.TaskStarted)
            async with asyncio.timeout(60):
                running = [c.Held("t1", "t1-r1", "running")]
                while (beat := await beats.get()).held != running:
                    assert not beat.held or beat.held[0].phase == "accepted"
            assert beat.incarnation == sidecar.incarnation
            assert beat.interval_s == 0.01
            assert beat.resources.ram_total_bytes


async def test_a_drained_host_lets_runs_finish_and_says_goodbye(
    tmp_path: Path,
) -> None:
    work = Scripted()
    work.until = asyncio.Event()
    async with world(tmp_path) as w:
        async with w.living({"sidecar": work}, drain_timeout_s=60.0) as sidecar:
            await w.tell(assign())
            await w.until(c.TaskStarted)

            async def finish() -> None:
                await w.until(c.HostDraining)
                work.until.set()

            finishing = asyncio.create_task(finish())
        await finishing
        assert sidecar.state.leaving
        names = [c.name(event) for event in await w.events()]
        assert names[-3:] == ["host.draining", "task.completed", "host.left"]


async def test_what_does_not_finish_in_time_is_handed_back(tmp_path: Path) -> None:
    work = Scripted()
    work.hold = True
    async with world(tmp_path) as w:
        async with w.living({"sidecar": work}):
            await w.tell(assign())
            await w.until(c.TaskStarted)
        [returned] = await w.until(c.TaskReturned)
        assert returned.reason == "draining"
        assert isinstance((await w.events())[-1], c.HostLeft)


async def test_results_made_while_the_log_is_away_arrive_afterwards(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w, w.living({"sidecar": Scripted()}) as sidecar:
        sidecar.outbox.connection(False)
        for n in range(20):
            await w.tell(assign(f"t{n}"))
            while sidecar.state.runs[f"t{n}-r1"].phase != "finished":
                await asyncio.sleep(0)
        assert await w.events(subjects.ALL_RUNS) == []
        sidecar.outbox.connection(True)
        done = await w.until(c.TaskCompleted, count=20)
        assert [event.task_id for event in done] == [f"t{n}" for n in range(20)]


# A sidecar of its own process; it says what it runs by creating files, and finds its
# mail in a file, because the test's bus is not its bus.
VICTIM = """
import asyncio, sys
from pathlib import Path
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog
from events.errors import LogUnavailable
from events import subjects
from sidecar.config import ClaudeConfig, SidecarConfig, SlotsConfig
from sidecar.assembly import assemble
from sidecar.main import run

class Away(MemoryLog):
    def append(self, subject, event, *, expect=None):
        future = asyncio.get_running_loop().create_future()
        future.set_exception(LogUnavailable(subject, "away"))
        return future

class Wire:
    def __init__(self):
        self.log, broker = Away(), MemoryBroker()
        self.bus, self.theirs = MemoryBus(broker), MemoryBus(broker)

async def main(folder):
    config = SidecarConfig(name="h1", discover=False, slots=SlotsConfig(shell=4),
        claude=ClaudeConfig(enabled=False))
    wire, ready = Wire(), asyncio.Event()
    async def feed():
        await ready.wait()
        for line in (folder / "mail").read_bytes().splitlines():
            await wire.theirs.request(subjects.host_mailbox("h1"), line, timeout=60)
        (folder / "fed").touch()
    async with asyncio.TaskGroup() as group:
        group.create_task(feed())
        await run(config, wire, asyncio.Event(), data=folder,
            ready=lambda _: ready.set())

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_a_killed_sidecar_loses_nothing_and_leaves_nothing_running(
    tmp_path: Path,
) -> None:
    """One run had finished (unreported), one was running, in a session of its own."""

    def shell(task: str, command: str) -> mail.Assign:
        spec = c.TaskSpec(description="x", shell=c.Shell(command=command))
        return assign(task, spec=spec)

    orphan = f"setsid sh -c 'echo $$ > {tmp_path}/pid; sleep 1000' & sleep 1000"
    orders = [shell("t1", f"echo done; touch {tmp_path}/ran1"), shell("t2", orphan)]
    (tmp_path / "mail").write_bytes(b"\n".join(encode(order) for order in orders))
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VICTIM, str(tmp_path), cwd=ROOT
    )
    pid_file = tmp_path / "pid"
    async with asyncio.timeout(60):
        while not (pid_file.exists() and pid_file.read_text().strip()):
            await asyncio.sleep(0.01)
        await _until_finished(tmp_path / "journal-h1.db", "t1-r1")
    victim.kill()
    await victim.wait()
    orphaned = int(pid_file.read_text())
    (tmp_path / "ran1").unlink()

    async with world(tmp_path) as w, w.living({"sidecar": Scripted()}):
        [completed] = await w.until(c.TaskCompleted)
        assert (completed.route, completed.result.output) == ("t1-r1", "done\n")
        _, joined = await w.until(c.HostJoined, count=2)
        phases = {each.route: each.phase for each in joined.held}
        assert phases.pop("t2-r1") == "interrupted"
        # The other's result may have reached the log before the host had joined.
        assert phases in ({"t1-r1": "finished"}, {})
        [returned] = await w.until(c.TaskReturned)
        assert (returned.route, returned.reason) == ("t2-r1", "interrupted")
        assert returned.incarnation == joined.incarnation != completed.incarnation
        assert not _alive(orphaned)
        assert (await w.tell(shell("t1", "true"))).ok
    assert not (tmp_path / "ran1").exists()
    async with world(tmp_path) as w, w.living({"sidecar": Scripted()}):
        [joined] = await w.until(c.HostJoined)
        assert joined.held == []


async def _until_finished(path: Path, route: str) -> None:
    """Wait until the victim's journal holds the last event of `route`."""
    for_a_look = path.with_name("copy.db")
    while True:
        for suffix in ("", "-wal"):
            if (source := Path(f"{path}{suffix}")).exists():
                Path(f"{for_a_look}{suffix}").write_bytes(source.read_bytes())
        db = sqlite3.connect(for_a_look)
        try:
            if db.execute("SELECT 1 FROM outbox WHERE ends = ?", (route,)).fetchone():
                return
        except sqlite3.DatabaseError:
            pass
        finally:
            db.close()
        await asyncio.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except OSError:
        return False


async def test_a_cancel_ends_the_wait_for_a_checkouts_turn(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    repos = {"web": str(tmp_path / "web")}

    def alone(task: str) -> mail.Assign:
        shell = c.Shell(command=f"echo x >> ../{task}; sleep 1000", exclusive=True)
        return assign(task, spec=c.TaskSpec(description="x", shell=shell, repo="web"))

    async with world(tmp_path) as w, w.living(repos=repos):
        await w.tell(alone("t1"))
        await w.until(c.TaskStarted)
        await w.tell(alone("t2"))
        [line] = await w.until(c.TaskStatus)
        assert (line.task_id, line.text[:18]) == ("t2", "Waiting for others")
        for task in ("t2", "t1"):
            cancel = encode(mail.Cancel(epoch=1, task_id=task))
            mailbox = subjects.task_mailbox("h1", task)
            await w.theirs.request(mailbox, cancel, timeout=60)
        stopped = await w.until(c.TaskStopped, count=2)
        assert stopped[0].task_id == "t2"
        assert await w.names("t2") == ["task.status", "task.stopped"]
        assert await w.until(c.TaskAccepted, count=1)
    assert not (tmp_path / "t2").exists()


async def test_a_fault_in_handling_mail_is_answered_and_ends_nothing(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w, w.living({"sidecar": Scripted()}) as sidecar:
        handle, sidecar.handle = sidecar.handle, None  # type: ignore[assignment]
        assert (await w.tell(mail.Inspect())).code == "fault"
        sidecar.handle = handle  # type: ignore[method-assign]
        assert (await w.tell(mail.Inspect())).ok
