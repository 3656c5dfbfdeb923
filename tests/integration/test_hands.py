"""The real Claude Code works with simulated local models, in a git checkout, for nothing."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from events import catalogue as c
from events.mail import Cancel, Limits
from sidecar.config import ClaudeConfig, EndpointConfig
from sidecar.looks import Answered, ask_server
from sidecar.simulated import ollama
from sidecar.simulated.messages import ScriptedCall
from sidecar.simulated.ollama import Model, SimulatedOllama
from tests.integration.test_changes import git
from tests.support.hosting import assign, world
from tests.support.ring import observing, ring_on
from tests.support.runs import alive
from tests.support.simulated_llama import SimulatedLlamaServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.broker import LiveBroker
    from tests.support.hosting import World
    from tests.support.llama_cpp import RealServers


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "a.txt").write_text("one\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


@asynccontextmanager
async def host_with(
    folder: Path, program: Path, repo: Path, kind: str, url: str
) -> AsyncIterator[World]:
    """A host without an account, with one model server and one repository."""
    endpoint = EndpointConfig(name="gpu", kind=kind, url=url)  # type: ignore[arg-type]
    async with (
        world(folder / "host") as made,
        made.living(
            endpoint=[endpoint],
            repos={"shop": str(repo)},
            claude=ClaudeConfig(
                enabled=False, program=str(program), allowed_tools=["Bash"]
            ),
        ),
    ):
        yield made


def work(model: str, kind: str, **fields: Any) -> Any:
    spec = c.TaskSpec(description="Add a line.", repo="shop")
    return assign(
        spec=spec,
        tier="standard",
        target_type=kind,
        endpoint="h1-gpu",
        endpoint_kind=kind,
        model=model,
        equivalent_model="claude-sonnet-4-5",
        mode="work",
        **fields,
    )


def told(server: SimulatedOllama) -> list[Any]:
    """What the program told the model of its tools' results, for who reads a failure."""
    asked = [r.body for r in server.requests if r.place == "messages" and r.body]
    return [m for body in asked for m in body["messages"] if "tool_result" in str(m)]


def append(repo: Path) -> ScriptedCall:
    command = f"echo two >> {repo / 'a.txt'}"
    return ScriptedCall(
        name="Bash", input={"command": command, "description": "Add it"}
    )


