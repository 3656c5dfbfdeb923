"""What the doctor says about model servers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import json

from cli.client import health
from cli.commands.doctor import _claude, _ollama
from events.errors import Unreachable
from projections.fleet import EndpointView
from sidecar.config import ClaudeConfig, EndpointConfig, SidecarConfig
from sidecar.executors.claude.command import NOT_LOGGED_IN

if TYPE_CHECKING:
    from sidecar.simulated.claude import SimulatedClaude
    from sidecar.simulated.ollama import SimulatedOllama


def fleet(*endpoints: EndpointView) -> Any:
    """As much of an answer about hosts as is looked at."""
    return SimpleNamespace(hosts=[SimpleNamespace(endpoints=list(endpoints))])


async def test_no_ollama_is_no_trouble_where_another_server_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    config = SidecarConfig(name="h1")
    up = EndpointView("h1-lab", "openai", up=True, since="", models=["m"])
    [check] = await _ollama(config, fleet(up))
    assert check.status == "ok"
    assert check.found == "no ollama here; standard tasks go to h1-lab"
    [check] = await _ollama(config, fleet())
    assert (check.status, "go to Claude" in check.advice) == ("warn", True)


async def test_an_address_with_a_password_is_told_without_it(
    simulated_ollama: SimulatedOllama,
) -> None:
    url = simulated_ollama.url.replace("http://", "http://bob:geheim77@")
    one = EndpointConfig(name="gpu", kind="ollama", url=url)
    config = SidecarConfig(name="h1", endpoint=[one])
    offered = EndpointView(
        "h1-gpu", "ollama", up=True, since="", url=url.replace("bob:geheim77", "***")
    )
    [check] = await _ollama(config, fleet(offered))
    assert check.status == "ok"
    assert "geheim77" not in check.found


async def test_a_claude_that_is_not_logged_in_is_warned_of_before_its_first_task(
    simulated_claude: SimulatedClaude,
) -> None:
    config = SidecarConfig(claude=ClaudeConfig(program=str(simulated_claude.program)))
    assert (await _claude(config, None)).status == "ok"
    simulated_claude.log_in(False)
    check = await _claude(config, None)
    assert (check.status, check.found) == ("warn", NOT_LOGGED_IN)
    assert "agentcom doctor --retry" in check.advice


def test_a_store_of_files_that_fills_up_is_warned_of() -> None:
    config = {"max_bytes": 4 * 1024**3, "max_age": 90 * 86_400 * 10**9}
    [some, much] = [
        health.fullness({"config": config, "state": {"bytes": used}})
        for used in (1024**3, 4 * 1024**3 - 1)
    ]
    assert (some.status, some.found) == (
        "ok",
        "1.0 GiB of 4.0 GiB for tasks' files, 25 %",
    )
    assert much.status == "warn"
    assert "90 days" in much.advice


def test_what_claude_says_of_its_model_is_a_warning_with_the_way_out() -> None:
    said = "Claude Sonnet 4.5 was retired on 2026-11-30"
    claude = EndpointView("h1-claude", "claude", up=True, since="", notice=said)
    about = {"host": "h1", "journal_lost": "", "clock_ahead_s": None}
    host = SimpleNamespace(**about, state="up", endpoints=[claude])
    checks = health.fleet(SimpleNamespace(hosts=[host], tiers=[], alerts=[], shared=[]))
    [check] = [each for each in checks if each.name == "Claude model"]
    assert (check.status, check.found) == ("warn", f"h1: {said}")
    assert "policy set claude_model" in check.advice
    gone = SimpleNamespace(**about, state="left", endpoints=[claude])
    checks = health.fleet(SimpleNamespace(hosts=[gone], tiers=[], alerts=[], shared=[]))
    assert "Claude model" not in [each.name for each in checks]


ABSENT = {"code": 404, "err_code": 10059, "description": "stream not found"}
NOT_NOW = {"code": 503, "err_code": 10008, "description": "temporarily unavailable"}
SILENT = Unreachable("$JS.API", absent=False)


@pytest.mark.parametrize("look", [health.streams, health.files])
@pytest.mark.parametrize(
    ("said", "says"),
    [
        (ABSENT, "agentcom provision"),
        (NOT_NOW, "may be choosing a leader"),
        (SILENT, "may be choosing a leader"),
    ],
    ids=["absent", "not now", "silent"],
)
async def test_a_stream_is_to_be_made_where_there_is_none_and_waited_for_elsewhere(
    look: Any, said: Any, says: str
) -> None:
    async def call(subject: str, data: bytes, *, timeout: float) -> Any:
        if isinstance(said, Exception):
            raise said
        return SimpleNamespace(data=json.encode({"error": said}))

    client: Any = SimpleNamespace(may_read=True, link=SimpleNamespace(call=call))
    found = await look(client)
    for each in found if isinstance(found, list) else [found]:
        assert says in each.advice
        assert ("agentcom provision" in each.advice) is (said is ABSENT)


@pytest.mark.parametrize(
    ("ahead_s", "status", "found"),
    [
        (0.0, "ok", "within"),
        (3_600.0, "warn", "the scheduler's clock is 3600.0 s ahead of this one"),
        (-90.0, "warn", "the scheduler's clock is 90.0 s behind this one"),
        (None, "warn", "the scheduler does not tell its time"),
    ],
)
async def test_how_far_the_schedulers_clock_is_off_is_told(
    monkeypatch: pytest.MonkeyPatch, ahead_s: float | None, status: str, found: str
) -> None:
    class Answering:
        async def command(self, name: str, body: Any, kind: Any, **_: Any) -> None:
            assert name == "task.classify"

        async def schedulers_time(self) -> float | None:
            return None if ahead_s is None else 1_000_000_000.0 + ahead_s

    clock = SimpleNamespace(time=lambda: 1_000_000_000.0, monotonic=lambda: 0.0)
    monkeypatch.setattr(health, "time", clock)
    client: Any = Answering()
    scheduler, about_clock = await health.scheduler(client)
    assert scheduler.status == "ok"
    assert about_clock.status == status
    assert about_clock.found.startswith(found)
