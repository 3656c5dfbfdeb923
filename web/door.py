"""The door: connections, and how long and how many they may be.

Whoever has shown no token gets little: a connection of a few seconds, and of many such
connections the oldest goes when another comes. So whatever nobody knows opens, leaves
silent, sends drop by drop or reads drop by drop, there is room for who has a token. They
are counted by role, so that viewers cannot take the operator's room either.

What a stranger sends is never written to the log, only what was wrong with it, in one
line; of equal lines one in a while.
"""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from events.commands import refuse
from events.diagnostics import Diagnostics
from web.access import HEADERS
from web.api import response_of

if TYPE_CHECKING:
    from collections.abc import Callable

STRANGER_S: Final = 20.0
"""How long a connection lasts on which no token was shown."""
IDLE_S: Final = 75.0
"""How long one of a known visitor waits for its answer to be read and the next request."""
LINGER_S: Final = 2.0
STRANGERS: Final = 200
KNOWN: Final = 1_100
"""Connections of one role."""
FILES: Final = 4_096
"""Open files that all these connections need, with what else is open."""
QUIET_S: Final = 10.0
"""So long a line of the log is not said again."""

_log = Diagnostics("agentcom.web")


def allow_files() -> None:
    """Let this process open `FILES` files, or as many as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class HttpConnection(web.RequestHandler):
    """One connection; `role` is "" until a token was shown on it."""

    def __init__(self, door: Door, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            lingering_time=LINGER_S,
        )
        self.role = ""
        # Called when it is lost: by those who answer at length.
        self.on_lost: set[Callable[[], None]] = set()
        self._door = door
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.lasts(self._door.stranger_s)
        self._door.came(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lasts(None)
        self._door.left(self)
        for tell in list(self.on_lost):
            tell()
        super().connection_lost(exc)

    def lasts(self, seconds: float | None) -> None:
        """End it after so long unless told otherwise before; None: not by time."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self.end)

    def end(self) -> None:
        """End it at once, whatever is not sent yet."""
        if self.transport is not None:
            self.transport.abort()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        self._door.complaints.about(kw.get("exc_info"))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request, or could not be answered, without repeating it."""
        super().handle_error(request, status, exc, message)
        refusal = (
            refuse("malformed", "this is no HTTP request")
            if status < 500
            else refuse("internal", "a fault of AgentCom's")
        )
        response = response_of(refusal)
        response.headers.update(HEADERS)
        response.force_close()
        return response


class Door:
    """All connections of one server."""

    def __init__(self, clock: Callable[[], float]) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files == resource.RLIM_INFINITY:
            files = 1_000_000
        self.strangers = min(STRANGERS, files // 8)
        self.known = min(KNOWN, files * 3 // 8)
        self.stranger_s = STRANGER_S
        self.complaints = Complaints(clock)
        # Oldest first, by role.
        self._connections: dict[str, dict[HttpConnection, None]] = {}

    def came(self, connection: HttpConnection) -> None:
        """Take a stranger in; the one that has been here longest makes room."""
        strangers = self._connections.setdefault("", {})
        strangers[connection] = None
        if len(strangers) > self.strangers:
            oldest = next(iter(strangers))
            del strangers[oldest]
            oldest.end()

    def left(self, connection: HttpConnection) -> None:
        """Forget one."""
        self._connections.get(connection.role, {}).pop(connection, None)

    def knows(self, request: web.Request, role: str) -> bool:
        """Note that a token was shown; False where that role has no room left."""
        connection = request.protocol
        if not isinstance(connection, HttpConnection):
            return True
        group = self._connections.setdefault(role, {})
        if connection not in group:
            if len(group) >= self.known:
                return False
            self.left(connection)
            group[connection] = None
            connection.role = role
        connection.lasts(None)
        return True

    def answered(self, request: web.Request) -> None:
        """Note that an answer is ready to be sent."""
        connection = request.protocol
        if isinstance(connection, HttpConnection) and connection.role:
            connection.lasts(IDLE_S)


class Complaints:
    """Log lines that strangers can cause: equal ones are counted, and said now and then."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # When each was said last, and how often it was not since.
        self._said: dict[str, tuple[float, int]] = {}

    def about(self, error: Any) -> None:
        """Log what went wrong with a request: what is no HTTP by its kind alone."""
        kind = type(error).__name__
        now = self._clock()
        last, unsaid = self._said.get(kind, (None, 0))
        if last is not None and now - last < QUIET_S:
            self._said[kind] = (last, unsaid + 1)
            return
        self._said[kind] = (now, 0)
        if isinstance(error, (HttpProcessingError, web.RequestPayloadError)):
            _log.warning("no HTTP request", kind=kind, more=unsaid)
        else:
            _log.error("a request failed", kind=kind, more=unsaid, exc_info=error)
