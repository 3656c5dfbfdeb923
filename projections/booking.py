"""What a report says was spent, taken into its task and routing once.

A round of verification tells what the work before it used, and the run's end the whole: of
that is booked what the rounds have not told. `projections.costs` sums what is booked here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from projections.record import NOTHING, Routing, Spent, TaskRecord, spent_on

if TYPE_CHECKING:
    from events import catalogue as c
    from projections.judged import JudgedEvent


def book(
    judged: JudgedEvent, record: TaskRecord, routing: Routing, event: c.RunEvent
) -> None:
    """Book what a report says was spent, once a routing and type, counting or not."""
    result: c.Result | None = getattr(event, "result", None)
    kind = type(event).__name__
    if result is None:
        spent = told_by_round(routing, event)
        if spent is None:
            return
    elif kind in routing.booked:
        return
    else:
        routing.booked += (kind,)
        judged.result = result
        spent = spent_on(result).beyond(routing.told)
        routing.told = NOTHING
        record.simulated = record.simulated or result.simulated
    judged.spent = spent
    routing.spent += spent
    record.spent += spent


def told_by_round(routing: Routing, event: c.RunEvent) -> Spent | None:
    """Return what a round says it used, None where it was told, or the run is over."""
    told: c.RoundSpent | None = getattr(event, "spent", None)
    number: int = getattr(event, "round", 0)
    if told is None or number <= routing.rounds_told or routing.booked:
        return None
    routing.rounds_told = number
    spent = spent_on(told)
    routing.told += spent
    return spent
