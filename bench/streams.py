"""How soon a token is seen: from a model server to the output stream.

Many streams at once, from a simulated Ollama in a process of its own, through a real
sidecar and a real broker, to a subscriber of the output subjects. Each token is the time
at which the server sent it, so that nothing is left to guessing: a token's delay is the
time at which the subscriber has it, less what it says.

`agentcom -m bench.streams` is the model server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec

from bench.parts import HOST, Process, broker_in, running
from events import catalogue as c
from events import subjects
from events.nats.link import Link
from sidecar.simulated.ollama import SimulatedOllama, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from cli.local.instance import Instance
    from events.nats.link import LinkMessage

FIRST_TARGET_MS = 20.0
LATER_TARGET_MS = 120.0
"""Text is joined for 100 ms after the first token; the rest is the way."""

WARM_UP_S = 1.0

Report = dict[str, Any]

_chunks = msgspec.json.Decoder(c.Chunk)


class ClockedOllama(SimulatedOllama):
    """Each token is the time at which it was sent, on the system's monotonic clock."""

    def __init__(self, tokens: int, tokens_per_s: float, parallel: int) -> None:
        super().__init__(["clock:latest"], parallel=parallel)
        self._tokens = tokens
        self._every_s = 1.0 / tokens_per_s

    async def _paced(self, answer: Any, fault: Any) -> AsyncIterator[tuple[bool, str]]:
        began = time.monotonic()
        # A little apart, as people are; else all streams would speak at once.
        began += hash(answer.started_ns) % 1_000 / 1_000 * self._every_s
        for n in range(self._tokens):
            wait = began + n * self._every_s - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            answer.first_ns = answer.first_ns or time.perf_counter_ns()
            yield False, f"{time.monotonic():.6f} "


class Ear:
    """Hears what comes out of the output subjects, and when."""

    def __init__(self) -> None:
        self.first_ms: list[float] = []
        self.later_ms: list[float] = []
        self.chunks = 0
        self.gaps = 0
        self._last: dict[str, int] = {}

    def hear(self, message: LinkMessage) -> None:
        now = time.monotonic()
        chunk = _chunks.decode(message.data)
        last = self._last.get(chunk.task_id, 0)
        self.gaps += chunk.n != last + 1
        self._last[chunk.task_id] = chunk.n
        if chunk.event_type != "token":
            return
        self.chunks += 1
        delays = [(now - float(stamp)) * 1e3 for stamp in chunk.text.split()]
        if last == 0:
            self.first_ms.append(delays.pop(0))
        self.later_ms += delays


def measure_streams(
    streams: int,
    tokens_per_s: float = 100.0,
    seconds: float = 10.0,
    say: Callable[[str], None] = lambda _text: None,
) -> Report:
    """Run so many streams at once, and say how late their tokens were."""
    say(f"{streams} streams of {tokens_per_s:g} tokens/s for {seconds:g} s")
    with (
        TemporaryDirectory(prefix="agentcom-bench-") as folder,
        broker_in(Path(folder)) as instance,
    ):
        tokens = int(tokens_per_s * seconds)
        return asyncio.run(_streams(instance, streams, tokens, tokens_per_s))


async def _streams(
    instance: Instance, streams: int, tokens: int, tokens_per_s: float
) -> Report:
    env = {"AGENTCOM_DATA": str(instance.data)}
    pace = [str(tokens), str(tokens_per_s), str(streams)]
    server = Process(["-m", "bench.streams", *pace], env, instance.data / "ollama.log")
    with running([server]) as processes:
        url = json.loads(server.first_line())["url"]
        config = instance.data / "sidecar.toml"
        config.write_text(
            f'name = "{HOST}"\n[slots]\nshell = 0\nclaude = 0\n[claude]\nenabled = false\n'
            f'[[endpoint]]\nname = "clock"\nkind = "ollama"\nurl = "{url}"\n'
            f"slots = {streams}\n"
        )
        for role in (["scheduler"], ["sidecar", "--config", str(config)]):
            log = instance.data / f"{role[0]}.log"
            processes.append(Process(role, env, log))
        link = await Link.connect(instance.credentials("operator").address())
        try:
            return await _listen(link, processes, streams, tokens, tokens_per_s)
        finally:
            await link.close()


