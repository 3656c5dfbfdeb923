"""When an endpoint counts as up, down or changed, and what its answers mean."""

from __future__ import annotations

from typing import Any

import pytest

from events.catalogue import EndpointState
from events.codec import instant
from events.models import normal_model
from sidecar.config import SidecarConfig
from sidecar.endpoints import UNUSABLE_S, Endpoints, Watched
from sidecar.executors.claude.notices import notice_in
from sidecar.executors.port import Finished, RawResult
from sidecar.http import base_url, header_key, shown_url, without_secrets
from sidecar.looks import Answered, ollama_answer, openai_answer
from sidecar.processes.family import Processes
from tests.support.runs import assignment

FOUND = Answered(version="1", models=["b", "a:7b"], loaded=["b"])


def watched(*, mentioned: bool = True) -> Watched:
    blank = EndpointState(endpoint="h1-gpu", kind="ollama", up=False, url="http://x")
    return Watched(blank, mentioned=mentioned)


def test_one_answer_makes_it_up_and_the_same_answer_is_no_news() -> None:
    each = watched()
    state = each.answered(FOUND, 0)
    assert state is not None
    assert (state.up, state.models, state.loaded) == (
        True,
        ["a:7b", "b:latest"],
        ["b:latest"],
    )
    assert each.answered(FOUND, 1) is None


def test_a_notice_of_the_model_is_told_once_and_until_a_run_shows_none() -> None:
    each = watched()
    each.answered(FOUND, 0)
    told = each.noticed("it was retired")
    assert told is not None
    assert (told.up, told.notice) == (True, "it was retired")
    assert each.noticed("it was retired") is None
    assert each.answered(FOUND, 1) is None
    gone = each.noticed("")
    assert gone is not None
    assert gone.notice == ""


def test_a_notice_of_an_endpoint_that_is_down_is_told_when_it_is_up() -> None:
    each = watched()
    each.answered(FOUND, 0)
    each.unusable("no credit", 1, 1)
    assert each.noticed("it was retired") is None
    each.believe()
    up = each.answered(FOUND, 2)
    assert up is not None
    assert (up.up, up.notice) == (True, "it was retired")


@pytest.mark.parametrize(
    ("status", "model", "notice", "told"),
    [
        ("success", None, "retired", "retired"),
        ("failed", None, "not found", "not found"),
        ("failed", None, "", "before"),
        ("success", None, "", ""),
        ("success", "opus", "retired", "before"),
        ("success", "opus", "", "before"),
    ],
)
def test_only_a_run_with_the_policy_s_model_speaks_of_it(
    status: Any, model: str | None, notice: str, told: str
) -> None:
    heard: list[EndpointState] = []
    endpoints = Endpoints(SidecarConfig(name="h1"), heard.append, Processes())
    (watched_claude,) = [
        entry.watched for entry in endpoints._entries.values() if entry.kind == "claude"
    ]
    watched_claude.answered(FOUND, 0)
    watched_claude.noticed("before")
    spec: dict[str, Any] = {"description": "x"}
    if model is not None:
        spec["model"] = model
    assign = assignment(target_type="claude", tier="complex", spec=spec, endpoint="")
    result = RawResult(status=status, notice=notice)
    endpoints.showed(assign, Finished(result))
    assert watched_claude.state.notice == told


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        (
            "x\n⚠ Claude Opus 4 will be retired on May 1. Consider it.\ny",
            "Claude Opus 4 will be retired on May 1. Consider it.",
        ),
        (
            "The model 'm' is deprecated and will reach end-of-life on Friday",
            "The model 'm' is deprecated and will reach end-of-life on Friday",
        ),
        (
            "⚠ opus-4 is automatically remapped to opus (Claude Opus 5).",
            "opus-4 is automatically remapped to opus (Claude Opus 5).",
        ),
        ("(node:1) DeprecationWarning: The `punycode` module is deprecated.", ""),
        ("claude: the option --foo is deprecated", ""),
        ("asking the model again", ""),
        ("", ""),
    ],
)
def test_a_notice_is_a_line_about_the_end_of_a_model(text: str, notice: str) -> None:
    assert notice_in(text) == notice


def test_other_models_are_news() -> None:
    each = watched()
    each.answered(FOUND, 0)
    state = each.answered(Answered(version="1", models=["c"]), 1)
    assert state is not None
    assert state.models == ["c:latest"]


