"""Every refusal's code has one status, and it stands in one table."""

from __future__ import annotations

import ast
import re
from http import HTTPStatus
from pathlib import Path

import pytest

from events import errors
from events.commands import STATUS, Refusal, refusal_of, refuse

ROOT = Path(__file__).parents[2]
TABLE = "events/commands.py"
# What is refused in words that are not ours: a host's own codes, and HTTP's.
PASSED_ON = {"actors/gateway", "web/server.py"}


def calls() -> list[tuple[str, str, ast.Call]]:
    """Every call in product code: its file, the function's name, the call."""
    files = [
        path
        for room in ("events", "actors", "projections", "web", "cli")
        for path in (ROOT / room).rglob("*.py")
    ]
    return [
        (path.relative_to(ROOT).as_posix(), name, node)
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (name := getattr(node.func, "id", getattr(node.func, "attr", "")))
    ]


def test_every_code_that_is_refused_with_has_a_status_and_every_status_a_code():
    codes = {node.args[0].value for _, name, node in calls() if name == "refuse"}
    carried = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.AgentComError)
    } | {"expired", "refused"}
    assert codes | carried == set(STATUS)
    assert {HTTPStatus(status) for status in STATUS.values()}


def test_refusals_are_made_with_refuse_and_no_status_is_written_beside_the_table():
    made = [(path, node) for path, name, node in calls() if name == "Refusal"]
    elsewhere = {path for path, _ in made if path != TABLE}
    assert not [p for p in elsewhere if not p.startswith(tuple(PASSED_ON))]
    written = [
        (path, keyword.value.value)
        for path, node in made
        for keyword in node.keywords
        if keyword.arg == "status" and isinstance(keyword.value, ast.Constant)
    ]
    assert written == []


def test_the_docs_have_the_same_table():
    rows = re.findall(
        r"^\| (\d{3}) \| (.*) \|$", (ROOT / "docs/queries.md").read_text(), re.M
    )
    table = {
        code: int(status)
        for status, codes in rows
        for code in re.findall(r"`(\w+)`", codes)
    }
    assert table == STATUS


def test_an_error_is_refused_with_its_code_its_sentence_and_its_place():
    assert refusal_of(errors.Malformed("shell.cwd", "a path", "none")) == Refusal(
        code="malformed",
        error="shell.cwd: expected a path, got none",
        path="shell.cwd",
        expected="a path",
        got="none",
        status=400,
    )
    assert refusal_of(errors.Denied("append", "no")).status == 403


def test_an_error_that_is_not_for_clients_is_a_fault_of_ours():
    class Odd(errors.AgentComError):
        code = "odd"

    assert (refusal_of(Odd("x")).code, refusal_of(Odd("x")).status) == ("odd", 500)


def test_a_code_outside_the_table_is_a_mistake():
    with pytest.raises(KeyError):
        refuse("no_such_code", "x")
