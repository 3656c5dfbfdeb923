"""OpenAI's own client at AgentCom's door, with nothing changed but address and key."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from sidecar.simulated.messages import ScriptedCall
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
    return SimulatedOllama(
        [
            "llama3.2:latest",
            Model(name="llava:7b", vision=True),
            Model(name="nomic-embed-text:latest", embedding=True),
        ]
    )


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
    assert (answer.model_extra or {})["agentcom"]["estimated_cost_usd"] == 0
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
    # What headers cannot say, since they go first, is in the chunk that ends the choice.
    [where] = [c.agentcom for c in chunks if "agentcom" in (c.model_extra or {})]
    assert (where["tier"], where["endpoint"]) == ("standard", "h1-gpu")
    assert (where["estimated_cost_usd"], where["fallback_from_tier"]) == (0, None)


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
    assert names == [
        *("auto", "standard", "complex"),
        *("llama3.2:latest", "llava:7b", "nomic-embed-text:latest"),
    ]
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


def test_a_client_says_how_urgent_its_chats_are_and_labels_them(
    door: OpenDoor, client: OpenAI
) -> None:
    said = {"x-agentcom-priority": "high", "x-agentcom-labels": "team=search, app=ide"}
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=HELLO, extra_headers=said, metadata={"ticket": "7"}
    )
    task = door.task(raw.headers["x-agentcom-task"])["task"]
    assert task["priority"] == "high"
    assert task["spec"]["labels"] == {"team": "search", "app": "ide"}
    assert task["spec"]["metadata"] == {"ticket": "7"}
    for wrong in ("team", "Te am=x"):
        with pytest.raises(openai.BadRequestError, match="label"):
            client.chat.completions.create(
                model="auto",
                messages=HELLO,
                extra_headers={"x-agentcom-labels": wrong},
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
    with pytest.raises(openai.NotFoundError, match="/v1/chat/completions"):
        client.completions.create(model="auto", prompt="x")


# -- vectors ---------------------------------------------------------------------------


def test_texts_become_vectors_by_a_task(door: OpenDoor, client: OpenAI) -> None:
    texts = [f"port {n}" for n in range(300)]
    raw = client.embeddings.with_raw_response.create(
        model="nomic-embed-text", input=texts
    )
    answer = raw.parse()
    assert [each.index for each in answer.data] == list(range(300))
    assert all(len(each.embedding) == 8 for each in answer.data)
    # OpenAI's client asks for base64; as numbers they are the same.
    [again] = client.embeddings.create(
        model="nomic-embed-text", input=texts[7], encoding_format="float"
    ).data
    assert again.embedding == pytest.approx(answer.data[7].embedding)
    assert answer.usage.prompt_tokens == 600
    shown = door.task(raw.headers["x-agentcom-task"])["task"]
    assert shown["model_used"] == "nomic-embed-text:latest"
    assert shown["result"]["output"] == "300 vectors of 8 numbers"
    assert raw.headers["x-agentcom-endpoint"] == "h1-gpu"
    assert "nomic-embed-text:latest" in [each.id for each in client.models.list()]


def test_who_makes_no_vectors_says_so(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody here has bge-m3"):
        client.embeddings.create(model="bge-m3", input="x")
    with pytest.raises(openai.APIStatusError, match="makes no embeddings") as refused:
        client.embeddings.create(model="llama3.2", input="x")
    assert refused.value.status_code == 502
    for wrong, said in (
        ({"model": "auto", "input": "x"}, "a model that embeds"),
        (
            {"model": "nomic-embed-text", "input": [[1, 2]]},
            "check_embedding_ctx_length",
        ),
        ({"model": "nomic-embed-text", "input": []}, "a text, or a list of texts"),
    ):
        with pytest.raises(openai.BadRequestError, match=said):
            client.embeddings.create(**wrong)
    # What only embeds is asked nothing else.
    with pytest.raises(openai.NotFoundError, match="nobody here has nomic"):
        client.chat.completions.create(model="nomic-embed-text", messages=HELLO)


# -- tools, schemas, pictures ----------------------------------------------------------

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)


def test_a_tool_is_called_and_its_result_goes_back(
    client: OpenAI, ollama: SimulatedOllama
) -> None:
    ollama.calls.append(ScriptedCall(name="weather", input={"city": "Wien"}))
    asked: list[Any] = [{"role": "user", "content": "How is the weather in Wien?"}]
    answer = client.chat.completions.create(
        model="auto", messages=asked, tools=[WEATHER], tool_choice="auto"
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0]
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Wien"}

    result = {"role": "tool", "tool_call_id": call.id, "content": "19 degrees"}
    asked += [choice.message, result]
    answer = client.chat.completions.create(
        model="auto", messages=asked, tools=[WEATHER]
    )
    assert answer.choices[0].finish_reason == "stop"
    told = ollama.runs()[-1].body["messages"]
    function = {"name": "weather", "arguments": {"city": "Wien"}}
    assert told[1]["tool_calls"] == [{"function": function}]
    assert told[2] == {"role": "tool", "content": "19 degrees", "tool_name": "weather"}


def test_calls_of_tools_are_streamed_in_pieces(
    client: OpenAI, ollama: SimulatedOllama
) -> None:
    ollama.calls.append(ScriptedCall(name="weather", input={"city": "Wien"}))
    with client.chat.completions.stream(
        model="auto", messages=HELLO, tools=[WEATHER]
    ) as stream:
        answer = stream.get_final_completion()
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls is not None
    function = answer.choices[0].message.tool_calls[0].function
    assert (function.name, json.loads(function.arguments)) == (
        "weather",
        {"city": "Wien"},
    )


def test_what_ollama_cannot_be_told_is_refused_before_there_is_a_task(
    client: OpenAI, ollama: SimulatedOllama
) -> None:
    before = len(ollama.runs())
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="auto", messages=HELLO, tools=[WEATHER], tool_choice="required"
        )
    assert refused.value.param == "tool_choice"
    assert "Ollama cannot" in refused.value.message
    assert len(ollama.runs()) == before


class Port(BaseModel):
    name: str
    number: int


def test_an_answer_fits_the_schema_that_the_client_asks_for(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="auto", messages=HELLO, response_format=Port
    )
    assert isinstance(answer.choices[0].message.parsed, Port)


def test_json_may_be_any_object(client: OpenAI, ollama: SimulatedOllama) -> None:
    answer = client.chat.completions.create(
        model="auto", messages=HELLO, response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    assert ollama.runs()[-1].body["format"] == {"type": "object"}


def test_a_picture_goes_to_a_model_that_sees(
    door: OpenDoor, client: OpenAI, ollama: SimulatedOllama
) -> None:
    url = {"url": f"data:image/png;base64,{PIXEL}"}
    content = [
        {"type": "text", "text": "What is on it?"},
        {"type": "image_url", "image_url": url},
    ]
    seen: list[Any] = [{"role": "user", "content": content}]
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=seen)
    assert raw.parse().model == "llava:7b"
    [message] = ollama.runs()[-1].body["messages"]
    assert message["images"] == [PIXEL]
    task = door.task(raw.headers["x-agentcom-task"])["task"]
    assert PIXEL not in json.dumps(task)
    assert task["spec"]["attachments"][0]["media_type"] == "image/png"

    with pytest.raises(openai.BadRequestError, match="sees pictures"):
        client.chat.completions.create(model="llama3.2", messages=seen)
    url["url"] = "http://example.com/pic.png"
    with pytest.raises(openai.BadRequestError, match="nothing is fetched"):
        client.chat.completions.create(model="auto", messages=seen)


# -- what goes wrong -------------------------------------------------------------------


def test_a_try_that_fails_before_a_word_is_made_again_unseen(
    client: OpenAI, ollama: SimulatedOllama
) -> None:
    ollama.fail_next("internal")
    stream = client.chat.completions.create(model="auto", messages=HELLO, stream=True)
    said = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(said) == SAID


def test_a_stream_that_breaks_off_ends_with_an_error_and_its_task(
    door: OpenDoor, client: OpenAI, ollama: SimulatedOllama
) -> None:
    ollama.fail_next("reset", after=3)
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=HELLO, stream=True
    )
    before = len(ollama.runs())
    said: list[str] = []
    with pytest.raises(openai.APIError, match="broke off"):
        said.extend(chunk.choices[0].delta.content or "" for chunk in raw.parse())
    assert SAID.startswith("".join(said))
    assert said
    ended = door.system.run("wait", raw.headers["x-agentcom-task"])
    assert ended.returncode != 0
    assert door.task(raw.headers["x-agentcom-task"])["task"]["state"] == "cancelled"
    assert len(ollama.runs()) <= before + 1


@pytest.mark.parametrize("streamed", [True, False])
def test_who_hangs_up_cancels(
    door: OpenDoor, client: OpenAI, ollama: SimulatedOllama, streamed: bool
) -> None:
    ollama.fail_next("stall", after=2)
    count = len(ollama.runs())
    if streamed:
        stream = client.chat.completions.create(
            model="auto", messages=HELLO, stream=True
        )
        assert next(iter(stream)).choices[0].delta.content
        stream.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=1.0).chat.completions.create(
                model="auto", messages=HELLO
            )
    run = ollama.runs()[count]
    door.elsewhere.run(ollama.wait_until(lambda: run.aborted))
    tasks = door.system.json("tasks", "--limit", "1")["tasks"]
    door.system.run("wait", tasks[0]["task_id"])
    assert door.task(tasks[0]["task_id"])["task"]["state"] == "cancelled"


def test_who_would_wait_too_long_is_told_to_come_back(
    door: OpenDoor, client: OpenAI, ollama: SimulatedOllama
) -> None:
    ollama.fail_next(*["stall"] * 4, after=1)
    streams = [
        client.chat.completions.create(model="auto", messages=HELLO, stream=True)
        for _ in range(4)
    ]
    for stream in streams:
        next(iter(stream))
    with pytest.raises(openai.RateLimitError, match="x-agentcom-patience") as refused:
        client.chat.completions.create(
            model="auto", messages=HELLO, extra_headers={"x-agentcom-patience": "0.2"}
        )
    assert int(refused.value.response.headers["retry-after"]) >= 1
    for stream in streams:
        stream.close()
    answer = client.chat.completions.create(model="auto", messages=HELLO)
    assert answer.choices[0].message.content == SAID
