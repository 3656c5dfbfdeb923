"""OpenAI's embeddings, as far as bytes go: requests read, vectors encoded. Pure."""

from __future__ import annotations

import array
import sys
from base64 import b64decode
from typing import TYPE_CHECKING, Any, Final

import msgspec

from events.errors import Malformed, shown
from web.openai import (
    TIERS,
    TITLE_LENGTH,
    ChatRequest,
    labels_of,
    metadata_of,
    patience_of,
    priority_of,
    read_object,
    traceparent_of,
    without_nothing,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from events import catalogue as c

_READ: Final = frozenset({"model", "input", "encoding_format", "dimensions", "user"})


def read_embedding(raw: bytes, headers: Mapping[str, str]) -> tuple[ChatRequest, bool]:
    """Read a request, and whether its vectors are wanted as base64.

    Raises Malformed with the name of the parameter.
    """
    given = read_object(raw)
    model = given.get("model")
    if not isinstance(model, str) or not model or model in TIERS:
        raise Malformed("model", "the name of a model that embeds", shown(model))
    form = given.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise Malformed("encoding_format", "float or base64", shown(form))
    inputs = _inputs(given.get("input"))
    embed: dict[str, Any] = {"inputs": inputs}
    if given.get("dimensions") is not None:
        embed["dimensions"] = given["dimensions"]
    task: dict[str, Any] = {
        "description": " ".join(inputs[0].replace("\0", " ").split())[:TITLE_LENGTH]
        or "embedding",
        "embed": embed,
        "model": model,
        "tier": "standard",
        "priority": priority_of(None, headers),
        "labels": labels_of(headers),
        "traceparent": traceparent_of(headers),
        "metadata": metadata_of(None, given.get("user")),
    }
    asked = ChatRequest(
        model=model,
        stream=True,  # as its output comes; the answer is one body all the same
        include_usage=False,
        patience_s=patience_of(headers),
        task=without_nothing(task),
        ignored=sorted(str(name)[:60] for name in given.keys() - _READ),
    )
    return asked, form == "base64"


def _inputs(value: Any) -> list[str]:
    """Read a text, or a list of texts."""
    inputs = [value] if isinstance(value, str) else value
    if not isinstance(inputs, list) or not inputs:
        raise Malformed("input", "a text, or a list of texts", shown(value))
    for n, each in enumerate(inputs):
        if isinstance(each, int | list):
            raise Malformed(
                "input",
                "texts, since numbers of tokens are one tokenizer's (LangChain: "
                "check_embedding_ctx_length=False)",
                "numbers",
            )
        if not isinstance(each, str) or not each:
            raise Malformed(f"input[{n}]", "a text that is not empty", shown(each))
    return inputs


def vectors_of(
    text: str, model: str, result: c.Result, where: dict[str, Any], *, is_packed: bool
) -> bytes:
    """Spell the answer from a run's output: a list of vectors in base64."""
    packed = msgspec.json.decode(text, type=list[str])
    tokens = result.tokens_in
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": n,
                    "embedding": each if is_packed else _numbers(each),
                }
                for n, each in enumerate(packed)
            ],
            "model": model,
            "usage": None
            if tokens is None
            else {"prompt_tokens": tokens, "total_tokens": tokens},
            "agentcom": where,
        }
    )


def _numbers(packed: str) -> list[float]:
    numbers = array.array("f", b64decode(packed))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
