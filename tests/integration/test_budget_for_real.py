"""A task's budget on the real Claude Code: passed by one request at the most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from actors.rules.prices import price
from tests.support.messages_api import Reply
from tests.support.ring import observing, ring_on

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.broker import LiveBroker
    from tests.support.messages_api import MessagesApi

BUDGET_USD = 0.012
COSTS = {
    "input_tokens": 2_250,
    "cache_creation_tokens": 0,
    "cache_read_tokens": 0,
    "output_tokens": 50,
}
"""What a request uses: half a cent by the price list of today's default model."""


def price_of(model: str) -> float:
    """What one request costs, by the price list."""
    usd = price(
        model, tokens_in=COSTS["input_tokens"], tokens_out=COSTS["output_tokens"]
    )
    assert usd is not None
    return float(usd)


@pytest.mark.parametrize(
    ("reply", "fields"),
    [
        # One start of the program that would go on for ever.
        (Reply(kind="tool", command="true", **COSTS), {}),
        # A start for each round of verification.
        (
            Reply(kind="text", **COSTS),
            {"verification_steps": ["exit 1"], "verify_rounds": 20},
        ),
    ],
    ids=["turns", "rounds"],
)
async def test_a_budget_is_passed_by_one_request_at_the_most(
    broker: LiveBroker,
    tmp_path: Path,
    messages_api: MessagesApi,
    real_claude: Path,
    reply: Reply,
    fields: dict[str, object],
) -> None:
    messages_api.always = reply
    home = tmp_path / "home"
    home.mkdir()
    env = {
        "HOME": str(home),
        "ANTHROPIC_BASE_URL": messages_api.url,
        "ANTHROPIC_API_KEY": "any",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    async with ring_on(broker, tmp_path) as ring, observing(broker) as observer:
        ring.scheduler()
        ring.sidecar("h1", claude=real_claude, env=env)
        task = await observer.submit(
            description="Go on.",
            tier="complex",
            max_budget_usd=BUDGET_USD,
            max_attempts=5,
            **fields,
        )
        await observer.until(
            lambda: any(
                observer.of(f"task.{end}.", task)
                for end in ("completed", "failed", "dead_lettered", "expired")
            )
        )
        (failed,) = observer.of("task.failed.", task)
    result = failed["result"]
    assert result["error"]["code"] == "budget"
    prices = [price_of(call.body["model"]) for call in messages_api.messages()]
    spent = result["estimated_cost_usd"]
    assert len(prices) > 1
    assert spent == pytest.approx(sum(prices))
    assert BUDGET_USD <= spent < BUDGET_USD + prices[-1]
