"""Ollama's own API: `POST /api/chat`, a stream of JSON lines.

`num_ctx` is always sent, and `truncate: false`: a prompt that does not fit must be an
error, not a prompt without its beginning. Only a line with `done: true` is success; an
error may come as a line under status 200, and a stream may simply end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from actors.rules.contexts import context_needed
from actors.rules.prompt import BYTES_A_TOKEN
from events.models import same_model
from sidecar.executors.chat import ollama_messages, ollama_wishes, size_of
from sidecar.executors.dialect import Dialect, ModelRequest, most_tokens
from sidecar.executors.model_run import ModelExecutor
from sidecar.executors.ndjson import Broken, Ndjson
from sidecar.executors.pieces import (
    CallPart,
    Piece,
    ReplyEnd,
    TokenCounts,
    spoken,
    token_count,
)
from sidecar.executors.server_errors import ServerError, error_in, fault_inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.executors.port import Run

_BYTES_A_TOKEN = 12
"""More bytes of prompt than this for each token read: the server has cut it."""


class _Loaded(Struct):
    name: str = ""
    model: str = ""


class _Ps(Struct):
    models: list[_Loaded] | None = None


class OllamaReader:
    """Chat chunks from bytes, read by what they hold and not by a schema."""

    finished = False  # nothing but the line with `done` says that an answer is whole

    def __init__(self) -> None:
        self._lines = Ndjson(Any)
        self._calls = 0

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces whose lines end in `data`."""
        return [
            piece for line in self._lines.feed(data) for piece in self._pieces(line)
        ]

    def close(self) -> list[Piece]:
        """The last piece, where its line had no end."""
        return [piece for line in self._lines.close() for piece in self._pieces(line)]

    def _pieces(self, chunk: Any) -> list[Piece]:
        pieces = _pieces(chunk)
        if isinstance(chunk, dict) and isinstance(chunk.get("message"), dict):
            for call in _calls(chunk["message"].get("tool_calls"), self._calls):
                self._calls += 1
                pieces.insert(len(pieces) - bool(chunk.get("done")), call)
        return pieces


def _calls(value: Any, first: int) -> Iterator[CallPart]:
    """Read calls of tools, each of which comes whole."""
    for each in value if isinstance(value, list) else ():
        function = each.get("function") if isinstance(each, dict) else None
        if not isinstance(function, dict):
            continue
        name = function.get("name")
        if isinstance(name, str) and name:
            arguments, id_ = function.get("arguments"), each.get("id")
            yield CallPart(
                index=first,
                id=id_ if isinstance(id_, str) else "",
                name=name,
                arguments=msgspec.json.encode(arguments or {}).decode(),
            )
            first += 1


def _pieces(chunk: Any) -> list[Piece]:
    if isinstance(chunk, Broken):
        return [chunk]
    if not isinstance(chunk, dict):
        return [Broken("not as expected (no JSON object)", str(chunk)[:200])]
    if chunk.get("error"):
        error = error_in(chunk) or ServerError(str(chunk["error"]))
        return [fault_inside(error)]
    message = chunk.get("message")
    if not isinstance(message, dict | None):
        return [Broken("not as expected (`message`)", str(message)[:200])]
    pieces: list[Piece] = []
    if message:
        pieces += spoken(message.get("thinking"), thought=True)
        pieces += spoken(message.get("content"))
    if chunk.get("done"):
        model, reason = chunk.get("model"), chunk.get("done_reason")
        counts = TokenCounts(
            tokens_in=token_count(chunk.get("prompt_eval_count")),
            tokens_out=token_count(chunk.get("eval_count")),
            model=model if isinstance(model, str) and model else None,
            free=not chunk.get("remote_host"),
        )
        reason = reason if isinstance(reason, str) and reason else "stop"
        pieces.append(ReplyEnd(counts=counts, reason=reason))
    return pieces


class OllamaDialect(Dialect):
    """Ollama's requests and answers."""

    name = "Ollama"
    kind = "ollama"
    loaded_path: str | None = "/api/ps"

    def request(self, run: Run, base: str) -> ModelRequest:
        """A chat: the task, and the rounds that were."""
        spec = run.assign.spec
        options: dict[str, Any] = {
            "num_ctx": _context(run),
            "num_predict": most_tokens(run.assign),
        }
        if spec.temperature is not None:
            options["temperature"] = spec.temperature
        wishes, more = ollama_wishes(spec)
        options |= more
        body: dict[str, Any] = {
            "model": run.assign.model,
            "messages": ollama_messages(run),
            "stream": True,
            "truncate": False,
            "options": options,
            **wishes,
        }
        if spec.json_schema is not None:
            body["format"] = spec.json_schema
        return ModelRequest("/api/chat", msgspec.json.encode(body))

    def reader(self, run: Run) -> OllamaReader:
        """A new reader for a new answer."""
        return OllamaReader()

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
        sent = size_of(run)
        context = _context(run)
        if read is not None and read * _BYTES_A_TOKEN < sent and read * 2 >= context:
            return (
                f"Ollama read only {read} tokens of a prompt of {sent:,} bytes: "
                f"its context of {context} tokens may have cut it"
            )
        return None


def _context(run: Run) -> int:
    """How much context to ask for: the policy's, and more where the prompt takes it."""
    needed = context_needed(size_of(run) // BYTES_A_TOKEN, work=False)
    return max(run.assign.limits.num_ctx, needed)


class OllamaExecutor(ModelExecutor):
    """Runs prompts on Ollama endpoints."""

    def __init__(self, api_key: Callable[[str], str | None] | None = None) -> None:
        super().__init__(OllamaDialect(), api_key)
