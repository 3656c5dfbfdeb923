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
import time
from typing import TYPE_CHECKING, Any

import msgspec

from bench.parts import HOST, Process, own_broker, running, spread
from events import catalogue as c
from events import subjects
from events.nats.link import Link
from sidecar.simulated.ollama import SimulatedOllama, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from cli.local.instance import Instance
    from events.nats.link import LinkMessage

WARM_UP_S = 1.0
TOKENS_PER_S = 100.0
SECONDS = 10.0
TOKENS = int(TOKENS_PER_S * SECONDS)
"""Of each stream."""

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


def measure_streams(streams: int, say: Callable[[str], None]) -> Report:
    """Run so many streams at once, and say how late their tokens were."""
    say(f"{streams} streams of {TOKENS_PER_S:g} tokens/s for {SECONDS:g} s")
    with own_broker() as instance:
        return asyncio.run(_streams(instance, streams))


async def _streams(instance: Instance, streams: int) -> Report:
    env = {"AGENTCOM_DATA": str(instance.data)}
    pace = [str(TOKENS), str(TOKENS_PER_S), str(streams)]
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
            return await _listen(link, processes, streams)
        finally:
            await link.close()


async def _listen(link: Link, processes: list[Process], streams: int) -> Report:
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
    await asyncio.wait_for(over.wait(), SECONDS + 120)
    took = time.monotonic() - began
    used = [p.cpu_s() - b for p, b in zip(processes, before, strict=True)]
    count = len(ear.first_ms) + len(ear.later_ms)
    return {
        "streams": streams,
        "tokens_per_s": round(count / took, 1),
        "asked_tokens_per_s": streams * TOKENS_PER_S,
        "tokens": count,
        "lost": streams * TOKENS - count,
        "chunks": ear.chunks,
        "gaps": ear.gaps,
        "first_ms": spread(ear.first_ms),
        "later_ms": spread(ear.later_ms),
        "cpu": {
            name: round(seconds / took, 3)
            for name, seconds in zip(
                ("model server", "scheduler", "sidecar"), used, strict=True
            )
        },
        "load": round(os.getloadavg()[0], 2),
    }


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
