"""What a host relies on, asked of a real Ollama and of the simulated one.

Where the real one comes from stands in `tests/support/real_ollama.py`.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from events import catalogue as c
from sidecar.executors.ollama import OllamaExecutor
from sidecar.executors.port import Finished, Returned, Run, Stop, Stopped
from sidecar.http import http_client
from sidecar.looks import Answered, ask_server
from sidecar.simulated.ollama import Model, SimulatedOllama
from tests.support.real_ollama import MODEL
from tests.support.runs import QUICK, Ear, assignment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from events.mail import Limits
    from sidecar.executors.port import Outcome

SERVERS = ["simulated", "real"]
TRAINED_FOR = 32_768
PATIENT = replace(
    QUICK,
    model_retries=0,
    num_ctx=512,
    first_token_warm_s=120.0,
    first_token_cold_s=120.0,
    idle_timeout_s=120.0,
    run_timeout_s=240.0,
)
"""A real model on a busy machine takes its time."""


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    if request.param == "real":
        yield request.getfixturevalue("real_ollama").url
        return
    model = Model(name="gemma", context_length=TRAINED_FOR, tools=False)
    async with SimulatedOllama([model]) as simulated:
        yield simulated.url


async def ask(
    url: str, text: str, limits: Limits = PATIENT, model: str = MODEL, **spec: Any
) -> tuple[Outcome, Ear]:
    executor, ear = OllamaExecutor(), Ear()
    wishes = {"max_tokens": 12, "temperature": 0.0, **spec}
    assign = assignment(
        endpoint="gpu",
        endpoint_url=url,
        model=model,
        limits=limits,
        spec={"description": text, **wishes},
    )
    try:
        run = Run(assign=assign, cwd=Path("/"), env={})
        return await executor.run(run, ear, Stop()), ear
    finally:
        await executor.close()


async def told(url: str, body: Any = None, method: str = "") -> tuple[int, Any]:
    """Status and value of an answer to a POST, without a body to a GET."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        http_client() as client,
        client.request(
            method or ("GET" if body is None else "POST"),
            url,
            data=None if body is None else data,
        ) as answer,
    ):
        raw = await answer.text()
    try:
        return answer.status, json.loads(raw)
    except ValueError:
        return answer.status, raw


async def streamed(url: str, body: Any) -> list[Any]:
    """The lines of a stream, each as a value."""
    async with (
        http_client() as client,
        client.post(url, data=json.dumps(body).encode()) as answer,
    ):
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "application/x-ndjson"
        text = await answer.text()
    return [json.loads(line) for line in text.splitlines()]


# -- What the product sees -------------------------------------------------------------


async def test_it_is_seen_with_its_model_and_what_that_can_do(server: str) -> None:
    async with http_client() as client:
        seen = await ask_server(client, "ollama", server)
    assert isinstance(seen, Answered), seen
    assert seen.models == [MODEL]
    assert seen.version
    assert seen.context_tokens[MODEL] == TRAINED_FOR
    assert {"chat", "messages"} <= set(seen.capabilities)
    assert seen.embedders == []


async def test_a_model_is_seen_in_memory_from_its_use_to_its_unloading(
    server: str,
) -> None:
    outcome, _ = await ask(server, "Say hello.")
    assert isinstance(outcome, Finished)
    async with http_client() as client:
        seen = await ask_server(client, "ollama", server)
    assert isinstance(seen, Answered)
    assert seen.loaded == [MODEL]
    status, said = await told(
        f"{server}/api/generate", {"model": "gemma", "keep_alive": 0}
    )
    assert (status, said["done"], said["done_reason"]) == (200, True, "unload")
    async with asyncio.timeout(60):
        while (await told(f"{server}/api/ps"))[1]["models"]:
            await asyncio.sleep(0.05)


# -- Runs ------------------------------------------------------------------------------


async def test_a_prompt_is_answered_streamed_and_counted(server: str) -> None:
    outcome, ear = await ask(server, "Say hello in five words.")
    assert isinstance(outcome, Finished), ear.lines("error")
    result = outcome.result
    assert result.status == "success"
    assert result.output == ear.said("token") != ""
    assert result.model_used == MODEL
    assert result.tokens_in is not None
    assert result.tokens_in > 3
    assert result.tokens_out is not None
    assert 1 < result.tokens_out <= 12


