"""What a run says while it runs: batched, numbered, in order, bounded.

The first piece leaves at once; after it text is joined for 100 ms, sooner where much has
gathered. Status and error lines leave at once and never overtake text that came before
them. Every chunk has the run's next number `n`. Status lines, error lines and retries are
events of the log too.

Nothing is left out without a word. While the output stream is slow or away, chunks wait
and what makes them is held up: a process whose pipe nobody reads stops writing. Only
where that would last too long is text dropped; the next chunk then says how much, in the
text itself, and the gap shows in the numbers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal, Protocol

from events import catalogue as c
from events import subjects
from events.chunks import NEXT_INCARNATION
from events.codec import encode, rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.mail import Assign
    from sidecar.output_queue import OutputQueue

JOIN_S = 0.1
"""For how long text is joined into one chunk."""

CHUNK_BYTES = 64 * 1024
"""The most text in one chunk; so much gathered leaves sooner."""

LINE_CHARS = 8 * 1024
"""What is kept of a status or error line."""

LAST_CHARS = 6_000
LAST_LINES = 60
"""What is remembered of the output of a verification step."""

Kind = Literal[
    "token", "thinking", "stdout", "stderr", "status", "error", "tool", "call"
]


class Speaker(Protocol):
    """What whoever reports of a run needs of the host: time, ids, a way to the log."""

    host: str
    incarnation: str

    def now(self) -> float: ...

    def new_id(self) -> str: ...

    def say(self, subject: str, event: c.Event) -> None: ...


class Progress:
    """One run's `Emit`. `close` it when the run is over."""

    def __init__(
        self, assign: Assign, sink: OutputQueue, speaker: Speaker, *, earlier: int = 0
    ) -> None:
        """`earlier` counts the incarnations of the host in which the run may have spoken."""
        self.host = speaker.host
        self._assign = assign
        self._sink = sink
        self._speaker = speaker
        self._loop = asyncio.get_running_loop()
        self.subject = subjects.output(speaker.host, assign.task_id)
        self._run_subject = subjects.run(speaker.host, assign.task_id)
        self._model = assign.model or None

        # Text that is not out yet, and how much; the timer runs from one flush to the next.
        self._pieces: list[tuple[Kind, str, c.ToolUse | None]] = []
        self._gathered = 0
        self._timer: asyncio.TimerHandle | None = None

        # The last of the text since `section` was called; None before that.
        self._last: str | None = None

        # The last count of tokens that the executor gave.
        self._tokens: int | None = None

        # The last chunk's number. Readers see by a gap that something was dropped.
        self.n = earlier * NEXT_INCARNATION

        # Which try of the work speaks; readers show each by itself.
        self.segment = earlier

        # Chunks that were dropped; bytes of text in them that no mark tells of yet, and
        # of which kind the last of them was.
        self.dropped = 0
        self._unmarked = 0
        self._unmarked_kind: Kind = "stdout"

        # How much text may still be passed on; below 0 the run has said too much.
        self._room = assign.limits.live_output_bytes

        self._closed = False

    # -- Emit

    def text(
        self,
        kind: Literal["token", "thinking", "stdout", "stderr", "tool", "call"],
        text: str,
        *,
        tokens_so_far: int | None = None,
        tool: c.ToolUse | None = None,
    ) -> None:
        if tokens_so_far is not None:
            self._tokens = tokens_so_far
        if self._last is not None:
            self._last = (self._last + text)[-LAST_CHARS:]
        if not text or self._closed or self._room < 0:
            return
        self._pieces.append((kind, text, tool))
        self._gathered += len(text)
        if self._timer is None:
            self._flush()
            self._timer = self._loop.call_later(JOIN_S, self._tick)
        elif self._gathered >= CHUNK_BYTES:
            self._flush()

    def status(self, text: str) -> None:
        self._line(c.TaskStatus, "status", text)

    def error(self, text: str, code: str = "") -> None:
        self._line(c.TaskErrorLine, "error", text, code=code)

    def retrying(
        self,
        text: str,
        *,
        retry: int,
        of: int,
        backoff_s: float = 0.0,
        reason: str = "",
    ) -> None:
        self._flush()
        self.segment += 1
        self._line(
            c.TaskRetrying,
            "status",
            text,
            retry=retry,
            of=of,
            backoff_s=backoff_s,
            reason=encodable(reason)[:LINE_CHARS],
        )

    def section(
        self, text: str, *, round: int = 0, spent: c.RoundSpent | None = None
    ) -> None:
        """Begin a new segment of output with a status line; of a round: what it used."""
        self._flush()
        self.segment += 1
        self._last = ""
        self._line(c.TaskStatus, "status", text, round=round, spent=spent)

    def last_output(self) -> str:
        """The last lines of output since the section began, as they came."""
        lines = (self._last or "").splitlines(keepends=True)
        return encodable("".join(lines[-LAST_LINES:]).replace("\x00", "\ufffd"))

    def verified(self, text: str, **fields: Any) -> None:
        """Say how a verification step ended; `fields` are those of its event."""
        self._line(c.TaskVerified, "status", text, **fields)

    # -- the end

    def close(self) -> None:
        """Let everything out and stay silent from now on."""
        self._flush()
        self._mark(must=True)
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- inside

    def _tick(self) -> None:
        self._timer = None
        if self._pieces:
            self._flush()
            self._timer = self._loop.call_later(JOIN_S, self._tick)

    def _flush(self) -> None:
        """Let out what has gathered: neighbours of a kind together, in order."""
        if not self._pieces:
            return
        pieces, self._pieces, self._gathered = self._pieces, [], 0
        kind, joined, tool = pieces[0][0], [pieces[0][1]], pieces[0][2]
        for next_kind, text, next_tool in pieces[1:]:
            if next_kind != kind or tool or next_tool:
                self._emit(kind, "".join(joined), tool)
                kind, joined, tool = next_kind, [], next_tool
            joined.append(text)
        self._emit(kind, "".join(joined), tool)

    def _line(
        self, event: Callable[..., c.RunEvent], kind: Kind, text: str, **fields: Any
    ) -> None:
        """Let out a line at once, behind the text before it, and log it."""
        if self._closed:
            return
        self._flush()
        text = encodable(text)[:LINE_CHARS]
        self._emit(kind, text)
        if text:
            self._speaker.say(
                self._run_subject,
                event(
                    **run_fields(self._speaker, self._assign),
                    text=text,
                    segment=self.segment,
                    n=self.n,
                    **fields,
                ),
            )

    def _emit(self, kind: Kind, text: str, tool: c.ToolUse | None = None) -> None:
        text = encodable(text)
        for piece in split(text, CHUNK_BYTES):
            if kind in ("status", "error"):
                self._pass_on(kind, piece)
            elif self._room >= 0:
                self._pass_on_within_cap(kind, piece, tool)
            if tool is not None:
                tool = c.ToolUse(id=tool.id, is_error=tool.is_error)

    def _pass_on_within_cap(
        self, kind: Kind, piece: str, tool: c.ToolUse | None
    ) -> None:
        """Pass on text up to the run's cap, then say once that there is no more."""
        size = len(piece) if piece.isascii() else len(piece.encode())
        if size <= self._room:
            self._room -= size
            self._pass_on(kind, piece, tool)
            return
        if self._room:
            self._pass_on(kind, split(piece, self._room)[0])
        self._room = -1
        cap = self._assign.limits.live_output_bytes
        self._line(
            c.TaskStatus,
            "status",
            f"[... output is cut here: a run may show {cap:,} bytes; its result keeps "
            "head and tail of all of it ...]\n",
        )

    def _pass_on(self, kind: Kind, piece: str, tool: c.ToolUse | None = None) -> None:
        self._mark()
        if not self._publish(kind, piece, tool=tool):
            self._unmarked += len(piece.encode())
            self._unmarked_kind = kind

    def _mark(self, *, must: bool = False) -> None:
        """Say in the text how much of it was dropped before this place."""
        if self._unmarked:
            text = f"\n[... {self._unmarked:,} bytes are missing here: the output stream took nothing ...]\n"
            if self._publish(self._unmarked_kind, text, must=must):
                self._unmarked = 0

    def _publish(
        self,
        kind: Kind,
        text: str,
        *,
        must: bool = False,
        tool: c.ToolUse | None = None,
    ) -> bool:
        self.n += 1
        counted = (
            self._tokens if kind in ("token", "thinking", "tool", "call") else None
        )
        chunk = c.Chunk(
            task_id=self._assign.task_id,
            event_type=kind,
            text=text,
            timestamp=rfc3339(self._speaker.now()),
            route=self._assign.route,
            generation=self._assign.generation,
            attempt=self._assign.attempt,
            segment=self.segment,
            n=self.n,
            tokens_so_far=counted,
            model=self._model,
            tool=tool,
        )
        taken = self._sink.publish(self.subject, encode(chunk), must=must)
        self.dropped += not taken
        return taken


def run_fields(speaker: Speaker, assign: Assign) -> dict[str, Any]:
    """Return the fields that every event of a run has in common."""
    return {
        "id": speaker.new_id(),
        "at": rfc3339(speaker.now()),
        "by": "host:" + speaker.host,
        "task_id": assign.task_id,
        "host": speaker.host,
        "route": assign.route,
        "generation": assign.generation,
        "attempt": assign.attempt,
        "incarnation": speaker.incarnation,
    }


def split(text: str, limit: int) -> list[str]:
    """Cut `text` into pieces of at most `limit` bytes of UTF-8, never inside a character."""
    if len(text) * 4 <= limit or (text.isascii() and len(text) <= limit):
        return [text]
    if text.isascii():
        return [text[i : i + limit] for i in range(0, len(text), limit)]
    raw, pieces, start = text.encode(), [], 0
    while start < len(raw):
        end = min(start + limit, len(raw))
        while end < len(raw) and raw[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(raw[start:end].decode())
        start = end
    return pieces


def encodable(text: str) -> str:
    """Return `text` with what UTF-8 cannot encode (half surrogates) replaced."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
