"""Every fault of a simulated model server, by both of its APIs, ends as specified."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
from msgspec.structs import replace

from sidecar.executors.ollama import OllamaExecutor
from sidecar.executors.openai import OpenAIExecutor
from sidecar.executors.port import Finished, Returned, Run, Stop
from sidecar.simulated.ollama import Fault, FaultKind, SimulatedOllama
from tests.support.runs import QUICK, Ear, assignment

if TYPE_CHECKING:
    from sidecar.executors.model_run import ModelExecutor

LIMITS = replace(
    QUICK, first_token_warm_s=0.2, first_token_cold_s=0.2, idle_timeout_s=0.2
)
GIVEN_BACK, ITS_ANSWER, FINE = "given back", "its answer", "fine"

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
]


def test_no_fault_is_left_out() -> None:
    assert {row[0] for row in TABLE} == set(get_args(FaultKind))


@pytest.mark.parametrize("api", ["ollama", "openai"])
@pytest.mark.parametrize(
    ("kind", "settings", "ends", "code", "retries"),
    TABLE,
    ids=[f"{row[0]}{''.join(f'-{v}' for v in row[1].values())}" for row in TABLE],
)
async def test_a_lasting_fault_ends_as_it_should(
    api: str, kind: Any, settings: dict[str, Any], ends: str, code: str, retries: int
) -> None:
    executor: ModelExecutor = OllamaExecutor() if api == "ollama" else OpenAIExecutor()
    try:
        async with SimulatedOllama() as server:
            server.fail_next(Fault(kind=kind, times=0, **settings))
            usual = {"endpoint": "gpu", "endpoint_url": server.url, "model": "llama3.2"}
            run = Run(
                assign=assignment(limits=LIMITS, endpoint_kind=api, **usual),
                cwd=Path("/"),
                env={},
            )
            ear = Ear()
            outcome = await executor.run(run, ear, Stop())
    finally:
        await executor.close()
    assert isinstance(outcome, Returned if ends == GIVEN_BACK else Finished)
    assert isinstance(outcome, Finished | Returned)
    result = outcome.result
    assert result is not None
    assert (result.error.code if result.error else "") == code
    assert (result.status == "success") == (ends == FINE)
    if isinstance(outcome, Returned):
        assert (outcome.reason, outcome.exclude) == ("endpoint_failed", "gpu")
    assert len(ear.lines("retrying")) == retries
    assert len(ear.lines("error")) == (0 if ends == FINE else 1)
    if ends == FINE and kind not in ("usage_missing", "refuses_stream_options"):
        assert result.tokens_out
