"""What model servers send, read however the network cut it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rules.prompt import prompt_for
from events.catalogue import FileHint, TaskSpec
from sidecar.executors.ndjson import Broken
from sidecar.executors.ollama import OllamaDialect, OllamaReader
from sidecar.executors.openai import OpenAIDialect, OpenAIReader
from sidecar.executors.pieces import ReplyEnd, Thought, Token
from sidecar.executors.server_errors import ModelFault, error_of_body, fault_of

OLLAMA = b"".join(
    json.dumps(line, ensure_ascii=False).encode() + b"\n"
    for line in (
        {
            "model": "m",
            "message": {"role": "assistant", "content": "", "thinking": "h"},
        },
        {"model": "m", "message": {"role": "assistant", "content": "a\u20ac"}},
        {"model": "m", "message": {"content": "b"}, "done": False},
        {"model": "m", "message": {"content": ""}, "done": True, "done_reason": "stop"}
        | {"prompt_eval_count": 7, "eval_count": 3, "total_duration": 5},
    )
)
OPENAI = (
    b": hello\n\n"
    + b"".join(
        b"data: " + json.dumps(line).encode() + b"\r\n\r\n"
        for line in (
            {"choices": [{"delta": {"role": "assistant", "content": None}}]},
            {"choices": [{"delta": {"reasoning_content": "h"}}], "usage": None},
            {"choices": [{"delta": {"content": "a\u20ac"}}]},
            {"choices": [{"delta": {"content": "b"}, "finish_reason": "length"}]},
            {"choices": [], "model": "m"}
            | {
                "usage": {"prompt_tokens": 9, "completion_tokens": 3}
                | {"prompt_tokens_details": {"cached_tokens": 2}}
            },
        )
    )
    + b"data: [DONE]\n\n"
)


def read(reader: Any, data: bytes, places: list[int]) -> list[Any]:
    bounds = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    pieces = []
    for start, end in pairwise(bounds):
        pieces += reader.feed(data[start:end])
    return pieces + reader.close()


@given(st.lists(st.integers(0, 700)))
def test_ollama_answers_read_the_same_however_cut(places: list[int]) -> None:
    *said, done = read(OllamaReader(), OLLAMA, places)
    assert said == [Thought("h"), Token("a\u20ac"), Token("b")]
    assert isinstance(done, ReplyEnd)
    assert (done.counts.tokens_in, done.counts.tokens_out) == (7, 3)


@given(st.lists(st.integers(0, 700)))
def test_openai_answers_read_the_same_however_cut(places: list[int]) -> None:
    *said, done = read(OpenAIReader(), OPENAI, places)
    assert said == [Thought("h"), Token("a\u20ac"), Token("b")]
    assert isinstance(done, ReplyEnd)
    counts = done.counts
    assert (counts.tokens_in, counts.cache_read, counts.tokens_out) == (7, 2, 3)
    assert done.reason == "length"


@given(st.binary(max_size=200), st.lists(st.integers(0, 900)))
def test_noise_in_the_stream_never_raises(noise: bytes, places: list[int]) -> None:
    for reader, data in ((OllamaReader(), OLLAMA), (OpenAIReader(), OPENAI)):
        read(reader, data[:40] + noise + data[40:], places)


def test_missing_counts_are_unknown_and_not_zero() -> None:
    (done,) = read(OllamaReader(), b'{"done":true}\n', [])
    assert (done.counts.tokens_in, done.counts.tokens_out) == (None, None)
    (done,) = read(OpenAIReader(), b"data: [DONE]\n\n", [])
    assert (done.counts.tokens_in, done.counts.tokens_out) == (None, None)


def test_a_model_that_runs_elsewhere_is_not_free() -> None:
    line = b'{"done":true,"remote_host":"https://ollama.com","eval_count":1}\n'
    (done,) = read(OllamaReader(), line, [])
    assert not done.counts.free


@pytest.mark.parametrize(
    ("line", "code", "whose"),
    [
        (b'data: {"error":{"message":"no","code":400}}\n\n', "bad_request", "work"),
        (b'data: {"error":{"message":"no","type":"x"}}\n\n', "server_error", "server"),
        (b'event: error\ndata: {"detail":"no"}\n\n', "server_error", "server"),
    ],
)
def test_errors_inside_a_stream_are_faults(line: bytes, code: str, whose: str) -> None:
    (fault,) = read(OpenAIReader(), line, [])
    assert isinstance(fault, ModelFault)
    assert (fault.code, fault.whose) == (code, whose)


def test_a_refusing_filter_is_the_works_answer() -> None:
    data = b'data: {"choices":[{"finish_reason":"content_filter"}]}\n\ndata: [DONE]\n\n'
    (fault,) = read(OpenAIReader(), data, [])
    assert (fault.code, fault.whose, fault.again) == ("refused", "work", False)


def test_a_line_of_another_shape_is_broken() -> None:
    (broken,) = read(OllamaReader(), b'{"message":"text"}\n', [])
    assert isinstance(broken, Broken)


@pytest.mark.parametrize(
    ("status", "code", "again", "whose"),
    [
        (400, "bad_request", False, "work"),
        (401, "not_authorised", False, "server"),
        (402, "credit", False, "server"),
        (404, "model_missing", False, "server"),
        (413, "prompt_too_long", False, "place"),
        (429, "busy", True, "place"),
        (499, "busy", True, "place"),
        (500, "server_error", True, "server"),
        (502, "server_error", True, "server"),
        (503, "busy", True, "place"),
        (302, "bad_endpoint", False, "server"),
    ],
)
def test_every_status_has_its_consequence(
    status: int, code: str, again: bool, whose: str
) -> None:
    fault = fault_of(status, error_of_body(b""), "m")
    assert (fault.code, fault.again, fault.whose) == (code, again, whose)


def test_a_model_is_loaded_under_its_full_name() -> None:
    body = b'{"models":[{"name":"llama3.2:latest","model":"llama3.2:latest"}]}'
    dialect = OllamaDialect()
    assert dialect.is_loaded(body, "llama3.2")
    assert not dialect.is_loaded(body, "llama3.2:1b")
    assert not dialect.is_loaded(b"nonsense", "llama3.2")


def test_stream_options_are_given_up_once_for_each_server() -> None:
    dialect = OpenAIDialect()
    body = b'{"error":{"message":"unknown field: stream_options"}}'
    assert not dialect.learn("http://a", 400, b"something else")
    assert dialect.learn("http://a", 400, body)
    assert not dialect.learn("http://a", 400, body)
    assert dialect.learn("http://b", 422, body)


def test_the_prompt_is_the_description_and_then_its_context() -> None:
    assert prompt_for(TaskSpec(description="Do it.")) == "Do it."
    spec = TaskSpec(
        description="Do it.",
        repo="shop",
        branch="fix",
        file_hints=[FileHint("a.py", "entry"), FileHint("b.py")],
        success_criteria=["It runs."],
        verification_steps=["make test"],
    )
    assert prompt_for(spec) == (
        "Do it.\n\nContext:\nRepository: shop\nBranch: fix\n"
        "Files:\n- a.py: entry\n- b.py\n"
        "Success criteria:\n- It runs.\nVerification steps:\n- make test"
    )
