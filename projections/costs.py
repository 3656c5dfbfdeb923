"""The fold over what runs cost: tokens and dollars by hour, model, tier, repo, host and endpoint.

Every run that reports is booked once, in the hour it ended, whether its result counted
or not; what a round of its verification told before, when it told it. The cells hold what has been added since the store last took it; the store holds
the sums. Hours are the reporting host's, in UTC.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import Struct, field

from events import catalogue as c
from projections.record import NOTHING, Spent, labels_text

if TYPE_CHECKING:
    from projections.judged import JudgedEvent
    from projections.record import Routing

VERSION: Final = 7
_HOUR: Final = re.compile(r"\d{4}-[01]\d-[0-3]\dT[0-2]\d", re.ASCII)
_hours: set[str] = set()


class Cell(NamedTuple):
    """What a booking is filed under. `fallback` is the outage, see `outage_of`.

    `labels` are the task's, as a JSON object in the order of their keys; `root` is the
    first task of its tree, "" for a task that is by itself.
    """

    hour: str
    model: str
    tier: str
    repo: str
    host: str
    endpoint: str
    target_type: str
    fallback: str
    simulated: bool
    submitter: str
    labels: str
    root: str


class Booked(Struct):
    """What was booked in a cell: runs, those that completed, those that came too late."""

    runs: int = 0
    completed: int = 0
    late: int = 0
    spent: Spent = NOTHING


class CostsState(Struct):
    """Bookings since the store last took them, and the sum of all before those."""

    cells: dict[Cell, Booked] = field(default_factory=dict)
    stored: Spent = NOTHING

    @property
    def total(self) -> Spent:
        """The sum of all bookings there ever were."""
        return sum((booked.spent for booked in self.cells.values()), self.stored)


def evolve(state: CostsState, judged: JudgedEvent) -> None:
    """Book what an event says was spent."""
    result, spent = judged.result, judged.spent
    task, routing = judged.task, judged.routing
    if spent is None or task is None or routing is None:
        return
    event: Any = judged.recorded.event
    cell = Cell(
        hour_of(event.at),
        (event.spent if result is None else result).model_used,
        routing.tier,
        task.repo,
        routing.host,
        routing.endpoint,
        routing.target_type,
        outage_of(routing),
        routing.simulated if result is None else result.simulated,
        task.submitter,
        labels_text(task.labels),
        task.tree,
    )
    booked = state.cells.get(cell)
    if booked is None:
        booked = state.cells[cell] = Booked()
    booked.spent += spent
    if result is None:
        return
    booked.runs += 1
    if judged.verdict != "applied":
        booked.late += 1
    elif type(event) is c.TaskCompleted:
        booked.completed += 1


def outage_of(routing: Routing) -> str:
    """Name what drove a run off its preferred tier, the same for all of one outage.

    "" where the run was on its preferred tier. Runs are summed by this text, so it must
    not hold what differs within one outage, such as how long a task waited.
    """
    if not routing.fallback_used:
        return ""
    hop = f"{routing.fallback_from_tier} to {routing.tier}"
    match routing.fallback_code:
        case "absent":
            return f"{hop}: not set up"
        case "down" if routing.fallback_since:
            return f"{hop}: down since {routing.fallback_since[:19]}Z"
        case "verification":
            return f"{hop}: its work did not pass its verification"
        case "failed":
            return f"{hop}: every endpoint failed on the task"
        case _:
            return f"{hop}: nothing met the task's needs"


def hour_of(at: str) -> str:
    """Return the hour of an instant, `2026-01-31T09`, "" if it is no instant."""
    hour = at[:13]
    if hour in _hours:
        return hour
    if _HOUR.fullmatch(hour) is None:
        return ""
    if len(_hours) > 10_000:
        _hours.clear()
    _hours.add(hour)
    return hour