async def test_a_model_that_is_not_there_is_given_back_at_once(server: str) -> None:
    outcome, ear = await ask(server, "x", model="nobody")
    assert isinstance(outcome, Returned)
    assert outcome.exclude == "gpu"
    assert ear.lines("retrying", "error") == [
        "Ollama failed after 1 attempt: model 'nobody' not found"
    ]


async def test_a_prompt_that_does_not_fit_is_another_endpoints(server: str) -> None:
    """Every request says how much context it takes; this model was made for no more."""
    outcome, ear = await ask(server, "word " * 2 * TRAINED_FOR)
    assert isinstance(outcome, Returned), ear.heard
    assert (outcome.reason, outcome.exclude) == ("endpoint_unfit", "gpu")
    assert outcome.result is not None
    assert outcome.result.error is not None
    assert outcome.result.error.code == "prompt_too_long"


async def test_an_answer_keeps_to_its_form(server: str) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    outcome, ear = await ask(
        server, "Name a colour.", json_schema=schema, max_tokens=None
    )
    assert isinstance(outcome, Finished), ear.lines("error")
    assert json.loads(outcome.result.output)["colour"] in ("red", "blue")


async def test_who_is_told_to_stop_stops_and_the_server_takes_the_next(
    server: str,
) -> None:
    executor, ear, stop = OllamaExecutor(), Ear(), Stop()
    assign = assignment(
        endpoint="gpu",
        endpoint_url=server,
        model=MODEL,
        limits=PATIENT,
        spec={"description": "Count to a thousand.", "max_tokens": 400},
    )
    ear.on_each(lambda: ear.said("token") and stop.request("cancelled"))
    try:
        run = Run(assign=assign, cwd=Path("/"), env={})
        outcome = await executor.run(run, ear, stop)
    finally:
        await executor.close()
    assert isinstance(outcome, Stopped | Finished)
    again, _ = await ask(server, "Say hello.")
    assert isinstance(again, Finished)


async def test_vectors_are_for_models_that_make_them(server: str) -> None:
    outcome, ear = await ask(
        server, "x", embed=c.EmbedWishes(inputs=["a port", "a ship"])
    )
    if isinstance(outcome, Finished):
        first, second = (b64decode(each) for each in json.loads(ear.said("token")))
        assert len(first) == len(second) > 0
        assert first != second
    else:
        assert isinstance(outcome, Returned)
        assert (outcome.reason, outcome.unusable) == ("endpoint_unfit", False)
        assert "makes no embeddings" in outcome.detail


# -- What it says to whom --------------------------------------------------------------

HELLO = [{"role": "user", "content": "Say hello."}]
SHORT = {"num_predict": 3, "temperature": 0.0, "num_ctx": 512}


async def test_what_it_is_asked_everybody_is_told(server: str) -> None:
    assert await told(server) == (200, "Ollama is running")
    status, version = await told(f"{server}/api/version")
    assert (status, list(version)) == (200, ["version"])
    _, tags = await told(f"{server}/api/tags")
    [tag] = tags["models"]
    assert tag["name"] == tag["model"] == MODEL
    assert {"modified_at", "size", "digest", "details"} <= tag.keys()
    assert len(tag["digest"]) == 64
    assert {"format", "family", "parameter_size", "quantization_level"} <= tag[
        "details"
    ].keys()
    _, shown = await told(f"{server}/api/show", {"model": "gemma"})
    assert "completion" in shown["capabilities"]
    assert {"template", "details", "model_info", "modified_at"} <= shown.keys()
    kind = shown["model_info"]["general.architecture"]
    assert shown["model_info"][f"{kind}.context_length"] == TRAINED_FOR
    _, listed = await told(f"{server}/v1/models")
    [model] = listed["data"]
    assert (listed["object"], model["id"], model["object"]) == ("list", MODEL, "model")


