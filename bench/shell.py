"""Real shell tasks: how many `true` a second go through two slots of a host.

Beside it `xargs -P2 sh -c true`, which keeps nothing and answers nobody: what the machine's
fork and exec cost.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any

import psutil

from bench.parts import HOST, Process, client, own_broker, running
from events import subjects
from sidecar.processes import forker

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.parts import BenchClient
    from cli.local.instance import Instance

WINDOW = 16
"""Tasks that have been asked for and are not over: slots never wait for the asker."""
COMMAND = "true"
SLOTS = 2
Report = dict[str, Any]


def measure_shell(tasks: int, say: Callable[[str], None]) -> Report:
    """Run so many commands on SLOTS slots; returns tasks/s and CPU a task."""
    say(f"shell: {tasks} times `{COMMAND}` on {SLOTS} slots")
    with own_broker() as instance:
        ours = asyncio.run(_ours(instance, tasks))
    report = {
        "tasks": tasks,
        "slots": SLOTS,
        "ring": ours,
        "xargs": {"tasks_per_s": _xargs(tasks)},
    }
    if find_spec("taskiq") is not None:
        from bench.peers import measure_taskiq_shell

        say("shell: the same through taskiq, with create_subprocess_shell")
        report["taskiq"] = measure_taskiq_shell(tasks, SLOTS, COMMAND)
    return report


async def _ours(instance: Instance, tasks: int) -> Report:
    with running(_processes(instance)) as processes:
        async with client(instance) as watching:
            numbers = count()
            await _until_one_ran(watching, numbers)
            before = [process.cpu_s() for process in processes]
            took = await _run(watching, tasks, numbers)
            used = [
                process.cpu_s() - b
                for process, b in zip(processes, before, strict=True)
            ]
            left = descendants_of(processes[-1].child.pid)
    return {
        "tasks_per_s": round(tasks / took, 1),
        "cpu_ms_per_task": [round(seconds / tasks * 1e3, 3) for seconds in used],
        "descendants_left": left,
    }


def _processes(instance: Instance) -> list[Process]:
    env = {"AGENTCOM_DATA": str(instance.data)}
    config = instance.data / "sidecar.toml"
    config.write_text(
        f'name = "{HOST}"\ndiscover = false\n[slots]\nshell = {SLOTS}\nclaude = 0\n'
        "agent = 0\n[claude]\nenabled = false\n"
    )
    return [
        Process(role, env, instance.data / f"{role[0]}.log")
        for role in (["scheduler"], ["sidecar", "--config", str(config)])
    ]


async def _submit(watching: BenchClient, numbers: count[int]) -> None:
    body = {
        "description": COMMAND,
        "shell": {"command": COMMAND},
        "idempotency_key": f"shell-{next(numbers)}",
    }
    await watching.link.request(
        subjects.command("task.submit"), json.dumps(body).encode(), timeout=30
    )


async def _until_one_ran(watching: BenchClient, numbers: count[int]) -> None:
    watching.count_to(1)
    for _ in range(300):
        try:
            await _submit(watching, numbers)
            break
        except Exception:  # noqa: BLE001 - nobody answers yet
            await asyncio.sleep(0.1)
    await watching.reached(60)


async def _run(watching: BenchClient, tasks: int, numbers: count[int]) -> float:
    """Keep a window of tasks under way; return the seconds that all of them took."""
    began = time.perf_counter()
    watching.count_to(tasks)
    first = watching.completed
    for n in range(tasks):
        while n - (watching.completed - first) >= WINDOW:
            await watching.one_more()
        await _submit(watching, numbers)
    await watching.reached(600)
    return time.perf_counter() - began


def descendants_of(pid: int) -> int:
    """How many processes a sidecar has left below it, but for the one that forks."""
    below = psutil.Process(pid).children(recursive=True)
    return sum(forker.__file__ not in each.cmdline() for each in below)


def _xargs(tasks: int) -> float:
    began = time.perf_counter()
    subprocess.run(
        ["xargs", "-n1", f"-P{SLOTS}", "sh", "-c", COMMAND],
        input="\n".join(map(str, range(tasks))),
        text=True,
        check=True,
    )
    return round(tasks / (time.perf_counter() - began), 1)
