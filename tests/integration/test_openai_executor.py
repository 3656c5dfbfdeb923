"""The OpenAI-compatible executor against the simulated server, over a real socket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from sidecar.executors.openai import OpenAIExecutor
from sidecar.executors.port import Finished, Returned, Run, Stop, Stopped
from sidecar.simulated.ollama import Fault, SimulatedOllama
from tests.support.runs import QUICK, Ear, assignment

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


async def test_thoughts_stand_apart(executor: OpenAIExecutor) -> None:
    async with SimulatedOllama(split_lines=True) as server:
        outcome, ear = await run(executor, server, model="qwen3:8b")
    assert isinstance(outcome, Finished)
    assert "thought" in ear.said("thinking")
    assert "thought" not in outcome.result.output


@pytest.mark.parametrize("kind", ["usage_on_last", "comments"])
async def test_habits_of_servers_are_understood(
    executor: OpenAIExecutor, simulated_ollama: SimulatedOllama, kind: Any
) -> None:
    simulated_ollama.fail_next(kind)
    outcome, ear = await run(executor, simulated_ollama)
    assert isinstance(outcome, Finished)
    assert outcome.result.tokens_in
    assert ear.lines("retrying", "error") == []


async def test_missing_counts_are_unknown(
    executor: OpenAIExecutor, simulated_ollama: SimulatedOllama
) -> None:
    simulated_ollama.fail_next("usage_missing")
    outcome, _ = await run(executor, simulated_ollama)
    assert isinstance(outcome, Finished)
    assert (outcome.result.status, outcome.result.tokens_in) == ("success", None)


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


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("busy", "busy"),
        ("internal", "server_error"),
        ("reset", "stream_died"),
        ("end", "stream_died"),
        ("error_line", "server_error"),
        ("malformed_line", "malformed_stream"),
    ],
)
async def test_a_server_that_stays_broken_gets_the_work_given_back(
    executor: OpenAIExecutor, simulated_ollama: SimulatedOllama, kind: Any, code: str
) -> None:
    simulated_ollama.fail_next(Fault(kind=kind, times=0))
    outcome, ear = await run(executor, simulated_ollama)
    assert isinstance(outcome, Returned)
    assert (outcome.reason, outcome.exclude) == ("endpoint_failed", "lab")
    assert outcome.result is not None
    assert outcome.result.error is not None
    assert outcome.result.error.code == code
    assert ear.lines("retrying") == [
        "Model server retry 1/2...",
        "Model server retry 2/2...",
    ]


@pytest.mark.parametrize(
    ("kind", "code", "ends"),
    [("missing", "model_missing", Returned), ("bad_request", "bad_request", Finished)],
)
async def test_what_a_retry_cannot_help_is_not_retried(
    executor: OpenAIExecutor,
    simulated_ollama: SimulatedOllama,
    kind: Any,
    code: str,
    ends: type,
) -> None:
    simulated_ollama.fail_next(kind)
    outcome, ear = await run(executor, simulated_ollama)
    assert isinstance(outcome, ends)
    assert isinstance(outcome, Finished | Returned)
    assert outcome.result is not None
    assert outcome.result.error is not None
    assert outcome.result.error.code == code
    assert ear.lines("retrying") == []


async def test_comments_alone_are_silence(
    executor: OpenAIExecutor, simulated_ollama: SimulatedOllama
) -> None:
    simulated_ollama.fail_next(Fault(kind="stall", after=0, times=0))
    limits = replace(QUICK, first_token_cold_s=0.1, model_retries=0)
    outcome, _ = await run(executor, simulated_ollama, limits=limits)
    assert isinstance(outcome, Returned)
    assert outcome.result is not None
    assert outcome.result.error is not None
    assert outcome.result.error.code == "first_token_timeout"


async def test_stopping_closes_the_stream(
    executor: OpenAIExecutor, simulated_ollama: SimulatedOllama
) -> None:
    simulated_ollama.fail_next("stall")
    ear, stop = Ear(), Stop()
    ear.on_each(lambda: stop.request("cancelled"))
    outcome = await executor.run(asking(simulated_ollama), ear, stop)
    assert isinstance(outcome, Stopped)
    await simulated_ollama.wait_until(lambda: simulated_ollama.runs()[0].aborted)


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