def test_two_misses_in_a_row_make_it_down_and_one_answer_up_again() -> None:
    each = watched()
    each.answered(FOUND, 0)
    assert each.missed("refused") is None
    assert each.answered(FOUND, 1) is None
    assert each.missed("refused") is None
    down = each.missed("refused")
    assert down is not None
    assert (down.up, down.reason, down.loaded) == (False, "refused", [])
    assert each.missed("refused") is None
    up = each.answered(FOUND, 2)
    assert up is not None
    assert up.up


def test_a_first_miss_is_told_of_what_was_configured_and_of_nothing_else() -> None:
    down = watched().missed("refused")
    assert down is not None
    assert not down.up
    sought = watched(mentioned=False)
    assert sought.missed("refused") is None
    assert sought.missed("refused") is None
    assert sought.answered(FOUND, 0) is not None


def test_a_first_miss_is_told_of_what_is_known_to_be_there() -> None:
    slow = watched(mentioned=False)
    down = slow.missed("no answer in 4.5s", there=True)
    assert down is not None
    assert (down.up, down.reason) == (False, "no answer in 4.5s")
    assert slow.missed("no answer in 4.5s", there=True) is None
    assert slow.answered(FOUND, 0) is not None


def test_a_better_reason_takes_the_place_of_the_first_one() -> None:
    each = watched()
    each.missed("no answer in 4.5s")
    assert each.missed("refused", 1) is None
    known = each.missed("not logged in", 2, there=True)
    assert known is not None
    assert (known.up, known.reason) == (False, "not logged in")
    assert each.missed("not logged in", 3, there=True) is None
    each.answered(FOUND, 4)
    each.unusable("no credit", 5, 5)
    assert each.missed("not logged in", 6, there=True) is None


def test_a_success_in_between_forgives_a_miss() -> None:
    each = watched()
    each.answered(FOUND, 0)
    each.missed("died")
    each.worked()
    assert each.missed("died") is None


def test_what_would_refuse_its_next_run_is_down_for_a_while() -> None:
    each = watched()
    each.answered(FOUND, 0)
    down = each.unusable("not logged in", 100, 100)
    assert down is not None
    assert (down.up, down.reason) == (False, "not logged in")
    assert instant(down.again_at) == 100 + UNUSABLE_S
    assert each.answered(FOUND, 100 + UNUSABLE_S - 1) is None
    back = each.answered(FOUND, 100 + UNUSABLE_S)
    assert back is not None
    assert back.again_at == ""


def test_who_asks_for_another_look_gets_one_at_once() -> None:
    each = watched()
    each.answered(FOUND, 0)
    each.unusable("not logged in", 100, 100)
    each.believe()
    back = each.answered(FOUND, 101)
    assert back is not None
    assert (back.up, back.again_at) == (True, "")


def test_cloud_models_are_left_out() -> None:
    tags = {"models": [{"name": "a"}, {"name": "b", "remote_model": "b"}]}
    found = ollama_answer({"version": "1"}, tags, None, simulated=False)
    assert (found.models, found.loaded) == (["a"], [])


def test_answers_that_are_nonsense_are_no_models() -> None:
    for value in (None, [], "x", {"models": 3}, {"models": [None, {"name": 5}, "x"]}):
        assert ollama_answer(value, value, value, simulated=False).models == []
    for value in (None, [], {"data": 3}, {"data": [None, {"id": ""}, {"id": 5}]}):
        assert openai_answer(value, simulated=False).models == []


def test_a_simulated_version_is_recognised() -> None:
    version = {"version": "0.0.0-simulated"}
    assert ollama_answer(version, None, None, simulated=False).simulated


def test_names_and_addresses_are_spelled_one_way() -> None:
    assert normal_model("llama3.2") == normal_model("llama3.2:latest")
    assert normal_model("host:5000/llama") == "host:5000/llama:latest"


