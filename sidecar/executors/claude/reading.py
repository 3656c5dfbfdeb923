"""What one run of Claude Code prints, read as it comes: shown, kept and counted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from sidecar.executors.claude import stream_json
from sidecar.executors.ndjson import Broken
from sidecar.output import HeadTail, Utf8, cut

if TYPE_CHECKING:
    from sidecar.executors.port import Emit, Run
    from sidecar.executors.watch import Watchdog

_SHOWN_OF_A_TOOL = 4_096
_SHOWN_OF_A_DENIAL = 500


class ClaudeUsage(Struct, kw_only=True):
    """Tokens and dollars; `usd` None where nobody said how many.

    `known` is False where a model was used that Claude Code has no price for.
    """

    tokens_in: int = 0
    tokens_out: int = 0
    cache_read: int = 0
    cache_write: int = 0
    usd: float | None = 0.0
    known: bool = True

    def plus(self, other: ClaudeUsage) -> ClaudeUsage:
        """Both together; unknown dollars make the sum unknown."""
        unknown = self.usd is None or other.usd is None
        return ClaudeUsage(
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
            cache_read=self.cache_read + other.cache_read,
            cache_write=self.cache_write + other.cache_write,
            usd=None if unknown else (self.usd or 0.0) + (other.usd or 0.0),
            known=self.known and other.known,
        )


class ClaudeTry:
    """One run of the program, as its stream tells it."""

    def __init__(self, run: Run, emit: Emit, watch: Watchdog) -> None:
        limits = run.assign.limits
        self._emit = emit
        self._watch = watch
        self._idle_s = limits.idle_timeout_s
        self._stream = stream_json.StreamJson()
        # Ids of the tools that run now: while there are any, silence is no fault.
        self._open: set[str] = set()
        self._stderr_text = Utf8()
        self.text = HeadTail(limits.output_limit_bytes)
        self.stderr = HeadTail(limits.output_limit_bytes // 4)
        self.start: stream_json.Begun | None = None
        self.end: stream_json.RunEnd | None = None
        self.error: str | None = None  # Claude Code's name of the last API error
        self.denials: list[str] = []  # names of tools that were not allowed
        self.resets_at: float | None = None  # epoch seconds, of a limit that was hit
        self.has_ended: asyncio.Future[None] = (
            asyncio.get_running_loop().create_future()
        )
        # Tokens as the stream counts them, for a run that ends without a result: of the
        # messages that are over, and of the one under way, with its characters so far.
        self._streamed = ClaudeUsage()
        self._message = ClaudeUsage()
        self._characters = 0

    def stdout(self, data: bytes) -> None:
        """Take what the program prints."""
        self._watch.heard()
        for event in self._stream.feed(data):
            self._take(event)

    def errors(self, data: bytes) -> None:
        """Take what it prints to stderr."""
        self.stderr.feed(data)
        text = self._stderr_text.feed(data)
        if text:
            self._emit.text("stderr", text)

    def close(self) -> None:
        """The last line, where it had no end."""
        for event in self._stream.close():
            self._take(event)
        tail = self._stderr_text.close()
        if tail:
            self._emit.text("stderr", tail)

    def _take(self, event: stream_json.Event) -> None:
        match event:
            case stream_json.Delta():
                self._delta(event)
            case stream_json.MessageUsage():
                self._count(event)
            case stream_json.WholeMessage():
                self.error = event.error or self.error
                for call in event.calls:
                    self._open.add(call.id)
                    arguments = msgspec.json.encode(call.input).decode()
                    self._show_tool(f"{call.name} {arguments}")
                self._wait_for_tools()
            case stream_json.ToolResult():
                self._open.discard(event.id)
                self._show_tool(f"{'error: ' if event.is_error else ''}{event.text}")
                self._wait_for_tools()
            case stream_json.ToolDenied():
                self.denials.append(event.tool)
                text = cut(event.message, _SHOWN_OF_A_DENIAL)
                self._emit.error(
                    f"Permission denied: {event.tool}: {text}", "permission_denied"
                )
            case stream_json.RateLimit():
                self._limit(event)
            case stream_json.ApiRetry():
                reason = event.error or str(event.status)
                self._emit.status(
                    f"Claude Code retries a call {event.attempt}/{event.of}: {reason}"
                )
            case stream_json.Begun():
                self.start = event
            case stream_json.RunEnd():
                self.end = event
                self._watch.allow(None)
                if not self.has_ended.done():
                    self.has_ended.set_result(None)
            case Broken() | stream_json.Ignored():
                pass

    def _delta(self, event: stream_json.Delta) -> None:
        self._characters += len(event.text)
        if event.inner:
            self._emit.text("tool", event.text)
        elif event.kind == "thinking":
            self._emit.text("thinking", event.text, tokens_so_far=self._so_far())
        else:
            self.text.feed(event.text.encode("utf-8", "replace"))
            self._emit.text("token", event.text, tokens_so_far=self._so_far())

    def _so_far(self) -> int:
        """Tokens written; of the message under way an estimate, until it is over."""
        here = max(self._message.tokens_out, self._characters // 4)
        return self._streamed.tokens_out + here

    def _count(self, usage: stream_json.MessageUsage) -> None:
        if usage.start:
            self._streamed = self.streamed()
            self._message = ClaudeUsage(
                tokens_in=usage.tokens_in or 0,
                cache_read=usage.cache_read or 0,
                cache_write=usage.cache_write or 0,
                tokens_out=usage.tokens_out or 0,
            )
            self._characters = 0
        elif usage.tokens_out is not None:
            self._message.tokens_out = max(usage.tokens_out, self._message.tokens_out)

    def streamed(self) -> ClaudeUsage:
        """What the stream has told of tokens."""
        return self._streamed.plus(self._message)

    def _limit(self, limit: stream_json.RateLimit) -> None:
        if limit.status == "rejected":
            self.resets_at = limit.resets_at
        elif limit.status == "allowed_warning":
            self._emit.status(
                f"Claude's rate limit is near ({limit.kind or 'account'})"
            )

    def _show_tool(self, text: str) -> None:
        self._emit.text("tool", cut(text, _SHOWN_OF_A_TOOL).rstrip("\n") + "\n")

    def _wait_for_tools(self) -> None:
        """A tool may be silent as long as it likes; the time in all bounds it."""
        self._watch.allow(None if self._open or self.end else self._idle_s)

    def spent(self, run: Run, *, resumed: bool) -> ClaudeUsage:
        """What this run of the program has cost; dollars only where it said how many.

        The program's figures *since its last result* leave out what a resumed session had
        cost before; where it gives only the session's total, the earlier cost that the
        host remembers is taken off.
        """
        end = self.end
        if end is None:
            spent = self.streamed()
            tokens = spent.tokens_in + spent.tokens_out + spent.cache_read
            spent.usd = None if tokens else 0.0
            return spent
        uses = end.since
        if uses is None and not resumed:
            uses = end.session
        if uses is not None:
            return ClaudeUsage(
                tokens_in=sum(use.tokens_in for use in uses),
                tokens_out=sum(use.tokens_out for use in uses),
                cache_read=sum(use.cache_read for use in uses),
                cache_write=sum(use.cache_write for use in uses),
                usd=sum(use.cost_usd for use in uses),
                known=all(use.priced for use in uses),
            )
        usage, before = end.usage, run.previous_cost_usd
        total = end.cost_usd
        return ClaudeUsage(
            tokens_in=usage.tokens_in or 0,
            tokens_out=usage.tokens_out or 0,
            cache_read=usage.cache_read or 0,
            cache_write=usage.cache_write or 0,
            usd=None if total is None or before is None else max(total - before, 0.0),
            known=all(use.priced for use in end.session),
        )
