"""One name for each idea in what the doors answer; older names only beside it."""

from __future__ import annotations

import inspect
from types import NoneType
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from agentcom import answers as of_library
from analysis import reprice
from cli.render import outcome
from events import catalogue as c
from events import commands
from projections import answers, answers_whatif, mapping
from projections.world import World
from tests.support.histories import History
from web import api

OLDER = {
    "cost_usd": "estimated_cost_usd",
    "cost_usd_then": "estimated_cost_usd_then",
    "usd": "estimated_cost_usd",
    "usd_then": "estimated_cost_usd_then",
    "run_ms": "execution_ms",
    "status": "state",
    "phase": "state",
    "error_code": "error",
    "error_message": "error",
}
NOT_OF_TASKS = {commands.Refusal, of_library.RefusalAnswer}
"""A refusal's `status` is that of HTTP and its `error` a sentence about the request."""


def structs() -> list[type[msgspec.Struct]]:
    found = [
        kind
        for module in (
            answers,
            answers_whatif,
            of_library,
            reprice,
            outcome,
            api,
            commands,
        )
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, msgspec.Struct)
        and kind.__module__ == module.__name__
        and kind not in NOT_OF_TASKS
    ]
    return sorted(set(found), key=lambda kind: (kind.__module__, kind.__name__))


def is_asked(kind: type[msgspec.Struct]) -> bool:
    """Whether it says what is wanted: a filter's `error` is a text to look for."""
    return kind.__struct_config__.forbid_unknown_fields


@pytest.mark.parametrize("kind", structs(), ids=lambda kind: kind.__qualname__)
def test_an_older_name_stands_only_beside_today_s(kind: type[msgspec.Struct]):
    names = set(kind.__struct_fields__)
    if is_asked(kind) or kind.__name__ in ("_Status", "AlertView"):
        return
    alone = {old for old in OLDER if old in names and OLDER[old] not in names}
    assert alone - ({"error_code"} if "code" in names else set()) == set()
    hints: dict[str, Any] = get_type_hints(kind)
    if "error" in names:
        [reason] = set(get_args(hints["error"])) - {NoneType}
        assert set(reason.__struct_fields__) == {"code", "message"}
    if hints.get("attempts", int) is not int:
        assert hints["attempts"] == hints["routes"]


def test_why_a_task_did_not_complete_is_said_in_one_place():
    history = History()
    task_id = history.submit()
    history.cancel(task_id)
    world = World()
    for each in history.recorded:
        world.fold(each)
    record = world.tasks.find(task_id)
    assert record is not None
    said = c.RunError(code="cancelled", message="the task is cancelled")
    assert mapping.row(record).error == mapping.why_not(record) == said
    assert outcome.outcome_of(record, None).error == said
