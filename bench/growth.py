"""What a task costs as things grow: waiting tasks, hosts, watchers, the log, its history.

    agentcom -m bench.growth beats|watch URL SEED N      (hosts that beat; readers)

Each point is an instance of its own: a log is prepared, scheduler and host are started,
and no-op tasks are paced through them. `web` grows with history alone, so of it only the
memory is measured. What a task costs at the largest size, as a ratio to the smallest, is
the figure that travels.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop

from actors.scheduler.checkpoint_file import EVERY
from bench.measure import pace, submit_noop, until_ready
from bench.parts import Process, broker_in, client, ring_processes, running
from bench.projections import history, waiting, write
from cli.local.backup import private_broker
from cli.local.broker import running_pid
from events import catalogue as c
from events import subjects
from events.codec import encode, rfc3339
from events.nats.link import Address, Link
from sidecar.config import SidecarConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.projections import Line
    from cli.local.instance import Instance

AXES: Final[dict[str, tuple[int, ...]]] = {
    "queued": (1_000, 100_000, 1_000_000),
    "hosts": (10, 200, 2_000),
    "watchers": (1, 200),
    "log": (10_000, 1_000_000, 10_000_000),
    "web": (10_000, 1_000_000),
}
"""What grows, and how far. `log` counts events, `web` finished tasks."""
EVENTS_A_TASK: Final = 5
SEQUENTIAL: Final = 50
INCARNATION: Final = "bench"
Report = dict[str, Any]


def axes_of(said: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Read `queued=1000,100000`, or `all`; raises ValueError in a sentence."""
    if "all" in said:
        return AXES
    chosen = {}
    for each in said:
        name, _, sizes = each.partition("=")
        if name not in AXES:
            raise ValueError(
                f"{name!r} does not grow here: choose {', '.join(AXES)}, or all"
            )
        try:
            numbers = (
                tuple(int(size) for size in sizes.split(",")) if sizes else AXES[name]
            )
        except ValueError:
            raise ValueError(
                f"{each!r}: expected numbers with commas between, {name}=1000,100000"
            ) from None
        if any(number < 1 for number in numbers):
            raise ValueError(f"{each!r}: expected sizes from 1")
        chosen[name] = numbers
    return chosen


def measure_growth(
    axes: dict[str, tuple[int, ...]],
    tasks: int,
    say: Callable[[str], None] = lambda _text: None,
) -> Report:
    """Measure each axis at each of its sizes, with so many tasks each."""
    report: Report = {"tasks": tasks, "axes": {}}
    for axis, sizes in axes.items():
        points = []
        for size in sizes:
            say(f"growth: {axis} {size:,}")
            points.append({"size": size} | _point(axis, size, tasks))
        report["axes"][axis] = points
    return report


def _point(axis: str, size: int, tasks: int) -> Report:
    with tempfile.TemporaryDirectory(prefix="agentcom-bench-") as folder:
        data = Path(folder)
        with broker_in(data):
            pass
        lines = _before(axis, size)
        if lines is not None:
            with private_broker(data) as admin:
                uvloop.run(write(admin, lines))
        with broker_in(data) as instance:
            if axis == "web":
                return uvloop.run(_web(instance))
            with _around(axis, size, instance):
                kept = axis == "queued" and size >= EVERY
                return uvloop.run(_paced(instance, tasks, kept=kept))


# -- what is there before --------------------------------------------------------------


def _before(axis: str, size: int) -> Iterator[Line] | None:
    """Yield the events that the log begins with."""
    match axis:
        case "queued":
            return waiting(size)
        case "hosts":
            return _joined(size)
        case "log":
            return history(size)
        case "web":
            return history(size * EVENTS_A_TASK)
        case _:
            return None


def _joined(hosts: int) -> Iterator[Line]:
    """Yield hosts with a model server each; none of them offers no-ops."""
    for n in range(hosts):
        event = c.HostJoined(
            id=f"J{n}", at=rfc3339(time.time()), by=f"g{n}", host=f"g{n}",
            incarnation=INCARNATION, version="0", slots={"shell": 2}, ram_bytes=2**34,
            endpoints=[
                c.EndpointState(
                    endpoint=f"g{n}-ollama", kind="ollama", up=True,
                    models=["llama3.2:latest"], loaded=[], slots=4,
                )
            ],
        )  # fmt: skip
        yield subjects.host(f"g{n}"), encode(event)


# -- what is there meanwhile -----------------------------------------------------------


@contextmanager
def _around(axis: str, size: int, instance: Instance) -> Iterator[None]:
    """Have hosts beat, or watchers read along."""
    part = {"hosts": ("beats", "admin"), "watchers": ("watch", "operator")}.get(axis)
    if part is None:
        yield
        return
    name, role = part
    credentials = instance.credentials(role)
    process = Process(
        [
            *("-m", "bench.growth", name, credentials.url),
            *(str(credentials.seed_path), credentials.inbox_prefix, str(size)),
        ],
        {},
        instance.data / f"{name}.log",
    )
    with running([process]):
        process.first_line()
        yield


