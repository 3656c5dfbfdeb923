"""Histories on a real broker: each event is written by whoever may write it.

async with writing(broker) as write:
    await write.tell(history.recorded)
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from events import subjects
from events.nats.link import Link
from events.nats.log import JetStreamLog
from events.nats.output import JetStreamOutput
from projections.main import projecting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from events.catalogue import Recorded
    from projections.queries import Queries
    from projections.runner import Runner
    from tests.support.broker import LiveBroker

ROOT = Path(__file__).parents[2]


class Writers:
    """The scheduler and the hosts of one broker."""

    def __init__(self, logs: dict[str, JetStreamLog], links: dict[str, Link]) -> None:
        self.links = links
        self._logs = logs

    async def tell(self, history: Iterable[Recorded]) -> int:
        """Append a history, in its order; return the last sequence."""
        seq = 0
        for recorded in history:
            seq = await self._log_for(recorded.subject).append(
                recorded.subject, recorded.event
            )
        return seq

    def _log_for(self, subject: str) -> JetStreamLog:
        about = subjects.parse(subject)
        if about.kind in ("run", "host"):
            return self._logs[f"host-{about.host}"]
        return self._logs["scheduler"]


@asynccontextmanager
async def writing(broker: LiveBroker) -> AsyncIterator[Writers]:
    """Connect everybody who writes."""
    links, logs = {}, {}
    for role in ("scheduler", *(f"host-{name}" for name in broker.instance.hosts())):
        link = links[role] = await Link.connect(broker.credentials(role).address())
        logs[role] = JetStreamLog(link, consumers=False)
    try:
        yield Writers(logs, links)
    finally:
        for log in logs.values():
            await log.close()
        for link in links.values():
            await link.close()


@asynccontextmanager
async def read_models(
    broker: LiveBroker, store: Path | None = None, **more: object
) -> AsyncIterator[tuple[Runner, Queries]]:
    """Project a broker's log and answer questions."""
    link = await Link.connect(broker.credentials("projections").address())
    log = JetStreamLog(link)
    try:
        output = JetStreamOutput(link)
        async with projecting(log, link, store, output=output, **more) as both:
            yield both
    finally:
        await log.close()
        await link.close()


class Done(NamedTuple):
    """How a command ended, and what it printed: on stdout, or else on stderr."""

    exit_code: int
    output: str


async def command(*arguments: str) -> Done:
    """Run `agentcom ...` beside this loop; AGENTCOM_DATA names the instance."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agentcom",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, (output or errors).decode())
