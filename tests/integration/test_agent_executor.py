"""Woken agents: every step of the wake path, and every way it can end."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from events.errors import AgentComError
from sidecar.executors import wake_command
from sidecar.executors.agent import AgentExecutor, AgentOptions, Bookmark
from sidecar.executors.port import Finished, Returned, Run, Stop, Stopped
from sidecar.processes.family import Processes
from sidecar.results import RESULT_LIMIT, Results
from tests.support.runs import QUICK, Ear, alive, assignment, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from events.mail import Assign
    from sidecar.executors.port import Outcome

LIMITS = replace(
    QUICK, wake_backoff_s=[0.001], wake_timeout_s=20.0, wake_confirm_s=20.0
)
GOOD = {"status": "success", "output": "done", "model_used": "x", "tokens_in": 3}


class Notes:
    """The steps of runs, as a journal would keep them."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.marks: dict[str, Bookmark] = {}
        self.fault = ""
        self.on_step: Any = lambda _step: None

    def bookmark(self, route: str) -> Bookmark | None:
        return self.marks.get(route)

    def turn(self, assign: Assign, bookmark: Bookmark) -> None:
        self.marks[assign.route] = bookmark

    async def step(self, assign: Assign, bookmark: Bookmark, detail: str) -> None:
        if self.fault:
            raise AgentComError(self.fault)
        self.steps.append(bookmark.step)
        self.marks[assign.route] = bookmark
        self.on_step(bookmark.step)


class Bench:
    """A results folder, and an executor that is watched."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self.processes = processes
        self.notes = Notes()
        self.results = Results(folder / "results", still=self._still)
        self.ear = Ear()
        self.stop = Stop()
        self.meanwhile: Any = lambda: None
        self.assign = assignment(tier="standard", target_type="agent", limits=LIMITS)

    async def _still(self) -> None:
        """Wait as long as a result has to be still, which is for no time here."""
        self.meanwhile()

    def file(self, end: str) -> Path:
        return self.results.folder / f"{self.assign.task_id}{end}"

    def leave(self, end: str, body: object = "") -> None:
        """What an agent does: whole at once, or it would have to be still first."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        part = self.file(".part")
        part.write_bytes(raw)
        part.rename(self.file(end))

    async def run(self, command: str | None, **options: Any) -> Outcome:
        executor = AgentExecutor(
            "h1",
            self.processes,
            self.results,
            lambda: self.notes,
            AgentOptions(
                command=None
                if command is None
                else wake_command.parse(
                    command, shlex.split(command)[0] if command else None
                ),
                **options,
            ),
        )
        run = Run(assign=self.assign, cwd=self.folder, env={"PATH": os.environ["PATH"]})
        outcome = await executor.run(run, self.ear, self.stop)
        assert alive(self.assign.route) == []
        assert not self.file(".task.json").exists()
        return outcome


@pytest.fixture
def processes() -> Iterator[Processes]:
    family = Processes()
    family.become_subreaper()
    yield family
    assert running(family) == []


@asynccontextmanager
async def bench_in(folder: Path, processes: Processes) -> AsyncIterator[Bench]:
    made = Bench(folder, processes)
    await made.results.open("h1")
    try:
        yield made
    finally:
        await made.results.close()


@pytest.fixture
async def bench(tmp_path: Path, processes: Processes) -> AsyncIterator[Bench]:
    async with bench_in(tmp_path, processes) as made:
        yield made


AGENT = """
import json, os, pathlib, sys
task = json.loads(pathlib.Path(os.environ["TASK_FILE"]).read_text())
pathlib.Path(task["started_file"]).touch()
said = {"status": "success", "output": task["prompt"] + " " + " ".join(sys.argv[1:])}
part = pathlib.Path(task["result_file"] + ".part")
part.write_text(json.dumps(said))
part.rename(task["result_file"])
"""


async def test_a_woken_agent_finds_its_task_and_leaves_its_result(
    bench: Bench,
) -> None:
    (bench.folder / "agent.py").write_text(AGENT)
    outcome = await bench.run(f"{sys.executable} agent.py ${{TASK_ID}}")
    assert isinstance(outcome, Finished)
    assert outcome.result.output == "Say hello. T1"
    assert outcome.result.status == "success"
    assert (outcome.result.model_used, outcome.result.tokens_in) == ("none", 0)
    assert bench.notes.steps == ["waking", "waking_confirmation", "working"]
    assert bench.notes.marks[bench.assign.route].read
    # It goes once the log has what came of it, not before.
    assert bench.file(".json").exists()
    bench.results.remove("T1", result=True)
    assert list(bench.results.folder.iterdir()) == []


