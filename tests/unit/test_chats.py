"""Chats: what is read of a request, what a task may say, how calls are put together."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import Any

import pytest

from actors.rules.chats import CHAT_LIMIT, check_chat, flattened
from actors.rules.classification import classify
from actors.rules.prompt import estimate
from actors.scheduler.queue import requirement
from events import catalogue as c
from events.chunks import Calls, call_line, called
from events.codec import Reader, encode
from events.errors import Malformed
from projections.fleet import EndpointView, HostView
from projections.world import World
from web.capacity import Capacity
from web.openai import read_chat

USER = c.ChatMessage(role="user", content="hello there")
WEATHER = {"type": "function", "function": {"name": "weather"}}
CALL = c.CalledTool(id="c1", function=c.CalledFunction("weather", "{}"))
DIGEST = "a" * 64


def chat(**fields: Any) -> c.TaskSpec:
    return c.TaskSpec(description="hello", **{"messages": [USER], **fields})


def read(body: Any = None, /, **more: Any) -> Any:
    given = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], **more}
    raw = json.dumps(given) if body is None else body
    return read_chat(raw.encode(), {})


# -- a task's messages -----------------------------------------------------------------


def test_messages_are_read_again_as_they_were_written() -> None:
    messages = [
        c.ChatMessage(role="system", content="Be brief."),
        c.ChatMessage(
            role="user", content=[c.TextPart("What?"), c.PicturePart(DIGEST)]
        ),
        c.ChatMessage(role="assistant", tool_calls=[CALL]),
        c.ChatMessage(role="tool", content="19", tool_call_id="c1"),
    ]
    spec = chat(messages=messages, chat=c.ChatWishes(tools=[WEATHER], seed=7))
    assert Reader(c.TaskSpec).decode(encode(spec)) == spec


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"shell": c.Shell(command="ls")}, "messages"),
        ({"repo": "shop"}, "messages"),
        ({"system": "x"}, "messages"),
        ({"messages": [], "chat": c.ChatWishes(seed=1)}, "chat"),
        ({"chat": c.ChatWishes(tools=[{"type": "search"}])}, "chat.tools[0]"),
        ({"chat": c.ChatWishes(tool_choice="auto")}, "chat.tool_choice"),
        (
            {"chat": c.ChatWishes(tools=[WEATHER], tool_choice="perhaps")},
            "chat.tool_choice",
        ),
        (
            {"chat": c.ChatWishes(tools=[WEATHER], tool_choice={"function": {}})},
            "chat.tool_choice",
        ),
        (
            {"messages": [c.ChatMessage(role="user", tool_calls=[CALL])]},
            "messages[0].tool_calls",
        ),
        ({"messages": [c.ChatMessage(role="tool")]}, "messages[0].tool_call_id"),
        (
            {"messages": [c.ChatMessage(role="user", content=[c.PicturePart(DIGEST)])]},
            "messages[0].content",
        ),
        (
            {"messages": [c.ChatMessage(role="user", content="x" * CHAT_LIMIT)]},
            "messages",
        ),
    ],
)
def test_a_chat_that_cannot_be_held_is_refused_by_its_place(
    fields: dict[str, Any], path: str
) -> None:
    with pytest.raises(Malformed) as refused:
        check_chat(chat(**fields))
    assert refused.value.path == path


def test_a_chat_is_written_out_for_who_takes_one_prompt() -> None:
    system = c.ChatMessage(role="system", content="Be brief.")
    assert flattened([system, USER]) == "Be brief.\n\nhello there"
    said = flattened([USER, c.ChatMessage(role="assistant", tool_calls=[CALL]), USER])
    assert "User: hello there" in said
    assert "You: [called weather with {}]" in said


def test_how_long_a_chat_is_says_nothing_of_its_tier() -> None:
    long = [c.ChatMessage(role="user", content="word " * 500)]
    spec = c.TaskSpec(description="word " * 60, messages=long)
    assert classify(spec).effective_tier == "standard"
    assert estimate(spec) > 500


def test_what_model_servers_alone_honour_keeps_a_chat_with_them() -> None:
    hard = "redesign the architecture"
    plain = c.TaskSpec(description=hard, messages=[USER])
    assert classify(plain).effective_tier == "complex"
    for fields in ({"temperature": 0.5}, {"chat": c.ChatWishes(tools=[WEATHER])}):
        spec = c.TaskSpec(description=hard, messages=[USER], **fields)  # type: ignore[arg-type]
        assert classify(spec).effective_tier == "standard"


def test_tools_are_required_of_a_model_and_a_choice_of_its_server() -> None:
    wishes = c.ChatWishes(tools=[WEATHER], tool_choice="required")
    needed = requirement(chat(chat=wishes), "standard", assign_to=None)
    assert (needed.tools, needed.choice, needed.chat) == (True, True, True)
    wishes = c.ChatWishes(tools=[WEATHER], tool_choice="auto")
    needed = requirement(chat(chat=wishes), "standard", assign_to=None)
    assert (needed.tools, needed.choice) == (True, False)


# -- a request -------------------------------------------------------------------------


def test_a_request_becomes_a_tasks_fields() -> None:
    asked = read(
        model="llama3.2",
        stop="END",
        max_tokens=5,
        service_tier="flex",
        chat_id="c-1",
        tool_choice="auto",
        parallel_tool_calls=True,
    )
    assert asked.task == {
        "description": "hi",
        "messages": [{"role": "user", "content": "hi"}],
        "priority": "low",
        "max_tokens": 5,
        "chat": {"stop": ["END"]},
        "tier": "standard",
        "model": "llama3.2",
    }
    assert (asked.stream, asked.ignored) == (False, ["chat_id"])


def test_a_picture_is_named_by_its_digest() -> None:
    png = base64.b64encode(b"\x89PNG").decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}}
    asked = read(messages=[{"role": "user", "content": [part, part]}])
    [(digest, data)] = asked.pictures.items()
    assert data == b"\x89PNG"
    content = asked.task["messages"][0]["content"]
    assert content == [{"type": "picture", "digest": digest}] * 2
    assert [each["digest"] for each in asked.task["attachments"]] == [digest]


@pytest.mark.parametrize(
    "body",
    [
        *("", "[]", "7", "{", "null", "[" * 5000, '"\\ud800"', '{"model":"auto"}'),
        '{"model":"auto","messages":"x"}',
        '{"model":"","messages":[{"role":"user"}]}',
        '{"model":"auto","messages":[{"role":"user","content":[{"type":"file"}]}]}',
    ],
)
def test_what_is_no_request_is_refused_in_a_sentence(body: str) -> None:
    with pytest.raises(Malformed) as refused:
        read(body)
    assert "`" not in str(refused.value)


@pytest.mark.parametrize("said", ["soon", "-1", "nan", "2h", "1e9"])
def test_a_patience_that_is_none_is_refused(said: str) -> None:
    body = b'{"model":"auto","messages":[{"role":"user","content":"x"}]}'
    with pytest.raises(Malformed, match="x-agentcom-patience"):
        read_chat(body, {"x-agentcom-patience": said})
    assert read_chat(body, {"x-agentcom-patience": "5m"}).patience_s == 300


# -- calls -----------------------------------------------------------------------------


def test_calls_are_put_together_however_their_lines_are_cut() -> None:
    text = (
        call_line(0, "c1", "weather", "")
        + call_line(1, "c2", "time", "{}")
        + call_line(0, "", "", '{"city":')
        + call_line(0, "", "", '"Wien"}')
    )
    for cut in range(len(text)):
        calls = Calls()
        pieces = calls.feed(text[:cut]) + calls.feed(text[cut:])
        assert len(pieces) == 4
        first, second = calls.whole()
        assert (first.id, first.function.arguments) == ("c1", '{"city":"Wien"}')
        assert (second.id, second.function.name) == ("c2", "time")


def test_calls_are_shown_as_people_read_them() -> None:
    line = call_line(0, "c1", "weather", '{"city":"Wien"}')
    assert called(line) == 'calls weather {"city":"Wien"}\n'


# -- who could take it -----------------------------------------------------------------


def fleet_of(*endpoints: EndpointView) -> tuple[Capacity, World]:
    """One host with these endpoints."""
    world = World()
    world.fleet.hosts["h1"] = HostView(
        host="h1",
        incarnation="1",
        state="up",
        since="",
        joined_at="",
        seq=1,
        endpoints={each.endpoint: each for each in endpoints},
    )
    runner: Any = SimpleNamespace(world=world)
    return Capacity(runner), world


def endpoint(kind: str = "ollama", **fields: Any) -> EndpointView:
    usual: dict[str, Any] = {"models": ["llama3.2:latest"], "slots": 2}
    return EndpointView(
        endpoint=f"e-{kind}", kind=kind, up=True, since="", **{**usual, **fields}
    )


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({}, None),
        ({"model": "llama3.2"}, None),
        ({"model": "gpt-4o"}, "model_not_found"),
        ({"tools": [WEATHER]}, "malformed"),
        ({"model": "complex", "tools": [WEATHER]}, None),
    ],
)
def test_what_nothing_there_can_take_is_refused(
    asked: dict[str, Any], code: str | None
) -> None:
    capacity, _ = fleet_of(endpoint(capabilities=["chat"]))
    refusal = capacity.refuses(read(**asked))
    assert (refusal.code if refusal is not None else None) == code


def test_where_nothing_is_there_yet_a_chat_may_wait() -> None:
    capacity, _ = fleet_of()
    assert capacity.refuses(read(model="llama3.2")) is None
    assert capacity.wait_s(read()) == 0


def test_a_wait_is_reckoned_from_the_last_runs_and_the_queue() -> None:
    capacity, world = fleet_of(endpoint())
    running: Any = SimpleNamespace(tier="standard", phase="running")
    done: Any = SimpleNamespace(
        recorded=SimpleNamespace(
            event=c.TaskCompleted(
                id="e",
                at="",
                by="host:h1",
                task_id="t",
                host="h1",
                route="r",
                generation=1,
                attempt=1,
                incarnation="1",
                result=c.Result(status="success", execution_ms=10_000),
            )
        ),
        task=running,
    )
    capacity.take(done)
    world.queue.under_way["a"] = running
    assert capacity.wait_s(read()) == 0
    world.queue.under_way["b"] = running
    assert capacity.wait_s(read()) == 5
    world.queue.lanes["standard", "normal"]["c"] = running
    assert capacity.wait_s(read()) == 10
    assert capacity.wait_s(read(service_tier="priority")) == 5
