"""One command for many tasks: how long it takes to cancel what waits, by a filter.

Of the time for one cancel, a part is the read models' (who is meant, page by page), a part
the gateway's (an append for each, held against the task's own subject), a part the broker's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from agentcom.blocking import Client
from bench.parts import Process, own_broker, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli.local.instance import Instance

Report = dict[str, Any]
ROUNDS: Final = 3
ROLES: Final = ("scheduler", "web")


def measure_bulk(tasks: int, say: Callable[[str], None] = lambda _text: None) -> Report:
    """Cancel so many waiting tasks by one command, a few times; the median of each."""
    say(f"bulk: {tasks:,} waiting tasks, cancelled by one command")
    with (
        own_broker() as instance,
        running(_processes(instance)) as processes,
        Client(data=instance.data) as client,
    ):
        rounds = sorted(_round(client, tasks, processes) for _ in range(ROUNDS))
    seconds, used = rounds[len(rounds) // 2]
    return {
        "tasks": tasks,
        "seconds": [round(each, 3) for each, _ in rounds],
        "us_per_task": round(seconds / tasks * 1e6, 1),
        "cpu_us_per_task": dict(
            zip(ROLES, (round(each / tasks * 1e6, 1) for each in used), strict=True)
        ),
    }


def _processes(instance: Instance) -> list[Process]:
    env = {"AGENTCOM_DATA": str(instance.data)}
    return [
        Process(role, env, instance.data / f"{role[0]}.log")
        for role in (["scheduler"], ["web", "--port", "0"])
    ]


def _round(
    client: Client, tasks: int, processes: list[Process]
) -> tuple[float, list[float]]:
    """Return the seconds that the command took, and each process's CPU seconds."""
    waiting = client.submit_many(
        {"description": f"waits {n}", "needs": ["nowhere"]} for n in range(tasks)
    )
    # The read models know of the last one, and so of all.
    waiting[-1].refresh()
    before = [process.cpu_s() for process in processes]
    began = time.perf_counter()
    changed = client.cancel(state="waiting")
    took = time.perf_counter() - began
    assert changed.done == tasks, changed.outcomes
    used = [process.cpu_s() - b for process, b in zip(processes, before, strict=True)]
    return took, used
