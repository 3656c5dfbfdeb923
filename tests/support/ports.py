"""Ports for servers that a test has to name before they listen."""

from __future__ import annotations

import os
import random
import socket

FIRST, LAST = 10_000, 20_000
"""Below those that the system gives out by itself, so that none is taken meanwhile by a
connection, or by a server that asks for any."""

WORKERS = 4

_drawn: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, and that no worker beside this one draws."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    mine = range(FIRST + int(worker) % WORKERS, LAST, WORKERS)
    # The seed of the tests' order is the same everywhere.
    for port in random.SystemRandom().sample(mine, len(mine)):
        if port not in _drawn and _is_free(port):
            _drawn.add(port)
            return port
    raise AssertionError("no port is free")


def _is_free(port: int) -> bool:
    with socket.socket() as plug:
        try:
            plug.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
