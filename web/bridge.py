"""The bridge: what the read models say, pushed to pages over one websocket each.

A page subscribes to topics. A topic with its parameters is a document of a few named
sections, made once for everybody who watches it, however many they are, and only while
somebody does. A page is told the sections that changed since the last time *it* was
told: so whoever is slow is told less often, never told wrong, and holds nobody up. What
is kept for a page is thus one number a topic, and a bounded queue of live output.

From the page (JSON objects):

    {"op": "subscribe", "id": "t", "topic": "tasks", "params": {...}, "since": 4711}
    {"op": "unsubscribe", "id": "t"}

To the page:

    {"type": "snapshot", "id", "topic", "seq", "data": {section: ...}}
    {"type": "change",   "id", "topic", "seq", "data": {the sections that changed}}
    {"type": "execution_event", ...}         live output of a `task` topic: a Chunk
    {"type": "gap", "task_id", "lost"}       that many pieces of text were left out here
    {"type": "refused", "id", "error": {...}}

`seq` is the log's sequence that is folded in. Who comes back says since where, and gets
what changed after it as a change, or a snapshot where that cannot be told any more.

Topics: status, overview, tails (last lines of what runs), tasks (filter, `offset`,
`limit`), task (`task_id`, `after`; with its live output), fleet, routing, costs (`by`,
`since`), events (`subject`: a NATS pattern).

Live output comes as the hosts wrote it. Text (token, thinking, stdout, stderr, tool) is
left out first when a page does not keep up, and where that was it reads a gap; status and
error lines are state and always arrive.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import structlog
from aiohttp import WSMsgType
from msgspec import Meta, Struct

from events import subjects
from events.catalogue import Recorded, TaskRouted, Unknown
from events.codec import Reader, convert, encode
from events.commands import Refusal, refusal_of
from events.errors import AgentComError, Malformed
from events.log import matches
from web.access import Buckets
from web.lasthour import LastHour
from web.live import Live, Watch
from web.topics import TOPICS, OneTask, Pattern, Sources

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from events.bus import Bus
    from events.log import EventLog
    from projections.judged import JudgedEvent
    from projections.queries import OutputReader, Queries
    from projections.runner import Runner
    from web.topics import Topic

FLUSH_S: Final = 0.03
"""Events that come within this time are told together."""
EVENTS_KEPT: Final = 5_000
EVENTS_SHOWN: Final = 300
EVENTS_AT_ONCE: Final = 500
DECISIONS_KEPT: Final = 100
DECISIONS_SOUGHT: Final = 2_000
MESSAGE_BYTES: Final = 1_000_000
QUEUE_BYTES: Final = 1024 * 1024
"""Live output that waits for a slow page, before text is left out."""
LINES_KEPT: Final = 5_000
"""Status and error lines that wait; a page that is slower still must come back."""
SEND_S: Final = 30.0
ASKS_PER_S: Final = 30
ASKS_AT_ONCE: Final = 200
SUBSCRIPTIONS: Final = 24
PAGES: Final = 1_000
AGAIN_S: Final = 1.0
MADE_KEPT: Final = 1_000
"""So many makings of a document are known by their sequence; who was told less than that
gets a snapshot."""

_log = structlog.get_logger("agentcom.web")


class Ask(Struct, frozen=True, forbid_unknown_fields=True):
    """What a page says."""

    op: Literal["subscribe", "unsubscribe"]
    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
    topic: Annotated[str, Meta(max_length=40)] = ""
    params: dict[str, Any] = {}
    since: Annotated[int, Meta(ge=0)] | None = None


_asks: Final[Reader[Ask]] = Reader(Ask)


class Section(Struct):
    """A part of a document: its JSON, and since which making it is so."""

    raw: bytes
    version: int


class Document:
    """A topic with its parameters, kept up to date while somebody watches."""

    def __init__(self, bridge: Bridge, topic: Topic, params: Any) -> None:
        self.topic = topic
        self.params = params
        self.task_id = params.task_id if isinstance(params, OneTask) else ""
        self.watchers: set[Subscription] = set()
        self.version = 0
        self.seq = 0
        self.refusal: Refusal | None = None
        self.dirty = asyncio.Event()
        self._bridge = bridge
        self._sections: dict[str, Section] = {}
        self._made: deque[tuple[int, int]] = deque(maxlen=MADE_KEPT)
        self._spelled: dict[int, bytes] = {}
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    def close(self) -> None:
        """Make it no more."""
        self._keeping.cancel()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self.dirty.clear()
            began = loop.time()
            try:
                # What is folded while it is made may or may not be in it.
                seq = self._bridge.sources.runner.position
                made = await self.topic.make(self._bridge.sources, self.params)
            except AgentComError as error:
                _log.debug("topic", topic=self.topic.name, error=str(error))
                await asyncio.sleep(AGAIN_S)
                continue
            except Exception:  # noqa: BLE001 - the actor's edge: one topic, not all
                _log.exception("topic", topic=self.topic.name)
                await asyncio.sleep(AGAIN_S)
                continue
            self._take(made, seq)
            took = loop.time() - began
            await asyncio.sleep(max(self.topic.pause_s, 2 * took))
            await self._until_dirty()

    async def _until_dirty(self) -> None:
        if self.topic.tick_s is None:
            await self.dirty.wait()
            return
        try:
            async with asyncio.timeout(self.topic.tick_s):
                await self.dirty.wait()
        except TimeoutError:
            return

    def _take(self, made: dict[str, Any] | Refusal, seq: int) -> None:
        version = self.version + 1
        self.seq = seq
        if isinstance(made, Refusal):
            if self.refusal != made:
                self.refusal, self.version = made, version
                self._wake()
            return
        self.refusal = None
        changed = False
        for name, value in made.items():
            raw = encode(value)
            known = self._sections.get(name)
            if known is None or known.raw != raw:
                self._sections[name] = Section(raw, version)
                changed = True
        if changed:
            self.version = version
            self._made.append((seq, version))
            self._spelled.clear()
            self._wake()

    def _wake(self) -> None:
        for watcher in self.watchers:
            watcher.page.wake()

    def version_at(self, since: int) -> int:
        """Return up to which version somebody has seen it who was told `since`."""
        if since > self.seq:
            return 0
        found = 0
        for seq, version in self._made:
            if seq > since:
                break
            found = version
            if seq == since:
                break
        return found

    def since(self, version: int) -> bytes:
        """Spell what is newer than `version`, as the end of a message."""
        found = self._spelled.get(version)
        if found is None:
            data = b",".join(
                b'"%s":%s' % (name.encode(), section.raw)
                for name, section in self._sections.items()
                if section.version > version
            )
            found = b'"topic":"%s","seq":%d,"data":{%s}}' % (
                self.topic.name.encode(),
                self.seq,
                data,
            )
            if len(self._spelled) > 16:
                self._spelled.clear()
            self._spelled[version] = found
        return found


class Subscription:
    """A page's interest in a document; `version` is what it was told."""

    def __init__(self, page: Page, id_: str, document: Document) -> None:
        self.page = page
        self.id = id_
        self.document = document
        self.version = 0
        self.resumes: int | None = None

    def next(self) -> bytes | None:
        """Return the next message, None while there is nothing new."""
        document = self.document
        if not document.version or self.version >= document.version:
            return None
        if document.refusal is not None:
            self.version = document.version
            return refused(self.id, document.refusal)
        kind = b"change" if self.version else b"snapshot"
        if self.resumes is not None:
            self.version = document.version_at(self.resumes)
            kind = b"change" if self.version else b"snapshot"
            self.resumes = None
        told = document.since(self.version)
        self.version = document.version
        return b'{"type":"%s","id":"%s",%s' % (kind, self.id.encode(), told)


