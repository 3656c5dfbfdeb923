"""OpenAI's own client at AgentCom's door, with nothing changed but address and key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai import OpenAI

from sidecar.simulated.ollama import Model, SimulatedOllama
from tests.support.doors import OpenDoor, open_door

if TYPE_CHECKING:
    from collections.abc import Iterator

HELLO: Any = [{"role": "user", "content": "hello there"}]
SAID = (
    "This is a simulated model's answer; no language model was asked. "
    'The prompt had 2 words: "hello there" A real model would now do the work.'
)


@pytest.fixture(scope="module")
def ollama() -> SimulatedOllama:
    return SimulatedOllama(["llama3.2:latest", Model(name="llava:7b", vision=True)])


@pytest.fixture(scope="module")
def door(
    ollama: SimulatedOllama, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenDoor]:
    with open_door(tmp_path_factory.mktemp("door"), {"gpu": ollama}) as door:
        yield door


@pytest.fixture
def client(door: OpenDoor) -> Iterator[OpenAI]:
    with OpenAI(base_url=door.base_url, api_key=door.api_key, max_retries=0) as client:
        yield client


def test_a_chat_is_a_task_that_is_routed_and_billed(
    door: OpenDoor, client: OpenAI
) -> None:
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=HELLO)
    answer = raw.parse()
    assert answer.choices[0].message.content == SAID
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(SAID.split())
    assert raw.headers["x-agentcom-tier"] == "standard"
    assert raw.headers["x-agentcom-endpoint"] == "h1-gpu"
    assert raw.headers["x-agentcom-cost"] == "0.000000"
    assert "x-agentcom-fallback" not in raw.headers

    shown = door.task(raw.headers["x-agentcom-task"])
    task = shown["task"]
    assert (task["description"], task["state"]) == ("hello there", "completed")
    assert task["spec"]["messages"] == HELLO
    assert shown["route"]["selected_endpoint"] == "h1-gpu"
    assert task["result"]["output"] == SAID


def test_a_stream_says_the_same_piece_by_piece(client: OpenAI) -> None:
    chunks = [
        *client.chat.completions.create(
            model="standard",
            messages=HELLO,
            stream=True,
            stream_options={"include_usage": True},
        )
    ]
    said = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(said) == SAID
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(SAID.split())


def test_a_named_model_is_that_one_and_an_unknown_one_is_not_found(
    client: OpenAI,
) -> None:
    answer = client.chat.completions.create(model="llava:7b", messages=HELLO)
    assert answer.model == "llava:7b"
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert refused.value.code == "model_not_found"
    assert refused.value.param == "model"
    assert "llama3.2" in refused.value.message


def test_models_are_listed(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["auto", "standard", "complex", "llama3.2:latest", "llava:7b"]
    assert client.models.retrieve("llava:7b").owned_by == "ollama"


def test_who_has_no_token_or_a_viewers_is_refused_in_openais_shape(
    door: OpenDoor, client: OpenAI
) -> None:
    with pytest.raises(openai.AuthenticationError, match="token"):
        client.with_options(api_key="wrong").models.list()
    viewer = client.with_options(api_key=door.viewer_key)
    assert list(viewer.models.list())
    with pytest.raises(openai.PermissionDeniedError, match="may look"):
        viewer.chat.completions.create(model="auto", messages=HELLO)


def test_parameters_reach_the_model(client: OpenAI, ollama: SimulatedOllama) -> None:
    client.chat.completions.create(
        model="auto",
        messages=[{"role": "system", "content": "Be brief."}, *HELLO],
        temperature=0.2,
        max_completion_tokens=900,
        seed=7,
        stop=["END"],
        top_p=0.5,
        frequency_penalty=0.1,
    )
    body = ollama.runs()[-1].body
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    options = {name: body["options"][name] for name in ("temperature", "num_predict")}
    assert options == {"temperature": 0.2, "num_predict": 900}
    assert (body["options"]["seed"], body["options"]["stop"]) == (7, ["END"])
    assert (body["options"]["top_p"], body["options"]["frequency_penalty"]) == (
        0.5,
        0.1,
    )


def test_an_answer_that_is_cut_says_so(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="auto", messages=HELLO, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content == "This is a "


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"temperature": 3}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"tools": [{"type": "code_interpreter"}]}, "tools[0]"),
        ({"model": "complex", "temperature": 0.5}, "temperature"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(
    client: OpenAI, given: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": "auto", "messages": HELLO, **given})
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


def test_what_is_not_served_says_what_is(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as refused:
        client.embeddings.create(model="auto", input="x")
    assert refused.value.status_code == 501
    with pytest.raises(openai.NotFoundError, match="/v1/chat/completions"):
        client.completions.create(model="auto", prompt="x")
