"""Metrics of a role that serves nothing else: `/metrics` and `/healthz` on a port."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from web.metrics import CONTENT_TYPE, Build

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from prometheus_client.registry import Collector


class Exposition:
    """What a collector says of a role, and what its process is.

    Read in the loop's own thread, so never halfway.
    """

    def __init__(self, role: str, collector: Collector) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(collector)
        Build(role, self._registry)

    def text(self) -> bytes:
        """Encode all metrics."""
        return generate_latest(self._registry)

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer with all metrics."""
        return web.Response(body=self.text(), headers={"Content-Type": CONTENT_TYPE})


async def _health(request: web.Request) -> web.Response:
    return web.json_response({"ok": True})


@asynccontextmanager
async def exposed(
    role: str,
    collector: Collector,
    address: tuple[str, int] | None,
    ready: Callable[[int], None] = lambda port: None,
) -> AsyncIterator[None]:
    """Serve metrics for as long as the block lasts; nothing where `address` is None.

    `ready` is called with the port, a free one where 0 was asked for. Raises OSError where
    it is taken.
    """
    if address is None:
        yield
        return
    serving = Exposition(role, collector)
    app = web.Application()
    app.add_routes([web.get("/metrics", serving.metrics), web.get("/healthz", _health)])
    site = web.AppRunner(app, access_log=None, handle_signals=False)
    await site.setup()
    try:
        await web.TCPSite(site, *address).start()
        ready(int(site.addresses[0][1]))
        yield
    finally:
        await site.cleanup()