class EventTail:
    """A page's interest in the log itself."""

    def __init__(
        self, page: Page, id_: str, pattern: str, bridge: Bridge, since: int | None
    ) -> None:
        self.page = page
        self.id = id_
        self.pattern = pattern
        self._bridge = bridge
        self._ready: list[bytes] = []
        self._position: int | None = None
        self._opening = asyncio.get_running_loop().create_task(self._open(since))

    def close(self) -> None:
        """Follow no more."""
        self._opening.cancel()

    async def _open(self, since: int | None) -> None:
        while True:
            position = self._bridge.sources.runner.position
            if since is not None and self._bridge.holds_after(since) <= position:
                self._position = min(since, position)
                self.page.wake()
                return
            try:
                recorded = await self._bridge.latest(self.pattern, position)
            except AgentComError:
                await asyncio.sleep(AGAIN_S)
                continue
            self._ready.append(
                self._spelled(b"snapshot", position, _bounded(recorded, last=True))
            )
            self._position = position
            self.page.wake()
            return

    def next(self) -> bytes | None:
        """Return the next message, None while there is nothing new."""
        if self._ready:
            return self._ready.pop(0)
        position = self._position
        if position is None or position >= self._bridge.sources.runner.position:
            return None
        if self._bridge.holds_after(position) > position + 1:
            # It was too slow for what is kept: a fresh view of the log's end.
            self._position = None
            self._opening = asyncio.get_running_loop().create_task(self._open(None))
            return None
        events, reached = self._bridge.events_after(position, self.pattern)
        self._position = reached
        if not events:
            return self.next()
        return self._spelled(b"change", reached, events)

    def _spelled(self, kind: bytes, seq: int, events: list[bytes]) -> bytes:
        return (
            b'{"type":"%s","id":"%s","topic":"events","seq":%d,"data":{"events":[%s]}}'
            % (
                kind,
                self.id.encode(),
                seq,
                b",".join(events),
            )
        )


