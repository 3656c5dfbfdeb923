"""The HTTP edge: health, metrics, the interface for programs, the page and its websocket.

    /healthz  /readyz  /metrics      no token needed
    /  /static/...                   nor here: the page and its files
    /ws                              what it shows, see `web.bridge`
    /api/v1/...                      see `web.api` and /api/v1/openapi.json
    /v1/...                          OpenAI's interface, see `web.chats`

It listens on the loopback address unless told otherwise, and refuses requests that name
another host than it was told to serve, so that a web page elsewhere cannot read along
by pointing its own name here. Who may do what is decided in `web.access`.
"""

from __future__ import annotations

import asyncio
import html
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from events.commands import Refusal, refusal_of, refuse
from events.errors import AgentComError, shown
from projections.answers import AttentionAnswer
from projections.questions import Question
from web.access import (
    DEFAULT_PORT,
    HEADERS,
    PROTOCOL,
    Access,
    Visitor,
    other_origin,
    shown_token,
)
from web.api import ASKING, BODY_QUERIES, COMMANDS, QUERIES, Api, response_of
from web.bridge import Bridge
from web.chats import Chats, sorry
from web.door import Door, HttpConnection
from web.metrics import CONTENT_TYPE, Metrics
from web.openai import BODY_BYTES as CHAT_BYTES
from web.openapi import document
from web.printed import Printed
from web.streams import Streams, wants_stream
from web.vectors import embed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from events.bus import Bus
    from events.log import EventLog
    from projections.answers import AttentionRow
    from projections.output import OutputReader
    from projections.queries import Queries
    from projections.runner import Runner
    from web.api import SavingsReader

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOOPBACK: Final = "127.0.0.1"
BODY_BYTES: Final = 1_000_000
MESSAGE_BYTES: Final = 64 * 1024
HEARTBEAT_S: Final = 15.0
BODY_S: Final = 20.0
"""How long the body of a request may take to arrive."""
LAG_S: Final = 0.5
"""How long the projections' lag, which the broker is asked for, is good for metrics."""

STATIC: Final = Path(__file__).parent / "static"

_CHATS: Final = "/v1/"
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_FILES: Final = {
    "app.js": "text/javascript; charset=utf-8",
    "app.css": "text/css; charset=utf-8",
    "inter.woff2": "font/woff2",
    "mono.woff2": "font/woff2",
    "favicon.svg": "image/svg+xml",
    "favicon-alert.svg": "image/svg+xml",
}
_VISITOR: Final = web.RequestKey("visitor", Visitor)

