"""Embeddings: tasks that turn texts into vectors. A model's name says by which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from actors.rules.chats import CHAT_LIMIT
from events.codec import encode
from events.errors import Malformed

if TYPE_CHECKING:
    from events import catalogue as c

_ALONE: Final = (
    *("shell", "executor", "repo", "branch", "cwd", "claude", "system", "file_hints"),
    *("success_criteria", "verification_steps", "messages", "attachments"),
    *("max_tokens", "temperature", "json_schema", "input_from"),
)
"""What texts that become vectors have no use for."""


def check_embed(spec: c.TaskSpec) -> None:
    """Refuse texts that nothing could embed: raises Malformed with the JSON path."""
    if spec.embed is None:
        return
    for name in _ALONE:
        if getattr(spec, name):
            raise Malformed("embed", f"none beside {name}", "both")
    if not spec.model:
        raise Malformed("model", "the name of a model that embeds", "none")
    size = len(encode(spec.embed))
    if size > CHAT_LIMIT:
        raise Malformed(
            "embed.inputs", f"at most {CHAT_LIMIT:,} bytes in all", f"{size:,}"
        )
