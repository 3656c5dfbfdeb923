"""A log that measures: how long appends take, and how many the log refuses.

It wraps any `events.log.EventLog` and says what goes through it, so that a role can be
measured without being changed. Beside it the two kinds of counters that roles keep for
Prometheus. They begin at 0 with the process.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client.core import Metric

    from events import catalogue as c
    from events.errors import LogError
    from events.log import Appended, EventLog, Follower
    from events.position import Position

FAST_S: Final = tuple(1e-5 * 2**i for i in range(18))
"""10 µs to 1.3 s: decisions and appends."""
SLOW_S: Final = tuple(0.01 * 2**i for i in range(18))
"""10 ms to 22 min: runs."""


class DurationHistogram:
    """Counts durations by bucket; `edges` are the buckets' upper bounds in seconds."""

    def __init__(self, edges: tuple[float, ...]) -> None:
        self._edges = edges
        self._counts = [0] * (len(edges) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self._edges, seconds)] += 1
        self._sum += seconds

    def metric(self, name: str, text: str) -> Metric:
        """Return it as a family of Prometheus metrics, called `name`."""
        seen, buckets = 0, []
        for edge, count in zip(self._edges, self._counts, strict=False):
            seen += count
            buckets.append((f"{edge:.6g}", float(seen)))
        buckets.append(("+Inf", float(seen + self._counts[-1])))
        family = HistogramMetricFamily(name, text)
        family.add_metric((), buckets, self._sum)
        return family


class Tally:
    """Counts, one for each set of values of `labels`."""

    def __init__(self, *labels: str) -> None:
        self._labels = labels
        self._counts: dict[tuple[str, ...], float] = {}

    def add(self, *values: str, by: float = 1) -> None:
        """Count one, or `by`."""
        self._counts[values] = self._counts.get(values, 0) + by

    def metric(self, name: str, text: str) -> Metric:
        """Return it as a family of Prometheus metrics, called `name`."""
        family = CounterMetricFamily(name, text, labels=self._labels)
        for values, count in sorted(self._counts.items()):
            family.add_metric(values, count)
        return family


class MeteredLog:
    """An EventLog around another, whose appends are timed and counted.

    `appended` is called with each event once the log has stored it; `seen` with each
    that a follower reads, from the moment it has caught up.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        appended: Callable[[c.Event], None] = lambda event: None,
        seen: Callable[[c.Event], None] = lambda event: None,
    ) -> None:
        self.appends = DurationHistogram(FAST_S)
        self.failures = Tally("error")
        self._log = log
        self._appended = appended
        self._seen = seen

    def append(
        self, subject: str, event: c.Event, *, expect: int | None = None
    ) -> asyncio.Future[int]:
        clock = asyncio.get_running_loop().time
        began = clock()
        future = self._log.append(subject, event, expect=expect)

        def done(stored: asyncio.Future[int]) -> None:
            if stored.cancelled():
                return
            error = stored.exception()
            if error is not None:
                self.failures.add(str(getattr(error, "code", type(error).__name__)))
                return
            self.appends.add(clock() - began)
            self._appended(event)

        future.add_done_callback(done)
        return future

    def append_then(
        self, subject: str, event: c.Event, done: Appended, *, expect: int | None = None
    ) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()

        def appended(seq: int, error: LogError | None) -> None:
            if error is None:
                self.appends.add(clock() - began)
                self._appended(event)
            else:
                self.failures.add(error.code)
            done(seq, error)

        self._log.append_then(subject, event, appended, expect=expect)

    async def append_batch(
        self, items: Sequence[tuple[str, c.Event, int]]
    ) -> list[int]:
        stored = await self._log.append_batch(items)
        for _, event, _ in items:
            self._appended(event)
        return stored

    async def follow(
        self,
        callback: Callable[[c.Recorded], None],
        *,
        start: int = 1,
        after: Position | None = None,
        subjects: Sequence[str] = (),
    ) -> Follower:
        caught_up: list[asyncio.Event] = []

        def take(recorded: c.Recorded) -> None:
            callback(recorded)
            # What was there before this process is not its doing.
            if caught_up and caught_up[0].is_set():
                self._seen(recorded.event)

        follower = await self._log.follow(
            take, start=start, after=after, subjects=subjects
        )
        caught_up.append(follower.caught_up)
        return follower

    async def read(
        self, subject: str, *, start: int = 1, limit: int = 1_000_000
    ) -> list[c.Recorded]:
        return await self._log.read(subject, start=start, limit=limit)

    async def get(self, seq: int) -> c.Recorded | None:
        return await self._log.get(seq)

    async def last(self, subject: str) -> c.Recorded | None:
        return await self._log.last(subject)

    async def last_sequence(self) -> int:
        return await self._log.last_sequence()

    def metrics(self) -> Iterator[Metric]:
        """Yield what was measured of the appends, for Prometheus."""
        yield self.appends.metric(
            "agentcom_append_seconds", "From sending an event until the log has it."
        )
        yield self.failures.metric(
            "agentcom_append_failures", "Appends that were refused or not acknowledged."
        )
