"""What people read: no regular expressions, no Python's way of writing values."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect as mi

from events.codec import convert
from events.commands import Refusal
from events.errors import Malformed, shown
from sidecar.config import SidecarConfig
from tests.unit.test_names import place, sources, tree
from web.api import BODY_QUERIES, COMMANDS, QUERIES

MAY_WRITE_AS_PYTHON = {
    "agentcom/__init__.py": "an AttributeError is Python's own",
    "agentcom/aio.py": "__repr__ is for Python's prompt",
    "agentcom/blocking.py": "the same",
    "sidecar/costs.py": "a Decimal of a float's shortest digits",
    "sidecar/http.py": "looks for a secret in every way it may be written",
    "web/metrics.py": "Prometheus's numbers",
}


def written_as_python(path: Path) -> list[int]:
    """The lines that turn a value into Python's own notation."""
    return [
        node.lineno
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.FormattedValue) and node.conversion == ord("r"))
        or (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "repr"
        )
    ]


def test_no_text_is_written_as_python_writes_values():
    found = {
        place(path): lines
        for path in sources()
        if not any(part in place(path) for part in ("simulated", "bench/"))
        and (lines := written_as_python(path))
    }
    assert {p: n for p, n in found.items() if p not in MAY_WRITE_AS_PYTHON} == {}
    assert found.keys() == MAY_WRITE_AS_PYTHON.keys()


def patterns(info: mi.Type, words: str = "") -> list[tuple[str, str]]:
    """Every pattern inside a type, with what is said of it in words."""
    match info:
        case mi.Metadata():
            return patterns(
                info.type, (info.extra_json_schema or {}).get("description", words)
            )
        case mi.StrType(pattern=str(pattern)):
            return [(pattern, words)]
        case mi.StructType():
            return [each for f in info.fields for each in patterns(f.type)]
        case mi.ListType():
            return patterns(info.item_type)
        case mi.DictType():
            return patterns(info.value_type)
        case mi.UnionType():
            return [each for below in info.types for each in patterns(below, words)]
        case _:
            return []


ASKED = [
    *(route.body for route in COMMANDS),
    *(route.fields for route in (*QUERIES, *BODY_QUERIES)),
    SidecarConfig,
]


@pytest.mark.parametrize("kind", dict.fromkeys(ASKED), ids=lambda kind: kind.__name__)
def test_every_pattern_of_what_people_write_is_told_in_words(kind: type[Any]):
    assert [p for p, words in patterns(mi.type_info(kind)) if not words] == []


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (
            "endpoint.add",
            {"endpoint": "gpu", "kind": "ollama", "url": "gpu:11434"},
            "url: expected an address that starts with http:// or https://, "
            "got 'gpu:11434'",
        ),
        (
            "task.submit",
            {"description": "x", "files": []},
            "files: unknown field; did you mean file_hints?",
        ),
        (
            "task.submit",
            {"description": "x" * 200_001},
            "description: expected at most 200,000 characters, got 200,001",
        ),
        (
            "task.submit",
            {"description": "x", "tier": "standrad"},
            "tier: expected one of complex, standard, trivial, unknown, "
            "got 'standrad'; did you mean standard?",
        ),
        (
            "task.submit",
            {"description": "x", "max_attempts": 0},
            "max_attempts: expected at least 1, got 0",
        ),
        (
            "task.batch",
            {"tasks": []},
            "tasks: expected at least 1 item, got 0",
        ),
    ],
)
def test_a_mistake_is_told_as_a_person_would(kind: str, fields: Any, said: str):
    (body,) = (route.body for route in COMMANDS if route.name == kind)
    with pytest.raises(Malformed) as wrong:
        convert(fields, body)
    assert str(wrong.value) == said


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("nope", "'nope'"),
        ("a\x1b[31m\n", "'a\\u001b[31m\\u000a'"),
        ("x" * 100, "'" + "x" * 77 + "...'"),
        (True, "true"),
        (None, "null"),
        (1.5, "1.5"),
        (["a", None], '["a",null]'),
        (Path("/tmp/x"), "'/tmp/x'"),
    ],
)
def test_a_value_is_shown_as_people_write_it(value: Any, text: str):
    assert shown(value) == text


def test_a_refusal_carries_the_facts():
    fields = msgspec.structs.fields(Refusal)
    assert {"code", "path", "expected", "got"} <= {field.name for field in fields}
