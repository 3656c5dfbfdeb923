"""A scheduler's wall clock is put forward and back, for real, while tasks run.

libfaketime (Debian: `faketime`) shows one process another time; LIBFAKETIME names it
where it is not in its usual place.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from events import catalogue as c
from projections.stats import between_ms
from projections.world import fold
from tests.support.ring import Observer, observing, ring_on

if TYPE_CHECKING:
    from tests.support.broker import LiveBroker

USUAL = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime")


def library() -> str:
    named = os.environ.get("LIBFAKETIME", "")
    found = [
        str(path)
        for folder in USUAL
        for path in Path("/").glob(f"{folder[1:]}/libfaketime.so.1")
    ]
    if not named and not found:
        pytest.skip("NOT TESTED: no libfaketime here; `make faketime` installs it")
    return named or found[0]


class FakeClock:
    """What a process takes for the wall clock, as an offset from the real one."""

    def __init__(self, folder: Path, offset_s: int = 0) -> None:
        self._file = folder / "clock"
        self.put(offset_s)
        self.env = {
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }

    def put(self, offset_s: int) -> None:
        scratch = self._file.with_suffix(".new")
        scratch.write_text(f"{offset_s:+d}\n")
        scratch.replace(self._file)


def steps(observer: Observer) -> list[int]:
    return [round(event["step_s"]) for event in observer.of("clock.stepped")]


async def running(observer: Observer, host: str, command: str) -> str:
    task = await observer.submit(
        description="a command", shell={"command": command}, assign_to=host
    )
    await observer.until(lambda: observer.of("task.started", task))
    return task


async def test_no_step_of_the_clock_costs_a_host_or_an_attempt(
    broker: LiveBroker, tmp_path: Path
):
    clock = FakeClock(tmp_path)
    gate = tmp_path / "go"
    async with ring_on(broker, tmp_path) as ring, observing(broker) as observer:
        ring.scheduler(env=clock.env)
        ring.sidecar("h1")
        ring.sidecar("h2")
        await observer.until(lambda: len(observer.of("host.joined")) == 2)
        long = await running(
            observer, "h1", f"while [ ! -e {gate} ]; do sleep 0.05; done"
        )
        waits = await observer.submit(
            description="nobody can", needs=["moon"], ttl_s=600,
            shell={"command": "true"},
        )  # fmt: skip
        await observer.until(lambda: observer.of("task.deferred", waits))
        ends: list[int] = []
        for offset in (3_600, 7_200, 10_800, 10_680):
            clock.put(offset)
            ends.append(offset)
            await observer.until(lambda: len(steps(observer)) == len(ends))
            # A whole turn of host checks and beats on the other side of it.
            beside = await running(observer, "h2", "true")
            await observer.until(lambda t=beside: observer.of("task.completed", t))
        assert steps(observer) == [3_600, 3_600, 3_600, -120]
        assert observer.of("host.lost") == []
        assert observer.of("task.requeued") == observer.of("task.expired") == []

        once = tmp_path / "once"
        lost = await observer.submit(
            description="of the killed host",
            shell={"command": f"[ -e {once} ] || {{ touch {once}; sleep 60; }}"},
            assign_to="h2",
        )
        async with asyncio.timeout(60):
            while not once.exists():
                await asyncio.sleep(0.02)
        await asyncio.to_thread(ring.kill, "h2")
        await observer.until(lambda: observer.of("host.lost"), seconds=60)
        assert [event["host"] for event in observer.of("host.lost")] == ["h2"]
        ring.sidecar("h2")
        await observer.until(lambda: observer.of("task.completed", lost))
        gate.touch()
        await observer.until(lambda: observer.of("task.completed", long))
        attempts = {
            task: [event["attempt"] for event in observer.of("task.started", task)]
            for task in (long, lost)
        }
        assert attempts == {long: [1], lost: [1, 2]}
        assert observer.of("task.expired") == []


@pytest.mark.parametrize("offset_s", [3_600, -3_600])
async def test_a_host_an_hour_off_is_alerted_and_its_waits_are_short(
    offset_s: int, broker: LiveBroker, tmp_path: Path
):
    clock = FakeClock(tmp_path, offset_s)
    async with ring_on(broker, tmp_path) as ring, observing(broker) as observer:
        ring.scheduler()
        ring.sidecar("h1", env=clock.env)
        await observer.until(lambda: observer.of("host.joined"))
        # Its beats have told by now what its clock says.
        await observer.until(lambda: observer.of("host.alert_raised"))
        task = await running(observer, "h1", "true")
        await observer.until(lambda: observer.of("task.completed", task))
        (routed,) = observer.of("task.routed", task)
        assert routed["clock_ahead_s"] == pytest.approx(offset_s, abs=1)
        world = fold([c.Recorded(*one) for one in observer.recorded])
        record = world.tasks.find(task)
        waited = between_ms(record.waiting_since, record.started_at)
        assert waited is not None
        assert waited < 60_000
        assert observer.of("host.alert_raised")[0]["code"] == "clock_skew"
        assert observer.of("host.lost") == []
