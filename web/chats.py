"""The door for OpenAI's clients: `/v1/chat/completions`, `/v1/embeddings`, `/v1/models`.

A chat is a task. Its answer goes from the run's live output to the client as it comes,
and nothing on the way is asked for twice; the log's own events say where it runs, how it
ended and what it cost. Who hangs up cancels the task. Where text has gone out already, a
second try would say it again: the stream then ends with an error.
"""

from __future__ import annotations

import asyncio
import base64
import math
import secrets
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from aiohttp import web

from events import catalogue as c
from events import subjects
from events.attachments import PIECE_BYTES
from events.chunks import Calls
from events.codec import encode, rfc3339
from events.commands import Refusal, refusal_of, refuse
from events.errors import Denied, Malformed, Unreachable
from events.ids import IdSource, task_named
from events.lifecycle import FINAL
from projections.judged import JudgedEvent
from web.access import HEADERS
from web.api import json_response, response_of
from web.capacity import Capacity
from web.door import HttpConnection
from web.live import OutputWatch
from web.openai import (
    TIERS,
    ChatEncoder,
    ChatRequest,
    error_event,
    error_of,
    headers_of,
    read_chat,
    where_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.chunks import CallPiece
    from projections.queries import Queries
    from projections.runner import Runner
    from web.api import Api
    from web.live import OutputFeed, OutputMark

KEEP_ALIVE_S: Final = 15.0
"""So long nothing is sent before a comment tells the client and proxies that it goes on."""
DEADLINE_MORE_S: Final = 10.0
"""A waiting chat expires so long after its client's patience, should nobody cancel it."""
REST_S: Final = 1.0
"""How long the rest of an answer is waited for that its result does not hold whole."""

News = c.Chunk | JudgedEvent | Literal["gone", "late", "stopping"] | None
"""What happens to a chat: a word of output, an event, its client hangs up, its patience
ends, this process does; None: output is missing."""


class Sorry(Exception):
    """A chat that ends without its answer, and what the client is told."""

    def __init__(self, refusal: Refusal, retry_after_s: float | None = None) -> None:
        self.refusal = refusal
        self.retry_after_s = retry_after_s
        super().__init__(refusal.error)


class HungUp(Exception):
    """The client has hung up."""


class Chat:
    """One chat, from its submission to its end. What happens to it waits in `news`.

    It is the sink of its task's output.
    """

    def __init__(self, task_id: str, chat: ChatRequest) -> None:
        self.task_id = task_id
        self.asked = chat
        self.news: asyncio.Queue[News] = asyncio.Queue()
        self.route: c.TaskRouted | None = None
        self.result: c.Result | None = None
        self.submitted = self.over = False
        self.waits, self.late = True, False
        # What has gone out: text and calls; of which route and try; the last number.
        self.sent: list[str] = []
        self.calls = Calls()
        self.spoke = False
        self.source = ("", 0)
        self.number = 0
        self.whole = True

    def take(self, news: News) -> None:
        """Note something that has happened."""
        self.news.put_nowait(news)

    def output(self, chunk: c.Chunk, raw: bytes, *, past: bool) -> None:
        """Take a piece of output."""
        self.take(chunk)

    def gap(self, task_id: str, lost: int) -> None:
        """Note that output is missing."""
        self.take(None)

    def skipped(self, task_id: str, mark: OutputMark) -> None:
        """A chat is there from its beginning."""

    def begun(self, task_id: str) -> None:
        """Nothing waits for that."""

    def fold(self, judged: JudgedEvent) -> None:
        """Take an event that counts. Raises Sorry."""
        event: Any = judged.recorded.event
        self.waits = judged.after == "waiting"
        self.over = judged.after in FINAL
        if isinstance(event, c.TaskRouted):
            self.route = event
        elif isinstance(event, c.TaskCompleted):
            self.result = event.result
        elif self.over:
            raise Sorry(_ending(event))
        elif isinstance(event, _BREAKS) and self.spoke:
            why = getattr(event, "detail", "") or event.reason
            raise Sorry(refuse("bad_gateway", f"the answer broke off: {why}"))

    def deltas(self, chunk: c.Chunk) -> list[dict[str, Any]]:
        """Turn live output into what the client is to have. Raises Sorry."""
        if chunk.event_type not in _SPOKEN:
            self._count(chunk)
            return []
        source = (chunk.route, chunk.segment)
        if source != self.source and self.spoke:
            raise Sorry(refuse("bad_gateway", "the answer broke off and began anew"))
        self._count(chunk)
        if not self.whole:
            return []
        self.spoke = True
        if chunk.event_type == "call":
            pieces = self.calls.feed(chunk.text)
            return [{"tool_calls": [_as_delta(piece)]} for piece in pieces]
        if chunk.event_type == "thinking":
            return [{"reasoning_content": chunk.text}]
        self.sent.append(chunk.text)
        return [{"content": chunk.text}]

    def _count(self, chunk: c.Chunk) -> None:
        """See whether output is missing, by the run's numbers."""
        if chunk.route != self.source[0]:
            self.number = 0
        self.source = (chunk.route, chunk.segment)
        if chunk.n != self.number + 1:
            self.whole = False
        self.number = chunk.n

    def is_complete(self, result: c.Result) -> bool:
        """Whether the rest of the answer can be told from its result, or is there already."""
        if "embed" in self.asked.task:
            return sum(map(len, self.sent)) >= result.output_bytes
        return not result.truncated and result.output.startswith("".join(self.sent))

    def rest(self, result: c.Result) -> list[dict[str, Any]]:
        """Return what of the answer has not gone out yet."""
        deltas: list[dict[str, Any]] = []
        text = result.output[len("".join(self.sent)) :]
        if text and self.is_complete(result):
            deltas.append({"content": text})
        known = self.calls.whole()
        for n, call in enumerate(result.tool_calls):
            arguments = call.function.arguments
            if n >= len(known):
                deltas.append({"tool_calls": [{"index": n, **_builtins(call)}]})
            elif more := arguments[len(known[n].function.arguments) :]:
                piece = {"index": n, "function": {"arguments": more}}
                deltas.append({"tool_calls": [piece]})
        return deltas


_SPOKEN: Final = ("token", "thinking", "call")
_BREAKS: Final = (c.TaskRetrying, c.TaskReturned, c.TaskRequeued)
"""After these an answer begins anew."""


def _builtins(value: Any) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(value)
    return built


def _as_delta(piece: CallPiece) -> dict[str, Any]:
    function = {"name": piece.function.name} if piece.function.name else {}
    delta: dict[str, Any] = {"index": piece.index}
    if piece.id:
        delta |= {"id": piece.id, "type": "function"}
    return delta | {"function": {**function, "arguments": piece.function.arguments}}


def _ending(event: Any) -> Refusal:
    """Say why a task ended without an answer."""
    match event:
        case c.TaskFailed() if event.result.error is not None:
            error = event.result.error
            refusal = (
                refuse("malformed", error.message)
                if error.code in _BY_REQUEST
                else refuse("bad_gateway", error.message)
            )
            return msgspec.structs.replace(refusal, code=error.code)
        case c.TaskExpired():
            return refuse("busy", f"nothing could take it in time: {event.detail}")
        case c.TaskDeadLettered():
            why = event.detail or event.reason
            return refuse("bad_gateway", f"all attempts failed: {why}")
        case c.TaskCancelled():
            return refuse("conflict", f"the task was cancelled: {event.reason}")
        case _:
            return refuse("bad_gateway", "the task ended without an answer")


_BY_REQUEST: Final = ("attachment", "bad_request", "prompt_too_long")
"""Codes of runs that failed for what was asked of them."""


class ChatReply:
    """The HTTP answer to one chat: a stream that begins with its first word, or one body."""

    def __init__(self, request: web.Request, chat: Chat) -> None:
        self._request = request
        self.chat = chat
        self._stream: web.StreamResponse | None = None
        self.encoder = ChatEncoder(
            chat.task_id, int(time.time()), include_usage=chat.asked.include_usage
        )

    async def say(self, deltas: list[dict[str, Any]]) -> None:
        """Send pieces of the answer."""
        if deltas:
            await self._send(b"".join(self.encoder.delta(**each) for each in deltas))

    async def keep_alive(self) -> None:
        """Show that it goes on."""
        await self._send(b": it goes on\n\n")

    async def end(self, result: c.Result) -> web.StreamResponse:
        """Send what is left, and end. Raises Sorry where not all of it is known."""
        chat = self.chat
        self.name_model(result)
        if not chat.asked.stream:
            if result.truncated:
                raise Sorry(
                    refuse(
                        "bad_gateway",
                        "the answer is longer than a host keeps whole: ask for it as a "
                        "stream, or for less (max_tokens)",
                    )
                )
            body = self.encoder.whole(result, self.where(result))
            return json_response(body, 200, self.headers(result))
        if not chat.whole and not chat.is_complete(result):
            raise Sorry(refuse("bad_gateway", "a part of the answer was lost"))
        await self.say(chat.rest(result))
        await self._send(self.encoder.end(result, self.where(result)))
        assert self._stream is not None
        await self._stream.write_eof()
        return self._stream

    async def fail(self, end: Sorry) -> web.StreamResponse:
        """Tell why there is no answer, or no more of it."""
        if self._stream is None:
            return sorry(end.refusal, end.retry_after_s, self.headers(self.chat.result))
        await self._stream.write(error_event(end.refusal))
        await self._stream.write_eof()
        return self._stream

    async def _send(self, data: bytes) -> None:
        stream = self._stream
        if stream is None:
            self.name_model(None)
            headers = {
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
                **HEADERS,
                **self.headers(None),
            }
            self._stream = stream = web.StreamResponse(headers=headers)
            await stream.prepare(self._request)
        await stream.write(data)

    def name_model(self, result: c.Result | None) -> None:
        route = self.chat.route
        named = route.selected_model if route is not None else ""
        used = result.model_used if result is not None else ""
        self.encoder.model = named or used or self.chat.asked.model

    def where(self, result: c.Result) -> dict[str, Any]:
        return where_of(self.chat.task_id, self.chat.route, result)

    def headers(self, result: c.Result | None) -> dict[str, str]:
        chat = self.chat
        task_id = chat.task_id if chat.submitted else ""
        return headers_of(task_id, chat.route, result, chat.asked.ignored)


class Chats:
    """All chats of this process."""

    def __init__(
        self, runner: Runner, queries: Queries, api: Api, output: OutputFeed
    ) -> None:
        self._queries = queries
        self._api = api
        self._output = output
        self._capacity = Capacity(runner)
        self._open: dict[str, Chat] = {}
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._cancelling: set[asyncio.Task[None]] = set()
        self._new_id = IdSource(time.time, partial(secrets.randbits, 80))
        self._runner = runner

    def open(self) -> None:
        """Begin to hear of chats."""
        self._runner.watch(self._on)

    def _on(self, judged: JudgedEvent) -> None:
        if judged.task is None or judged.verdict != "applied":
            return
        self._capacity.take(judged)
        chat = self._open.get(judged.task.id)
        if chat is not None:
            chat.take(judged)

    async def close(self) -> None:
        """Let go of what is under way."""
        for chat in self._open.values():
            chat.take("stopping")
        with suppress(TimeoutError):
            async with asyncio.timeout(REST_S):
                await self._none_open.wait()
        await asyncio.gather(*self._cancelling, return_exceptions=True)

    # -- what is asked -----------------------------------------------------------------

    async def models(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/models`: the names that a chat may be sent to."""
        data = [_model(name, owner) for name, owner in self._names().items()]
        return response_of({"object": "list", "data": data})

    async def model(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/models/NAME`."""
        name = request.match_info["name"]
        owner = self._names().get(name)
        return (
            sorry(self._capacity.unknown(name))
            if owner is None
            else response_of(_model(name, owner))
        )

    def _names(self) -> dict[str, str]:
        return dict.fromkeys(TIERS, "agentcom") | self._capacity.models()

    async def nothing(self, request: web.Request) -> web.StreamResponse:
        """Whatever else OpenAI's interface has."""
        sentence = (
            f"{request.method} {request.path[:100]} is not served here: there are POST "
            "/v1/chat/completions, POST /v1/embeddings and GET /v1/models"
        )
        if request.path.endswith("/embeddings"):
            return sorry(refuse("not_served", sentence))
        return sorry(refuse("not_found", sentence))

    async def complete(self, request: web.Request, who: str) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        try:
            chat = read_chat(await request.read(), request.headers)
        except Malformed as wrong:
            return sorry(refusal_of(wrong))
        return await self.take_on(request, chat, who, ChatReply)

    async def take_on(
        self,
        request: web.Request,
        chat: ChatRequest,
        who: str,
        replying: Callable[[web.Request, Chat], ChatReply],
    ) -> web.StreamResponse:
        """Refuse it where nothing could take it in time, else hold it to its end."""
        refusal = self._capacity.refuses(chat)
        if refusal is not None:
            return sorry(refusal)
        wait_s = self._capacity.wait_s(chat)
        if wait_s > chat.patience_s:
            busy = refuse(
                "busy",
                f"it would wait about {wait_s:.0f} s to be begun, and has a patience of "
                f"{chat.patience_s:g} s (x-agentcom-patience)",
            )
            return sorry(busy, wait_s - chat.patience_s)
        return await self._hold(request, chat, who, replying)

    async def _hold(
        self,
        request: web.Request,
        wish: ChatRequest,
        who: str,
        replying: Callable[[web.Request, Chat], ChatReply],
    ) -> web.StreamResponse:
        """Hold a chat, from its submission to the end of its answer."""
        command_id = self._new_id()
        chat = Chat(task_named(who, command_id), wish)
        reply = replying(request, chat)

        def gone() -> None:
            chat.take("gone")

        loop = asyncio.get_running_loop()
        late = loop.call_later(wish.patience_s, chat.take, "late")
        connection = request.protocol
        watch = OutputWatch(chat.task_id, chat, {}) if wish.stream else None
        self._open[chat.task_id] = chat
        self._none_open.clear()
        try:
            if isinstance(connection, HttpConnection):
                connection.on_lost.add(gone)
            if watch is not None:
                await self._output.attach(watch, from_now=True)
            await self._submit(chat, command_id, who)
            return await self._follow(chat, reply)
        except Sorry as end:
            return await reply.fail(end)
        except HungUp:
            raise ConnectionResetError("the client has hung up") from None
        finally:
            late.cancel()
            if isinstance(connection, HttpConnection):
                connection.on_lost.discard(gone)
            if chat.submitted and not chat.over:
                self._cancel(chat.task_id, who)
            del self._open[chat.task_id]
            if not self._open:
                self._none_open.set()
            if watch is not None:
                await self._output.detach(watch)

    async def _follow(self, chat: Chat, reply: ChatReply) -> web.StreamResponse:
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S if chat.asked.stream else None):
                    news = await chat.news.get()
            except TimeoutError:
                await reply.keep_alive()
                continue
            match news:
                case "gone":
                    raise HungUp
                case "stopping":
                    raise Sorry(refuse("unavailable", "AgentCom is being stopped"))
                case "late":
                    chat.late = True
                case None:
                    chat.whole = False
                case c.Chunk():
                    await reply.say(chat.deltas(news))
                case JudgedEvent():
                    chat.fold(news)
            if chat.late and chat.waits:
                raise await self._too_late(chat)
            if (result := chat.result) is not None:
                if chat.asked.stream and chat.whole and not chat.is_complete(result):
                    await self._drain(chat, reply)
                return await reply.end(result)

    async def _drain(self, chat: Chat, reply: ChatReply) -> None:
        """Pass on the rest of the output that the result does not hold as it was said."""
        with suppress(TimeoutError):
            while chat.result is None or not chat.is_complete(chat.result):
                async with asyncio.timeout(REST_S):
                    news = await chat.news.get()
                if isinstance(news, c.Chunk):
                    await reply.say(chat.deltas(news))
                elif news is None:
                    chat.whole = False
                elif news == "gone":
                    raise HungUp

    async def _too_late(self, chat: Chat) -> Sorry:
        """Say what a chat waits for whose client waits no longer."""
        patience_s = chat.asked.patience_s
        answer = await self._queries.answer("why", encode({"task_id": chat.task_id}))
        because = " ".join(getattr(answer, "because", []))
        tier = chat.asked.task.get("tier", "standard")
        sentence = f"not begun within {patience_s:g} s (x-agentcom-patience). {because}"
        if not self._capacity.is_there(tier):
            return Sorry(refuse("unavailable", sentence.strip()))
        return Sorry(
            refuse("busy", sentence.strip()), self._capacity.wait_s(chat.asked)
        )

    # -- commands ----------------------------------------------------------------------

    async def _submit(self, chat: Chat, command_id: str, who: str) -> None:
        """Make it a task. Raises Sorry."""
        for digest, data in chat.asked.pictures.items():
            await self._attach(digest, data, who)
        limit_s = chat.asked.patience_s + DEADLINE_MORE_S
        deadline = rfc3339(time.time() + limit_s)
        body = {"id": command_id, "deadline": deadline, **chat.asked.task}
        chat.submitted = True
        try:
            await self._ask("task.submit", body, who)
        except Sorry:
            chat.submitted = False
            raise

    async def _attach(self, digest: str, data: bytes, who: str) -> None:
        """Have a picture kept, piece by piece. Raises Sorry."""
        upload = self._new_id()
        for start in range(0, len(data), PIECE_BYTES):
            piece = base64.b64encode(data[start : start + PIECE_BYTES]).decode()
            last = start + PIECE_BYTES >= len(data)
            body = {"data": piece, "upload": upload, "last": last}
            await self._ask("task.attach", body, who)

    async def _ask(self, name: str, body: dict[str, Any], who: str) -> None:
        try:
            raw = await self._api.pass_on(subjects.command(name), encode(body), who)
        except (Denied, Unreachable) as error:
            raise Sorry(refusal_of(error)) from error
        answer = msgspec.json.decode(raw)
        if not answer["ok"]:
            raise Sorry(msgspec.convert(answer, Refusal))

    def _cancel(self, task_id: str, who: str) -> None:
        body = {"task_id": task_id, "reason": "nobody waits for its answer any more"}

        async def cancel() -> None:
            with suppress(Sorry):
                await self._ask("task.cancel", body, who)

        task = asyncio.get_running_loop().create_task(cancel())
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)


def _model(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def sorry(
    refusal: Refusal,
    retry_after_s: float | None = None,
    headers: dict[str, str] | None = None,
) -> web.Response:
    """Answer with a refusal in OpenAI's shape."""
    fields = dict(headers or {})
    if refusal.status in (429, 503):
        fields["Retry-After"] = str(max(1, math.ceil(retry_after_s or 1.0)))
    return json_response(encode(error_of(refusal)), refusal.status, fields)
