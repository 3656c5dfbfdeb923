"""The door by which a run of Claude Code submits tasks: on this machine, with a token.

`agentcom mcp` asks here, over loopback HTTP with the paths of docs/doors.md, and the host
asks the fleet for it on a subject of its own. The token is made for one run, known to
nobody else and in no log, and good for nothing once that run is over. What a run may ask
for is decided by the gateway and by the read models, which know whose children are whose;
only what this host's own settings forbid is refused here.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from contextlib import asynccontextmanager
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from aiohttp import web

from events import subjects
from events.codec import encode
from events.commands import Refusal, refuse
from events.errors import Unreachable

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import AsyncIterator, Awaitable, Callable

    from events.mail import Assign

    Request = Callable[[str, bytes, float], Future[bytes]]
    """Asks on a subject, for so many seconds; raises Unreachable through the future."""
    _Asking = Callable[["_Guest", str, web.Request], Awaitable[web.Response]]

SERVER: Final = "agentcom"
"""What the MCP server is called, and its tools with it: `mcp__agentcom__submit_task`."""
ANSWER_S: Final = 10.0
_SIGN_S: Final = 1.0
_BYTES: Final = 900_000
_ROUTES_KEPT: Final = 1_000
_NUMBERS: Final = frozenset({"wait_seq", "after_n", "events_from"})


class DoorAccess(NamedTuple):
    """How a run finds the door."""

    url: str
    token: str

    def mcp_server(self) -> dict[str, Any]:
        """Describe the server of this run as Claude Code's configuration does."""
        return {
            "type": "stdio",
            "command": sys.executable,
            "args": ["-m", "agentcom", "mcp"],
            # The tools are there from the first turn, not only once they are searched for.
            "alwaysLoad": True,
            "env": {
                "AGENTCOM_URL": self.url,
                "AGENTCOM_TOKEN": self.token,
                # Whatever proxy Claude Code goes by is none for this machine itself.
                "NO_PROXY": "*",
            },
        }


class _Guest(NamedTuple):
    """A run that may ask. `heard` is told while it does: it is not silent then; `gave` of
    the dollars that its tasks may spend, all together."""

    assign: Assign
    runs_commands: bool
    heard: Callable[[], None]
    gave: Callable[[float], None]


class _ChildAnswer(msgspec.Struct):
    """What is read of the answer to a submission."""

    existing: bool = False
    max_budget_usd: float | None = None


