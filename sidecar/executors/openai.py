"""OpenAI-compatible servers: `POST /v1/chat/completions`, server-sent events.

llama.cpp's server, vLLM, LM Studio, LiteLLM, and Ollama's second face. An answer is whole
where the server says so in one of the ways that servers have: `data: [DONE]`, a
`finish_reason`, or a body that is one JSON value because `stream` was ignored. Text
without any of these is a stream that died. Counts come in a chunk of their own with empty
`choices`, or in each chunk, or not at all; a server that does not know `stream_options` is
asked again without them, and from then on never with them.

Chunks are read by what they hold, not by a schema: a field of an unusual shape beside the
text costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from events import catalogue as c
from sidecar.executors.chat import openai_messages
from sidecar.executors.dialect import Dialect, ModelRequest, most_tokens
from sidecar.executors.model_run import ModelExecutor
from sidecar.executors.ndjson import LINE_LIMIT, Broken, Decoder, excerpt
from sidecar.executors.pieces import (
    CallPart,
    Piece,
    ReplyEnd,
    TokenCounts,
    spoken,
    token_count,
)
from sidecar.executors.server_errors import (
    ModelFault,
    ServerError,
    error_in,
    fault_inside,
)
from sidecar.executors.sse import ServerEvent, Sse

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.executors.port import Run

_BOM = b"\xef\xbb\xbf"


class OpenAIReader:
    """Completion chunks from bytes, framed as events or not at all."""

    def __init__(self) -> None:
        self._events = Sse()
        self._decode = Decoder(Any)
        # A body that begins as JSON is held whole: it has no events. None until the first
        # byte that is no white space has shown which it is.
        self._body: bytearray | None = None
        self._is_body: bool | None = None
        self._usage: dict[str, Any] = {}
        self._model: str | None = None
        self._reason: str | None = None
        self._ended = False

    @property
    def finished(self) -> bool:
        """Whether the answer is whole, though the stream may go on."""
        return self._reason is not None

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces whose events end in `data`."""
        if self._is_body is None:
            start = data.removeprefix(_BOM).lstrip()
            if start:
                self._is_body = start[:1] in (b"{", b"[")
                self._body = bytearray()
        if not self._is_body:
            return self._pieces(self._events.feed(data))
        assert self._body is not None
        if len(self._body) <= LINE_LIMIT:
            self._body += data
        return []

    def close(self) -> list[Piece]:
        """What the stream had not closed, and the end where one was said."""
        pieces: list[Piece] = []
        if self._is_body:
            self._whole(bytes(self._body or b""), pieces)
        else:
            pieces += self._pieces(self._events.close())
        if self._reason is not None and not self._ended:
            pieces.append(self._end())
        return pieces

    def _whole(self, body: bytes, pieces: list[Piece]) -> None:
        """One JSON value, or one a line."""
        if len(body) > LINE_LIMIT:
            pieces.append(Broken(f"a body larger than {LINE_LIMIT:,} bytes"))
            return
        body = body.removeprefix(_BOM).strip()
        value = self._decode(body)
        lines = body.splitlines()
        if isinstance(value, Broken) and len(lines) > 1:
            for line in lines:
                if line.strip() and not self._ended:
                    self._value(self._decode(line), excerpt(line), pieces)
            return
        self._value(value, excerpt(body), pieces)

    def _pieces(self, events: list[ServerEvent | Broken]) -> list[Piece]:
        pieces: list[Piece] = []
        for event in events:
            data = "" if isinstance(event, Broken) else event.data.strip()
            if isinstance(event, Broken):
                pieces.append(event)
            elif data.strip("[]").upper() == "DONE":
                self._reason = self._reason or "stop"
                pieces.append(self._end())
            elif event.event == "error":
                told = self._decode(event.data.encode())
                pieces.append(fault_inside(error_in(told) or ServerError(event.data)))
            elif data:
                self._value(self._decode(event.data.encode()), data, pieces)
        return pieces

    def _value(self, chunk: Any, raw: str, pieces: list[Piece]) -> None:
        """Read one chunk, or one whole completion."""
        if isinstance(chunk, Broken):
            pieces.append(chunk)
            return
        if not isinstance(chunk, dict):
            pieces.append(Broken("not as expected (no JSON object)", raw[:200]))
            return
        error = error_in(chunk)
        if error is not None:
            pieces.append(fault_inside(error))
            return
        usage, model = chunk.get("usage"), chunk.get("model")
        if isinstance(usage, dict):
            self._usage = usage
        if isinstance(model, str) and model:
            self._model = model
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._choice(choice, pieces)

    def _choice(self, choice: dict[str, Any], pieces: list[Piece]) -> None:
        message = choice.get("delta") or choice.get("message") or {}
        if isinstance(message, dict):
            for name in ("reasoning", "reasoning_content"):
                thoughts = spoken(message.get(name), thought=True)
                pieces += thoughts
                if thoughts:
                    break
            pieces += spoken(message.get("content"))
            pieces += _calls(message.get("tool_calls"))
        pieces += spoken(choice.get("text"))
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self._reason = reason

    def _end(self) -> Piece:
        self._ended = True
        reason = self._reason or "stop"
        if reason == "content_filter":
            message = "the server's content filter refused the answer"
            return ModelFault(
                code="refused", message=message, again=False, whose="work"
            )
        details = self._usage.get("prompt_tokens_details")
        said = details.get("cached_tokens") if isinstance(details, dict) else None
        cached = 0 if said is None else token_count(said)
        prompt = token_count(self._usage.get("prompt_tokens"))
        # Part of the prompt came from the cache: more than all of it cannot have.
        known = prompt is not None and cached is not None and cached <= prompt
        counts = TokenCounts(
            tokens_in=(prompt or 0) - (cached or 0) if known else None,
            tokens_out=token_count(self._usage.get("completion_tokens")),
            cache_read=(cached or 0) if known else 0,
            model=self._model,
        )
        return ReplyEnd(counts=counts, reason=reason)


