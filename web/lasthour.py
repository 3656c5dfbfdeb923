"""How long tasks waited and ran in the last hour, by tier.

The read models count durations over everything; a page that says how it goes now wants
the last hour. It is counted from what is folded in while this process runs, and, when it
starts, from the stored tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from events import catalogue as c
from events.codec import instant
from events.errors import Malformed
from events.lifecycle import FINAL
from projections import search
from projections.search import TaskPage
from projections.stats import Histogram, between_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.judged import JudgedEvent
    from projections.record import TaskRecord
    from projections.runner import Runner

MINUTES: Final = 60
STORED_AT_ONCE: Final = 2_000
STORED_SOUGHT: Final = 50_000
"""So many tasks at most are looked through when the process starts."""

Key = tuple[str, str]
"""`wait` or `run`, and the tier."""


class LastHour:
    """Durations by minute, and their sums.

    `clock` tells seconds since the epoch. Minutes are of `monotonic`: what was counted
    gets old evenly, wherever the wall clock is put.
    """

    def __init__(
        self, clock: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._minutes: dict[int, dict[Key, Histogram]] = {}
        self._sums: dict[Key, Histogram] = {}

    def take(self, judged: JudgedEvent) -> None:
        """Count what an event says that was just folded in."""
        task, event = judged.task, judged.recorded.event
        if task is None or judged.verdict != "applied" or judged.before == judged.after:
            return
        if isinstance(event, c.TaskStarted):
            self._wait(task.tier, task.waiting_since, event.at)
        elif judged.after in FINAL and judged.result is not None:
            self._add(("run", task.tier), event.at, judged.result.execution_ms)

    async def look_back(self, runner: Runner, upto: int) -> None:
        """Count what was before: of each stored task its last wait and its last run.

        What came after `upto` is left to `take`.
        """
        since = self._clock() - MINUTES * 60
        seen: set[str] = set()
        running = TaskPage(
            state=["running", "cancelling", "returned"], limit=STORED_SOUGHT
        )
        under_way = await runner.store.look(search.tasks(running))
        self._stored(under_way.tasks, seen, upto)
        for offset in range(0, STORED_SOUGHT, STORED_AT_ONCE):
            page = TaskPage(sort="-finished", limit=STORED_AT_ONCE, offset=offset)
            records = (await runner.store.look(search.tasks(page))).tasks
            self._stored(records, seen, upto)
            if len(records) < STORED_AT_ONCE or _before(records[-1], since):
                return

    def _stored(self, records: list[TaskRecord], seen: set[str], upto: int) -> None:
        for record in records:
            if record.id in seen or record.updated_seq > upto:
                continue
            seen.add(record.id)
            if record.started_at:
                self._wait(record.tier, record.waiting_since, record.started_at)
            if record.finished_at and record.execution_ms is not None:
                self._add(("run", record.tier), record.finished_at, record.execution_ms)

    def _wait(self, tier: str, since: str, until: str) -> None:
        waited = between_ms(since, until)
        if waited is not None:
            self._add(("wait", tier), until, waited)

    def _add(self, key: Key, at: str, ms: float) -> None:
        try:
            age_s = self._clock() - instant(at)
        except Malformed:
            return
        now = self._forget()
        minute = int((self._monotonic() - age_s) // 60)
        if minute <= now - MINUTES:
            return
        # Another machine's clock may be ahead.
        counted = self._minutes.setdefault(min(minute, now), {})
        counted.setdefault(key, Histogram()).add(max(ms, 0.0))
        self._sums.setdefault(key, Histogram()).add(max(ms, 0.0))

    def _forget(self) -> int:
        """Take out the minutes that are over; return the present one."""
        now = int(self._monotonic() // 60)
        for minute in [each for each in self._minutes if each <= now - MINUTES]:
            for key, gone in self._minutes.pop(minute).items():
                _subtract(self._sums[key], gone)
        return now

    def figures(self, kind: str) -> dict[str, Any]:
        """Return how often, how long at most for half and for 95 %, and counts, by tier."""
        self._forget()
        return {
            tier: {
                "n": durations.n,
                "p50_ms": durations.quantile(0.5),
                "p95_ms": durations.quantile(0.95),
                "counts": list(durations.counts),
            }
            for (of, tier), durations in sorted(self._sums.items())
            if of == kind and durations.n
        }


def _before(record: TaskRecord, since: float) -> bool:
    try:
        return instant(record.finished_at) < since
    except Malformed:
        return True


def _subtract(sums: Histogram, gone: Histogram) -> None:
    sums.counts = [a - b for a, b in zip(sums.counts, gone.counts, strict=True)]
    sums.total_us -= gone.total_us
    sums.n -= gone.n


__all__ = ["LastHour"]
