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
    IDEMPOTENCY_KEY,
    QUERIES,
    AskEvents,
    AskSavings,
    AskTaskEvents,
    Events,
    PolicyAnswer,
    TraceAnswer,
)
from web.streams import LAST_ID

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

    `name` is its operationId, `fields` the struct whose fields are its parameters, `body`
    the one it reads, `answer` the one it answers with; `note` is added to what the first
    of them says. `headers` are what it reads of the request's, with what each is for;
    `streams` that it answers with server-sent events to who asks for them.
    """

    method: str
    path: str
    name: str
    fields: type[Any] | None = None
    body: type[Any] | None = None
    answer: type[Any] | None = None
    note: str = ""
    token: bool = True
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    streams: bool = False

    @property
    def tag(self) -> str:
        """What it is about: the first word of its path below `/api/v1`."""
        below = self.path.removeprefix("/api").removeprefix("/v1/")
        return "process" if below.startswith("/") else below.partition("/")[0]


_KEY: Final = (
    (
        IDEMPOTENCY_KEY,
        "Names the command: said again with the same key it changes nothing more.",
    ),
)
_LAST: Final = (
    (LAST_ID, "The id of the last event one has: the stream goes on there."),
)


def operations() -> list[Operation]:
    """Return all that the server answers, without the page and its files."""
    return [
        *(
            Operation(
                "GET",
                r.path,
                f"get_{r.query}",
                fields=r.fields,
                answer=r.answer,
                streams=r.query == "output",
                headers=_LAST if r.query == "output" else (),
            )
            for r in QUERIES
        ),
        *(
            Operation("POST", r.path, f"ask_{r.query}", body=r.fields, answer=r.answer)
            for r in BODY_QUERIES
        ),
        *(
            Operation(
                r.method,
                r.path,
                r.name.replace(".", "_"),
                body=r.body,
                answer=r.answer,
                note="" if r.name in ASKING else "Operators only.",
                headers=_KEY,
            )
            for r in COMMANDS
        ),
        Operation(
            "GET",
            "/api/v1/tasks/{task_id}/trace",
            "get_trace",
            fields=q.AskTask,
            answer=TraceAnswer,
            note="Its routing alone.",
        ),
        Operation(
            "GET",
            "/api/v1/tasks/{task_id}/output.ndjson",
            "get_output_lines",
            note="Every piece of a task's output, one a line; `?start=SEQ` from there on.",
            content_type="application/x-ndjson",
        ),
        Operation(
            "GET",
            "/api/v1/tasks/{task_id}/output.txt",
            "get_output_text",
            note="All that a task has printed; `?stream=stderr` for one stream.",
            content_type="text/plain",
        ),
        Operation(
            "GET",
            "/api/v1/tasks/{task_id}/events",
            "get_task_events",
            fields=AskTaskEvents,
            answer=Events,
            headers=_LAST,
            streams=True,
        ),
        Operation(
            "GET", "/api/v1/events", "get_events", fields=AskEvents, answer=Events
        ),
        Operation(
            "GET",
            "/api/v1/savings",
            "get_savings",
            fields=AskSavings,
            answer=SavingsAnswer,
        ),
        Operation("GET", "/api/v1/policy", "get_policy", answer=PolicyAnswer),
        Operation("GET", "/api/v1/me", "get_me", answer=Me),
        Operation(
            "GET",
            "/api/v1/openapi.json",
            "get_openapi",
            note="This document.",
            token=False,
        ),
        Operation("GET", "/healthz", "get_health", answer=Health, token=False),
        Operation("GET", "/readyz", "get_readiness", answer=Readiness, token=False),
        Operation(
            "GET",
            "/metrics",
            "get_metrics",
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
        "tags": [{"name": tag} for tag in sorted({op.tag for op in listed})],
        "components": {
            "schemas": {name: _typed(each) for name, each in sorted(schemas.items())},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _described(op: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return one operation as the document has it."""
    about = op.fields or op.body or op.answer
    summary, rest = ("", "") if about is None else _sentences(about)
    kind = "object" if op.content_type == "application/json" else "string"
    answer = {"type": kind} if op.answer is None else _reference(op.answer)
    content = {op.content_type: {"schema": answer}}
    done: dict[str, Any] = {"description": "Done.", "content": content}
    if op.content_type not in _READ:
        done = {"description": f"Done: {op.content_type}."}
    if op.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    described: dict[str, Any] = {
        "operationId": op.name,
        "tags": [op.tag],
        "summary": f"{summary} {op.note}".strip(),
        "responses": {
            "200": done,
            "default": {
                "description": "Not done, and why.",
                "content": {"application/json": {"schema": _reference(m.Refusal)}},
            },
        },
    }
    if rest:
        described["description"] = rest
    parameters = _parameters(
        op.path, {} if op.fields is None else schemas[op.fields.__name__]["properties"]
    )
    parameters += [
        {"name": name, "in": "header", "description": why, "schema": {"type": "string"}}
        for name, why in op.headers
    ]
    if parameters:
        described["parameters"] = parameters
    if op.body is not None:
        described["requestBody"] = {
            "content": {"application/json": {"schema": _reference(op.body)}}
        }
    if not op.token:
        described["security"] = []
    return described


_READ: Final = frozenset({"application/json", "text/plain"})
"""What generators make a client read; another type is named in words."""
_JSON_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string"}


def _typed(schema: Any) -> Any:
    """Give constants their type, which generators ask for and msgspec leaves out."""
    if isinstance(schema, list):
        return [_typed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    typed = {name: _typed(each) for name, each in schema.items()}
    values = typed.get("enum")
    if isinstance(values, list) and values and "type" not in typed:
        typed["type"] = _JSON_TYPES[type(values[0])]
        if len(values) == 1:
            del typed["enum"]
            typed["const"] = values[0]
    return typed


def _reference(kind: type[Any]) -> dict[str, str]:
    return {"$ref": _SCHEMAS + kind.__name__}


def _sentences(kind: type[Any]) -> tuple[str, str]:
    """Return the first sentence of a struct's docstring, and the rest of it."""
    text = " ".join((kind.__doc__ or "").split())
    first, _, rest = text.partition(". ")
    return first.rstrip(".") + ".", rest


def _parameters(path: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters in the path, and as the query's those fields not in it."""
    in_path = re.findall(r"{(\w+)}", path)
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in in_path
    ] + [
        {"name": name, "in": "query", "schema": _typed(schema)}
        for name, schema in fields.items()
        if name not in in_path
    ]
