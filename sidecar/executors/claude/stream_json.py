"""Claude Code's `--output-format stream-json`, line by line, as typed events.

Pure: bytes in, events out. Types that nobody knows are passed over, a line that is no JSON
is `Broken`; neither ends the stream. Text comes twice, in deltas and in
the whole message; `WholeMessage` holds the whole message and is only needed for what deltas do not
carry: tool calls, an error's name.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from sidecar.executors.ndjson import Broken, Ndjson
from sidecar.output import charged, counted

LINE_LIMIT = 64 * 2**20
"""A line holds whole tool results."""


class Begun(Struct, frozen=True):
    """`system/init`: the session, the model, the program's version."""

    session_id: str
    model: str
    version: str


class Delta(Struct, frozen=True):
    """A piece of text or thinking; `inner` where a subagent speaks."""

    kind: Literal["text", "thinking"]
    text: str
    inner: bool = False


class MessageUsage(Struct, frozen=True, kw_only=True):
    """Tokens of one API message so far; None where this event does not say.

    `start` marks the first figures of a new message: what was read is final, what was
    written is not.
    """

    start: bool
    tokens_in: int | None = None
    cache_write: int | None = None
    cache_read: int | None = None
    tokens_out: int | None = None


class ToolCall(Struct, frozen=True):
    """A tool that the model asked for."""

    id: str
    name: str
    input: dict[str, Any]


class WholeMessage(Struct, frozen=True):
    """A whole message of the model. `error` names what an API error was."""

    calls: tuple[ToolCall, ...] = ()
    error: str | None = None
    inner: bool = False


class ToolResult(Struct, frozen=True):
    """What a tool answered."""

    id: str
    text: str
    is_error: bool


class ApiRetry(Struct, frozen=True):
    """Claude Code tries a call again by itself."""

    attempt: int
    of: int
    status: int | None
    error: str


class ToolDenied(Struct, frozen=True):
    """A tool was not allowed."""

    tool: str
    message: str


class RateLimit(Struct, frozen=True):
    """The account's limit: `allowed`, `allowed_warning` or `rejected`, until when."""

    status: str
    resets_at: float | None
    kind: str


class BackgroundTasks(Struct, frozen=True):
    """Background work: `all` that is open now, or what was `opened` or `closed`."""

    change: Literal["all", "opened", "closed"]
    ids: tuple[str, ...]


class Informed(Struct, frozen=True):
    """The program says something to people."""

    text: str


class Requesting(Struct, frozen=True):
    """The model is being asked."""


class ModelUse(Struct, frozen=True, kw_only=True):
    """What one model cost. `priced` is False where Claude Code invented the price.

    `cost_usd` is None where no cost was given, as are the tokens where no count was.
    """

    model: str
    cost_usd: float | None
    tokens_in: int | None
    tokens_out: int | None
    cache_read: int
    cache_write: int
    priced: bool


class RunEnd(Struct, frozen=True, kw_only=True):
    """`result`: the end of a turn, whatever it was; a run may have several.

    `session` is over the whole session, as is `cost_usd`; `since` is what was used since
    the last result (None where the program does not say); `usage` is the program's own
    summary of this turn, which leaves out what was cut short.
    """

    subtype: str
    is_error: bool
    text: str | None
    errors: tuple[str, ...]
    status: int | None
    terminal_reason: str
    stop_reason: str
    turns: int | None
    cost_usd: float | None
    session: tuple[ModelUse, ...]
    since: tuple[ModelUse, ...] | None
    usage: MessageUsage
    denials: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether it says that all went well."""
        return not self.is_error and self.subtype == "success"


Event = (
    Begun
    | Delta
    | MessageUsage
    | WholeMessage
    | ToolResult
    | ApiRetry
    | ToolDenied
    | RateLimit
    | BackgroundTasks
    | Informed
    | Requesting
    | RunEnd
    | Broken
)


class StreamJson:
    """Events from bytes."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._lines: Ndjson[dict[str, Any]] = Ndjson(dict[str, Any], limit)

    def feed(self, data: bytes) -> list[Event]:
        """The events whose lines end in `data`."""
        return [event for line in self._lines.feed(data) for event in read(line)]

    def close(self) -> list[Event]:
        """The last event, where its line had no end."""
        return [event for line in self._lines.close() for event in read(line)]


def read(line: dict[str, Any] | Broken) -> list[Event]:
    """The events of one line. Any JSON object is understood, or passed over."""
    if isinstance(line, Broken):
        return [line]
    event: Event | None
    match _text(line.get("type")):
        case "stream_event":
            event = _streamed(line)
        case "assistant":
            event = _said(line)
        case "user":
            return list(_tool_results(line))
        case "system":
            event = _system(line)
        case "rate_limit_event":
            event = _rate_limit(_object(line.get("rate_limit_info")))
        case "result":
            event = _ended(line)
        case _:
            event = None
    return [] if event is None else [event]


def _streamed(line: dict[str, Any]) -> Event | None:
    event = _object(line.get("event"))
    inner = line.get("parent_tool_use_id") is not None
    match _text(event.get("type")):
        case "content_block_delta":
            delta = _object(event.get("delta"))
            match delta.get("type"):
                case "text_delta":
                    return Delta("text", _text(delta.get("text")), inner)
                case "thinking_delta":
                    return Delta("thinking", _text(delta.get("thinking")), inner)
                case _:
                    return None
        case "message_start":
            message = _object(event.get("message"))
            return _usage(_object(message.get("usage")), start=True)
        case "message_delta":
            return _usage(_object(event.get("usage")), start=False)
        case _:
            return None


