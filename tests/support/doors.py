"""An AgentCom with model servers behind it, as clients of OpenAI's interface meet it.

The servers run in a thread of their own, so that a test may wait without them waiting.
"""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support.command import NOTHING_ELSE, System, agentcom_up
from web.access import TOKENS_FILE, Tokens

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

    from sidecar.simulated.ollama import SimulatedOllama


class Elsewhere:
    """An event loop in another thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something there, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()


class OpenDoor:
    """Where clients knock: `base_url` and `api_key` are all that they are told."""

    def __init__(self, system: System, url: str, elsewhere: Elsewhere) -> None:
        self.system = system
        self.url = url
        self.base_url = f"{url}/v1"
        tokens = Tokens.load(system.data / TOKENS_FILE)
        self.api_key = tokens.operator
        self.viewer_key = tokens.viewer
        self.elsewhere = elsewhere

    def task(self, task_id: str) -> dict[str, Any]:
        """What AgentCom says of a task."""
        answer = self.system.json("task", task_id)
        assert isinstance(answer, dict)
        return answer


@contextmanager
def open_door(
    folder: Path,
    servers: dict[str, SimulatedOllama],
    *,
    slots: int = 4,
    more: str = "",
    head: str = NOTHING_ELSE,
) -> Iterator[OpenDoor]:
    """AgentCom with these servers as endpoints of its host, by name."""
    elsewhere = Elsewhere()
    try:
        config = head
        for name, server in servers.items():
            elsewhere.run(server.start())
            kind = "ollama" if type(server).__name__ == "SimulatedOllama" else "openai"
            config += (
                f'[[endpoint]]\nname = "{name}"\nkind = "{kind}"\n'
                f'url = "{server.url}"\nslots = {slots}\n'
            )
        with agentcom_up(folder, config + more) as (system, up):
            said = re.search(r"dashboard\s+(http://[^\s#?]+)", up.said["stdout"])
            assert said is not None
            yield OpenDoor(system, said[1].rstrip("/"), elsewhere)
        for server in servers.values():
            elsewhere.run(server.stop())
    finally:
        elsewhere.close()