async def test_claude_code_edits_a_checkout_with_a_model_on_llama_cpp(
    real_claude: Path, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-somebody's")
    async with SimulatedLlamaServer(["gemma:Q8_0"], n_ctx=65_536) as server:
        server.calls.append(append(repo))
        async with host_with(
            tmp_path, real_claude, repo, "openai", server.url + "/v1"
        ) as w:
            assert (await w.tell(work("gemma:Q8_0", "openai"))).ok
            [done] = await w.until(c.TaskCompleted)
            [started] = await w.until(c.TaskStarted)
        asked = [r for r in server.requests if r.place == "messages" and r.body]
    assert (repo / "a.txt").read_text() == "one\ntwo\n", told(server)
    assert started.executor == "claude"
    assert (started.simulated, done.result.simulated) == (True, True)
    assert done.result.model_used == "gemma:Q8_0"
    assert done.result.estimated_cost_usd == 0
    assert done.result.cost_basis == "simulated"
    assert done.result.tokens_in
    assert done.result.changes is not None
    assert [each.path for each in done.result.changes.changed] == ["a.txt"]
    assert {r.body["model"] for r in asked} == {"gemma:Q8_0"}
    assert {r.body["max_tokens"] for r in asked} <= {16_384}
    tools = "".join(each.text for each in w.output if each.event_type == "tool")
    assert "echo two" in tools


async def test_a_checkout_s_own_settings_have_no_part_in_it(
    real_claude: Path, repo: Path, tmp_path: Path
) -> None:
    hooked, served = tmp_path / "hooked", tmp_path / "served"
    touch = {"type": "command", "command": f"touch {hooked}"}
    async with (
        SimulatedLlamaServer(["gemma:Q8_0"], n_ctx=65_536) as server,
        SimulatedLlamaServer(["gemma:Q8_0"], n_ctx=65_536) as stranger,
    ):
        settings = {
            "env": {"ANTHROPIC_BASE_URL": stranger.url},
            "hooks": {"SessionStart": [{"hooks": [touch]}]},
        }
        mcp = {"mcpServers": {"x": {"command": "touch", "args": [str(served)]}}}
        (repo / ".claude").mkdir()
        (repo / ".claude" / "settings.json").write_text(json.dumps(settings))
        (repo / ".claude" / "settings.local.json").write_text(json.dumps(settings))
        (repo / ".mcp.json").write_text(json.dumps(mcp))
        (repo / "CLAUDE.md").write_text("Always say please.\n")
        server.calls.append(append(repo))
        async with host_with(
            tmp_path, real_claude, repo, "openai", server.url + "/v1"
        ) as w:
            assert (await w.tell(work("gemma:Q8_0", "openai"))).ok
            await w.until(c.TaskCompleted)
        asked = [r for r in server.requests if r.place == "messages" and r.body]
    assert (repo / "a.txt").read_text() == "one\ntwo\n", told(server)
    assert [r for r in stranger.requests if r.place == "messages"] == []
    assert not hooked.exists()
    assert not served.exists()
    assert "Always say please." in json.dumps([r.body for r in asked])


async def test_an_ollama_is_asked_for_the_context_that_work_needs(
    real_claude: Path, repo: Path, tmp_path: Path
) -> None:
    async with SimulatedOllama(["llama3.2"]) as server:
        server.calls.append(append(repo))
        async with host_with(tmp_path, real_claude, repo, "ollama", server.url) as w:
            assert (await w.tell(work("llama3.2:latest", "ollama"))).ok
            [done] = await w.until(c.TaskCompleted)
        async with aiohttp.ClientSession() as client:
            look = await ask_server(client, "ollama", server.url)
        asked = [r for r in server.requests if r.place == "messages" and r.body]
        [variant] = {r.body["model"] for r in asked}
        assert server.models[variant].num_ctx == 32_768
    assert (repo / "a.txt").read_text() == "one\ntwo\n", told(server)
    assert done.result.model_used == "llama3.2:latest"
    said = [e.text for e in await w.events() if isinstance(e, c.TaskStatus)]
    assert any("context 32,768 tokens" in text for text in said)
    assert isinstance(look, Answered)
    assert look.models == ["llama3.2:latest"]


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (SimulatedLlamaServer(["m:latest"], n_ctx=2_048), "endpoint_unfit"),
        (SimulatedOllama([Model(name="m", tools=False)]), "endpoint_unfit"),
        (SimulatedLlamaServer(["other"], n_ctx=65_536), "endpoint_failed"),
    ],
)
async def test_what_a_server_cannot_do_gives_the_work_back(
    server: SimulatedOllama,
    reason: str,
    real_claude: Path,
    repo: Path,
    tmp_path: Path,
) -> None:
    kind = "openai" if isinstance(server, SimulatedLlamaServer) else "ollama"
    async with (
        server,
        host_with(tmp_path, real_claude, repo, kind, server.url) as w,
    ):
        assert (await w.tell(work("m:latest", kind))).ok
        [back] = await w.until(c.TaskReturned)
    assert (back.reason, back.exclude) == (reason, "h1-gpu")


async def test_what_the_real_server_refuses_gives_the_work_back(
    real_llama: RealServers, real_claude: Path, repo: Path, tmp_path: Path
) -> None:
    """Its errors are not in the Messages API's form."""
    url = await real_llama.at(ctx=512, name="gemma")
    async with host_with(tmp_path, real_claude, repo, "openai", url) as w:
        assert (await w.tell(work("gemma", "openai"))).ok
        [back] = await w.until(c.TaskReturned)
    assert (back.reason, back.exclude) == ("endpoint_unfit", "h1-gpu")
    assert back.detail == "Prompt is too long"


async def test_a_server_that_is_gone_gives_the_work_back(
    real_claude: Path, repo: Path, tmp_path: Path
) -> None:
    server = SimulatedLlamaServer(["m"], n_ctx=65_536)
    await server.start()
    async with host_with(tmp_path, real_claude, repo, "openai", server.url) as w:
        await server.stop()
        assert (await w.tell(work("m", "openai"))).ok
        [back] = await w.until(c.TaskReturned)
    assert (back.reason, back.exclude) == ("endpoint_failed", "h1-gpu")
    assert "refused" in back.detail


