"""What a host relies on, asked of llama.cpp's real server and of the simulated one.

Where the real one comes from stands in `tests/support/llama_cpp.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from events import catalogue as c
from sidecar.executors.openai import OpenAIExecutor
from sidecar.executors.port import Finished, Returned, Run, Stop
from sidecar.http import http_client
from sidecar.looks import Answered, Missed, ask_server
from sidecar.simulated.ollama import Model
from tests.support.ports import free_port
from tests.support.runs import QUICK, Ear, assignment
from tests.support.simulated_llama import SimulatedLlamaServer

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


async def ask(
    url: str, model: str, text: str, *pictures: tuple[c.Attachment, bytes]
) -> tuple[Outcome, Ear]:
    executor, ear = OpenAIExecutor(), Ear()
    assign = assignment(
        target_type="openai",
        endpoint="lab",
        endpoint_kind="openai",
        endpoint_url=url,
        model=model,
        limits=QUICK.__class__(model_retries=0),
        spec={
            "description": text,
            "max_tokens": 12,
            "temperature": 0.0,
            "attachments": [each for each, _ in pictures],
        },
    )
    try:
        files = {each.digest: data for each, data in pictures}
        run = Run(assign=assign, cwd=Path("/"), env={}, files=files)
        return await executor.run(run, ear, Stop()), ear
    finally:
        await executor.close()


async def vectors(url: str, model: str) -> tuple[Outcome, Ear]:
    executor, ear = OpenAIExecutor(), Ear()
    assign = assignment(
        target_type="openai",
        endpoint="lab",
        endpoint_kind="openai",
        endpoint_url=url,
        model=model,
        limits=QUICK.__class__(model_retries=0),
        spec={
            "description": "x",
            "embed": c.EmbedWishes(inputs=["a port", "a ship"]),
        },
    )
    try:
        run = Run(assign=assign, cwd=Path("/"), env={})
        return await executor.run(run, ear, Stop()), ear
    finally:
        await executor.close()


@pytest.mark.parametrize("which", ["simulated", "real"])
async def test_texts_become_vectors_where_a_server_makes_them(
    which: str, request: pytest.FixtureRequest
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if which == "real":
            servers = request.getfixturevalue("real_llama")
            url = await servers.at(ctx=N_CTX, embeds=True)
        else:
            embedder = Model(name="gemma", embedding=True)
            server = SimulatedLlamaServer([embedder], n_ctx=N_CTX)
            url = (await stack.enter_async_context(server)).url
        outcome, ear = await vectors(url, "gemma")
    assert isinstance(outcome, Finished), ear.lines("error")
    first, second = (b64decode(each) for each in json.loads(ear.said("token")))
    assert len(first) == len(second) > 0
    assert first != second
    size = len(first) // 4
    assert outcome.result.output == f"2 vectors of {size} numbers"
    assert outcome.result.tokens_in
    assert (outcome.result.tokens_out, outcome.result.status) == (0, "success")


async def test_a_server_that_makes_no_vectors_is_fit_for_other_work(
    server: str, model: str
) -> None:
    outcome, _ = await vectors(server, model)
    assert isinstance(outcome, Returned)
    assert (outcome.reason, outcome.unusable) == ("endpoint_unfit", False)
    assert "makes no embeddings" in outcome.detail


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


# -- What it says to whom --------------------------------------------------------------

HI = {"role": "user", "content": "Say hello."}
SHORT = {"messages": [HI], "max_tokens": 3, "temperature": 0.0}
LONG = {"messages": [{"role": "user", "content": "word " * 2 * N_CTX}]}
PNG = "iVBORw0KGgo="
SEEN = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
SOURCE = {"type": "base64", "media_type": "image/png", "data": PNG}
COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/messages"
NO_EYES = "image input is not supported"

REFUSED: dict[str, tuple[str, Any, int, str, str]] = {
    "no such route": ("/v1/nope", None, 404, "not_found_error", "File Not Found"),
    "an Ollama's route": (
        "/api/version",
        *(None, 404, "not_found_error", "File Not Found"),
    ),
    "no messages": (
        COMPLETIONS,
        *({}, 400, "invalid_request_error", "'messages' is required"),
    ),
    "no messages there": (
        MESSAGES,
        *({}, 500, "server_error", "'messages' is required"),
    ),
    "no JSON": (COMPLETIONS, b'{"model":', 400, "invalid_request_error", ""),
    "no JSON there": (MESSAGES, b'{"model":', 400, "invalid_request_error", ""),
    "not a list": (
        COMPLETIONS,
        *({"messages": "x"}, 400, "invalid_request_error", ""),
    ),
    "not a number": (
        COMPLETIONS,
        *({**SHORT, "max_tokens": "many"}, 400, "invalid_request_error", ""),
    ),
    "too long": (COMPLETIONS, LONG, 400, "exceed_context_size_error", f"({N_CTX} t"),
    "too long, streamed": (
        COMPLETIONS,
        {**LONG, "stream": True},
        *(400, "exceed_context_size_error", f"({N_CTX} tokens)"),
    ),
    "too long there": (
        MESSAGES,
        {**LONG, "model": "gemma", "max_tokens": 3, "stream": True},
        *(400, "exceed_context_size_error", f"({N_CTX} tokens)"),
    ),
    "a picture": (
        COMPLETIONS,
        {"messages": [{"role": "user", "content": [SEEN]}]},
        *(500, "server_error", NO_EYES),
    ),
    "a picture there": (
        MESSAGES,
        {
            "max_tokens": 3,
            "messages": [
                {"role": "user", "content": [{"type": "image", "source": SOURCE}]}
            ],
        },
        *(500, "server_error", NO_EYES),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_it_refuses_in_one_form(server: str, case: str) -> None:
    path, body, status, kind, words = REFUSED[case]
    answered, value = await told(server + path, body)
    error = value["error"]
    assert (answered, error["code"], error["type"]) == (status, status, kind)
    assert words in error["message"]


async def told(url: str, body: Any, **headers: str) -> tuple[int, Any]:
    """Status and value of an answer to a POST, without a body to a GET."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        http_client() as client,
        client.request(
            *("GET" if body is None else "POST", url),
            data=None if body is None else data,
            headers=headers,
        ) as answer,
    ):
        return answer.status, await answer.json()