_PLAIN_PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>AgentCom</title>
<main><h1>AgentCom</h1><p>{}</p></main></html>
"""
_NOT_BUILT: Final = """The dashboard's page was not built here. In the source tree:
<code>make ui</code> (it needs Node 18 or newer). The interface for programs works without:
<a href="api/v1/status">/api/v1/status</a>."""


class Server:
    """The HTTP server of one runner's read models.

    `names` are the host names (without port) that requests may ask for, beside the
    loopback ones; None where any will do, because the address is a public one. All is
    below the path `base`, "" or like "/fleet"; health and metrics are above it, too.
    Without `access` everybody may do everything: for tests and for a guarded network.
    """

    def __init__(
        self,
        runner: Runner,
        queries: Queries,
        bus: Bus,
        log: EventLog,
        *,
        output: OutputReader | None = None,
        names: frozenset[str] | None = frozenset(),
        base: str = "",
        access: Access | None = None,
        policy: dict[str, Any] | None = None,
        savings: SavingsReader | None = None,
    ) -> None:
        self._runner = runner
        self._queries = queries
        self._bus = bus
        self._names = None if names is None else _LOOPBACK_NAMES | names
        self._base = base
        # What needs no token: questions that nobody stays for, and what the page is.
        self._passing = {self._health, self._ready, self._metric_page, self._icon}
        self._open = self._passing | {
            self._page,
            self._file,
            self._to_page,
            self._openapi,
        }
        self._access = access or Access(None, clock=time.monotonic)
        self._api = Api(queries, bus, log, policy or {}, savings)
        self._printed = Printed(queries, output)
        self._metrics = Metrics(runner)
        self.door = Door(time.monotonic)
        self._site: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        # What wants a person, as metrics show it.
        self._wanting: list[AttentionRow] = []
        # The projections' lag, when it was found, and whether somebody asks for it now.
        self._lag = (-1, float("-inf"))
        self._asking_lag = asyncio.Lock()
        self.bridge = Bridge(runner, queries, bus, log, output, policy or {})
        self._streams = Streams(runner, queries, log, self.bridge.output, output)
        self.chats = Chats(runner, queries, self._api, self.bridge.output)
        self._sockets: set[web.WebSocketResponse] = set()

    def app(self) -> web.Application:
        """Make the application."""
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_BYTES)
        health = [
            ("/healthz", self._health),
            ("/readyz", self._ready),
            ("/metrics", self._metric_page),
        ]
        asked = [
            *health,
            ("/", self._page),
            ("/favicon.svg", self._icon),
            ("/favicon-alert.svg", self._icon),
            ("/static/{name}", self._file),
            ("/ws", self._socket),
            ("/api/v1/openapi.json", self._openapi),
            ("/api/v1/me", self._me),
            ("/api/v1/tasks/{task_id}/trace", self._answering(self._api.trace)),
            ("/api/v1/tasks/{task_id}/output.ndjson", self._printed.pieces),
            ("/api/v1/tasks/{task_id}/output.txt", self._printed.text),
            ("/api/v1/policy", self._answering(self._api.policy)),
            ("/api/v1/tasks/{task_id}/events", self._task_events),
            ("/api/v1/tasks/{task_id}/output", self._task_output),
            ("/api/v1/events", self._answering(self._api.events)),
            ("/api/v1/savings", self._answering(self._api.saved)),
            *(
                (route.path, self._answering(partial(self._api.ask, route.query)))
                for route in QUERIES
                if route.query != "output"
            ),
        ]
        done = [
            *(
                (
                    "POST",
                    route.path,
                    self._answering(partial(self._api.ask_by_body, route.query)),
                )
                for route in BODY_QUERIES
            ),
            ("GET", f"{_CHATS}models", self.chats.models),
            ("GET", _CHATS + "models/{name:.+}", self.chats.model),
            ("POST", f"{_CHATS}chat/completions", self._modelling(self.chats.complete)),
            (
                "POST",
                f"{_CHATS}embeddings",
                self._modelling(partial(embed, self.chats)),
            ),
            ("*", _CHATS + "{rest:.*}", self.chats.nothing),
            *(
                (each.method, each.path, self._commanding(each.name))
                for each in COMMANDS
            ),
        ]
        base, router = self._base, app.router
        for path, handler in asked:
            router.add_get(base + path, handler)
        for method, path, handler in done:
            router.add_route(method, base + path, handler)
        if base:
            for path, handler in [*health, ("/", self._to_page), (base, self._to_page)]:
                router.add_get(path, handler)
        return app

    async def open(self, host: str = LOOPBACK, port: int = DEFAULT_PORT) -> int:
        """Listen; return the port, which is a free one where 0 was asked for.

        Raises OSError where the port is taken.
        """
        await self.bridge.open()
        self.chats.open()
        site = web.AppRunner(self.app(), handle_signals=False, shutdown_timeout=2.0)
        await site.setup()
        server = site.server
        assert server is not None
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                lambda: HttpConnection(self.door, server), host, port, backlog=512
            )
        except BaseException:
            await site.cleanup()
            await self.bridge.close()
            raise
        self._site = site
        return int(self._listener.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listen no more."""
        self._streams.close()
        for socket in list(self._sockets):
            await socket.close(code=1001, message=b"stopping")
        await self.chats.close()
        if self._listener is not None and self._site is not None:
            self._listener.close()
            await self._site.cleanup()
            self._site = None
        await self.bridge.close()

    # -- who comes in ------------------------------------------------------------------

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        refusal = self._refused(request)
        if refusal is not None and self._is_chat(request):
            response: web.StreamResponse = sorry(refusal)
        elif refusal is not None:
            response = (
                _html(_PLAIN_PAGE.format(html.escape(refusal.error)), refusal.status)
                if request.match_info.handler == self._page
                else response_of(refusal)
            )
        else:
            response = await self._answer(request, handler)
        if not response.prepared:
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            if request.match_info.handler in self._passing:
                # Nobody known: its connection would be ended soon, maybe in mid-answer.
                response.force_close()
        self.door.answered(request)
        return response

    def _is_chat(self, request: web.Request) -> bool:
        return request.path.startswith(self._base + _CHATS)

    async def _answer(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        is_chat, limit = self._is_chat(request), BODY_BYTES
        if is_chat:
            limit = CHAT_BYTES
            request = request.clone(client_max_size=limit)
        try:
            if await _whole(request):
                return await handler(request)
            refusal = refuse("expired", f"the body did not come in {BODY_S:g} s")
        except web.HTTPException as error:
            # The HTTP library's own, with the words of HTTP as its code.
            reason = error.reason
            if isinstance(error, web.HTTPRequestEntityTooLarge):
                reason += f" (a body has at most {limit:,} bytes)"
            elif isinstance(error, web.HTTPNotFound | web.HTTPMethodNotAllowed):
                reason += "; /api/v1/openapi.json lists what is served"
            refusal = Refusal(
                code=error.reason.lower().replace(" ", "_"),
                error=f"{request.method} {request.path[:200]}: {reason}",
                status=error.status,
            )
        except (web.RequestPayloadError, HttpProcessingError):
            refusal = refuse("malformed", "the body is not what its headers say")
        except AgentComError as error:
            refusal = refusal_of(error)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - one request's end, not the server's
            self.door.complaints.about(error)
            refusal = refuse("internal", "a fault of AgentCom's own: see its log")
        return sorry(refusal) if is_chat else response_of(refusal)

    def _refused(self, request: web.Request) -> Refusal | None:
        """Return why a request is turned away; None if it is not."""
        name = _host_in(request)
        if self._names is not None and name not in self._names:
            return refuse(
                "forbidden",
                f"this server does not serve {shown(name[:80])}: if that is its own name, or "
                "that of a proxy before it, start `agentcom up` or `agentcom web` with "
                "--web-name and that name",
            )
        # By what answers, not by the path, which can be written in many ways.
        if request.match_info.handler in self._open:
            return None
        # A known token is looked for first: whatever strangers do, even from the same
        # address, its holder is served.
        who = self._access.address(request)
        visitor = self._access.visitor(request)
        if visitor is None:
            if shown_token(request) and not self._access.attempts.take(who):
                return _too_many("wrong tokens")
            return refuse(
                "unauthorized",
                "a token is needed: `Authorization: Bearer TOKEN`",
            )
        if origin := other_origin(request):
            return refuse(
                "forbidden",
                f"asked by a page of another origin, {origin}, while this server was "
                f"asked for as {request.host[:80]}: a proxy between them has to pass the "
                "Host header on as it is (nginx: `proxy_set_header Host $http_host;`), "
                "and `agentcom up` or `agentcom web` is started with --web-name and the "
                "proxy's name",
            )
        if not self._access.requests.take(f"{visitor.name} {who}"):
            return _too_many("requests")
        if not self.door.knows(request, visitor.name):
            return _too_many("connections")
        request[_VISITOR] = visitor
        return None

    # -- what needs no token -----------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:
        return response_of({"ok": True})

    async def _ready(self, request: web.Request) -> web.Response:
        ready = self._runner.caught_up.is_set() and self._bus.connected
        state = {
            "ok": ready,
            "seq": self._runner.position,
            "connected": self._bus.connected,
            "caught_up": self._runner.caught_up.is_set(),
        }
        return web.json_response(state, status=200 if ready else 503)

    async def _metric_page(self, request: web.Request) -> web.Response:
        async with self._asking_lag:
            if time.monotonic() - self._lag[1] > LAG_S:
                try:
                    lag = await self._runner.lag()
                except AgentComError:
                    lag = -1
                self._lag = (lag, time.monotonic())
                wanting = await self._queries.attention(Question())
                if isinstance(wanting, AttentionAnswer):
                    self._wanting = wanting.rows
        return web.Response(
            body=self._metrics.text(self._lag[0], self._wanting),
            headers={"Content-Type": CONTENT_TYPE},
        )

    # -- the page ----------------------------------------------------------------------

    async def _page(self, request: web.Request) -> web.StreamResponse:
        index = STATIC / "index.html"
        if not index.is_file():
            return _html(_PLAIN_PAGE.format(_NOT_BUILT), 503)
        return _html(index.read_text(), 200)

    async def _to_page(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"{self._base}/"})

    async def _icon(self, request: web.Request) -> web.StreamResponse:
        return self._static_file(request.path.rpartition("/")[2])

    async def _file(self, request: web.Request) -> web.StreamResponse:
        return self._static_file(request.match_info["name"])

    def _static_file(self, name: str) -> web.StreamResponse:
        kind = _FILES.get(name)
        path = STATIC / name
        if kind is None or not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(
            path, headers={"Content-Type": kind, "Cache-Control": "no-cache"}
        )

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if self.bridge.full:
            return response_of(_too_many("pages"))
        socket = web.WebSocketResponse(
            protocols=(PROTOCOL,),
            heartbeat=HEARTBEAT_S,
            max_msg_size=MESSAGE_BYTES,
            compress=False,
        )
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            await self.bridge.serve(socket)
        except Exception as error:  # noqa: BLE001 - this page's end, not the server's
            self.door.complaints.about(error)
            await socket.close(code=1011)
        finally:
            self._sockets.discard(socket)
        return socket

    # -- OpenAI's interface ------------------------------------------------------------

    def _forbids(self, visitor: Visitor, *, asks: bool = False) -> Refusal | None:
        """Return why a visitor may not give a command, None where it may.

        One that only `asks` changes nothing, and everybody may give it.
        """
        if not (visitor.may_command or asks):
            return refuse("forbidden", f"a {visitor.role} may look, not give commands")
        if not self._access.commands.take(visitor.name):
            return _too_many("commands")
        return None

    def _modelling(
        self, work: Callable[[web.Request, str], Awaitable[web.StreamResponse]]
    ) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            if (refusal := self._forbids(request[_VISITOR])) is not None:
                return sorry(refusal)
            return await work(request, request[_VISITOR].name)

        return handle

    # -- the interface for programs ----------------------------------------------------

    async def _openapi(self, request: web.Request) -> web.StreamResponse:
        return response_of(document(self._base))

    async def _me(self, request: web.Request) -> web.Response:
        visitor = request[_VISITOR]
        return response_of({"role": visitor.role, "name": visitor.name})

    def _answering(self, ask: Callable[[web.Request], Awaitable[Any]]) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return response_of(await ask(request))

        return handle

    async def _task_events(self, request: web.Request) -> web.StreamResponse:
        if wants_stream(request):
            return await self._streams.events(request)
        return response_of(await self._api.task_events(request))

    async def _task_output(self, request: web.Request) -> web.StreamResponse:
        if wants_stream(request):
            return await self._streams.output(request)
        return response_of(await self._api.ask("output", request))

    def _commanding(self, name: str) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            visitor, kind = request[_VISITOR], request.content_type
            refusal = self._forbids(visitor, asks=name in ASKING)
            if refusal is not None:
                return response_of(refusal)
            if request.body_exists and kind != "application/json":
                sentence = f"expected application/json, got {kind}"
                return response_of(refuse("unsupported_media_type", sentence))
            return await self._api.command(name, request, visitor.name)

        return handle


async def _whole(request: web.Request) -> bool:
    """Read the body, which the request then keeps; False where it does not come."""
    if request.can_read_body:
        try:
            async with asyncio.timeout(BODY_S):
                await request.read()
        except TimeoutError:
            return False
    return True


def _host_in(request: web.Request) -> str:
    try:
        return request.url.host or ""
    except ValueError:
        return ""


def _too_many(what: str) -> Refusal:
    return refuse("busy", f"too many {what}: wait a little")


def _html(text: str, status: int) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/html")
