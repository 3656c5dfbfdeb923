"""What a scheduler does, counted for Prometheus from what goes through its log.

Nothing inside the role is changed for it: a metered log (`events.metered`) counts what is
appended and what comes back, the rest is looked up when somebody asks. Counters begin at
0 with the process; the read models' own (`web/metrics.py`) agree with the whole log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from actors.scheduler.queue import PLACE_KIND
from events import catalogue as c
from events.metered import FAST_S, DurationHistogram, MeteredLog, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from actors.scheduler.role import SchedulerRole
    from events.log import EventLog


class SchedulerMetrics(Collector):
    """What a scheduler does."""

    def __init__(self, log: EventLog) -> None:
        self.log = MeteredLog(log, appended=self._appended, seen=self._saw)
        self.role: SchedulerRole | None = None
        self._decisions = Tally("tier", "target")
        self._fallbacks = Tally("from", "to")
        self._decided = DurationHistogram(FAST_S)
        self._rejected = Tally("reason")
        self._requeued = Tally("reason")

    def _appended(self, event: c.Event) -> None:
        if isinstance(event, c.TaskRouted):
            self._decisions.add(event.effective_tier, event.target_type)
            self._decided.add(event.decided_us / 1e6)
            if event.fallback_used:
                self._fallbacks.add(
                    event.fallback_from_tier or "", event.effective_tier
                )
        elif isinstance(event, c.TaskRequeued):
            self._requeued.add(event.reason)

    def _saw(self, event: c.Event) -> None:
        if isinstance(event, c.TaskRejected):
            self._rejected.add(event.reason[:64])

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, for the registry."""
        yield from self.log.metrics()
        yield self._decisions.metric(
            "agentcom_scheduler_decisions", "Routings decided here and stored."
        )
        yield self._fallbacks.metric(
            "agentcom_scheduler_fallbacks", "Of these, off the preferred tier."
        )
        yield self._decided.metric(
            "agentcom_decision_seconds", "What choosing a place took."
        )
        yield self._requeued.metric(
            "agentcom_scheduler_requeues", "Routes taken out of force."
        )
        yield self._rejected.metric(
            "agentcom_rejected_assignments", "Assignments that a host did not take."
        )
        if self.role is not None:
            yield from _of_role(self.role)


def _of_role(role: SchedulerRole) -> Iterator[Metric]:
    state = role.scheduler.state
    yield GaugeMetricFamily(
        "agentcom_scheduler_leading",
        "1 for the leader.",
        value=int(role.scheduler.leading),
    )
    yield GaugeMetricFamily(
        "agentcom_scheduler_position", "Last sequence folded.", value=state.position
    )
    depth = GaugeMetricFamily(
        "agentcom_scheduler_queue_depth", "Waiting tasks.", labels=("tier",)
    )
    waiting: dict[c.Tier, int] = dict.fromkeys(PLACE_KIND, 0)
    for group in state.queue.groups.values():
        waiting[group.requirement.tier] += group.count
    for tier, count in waiting.items():
        depth.add_metric((tier,), count)
    yield depth
    yield GaugeMetricFamily(
        "agentcom_scheduler_open_tasks",
        "Tasks that are not final.",
        value=len(state.tasks),
    )
    counts = state.counts
    reports = CounterMetricFamily(
        "agentcom_scheduler_events",
        "Events folded that did not count, and decisions that were not stored.",
        labels=("as",),
    )
    for name in ("void", "repeats", "unknown", "undecided"):
        reports.add_metric((name,), getattr(counts, name))
    yield reports
    yield CounterMetricFamily(
        "agentcom_scheduler_malformed_beats",
        "Signs of life that could not be read, or were somebody else's.",
        value=role.malformed_beats,
    )
