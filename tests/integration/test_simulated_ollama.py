"""The simulated Ollama, through the official client and on the bare socket."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import httpx
import ollama
import pytest

from sidecar.simulated.messages import ScriptedCall
from sidecar.simulated.ollama import Fault, Model, SimulatedOllama
from tests.support.simulated_llama import SimulatedLlamaServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HELLO = [{"role": "user", "content": "Say hello"}]
CHAT = {"model": "llama3.2", "messages": HELLO}
COMPLETION = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
async def official(
    simulated_ollama: SimulatedOllama,
) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(host=simulated_ollama.url)
    yield client
    await client._client.aclose()


@pytest.fixture
async def http(simulated_ollama: SimulatedOllama) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=simulated_ollama.url, timeout=None) as client:
        yield client


async def lines(http: httpx.AsyncClient, path: str, body: Any) -> list[Any]:
    """A streamed answer's JSON: NDJSON lines, or the data of server-sent events."""
    async with http.stream("POST", path, json=body) as response:
        assert response.status_code == 200
        texts = [
            line.removeprefix("data: ")
            async for line in response.aiter_lines()
            if line and not line.startswith(":")
        ]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


# -- the official client ------------------------------------------------------


async def test_the_client_lists_models_on_disk(official: ollama.AsyncClient) -> None:
    listed = await official.list()
    assert [model.model for model in listed.models] == ["llama3.2:latest", "qwen3:8b"]
    assert listed.models[0].details is not None
    assert listed.models[0].details.family == "simulated"


async def test_a_model_is_in_memory_from_its_first_use(
    official: ollama.AsyncClient,
) -> None:
    assert (await official.ps()).models == []
    await official.chat("llama3.2", HELLO)
    [loaded] = (await official.ps()).models
    assert loaded.model == "llama3.2:latest"
    assert loaded.size_vram == loaded.size
    assert loaded.context_length == 4096
    await official.chat("llama3.2", [], keep_alive=0)
    assert (await official.ps()).models == []


async def test_the_client_streams_a_chat_with_its_counts(
    official: ollama.AsyncClient,
) -> None:
    parts = [part async for part in await official.chat("llama3.2", HELLO, stream=True)]
    text = "".join(part.message.content or "" for part in parts)
    assert "simulated model's answer" in text
    assert '"Say hello"' in text
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].done_reason == "stop"
    assert parts[-1].eval_count == len(parts) - 1
    assert parts[-1].total_duration


async def test_the_client_generates_whole_answers(official: ollama.AsyncClient) -> None:
    answer = await official.generate("llama3.2", "Say hello")
    again = await official.generate("llama3.2", "Say hello")
    assert answer.done
    assert answer.response == again.response


async def test_a_thinking_model_thinks_first(official: ollama.AsyncClient) -> None:
    parts = [
        part
        async for part in await official.chat(
            "qwen3:8b", HELLO, stream=True, think=True
        )
    ]
    assert parts[0].message.thinking
    assert not parts[0].message.content
    assert "thinking" in ((await official.show("qwen3:8b")).capabilities or [])


@pytest.mark.parametrize(
    ("ask", "status", "words"),
    [
        ({"model": "nobody"}, 404, "model 'nobody' not found"),
        ({"think": True}, 400, '"llama3.2" does not support thinking'),
    ],
)
async def test_the_client_is_told_what_is_wrong(
    ask: dict[str, Any], status: int, words: str, official: ollama.AsyncClient
) -> None:
    with pytest.raises(ollama.ResponseError) as refused:
        await official.chat(**{"model": "llama3.2", "messages": HELLO, **ask})
    assert refused.value.status_code == status
    assert refused.value.error == words


@pytest.mark.parametrize(
    ("kind", "status"),
    [("busy", 503), ("internal", 500), ("missing", 404), ("bad_request", 400)],
)
async def test_the_client_meets_each_ordered_status_once(
    kind: Any,
    status: int,
    official: ollama.AsyncClient,
    simulated_ollama: SimulatedOllama,
) -> None:
    simulated_ollama.fail_next(kind)
    with pytest.raises(ollama.ResponseError) as refused:
        await official.chat("llama3.2", HELLO)
    assert refused.value.status_code == status
    assert (await official.chat("llama3.2", HELLO)).done


async def test_the_client_meets_an_error_in_the_middle(
    official: ollama.AsyncClient, simulated_ollama: SimulatedOllama
) -> None:
    simulated_ollama.fail_next("error_line", message="the runner died")
    parts = await official.chat("llama3.2", HELLO, stream=True)
    assert [(await anext(parts)).message.content for _ in "12"] == ["This ", "is "]
    with pytest.raises(ollama.ResponseError, match="the runner died"):
        await anext(parts)


# -- the bare socket -------------------------------------------------------------


async def test_everything_is_marked_as_simulated(http: httpx.AsyncClient) -> None:
    version = await http.get("/api/version")
    assert version.json() == {"version": "0.0.0-simulated"}
    models = (await http.get("/v1/models")).json()["data"]
    assert {model["owned_by"] for model in models} == {"simulated"}
    for answer in (version, await http.head("/"), await http.post("/api/chat")):
        assert answer.headers["X-AgentCom-Simulated"] == "1"


