"""What is shipped for Prometheus and Grafana asks for what the roles serve, and no more."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING

import promql_parser
import yaml
from prometheus_client.parser import text_string_to_metric_families

from docs.make_grafana import FILE, ROWS, dashboard
from tests.support.command import NOTHING_ELSE, agentcom_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RULES = FILE.with_name("alerts.yaml")
OF_PROMETHEUS = {"instance", "job", "le"}
"""Labels that Prometheus or the form of a histogram adds."""


def expressions() -> dict[str, str]:
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    shown = {
        f"{picture.title}: {query.legend}": query.expression
        for row in ROWS.values()
        for picture in row
        for query in picture.queries
    }
    return shown | {rule["alert"]: rule["expr"] for rule in rules}


def parts(node: object) -> Iterator[object]:
    """Every expression within one."""
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "vs"):
        if (part := getattr(node, name, None)) is not None:
            yield from parts(part)
    for part in getattr(node, "args", None) or ():
        yield from parts(part)


def served(folder: Path) -> dict[str, set[str]]:
    """Labels by metric, of all roles of a running AgentCom together."""
    names: dict[str, set[str]] = {"up": set()}
    with agentcom_up(folder, NOTHING_ELSE, "--metrics-port", "0") as (system, up):
        assert system.run("submit", "--shell", "true", "--wait").returncode == 0
        assert system.run("submit", "x", "--need", "moon").returncode == 0
        addresses = up.until("metrics").split()[1:]
        assert len(addresses) == 3
        for address in addresses:
            with urllib.request.urlopen(address, timeout=60) as answer:
                text = answer.read().decode()
            for family in text_string_to_metric_families(text):
                counted = {"counter": "_total", "histogram": "_bucket"}
                name = family.name + counted.get(family.type, "")
                names.setdefault(name, set())
                for sample in family.samples:
                    names.setdefault(sample.name, set()).update(sample.labels)
    return names


def test_each_expression_is_promql_about_what_is_served(tmp_path):
    metrics = served(tmp_path)
    strange = []
    for name, text in expressions().items():
        tree = promql_parser.parse(text)
        found = [p for p in parts(tree) if isinstance(p, promql_parser.VectorSelector)]
        assert found, name
        for selector in found:
            labels = {matcher.name for matcher in selector.matchers.matchers}
            known = metrics.get(selector.name)
            # A metric that has not counted anything yet shows no labels.
            if known is None or (known and not labels <= known | OF_PROMETHEUS):
                strange.append((name, str(selector)))
    assert strange == []


def test_the_dashboard_s_file_is_what_its_script_makes():
    assert json.loads(FILE.read_text()) == json.loads(dashboard())


def test_every_alert_says_what_to_do():
    for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
