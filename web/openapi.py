"""The interface for programs as an OpenAPI document, made from the code.

`python -m web.openapi > web/openapi.json` writes it; a test holds the file against this.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any, Final

import msgspec

from events import commands as m
from projections import answers as v
from projections import questions as q
from web.api import (
    ASKING,
    COMMANDS,
    QUESTIONS,
    AskEvents,
    AskSavings,
    Events,
    PolicyAnswer,
    SavingsAnswer,
)

VERSION: Final = "1"

_ASKED: Final[dict[str, tuple[type[Any], type[Any]]]] = {
    "tasks": (q.AskTasks, v.TasksAnswer),
    "task": (q.AskTask, v.TaskAnswer),
    "output": (q.AskOutput, v.OutputAnswer),
    "why": (q.AskWhy, v.WhyAnswer),
    "alerts": (q.AskThen, v.AlertsAnswer),
    "queue": (q.AskQueue, v.QueueAnswer),
    "hosts": (q.AskThen, v.HostsAnswer),
    "costs": (q.AskCosts, v.CostsAnswer),
    "stats": (q.AskThen, v.StatsAnswer),
    "status": (q.Question, v.StatusAnswer),
}
_TOLD: Final[dict[str, tuple[type[Any], type[Any]]]] = {
    "task.submit": (m.Submit, m.Submitted),
    "task.batch": (m.SubmitBatch, m.BatchSubmitted),
    "task.classify": (m.Classify, m.Classified),
    "task.route": (m.Classify, m.WouldRoute),
    "task.cancel": (m.CancelTask, m.Done),
    "task.retry": (m.RetryTask, m.Done),
    "task.reassign": (m.ReassignTask, m.Done),
    "host.drain": (m.DrainHost, m.Done),
    "host.resume": (m.ResumeHost, m.Done),
    "endpoint.add": (m.AddEndpoint, m.Done),
    "endpoint.remove": (m.RemoveEndpoint, m.Done),
    "alert.acknowledge": (m.AcknowledgeAlert, m.Done),
    "policy.set": (m.SetPolicy, m.Done),
    "policy.validate": (m.SetPolicy, m.Done),
}


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
    """Who asks: what he may do, and how the log calls him."""

    role: str
    name: str


def document() -> dict[str, Any]:
    """Return the whole document."""
    kinds = [
        *(kind for pair in (*_ASKED.values(), *_TOLD.values()) for kind in pair),
        *(q.AskWhatIf, v.WhatIfAnswer, AskEvents, Events, PolicyAnswer, m.Refusal),
        *(AskSavings, SavingsAnswer),
        *(Health, Readiness, Me),
    ]
    _, schemas = msgspec.json.schema_components(
        dict.fromkeys(kinds), ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for question in QUESTIONS:
        asked, answer = _ASKED[question.query]
        trace = question.path.endswith("/trace")
        _add(
            paths,
            "GET",
            question.path,
            summary=_summary(asked) + (" Its routing alone." if trace else ""),
            parameters=_parameters(question.path, schemas[asked.__name__]),
            answer=None if trace else answer,
        )
    for command in COMMANDS:
        body, answer = _TOLD[command.name]
        _add(
            paths,
            command.method,
            command.path,
            summary=_summary(body)
            + ("" if command.name in ASKING else " Operators only."),
            parameters=_in_path(command.path),
            body=body,
            answer=answer,
        )
    _add(
        paths,
        "GET",
        "/api/v1/events",
        summary=_summary(AskEvents),
        parameters=_parameters("", schemas["AskEvents"]),
        answer=Events,
    )
    _add(paths, "POST", "/api/v1/whatif", summary=_summary(q.AskWhatIf), body=q.AskWhatIf, answer=v.WhatIfAnswer)  # fmt: skip
    _add(
        paths,
        "GET",
        "/api/v1/savings",
        summary=_summary(AskSavings),
        parameters=_parameters("", schemas["AskSavings"]),
        answer=SavingsAnswer,
    )
    _add(paths, "GET", "/api/v1/policy", summary=_summary(PolicyAnswer), answer=PolicyAnswer)  # fmt: skip
    _add(paths, "GET", "/api/v1/me", summary=_summary(Me), answer=Me)
    _add(paths, "GET", "/api/v1/openapi.json", summary="This document.")
    _add(paths, "GET", "/healthz", summary=_summary(Health), answer=Health, token=False)
    _add(paths, "GET", "/readyz", summary=_summary(Readiness), answer=Readiness, token=False)  # fmt: skip
    _add(paths, "GET", "/metrics", summary="Metrics for Prometheus.", token=False)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AgentCom",
            "version": VERSION,
            "description": "Questions to the read models, and commands. A command is "
            "safe to repeat with the same `id` or `idempotency_key`. What cannot be "
            "done is a Refusal, with its status as the response's. Pages listen on the "
            "websocket /ws.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost:4000"}],
        "security": [{"bearer": []}, {"cookie": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "agentcom"},
            },
        },
    }


def _add(
    paths: dict[str, dict[str, Any]],
    method: str,
    path: str,
    *,
    summary: str,
    parameters: list[dict[str, Any]] | None = None,
    body: type[Any] | None = None,
    answer: type[Any] | None = None,
    token: bool = True,
) -> None:
    kind = "text/plain" if path == "/metrics" else "application/json"
    schema = {} if answer is None else {"schema": _ref(answer)}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "Done.", "content": {kind: schema}},
            "default": {
                "description": "Not done, and why.",
                "content": {"application/json": {"schema": _ref(m.Refusal)}},
            },
        },
    }
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {
            "content": {"application/json": {"schema": _ref(body)}}
        }
    if not token:
        operation["security"] = []
    paths.setdefault(path, {})[method.lower()] = operation


def _ref(kind: type[Any]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _summary(kind: type[Any]) -> str:
    said = " ".join((kind.__doc__ or "").split())
    return said.partition(". ")[0].rstrip(".") + "."


def _in_path(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _parameters(path: str, schema: dict[str, Any]) -> list[dict[str, Any]]:
    found = _in_path(path)
    known = {each["name"] for each in found}
    for name, field in schema["properties"].items():
        if name not in known:
            found.append({"name": name, "in": "query", "schema": field})
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(), indent=1, sort_keys=True) + "\n")
