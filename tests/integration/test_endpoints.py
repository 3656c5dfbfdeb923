"""Looking at simulated servers and programs over real sockets and pipes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from msgspec import structs

from cli.render.fleet import _claude as claude_words
from events import mail
from events.catalogue import EndpointState, TaskSpec
from projections.fleet import EndpointView
from sidecar.config import ClaudeConfig, EndpointConfig, SidecarConfig
from sidecar.endpoints import Endpoints
from sidecar.executors.claude.command import NOT_LOGGED_IN
from sidecar.executors.port import Finished, RawResult, Returned
from sidecar.looks import Missed, ask_claude
from sidecar.processes.family import Processes
from tests.support.canned import canned, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from sidecar.simulated.claude import SimulatedClaude
    from sidecar.simulated.ollama import SimulatedOllama

NOBODY = "http://127.0.0.1:9"


class Told:
    """What was told, and an event for each telling."""

    def __init__(self) -> None:
        self.states: dict[str, EndpointState] = {}
        self.news: asyncio.Queue[EndpointState] = asyncio.Queue()

    def __call__(self, state: EndpointState) -> None:
        self.states[state.endpoint] = state
        self.news.put_nowait(state)


@asynccontextmanager
async def looking(
    *endpoints: EndpointConfig, program: str | None = None
) -> AsyncIterator[tuple[Endpoints, Told]]:
    config = SidecarConfig(
        name="h1",
        endpoint=list(endpoints),
        discover=False,
        claude=ClaudeConfig(enabled=program is not None, program=program),
    )
    told = Told()
    made = Endpoints(config, told, Processes())
    try:
        yield made, told
    finally:
        await made.close()


async def test_a_simulated_ollama_is_up_with_its_models(
    simulated_ollama: SimulatedOllama,
) -> None:
    for kind in ("ollama", "openai"):
        one = EndpointConfig(name="gpu", kind=kind, url=simulated_ollama.url, slots=3)
        async with looking(one) as (endpoints, told):
            await endpoints.look()
            state = told.states["h1-gpu"]
            assert (state.up, state.simulated, state.slots) == (True, True, 3)
            assert state.models
            assert all(":" in model for model in state.models)
            assert endpoints.own_slots() == {"h1-gpu": 3}


async def test_a_server_that_is_not_there_is_down_and_says_why() -> None:
    one = EndpointConfig(name="gpu", kind="ollama", url=NOBODY)
    async with looking(one) as (endpoints, told):
        await endpoints.look()
        state = told.states["h1-gpu"]
        assert not state.up
        assert state.reason.startswith("connection refused (127.0.0.1:")


async def test_an_address_that_is_none_is_down_and_says_why() -> None:
    one = EndpointConfig(name="gpu", kind="openai", url="http://[nowhere")
    async with looking(one) as (endpoints, told):
        await endpoints.look()
        state = told.states["h1-gpu"]
        assert not state.up
        assert "nowhere" in state.reason


async def test_a_proxy_of_the_environment_is_not_asked(
    simulated_ollama: SimulatedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", NOBODY)
    monkeypatch.setenv("http_proxy", NOBODY)
    one = EndpointConfig(name="gpu", kind="ollama", url=simulated_ollama.url)
    async with looking(one) as (endpoints, told):
        await endpoints.look()
        assert told.states["h1-gpu"].up


async def test_a_simulated_claude_says_its_version(
    simulated_claude: SimulatedClaude,
) -> None:
    async with looking(program=str(simulated_claude.program)) as (endpoints, told):
        await endpoints.look()
        state = told.states["h1-claude"]
        assert (state.kind, state.up, state.simulated) == ("claude", True, True)
        assert state.version


async def test_a_missing_claude_is_down_with_the_word_that_helps() -> None:
    async with looking(program="no-such-claude") as (endpoints, told):
        await endpoints.look()
        assert "npm install -g" in told.states["h1-claude"].reason


async def test_a_claude_that_is_not_logged_in_is_down_until_it_is(
    simulated_claude: SimulatedClaude,
) -> None:
    simulated_claude.log_in(False)
    async with looking(program=str(simulated_claude.program)) as (endpoints, told):
        await endpoints.look()
        state = told.states["h1-claude"]
        assert (state.up, state.reason) == (False, NOT_LOGGED_IN)
        simulated_claude.log_in(True)
        await endpoints.look()
        assert told.states["h1-claude"].up


async def test_a_claude_that_was_logged_in_is_asked_again_when_a_run_was_refused(
    simulated_claude: SimulatedClaude,
) -> None:
    async with looking(program=str(simulated_claude.program)) as (endpoints, told):
        await endpoints.look()
        simulated_claude.log_in(False)
        await endpoints.look()
        await endpoints.look()
        assert told.states["h1-claude"].up  # nobody asked, and nobody was refused
        refused = Finished(RawResult(status="failed"), unusable=True)
        endpoints.showed(claude_run(), refused)
        endpoints.look_again()
        await endpoints.look()
        assert told.states["h1-claude"].reason == NOT_LOGGED_IN


async def test_a_slow_claude_is_not_said_to_be_missing(tmp_path: Path) -> None:
    slow = tmp_path / "claude"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    looked = await ask_claude(Processes(), ClaudeConfig(program=str(slow)), 0.2)
    assert isinstance(looked, Missed)
    assert looked.there
    assert looked.reason == f"{slow} --version: no answer in 0.2s"
    down = EndpointView("c", "claude", up=False, since="", reason=looked.reason)
    words = f"is not usable: {looked.reason}"
    assert claude_words([down]) == ("Claude Code", words, "")


async def test_shared_endpoints_are_looked_at_as_long_as_they_are_shared(
    simulated_ollama: SimulatedOllama,
) -> None:
    shared = mail.SharedEndpoint(
        endpoint="big", kind="ollama", url=simulated_ollama.url
    )
    async with looking() as (endpoints, told):
        endpoints.share([shared])
        watching = asyncio.create_task(endpoints.watch())
        async with asyncio.timeout(60):
            state = await told.news.get()
        assert (state.endpoint, state.up, state.shared) == ("big", True, True)
        endpoints.share([])
        assert endpoints._entries == {}
        watching.cancel()


async def test_a_shared_endpoint_that_was_added_anew_is_told_of_at_once(
    simulated_ollama: SimulatedOllama,
) -> None:
    def shared(added: str) -> mail.SharedEndpoint:
        url = simulated_ollama.url
        return mail.SharedEndpoint(endpoint="big", kind="ollama", url=url, added=added)

    async with looking() as (endpoints, told):
        endpoints.share([shared("1")])
        await endpoints.look()
        assert told.news.get_nowait().up
        endpoints.share([shared("2")])
        assert told.news.get_nowait().up


async def test_what_has_not_been_looked_at_is_not_told_of(
    simulated_ollama: SimulatedOllama,
) -> None:
    big, small = (
        mail.SharedEndpoint(endpoint=name, kind="ollama", url=simulated_ollama.url)
        for name in ("big", "small")
    )
    async with looking() as (endpoints, told):
        endpoints.share([big])
        endpoints.share([big, small])
        assert told.news.empty()
        await endpoints.look()
        assert told.news.get_nowait().up


def claude_run() -> mail.Assign:
    return mail.Assign(
        epoch=1,
        task_id="t1",
        route="r1",
        generation=1,
        attempt=1,
        spec=TaskSpec(description="x"),
        tier="complex",
        target_type="claude",
        endpoint="h1-claude",
    )


def ollama_run() -> mail.Assign:
    return structs.replace(
        claude_run(), tier="standard", target_type="ollama", endpoint="h1-gpu"
    )


async def test_a_refused_login_takes_claude_down_until_it_works_again(
    simulated_claude: SimulatedClaude,
) -> None:
    async with looking(program=str(simulated_claude.program)) as (endpoints, told):
        await endpoints.look()
        refused = Finished(RawResult(status="failed"), unusable=True)
        endpoints.showed(claude_run(), refused)
        assert not told.states["h1-claude"].up
        await endpoints.look()
        assert not told.states["h1-claude"].up
        endpoints.showed(claude_run(), Finished(RawResult(status="success")))
        await endpoints.look()
        assert told.states["h1-claude"].up


async def test_a_request_that_fails_has_its_endpoint_looked_at_at_once(
    simulated_ollama: SimulatedOllama,
) -> None:
    one = EndpointConfig(name="gpu", kind="ollama", url=simulated_ollama.url)
    async with looking(one) as (endpoints, told):
        await endpoints.look()
        await told.news.get()
        watching = asyncio.create_task(endpoints.watch())
        await simulated_ollama.stop()
        run = ollama_run()
        assert endpoints.resolved(run).endpoint_url == one.url
        endpoints.showed(run, Returned(reason="endpoint_failed", exclude="h1-gpu"))
        async with asyncio.timeout(60):
            assert not (await told.news.get()).up
        watching.cancel()


def openai_server() -> dict[str, list[bytes]]:
    return {"/v1/models": [whole({"data": [{"id": "a"}]})]}


def ollama_server(*models: dict[str, Any]) -> dict[str, list[bytes]]:
    return {
        "/api/version": [whole({"version": "0.12.0"})],
        "/api/tags": [whole({"models": list(models)})],
        "/api/ps": [whole({"models": []})],
    }


async def test_an_openai_server_is_asked_for_its_models_and_nothing_else() -> None:
    async with canned(openai_server()) as server:
        one = EndpointConfig(name="gpu", kind="openai", url=f"{server.url}/v1")
        async with looking(one) as (endpoints, told):
            await endpoints.look()
        assert (told.states["h1-gpu"].up, server.asked) == (True, ["/v1/models"])
        assert told.states["h1-gpu"].loaded == []


async def test_a_list_that_does_not_say_what_models_can_do_is_asked_once() -> None:
    answers = ollama_server({"name": "all-minilm:latest", "digest": "1"})
    answers["/api/show"] = [whole({"capabilities": ["embedding"]})]
    async with canned(answers) as server:
        one = EndpointConfig(name="gpu", kind="ollama", url=server.url)
        async with looking(one) as (endpoints, told):
            await endpoints.look()
            await endpoints.look()
        assert told.states["h1-gpu"].models == []
        assert server.asked.count("/api/show") == 1


async def test_an_old_server_that_does_not_know_either_is_believed() -> None:
    async with canned(ollama_server({"name": "a:7b"})) as server:
        one = EndpointConfig(name="gpu", kind="ollama", url=server.url)
        async with looking(one) as (endpoints, told):
            await endpoints.look()
        assert told.states["h1-gpu"].models == ["a:7b"]


async def test_no_secret_of_an_address_or_a_key_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with canned(openai_server()) as server:
        place = server.url.removeprefix("http://")
        monkeypatch.setenv("MYKEY", "sk-abc\n")
        made = [
            EndpointConfig(name=name, kind="openai", url=url, api_key_env=key)
            for name, url, key in (
                ("good", f"http://bob:geheim77@{place}", None),
                ("gone", "http://bob:geheim77@127.0.0.1:9", None),
                ("none", "http://bob:geheim77@[nowhere", None),
                ("key", server.url, "MYKEY"),
            )
        ]
        async with looking(*made) as (endpoints, told):
            await endpoints.look()
            shared = mail.SharedEndpoint(
                endpoint="big", kind="openai", url=f"http://bob:geheim77@{place}"
            )
            endpoints.share([shared])
            await endpoints.look()
    assert told.states["h1-good"].up
    assert told.states["big"].up
    assert told.states["h1-key"].reason == "the key in MYKEY holds a newline"
    said = repr(told.states)
    assert "geheim77" not in said
    assert "sk-abc" not in said


async def test_a_server_that_is_restarted_is_back_before_its_tasks_have_gone(
    simulated_ollama: SimulatedOllama,
) -> None:
    one = EndpointConfig(name="gpu", kind="ollama", url=simulated_ollama.url)
    async with looking(one) as (endpoints, told):
        await endpoints.look()
        assert (await told.news.get()).up
        watching = asyncio.create_task(endpoints.watch())
        await simulated_ollama.stop()
        endpoints.showed(ollama_run(), Returned(reason="endpoint_failed"))
        async with asyncio.timeout(5):
            assert not (await told.news.get()).up
        await simulated_ollama.start()
        async with asyncio.timeout(5):
            assert (await told.news.get()).up
        watching.cancel()


async def test_a_busy_endpoint_and_one_that_is_too_small_stay_up(
    simulated_ollama: SimulatedOllama,
) -> None:
    one = EndpointConfig(name="gpu", kind="ollama", url=simulated_ollama.url)
    async with looking(one) as (endpoints, told):
        await endpoints.look()
        for reason in ("endpoint_busy", "endpoint_unfit") * 2:
            endpoints.showed(ollama_run(), Returned(reason=reason, exclude="h1-gpu"))
        assert told.states["h1-gpu"].up
