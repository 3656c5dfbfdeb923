"""NATS, the real ports: the log, the bus, the leases, and what they stand on."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Late(ModuleType):
    """A module that is imported when somebody touches it."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def _import_what_is_spoken() -> None:
    """Import nats-py without the halves of it that every command would pay for.

    It takes aiohttp for websocket addresses alone, and those are refused here (0.1 s).
    An entry of None makes `import aiohttp` an ImportError, for which nats-py has a way.
    Its own JetStream client (0.05 s) is nobody's here: JetStream is spoken by the modules
    beside this one.
    """
    if "nats" in sys.modules:
        return
    late = _Late("nats.js")
    sys.modules["nats.js"] = late
    websockets = sys.modules.get("aiohttp")
    sys.modules["aiohttp"] = None  # type: ignore[assignment]
    try:
        import nats.aio.transport
    finally:
        del sys.modules["aiohttp"]
        if websockets is not None:
            sys.modules["aiohttp"] = websockets
    if sys.modules["nats.js"] is late:
        # An import binds a submodule's name in its package only where it loads it.
        nats.js = late


_import_what_is_spoken()