async def test_an_agent_may_live_on_after_the_wake_and_ends_with_the_run(
    bench: Bench,
) -> None:
    body = json.dumps(GOOD)
    script = (
        "touch $STARTED_FILE; setsid sh -c 'echo '\"'\"'"
        + body
        + "'\"'\"' > $RESULT_FILE; exec sleep 1000' >/dev/null 2>&1 &"
    )
    (bench.folder / "wake.sh").write_text(script)
    outcome = await bench.run("sh wake.sh")
    assert isinstance(outcome, Finished)
    assert outcome.result.output == "done"
    assert (outcome.result.tokens_in, outcome.result.tokens_out) == (3, None)


async def test_a_failed_wake_is_tried_again_and_then_given_back(bench: Bench) -> None:
    limits = replace(LIMITS, wake_backoff_s=[0.001, 0.002, 0.003])
    bench.assign = replace(bench.assign, limits=limits)
    outcome = await bench.run("sh -c 'echo no agent here >&2; exit 3'")
    assert isinstance(outcome, Returned)
    assert (outcome.reason, outcome.exclude) == ("wake_failed_after_3_attempts", "h1")
    assert "no agent here" in outcome.detail
    assert bench.ear.lines("retrying") == [
        "Wake retry 1/3, backing off 0.001s...",
        "Wake retry 2/3, backing off 0.002s...",
        "Wake retry 3/3, backing off 0.003s...",
    ]
    assert bench.ear.lines("error")[-1].startswith(
        "Wake failed after 4 attempts: exit code 3: no agent here"
    )
    assert bench.notes.steps == ["waking"]
    assert bench.notes.marks[bench.assign.route].tries == 4


@pytest.mark.parametrize("command", ["/nowhere/agent", "sleep 1000"])
async def test_a_wake_that_cannot_end_well_is_given_back(
    bench: Bench, command: str
) -> None:
    bench.assign = replace(
        bench.assign, limits=replace(LIMITS, wake_timeout_s=0.05, wake_retries=0)
    )
    outcome = await bench.run(command)
    assert isinstance(outcome, Returned)
    why = "cannot start" if "nowhere" in command else "did not end within 0.05s"
    assert why in outcome.detail


async def test_the_second_try_may_succeed(bench: Bench) -> None:
    (bench.folder / "wake.sh").write_text(
        "[ -e tried ] || { touch tried; exit 1; }; touch $STARTED_FILE;"
        f"echo '{json.dumps(GOOD)}' > $RESULT_FILE"
    )
    outcome = await bench.run("sh wake.sh")
    assert isinstance(outcome, Finished)
    assert outcome.result.status == "success"
    assert len(bench.ear.lines("retrying")) == 1


async def test_who_does_not_begin_in_time_has_failed_and_is_not_woken_again(
    bench: Bench,
) -> None:
    outcome = await bench.run("sh -c 'echo x >> woken'", confirm_s=0.05)
    assert isinstance(outcome, Finished)
    assert outcome.result.error is not None
    assert outcome.result.error.code == "wake_not_confirmed"
    assert (bench.folder / "woken").read_text() == "x\n"
    assert bench.ear.lines("retrying") == []


async def test_a_mark_of_an_earlier_attempt_confirms_nothing(bench: Bench) -> None:
    bench.leave(".started")
    outcome = await bench.run("true", confirm_s=0.05)
    assert isinstance(outcome, Finished)
    assert outcome.result.error is not None
    assert outcome.result.error.code == "wake_not_confirmed"


async def test_work_without_a_result_times_out(bench: Bench) -> None:
    bench.assign = replace(bench.assign, limits=replace(LIMITS, run_timeout_s=0.05))
    outcome = await bench.run("sh -c 'touch $STARTED_FILE'")
    assert isinstance(outcome, Finished)
    assert outcome.result.error is not None
    assert outcome.result.error.code == "timeout"


async def test_without_a_wake_command_agents_find_their_work(bench: Bench) -> None:
    def work(step: str) -> None:
        assert step == "working"
        asyncio.get_running_loop().call_soon(bench.leave, ".json", GOOD)

    bench.notes.on_step = work
    outcome = await bench.run(None)
    assert isinstance(outcome, Finished)
    assert bench.notes.steps == ["working"]


async def test_a_result_that_is_there_already_is_read_and_nobody_is_woken(
    bench: Bench,
) -> None:
    bench.leave(".json", GOOD)
    outcome = await bench.run("touch woken")
    assert isinstance(outcome, Finished)
    assert outcome.result.output == "done"
    assert not (bench.folder / "woken").exists()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"status":"maybe"}',
        b'{"output":"x"}',
        b'{"status":"success","output":7}',
        b'{"status":"success","tokens_in":-1}',
        b'{"status":"success","tokens_in":1e400}',
        b"[" * 100_000,
        b" " * (RESULT_LIMIT + 1),
    ],
)
async def test_what_cannot_be_understood_fails_the_task(
    bench: Bench, body: bytes
) -> None:
    bench.leave(".json", body)
    outcome = await bench.run("true")
    assert isinstance(outcome, Finished)
    assert outcome.result.status == "failed"
    assert outcome.result.error is not None
    assert outcome.result.error.code == "result_parse_error"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
