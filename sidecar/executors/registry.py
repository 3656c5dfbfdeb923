"""Which executor runs what: the usual ones of a host, by target type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.executors.claude import ClaudeExecutor, ClaudeOptions
from sidecar.executors.noop import NoopExecutor
from sidecar.executors.ollama import OllamaExecutor
from sidecar.executors.openai import OpenAIExecutor
from sidecar.executors.shell import ShellExecutor, ShellOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.executors.port import Executor
    from sidecar.processes import Processes


class Registry:
    """A host's executors. `close` it when the host ends."""

    def __init__(
        self,
        processes: Processes,
        *,
        shell: ShellOptions | None = None,
        claude: ClaudeOptions | None = None,
        api_key: Callable[[str], str | None] | None = None,
        noop: bool = False,
    ) -> None:
        """`api_key`: the key that a model endpoint, by name, wants; `noop` for benches."""
        self._ollama = OllamaExecutor(api_key)
        self._openai = OpenAIExecutor(api_key)
        self.executors: dict[str, Executor] = {
            "sidecar": ShellExecutor(processes, shell),
            "ollama": self._ollama,
            "openai": self._openai,
            "claude": ClaudeExecutor(processes, claude),
        }
        if noop:
            self.executors["noop"] = NoopExecutor()

    async def close(self) -> None:
        """Let go of the sockets."""
        await self._ollama.close()
        await self._openai.close()
