"""OpenAI's chat interface, as far as bytes go: requests read, answers encoded. Pure.

What would change the answer and cannot be honoured is refused. What is for somebody
else's bookkeeping (`user`, `chat_id`, ...) is passed over, and named in the answer's
header `x-agentcom-ignored`.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec import Struct

from events import catalogue as c
from events.attachments import LIMIT_BYTES, PICTURES, digest_of
from events.errors import Malformed, shown
from events.spans import span_s
from events.traceparent import HEADER as TRACEPARENT
from events.traceparent import TraceParent
from projections.queue import PRIORITIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from events.commands import Refusal

TIERS: Final = ("auto", "standard", "complex")
"""Names of models that are none: where a chat goes is decided by its words, or is said."""
BODY_BYTES: Final = 2_500_000
"""A chat's messages take 360 kB at most, its pictures 1 MiB, which is more in base64."""
PATIENCE_S: Final = 120.0
"""How long a chat waits to be begun where its client does not say."""
TITLE_LENGTH: Final = 300
"""Characters of a chat's last question that it is listed by."""
MOST_PATIENCE_S: Final = 3_600.0

_NOTHING: Final[tuple[Any, ...]] = (None, "", [], {})
_SERVICE: Final[dict[str, c.Priority]] = {"flex": "low", "priority": "high"}
_WISHES: Final = frozenset(c.ChatWishes.__struct_fields__)
_READ: Final = _WISHES | {
    *("model", "messages", "stream", "stream_options", "temperature", "max_tokens"),
    *("max_completion_tokens", "response_format", "n", "service_tier", "metadata"),
    *("user", "logprobs", "modalities", "store"),
}
_CHANGES: Final = {
    "audio": "AgentCom passes text on, and no sound",
    "function_call": "it is the older name of tool_choice",
    "functions": "it is the older name of tools",
    "logit_bias": "not every model server takes it",
    "prediction": "no model server here takes it",
    "top_logprobs": "AgentCom hands no probabilities on",
    "web_search_options": "no model server here searches the web",
}
"""What would change an answer and nobody here honours, and why."""


class ChatRequest(Struct, kw_only=True):
    """A request as it was read: the task's fields, its pictures by digest, and how the
    client wants its answer."""

    model: str
    stream: bool
    include_usage: bool
    patience_s: float
    task: dict[str, Any]
    pictures: dict[str, bytes] = {}
    ignored: list[str] = []


class _GivenUrl(Struct):
    url: str


class _GivenText(Struct, tag_field="type", tag="text"):
    text: str


class _GivenPicture(Struct, tag_field="type", tag="image_url"):
    image_url: _GivenUrl | str


class _GivenRefusal(Struct, tag_field="type", tag="refusal"):
    refusal: str


class _GivenFunction(Struct):
    name: str
    arguments: str | dict[str, Any] | None = None


class _GivenCall(Struct):
    function: _GivenFunction
    id: str = ""
    type: Literal["function"] = "function"


class _GivenMessage(Struct):
    """A message as clients send it: with more fields than count here."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_GivenText | _GivenPicture | _GivenRefusal] | None = None
    name: str | None = None
    tool_calls: list[_GivenCall] | None = None
    tool_call_id: str | None = None


class _GivenOptions(Struct):
    include_usage: bool | None = None


class _GivenSchema(Struct):
    schema: dict[str, Any] | None = None


class _GivenFormat(Struct):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: _GivenSchema | None = None


class _GivenChat(Struct):
    model: str
    messages: list[_GivenMessage]
    stream: bool | None = None
    stream_options: _GivenOptions | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    response_format: _GivenFormat | None = None
    n: int | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    service_tier: str | None = None
    metadata: dict[str, Any] | None = None
    user: Any = None
    stop: str | list[str] | None = None


def read_object(raw: bytes) -> dict[str, Any]:
    """Read a request's body, whatever its parameters; raises Malformed."""
    try:
        given = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise Malformed("", "a body of JSON", str(wrong)[:200]) from wrong
    if not isinstance(given, dict):
        raise Malformed("", "an object", shown(given))
    return given


