"""A simulated llama.cpp server: OpenAI's and Anthropic's APIs with that server's habits.

In a test: `async with SimulatedLlamaServer(["gemma:Q8_0"], n_ctx=1024) as server`. With
one model it is a plain `llama-server`, which answers by whatever name it is asked; with
several it is in router mode: names count letter by letter, `/v1/models` says of each
whether it is in memory, and the context only of those that are. Faults and records are
those of the simulated Ollama, whose own routes are not here.

Its habits are those of the real one, request by request (`tests/contract`): every error is
an object with `code`, `message` and `type`, in the Messages API too, where a request
without messages is its own fault (500); a prompt that does not fit is refused as
`exceed_context_size_error`; a picture that the model cannot see is a 500.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from aiohttp import web

from sidecar.simulated.answers import count_tokens
from sidecar.simulated.messages import MessagesBody, MessagesVoice
from sidecar.simulated.ollama import (
    Model,
    OpenAIVoice,
    RequestRefused,
    RunBody,
    SimulatedOllama,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.simulated.ollama import Fault

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    501: "not_supported_error",
    503: "unavailable_error",
}
_NO_PICTURES = (
    "image input is not supported - hint: if this is unexpected, you may need to provide "
    "the mmproj"
)


class _LlamaVoice(OpenAIVoice):
    """The role comes in a chunk of its own, the end in one without a word."""

    def _begun(self) -> bytes:
        if self.began:
            return b""
        self.began = True
        return self._chunk({"role": "assistant", "content": None})

    began = False

    def thinks(self, piece: str) -> bytes:
        return self._begun() + self._chunk({"reasoning_content": piece})

    def says(self, piece: str) -> bytes:
        return self._begun() + self._chunk({"content": piece})

    def finishes(self, *, counted: bool, on_last: bool) -> bytes:
        asked = self._include_usage and counted
        usage = {"usage": self._usage()} if asked else {}
        last = usage if on_last else {}
        lines = self._begun()
        for call in self._calls():
            lines += self._chunk({"tool_calls": [call]})
        lines += self._chunk({}, self._reason, **last)
        if usage and not on_last:
            lines += self._event({**self._head(), "choices": [], **usage})
        return lines + b"data: [DONE]\n\n"

    def whole(self, *, counted: bool) -> dict[str, Any]:
        value = super().whole(counted=counted)
        message = value["choices"][0]["message"]
        if "reasoning" in message:
            message["reasoning_content"] = message.pop("reasoning")
        return value

    def fails(self, message: str) -> bytes:
        return self._event({"error": _error(500, message)})

    def _head(self) -> dict[str, Any]:
        return {**super()._head(), "model": self._answer.model.name}

    def _usage(self) -> dict[str, Any]:
        return {**super()._usage(), "prompt_tokens_details": {"cached_tokens": 0}}

    def _chunk(
        self, delta: dict[str, Any], reason: str | None = None, **more: Any
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return self._event({**self._head(), "choices": [choice], **more})


class _LlamaMessages(MessagesVoice):
    def fails(self, message: str) -> bytes:
        return self._event({"type": "error", "error": _error(500, message)})

    def _head(self) -> dict[str, Any]:
        return {**super()._head(), "model": self._answer.model.name}

    def _usage(self, written: int) -> dict[str, int]:
        return {**super()._usage(written), "cache_read_input_tokens": 0}


class SimulatedLlamaServer(SimulatedOllama):
    """The server; `n_ctx` is the context of a slot, in tokens; `key`: what it asks for."""

    _openai_voice: ClassVar[type[OpenAIVoice]] = _LlamaVoice
    _messages_voice: ClassVar[type[MessagesVoice]] = _LlamaMessages

    def __init__(
        self,
        models: Sequence[Model | str],
        *,
        n_ctx: int = 4096,
        key: str = "",
        **settings: Any,
    ) -> None:
        super().__init__(models, **settings)
        self.n_ctx = n_ctx
        self._key = key
        self._parallel = settings.get("parallel", 4)
        self._is_router = len(self.models) > 1

    def full_name(self, name: str) -> str:
        """A name is what it is."""
        return name

    def loaded(self) -> list[str]:
        """The models in memory; a plain server's is from its start."""
        return super().loaded() if self._is_router else list(self.models)

    def _routes(self) -> list[Any]:
        own = [
            (method, path, place, self._keyed(handler))
            for method, path, place, handler in super()._routes()
            if path.startswith("/v1/")
        ]
        return [
            ("GET", "/health", "health", self._health),
            ("GET", "/v1/health", "health", self._health),
            ("GET", "/models", "models", self._keyed(self._openai_models)),
            ("GET", "/props", "props", self._keyed(self._props)),
            ("GET", "/slots", "slots", self._keyed(self._slots_now)),
            ("POST", "/v1/messages/count_tokens", "count", self._keyed(self._count)),
            *own,
        ]

    def _elsewhere(self) -> Any:
        return self._door("nothing", self._keyed(self._nothing))

    def _keyed(self, handler: Any) -> Any:
        """Hand it on only with the key, which comes in either API's header."""

        async def answer(
            request: web.Request, body: bytes, fault: Fault | None
        ) -> web.StreamResponse:
            headers = request.headers
            said = headers.get("Authorization") or headers.get("X-Api-Key") or ""
            if self._key and said.removeprefix("Bearer ") != self._key:
                raise RequestRefused(401, "Invalid API Key")
            response: web.StreamResponse = await handler(request, body, fault)
            return response

        return answer

    def _refusal(self, path: str, refused: RequestRefused) -> dict[str, Any]:
        return {"error": _error(refused.status, refused.message, **refused.more)}

    # -- what is asked of the server ----------------------------------------------

    async def _nothing(self, *_: object) -> web.Response:
        raise RequestRefused(404, "File Not Found")

    async def _health(self, *_: object) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _props(self, *_: object) -> web.Response:
        """What is of the server and its one model; a router has no model's."""
        if self._is_router:
            settings: dict[str, Any] = {"params": {}, "n_ctx": 0}
            return web.json_response(
                {"role": "router", "default_generation_settings": settings}
            )
        model = next(iter(self.models.values()))
        return web.json_response(
            {
                "default_generation_settings": {"n_ctx": self.n_ctx},
                "total_slots": self._parallel,
                "model_alias": model.name,
                "modalities": {"vision": model.vision, "audio": False},
                "chat_template_caps": {
                    "supports_tools": model.tools,
                    "supports_tool_calls": model.tools,
                },
            }
        )

    async def _slots_now(self, *_: object) -> web.Response:
        if self._is_router:
            self._find("")
        return web.json_response(
            [
                {"id": n, "n_ctx": self.n_ctx, "is_processing": n < self.running}
                for n in range(self._parallel)
            ]
        )

    async def _openai_models(self, *_: object) -> web.Response:
        loaded = self.loaded()
        data = [self._listed(name, name in loaded) for name in self.models]
        if self._is_router:
            return web.json_response({"object": "list", "data": data})
        own = [
            {"name": name, "model": name, "capabilities": _abilities(model)}
            for name, model in self.models.items()
        ]
        return web.json_response({"models": own, "object": "list", "data": data})

    def _listed(self, name: str, loaded: bool) -> dict[str, Any]:
        model = self.models[name]
        value = "loaded" if loaded else "unloaded"
        status: dict[str, Any] = {"value": value, "args": []}
        meta = {"n_ctx": self.n_ctx, "n_ctx_train": model.context_length}
        inputs = ["text", "image"] if model.vision else ["text"]
        return {
            "id": name,
            "aliases": [] if self._is_router else [name],
            "tags": [],
            "object": "model",
            "owned_by": "llamacpp",
            "created": 0,
            "architecture": {"input_modalities": inputs, "output_modalities": ["text"]},
            **({"status": status} if self._is_router else {}),
            **({"meta": meta} if loaded else {}),
        }

    # -- what runs a model --------------------------------------------------------

    async def _completions(
        self, request: web.Request, body: bytes, fault: Fault | None
    ) -> web.StreamResponse:
        asked = _decoded(body, RunBody)
        model = self._find(asked.model)
        if asked.messages is None:
            raise RequestRefused(400, "'messages' is required")
        contents = [each.content for each in asked.messages]
        self._must_see(model, contents)
        self._must_fit(count_tokens(asked.prompt_text()))
        return await super()._completions(request, body, fault)

    async def _messages(
        self, request: web.Request, body: bytes, fault: Fault | None
    ) -> web.StreamResponse:
        asked = self._understood(body)
        self._must_fit(count_tokens(asked.prompt_text()))
        if not self._find(asked.model).tools:
            asked.tools = []  # its template has no words for them
        asked.max_tokens = asked.max_tokens or self.n_ctx
        asked.model = self._find(asked.model).name
        return await super()._messages(request, msgspec.json.encode(asked), fault)

    async def _count(self, _: object, body: bytes, __: object) -> web.Response:
        tokens = count_tokens(self._understood(body).prompt_text())
        return web.json_response({"input_tokens": tokens})

    def _understood(self, body: bytes) -> MessagesBody:
        """A request of the Messages API; what is missing there is the server's fault."""
        asked: MessagesBody = _decoded(body, MessagesBody)
        model = self._find(asked.model)
        if not asked.messages:
            raise RequestRefused(500, "'messages' is required")
        self._must_see(model, [each.content for each in asked.messages])
        return asked

    def _must_see(self, model: Model, contents: list[Any]) -> None:
        """Refuse a picture where the model has no eyes."""
        parts = [part for each in contents if isinstance(each, list) for part in each]
        if not model.vision and any(
            part.get("type") in ("image", "image_url") for part in parts
        ):
            raise RequestRefused(500, _NO_PICTURES)

    def _must_fit(self, prompt: int) -> None:
        """Refuse a prompt of so many tokens where the context is smaller."""
        if prompt < self.n_ctx:
            return
        message = (
            f"request ({prompt} tokens) exceeds the available context size "
            f"({self.n_ctx} tokens), try increasing it"
        )
        kind = "exceed_context_size_error"
        more = {"n_prompt_tokens": prompt, "n_ctx": self.n_ctx}
        raise RequestRefused(400, message, type=kind, **more)

    def _find(self, name: str) -> Model:
        if not self._is_router:
            return next(iter(self.models.values()))
        if not name:
            raise RequestRefused(400, "model name is missing from the request")
        if name not in self.models:
            raise RequestRefused(400, f"model '{name}' not found")
        return super()._find(name)


def _error(status: int, message: str, **more: Any) -> dict[str, Any]:
    kind = _KINDS.get(status, "server_error")
    return {"code": status, "message": message, "type": kind, **more}


def _abilities(model: Model) -> list[str]:
    if model.embedding:
        return ["embedding"]
    return ["completion", *(["multimodal"] if model.vision else [])]


def _decoded(body: bytes, shape: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.MsgspecError as wrong:
        raise RequestRefused(400, str(wrong)) from wrong