@pytest.mark.parametrize(
    ("kind", "routes"),
    [
        ("openai", ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/v1/models"]),
        ("ollama", ["", "/", "/v1", "/v1/chat/completions", "/api", "/api/chat/"]),
    ],
)
def test_an_address_is_read_one_way(kind: str, routes: list[str]) -> None:
    for route in routes:
        assert base_url(kind, f"http://x:1{route}") == "http://x:1"
    assert base_url(kind, "http://x:1/gpu1") == "http://x:1/gpu1"
    assert base_url("openai", "https://x/api/v1") == "https://x/api"


def test_what_does_not_answer_is_looked_at_quickly_and_then_ever_less() -> None:
    each = watched()
    each.answered(FOUND, 0)
    assert each.pause_s(0, 30, 0.25) == 30
    now, looks = 100.0, []
    each.missed("refused", now)
    while now < 110:
        now += each.pause_s(now, 30, 0.25)
        looks.append(now - 100)
        each.missed("refused", now)
    assert looks[:4] == [0.25, 0.5, 0.75, 1.0]
    # Back within 4 s of its absence: found before its tasks have waited for 5 s.
    assert any(4 <= look <= 5.25 for look in looks)
    assert each.pause_s(100 + 3600, 30, 0.25) == 30
    each.answered(FOUND, 3700)
    assert each.pause_s(3700, 30, 0.25) == 30


def test_what_nobody_named_and_nobody_found_is_not_looked_for_quickly() -> None:
    each = watched(mentioned=False)
    each.missed("refused", 100)
    assert each.pause_s(100, 30, 0.25) == 30


@pytest.mark.parametrize(
    ("model", "chats"),
    [
        ({"capabilities": ["completion", "tools"]}, True),
        ({"capabilities": ["embedding"]}, False),
        ({"capabilities": ["embedding", "completion"]}, True),
        ({"capabilities": ["vision"]}, True),
        ({"capabilities": []}, True),
        ({"capabilities": None}, True),
        ({"capabilities": {"completion_chat": False, "ocr": True}}, False),
        ({"capabilities": {"completion_chat": True}}, True),
        ({"type": "embeddings"}, False),
        ({"type": "llm"}, True),
        ({"object": "model"}, True),
        ({"details": {"family": "nomic-bert"}}, False),
        ({"details": {"family": "llama"}}, True),
    ],
)
def test_what_only_embeds_is_no_model_for_tasks(
    model: dict[str, Any], chats: bool
) -> None:
    named = {"models": [{"name": "m", **model}]}
    found = ollama_answer({}, named, None, simulated=False)
    assert found.models == (["m"] if chats else [])
    found = openai_answer({"data": [{"id": "m", **model}]}, simulated=False)
    assert found.models == (["m"] if chats else [])


def test_loaded_is_what_the_server_says_is() -> None:
    data = [
        {"id": "a", "status": {"value": "loaded"}},
        {"id": "b", "status": {"value": "unloaded"}},
        {"id": "c", "status": {"value": "loading"}},
        {"id": "d"},
        {"id": "e", "owned_by": "llamacpp", "meta": {"n_ctx": 512}},
        {"id": "f", "owned_by": "else", "meta": {"n_ctx": 512}},
    ]
    found = openai_answer({"data": data}, simulated=False)
    assert (found.models, found.loaded) == ([*"abcdef"], ["a", "e"])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://x:1/v1", "http://x:1/v1"),
        ("http://bob:geheim77@x:1", "http://***@x:1"),
        ("https://sk-abc@x/v1", "https://***@x/v1"),
        ("http://bob:a@b@x", "http://***@x"),
        ("http://x/v1?key=sk-abc", "http://x/v1?***"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    assert without_secrets(f"no answer of {url}", url) == f"no answer of {shown}"


def test_a_secret_is_hidden_however_it_is_repeated() -> None:
    url, key = "http://bob:pa%20ss@x", "sk-abc\n"
    text = f"pa ss, pa%20ss, bob:pa%20ss, {key!r}, sk-abc"
    hidden = without_secrets(text, url, key)
    for secret in ("pa ss", "pa%20ss", "sk-abc"):
        assert secret not in hidden


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("sk-abc\n", "a newline"),
        ("sk\rabc", "a newline"),
        ("sk-\u20ac", "a character that no header may hold"),
        ("sk\x00abc", "a character that no header may hold"),
    ],
)
def test_a_key_that_no_header_can_hold_is_named_by_its_variable(
    key: str, what: str
) -> None:
    with pytest.raises(ValueError, match=f"the key in MYKEY holds {what}") as wrong:
        header_key("MYKEY", key)
    assert "abc" not in str(wrong.value)
    assert header_key("MYKEY", "sk-abc") == "sk-abc"
    assert header_key("MYKEY", "") is None