@pytest.mark.parametrize("way", ["chat", "generate"])
async def test_a_stream_is_lines_and_the_last_one_counts(server: str, way: str) -> None:
    asked = {"messages": HELLO} if way == "chat" else {"prompt": "Say hello."}
    body = {"model": "gemma", "options": SHORT, **asked}
    *words, last = await streamed(f"{server}/api/{way}", body)
    field = "message" if way == "chat" else "response"
    for word in words:
        assert {"model", "created_at", field, "done"} <= word.keys()
        assert word["done"] is False
    if way == "chat":
        assert {each["message"]["role"] for each in words} == {"assistant"}
    assert (last["done"], last["done_reason"]) == (True, "length")
    assert last["eval_count"] == 3
    assert last["prompt_eval_count"] > 1
    durations = ("total_duration", "load_duration", "eval_duration")
    assert all(last[name] > 0 for name in durations)
    _, whole = await told(f"{server}/api/{way}", {**body, "stream": False})
    assert whole["done"] is True
    assert whole["eval_count"] == 3


REFUSED: dict[str, tuple[str, Any, int, str]] = {
    "no such route": ("/api/nope", {}, 404, "404 page not found"),
    "no such model": (
        "/api/chat",
        {"model": "nobody", "messages": HELLO},
        *(404, "model 'nobody' not found"),
    ),
    "no such model to show": (
        "/api/show",
        *({"model": "nobody"}, 404, "model 'nobody' not found"),
    ),
    "no such model to generate": (
        "/api/generate",
        *({"model": "nobody", "prompt": "x"}, 404, "model 'nobody' not found"),
    ),
    "no model": ("/api/chat", {"messages": HELLO}, 400, "model is required"),
    "no JSON": ("/api/chat", b'{"model":', 400, ""),
    "thoughts": (
        "/api/chat",
        {"model": "gemma", "messages": HELLO, "think": True},
        *(400, '"gemma" does not support thinking'),
    ),
    "tools": (
        "/api/chat",
        {
            "model": "gemma",
            "messages": HELLO,
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "parameters": {"type": "object"}},
                }
            ],
        },
        *(400, "does not support tools"),
    ),
    "too long": (
        "/api/chat",
        {
            "model": "gemma",
            "messages": [{"role": "user", "content": "word " * 2_000}],
            "truncate": False,
            "options": SHORT,
        },
        *(400, "context length"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_it_refuses_in_its_words(server: str, case: str) -> None:
    path, body, status, words = REFUSED[case]
    answered, value = await told(server + path, body)
    text = value["error"] if isinstance(value, dict) else value
    assert answered == status, text
    assert words in text


async def test_openais_way_refuses_in_openais_form(server: str) -> None:
    body = {"model": "nobody", "messages": HELLO}
    status, value = await told(f"{server}/v1/chat/completions", body)
    assert status == 404
    assert value["error"]["message"] == "model 'nobody' not found"
    assert value["error"]["type"]


async def test_it_speaks_the_messages_api(server: str) -> None:
    asked = {"model": "gemma", "max_tokens": 3, "messages": HELLO}
    status, whole = await told(f"{server}/v1/messages", asked)
    assert (status, whole["type"], whole["role"]) == (200, "message", "assistant")
    assert whole["stop_reason"] == "max_tokens"
    assert whole["usage"]["output_tokens"] == 3
    status, value = await told(f"{server}/v1/messages", {})
    assert (status, value["type"]) == (400, "error")


async def test_a_server_killed_in_the_middle_of_an_answer_is_an_endpoint_that_failed(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    real = request.getfixturevalue("real_ollama")
    executor, ear = OllamaExecutor(), Ear()
    assign = assignment(
        endpoint="gpu",
        endpoint_url=real.url,
        model=MODEL,
        limits=PATIENT,
        spec={"description": "Count to a thousand.", "max_tokens": 400},
    )
    killed = []

    def kill() -> None:
        if ear.said("token") and not killed:
            killed.append(True)
            real.stop()

    ear.on_each(kill)
    try:
        run = Run(assign=assign, cwd=Path("/"), env={})
        outcome = await executor.run(run, ear, Stop())
    finally:
        await executor.close()
        real.start()
        real.ready()
    assert killed
    assert isinstance(outcome, Returned)
    assert (outcome.reason, outcome.exclude) == ("endpoint_failed", "gpu")
    again, _ = await ask(real.url, "Say hello.")
    assert isinstance(again, Finished)