async def beats(address: Address, hosts: int) -> None:
    """Beat for so many hosts, each as often as a real one, spread over the interval."""
    link = await Link.connect(address)
    every = SidecarConfig().beat_every_s
    loop = asyncio.get_running_loop()
    resources = c.Resources(
        cpu=0.2, cores=8, ram_total_bytes=2**34, ram_free_bytes=2**33
    )
    print("ready", flush=True)
    began = loop.time()
    for n in count():
        beat = c.Beat(
            host=f"g{n % hosts}", incarnation=INCARNATION, n=n // hosts + 1,
            at=rfc3339(time.time()), resources=resources, interval_s=every,
        )  # fmt: skip
        link.publish(subjects.beat(f"g{n % hosts}"), encode(beat))
        if (ahead := began + n * every / hosts - loop.time()) > 0:
            await asyncio.sleep(ahead)


async def watch(address: Address, watchers: int) -> None:
    """Read every event along, over so many connections."""
    links = [await Link.connect(address) for _ in range(watchers)]
    for link in links:
        await link.subscribe(subjects.ALL_EVENTS, lambda _message: None)
    print("ready", flush=True)
    await asyncio.Event().wait()


# -- the measurement -------------------------------------------------------------------


async def _paced(instance: Instance, tasks: int, *, kept: bool) -> Report:
    """Pace tasks through a ring; `kept`: and start it again, with a checkpoint."""
    began = time.perf_counter()
    broker = running_pid(instance)
    assert broker is not None
    with running(ring_processes(instance)) as processes:
        async with client(instance) as watching:
            await until_ready(watching, patience_s=600)
            started = time.perf_counter() - began
            figures = await pace(
                watching, submit_noop(watching), tasks, processes, SEQUENTIAL
            )
            memory = processes[0].rss()
            if kept:
                await _until_so(instance.scheduler_checkpoint.exists)
    again = None
    if kept:
        began = time.perf_counter()
        with running(ring_processes(instance)):
            async with client(instance) as watching:
                await until_ready(watching, patience_s=600, key=b"ready again")
                again = round(time.perf_counter() - began, 2)
    scheduler, sidecar = figures["cpu_us_per_task"]
    return {
        "start_s": round(started, 2),
        "with_checkpoint_s": again,
        "tasks_per_s": figures["tasks_per_s"],
        "submit_to_started_p50_ms": figures["submit_to_started_ms"]["p50"],
        "scheduler_us_per_task": scheduler,
        "sidecar_us_per_task": sidecar,
        "scheduler_rss": memory,
    }


async def _until_so(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while True:
            if so():
                return
            await asyncio.sleep(0.1)


async def _web(instance: Instance) -> Report:
    """Let `web` make its read models from the log, then begin anew with them."""
    log = instance.data / "web.log"
    env = {"AGENTCOM_DATA": str(instance.data)}
    found: Report = {}
    for when in ("first", "again"):
        began = time.perf_counter()
        with running([Process(["web", "--port", "0"], env, log)]) as (web,):
            await _until_caught_up(instance)
            found[f"{when}_s"] = round(time.perf_counter() - began, 2)
            found[f"{when}_rss"] = web.rss()
            found[f"{when}_peak_rss"] = web.peak_rss()
            if when == "again":
                await _ask(instance)
                found["asked_rss"] = web.rss()
    return found


async def _ask(instance: Instance) -> None:
    """Ask what pages and listings ask: all tasks, some by a text, the bill, the fleet."""
    link = await Link.connect(instance.credentials("operator").address())
    try:
        for name, body in (
            ("tasks", b'{"limit":200}'),
            ("tasks", b'{"limit":200,"text":"nowhere in any of them"}'),
            *((name, b"{}") for name in ("queue", "hosts", "stats", "costs")),
        ):
            answer = await link.request(subjects.query(name), body, timeout=600)
            if b'"error":' in answer[:100]:
                raise RuntimeError(f"{name}: {answer[:200]!r}")
    finally:
        await link.close()


async def _until_caught_up(instance: Instance) -> None:
    link = await Link.connect(instance.credentials("operator").address())
    try:
        while True:
            try:
                answer = await link.request(subjects.query("status"), b"{}", timeout=5)
            except Exception:  # noqa: BLE001 - nobody answers yet
                await asyncio.sleep(0.1)
                continue
            if b'"lag":0' in answer:
                return
            await asyncio.sleep(0.1)
    finally:
        await link.close()


def main() -> None:
    """Be hosts, or watchers."""
    what, url, seed, inbox, size = sys.argv[1:]
    address = Address(url=url, seed=Path(seed), inbox=inbox, name=f"bench-{what}")
    uvloop.run({"beats": beats, "watch": watch}[what](address, int(size)))


if __name__ == "__main__":
    main()
