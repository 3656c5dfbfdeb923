"""Fixtures for what stands outside AgentCom: simulated backends, and the real Claude.

`conftest.py` imports them. Each test gets its own server and its own program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.simulated.claude import SimulatedClaude
from sidecar.simulated.ollama import SimulatedOllama

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def simulated_ollama() -> AsyncIterator[SimulatedOllama]:
    """An Ollama server on a free port; `.url`, `.fail_next("busy")`, `.requests`."""
    async with SimulatedOllama() as server:
        yield server


@pytest.fixture
def simulated_claude(tmp_path: Path) -> SimulatedClaude:
    """A `claude` program; `.program`, `.order("r429", "ok")`, `.runs`."""
    return SimulatedClaude(tmp_path / "claude-program")
