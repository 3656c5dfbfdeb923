"""Links to a test's broker, by role, closed when the test is over."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from events.nats.link import Address, Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.broker import LiveBroker


def address(broker: LiveBroker, role: str) -> Address:
    """Where and as whom to connect."""
    credentials = broker.credentials(role)
    return Address(
        url=credentials.url,
        seed=credentials.seed_path,
        inbox=credentials.inbox_prefix,
        name=f"test-{role}",
    )


@asynccontextmanager
async def linked(broker: LiveBroker, role: str) -> AsyncIterator[Link]:
    """A connected link as `role`."""
    link = await Link.connect(address(broker, role))
    try:
        yield link
    finally:
        await link.close()


async def until(condition, *, seconds: float = 60.0) -> None:
    """Return once `condition()` holds; fail the test if it never does."""
    import asyncio

    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
