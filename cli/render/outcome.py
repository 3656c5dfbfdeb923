"""How a task ended, in one structure: what `submit --wait --json` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from events import catalogue as c
from projections.mapping import detail

if TYPE_CHECKING:
    from projections.answers import TaskAnswer, TaskDetail
    from projections.record import TaskRecord


class Outcome(Struct, kw_only=True):
    """How a task ended: what `submit --wait --json` prints.

    Tokens and dollars are the sum over all its runs; None is unknown. `cost_basis` is what
    the least certain of the dollars rest on; `estimated` and `reported_unpriced` are a guess.
    `state` is the task's final one (`status`: its older name, kept for one release),
    `error` says why it did not complete. `model` is the one that it was sent to,
    `model_used` the one that the result names. `truncated`: the output here is not all of
    it; `length_limited`: the model was cut off at a limit of tokens.
    """

    task_id: str
    status: str
    state: str = ""
    output: str = ""
    stderr: str = ""
    model: str = ""
    model_used: str = "none"
    tokens_in: int | None = 0
    tokens_out: int | None = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    estimated_cost_usd: float | None = 0.0
    cost_basis: str = "none"
    equivalent_claude_cost_usd: float = 0.0
    saved_usd: float = 0.0
    execution_ms: float | None = None
    error: c.RunError | None = None
    exit_code: int | None = None
    truncated: bool = False
    length_limited: bool = False
    tier: str = ""
    target_type: str = ""
    host: str = ""
    endpoint: str = ""
    fallback_used: bool = False
    fallback_from_tier: str | None = None
    attempts: int = 0
    generation: int = 0
    late: bool = False
    simulated: bool = False
    cwd: str = ""
    changes: c.Changes | None = None


_OF_RESULT: Final = (
    *("output", "stderr", "exit_code", "truncated", "length_limited", "changes"),
)
"""What the last run's result alone has; the task itself has the rest."""


def outcome_of(record: TaskRecord, result: c.Result | None) -> Outcome:
    """Say how a task ended, from its record and the last result that counted."""
    return _outcome(detail(record, submission=None, result=result, env={}))


def outcome_of_answer(answer: TaskAnswer) -> Outcome:
    """Say how a task ended, from what the read models answer."""
    return _outcome(answer.task)


def _outcome(task: TaskDetail) -> Outcome:
    fields = {
        name: getattr(task, name)
        for name in Outcome.__struct_fields__
        if name not in _OF_RESULT
    }
    if task.result is not None:
        fields |= {name: getattr(task.result, name) for name in _OF_RESULT}
    return Outcome(**fields | {"status": task.state})
