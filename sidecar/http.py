"""The HTTP client of a host: to look at model servers, and to run prompts on them."""

from __future__ import annotations

import aiohttp


def http_client(
    *, total_s: float | None = None, keep_alive: bool = True
) -> aiohttp.ClientSession:
    """A client without cookies that follows no proxy of the environment.

    `total_s` bounds each request, its answer included. Without `keep_alive` every request
    has a connection of its own: to close it is what cancels a run on the server, and a
    kept one may be dead by the time of the next.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=not keep_alive),
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=2**16,
        timeout=aiohttp.ClientTimeout(total=total_s),
        trust_env=False,
    )
