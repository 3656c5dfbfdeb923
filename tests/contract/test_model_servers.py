"""What a host relies on, asked of llama.cpp's real server and of the simulated one.

Where the real one comes from stands in `tests/support/llama_cpp.py`.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.executors.openai import OpenAIExecutor
from sidecar.executors.port import Finished, Returned, Run, Stop
from sidecar.http import http_client
from sidecar.looks import Answered, Missed, ask_server
from sidecar.simulated.llama_server import SimulatedLlamaServer
from tests.support.runs import QUICK, Ear, assignment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.executors.port import Outcome

N_CTX = 512


@pytest.fixture(params=["simulated", "real"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    if request.param == "real":
        yield await request.getfixturevalue("real_llama").at(ctx=N_CTX)
        return
    async with SimulatedLlamaServer(["gemma"], n_ctx=N_CTX) as simulated:
        yield simulated.url


@pytest.fixture
async def model(server: str) -> str:
    async with http_client() as client:
        answer = await ask_server(client, "openai", server)
    assert isinstance(answer, Answered), answer
    [name] = answer.models
    return name


async def ask(url: str, model: str, text: str) -> tuple[Outcome, Ear]:
    executor, ear = OpenAIExecutor(), Ear()
    assign = assignment(
        target_type="openai",
        endpoint="lab",
        endpoint_kind="openai",
        endpoint_url=url,
        model=model,
        limits=QUICK.__class__(model_retries=0),
        spec={"description": text, "max_tokens": 12, "temperature": 0.0},
    )
    try:
        run = Run(assign=assign, cwd=Path("/"), env={})
        return await executor.run(run, ear, Stop()), ear
    finally:
        await executor.close()


async def test_a_prompt_is_answered_and_counted(server: str, model: str) -> None:
    outcome, ear = await ask(server, model, "Say hello in five words.")
    assert isinstance(outcome, Finished), ear.lines("error")
    result = outcome.result
    assert result.status == "success"
    assert result.output == ear.said("token") != ""
    assert result.tokens_in is not None
    assert result.tokens_out is not None
    assert result.tokens_in + result.cache_read_tokens > 3
    assert result.tokens_out > 1


async def test_a_prompt_that_does_not_fit_is_another_endpoints(
    server: str, model: str
) -> None:
    outcome, _ = await ask(server, model, "word " * 2 * N_CTX)
    assert isinstance(outcome, Returned)
    assert (outcome.reason, outcome.exclude) == ("endpoint_unfit", "lab")
    assert outcome.result is not None
    assert outcome.result.error is not None
    assert outcome.result.error.code == "prompt_too_long"
    assert f"({N_CTX} tokens)" in outcome.detail


async def test_a_refusal_says_how_large_the_context_is(server: str, model: str) -> None:
    messages = [{"role": "user", "content": "word " * 2 * N_CTX}]
    body = {"model": model, "messages": messages}
    async with (
        http_client() as client,
        client.post(f"{server}/v1/chat/completions", json=body) as answer,
    ):
        error = (await answer.json())["error"]
        assert (answer.status, error["code"]) == (400, 400)
        assert (error["type"], error["n_ctx"]) == ("exceed_context_size_error", N_CTX)
        assert error["n_prompt_tokens"] > N_CTX


async def test_a_server_that_is_not_there_is_missed() -> None:
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{plug.getsockname()[1]}"
        async with http_client() as client:
            assert isinstance(await ask_server(client, "openai", url), Missed)


async def test_health_is_a_route_of_it(server: str) -> None:
    async with http_client() as client, client.get(f"{server}/health") as answer:
        assert answer.status == 200