async def streamed(url: str, body: Any) -> list[Any]:
    """What the events of a stream hold."""
    async with (
        http_client() as client,
        client.post(url, json={**body, "stream": True}) as answer,
    ):
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        text = await answer.text()
    events = [
        line.removeprefix("data: ")
        for event in text.split("\n\n")
        for line in event.split("\n")
        if line.startswith("data: ")
    ]
    return [each if each == "[DONE]" else json.loads(each) for each in events]


async def test_what_it_is_asked_for_everybody_is_told(server: str, model: str) -> None:
    assert await told(f"{server}/health", None) == (200, {"status": "ok"})
    assert await told(f"{server}/v1/health", None) == (200, {"status": "ok"})
    status, listing = await told(f"{server}/v1/models", None)
    [listed] = listing["data"]
    assert (status, listing["object"]) == (200, "list")
    assert (listed["id"], listed["owned_by"]) == (model, "llamacpp")
    assert listed["meta"]["n_ctx"] == N_CTX
    assert listed["architecture"]["input_modalities"] == ["text"]
    assert "status" not in listed
    [beside] = listing["models"]
    assert (beside["name"], beside["capabilities"]) == (model, ["completion"])
    _, props = await told(f"{server}/props", None)
    assert props["default_generation_settings"]["n_ctx"] == N_CTX
    assert props["modalities"]["vision"] is False
    assert isinstance(props["chat_template_caps"]["supports_tools"], bool)
    _, slots = await told(f"{server}/slots", None)
    assert len(slots) == props["total_slots"]
    assert all({"id", "n_ctx", "is_processing"} <= each.keys() for each in slots)