def read_chat(raw: bytes, headers: Mapping[str, str]) -> ChatRequest:
    """Read a request; raises Malformed with the name of the parameter."""
    given = read_object(raw)
    body = _body(given)
    _refuse_unhonoured(body, given)
    pictures: dict[str, tuple[str, bytes]] = {}
    task: dict[str, Any] = {
        "description": _title(body.messages),
        "messages": [
            _message(message, f"messages[{n}]", pictures)
            for n, message in enumerate(body.messages)
        ],
        "priority": priority_of(body.service_tier, headers),
        "labels": labels_of(headers),
        "metadata": metadata_of(body.metadata, body.user),
        "attachments": [
            {
                "name": f"picture-{n}",
                "digest": digest,
                "size_bytes": len(data),
                "media_type": kind,
            }
            for n, (digest, (kind, data)) in enumerate(pictures.items(), 1)
        ],
        "temperature": body.temperature,
        "max_tokens": body.max_completion_tokens or body.max_tokens,
        "json_schema": _schema(body.response_format),
        "chat": _wishes(body, given),
        "traceparent": traceparent_of(headers),
        **_tier(body.model),
    }
    known = _READ | _CHANGES.keys()
    return ChatRequest(
        model=body.model,
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        patience_s=patience_of(headers),
        task=without_nothing(task),
        pictures={digest: data for digest, (_, data) in pictures.items()},
        ignored=sorted(str(name)[:60] for name in given.keys() - known),
    )


def traceparent_of(headers: Mapping[str, str]) -> str:
    """Return the caller's span; by the standard one that cannot be read is none."""
    said = headers.get(TRACEPARENT, "")
    return said if TraceParent.read(said) else ""


def _body(given: dict[str, Any]) -> _GivenChat:
    try:
        return msgspec.convert(given, _GivenChat)
    except (msgspec.ValidationError, RecursionError) as wrong:
        problem, _, place = str(wrong).rpartition(" - at `$.")
        if not problem:
            problem, place = str(wrong), ""
        raise Malformed(
            place.rstrip("`"), "a chat request", _plainly(problem)
        ) from wrong


def _plainly(sentence: str) -> str:
    """Say msgspec's sentence as what came."""
    return (sentence[:1].lower() + sentence[1:]).replace("`", "'")[:300]


def _refuse_unhonoured(body: _GivenChat, given: dict[str, Any]) -> None:
    if not body.messages:
        raise Malformed("messages", "one message or more", "none")
    if not body.model:
        raise Malformed("model", f"{', '.join(TIERS)} or a model's name", "none")
    if body.n not in (None, 1):
        raise Malformed("n", "1: a task has one answer", str(body.n))
    if body.logprobs:
        raise Malformed("logprobs", "false: no probabilities are handed on", "true")
    if body.modalities not in (None, [], ["text"]):
        raise Malformed("modalities", "text alone", ", ".join(body.modalities or ()))
    for name, why in _CHANGES.items():
        if given.get(name):
            raise Malformed(name, f"none, because {why}", "one")


def _title(messages: list[_GivenMessage]) -> str:
    """Call a chat by the beginning of what its user said last."""
    for message in reversed(messages):
        content = message.content or ""
        if isinstance(content, list):
            content = " ".join(p.text for p in content if isinstance(p, _GivenText))
        words = content.replace("\0", " ").split()
        if message.role == "user" and words:
            return " ".join(words)[:TITLE_LENGTH]
    return "chat"


def _message(
    message: _GivenMessage, place: str, pictures: dict[str, tuple[str, bytes]]
) -> dict[str, Any]:
    content: Any = message.content or ""
    if isinstance(content, list):
        content = [
            _part(part, f"{place}.content[{n}]", pictures)
            for n, part in enumerate(content)
        ]
        if all(part["type"] == "text" for part in content):
            content = "\n".join(part["text"] for part in content)
    told: dict[str, Any] = {"role": message.role, "content": content}
    if message.name:
        told["name"] = message.name
    if message.tool_calls:
        told["tool_calls"] = [_call(each) for each in message.tool_calls]
    if message.tool_call_id:
        told["tool_call_id"] = message.tool_call_id
    return told


def _call(call: _GivenCall) -> dict[str, Any]:
    arguments = call.function.arguments
    if not isinstance(arguments, str):
        arguments = msgspec.json.encode(arguments or {}).decode()
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }


def _part(
    part: _GivenText | _GivenPicture | _GivenRefusal,
    place: str,
    pictures: dict[str, tuple[str, bytes]],
) -> dict[str, Any]:
    if isinstance(part, _GivenText):
        return {"type": "text", "text": part.text}
    if isinstance(part, _GivenRefusal):
        return {"type": "text", "text": part.refusal}
    url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
    kind, data = _picture(url, f"{place}.image_url.url")
    digest = digest_of(data)
    pictures[digest] = (kind, data)
    if sum(len(each) for _, each in pictures.values()) > LIMIT_BYTES:
        raise Malformed(
            place, f"pictures of at most {LIMIT_BYTES:,} bytes in all", "more"
        )
    return {"type": "picture", "digest": digest}


