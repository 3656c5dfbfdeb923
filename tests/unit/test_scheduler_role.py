"""What `agentcom scheduler` makes of its options, and when its next turn comes."""

from __future__ import annotations

import asyncio

import pytest
from click.testing import CliRunner

from actors.scheduler.role import SchedulerRole
from cli.commands import roles
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLeases, MemoryLog


@pytest.fixture
def said(monkeypatch) -> list[float]:
    """How long a lease each started scheduler was given."""
    given: list[float] = []

    async def be_scheduler(credentials, stop, metrics, *, lease_ttl) -> None:
        given.append(lease_ttl)

    monkeypatch.setattr(roles, "role_credentials", lambda role: None)
    monkeypatch.setattr(roles, "be_scheduler", be_scheduler)
    monkeypatch.setattr(
        roles, "run_role", lambda work, debug: asyncio.run(work(asyncio.Event()))
    )
    return given


@pytest.mark.parametrize(
    ("arguments", "ttl"), [([], None), (["--lease-ttl", "15"], 15)]
)
def test_a_leader_keeps_its_lease_as_long_as_was_said(said, arguments, ttl):
    done = CliRunner().invoke(roles.scheduler, arguments, catch_exceptions=False)
    assert (done.exit_code, said) == (0, [ttl])


@pytest.mark.parametrize("wrong", ["0", "-4", "0.5", "nan", "soon"])
def test_a_lease_that_the_broker_cannot_keep_is_refused(said, wrong):
    done = CliRunner().invoke(roles.scheduler, ["--lease-ttl", wrong])
    assert (done.exit_code, said) == (2, [])
    assert "--lease-ttl" in done.output


class Clock:
    """A wall clock that somebody puts forward and back."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("stepped", [7_200.0, 0.0, -7_200.0])
async def test_the_next_turn_comes_in_time_wherever_the_clock_was_put(stepped):
    clock, broker = Clock(), MemoryBroker()
    role = SchedulerRole(
        "s1",
        MemoryLog(),
        MemoryBus(broker),
        MemoryLeases(clock),
        ids=lambda: "I",
        version="0",
        clock=clock,
    )
    loop = asyncio.get_running_loop()

    def set_for(seconds: float) -> float:
        role.scheduler.next_wake = lambda: clock.now + seconds
        role._set_timer()
        return role._timer.when() - loop.time()

    assert 3_590 < set_for(3_600) <= 3_600
    clock.now += stepped
    # What is due sooner is done sooner, what is due later leaves the timer as it is.
    assert 0 < set_for(0.5) <= 0.5
    assert 0 < set_for(60) <= 0.5
    # One who cannot decide now looks again, but not a thousand times a second.
    role._timer.cancel()
    role._timer = None
    assert not role._decides
    assert 0.2 < set_for(-5) <= 0.25
    role._timer.cancel()
