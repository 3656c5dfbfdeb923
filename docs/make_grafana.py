"""Make docs/deploy/grafana.json, a dashboard for Grafana, with Grafana's own generator.

`python -m docs.make_grafana` writes it. A test holds the file against this, and each
expression, here and in docs/deploy/alerts.yaml, against what the roles serve.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from grafana_foundation_sdk.builders.common import ReduceDataOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

HERE: Final = Path(__file__).parent
FILE: Final = HERE / "deploy" / "grafana.json"
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${source}")


class Query(NamedTuple):
    """An expression, and what its lines are called."""

    expression: str
    legend: str


class Picture(NamedTuple):
    """A panel. `unit` is Grafana's; `single` shows the last value alone."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    single: bool = False


def _quantiles(metric: str, by: str) -> tuple[Query, ...]:
    return tuple(
        Query(
            f"histogram_quantile({q}, sum by (le, {by}) (rate({metric}_bucket[5m])))",
            f"{{{{{by}}}}} p{round(q * 100)}",
        )
        for q in (0.5, 0.95)
    )


def _one(expression: str, legend: str = "") -> tuple[Query, ...]:
    return (Query(expression, legend),)


ROWS: Final[dict[str, tuple[Picture, ...]]] = {
    "What wants a person": (
        Picture(
            "Causes", "short", _one("sum(agentcom_attention)", "causes"), single=True
        ),
        Picture(
            "Hosts lost",
            "short",
            _one('sum(agentcom_hosts{state="lost"})', "lost"),
            single=True,
        ),
        Picture(
            "Leaders", "short", _one("sum(agentcom_scheduler_leading)"), single=True
        ),
        Picture(
            "Spent today",
            "currencyUSD",
            _one("increase(agentcom_cost_dollars_total[24h])", "24 h"),
            single=True,
        ),
        Picture(
            "Attention",
            "short",
            _one("sum by (kind) (agentcom_attention_tasks)", "{{kind}}"),
        ),
    ),
    "Tasks": (
        Picture(
            "Waiting, by tier",
            "short",
            _one("sum by (tier) (agentcom_queue_depth)", "{{tier}}"),
        ),
        Picture("Wait", "s", _quantiles("agentcom_task_wait_seconds", "tier")),
        Picture("Run", "s", _quantiles("agentcom_task_run_seconds", "tier")),
        Picture(
            "Runs that ended, a second",
            "ops",
            _one(
                "sum by (outcome) (rate(agentcom_sidecar_runs_total[5m]))",
                "{{outcome}}",
            ),
        ),
        Picture(
            "Routed, a second",
            "ops",
            _one("sum by (tier) (rate(agentcom_decisions_total[5m]))", "{{tier}}"),
        ),
        Picture(
            "Off the preferred tier, in 100",
            "percent",
            _one(
                "100 * sum(rate(agentcom_fallbacks_total[5m])) "
                "/ sum(rate(agentcom_decisions_total[5m]))",
                "fallbacks",
            ),
        ),
    ),
    "Money": (
        Picture(
            "Dollars an hour",
            "currencyUSD",
            _one("3600 * rate(agentcom_cost_dollars_total[15m])", "booked"),
        ),
        Picture(
            "Tokens a second",
            "short",
            _one(
                "sum by (direction) (rate(agentcom_tokens_total[5m]))", "{{direction}}"
            ),
        ),
        Picture(
            "Runs without a price",
            "short",
            _one("increase(agentcom_unpriced_runs_total[1h])", "an hour"),
        ),
    ),
    "Fleet": (
        Picture("Hosts", "short", _one("sum by (state) (agentcom_hosts)", "{{state}}")),
        Picture("Runs held", "short", _one("agentcom_sidecar_held", "{{instance}}")),
        Picture(
            "Events that wait for the broker",
            "short",
            _one("agentcom_sidecar_outbox_depth", "{{instance}}"),
        ),
        Picture(
            "Live output dropped, pieces a second",
            "ops",
            _one(
                "sum by (as) (rate(agentcom_sidecar_dropped_chunks_total[5m]))",
                "{{as}}",
            ),
        ),
    ),
    "The engine": (
        Picture(
            "Writing an event",
            "s",
            _quantiles("agentcom_append_seconds", "job"),
        ),
        Picture(
            "Choosing a place", "s", _quantiles("agentcom_decision_seconds", "job")
        ),
        Picture(
            "Events the read models lack",
            "short",
            _one("agentcom_projection_lag_events", "behind"),
        ),
        Picture(
            "Memory",
            "bytes",
            _one(
                "process_resident_memory_bytes * on (instance) group_left (role, version) "
                "agentcom_build_info",
                "{{role}} {{instance}} {{version}}",
            ),
        ),
        Picture(
            "CPU",
            "percentunit",
            _one(
                "rate(process_cpu_seconds_total[5m]) * on (instance) group_left (role) "
                "agentcom_build_info",
                "{{role}} {{instance}}",
            ),
        ),
        Picture(
            "Writes that failed, a second",
            "ops",
            _one("sum by (job) (rate(agentcom_append_failures_total[5m]))", "{{job}}"),
        ),
    ),
}


def dashboard() -> str:
    """Return the dashboard as JSON."""
    board = (
        Dashboard("AgentCom")
        .uid("agentcom")
        .tags(["agentcom"])
        .refresh("30s")
        .time("now-6h", "now")
        .with_variable(DatasourceVariable("source").label("Source").type("prometheus"))
    )
    for title, pictures in ROWS.items():
        board = board.with_row(Row(title))
        for picture in pictures:
            board = board.with_panel(_panel(picture))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _panel(picture: Picture) -> Stat | TimeSeries:
    panel: Stat | TimeSeries
    if picture.single:
        panel = Stat().reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        panel = panel.height(4).span(6)
    else:
        panel = TimeSeries().height(8).span(8)
    panel = panel.title(picture.title).unit(picture.unit).datasource(SOURCE)
    for query in picture.queries:
        panel = panel.with_target(
            Dataquery().expr(query.expression).legend_format(query.legend)
        )
    return panel


if __name__ == "__main__":
    FILE.write_text(dashboard())
