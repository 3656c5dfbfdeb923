"""OpenAI-compatible servers: `POST /v1/chat/completions`, server-sent events.

llama.cpp's server, vLLM, LM Studio, and Ollama's second face. Success is `data: [DONE]`.
Counts come in a chunk of their own with empty `choices`, or on the last content chunk, or
not at all; a server that does not know `stream_options` is asked again without them, and
from then on never with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

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
from sidecar.executors.ndjson import Broken, Decoder, excerpt
from sidecar.executors.prompt import prompt_for
from sidecar.executors.sse import ServerEvent, Sse

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.executors.port import Run


class _CompletionDelta(Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(Struct):
    delta: _CompletionDelta | None = None
    finish_reason: str | None = None


class _Details(Struct):
    cached_tokens: int | None = None


class _CompletionUsage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Completion(Struct):
    model: str = ""
    choices: list[_Choice] | None = None
    usage: _CompletionUsage | None = None
    error: Any = None


class OpenAIReader:
    """Completion chunks from bytes."""

    def __init__(self) -> None:
        self._events = Sse()
        self._decode = Decoder(_Completion)
        self._usage: _CompletionUsage | None = None
        self._model: str | None = None
        self._reason = "stop"

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces whose events end in `data`."""
        return self._pieces(self._events.feed(data))

    def close(self) -> list[Piece]:
        """What the stream had not closed."""
        return self._pieces(self._events.close())

    def _pieces(self, events: list[ServerEvent | Broken]) -> list[Piece]:
        pieces: list[Piece] = []
        for event in events:
            if isinstance(event, Broken):
                pieces.append(event)
            elif event.data.strip() == "[DONE]":
                pieces.append(self._end())
            else:
                self._chunk(event, pieces)
        return pieces

    def _chunk(self, event: ServerEvent, pieces: list[Piece]) -> None:
        chunk = self._decode(event.data.encode())
        if isinstance(chunk, Broken):
            pieces.append(chunk)
            return
        if chunk.error is not None or event.event == "error":
            pieces.append(_inside(chunk.error, event.data))
            return
        self._usage = chunk.usage or self._usage
        self._model = chunk.model or self._model
        for choice in chunk.choices or ():
            self._reason = choice.finish_reason or self._reason
            if choice.delta is not None:
                thought = choice.delta.reasoning or choice.delta.reasoning_content
                if thought:
                    pieces.append(Thought(thought))
                if choice.delta.content:
                    pieces.append(Token(choice.delta.content))

    def _end(self) -> Piece:
        if self._reason == "content_filter":
            message = "the server's content filter refused the answer"
            return ModelFault(
                code="refused", message=message, again=False, whose="work"
            )
        usage = self._usage
        if usage is None:
            return ReplyEnd(counts=TokenCounts(model=self._model), reason=self._reason)
        details = usage.prompt_tokens_details
        cached = (details.cached_tokens if details else None) or 0
        prompt = usage.prompt_tokens
        counts = TokenCounts(
            tokens_in=None if prompt is None else max(prompt - cached, 0),
            tokens_out=usage.completion_tokens,
            cache_read=cached,
            model=self._model,
        )
        return ReplyEnd(counts=counts, reason=self._reason)


def _inside(error: Any, data: str) -> ModelFault:
    """What an error inside the stream means: it names its own code, or none."""
    message, status = data, 500
    if isinstance(error, str):
        message = error
    elif isinstance(error, dict):
        message = str(error.get("message") or data)
        code = error.get("code")
        if isinstance(code, int) and 400 <= code < 600:
            status = code
    return fault_of_status(status, message, "")


class OpenAIDialect:
    """The requests and answers of OpenAI-compatible servers."""

    name = "Model server"

    def __init__(self) -> None:
        # Addresses of servers that refused `stream_options`: asked without them since.
        self._without_options: set[str] = set()

    def request(self, run: Run) -> ModelRequest:
        """A chat of one message."""
        url = run.assign.endpoint_url.rstrip("/")
        body: dict[str, Any] = {
            "model": run.assign.model,
            "messages": [{"role": "user", "content": prompt_for(run.assign.spec)}],
            "stream": True,
        }
        if url not in self._without_options:
            body["stream_options"] = {"include_usage": True}
        # The address may be given with or without the version that belongs to it.
        path = "/chat/completions" if url.endswith("/v1") else "/v1/chat/completions"
        return ModelRequest(path, msgspec.json.encode(body))

    def reader(self) -> OpenAIReader:
        """A new reader for a new answer."""
        return OpenAIReader()

    def refused(self, status: int, body: bytes, model: str) -> ModelFault:
        """What a status other than 200 means."""
        return fault_of_status(status, _error_text(body), model)

    def learn(self, url: str, status: int, body: bytes) -> bool:
        """Ask again without `stream_options` where these were refused."""
        refused = status in (400, 422) and b"stream_options" in body
        if not refused or url in self._without_options:
            return False
        self._without_options.add(url)
        return True

    def loaded_path(self) -> str | None:
        """Nothing tells."""
        return None

    def is_loaded(self, body: bytes, model: str) -> bool:
        """Nothing tells."""
        return False

    def remark(self, run: Run, done: ReplyEnd) -> str | None:
        """Remark that an answer stopped short."""
        if done.reason == "length":
            return (
                "The server stopped at the length limit: the answer may be incomplete"
            )
        return None


class OpenAIExecutor(ModelExecutor):
    """Runs prompts on OpenAI-compatible endpoints."""

    def __init__(self, api_key: Callable[[str], str | None] | None = None) -> None:
        super().__init__(OpenAIDialect(), api_key)


def _error_text(body: bytes) -> str:
    try:
        value = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return excerpt(body)
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return str(error) if error else excerpt(body)
