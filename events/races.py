"""Waiting for the first of several things."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable

CANCEL_AGAIN_S: Final = 0.25


class Winner(NamedTuple):
    """What ended first: its place among the arguments, and what it returned."""

    place: int
    value: Any


@overload
async def first(*contenders: Awaitable[Any]) -> Winner: ...


@overload
async def first(
    *contenders: Awaitable[Any], timeout: float | None
) -> Winner | None: ...


async def first(
    *contenders: Awaitable[Any], timeout: float | None = None
) -> Winner | None:
    """Wait until one of `contenders` has ended; None if `timeout` seconds pass first.

    Coroutines belong to the race: it runs them, and before it returns or raises (its
    own cancellation included) those still running are cancelled and awaited. Futures
    and tasks belong to the caller and are only watched: a `failed` future, shared by
    many, stays as it was.

    Raises what any contender raised that has ended. Else, of several that ended at
    once, the leftmost wins. A watched future that was cancelled has ended with None.
    """
    running: list[asyncio.Future[Any]] = []
    entered: list[asyncio.Future[Any]] = []
    for contender in contenders:
        future: asyncio.Future[Any] = asyncio.ensure_future(contender)
        entered.append(future)
        if future is not contender:
            running.append(future)
    try:
        await asyncio.wait(
            entered, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        winner = None
        for place, future in enumerate(entered):
            if not future.done():
                continue
            given_up = future.cancelled() and future not in running
            value = None if given_up else future.result()
            winner = winner or Winner(place, value)
        return winner
    finally:
        for future in running:
            future.cancel()
        # Gathered even where all have ended, so that no exception goes unread.
        await asyncio.gather(*running, return_exceptions=True)


async def give_up(task: asyncio.Future[Any]) -> None:
    """Cancel a task until it has ended, whatever it ends with.

    Once is not always enough: `asyncio.wait_for` of Python 3.11, which the NATS client
    uses, loses a cancellation that comes together with what it waits for.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=CANCEL_AGAIN_S)
    if not task.cancelled():
        task.exception()
