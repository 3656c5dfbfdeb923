"""Chats shared out: over servers by warmth and slots, and to Claude Code as a last resort."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai import OpenAI

from sidecar.simulated.messages import ScriptedCall
from sidecar.simulated.ollama import SimulatedOllama
from tests.support.doors import OpenDoor, open_door
from tests.support.simulated_llama import SimulatedLlamaServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.llama_cpp import RealServers

HELLO: Any = [{"role": "user", "content": "hello there"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def client_of(door: OpenDoor) -> OpenAI:
    return OpenAI(base_url=door.base_url, api_key=door.api_key, max_retries=0)


@pytest.fixture(scope="module")
def servers() -> dict[str, SimulatedOllama]:
    return {
        "one": SimulatedOllama(["llama3.2:latest"], tokens_per_s=40),
        "two": SimulatedLlamaServer(["gemma"], tokens_per_s=40),
    }


@pytest.fixture(scope="module")
def door(
    servers: dict[str, SimulatedOllama], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenDoor]:
    with open_door(tmp_path_factory.mktemp("door"), servers, slots=2) as door:
        yield door


def test_a_tool_that_is_prescribed_goes_to_a_server_that_can_be_told(
    door: OpenDoor,
) -> None:
    with client_of(door) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="auto", messages=HELLO, tools=[WEATHER], tool_choice="required"
        )
    assert raw.headers["x-agentcom-endpoint"] == "h1-two"
    message = raw.parse().choices[0].message
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.name == "weather"


def test_pieces_of_a_call_come_as_their_server_sends_them(
    door: OpenDoor, servers: dict[str, SimulatedOllama]
) -> None:
    servers["two"].calls.append(ScriptedCall(name="weather", input={"city": "Wien"}))
    with client_of(door) as client:
        stream = client.chat.completions.create(
            model="gemma", messages=HELLO, tools=[WEATHER], stream=True
        )
        deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
    pieces = [piece for each in deltas for piece in each.tool_calls or ()]
    assert len(pieces) == 3
    assert (pieces[0].id, pieces[0].index) == ("call_simulated", 0)
    said = "".join(p.function.arguments or "" for p in pieces if p.function)
    assert json.loads(said) == {"city": "Wien"}


def test_an_endpoint_that_dies_before_a_word_is_replaced_unseen(
    door: OpenDoor, servers: dict[str, SimulatedOllama]
) -> None:
    for server in servers.values():
        server.faults.clear()
    servers["two"].fail_next("reset", after=0, times=3)
    with client_of(door) as client:
        for _ in range(4):
            answer = client.chat.completions.create(model="auto", messages=HELLO)
            assert answer.choices[0].message.content
    servers["two"].faults.clear()


def test_two_simulated_and_two_real_servers_share_chats(
    servers: dict[str, SimulatedOllama],
    real_llama: RealServers,
    tmp_path: Any,
) -> None:
    real = {
        name: asyncio.run(real_llama.at(ctx=1024, name=name, parallel=2))
        for name in ("real-a", "real-b")
    }
    more = "".join(
        f'[[endpoint]]\nname = "{name}"\nkind = "openai"\nurl = "{url}"\nslots = 2\n'
        for name, url in real.items()
    )
    simulated = {
        "one": SimulatedOllama(["llama3.2:latest"], tokens_per_s=20),
        "two": SimulatedLlamaServer(["gemma"], tokens_per_s=20),
    }
    with (
        open_door(tmp_path, simulated, slots=2, more=more) as door,
        client_of(door) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        names = {model.id for model in client.models.list()}
        assert {"llama3.2:latest", "gemma", *real} <= names

        def ask(model: str) -> tuple[str, str]:
            raw = client.chat.completions.with_raw_response.create(
                model=model, messages=HELLO, max_tokens=24, temperature=0
            )
            assert raw.parse().choices[0].finish_reason in ("stop", "length")
            return raw.headers["x-agentcom-endpoint"], raw.parse().model

        # Eight at once fill the eight slots, two of each server's.
        shared = Counter(place for place, _ in pool.map(ask, ["auto"] * 8))
        assert shared == {f"h1-{name}": 2 for name in (*simulated, *real)}
        # A name is that model, however busy or idle the others are.
        assert {ask(name) for name in real} == {(f"h1-{n}", n) for n in real}

        # What a real server is told of a schema, it keeps to.
        answer = client.chat.completions.create(
            model="real-b",
            messages=HELLO,
            max_tokens=64,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "yes", "schema": {"type": "boolean"}},
            },
        )
        assert json.loads(answer.choices[0].message.content or "") in (True, False)


def test_claude_code_answers_chats_and_refuses_what_it_cannot_do(
    simulated_claude: Any, tmp_path: Any
) -> None:
    head = f'discover = false\n[claude]\nprogram = "{simulated_claude.program}"\n'
    with open_door(tmp_path, {}, head=head) as door, client_of(door) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="complex",
            messages=[{"role": "system", "content": "Be brief."}, *HELLO],
        )
        assert raw.parse().choices[0].message.content
        assert raw.headers["x-agentcom-tier"] == "complex"
        left = client.chat.completions.with_raw_response.create(
            model="auto", messages=HELLO
        )
        assert left.headers["x-agentcom-fallback"] == "standard"
        assert left.headers["x-agentcom-tier"] == "complex"
        stream = client.chat.completions.create(
            model="complex", messages=HELLO, stream=True
        )
        said = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
        assert "hello there" in said
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(
                model="complex", messages=HELLO, tools=[WEATHER]
            )
        assert refused.value.param == "tools"
        with pytest.raises(openai.InternalServerError) as late:
            client.chat.completions.create(
                model="standard",
                messages=HELLO,
                temperature=0,
                extra_headers={"x-agentcom-patience": "1"},
            )
        assert late.value.status_code == 503
        assert "standard" in late.value.message