class Page:
    """One websocket. Its sender takes what is newest whenever the last was taken."""

    def __init__(self, bridge: Bridge, socket: web.WebSocketResponse) -> None:
        self._bridge = bridge
        self._socket = socket
        self._subscriptions: dict[str, Subscription | EventTail] = {}
        self._watches: dict[str, Watch] = {}
        self._woken = asyncio.Event()
        self._said: deque[bytes] = deque()
        self._output: deque[tuple[bytes, str, int]] = deque()
        self._output_bytes = 0
        self._lines = 0
        self._overrun = False
        self._asks = Buckets(
            rate=ASKS_PER_S, burst=ASKS_AT_ONCE, clock=asyncio.get_running_loop().time
        )

    # -- what it wants -----------------------------------------------------------------

    async def live(self) -> None:
        """Serve it until it goes away."""
        sending = asyncio.get_running_loop().create_task(self._send_all())
        try:
            async for message in self._socket:
                if message.type is WSMsgType.TEXT:
                    await self._hear(message.data)
                elif message.type is WSMsgType.BINARY:
                    break
                if sending.done():
                    break
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            for id_ in list(self._subscriptions):
                await self._unsubscribe(id_)

    async def _hear(self, text: str) -> None:
        ask_id = ""
        try:
            ask = _asks.decode(text.encode())
            ask_id = ask.id
            if not self._asks.take(""):
                raise Malformed("op", f"at most {ASKS_PER_S} a second", "more")
            await self._unsubscribe(ask.id)
            if ask.op == "subscribe":
                await self._subscribe(ask)
        except Malformed as error:
            self._say(
                refused(
                    ask_id,
                    refusal_of(error),
                )
            )

    async def _subscribe(self, ask: Ask) -> None:
        if len(self._subscriptions) >= SUBSCRIPTIONS:
            raise Malformed("id", f"at most {SUBSCRIPTIONS} subscriptions", "more")
        if ask.topic == "events":
            pattern = convert(ask.params, Pattern).subject
            self._subscriptions[ask.id] = EventTail(
                self, ask.id, pattern, self._bridge, ask.since
            )
            return
        topic = TOPICS.get(ask.topic)
        if topic is None:
            raise Malformed(
                "topic", f"one of {', '.join([*TOPICS, 'events'])}", repr(ask.topic)
            )
        params = convert(ask.params, topic.params)
        subscription = Subscription(self, ask.id, self._bridge.document(topic, params))
        subscription.resumes = ask.since
        self._subscriptions[ask.id] = subscription
        subscription.document.watchers.add(subscription)
        if isinstance(params, OneTask):
            watch = Watch(params.task_id, self, dict(params.after))
            self._watches[ask.id] = watch
            await self._bridge.output.attach(watch)
        self.wake()

    async def _unsubscribe(self, id_: str) -> None:
        found = self._subscriptions.pop(id_, None)
        watch = self._watches.pop(id_, None)
        if isinstance(found, Subscription):
            self._bridge.leave(found)
        elif found is not None:
            found.close()
        if watch is not None:
            await self._bridge.output.detach(watch)

    # -- what it is told ---------------------------------------------------------------

    def wake(self) -> None:
        """Look what is new."""
        self._woken.set()

    def _say(self, message: bytes) -> None:
        self._said.append(message)
        if len(self._said) > SUBSCRIPTIONS * 4:
            self._overrun = True
        self.wake()

    def output(self, raw: bytes, task_id: str, *, keep: bool, past: bool) -> None:
        """Put a piece of live output in its queue; leave text out where that is full."""
        if keep:
            self._lines += 1
            self._overrun = self._overrun or self._lines > LINES_KEPT
        elif not past and self._output_bytes + len(raw) > QUEUE_BYTES:
            self.gap(task_id, 1)
            return
        self._output.append((raw, task_id, 0))
        self._output_bytes += len(raw)
        self.wake()

    def gap(self, task_id: str, lost: int) -> None:
        """Note that something is missing here."""
        if self._output and self._output[-1][2] and self._output[-1][1] == task_id:
            _, _, before = self._output.pop()
            lost += before
        self._output.append((b"", task_id, lost))
        self.wake()

    def _messages(self) -> Iterator[bytes]:
        """Yield what is to be sent: state first, then output, until nothing is left."""
        while True:
            more = False
            while self._said:
                yield self._said.popleft()
            for subscription in list(self._subscriptions.values()):
                message = subscription.next()
                if message is not None:
                    more = True
                    yield message
            sent = 0
            while self._output and sent < MESSAGE_BYTES // 8:
                raw, task_id, lost = self._output.popleft()
                if lost:
                    raw = encode({"type": "gap", "task_id": task_id, "lost": lost})
                else:
                    self._output_bytes -= len(raw)
                sent += len(raw)
                more = True
                yield raw
            if not self._output:
                self._lines = 0
            if not more and not self._said:
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


