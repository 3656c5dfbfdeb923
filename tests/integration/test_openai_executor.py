"""The OpenAI-compatible executor against the simulated server, over a real socket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.executors.openai import OpenAIExecutor
from sidecar.executors.port import Finished, Run, Stop
from sidecar.simulated.ollama import Fault, SimulatedOllama
from tests.support.runs import Ear, assignment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.executors.port import Outcome


@pytest.fixture
async def executor() -> AsyncIterator[OpenAIExecutor]:
    executor = OpenAIExecutor()
    yield executor
    await executor.close()


def asking(server: SimulatedOllama, **fields: Any) -> Run:
    usual = {
        "target_type": "openai",
        "endpoint": "lab",
        "endpoint_url": server.url,
        "model": "llama3.2",
    }
    return Run(assign=assignment(**{**usual, **fields}), cwd=Path("/"), env={})


async def run(
    executor: OpenAIExecutor, server: SimulatedOllama, **fields: Any
) -> tuple[Outcome, Ear]:
    ear = Ear()
    return await executor.run(asking(server, **fields), ear, Stop()), ear


@pytest.mark.parametrize("suffix", ["", "/", "/v1"])
async def test_an_answer_is_streamed_and_counted(
    executor: OpenAIExecutor, simulated_ollama: SimulatedOllama, suffix: str
) -> None:
    outcome, ear = await run(
        executor, simulated_ollama, endpoint_url=simulated_ollama.url + suffix
    )
    assert isinstance(outcome, Finished)
    result = outcome.result
    assert (result.status, result.model_used) == ("success", "llama3.2")
    assert result.output == ear.said("token") != ""
    assert result.tokens_in
    assert result.tokens_out == len(ear.lines("token"))


async def test_a_server_without_stream_options_is_asked_otherwise_and_remembered(
    executor: OpenAIExecutor, simulated_ollama: SimulatedOllama
) -> None:
    simulated_ollama.fail_next(Fault(kind="refuses_stream_options", times=0))
    for _ in range(2):
        outcome, ear = await run(executor, simulated_ollama)
        assert isinstance(outcome, Finished)
        assert outcome.result.status == "success"
        assert ear.lines("retrying", "error") == []
    asked = ["stream_options" in each.body for each in simulated_ollama.runs()]
    assert asked == [True, False, False]


async def test_an_endpoints_key_is_sent_to_it_alone(
    simulated_ollama: SimulatedOllama,
) -> None:
    asked: list[str] = []

    def key_of(endpoint: str) -> str | None:
        asked.append(endpoint)
        return "k"

    executor = OpenAIExecutor(key_of)
    await run(executor, simulated_ollama)
    await executor.close()
    assert asked == ["lab"]
