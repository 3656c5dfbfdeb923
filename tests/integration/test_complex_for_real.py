"""A complex task from submission to dollars, on the real Claude Code program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.messages_api import Reply
from tests.support.ring import observing, ring_on

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.broker import LiveBroker
    from tests.support.messages_api import MessagesApi


@pytest.mark.parametrize("login", ["ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"])
async def test_the_real_claude_code_runs_a_complex_task_and_its_dollars_are_booked(
    broker: LiveBroker,
    tmp_path: Path,
    messages_api: MessagesApi,
    real_claude: Path,
    login: str,
) -> None:
    messages_api.reply_next(Reply(kind="text", text="Two words."))
    home = tmp_path / "home"
    home.mkdir()
    env = {
        "HOME": str(home),
        "ANTHROPIC_BASE_URL": messages_api.url,
        login: "any",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    async with ring_on(broker, tmp_path) as ring, observing(broker) as observer:
        ring.scheduler()
        ring.sidecar("h1", claude=real_claude, env=env)
        task = await observer.submit(description="Say two words.", tier="complex")
        await observer.until(
            lambda: observer.of("task.completed", task) or observer.of("task.failed"),
            seconds=120,
        )
        (completed,) = observer.of("task.completed", task)
    (routed,) = observer.of("task.routed", task)
    assert routed["target_type"] == "claude"
    result = completed["result"]
    assert result["output"] == "Two words."
    assert result["model_used"].startswith("claude-sonnet-")
    assert result["tokens_in"] > 0
    assert result["tokens_out"] > 0
    assert result["cost_basis"] == "reported"
    assert 0 < result["estimated_cost_usd"] < 1
    assert "simulated" not in result
