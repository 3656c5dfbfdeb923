"""A loopback server that speaks Anthropic's Messages API, to drive the real Claude Code.

    async with MessagesApi() as api:
        api.reply_next(Reply(kind="tool", command="echo hi"), "text")
        # run `claude` with ANTHROPIC_BASE_URL=api.url and any ANTHROPIC_API_KEY

Each call to `POST /v1/messages` takes the first of the ordered replies, and `always`
when none is left. Nothing leaves the machine, and no account is needed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from aiohttp import web

from sidecar.simulated.answers import count_tokens, pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

ReplyKind = Literal[
    "text",
    "tool",  # asks for a Bash call of `command`
    "call",  # asks for a call of `name` with `given`; "$task_id:N" is the Nth id answered
    "r429",  # with the unified rate limit's headers when `resets_at` is given
    "o529",
    "e500",
    "a401",
    "n404",
    "p400",  # prompt too long
    "credit",
    "refusal",  # the model declines
    "drop",  # the connection is reset after `after` tokens
    "close",  # it is closed there: Claude Code asks again without streaming
    "stall",  # silence after `after` tokens
    "hang",  # never answers
]


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one call is answered."""

    kind: ReplyKind = "text"
    text: str = "This is a simulated answer."
    thinking: str = ""
    command: str = "echo simulated"
    name: str = ""
    given: dict[str, Any] = {}
    background: bool = False  # the command is to run in the background
    delay_s: float = 0.0  # before every token
    after: int = 2
    resets_at: int | None = None  # Unix seconds
    input_tokens: int = 25
    cache_creation_tokens: int = 1000
    cache_read_tokens: int = 20000
    output_tokens: int = 15


class Call(msgspec.Struct, kw_only=True):
    """One request as it came in."""

    method: str
    path: str
    body: dict[str, Any]
    reply: str | None = None


_ERRORS: dict[str, tuple[int, str, str]] = {
    "r429": (429, "rate_limit_error", "Number of requests exceeded"),
    "o529": (529, "overloaded_error", "Overloaded"),
    "e500": (500, "api_error", "Internal server error"),
    "a401": (401, "authentication_error", "invalid x-api-key"),
    "n404": (404, "not_found_error", "model: not found"),
    "p400": (
        400,
        "invalid_request_error",
        "prompt is too long: 210000 tokens > 200000 maximum",
    ),
    "credit": (
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API. "
        "Please go to Plans & Billing to upgrade or purchase credits.",
    ),
}
_TIME_TO_READ_S = 0.2
_HEADERS = {"X-AgentCom-Simulated": "1", "request-id": "req_simulated"}


