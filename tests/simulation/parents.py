"""A run of Claude Code that delegates: it submits children, and mostly waits for them."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from events import subjects
from events.codec import encode
from events.errors import Unreachable

if TYPE_CHECKING:
    from events.mail import Assign
    from sidecar.executors.port import Stop
    from tests.simulation.machine import SidecarProcess

PASSING = ("log_unavailable", "busy", "conflict", "unavailable")


async def delegate(process: SidecarProcess, assign: Assign, stop: Stop) -> None:
    """Submit some children of this run, and wait for them; drawn apart from all else."""
    machine = process.machine
    own = Random(f"delegates {assign.route}")
    if not machine.delegates or own.random() < 0.3:
        return
    children = []
    for n in range(own.choice((1, 2, 3, 6))):
        tier = own.choice(("trivial", "standard", "complex", "complex"))
        task: dict[str, Any] = {
            "description": "a part of it",
            "tier": tier,
            "idempotency_key": f"{assign.route}/{n}",
        }
        if tier == "trivial":
            task["shell"] = {"command": "true"}
        if own.random() < 0.2:
            task["assign_to"] = own.choice(("h1", "h2"))
        if Random(f"dollars {assign.route}/{n}").random() < 0.4:
            task["max_budget_usd"] = 0.1
        answer = await _ask(process, assign, task, stop)
        if "task_id" in answer:
            children.append(answer["task_id"])
            if not answer["existing"]:
                given = machine.given_usd.get(assign.route, 0.0)
                part = answer["max_budget_usd"] or 0.0
                machine.given_usd[assign.route] = given + part
        elif answer.get("code") in ("refused", "denied"):
            break
    if own.random() < 0.2:
        return  # and its children are cancelled
    while not stop.requested and not all(map(machine.over, children)):
        await _pause(stop, 0.2)


async def _ask(
    process: SidecarProcess, assign: Assign, task: dict[str, Any], stop: Stop
) -> dict[str, Any]:
    body = {"parent": assign.task_id, "route": assign.route, "task": task}
    subject = subjects.child_command(process.machine.name, "submit")
    assert process.sidecar is not None
    while not stop.requested:
        try:
            raw = await process.sidecar._bus.request(subject, encode(body), timeout=1.5)
        except Unreachable:
            await _pause(stop, 0.3)
            continue
        answer: dict[str, Any] = msgspec.json.decode(raw)
        if answer.get("code") not in PASSING:
            return answer
        await _pause(stop, 0.3)
    return {}


async def _pause(stop: Stop, seconds: float) -> None:
    from tests.simulation.machine import SimExecutor

    await SimExecutor._stopped_within(stop, seconds)
