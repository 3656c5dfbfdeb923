"""A scheduler's role on a test's broker, with log, leases and ids of its own."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from actors.scheduler.role import SchedulerRole
from events.nats.leases import JetStreamLeases
from events.nats.log import JetStreamLog
from tests.support.links import linked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.broker import LiveBroker


@asynccontextmanager
async def scheduling(
    broker: LiveBroker, name: str = "s1"
) -> AsyncIterator[SchedulerRole]:
    """A scheduler that answers commands; it may not lead yet."""
    numbers = itertools.count(1)
    async with linked(broker, "scheduler") as link:
        log = JetStreamLog(link)
        role = SchedulerRole(
            name,
            log,
            link,
            JetStreamLeases(link),
            ids=lambda: f"{name}-{next(numbers):06d}",
            version="1.0.0",
        )
        stop = asyncio.Event()
        running = asyncio.create_task(role.run(stop))
        ready = asyncio.create_task(role.ready.wait())
        await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
        try:
            if running.done():
                await running
            yield role
        finally:
            ready.cancel()
            stop.set()
            await running
            await log.close()