def _usage(usage: dict[str, Any], *, start: bool) -> MessageUsage:
    return MessageUsage(
        start=start,
        tokens_in=_read(
            usage,
            "input_tokens",
            "cache_creation_input_tokens",
            "cache_read_input_tokens",
        ),
        cache_write=_count(usage.get("cache_creation_input_tokens")),
        cache_read=_count(usage.get("cache_read_input_tokens")),
        tokens_out=_count(usage.get("output_tokens")),
    )


def _said(line: dict[str, Any]) -> WholeMessage:
    calls = tuple(
        ToolCall(
            _text(each.get("id")), _text(each.get("name")), _object(each.get("input"))
        )
        for each in _blocks(line)
        if each.get("type") == "tool_use"
    )
    error = line.get("error")
    inner = line.get("parent_tool_use_id") is not None
    return WholeMessage(calls, error if isinstance(error, str) else None, inner)


def _tool_results(line: dict[str, Any]) -> list[ToolResult]:
    return [
        ToolResult(
            _text(each.get("tool_use_id")),
            _joined(each.get("content")),
            each.get("is_error") is True,
        )
        for each in _blocks(line)
        if each.get("type") == "tool_result"
    ]


def _system(line: dict[str, Any]) -> Event | None:
    kind = _text(line.get("subtype"))
    match kind:
        case "init":
            return Begun(
                _text(line.get("session_id")),
                _text(line.get("model")),
                _text(line.get("claude_code_version")),
            )
        case "api_retry":
            return ApiRetry(
                _count(line.get("attempt")) or 0,
                _count(line.get("max_retries")) or 0,
                _count(line.get("error_status")),
                _text(line.get("error")),
            )
        case "permission_denied":
            return ToolDenied(_text(line.get("tool_name")), _text(line.get("message")))
        case "informational":
            return Informed(_text(line.get("content")))
        case "status" if line.get("status") == "requesting":
            return Requesting()
        case "background_tasks_changed" if isinstance(line.get("tasks"), list):
            tasks = [_object(each) for each in line["tasks"]]
            open_now = [each for each in tasks if each.get("ambient") is not True]
            ids = tuple(_text(each.get("task_id")) for each in open_now)
            return BackgroundTasks("all", ids)
        case "task_started" | "task_updated" | "task_notification":
            return _background(line, kind)
        case _:
            return None


_TASK_OVER = ("completed", "failed", "killed", "stopped")


def _background(line: dict[str, Any], kind: str) -> BackgroundTasks | None:
    """A task that goes on in the background, or that has ended."""
    ids = (_text(line.get("task_id")),)
    fields = _object(line.get("patch")) if kind == "task_updated" else line
    if kind == "task_notification" or fields.get("status") in _TASK_OVER:
        return BackgroundTasks("closed", ids)
    # One in the foreground has an open tool call; an ambient one is never waited for.
    if fields.get("is_backgrounded") is True and line.get("ambient") is not True:
        return BackgroundTasks("opened", ids)
    return None


def _rate_limit(info: dict[str, Any]) -> RateLimit:
    return RateLimit(
        _text(info.get("status")),
        _number(info.get("resetsAt")),
        _text(info.get("rateLimitType")),
    )


def _ended(line: dict[str, Any]) -> RunEnd:
    since = line.get("model_usage_since_last_result")
    result = line.get("result")
    denials = line.get("permission_denials")
    errors = line.get("errors")
    return RunEnd(
        subtype=_text(line.get("subtype")),
        is_error=line.get("is_error") is not False,
        text=result if isinstance(result, str) else None,
        errors=tuple(map(_text, errors)) if isinstance(errors, list) else (),
        status=_count(line.get("api_error_status")),
        terminal_reason=_text(line.get("terminal_reason")),
        stop_reason=_text(line.get("stop_reason")),
        turns=_count(line.get("num_turns")),
        cost_usd=charged(_number(line.get("total_cost_usd"))),
        session=_models(_object(line.get("modelUsage"))),
        since=_models(since) if isinstance(since, dict) else None,
        usage=_usage(_object(line.get("usage")), start=False),
        denials=tuple(
            _text(_object(each).get("tool_name"))
            for each in (denials if isinstance(denials, list) else ())
        ),
    )


def _models(usage: dict[str, Any]) -> tuple[ModelUse, ...]:
    return tuple(
        ModelUse(
            model=model,
            cost_usd=charged(_number(use.get("costUSD"))),
            tokens_in=_read(
                use, "inputTokens", "cacheReadInputTokens", "cacheCreationInputTokens"
            ),
            tokens_out=_count(use.get("outputTokens")),
            cache_read=_count(use.get("cacheReadInputTokens")) or 0,
            cache_write=_count(use.get("cacheCreationInputTokens")) or 0,
            priced=use.get("costBasis", "list") != "unknown",
        )
        for model, use in ((name, _object(each)) for name, each in usage.items())
    )


# -- Values of any shape, as what they should be ---------------------------------------


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _count(value: Any) -> int | None:
    return (
        None
        if isinstance(value, bool) or not isinstance(value, int)
        else counted(value)
    )


def _read(said: dict[str, Any], name: str, *cached: str) -> int | None:
    """The tokens that were read; unknown, too, where those of the cache are no count."""
    broken = any(
        said.get(each) is not None and _count(said[each]) is None for each in cached
    )
    return None if broken else _count(said.get(name))


def _blocks(line: dict[str, Any]) -> list[dict[str, Any]]:
    content = _object(line.get("message")).get("content")
    if not isinstance(content, list):
        return []
    return [each for each in content if isinstance(each, dict)]


def _joined(content: Any) -> str:
    """A tool result's text: given as it is, or in blocks."""
    if isinstance(content, list):
        return "".join(_text(_object(each).get("text")) for each in content)
    return _text(content)