def _calls(value: Any) -> list[Piece]:
    """Read pieces of calls of tools, or calls that come whole."""
    pieces: list[Piece] = []
    for place, each in enumerate(value if isinstance(value, list) else ()):
        function = each.get("function") if isinstance(each, dict) else None
        if not isinstance(function, dict):
            continue
        index, id_ = each.get("index"), each.get("id")
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(arguments, dict):
            arguments = msgspec.json.encode(arguments).decode()
        call = CallPart(
            index=index if isinstance(index, int) and 0 <= index < 256 else place,
            id=id_ if isinstance(id_, str) else "",
            name=name if isinstance(name, str) else "",
            arguments=arguments if isinstance(arguments, str) else "",
        )
        pieces.append(call)
    return pieces


class OpenAIDialect(Dialect):
    """The requests and answers of OpenAI-compatible servers."""

    name = "Model server"
    kind = "openai"

    def __init__(self) -> None:
        # Addresses of servers that refused `stream_options`: asked without them since.
        self._without_options: set[str] = set()
        # Addresses of servers that refused `max_tokens` for its newer name.
        self._newer_limit: set[str] = set()

    def request(self, run: Run, base: str) -> ModelRequest:
        """A chat: the task, and the rounds that were."""
        spec = run.assign.spec
        limit = "max_completion_tokens" if base in self._newer_limit else "max_tokens"
        body: dict[str, Any] = {
            "model": run.assign.model,
            "messages": openai_messages(run),
            "stream": True,
            limit: most_tokens(run.assign),
            **c.wishes_of(spec),
        }
        if spec.temperature is not None:
            body["temperature"] = spec.temperature
        if spec.json_schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": spec.json_schema},
            }
        if base not in self._without_options:
            body["stream_options"] = {"include_usage": True}
        return ModelRequest("/v1/chat/completions", msgspec.json.encode(body))

    def reader(self, run: Run) -> OpenAIReader:
        """A new reader for a new answer."""
        return OpenAIReader()

    def learn(self, base: str, status: int, body: bytes) -> bool:
        """Ask again without `stream_options`, or with the newer name of `max_tokens`,
        where these were refused."""
        if status not in (400, 422):
            return False
        for word, learnt in (
            (b"stream_options", self._without_options),
            (b"max_completion_tokens", self._newer_limit),
        ):
            if word in body and base not in learnt:
                learnt.add(base)
                return True
        return False


class OpenAIExecutor(ModelExecutor):
    """Runs prompts on OpenAI-compatible endpoints."""

    def __init__(self, api_key: Callable[[str], str | None] | None = None) -> None:
        super().__init__(OpenAIDialect(), api_key)
