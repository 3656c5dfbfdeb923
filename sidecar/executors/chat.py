"""What a model server is told, as each kind of server takes it. Pure.

A task without messages of its own is a chat of its prompt. OpenAI-compatible servers get
the messages nearly as they came. Ollama's own interface wants pictures beside the text,
arguments of calls as objects, and results of tools under the tool's name.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import msgspec

from actors.rules.chats import pictures_in, text_of
from actors.rules.prompt import prompt_for
from events import catalogue as c
from events.codec import encode

if TYPE_CHECKING:
    from sidecar.executors.port import Run

_OPTIONS = ("seed", "stop", "top_p", "top_k", "min_p")
_PENALTIES = ("presence_penalty", "frequency_penalty")


def messages_of(run: Run) -> list[c.ChatMessage]:
    """The chat so far: the task, and each round's answer with what was said to it."""
    spec = run.assign.spec
    messages = list(spec.messages)
    if not messages:
        if spec.system:
            messages.append(c.ChatMessage(role="system", content=spec.system))
        messages.append(c.ChatMessage(role="user", content=_asked(run)))
    for turn in run.turns:
        messages.append(c.ChatMessage(role="assistant", content=turn.answer))
        messages.append(c.ChatMessage(role="user", content=turn.feedback))
    return messages


def _asked(run: Run) -> str | list[c.TextPart | c.PicturePart]:
    """The prompt, with the pictures that the model is to see."""
    prompt = prompt_for(run.assign.spec, run.files)
    pictures = [
        c.PicturePart(each.digest)
        for each in run.assign.spec.attachments
        if c.is_picture(each) and each.digest in run.files
    ]
    return [c.TextPart(prompt), *pictures] if pictures else prompt


def openai_messages(run: Run) -> list[dict[str, Any]]:
    """The chat so far, for an OpenAI-compatible server."""
    return [_openai(each, run) for each in messages_of(run)]


def _openai(message: c.ChatMessage, run: Run) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role, "content": text_of(message)}
    if pictures_in(message) and not isinstance(message.content, str):
        told["content"] = [_part(part, run) for part in message.content]
    if message.name:
        told["name"] = message.name
    if message.tool_calls:
        told["tool_calls"] = [msgspec.to_builtins(each) for each in message.tool_calls]
        told["content"] = told["content"] or None
    if message.tool_call_id:
        told["tool_call_id"] = message.tool_call_id
    return told


def _part(part: c.TextPart | c.PicturePart, run: Run) -> dict[str, Any]:
    if isinstance(part, c.TextPart):
        return {"type": "text", "text": part.text}
    kinds = {each.digest: each.media_type for each in run.assign.spec.attachments}
    data = b64encode(run.files[part.digest]).decode()
    url = f"data:{kinds[part.digest]};base64,{data}"
    return {"type": "image_url", "image_url": {"url": url}}


def ollama_messages(run: Run) -> list[dict[str, Any]]:
    """The chat so far, for Ollama's own interface."""
    names: dict[str, str] = {}
    told = []
    for message in messages_of(run):
        names |= {each.id: each.function.name for each in message.tool_calls}
        told.append(_ollama(message, run, names))
    return told


def _ollama(message: c.ChatMessage, run: Run, names: dict[str, str]) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    told: dict[str, Any] = {"role": role, "content": text_of(message)}
    if pictures := pictures_in(message):
        told["images"] = [b64encode(run.files[each]).decode() for each in pictures]
    if message.tool_calls:
        told["tool_calls"] = [
            {"function": {"name": each.function.name, "arguments": _object(each)}}
            for each in message.tool_calls
        ]
    if name := names.get(message.tool_call_id):
        told["tool_name"] = name
    return told


def _object(call: c.CalledTool) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(call.function.arguments or "{}")
    except msgspec.MsgspecError:
        return {}
    return value if isinstance(value, dict) else {}


def ollama_wishes(spec: c.TaskSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """What Ollama is asked besides, and which options it is given."""
    wishes = c.wishes_of(spec)
    options = {name: wishes[name] for name in _OPTIONS + _PENALTIES if name in wishes}
    body: dict[str, Any] = {}
    if "tools" in wishes and wishes.get("tool_choice") != "none":
        body["tools"] = wishes["tools"]
    if "reasoning_effort" in wishes:
        effort = wishes["reasoning_effort"]
        body["think"] = False if effort == "none" else effort
    return body, options


def size_of(run: Run) -> int:
    """How many bytes of text the model has to read."""
    chat = run.assign.spec.chat
    tools = len(encode(chat.tools)) if chat is not None else 0
    return tools + sum(len(text_of(each).encode()) for each in messages_of(run))
