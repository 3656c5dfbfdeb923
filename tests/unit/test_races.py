"""Races: the first to end wins, losers are ended, what is the caller's is left alone."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from events.nats.follow import LinkFollower
from events.position import NOWHERE
from events.races import Winner, first, give_up


class Runner:
    """A coroutine that never ends by itself and notes that it was cleaned up."""

    def __init__(self):
        self.cleaned = False

    async def run(self):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.cleaned = True


async def at_once(value=None, error=None):
    if error is not None:
        raise error
    return value


async def test_the_first_to_end_wins_with_its_value():
    assert await first(Runner().run(), at_once("here")) == Winner(1, "here")


async def test_of_two_that_ended_at_once_the_leftmost_wins():
    assert await first(at_once("left"), at_once("right")) == Winner(0, "left")


async def test_losers_are_cancelled_and_have_cleaned_up_before_it_returns():
    loser = Runner()
    await first(loser.run(), at_once())
    assert loser.cleaned


async def test_a_future_is_only_watched():
    failed = asyncio.get_running_loop().create_future()
    assert await first(failed, at_once(1)) == Winner(1, 1)
    assert not failed.done()


async def test_what_a_contender_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        await first(Runner().run(), at_once(error=ZeroDivisionError()))


async def test_an_error_is_raised_even_where_another_ended_before_it_in_order():
    with pytest.raises(ZeroDivisionError):
        await first(at_once("fine"), at_once(error=ZeroDivisionError()))


async def test_a_watched_future_that_has_failed_is_raised():
    failed = asyncio.get_running_loop().create_future()
    failed.set_exception(KeyError("x"))
    loser = Runner()
    with pytest.raises(KeyError):
        await first(loser.run(), failed)


async def test_a_watched_future_that_was_cancelled_has_ended_with_nothing():
    failed = asyncio.get_running_loop().create_future()
    failed.cancel()
    assert await first(Runner().run(), failed) == Winner(1, None)


async def test_none_where_the_time_is_over_and_the_contenders_are_ended():
    loser = Runner()
    assert await first(loser.run(), timeout=0.001) is None
    assert loser.cleaned


async def test_cancelling_the_race_cancels_and_awaits_its_contenders():
    loser = Runner()
    watched = asyncio.get_running_loop().create_future()
    race = asyncio.ensure_future(first(loser.run(), watched))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    race.cancel()
    with pytest.raises(asyncio.CancelledError):
        await race
    assert loser.cleaned
    assert not watched.done()


class Deaf:
    """Work that loses the first cancellation, as `asyncio.wait_for` may."""

    def __init__(self):
        self.begun = asyncio.Event()
        self.lost = False

    async def run(self):
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.lost = True
        await asyncio.Event().wait()


async def test_what_loses_a_cancellation_is_cancelled_again():
    deaf = Deaf()
    task = asyncio.ensure_future(deaf.run())
    await deaf.begun.wait()
    async with asyncio.timeout(60):
        await give_up(task)
    assert deaf.lost
    assert task.cancelled()


async def test_what_ended_with_an_error_is_given_up_without_one():
    task = asyncio.ensure_future(at_once(error=ValueError()))
    await asyncio.sleep(0)
    await give_up(task)
    assert isinstance(task.exception(), ValueError)


async def test_a_follower_whose_reading_loses_a_cancellation_stops_all_the_same():
    deaf = Deaf()

    class Follower(LinkFollower):
        async def _run(self):
            await deaf.run()

    link = SimpleNamespace(on_connection=lambda _: lambda: None)
    follower = Follower(link, lambda _: None, 1, (), NOWHERE)
    await deaf.begun.wait()
    async with asyncio.timeout(60):
        await follower.stop()
    assert deaf.lost
