"""The bench's own history is a plausible one, and its measurements measure."""

from __future__ import annotations

from bench.projections import history, measure
from bench.shown import shown
from events import subjects
from events.catalogue import Recorded
from events.codec import decode_event
from projections.world import fold


def test_every_event_of_the_bench_counts():
    told = [
        Recorded(seq, subject, decode_event(raw))
        for seq, (subject, raw) in enumerate(history(4_000), 1)
    ]
    world = fold(told)

    assert len(told) == 4_000
    assert world.stats.standings == {"taken": 4_000}
    assert world.stats.states["completed"] > world.stats.states["failed"] > 0
    assert world.costs.total.usd_nano > 0
    assert all(subjects.parse(each.subject) for each in told)


def test_a_small_measurement_says_all_it_should():
    said: list[str] = []
    found = measure(4_000, say=said.append)

    assert found["events"] == 4_000
    assert {"read", "rebuild", "restart", "ratio_to_bare"} <= found.keys()
    assert found["store_bytes"] > 0
    (table,) = shown("projections", {"projections": found})
    assert "restart on the store" in [row[0] for row in table.rows]
    assert said
