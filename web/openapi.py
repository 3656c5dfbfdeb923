"""The interface for programs as an OpenAPI document, made from the code.

It is served at `/api/v1/openapi.json`. Paths, parameters and bodies come from the tables
and structs that the server itself goes by, the sentences from the structs' docstrings.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec

from analysis.savings import SavingsAnswer
from events import commands as m
from projections import questions as q
from web.api import (
    ASKING,
    BODY_QUERIES,
    COMMANDS,
    QUERIES,
    AskEvents,
    AskSavings,
    AskTaskEvents,
    Events,
    PolicyAnswer,
    TraceAnswer,
)

VERSION: Final = "1"
_SCHEMAS: Final = "#/components/schemas/"


class Health(msgspec.Struct):
    """Whether the process runs."""

    ok: bool


class Readiness(msgspec.Struct):
    """Whether the read models have caught up and the broker is reached."""

    ok: bool
    seq: int
    connected: bool
    caught_up: bool


class Me(msgspec.Struct):
    """Who asks: its role, and its name in the log."""

    role: str
    name: str


class Operation(NamedTuple):
    """One method of one path.

    `fields` is the struct whose fields are its parameters, `body` the one it reads,
    `answer` the one it answers with; `note` is added to what the first of them says.
    """

    method: str
    path: str
    fields: type[Any] | None = None
    body: type[Any] | None = None
    answer: type[Any] | None = None
    note: str = ""
    token: bool = True
    content_type: str = "application/json"


def operations() -> list[Operation]:
    """Return all that the server answers, without the page and its files."""
    return [
        *(Operation("GET", r.path, fields=r.fields, answer=r.answer) for r in QUERIES),
        *(
            Operation("POST", r.path, body=r.fields, answer=r.answer)
            for r in BODY_QUERIES
        ),
        *(
            Operation(
                r.method,
                r.path,
                body=r.body,
                answer=r.answer,
                note="" if r.name in ASKING else "Operators only.",
            )
            for r in COMMANDS
        ),
        Operation(
            "GET",
            "/api/v1/tasks/{task_id}/trace",
            fields=q.AskTask,
            answer=TraceAnswer,
            note="Its routing alone.",
        ),
        Operation(
            "GET",
            "/api/v1/tasks/{task_id}/output.ndjson",
            note="Every piece of a task's output, one a line.",
            content_type="application/x-ndjson",
        ),
        Operation(
            "GET",
            "/api/v1/tasks/{task_id}/output.txt",
            note="All that a task has printed; `?stream=stderr` for one stream.",
            content_type="text/plain",
        ),
        Operation("GET", "/api/v1/events", fields=AskEvents, answer=Events),
        Operation(
            "GET",
            "/api/v1/tasks/{task_id}/events",
            fields=AskTaskEvents,
            answer=Events,
        ),
        Operation("GET", "/api/v1/savings", fields=AskSavings, answer=SavingsAnswer),
        Operation("GET", "/api/v1/policy", answer=PolicyAnswer),
        Operation("GET", "/api/v1/me", answer=Me),
        Operation("GET", "/api/v1/openapi.json", note="This document."),
        Operation("GET", "/healthz", answer=Health, token=False),
        Operation("GET", "/readyz", answer=Readiness, token=False),
        Operation(
            "GET",
            "/metrics",
            note="Metrics for Prometheus.",
            token=False,
            content_type="text/plain",
        ),
    ]


@cache
def document(base: str = "") -> dict[str, Any]:
    """Return the whole document of a server below `base`; to be read only."""
    listed = operations()
    structs = [
        kind for op in listed for kind in (op.fields, op.body, op.answer) if kind
    ]
    _, schemas = msgspec.json.schema_components(
        dict.fromkeys([*structs, m.Refusal]), ref_template=_SCHEMAS + "{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for op in sorted(listed, key=lambda op: op.path):
        paths.setdefault(op.path, {})[op.method.lower()] = _described(op, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AgentCom",
            "version": VERSION,
            "description": "Questions to the read models, and commands. A command is "
            "safe to repeat with the same `id` or `idempotency_key`. What cannot be "
            "done is a Refusal, with its status as the response's. Pages listen on the "
            "websocket /ws, and show the token there among its protocols.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": base or "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _described(op: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return one operation as the document has it."""
    about = op.fields or op.body or op.answer
    sentences = [_summary(about)] if about is not None else []
    answer = {} if op.answer is None else {"schema": _reference(op.answer)}
    described: dict[str, Any] = {
        "summary": " ".join([*sentences, op.note]).strip(),
        "responses": {
            "200": {"description": "Done.", "content": {op.content_type: answer}},
            "default": {
                "description": "Not done, and why.",
                "content": {"application/json": {"schema": _reference(m.Refusal)}},
            },
        },
    }
    parameters = _parameters(
        op.path, {} if op.fields is None else schemas[op.fields.__name__]["properties"]
    )
    if parameters:
        described["parameters"] = parameters
    if op.body is not None:
        described["requestBody"] = {
            "content": {"application/json": {"schema": _reference(op.body)}}
        }
    if not op.token:
        described["security"] = []
    return described


def _reference(kind: type[Any]) -> dict[str, str]:
    return {"$ref": _SCHEMAS + kind.__name__}


def _summary(kind: type[Any]) -> str:
    """Return the first sentence of a struct's docstring."""
    text = " ".join((kind.__doc__ or "").split())
    return text.partition(". ")[0].rstrip(".") + "."


def _parameters(path: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters in the path, and as the query's those fields not in it."""
    in_path = re.findall(r"{(\w+)}", path)
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in in_path
    ] + [
        {"name": name, "in": "query", "schema": schema}
        for name, schema in fields.items()
        if name not in in_path
    ]