class Bridge:
    """All pages of this process, and what they watch."""

    def __init__(
        self,
        runner: Runner,
        queries: Queries,
        bus: Bus,
        log: EventLog,
        output: OutputReader | None,
        builtin: dict[str, Any],
    ) -> None:
        self.output = Live(bus, output)
        self.sources = Sources(
            runner,
            queries,
            bus,
            log,
            self.output,
            lambda: list(self._decisions),
            lambda: datetime.now(UTC).strftime("%Y-%m-%d"),
            builtin,
            LastHour(time.time),
        )
        self.pages: set[Page] = set()
        self._documents: dict[tuple[str, bytes], Document] = {}
        self._events: deque[Recorded] = deque(maxlen=EVENTS_KEPT)
        self._first_kept = runner.position + 1
        self._decisions: deque[dict[str, Any]] = deque(maxlen=DECISIONS_KEPT)
        self._families: set[str | None] = set()
        self._tasks: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._spelled: dict[tuple[int, int, str], tuple[list[bytes], int]] = {}
        self._starting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to watch the read models."""
        runner = self.sources.runner
        runner.save()
        position = runner.position
        self._first_kept = position + 1
        runner.watch(self._on)
        self.sources.bus.on_connection(self._connection)
        self._starting = asyncio.get_running_loop().create_task(
            self._look_back(position)
        )

    async def close(self) -> None:
        """Let go of everything."""
        if self._timer is not None:
            self._timer.cancel()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        for document in self._documents.values():
            document.close()
        self._documents.clear()
        await self.output.close()

    async def serve(self, socket: web.WebSocketResponse) -> None:
        """Serve one page until it goes away."""
        page = Page(self, socket)
        self.pages.add(page)
        try:
            await page.live()
        finally:
            self.pages.discard(page)

    @property
    def full(self) -> bool:
        """Whether no more pages are taken."""
        return len(self.pages) >= PAGES

    # -- documents ---------------------------------------------------------------------

    def document(self, topic: Topic, params: Any) -> Document:
        """Return the document, made from now on if it was not."""
        same = params
        if isinstance(params, OneTask):
            same = OneTask(params.task_id)
        key = (topic.name, encode(same))
        found = self._documents.get(key)
        if found is None:
            found = self._documents[key] = Document(self, topic, same)
        return found

    def leave(self, subscription: Subscription) -> None:
        """Watch it no more; nobody's document is made no more."""
        document = subscription.document
        document.watchers.discard(subscription)
        if not document.watchers:
            document.close()
            key = (document.topic.name, encode(document.params))
            self._documents.pop(key, None)

    def _on(self, judged: JudgedEvent) -> None:
        recorded = judged.recorded
        self.sources.last_hour.take(judged)
        self._events.append(recorded)
        if len(self._events) == EVENTS_KEPT:
            self._first_kept = self._events[0].seq
        self._families.add(judged.family)
        if judged.task is not None:
            self._tasks.add(judged.task.id)
        if isinstance(recorded.event, TaskRouted) and judged.verdict == "applied":
            self._decisions.appendleft(_decision(recorded.seq, recorded.event))
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._timer = None
        families, tasks = self._families, self._tasks
        self._families, self._tasks = set(), set()
        self._spelled.clear()
        for document in self._documents.values():
            wanted = document.topic.families
            if document.task_id:
                touched = document.task_id in tasks
            else:
                touched = wanted is None or not wanted.isdisjoint(families)
            if touched:
                document.dirty.set()
        for page in self.pages:
            page.wake()

    def _connection(self, up: bool) -> None:
        for document in self._documents.values():
            document.dirty.set()
        if up:
            self.output.again()

    async def _look_back(self, position: int) -> None:
        """Fill what is kept here of the time before `position`."""
        try:
            await self.sources.last_hour.look_back(self.sources.runner, position)
        except Exception:  # noqa: BLE001 - two charts begin empty, no more
            _log.exception("last hour")
        for document in self._documents.values():
            document.dirty.set()
        await self._past_decisions(position)

    async def _past_decisions(self, position: int) -> None:
        """Fill the list of decisions from the end of the log."""
        recorded: list[Recorded] | None = None
        while recorded is None:
            try:
                recorded = await self.sources.log.read(
                    subjects.ALL_TASKS, start=max(1, position - DECISIONS_SOUGHT)
                )
            except AgentComError:
                await asyncio.sleep(AGAIN_S)
        known = {decision["seq"] for decision in self._decisions}
        for each in reversed(recorded):
            if (
                isinstance(each.event, TaskRouted)
                and each.seq not in known
                and len(self._decisions) < DECISIONS_KEPT
            ):
                self._decisions.append(_decision(each.seq, each.event))

    # -- the log itself ----------------------------------------------------------------

    def holds_after(self, seq: int) -> int:
        """Return the first sequence that is kept here, at least the one after `seq`."""
        return max(self._first_kept, seq + 1)

    def events_after(self, seq: int, pattern: str) -> tuple[list[bytes], int]:
        """Spell what came after `seq`; and say how far that reaches."""
        key = (seq, self.sources.runner.position, pattern)
        found = self._spelled.get(key)
        if found is None:
            found = self._spelled[key] = self._after(seq, pattern)
        return found

    def _after(self, seq: int, pattern: str) -> tuple[list[bytes], int]:
        told: list[bytes] = []
        size = 0
        newer: list[Recorded] = []
        for recorded in reversed(self._events):
            if recorded.seq <= seq:
                break
            newer.append(recorded)
        reached = self.sources.runner.position
        for recorded in reversed(newer):
            if not matches(pattern, recorded.subject):
                continue
            raw = spelled(recorded)
            size += len(raw)
            if told and (size > MESSAGE_BYTES or len(told) >= EVENTS_AT_ONCE):
                reached = recorded.seq - 1
                break
            told.append(raw)
        return told, reached

    async def latest(self, pattern: str, position: int) -> list[Recorded]:
        """Return the last events that match, up to `position`."""
        reach = EVENTS_SHOWN
        while True:
            start = max(1, position - reach + 1)
            found = await self.sources.log.read(pattern, start=start)
            found = [each for each in found if each.seq <= position]
            if len(found) >= EVENTS_SHOWN or start == 1 or reach >= 100_000:
                return found[-EVENTS_SHOWN:]
            reach *= 16


