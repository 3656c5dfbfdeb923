"""Writes doors.md and policy.md: what programs say and hear, and what numbers mean.

Each command and question is shown with a request and the form of its answer; a request
here is one that the code takes, or the page is not made.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import inspect as mi

from actors.rules.policy_words import explained
from docs.pages import NOTE, _collect, _fields, _paragraphs
from events import catalogue as c
from events.codec import convert
from projections import answers as v
from projections import questions as q
from web.api import BODY_QUERIES, COMMANDS, QUERIES, QueryRoute

if TYPE_CHECKING:
    from collections.abc import Iterator

ID: Final = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
DEEP: Final = 2
"""So deep is an answer shown; what stands further inside is in its own table."""

ASKED: Final[dict[str, dict[str, Any]]] = {
    "task.submit": {
        "description": "fix the login",
        "tier": "complex",
        "repo": "shop",
        "idempotency_key": "login-1",
    },
    "task.batch": {
        "id": "nightly-1",
        "tasks": [{"description": "say hi", "shell": {"command": "echo hi"}}],
    },
    "task.bulk": {
        "action": "cancel",
        "filter": {"state": ["waiting"]},
        "dry_run": True,
    },
    "task.classify": {"description": "refactor the parser"},
    "task.route": {"description": "refactor the parser"},
    "task.attach": {"data": "aGVsbG8K"},
    "task.cancel": {"task_id": ID, "reason": "not needed any more"},
    "task.retry": {"task_id": ID},
    "task.reassign": {"task_id": ID, "host": "gpu1"},
    "host.fetch": {"task_id": ID, "path": "report.txt"},
    "host.drain": {"host": "gpu1", "reason": "maintenance"},
    "host.resume": {"host": "gpu1"},
    "host.forget": {"host": "gpu1"},
    "schedule.add": {
        "schedule": "nightly",
        "cron": "0 3 * * mon-fri",
        "tz": "Europe/Berlin",
        "task": {"description": "tests", "shell": {"command": "make test"}},
        "missed": "one",
        "overlap": "skip",
    },
    "schedule.change": {"schedule": "nightly", "cron": "30 3 * * mon-fri"},
    "schedule.pause": {"schedule": "nightly", "reason": "holidays"},
    "schedule.resume": {"schedule": "nightly"},
    "schedule.remove": {"schedule": "nightly"},
    "schedule.run": {"schedule": "nightly"},
    "endpoint.add": {
        "endpoint": "pool",
        "kind": "ollama",
        "url": "http://10.0.0.5:11434",
        "slots": 2,
    },
    "endpoint.remove": {"endpoint": "pool"},
    "alert.acknowledge": {"tier": "standard"},
    "tier.clear_limit": {"tier": "complex"},
    "policy.set": {"policy": {"fallback_wait_s": 2}, "based_on": 3},
    "policy.validate": {"policy": {"fallback_wait_s": 2}},
    "schedules": {"schedule": "nightly"},
    "planned": {"cron": "0 3 * * mon-fri", "tz": "Europe/Berlin"},
    "graph": {"task_id": ID},
    "tasks": {"state": ["failed", "dead"], "limit": 5},
    "task": {"task_id": ID, "wait": 30},
    "output": {"task_id": ID},
    "why": {"task_id": ID},
    "ended": {"task_ids": [ID], "wait": 30},
    "costs": {"by": "model", "since": "2026-01-31"},
    "queue": {"limit": 10},
    "whatif": {"policy": {"fallback_wait_s": 2}, "since": 1},
}
"""A request of each; of one that is not here, the shortest that there is."""

_SAID: Final[dict[str, Any]] = {
    "task_id": ID,
    "task_ids": [ID],
    "seq": 4711,
    "last_seq": 4711,
    "state": "completed",
    "phase": "completed",
    "status": "success",
    "tier": "standard",
    "preferred_tier": "standard",
    "host": "gpu1",
    "description": "summarise the README",
    "priority": "normal",
    "attempts": 1,
    "max_attempts": 3,
}
_OF_KIND: Final = {
    mi.StrType: "",
    mi.IntType: 0,
    mi.FloatType: 0.0,
    mi.BoolType: False,
    mi.NoneType: None,
    mi.AnyType: {},
    mi.RawType: {},
}


def doors_page() -> str:
    """Write out commands, questions, output."""
    return "\n".join(_doors()) + "\n"


def _doors() -> Iterator[str]:
    yield "# What programs say and hear"
    yield ""
    yield NOTE
    yield ""
    yield (
        "A command is a NATS request on `agentcom.cmd.NAME`, a question one on "
        "`agentcom.query.NAME`, both with a JSON object; over HTTP they are the paths "
        "named with them. Refusals are told in [queries.md](queries.md), what mistakes "
        "look like in [errors.md](errors.md). Instants are RFC 3339 in UTC, `_ms` is "
        "milliseconds, `_s` seconds, `_usd` dollars; null is unknown, which is not 0. "
        "Answers are shown with every field, and what stands deeper as `{}`."
    )
    yield ""
    nested: dict[str, type[msgspec.Struct]] = {}
    yield "## Commands"
    yield ""
    for command in COMMANDS:
        over = f"`{command.method} {command.path}`"
        where = f"`agentcom.cmd.{command.name}`, {over}"
        yield from _door(command.name, where, command.body, command.answer, nested)
    yield "## Questions"
    yield ""
    for route in QUERIES:
        where = f"`agentcom.query.{route.query}`, `GET {route.path}`"
        yield from _door(route.query, where, route.fields, route.answer, nested)
    for route in BODY_QUERIES:
        where = f"`agentcom.query.{route.query}`, `POST {route.path}`"
        yield from _door(route.query, where, route.fields, route.answer, nested)
    rebuild = QueryRoute("", "rebuild", q.AskRebuild, v.RebuildAnswer)
    where = "`agentcom.query.rebuild`"
    yield from _door(rebuild.query, where, rebuild.fields, rebuild.answer, nested)
    yield "## Output"
    yield ""
    yield (
        "A host writes a task's live output on `agentcom.out.HOST.TASK`; operators and "
        "watchers listen there, inside the core account on `agentcom.tap.HOST.TASK`. "
        "Over HTTP it is `GET /api/v1/tasks/{task_id}/output` with "
        "`Accept: text/event-stream`, whose `id` is `GENERATION:ROUTE:NUMBER`."
    )
    yield ""
    yield from _paragraphs(c.Chunk)
    yield from _fields(c.Chunk, ())
    yield from _block(
        {
            "type": "execution_event",
            "task_id": ID,
            "event_type": "token",
            "text": "Hel",
            "timestamp": "2026-01-31T09:12:44.000000Z",
            "route": "01ARZ3NDEKTSV4RRFFQ69G5FB0",
            "generation": 1,
            "attempt": 1,
            "segment": 0,
            "n": 1,
        }
    )
    yield "## What stands inside them"
    yield ""
    for name, struct in sorted(nested.items()):
        yield f"### {name}"
        yield ""
        yield from _paragraphs(struct)
        yield from _fields(struct, ())


def _door(
    name: str,
    where: str,
    asked: type[Any],
    answer: type[Any],
    nested: dict[str, type[msgspec.Struct]],
) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    yield f"On {where}."
    yield ""
    yield from _paragraphs(asked)
    yield from _fields(asked, ())
    request = ASKED.get(name, {})
    convert(request, asked)
    yield from _block(request)
    yield f"Answered with {answer.__name__}:"
    yield ""
    yield from _paragraphs(answer)
    yield from _block(_sample(mi.type_info(answer), DEEP))
    yield from _fields(answer, ())
    for kind in (asked, answer):
        inside: dict[str, type[msgspec.Struct]] = {}
        _collect(mi.type_info(kind), inside)
        inside.pop(kind.__name__, None)
        nested.update(inside)


def _block(body: Any) -> Iterator[str]:
    yield "```json"
    yield json.dumps(body, indent=2, ensure_ascii=False)
    yield "```"
    yield ""


def _sample(info: mi.Type, deep: int, name: str = "") -> Any:
    """Make a value that this type may have."""
    match info:
        case mi.Metadata():
            return _sample(info.type, deep, name)
        case mi.StructType() if deep == 0:
            return {}
        case mi.StructType():
            return {
                field.encode_name: _sample(field.type, deep - 1, field.encode_name)
                for field in info.fields
            }
        case mi.UnionType():
            kinds = [each for each in info.types if not isinstance(each, mi.NoneType)]
            return (
                None if len(kinds) < len(info.types) else _sample(kinds[0], deep, name)
            )
        case mi.LiteralType():
            said = _SAID.get(name)
            return said if said in info.values else info.values[0]
        case mi.ListType() if name in _SAID:
            return _SAID[name]
        case mi.ListType():
            item = _sample(info.item_type, deep, "")
            return [item] if isinstance(item, dict) and item else []
        case mi.DictType():
            return {}
        case mi.StrType() if name.endswith("_at"):
            return "2026-01-31T09:12:44.000000Z"
        case _:
            said = _SAID.get(name)
            plain = _OF_KIND[type(info)]
            return said if type(said) is type(plain) else plain


# -- policy.md -------------------------------------------------------------------------


def policy_page() -> str:
    """Write out what each number of the policy means."""
    lines = [
        "# The numbers that decide",
        "",
        NOTE,
        "",
        "`agentcom policy show` prints those in force, `agentcom policy set NAME=VALUE` "
        "changes one at once and everywhere, `agentcom policy explain NAME` says what "
        "is here. Each change is an event in the log.",
        "",
        "| name | unit | default | what it is | when it is changed | read by |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in explained():
        default = msgspec.json.encode(row.default).decode()
        cells = (
            f"`{row.name}`",
            row.unit,
            f"`{default}`",
            row.meaning,
            row.effect,
            f"`{row.read_by}`",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
