"""What a simulated model answers: the same words for the same prompt, and honest.

No chance and no clock: a test may compare whole answers, and a reader of the demo is
told by the answer itself that no model was asked.
"""

from __future__ import annotations

import re
from typing import Any

_PIECE = re.compile(r"\s*\S+\s*")
_QUOTED_WORDS = 12


def answer_to(prompt: str) -> str:
    """The one answer to `prompt`."""
    words = prompt.split()
    quoted = " ".join(words[:_QUOTED_WORDS])
    more = " ..." if len(words) > _QUOTED_WORDS else ""
    count = "1 word" if len(words) == 1 else f"{len(words)} words"
    return (
        "This is a simulated model's answer; no language model was asked. "
        f'The prompt had {count}: "{quoted}{more}" '
        "A real model would now do the work."
    )


def thoughts_on(prompt: str) -> str:
    """What a simulated thinking model shows before its answer."""
    return f"A simulated thought about {len(prompt.split())} words."


def pieces(text: str) -> list[str]:
    """`text` cut where a model would send it: a word with its spaces at a time."""
    return _PIECE.findall(text)


def count_tokens(text: str) -> int:
    """Four characters a token, as everyone estimates it; no text is no token."""
    return -(-len(text) // 4)


def fitting(schema: Any, text: str, depth: int = 0) -> Any:
    """A value of a simple JSON schema's form, with `text` for its strings."""
    if not isinstance(schema, dict) or depth > 16:
        return text
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if schema.get("enum"):
        return schema["enum"][0]
    kinds = schema.get("type", "object" if "properties" in schema else "string")
    match kinds[0] if isinstance(kinds, list) and kinds else kinds:
        case "object":
            properties = schema.get("properties") or {}
            return {
                name: fitting(each, text, depth + 1)
                for name, each in properties.items()
            }
        case "array":
            items = range(max(1, schema.get("minItems", 1)))
            return [fitting(schema.get("items"), text, depth + 1) for _ in items]
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return text[: schema.get("maxLength", len(text))]
