"""Options of an answer: model servers get them, and an answer is held to its schema."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from events import catalogue as c
from sidecar.executors.ollama import OllamaExecutor
from sidecar.executors.openai import OpenAIExecutor
from sidecar.executors.port import Finished, RawResult, Run, Stop
from sidecar.executors.schema import judged, problem
from sidecar.http import http_client
from sidecar.looks import Answered, ask_server
from sidecar.simulated.ollama import Fault, Model, SimulatedOllama
from tests.support.runs import QUICK, Ear, assignment
from tests.support.simulated_llama import SimulatedLlamaServer

if TYPE_CHECKING:
    from sidecar.executors.model_run import ModelExecutor

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["name", "count"],
    "additionalProperties": False,
}
EXECUTORS: dict[str, type[ModelExecutor]] = {
    "ollama": OllamaExecutor,
    "openai": OpenAIExecutor,
}


async def ask(
    kind: str, server: SimulatedOllama, **spec: Any
) -> tuple[RawResult, Ear, list[dict[str, Any]]]:
    """Run one task: its result, what was heard, what the server was asked."""
    executor = EXECUTORS[kind]()  # type: ignore[call-arg]
    ear = Ear()
    assign = assignment(
        limits=QUICK,
        target_type=kind,
        endpoint="gpu",
        endpoint_url=server.url,
        model="llama3.2:latest",
        spec=spec,
    )
    run = Run(assign=assign, cwd=Path("/"), env={})
    outcome = await executor.run(run, ear, Stop())
    await executor.close()
    assert isinstance(outcome, Finished)
    return outcome.result, ear, [each.body for each in server.runs()]


async def test_ollama_is_asked_with_the_options_of_the_task(
    simulated_ollama: SimulatedOllama,
) -> None:
    fields = {"system": "Be brief.", "max_tokens": 900, "temperature": 0.0}
    _, _, [body] = await ask("ollama", simulated_ollama, **fields)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["options"]["num_predict"] == 900
    assert body["options"]["temperature"] == 0


async def test_openai_servers_are_asked_with_the_options_of_the_task(
    simulated_ollama: SimulatedOllama,
) -> None:
    fields = {"system": "Be brief.", "max_tokens": 900, "temperature": 0.5}
    _, _, [body] = await ask("openai", simulated_ollama, **fields)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["max_tokens"], body["temperature"]) == (900, 0.5)


async def test_openai_servers_are_shown_a_picture_beside_the_text() -> None:
    data = b"\x89PNG"
    picture = c.Attachment(
        name="a.png", digest="0" * 64, size_bytes=4, media_type="image/png"
    )
    executor = OpenAIExecutor()
    async with SimulatedLlamaServer([Model(name="eyes", vision=True)]) as server:
        async with http_client() as client:
            look = await ask_server(client, "openai", server.url)
        assign = assignment(
            limits=QUICK,
            target_type="openai",
            endpoint="gpu",
            endpoint_url=server.url,
            model="eyes",
            spec={"description": "What is it?", "attachments": [picture]},
        )
        files = {picture.digest: data}
        run = Run(assign=assign, cwd=Path("/"), env={}, files=files)
        outcome = await executor.run(run, Ear(), Stop())
        await executor.close()
        [asked] = [each for each in server.runs() if each.place == "completions"]
    assert isinstance(look, Answered)
    assert "vision" in look.capabilities
    assert isinstance(outcome, Finished)
    assert outcome.result.status == "success"
    [message] = asked.body["messages"]
    text, shown = message["content"]
    assert text == {"type": "text", "text": "What is it?"}
    url = shown["image_url"]["url"]
    assert url == f"data:image/png;base64,{b64encode(data).decode()}"


@pytest.mark.parametrize("kind", EXECUTORS)
async def test_nothing_generates_without_an_end(
    kind: str, simulated_ollama: SimulatedOllama
) -> None:
    _, _, [body] = await ask(kind, simulated_ollama)
    told = body["options"]["num_predict"] if kind == "ollama" else body["max_tokens"]
    assert told == QUICK.max_output_tokens


async def test_a_newer_name_of_the_limit_is_learnt(
    simulated_ollama: SimulatedOllama,
) -> None:
    simulated_ollama.fail_next(Fault(kind="refuses_max_tokens", times=0))
    result, ear, bodies = await ask("openai", simulated_ollama, max_tokens=900)
    assert (result.status, ear.lines("retrying", "error")) == ("success", [])
    assert bodies[-1]["max_completion_tokens"] == 900
    assert "max_tokens" not in bodies[-1]


@pytest.mark.parametrize("kind", EXECUTORS)
async def test_an_answer_cut_where_it_was_asked_to_be_cut_is_one(
    kind: str, simulated_ollama: SimulatedOllama
) -> None:
    result, _, _ = await ask(kind, simulated_ollama, max_tokens=3)
    assert (result.status, result.length_limited) == ("success", True)


@pytest.mark.parametrize("kind", EXECUTORS)
async def test_an_answer_fits_the_schema_that_was_asked_for(
    kind: str, simulated_ollama: SimulatedOllama
) -> None:
    result, _, [body] = await ask(kind, simulated_ollama, json_schema=SCHEMA)
    assert result.status == "success"
    assert set(json.loads(result.output)) == {"name", "count"}
    asked = body.get("format") or body["response_format"]["json_schema"]["schema"]
    assert asked == SCHEMA


@pytest.mark.parametrize("kind", EXECUTORS)
async def test_an_answer_that_does_not_fit_is_told_so_and_asked_for_again(
    kind: str, simulated_ollama: SimulatedOllama
) -> None:
    simulated_ollama.fail_next("ignores_format")
    result, ear, bodies = await ask(kind, simulated_ollama, json_schema=SCHEMA)
    assert result.status == "success"
    assert set(json.loads(result.output)) == {"name", "count"}
    assert "does not fit the JSON schema" in bodies[1]["messages"][-1]["content"]
    assert len(ear.lines("retrying")) == 1
    assert result.tokens_out is not None
    assert result.tokens_out > len(result.output.split())


@pytest.mark.parametrize("kind", EXECUTORS)
async def test_an_answer_that_never_fits_is_a_failure_with_both_rounds_counted(
    kind: str, simulated_ollama: SimulatedOllama
) -> None:
    simulated_ollama.fail_next(Fault(kind="ignores_format", times=0))
    result, _, bodies = await ask(kind, simulated_ollama, json_schema=SCHEMA)
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.code == "schema"
    assert "It is not JSON" in result.error.message
    assert len(bodies) == 2


SLOW = {"type": "string", "pattern": "^(a+)+$"}
BLOWN: dict[str, Any] = {"$defs": {"n0": {"type": "string"}}, "$ref": "#/$defs/n40"}
for n in range(1, 41):
    one = {"$ref": f"#/$defs/n{n - 1}"}
    BLOWN["$defs"][f"n{n}"] = {"allOf": [one, one]}


@pytest.mark.parametrize("schema", [SLOW, BLOWN], ids=["pattern", "references"])
async def test_a_schema_that_takes_for_ever_ends_in_time(
    schema: dict[str, Any],
) -> None:
    said = await judged(schema, json.dumps("a" * 60 + "!"), limit_s=2.0)
    assert said == "It could not be held to the schema within 2 s."


def test_no_schema_reads_anything_from_elsewhere() -> None:
    for ref in ("http://127.0.0.1:9/x.json", "file:///etc/passwd"):
        assert "cannot be held to the schema" in problem({"$ref": ref}, "1")


def test_what_does_not_fit_is_said_with_its_place() -> None:
    said = problem(SCHEMA, '{"name": "x", "count": "three"}')
    assert said == "At $.count: 'three' is not of type 'integer'."
    assert problem(SCHEMA, ' {"name": "x", "count": 3}\n') == ""
