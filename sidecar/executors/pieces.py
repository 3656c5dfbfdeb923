"""What a model server's answer consists of, whoever it comes from."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from sidecar.executors.ndjson import Broken
from sidecar.executors.server_errors import ModelFault


class Token(Struct, frozen=True):
    """A piece of the answer."""

    text: str


class Thought(Struct, frozen=True):
    """A piece of what the model thinks before it answers."""

    text: str


class TokenCounts(Struct, frozen=True, kw_only=True):
    """Tokens as the server counted them; None where it did not say.

    `tokens_in` excludes what came from its cache. `free` is False where the server hands
    the work to somebody who wants to be paid.
    """

    tokens_in: int | None = None
    tokens_out: int | None = None
    cache_read: int = 0
    model: str | None = None
    free: bool = True


class ReplyEnd(Struct, frozen=True, kw_only=True):
    """The stream's own end."""

    counts: TokenCounts
    reason: str = "stop"


class CallPart(Struct, frozen=True, kw_only=True):
    """A piece of a call of a tool: the `index` of the call, what is new of it."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


Piece = Token | Thought | CallPart | ReplyEnd | ModelFault | Broken


def spoken(value: Any, *, thought: bool = False) -> list[Piece]:
    """Read a text as servers send one: a string, nothing, or a list of parts."""
    if isinstance(value, str):
        if not value:
            return []
        return [Thought(value) if thought else Token(value)]
    if isinstance(value, list):
        return [piece for part in value for piece in spoken(part, thought=thought)]
    if isinstance(value, dict):
        thinks = thought or value.get("type") in ("thinking", "reasoning")
        for name in ("text", "thinking", "reasoning", "content"):
            if value.get(name):
                return spoken(value[name], thought=thinks or name not in _SAID)
    return []


_SAID = ("text", "content")


def token_count(value: Any) -> int | None:
    """Read a number of tokens; what is none is unknown."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < 1e12 and value == int(value) else None