class RunsDoor:
    """Answers the runs of one host; opened with the first of them."""

    def __init__(self, host: str, request: Request) -> None:
        self._host = host
        self._request = request
        self._guests: dict[str, _Guest] = {}
        # Dollars that the tasks of a run may spend, by its route; the last runs'.
        self._given_usd: dict[str, float] = {}
        self._runner: web.AppRunner | None = None
        self._opening = asyncio.Lock()
        self._url = ""

    @asynccontextmanager
    async def lent(
        self,
        assign: Assign,
        heard: Callable[[], None],
        gave: Callable[[float], None],
        *,
        runs_commands: bool,
    ) -> AsyncIterator[DoorAccess]:
        """Let a run ask for as long as the block lasts; `heard` is told while it does, and
        `gave` how many dollars its tasks may spend, those of earlier rounds included."""
        async with self._opening:
            if self._runner is None:
                await self._open()
        token = secrets.token_urlsafe(32)
        self._guests[token] = _Guest(assign, runs_commands, heard, gave)
        gave(self._given_usd.get(assign.route, 0.0))
        try:
            yield DoorAccess(self._url, token)
        finally:
            del self._guests[token]

    async def _open(self) -> None:
        app = web.Application(client_max_size=_BYTES)
        for method, path, verb in _COMMANDS:
            app.router.add_route(method, path, self._handler(verb, self._command))
        for method, path, verb in _QUERIES:
            app.router.add_route(method, path, self._handler(verb, self._query))
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.0
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self._runner = runner
        self._url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def close(self) -> None:
        """Answer nobody more."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _handler(self, verb: str, asking: _Asking) -> Any:
        async def handle(request: web.Request) -> web.Response:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            guest = self._guests.get(token) if scheme == "Bearer" else None
            if guest is None:
                return _refused(refuse("unauthorized", "no run has this token"))
            try:
                return await asking(guest, verb, request)
            except msgspec.DecodeError as error:
                return _refused(refuse("malformed", f"not JSON: {error}"))
            except (TypeError, ValueError) as error:
                return _refused(refuse("malformed", str(error)))

        return handle

    async def _command(
        self, guest: _Guest, verb: str, request: web.Request
    ) -> web.Response:
        given = msgspec.json.decode(await request.read() or b"{}", type=dict[str, Any])
        body: dict[str, Any]
        if verb == "cancel":
            given.pop("task_id", None)
            body = {"task_id": request.match_info["task_id"], **given}
        else:
            if (refusal := refused_here(given, guest.runs_commands)) is not None:
                return _refused(refusal)
            body = {"task": given}
        subject = subjects.child_command(self._host, verb)
        answer = await self._ask(guest, subject, body, ANSWER_S)
        if verb == "submit" and answer.status == 200:
            self._note_given(guest, answer)
        return answer

    def _note_given(self, guest: _Guest, answer: web.Response) -> None:
        """Take what a new child may spend off what is left to its parent's run."""
        assert isinstance(answer.body, bytes)
        child = msgspec.json.decode(answer.body, type=_ChildAnswer)
        if child.existing or not child.max_budget_usd:
            return
        route, given = guest.assign.route, self._given_usd
        given[route] = given.pop(route, 0.0) + child.max_budget_usd
        if len(given) > _ROUTES_KEPT:
            del given[next(iter(given))]
        guest.gave(given[route])

    async def _query(
        self, guest: _Guest, verb: str, request: web.Request
    ) -> web.Response:
        asked: dict[str, Any]
        if request.method == "POST":
            asked = msgspec.json.decode(
                await request.read() or b"{}", type=dict[str, Any]
            )
        else:
            asked = {
                name: int(value) if name in _NUMBERS else value
                for name, value in request.query.items()
            }
            asked |= request.match_info
        if "wait" in asked:
            asked["wait"] = float(asked["wait"])
            if not 0 <= asked["wait"] < inf:  # what is no number neither
                raise ValueError(f"wait: expected seconds, got {asked['wait']}")
        subject = subjects.child_query(self._host, verb)
        timeout = ANSWER_S + min(asked.get("wait", 0.0), 60.0)
        return await self._ask(guest, subject, {"ask": asked}, timeout)

    async def _ask(
        self, guest: _Guest, subject: str, body: dict[str, Any], timeout: float
    ) -> web.Response:
        whose = {"parent": guest.assign.task_id, "route": guest.assign.route}
        asking = self._request(subject, encode({**whose, **body}), timeout)
        try:
            while not asking.done():
                guest.heard()
                await asyncio.wait({asking}, timeout=_SIGN_S)
            raw = asking.result()
        except Unreachable as error:
            return _refused(refuse("unavailable", str(error)))
        finally:
            asking.cancel()
        status = 200
        if raw.startswith(b'{"ok":false'):
            status = msgspec.json.decode(raw, type=Refusal).status
        return web.Response(body=raw, status=status, content_type="application/json")


_COMMANDS: Final = (
    ("POST", "/api/v1/tasks", "submit"),
    ("POST", "/api/v1/tasks/route", "route"),
    ("POST", "/api/v1/tasks/{task_id}/cancel", "cancel"),
)
_QUERIES: Final = (
    ("POST", "/api/v1/tasks/ended", "ended"),
    ("GET", "/api/v1/tasks/{task_id}", "task"),
    ("GET", "/api/v1/tasks/{task_id}/why", "why"),
    ("GET", "/api/v1/tasks/{task_id}/output", "output"),
    ("GET", "/api/v1/fleet", "hosts"),
)


def refused_here(task: dict[str, Any], runs_commands: bool) -> Refusal | None:
    """Refuse commands to a run that may run none itself; else it could by a child."""
    for field in ("shell", "verification_steps"):
        if task.get(field) and not runs_commands:
            return refuse(
                "denied",
                f"{field}: this task may run no commands, and so none of its own tasks "
                "may (its host allows Claude Code no free use of Bash)",
                field,
            )
    return None


def _refused(refusal: Refusal) -> web.Response:
    return web.Response(
        body=encode(refusal), status=refusal.status, content_type="application/json"
    )
