"""Texts that become vectors: who may be asked, how the answer is read and spelled."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import msgspec
import pytest

from actors.rules.asking import check_asking
from actors.rules.policy import Policy
from actors.scheduler.fleet import pool_key
from actors.scheduler.places import Place
from actors.scheduler.queue import requirement
from events import catalogue as c
from events.errors import Malformed
from sidecar.abilities import can_chat, can_embed
from sidecar.executors.embed import EmbedReader, refused
from sidecar.executors.ndjson import Broken
from sidecar.executors.pieces import ReplyEnd, Token
from web.embeddings import read_embedding, vectors_of


def spec(**fields: Any) -> c.TaskSpec:
    usual = {
        "description": "x",
        "tier": "standard",
        "model": "nomic-embed-text",
        "embed": {"inputs": ["a port"]},
    }
    return msgspec.convert(usual | fields, c.TaskSpec)


def place(*, models: tuple[str, ...] = (), embedders: tuple[str, ...] = ()) -> Place:
    found = Place.__new__(Place)
    found.kind, found.endpoint_kind = "local", "ollama"
    found.models, found.embedders, found.loaded = models, embedders, frozenset()
    found.capabilities, found.model_capabilities = frozenset(), {}
    found.context_tokens = {}
    return found


def model_at(there: Place, task: c.TaskSpec) -> str | None:
    required = requirement(task, "standard", assign_to=None, mode="answer")
    return there.model_for(pool_key(required), Policy())[0]


def test_a_model_that_only_embeds_gets_texts_and_nothing_else():
    there = place(models=("llama3.2:latest",), embedders=("nomic-embed-text:latest",))
    assert model_at(there, spec()) == "nomic-embed-text:latest"
    assert model_at(there, spec(model="llama3.2")) == "llama3.2:latest"
    assert model_at(there, spec(model="bge-m3")) is None
    assert model_at(there, spec(embed=None)) is None
    assert model_at(there, spec(embed=None, model=None)) == "llama3.2:latest"
    assert model_at(place(embedders=("bge-m3",)), spec(embed=None, model=None)) is None


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"model": None}, "model"),
        ({"shell": {"command": "ls"}}, "embed"),
        ({"messages": [{"role": "user", "content": "x"}]}, "embed"),
        ({"embed": {"inputs": ["x" * 200_000, "y" * 200_000]}}, "embed.inputs"),
        ({"tier": "complex"}, "embed"),
    ],
)
def test_what_cannot_be_embedded_is_refused(fields: dict[str, Any], place: str):
    check_asking(spec())
    with pytest.raises(Malformed) as wrong:
        check_asking(spec(**fields))
    assert wrong.value.path == place


def test_an_answer_is_read_in_the_order_of_its_texts_and_spelled_both_ways():
    reader = EmbedReader(2)
    data = [
        {"embedding": [0.5, -1.0], "index": 1},
        {"embedding": [0.25, 2.0], "index": 0},
    ]
    body = json.dumps({"data": data, "usage": {"prompt_tokens": 3}, "model": "m"})
    assert reader.feed(body[:20].encode()) + reader.feed(body[20:].encode()) == []
    *told, end = reader.close()
    assert isinstance(end, ReplyEnd)
    assert (end.counts.tokens_in, end.counts.tokens_out) == (3, 0)
    assert reader.said == "2 vectors of 2 numbers"
    text = "".join(each.text for each in told if isinstance(each, Token))
    result = c.Result(status="success", tokens_in=3)
    spelled = json.loads(vectors_of(text, "m", result, {}, is_packed=False))
    assert [each["embedding"] for each in spelled["data"]] == [[0.25, 2], [0.5, -1]]
    assert spelled["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    packed = json.loads(vectors_of(text, "m", result, {}, is_packed=True))
    assert len(b64decode(packed["data"][0]["embedding"])) == 8


@pytest.mark.parametrize("body", ["", "{}", '{"data": []}', "<html>"])
def test_an_answer_that_is_none_is_broken(body: str):
    reader = EmbedReader(1)
    reader.feed(body.encode())
    [broken] = reader.close()
    assert isinstance(broken, Broken)


@pytest.mark.parametrize(
    ("status", "message", "whose"),
    [
        (501, "This server does not support embeddings", "place"),
        (400, "this model does not support embeddings", "place"),
        (404, "not found", "place"),
    ],
)
def test_a_server_without_embeddings_is_fit_for_other_work(
    status: int, message: str, whose: str
):
    fault = refused(status, json.dumps({"error": message}).encode(), "llama3.2")
    assert (fault.code, fault.whose) == ("no_embeddings", whose)
    assert (fault.unusable, fault.again) == (False, False)


def test_which_models_embed_is_what_their_server_says():
    embeds = {"capabilities": ["embedding"]}
    assert can_embed(embeds)
    assert not can_chat(embeds)
    assert can_embed({"details": {"family": "nomic-bert"}})
    assert not can_embed({"capabilities": ["completion"]})
    assert not can_embed({})


def test_a_request_is_read_as_openais_client_sends_it():
    body = {"model": "m", "input": "a port", "encoding_format": "base64", "x": 1}
    wish, is_packed = read_embedding(json.dumps(body).encode(), {})
    assert is_packed
    assert wish.task["embed"] == {"inputs": ["a port"]}
    assert (wish.task["tier"], wish.task["model"]) == ("standard", "m")
    assert wish.ignored == ["x"]
