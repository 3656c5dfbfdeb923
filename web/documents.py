"""Documents: what a topic says, made anew while somebody watches it.

A topic with its parameters is a document of a few named sections. It is made once for
all who watch it, and not at all while nobody does. Each watcher is sent the sections that
changed since it was last sent any, so whoever is slow gets fewer messages, never wrong
ones; what is kept for it is one number.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from events.codec import encode
from events.commands import Refusal, refusal_of
from events.diagnostics import Diagnostics
from events.errors import AgentComError, Malformed
from events.position import NOWHERE, Position
from web.topics import OneTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from projections.judged import Family
    from web.topics import Sources, Topic

AGAIN_S: Final = 1.0
"""How long to wait until a document that could not be made is tried again."""
MAKINGS_KEPT: Final = 1_000
"""So many makings of a document are known by their sequence; who comes back from before
that gets a snapshot."""
ENCODED_KEPT: Final = 16
"""Watchers stand at few different versions: the latest, and a few that are slower."""

_log = Diagnostics("agentcom.web")


class Document:
    """A topic with its parameters, kept up to date while somebody watches.

    `version` counts the makings in which something changed, 0 before the first; `seq` is
    the log's sequence that the last making holds at least. `refusal` is set while there
    is nothing to show (no such task), `dirty` when it is to be made anew.
    """

    def __init__(self, sources: Sources, topic: Topic, params: Any) -> None:
        self.topic = topic
        self.params = params
        self.task_id = params.task_id if isinstance(params, OneTask) else ""
        self.watchers: set[Subscription] = set()
        self.version = 0
        self.position = NOWHERE
        self.refusal: Refusal | None = None
        self.dirty = asyncio.Event()
        self._sources = sources
        # By name, a section's JSON and the version in which it last changed.
        self._sections: dict[str, tuple[bytes, int]] = {}
        # Sequence and version of the makings that changed something, oldest first.
        self._makings: deque[tuple[int, int]] = deque(maxlen=MAKINGS_KEPT)
        # What is newer than a version, encoded; only until the next change.
        self._encoded: dict[int, bytes] = {}
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    def close(self) -> None:
        """Make it no more."""
        self._keeping.cancel()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self.dirty.clear()
            began = loop.time()
            # What is folded while it is made may or may not be in it.
            position = self._sources.runner.world.stands
            sections: dict[str, Any] | Refusal
            try:
                sections = await self.topic.make(self._sources, self.params)
            except Malformed as error:
                sections = refusal_of(error)
            except Exception as error:  # noqa: BLE001 - the edge: one topic, not all
                if isinstance(error, AgentComError):
                    _log.debug("topic", topic=self.topic.name, error=str(error))
                else:
                    _log.exception("topic", topic=self.topic.name)
                await asyncio.sleep(AGAIN_S)
                continue
            self._take(sections, position)
            took = loop.time() - began
            await asyncio.sleep(max(self.topic.pause_s, 2 * took))
            await self._until_dirty()

    async def _until_dirty(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.topic.tick_s):
                await self.dirty.wait()

    def _take(self, sections: dict[str, Any] | Refusal, position: Position) -> None:
        version = self.version + 1
        self.position = position
        if isinstance(sections, Refusal):
            if self.refusal != sections:
                self.refusal, self.version = sections, version
                self._wake()
            return
        self.refusal = None
        changed = False
        for name, value in sections.items():
            raw = encode(value)
            if name not in self._sections or self._sections[name][0] != raw:
                self._sections[name] = raw, version
                changed = True
        if changed:
            self.version = version
            self._makings.append((position.seq, version))
            self._encoded.clear()
            self._wake()

    def _wake(self) -> None:
        for watcher in self.watchers:
            watcher.wake()

    def version_at(self, since: int) -> int:
        """Return the version that a page which was sent sequence `since` has seen.

        0 where that cannot be told: it then gets everything.
        """
        if since > self.position.seq:
            return 0
        seen = 0
        for seq, version in self._makings:
            if seq > since:
                break
            seen = version
            if seq == since:
                break
        return seen

    def since(self, version: int) -> bytes:
        """Encode the sections newer than `version`, as the end of a message."""
        tail = self._encoded.get(version)
        if tail is None:
            data = b",".join(
                b'"%s":%s' % (name.encode(), raw)
                for name, (raw, changed) in self._sections.items()
                if changed > version
            )
            tail = b'"topic":"%s",%s,"data":{%s}}' % (
                self.topic.name.encode(),
                encode_position(self.position),
                data,
            )
            if len(self._encoded) > ENCODED_KEPT:
                self._encoded.clear()
            self._encoded[version] = tail
        return tail


class Subscription:
    """A page's interest in a document.

    `wake` tells the page that there may be news, `version` is the document's that it was
    sent last, `resumes` the sequence that it says it had when it came back.
    """

    def __init__(
        self, wake: Callable[[], None], id_: str, document: Document, since: int | None
    ) -> None:
        self.wake = wake
        self.id = id_
        self.document = document
        self.version = 0
        self.resumes = since

    def next(self) -> bytes | None:
        """Return the next message, None while there is nothing new."""
        document = self.document
        if not document.version or self.version >= document.version:
            return None
        if document.refusal is not None:
            self.version = document.version
            return encode_refusal(self.id, document.refusal)
        if self.resumes is not None:
            self.version = document.version_at(self.resumes)
            self.resumes = None
        kind = b"change" if self.version else b"snapshot"
        tail = document.since(self.version)
        self.version = document.version
        return b'{"type":"%s","id":"%s",%s' % (kind, self.id.encode(), tail)


class Documents:
    """The documents that are watched at this moment."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self.watched: dict[tuple[str, bytes], Document] = {}

    def subscribe(
        self,
        wake: Callable[[], None],
        id_: str,
        topic: Topic,
        params: Any,
        since: int | None,
    ) -> Subscription:
        """Watch a document, which is made from now on if it was not."""
        if isinstance(params, OneTask):
            # How far its output has been seen is the page's, not the document's.
            params = OneTask(params.task_id)
        key = (topic.name, encode(params))
        document = self.watched.get(key)
        if document is None:
            document = self.watched[key] = Document(self._sources, topic, params)
        subscription = Subscription(wake, id_, document, since)
        document.watchers.add(subscription)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """Stop watching; a document that nobody watches is closed."""
        document = subscription.document
        document.watchers.discard(subscription)
        if not document.watchers:
            document.close()
            self.watched.pop((document.topic.name, encode(document.params)), None)

    def touch(self, families: Iterable[Family | None], tasks: set[str]) -> None:
        """Have those made anew that events of these families, or of these tasks, change."""
        for document in self.watched.values():
            changing = document.topic.families
            if document.task_id:
                touched = document.task_id in tasks
            else:
                touched = changing is None or not changing.isdisjoint(families)
            if touched:
                document.dirty.set()

    def touch_all(self) -> None:
        """Have all of them made anew."""
        for document in self.watched.values():
            document.dirty.set()

    def close(self) -> None:
        """Make none of them any more."""
        for document in self.watched.values():
            document.close()
        self.watched.clear()


def encode_position(position: Position) -> bytes:
    """Encode how far a message reaches, as two members of its object."""
    return b'"seq":%d,"position":%s' % (position.seq, encode(str(position)))


def encode_refusal(id_: str, refusal: Refusal) -> bytes:
    """Encode the refusal of a subscription as a message to the page."""
    return encode({"type": "refused", "id": id_, "error": refusal})
