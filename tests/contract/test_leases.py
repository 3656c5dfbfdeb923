"""What every Leases promises, and how a Lease uses them."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from actors.scheduler.lease import Lease, renewal
from events.errors import Conflict, LogUnavailable
from events.nats.leases import JetStreamLeases
from tests.support.broker import live_broker
from tests.support.fakes import MemoryLeases
from tests.support.links import linked

TTL = 1.0
"""The shortest that the server knows."""


class World:
    """Leases, and a way for one to run out."""

    def __init__(self, leases, pass_time) -> None:
        self.leases = leases
        self._pass_time = pass_time

    async def take(self, holder="a", expect=0, key="k", ttl=TTL) -> int:
        return await self.leases.put(key, holder, expect=expect, ttl=ttl, timeout=60)

    async def holder(self, key="k"):
        return await self.leases.holder(key, timeout=60)

    async def run_out(self) -> None:
        async with asyncio.timeout(60):
            while await self.holder() is not None:
                await self._pass_time()


@pytest.fixture(params=["memory", "jetstream"])
async def world(request, tmp_path):
    if request.param == "memory":
        clock = [100.0]

        async def pass_time() -> None:
            clock[0] += TTL / 4

        yield World(MemoryLeases(lambda: clock[0]), pass_time)
        return
    broker = await live_broker(tmp_path / "instance")
    try:
        async with linked(broker, "scheduler") as link:
            yield World(JetStreamLeases(link), lambda: asyncio.sleep(0.02))
    finally:
        await broker.close()


async def test_a_free_lease_can_be_taken_and_names_its_holder(world):
    assert await world.holder() is None
    revision = await world.take("a", ttl=60)
    assert revision > 0
    assert await world.holder() == ("a", revision)
    assert await world.holder("other") is None


async def test_a_held_lease_cannot_be_taken(world):
    revision = await world.take("a", ttl=60)
    with pytest.raises(Conflict):
        await world.take("b")
    with pytest.raises(Conflict):
        await world.take("a")
    assert await world.holder() == ("a", revision)


async def test_of_many_who_reach_for_it_one_gets_it(world):
    took = await asyncio.gather(
        *(world.take(f"s{n}", ttl=60) for n in range(10)), return_exceptions=True
    )
    assert sum(isinstance(one, int) for one in took) == 1
    assert sum(isinstance(one, Conflict) for one in took) == 9


async def test_a_holder_renews_with_his_last_revision(world):
    first = await world.take("a", ttl=60)
    second = await world.take("a", expect=first, ttl=60)
    assert second > first
    assert await world.holder() == ("a", second)
    with pytest.raises(Conflict):
        await world.take("a", expect=first)


async def test_a_lease_runs_out_and_another_may_take_it(world):
    first = await world.take("a")
    await world.run_out()
    assert await world.holder() is None
    assert await world.take("b") > first


async def test_a_lease_that_ran_out_cannot_be_renewed(world):
    first = await world.take("a")
    await world.run_out()
    with pytest.raises(Conflict):
        await world.take("a", expect=first)


async def test_keys_do_not_touch_each_other(world):
    await world.take("a", key="k", ttl=60)
    await world.take("b", key="l", ttl=60)
    assert (await world.holder("k"))[0] == "a"
    assert (await world.holder("l"))[0] == "b"


# -- a lease, lived --------------------------------------------------------------------


class Living:
    """One lease on leases in memory; time passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.leases = MemoryLeases(lambda: self.now)
        self.lost: Exception | None = None
        self.connected = True

    async def put(self, key, holder, *, expect, ttl, timeout):
        revision = await self.leases.put(
            key, holder, expect=expect, ttl=ttl, timeout=timeout
        )
        if self.lost is not None:
            raise self.lost
        return revision

    async def holder(self, key, *, timeout):
        return await self.leases.holder(key, timeout=timeout)

    def lease(self, me: str) -> Lease:
        return Lease(
            self,
            "k",
            me,
            lambda: self.now,
            connected=lambda: self.connected,
            ttl=5.0,
        )


async def test_a_lease_is_held_until_a_margin_before_it_runs_out():
    living = Living()
    lease = living.lease("a")
    assert not lease.ours
    await lease._try()
    living.now += 3.9
    assert lease.ours
    living.now += 0.2
    assert not lease.ours
    assert await living.holder("k", timeout=1) is not None


@pytest.mark.parametrize("ttl", [1, 2, 4, 15])
async def test_a_lease_of_any_length_is_held_from_one_renewal_to_the_next(ttl):
    living = Living()
    lease = Lease(
        living, "k", "a", lambda: living.now, connected=lambda: True, ttl=ttl
    )  # fmt: skip
    for _ in range(20):
        await lease._try()
        living.now += 1.5 * renewal(ttl)
        assert lease.ours
    living.now += ttl
    assert not lease.ours


async def test_two_never_hold_it_at_once():
    living = Living()
    one, other = living.lease("a"), living.lease("b")
    for _ in range(40):
        await one._try()
        await other._try()
        assert one.ours
        assert not other.ours
        living.now += 1.0
    living.now += 5.0
    await other._try()
    assert other.ours
    await one._try()
    assert not one.ours


async def test_a_renewal_whose_answer_got_lost_is_found_to_be_one_s_own():
    living = Living()
    lease = living.lease("a")
    await lease._try()
    living.lost = LogUnavailable("renew the lease", "no answer")
    living.now += 1.0
    await lease._try()
    living.lost = None
    living.now += 1.0
    await lease._try()
    assert lease.ours
    living.now += 3.9
    assert lease.ours


async def test_a_first_try_whose_answer_got_lost_is_found_to_be_one_s_own():
    living = Living()
    lease = living.lease("a")
    living.lost = LogUnavailable("take the lease", "no answer")
    await lease._try()
    assert not lease.ours
    living.lost = None
    await lease._try()
    assert lease.ours


async def test_an_outage_is_said_once_and_so_is_its_end():
    living = Living()
    lease = living.lease("a")
    with capture_logs() as logs:
        await lease._try()
        living.lost = LogUnavailable("renew the lease", "no leader")
        for _ in range(3):
            await lease._try()
        living.lost = None
        for _ in range(2):
            await lease._try()
    assert [(each["event"], each.get("reason")) for each in logs] == [
        (
            "the lease cannot be written",
            str(LogUnavailable("renew the lease", "no leader")),
        ),
        ("the lease can be written again", None),
    ]


async def test_nothing_is_sent_while_disconnected():
    living = Living()
    living.connected = False
    lease = living.lease("a")
    running = asyncio.ensure_future(lease.run())
    for _ in range(5):
        await asyncio.sleep(0)
    assert await living.holder("k", timeout=1) is None
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_change_is_told():
    living = Living()
    lease = living.lease("a")
    running = asyncio.ensure_future(lease.run())
    async with asyncio.timeout(60):
        await lease.changed.wait()
    assert lease.ours
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
