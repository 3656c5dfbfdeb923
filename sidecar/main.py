"""The sidecar role: be one host until told to stop."""

from __future__ import annotations

import asyncio
import resource
from dataclasses import replace
from typing import TYPE_CHECKING

from events.races import first
from sidecar.assembly import assemble
from sidecar.host import Sidecar
from sidecar.journal import open_journal
from sidecar.journal_file import journal_path
from sidecar.private import mend
from sidecar.task_user import make_room, task_user

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from events.attachments import AttachmentStore
    from sidecar.assembly import Parts
    from sidecar.config import SidecarConfig
    from sidecar.host import HostConnection


_FILES = 65_536
"""Open files that are enough for one sidecar."""


def allow_files() -> None:
    """Let this process open as many files as it may; each run takes several."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def run(
    config: SidecarConfig,
    connection: HostConnection,
    stop: asyncio.Event,
    *,
    data: Path | None = None,
    parts: Parts | None = None,
    private: Sequence[Path] = (),
    ready: Callable[[Sidecar], None] = lambda _sidecar: None,
    attachments: AttachmentStore | None = None,
) -> None:
    """Be this host until `stop` is set; then drain and leave in good order.

    `data` is the folder for journal and work unless the configuration names one. `ready`
    is called once the host has joined; `private` are files that tasks with a user of their
    own must not be able to read. Raises JournalHeld, JournalError, TaskUserError,
    ResultsFolderError; once it has left because another process is this host, Evicted;
    because its journal was deleted under it, JournalGone.
    """
    allow_files()
    folder = config.data_path or data
    if folder is None:
        raise ValueError("a sidecar needs a data folder")
    mend(folder)
    user = None
    if config.shell.user is not None:
        user = task_user(config.shell.user)
        closed = [*private, *filter(None, [config.secrets_file])]
        make_room(user, folder, folder / "work" / config.host, closed)
    parts = parts or assemble(config, folder, user=user)
    if attachments is not None:
        parts = replace(parts, attachments=attachments)
    if parts.results is not None:
        parts.results.make()
    journal = await open_journal(
        journal_path(folder, config.host), flush_all=config.flush_everything
    )
    if parts.processes is not None:
        parts.processes.become_subreaper()
    async with asyncio.TaskGroup() as group:
        sidecar = Sidecar(config, connection, journal, parts, group)
        try:
            await sidecar.start()
            ready(sidecar)
            await first(stop.wait(), sidecar.evicted)
            evicted = sidecar.evicted.done() and not stop.is_set()
            reason = str(sidecar.evicted.result()) if evicted else "stopped"
            await sidecar.stop(reason)
        finally:
            await sidecar.close()
    if evicted:
        raise sidecar.evicted.result()
