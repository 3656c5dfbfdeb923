"""How a task ended, in one structure: what `submit --wait --json` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from events import catalogue as c
from projections.mapping import why_not
from projections.record import NANO

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


def outcome_of(record: TaskRecord, result: c.Result | None) -> Outcome:
    """Say how a task ended, from its record and the last result that counted."""
    spent = record.spent
    return _outcome(
        record,
        result,
        task_id=record.id,
        state=record.phase,
        attempts=record.attempts_begun,
        cost=None if spent.unpriced else spent.usd_nano / NANO,
        equivalent=spent.equivalent_nano / NANO,
        saved=spent.saved_nano / NANO,
        basis=spent.basis,
        tokens=(
            None if spent.unknown_in else spent.tokens_in,
            None if spent.unknown_out else spent.tokens_out,
        ),
        cache=(spent.cache_read, spent.cache_write),
        error=why_not(record),
        model_used=record.model_used or "none",
    )


def outcome_of_answer(answer: TaskAnswer) -> Outcome:
    """Say how a task ended, from what the read models answer."""
    task = answer.task
    return _outcome(
        task,
        task.result,
        task_id=task.task_id,
        state=task.state,
        attempts=task.attempts,
        cost=task.estimated_cost_usd,
        equivalent=task.equivalent_claude_cost_usd,
        saved=task.saved_usd,
        basis=task.cost_basis,
        tokens=(task.tokens_in, task.tokens_out),
        cache=(task.cache_read_tokens, task.cache_write_tokens),
        error=task.error,
        model_used=task.model_used,
    )


def _outcome(
    about: TaskRecord | TaskDetail,
    result: c.Result | None,
    *,
    task_id: str,
    state: str,
    attempts: int,
    cost: float | None,
    equivalent: float,
    saved: float,
    basis: str,
    tokens: tuple[int | None, int | None],
    cache: tuple[int, int],
    error: c.RunError | None,
    model_used: str,
) -> Outcome:
    outcome = Outcome(
        task_id=task_id,
        status=state,
        state=state,
        model=about.model,
        model_used=model_used,
        tokens_in=tokens[0],
        tokens_out=tokens[1],
        cache_read_tokens=cache[0],
        cache_write_tokens=cache[1],
        cost_basis=basis,
        estimated_cost_usd=cost,
        equivalent_claude_cost_usd=equivalent,
        saved_usd=saved,
        execution_ms=about.execution_ms,
        error=error,
        tier=about.tier,
        target_type=about.target_type,
        host=about.host,
        endpoint=about.endpoint,
        fallback_used=about.fallback_used,
        fallback_from_tier=about.fallback_from_tier,
        attempts=attempts,
        generation=about.generation,
        late=about.late,
        simulated=about.simulated,
        cwd=about.cwd,
    )
    if result is not None:
        outcome.output = result.output
        outcome.stderr = result.stderr
        outcome.exit_code = result.exit_code
        outcome.truncated = result.truncated
        outcome.changes = result.changes
        outcome.length_limited = result.length_limited
    return outcome
