"""Writes a golden line for every event that has none yet with all of its fields.

    python -m tests.golden.make_events

Run it when an event or a field is new. A line that is there is never rewritten or taken away, also
when its tag is no longer written: logs out there hold such lines, and they must still be
read. Every field is spelled, none at its default.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect as mi

from events.catalogue import Event, types
from events.codec import encode

FOLDER = Path(__file__).parent / "events"

# What a field is called says what it holds, where the type alone says too little.
NAMED: dict[str, Any] = {
    "id": "01JGFJJZ00H2N5S8VQ3XK7R4TB",
    "at": "2026-01-01T00:00:00.250000Z",
    "by": "scheduler-1",
    "task_id": "01JGFJJZ00A7C9E1G3J5M7P9R1",
    "route": "01JGFJJZ00Z8X6V4T2R0P8N6M4",
    "host": "h1",
    "selected_host": "h1",
    "incarnation": "000001-01JGFJJZ00B1B2B3B4B5B6B7B8",
    "since": "2026-01-01T00:00:00.000000Z",
    "until": "2026-01-01T01:00:00.000000Z",
    "limited_until": "2026-01-01T01:00:00.000000Z",
    "secret_env": "NPM_TOKEN",
    "digest": "5" * 64,
    "deadline": "2026-01-02T00:00:00.000000Z",
    "url": "http://127.0.0.1:11434",
    "policy": {"fallback_wait_s": 5.0, "scoring": {"warm": 1.15}},
    "metadata": {"ticket": 7, "tags": ["a", None, True]},
}


def golden_lines() -> list[bytes]:
    """Every committed line."""
    return [
        line
        for path in sorted(FOLDER.glob("*.jsonl"))
        for line in path.read_bytes().splitlines()
    ]


def example(info: mi.Type, name: str, default: object = None) -> Any:
    """A value of a type, other than the default."""
    match info:
        case mi.Metadata():
            return example(info.type, name, default)
        case mi.UnionType():
            inner = [one for one in info.types if not isinstance(one, mi.NoneType)]
            return example(inner[0], name, default)
        case mi.StructType():
            return struct(info)
        case mi.ListType():
            return [example(info.item_type, name)]
        case mi.DictType() if name not in NAMED:
            return {"key": example(info.value_type, "value")}
        case mi.BoolType():
            return not default
        case mi.IntType():
            return 5
        case mi.FloatType():
            return 1.5 if info.le is None else min(1.5, info.le)
        case mi.LiteralType():
            return next((v for v in info.values if v != default), default)
        case _:
            return NAMED.get(name, f"some {name.replace('_', ' ')}")


def struct(info: mi.StructType) -> Any:
    """An instance with every field set."""
    fields = {
        field.name: token(field, example(field.type, field.name, field.default))
        for field in info.fields
    }
    return info.cls(**fields)


def token(field: mi.Field, value: Any) -> Any:
    """Spell a value as a token where its type has a pattern."""
    patterned = "pattern=" in repr(field.type) and "pattern=None" not in repr(
        field.type
    )
    if not patterned:
        return value
    if isinstance(value, list):
        return [str(one).replace(" ", "-") for one in value]
    return str(value).replace(" ", "-")


def make(kind: type[Event]) -> bytes:
    """Spell the golden line of a class of events."""
    info = mi.type_info(kind)
    assert isinstance(info, mi.StructType)
    event = struct(info)
    raw = encode(event)
    assert msgspec.json.decode(raw, type=kind) == event
    return raw


def main() -> None:
    fields_of: dict[str, set[str]] = {}
    for line in golden_lines():
        event = json.loads(line)
        fields_of.setdefault(event["type"], set()).update(event)
    FOLDER.mkdir(exist_ok=True)
    for tag, kind in types().items():
        if not fields_of.get(tag, set()) >= set(kind.__struct_fields__):
            path = FOLDER / f"{tag.partition('.')[0]}.jsonl"
            with path.open("ab") as file:
                file.write(make(kind) + b"\n")
            print(f"{path.name}: {tag}")


if __name__ == "__main__":
    main()