def _picture(url: str, place: str) -> tuple[str, bytes]:
    """Read a picture that is inside its URL: nothing is fetched for a stranger."""
    head, comma, data = url.partition(",")
    kind = head.removeprefix("data:").removesuffix(";base64")
    if not comma or head != f"data:{kind};base64":
        raise Malformed(
            place,
            "the picture itself, data:image/png;base64,... (nothing is fetched)",
            url[:60],
        )
    if kind not in PICTURES:
        raise Malformed(place, f"one of {', '.join(PICTURES)}", kind[:60])
    try:
        return kind, base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as wrong:
        raise Malformed(place, "base64", str(wrong)[:80]) from wrong


def _schema(wish: _GivenFormat | None) -> dict[str, Any] | None:
    if wish is None or wish.type == "text":
        return None
    if wish.type == "json_object":
        return {"type": "object"}
    schema = wish.json_schema.schema if wish.json_schema is not None else None
    if schema is None:
        raise Malformed("response_format.json_schema.schema", "a schema", "none")
    return schema


def _wishes(body: _GivenChat, given: dict[str, Any]) -> dict[str, Any] | None:
    wishes = {name: given[name] for name in _WISHES if given.get(name) is not None}
    if "stop" in wishes:
        wishes["stop"] = [body.stop] if isinstance(body.stop, str) else body.stop
    if not wishes.get("tools"):
        # Clients say how tools are called also where they have none.
        for name in ("tools", "parallel_tool_calls"):
            wishes.pop(name, None)
        if wishes.get("tool_choice") in ("auto", "none"):
            del wishes["tool_choice"]
    return {name: value for name, value in wishes.items() if value != []} or None


def _tier(model: str) -> dict[str, Any]:
    if model == "auto":
        return {}
    if model in ("standard", "complex"):
        return {"tier": model}
    if model.startswith("claude-"):
        return {"tier": "complex", "model": model}
    return {"tier": "standard", "model": model}


def priority_of(service_tier: str | None, headers: Mapping[str, str]) -> str:
    """Read how urgent a request is; raises Malformed."""
    word = headers.get("x-agentcom-priority", "").strip().lower()
    if not word:
        return _SERVICE.get(service_tier or "", "normal")
    if word not in PRIORITIES:
        raise Malformed("x-agentcom-priority", ", ".join(PRIORITIES), word[:40])
    return word


def metadata_of(metadata: dict[str, Any] | None, user: Any) -> dict[str, Any]:
    """Return what is noted with the task: what the client gave, and its user."""
    return {**(metadata or {}), **({} if user is None else {"user": user})}


def without_nothing(task: dict[str, Any]) -> dict[str, Any]:
    """Return a task's fields without those of which nothing was said."""
    return {name: value for name, value in task.items() if value not in _NOTHING}


def labels_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Read the labels that a client gives its chats."""
    labels = {}
    text = headers.get("x-agentcom-labels", "")
    for each in text.split(",") if text.strip() else ():
        key, equals, value = each.strip().partition("=")
        if not equals:
            raise Malformed("x-agentcom-labels", "key=value, key=value", each[:80])
        labels[key.strip()] = value.strip()
    return labels


def patience_of(headers: Mapping[str, str]) -> float:
    """Read how long a client waits for a begin; raises Malformed."""
    word = headers.get("x-agentcom-patience", "").strip().lower()
    if not word:
        return PATIENCE_S
    seconds = span_s(word, "x-agentcom-patience")
    if seconds > MOST_PATIENCE_S:
        raise Malformed("x-agentcom-patience", "1h at most", shown(word))
    return seconds


# -- answers ---------------------------------------------------------------------------


def usage_of(result: c.Result) -> dict[str, Any] | None:
    """Count a run's tokens, those from a cache as part of the prompt's; None where its
    server did not."""
    if result.tokens_in is None or result.tokens_out is None:
        return None
    prompt = result.tokens_in + result.cache_read_tokens + result.cache_write_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": result.tokens_out,
        "total_tokens": prompt + result.tokens_out,
        "prompt_tokens_details": {"cached_tokens": result.cache_read_tokens},
    }


def finish_reason(result: c.Result) -> str:
    """Say why an answer ended, in OpenAI's words."""
    if result.length_limited:
        return "length"
    return "tool_calls" if result.tool_calls else "stop"


