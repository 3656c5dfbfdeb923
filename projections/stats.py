"""The fold that counts: events, decisions, tasks by state, durations.

Decisions are counted once each, whatever became of them; attempts are not decisions.
Durations go into buckets that double, so the document stays small whatever the load.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from events import catalogue as c
from events.lifecycle import FINAL

if TYPE_CHECKING:
    from projections.judged import JudgedEvent
    from projections.record import TaskRecord

BUCKETS_MS: Final[tuple[float, ...]] = tuple(float(2**i) / 4 for i in range(26))
"""Upper edges in milliseconds, 0.25 ms to 2.3 h; one more bucket takes the rest."""
MINUTES_KEPT: Final = 120
MODELS_KEPT: Final = 200
"""Models of a tier that are told apart; the rest count as "other"."""
VERSION: Final = 3
_MILLISECOND: Final = timedelta(milliseconds=1)
TAGS: Final = {kind: tag for tag, kind in c.types().items()}


class Histogram(Struct):
    """Durations by bucket; `total_us` is the sum of all `n` in whole microseconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_MS) + 1))
    total_us: int = 0

    @property
    def n(self) -> int:
        """How many there are."""
        return sum(self.counts)

    def add(self, ms: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS_MS, ms)] += 1
        self.total_us += round(ms * 1_000)

    def quantile(self, q: float) -> float | None:
        """Return the upper edge of the bucket that holds the q-th part; None if empty."""
        n = self.n
        if not n:
            return None
        rank, seen = q * n, 0
        for edge, count in zip(BUCKETS_MS, self.counts, strict=False):
            seen += count
            if seen >= rank:
                return edge
        return BUCKETS_MS[-1]


class Minute(Struct):
    """What happened in one minute."""

    submitted: int = 0
    started: int = 0
    completed: int = 0
    failed: int = 0
    other: int = 0


class FirstRounds(Struct):
    """How often work passed its verification at the first round, and how often not."""

    passed: int = 0
    failed: int = 0


class StatsState(Struct):
    """Counts of everything, one small document.

    `refused` counts the events that were not applied, by verdict; `first_rounds` is by
    tier and model.
    """

    events: int = 0
    states: dict[str, int] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    void: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    last_seq: int = 0
    last_at: str = ""
    hops: dict[str, int] = field(default_factory=dict)
    decisions_by_tier: dict[str, int] = field(default_factory=dict)
    decisions_by_target: dict[str, int] = field(default_factory=dict)
    fallbacks: int = 0
    waits_avoided: int = 0
    disagreements: dict[str, int] = field(default_factory=dict)
    minutes: dict[str, Minute] = field(default_factory=dict)
    wait_ms: dict[str, Histogram] = field(default_factory=dict)
    run_ms: dict[str, Histogram] = field(default_factory=dict)
    first_rounds: dict[str, dict[str, FirstRounds]] = field(default_factory=dict)

    @property
    def standings(self) -> dict[str, int]:
        """How many events got which verdict, as programs know them: applied is "taken"."""
        taken = self.events - sum(self.refused.values())
        return {**({"taken": taken} if taken else {}), **self.refused}

    @property
    def undecodable(self) -> int:
        """Messages that are no events: the log has no gaps, so all that was skipped."""
        return self.last_seq - self.events


def evolve(state: StatsState, judged: JudgedEvent) -> None:
    """Count one event, whatever its verdict."""
    recorded, verdict = judged.recorded, judged.verdict
    event = recorded.event
    state.last_seq = recorded.seq
    state.last_at = event.at
    state.events += 1
    kind = TAGS.get(type(event))
    if kind is None:
        _count(state.unknown, c.tag(event))
    else:
        types = state.types
        types[kind] = types.get(kind, 0) + 1
    if verdict != "applied":
        _count(state.refused, verdict)
        if verdict == "void":
            _count(state.void, f"{kind}: {judged.reason}")
        return
    task = judged.task
    if task is not None:
        if judged.before != judged.after:
            _task(state, task, judged)
        elif type(event) is c.TaskVerified:
            _verified(state, task, event)


def _task(state: StatsState, task: TaskRecord, judged: JudgedEvent) -> None:
    event: Any = judged.recorded.event
    kind, after = type(event), judged.after
    states = state.states
    if before := judged.before:
        states[before] -= 1
    states[after] = states.get(after, 0) + 1
    if kind is c.TaskRouted:
        _decision(state, event)
    elif kind is c.TaskSubmitted:
        _minute(state, event.at).submitted += 1
        classification = event.classification
        if classification.explicit_tier not in (
            None,
            "unknown",
            classification.inferred.tier,
        ):
            _count(
                state.disagreements,
                f"{classification.explicit_tier}/{classification.inferred.tier}",
            )
    elif kind is c.TaskStarted:
        _minute(state, event.at).started += 1
        waited = between_ms(task.waiting_since, event.at)
        if waited is not None:
            _into(state.wait_ms, task.tier, waited)
    elif after in FINAL:
        minute = _minute(state, event.at)
        if after == "completed":
            minute.completed += 1
        elif after == "failed":
            minute.failed += 1
        else:
            minute.other += 1
        if judged.result is not None:
            _into(state.run_ms, task.tier, max(judged.result.execution_ms, 0.0))


def _verified(state: StatsState, task: TaskRecord, event: c.TaskVerified) -> None:
    """Count how a first round ended: with its last step, or the one that failed."""
    if event.round != 1 or (event.passed and event.step < event.of):
        return
    routing = task.routing(event.route)
    tier = task.tier if routing is None else routing.tier
    model = (routing.model if routing is not None else "") or "none"
    by_model = state.first_rounds.setdefault(tier, {})
    if model not in by_model and len(by_model) >= MODELS_KEPT:
        model = "other"
    rounds = by_model.setdefault(model, FirstRounds())
    if event.passed:
        rounds.passed += 1
    else:
        rounds.failed += 1


def _decision(state: StatsState, event: c.TaskRouted) -> None:
    _count(state.decisions_by_tier, event.effective_tier)
    _count(state.decisions_by_target, event.target_type)
    if event.fallback_used:
        state.fallbacks += 1
        _count(state.hops, f"{event.fallback_from_tier}->{event.effective_tier}")
    if event.wait is not None and event.wait.outcome == "avoided":
        state.waits_avoided += 1


def _count(counts: dict[str, int], key: str) -> None:
    try:
        counts[key] += 1
    except KeyError:
        counts[key] = 1


def _into(histograms: dict[str, Histogram], key: str, ms: float) -> None:
    histogram = histograms.get(key)
    if histogram is None:
        histogram = histograms[key] = Histogram()
    histogram.add(ms)


def _minute(state: StatsState, at: str) -> Minute:
    key = at[:16]
    minute = state.minutes.get(key)
    if minute is None:
        minute = state.minutes[key] = Minute()
        if len(state.minutes) > MINUTES_KEPT:
            del state.minutes[min(state.minutes)]
    return minute


def between_ms(earlier: str, later: str) -> float | None:
    """Return the milliseconds between two instants, None if one is none.

    Different machines wrote them, so what would be negative is 0.
    """
    try:
        lasted = datetime.fromisoformat(later) - datetime.fromisoformat(earlier)
    except (ValueError, TypeError):
        return None
    return max(lasted / _MILLISECOND, 0.0)
