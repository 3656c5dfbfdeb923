"""A task's mode follows from what it names, and a contradiction is refused."""

from __future__ import annotations

from typing import Any

import pytest

from actors.gateway.validate import check
from actors.rules.modes import resolve
from events import catalogue as c
from events.errors import Malformed

SHELL = c.Shell(command="true")
HINTS = [c.FileHint(path="src/login.py")]


def spec(**fields: Any) -> c.TaskSpec:
    return c.TaskSpec(description="fix the login", **fields)


@pytest.mark.parametrize(
    ("fields", "mode", "reason"),
    [
        ({}, "answer", "names no place"),
        ({"file_hints": HINTS}, "answer", "file hints alone"),
        ({"tier": "complex"}, "answer", "names no place"),
        ({"repo": "shop"}, "work", "names repo"),
        ({"branch": "fix"}, "work", "names branch"),
        ({"cwd": "/srv"}, "work", "names cwd"),
        ({"verification_steps": ["make test"]}, "work", "names verification_steps"),
        ({"repo": "shop", "branch": "b"}, "work", "names repo, branch"),
        ({"metadata": {"claude": {"max_turns": 3}}}, "work", "names metadata.claude"),
        ({"mode": "answer", "verification_steps": ["true"]}, "answer", "said"),
        ({"mode": "work"}, "work", "said"),
        ({"shell": SHELL, "repo": "shop"}, None, "a shell command runs as it is"),
        ({"executor": "agent"}, None, "executor agent"),
    ],
)
def test_a_mode_follows_from_what_the_task_names(
    fields: dict[str, Any], mode: str | None, reason: str
) -> None:
    resolved = resolve(spec(**fields))
    assert resolved.mode == mode
    assert reason in resolved.reason


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "answer", "repo": "shop"},
        {"mode": "answer", "branch": "b"},
        {"mode": "answer", "cwd": "/srv"},
        {"mode": "answer", "shell": SHELL},
        {"mode": "work", "shell": SHELL},
        {"mode": "work", "executor": "noop"},
    ],
)
def test_a_mode_that_contradicts_the_rest_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match=r"^mode: expected"):
        check(spec(**fields), now=0.0)


OPTIONS: list[dict[str, Any]] = [
    {"system": "x"},
    {"max_tokens": 5},
    {"temperature": 0.5},
    {"json_schema": {"type": "object"}},
]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: next(iter(option)))
@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"shell": SHELL}, "a shell command runs as it is"),
        ({"executor": "agent"}, "executor agent"),
        ({"repo": "shop"}, "this is work"),
        ({"tier": "complex"}, "Claude Code"),
    ],
    ids=["shell", "agent", "work", "complex"],
)
def test_an_option_of_an_answer_is_refused_where_nobody_honours_it(
    option: dict[str, Any], fields: dict[str, Any], why: str
) -> None:
    check(spec(**option, mode=None), now=0.0)
    with pytest.raises(Malformed, match=why) as refused:
        check(spec(**option, **fields), now=0.0)
    assert refused.value.path in option


@pytest.mark.parametrize(
    ("schema", "got"),
    [
        ({"type": "objekt"}, r"\$\.type"),
        ({"properties": 5}, r"\$\.properties"),
        ({"description": "x" * 70_000}, "at most 65536 bytes"),
    ],
)
def test_what_is_no_json_schema_is_refused(schema: dict[str, Any], got: str) -> None:
    with pytest.raises(Malformed, match=got):
        check(spec(json_schema=schema), now=0.0)
