"""Waiting for work that may also be silent too long, take too long, or be unwanted."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sidecar.executors.port import Stop

Ring = Literal["stopped", "silent", "overtime"]

T = TypeVar("T")


class Watch:
    """Rings once, with the first reason: asked to stop, silent, or over time.

    `allow` says how long silence may last from now on (None: for ever), `heard` starts it
    anew; both cost next to nothing, whatever the pace of tokens.
    """

    def __init__(self, stop: Stop, total_s: float | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self.rung: asyncio.Future[Ring] = self._loop.create_future()
        self._silence_s: float | None = None
        self._deadline = 0.0
        self._silence: asyncio.TimerHandle | None = None
        self._total = (
            None
            if total_s is None
            else self._loop.call_later(max(total_s, 0.0), self._ring, "overtime")
        )
        self._stopping = self._loop.create_task(self._await(stop))

    def allow(self, silence_s: float | None) -> None:
        """Ring when nothing is heard for so long."""
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        self._silence_s = silence_s
        if silence_s is not None:
            self._deadline = self._loop.time() + silence_s
            self._silence = self._loop.call_at(self._deadline, self._check)

    def heard(self) -> None:
        """Something was heard."""
        if self._silence_s is not None:
            self._deadline = self._loop.time() + self._silence_s

    async def over(self, work: Coroutine[Any, Any, T]) -> T | Ring:
        """Do the work until it is done or this rings; then the work is cancelled.

        Silence during earlier work is forgotten; the other reasons stay.
        """
        if self.rung.done() and self.rung.result() == "silent":
            self.rung = self._loop.create_future()
        doing = self._loop.create_task(work)
        try:
            either: list[asyncio.Future[Any]] = [doing, self.rung]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return doing.result() if doing.done() else self.rung.result()
        finally:
            if not doing.done():
                doing.cancel()
                with suppress(asyncio.CancelledError):
                    await doing

    def close(self) -> None:
        """Ring no more."""
        self.allow(None)
        if self._total is not None:
            self._total.cancel()
        self._stopping.cancel()
        self.rung.cancel()

    def _check(self) -> None:
        # The deadline may have moved since the timer was set: set it again, only now.
        if self._loop.time() >= self._deadline:
            self._ring("silent")
        else:
            self._silence = self._loop.call_at(self._deadline, self._check)

    def _ring(self, why: Ring) -> None:
        if not self.rung.done():
            self.rung.set_result(why)

    async def _await(self, stop: Stop) -> None:
        await stop.wait()
        self._ring("stopped")


async def pause(stop: Stop, seconds: float) -> bool:
    """Wait so long, or less if asked to stop; whether to go on."""
    if not stop.requested and seconds > 0:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()
    return not stop.requested
