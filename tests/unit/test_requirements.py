"""What an endpoint must be able to do for work, for a long prompt; and what is said."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from actors.gateway.sizes import check_size
from actors.rules.contexts import WORK_CONTEXT, context_needed
from actors.rules.policy import Policy, document
from events import catalogue as c
from events import subjects
from events.errors import Malformed
from tests.support.world import World, claude, ollama

HANDS = ["chat", "messages", "tools", "hands"]
BIG = "x" * 40_000


def able(name: str = "o1", **fields: Any) -> c.EndpointState:
    return replace(ollama(name), **fields)


def fleet(*endpoints: c.EndpointState) -> World:
    w = World()
    w.join("h1", endpoints=endpoints)
    return w


def where(w: World, task: str) -> list[str]:
    return [route.selected_endpoint for route in w.routes(task)]


def test_work_goes_to_the_endpoint_with_hands() -> None:
    w = fleet(
        able("a"),
        able("b", capabilities=HANDS),
        able("c", capabilities=["chat", "messages", "tools"]),
        able("d", capabilities=["chat", "messages", "hands"]),
    )
    w.submit("t1", tier="standard", mode="work")
    assert where(w, "t1") == ["b"]


def test_an_older_host_that_says_nothing_takes_answers_and_no_work() -> None:
    w = fleet(ollama("old"), claude())
    w.submit("answer", tier="standard", mode="answer")
    w.submit("work", tier="standard", mode="work")
    assert where(w, "answer") == ["old"]
    assert where(w, "work") == []


def test_work_that_no_endpoint_can_do_hops_after_the_wait_and_says_why() -> None:
    w = fleet(able("o1", capabilities=["chat", "messages", "tools"]), claude())
    w.submit("t1", tier="standard", mode="work")
    assert where(w, "t1") == []
    w.beat_on(5.5, "h1")
    [route] = w.routes("t1")
    assert route.selected_endpoint == "claude"
    assert route.fallback_code == "unmet"
    assert "Claude Code on its host" in (route.fallback_reason or "")


def test_a_model_that_cannot_call_tools_is_not_worked_with() -> None:
    models = ["big:latest", "small:latest"]
    w = fleet(
        able(
            models=models,
            loaded=["big:latest"],
            capabilities=HANDS,
            model_capabilities={"big:latest": ["chat"]},
        )
    )
    w.submit("t1", tier="standard", mode="work")
    [route] = w.routes("t1")
    assert route.selected_model == "small:latest"


@pytest.mark.parametrize(
    ("tokens", "taken"), [(4_096, False), (WORK_CONTEXT, True), (None, True)]
)
def test_work_needs_a_context_of_32k_where_it_is_known(
    tokens: int | None, taken: bool
) -> None:
    known = {} if tokens is None else {"llama3.2:latest": tokens}
    w = fleet(able(capabilities=HANDS, context_tokens=known))
    w.submit("t1", tier="standard", mode="work")
    assert bool(where(w, "t1")) is taken


def test_a_long_prompt_goes_where_it_can_be_read() -> None:
    small = able("small", context_tokens={"llama3.2:latest": 4_096})
    large = able("large", context_tokens={"llama3.2:latest": 32_768})
    w = fleet(small, large)
    w.submit("long", BIG, tier="standard", mode="answer")
    assert where(w, "long") == ["large"]


def test_a_prompt_that_no_context_holds_waits_and_says_both_numbers() -> None:
    w = fleet(able(context_tokens={"llama3.2:latest": 4_096}))
    w.submit("long", BIG, tier="standard", mode="answer")
    w.beat_on(1, "h1")
    reasons = [e.reason for e in w.events(c.TaskDeferred)]
    assert any("context of 4,096 tokens is less than" in each for each in reasons)


def test_a_tier_without_hands_is_not_down_for_answers() -> None:
    w = fleet(ollama("o1"), claude())
    w.submit("work", tier="standard", mode="work")
    w.beat_on(10, "h1")
    assert w.events(c.TierDown) == []


def test_contexts_are_asked_for_in_steps() -> None:
    assert context_needed(0, work=False) == 0
    assert context_needed(1_500, work=False) == 0
    steps = {context_needed(n, work=False) for n in range(10_000, 10_100)}
    assert len(steps) == 1
    assert min(steps) >= 10_600
    assert context_needed(100, work=True) == WORK_CONTEXT
    assert context_needed(20_000, work=True) >= 40_000


def test_a_host_of_a_version_without_verification_is_not_given_work_to_verify():
    w = World()
    w.join("old", verifies=False)
    w.shell("t1", verification_steps=["make test"])
    w.shell("t2")
    assert (w.phase("t1"), w.phase("t2")) == ("waiting", "routed")
    deferred = [r.event for r in w.log if isinstance(r.event, c.TaskDeferred)]
    assert deferred[-1].reason == "1 × runs no verification steps"
    w.join("new")
    assert w.routes("t1")[-1].selected_host == "new"


def test_how_much_claude_reads_is_the_policys_number():
    w = World()
    w.join("h1", endpoints=[claude("c1")])
    spec = c.TaskSpec(description="x" * 4 * 240_000, tier="complex")
    with pytest.raises(Malformed, match="200,000 tokens"):
        check_size(spec, w.scheduler.fleet)
    policy = {**document(Policy()), "claude_context_tokens": 1_000_000}
    w.store(subjects.POLICY, c.PolicyChanged(**w.head(), version=1, policy=policy))
    check_size(spec, w.scheduler.fleet)