class MessagesApi:
    """The server; `.url` goes into ANTHROPIC_BASE_URL."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.calls: list[Call] = []
        self.replies: list[Reply] = []
        self.always = Reply()
        # Replies for those whose first message holds a text; they come before `replies`.
        self.scripts: dict[str, list[Reply]] = {}
        self._host, self._port = host, port
        self._runner: web.AppRunner | None = None
        self._messages = 0
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    def reply_next(self, *replies: Reply | ReplyKind) -> None:
        """Order the answers of the next calls, one each."""
        self.replies += [
            each if isinstance(each, Reply) else Reply(kind=each) for each in replies
        ]

    def messages(self) -> list[Call]:
        """The calls that asked for a message."""
        return [call for call in self.calls if call.path == "/v1/messages"]

    async def wait_until(self, happened: Callable[[], bool]) -> None:
        """Return as soon as `happened()`; looked at after each call's arrival."""
        if happened():
            return
        watcher = (happened, asyncio.get_running_loop().create_future())
        self._watchers.append(watcher)
        try:
            await watcher[1]
        finally:
            self._watchers.remove(watcher)

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/messages", self._answer)
        app.router.add_post("/v1/messages/count_tokens", self._count)
        app.router.add_route("*", "/{rest:.*}", self._anything_else)
        runner = web.AppRunner(
            app, handler_cancellation=True, shutdown_timeout=0.0, access_log=None
        )
        await runner.setup()
        await web.TCPSite(runner, self._host, self._port).start()
        self._runner = runner
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # -- the handlers -----------------------------------------------------------

    async def _anything_else(self, request: web.Request) -> web.Response:
        await self._record(request)
        status = 200 if request.method == "HEAD" else 404
        return web.json_response({}, status=status, headers=_HEADERS)

    async def _count(self, request: web.Request) -> web.Response:
        call = await self._record(request)
        tokens = count_tokens(json.dumps(call.body.get("messages", [])))
        return web.json_response({"input_tokens": tokens}, headers=_HEADERS)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        call = await self._record(request)
        replies = self._script(call) or self.replies
        reply = replies.pop(0) if replies else self.always
        if reply.kind == "call":
            reply = _filled(reply, json.dumps(call.body.get("messages", [])))
        call.reply = reply.kind
        self._tell()
        if reply.kind == "hang":
            await asyncio.Event().wait()
        if reply.kind in _ERRORS:
            return _refusal(reply)
        self._messages += 1
        message_id = f"msg_{self._messages}"
        model = str(call.body.get("model", ""))
        if not call.body.get("stream"):
            if reply.kind in ("drop", "close"):
                await _lose(request, reset=True)
            return web.json_response(_whole(reply, message_id, model), headers=_HEADERS)
        response = web.StreamResponse(
            headers={**_HEADERS, "Content-Type": "text/event-stream"}
        )
        response.enable_chunked_encoding()
        await response.prepare(request)
        sent = 0
        for event in _events(reply, message_id, model):
            if event["type"] == "content_block_delta":
                if sent == reply.after and reply.kind in ("drop", "close"):
                    await _lose(request, reset=reply.kind == "drop")
                if sent == reply.after and reply.kind == "stall":
                    await asyncio.Event().wait()
                if reply.delay_s:
                    await asyncio.sleep(reply.delay_s)
                sent += 1
            line = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
            await response.write(line.encode())
        await response.write_eof()
        return response

    def _script(self, call: Call) -> list[Reply]:
        first = json.dumps(call.body.get("messages", [])[:1])
        return next((s for text, s in self.scripts.items() if text in first), [])

    async def _record(self, request: web.Request) -> Call:
        body: Any = None
        with suppress(msgspec.MsgspecError):
            body = msgspec.json.decode(await request.read() or b"{}")
        call = Call(
            method=request.method,
            path=request.path,
            body=body if isinstance(body, dict) else {},
        )
        self.calls.append(call)
        self._tell()
        return call

    def _tell(self) -> None:
        for happened, woken in self._watchers:
            if not woken.done() and happened():
                woken.set_result(None)


# -- what is said ------------------------------------------------------------------


def _refusal(reply: Reply) -> web.Response:
    status, kind, message = _ERRORS[reply.kind]
    headers = dict(_HEADERS)
    if reply.kind == "r429" and reply.resets_at is not None:
        headers |= {
            "anthropic-ratelimit-unified-status": "rejected",
            "anthropic-ratelimit-unified-reset": str(reply.resets_at),
            "anthropic-ratelimit-unified-representative-claim": "five_hour",
            "anthropic-ratelimit-unified-5h-status": "rejected",
            "anthropic-ratelimit-unified-5h-reset": str(reply.resets_at),
            "anthropic-ratelimit-unified-5h-utilization": "1.0",
        }
    error = {"type": "error", "error": {"type": kind, "message": message}}
    return web.json_response(error, status=status, headers=headers)


def _usage(reply: Reply, output_tokens: int) -> dict[str, int]:
    return {
        "input_tokens": reply.input_tokens,
        "cache_creation_input_tokens": reply.cache_creation_tokens,
        "cache_read_input_tokens": reply.cache_read_tokens,
        "output_tokens": output_tokens,
    }


def _filled(reply: Reply, said: str) -> Reply:
    """Put the ids of tasks that tools have answered into the call."""
    found = list(dict.fromkeys(re.findall(r'task_id\\*": ?\\*"([0-9A-Z]{26})', said)))

    def fill(value: Any) -> Any:
        if not isinstance(value, str) or not value.startswith("$task_id"):
            return value
        return found[int(value.partition(":")[2] or -1)]

    given = {key: fill(value) for key, value in reply.given.items()}
    return msgspec.structs.replace(reply, given=given)


