"""What one host's settings forbid goes back for another; the last one fails it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from events import catalogue as c
from sidecar.config import ClaudeConfig, ShellConfig
from tests.support.hosting import assign, world

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.simulated.claude import SimulatedClaude


def wishing(kind: str) -> dict[str, object]:
    """An assignment of what this host does not allow."""
    if kind == "shell":
        return {"spec": c.TaskSpec(description="x", shell=c.Shell(command="touch no"))}
    if kind == "step":
        spec = c.TaskSpec(
            description="x",
            shell=c.Shell(command="echo hi"),
            verification_steps=["make test"],
        )
        return {"spec": spec}
    wishes = {
        "mode": c.ClaudeWishes(permission_mode="bypassPermissions"),
        "tool": c.ClaudeWishes(allowed_tools=["Bash(rm:*)"]),
        "mcp": c.ClaudeWishes(mcp_servers=["tickets"]),
    }[kind]
    return {
        "spec": c.TaskSpec(description="x", claude=wishes),
        "tier": "complex",
        "target_type": "claude",
        "endpoint": "h1-claude",
        "model": "sonnet",
    }


@pytest.mark.parametrize("kind", ["shell", "step", "mode", "tool", "mcp"])
async def test_what_a_host_does_not_allow_is_given_back_and_fails_where_nobody_does(
    tmp_path: Path, simulated_claude: SimulatedClaude, kind: str
) -> None:
    settings = {
        "shell": ShellConfig(allowed=["echo"]),
        "claude": ClaudeConfig(enabled=True, program=str(simulated_claude.program)),
    }
    async with world(tmp_path) as w, w.living(**settings):
        assert (await w.tell(assign(**wishing(kind)))).ok
        [back] = await w.until(c.TaskReturned)
        last = assign(route="t1-r2", generation=2, last_resort=True, **wishing(kind))
        assert (await w.tell(last)).ok
        [failed] = await w.until(c.TaskFailed)
    assert (back.reason, back.exclude) == ("refused_by_policy", "h1")
    assert back.unsuited
    assert failed.result.error.code == "refused_by_policy"
    assert failed.result.error.message == back.detail


@pytest.mark.parametrize("scenario", ["nokey", "a401", "credit", "not found"])
async def test_claude_that_cannot_be_used_here_is_asked_elsewhere_and_fails_where_nobody_can(
    tmp_path: Path, simulated_claude: SimulatedClaude, scenario: str
) -> None:
    program = str(simulated_claude.program)
    if scenario == "not found":
        program = str(tmp_path / "nothing")
    else:
        simulated_claude.always(scenario)  # type: ignore[arg-type]
    wants = {
        "spec": c.TaskSpec(description="x"),
        "tier": "complex",
        "target_type": "claude",
        "endpoint": "h1-claude",
        "model": "sonnet",
    }
    settings = {"claude": ClaudeConfig(enabled=True, program=program)}
    async with world(tmp_path) as w, w.living(**settings):
        # Sessions have their route's name, and outlive a test.
        route = f"{scenario.replace(' ', '-')}-{uuid4().hex}"
        assert (await w.tell(assign(route=route, others=True, **wants))).ok
        [back] = await w.until(c.TaskReturned)
        last = assign(route=f"{route}-2", generation=2, **wants)
        assert (await w.tell(last)).ok
        [failed] = await w.until(c.TaskFailed)
        if scenario != "not found":  # there it was never up
            [down, *_] = await w.until(c.EndpointDown)
            assert down.reason == back.detail
    assert (back.reason, back.exclude) == ("endpoint_unusable", "h1-claude")
    assert back.unsuited
    assert back.result is None
    assert failed.result.error.message == back.detail
    if scenario == "nokey":
        assert back.detail == "Not logged in · Please run /login"
