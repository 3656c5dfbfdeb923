"""What a decision is explained with, and what another price list makes of the past."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from actors.rules.policy import Policy
from analysis.explain import policies_of, recheck, words
from analysis.reprice import Prices, Rates, reprice
from analysis.savings import local_savings
from analysis.span import last_until
from events import catalogue as c
from events import subjects
from events.errors import Malformed
from projections.timetravel import TimeTravel
from tests.support.fakes import MemoryLog
from tests.support.histories import History, tell

MILLION = (1_000_000, 0)


def test_a_submitters_word_a_mode_a_fallback_and_who_could_not_are_each_said():
    history = History()
    task = history.submit(tier="complex", inferred="standard")
    submitted = history.last.event
    classed = replace(submitted.classification, explicit_tier="complex")
    history.route(
        task,
        fallback_used=True,
        fallback_from_tier="complex",
        fallback_reason="down",
        excluded={"busy": 2, "failed on it before": 1},
    )
    said = list(
        words(
            history.last.event,
            replace(
                submitted, classification=classed, mode="plan", mode_reason="asked for"
            ),
        )
    )
    assert (
        "Its submitter said complex, its wording suggests standard: the submitter's "
        "word counts." in said
    )
    assert "Its mode: plan (asked for)." in said
    assert "It fell back from complex: down." in said
    assert "3 could not take it: 2 × busy, 1 × failed on it before." in said
    assert "It was the only place that could take it (score 0.450)." in said


def test_what_cannot_be_decided_again_does_not_agree_and_says_why():
    history = History()
    history.route(history.submit())
    routed = history.last.event
    unreadable = recheck(routed, None)
    bare = recheck(replace(routed, candidates=[]), Policy())
    assert (unreadable.agrees, unreadable.said) == (
        False,
        "policy 1 is not to be read by this version",
    )
    assert (bare.agrees, bare.said) == (False, "the decision records no candidates")


async def test_a_policy_that_cannot_be_read_is_left_out_and_the_next_one_counts():
    history, log = History(), MemoryLog()

    def change(version: int, **policy: object) -> None:
        event = c.PolicyChanged(
            **history.head("gateway"), version=version, policy=policy
        )
        history.say(subjects.POLICY, event)

    change(1, fallback_wait_s=3.0)
    change(2, fallback_wait_s="of a later version")
    change(2, fallback_wait_s=4.0)  # late: the second is there
    change(3, fallback_wait_s=5.0)
    await tell(log, history.recorded)

    by_version, in_force = await policies_of(log)

    assert in_force == 3
    assert {n: each.fallback_wait_s for n, each in by_version.items()} == {
        0: Policy().fallback_wait_s,
        1: 3.0,
        3: 5.0,
    }


async def told(history: History) -> MemoryLog:
    log = MemoryLog()
    await tell(log, history.recorded)
    return log


def ran(history: History, *, target: c.TargetType = "claude", **result: object) -> None:
    route = history.route(history.submit(), target=target, model="m")
    history.accept(route)
    history.start(route)
    history.complete(route, **result)


async def test_from_an_instant_on_runs_are_priced_by_the_day_they_ended():
    history = History()
    history.elect(1)
    history.join("h1")
    ran(history, model="m", price_list="p1", tokens=MILLION)
    since = history.last.event.at
    history.now += 86_400.0
    ran(history, model="m", price_list="p2", tokens=MILLION)
    log = await told(history)
    prices = Prices(rates={"m": Rates(input=2.0, output=1.0)}, name="mine")

    whole = await reprice(log, prices, "day")
    later = await reprice(log, prices, "day", since)

    assert [line.key for line in whole.lines] == ["2026-01-01", "2026-01-02"]
    assert (whole.booked_lists, whole.total.estimated_cost_usd_then) == (
        {"p1": 1, "p2": 1},
        4.0,
    )
    assert [line.key for line in later.lines] == ["2026-01-02"]
    assert (later.booked_lists, later.total.estimated_cost_usd_then) == ({"p2": 1}, 2.0)
    with pytest.raises(Malformed):
        await reprice(log, prices, "day", "yesterday")


async def test_simulated_work_would_have_cost_and_has_saved_nothing():
    history = History()
    history.elect(1)
    history.join("h1")
    ran(history, target="ollama", model="m", simulated=True, tokens=(100_000, 0))
    log = await told(history)

    answer = await local_savings(log, "claude-sonnet-4-5")

    assert answer.seq == len(history.recorded)
    assert (answer.model, answer.saved_usd, answer.unpriced) == (
        "claude-sonnet-4-5",
        0.0,
        0,
    )
    assert answer.simulated_usd == pytest.approx(0.3)


async def test_a_span_ends_with_what_an_instant_holds_and_never_beyond_the_log():
    history = History()
    history.elect(1)
    at = history.last.event.at
    history.join("h1")
    past = TimeTravel(await told(history))

    assert [
        await last_until(past, point, 2)
        for point in (None, 1, 9, at, "2000-01-01T00:00:00Z", "2100-01-01T00:00:00Z")
    ] == [2, 1, 2, 1, 0, 2]
    past.close()
