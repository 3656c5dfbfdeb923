"""Many seeds: how they are written, and what a worker hands back of each."""

from __future__ import annotations

from typing import NamedTuple

from tests.simulation.graphs import play_graph
from tests.simulation.nights import play_night
from tests.simulation.simulation import Outcome, play


class Short(NamedTuple):
    """What a worker hands back: the history only of a seed that failed."""

    seed: int
    broken: str
    report: str
    events: int
    seconds: float


def seeds_of(text: str) -> list[int]:
    """Read `7`, `0..10` or a list of both."""
    found: list[int] = []
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        found += range(int(first), int(last)) if dots else [int(first)]
    return found


def short(seed: int) -> Short:
    """Play one seed's world."""
    return _short(play(seed))


def short_night(seed: int) -> Short:
    """Play one seed's night."""
    return _short(play_night(seed))


def short_graph(seed: int) -> Short:
    """Play one seed's graph."""
    return _short(play_graph(seed))


def _short(outcome: Outcome) -> Short:
    report = outcome.report() if outcome.broken is not None else ""
    broken = str(outcome.broken or "")
    return Short(outcome.seed, broken, report, outcome.events, outcome.seconds)
