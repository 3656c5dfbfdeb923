"""A dashboard over a log that is told rather than made: any past, and nothing that runs.

with Recorded(history) as address:
    page.goto(address)
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Self

from analysis.whatif import Redecider
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog
from tests.support.histories import tell
from web.main import WebConfig, serve

if TYPE_CHECKING:
    from tests.support.histories import History

READY_S = 120


class Recorded:
    """The web role over a history, in a thread of its own, until the block ends."""

    def __init__(self, history: History) -> None:
        self.address = ""
        self._history = history
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))

    async def _live(self) -> None:
        self._log = MemoryLog()
        await tell(self._log, self._history.recorded)
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        config = WebConfig(store=None, port=0)
        bus = MemoryBus(MemoryBroker())
        whatif = Redecider(self._log)
        await serve(
            self._log, bus, config, self._stop, ready=self._listening, whatif=whatif
        )

    def _listening(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}/"
        self._ready.set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(READY_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
