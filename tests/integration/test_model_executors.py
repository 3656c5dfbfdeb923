"""What both executors of model servers do alike, each against a simulated server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
from msgspec.structs import replace

from sidecar.executors.ollama import OllamaExecutor
from sidecar.executors.openai import OpenAIExecutor
from sidecar.executors.port import Finished, Returned, Run, Stop, Stopped
from sidecar.simulated.ollama import Fault, FaultKind, SimulatedOllama
from tests.support.runs import QUICK, Ear, assignment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from events.mail import Limits
    from sidecar.executors.model_run import ModelExecutor
    from sidecar.executors.port import Outcome

IMPATIENT = replace(
    QUICK, first_token_warm_s=0.2, first_token_cold_s=0.2, idle_timeout_s=0.2
)
GIVEN_BACK, ITS_ANSWER, FINE = "given back", "its answer", "fine"
SILENT = ("stall", "hang")

# Kind of fault, its settings, how it ends, the error's code, retries.
TABLE: list[tuple[str, dict[str, Any], str, str, int]] = [
    ("slow_first", {"delay_s": 0.01}, FINE, "", 0),
    ("slow_first", {"delay_s": 100.0}, GIVEN_BACK, "first_token_timeout", 2),
    ("slow_tokens", {"delay_s": 0.001}, FINE, "", 0),
    ("stall", {"after": 0}, GIVEN_BACK, "first_token_timeout", 2),
    ("stall", {"after": 2}, GIVEN_BACK, "idle_timeout", 2),
    ("hang", {}, GIVEN_BACK, "first_token_timeout", 2),
    ("reset", {"after": 0}, GIVEN_BACK, "stream_died", 2),
    ("reset", {"after": 2}, GIVEN_BACK, "stream_died", 2),
    ("end", {"after": 0}, GIVEN_BACK, "stream_died", 2),
    ("end", {"after": 2}, GIVEN_BACK, "stream_died", 2),
    ("error_line", {}, GIVEN_BACK, "server_error", 2),
    ("busy", {}, GIVEN_BACK, "busy", 2),
    ("internal", {}, GIVEN_BACK, "server_error", 2),
    ("missing", {}, GIVEN_BACK, "model_missing", 0),
    ("bad_request", {}, ITS_ANSWER, "bad_request", 0),
    ("malformed_line", {}, GIVEN_BACK, "malformed_stream", 2),
    ("usage_missing", {}, FINE, "", 0),
    ("usage_on_last", {}, FINE, "", 0),
    ("long_line", {"size": 1_000_000}, FINE, "", 0),
    ("comments", {}, FINE, "", 0),
    ("refuses_stream_options", {}, FINE, "", 0),
    ("refuses_max_tokens", {}, FINE, "", 0),
    ("ignores_format", {}, FINE, "", 0),
]


@dataclass(frozen=True)
class Api:
    """An executor, and the name that it gives its servers."""

    kind: str
    name: str
    executor: ModelExecutor

    def asking(
        self, server: SimulatedOllama, limits: Limits = QUICK, **fields: Any
    ) -> Run:
        usual = {"endpoint": "gpu", "endpoint_url": server.url, "model": "llama3.2"}
        assign = assignment(
            limits=limits, endpoint_kind=self.kind, **{**usual, **fields}
        )
        return Run(assign=assign, cwd=Path("/"), env={})

    async def run(self, server: SimulatedOllama, **fields: Any) -> tuple[Outcome, Ear]:
        ear = Ear()
        return await self.executor.run(self.asking(server, **fields), ear, Stop()), ear


@pytest.fixture(params=["ollama", "openai"])
async def api(request: pytest.FixtureRequest) -> AsyncIterator[Api]:
    executor: ModelExecutor
    if request.param == "ollama":
        executor, name = OllamaExecutor(), "Ollama"
    else:
        executor, name = OpenAIExecutor(), "Model server"
    yield Api(request.param, name, executor)
    await executor.close()


def test_no_fault_is_left_out() -> None:
    assert {row[0] for row in TABLE} == set(get_args(FaultKind))


@pytest.mark.parametrize(
    ("kind", "settings", "ends", "code", "retries"),
    TABLE,
    ids=[f"{row[0]}{''.join(f'-{v}' for v in row[1].values())}" for row in TABLE],
)
async def test_a_lasting_fault_ends_as_it_should(
    api: Api,
    simulated_ollama: SimulatedOllama,
    kind: Any,
    settings: dict[str, Any],
    ends: str,
    code: str,
    retries: int,
) -> None:
    simulated_ollama.fail_next(Fault(kind=kind, times=0, **settings))
    outcome, ear = await api.run(simulated_ollama, limits=IMPATIENT)
    assert isinstance(outcome, Returned if ends == GIVEN_BACK else Finished)
    assert isinstance(outcome, Finished | Returned)
    result = outcome.result
    assert result is not None
    assert (result.error.code if result.error else "") == code
    assert (result.status == "success") == (ends == FINE)
    if isinstance(outcome, Returned):
        reason = "endpoint_busy" if code == "busy" else "endpoint_failed"
        assert (outcome.reason, outcome.exclude) == (reason, "gpu")
        assert result.error is not None
        assert result.error.message == outcome.detail
    assert ear.lines("retrying") == [
        f"{api.name} retry {number}/2..." for number in range(1, retries + 1)
    ]
    if ends == FINE:
        assert ear.lines("error") == []
        if kind not in (
            "usage_missing",
            "refuses_stream_options",
            "refuses_max_tokens",
        ):
            assert result.tokens_in
            assert result.tokens_out
    else:
        assert result.error is not None
        tries = f"{retries + 1} attempt{'s' if retries else ''}"
        said = f"{api.name} failed after {tries}: {result.error.message}"
        assert ear.lines("error") == [said]
        assert len(simulated_ollama.runs()) == retries + 1
    if kind in SILENT:
        await simulated_ollama.wait_until(
            lambda: all(request.aborted for request in simulated_ollama.runs())
        )


@pytest.mark.parametrize("kind", ["busy", "internal", "reset", "end", "error_line"])
async def test_one_fault_costs_one_retry(
    api: Api, simulated_ollama: SimulatedOllama, kind: Any
) -> None:
    simulated_ollama.fail_next(kind)
    outcome, ear = await api.run(simulated_ollama)
    assert isinstance(outcome, Finished)
    assert outcome.result.status == "success"
    assert ear.lines("retrying", "error") == [f"{api.name} retry 1/2..."]
    after = [each.kind for each in ear.heard].index("retrying")
    said = "".join(each.text for each in ear.heard[after:] if each.kind == "token")
    assert outcome.result.output == said


async def test_thoughts_stand_apart(api: Api) -> None:
    async with SimulatedOllama(split_lines=True) as server:
        outcome, ear = await api.run(server, model="qwen3:8b")
    assert isinstance(outcome, Finished)
    assert "thought" in ear.said("thinking")
    assert "thought" not in outcome.result.output


async def test_missing_counts_are_unknown(
    api: Api, simulated_ollama: SimulatedOllama
) -> None:
    simulated_ollama.fail_next("usage_missing")
    outcome, _ = await api.run(simulated_ollama)
    assert isinstance(outcome, Finished)
    result = outcome.result
    counts = (result.tokens_in, result.tokens_out)
    assert (result.status, counts) == ("success", (None, None))


async def test_stopping_closes_the_stream(
    api: Api, simulated_ollama: SimulatedOllama
) -> None:
    simulated_ollama.fail_next("stall")
    ear, stop = Ear(), Stop()
    ear.on_each(lambda: stop.request("cancelled"))
    outcome = await api.executor.run(api.asking(simulated_ollama), ear, stop)
    assert isinstance(outcome, Stopped)
    assert outcome.result is not None
    assert outcome.result.output == ear.said("token") != ""
    await simulated_ollama.wait_until(lambda: simulated_ollama.runs()[0].aborted)
    assert simulated_ollama.running == 0


async def test_nobody_there_is_given_back(api: Api) -> None:
    server = SimulatedOllama()
    await server.start()
    await server.stop()
    outcome, ear = await api.run(server)
    assert isinstance(outcome, Returned)
    assert len(ear.lines("retrying")) == 2
    assert outcome.result is not None
    assert outcome.result.tokens_in == 0


async def test_an_address_that_is_none_is_given_back_at_once(
    api: Api, simulated_ollama: SimulatedOllama
) -> None:
    outcome, ear = await api.run(simulated_ollama, endpoint_url="nonsense")
    assert isinstance(outcome, Returned)
    assert ear.lines("retrying") == []
