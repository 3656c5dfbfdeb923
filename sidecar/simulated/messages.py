"""Anthropic's Messages API as the simulated model servers speak it.

The events of a stream, in the order of the API's documentation: `message_start`; for each
block of content `content_block_start`, `content_block_delta`s and `content_block_stop`;
`message_delta` with the reason and the count of tokens; `message_stop`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from sidecar.simulated.ollama import Answer


class ScriptedCall(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """A call that a simulated model makes, as a test ordered it."""

    name: str
    input: dict[str, Any] = {}


class _Said(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]] = ""


class MessagesBody(msgspec.Struct):
    """What `/v1/messages` is asked; empty where the request does not say."""

    model: str = ""
    max_tokens: int = 0
    messages: list[_Said] = []
    system: str | list[dict[str, Any]] = ""
    tools: list[dict[str, Any]] = []
    stream: bool = False

    def prompt_text(self) -> str:
        """Return everything that the model has to read."""
        parts = [_text(self.system), json.dumps(self.tools) if self.tools else ""]
        parts += [_text(each.content) for each in self.messages]
        return "\n".join(part for part in parts if part)

    def question(self) -> str:
        """Return the last thing said."""
        return _text(self.messages[-1].content) if self.messages else ""

    def offers(self, tool: str) -> bool:
        """Whether a tool may be called."""
        return any(each.get("name") == tool for each in self.tools)

    def answers(self, call_id: str) -> bool:
        """Whether the result of that call is in the conversation."""
        blocks = [
            each.content for each in self.messages if isinstance(each.content, list)
        ]
        return any(
            block.get("tool_use_id") == call_id for each in blocks for block in each
        )

    def missing(self) -> str:
        """Say what an acceptable request would have, "" for one that is."""
        if not self.model:
            return "model is required"
        if self.max_tokens <= 0:
            return "max_tokens is required and must be positive"
        return "" if self.messages else "messages is required"


def _text(content: Any) -> str:
    """The text of a content: a string, or blocks, a tool's result among them."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    words = [
        str(block.get("text") or _text(block.get("content")))
        for block in content
        if isinstance(block, dict)
    ]
    return "\n".join(word for word in words if word)


def error(status: int, message: str) -> dict[str, Any]:
    """An error as the API writes it."""
    kinds = {
        400: "invalid_request_error",
        404: "not_found_error",
        503: "overloaded_error",
    }
    kind = kinds.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


class MessagesVoice:
    """Server-sent events, for `/v1/messages`."""

    content_type = "text/event-stream"

    def __init__(
        self, answer: Answer, call: ScriptedCall | None, call_id: str = ""
    ) -> None:
        self._answer = answer
        self._call = call
        self._call_id = call_id
        self._index = -1
        self._open = ""

    def thinks(self, piece: str) -> bytes:
        delta = {"type": "thinking_delta", "thinking": piece}
        return self._into("thinking") + self._delta(delta)

    def says(self, piece: str) -> bytes:
        return self._into("text") + self._delta({"type": "text_delta", "text": piece})

    def finishes(self, *, counted: bool, on_last: bool) -> bytes:
        lines = self._begin() + self._close()
        if self._call is not None:
            lines += self._into("tool_use")
            text = json.dumps(self._call.input)
            for part in (text[:11], text[11:]):
                if part:
                    delta = {"type": "input_json_delta", "partial_json": part}
                    lines += self._delta(delta)
            lines += self._close()
        usage = self._usage(self._answer.eval_count if counted else 0)
        end = {"stop_reason": self._reason(), "stop_sequence": None}
        lines += self._event({"type": "message_delta", "delta": end, "usage": usage})
        return lines + self._event({"type": "message_stop"})

    def fails(self, message: str) -> bytes:
        return self._event(error(500, message))

    def malformed(self) -> bytes:
        return b'event: content_block_delta\ndata: {"type":"content_block_del\n\n'

    def comment(self) -> bytes:
        return self._event({"type": "ping"})

    def whole(self, *, counted: bool) -> dict[str, Any]:
        blocks: list[dict[str, Any]] = []
        if self._answer.thinking:
            thought = {"thinking": "".join(self._answer.thinking), "signature": ""}
            blocks.append({"type": "thinking", **thought})
        if self._answer.words:
            blocks.append({"type": "text", "text": "".join(self._answer.words)})
        if self._call is not None:
            blocks.append({**self._block("tool_use"), "input": self._call.input})
        return {
            **self._head(),
            "content": blocks,
            "stop_reason": self._reason(),
            "usage": self._usage(self._answer.eval_count if counted else 0),
        }

    def _reason(self) -> str:
        if self._call is not None:
            return "tool_use"
        return "max_tokens" if self._answer.reason == "length" else "end_turn"

    def _head(self) -> dict[str, Any]:
        return {
            "id": "msg_simulated",
            "type": "message",
            "role": "assistant",
            "model": self._answer.asked_as,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(0),
        }

    def _usage(self, written: int) -> dict[str, int]:
        return {"input_tokens": self._answer.prompt_tokens, "output_tokens": written}

    def _block(self, kind: str) -> dict[str, Any]:
        match kind:
            case "thinking":
                return {"type": "thinking", "thinking": ""}
            case "text":
                return {"type": "text", "text": ""}
            case _:
                assert self._call is not None
                call = {"id": self._call_id, "name": self._call.name, "input": {}}
                return {"type": "tool_use", **call}

    def _begin(self) -> bytes:
        if self._index >= 0 or self._open:
            return b""
        self._index = 0
        return self._event({"type": "message_start", "message": self._head()})

    def _into(self, kind: str) -> bytes:
        """Open a block of this kind, where another one is open or none."""
        if self._open == kind:
            return b""
        lines = self._begin() + self._close()
        self._open = kind
        start = {"index": self._index, "content_block": self._block(kind)}
        return lines + self._event({"type": "content_block_start", **start})

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        stop = self._event({"type": "content_block_stop", "index": self._index})
        self._index += 1
        return stop

    def _delta(self, delta: dict[str, Any]) -> bytes:
        event = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return self._event(event)

    def _event(self, value: dict[str, Any]) -> bytes:
        return f"event: {value['type']}\ndata: {json.dumps(value)}\n\n".encode()
