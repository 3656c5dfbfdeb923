"""The Ollama executor against the simulated server, over a real socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from sidecar.executors.ollama import OllamaExecutor
from sidecar.executors.port import Finished, Returned, Run, Stop
from sidecar.simulated.ollama import Fault, SimulatedOllama
from tests.support.runs import QUICK, Ear, assignment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from events.mail import Limits
    from sidecar.executors.port import Outcome

MODEL = "llama3.2"


@pytest.fixture
async def executor() -> AsyncIterator[OllamaExecutor]:
    executor = OllamaExecutor()
    yield executor
    await executor.close()


def asking(server: SimulatedOllama, limits: Limits = QUICK, **fields: Any) -> Run:
    usual = {"endpoint": "gpu", "endpoint_url": server.url, "model": MODEL}
    return Run(
        assign=assignment(limits=limits, **{**usual, **fields}), cwd=Path("/"), env={}
    )


async def run(
    executor: OllamaExecutor, server: SimulatedOllama, **fields: Any
) -> tuple[Outcome, Ear]:
    ear = Ear()
    outcome = await executor.run(asking(server, **fields), ear, Stop())
    return outcome, ear


async def test_an_answer_is_streamed_and_counted(
    executor: OllamaExecutor, simulated_ollama: SimulatedOllama
) -> None:
    outcome, ear = await run(executor, simulated_ollama)
    assert isinstance(outcome, Finished)
    result = outcome.result
    assert result.status == "success"
    assert result.output == ear.said("token") != ""
    assert result.model_used == MODEL
    assert result.tokens_in
    assert result.tokens_out == len(ear.lines("token"))
    assert ear.heard[-1].more["tokens_so_far"] == result.tokens_out
    assert result.simulated
    asked = simulated_ollama.runs()[0].body
    assert asked["truncate"] is False
    assert asked["options"]["num_ctx"] == QUICK.num_ctx


async def test_concurrent_runs_do_not_mix(executor: OllamaExecutor) -> None:
    async with SimulatedOllama(split_lines=True, parallel=8) as server:
        specs = [{"description": f"number {n}"} for n in range(16)]
        outcomes = await asyncio.gather(
            *(run(executor, server, spec=spec) for spec in specs)
        )
    for spec, (outcome, _) in zip(specs, outcomes, strict=True):
        assert isinstance(outcome, Finished)
        assert spec["description"] in outcome.result.output


async def test_a_missing_model_is_given_back_at_once(
    executor: OllamaExecutor, simulated_ollama: SimulatedOllama
) -> None:
    outcome, ear = await run(executor, simulated_ollama, model="nobody")
    assert isinstance(outcome, Returned)
    assert outcome.exclude == "gpu"
    assert ear.lines("retrying", "error") == [
        "Ollama failed after 1 attempt: model 'nobody' not found"
    ]


async def test_a_prompt_beyond_the_context_is_an_error_and_not_a_shorter_prompt(
    executor: OllamaExecutor, simulated_ollama: SimulatedOllama
) -> None:
    spec = {"description": "word " * 1000}
    limits = replace(QUICK, num_ctx=512)
    outcome, _ = await run(executor, simulated_ollama, spec=spec, limits=limits)
    assert isinstance(outcome, Returned)
    assert (outcome.reason, outcome.exclude) == ("endpoint_unfit", "gpu")
    assert outcome.result is not None
    assert outcome.result.error is not None
    assert outcome.result.error.code == "prompt_too_long"
    assert len(simulated_ollama.runs()) == 1


async def test_a_model_that_must_be_loaded_gets_more_time(
    executor: OllamaExecutor,
) -> None:
    limits = replace(QUICK, first_token_warm_s=0.02, first_token_cold_s=20.0)
    async with SimulatedOllama(load_s=0.1) as server:
        outcome, ear = await run(executor, server, limits=limits)
    assert isinstance(outcome, Finished)
    assert ear.lines("retrying") == []


async def test_a_loaded_model_must_be_quick(executor: OllamaExecutor) -> None:
    limits = replace(QUICK, first_token_warm_s=0.05, model_retries=0)
    async with SimulatedOllama() as server:
        await run(executor, server)
        server.fail_next("slow_first", delay_s=20.0)
        outcome, _ = await run(executor, server, limits=limits)
    assert isinstance(outcome, Returned)


async def test_the_time_in_all_is_the_works_answer(
    executor: OllamaExecutor, simulated_ollama: SimulatedOllama
) -> None:
    simulated_ollama.fail_next(Fault(kind="stall", times=0))
    outcome, ear = await run(
        executor, simulated_ollama, limits=replace(QUICK, run_timeout_s=1.0)
    )
    assert isinstance(outcome, Finished)
    assert outcome.result.error is not None
    assert outcome.result.error.code == "timeout"
    assert outcome.result.output != ""
    assert ear.lines("retrying") == []


async def test_cancelling_the_coroutine_closes_the_stream(
    executor: OllamaExecutor, simulated_ollama: SimulatedOllama
) -> None:
    simulated_ollama.fail_next("hang")
    task = asyncio.create_task(executor.run(asking(simulated_ollama), Ear(), Stop()))
    await simulated_ollama.wait_until(lambda: bool(simulated_ollama.runs()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await simulated_ollama.wait_until(lambda: simulated_ollama.runs()[0].aborted)


async def test_a_long_line_is_read(
    executor: OllamaExecutor, simulated_ollama: SimulatedOllama
) -> None:
    simulated_ollama.fail_next("long_line", size=1_000_000)
    outcome, _ = await run(executor, simulated_ollama)
    assert isinstance(outcome, Finished)
    assert outcome.result.output_bytes > 1_000_000
    assert outcome.result.truncated
    assert len(outcome.result.output) <= QUICK.output_limit_bytes


async def test_a_long_prompt_is_given_the_context_that_it_takes(
    executor: OllamaExecutor, simulated_ollama: SimulatedOllama
) -> None:
    spec = {"description": "word " * 10_000}
    outcome, _ = await run(executor, simulated_ollama, spec=spec)
    assert outcome.result is not None
    assert outcome.result.status == "success"
    [asked] = simulated_ollama.runs()
    assert 12_500 < asked.body["options"]["num_ctx"] < 16_384