async def test_it_answers_by_whatever_name_it_is_asked(server: str, model: str) -> None:
    status, whole = await told(server + COMPLETIONS, {**SHORT, "model": "another"})
    assert (status, whole["model"], whole["object"]) == (200, model, "chat.completion")
    [choice] = whole["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "length"
    usage = whole["usage"]
    assert usage["completion_tokens"] == 3
    assert usage["prompt_tokens"] + 3 == usage["total_tokens"]
    assert "cached_tokens" in usage["prompt_tokens_details"]


@pytest.mark.parametrize("counted", [False, True])
async def test_its_chunks_end_with_a_reason_and_a_mark(
    server: str, model: str, counted: bool
) -> None:
    options = {"stream_options": {"include_usage": True}} if counted else {}
    *chunks, mark = await streamed(server + COMPLETIONS, {**SHORT, **options})
    assert mark == "[DONE]"
    assert {each["model"] for each in chunks} == {model}
    assert {each["object"] for each in chunks} == {"chat.completion.chunk"}
    if counted:
        usage = chunks.pop()
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == 3
    assert not any("usage" in each for each in chunks)
    first, *words, last = [each["choices"][0] for each in chunks]
    assert first["delta"] == {"role": "assistant", "content": None}
    assert all(list(each["delta"]) == ["content"] for each in words)
    assert (last["delta"], last["finish_reason"]) == ({}, "length")
    assert {each["finish_reason"] for each in (first, *words)} == {None}


async def test_a_message_is_whole_or_a_stream_of_events(
    server: str, model: str
) -> None:
    asked = {"model": "any", "max_tokens": 3, "messages": [HI], "temperature": 0.0}
    status, whole = await told(server + MESSAGES, asked)
    assert (status, whole["type"], whole["role"]) == (200, "message", "assistant")
    assert (whole["model"], whole["stop_reason"]) == (model, "max_tokens")
    assert [block["type"] for block in whole["content"]] == ["text"]
    counts = {"input_tokens", "output_tokens", "cache_read_input_tokens"}
    assert (whole["usage"].keys(), whole["usage"]["output_tokens"]) == (counts, 3)

    events = await streamed(server + MESSAGES, asked)
    kinds = [each["type"] for each in events if each["type"] != "content_block_delta"]
    assert kinds == [
        *("message_start", "content_block_start", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    head = events[0]["message"]
    assert (head["content"], head["stop_reason"], head["model"]) == ([], None, model)
    assert head["usage"].keys() == counts
    assert events[1]["content_block"] == {"type": "text", "text": ""}
    assert {each["delta"]["type"] for each in events[2:-3]} == {"text_delta"}
    assert events[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] == 3


async def test_a_message_without_a_limit_is_answered_and_counted_beforehand(
    server: str,
) -> None:
    status, count = await told(f"{server}{MESSAGES}/count_tokens", {"messages": [HI]})
    assert (status, list(count)) == (200, ["input_tokens"])
    assert count["input_tokens"] > 1


# -- What the product sees -------------------------------------------------------------


async def test_it_is_seen_with_its_context_and_what_it_speaks(server: str) -> None:
    async with http_client() as client:
        seen = await ask_server(client, "openai", server)
    assert isinstance(seen, Answered)
    assert "messages" in seen.capabilities
    assert seen.context_tokens == {"gemma": N_CTX}
    assert seen.loaded == ["gemma"]


async def test_a_picture_that_it_cannot_see_is_for_another_endpoint(
    server: str, model: str
) -> None:
    """The server calls it its own fault, and is none the worse for it."""
    picture = c.Attachment(
        name="a.png", digest="0" * 64, size_bytes=8, media_type="image/png"
    )
    outcome, _ = await ask(server, model, "What is it?", (picture, b64decode(PNG)))
    assert isinstance(outcome, Returned), outcome
    assert (outcome.reason, outcome.exclude) == ("endpoint_unfit", "lab")
    assert not outcome.unusable
    assert NO_EYES in outcome.detail


@pytest.fixture(params=["simulated", "real"])
async def keyed(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A server that answers only who has the key."""
    if request.param == "real":
        yield await request.getfixturevalue("real_llama").at(ctx=N_CTX, key=KEY)
        return
    async with SimulatedLlamaServer(["gemma"], n_ctx=N_CTX, key=KEY) as simulated:
        yield simulated.url


KEY = "sk-of-a-test"


async def test_a_wrong_key_opens_nothing_but_its_health(keyed: str) -> None:
    assert (await told(f"{keyed}/health", None))[0] == 200
    for path, body in (("/v1/models", None), (COMPLETIONS, SHORT), (MESSAGES, {})):
        for headers in ({}, {"Authorization": "Bearer sk-other"}):
            status, value = await told(keyed + path, body, **headers)
            assert (status, value["error"]["code"]) == (401, 401)
            assert value["error"]["type"] == "authentication_error"
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"X-Api-Key": KEY}):
        assert (await told(f"{keyed}/v1/models", None, **headers))[0] == 200
    async with http_client() as client:
        seen = await ask_server(client, "openai", keyed, KEY)
        missed = await ask_server(client, "openai", keyed, "sk-other")
    assert isinstance(seen, Answered)
    assert "messages" in seen.capabilities
    assert missed == Missed("/v1/models answered 401")


@pytest.fixture(params=["simulated", "real"])
async def loading(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A server that is bringing its model into memory, and will have done so."""
    if request.param == "simulated":
        async with SimulatedLlamaServer(["gemma"]) as simulated:
            simulated.fail_next("busy", on="any", times=5, message="Loading model")
            yield simulated.url
        return
    async with request.getfixturevalue("real_llama").own(ctx=N_CTX) as server:
        server.start()
        await server.heard()
        yield server.url


async def test_all_of_it_says_that_it_loads_until_it_answers(loading: str) -> None:
    asked = [("/health", None), ("/v1/models", None), (COMPLETIONS, SHORT)]
    answers = await asyncio.gather(
        *(told(loading + path, body) for path, body in asked)
    )
    error = {"message": "Loading model", "type": "unavailable_error", "code": 503}
    assert answers == [(503, {"error": error})] * 3
    outcome, ear = await ask(loading, "gemma", "Say hello.")
    assert isinstance(outcome, Finished), outcome
    assert outcome.result.status == "success"
    assert any("is loading" in line for line in ear.lines("status"))


# -- The router, which has several models -----------------------------------------------


@pytest.fixture(params=["simulated", "real"])
async def router(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "real":
        servers = request.getfixturevalue("real_llama")
        async with servers.router(tmp_path, "first", "second") as url:
            yield url
        return
    async with SimulatedLlamaServer(["first", "second"], n_ctx=512) as simulated:
        yield simulated.url


async def test_a_router_knows_its_models_by_name_and_of_the_loaded_more(
    router: str,
) -> None:
    async def listed() -> dict[str, dict[str, Any]]:
        _, listing = await told(f"{router}/v1/models", None)
        assert "models" not in listing
        return {each["id"]: each for each in listing["data"]}

    before = await listed()
    assert list(before) == ["first", "second"]
    for each in before.values():
        assert (each["owned_by"], each["status"]["value"]) == ("llamacpp", "unloaded")
        assert "meta" not in each
    _, props = await told(f"{router}/props", None)
    assert (props["role"], props["default_generation_settings"]["n_ctx"]) == (
        "router",
        0,
    )
    missing = "model name is missing from the request"
    wanted = (
        ("/slots", None, missing),
        (COMPLETIONS, {}, missing),
        (MESSAGES, {}, missing),
        (COMPLETIONS, {**SHORT, "model": "first:latest"}, "model 'first:latest' not"),
    )
    for path, body, words in wanted:
        status, value = await told(router + path, body)
        error = value["error"]
        assert (status, error["type"]) == (400, "invalid_request_error")
        assert words in error["message"]

    async with http_client() as client:
        seen = await ask_server(client, "openai", router)
        assert isinstance(seen, Answered)
        assert (seen.models, seen.loaded) == (["first", "second"], [])
        assert "messages" in seen.capabilities
        outcome, _ = await ask(router, "first", "Say hello.")
        assert isinstance(outcome, Finished)
        assert outcome.result.model_used == "first"
        seen = await ask_server(client, "openai", router)
    assert isinstance(seen, Answered)
    assert (seen.loaded, seen.context_tokens) == (["first"], {"first": 512})
    after = await listed()
    assert [each["status"]["value"] for each in after.values()] == [
        "loaded",
        "unloaded",
    ]
    outcome, _ = await ask(router, "third", "Say hello.")
    assert isinstance(outcome, Returned)
    assert "model 'third' not found" in outcome.detail


async def test_a_server_that_is_no_ollama_is_told_how_to_be_added(server: str):
    async with http_client() as client:
        missed = await ask_server(client, "ollama", server)
    assert missed == Missed(
        "no Ollama is there: /api/version answered 404; "
        'an OpenAI-compatible server is of kind "openai"'
    )


async def test_a_server_that_is_gone_is_told_in_words_and_not_in_a_library_s():
    port = free_port()
    outcome, _ = await ask(f"http://127.0.0.1:{port}", "gemma", "Hi.")
    assert isinstance(outcome, Returned)
    assert f"no connection: connection refused (127.0.0.1:{port})" in outcome.detail
