"""A host that wakes agents: the journal's steps, the log's, and restarts between them."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from events import catalogue as c
from events import mail, subjects
from events.codec import encode
from sidecar.config import AgentConfig
from sidecar.journal import open_journal
from sidecar.results import ResultsFolderError
from tests.support.hosting import World, assign, world
from tests.support.runs import QUICK, alive

ROOT = Path(__file__).parents[2]
GOOD = {"status": "success", "output": "done", "model_used": "claude-sonnet-4-5"}


def waking(task: str = "t1", route: str = "", **fields: Any) -> mail.Assign:
    spec = c.TaskSpec(description="wake up", executor="agent")
    usual = {"target_type": "agent", "tier": "standard", "spec": spec, "limits": QUICK}
    return assign(task, route, **{**usual, **fields})


def agents(folder: Path, command: str | None) -> AgentConfig:
    return AgentConfig(results_folder=str(folder / "results"), wake_command=command)


def leave(folder: Path, task: str, body: object = GOOD) -> None:
    part = folder / "results" / f"{task}.part"
    part.write_text(json.dumps(body))
    part.rename(folder / "results" / f"{task}.json")


def agent_in(folder: Path, *, tidy: bool = True) -> str:
    """A wake command that notes that it ran, and does the work at once."""
    script = folder / "agent.sh"
    script.write_text(
        "echo $TASK_ID >> $1/woken; touch $STARTED_FILE\n"
        + (f"echo '{json.dumps(GOOD)}' > $RESULT_FILE\n" if tidy else "")
    )
    return f"sh {script} {folder}"


async def steps(w: World, task: str = "t1") -> list[str]:
    events = await w.events(subjects.runs_of(task))
    return [
        e.step if isinstance(e, c.TaskStep) else c.name(e)
        for e in events
        if not isinstance(e, c.TaskAccepted)  # its start may say so
    ]


async def test_every_step_is_an_event_and_files_go_after_the_last_word(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        async with w.living(agent=agents(tmp_path, agent_in(tmp_path))):
            assert (await w.tell(waking())).ok
            [done] = await w.until(c.TaskCompleted)
            assert (done.result.output, done.result.cost_basis) == ("done", "unknown")
        assert await steps(w) == [
            "task.started",
            "waking",
            "waking_confirmation",
            "working",
            "task.completed",
            "removed",
        ]
    assert list((tmp_path / "results").iterdir()) == []
    journal = await open_journal(tmp_path / "journal-h1.db")
    await journal.close()
    assert journal.at_start.rows == []


async def test_a_host_without_agents_does_not_offer_any(tmp_path: Path) -> None:
    async with world(tmp_path) as w, w.living():
        [joined] = await w.until(c.HostJoined)
        assert "agent" not in joined.slots
        assert (await w.tell(waking())).code == "unknown_target"


async def test_a_result_stays_until_the_log_has_what_came_of_it(
    tmp_path: Path,
) -> None:
    result = tmp_path / "results" / "t1.json"
    async with world(tmp_path) as w:
        async with w.living(agent=agents(tmp_path, agent_in(tmp_path))) as sidecar:
            await w.until(c.HostJoined)
            sidecar.outbox.connection(False)
            await w.tell(waking())
            while sidecar.state.runs["t1-r1"].phase != "finished":
                await asyncio.sleep(0)
            assert result.exists()
            sidecar.outbox.connection(True)
            await w.until(c.TaskCompleted)
        assert not result.exists()


async def test_a_result_nobody_asked_for_is_left_and_shown(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    leave(tmp_path, "t9")
    async with world(tmp_path) as w, w.living(agent=agents(tmp_path, None)):
        assert (await w.tell(mail.Inspect())).info["results_left"] == 1
    assert (tmp_path / "results" / "t9.json").exists()


async def test_a_cancelled_wake_leaves_nothing(tmp_path: Path) -> None:
    command = agent_in(tmp_path, tidy=False)
    async with world(tmp_path) as w, w.living(agent=agents(tmp_path, command)):
        await w.tell(waking())
        while "working" not in await steps(w):
            await asyncio.sleep(0.01)
        cancel = mail.Cancel(epoch=1, task_id="t1", route="t1-r1")
        await w.theirs.request(
            subjects.task_mailbox("h1", "t1"), encode(cancel), timeout=60
        )
        await w.until(c.TaskStopped)
    assert list((tmp_path / "results").iterdir()) == []


async def test_a_task_that_comes_anew_waits_for_the_files_of_the_last_route(
    tmp_path: Path,
) -> None:
    """The first route's end is not on the log when the second one comes."""
    async with (
        world(tmp_path) as w,
        w.living(agent=agents(tmp_path, agent_in(tmp_path))) as sidecar,
    ):
        await w.until(c.HostJoined)
        sidecar.outbox.connection(False)
        await w.tell(waking())
        while sidecar.state.runs["t1-r1"].phase != "finished":
            await asyncio.sleep(0)
        await w.tell(waking(route="t1-r2"))
        sidecar.outbox.connection(True)
        first, second = await w.until(c.TaskCompleted, count=2)
        assert (first.route, second.route) == ("t1-r1", "t1-r2")
    assert (tmp_path / "woken").read_text() == "t1\nt1\n"
    assert list((tmp_path / "results").iterdir()) == []


