"""What may be asked of an answer: its options, and who honours them.

Model servers take all of them. Claude Code, which tier complex runs, takes none: it would
pass over them in silence.
"""

from __future__ import annotations

from typing import Any, Final

from actors.rules.chats import check_chat
from actors.rules.classification import classify
from actors.rules.embeddings import check_embed
from actors.rules.modes import resolve
from events import catalogue as c
from events.attachments import LIMIT_BYTES, PICTURES
from events.codec import check_depth, encode
from events.errors import Malformed, shown

SCHEMA_LIMIT: Final = 64 * 1024
"""Bytes that a schema may take, as JSON."""
SCHEMA_DEPTH: Final = 64


def check_asking(spec: c.TaskSpec) -> None:
    """Refuse options that nobody would honour: raises Malformed with the JSON path."""
    check_chat(spec)
    check_embed(spec)
    options = c.chat_options(spec)
    if not options:
        return
    resolved = resolve(spec)
    if resolved.mode != "answer":
        why = (
            resolved.reason
            if resolved.mode is None
            else f"it belongs to an answer, and this is work ({resolved.reason})"
        )
        raise Malformed(options[0], f"none, because {why}", "one")
    tier = classify(spec).effective_tier
    if tier == "complex":
        raise Malformed(
            options[0],
            "none, or tier standard, because Claude Code, which tier complex runs, "
            f"takes no {options[0]}",
            f"one in tier {tier}",
        )
    if spec.json_schema is not None:
        _check_schema(spec.json_schema)


def check_attachments(spec: c.TaskSpec) -> None:
    """Refuse files that would not be read: raises Malformed with the JSON path."""
    if not spec.attachments:
        return
    resolved = resolve(spec)
    if resolved.mode is None:
        raise Malformed("attachments", f"none, because {resolved.reason}", "some")
    total = sum(each.size_bytes for each in spec.attachments)
    if total > LIMIT_BYTES:
        raise Malformed(
            "attachments", f"at most {LIMIT_BYTES} bytes in all", f"{total}"
        )
    names: set[str] = set()
    for n, each in enumerate(spec.attachments):
        place = f"attachments[{n}]"
        if not each.name.isprintable():
            raise Malformed(f"{place}.name", "printable text", shown(each.name))
        if each.name in names:
            raise Malformed(f"{place}.name", "names that differ", shown(each.name))
        names.add(each.name)
        if c.is_picture(each) and each.media_type not in PICTURES:
            raise Malformed(f"{place}.media_type", ", ".join(PICTURES), each.media_type)


def _check_schema(schema: dict[str, Any]) -> None:
    size = len(encode(schema))
    if size > SCHEMA_LIMIT:
        raise Malformed("json_schema", f"at most {SCHEMA_LIMIT} bytes", f"{size}")
    check_depth(schema, "json_schema", SCHEMA_DEPTH)
    problem = _problem(schema)
    if problem:
        raise Malformed("json_schema", "a JSON schema", problem)


def _problem(schema: dict[str, Any]) -> str:
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as wrong:
        return f"{wrong.json_path}: {wrong.message}"[:300]
    return ""