async def test_an_overlong_prompt_is_refused_only_without_truncation(
    http: httpx.AsyncClient,
) -> None:
    long = [{"role": "user", "content": "word " * 400}]
    body = {**CHAT, "messages": long, "options": {"num_ctx": 100}, "stream": False}
    refused = await http.post("/api/chat", json={**body, "truncate": False})
    assert refused.status_code == 400
    assert "context length" in refused.json()["error"]
    cut = await http.post("/api/chat", json=body)
    assert cut.json()["prompt_eval_count"] == 100  # its front is silently lost


async def test_num_predict_ends_an_answer_by_length(http: httpx.AsyncClient) -> None:
    said = await lines(http, "/api/chat", {**CHAT, "options": {"num_predict": 3}})
    assert len(said) == 4
    assert said[-1]["done_reason"] == "length"


async def test_lines_may_be_cut_anywhere() -> None:
    async with (
        SimulatedOllama(split_lines=True) as server,
        httpx.AsyncClient(base_url=server.url) as http,
        http.stream("POST", "/api/chat", json=CHAT) as response,
    ):
        chunks = [chunk async for chunk in response.aiter_raw()]
    assert any(not chunk.endswith(b"\n") for chunk in chunks)
    last = b"".join(chunks).splitlines()[-1]
    assert json.loads(last)["done"] is True


async def test_a_completion_streams_events_and_then_its_usage(
    http: httpx.AsyncClient,
) -> None:
    *content, usage, done = await lines(http, "/v1/chat/completions", COMPLETION)
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(content) - 1
    assert content[-1]["choices"][0]["finish_reason"] == "stop"
    assert all(each["usage"] is None for each in content)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_stream_may_simply_end(
    path: str, http: httpx.AsyncClient, simulated_ollama: SimulatedOllama
) -> None:
    simulated_ollama.fail_next("end")
    said = await lines(http, path, COMPLETION)
    assert len(said) == 2
    assert "[DONE]" not in said
    assert not any(each.get("done") for each in said)


@pytest.mark.parametrize("after", [0, 2])
async def test_a_connection_may_be_reset(
    after: int, http: httpx.AsyncClient, simulated_ollama: SimulatedOllama
) -> None:
    simulated_ollama.fail_next("reset", after=after)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await lines(http, "/api/chat", CHAT)


async def test_completions_have_faults_of_their_own(
    http: httpx.AsyncClient, simulated_ollama: SimulatedOllama
) -> None:
    path = "/v1/chat/completions"
    simulated_ollama.fail_next(
        "usage_missing", "usage_on_last", "error_line", "refuses_stream_options"
    )
    missing = await lines(http, path, COMPLETION)
    assert not any(each.get("usage") for each in missing[:-1])
    *_, last, _ = await lines(http, path, COMPLETION)
    assert last["choices"]
    assert last["usage"]["total_tokens"]
    assert "error" in (await lines(http, path, COMPLETION))[-1]
    refused = await http.post(path, json=COMPLETION)
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"


async def test_comments_malformed_and_long_lines_are_sent_as_ordered(
    http: httpx.AsyncClient, simulated_ollama: SimulatedOllama
) -> None:
    simulated_ollama.fail_next("comments", "malformed_line", "long_line", size=100_000)
    path = "/v1/chat/completions"
    texts = [(await http.post(path, json=COMPLETION)).text for _ in range(3)]
    assert "\n: still here\n" in texts[0]
    assert 'data: {"choices":[{"delta":{"cont\n' in texts[1]
    assert max(map(len, texts[2].splitlines())) > 100_000


@pytest.mark.parametrize(
    ("fault", "path"),
    [(Fault(kind="hang"), "/api/chat"), (Fault(kind="stall"), "/api/chat")],
)
async def test_whoever_gives_up_waiting_is_recorded_as_gone(
    fault: Fault,
    path: str,
    http: httpx.AsyncClient,
    simulated_ollama: SimulatedOllama,
) -> None:
    simulated_ollama.fail_next(fault)
    waiting = asyncio.create_task(http.post(path, json=CHAT))
    await simulated_ollama.wait_until(lambda: bool(simulated_ollama.runs()))
    assert (await http.get("/api/tags")).status_code == 200  # the others are answered
    waiting.cancel()
    await simulated_ollama.wait_until(lambda: simulated_ollama.runs()[0].aborted)
    assert simulated_ollama.running == 0