# A sidecar that kills itself: before (or after) a given step is on the disk, or with a
# given event on its way to the log, which never gets it.
VICTIM = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog
from events import subjects
from sidecar import journal
from sidecar.config import AgentConfig, ClaudeConfig, SidecarConfig
from sidecar.main import run

folder, command, when, what = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Log(MemoryLog):
    def append(self, subject, event, *, expect=None):
        if when == "event" and type(event).__struct_config__.tag == what:
            die()
        return super().append(subject, event, expect=expect)

write = journal.Journal.write
def watched(self, route, **columns):
    if when == "before" and columns.get("phase") == what:
        die()
    future = write(self, route, **columns)
    if when == "after" and columns.get("phase") == what:
        future.add_done_callback(lambda _: die())
    return future
journal.Journal.write = watched

class Wire:
    def __init__(self):
        self.log, broker = Log(), MemoryBroker()
        self.bus, self.theirs = MemoryBus(broker), MemoryBus(broker)

async def main():
    config = SidecarConfig(name="h1", discover=False, claude=ClaudeConfig(enabled=False),
        agent=AgentConfig(results_folder=str(folder / "results"), wake_command=command))
    wire, ready = Wire(), asyncio.Event()
    async def feed():
        await ready.wait()
        raw = (folder / "mail").read_bytes()
        await wire.theirs.request(subjects.host_mailbox("h1"), raw, timeout=60)
    async with asyncio.TaskGroup() as group:
        group.create_task(feed())
        await run(config, wire, asyncio.Event(), data=folder, ready=lambda _: ready.set())

