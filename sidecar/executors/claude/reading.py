"""What one run of Claude Code prints, read as it comes: shown, kept and counted."""

from __future__ import annotations

import asyncio
from functools import reduce
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from events import catalogue as c
from sidecar.costs import summed
from sidecar.executors.claude import stream_json
from sidecar.executors.claude.notices import notice_in
from sidecar.executors.ndjson import Broken
from sidecar.output import HeadTail, ShownStream, cut

if TYPE_CHECKING:
    from sidecar.executors.port import Emit, Run
    from sidecar.executors.watch import Watchdog

_SHOWN_OF_A_CALL = 4_096
_SHOWN_OF_A_RESULT = 16_384
_INPUT_BYTES = 200_000
"""What a call's input may take when encoded: a message holds 1 MB, other fields included."""
_SHOWN_OF_A_DENIAL = 500


class ClaudeUsage(Struct, frozen=True, kw_only=True):
    """Tokens and dollars; `usd` and the tokens are None where nobody said how many.

    `known` is False where a model was used that Claude Code has no price for.
    """

    tokens_in: int | None = 0
    tokens_out: int | None = 0
    cache_read: int = 0
    cache_write: int = 0
    usd: float | None = 0.0
    known: bool = True

    def plus(self, other: ClaudeUsage) -> ClaudeUsage:
        """Both together; what is unknown of one is unknown of the sum."""
        return ClaudeUsage(
            tokens_in=_sum(self.tokens_in, other.tokens_in),
            tokens_out=_sum(self.tokens_out, other.tokens_out),
            cache_read=self.cache_read + other.cache_read,
            cache_write=self.cache_write + other.cache_write,
            usd=summed((self.usd, other.usd)),
            known=self.known and other.known,
        )


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


class Meter:
    """Adds up what the results of one run of the program say was used.

    Each result counts what was used since the one before: by its own words, or as what
    it adds to the session's totals. A total that falls was begun anew. What a resumed
    session had used before is left out; `before_usd` is its cost, None where unknown.
    """

    def __init__(self, before_usd: float | None, *, resumed: bool) -> None:
        self.spent = ClaudeUsage()
        self._usd = before_usd if resumed else 0.0
        # By model; None while it is not known what a resumed session had used.
        self._models: dict[str, stream_json.ModelUse] | None = None if resumed else {}

    @property
    def session_usd(self) -> float | None:
        """The session's own total, None where it is not known."""
        return self._usd

    def take(self, end: stream_json.RunEnd) -> None:
        """Count one result."""
        uses = end.since or self._added(end)
        if uses:
            used = _together(uses)
        elif end.since is not None and end.session:  # nothing, and it says so
            used = ClaudeUsage(usd=self._added_usd(end) or 0.0)
        else:
            unsaid = 0 if end.turns == 0 else None
            counts = end.usage
            used = ClaudeUsage(
                tokens_in=unsaid if counts.tokens_in is None else counts.tokens_in,
                tokens_out=unsaid if counts.tokens_out is None else counts.tokens_out,
                cache_read=counts.cache_read or 0,
                cache_write=counts.cache_write or 0,
                usd=self._added_usd(end),
            )
        if end.cost_usd is None and not used.usd:
            # A total that is missing: only where nothing was used did that cost nothing.
            nothing = used.tokens_in == 0 and used.tokens_out == 0
            used = replace(used, usd=0.0 if nothing else None)
        known = used.known and all(use.priced for use in end.session)
        self.spent = self.spent.plus(replace(used, known=known))
        if end.cost_usd is not None:
            self._usd = end.cost_usd
        if end.session:
            self._models = {use.model: use for use in end.session}

    def _added(self, end: stream_json.RunEnd) -> tuple[stream_json.ModelUse, ...]:
        """What a result adds to the session's use of each model."""
        if self._models is None or end.since is not None:
            return ()
        return tuple(_grown(self._models.get(use.model), use) for use in end.session)

    def _added_usd(self, end: stream_json.RunEnd) -> float | None:
        if end.cost_usd is None or self._usd is None:
            return None
        return end.cost_usd - (self._usd if self._usd <= end.cost_usd else 0.0)


def _grown(
    before: stream_json.ModelUse | None, now: stream_json.ModelUse
) -> stream_json.ModelUse:
    if before is None or _fell(before.tokens_in, now.tokens_in):
        return now
    cost = now.cost_usd
    if cost is not None and before.cost_usd is not None:
        cost = max(cost - before.cost_usd, 0.0)
    return replace(
        now,
        cost_usd=cost,
        tokens_in=_more(before.tokens_in, now.tokens_in),
        tokens_out=_more(before.tokens_out, now.tokens_out),
        cache_read=max(now.cache_read - before.cache_read, 0),
        cache_write=max(now.cache_write - before.cache_write, 0),
    )


