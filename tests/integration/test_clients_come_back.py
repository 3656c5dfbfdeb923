"""The library while what it asks is killed: it comes back, and goes on where it was."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from agentcom import AsyncClient
from tests.support.command import agentcom_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.command import System

COUNTS = "for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.3; done"
WHOLE = "".join(f"{n}\n" for n in range(1, 9))


@pytest.fixture(scope="module")
def up(tmp_path_factory) -> Iterator[tuple[System, int, dict[str, Any]]]:
    """A running instance, the supervisor's id, and how it is reached over HTTP."""
    with agentcom_up(tmp_path_factory.mktemp("up")) as (system, running):
        tokens = json.loads((system.data / "web-tokens.json").read_text())
        url = re.findall(r"http://[\d.:]+", running.said["stdout"])[-1]
        where = {"url": url, "token": tokens["operator"]}
        yield system, running.process.pid, where


def kill(supervisor: int, word: str) -> None:
    """Kill the supervisor's child whose command has this word."""
    [child] = [
        each
        for each in psutil.Process(supervisor).children()
        if any(part.endswith(word) for part in each.cmdline()[:6])
    ]
    child.kill()


@pytest.mark.parametrize(("door", "victim"), [("http", "web"), ("nats", "nats-server")])
async def test_a_wait_and_a_stream_outlive_who_answers(up, door: str, victim: str):
    system, supervisor, over_http = up
    where = over_http if door == "http" else {"data": system.data}
    async with AsyncClient(**where) as client:
        spoken, waited = await client.submit_many(
            {"shell": command, "cwd": "/"} for command in (COUNTS, COUNTS)
        )
        waiting = asyncio.create_task(waited.wait(60))
        text = ""
        async with asyncio.timeout(60):
            async for chunk in spoken.stream():
                if chunk.event_type == "stdout":
                    text += chunk.text
                    if text == "1\n2\n":
                        kill(supervisor, victim)
        assert text == WHOLE
        assert (await waiting).output == WHOLE
        assert (await spoken.wait(60)).state == "completed"
