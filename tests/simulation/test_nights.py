"""Nights of the full simulator, over each change of the clocks of two zones.

A night takes some seconds: hours of schedulers that die, as processes of their own. Here it
is the hours around the change; `python -m tests.simulation --nights 0..100` plays more
nights, and whole ones.
"""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from events import planned
from tests.simulation import nights
from tests.simulation.planned import EDGES

LASTS_S = 5 * 3_600

pytest.importorskip("cronsim", reason="this environment is older than its checkout")


@pytest.mark.parametrize("seed", range(len(nights.CHANGES)))
def test_each_planned_time_of_a_night_of_kills_is_fired_once_or_left_out_by_its_rule(
    seed,
):
    outcome = nights.play_night(seed, LASTS_S)
    if outcome.broken is not None:
        pytest.fail(outcome.report(), pytrace=False)


def made_up_for_nothing(patch: pytest.MonkeyPatch) -> None:
    """A time in the hour that is left out does not come."""
    instants = planned.instants

    def gap_left_out(cron: str, tz: str, after: float):
        hour = cron.split()[-4]
        for each in instants(cron, tz, after):
            shown = datetime.fromtimestamp(each, ZoneInfo(tz))
            if not hour.isdigit() or shown.hour == int(hour):
                yield each

    patch.setattr(planned, "instants", gap_left_out)


def minutes_pass_unseen(patch: pytest.MonkeyPatch) -> None:
    """Of an hour that comes twice, the second time goes by in silence."""
    instants = planned.instants

    def once(cron: str, tz: str, after: float):
        for each in instants(cron, tz, after):
            if not datetime.fromtimestamp(each, ZoneInfo(tz)).fold:
                yield each

    patch.setattr(planned, "instants", once)


@pytest.mark.parametrize(
    ("plant", "seed"),
    [
        (made_up_for_nothing, 0),
        (minutes_pass_unseen, 1),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_the_judge_by_the_products_own_times_cannot_see_is_found(
    plant, seed, monkeypatch
):
    plant(monkeypatch)
    assert nights.play_night(seed, 3 * 3_600).broken is not None


# -- the walk that nights are held against ----------------------------------------------


def shown(cron: str, tz: str, day: str) -> list[str]:
    """The times of a day up to its sixth hour, as clocks there show them."""
    zone = ZoneInfo(tz)
    first = datetime.fromisoformat(day).replace(tzinfo=zone).timestamp() - 1
    found = nights.walk(cron, tz, first, first + 6 * 3_600)
    return [datetime.fromtimestamp(each, zone).strftime("%H:%M%z") for each in found]


@pytest.mark.parametrize(
    ("cron", "tz", "day", "expected"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-03-29", ["03:00+0200"]),
        ("0 2 * * *", "Europe/Berlin", "2026-03-29", ["03:00+0200"]),
        ("0 3 * * *", "Europe/Berlin", "2026-03-29", ["03:00+0200"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25", ["02:30+0200"]),
        ("0 3 * * *", "Europe/Berlin", "2026-10-25", ["03:00+0100"]),
        ("30 2 * * *", "America/New_York", "2026-03-08", ["03:00-0400"]),
        ("30 1 * * *", "America/New_York", "2026-11-01", ["01:30-0400"]),
        ("15 1 * * *", "UTC", "2026-11-01", ["01:15+0000"]),
    ],
)
def test_the_walk_makes_up_for_the_hour_left_out_and_takes_one_of_two(
    cron, tz, day, expected
):
    assert shown(cron, tz, day) == expected


def test_the_walk_counts_every_minute_there_is():
    for zone, edges in EDGES.items():
        for edge in edges:
            at = datetime.fromisoformat(edge).timestamp()
            assert len(nights.walk("* * * * *", zone, at - 7_200, at + 7_200)) == 240
            assert len(nights.walk("*/15 * * * *", zone, at - 7_200, at + 7_200)) == 16