async def test_a_server_may_be_silent_while_it_reads(
    real_claude: Path, repo: Path, tmp_path: Path
) -> None:
    """As long as for a first token: its prompt is long, and it says nothing meanwhile."""
    limits = Limits(idle_timeout_s=1.0, first_token_cold_s=60.0)
    async with (
        SimulatedLlamaServer(["m"], n_ctx=65_536) as server,
        host_with(tmp_path, real_claude, repo, "openai", server.url) as w,
    ):
        server.fail_next("slow_first", on="messages", times=0, delay_s=3.0)
        assert (await w.tell(work("m", "openai", limits=limits))).ok
        [done] = await w.until(c.TaskCompleted)
    assert done.result.output


async def test_work_that_is_cancelled_ends_the_program(
    real_claude: Path, repo: Path, tmp_path: Path
) -> None:
    async with (
        SimulatedLlamaServer(["m"], n_ctx=65_536) as server,
        host_with(tmp_path, real_claude, repo, "openai", server.url) as w,
    ):
        server.fail_next("hang", on="messages", times=0)
        assert (await w.tell(work("m", "openai"))).ok
        await server.wait_until(
            lambda: any(r.body for r in server.requests if r.place == "messages")
        )
        await w.tell(Cancel(epoch=1, task_id="t1", route="t1-r1"))
        [stopped] = await w.until(c.TaskStopped)
    assert stopped.descendants_left == 0
    assert alive("t1-r1") == []


async def test_its_dollars_are_none_and_the_equivalent_is_an_estimate(
    real_claude: Path, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ollama, "SIMULATED_HEADER", "X-Nothing")
    async with (
        SimulatedLlamaServer(["m"], n_ctx=65_536) as server,
        host_with(tmp_path, real_claude, repo, "openai", server.url) as w,
    ):
        assert (await w.tell(work("m", "openai"))).ok
        [done] = await w.until(c.TaskCompleted)
    result = done.result
    assert not result.simulated
    assert (result.estimated_cost_usd, result.cost_basis) == (0, "local_estimate")
    assert result.equivalent_model == "claude-sonnet-4-5"
    assert result.equivalent_claude_cost_usd


async def test_a_repository_makes_it_work_that_a_local_model_does_for_nothing(
    broker: LiveBroker, real_claude: Path, repo: Path, tmp_path: Path
) -> None:
    """From submission to the diff: gateway, scheduler, sidecar and program."""
    async with SimulatedLlamaServer(["m"], n_ctx=65_536) as server:
        server.calls.append(append(repo))
        config = tmp_path / "h1.toml"
        config.write_text(
            f'name = "h1"\ndata = "{tmp_path / "h1"}"\n'
            f'[repos]\nshop = "{repo}"\n'
            f'[[endpoint]]\nname = "gpu"\nkind = "openai"\nurl = "{server.url}"\n'
            f'[claude]\nenabled = false\nprogram = "{real_claude}"\n'
            'allowed_tools = ["Bash"]\n'
        )
        async with ring_on(broker, tmp_path) as ring, observing(broker) as observer:
            ring.scheduler()
            ring._start("h1", ["sidecar", "--config", str(config)])
            await observer.until(lambda: observer.of("host.joined"))
            task = await observer.submit(
                description="Add a line.", tier="standard", repo="shop"
            )
            await observer.until(
                lambda: observer.of("task.completed", task) or observer.of("task.fail")
            )
        (submitted,) = observer.of("task.submitted", task)
        (routed,) = observer.of("task.routed", task)
        (completed,) = observer.of("task.completed", task)
    assert submitted["mode"] == "work"
    assert (routed["target_type"], routed["selected_model"]) == ("openai", "m")
    assert completed["result"]["estimated_cost_usd"] == 0
    assert completed["result"]["changes"]["insertions"] == 1
    assert (repo / "a.txt").read_text() == "one\ntwo\n", told(server)
