"""When an endpoint counts as up, down or changed, and what its answers mean."""

from __future__ import annotations

import pytest

from actors.rules.models import normal_model
from events.catalogue import EndpointState
from events.codec import instant
from sidecar.endpoints import (
    UNUSABLE_S,
    Answered,
    Watched,
    ollama_answer,
    openai_answer,
)
from sidecar.http import base_url

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


def test_a_success_in_between_forgives_a_miss() -> None:
    each = watched()
    each.answered(FOUND, 0)
    each.missed("died")
    each.worked()
    assert each.missed("died") is None


def test_what_would_refuse_its_next_run_is_down_for_a_while() -> None:
    each = watched()
    each.answered(FOUND, 0)
    down = each.unusable("not logged in", 100)
    assert down is not None
    assert (down.up, down.reason) == (False, "not logged in")
    assert instant(down.again_at) == 100 + UNUSABLE_S
    assert each.answered(FOUND, 100 + UNUSABLE_S - 1) is None
    back = each.answered(FOUND, 100 + UNUSABLE_S)
    assert back is not None
    assert back.again_at == ""


def test_cloud_models_are_left_out() -> None:
    tags = {"models": [{"name": "a"}, {"name": "b", "remote_model": "b"}]}
    found = ollama_answer({"version": "1"}, tags, None, simulated=False)
    assert (found.models, found.loaded) == (["a"], [])


def test_answers_that_are_nonsense_are_no_models() -> None:
    for value in (None, [], "x", {"models": 3}, {"models": [None, {"name": 5}, "x"]}):
        assert ollama_answer(value, value, value, simulated=False).models == []
    for value in (None, [], {"data": 3}, {"data": [None, {"id": ""}, {"id": 5}]}):
        assert openai_answer(value, resident=True, simulated=False).models == []


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