asyncio.run(main())
"""


async def killed(folder: Path, command: str, when: str, what: str) -> None:
    """Run a sidecar with one assignment until it has killed itself."""
    (folder / "mail").write_bytes(encode(waking()))
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VICTIM, str(folder), command, when, what, cwd=ROOT
    )
    async with asyncio.timeout(60):
        assert await victim.wait() == -9


@pytest.mark.parametrize(
    ("when", "what", "again", "woken"),
    [
        # Before the first step nothing has happened: the scheduler's word is awaited.
        ("before", "waking", None, 0),
        # From then on it goes on by itself, and nobody is woken who has begun.
        ("after", "waking", ["waking_confirmation", "working"], 1),
        ("before", "waking_confirmation", ["waking_confirmation", "working"], 1),
        ("after", "waking_confirmation", ["working"], 1),
        ("before", "working", ["working"], 1),
        ("after", "working", [], 1),
        ("event", "task.completed.v1", [], 1),
    ],
)
async def test_a_killed_host_goes_on_with_the_step_that_was_on_its_disk(
    tmp_path: Path, when: str, what: str, again: list[str] | None, woken: int
) -> None:
    command = agent_in(tmp_path)
    await killed(tmp_path, command, when, what)
    async with world(tmp_path) as w:
        async with w.living(agent=agents(tmp_path, command)):
            [joined] = await w.until(c.HostJoined)
            phases = [each.phase for each in joined.held]
            if again is None:
                assert phases == ["accepted"]
            else:
                assert phases == ["running"]
                [done] = await w.until(c.TaskCompleted)
                assert done.route == "t1-r1"
                # Readers pass over numbers that they have seen on this route.
                assert w.output[0].n > 1_000_000
                assert w.output[0].segment == 1
        if again is not None:
            begun = ["task.started", "task.status"]
            rest = ["task.completed", "removed"]
            assert await steps(w) == [*begun, *again, *rest]
            assert list((tmp_path / "results").iterdir()) == []
    seen = tmp_path / "woken"
    assert (seen.read_text().count("t1") if seen.exists() else 0) == woken
    assert alive("t1-r1") == []


@pytest.mark.parametrize(
    ("when", "what"), [("before", "removed"), ("after", "removed")]
)
async def test_a_host_killed_while_it_clears_up_wakes_nobody_and_clears_up(
    tmp_path: Path, when: str, what: str
) -> None:
    command = agent_in(tmp_path)
    await killed(tmp_path, command, when, what)
    async with world(tmp_path) as w, w.living(agent=agents(tmp_path, command)):
        while "removed" not in await steps(w):
            await asyncio.sleep(0.01)
    assert list((tmp_path / "results").iterdir()) == []
    assert (tmp_path / "woken").read_text() == "t1\n"
    journal = await open_journal(tmp_path / "journal-h1.db")
    await journal.close()
    assert journal.at_start.rows == []


def living_agent(folder: Path) -> str:
    """A wake command that leaves an agent running which never does anything."""
    script = folder / "wake.sh"
    script.write_text(
        f"touch $STARTED_FILE; setsid sh -c 'echo $$ > {folder}/pid; exec sleep 1000'"
        " >/dev/null 2>&1 &\n"
        f"while [ ! -s {folder}/pid ]; do sleep 0.01; done"
    )
    return f"sh {script}"


async def test_an_agent_that_lives_on_over_a_restart_ends_with_its_run(
    tmp_path: Path,
) -> None:
    command = living_agent(tmp_path)
    await killed(tmp_path, command, "after", "working")
    assert len(alive("t1-r1")) == 1
    async with world(tmp_path) as w, w.living(agent=agents(tmp_path, command)):
        await w.until(c.TaskStarted)
        assert [int((tmp_path / "pid").read_text())] == alive("t1-r1")
        leave(tmp_path, "t1")
        await w.until(c.TaskCompleted)
        assert alive("t1-r1") == []


async def test_a_host_that_has_stopped_waking_hands_its_runs_back(
    tmp_path: Path,
) -> None:
    await killed(tmp_path, living_agent(tmp_path), "after", "working")
    assert len(alive("t1-r1")) == 1
    async with world(tmp_path) as w, w.living():
        [returned] = await w.until(c.TaskReturned)
        assert (returned.route, returned.reason) == ("t1-r1", "interrupted")
    assert alive("t1-r1") == []


async def test_a_folder_that_cannot_be_used_is_said_at_the_start(
    tmp_path: Path,
) -> None:
    (tmp_path / "results").write_text("in the way")
    async with world(tmp_path) as w:
        with pytest.raises(ResultsFolderError, match="File exists"):
            async with w.living(agent=agents(tmp_path, None)):
                pass


async def test_a_run_cancelled_before_the_host_had_joined_does_not_go_on(
    tmp_path: Path,
) -> None:
    await killed(tmp_path, agent_in(tmp_path, tidy=False), "after", "working")
    async with world(tmp_path) as w:
        listening = w.bus.listen

        async def listen(subject: str, handler: Any, **more: Any) -> Any:
            made = await listening(subject, handler, **more)
            if subject == subjects.task_mailboxes("h1"):
                raw = encode(mail.Cancel(epoch=1, task_id="t1", route="t1-r1"))
                await w.theirs.request(
                    subjects.task_mailbox("h1", "t1"), raw, timeout=60
                )
            return made

        w.bus.listen = listen  # type: ignore[method-assign]
        async with w.living(agent=agents(tmp_path, "true")):
            [stopped] = await w.until(c.TaskStopped)
            assert stopped.route == "t1-r1"
    assert not (tmp_path / "results" / "t1.task.json").exists()
