"""A thousand tasks that come after one another, in the full simulator (five seconds of a core)."""

from __future__ import annotations

import pytest

from tests.simulation import graphs, later_faults


def test_a_graph_of_a_thousand_tasks_ends_in_order_while_everybody_dies():
    outcome = graphs.play_graph(0)
    if outcome.broken is not None:
        pytest.fail(outcome.report(), pytrace=False)


def test_a_graph_that_is_gone_through_out_of_order_is_found(monkeypatch):
    later_faults.dependency_ignored(monkeypatch)
    assert graphs.play_graph(0, size=150).broken is not None