async def _listen(
    link: Link,
    processes: list[Process],
    streams: int,
    tokens: int,
    tokens_per_s: float,
) -> Report:
    ear = Ear()
    over = asyncio.Event()
    ended: set[str] = set()
    joined = asyncio.Event()

    def on_event(message: LinkMessage) -> None:
        head = message.data[:60]
        if b'"host.joined' in head:
            joined.set()
        elif b'"task.completed' in head or b'"task.failed' in head:
            ended.add(message.subject)
            if len(ended) == streams:
                over.set()

    await link.subscribe(subjects.ALL_EVENTS, on_event)
    await link.subscribe(subjects.ALL_OUTPUT, ear.hear)
    await asyncio.wait_for(joined.wait(), 60)
    await asyncio.sleep(WARM_UP_S)
    before = [process.cpu_s() for process in processes]
    began = time.monotonic()
    body = {"description": "tell me the time", "tier": "standard"}
    subscriptions = [
        json.dumps({**body, "idempotency_key": f"stream-{n}"}).encode()
        for n in range(streams)
    ]
    submit = subjects.command("task.submit")
    await asyncio.gather(
        *(link.request(submit, each, timeout=30) for each in subscriptions)
    )
    await asyncio.wait_for(over.wait(), tokens / tokens_per_s + 120)
    took = time.monotonic() - began
    used = [p.cpu_s() - b for p, b in zip(processes, before, strict=True)]
    count = len(ear.first_ms) + len(ear.later_ms)
    return {
        "streams": streams,
        "tokens_per_s": round(count / took, 1),
        "asked_tokens_per_s": streams * tokens_per_s,
        "tokens": count,
        "lost": streams * tokens - count,
        "chunks": ear.chunks,
        "gaps": ear.gaps,
        "first_ms": _spread(ear.first_ms),
        "later_ms": _spread(ear.later_ms),
        "cpu": {
            name: round(seconds / took, 3)
            for name, seconds in zip(
                ("model server", "scheduler", "sidecar"), used, strict=True
            )
        },
        "load": round(os.getloadavg()[0], 2),
    }


def _spread(times: list[float]) -> dict[str, float]:
    if len(times) < 2:
        return {}
    parts = statistics.quantiles(times, n=100, method="inclusive")
    return {
        "p50": round(statistics.median(times), 2),
        "p95": round(parts[94], 2),
        "p99": round(parts[98], 2),
        "max": round(max(times), 2),
    }


def show_streams(report: Report) -> None:
    """Print a report as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{report['streams']} streams, {report['tokens_per_s']:,.0f} tokens/s in all"
    )
    for column in ("from the server to the stream", "p50", "p95", "p99", "max", "aim"):
        table.add_column(column, justify="left" if "server" in column else "right")
    for name, title, aim in (
        ("first_ms", "first token", FIRST_TARGET_MS),
        ("later_ms", "later ones", LATER_TARGET_MS),
    ):
        figures = report[name]
        columns = [f"{figures[each]:.1f} ms" for each in ("p50", "p95", "p99", "max")]
        table.add_row(title, *columns, f"{aim:.0f} ms")
    console = Console()
    console.print(table)
    used = ", ".join(f"{name} {share:.0%}" for name, share in report["cpu"].items())
    console.print(
        f"{report['chunks']:,} chunks, {report['lost']} tokens lost; of a core: {used}"
    )


def main() -> None:
    """Be the model server."""
    parser = argparse.ArgumentParser(prog="agentcom -m bench.streams")
    parser.add_argument("tokens", type=int)
    parser.add_argument("tokens_per_s", type=float)
    parser.add_argument("parallel", type=int)
    given = parser.parse_args()
    asyncio.run(serve(ClockedOllama(given.tokens, given.tokens_per_s, given.parallel)))


if __name__ == "__main__":
    main()
