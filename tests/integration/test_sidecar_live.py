"""A sidecar as it is started in earnest: usual parts, on a real broker, with its role."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from events import catalogue as c
from events import mail, subjects
from events.chunks import gaps
from events.codec import encode
from events.nats.log import JetStreamLog
from events.nats.output import JetStreamOutput
from sidecar.config import ClaudeConfig, EndpointConfig, SidecarConfig, SlotsConfig
from sidecar.main import run
from tests.support.links import linked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from events.nats.link import Link
    from sidecar.host import Sidecar
    from sidecar.simulated.claude import SimulatedClaude
    from sidecar.simulated.ollama import SimulatedOllama
    from tests.support.broker import LiveBroker

_replies = msgspec.json.Decoder(mail.Reply)


class Wire:
    def __init__(self, link: Link) -> None:
        self.bus = link
        self.log = JetStreamLog(link, consumers=False)


@asynccontextmanager
async def living(
    broker: LiveBroker, folder: Path, config: SidecarConfig
) -> AsyncIterator[Sidecar]:
    stop = asyncio.Event()
    ready: asyncio.Future[Sidecar] = asyncio.get_running_loop().create_future()
    async with linked(broker, "host-h1") as link:
        wire = Wire(link)
        role = asyncio.create_task(
            run(config, wire, stop, data=folder, ready=ready.set_result)
        )
        try:
            await asyncio.wait({role, ready}, return_when=asyncio.FIRST_COMPLETED)
            yield ready.result()
        finally:
            stop.set()
            await role
            await wire.log.close()


class Core:
    """The scheduler's side: sends mail, follows the log."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.log = JetStreamLog(link)
        self.events: list[c.Event] = []
        self._news = asyncio.Event()

    def heard(self, recorded: c.Recorded) -> None:
        self.events.append(recorded.event)
        self._news.set()

    async def until(self, kind: type, *, count: int = 1) -> list:
        async with asyncio.timeout(60):
            while True:
                found = [each for each in self.events if isinstance(each, kind)]
                if len(found) >= count:
                    return found
                self._news.clear()
                await self._news.wait()

    async def tell(self, message: object) -> mail.Reply:
        subject = subjects.host_mailbox("h1")
        raw = await self.link.request(subject, encode(message), timeout=60)
        return _replies.decode(raw)


@asynccontextmanager
async def core_of(broker: LiveBroker) -> AsyncIterator[Core]:
    async with linked(broker, "scheduler") as link:
        core = Core(link)
        follower = await core.log.follow(core.heard)
        try:
            yield core
        finally:
            await follower.stop()
            await core.log.close()


def assign(task: str, target: str, **fields: object) -> mail.Assign:
    return mail.Assign(
        **{
            "epoch": 1,
            "task_id": task,
            "route": f"{task}-r1",
            "generation": 1,
            "attempt": 1,
            "spec": c.TaskSpec(description="say hello"),
            "tier": "trivial",
            "target_type": target,
            **fields,
        }
    )


