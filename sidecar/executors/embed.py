"""Vectors: `POST /v1/embeddings`, which Ollama and OpenAI-compatible servers both have.

The answer is one body of JSON. Its vectors go out as live output, as base64 of float32
like OpenAI's own, in one list of JSON; the log keeps how many there are, not the numbers.
"""

from __future__ import annotations

import array
import sys
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct, structs

from sidecar.executors.dialect import Dialect, ModelRequest
from sidecar.executors.ndjson import Broken
from sidecar.executors.pieces import (
    Piece,
    ReplyEnd,
    Token,
    TokenCounts,
    token_count,
)
from sidecar.executors.server_errors import ModelFault, error_of_body, fault_of

if TYPE_CHECKING:
    from sidecar.executors.port import Run

_BODY_BYTES: Final = 64 * 2**20
_PIECE: Final = 32_768
_LACKING: Final = (404, 405, 501)
"""What servers answer that have no embeddings at all."""


class _Vector(Struct):
    embedding: list[float]
    index: int = 0


class _Vectors(Struct):
    data: list[_Vector]
    # Beside the vectors, and no reason to refuse them whatever they are.
    model: Any = ""
    usage: Any = None


class EmbedDialect(Dialect):
    """The request for vectors, which is the same on all servers."""

    def request(self, run: Run, base: str) -> ModelRequest:
        """All of the task's texts."""
        wishes = run.assign.spec.embed
        assert wishes is not None
        body: dict[str, Any] = {
            "model": run.assign.model,
            "input": wishes.inputs,
            "encoding_format": "float",
        }
        if wishes.dimensions is not None:
            body["dimensions"] = wishes.dimensions
        return ModelRequest("/v1/embeddings", msgspec.json.encode(body))

    def reader(self, run: Run) -> EmbedReader:
        """A new reader for a new answer."""
        assert run.assign.spec.embed is not None
        return EmbedReader(len(run.assign.spec.embed.inputs))

    def refused(self, status: int, body: bytes, model: str) -> ModelFault:
        """What a status other than 200 means."""
        return refused(status, body, model)


def refused(status: int, body: bytes, model: str) -> ModelFault:
    """Say what a refusal means; a server without embeddings is fit for other work."""
    error = error_of_body(body)
    fault = fault_of(status, error, model)
    lacks = "support embedding" in fault.message or "embeddings" in fault.message
    if status in _LACKING or (lacks and fault.whose != "place"):
        return structs.replace(
            fault,
            code="no_embeddings",
            message=f"it makes no embeddings with {model}: {fault.message}",
            again=False,
            whose="place",
            unusable=False,
        )
    return fault


class EmbedReader:
    """Reads one body of vectors. Pure. `said` is what the log keeps of them."""

    finished = False  # nothing but the end of the body says that it is whole

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._body = bytearray()
        self.said = ""

    def feed(self, data: bytes) -> list[Piece]:
        """Take a part of the body."""
        if len(self._body) > _BODY_BYTES:
            return [Broken(f"a body larger than {_BODY_BYTES:,} bytes")]
        self._body += data
        return []

    def close(self) -> list[Piece]:
        """Return the vectors as text in pieces, and the end."""
        try:
            answer = msgspec.json.decode(bytes(self._body), type=_Vectors)
        except msgspec.MsgspecError as wrong:
            return [
                Broken(
                    f"not as expected ({wrong})",
                    bytes(self._body[:200]).decode(errors="replace"),
                )
            ]
        vectors = [
            each.embedding for each in sorted(answer.data, key=lambda one: one.index)
        ]
        if len(vectors) != self._wanted:
            return [Broken(f"{len(vectors)} vectors for {self._wanted} texts")]
        size = len(vectors[0])
        self.said = f"{len(vectors)} {'vector' if len(vectors) == 1 else 'vectors'} of {size} numbers"
        text = msgspec.json.encode([packed(each) for each in vectors]).decode()
        usage = answer.usage if isinstance(answer.usage, dict) else {}
        counts = TokenCounts(
            tokens_in=token_count(usage.get("prompt_tokens")),
            tokens_out=0,
            model=(answer.model or None) if isinstance(answer.model, str) else None,
        )
        return [
            *(Token(text[n : n + _PIECE]) for n in range(0, len(text), _PIECE)),
            ReplyEnd(counts=counts),
        ]


def packed(vector: list[float]) -> str:
    """Write a vector as OpenAI does: base64 of its float32, little end first."""
    numbers = array.array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers.tobytes()).decode()
