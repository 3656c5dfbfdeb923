"""However a host ends, nothing of its tasks is alive afterwards; floods do not end it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.simulated.claude import Scenario
from tests.support.ring import Observer, observing, ring_on
from tests.support.runs import alive, is_alive

if TYPE_CHECKING:
    from sidecar.simulated.claude import SimulatedClaude
    from tests.support.broker import LiveBroker

DAEMON = "setsid sh -c 'trap \"\" TERM INT HUP; echo $$ > {up}; exec sleep 1000'"


async def daemon(pipe: Path) -> int:
    """The pid of a task's daemon, once it runs."""
    return int((await asyncio.to_thread(pipe.read_text)).strip())


def routes(observer: Observer) -> list[str]:
    return [event["id"] for event in observer.of("task.routed")]


def left(observer: Observer) -> list[int]:
    return [pid for route in routes(observer) for pid in alive(route)]


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
async def test_nothing_of_a_task_outlives_its_host(
    end: str,
    broker: LiveBroker,
    simulated_claude: SimulatedClaude,
    tmp_path: Path,
) -> None:
    ups = [tmp_path / name for name in ("shell", "claude", "agent")]
    for up in ups:
        os.mkfifo(up)
    shell, tool, agent = (DAEMON.format(up=up) for up in ups)
    simulated_claude.always(Scenario(kind="tool", command=f"{tool} & sleep 1000"))
    wake = tmp_path / "wake.sh"
    wake.write_text(f"{agent} >/dev/null 2>&1 &\ntouch $STARTED_FILE\n")
    async with ring_on(broker, tmp_path) as ring, observing(broker) as observer:
        ring.scheduler()
        ring.sidecar(
            "h1",
            claude=simulated_claude.program,
            wake_command=f"sh {wake}",
            env={"HOME": str(tmp_path)},
        )
        await observer.until(lambda: bool(observer.of("host.joined")))
        command = {"command": f"{shell} & sleep 1000"}
        await observer.submit(description="d", shell=command, max_attempts=1)
        await observer.submit(description="d", tier="complex", max_attempts=1)
        task = await observer.submit(description="d", executor="agent")
        pids = [await daemon(up) for up in ups]
        assert all(map(is_alive, pids))
        for up in ups:  # a second try has nobody to tell
            up.unlink()
            up.touch()
        await observer.until(
            lambda: any(e["step"] == "working" for e in observer.of("task.step"))
        )
        if end == "SIGTERM":
            child = ring._children["h1"]
            child.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(child.wait) == 0
            assert [pid for pid in pids if is_alive(pid)] == []
            assert left(observer) == []
            await observer.until(lambda: bool(observer.of("host.left")))
            return
        await asyncio.to_thread(ring.restart, "h1")
        await observer.until(
            lambda: len({e["incarnation"] for e in observer.of("host.joined")}) == 2
        )
        # What went with the host is gone; the agent's work goes on, until it is ended.
        assert [is_alive(pid) for pid in pids] == [False, False, True]
        await observer.cancel(task)
        await observer.until(lambda: bool(observer.of("task.stopped", task)))
        assert not is_alive(pids[2])
    assert left(observer) == []


def peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


MAY_GROW = 24 * 2**20
FLOOD = 30_000_000
"""More bytes than a host may grow by; they go at the pace that spares the broker."""

FLOODS = {
    "a line without end": "head -c {size} /dev/zero | tr '\\0' x",
    "lines": "yes 'a line like any other' | head -c {size}",
    "binary": "head -c {size} /dev/urandom",
    "broken UTF-8": "yes \"$(printf 'a\\303\\050\\377\\355\\240\\200')\" | head -c {size}",
    "stderr": "yes x | head -c {size} >&2",
}


async def test_a_flood_neither_blocks_a_host_nor_fills_its_memory(
    broker: LiveBroker, tmp_path: Path
) -> None:
    async with ring_on(broker, tmp_path) as ring, observing(broker) as observer:
        ring.scheduler()
        ring.sidecar("h1")
        warm = await observer.submit(description="w", shell={"command": "echo warm"})
        await observer.until(lambda: bool(observer.of("task.completed", warm)))
        before = peak(ring.pid("h1"))
        for name, flood in FLOODS.items():
            gate = tmp_path / f"gate {name}"
            command = (
                f"while [ ! -e '{gate}' ]; do {flood.format(size=1_000_000)}; done; "
                + flood.format(size=FLOOD)
            )
            shell = {"command": command, "timeout_s": 600}
            task = await observer.submit(description=name, shell=shell)
            await observer.until(lambda t=task: bool(observer.of("task.started", t)))
            # The host takes and finishes other work while the flood goes on.
            for _ in range(3):
                other = await observer.submit(
                    description="o", shell={"command": "true"}
                )
                await observer.until(
                    lambda t=other: bool(observer.of("task.completed", t))
                )
            assert not observer.of("task.completed", task)
            gate.touch()
            await observer.until(
                lambda t=task: bool(observer.of("task.completed", t)), seconds=300
            )
            [done] = observer.of("task.completed", task)
            result = done["result"]
            size = result.get("output_bytes", 0) + result.get("stderr_bytes", 0)
            assert size > FLOOD
            assert result["truncated"]
            grown = peak(ring.pid("h1")) - before
            print(f"{name}: {grown / 2**20:.1f} MiB more at the most")
            assert grown < MAY_GROW, name
