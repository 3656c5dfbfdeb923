"""Pages: one websocket each, what it asked for, and what it is sent.

A page's sender takes what is newest whenever the last message was taken, so a page that
does not keep up is sent fewer changes. Live output waits in a bounded queue. Text (token,
thinking, stdout, stderr, tool) is left out first when that is full, and a gap says how
much; status and error lines are state and are never left out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from aiohttp import WSMsgType
from msgspec import Meta, Struct

from events.codec import Reader, convert, encode
from events.commands import refusal_of
from events.errors import AgentComError, Malformed, shown
from events.position import Position
from web.access import Buckets
from web.documents import Subscription, encode_refusal
from web.live import STATE, OutputWatch
from web.tail import EventTail
from web.topics import TOPICS, OneTask, Pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from events import catalogue as c
    from web.documents import Documents
    from web.live import OutputFeed, OutputMark
    from web.tail import RecentEvents

QUEUE_BYTES: Final = 1024 * 1024
"""Live output that waits for a slow page, before text is left out."""
OUTPUT_AT_ONCE: Final = 125_000
"""Bytes of output after which changes are looked for again."""
LINES_KEPT: Final = 5_000
"""Status and error lines that wait; a page that is slower still must come back."""
SEND_S: Final = 30.0
REQUESTS_PER_S: Final = 30
REQUESTS_AT_ONCE: Final = 200
SUBSCRIPTIONS: Final = 24
REFUSALS_KEPT: Final = 4 * SUBSCRIPTIONS


class PageRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What a page asks for; `since` is the sequence that it has already.

    `position` is that of the message which said so. Without it the number is taken at
    its word, and a log that was put back meanwhile is not noticed.
    """

    op: Literal["subscribe", "unsubscribe"]
    id: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]{1,64}\Z",
            description="1 to 64 letters, digits, '_' or '-'",
        ),
    ]
    topic: Annotated[str, Meta(max_length=40)] = ""
    params: dict[str, Any] = {}
    since: Annotated[int, Meta(ge=0)] | None = None
    position: Annotated[str, Meta(max_length=200)] = ""


class PageOutput(Struct, frozen=True):
    """Live output that waits to be sent: its JSON, or how many pieces are missing."""

    task_id: str
    raw: bytes = b""
    lost: int = 0


_requests: Final[Reader[PageRequest]] = Reader(PageRequest)


