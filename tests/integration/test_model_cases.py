"""What real model servers answer, byte by byte, and what a run makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from sidecar.executors.ollama import OllamaExecutor
from sidecar.executors.openai import OpenAIExecutor
from sidecar.executors.port import Finished, Returned, Run, Stop
from tests.support.canned import (
    Canned,
    canned,
    chunk,
    done,
    lines,
    said,
    sse,
    streamed,
    whole,
)
from tests.support.runs import QUICK, Ear, assignment

if TYPE_CHECKING:
    from events.mail import Limits
    from sidecar.executors.port import Outcome, RawResult

CHAT = {"ollama": "/api/chat", "openai": "/v1/chat/completions"}
HI = chunk({"content": "hi"})
STOP = chunk({}, "stop")
USAGE = sse({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7}})
DONE = sse("[DONE]")
WHOLE = {
    "choices": [
        {"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 11, "completion_tokens": 7},
}


async def ask(
    kind: str, server: Canned, limits: Limits = QUICK, **fields: Any
) -> tuple[Outcome, Ear]:
    usual = {"endpoint": "gpu", "endpoint_url": server.url, "model": "m"}
    assign = assignment(
        limits=limits, target_type=kind, endpoint_kind=kind, **{**usual, **fields}
    )
    executor = OllamaExecutor() if kind == "ollama" else OpenAIExecutor()
    ear = Ear()
    try:
        run = Run(assign=assign, cwd=Path("/"), env={})
        return await executor.run(run, ear, Stop()), ear
    finally:
        await executor.close()


async def answer(
    kind: str, *answers: bytes, hang: bool = False, limits: Limits = QUICK
) -> tuple[Outcome, Ear, int]:
    """Run against these answers: the outcome, what was heard, how often it was asked."""
    async with canned({CHAT[kind]: list(answers)}, hang=hang) as server:
        outcome, ear = await ask(kind, server, limits)
        return outcome, ear, server.asked.count(CHAT[kind])


def result_of(outcome: Outcome) -> RawResult:
    assert isinstance(outcome, Finished | Returned)
    assert outcome.result is not None
    return outcome.result


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
GOOD: dict[str, tuple[str, bytes]] = {
    "finish_reason, no [DONE]": ("openai", streamed(HI, STOP, USAGE)),
    "finish_reason, then dropped": ("openai", streamed(HI, STOP, USAGE, ends=False)),
    "[DONE] alone": ("openai", streamed(HI, USAGE, DONE)),
    "stream ignored": ("openai", whole(WHOLE)),
    "stream ignored, over lines": (
        "openai",
        whole("\n" + json.dumps(WHOLE, indent=2)),
    ),
    "stream ignored, as an event": ("openai", streamed(sse(WHOLE))),
    "events of bare JSON": (
        "openai",
        streamed(*(each.removeprefix("data: ") for each in (HI, STOP, USAGE))),
    ),
    "parts": (
        "openai",
        streamed(
            chunk({"content": [THINKING]}),
            chunk({"content": [{"type": "text", "text": "hi"}]}),
            *(STOP, USAGE, DONE),
        ),
    ),
    "odd side fields": (
        "openai",
        streamed(
            chunk({"content": "hi", "reasoning": None, "role": 5}, logprobs=[]),
            chunk(
                {}, "stop", usage={"prompt_tokens": 11.0, "completion_tokens": 7}
            ).replace('"model": "m"', '"model": null, "error": null'),
            DONE,
        ),
    ),
    "null thoughts": ("ollama", lines(said("hi", thinking=None), done())),
    "null counts beside": ("ollama", lines(said("hi"), done(total_duration=None))),
    "parts from ollama": (
        "ollama",
        lines(said([{"type": "text", "text": "hi"}]), done()),
    ),
}


@pytest.mark.parametrize("name", GOOD)
async def test_a_whole_answer_is_taken_however_it_is_framed(name: str) -> None:
    kind, body = GOOD[name]
    outcome, ear, asked = await answer(kind, body)
    assert isinstance(outcome, Finished), ear.lines("error")
    result = outcome.result
    assert (result.status, result.output, asked) == ("success", "hi", 1)
    assert (result.tokens_in, result.tokens_out) == (11, 7)


async def test_a_whole_answer_on_an_open_connection_is_taken_soon() -> None:
    limits = replace(QUICK, idle_timeout_s=0.3)
    body = streamed(HI, STOP, USAGE, ends=False)
    outcome, _, asked = await answer("openai", body, hang=True, limits=limits)
    result = result_of(outcome)
    assert (result.status, result.output, asked) == ("success", "hi", 1)
    assert (result.tokens_in, result.tokens_out) == (11, 7)


@pytest.mark.parametrize(
    "body", [streamed(HI), streamed(HI, ends=False), streamed(HI, USAGE)]
)
async def test_text_without_any_end_is_a_failure(body: bytes) -> None:
    outcome, _, asked = await answer("openai", body)
    error = result_of(outcome).error
    assert isinstance(outcome, Returned)
    assert error is not None
    assert (error.code, asked) == ("stream_died", 3)


TOO_LONG = "request (19185 tokens) exceeds the available context size"
NO_EYES = "image input is not supported - hint: you may need to provide the mmproj"
NO_MODEL = "The model `m` does not exist."
BAD: dict[str, tuple[str, bytes, str, str, int]] = {
    "error under 200, no frame": (
        "openai",
        streamed(f'{{"error":{{"code":400,"message":"{TOO_LONG}"}}}}'),
        *("prompt_too_long", TOO_LONG, 1),
    ),
    "error under 200, no frame, in mid-stream": (
        "openai",
        streamed(HI, '{"error":{"code":400,"message":"no such sampler"}}'),
        *("bad_request", "no such sampler", 1),
    ),
    "context, as llama.cpp says it": (
        "openai",
        whole(
            {
                "error": {
                    "code": 400,
                    "message": TOO_LONG,
                    "type": "exceed_context_size_error",
                    "n_prompt_tokens": 19185,
                    "n_ctx": 1024,
                }
            },
            "400 Bad Request",
        ),
        *("prompt_too_long", TOO_LONG, 1),
    ),
    "context, as a 500": (
        "openai",
        whole(
            {"error": {"code": 500, "message": "Context size has been exceeded."}},
            "500 Internal Server Error",
        ),
        *("prompt_too_long", "Context size has been exceeded.", 1),
    ),
    "context, as vLLM says it": (
        "openai",
        whole(
            {"object": "error", "message": "maximum context length is 4096 tokens"},
            "400 Bad Request",
        ),
        *("prompt_too_long", "maximum context length is 4096 tokens", 1),
    ),
    "no model, message at the top": (
        "openai",
        whole({"object": "error", "message": NO_MODEL, "code": 404}, "404 Not Found"),
        *("model_missing", NO_MODEL, 1),
    ),
    "no model, as a 400": (
        "openai",
        whole({"error": {"message": "model 'm' not found"}}, "400 Bad Request"),
        *("model_missing", "model 'm' not found", 1),
    ),
    "FastAPI's detail": (
        "openai",
        whole({"detail": [{"msg": "Field required"}]}, "422 Unprocessable Entity"),
        *("bad_request", "Field required", 1),
    ),
    "no eyes, as llama.cpp says it": (
        "openai",
        whole(
            {"error": {"code": 500, "message": NO_EYES, "type": "server_error"}},
            "500 Internal Server Error",
        ),
        *("bad_request", NO_EYES, 1),
    ),
    "only loaded": (
        "ollama",
        lines({**done("load"), "eval_count": None}),
        *("empty_answer", "the server gave no answer, only loaded its model", 3),
    ),
    "only an end": (
        "ollama",
        lines(done(eval_count=1)),
        *("empty_answer", "the model gave an empty answer", 3),
    ),
    "only white space": (
        "openai",
        streamed(chunk({"content": " \n"}), STOP, USAGE, DONE),
        *("empty_answer", "the model gave an empty answer", 3),
    ),
    "only thoughts": (
        "ollama",
        lines(said("", thinking="It is 42."), done()),
        *("empty_answer", "the model thought and gave no answer", 3),
    ),
    "only thoughts, cut": (
        "openai",
        streamed(chunk({"reasoning": "It is"}), chunk({}, "length"), USAGE, DONE),
        "empty_answer",
        "the model thought and gave no answer: it was cut at the length limit",
        1,
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_answer_says_why(name: str) -> None:
    kind, body, code, message, asked = BAD[name]
    outcome, ear, times = await answer(kind, body)
    result = result_of(outcome)
    assert result.status == "failed"
    assert result.error is not None
    assert (result.error.code, result.error.message) == (code, message)
    assert times == asked
    assert message in ear.lines("error")[0]


async def test_a_context_that_is_too_small_is_another_endpoints_chance() -> None:
    outcome, _, _ = await answer("openai", BAD["context, as llama.cpp says it"][1])
    assert isinstance(outcome, Returned)
    assert (outcome.reason, outcome.exclude) == ("endpoint_unfit", "gpu")


async def test_an_empty_answers_tokens_are_counted() -> None:
    outcome, _, _ = await answer("ollama", BAD["only thoughts"][1])
    result = result_of(outcome)
    assert isinstance(outcome, Finished)
    assert (result.tokens_in, result.tokens_out) == (11, 7)


@pytest.mark.parametrize("kind", ["ollama", "openai"])
async def test_an_answer_that_was_cut_says_so(kind: str) -> None:
    body = lines(said("then you mu"), done("length"))
    if kind == "openai":
        body = streamed(chunk({"content": "then you mu"}), chunk({}, "length"), DONE)
    outcome, ear, _ = await answer(kind, body)
    result = result_of(outcome)
    assert (result.status, result.length_limited) == ("failed", True)
    assert result.error is not None
    assert result.error.code == "length_limit"
    assert result.output == "then you mu"
    assert "length limit" in ear.lines("status")[0]
    outcome, _, _ = await answer("ollama", lines(said("you must"), done()))
    assert not result_of(outcome).length_limited


LOADING = whole(
    {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
    "503 Service Unavailable",
    "Retry-After: 0.01\r\n",
)
FINE = streamed(HI, STOP, USAGE, DONE)


async def test_a_server_that_loads_its_model_is_waited_for() -> None:
    limits = replace(QUICK, model_retries=0)
    outcome, ear, asked = await answer("openai", *[LOADING] * 5, FINE, limits=limits)
    assert result_of(outcome).output == "hi"
    assert asked == 6
    assert ear.lines("retrying") == []
    assert ear.lines("status") == ["Model server is loading: Loading model"]


async def test_a_server_that_never_has_loaded_its_model_is_left() -> None:
    limits = replace(QUICK, first_token_cold_s=0.1, model_retries=0)
    outcome, _, asked = await answer("openai", LOADING, limits=limits)
    assert isinstance(outcome, Returned)
    assert (outcome.reason, outcome.exclude) == ("endpoint_busy", "gpu")
    assert asked > 2


async def test_a_retry_comes_after_a_pause_and_not_before_the_server_wants_it() -> None:
    busy = whole({"error": "no"}, "429 Too Many Requests", "Retry-After: 0.2\r\n")
    broken = whole({"error": "no"}, "500 Internal Server Error")
    limits = replace(QUICK, model_backoff_s=[0.1, 0.3])
    outcome, ear, _ = await answer("openai", busy, broken, FINE, limits=limits)
    assert result_of(outcome).output == "hi"
    pauses = [each.more["backoff_s"] for each in ear.heard if each.kind == "retrying"]
    assert pauses == [0.2, 0.3]


async def test_a_server_that_wants_an_hour_is_left_to_others() -> None:
    busy = whole({"error": "no"}, "429 Too Many Requests", "Retry-After: 3600\r\n")
    outcome, _, asked = await answer("openai", busy)
    assert isinstance(outcome, Returned)
    assert (outcome.reason, asked) == ("endpoint_busy", 1)


@pytest.mark.parametrize(
    ("kind", "route"),
    [("ollama", "/v1"), ("openai", "/v1/chat/completions"), ("openai", "/v1/")],
)
async def test_a_run_reads_an_address_as_the_probe_does(kind: str, route: str) -> None:
    body = lines(said("hi"), done()) if kind == "ollama" else FINE
    async with canned({CHAT[kind]: [body]}) as server:
        outcome, _ = await ask(kind, server, endpoint_url=server.url + route)
    assert result_of(outcome).output == "hi"


async def test_what_a_server_repeats_of_a_secret_is_not_told() -> None:
    body = whole({"error": "wrong: bob:geheim77 / geheim77"}, "401 Unauthorized")
    async with canned({CHAT["openai"]: [body]}) as server:
        url = server.url.replace("http://", "http://bob:geheim77@")
        outcome, ear = await ask("openai", server, endpoint_url=url)
        assert "authorization: basic" in server.heads[0].lower()
    assert isinstance(outcome, Returned)
    for text in (outcome.detail, *ear.lines("error", "retrying", "status")):
        assert "geheim77" not in text
