"""Commands and questions over HTTP, output as server-sent events."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import httpx
import msgspec

from agentcom.answers import Chunk
from agentcom.errors import Unreachable
from agentcom.transport import AGAIN, Patience, error_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

_COMMANDS: Final = {
    "task.submit": "tasks",
    "task.batch": "tasks/batch",
    "task.cancel": "tasks/{task_id}/cancel",
    "task.retry": "tasks/{task_id}/retry",
    "task.bulk": "tasks/bulk",
    "task.route": "tasks/route",
    "task.attach": "attachments",
    "schedule.add": "schedules",
    "schedule.change": "schedules/{schedule}/change",
    "schedule.pause": "schedules/{schedule}/pause",
    "schedule.resume": "schedules/{schedule}/resume",
    "schedule.run": "schedules/{schedule}/run",
    "schedule.remove": "schedules/{schedule}",
}
_REMOVES: Final = frozenset({"schedule.remove"})
_QUESTIONS: Final = {
    "tasks": "tasks",
    "task": "tasks/{task_id}",
    "why": "tasks/{task_id}/why",
    "costs": "costs",
    "hosts": "fleet",
    "schedules": "schedules",
    "output": "tasks/{task_id}/output",
}
_BY_BODY: Final = {"ended": "tasks/ended"}
_CONNECTIONS: Final = 200
_ANSWER_S: Final = 20.0
_SILENT_S: Final = 45.0
"""A stream that is silent for longer has ended: a sign of life comes every 15 s."""


class OverHttp:
    """AgentCom's `/api/v1` below a URL."""

    def __init__(self, url: str, token: str | None) -> None:
        if not url.startswith(("http://", "https://")):
            raise Unreachable(f"url: must start with http:// or https://, got {url}")
        self._url = url.rstrip("/")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._client = httpx.AsyncClient(
            base_url=f"{self._url}/api/v1/",
            headers=headers,
            timeout=httpx.Timeout(_ANSWER_S, pool=None),
            limits=httpx.Limits(max_connections=_CONNECTIONS),
        )

    async def command(self, name: str, body: dict[str, Any]) -> bytes:
        """Give a command."""
        path, rest = _fill(_COMMANDS[name], body)
        method = "DELETE" if name in _REMOVES else "POST"
        return await self._ask(method, path, json=rest)

    async def query(self, name: str, body: dict[str, Any]) -> bytes:
        """Ask a question."""
        timeout = _ANSWER_S + float(body.get("wait", 0))
        if name in _BY_BODY:
            return await self._ask("POST", _BY_BODY[name], json=body, timeout=timeout)
        path, rest = _fill(_QUESTIONS[name], body)
        params = [
            (key, _text(each)) for key, value in rest.items() for each in _all(value)
        ]
        return await self._ask("GET", path, params=params, timeout=timeout)

    async def _ask(self, method: str, path: str, **more: Any) -> bytes:
        patience: Patience | None = None
        while True:
            try:
                answer = await self._client.request(method, path, **more)
            except httpx.TransportError as error:
                patience = patience or Patience()
                if await patience.again():
                    continue
                raise Unreachable(f"nobody answers at {self._url} ({error})") from error
            if answer.status_code < 400:
                return answer.content
            refused = error_of(answer.content, answer.status_code)
            after = answer.headers.get("Retry-After", "0")
            pause = float(after) if after.isdigit() else 0.0
            patience = patience or Patience()
            if refused.code not in AGAIN or not await patience.again(pause):
                raise refused

    async def output(self, task_id: str) -> AsyncGenerator[Chunk]:
        """Yield a task's output; after a break it goes on where it was."""
        last = ""
        patience = Patience()
        while True:
            headers = {"Accept": "text/event-stream"}
            if last:
                headers["Last-Event-ID"] = last
            try:
                async with self._client.stream(
                    "GET",
                    f"tasks/{task_id}/output",
                    headers=headers,
                    timeout=httpx.Timeout(_ANSWER_S, read=_SILENT_S, pool=None),
                ) as answer:
                    if answer.status_code == 204:
                        return
                    if answer.status_code != 200:
                        refused = error_of(await answer.aread(), answer.status_code)
                        if refused.code in AGAIN and await patience.again():
                            continue
                        raise refused
                    async with aclosing(_events(answer.aiter_bytes())) as events:
                        async for kind, id_, data in events:
                            patience = Patience()
                            if kind == "end":
                                return
                            if kind == "message":
                                last = id_
                                yield msgspec.json.decode(data, type=Chunk)
            except httpx.TransportError as error:
                if not await patience.again():
                    raise Unreachable(f"nobody answers at {self._url}") from error
                continue
            if not await patience.again():
                raise Unreachable(f"{self._url} ends the output before its end")

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()


async def _events(
    pieces: AsyncIterator[bytes],
) -> AsyncGenerator[tuple[str, str, bytes]]:
    """Yield (event, id, data) of server-sent events as AgentCom writes them."""
    held = b""
    async for piece in pieces:
        *whole, held = (held + piece).split(b"\n\n")
        for block in whole:
            kind, id_, data = "message", "", b""
            for line in block.split(b"\n"):
                name, _, value = line.partition(b": ")
                if name == b"event":
                    kind = value.decode()
                elif name == b"id":
                    id_ = value.decode()
                elif name == b"data":
                    data = value
            if data:
                yield kind, id_, data


def _fill(path: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Put what the path names into it; return what is left of the body."""
    named = {name: value for name, value in body.items() if f"{{{name}}}" in path}
    rest = {name: value for name, value in body.items() if name not in named}
    return path.format_map({k: quote(str(v), safe="") for k, v in named.items()}), rest


def _all(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