async def test_a_call_is_made_until_its_result_is_told(
    http: httpx.AsyncClient, simulated_ollama: SimulatedOllama
) -> None:
    """Whoever lost the answer, or asked something else first, gets it all the same."""
    first, second = (ScriptedCall(name="Bash", input={"n": n}) for n in (1, 2))
    simulated_ollama.calls += [first, second]
    said: list[dict[str, Any]] = [{"role": "user", "content": "Add a line"}]

    async def asked(messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        body = {"model": "llama3.2", "max_tokens": 9, "messages": messages}
        answer = await http.post("/v1/messages", json={**body, **more})
        [block] = answer.json()["content"]
        return dict(block)

    tools = {"tools": [{"name": "Bash", "input_schema": {"type": "object"}}]}
    assert (await asked([{"role": "user", "content": "A title"}]))["type"] == "text"
    lost = await asked(said, **tools)
    got = await asked(said, **tools)
    assert (lost["type"], lost["input"], lost) == ("tool_use", {"n": 1}, got)
    for n, expected in ((1, "tool_use"), (2, "text")):
        result = {"type": "tool_result", "tool_use_id": got["id"], "content": f"{n}"}
        said += [
            {"role": "assistant", "content": [got]},
            {"role": "user", "content": [result]},
        ]
        got = await asked(said, **tools)
        assert got["type"] == expected
    assert simulated_ollama.calls == []


async def test_aborting_a_cold_start_cancels_the_load() -> None:
    async with (
        SimulatedOllama(load_s=3600) as server,
        httpx.AsyncClient(base_url=server.url, timeout=None) as http,
    ):
        waiting = asyncio.create_task(http.post("/api/chat", json=CHAT))
        await server.wait_until(lambda: bool(server.runs()))
        waiting.cancel()
        await server.wait_until(lambda: server.runs()[0].aborted)
        assert server.loaded() == []


async def test_a_full_queue_is_busy() -> None:
    async with (
        SimulatedOllama(parallel=1, queue=0) as server,
        httpx.AsyncClient(base_url=server.url) as http,
    ):
        server.fail_next("stall")
        first = asyncio.create_task(http.post("/api/chat", json=CHAT))
        await server.wait_until(lambda: server.running == 1)
        refused = await http.post("/api/chat", json=CHAT)
        assert refused.status_code == 503
        assert refused.json()["error"].startswith("server busy")
        first.cancel()
        await server.wait_until(lambda: server.running == 0)


async def test_a_stopped_server_comes_back_at_its_address() -> None:
    async with SimulatedOllama([Model(name="small", size_vram=0)]) as server:
        url = server.url
        await server.stop()
        async with httpx.AsyncClient(base_url=url) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get("/api/version")
            await server.start()
            assert (await http.get("/api/version")).status_code == 200
        assert server.url == url


async def test_another_process_takes_orders_over_http() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "sidecar.simulated.ollama", "--model", "small", "--tokens-per-s", "0"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    address = json.loads(await process.stdout.readline())
    body = {**CHAT, "model": "small", "stream": False}
    async with httpx.AsyncClient(base_url=address["url"]) as http:
        ordered = await http.post("/simulated/faults", json=[{"kind": "busy"}])
        assert ordered.json() == {"faults": 1}
        assert (await http.post("/api/chat", json=body)).status_code == 503
        wrong = await http.post("/simulated/faults", json=[{"kind": "no such"}])
        assert wrong.status_code == 400
        [asked] = (await http.get("/simulated/requests")).json()
        assert asked["fault"] == "busy"
    process.terminate()
    assert await process.wait() == 0
    await process.stdout.read()


# -- what the real ones have, and what they lack ---------------------------------


async def test_it_has_no_route_that_the_real_one_lacks(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health")).status_code == 404


async def test_what_embeds_says_so_and_refuses_to_chat() -> None:
    models = [Model(name="all-minilm", embedding=True), Model(name="llama3.2")]
    async with (
        SimulatedOllama(models) as server,
        httpx.AsyncClient(base_url=server.url) as http,
    ):
        tags = (await http.get("/api/tags")).json()["models"]
        abilities = [each["capabilities"] for each in tags]
        assert abilities == [["embedding"], ["completion", "tools"]]
        for path in ("/api/chat", "/v1/chat/completions"):
            answer = await http.post(path, json={**CHAT, "model": "all-minilm"})
            assert answer.status_code == 400
            assert "does not support chat" in answer.text


async def test_a_llama_server_lists_what_is_loaded_and_knows_its_names() -> None:
    name, path = "ggml-org/gemma-3-270m-it-GGUF:Q8_0", "/v1/chat/completions"
    async with (
        SimulatedLlamaServer([name, "other"], n_ctx=64) as server,
        httpx.AsyncClient(base_url=server.url) as http,
    ):
        model, _ = (await http.get("/v1/models")).json()["data"]
        assert (model["id"], model["status"]["value"]) == (name, "unloaded")
        assert "meta" not in model
        assert (await http.get("/api/tags")).status_code == 404
        wrong = await http.post(path, json={**CHAT, "model": f"{name}:latest"})
        assert wrong.status_code == 400
        said = await lines(http, path, {**COMPLETION, "model": name})
        assert said[-1] == "[DONE]"
        model, _ = (await http.get("/v1/models")).json()["data"]
        assert (model["status"]["value"], model["meta"]["n_ctx"]) == ("loaded", 64)
        long = [{"role": "user", "content": "word " * 100}]
        refused = await http.post(path, json={"model": name, "messages": long})
        error = refused.json()["error"]
        assert refused.status_code == 400
        assert (error["type"], error["n_ctx"]) == ("exceed_context_size_error", 64)