def _stop_reason(reply: Reply) -> str:
    return {"tool": "tool_use", "call": "tool_use", "refusal": "refusal"}.get(
        reply.kind, "end_turn"
    )


def _blocks(reply: Reply, message_id: str) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if reply.thinking:
        thought = {"thinking": reply.thinking, "signature": "simulated"}
        blocks.append({"type": "thinking", **thought})
    if reply.kind == "tool":
        use = {"type": "tool_use", "id": f"toolu_{message_id}", "name": "Bash"}
        given: dict[str, Any] = {
            "command": reply.command,
            "description": "Simulated work",
        }
        if reply.background:
            given["run_in_background"] = True
        blocks.append({**use, "input": given})
    elif reply.kind == "call":
        use = {"type": "tool_use", "id": f"toolu_{message_id}", "name": reply.name}
        blocks.append({**use, "input": reply.given})
    elif reply.kind != "refusal":
        blocks.append({"type": "text", "text": reply.text})
    return blocks


def _head(reply: Reply, message_id: str, model: str) -> dict[str, Any]:
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(reply, 1),
    }


def _whole(reply: Reply, message_id: str, model: str) -> dict[str, Any]:
    return {
        **_head(reply, message_id, model),
        "content": _blocks(reply, message_id),
        "stop_reason": _stop_reason(reply),
        "usage": _usage(reply, reply.output_tokens),
    }


def _events(reply: Reply, message_id: str, model: str) -> list[dict[str, Any]]:
    """The message as the API's stream of events."""
    head = _head(reply, message_id, model)
    events: list[dict[str, Any]] = [{"type": "message_start", "message": head}]
    for index, block in enumerate(_blocks(reply, message_id)):
        opened, deltas = _opened(block)
        start = {"index": index, "content_block": opened}
        events.append({"type": "content_block_start", **start})
        events += [
            {"type": "content_block_delta", "index": index, "delta": delta}
            for delta in deltas
        ]
        events.append({"type": "content_block_stop", "index": index})
    end = {"stop_reason": _stop_reason(reply), "stop_sequence": None}
    usage = {"output_tokens": reply.output_tokens}
    events.append({"type": "message_delta", "delta": end, "usage": usage})
    events.append({"type": "message_stop"})
    return events


def _opened(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it opens, empty, and the deltas that fill it."""
    match block["type"]:
        case "text":
            texts = pieces(block["text"])
            deltas = [{"type": "text_delta", "text": text} for text in texts]
            return {**block, "text": ""}, deltas
        case "thinking":
            thoughts = pieces(block["thinking"])
            deltas = [{"type": "thinking_delta", "thinking": each} for each in thoughts]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {**block, "thinking": "", "signature": ""}, deltas
        case _:
            text = json.dumps(block["input"])
            parts = (text[:11], text[11:])
            deltas = [{"type": "input_json_delta", "partial_json": p} for p in parts]
            return {**block, "input": {}}, deltas


async def _lose(request: web.Request, *, reset: bool) -> None:
    """Close or reset the connection in mid-stream.

    A reset also discards what the client has not read yet, so it gets a moment for it.
    Never returns: losing its connection cancels the handler.
    """
    transport = request.transport
    if transport is not None and reset:
        await asyncio.sleep(_TIME_TO_READ_S)
        plug = transport.get_extra_info("socket")
        with suppress(OSError):
            plug.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        transport.abort()
    elif transport is not None:
        transport.close()
    await asyncio.Event().wait()


# -- as a process ---------------------------------------------------------------


async def serve(api: MessagesApi) -> None:
    """Print the address as one JSON line, then serve until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stopping.set)
    async with api:
        print(json.dumps({"url": api.url}), flush=True)
        await stopping.wait()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.messages_api")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--reply", action="append", default=[], help="a reply as JSON")
    given = parser.parse_args(argv)
    api = MessagesApi(port=given.port)
    api.reply_next(*(msgspec.json.decode(each, type=Reply) for each in given.reply))
    asyncio.run(serve(api))


if __name__ == "__main__":
    main()
