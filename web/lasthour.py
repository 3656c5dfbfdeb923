"""How long tasks waited and ran in the last hour, by tier, and how many ran at a time.

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
from projections.tiers import instant_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from projections.judged import JudgedEvent
    from projections.record import TaskRecord
    from projections.runner import Runner

MINUTES: Final = 60
STORED_AT_ONCE: Final = 2_000
STORED_SOUGHT: Final = 50_000
"""So many tasks at most are looked through when the process starts."""

Key = tuple[str, str]
"""`wait` or `run`, and the tier."""
Curves = dict[str, dict[str, list[float | None]]]


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
        # How long tasks ran in each minute, in ms, by ("busy" or "hosts", tier or host).
        self._ran: dict[int, dict[Key, float]] = {}
        self._curves: tuple[int, Curves] | None = None

    def take(self, judged: JudgedEvent) -> None:
        """Count what an event says that was just folded in."""
        task, event = judged.task, judged.recorded.event
        if task is None or judged.verdict != "applied" or judged.before == judged.after:
            return
        if isinstance(event, c.TaskStarted):
            self._wait(task.tier, task.waiting_since, event.at)
        elif judged.after in FINAL and judged.result is not None:
            self._add(("run", task.tier), event.at, judged.result.execution_ms)
            host = judged.routing.host if judged.routing is not None else task.host
            self._busy(task.tier, host, event.at, judged.result.execution_ms)

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
            if len(records) < STORED_AT_ONCE:
                return
            if instant_of(records[-1].finished_at) < since:
                return

    def _stored(self, records: list[TaskRecord], seen: set[str], upto: int) -> None:
        for record in records:
            if record.id in seen or record.updated_seq > upto:
                continue
            seen.add(record.id)
            if record.started_at:
                self._wait(record.tier, record.waiting_since, record.started_at)
            if record.finished_at and record.execution_ms is not None:
                ended, ran = record.finished_at, record.execution_ms
                self._add(("run", record.tier), ended, ran)
                self._busy(record.tier, record.host, ended, ran)

    def _wait(self, tier: str, since: str, until: str) -> None:
        waited = between_ms(since, until)
        if waited is not None:
            self._add(("wait", tier), until, waited)

    def _busy(self, tier: str, host: str, until: str, ms: float) -> None:
        """Count a run in the minutes that it took."""
        try:
            age_s = self._clock() - instant(until)
        except Malformed:
            return
        self._forget()
        end_s = self._monotonic() - max(age_s, 0.0)
        _spread(self._ran, (("busy", tier), ("hosts", host)), end_s - ms / 1_000, end_s)

    def curves(self, running: Iterable[TaskRecord]) -> Curves:
        """Return the last hour's finished minutes one by one, the oldest first.

        `wait` is how long half of a tier's tasks waited at most, in ms, None where none
        began; `busy` and `hosts` how many tasks ran on average, by tier and by host.
        `running` are those that run now. They are the same until the next minute.
        """
        now = self._forget()
        if self._curves is not None and self._curves[0] == now:
            return self._curves[1]
        ran = {minute: dict(counted) for minute, counted in self._ran.items()}
        now_s = self._monotonic()
        for record in running:
            try:
                age_s = self._clock() - instant(record.started_at)
            except Malformed:
                continue
            places = (("busy", record.tier), ("hosts", record.host))
            _spread(ran, places, now_s - age_s, now_s)
        minutes = range(now - MINUTES, now)
        found: Curves = {"wait": {}, "busy": {}, "hosts": {}}
        for kind, name in sorted({key for counted in ran.values() for key in counted}):
            found[kind][name] = [
                round(ran.get(minute, {}).get((kind, name), 0.0) / 60_000, 2)
                for minute in minutes
            ]
        for kind, tier in sorted(self._sums):
            if kind == "wait" and self._sums[kind, tier].n:
                waits = [self._minutes.get(m, {}).get((kind, tier)) for m in minutes]
                found["wait"][tier] = [
                    None if each is None else each.quantile(0.5) for each in waits
                ]
        self._curves = (now, found)
        return found

    def _add(self, key: Key, at: str, ms: float) -> None:
        now = self._forget()
        age_s = self._clock() - instant_of(at)
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
        for minute in [each for each in self._ran if each < now - MINUTES]:
            del self._ran[minute]
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


def _spread(
    ran: dict[int, dict[Key, float]], keys: Iterable[Key], began_s: float, end_s: float
) -> None:
    """Add the time from `began_s` to `end_s` to the minutes of the last hour that it is in."""
    places = tuple(keys)
    last = int(end_s // 60)
    for minute in range(max(int(began_s // 60), last - MINUTES), last + 1):
        ms = (min(end_s, (minute + 1) * 60) - max(began_s, minute * 60)) * 1_000
        counted = ran.setdefault(minute, {})
        for key in places:
            counted[key] = counted.get(key, 0.0) + max(ms, 0.0)


def _subtract(sums: Histogram, gone: Histogram) -> None:
    sums.counts = [a - b for a, b in zip(sums.counts, gone.counts, strict=True)]
    sums.total_us -= gone.total_us