class ChatEncoder:
    """One chat's answer, as chunks or as a whole."""

    def __init__(self, task_id: str, created: int, *, include_usage: bool) -> None:
        self._head = {"id": f"chatcmpl-{task_id}", "created": created}
        self._include_usage = include_usage
        self._began = False
        self.model = ""

    def delta(self, **delta: Any) -> bytes:
        """Encode a piece of the answer; the first one says who speaks."""
        if not self._began:
            self._began = True
            delta = {"role": "assistant", **delta}
        return self._choice(delta, None)

    def end(self, result: c.Result, where: dict[str, Any]) -> bytes:
        """Encode the end: the reason, the counts where they are wanted, and the mark.

        `where` is `where_of` the run, which no header can say of a stream.
        """
        delta = {} if self._began else {"role": "assistant", "content": ""}
        lines = self._choice(delta, finish_reason(result), agentcom=where)
        usage = usage_of(result)
        if self._include_usage and usage is not None:
            lines += self._event({"choices": [], "usage": usage})
        return lines + b"data: [DONE]\n\n"

    def _choice(self, delta: dict[str, Any], reason: str | None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return self._event({"choices": [choice], **more})

    def _event(self, more: dict[str, Any]) -> bytes:
        chunk = {
            **self._head,
            "object": "chat.completion.chunk",
            "model": self.model,
            **more,
        }
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"

    def whole(self, result: c.Result, where: dict[str, Any]) -> bytes:
        """Encode the whole answer; `where` is `where_of` the run."""
        message: dict[str, Any] = {"role": "assistant", "content": result.output}
        if result.tool_calls:
            message["content"] = result.output or None
            message["tool_calls"] = result.tool_calls
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": finish_reason(result),
            "logprobs": None,
        }
        answer: dict[str, Any] = {
            **self._head,
            "object": "chat.completion",
            "model": self.model,
            "choices": [choice],
            "agentcom": where,
        }
        if (usage := usage_of(result)) is not None:
            answer["usage"] = usage
        return msgspec.json.encode(answer)


def where_of(
    task_id: str, route: c.TaskRouted | None, result: c.Result
) -> dict[str, Any]:
    """Say where a chat ran and what it cost, under the names of everywhere."""
    said: dict[str, Any] = {"task_id": task_id}
    if route is not None:
        said |= {
            "tier": route.effective_tier,
            "endpoint": route.selected_endpoint or route.selected_host,
            "fallback_from_tier": route.fallback_from_tier,
        }
    return said | {
        "estimated_cost_usd": result.estimated_cost_usd,
        "cost_basis": result.cost_basis,
    }


def headers_of(
    task_id: str,
    route: c.TaskRouted | None,
    result: c.Result | None,
    ignored: list[str],
) -> dict[str, str]:
    """Say in headers where a chat ran, and what it cost once that is known."""
    fields = {"x-agentcom-task": task_id} if task_id else {}
    if route is not None:
        fields |= {
            "x-agentcom-tier": route.effective_tier,
            "x-agentcom-endpoint": route.selected_endpoint or route.selected_host,
        }
        if route.fallback_from_tier:
            fields["x-agentcom-fallback"] = route.fallback_from_tier
    if result is not None:
        usd = result.estimated_cost_usd
        fields["x-agentcom-cost"] = "unknown" if usd is None else f"{usd:.6f}"
    if ignored:
        named = ", ".join(ignored)
        fields["x-agentcom-ignored"] = "".join(
            char if char.isascii() and char.isprintable() else "?" for char in named
        )[:500]
    return fields


_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
}


def error_of(refusal: Refusal) -> dict[str, Any]:
    """Encode a refusal as OpenAI's error object."""
    message, param = refusal.error, refusal.path.removeprefix("chat.")
    if refusal.path != param:
        message = message.replace(refusal.path, param, 1)
    return {
        "error": {
            "message": message,
            "type": _TYPES.get(refusal.status, "api_error"),
            "param": param or None,
            "code": refusal.code,
        }
    }


def error_event(refusal: Refusal) -> bytes:
    """Encode a refusal inside a stream, which then ends without its mark."""
    return b"data: " + msgspec.json.encode(error_of(refusal)) + b"\n\n"