class Page:
    """One websocket."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        documents: Documents,
        recent: RecentEvents,
        output: OutputFeed,
    ) -> None:
        self._socket = socket
        self._documents = documents
        self._recent = recent
        self._feed = output
        self._subscriptions: dict[str, Subscription | EventTail] = {}
        self._watches: dict[str, OutputWatch] = {}
        self._woken = asyncio.Event()
        self._refusals: deque[bytes] = deque()
        self._output: deque[PageOutput] = deque()
        self._output_bytes = 0
        # Status and error lines since the queue was last empty.
        self._lines = 0
        # Set when more waits than may be left out: the page is sent away.
        self._overrun = False
        self._allowed = Buckets(
            rate=REQUESTS_PER_S,
            burst=REQUESTS_AT_ONCE,
            clock=asyncio.get_running_loop().time,
        )

    # -- what it asks for --------------------------------------------------------------

    async def live(self) -> None:
        """Serve it until it goes away."""
        sending = asyncio.get_running_loop().create_task(self._send_all())
        try:
            async for message in self._socket:
                if message.type is WSMsgType.TEXT:
                    await self._receive(message.data)
                elif message.type is WSMsgType.BINARY:
                    break
                if sending.done():
                    break
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            for id_ in list(self._subscriptions):
                await self._unsubscribe(id_)

    async def _receive(self, text: str) -> None:
        id_ = ""
        try:
            request = _requests.decode(text.encode())
            id_ = request.id
            if not self._allowed.take(""):
                raise Malformed("op", f"at most {REQUESTS_PER_S} a second", "more")
            await self._unsubscribe(id_)
            if request.op == "subscribe":
                await self._subscribe(request)
        except Malformed as error:
            self._refuse(encode_refusal(id_, refusal_of(error)))

    async def _subscribe(self, request: PageRequest) -> None:
        id_ = request.id
        if len(self._subscriptions) >= SUBSCRIPTIONS:
            raise Malformed("id", f"at most {SUBSCRIPTIONS} subscriptions", "more")
        since = await self._has(request)
        if request.topic == "events":
            pattern = convert(request.params, Pattern).subject
            self._subscriptions[id_] = EventTail(
                self.wake, id_, pattern, self._recent, since
            )
            return
        topic = TOPICS.get(request.topic)
        if topic is None:
            raise Malformed(
                "topic",
                f"one of {', '.join([*TOPICS, 'events'])}",
                shown(request.topic),
            )
        params = convert(request.params, topic.params)
        self._subscriptions[id_] = self._documents.subscribe(
            self.wake, id_, topic, params, since
        )
        if isinstance(params, OneTask):
            watch = OutputWatch(params.task_id, self, dict(params.after))
            self._watches[id_] = watch
            await self._feed.attach(watch)
        self.wake()

    async def _has(self, request: PageRequest) -> int | None:
        """Return how far the page is in this log; None where it has seen another."""
        if request.since is None or not request.position:
            return request.since
        position = Position.parse(request.position)
        try:
            same = position.seq == request.since and await self._recent.knows(position)
        except AgentComError:
            same = False
        return request.since if same else None

    async def _unsubscribe(self, id_: str) -> None:
        subscription = self._subscriptions.pop(id_, None)
        if isinstance(subscription, Subscription):
            self._documents.leave(subscription)
        elif subscription is not None:
            subscription.close()
        watch = self._watches.pop(id_, None)
        if watch is not None:
            await self._feed.detach(watch)

    # -- what it is sent ---------------------------------------------------------------

    def wake(self) -> None:
        """Have the sender look for what is new."""
        self._woken.set()

    def _refuse(self, message: bytes) -> None:
        self._refusals.append(message)
        if len(self._refusals) > REFUSALS_KEPT:
            self._overrun = True
        self.wake()

    def output(self, chunk: c.Chunk, raw: bytes, *, past: bool) -> None:
        """Put a piece of live output in the queue; leave text out where that is full."""
        task_id = chunk.task_id
        if chunk.event_type in STATE:
            self._lines += 1
            self._overrun = self._overrun or self._lines > LINES_KEPT
        elif not past and self._output_bytes + len(raw) > QUEUE_BYTES:
            self.gap(task_id, 1)
            return
        self._output.append(PageOutput(task_id, raw))
        self._output_bytes += len(raw)
        self.wake()

    def begun(self, task_id: str) -> None:
        """Tell the page that nothing more is kept of what was put out before."""
        self._tell({"type": "begun", "task_id": task_id})

    def skipped(self, task_id: str, mark: OutputMark) -> None:
        """Tell the page where what it can show begins."""
        place = {"seq": mark.seq, "route": mark.route, "n": mark.n, "lines": mark.lines}
        self._tell({"type": "skipped", "task_id": task_id, **place})

    def _tell(self, message: dict[str, Any]) -> None:
        raw = encode(message)
        self._output.append(PageOutput(message["task_id"], raw))
        self._output_bytes += len(raw)
        self.wake()

    def gap(self, task_id: str, lost: int) -> None:
        """Note that so many pieces are missing here."""
        last = self._output[-1] if self._output else None
        if last is not None and last.lost and last.task_id == task_id:
            lost += self._output.pop().lost
        self._output.append(PageOutput(task_id, lost=lost))
        self.wake()

    def _messages(self) -> Iterator[bytes]:
        """Yield what is to be sent: state first, then output, until nothing is left."""
        while True:
            more = False
            while self._refusals:
                yield self._refusals.popleft()
            for subscription in list(self._subscriptions.values()):
                message = subscription.next()
                if message is not None:
                    more = True
                    yield message
            sent = 0
            while self._output and sent < OUTPUT_AT_ONCE:
                piece = self._output.popleft()
                raw = piece.raw or encode(
                    {"type": "gap", "task_id": piece.task_id, "lost": piece.lost}
                )
                self._output_bytes -= len(piece.raw)
                sent += len(raw)
                more = True
                yield raw
            if not self._output:
                self._lines = 0
            if not more and not self._refusals:
                return

    async def _send_all(self) -> None:
        try:
            while not self._overrun:
                await self._woken.wait()
                self._woken.clear()
                for message in self._messages():
                    async with asyncio.timeout(SEND_S):
                        await self._socket.send_frame(message, WSMsgType.TEXT)
                    if self._overrun:
                        break
            await self._socket.close(code=1013, message=b"too slow: come back")
        except (OSError, TimeoutError):
            # It went away, or takes nothing any more; its reader must not wait for it.
            self._abort()

    def _abort(self) -> None:
        request = self._socket._req
        if request is not None and request.transport is not None:
            request.transport.abort()
