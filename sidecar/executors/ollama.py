"""Ollama's own API: `POST /api/chat`, a stream of JSON lines.

`num_ctx` is always sent, and `truncate: false`: a prompt that does not fit must be an
error, not a prompt without its beginning. Only a line with `done: true` is success; an
error may come as a line under status 200, and a stream may simply end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from actors.rules.models import same_model
from sidecar.executors.model_run import (
    ModelExecutor,
    ModelFault,
    ModelRequest,
    Piece,
    ReplyEnd,
    Thought,
    Token,
    TokenCounts,
    fault_of_status,
)
from sidecar.executors.ndjson import Broken, Ndjson, excerpt
from sidecar.executors.prompt import prompt_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.executors.port import Run

_BYTES_A_TOKEN = 12
"""More bytes of prompt than this for each token read: the server has cut it."""


class _ChatMessage(Struct):
    content: str = ""
    thinking: str = ""


class _ChatChunk(Struct):
    model: str = ""
    message: _ChatMessage | None = None
    done: bool = False
    done_reason: str = "stop"
    error: Any = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    remote_host: str = ""


class _Loaded(Struct):
    name: str = ""
    model: str = ""


class _Ps(Struct):
    models: list[_Loaded] | None = None


class OllamaReader:
    """Chat chunks from bytes."""

    def __init__(self) -> None:
        self._lines = Ndjson(_ChatChunk)

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces whose lines end in `data`."""
        return _pieces(self._lines.feed(data))

    def close(self) -> list[Piece]:
        """The last piece, where its line had no end."""
        return _pieces(self._lines.close())


def _pieces(chunks: list[_ChatChunk | Broken]) -> list[Piece]:
    pieces: list[Piece] = []
    for chunk in chunks:
        if isinstance(chunk, Broken):
            pieces.append(chunk)
            continue
        if chunk.error is not None:
            pieces.append(ModelFault(code="server_error", message=str(chunk.error)))
            continue
        if chunk.message is not None:
            if chunk.message.thinking:
                pieces.append(Thought(chunk.message.thinking))
            if chunk.message.content:
                pieces.append(Token(chunk.message.content))
        if chunk.done:
            counts = TokenCounts(
                tokens_in=chunk.prompt_eval_count,
                tokens_out=chunk.eval_count,
                model=chunk.model or None,
                free=not chunk.remote_host,
            )
            pieces.append(ReplyEnd(counts=counts, reason=chunk.done_reason))
    return pieces


class OllamaDialect:
    """Ollama's requests and answers."""

    name = "Ollama"

    def request(self, run: Run) -> ModelRequest:
        """A chat of one message."""
        body = {
            "model": run.assign.model,
            "messages": [{"role": "user", "content": prompt_for(run.assign.spec)}],
            "stream": True,
            "truncate": False,
            "options": {"num_ctx": run.assign.limits.num_ctx},
        }
        return ModelRequest("/api/chat", msgspec.json.encode(body))

    def reader(self) -> OllamaReader:
        """A new reader for a new answer."""
        return OllamaReader()

    def refused(self, status: int, body: bytes, model: str) -> ModelFault:
        """What a status other than 200 means."""
        return fault_of_status(status, _error_text(body), model)

    def learn(self, url: str, status: int, body: bytes) -> bool:
        """There is one way of asking."""
        return False

    def loaded_path(self) -> str | None:
        """Models in memory."""
        return "/api/ps"

    def is_loaded(self, body: bytes, model: str) -> bool:
        """Whether `/api/ps` lists the model; `llama3.2` is `llama3.2:latest`."""
        try:
            models = msgspec.json.decode(body, type=_Ps).models or []
        except msgspec.MsgspecError:
            return False
        return any(
            same_model("ollama", name, model)
            for each in models
            for name in (each.name, each.model)
            if name
        )

    def remark(self, run: Run, done: ReplyEnd) -> str | None:
        """Remark that an answer stopped short, or that a prompt was cut all the same."""
        read = done.counts.tokens_in
        sent = len(prompt_for(run.assign.spec).encode())
        context = run.assign.limits.num_ctx
        if read is not None and read * _BYTES_A_TOKEN < sent and read * 2 >= context:
            return (
                f"Ollama read only {read} tokens of a prompt of {sent:,} bytes: "
                f"its context of {context} tokens may have cut it"
            )
        if done.reason == "length":
            return "Ollama stopped at the length limit: the answer may be incomplete"
        return None


class OllamaExecutor(ModelExecutor):
    """Runs prompts on Ollama endpoints."""

    def __init__(self, api_key: Callable[[str], str | None] | None = None) -> None:
        super().__init__(OllamaDialect(), api_key)


def _error_text(body: bytes) -> str:
    try:
        value = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return excerpt(body)
    error = value.get("error") if isinstance(value, dict) else None
    return str(error) if error else excerpt(body)
