"""Live output on its way to pages: first what a run has put out, then what follows.

Per task that somebody watches there is one subscription to what the output stream
republishes. A watch first gets what the stream already holds; what comes meanwhile waits,
and repeats are recognised by the run's numbering. After the broker was away the stream is
read again, so that nothing is missing and nothing comes twice.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from events import catalogue as c
from events import subjects
from events.codec import Reader, encode
from events.errors import AgentComError, Malformed, UnknownSubject

if TYPE_CHECKING:
    from events.bus import Bus, Listening, Message
    from projections.output import OutputReader

HISTORY_BYTES: Final = 1_500_000
"""Of the text that was put out before a page came, it gets the last so much."""
SHOWN_CHARACTERS: Final = 64_000_000
"""Of more text a page lets the beginning go, so it need not read that: it is told where
the last so much begins."""
MARK_CHARACTERS: Final = 250_000
TAIL_TASKS: Final = 256
SOUGHT_PIECES: Final = 2_000
"""Of a task that has printed more, the last lines are not looked up."""
TAIL_LINES: Final = 4
TAIL_TEXT: Final = 400
AGAIN_S: Final = 0.5
STATE: Final = frozenset({"status", "error"})
"""Kinds of live events that are never left out."""

_chunks: Final[Reader[c.Chunk]] = Reader(c.Chunk)


class OutputMark(Struct, frozen=True):
    """A piece of a task's output: its place in the store, its run, its number there, and
    how many characters and lines the task had put out before it."""

    seq: int
    route: str
    n: int
    characters: int
    lines: int


class Sink(Protocol):
    """Where a watch's output goes."""

    def output(self, chunk: c.Chunk, raw: bytes, *, past: bool) -> None:
        """Take a piece of output, and its JSON; `past` where it was put out before the
        watch began, whose size is bounded already."""
        ...

    def gap(self, task_id: str, lost: int) -> None:
        """Note that so many pieces are missing here."""
        ...

    def skipped(self, task_id: str, mark: OutputMark) -> None:
        """Note that what comes before a piece is more than a page can show."""
        ...

    def begun(self, task_id: str) -> None:
        """Note that what was put out before, and is kept, was all handed over."""
        ...