async def test_a_result_that_is_no_plain_file_is_not_read(
    bench: Bench, kind: str
) -> None:
    place = bench.file(".json")
    if kind == "link":
        secret = bench.folder / "secret"
        secret.write_text(json.dumps(GOOD))
        place.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    outcome = await bench.run("true")
    assert isinstance(outcome, Finished)
    assert outcome.result.error is not None
    assert outcome.result.error.code == "result_parse_error"
    assert outcome.result.output == ""


async def test_a_failure_is_the_agents_own_answer(bench: Bench) -> None:
    said = {"status": "failed", "output": "so far", "reason": "no idea", "more": 1}
    bench.leave(".json", said)
    outcome = await bench.run("true")
    assert isinstance(outcome, Finished)
    result = outcome.result
    assert result.error is not None
    assert (result.status, result.output) == ("failed", "so far")
    assert (result.error.code, result.error.message) == ("agent_failed", "no idea")


async def test_a_long_output_keeps_its_head_and_tail(bench: Bench) -> None:
    text = "a" * 400_000 + "z"
    bench.leave(".json", {"status": "success", "output": text})
    outcome = await bench.run("true")
    assert isinstance(outcome, Finished)
    result = outcome.result
    assert result.truncated
    assert len(result.output) <= LIMITS.output_limit_bytes
    assert result.output.endswith("z")
    assert result.output_bytes == 400_001


async def test_a_result_is_read_when_it_is_still(bench: Bench) -> None:
    """Half of it is there; the rest comes within the time it has to be still."""
    raw = json.dumps(GOOD).encode()
    rest = [bytes([byte]) for byte in raw[10:]]
    bench.file(".json").write_bytes(raw[:10])

    def more() -> None:
        if rest:
            with bench.file(".json").open("ab") as file:
                file.write(rest.pop(0))

    bench.meanwhile = more
    outcome = await bench.run(None)
    assert isinstance(outcome, Finished)
    assert outcome.result.output == "done"


async def test_a_result_for_nobody_is_left_and_counted(bench: Bench) -> None:
    counted: asyncio.Queue[int] = asyncio.Queue()
    bench.results.on_left = counted.put_nowait
    stranger = bench.results.folder / "T9.json"
    stranger.write_text(json.dumps(GOOD))
    async with asyncio.timeout(60):
        assert await counted.get() == 1
        assert stranger.exists()
        stranger.unlink()
        assert await counted.get() == 0
    (bench.results.folder / "no token!.json").write_text("x")
    bench.leave(".json", GOOD)
    await bench.run("true")
    assert bench.results.left == set()


