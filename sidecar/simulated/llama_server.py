"""A simulated llama.cpp server in router mode: OpenAI's API with that server's habits.

In a test: `async with SimulatedLlamaServer(["gemma:Q8_0"], n_ctx=1024) as server`. Names
count letter by letter, `/v1/models` says of each whether it is in memory, and a prompt
that does not fit the context is refused as `exceed_context_size_error`. Faults and records
are those of the simulated Ollama, whose own routes are not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from sidecar.simulated.answers import count_tokens
from sidecar.simulated.messages import MessagesBody
from sidecar.simulated.ollama import Model, RequestRefused, RunBody, SimulatedOllama

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.simulated.ollama import Fault


class SimulatedLlamaServer(SimulatedOllama):
    """The server; `n_ctx` is the context of every model, in tokens."""

    def __init__(
        self, models: Sequence[Model | str], *, n_ctx: int = 4096, **settings: Any
    ) -> None:
        super().__init__(models, **settings)
        self.n_ctx = n_ctx

    def full_name(self, name: str) -> str:
        """A name is what it is."""
        return name

    def _routes(self) -> list[Any]:
        own = [route for route in super()._routes() if route[1].startswith("/v1/")]
        return [
            ("GET", "/health", "health", self._health),
            ("GET", "/props", "props", self._props),
            *own,
        ]

    async def _props(self, *_: object) -> web.Response:
        """What is of the server, and of its one model; the router has no model's."""
        model = next(iter(self.models.values()), None)
        if model is None or len(self.models) > 1:
            return web.json_response({"role": "router"})
        return web.json_response(
            {
                "default_generation_settings": {"n_ctx": self.n_ctx},
                "total_slots": 1,
                "modalities": {"vision": model.vision, "audio": False},
                "chat_template_caps": {
                    "supports_tools": model.tools,
                    "supports_tool_calls": model.tools,
                },
            }
        )

    async def _messages(
        self, request: web.Request, body: bytes, fault: Fault | None
    ) -> web.StreamResponse:
        asked = msgspec.json.decode(body or b"{}", type=MessagesBody)
        if not asked.missing():
            self._must_fit(count_tokens(asked.prompt_text()))
        return await super()._messages(request, body, fault)

    async def _health(self, *_: object) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _openai_models(self, *_: object) -> web.Response:
        loaded = self.loaded()
        data = [
            {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "llamacpp",
                "status": {"value": "loaded" if name in loaded else "unloaded"},
                "meta": {"n_ctx": self.n_ctx, "n_ctx_train": model.context_length},
            }
            for name, model in self.models.items()
        ]
        return web.json_response({"object": "list", "data": data})

    async def _completions(
        self, request: web.Request, body: bytes, fault: Fault | None
    ) -> web.StreamResponse:
        asked = msgspec.json.decode(body, type=RunBody)
        self._must_fit(count_tokens(asked.prompt_text()))
        return await super()._completions(request, body, fault)

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
        raise RequestRefused(400, message, code=400, type=kind, **more)

    def _find(self, name: str) -> Model:
        if name not in self.models:
            kind, message = "invalid_request_error", f"model '{name}' not found"
            raise RequestRefused(400, message, code=400, type=kind)
        return super()._find(name)
