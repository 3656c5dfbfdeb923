"""What a sidecar does, as metrics for Prometheus.

Nothing inside the sidecar is changed for it: a metered log (`events.metered`) counts what
is appended, the rest is looked up when somebody asks. Counters begin at 0 with the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from events import catalogue as c
from events.metered import SLOW_S, DurationHistogram, MeteredLog, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from events.log import EventLog
    from sidecar.host import Sidecar

_ENDED: Final = (c.TaskCompleted, c.TaskFailed, c.TaskReturned, c.TaskStopped)


class SidecarMetrics(Collector):
    """What a sidecar does."""

    def __init__(self, log: EventLog) -> None:
        self.log = MeteredLog(log, appended=self._appended)
        self.sidecar: Sidecar | None = None
        self._runs = Tally("outcome", "model")
        self._run_s = DurationHistogram(SLOW_S)
        self._tokens = Tally("direction")
        self._dollars = Tally()
        self._uncounted = Tally("direction")
        self._unpriced = Tally()
        self._retries = Tally()
        self._rejected = Tally("reason")

    def attach(self, sidecar: Sidecar) -> None:
        """Look at this sidecar from now on."""
        self.sidecar = sidecar

    def _appended(self, event: c.Event) -> None:
        if isinstance(event, c.TaskRetrying):
            self._retries.add()
        elif isinstance(event, c.TaskRejected):
            self._rejected.add(event.reason[:64])
        elif isinstance(event, _ENDED):
            outcome = c.name(event).rpartition(".")[2]
            result = event.result
            self._runs.add(outcome, result.model_used if result is not None else "none")
            if result is not None:
                self._run_s.add(result.execution_ms / 1_000)
                self.spent(result)

    def spent(self, result: c.Result) -> None:
        """Count what a run says it took."""
        for direction, count in (("in", result.tokens_in), ("out", result.tokens_out)):
            if count is None:
                self._uncounted.add(direction)
            else:
                self._tokens.add(direction, by=count)
        if result.estimated_cost_usd is None:
            self._unpriced.add()
        else:
            self._dollars.add(by=result.estimated_cost_usd)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, for the registry."""
        yield from self.log.metrics()
        yield self._runs.metric("agentcom_sidecar_runs", "Runs that ended, by outcome.")
        yield self._run_s.metric("agentcom_sidecar_run_seconds", "What runs took.")
        yield self._retries.metric("agentcom_sidecar_retries", "Local retries.")
        yield self._rejected.metric(
            "agentcom_sidecar_rejected", "Assignments that were not taken."
        )
        yield self._tokens.metric("agentcom_sidecar_tokens", "Tokens used here.")
        yield self._uncounted.metric(
            "agentcom_sidecar_uncounted_runs", "Runs whose tokens are not known."
        )
        yield self._dollars.metric("agentcom_sidecar_cost_dollars", "Dollars reported.")
        yield self._unpriced.metric(
            "agentcom_sidecar_unpriced_runs", "Runs whose dollars are not known."
        )
        if self.sidecar is not None:
            yield from _gauges(self.sidecar)


def _gauges(sidecar: Sidecar) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "agentcom_sidecar_held", "Runs held now.", value=len(sidecar.state.runs)
    )
    yield GaugeMetricFamily(
        "agentcom_sidecar_outbox_depth",
        "Reports that the log does not have yet.",
        value=sidecar.outbox.pending,
    )
    yield GaugeMetricFamily(
        "agentcom_sidecar_draining",
        "1 while draining.",
        value=int(sidecar.state.draining),
    )
    dropped = CounterMetricFamily(
        "agentcom_sidecar_dropped_chunks",
        "Pieces of live output that were dropped: the output stream took nothing for long.",
        labels=("as",),
    )
    output = sidecar.output
    dropped.add_metric(("dropped",), output.dropped)
    yield dropped
    yield CounterMetricFamily(
        "agentcom_sidecar_resent_chunks",
        "Pieces of live output that the stream had not acknowledged in time.",
        value=output.resent,
    )
