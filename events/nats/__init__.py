"""NATS, the real ports: the log, the bus, the leases, and what they stand on."""

from __future__ import annotations

import sys


def _import_without_websockets() -> None:
    """Import nats-py without aiohttp, which it takes for websocket addresses alone.

    Those are refused here, and aiohttp costs every command a tenth of a second. An
    entry of None makes `import aiohttp` an ImportError, for which nats-py has a way.
    """
    if "aiohttp" in sys.modules:
        return
    sys.modules["aiohttp"] = None  # type: ignore[assignment]
    try:
        import nats.aio.transport  # noqa: F401
    finally:
        del sys.modules["aiohttp"]


_import_without_websockets()