class _Past:
    """The last so many bytes of what a task has put out, and all that is never left out.

    The stream may hold a gibibyte of one task, so the rest is forgotten as it is read.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._text: deque[tuple[int, c.Chunk, bytes]] = deque()
        self._state: list[tuple[int, c.Chunk, bytes]] = []
        self._bytes = 0
        self._count = 0
        self._characters = self._lines = 0
        self._marks: list[OutputMark] = []
        self.lost = 0

    def mark(self, seq: int, chunk: c.Chunk) -> None:
        """Remember now and then where in the store a piece is."""
        last = self._marks[-1].characters if self._marks else -MARK_CHARACTERS
        if self._characters - last >= MARK_CHARACTERS:
            place = (seq, chunk.route, chunk.n, self._characters, self._lines)
            self._marks.append(OutputMark(*place))
        if chunk.event_type not in STATE:
            self._characters += len(chunk.text)
            self._lines += chunk.text.count("\n")

    def shown_from(self) -> OutputMark | None:
        """Return where the text begins that a page can show; None where that is all of it."""
        over = self._characters - SHOWN_CHARACTERS
        return (
            next((m for m in self._marks if m.characters >= over), None)
            if over > 0
            else None
        )

    def add(self, chunk: c.Chunk, raw: bytes) -> None:
        """Take the next one; the oldest text goes where it is too much."""
        self._count += 1
        piece = (self._count, chunk, raw)
        if chunk.event_type in STATE:
            self._state.append(piece)
            return
        self._text.append(piece)
        self._bytes += len(piece[2])
        while self._bytes - len(self._text[0][2]) > self._most:
            self._bytes -= len(self._text.popleft()[2])
            self.lost += 1

    def pieces(self) -> list[tuple[c.Chunk, bytes]]:
        """Return what is left, oldest first."""
        ordered = sorted([*self._text, *self._state], key=lambda piece: piece[0])
        return [(chunk, raw) for _, chunk, raw in ordered]


class OutputWatch:
    """The interest of a page, a stream or a chat in one task's output.

    `reached` is the number of the last chunk it has, by route. Until `ready`, what comes
    waits in `backlog`, because the stream is still being read: the last of it, as of the
    past, for a run may print faster than the stream is read.
    """

    history_bytes = HISTORY_BYTES

    def __init__(self, task_id: str, sink: Sink, reached: dict[str, int]) -> None:
        self.task_id = task_id
        self.reached = reached
        self.ready = False
        self.backlog = _Past(self.history_bytes)
        self.reading: asyncio.Task[None] | None = None
        self._sink = sink

    def take(self, chunk: c.Chunk, raw: bytes, *, past: bool = False) -> None:
        """Hand a chunk on unless it was handed on before."""
        if not self.ready:
            self.backlog.add(chunk, raw)
        elif chunk.n > self.reached.get(chunk.route, -1):
            self.reached[chunk.route] = chunk.n
            self._sink.output(chunk, raw, past=past)

    def begin(
        self,
        history: list[tuple[c.Chunk, bytes]],
        lost: int,
        shown_from: OutputMark | None = None,
    ) -> None:
        """Hand on what the stream holds and what came meanwhile; go on from there.

        `lost` is how many chunks before that were left out, because they were too much;
        those before `shown_from` are too much for a page as well.
        """
        self.ready = True
        if shown_from is not None:
            self._sink.skipped(self.task_id, shown_from)
        if lost:
            self._sink.gap(self.task_id, lost)
        for chunk, raw in history:
            self.take(chunk, raw, past=True)
        waited, self.backlog = self.backlog, _Past(self.history_bytes)
        for chunk, raw in waited.pieces():
            # What was dropped of it is in the history, or is missing here.
            missing = chunk.n - self.reached.get(chunk.route, -1) - 1
            if waited.lost and missing > 0:
                self._sink.gap(self.task_id, missing)
            self.take(chunk, raw)
        self._sink.begun(self.task_id)


class OutputFeed:
    """All output watches of this process, and the last lines of everything that runs."""

    def __init__(self, bus: Bus, output: OutputReader | None) -> None:
        self._bus = bus
        self._output = output
        # By task.
        self._watches: dict[str, set[OutputWatch]] = {}
        self._listening: dict[str, Listening] = {}
        # By task, the latest to begin at the end: kind and text of its last lines.
        self._tails: OrderedDict[str, deque[dict[str, str]]] = OrderedDict()
        self._listening_to_all: Listening | None = None
        self._opening_all: asyncio.Task[None] | None = None
        # Tasks whose last lines were looked up, or are being.
        self._sought: set[str] = set()
        self._seeking: asyncio.Task[None] | None = None

    async def attach(self, watch: OutputWatch, *, from_now: bool = False) -> None:
        """Begin to hand on a task's output; `from_now`: the task is still to come."""
        others = self._watches.setdefault(watch.task_id, set())
        others.add(watch)
        if watch.task_id not in self._listening:
            try:
                pattern = subjects.republished(subjects.outputs_of(watch.task_id))
            except AgentComError:
                return
            self._listening[watch.task_id] = await self._bus.listen(pattern, self._on)
        if from_now:
            watch.ready = True
        else:
            self._read(watch)

    async def detach(self, watch: OutputWatch) -> None:
        """Hand on nothing more."""
        if watch.reading is not None:
            watch.reading.cancel()
        others = self._watches.get(watch.task_id, set())
        others.discard(watch)
        if not others:
            self._watches.pop(watch.task_id, None)
            listening = self._listening.pop(watch.task_id, None)
            if listening is not None:
                await listening.stop()

    def lost(self) -> None:
        """Hand on nothing until it has been read again.

        The server sends again before the connection is said to be up: what is heard then
        must not pass ahead of what was missed.
        """
        for watches in self._watches.values():
            for watch in watches:
                watch.ready = False
                if watch.reading is not None:
                    watch.reading.cancel()

    def again(self) -> None:
        """Read the stream again: something may have been missed."""
        for watches in self._watches.values():
            for watch in watches:
                watch.ready = False
                self._read(watch)

    async def close(self) -> None:
        """Let go of everything."""
        for doing in (self._opening_all, self._seeking):
            if doing is not None:
                doing.cancel()
                await asyncio.gather(doing, return_exceptions=True)
        for listening in [*self._listening.values(), self._listening_to_all]:
            if listening is not None:
                await listening.stop()
        self._listening.clear()
        self._listening_to_all = None

    def _read(self, watch: OutputWatch) -> None:
        if watch.reading is not None:
            watch.reading.cancel()
        loop = asyncio.get_running_loop()
        watch.reading = loop.create_task(self._read_past(watch))

    async def _read_past(self, watch: OutputWatch) -> None:
        past = _Past(watch.history_bytes)
        while self._output is not None:
            past = _Past(watch.history_bytes)
            try:
                async for seq, chunk in self._output.placed(watch.task_id):
                    if chunk.n > watch.reached.get(chunk.route, -1):
                        past.mark(seq, chunk)
                        past.add(chunk, encode_chunk(chunk))
                break
            except AgentComError:
                await asyncio.sleep(AGAIN_S)
        watch.begin(past.pieces(), past.lost, past.shown_from())

    # -- what comes in -----------------------------------------------------------------

    def _on(self, message: Message) -> None:
        chunk = _chunk_of(message)
        if chunk is None:
            return
        raw = encode_chunk(chunk)
        for watch in self._watches.get(chunk.task_id, ()):
            watch.take(chunk, raw)

    # -- the last lines of everything --------------------------------------------------

    def tails(self, task_ids: list[str]) -> dict[str, list[dict[str, str]]]:
        """Return the last lines of tasks; they are kept from the first call on."""
        if self._listening_to_all is None and self._opening_all is None:
            loop = asyncio.get_running_loop()
            self._opening_all = loop.create_task(self._open_all())
        missing = [each for each in task_ids if each not in self._tails]
        self._sought &= set(task_ids)
        if self._seeking is None or self._seeking.done():
            unsought = [each for each in missing if each not in self._sought]
            if unsought and self._output is not None:
                self._sought |= set(unsought)
                seeking = self._seek(self._output, unsought)
                self._seeking = asyncio.get_running_loop().create_task(seeking)
        return {
            each: list(self._tails[each]) for each in task_ids if each in self._tails
        }

    async def _open_all(self) -> None:
        self._listening_to_all = await self._bus.listen(
            subjects.REPUBLISHED_OUTPUT, self._on_any
        )

    async def _seek(self, output: OutputReader, task_ids: list[str]) -> None:
        """Look up the last lines of tasks that have been silent since the first call."""
        if self._opening_all is not None:
            # What comes from now on is heard, so that nothing is missed between.
            await asyncio.wait({self._opening_all})
        for task_id in task_ids:
            tail: deque[dict[str, str]] = deque(maxlen=TAIL_LINES)
            read = 0
            try:
                async for chunk in output.pieces(task_id):
                    read += 1
                    if read > SOUGHT_PIECES or task_id in self._tails:
                        break
                    _lengthen(tail, chunk)
            except AgentComError:
                self._sought.discard(task_id)
                continue
            # Of more than that the end is not known: its next line will say it.
            if tail and read <= SOUGHT_PIECES and task_id not in self._tails:
                self._keep(task_id, tail)

    def _on_any(self, message: Message) -> None:
        chunk = _chunk_of(message)
        if chunk is None:
            return
        tail = self._tails.get(chunk.task_id)
        if tail is None:
            tail = self._keep(chunk.task_id, deque(maxlen=TAIL_LINES))
        _lengthen(tail, chunk)

    def _keep(self, task_id: str, tail: deque[dict[str, str]]) -> deque[dict[str, str]]:
        self._tails[task_id] = tail
        if len(self._tails) > TAIL_TASKS:
            self._tails.popitem(last=False)
        return tail


