"""What `agentcom scheduler` makes of its options."""

from __future__ import annotations

import asyncio

import pytest
from click.testing import CliRunner

from cli import roles


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


@pytest.mark.parametrize(("arguments", "ttl"), [([], 4), (["--lease-ttl", "15"], 15)])
def test_a_leader_keeps_its_lease_as_long_as_was_said(said, arguments, ttl):
    done = CliRunner().invoke(roles.scheduler, arguments, catch_exceptions=False)
    assert (done.exit_code, said) == (0, [ttl])


@pytest.mark.parametrize("wrong", ["0", "-4", "0.5", "nan", "soon"])
def test_a_lease_that_the_broker_cannot_keep_is_refused(said, wrong):
    done = CliRunner().invoke(roles.scheduler, ["--lease-ttl", wrong])
    assert (done.exit_code, said) == (2, [])
    assert "--lease-ttl" in done.output
