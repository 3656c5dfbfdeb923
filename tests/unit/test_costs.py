"""From counts to dollars."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from actors.rules.prices import price, price_list
from events import catalogue as c
from sidecar.costs import settle, summed
from sidecar.executors.claude.reading import ClaudeUsage
from sidecar.executors.port import RawResult
from sidecar.output import EVENT_LIMIT
from sidecar.verification import together
from tests.support.runs import assignment

SONNET = "claude-sonnet-4-5"


def settled(target: str, **counts: Any) -> Any:
    raw = RawResult(**{"status": "success", **counts})
    assign = assignment(target_type=target, equivalent_model=SONNET)
    return settle(raw, assign)


def test_shell_costs_nothing_and_saves_nothing() -> None:
    result = settled("sidecar")
    assert (result.estimated_cost_usd, result.cost_basis) == (0.0, "none")
    assert (result.equivalent_claude_cost_usd, result.tokens_in) == (None, 0)


def test_claudes_own_total_is_booked_as_it_is() -> None:
    result = settled(
        "claude", model_used=SONNET, tokens_in=25, tokens_out=15, reported_cost_usd=0.01
    )
    assert (result.estimated_cost_usd, result.cost_basis) == (0.01, "reported")


def test_an_invented_price_is_never_exact() -> None:
    result = settled("claude", tokens_in=1, reported_cost_usd=0.01, cost_known=False)
    assert result.cost_basis == "reported_unpriced"


def test_a_killed_claude_is_estimated_from_its_tokens() -> None:
    result = settled("claude", model_used=SONNET, tokens_in=1000, tokens_out=100)
    assert result.estimated_cost_usd == pytest.approx(0.0045)
    assert (result.cost_basis, result.price_list) == ("estimated", price_list())


def test_a_killed_claude_of_unknown_price_is_unknown_and_not_free() -> None:
    result = settled("claude", model_used="nobody-1", tokens_in=1000, tokens_out=100)
    assert (result.estimated_cost_usd, result.cost_basis) == (None, "unknown")


def test_a_claude_that_never_began_costs_nothing() -> None:
    result = settled("claude", status="failed", reported_cost_usd=None)
    assert (result.estimated_cost_usd, result.cost_basis) == (0.0, "none")


@pytest.mark.parametrize("target", ["ollama", "openai"])
def test_local_work_is_free_and_says_what_claude_would_have_cost(target: str) -> None:
    result = settled(
        target, model_used="m", tokens_in=800, tokens_out=100, cache_read_tokens=200
    )
    assert (result.estimated_cost_usd, result.cost_basis) == (0.0, "local_estimate")
    expected = price(SONNET, tokens_in=800, tokens_out=100, cache_read=200)
    assert result.equivalent_claude_cost_usd == float(expected or 0)
    assert (result.equivalent_model, result.price_list) == (SONNET, price_list())


def test_unknown_counts_have_no_equivalent() -> None:
    result = settled("ollama", tokens_in=None, tokens_out=7)
    assert (result.equivalent_claude_cost_usd, result.cost_basis) == (None, "local")


def test_an_equivalent_model_without_a_price_has_no_equivalent() -> None:
    raw = RawResult(status="success", tokens_in=1, tokens_out=1)
    result = settle(raw, assignment(equivalent_model="nobody-1"))
    assert (result.equivalent_claude_cost_usd, result.cost_basis) == (None, "local")


def test_a_local_server_that_pays_somebody_is_not_free() -> None:
    result = settled("ollama", tokens_in=1, tokens_out=1, cost_known=False)
    assert (result.estimated_cost_usd, result.cost_basis) == (None, "unknown")
    assert result.equivalent_claude_cost_usd is None


@pytest.mark.parametrize("target", ["ollama", "openai", "claude", "agent"])
def test_simulated_work_saves_nothing(target: str) -> None:
    result = settled(
        target, model_used=SONNET, tokens_in=9, tokens_out=9, simulated=True
    )
    assert (result.equivalent_claude_cost_usd, result.cost_basis) == (None, "simulated")
    assert result.simulated


def test_an_agents_model_is_priced_if_it_has_a_price() -> None:
    result = settled("agent", model_used=SONNET, tokens_in=1000, tokens_out=100)
    assert (result.estimated_cost_usd, result.cost_basis) == (0.0045, "estimated")
    result = settled("agent", model_used="mine", tokens_in=1000, tokens_out=100)
    assert (result.estimated_cost_usd, result.cost_basis) == (None, "unknown")


def test_cache_tokens_stand_beside_the_input() -> None:
    parts = {"tokens_out": 15, "cache_read": 20_000, "cache_write": 1_000}
    assert price(SONNET, tokens_in=25, **parts) == Decimal("0.010050")
    assert price("nobody-1", tokens_in=1, tokens_out=1) is None


@pytest.mark.parametrize("target", ["claude", "ollama", "openai", "agent"])
@pytest.mark.parametrize(
    "said",
    [
        {"tokens_in": -5, "tokens_out": 3, "reported_cost_usd": 0.25},
        {"tokens_in": 10**30, "tokens_out": 10**12, "cache_read_tokens": -1},
        {"tokens_in": 10**12, "tokens_out": 10**12, "cache_write_tokens": 10**13},
        {"tokens_in": 7, "tokens_out": 7, "reported_cost_usd": -50.0},
        {"tokens_in": 7, "tokens_out": 7, "reported_cost_usd": float("inf")},
        {"tokens_in": 7, "tokens_out": 7, "reported_cost_usd": float("nan")},
        {"tokens_in": 7, "tokens_out": 7, "reported_cost_usd": 2e6},
        {"model_used": SONNET + "x" * 600_000, "session_id": "é" * 600_000},
    ],
)
def test_whatever_a_program_says_it_used_the_log_can_hold(target: str, said) -> None:
    result = settled(target, **{"model_used": SONNET, **said})
    stored = msgspec.json.encode(result)
    assert msgspec.json.decode(stored, type=c.Result) == result
    assert len(stored) < EVENT_LIMIT
    assert (result.estimated_cost_usd or 0.0) >= 0.0


def test_the_sum_of_rounds_is_unknown_where_the_log_cannot_hold_it() -> None:
    most = settled("claude", model_used=SONNET, tokens_in=10**12, reported_cost_usd=9e5)
    both = together([most], most)
    assert (both.tokens_in, both.estimated_cost_usd) == (None, None)
    assert msgspec.json.decode(msgspec.json.encode(both), type=c.Result) == both


def test_a_result_is_cut_to_what_an_event_may_hold() -> None:
    result = settled("sidecar", output="\0" * 200_000)
    assert result.truncated
    assert len(result.output) < 200_000


def test_dollars_are_added_to_the_last_digit_by_whoever_adds_them() -> None:
    assert summed((0.1, 0.2)) == 0.3
    assert summed(()) == 0.0
    assert summed((0.1, None)) is None
    used = [ClaudeUsage(usd=usd) for usd in (0.1, 0.2)]
    assert used[0].plus(used[1]).usd == 0.3
    rounds = [
        c.Result(
            status="success",
            estimated_cost_usd=usd,
            equivalent_claude_cost_usd=usd,
            cost_basis="estimated",
        )
        for usd in (0.1, 0.2)
    ]
    both = together(rounds[:1], rounds[1])
    assert (both.estimated_cost_usd, both.equivalent_claude_cost_usd) == (0.3, 0.3)
