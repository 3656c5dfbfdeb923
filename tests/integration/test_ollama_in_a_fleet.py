"""An Ollama ends in the middle of a task: another host takes over, then Claude, then it again.

Once with the simulated server and once with a real one, which `make ollama` builds.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from events import subjects
from events.errors import Unreachable
from sidecar.simulated.ollama import Model, SimulatedOllama
from tests.support.real_ollama import MODEL
from tests.support.ring import observing, ring_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidecar.simulated.claude import SimulatedClaude
    from tests.support.broker import LiveBroker
    from tests.support.real_ollama import RealOllama
    from tests.support.ring import Observer

PATIENT_S = 120.0
"""A real model on a busy machine takes its time."""


class Server(Protocol):
    """A model server that can be ended as by a kill, and started again where it was."""

    @property
    def url(self) -> str: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class Real:
    """A real one behind the simulated one's methods."""

    def __init__(self, server: RealOllama) -> None:
        self.url = server.url
        self._server = server

    async def start(self) -> None:
        self._server.start()
        await asyncio.to_thread(self._server.ready)

    async def stop(self) -> None:
        await asyncio.to_thread(self._server.stop)


def simulated(name: str, tokens_per_s: float) -> SimulatedOllama:
    return SimulatedOllama([Model(name=name, tools=False)], tokens_per_s=tokens_per_s)


@pytest.fixture(params=["simulated", "real"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    if request.param == "real":
        real = Real(request.getfixturevalue("real_ollama"))
        yield real
        # Others ask it too.
        await real.stop()
        await real.start()
        return
    async with simulated("gemma", tokens_per_s=1) as one:
        yield one


async def told(observer: Observer, command: str, **body: Any) -> None:
    """Give a command until it is carried out: what we saw, the scheduler may see later."""
    async with asyncio.timeout(PATIENT_S):
        while True:
            # Hosts can have joined before the scheduler listens.
            with suppress(Unreachable):
                answer = await observer.link.request(
                    subjects.command(command), json.dumps(body).encode(), timeout=20.0
                )
                if json.loads(answer)["ok"]:
                    return
            await asyncio.sleep(0.1)


async def until_said(observer: Observer, what: Any) -> None:
    await observer.until(what, seconds=PATIENT_S)


async def test_another_host_takes_over_then_claude_and_then_it_is_asked_again(
    server: Server,
    broker: LiveBroker,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    other = simulated("llama3.2", tokens_per_s=0)
    async with (
        other,
        ring_on(broker, tmp_path) as ring,
        observing(broker) as observer,
    ):
        ring.scheduler()
        for host, url, claude in (
            ("h1", server.url, "enabled = false"),
            ("h2", other.url, f'program = "{simulated_claude.program}"'),
        ):
            config = tmp_path / f"{host}.toml"
            config.write_text(
                f'name = "{host}"\ndata = "{tmp_path / host}"\ndiscover = false\n'
                f'[[endpoint]]\nname = "ollama"\nkind = "ollama"\nurl = "{url}"\n'
                f"[claude]\n{claude}\n"
            )
            ring._start(host, ["sidecar", "--config", str(config)])
        await until_said(observer, lambda: len(observer.of("host.joined")) == 2)

        # It runs on the first, because nothing goes to the second yet.
        await told(observer, "host.drain", host="h2")
        await until_said(observer, lambda: observer.of("host.draining"))
        spoken = asyncio.Event()
        task = await observer.submit(
            description="Count to a thousand.", tier="standard", max_tokens=400
        )
        await observer.link.subscribe(
            subjects.outputs_of(task), lambda message: spoken.set()
        )
        async with asyncio.timeout(PATIENT_S):
            await spoken.wait()
        await told(observer, "host.resume", host="h2")
        await until_said(observer, lambda: observer.of("host.resumed"))
        await server.stop()
        await until_said(observer, lambda: observer.of("task.completed", task))
        [completed] = observer.of("task.completed", task)
        routes = observer.of("task.routed", task)
        assert [each["selected_host"] for each in routes] == ["h1", "h2"]
        assert not any(each.get("fallback_used") for each in routes)
        assert completed["result"]["model_used"] == "llama3.2:latest"
        [returned] = observer.of("task.returned", task)
        assert returned["reason"] == "endpoint_failed"

        # Nobody is left in its tier: one hop, after the wait, with its reason.
        await told(observer, "policy.set", policy={"fallback_wait_s": 1.0})
        await other.stop()
        await until_said(observer, lambda: observer.of("tier.down"))
        task = await observer.submit(description="Say hello.", tier="standard")
        await until_said(observer, lambda: observer.of("task.completed", task))
        routed = observer.of("task.routed", task)[-1]
        assert routed["fallback_used"]
        assert routed["fallback_from_tier"] == "standard"
        assert routed["fallback_reason"].startswith("standard was down for ")
        assert len(simulated_claude.runs) == 1

        # Started again where it was, it is asked again.
        ups = len(observer.of("tier.up"))
        await server.start()
        await until_said(observer, lambda: len(observer.of("tier.up")) > ups)
        task = await observer.submit(
            description="Say hello.", tier="standard", max_tokens=4
        )
        await until_said(observer, lambda: observer.of("task.completed", task))
        routed = observer.of("task.routed", task)[-1]
        assert (routed["selected_host"], routed.get("fallback_used", False)) == (
            "h1",
            False,
        )
        assert observer.of("task.completed", task)[0]["result"]["model_used"] == MODEL
        assert len(simulated_claude.runs) == 1
