"""A simulated Ollama server: its own API and the OpenAI-compatible one, on a socket.

In a test: `async with SimulatedOllama() as ollama: ollama.fail_next("busy")`. As a
process: `agentcom -m sidecar.simulated.ollama --port 0` prints one JSON line with its
address and serves until it is told to stop.

It is recognisable: `/api/version` says `0.0.0-simulated`, every answer carries
`X-AgentCom-Simulated: 1`, models are of the family `simulated` and owned by it.

Faults are a queue of `Fault`. The first that fits a request is taken by it, `times`
times. Another process orders them over HTTP, at paths that no Ollama has:
`POST /simulated/faults` (a list of faults), `DELETE` the same (forget them all), and
`GET /simulated/requests` shows what was asked so far.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import signal
import socket
import struct
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, get_args

import msgspec
from aiohttp import web

from events import header
from events.models import normal_model
from sidecar.simulated.answers import (
    answer_to,
    count_tokens,
    fitting,
    pieces,
    thoughts_on,
)
from sidecar.simulated.messages import MessagesBody, MessagesVoice, ScriptedCall
from sidecar.simulated.messages import error as messages_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from typing import Self

    _Handler = Callable[
        [web.Request, bytes, "Fault | None"], Awaitable[web.StreamResponse]
    ]

VERSION = "0.0.0-simulated"
SIMULATED_HEADER = header.SIMULATED

FaultKind = Literal[
    "slow_first",  # `delay_s` before the first token
    "slow_tokens",  # `delay_s` before every token
    "stall",  # `after` tokens, then silence with the connection open
    "reset",  # `after` tokens, then the socket is reset; 0: before any answer
    "end",  # `after` tokens, then the stream ends in good order, without `done`
    "error_line",  # `after` tokens, then an error inside the stream, under status 200
    "busy",  # 503
    "internal",  # 500
    "missing",  # 404, the model is not there
    "bad_request",  # 400
    "hang",  # the request is taken and never answered
    "usage_missing",  # the final chunk holds no counts
    "usage_on_last",  # OpenAI: counts on the last content chunk, none of their own
    "malformed_line",  # a line that is no JSON, after `after` tokens
    "long_line",  # one line of `size` bytes, after `after` tokens
    "comments",  # server-sent events: comment lines between the chunks
    "refuses_stream_options",  # OpenAI: 400 to a request with `stream_options`
    "refuses_max_tokens",  # OpenAI: 400 to `max_tokens`, which newer models call otherwise
    "ignores_format",  # the answer is prose, though JSON was asked for
]
Place = Literal[
    "any",
    "run",  # whatever asks a model to speak: chat, generate, completions, messages
    "chat",
    "generate",
    "completions",
    "tags",
    "ps",
    "show",
    "version",
    "models",
    "messages",
    "create",
    "health",  # only where a server of another kind is simulated
    "root",
]

_BUSY = "server busy, please try again.  maximum pending requests exceeded"
_REFUSALS: dict[FaultKind, tuple[int, str]] = {
    "busy": (503, _BUSY),
    "internal": (500, "llama runner process has terminated: exit status 2"),
    "missing": (404, "model '{model}' not found"),
    "bad_request": (400, "invalid character 'x' looking for beginning of value"),
    "refuses_stream_options": (400, "unknown field: stream_options"),
    "refuses_max_tokens": (
        400,
        "Unsupported parameter: 'max_tokens' is not supported with this model. "
        "Use 'max_completion_tokens' instead.",
    ),
}
_RUNS = ("chat", "generate", "completions", "messages")
_FOREVER = timedelta(days=36500)
_KEEP_ALIVE = timedelta(minutes=5)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One order: what goes wrong, at which requests, and how often."""

    kind: FaultKind
    on: Place = "run"
    after: int = 2  # tokens sent before it happens
    delay_s: float = 1.0
    size: int = 200_000  # bytes of a long line
    message: str = ""  # replaces the usual error text
    times: int = 1  # 0: until the faults are cleared

    def fits(self, place: str) -> bool:
        if self.on == "run":
            return place in _RUNS
        return self.on in ("any", place)


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model on the simulated disk."""

    name: str
    size: int = 2_019_393_189
    size_vram: int | None = None  # in memory: None is all of it, 0 is CPU alone
    context_length: int = 131_072  # what it was made for
    num_ctx: int = 4096  # what is in force where a request does not say
    fixed: bool = False  # its own parameters set `num_ctx`
    thinking: bool = False
    tools: bool = True
    vision: bool = False
    embedding: bool = False  # it embeds and answers no prompt
    parameter_size: str = "3.2B"
    quantization: str = "Q4_K_M"
    remote_host: str | None = None  # set: a cloud model, which is not free

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def vram(self) -> int:
        return self.size if self.size_vram is None else self.size_vram

    @property
    def capabilities(self) -> list[str]:
        if self.embedding:
            return ["embedding"]
        more = ("tools", "thinking", "vision")
        return ["completion", *(word for word in more if getattr(self, word))]

    def details(self) -> dict[str, Any]:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": "simulated",
            "families": ["simulated"],
            "parameter_size": self.parameter_size,
            "quantization_level": self.quantization,
        }


DEFAULT_MODELS = (
    Model(name="llama3.2:latest"),
    Model(name="qwen3:8b", size=5_225_388_164, parameter_size="8.2B", thinking=True),
)


class Request(msgspec.Struct, kw_only=True):
    """One request as it came in, and how it ended."""

    place: str
    method: str
    path: str
    body: dict[str, Any]
    fault: str | None = None
    status: int | None = None  # None while it runs
    aborted: bool = False  # the client went away first


class _Options(msgspec.Struct):
    num_ctx: int | None = None
    num_predict: int | None = None


class _RequestMessage(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        """The content's text: OpenAI also allows a list of parts."""
        if isinstance(self.content, list):
            return "".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _NamedSchema(msgspec.Struct):
    schema: dict[str, Any] | None = None


