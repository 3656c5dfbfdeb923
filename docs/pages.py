"""Writes the files that are made from the code: `make docs`.

`events.md` is the catalogue, `lifecycle.md` a task's table of phases and its picture,
`doors.md` every command, question and answer, `policy.md` every number of the policy,
`web/ui/answers.d.ts` what the read models answer, as the page's type checker reads it. A
test holds the committed files against what this makes.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import inspect as mi

from analysis.savings import SavingsAnswer
from events import catalogue as c
from events import commands, lifecycle
from events.lifecycle import FINAL, PHASES, TABLE, Absent, Phase
from projections import answers, answers_later, answers_whatif

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = Path(__file__).parent
NOTE: Final = "<!-- Made from the code by `make docs`; change it there. -->"

# A family of events: its class, the subject it stands on, who may write there.
FAMILIES: Final[list[tuple[str, type[c.Event], str, str]]] = [
    (
        "What was decided about a task",
        c.TaskEvent,
        "agentcom.evt.task.<task>",
        "gateway, scheduler",
    ),
    (
        "What happened to a task on a host",
        c.RunEvent,
        "agentcom.evt.run.<host>.<task>",
        "that host alone",
    ),
    (
        "What a host says of itself and its endpoints",
        c.HostEvent,
        "agentcom.evt.host.<host>",
        "that host alone",
    ),
    (
        "What was decided about a host or endpoint",
        c.FleetEvent,
        "agentcom.evt.fleet.<host or endpoint>",
        "gateway, scheduler",
    ),
    (
        "What was found about a tier",
        c.TierEvent,
        "agentcom.evt.tier.<tier>",
        "scheduler, gateway",
    ),
    ("The policy", c.PolicyChanged, "agentcom.evt.policy", "gateway"),
    ("The leader", c.SchedulerElected, "agentcom.evt.scheduler", "scheduler"),
    (
        "One command for many tasks",
        c.BulkEvent,
        "agentcom.evt.bulk.<bulk>",
        "gateway",
    ),
    (
        "A schedule",
        c.ScheduleEvent,
        "agentcom.evt.schedule.<schedule>",
        "gateway, scheduler",
    ),
    ("A clock", c.ClockStepped, "agentcom.evt.scheduler", "scheduler"),
]
_HEAD: Final = c.Event.__struct_fields__


# -- events.md -------------------------------------------------------------------------


def events_page() -> str:
    """Write out the catalogue."""
    return "\n".join(_events()) + "\n"


def _events() -> Iterator[str]:
    known = c.types()
    yield "# The events"
    yield ""
    yield NOTE
    yield ""
    yield from _paragraphs(c)
    yield f"There are {len(known)} of them. Every event carries:"
    yield ""
    yield from _fields(c.Event, ())
    nested: dict[str, type[msgspec.Struct]] = {}
    for title, base, subject, writers in FAMILIES:
        yield f"## {title}"
        yield ""
        yield f"On `{subject}`, written by {writers}."
        common = [name for name in base.__struct_fields__ if name not in _HEAD]
        is_family = base not in known.values()
        if common and is_family:
            yield "Beside the above, each of these carries:"
            yield ""
            yield from _fields(base, _HEAD)
        else:
            yield ""
        for tag, kind in known.items():
            if issubclass(kind, base):
                yield f"### `{tag}`"
                yield ""
                yield from _paragraphs(kind)
                yield from _fields(kind, base.__struct_fields__ if is_family else _HEAD)
                _collect(mi.type_info(kind), nested)
    yield "## What stands inside them"
    yield ""
    for name, struct in sorted(nested.items()):
        yield f"### {name}"
        yield ""
        yield from _paragraphs(struct)
        yield from _fields(struct, ())


def _paragraphs(thing: Any) -> Iterator[str]:
    yield from (inspect.getdoc(thing) or "").splitlines()
    yield ""


def _fields(kind: type[msgspec.Struct], without: tuple[str, ...]) -> Iterator[str]:
    info = mi.type_info(kind)
    assert isinstance(info, mi.StructType)
    shown = [field for field in info.fields if field.name not in without]
    if not shown:
        return
    yield "| field | type | default |"
    yield "| --- | --- | --- |"
    for field in shown:
        yield f"| `{field.name}` | {_type(field.type)} | {_default(field)} |"
    yield ""


def _default(field: mi.Field) -> str:
    if field.required:
        return "required"
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    else:
        default = field.default
    return f"`{msgspec.json.encode(default).decode()}`"


def _type(info: mi.Type) -> str:
    match info:
        case mi.Metadata():
            return _type(info.type)
        case mi.UnionType():
            return " or ".join(_type(one) for one in info.types)
        case mi.StructType():
            return f"[{info.cls.__name__}](#{info.cls.__name__.lower()})"
        case mi.ListType():
            return f"list of {_type(info.item_type)}{_bounds(info)}"
        case mi.DictType():
            return f"object of {_type(info.value_type)}"
        case mi.LiteralType():
            return ", ".join(f"`{value}`" for value in info.values)
        case mi.StrType() if info.pattern == c.TOKEN_PATTERN:
            return "token"
        case mi.AnyType():
            return "any JSON"
        case mi.NoneType():
            return "null"
        case mi.FloatType():
            return f"number{_bounds(info)}"
        case _:
            return f"{type(info).__name__.removesuffix('Type').lower()}{_bounds(info)}"


def _bounds(info: Any) -> str:
    words = {
        "min_length": "at least {}",
        "max_length": "at most {}",
        "ge": "{} or more",
        "gt": "more than {}",
        "le": "up to {}",
        "lt": "less than {}",
    }
    said = [
        text.format(f"{value:,}")
        for name, text in words.items()
        if (value := getattr(info, name, None)) is not None and abs(value) < 2**62
    ]
    return f" ({', '.join(said)})" if said else ""


def _collect(info: Any, structs: dict[str, type[msgspec.Struct]]) -> None:
    """Gather the structs that a type holds, at any depth."""
    match info:
        case mi.StructType():
            is_event = issubclass(info.cls, c.Event)
            if not is_event:
                if info.cls.__name__ in structs:
                    return
                structs[info.cls.__name__] = info.cls
            for field in info.fields:
                _collect(field.type, structs)
        case mi.UnionType():
            for one in info.types:
                _collect(one, structs)
        case mi.ListType():
            _collect(info.item_type, structs)
        case mi.DictType():
            _collect(info.value_type, structs)
        case mi.Metadata():
            _collect(info.type, structs)
        case _:
            return


# -- lifecycle.md ----------------------------------------------------------------------


def lifecycle_page() -> str:
    """Write out the life of a task: the picture and the whole table."""
    return "\n".join(_lifecycle()) + "\n"


def _lifecycle() -> Iterator[str]:
    yield "# The life of a task"
    yield ""
    yield NOTE
    yield ""
    first, _, _ = (inspect.getdoc(lifecycle) or "").partition("\n    ")
    yield from first.strip().splitlines()
    yield ""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield from _picture()
    yield "```"
    yield ""
    yield "Lines about a run and other steps that stay in their phase are left out of"
    yield "the picture. The whole table, event by phase, `·` where the event is void:"
    yield ""
    phases: tuple[Phase | Absent, ...] = ("absent", *PHASES)
    yield "| event | " + " | ".join(phases) + " |"
    yield "| --- |" + " --- |" * len(phases)
    for tag, kind in c.types().items():
        if any(legal is kind for _, legal in TABLE):
            cells = [TABLE.get((phase, kind)) or "·" for phase in phases]
            yield f"| `{_name(tag)}` | " + " | ".join(cells) + " |"


def _picture() -> Iterator[str]:
    steps: dict[tuple[Phase | Absent, Phase], list[str]] = {}
    for tag, kind in c.types().items():
        for (phase, legal), after in TABLE.items():
            if legal is kind and phase != after:
                steps.setdefault((phase, after), []).append(_name(tag))
    for (before, after), names in steps.items():
        start = "[*]" if before == "absent" else before
        words = ", ".join(name.removeprefix("task.") for name in names)
        yield f"    {start} --> {after}: {words}"
    for final in sorted(FINAL):
        yield f"    {final} --> [*]"


def _name(tag: str) -> str:
    return tag.rpartition(".v")[0]


# -- web/ui/answers.d.ts ---------------------------------------------------------------

ANSWERED: Final[tuple[type[msgspec.Struct], ...]] = (
    answers.TasksAnswer,
    answers.TaskAnswer,
    answers.QueueAnswer,
    answers.HostsAnswer,
    answers.StatsAnswer,
    answers.AttentionAnswer,
    answers.CostsAnswer,
    answers_whatif.WhatIfAnswer,
    answers_later.SchedulesAnswer,
    answers_later.PlannedAnswer,
    answers_later.GraphAnswer,
    SavingsAnswer,
    commands.BulkProgress,
    c.Chunk,
)
_WORDS: Final = {
    mi.AnyType: "any",
    mi.NoneType: "null",
    mi.BoolType: "boolean",
    mi.IntType: "number",
    mi.FloatType: "number",
    mi.StrType: "string",
}


def answers_types() -> str:
    """Write the answers, and the structs inside them, as TypeScript interfaces."""
    structs: dict[str, type[msgspec.Struct]] = {"TaskRouted": c.TaskRouted}
    for answer in ANSWERED:
        _collect(mi.type_info(answer), structs)
    lines = ["// Made from the code by `make docs`; change it there."]
    for name, struct in sorted(structs.items()):
        info = mi.type_info(struct)
        assert isinstance(info, mi.StructType)
        lines.append(f"export interface {name} {{")
        for each in info.fields:
            # What has its default may be left out where the struct says so.
            left_out = not each.required and struct.__struct_config__.omit_defaults
            mark = "?" if left_out else ""
            lines.append(f"  {each.encode_name}{mark}: {_typescript(each.type)};")
        lines.append("}")
    return "\n".join(lines) + "\n"


def _typescript(info: mi.Type) -> str:
    match info:
        case mi.Metadata(type=kind):
            return _typescript(kind)
        case mi.StructType(cls=cls):
            return cls.__name__
        case mi.UnionType(types=types):
            return " | ".join(_typescript(each) for each in types)
        case mi.LiteralType(values=values):
            return " | ".join(msgspec.json.encode(each).decode() for each in values)
        case mi.ListType(item_type=item):
            return f"Array<{_typescript(item)}>"
        case mi.DictType(value_type=value):
            return f"Record<string, {_typescript(value)}>"
        case _:
            return _WORDS[type(info)]


def _doors_page() -> str:
    from docs.doors import doors_page

    return doors_page()


def _policy_page() -> str:
    from docs.doors import policy_page

    return policy_page()


PAGES: Final = {
    "events.md": events_page,
    "doors.md": _doors_page,
    "policy.md": _policy_page,
    "lifecycle.md": lifecycle_page,
    "../web/ui/answers.d.ts": answers_types,
}


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
