"""The sidecar role: be one host until told to stop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.assembly import assemble
from sidecar.host import Sidecar
from sidecar.journal import open_journal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidecar.assembly import Parts
    from sidecar.config import SidecarConfig
    from sidecar.host import HostConnection


async def run(
    config: SidecarConfig,
    connection: HostConnection,
    stop: asyncio.Event,
    *,
    data: Path | None = None,
    parts: Parts | None = None,
    ready: Callable[[Sidecar], None] = lambda _sidecar: None,
) -> None:
    """Be this host until `stop` is set; then drain and leave in good order.

    `data` is the folder for journal and work unless the configuration names one. `ready`
    is called once the host has joined. Raises JournalHeld, JournalError,
    ResultsFolderError.
    """
    folder = config.data_path or data
    if folder is None:
        raise ValueError("a sidecar needs a data folder")
    parts = parts or assemble(config, folder)
    if parts.results is not None:
        parts.results.make()
    journal = await open_journal(folder / f"journal-{config.host}.db")
    if parts.processes is not None:
        parts.processes.become_subreaper()
    async with asyncio.TaskGroup() as group:
        sidecar = Sidecar(config, connection, journal, parts, group)
        try:
            await sidecar.start()
            ready(sidecar)
            await stop.wait()
            await sidecar.stop("stopped")
        finally:
            await sidecar.close()
