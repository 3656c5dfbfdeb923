"""Chats: tasks that are asked in messages, in the shape of OpenAI's interface.

A model server gets the messages as they are. Claude Code, which takes one prompt, gets
them written out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from events import catalogue as c
from events.codec import check_depth, encode
from events.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Sequence

CHAT_LIMIT: Final = 360_000
"""Bytes that messages and wishes may take together, as JSON: an event holds them."""
WISHES_DEPTH: Final = 64

_ALONE: Final = (
    *("shell", "executor", "repo", "branch", "cwd", "claude", "system", "file_hints"),
    *("success_criteria", "verification_steps"),
)
"""What a chat has no use for: who sends messages says all of it there."""
_SPEAKERS: Final = {"user": "User", "assistant": "You", "tool": "Result of a tool"}


def text_of(message: c.ChatMessage) -> str:
    """Return what a message says in words."""
    if isinstance(message.content, str):
        return message.content
    texts = [part.text for part in message.content if isinstance(part, c.TextPart)]
    return "\n".join(texts)


def pictures_in(message: c.ChatMessage) -> list[str]:
    """Return the digests of the pictures in a message."""
    if isinstance(message.content, str):
        return []
    return [p.digest for p in message.content if isinstance(p, c.PicturePart)]


def flattened(messages: Sequence[c.ChatMessage]) -> str:
    """Write a chat out as one prompt."""
    system = [text_of(m) for m in messages if m.role in ("system", "developer")]
    spoken = [m for m in messages if m.role not in ("system", "developer")]
    parts = list(system)
    if len(spoken) == 1:
        parts.append(text_of(spoken[0]))
        return "\n\n".join(parts)
    parts.append("A conversation so far. Answer what was said last, and nothing else.")
    parts += [f"{_SPEAKERS[each.role]}: {_told(each)}" for each in spoken]
    return "\n\n".join(parts)


def _told(message: c.ChatMessage) -> str:
    calls = [
        f"[called {call.function.name} with {call.function.arguments}]"
        for call in message.tool_calls
    ]
    return "\n".join(part for part in (text_of(message), *calls) if part)


def needs_choice(spec: c.TaskSpec) -> bool:
    """Whether how tools are called is prescribed: Ollama's own interface cannot say it."""
    chat = spec.chat
    if chat is None or not chat.tools:
        return False
    choice = chat.tool_choice
    prescribed = isinstance(choice, dict) or choice == "required"
    return prescribed or chat.parallel_tool_calls is False


def check_chat(spec: c.TaskSpec) -> None:
    """Refuse a chat that cannot be held: raises Malformed with the JSON path."""
    if not spec.messages:
        if spec.chat is not None:
            raise Malformed("chat", "none without messages", "wishes of a chat")
        return
    for name in _ALONE:
        if getattr(spec, name):
            raise Malformed(
                "messages", f"none beside {name}, which says what to do too", "both"
            )
    for n, each in enumerate(spec.attachments):
        if not c.is_picture(each):
            raise Malformed(
                f"attachments[{n}]", "pictures alone: text stands in messages", "text"
            )
    _check_messages(spec)
    _check_wishes(spec.chat)
    size = len(encode(spec.messages)) + (len(encode(spec.chat)) if spec.chat else 0)
    if size > CHAT_LIMIT:
        raise Malformed(
            "messages",
            f"at most {CHAT_LIMIT:,} bytes together with its tools",
            f"{size:,}",
        )


def _check_messages(spec: c.TaskSpec) -> None:
    known = {each.digest for each in spec.attachments}
    for n, message in enumerate(spec.messages):
        place = f"messages[{n}]"
        for digest in pictures_in(message):
            if digest not in known:
                raise Malformed(
                    f"{place}.content", "pictures that are attachments", digest[:12]
                )
        if message.tool_calls and message.role != "assistant":
            raise Malformed(f"{place}.tool_calls", "none but the assistant's", "some")
        if message.role == "tool" and not message.tool_call_id:
            raise Malformed(f"{place}.tool_call_id", "the id of a call", "none")
    seen = {digest for message in spec.messages for digest in pictures_in(message)}
    for n, each in enumerate(spec.attachments):
        if each.digest not in seen:
            raise Malformed(f"attachments[{n}]", "a picture of a message", each.name)


def _check_wishes(chat: c.ChatWishes | None) -> None:
    if chat is None:
        return
    names = set()
    for n, tool in enumerate(chat.tools):
        function = tool.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if tool.get("type") != "function" or not isinstance(name, str) or not name:
            raise Malformed(
                f"chat.tools[{n}]", "a function with a name", str(tool.get("type"))[:80]
            )
        names.add(name)
    check_depth([chat.tools, chat.tool_choice], "chat.tools", WISHES_DEPTH)
    choice = chat.tool_choice
    if choice is None:
        return
    if not chat.tools and choice != "none":
        raise Malformed("chat.tool_choice", "none, because there are no tools", "one")
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise Malformed(
                "chat.tool_choice",
                "none, auto, required, or a function of chat.tools",
                choice[:80],
            )
        return
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if name not in names:
        raise Malformed(
            "chat.tool_choice", "a function of chat.tools", str(name)[:80] or "none"
        )
