"""What AgentCom's door for OpenAI's clients costs, beside asking the model server itself.

A simulated model server in a process of its own is asked the same by both ways, in turns:
directly, and through `/v1/chat/completions` of a real web, scheduler, sidecar and broker.
Then as many streams at once, as many tokens, both ways again.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bench.parts import HOST, Process, own_broker, running, spread
from sidecar.http import http_client
from web.access import TOKENS_FILE, Tokens

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import aiohttp

    from cli.local.instance import Instance

STREAMS: Final = 8
TOKENS_PER_S: Final = 100.0
FIRST_S: Final = 0.05
MODEL: Final = "llama3.2:latest"
WARM_UP: Final = 10
UP_S: Final = 60.0

Report = dict[str, Any]


def measure_chats(
    requests: int, say: Callable[[str], None] = lambda _text: None
) -> Report:
    """Send so many chats each way, and so many again as streams at once."""
    say(f"{requests} chats directly and through AgentCom, in turns")
    with own_broker() as instance:
        return asyncio.run(_measure(instance, requests))


async def _measure(instance: Instance, requests: int) -> Report:
    env = {"AGENTCOM_DATA": str(instance.data)}
    pace = ["--tokens-per-s", str(TOKENS_PER_S), "--first-token-s", str(FIRST_S)]
    server = Process(
        [
            *("-m", "sidecar.simulated.ollama", "--model", MODEL, *pace),
            *("--load-s", "0", "--parallel", str(STREAMS)),
        ],
        env,
        instance.data / "ollama.log",
    )
    with running([server]) as processes:
        url = json.loads(server.first_line())["url"]
        config = instance.data / "sidecar.toml"
        config.write_text(
            f'name = "{HOST}"\ndiscover = false\n[slots]\nshell = 0\nclaude = 0\n'
            "[claude]\nenabled = false\n"
            f'[[endpoint]]\nname = "m"\nkind = "ollama"\nurl = "{url}"\n'
            f"slots = {STREAMS}\n"
        )
        log = instance.data / "web.log"
        for role in (
            ["scheduler"],
            ["sidecar", "--config", str(config)],
            ["web", "--port", "0"],
        ):
            at = log if role[0] == "web" else instance.data / f"{role[0]}.log"
            processes.append(Process(role, env, at))
        through = await asyncio.to_thread(_door, log)
        token = Tokens.load(instance.data / TOKENS_FILE).operator
        async with http_client() as client:
            ways = {
                "direct": Way(client, f"{url}/v1", "", MODEL),
                "agentcom": Way(client, f"{through}/v1", token, "auto"),
            }
            return await _compare(ways, requests)


def _door(log: Path) -> str:
    """Return web's address once it listens."""
    until = time.monotonic() + UP_S
    while time.monotonic() < until:
        for line in log.read_text().splitlines() if log.exists() else ():
            if '"url": "' in line:
                return str(json.loads(line)["url"])
        time.sleep(0.05)
    raise TimeoutError(f"web does not listen: {log.read_text()[-500:]}")


class Way:
    """One way to ask, and how long it took: milliseconds to the first word and to the end."""

    def __init__(
        self, client: aiohttp.ClientSession, url: str, token: str, model: str
    ) -> None:
        self._client = client
        self._url = f"{url}/chat/completions"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._body = {
            "model": model,
            "stream": True,
            "messages": [{"role": "user", "content": "Say something of this length."}],
        }
        self.first_ms: list[float] = []
        self.whole_ms: list[float] = []
        self.failed = 0

    async def ask(self) -> None:
        """Send one chat and read its answer."""
        began = time.perf_counter()
        first = 0.0
        ended = False
        async with self._client.post(
            self._url, json=self._body, headers=self._headers
        ) as answer:
            async for line in answer.content:
                if not first and _speaks(line):
                    first = time.perf_counter()
                ended = ended or line.startswith(b"data: [DONE]")
        if not first or not ended:
            self.failed += 1
            return
        self.first_ms.append((first - began) * 1e3)
        self.whole_ms.append((time.perf_counter() - began) * 1e3)

    def forget(self) -> None:
        """Count from here on."""
        self.first_ms, self.whole_ms, self.failed = [], [], 0


def _speaks(line: bytes) -> bool:
    if not line.startswith(b"data: {"):
        return False
    choices = msgspec.json.decode(line[6:]).get("choices") or [{}]
    return bool((choices[0].get("delta") or {}).get("content"))


async def _compare(ways: dict[str, Way], requests: int) -> Report:
    await _until_up(ways["agentcom"])
    for way in ways.values():
        for _ in range(WARM_UP):
            await way.ask()
        way.forget()
    for _ in range(requests):
        for way in ways.values():
            await way.ask()
    report: Report = {
        "requests": requests,
        "load": round(os.getloadavg()[0], 2),
        "first_ms": {name: spread(way.first_ms) for name, way in ways.items()},
        "failed": {name: way.failed for name, way in ways.items()},
    }
    pairs = zip(ways["agentcom"].first_ms, ways["direct"].first_ms, strict=False)
    report["later_ms"] = spread([through - direct for through, direct in pairs])
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(4):
        for name, way in ways.items():
            began = time.perf_counter()
            await asyncio.gather(*(way.ask() for _ in range(STREAMS)))
            took[name].append(time.perf_counter() - began)
    report["streams"] = STREAMS
    report["throughput"] = round(sum(took["direct"]) / sum(took["agentcom"]), 3)
    return report


async def _until_up(way: Way) -> None:
    """Ask until an answer comes: the host has to join first."""
    async with asyncio.timeout(UP_S):
        while not way.first_ms:
            await way.ask()
            await asyncio.sleep(0.1)
