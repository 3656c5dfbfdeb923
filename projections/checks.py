"""The verification of a task's run, as its page shows it: each step of each round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from events import catalogue as c
from projections.record import CheckedStep

if TYPE_CHECKING:
    from projections.record import Routing, TaskRecord

STEPS_KEPT: Final = 100
"""Verification steps of one routing that are remembered."""
COMMAND_KEPT: Final = 1_000
OUTPUT_KEPT: Final = 2_000
"""Characters of a step's command, and of the end of its output, that readers see."""


def note_step(
    record: TaskRecord, routing: Routing, event: c.TaskVerified, seq: int
) -> None:
    """Remember how a step ended; an effect as `projections.tasks` has them."""
    del record, seq
    routing.lines += 1
    routing.last_line = event.text[:COMMAND_KEPT]
    if len(routing.checks) >= STEPS_KEPT:
        return
    spent = event.spent or c.RoundSpent()
    routing.checks += (
        CheckedStep(
            round=event.round,
            rounds=event.rounds,
            step=event.step,
            of=event.of,
            command=event.command[:COMMAND_KEPT],
            passed=event.passed,
            exit_code=event.exit_code,
            signal=event.signal,
            code=event.code,
            output=event.output[-OUTPUT_KEPT:],
            execution_ms=event.execution_ms,
            tokens_in=spent.tokens_in,
            tokens_out=spent.tokens_out,
            usd=spent.estimated_cost_usd,
        ),
    )
