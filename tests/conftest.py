"""Fixtures for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support.backends import (  # noqa: F401 - fixtures
    messages_api,
    real_claude,
    simulated_claude,
    simulated_ollama,
)
from tests.support.broker import LiveBroker, live_broker
from tests.support.llama_cpp import real_llama  # noqa: F401 - a fixture
from tests.support.real_ollama import real_ollama  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# Files that take half a minute or more begin: whichever came last, one worker would run it
# while the others have nothing to do.
LONG = (
    *("bench", "cluster", "cluster_under_fire", "crashes", "delegation", "demo"),
    *("host_chaos", "host_ends", "model_servers", "model_servers_in_a_fleet"),
    *("nats_cli", "openai_clients", "openai_fleet", "package"),
    *("real_model_server", "rolling_upgrade", "seeds", "stepped_clock", "store", "up"),
    *("attention", "log", "pages"),  # in a browser
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONG)


# How long an example takes is the machine's affair.
settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[LiveBroker]:
    """A running, provisioned nats-server of this test's own (see tests/support/broker.py)."""
    running = await live_broker(tmp_path / "instance")
    try:
        yield running
    finally:
        await running.close()
