"""Waiting for work that may also be silent too long, take too long, or be unwanted."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from events.races import first

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sidecar.executors.port import Stop

Interruption = Literal["stopped", "silent", "overtime", "paid_out"]

T = TypeVar("T")


class Watchdog:
    """Fires once, with the first reason: asked to stop, silent too long, over time, or its
    budget is spent.

    `allow` says how long silence may last from now on (None: for ever), `heard` starts
    that time anew; both cost next to nothing, whatever the pace of tokens.
    """

    def __init__(self, stop: Stop, total_s: float | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._fired: asyncio.Future[Interruption] = self._loop.create_future()
        self._silence_s: float | None = None
        self._deadline = 0.0
        self._silence: asyncio.TimerHandle | None = None
        self._total = (
            None
            if total_s is None
            else self._loop.call_later(max(total_s, 0.0), self._fire, "overtime")
        )
        self._stopping = self._loop.create_task(self._await(stop))

    def allow(self, silence_s: float | None) -> None:
        """Fire when nothing is heard for so long; None: silence may last for ever."""
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        self._silence_s = silence_s
        if silence_s is not None:
            self._deadline = self._loop.time() + silence_s
            self._silence = self._loop.call_at(self._deadline, self._check)

    def heard(self) -> None:
        """Start the time of silence anew: something was heard."""
        if self._silence_s is not None:
            self._deadline = self._loop.time() + self._silence_s

    async def guard(self, work: Coroutine[Any, Any, T]) -> T | Interruption:
        """Do the work until it is done or this fires; then the work is cancelled.

        Silence during earlier work is forgotten; the other reasons stay.
        """
        if self._fired.done() and self._fired.result() == "silent":
            self._fired = self._loop.create_future()
        winner = await first(work, self._fired)
        return cast("T | Interruption", winner.value)

    @property
    def stopped(self) -> bool:
        """Whether it fired because the run was asked to stop."""
        return self._fired.done() and self._fired.result() == "stopped"

    def paid_out(self) -> None:
        """Fire because nothing is left of its budget."""
        self._fire("paid_out")

    def close(self) -> None:
        """Fire no more."""
        self.allow(None)
        if self._total is not None:
            self._total.cancel()
        self._stopping.cancel()
        self._fired.cancel()

    def _check(self) -> None:
        # The deadline may have moved since the timer was set: set it again, only now.
        if self._loop.time() >= self._deadline:
            self._fire("silent")
        else:
            self._silence = self._loop.call_at(self._deadline, self._check)

    def _fire(self, why: Interruption) -> None:
        if not self._fired.done():
            self._fired.set_result(why)

    async def _await(self, stop: Stop) -> None:
        await stop.wait()
        self._fire("stopped")


async def pause(stop: Stop, seconds: float) -> bool:
    """Wait so long, or less if asked to stop; whether to go on."""
    if not stop.requested and seconds > 0:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()
    return not stop.requested