class _ResponseFormat(msgspec.Struct):
    type: str = "text"
    json_schema: _NamedSchema | None = None


class EmbedBody(msgspec.Struct):
    """What embeddings ask for."""

    model: str = ""
    input: str | list[str] = ""
    dimensions: int | None = None


class RunBody(msgspec.Struct):
    """What chat, generate and completions ask for; each uses its part of it."""

    model: str = ""
    messages: list[_RequestMessage] | None = None
    prompt: str = ""
    system: str = ""
    stream: bool | None = None
    options: _Options | None = None
    keep_alive: str | float | None = None
    think: bool | str | None = None
    truncate: bool | None = None
    format: Any = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream_options: _StreamOptions | None = None
    response_format: _ResponseFormat | None = None
    tools: list[dict[str, Any]] = []
    tool_choice: Any = None

    def prompt_text(self) -> str:
        words = [message.text() for message in self.messages or []]
        return "\n".join(part for part in (self.system, *words, self.prompt) if part)

    def wanted_form(self) -> Any:
        """The schema that the answer must fit, or `json` for any JSON."""
        asked = self.response_format
        if asked is None or asked.type == "text":
            return self.format
        named = asked.json_schema
        return (named.schema if named is not None else None) or "json"

    def question(self) -> str:
        """What the answer is about: the last thing said."""
        return self.messages[-1].text() if self.messages else self.prompt

    def offered(self) -> dict[str, dict[str, Any]]:
        """The tools that may be called: their parameters, by name."""
        if self.tool_choice == "none":
            return {}
        functions = [tool.get("function") or {} for tool in self.tools]
        return {each["name"]: each.get("parameters") or {} for each in functions}

    def must_call(self) -> str:
        """The tool that has to be called, "" where the model may choose."""
        choice = self.tool_choice
        if isinstance(choice, dict):
            return str(choice["function"]["name"])
        return next(iter(self.offered()), "") if choice == "required" else ""


class _ShowBody(msgspec.Struct):
    model: str = ""
    name: str = ""  # what older clients send


class _CreateBody(msgspec.Struct):
    model: str = ""
    source: str = msgspec.field(default="", name="from")
    parameters: dict[str, Any] = {}
    stream: bool | None = None


