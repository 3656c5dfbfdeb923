"""The HTTP edge: health, metrics, and the read models as JSON.

What `agentcom.query.<name>` answers on the bus is answered here at `/api/v1/...`, with
the question's fields as query parameters. A refusal is the same JSON object, with its
status as the response's.

    /healthz              the process runs
    /readyz               the read models have caught up and the server is reached
    /metrics              for Prometheus
    /api/v1/tasks         ?state=failed&state=dead&text=...&sort=-cost&limit=50
    /api/v1/tasks/ID      ?events=true
    /api/v1/tasks/ID/output  ?after_n=12&route=...
    /api/v1/tasks/ID/why
    /api/v1/queue?at=SEQ  fleet  alerts  stats   `at`: a sequence or an instant
    /api/v1/costs?by=model&since=2026-01-01&fallback=true
    /api/v1/status

It listens on the loopback address unless told otherwise, and refuses requests that name
another host than it was told to serve, so that a web page elsewhere cannot read along
by pointing its own name here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from events.codec import encode
from events.commands import Refusal
from events.errors import AgentComError
from web.metrics import CONTENT_TYPE, Metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from events.bus import Bus
    from projections.queries import Queries
    from projections.runner import Runner

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

DEFAULT_PORT: Final = 4000
LOOPBACK: Final = "127.0.0.1"

_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_LISTS: Final = {"state"}
_NUMBERS: Final = {"limit", "offset", "wait_seq", "events_from", "after_n"}
_TRUTHS: Final = {"events", "fallback"}
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
}


class Server:
    """The HTTP server of one runner's read models.

    `names` are the host names (without port) that requests may ask for, beside the
    loopback ones; an empty set where any will do, because the address is a public one.
    """

    def __init__(
        self,
        runner: Runner,
        queries: Queries,
        bus: Bus,
        *,
        names: frozenset[str] | None = frozenset(),
    ) -> None:
        self._runner = runner
        self._queries = queries
        self._bus = bus
        self._names = names
        self._metrics = Metrics(runner)
        self._site: web.AppRunner | None = None

    def app(self) -> web.Application:
        """Make the application."""
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/readyz", self._ready),
                web.get("/metrics", self._metric_page),
                web.get("/api/v1/tasks", self._asking("tasks")),
                web.get("/api/v1/tasks/{task_id}", self._asking("task")),
                web.get("/api/v1/tasks/{task_id}/output", self._asking("output")),
                web.get("/api/v1/tasks/{task_id}/why", self._asking("why")),
                web.get("/api/v1/alerts", self._asking("alerts")),
                web.get("/api/v1/queue", self._asking("queue")),
                web.get("/api/v1/fleet", self._asking("hosts")),
                web.get("/api/v1/costs", self._asking("costs")),
                web.get("/api/v1/stats", self._asking("stats")),
                web.get("/api/v1/status", self._asking("status")),
            ]
        )
        return app

    async def open(self, host: str = LOOPBACK, port: int = DEFAULT_PORT) -> int:
        """Listen; return the port, which is a free one where 0 was asked for.

        Raises OSError where the port is taken.
        """
        site = web.AppRunner(self.app(), access_log=None, handle_signals=False)
        await site.setup()
        try:
            await web.TCPSite(site, host, port).start()
        except BaseException:
            await site.cleanup()
            raise
        self._site = site
        return int(site.addresses[0][1])

    async def close(self) -> None:
        """Listen no more."""
        if self._site is not None:
            await self._site.cleanup()
            self._site = None

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        name = _asked_for(request)
        if self._names is not None and name not in _LOOPBACK_NAMES | self._names:
            return _json(
                Refusal(
                    code="forbidden",
                    error=f"this server does not serve {name[:80]!r}",
                    status=403,
                )
            )
        try:
            response = await handler(request)
        except web.HTTPException as error:
            return _json(
                Refusal(
                    code=error.reason.lower().replace(" ", "_"),
                    error=f"{request.method} {request.path[:200]}: {error.reason}",
                    status=error.status,
                )
            )
        response.headers.update(_HEADERS)
        return response

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    async def _ready(self, request: web.Request) -> web.Response:
        ready = self._runner.caught_up.is_set() and self._bus.connected
        said = {
            "ok": ready,
            "seq": self._runner.position,
            "connected": self._bus.connected,
            "caught_up": self._runner.caught_up.is_set(),
        }
        return web.json_response(said, status=200 if ready else 503)

    async def _metric_page(self, request: web.Request) -> web.Response:
        try:
            lag = await self._runner.lag()
        except AgentComError:
            lag = -1
        return web.Response(
            body=self._metrics.text(lag), headers={"Content-Type": CONTENT_TYPE}
        )

    def _asking(self, query: str) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            question = _question(request)
            if isinstance(question, Refusal):
                return _json(question)
            return _json(await self._queries.answer(query, encode(question)))

        return handle


def _asked_for(request: web.Request) -> str:
    try:
        return request.url.host or ""
    except ValueError:
        return ""


def _json(answer: Any) -> web.Response:
    status = answer.status if isinstance(answer, Refusal) else 200
    return web.Response(
        body=encode(answer),
        status=status,
        headers={"Content-Type": "application/json", **_HEADERS},
    )


def _question(request: web.Request) -> dict[str, Any] | Refusal:
    """Turn path and query parameters into a question's fields."""
    question: dict[str, Any] = dict(request.match_info)
    for key in request.query:
        values = request.query.getall(key)
        if key in _LISTS:
            question[key] = [part for value in values for part in value.split(",")]
        elif len(values) > 1:
            return _wrong(key, "one value", f"{len(values)}")
        elif key in _NUMBERS:
            try:
                question[key] = int(values[0])
            except ValueError:
                return _wrong(key, "a whole number", repr(values[0][:80]))
        elif key in _TRUTHS:
            if values[0] not in ("true", "false"):
                return _wrong(key, "true or false", repr(values[0][:80]))
            question[key] = values[0] == "true"
        elif key == "at" and values[0].isascii() and values[0].isdigit():
            question[key] = int(values[0])
        elif key in request.match_info:
            return _wrong(key, "it in the path only", "it twice")
        else:
            question[key] = values[0]
    return question


def _wrong(key: str, expected: str, got: str) -> Refusal:
    return Refusal(
        code="malformed", error=f"{key}: expected {expected}, got {got}", path=key
    )