def _lengthen(tail: deque[dict[str, str]], chunk: c.Chunk) -> None:
    """Add what a chunk says to a task's last lines: kind and text, the latest last."""
    text = chunk.text[-2 * TAIL_TEXT :]
    flows = chunk.event_type not in STATE
    if flows and tail and tail[-1]["type"] == chunk.event_type:
        text = tail.pop()["text"] + text
    elif tail and not tail[-1]["text"]:
        tail.pop()
    lines = text.split("\n") if flows else [text]
    for line in lines[-TAIL_LINES:]:
        tail.append({"type": chunk.event_type, "text": line[-TAIL_TEXT:]})


def encode_chunk(chunk: c.Chunk) -> bytes:
    """Encode a chunk for a page: every field, also those that the stream leaves out.

    `tool` is there where a tool is spoken of.
    """
    fields = {name: getattr(chunk, name) for name in chunk.__struct_fields__}
    if chunk.tool is None:
        del fields["tool"]
    return encode(fields)


def _chunk_of(message: Message) -> c.Chunk | None:
    """Read a chunk; None where it is none, or not of the task its subject names."""
    try:
        chunk = _chunks.decode(message.data)
        _, task_id = subjects.parse_output(message.subject)
    except (Malformed, UnknownSubject):
        return None
    return chunk if chunk.task_id == task_id else None