class RequestRefused(Exception):
    """A request that is answered with a status and an error text."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        self.status = status
        self.message = message
        self.more = more  # what llama.cpp's error says beside the message
        super().__init__(f"{status}: {message}")


class Answer(msgspec.Struct, kw_only=True):
    """A run decided before its first byte: what will be said, and its counts."""

    model: Model
    asked_as: str  # the model's name as the request spelt it
    thinking: list[str]
    words: list[str]
    prompt_tokens: int
    reason: str  # stop or length
    started_ns: int
    load_ns: int = 0
    first_ns: int = 0  # when the first token left
    call: ScriptedCall | None = None  # the tool that it calls in the end

    @property
    def eval_count(self) -> int:
        return len(self.thinking) + len(self.words) + (self.call is not None)

    def final(self, *, counted: bool) -> dict[str, Any]:
        """The counts of the final chunk; what is zero is left out, as Ollama does."""
        now = time.perf_counter_ns()
        first = self.first_ns or now
        ready = self.started_ns + self.load_ns
        values = {
            "total_duration": now - self.started_ns,
            "load_duration": self.load_ns,
            "prompt_eval_count": self.prompt_tokens if counted else 0,
            "prompt_eval_duration": max(first - ready, 0),
            "eval_count": self.eval_count if counted else 0,
            "eval_duration": now - first,
        }
        return {name: value for name, value in values.items() if value}


class _Voice(Protocol):
    """How one API writes an answer down. Every method returns whole lines."""

    content_type: str

    def thinks(self, piece: str) -> bytes: ...
    def says(self, piece: str) -> bytes: ...
    def finishes(self, *, counted: bool, on_last: bool) -> bytes: ...
    def fails(self, message: str) -> bytes: ...
    def malformed(self) -> bytes: ...
    def comment(self) -> bytes: ...
    def whole(self, *, counted: bool) -> dict[str, Any]: ...


class _OllamaVoice:
    """Lines of JSON, for `/api/chat` and `/api/generate`."""

    content_type = "application/x-ndjson"

    def __init__(self, answer: Answer, *, chat: bool) -> None:
        self._answer = answer
        self._chat = chat

    def thinks(self, piece: str) -> bytes:
        return self._line({**self._spoken("", piece), "done": False})

    def says(self, piece: str) -> bytes:
        return self._line({**self._spoken(piece, ""), "done": False})

    def finishes(self, *, counted: bool, on_last: bool) -> bytes:
        calls = self._calls()
        line = self._line({"message": calls, "done": False}) if calls else b""
        return line + self._line({**self._spoken("", ""), **self._end(counted=counted)})

    def _calls(self) -> dict[str, Any]:
        call = self._answer.call
        if call is None:
            return {}
        function = {"name": call.name, "arguments": call.input}
        calls = [{"function": function}]
        return {"role": "assistant", "content": "", "tool_calls": calls}

    def fails(self, message: str) -> bytes:
        return json.dumps({"error": message}).encode() + b"\n"

    def malformed(self) -> bytes:
        return b'{"model":"' + self._answer.asked_as.encode() + b'","mess\n'

    def comment(self) -> bytes:
        return b""

    def whole(self, *, counted: bool) -> dict[str, Any]:
        words, thought = "".join(self._answer.words), "".join(self._answer.thinking)
        spoken = self._spoken(words, thought)
        if calls := self._calls():
            spoken["message"] |= {"tool_calls": calls["tool_calls"]}
        return {
            **self._head(),
            **spoken,
            **self._end(counted=counted),
        }

    def _head(self) -> dict[str, Any]:
        return {"model": self._answer.asked_as, "created_at": _now()}

    def _spoken(self, content: str, thinking: str) -> dict[str, Any]:
        thought = {"thinking": thinking} if thinking else {}
        if self._chat:
            return {"message": {"role": "assistant", "content": content, **thought}}
        return {"response": content, **thought}

    def _end(self, *, counted: bool) -> dict[str, Any]:
        end = {"done": True, "done_reason": self._answer.reason}
        if not self._chat:
            end["context"] = [1, 2, 3]
        return {**end, **self._answer.final(counted=counted)}

    def _line(self, rest: dict[str, Any]) -> bytes:
        return json.dumps({**self._head(), **rest}).encode() + b"\n"


class OpenAIVoice:
    """Server-sent events, for `/v1/chat/completions`."""

    content_type = "text/event-stream"

    def __init__(self, answer: Answer, *, include_usage: bool) -> None:
        self._answer = answer
        self._include_usage = include_usage
        self._created = int(time.time())

    def thinks(self, piece: str) -> bytes:
        return self._chunk({"role": "assistant", "content": "", "reasoning": piece})

    def says(self, piece: str) -> bytes:
        return self._chunk({"role": "assistant", "content": piece})

    def finishes(self, *, counted: bool, on_last: bool) -> bytes:
        delta = {"role": "assistant", "content": ""}
        with_usage = counted and self._include_usage
        lines = b"".join(self._chunk({"tool_calls": [each]}) for each in self._calls())
        if on_last:
            usage = {"usage": self._usage()} if counted else {}
            lines += self._chunk(delta, self._reason, **usage)
        else:
            lines += self._chunk(delta, self._reason)
            if with_usage:
                lines += self._event(
                    {**self._head(), "choices": [], "usage": self._usage()}
                )
        return lines + b"data: [DONE]\n\n"

    @property
    def _reason(self) -> str:
        return "tool_calls" if self._answer.call is not None else self._answer.reason

    def _calls(self) -> list[dict[str, Any]]:
        """The call as it is streamed: its name first, then its arguments in two pieces."""
        call = self._answer.call
        if call is None:
            return []
        arguments = json.dumps(call.input)
        half = len(arguments) // 2
        first = {"name": call.name, "arguments": ""}
        return [
            {"index": 0, "id": "call_simulated", "type": "function", "function": first},
            {"index": 0, "function": {"arguments": arguments[:half]}},
            {"index": 0, "function": {"arguments": arguments[half:]}},
        ]

    def fails(self, message: str) -> bytes:
        return self._event(openai_error(500, message))

    def malformed(self) -> bytes:
        return b'data: {"choices":[{"delta":{"cont\n\n'

    def comment(self) -> bytes:
        return b": still here\n\n"

    def whole(self, *, counted: bool) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(self._answer.words),
        }
        if self._answer.thinking:
            message["reasoning"] = "".join(self._answer.thinking)
        if (call := self._answer.call) is not None:
            function = {"name": call.name, "arguments": json.dumps(call.input)}
            calls = [{"id": "call_simulated", "type": "function", "function": function}]
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "finish_reason": self._reason}
        usage = {"usage": self._usage()} if counted else {}
        head = {**self._head(), "object": "chat.completion"}
        return {**head, "choices": [choice], **usage}

    def _head(self) -> dict[str, Any]:
        return {
            "id": "chatcmpl-simulated",
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._answer.asked_as,
            "system_fingerprint": "fp_simulated",
        }

    def _usage(self) -> dict[str, Any]:
        prompt, written = self._answer.prompt_tokens, self._answer.eval_count
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
        }

    def _chunk(
        self, delta: dict[str, Any], reason: str | None = None, **more: Any
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        no_usage = {"usage": None} if self._include_usage else {}
        return self._event({**self._head(), "choices": [choice], **no_usage, **more})

    def _event(self, value: dict[str, Any]) -> bytes:
        return b"data: " + json.dumps(value).encode() + b"\n\n"


class SimulatedOllama:
    """The server. Every argument has the quick value that a test wants."""

    _openai_voice: ClassVar[type[OpenAIVoice]] = OpenAIVoice
    _messages_voice: ClassVar[type[MessagesVoice]] = MessagesVoice

    def __init__(
        self,
        models: Sequence[Model | str] = DEFAULT_MODELS,
        *,
        host: str = "127.0.0.1",
        port: int = 0,  # 0: any free one, kept over a stop and a start
        tokens_per_s: float = 0.0,  # 0: as fast as the socket takes them
        first_token_s: float = 0.0,
        load_s: float = 0.0,  # what loading a model into memory takes
        parallel: int = 4,  # runs at once; the others queue, as in Ollama
        queue: int = 512,  # a longer queue is "server busy"
        split_lines: bool = False,  # chunks on the socket end in the middle of lines
        keep_alive: timedelta = _KEEP_ALIVE,
        messages: bool = True,  # False: older than 0.14, without the Messages API
    ) -> None:
        self.models = {
            self.full_name(model.name): model
            for model in (
                Model(name=each) if isinstance(each, str) else each for each in models
            )
        }
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.most_at_once = 0
        self._loaded: dict[str, datetime] = {}  # name to when it leaves memory
        self._loading = asyncio.Lock()
        self._host, self._port = host, port
        self._token_s = 1.0 / tokens_per_s if tokens_per_s else 0.0
        self._first_token_s = first_token_s
        self._load_s = load_s
        self._slots = asyncio.Semaphore(parallel)
        self._queue = queue
        self._waiting = 0
        self.running = 0
        self._split_lines = split_lines
        self._keep_alive = keep_alive
        self._has_messages = messages
        # The tools that the model calls next, where they are offered to it. In the
        # Messages API a call is made again until its result is told: a client may drop
        # an answer and ask once more, or ask something else in between.
        self.calls: list[ScriptedCall] = []
        self._made = 0  # calls that are over
        self._runner: web.AppRunner | None = None
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def full_name(self, name: str) -> str:
        """The name under which a model is listed."""
        return normal_model(name)

    # -- start and stop -----------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen; after a stop, at the same address as before."""
        runner = web.AppRunner(
            self._app(),
            handler_cancellation=True,  # a client that goes away cancels its run
            shutdown_timeout=0.001,  # 0 would wait for every run to end
            access_log=None,
        )
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._port, reuse_address=True)
        await site.start()
        self._runner = runner
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the socket and drop every run, as a killed server would."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        self._loaded.clear()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # -- what a test orders and asks ------------------------------------------

    def fail_next(self, *faults: Fault | FaultKind, **settings: Any) -> None:
        """Order faults for the next fitting requests, one each, in this order.

        `settings` are those of every fault that is named by its kind alone.
        """
        self.faults += [
            fault
            if isinstance(fault, Fault)
            else msgspec.convert({"kind": fault, **settings}, Fault)
            for fault in faults
        ]

    def runs(self) -> list[Request]:
        """The requests that asked a model to speak."""
        return [request for request in self.requests if request.place in _RUNS]

    async def wait_until(self, happened: Callable[[], bool]) -> None:
        """Return as soon as `happened()`; looked at after each request's news."""
        if happened():
            return
        watcher = (happened, asyncio.get_running_loop().create_future())
        self._watchers.append(watcher)
        try:
            await watcher[1]
        finally:
            self._watchers.remove(watcher)

    def loaded(self) -> list[str]:
        """The models in memory now, by full name."""
        now = datetime.now(UTC)
        self._loaded = {n: end for n, end in self._loaded.items() if end > now}
        return list(self._loaded)

    # -- the application ------------------------------------------------------

    def _routes(self) -> list[tuple[str, str, str, _Handler]]:
        """Method, path, place and handler of what is answered: what the real one has."""
        return [
            ("GET", "/", "root", self._root),
            ("GET", "/api/version", "version", self._version),
            ("GET", "/api/tags", "tags", self._tags),
            ("GET", "/api/ps", "ps", self._ps),
            ("POST", "/api/show", "show", self._show),
            ("POST", "/api/chat", "chat", partial(self._ollama_run, chat=True)),
            (
                *("POST", "/api/generate", "generate"),
                partial(self._ollama_run, chat=False),
            ),
            ("GET", "/v1/models", "models", self._openai_models),
            ("POST", "/v1/chat/completions", "completions", self._completions),
            ("POST", "/v1/embeddings", "embeddings", self._embeddings),
            ("POST", "/api/create", "create", self._create),
            *(
                [("POST", "/v1/messages", "messages", self._messages)]
                if self._has_messages
                else []
            ),
        ]

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        for method, path, place, handler in self._routes():
            app.router.add_route(method, path, self._door(place, handler))
            if method == "GET":
                app.router.add_route("HEAD", path, self._door(place, handler))
        app.router.add_get("/simulated/faults", self._list_faults)
        app.router.add_post("/simulated/faults", self._order_faults)
        app.router.add_delete("/simulated/faults", self._clear_faults)
        app.router.add_get("/simulated/requests", self._list_requests)
        app.router.add_route("*", "/{rest:.*}", self._elsewhere())
        app.on_response_prepare.append(_mark)
        return app

    def _door(
        self, place: str, handler: _Handler
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Record the request, let its fault strike, else hand it to `handler`."""

        async def answer(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            fault = self._take_fault(place)
            seen = Request(
                place=place,
                method=request.method,
                path=request.path,
                body=_as_object(body),
                fault=fault.kind if fault else None,
            )
            self.requests.append(seen)
            self._tell()
            try:
                response = await self._struck(request, place, body, fault, handler)
                seen.status = response.status
            except (asyncio.CancelledError, ConnectionError):
                seen.aborted = fault is None or fault.kind != "reset"
                raise
            finally:
                self._tell()
            return response

        return answer

    async def _struck(
        self,
        request: web.Request,
        place: str,
        body: bytes,
        fault: Fault | None,
        handler: _Handler,
    ) -> web.StreamResponse:
        try:
            if fault is not None:
                await self._strike_early(request, fault, body)
            return await handler(request, body, fault)
        except RequestRefused as refused:
            error = self._refusal(request.path, refused)
            return web.json_response(error, status=refused.status)

    def _refusal(self, path: str, refused: RequestRefused) -> dict[str, Any]:
        """An error as the API of that path writes it."""
        if not path.startswith("/v1/"):
            return {"error": refused.message}
        write = messages_error if path == "/v1/messages" else openai_error
        return write(refused.status, refused.message)

    async def _strike_early(
        self, request: web.Request, fault: Fault, body: bytes
    ) -> None:
        """The faults that come before any answer."""
        asked = _as_object(body)
        match fault.kind:
            case "hang":
                await asyncio.Event().wait()
            case "reset" if fault.after == 0:
                await _reset(request)
            case "refuses_stream_options" if "stream_options" not in asked:
                pass
            case "refuses_max_tokens" if "max_tokens" not in asked:
                pass
            case kind if kind in _REFUSALS:
                status, usual = _REFUSALS[kind]
                usual = usual.replace("{model}", str(asked.get("model", "")))
                raise RequestRefused(status, fault.message or usual)
            case _:
                pass

    def _take_fault(self, place: str) -> Fault | None:
        for index, fault in enumerate(self.faults):
            if fault.fits(place):
                if fault.times == 1:
                    del self.faults[index]
                elif fault.times > 1:
                    self.faults[index] = msgspec.structs.replace(
                        fault, times=fault.times - 1
                    )
                return fault
        return None

    def _tell(self) -> None:
        """Wake those who wait for what has now happened."""
        for happened, woken in self._watchers:
            if not woken.done() and happened():
                woken.set_result(None)

    # -- what loads nothing -----------------------------------------------------

    def _elsewhere(self) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """What answers at paths that the real one does not have."""

        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(status=404, text="404 page not found")

        return answer

    async def _root(self, *_: object) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _version(self, *_: object) -> web.Response:
        return web.json_response({"version": VERSION})

    async def _tags(self, *_: object) -> web.Response:
        return web.json_response({"models": [_tag(m) for m in self.models.values()]})

    async def _ps(self, *_: object) -> web.Response:
        return web.json_response(
            {"models": [self._in_memory(name) for name in self.loaded()]}
        )

    def _in_memory(self, name: str) -> dict[str, Any]:
        model = self.models[name]
        return {
            "name": name,
            "model": name,
            "size": model.size,
            "digest": model.digest,
            "details": model.details(),
            "expires_at": _stamp(self._loaded[name]),
            "size_vram": model.vram,
            "context_length": model.num_ctx,
        }

    async def _show(
        self, request: web.Request, body: bytes, fault: Fault | None
    ) -> web.Response:
        run_body = _decode(body, _ShowBody)
        model = self._find(run_body.model or run_body.name)
        return web.json_response(
            {
                "modelfile": f"# simulated\nFROM {model.name}\n",
                "parameters": f"num_ctx    {model.num_ctx}" if model.fixed else "",
                "template": "{{ .Prompt }}",
                "details": model.details(),
                "model_info": {
                    "general.architecture": "simulated",
                    "simulated.context_length": model.context_length,
                },
                "capabilities": model.capabilities,
                "modified_at": _STORED_AT,
            }
        )

    async def _create(
        self, request: web.Request, body: bytes, fault: Fault | None
    ) -> web.Response:
        """Make a model of another, with parameters of its own."""
        wanted = _decode(body, _CreateBody)
        source = self._find(wanted.source)
        if not wanted.model:
            raise RequestRefused(400, "model is required")
        num_ctx = wanted.parameters.get("num_ctx")
        made = msgspec.structs.replace(
            source,
            name=wanted.model,
            num_ctx=num_ctx if isinstance(num_ctx, int) else source.num_ctx,
            fixed=isinstance(num_ctx, int) or source.fixed,
        )
        self.models[self.full_name(wanted.model)] = made
        return web.json_response({"status": "success"})

    async def _openai_models(self, *_: object) -> web.Response:
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "simulated"}
            for name in self.models
        ]
        return web.json_response({"object": "list", "data": data})

    # -- what runs a model ------------------------------------------------------

    async def _ollama_run(
        self, request: web.Request, body: bytes, fault: Fault | None, *, chat: bool
    ) -> web.StreamResponse:
        run_body = _decode(body, RunBody)
        model = self._find(run_body.model)
        if not run_body.question():
            return await self._load_only(run_body, model, chat=chat)
        if chat and model.embedding:
            raise RequestRefused(400, f'"{run_body.model}" does not support chat')
        if run_body.think and not model.thinking:
            raise RequestRefused(400, f'"{run_body.model}" does not support thinking')
        options = run_body.options or _Options()
        if fault is not None and fault.kind == "ignores_format":
            run_body.format = None
        async with self._slot():
            answer = await self._decide(run_body, model, options)
            voice = _OllamaVoice(answer, chat=chat)
            streamed = run_body.stream is not False
            return await self._deliver(request, voice, answer, fault, streamed=streamed)

    async def _completions(
        self, request: web.Request, body: bytes, fault: Fault | None
    ) -> web.StreamResponse:
        run_body = _decode(body, RunBody)
        model = self._find(run_body.model)
        if not run_body.messages:
            raise RequestRefused(400, "[] is too short - 'messages'")
        if model.embedding:
            raise RequestRefused(400, f'"{run_body.model}" does not support chat')
        limit = run_body.max_completion_tokens or run_body.max_tokens
        if fault is not None and fault.kind == "ignores_format":
            run_body.response_format = None
        async with self._slot():
            answer = await self._decide(run_body, model, _Options(num_predict=limit))
            include = run_body.stream_options is not None and (
                run_body.stream_options.include_usage
            )
            voice = self._openai_voice(answer, include_usage=include)
            streamed = run_body.stream is True
            return await self._deliver(request, voice, answer, fault, streamed=streamed)

    async def _embeddings(
        self, request: web.Request, body: bytes, fault: Fault | None
    ) -> web.StreamResponse:
        """Vectors of eight numbers, the same for the same text."""
        asked = _decode(body, EmbedBody)
        model = self._find(asked.model)
        if not model.embedding:
            raise RequestRefused(400, "this model does not support embeddings")
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        vectors = [
            [byte / 255 for byte in hashlib.sha256(text.encode()).digest()[:8]]
            for text in texts
        ]
        tokens = sum(len(text.split()) for text in texts)
        data = [
            {"object": "embedding", "index": n, "embedding": vector[: asked.dimensions]}
            for n, vector in enumerate(vectors)
        ]
        return web.json_response(
            {
                "object": "list",
                "data": data,
                "model": asked.model,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    async def _messages(
        self, request: web.Request, body: bytes, fault: Fault | None
    ) -> web.StreamResponse:
        """Anthropic's Messages API; a request cannot say how much context it wants."""
        asked = _decode(body or b"{}", MessagesBody)
        if missing := asked.missing():
            raise RequestRefused(400, missing)
        model = self._find(asked.model)
        if asked.tools and not model.tools:
            message = f"registry.ollama.ai/library/{model.name} does not support tools"
            raise RequestRefused(400, message)
        run_body = RunBody(model=asked.model, prompt=asked.prompt_text(), think=False)
        async with self._slot():
            answer = await self._decide(run_body, model, _Options())
            call = self._call_for(asked)
            if call is not None:
                answer.words = []
            else:
                words = pieces(answer_to(asked.question()))
                answer.words = words[: asked.max_tokens]
                answer.reason = "length" if answer.words != words else "stop"
            voice = self._messages_voice(answer, call, self._call_id)
            return await self._deliver(
                request, voice, answer, fault, streamed=asked.stream
            )

    @property
    def _call_id(self) -> str:
        """The id of the call that is made next."""
        return f"toolu_simulated_{self._made}"

    def _call_for(self, asked: MessagesBody) -> ScriptedCall | None:
        """The call that is due in a conversation, by what it tells of the one before."""
        if self.calls and asked.answers(self._call_id):
            self._next_call()
        due = self.calls[0] if self.calls else None
        return due if due is not None and asked.offers(due.name) else None

    def _next_call(self) -> ScriptedCall:
        self._made += 1
        return self.calls.pop(0)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """One of the parallel runs: waits for it, or is refused as busy."""
        if self._slots.locked() and self._waiting >= self._queue:
            raise RequestRefused(503, _BUSY)
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        self._tell()
        try:
            yield
        finally:
            self.running -= 1
            self._slots.release()

    async def _load_only(
        self, run_body: RunBody, model: Model, *, chat: bool
    ) -> web.Response:
        """An empty request loads the model, or with `keep_alive` 0 unloads it."""
        keep = _keep_for(run_body.keep_alive, self._keep_alive)
        if keep <= timedelta(0):
            self._loaded.pop(self.full_name(model.name), None)
        else:
            await self._load(model, keep)
        message = {"message": {"role": "assistant", "content": ""}}
        return web.json_response(
            {
                "model": run_body.model,
                "created_at": _now(),
                **(message if chat else {"response": ""}),
                "done": True,
                "done_reason": "unload" if keep <= timedelta(0) else "load",
            }
        )

    async def _load(self, model: Model, keep: timedelta) -> int:
        """Bring `model` into memory; the nanoseconds it took. Aborting cancels it."""
        began = time.perf_counter_ns()
        name = self.full_name(model.name)
        async with self._loading:
            if name not in self.loaded() and self._load_s:
                await asyncio.sleep(self._load_s)
            end = datetime.now(UTC) + keep
            self._loaded[name] = end
        self._tell()
        return time.perf_counter_ns() - began

    async def _decide(
        self, run_body: RunBody, model: Model, options: _Options
    ) -> Answer:
        """Load the model and settle everything that the answer will hold."""
        # More than a model was made for it does not get, and nobody is told.
        context = min(options.num_ctx or model.num_ctx, model.context_length)
        prompt_tokens = count_tokens(run_body.prompt_text())
        if prompt_tokens > context and run_body.truncate is False:
            raise RequestRefused(400, "the input length exceeds the context length")
        began = time.perf_counter_ns()
        keep = _keep_for(run_body.keep_alive, self._keep_alive)
        load_ns = await self._load(model, max(keep, timedelta(0)))
        words = pieces(_worded(run_body))
        thinking = model.thinking and run_body.think is not False
        call = self._call_in(run_body, model)
        if call is not None:
            words = []
        limit = options.num_predict or -1
        cut = 0 < limit < len(words)
        return Answer(
            model=model,
            asked_as=run_body.model,
            thinking=pieces(thoughts_on(run_body.question())) if thinking else [],
            words=words[:limit] if cut else words,
            prompt_tokens=min(prompt_tokens, context),
            reason="length" if cut else "stop",
            started_ns=began,
            load_ns=load_ns,
            call=call,
        )

    def _call_in(self, run_body: RunBody, model: Model) -> ScriptedCall | None:
        """The tool that is called instead of an answer, if any."""
        offered = run_body.offered()
        if offered and not model.tools:
            message = f"registry.ollama.ai/library/{model.name} does not support tools"
            raise RequestRefused(400, message)
        if self.calls and self.calls[0].name in offered:
            return self._next_call()
        if name := run_body.must_call():
            return ScriptedCall(name=name, input=fitting(offered[name], name))
        return None

    async def _deliver(
        self,
        request: web.Request,
        voice: _Voice,
        answer: Answer,
        fault: Fault | None,
        *,
        streamed: bool,
    ) -> web.StreamResponse:
        if not streamed:
            async for _ in self._paced(answer, fault):
                pass
            counted = fault is None or fault.kind != "usage_missing"
            return web.json_response(voice.whole(counted=counted))
        response = web.StreamResponse(headers={"Content-Type": voice.content_type})
        response.enable_chunked_encoding()
        await response.prepare(request)
        wire = _ResponseWriter(response, split=self._split_lines)
        async for lines in self._lines(request, voice, answer, fault):
            await wire.send(lines)
        await wire.flush()
        await response.write_eof()
        return response

    async def _lines(
        self,
        request: web.Request,
        voice: _Voice,
        answer: Answer,
        fault: Fault | None,
    ) -> AsyncIterator[bytes]:
        """The answer in its API's words, up to where the fault strikes."""
        kind = fault.kind if fault else None
        sent = 0
        async for thought, piece in self._paced(answer, fault):
            if fault is not None and sent == fault.after:
                match kind:
                    case "malformed_line":
                        yield voice.malformed()
                    case "long_line":
                        yield voice.says("x" * fault.size)
                    case "stall":
                        await asyncio.Event().wait()
                    case "reset":
                        await _reset(request)
                    case "end":
                        return
                    case "error_line":
                        usual = "an error was encountered while running the model"
                        yield voice.fails(fault.message or usual)
                        return
                    case _:
                        pass
            if kind == "comments":
                yield voice.comment()
            yield voice.thinks(piece) if thought else voice.says(piece)
            sent += 1
        yield voice.finishes(
            counted=kind != "usage_missing", on_last=kind == "usage_on_last"
        )

    async def _paced(
        self, answer: Answer, fault: Fault | None
    ) -> AsyncIterator[tuple[bool, str]]:
        """Each piece when it is due, and whether it is a thought."""
        first_s, token_s = self._first_token_s, self._token_s
        if fault is not None and fault.kind == "slow_first":
            first_s = fault.delay_s
        if fault is not None and fault.kind == "slow_tokens":
            token_s = fault.delay_s
        pieces_due = [(True, piece) for piece in answer.thinking]
        pieces_due += [(False, piece) for piece in answer.words]
        for index, (thought, piece) in enumerate(pieces_due):
            wait_s = first_s if index == 0 else token_s
            if wait_s:
                await asyncio.sleep(wait_s)
            answer.first_ns = answer.first_ns or time.perf_counter_ns()
            yield thought, piece

    def _find(self, name: str) -> Model:
        if not name:
            raise RequestRefused(400, "model is required")
        model = self.models.get(self.full_name(name))
        if model is None:
            raise RequestRefused(404, f"model '{name}' not found")
        return model

    # -- orders from another process ---------------------------------------------

    async def _list_faults(self, _: web.Request) -> web.Response:
        return web.json_response(msgspec.to_builtins(self.faults))

    async def _order_faults(self, request: web.Request) -> web.Response:
        try:
            ordered = msgspec.json.decode(await request.read(), type=list[Fault])
        except msgspec.MsgspecError as wrong:
            return web.json_response({"error": str(wrong)}, status=400)
        self.faults += ordered
        return web.json_response({"faults": len(self.faults)})

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self.faults.clear()
        return web.json_response({"faults": 0})

    async def _list_requests(self, _: web.Request) -> web.Response:
        return web.json_response(msgspec.to_builtins(self.requests))


class _ResponseWriter:
    """Sends lines at once, or, when `split`, in pieces that end inside lines."""

    def __init__(self, response: web.StreamResponse, *, split: bool) -> None:
        self._response = response
        self._split = split
        self._held = b""

    async def send(self, lines: bytes) -> None:
        if not lines:
            return
        keep = len(lines) // 2 if self._split else 0
        data = self._held + lines
        self._held = data[len(data) - keep :]
        await self._response.write(data[: len(data) - keep])

    async def flush(self) -> None:
        if self._held:
            await self._response.write(self._held)
            self._held = b""


_STORED_AT = "2025-01-01T00:00:00Z"
_Shape = TypeVar("_Shape")


def _tag(model: Model) -> dict[str, Any]:
    name = normal_model(model.name)
    remote = (
        {"remote_model": model.name, "remote_host": model.remote_host}
        if model.remote_host
        else {}
    )
    return {
        "name": name,
        "model": name,
        **remote,
        "modified_at": _STORED_AT,
        "size": model.size,
        "digest": model.digest,
        "details": model.details(),
        "capabilities": model.capabilities,
    }


def _worded(run_body: RunBody) -> str:
    """The answer, as JSON where the request wants it structured."""
    text = answer_to(run_body.question())
    form = run_body.wanted_form()
    if isinstance(form, dict):
        return json.dumps(fitting(form, text))
    if form:
        return json.dumps({"simulated": True, "answer": text})
    return text


def _keep_for(value: str | float | None, usual: timedelta) -> timedelta:
    """`keep_alive` as Ollama reads it: seconds, or `5m`; below zero for ever."""
    if value is None:
        return usual
    try:
        seconds = float(value)
    except ValueError:
        text = str(value)
        unit = next((u for u in _UNITS if text.endswith(u)), None)
        if unit is None:
            raise RequestRefused(400, f'time: invalid duration "{text}"') from None
        try:
            seconds = float(text.removesuffix(unit)) * _UNITS[unit]
        except ValueError as wrong:
            raise RequestRefused(400, f'time: invalid duration "{text}"') from wrong
    return _FOREVER if seconds < 0 else timedelta(seconds=seconds)


def _decode(body: bytes, shape: type[_Shape]) -> _Shape:
    if not body:
        raise RequestRefused(400, "missing request body")
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.MsgspecError as wrong:
        raise RequestRefused(400, str(wrong)) from wrong


def _as_object(body: bytes) -> dict[str, Any]:
    """The body for the record; what is no object is recorded as an empty one."""
    try:
        value = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return {}
    return value if isinstance(value, dict) else {}


def openai_error(status: int, message: str) -> dict[str, Any]:
    kinds = {400: "invalid_request_error", 404: "not_found_error"}
    kind = kinds.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


async def _reset(request: web.Request) -> None:
    """Drop the connection so that the client sees a reset, not an end.

    Never returns: losing its connection cancels the handler.
    """
    transport = request.transport
    if transport is not None:
        plug = transport.get_extra_info("socket")
        with suppress(OSError):
            plug.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        transport.abort()
    await asyncio.Event().wait()


async def _mark(_: web.Request, response: web.StreamResponse) -> None:
    response.headers[SIMULATED_HEADER] = "1"


def _now() -> str:
    return _stamp(datetime.now(UTC))


def _stamp(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


# -- as a process ---------------------------------------------------------------


async def serve(ollama: SimulatedOllama) -> None:
    """Print the address as one JSON line, then serve until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stopping.set)
    async with ollama:
        line = {"url": ollama.url, "version": VERSION, "models": list(ollama.models)}
        print(json.dumps(line), flush=True)  # noqa: T201
        await stopping.wait()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="agentcom -m sidecar.simulated.ollama")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", action="append", help="may be given several times")
    parser.add_argument("--tokens-per-s", type=float, default=20.0)
    parser.add_argument("--first-token-s", type=float, default=0.2)
    parser.add_argument("--load-s", type=float, default=0.5)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--split-lines", action="store_true")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        help=f"a kind ({', '.join(get_args(FaultKind))}) or a fault as JSON",
    )
    options = parser.parse_args(argv)
    ollama = SimulatedOllama(
        options.model or DEFAULT_MODELS,
        host=options.host,
        port=options.port,
        tokens_per_s=options.tokens_per_s,
        first_token_s=options.first_token_s,
        load_s=options.load_s,
        parallel=options.parallel,
        split_lines=options.split_lines,
    )
    for fault in options.fault:
        if fault.startswith("{"):
            ollama.fail_next(msgspec.json.decode(fault, type=Fault))
        else:
            ollama.fail_next(fault)
    asyncio.run(serve(ollama))


if __name__ == "__main__":
    main()