def spelled(recorded: Recorded) -> bytes:
    """Spell an event with its place in the log."""
    event = recorded.event
    return encode(
        {
            "seq": recorded.seq,
            "subject": recorded.subject,
            "event": event.body if isinstance(event, Unknown) else event,
        }
    )


def _bounded(recorded: list[Recorded], *, last: bool) -> list[bytes]:
    """Spell as many as one message may hold, the last ones or the first."""
    told: list[bytes] = []
    size = 0
    for each in reversed(recorded) if last else recorded:
        raw = spelled(each)
        size += len(raw)
        if told and size > MESSAGE_BYTES:
            break
        told.append(raw)
    return told[::-1] if last else told


def refused(id_: str, refusal: Refusal) -> bytes:
    """Spell a refusal of a subscription."""
    return encode({"type": "refused", "id": id_, "error": refusal})


def _decision(seq: int, event: TaskRouted) -> dict[str, Any]:
    return {
        "seq": seq,
        "at": event.at,
        "task_id": event.task_id,
        "generation": event.generation,
        "attempt": event.attempt,
        "tier": event.effective_tier,
        "target": event.target_type,
        "host": event.selected_host,
        "endpoint": event.selected_endpoint,
        "model": event.selected_model,
        "fallback": event.fallback_used,
        "from": event.fallback_from_tier,
        "why": event.fallback_reason,
        "reason": event.classification_reason,
        "candidates": event.candidate_count,
        "excluded": sum(event.excluded.values()),
        "decided_us": event.decided_us,
    }


__all__ = ["Bridge", "spelled"]