def _fell(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and now < before


def _more(before: int | None, now: int | None) -> int | None:
    return None if before is None or now is None else max(now - before, 0)


def _together(uses: tuple[stream_json.ModelUse, ...]) -> ClaudeUsage:
    return ClaudeUsage(
        tokens_in=reduce(_sum, (use.tokens_in for use in uses)),
        tokens_out=reduce(_sum, (use.tokens_out for use in uses)),
        cache_read=sum(use.cache_read for use in uses),
        cache_write=sum(use.cache_write for use in uses),
        usd=summed(use.cost_usd for use in uses),
        known=all(use.priced for use in uses),
    )


class ClaudeTry:
    """One run of the program, as its stream tells it."""

    def __init__(
        self, run: Run, emit: Emit, watch: Watchdog, *, resumed: bool = False
    ) -> None:
        limits = run.assign.limits
        self._emit = emit
        self._watch = watch
        self._idle_s = limits.idle_timeout_s
        self._stream = stream_json.StreamJson()
        # Ids of the tools that run now: while there are any, silence is no fault.
        self._open: set[str] = set()
        # Ids of the background work that goes on: while there is any, silence is no
        # fault, and a result is not the end.
        self._background: set[str] = set()
        self.errors = ShownStream(emit, "stderr", limits.output_limit_bytes // 4)
        self.stderr = self.errors.kept
        self.text = HeadTail(limits.output_limit_bytes)
        self.start: stream_json.Begun | None = None
        # The result that is the run's outcome so far: the last, unless that is an error
        # after a good one with no work between.
        self.end: stream_json.RunEnd | None = None
        # What the good results said, one after the other, for the run's output.
        self.answer = HeadTail(limits.output_limit_bytes)
        self.used_tools = False
        # The text streamed since the last result.
        self._turn_text = HeadTail(limits.output_limit_bytes)
        # Whether a turn has begun since the last result, whether the model has said
        # anything in it.
        self._turn_open = False
        self.in_turn = False
        self.error: str | None = None  # Claude Code's name of the last API error
        self._informed = ""  # a notice about the model, in the stream
        self.denials: list[str] = []  # names of tools that were not allowed
        self.resets_at: float | None = None  # epoch seconds, of a limit that was hit
        # One of them is set: a result is here and nothing goes on, or something does.
        self.over = asyncio.Event()
        self.going_on = asyncio.Event()
        self.going_on.set()
        self._meter = Meter(run.previous_cost_usd, resumed=resumed)
        # Tokens as the stream counts them, for a turn that ends without a result: of the
        # messages that are over, and of the one under way, with its characters so far;
        # and what of them the results have counted.
        self._counted = ClaudeUsage()
        self._streamed = ClaudeUsage()
        self._message = ClaudeUsage()
        self._characters = 0
        # Of the messages since the last result: how many there were, whether one did not
        # say what it read or wrote, and whether the one under way has said it.
        self._messages = 0
        self._untold_in = self._untold_out = False
        self._told_out = True

    def stdout(self, data: bytes) -> None:
        """Take what the program prints."""
        self._watch.heard()
        for event in self._stream.feed(data):
            self._take(event)

    def close(self) -> None:
        """The last line, where it had no end."""
        for event in self._stream.close():
            self._take(event)
        self.errors.close()

    def _take(self, event: stream_json.Event) -> None:
        match event:
            case stream_json.Delta():
                self._delta(event)
            case stream_json.MessageUsage():
                self._count(event)
            case stream_json.WholeMessage():
                if not event.inner:
                    self._turn_goes_on()
                    self.in_turn = True
                self.error = event.error or self.error
                self.used_tools = self.used_tools or bool(event.calls)
                for call in event.calls:
                    self._open.add(call.id)
                    self._show_call(call)
                self._watch_silence()
            case stream_json.ToolResult():
                self._open.discard(event.id)
                text = cut(event.text, _SHOWN_OF_A_RESULT)
                self._show_tool(
                    f"{'error: ' if event.is_error else ''}{text}",
                    c.ToolUse(id=event.id, is_error=event.is_error),
                )
                self._watch_silence()
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
            case stream_json.Informed():
                notice = notice_in(event.text)
                if notice and not self._informed:
                    self._informed = notice
                    self._emit.status(f"Claude Code says: {notice}")
            case stream_json.Begun():
                self.start = event
                self._turn_goes_on()
            case stream_json.Requesting():
                self._turn_goes_on()
            case stream_json.BackgroundTasks():
                self._take_background(event)
            case stream_json.RunEnd():
                self._take_result(event)
            case Broken():
                pass

    def _take_background(self, event: stream_json.BackgroundTasks) -> None:
        match event.change:
            case "all":
                self._background = set(event.ids)
            case "opened":
                self._background.update(event.ids)
            case "closed":
                self._background.difference_update(event.ids)
        self._look_for_the_end()

    def _take_result(self, event: stream_json.RunEnd) -> None:
        before, worked = self.end, self.in_turn
        self._meter.take(event)
        self._counted = self.streamed()
        self._messages = 0
        self._untold_in = self._untold_out = False
        self._told_out = True
        if not (
            before is not None and before.is_good and event.is_error and not worked
        ):
            denials = (*(before.denials if before is not None else ()), *event.denials)
            self.end = replace(event, denials=denials)
        if event.is_good:
            text = event.text or self._turn_text.text()
            text = f"\n\n{text}" if text and self.answer.size else text
            self.answer.feed(text.encode("utf-8", "replace"))
        self._turn_text = HeadTail(self._turn_text.limit)
        self._open.clear()
        self.in_turn = self._turn_open = False
        self._look_for_the_end()

    def _turn_goes_on(self) -> None:
        if not self._turn_open:
            self._turn_open = True
            self._look_for_the_end()

    def _look_for_the_end(self) -> None:
        """A result is the end where no turn and no background work goes on after it."""
        over = self.end is not None and not self._turn_open and not self._background
        (self.over if over else self.going_on).set()
        (self.going_on if over else self.over).clear()
        self._watch_silence()

    @property
    def is_unfinished(self) -> bool:
        """Whether work went on after the last result, or none came."""
        return self.end is None or self.in_turn or bool(self._background)

    @property
    def notice(self) -> str:
        """What it said of its model's end, "" where it said nothing of it."""
        return self._informed or notice_in(self.stderr.text())

    @property
    def background(self) -> int:
        """How many pieces of background work are open."""
        return len(self._background)

    def _delta(self, event: stream_json.Delta) -> None:
        if not event.inner:
            self._turn_goes_on()
            self.in_turn = True
        self._characters += len(event.text)
        if event.inner:
            self._emit.text("tool", event.text)
        elif event.kind == "thinking":
            self._emit.text("thinking", event.text, tokens_so_far=self._so_far())
        else:
            data = event.text.encode("utf-8", "replace")
            self.text.feed(data)
            self._turn_text.feed(data)
            self._emit.text("token", event.text, tokens_so_far=self._so_far())

    def _so_far(self) -> int:
        """Tokens written; of the message under way an estimate, until it is over."""
        here = max(self._message.tokens_out or 0, self._characters // 4)
        return (self._streamed.tokens_out or 0) + here

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
            self._messages += 1
            self._untold_in = self._untold_in or usage.tokens_in is None
            self._untold_out = self._untold_out or not self._told_out
            self._told_out = usage.tokens_out is not None
        elif usage.tokens_out is not None:
            self._told_out = True
            written = max(usage.tokens_out, self._message.tokens_out or 0)
            self._message = replace(self._message, tokens_out=written)

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

    def _show_call(self, call: stream_json.ToolCall) -> None:
        arguments = msgspec.json.encode(call.input).decode()
        text = cut(f"{call.name} {arguments}", _SHOWN_OF_A_CALL)
        shown = shown_input(call.input)
        self._show_tool(text, c.ToolUse(id=call.id, name=call.name, input=shown))

    def _show_tool(self, text: str, tool: c.ToolUse) -> None:
        self._emit.text("tool", text.rstrip("\n") + "\n", tool=tool)

    def _watch_silence(self) -> None:
        """Tools and background work may be silent long; the time in all bounds them."""
        waits = self._open or self._background or self.over.is_set()
        self._watch.allow(None if waits else self._idle_s)

    @property
    def session_usd(self) -> float | None:
        """What the session has cost since it began, as last said."""
        return self._meter.session_usd

    def spent(self) -> ClaudeUsage:
        """What this run of the program has used, a turn without a result included.

        Of such a turn the stream tells the tokens, and nobody the dollars.
        """
        left = _less(self.streamed(), self._counted)
        # A model that speaks was asked something, whether or not it said what that took.
        silent = self.in_turn and not self._messages
        if silent or self._untold_in:
            left = replace(left, tokens_in=None)
        if silent or self._untold_out or not self._told_out:
            left = replace(left, tokens_out=None)
        nothing = left.tokens_in == 0 and left.tokens_out == 0 and not left.cache_read
        return self._meter.spent.plus(replace(left, usd=0.0 if nothing else None))


def shown_input(arguments: dict[str, Any]) -> dict[str, Any]:
    """What is shown of a call's input: all of it, or with its long texts cut."""
    for limit in (_INPUT_BYTES, 65_536, 8_192, 512, 64):
        cut_down = _within(arguments, limit, 6)
        assert isinstance(cut_down, dict)
        if len(msgspec.json.encode(cut_down)) <= _INPUT_BYTES:
            return cut_down
    return {}


def _within(value: Any, limit: int, depth: int) -> Any:
    """A JSON value without what is too long, too many or too deep in it."""
    if isinstance(value, str):
        return cut(value, limit)
    if depth == 0 and isinstance(value, dict | list):
        return "…"
    if isinstance(value, dict):
        some = list(value.items())[:200]
        return {cut(key, 200): _within(each, limit, depth - 1) for key, each in some}
    if isinstance(value, list):
        return [_within(each, limit, depth - 1) for each in value[:500]]
    return value


def _less(one: ClaudeUsage, other: ClaudeUsage) -> ClaudeUsage:
    return ClaudeUsage(
        tokens_in=(one.tokens_in or 0) - (other.tokens_in or 0),
        tokens_out=(one.tokens_out or 0) - (other.tokens_out or 0),
        cache_read=one.cache_read - other.cache_read,
        cache_write=one.cache_write - other.cache_write,
    )
