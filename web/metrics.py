"""Metrics for Prometheus, made from the read models when somebody asks for them.

Names begin with `agentcom_`. Nothing is counted here: what is shown is what the folds
say, so that it survives restarts and agrees with everything else that is shown.
"""

from __future__ import annotations

from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from projections.record import NANO
from projections.stats import BUCKETS_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from projections.answers import AttentionRow
    from projections.runner import Runner
    from projections.stats import Histogram
    from projections.world import World

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Build:
    """Which version of AgentCom a role's process is, and its memory, CPU and files."""

    def __init__(self, role: str, registry: CollectorRegistry) -> None:
        self._role = role
        try:
            self._version = version("agentcom")
        except PackageNotFoundError:
            self._version = "unknown"
        registry.register(self)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric, for the registry."""
        build = GaugeMetricFamily(
            "agentcom_build_info",
            "Always 1; its labels say what runs.",
            labels=("role", "version"),
        )
        build.add_metric((self._role, self._version), 1)
        yield build


class Metrics:
    """The read models of one runner, as metrics."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        Build("web", self._registry)
        self._lag = 0
        self._rows: list[AttentionRow] = []

    def text(self, lag: int, rows: list[AttentionRow]) -> bytes:
        """Encode all metrics.

        `lag` is how many events are not folded in yet, `rows` what wants a person.
        """
        self._lag, self._rows = lag, rows
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, for the registry."""
        world = self._runner.world
        yield GaugeMetricFamily(
            "agentcom_projection_position",
            "Last log sequence folded into the read models.",
            value=world.position,
        )
        yield GaugeMetricFamily(
            "agentcom_projection_lag_events",
            "Events of the log not folded in yet.",
            value=self._lag,
        )
        yield from _tasks(world)
        yield from _decisions(world)
        yield from _money(world)
        yield from _events(world)
        yield from _fleet(world)
        yield from _attention(self._rows)
        yield _histogram(
            "agentcom_task_wait_seconds",
            "From beginning to wait until started, by tier.",
            world.stats.wait_ms,
        )
        yield _histogram(
            "agentcom_task_run_seconds",
            "What executors took, by tier.",
            world.stats.run_ms,
        )


def _tasks(world: World) -> Iterator[Metric]:
    states = GaugeMetricFamily("agentcom_tasks", "Tasks by state.", labels=("state",))
    for state, count in sorted(world.stats.states.items()):
        states.add_metric((state,), count)
    yield states
    depth = GaugeMetricFamily(
        "agentcom_queue_depth", "Waiting tasks.", labels=("tier", "priority")
    )
    for (tier, priority), lane in world.queue.lanes.items():
        depth.add_metric((tier, priority), len(lane))
    yield depth


def _decisions(world: World) -> Iterator[Metric]:
    stats = world.stats
    by_tier = CounterMetricFamily(
        "agentcom_decisions", "Routing decisions by tier.", labels=("tier",)
    )
    for tier, count in sorted(stats.decisions_by_tier.items()):
        by_tier.add_metric((tier,), count)
    yield by_tier
    yield CounterMetricFamily(
        "agentcom_fallbacks", "Decisions off the preferred tier.", value=stats.fallbacks
    )


def _money(world: World) -> Iterator[Metric]:
    spent = world.costs.total
    yield CounterMetricFamily(
        "agentcom_cost_dollars", "Dollars booked.", value=spent.usd_nano / NANO
    )
    yield CounterMetricFamily(
        "agentcom_unpriced_runs",
        "Runs whose dollars are not known.",
        value=spent.unpriced,
    )
    tokens = CounterMetricFamily(
        "agentcom_tokens", "Tokens booked.", labels=("direction",)
    )
    tokens.add_metric(("in",), spent.tokens_in)
    tokens.add_metric(("out",), spent.tokens_out)
    tokens.add_metric(("cache_read",), spent.cache_read)
    tokens.add_metric(("cache_write",), spent.cache_write)
    yield tokens
    uncounted = CounterMetricFamily(
        "agentcom_uncounted_runs",
        "Runs whose tokens are not known.",
        labels=("direction",),
    )
    uncounted.add_metric(("in",), spent.unknown_in)
    uncounted.add_metric(("out",), spent.unknown_out)
    yield uncounted


def _events(world: World) -> Iterator[Metric]:
    standings = CounterMetricFamily(
        "agentcom_events", "Events folded, by what they counted for.", labels=("as",)
    )
    for standing, count in sorted(world.stats.standings.items()):
        standings.add_metric((standing,), count)
    standings.add_metric(("undecodable",), world.stats.undecodable)
    yield standings


def _fleet(world: World) -> Iterator[Metric]:
    hosts = GaugeMetricFamily("agentcom_hosts", "Hosts by state.", labels=("state",))
    counts = dict.fromkeys(("up", "draining", "left", "lost"), 0)
    for host in world.fleet.hosts.values():
        counts[host.state] += 1
    for state, count in counts.items():
        hosts.add_metric((state,), count)
    yield hosts
    yield GaugeMetricFamily(
        "agentcom_alerts_active",
        "Alerts that have not been cleared.",
        value=len(world.fleet.active_alerts),
    )


def _attention(rows: list[AttentionRow]) -> Iterator[Metric]:
    causes = GaugeMetricFamily(
        "agentcom_attention",
        "What wants a person, by kind.",
        labels=("kind", "severity"),
    )
    tasks = GaugeMetricFamily(
        "agentcom_attention_tasks",
        "Tasks that are held up by it.",
        labels=("kind", "severity"),
    )
    for labels, n in sorted(Counter((r.kind, r.severity) for r in rows).items()):
        causes.add_metric(labels, n)
        tasks.add_metric(
            labels, sum(r.count for r in rows if (r.kind, r.severity) == labels)
        )
    yield causes
    yield tasks


def _histogram(name: str, text: str, by_tier: dict[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=("tier",))
    for tier, histogram in sorted(by_tier.items()):
        buckets: list[tuple[str, float]] = []
        seen = 0
        for edge, count in zip(BUCKETS_MS, histogram.counts, strict=False):
            seen += count
            buckets.append((repr(edge / 1_000), seen))
        buckets.append(("+Inf", histogram.n))
        family.add_metric((tier,), buckets, histogram.total_us / 1_000_000)
    return family