async def test_work_of_an_earlier_life_is_taken_away_at_the_start(
    tmp_path: Path, processes: Processes
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for task, host in (("T1", "h1"), ("T2", "h2"), ("T3", "h1")):
        (folder / f"{task}.task.json").write_text(json.dumps({"host": host}))
    (folder / "T4.task.json").write_text("nonsense")
    (folder / "T5.json").write_text("{}")
    results = Results(folder)
    await results.open("h1", {"T3"})
    await results.close()
    left = sorted(each.name for each in folder.iterdir())
    assert left == ["T2.task.json", "T3.task.json", "T4.task.json", "T5.json"]
    assert results.left == {"T5.json"}


async def test_stopping_ends_the_wake_and_withdraws_the_task(bench: Bench) -> None:
    bench.ear.on_each(lambda: bench.stop.request("cancelled"))
    outcome = await bench.run("sh -c \"trap '' TERM; echo up; sleep 1000 & wait\"")
    assert isinstance(outcome, Stopped)
    assert outcome.descendants_left == 0


@pytest.mark.parametrize("step", ["waking_confirmation", "working"])
async def test_stopping_ends_every_step(bench: Bench, step: str) -> None:
    def stop(now: str) -> None:
        if now == step:
            bench.stop.request("cancelled")

    bench.notes.on_step = stop
    outcome = await bench.run("sh -c 'touch $STARTED_FILE; setsid sleep 1000 &'")
    assert isinstance(outcome, Stopped)


async def test_stopping_cuts_the_back_off_short(bench: Bench) -> None:
    limits = replace(LIMITS, wake_backoff_s=[1000.0])
    bench.assign = replace(bench.assign, limits=limits)
    ear = bench.ear
    ear.on_each(
        lambda: bench.stop.request("x") if ear.heard[-1].kind == "retrying" else None
    )
    assert isinstance(await bench.run("false"), Stopped)


async def test_an_agent_that_begins_by_itself_ends_the_back_off(bench: Bench) -> None:
    limits = replace(LIMITS, wake_backoff_s=[1000.0])
    bench.assign = replace(bench.assign, limits=limits)
    ear = bench.ear
    ear.on_each(
        lambda: bench.leave(".json", GOOD) if ear.heard[-1].kind == "retrying" else None
    )
    outcome = await bench.run("false")
    assert isinstance(outcome, Finished)
    assert outcome.result.status == "success"


async def test_cancelling_the_coroutine_ends_the_wake(bench: Bench) -> None:
    begun = asyncio.Event()
    bench.ear.on_each(begun.set)
    task = asyncio.create_task(bench.run("sh -c 'echo up; sleep 1000'"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert alive(bench.assign.route) == []


async def test_a_disk_that_fails_before_the_wake_gives_the_run_back(
    bench: Bench,
) -> None:
    bench.notes.fault = "disk full"
    outcome = await bench.run("touch woken")
    assert isinstance(outcome, Returned)
    assert outcome.exclude == "h1"
    assert not (bench.folder / "woken").exists()


async def test_a_folder_that_cannot_be_written_gives_the_run_back(bench: Bench) -> None:
    bench.file(".task.json").mkdir()
    (bench.file(".task.json") / "x").touch()
    executor = AgentExecutor("h1", bench.processes, bench.results, lambda: bench.notes)
    run = Run(assign=bench.assign, cwd=bench.folder, env={})
    outcome = await executor.run(run, bench.ear, bench.stop)
    assert isinstance(outcome, Returned)
    assert outcome.reason == "results_folder"


@pytest.mark.parametrize(
    ("step", "tries", "steps", "woken"),
    [
        ("waking", 1, ["waking_confirmation", "working"], True),
        ("waking_confirmation", 1, ["working"], False),
        ("working", 1, [], False),
    ],
)
async def test_a_new_life_goes_on_where_the_last_one_ended(
    bench: Bench, step: Any, tries: int, steps: list[str], woken: bool
) -> None:
    mark = Bookmark(step, time.time(), tries)
    bench.notes.marks[bench.assign.route] = mark
    script = f"touch woken $STARTED_FILE; echo '{json.dumps(GOOD)}' > $RESULT_FILE"
    (bench.folder / "wake.sh").write_text(script)
    if not woken:
        bench.leave(".started")
        asyncio.get_running_loop().call_soon(bench.leave, ".json", GOOD)
    outcome = await bench.run("sh wake.sh")
    assert isinstance(outcome, Finished)
    assert outcome.result.status == "success"
    assert bench.notes.steps == steps
    assert (bench.folder / "woken").exists() is woken


async def test_a_step_keeps_the_time_it_began_at_over_a_restart(bench: Bench) -> None:
    long_ago = time.time() - 10_000
    bench.notes.marks[bench.assign.route] = Bookmark("waking_confirmation", long_ago, 1)
    outcome = await bench.run("true")
    assert isinstance(outcome, Finished)
    assert outcome.result.error is not None
    assert outcome.result.error.code == "wake_not_confirmed"


async def test_wakes_begun_in_an_earlier_life_count(bench: Bench) -> None:
    bench.notes.marks[bench.assign.route] = Bookmark("waking", time.time(), 4)
    outcome = await bench.run("touch woken")
    assert isinstance(outcome, Returned)
    assert not (bench.folder / "woken").exists()


def plain_agent(bench: Bench) -> str:
    """A program that takes a text after `--`."""
    program = bench.folder / "agent.py"
    body = AGENT.replace("sys.argv[1:]", 'sys.argv[sys.argv.index("--") + 1 :]')
    program.write_text(f"#!{sys.executable}\n{body}")
    program.chmod(0o755)
    return str(program)


async def test_a_text_too_long_for_an_argument_is_in_the_file(bench: Bench) -> None:
    spec = replace(bench.assign.spec, metadata={"big": "x" * 200_000})
    bench.assign = replace(bench.assign, spec=spec)
    outcome = await bench.run(f"{plain_agent(bench)} ${{TASK_JSON}}")
    assert isinstance(outcome, Finished)
    assert '"file"' in outcome.result.output


async def test_hostile_texts_reach_the_agent_as_they_are(bench: Bench) -> None:
    hostile = "'\"; touch owned; $(touch owned) `touch owned` \\ \n\0 --x"
    spec = replace(bench.assign.spec, description=hostile)
    bench.assign = replace(bench.assign, spec=spec)
    outcome = await bench.run(f"{plain_agent(bench)} ${{TASK_DESCRIPTION}}")
    assert isinstance(outcome, Finished)
    assert outcome.result.output == hostile + " " + hostile.replace("\0", "\ufffd")
    assert sorted(each.name for each in bench.folder.iterdir()) == [
        "agent.py",
        "results",
    ]