async def test_all_three_tiers_run_on_a_real_broker(
    broker: LiveBroker,
    tmp_path: Path,
    simulated_ollama: SimulatedOllama,
    simulated_claude: SimulatedClaude,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where Claude Code keeps its sessions
    config = SidecarConfig(
        name="h1",
        endpoint=[EndpointConfig(name="gpu", kind="ollama", url=simulated_ollama.url)],
        claude=ClaudeConfig(program=str(simulated_claude.program)),
        drain_timeout_s=0.0,
    )
    async with core_of(broker) as core, living(broker, tmp_path / "data", config):
        [joined] = await core.until(c.HostJoined)
        # On a busy machine a host joins before its programs have said their versions.
        models = {each.endpoint: each.models for each in joined.endpoints if each.up}
        for later in await core.until(c.EndpointUp, count=2 - len(models)):
            models[later.state.endpoint] = later.state.models
        assert models.keys() == {"h1-gpu", "h1-claude"}
        shell = c.Shell(command="pwd; echo err >&2")
        spec = c.TaskSpec(description="x", shell=shell)
        model = models["h1-gpu"][0]
        for order in (
            assign("t1", "sidecar", spec=spec),
            assign("t2", "ollama", endpoint="h1-gpu", model=model, tier="standard"),
            assign("t3", "claude", endpoint="h1-claude", tier="complex"),
        ):
            assert (await core.tell(order)).ok
        done = await core.until(c.TaskCompleted, count=3)
        results = {event.task_id: event.result for event in done}
        assert results["t1"].output.startswith(str(tmp_path))
        assert results["t1"].stderr == "err\n"
        assert results["t2"].output
        assert results["t2"].simulated
        assert results["t3"].simulated
        started = await core.until(c.TaskStarted, count=3)
        assert {event.task_id: event.simulated for event in started} == {
            "t1": False,
            "t2": True,
            "t3": True,
        }


async def test_the_output_of_a_flood_is_stored_whole(
    broker: LiveBroker, tmp_path: Path
) -> None:
    """It is made faster than the stream takes it: the command has to wait."""
    config = SidecarConfig(
        name="h1", discover=False, claude=ClaudeConfig(enabled=False)
    )
    spec = c.TaskSpec(description="x", shell=c.Shell(command="seq 1 5000000"))
    async with (
        core_of(broker) as core,
        living(broker, tmp_path / "data", config) as sidecar,
    ):
        await core.until(c.HostJoined)
        assert (await core.tell(assign("t1", "sidecar", spec=spec))).ok
        [done] = await core.until(c.TaskCompleted)
        await sidecar.output.flush()
        chunks = await JetStreamOutput(core.link).read("t1")
        assert gaps(chunks) == []
        text = "".join(each.text for each in chunks)
        assert len(text) == done.result.output_bytes == 38_888_896
        assert text.endswith("\n5000000\n")


async def test_results_made_while_the_broker_is_away_arrive_when_it_is_back(
    broker: LiveBroker, tmp_path: Path
) -> None:
    config = SidecarConfig(
        name="h1", discover=False, claude=ClaudeConfig(enabled=False)
    )
    begun, go = tmp_path / "begun", tmp_path / "go"
    command = f"touch {begun}; until [ -e {go} ]; do sleep 0.01; done; echo finished"
    spec = c.TaskSpec(description="x", shell=c.Shell(command=command))
    async with (
        core_of(broker) as core,
        living(broker, tmp_path / "data", config) as sidecar,
    ):
        await core.until(c.HostJoined)
        assert (await core.tell(assign("t1", "sidecar", spec=spec))).ok
        async with asyncio.timeout(60):
            while not begun.exists():
                await asyncio.sleep(0.01)
            broker.kill()
            go.touch()
            while sidecar.state.runs["t1-r1"].phase != "finished":
                await asyncio.sleep(0.01)
        # Not before the run has ended: a server that this very process starts while a
        # run is under way would pass for something that the run has left behind.
        broker.restart()
        [done] = await core.until(c.TaskCompleted)
        assert done.result.output == "finished\n"


async def test_what_runs_and_ends_without_a_broker_is_told_afterwards_in_order(
    broker: LiveBroker, tmp_path: Path
) -> None:
    """Each run says something, fails once, and ends, one after the other."""
    config = SidecarConfig(
        name="h1",
        discover=False,
        claude=ClaudeConfig(enabled=False),
        slots=SlotsConfig(shell=8),
    )

    def gated(n: int) -> mail.Assign:
        gate, tried = tmp_path / f"go{n}", tmp_path / f"tried{n}"
        command = (
            f"[ -e {tried} ] && echo {n} && exit 0; touch {tried};"
            f"until [ -e {gate} ]; do sleep 0.01; done; exit 1"
        )
        spec = c.TaskSpec(description="x", shell=c.Shell(command=command))
        return assign(f"t{n}", "sidecar", spec=spec)

    async with (
        core_of(broker) as core,
        living(broker, tmp_path / "data", config) as sidecar,
    ):
        await core.until(c.HostJoined)
        for n in range(8):
            assert (await core.tell(gated(n))).ok
        await core.until(c.TaskStarted, count=8)
        broker.kill()
        order = [3, 1, 7, 0, 5, 2, 6, 4]
        for n in order:
            (tmp_path / f"go{n}").touch()
            async with asyncio.timeout(60):
                while sidecar.state.runs[f"t{n}-r1"].phase != "finished":
                    await asyncio.sleep(0.01)
        broker.restart()
        done = await core.until(c.TaskCompleted, count=8)
        assert [event.task_id for event in done] == [f"t{n}" for n in order]
        for event in done:
            of_run = [
                c.name(each)
                for each in core.events
                if isinstance(each, c.RunEvent)
                and each.route == event.route
                and not isinstance(each, c.TaskAccepted)  # its start may say so
            ]
            assert of_run == [
                "task.started",
                "task.retrying",
                "task.completed",
            ]
