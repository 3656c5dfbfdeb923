"""Fixtures for what stands outside AgentCom: simulated backends, and the real Claude.

`conftest.py` imports them. Each test gets its own server and its own program.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from sidecar.simulated.claude import SimulatedClaude
from sidecar.simulated.ollama import SimulatedOllama
from tests.support.messages_api import MessagesApi

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Callable

ONE_LINE = 2**24  # bytes: asyncio's usual limit is far below Claude Code's lines


@pytest.fixture
async def simulated_ollama() -> AsyncIterator[SimulatedOllama]:
    """An Ollama server on a free port; `.url`, `.fail_next("busy")`, `.requests`."""
    async with SimulatedOllama() as server:
        yield server


@pytest.fixture
def simulated_claude(tmp_path: Path) -> SimulatedClaude:
    """A `claude` program; `.program`, `.order("r429", "ok")`, `.runs`."""
    return SimulatedClaude(tmp_path / "claude-program")


@pytest.fixture
async def messages_api() -> AsyncIterator[MessagesApi]:
    """Anthropic's Messages API on loopback; `.url`, `.reply_next("text")`, `.calls`."""
    async with MessagesApi() as api:
        yield api


@pytest.fixture
def real_claude() -> Path:
    """Where the real Claude Code is: in the wheel claude-agent-sdk, else on PATH."""
    wheel = importlib.util.find_spec("claude_agent_sdk")
    if wheel is not None and wheel.origin is not None:
        bundled = Path(wheel.origin).parent / "_bundled" / "claude"
        if bundled.exists():
            return bundled
    found = shutil.which("claude")
    if found is None:
        pytest.skip(
            "THE REAL CLAUDE CODE IS NOT HERE: neither claude-agent-sdk nor a "
            "`claude` on PATH; nothing checks the simulated one against it"
        )
    return Path(found)


class Ended(msgspec.Struct, frozen=True):
    """A run of a `claude` program, as it was seen from outside."""

    exit: int
    events: list[dict[str, Any]]
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The last event, which must be the result."""
        assert self.events[-1]["type"] == "result"
        return self.events[-1]


async def run_claude(
    program: Path,
    *flags: str,
    folder: Path,
    prompt: str = "Say hello to the reader",
    environment: dict[str, str] | None = None,
    stop: tuple[signal.Signals, Callable[[dict[str, Any]], bool]] | None = None,
    started: Callable[[int], None] = lambda pid: None,
) -> Ended:
    """Run `program` as a host would; `stop` signals it at the first fitting event."""
    folder.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        str(program),
        *("-p", "--output-format", "stream-json", "--verbose"),
        *("--include-partial-messages", "--model", "claude-sonnet-4-5"),
        *flags,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=ONE_LINE,
        cwd=folder,
        env={
            "HOME": str(folder),
            "PATH": os.environ["PATH"],
            "CLAUDE_CODE_MAX_RETRIES": "0",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            **(environment or {}),
        },
    )
    started(process.pid)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(prompt.encode())
    process.stdin.close()
    events = []
    async for line in process.stdout:
        events.append(json.loads(line))
        if stop is not None and stop[1](events[-1]):
            process.send_signal(stop[0])
            stop = None
    stderr = (await process.stderr.read()).decode()
    return Ended(await process.wait(), events, stderr)


# -- shapes: what two streams must share, whatever they say -----------------------

_NESTED = ("event", "message", "usage", "rate_limit_info", "delta", "content_block")
_UNLIKE = {
    "request_id",  # there when the API names its request
    "thinking_duration_ms",
    "ttft_ms",
}


def shape(events: list[dict[str, Any]]) -> list[str]:
    """A stream's events by type and keys; deltas of one kind count once in a row."""
    shapes: list[str] = []
    for event in events:
        told = _told(event)
        if not shapes or shapes[-1] != told or "_delta" not in told:
            shapes.append(told)
    return shapes


def _told(value: dict[str, Any]) -> str:
    kind = "/".join(
        str(value[name]) for name in ("type", "subtype", "error") if name in value
    )
    keys = [
        f"{key}=({_told(value[key])})"
        if key in _NESTED and isinstance(value[key], dict)
        else key
        for key in sorted(value.keys() - _UNLIKE - {"type", "subtype", "error"})
    ]
    return f"{kind}: {' '.join(keys)}"
