"""What servers' own words say that their models can do."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from events.catalogue import EndpointState
from sidecar.abilities import fixed_context, is_variant, variant
from sidecar.endpoints import Watched
from sidecar.looks import Answered, ollama_answer, openai_answer
from sidecar.simulated.ollama import Model, SimulatedOllama
from tests.support.simulated_llama import SimulatedLlamaServer


def openai(model: dict[str, Any], **more: Any) -> Answered:
    return openai_answer({"data": [{"id": "m", **model}]}, simulated=False, **more)


@pytest.mark.parametrize(
    ("model", "more", "tokens"),
    [
        ({"max_model_len": 40_960}, {}, 40_960),
        ({"meta": {"n_ctx": 8_192, "n_ctx_train": 32_768}}, {}, 8_192),
        ({"meta": {"n_ctx_train": 32_768}}, {}, 32_768),
        (
            {"meta": {"n_ctx_train": 32_768}},
            {"props": {"default_generation_settings": {"n_ctx": 4_096}}},
            4_096,
        ),
        (
            {},
            {
                "more": {
                    "data": [
                        {
                            "id": "m",
                            "max_context_length": 131_072,
                            "loaded_context_length": 4_096,
                        }
                    ]
                }
            },
            4_096,
        ),
        ({"max_model_len": "many"}, {"props": [], "more": {"data": [7]}}, None),
        ({"max_model_len": True, "meta": 3}, {"props": {"n_ctx": -1}}, None),
    ],
)
def test_a_context_is_what_the_server_has_set_aside(
    model: dict[str, Any], more: dict[str, Any], tokens: int | None
) -> None:
    assert openai(model, **more).context_tokens.get("m") == tokens


@pytest.mark.parametrize(
    ("inputs", "sees"), [(["text"], False), (["text", "image"], True), ("image", False)]
)
def test_a_model_sees_that_takes_pictures(inputs: Any, sees: bool) -> None:
    seen = openai({"architecture": {"input_modalities": inputs}})
    assert ("vision" in seen.capabilities) is sees


def test_tools_are_believed_of_a_messages_api_unless_the_server_denies_them() -> None:
    assert openai({}, messages=True).capabilities == ["chat", "messages", "tools"]
    assert openai({}).capabilities == ["chat"]
    denied = {"chat_template_caps": {"supports_tool_calls": False}}
    assert "tools" not in openai({}, messages=True, props=denied).capabilities
    own = {"data": [{"id": "m", "type": "llm", "max_context_length": 4_096}]}
    assert "tools" not in openai({}, messages=True, more=own).capabilities


def test_an_ollama_says_it_of_each_model() -> None:
    tags = {
        "models": [
            {"name": "a", "digest": "1", "capabilities": ["completion", "tools"]},
            {"name": "b", "digest": "2", "capabilities": ["completion", "vision"]},
            {"name": variant("a", 32_768), "digest": "3"},
        ]
    }
    shows = {"a": {"model_info": {"llama.context_length": 131_072}}}
    found = ollama_answer(
        {"version": "0.14.0"}, tags, None, simulated=False, shows=shows, messages=True
    )
    assert found.models == ["a", "b"]
    assert found.capabilities == ["chat", "messages", "tools", "vision"]
    assert found.model_capabilities == {"a": ["chat", "tools"], "b": ["chat", "vision"]}
    assert found.context_tokens == {"a": 131_072}


def test_a_host_without_the_program_has_no_hands() -> None:
    answer = Answered(models=["m"], capabilities=["chat", "messages", "tools"])
    blank = EndpointState(endpoint="e", kind="openai", up=False)
    for program in (True, False):
        state = Watched(blank, mentioned=True).answered(answer, 0, program=program)
        assert state is not None
        assert ("hands" in state.capabilities) is program


def test_a_variant_is_known_by_its_name_and_a_fixed_context_by_its_parameters() -> None:
    assert is_variant(variant("qwen3:8b", 40_960))
    assert not is_variant("qwen3:8b")
    assert fixed_context('stop   "x"\nnum_ctx    32768\n') == 32_768
    assert fixed_context("num_ctx many") == fixed_context(None) == 0


@pytest.mark.parametrize("kind", ["llama", "ollama"])
async def test_the_simulated_servers_stream_the_api_s_events_in_its_order(
    kind: str,
) -> None:
    server = (
        SimulatedLlamaServer([Model(name="m")])
        if kind == "llama"
        else SimulatedOllama([Model(name="m")])
    )
    body = {
        "model": "m",
        "max_tokens": 100,
        "stream": True,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }
    async with server, aiohttp.ClientSession() as client:
        async with client.post(server.url + "/v1/messages", json={}) as refused:
            assert refused.status == (500 if kind == "llama" else 400)
            assert (await refused.json())["error"]["message"]
        async with client.post(server.url + "/v1/messages", json=body) as answer:
            lines = (await answer.text()).split("\n\n")
    events = [json.loads(each.split("data: ")[1]) for each in lines if each]
    kinds = [each["type"] for each in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert events[-2]["delta"]["stop_reason"] == "end_turn"
    assert events[0]["message"]["usage"]["input_tokens"] > 0
