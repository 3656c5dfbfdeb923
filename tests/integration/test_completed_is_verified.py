"""Completed is said only of work that passed its verification: the whole ring, for real."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from actors.rules.prices import price
from events.lifecycle import LOST_RUN
from sidecar.simulated import ollama
from sidecar.simulated.messages import ScriptedCall
from tests.integration.test_changes import git
from tests.support.messages_api import Reply
from tests.support.ring import observing, ring_on
from tests.support.runs import alive
from tests.support.simulated_llama import SimulatedLlamaServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp import web

    from sidecar.simulated.claude import SimulatedClaude
    from sidecar.simulated.ollama import SimulatedOllama
    from tests.support.broker import LiveBroker
    from tests.support.messages_api import MessagesApi
    from tests.support.ring import Observer, Ring

LEFT_OUT = "the third line is missing"
CHECK = """
def test_a():
    assert "three" in open("a.txt").read(), "the third " + "line is missing"
"""
ENDS = ("completed", "failed", "dead_lettered", "expired", "cancelled")


@asynccontextmanager
async def fleet(
    broker: LiveBroker, folder: Path, config: str = "discover = false\n", **env: str
) -> AsyncIterator[tuple[Ring, Observer]]:
    """A scheduler and the host h1, which has joined."""
    path = folder / "h1.toml"
    path.write_text(f'name = "h1"\ndata = "{folder / "h1"}"\n{config}')
    home = folder / "home"
    home.mkdir()
    async with ring_on(broker, folder) as ring, observing(broker) as observer:
        ring.scheduler()
        ring._start("h1", ["sidecar", "--config", str(path)], {"HOME": str(home)} | env)
        await observer.until(lambda: observer.of("host.joined"))
        yield ring, observer


async def ended(observer: Observer, task: str, seconds: float = 60) -> dict[str, Any]:
    """The task's last event."""

    def ends() -> list[dict[str, Any]]:
        return [e for end in ENDS for e in observer.of(f"task.{end}.", task)]

    await observer.until(lambda: bool(ends()), seconds=seconds)
    return ends()[-1]


class Listens(SimulatedLlamaServer):
    """A model that writes two lines, and a third once it hears that it is missing."""

    told = 0

    async def _messages(
        self, request: web.Request, body: bytes, fault: Any
    ) -> web.StreamResponse:
        if not self.told and LEFT_OUT.encode() in body:
            self.told = len(self.requests)
            self.calls.append(append("three"))
        return await super()._messages(request, body, fault)


def checkout(folder: Path) -> Path:
    """A repository whose test wants a third line."""
    repo = folder / "shop"
    repo.mkdir()
    git(repo, "init", "-q", "-b", "main")
    (repo / "a.txt").write_text("one\n")
    (repo / "test_a.py").write_text(CHECK)
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "one")
    return repo


def append(line: str) -> ScriptedCall:
    given = {"command": f"echo {line} >> a.txt", "description": "Add a line"}
    return ScriptedCall(name="Bash", input=given)


async def test_local_work_is_told_what_failed_mends_it_and_is_verified_for_nothing(
    broker: LiveBroker,
    real_claude: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ollama, "SIMULATED_HEADER", "X-Nothing")
    repo = checkout(tmp_path)
    async with Listens(["m"], n_ctx=65_536) as server:
        server.calls.append(append("two"))
        config = (
            "discover = false\n"
            f'[repos]\nshop = "{repo}"\n'
            f'[[endpoint]]\nname = "gpu"\nkind = "openai"\nurl = "{server.url}"\n'
            f'[claude]\nenabled = false\nprogram = "{real_claude}"\n'
            'allowed_tools = ["Bash"]\n'
        )
        async with fleet(broker, tmp_path, config) as (_, observer):
            task = await observer.submit(
                description="Add lines.",
                tier="standard",
                repo="shop",
                branch="lines",
                verification_steps=[
                    f"{sys.executable} -m pytest -q -p no:cacheprovider test_a.py"
                ],
            )
            end = await ended(observer, task)
            first, second = observer.of("task.verified.", task)
            (routed,) = observer.of("task.routed.", task)
            (started,) = observer.of("task.started.", task)
    assert end["type"].startswith("task.completed."), end
    result = end["result"]
    assert (routed["effective_tier"], started["executor"]) == ("standard", "claude")
    assert [(s["round"], s["passed"], s["exit_code"]) for s in (first, second)] == [
        (1, False, 1),
        (2, True, 0),
    ]
    assert LEFT_OUT in first["output"]
    assert server.told
    assert result["verified"] is True
    for counted in ("tokens_in", "tokens_out"):
        rounds = [each["spent"][counted] for each in (first, second)]
        assert all(rounds)
        assert result[counted] == sum(rounds)
    assert (result["estimated_cost_usd"], result["cost_basis"]) == (0, "local_estimate")
    assert result["equivalent_claude_cost_usd"] > 0
    changes = result["changes"]
    assert (changes["branch"], changes["insertions"]) == ("lines", 2)
    assert "+two\n+three\n" in changes["patch"]
    assert (repo / "a.txt").read_text() == "one\n"


def tokens(**counts: int) -> dict[str, int]:
    """What a reply uses; nothing of the cache unless it is said."""
    return {"cache_creation_tokens": 0, "cache_read_tokens": 0, **counts}


async def test_claude_s_work_is_told_what_failed_and_both_rounds_are_paid_as_they_were(
    broker: LiveBroker, real_claude: Path, messages_api: MessagesApi, tmp_path: Path
) -> None:
    repo = checkout(tmp_path)
    words = [
        ("two", tokens(input_tokens=2_000, output_tokens=30, cache_read_tokens=500)),
        ("", tokens(input_tokens=2_100, output_tokens=40)),
        ("three", tokens(input_tokens=3_000, output_tokens=50)),
        ("", tokens(input_tokens=3_300, output_tokens=60, cache_creation_tokens=700)),
    ]
    for line, used in words:
        tool = Reply(kind="tool", command=f"echo {line} >> a.txt", **used)
        messages_api.reply_next(tool if line else Reply(text="Done.", **used))
    config = (
        f'discover = false\n[repos]\nshop = "{repo}"\n'
        f'[claude]\nprogram = "{real_claude}"\nallowed_tools = ["Bash"]\n'
    )
    async with fleet(
        broker,
        tmp_path,
        config,
        ANTHROPIC_BASE_URL=messages_api.url,
        ANTHROPIC_API_KEY="any",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
    ) as (_, observer):
        task = await observer.submit(
            description="Add lines.",
            tier="complex",
            repo="shop",
            branch="lines",
            verification_steps=[
                f"{sys.executable} -m pytest -q -p no:cacheprovider test_a.py"
            ],
        )
        end = await ended(observer, task, 120)
        checked = observer.of("task.verified.", task)
    assert end["type"].startswith("task.completed."), end
    assert [(s["round"], s["passed"]) for s in checked] == [(1, False), (2, True)]
    calls = messages_api.messages()
    assert len(calls) == len(words)
    assert LEFT_OUT in str(calls[2].body)
    result = end["result"]
    in_all = 0.0
    for step, calls_of_round, said in (
        (checked[0], calls[:2], words[:2]),
        (checked[1], calls[2:], words[2:]),
    ):
        usd = 0.0
        for call, (_, used) in zip(calls_of_round, said, strict=True):
            dollars = price(
                call.body["model"],
                tokens_in=used["input_tokens"],
                tokens_out=used["output_tokens"],
                cache_read=used["cache_read_tokens"],
                cache_write=used["cache_creation_tokens"],
            )
            assert dollars is not None
            usd += float(dollars)
        spent = step["spent"]
        assert spent["estimated_cost_usd"] == pytest.approx(usd)
        assert spent["tokens_in"] == sum(used["input_tokens"] for _, used in said)
        assert spent["tokens_out"] == sum(used["output_tokens"] for _, used in said)
        in_all += usd
    assert result["estimated_cost_usd"] == pytest.approx(in_all)
    assert (result["tokens_in"], result["tokens_out"]) == (10_400, 180)
    assert (result["cache_read_tokens"], result["cache_write_tokens"]) == (500, 700)
    assert (result["cost_basis"], result["verified"]) == ("reported", True)
    assert "+two\n+three\n" in result["changes"]["patch"]


async def test_a_command_that_fails_its_verification_never_completes(
    broker: LiveBroker, tmp_path: Path
) -> None:
    async with fleet(broker, tmp_path) as (_, observer):
        task = await observer.submit(
            description="x", shell={"command": "true"}, verification_steps=["exit 1"]
        )
        end = await ended(observer, task)
        assert observer.of("task.completed.", task) == []
    assert end["type"].startswith("task.failed."), end
    assert end["result"]["verified"] is False
    assert end["result"]["error"]["code"] == "verification"


def backends(ollama_url: str, claude: Path | None) -> str:
    program = f'program = "{claude}"\n' if claude else ""
    return (
        "discover = false\n"
        f'[[endpoint]]\nname = "gpu"\nkind = "ollama"\nurl = "{ollama_url}"\n'
        f"[claude]\nenabled = {str(claude is not None).lower()}\n{program}"
    )


async def test_an_answer_that_fails_its_verification_never_completes(
    broker: LiveBroker, tmp_path: Path, simulated_ollama: SimulatedOllama
) -> None:
    config = backends(simulated_ollama.url, None)
    async with fleet(broker, tmp_path, config) as (_, observer):
        task = await observer.submit(
            description="Say it.",
            tier="standard",
            mode="answer",
            verification_steps=["exit 1"],
        )
        end = await ended(observer, task)
        assert observer.of("task.completed.", task) == []
    assert end["type"].startswith("task.failed."), end
    assert end["result"]["error"]["code"] == "verification"


async def test_claude_s_work_that_fails_its_verification_never_completes(
    broker: LiveBroker,
    tmp_path: Path,
    simulated_ollama: SimulatedOllama,
    simulated_claude: SimulatedClaude,
) -> None:
    config = backends(simulated_ollama.url, simulated_claude.program)
    async with fleet(broker, tmp_path, config) as (_, observer):
        task = await observer.submit(
            description="Do it.", tier="complex", verification_steps=["exit 1"]
        )
        end = await ended(observer, task)
        assert observer.of("task.completed.", task) == []
    assert end["type"].startswith("task.failed."), end
    assert end["result"]["error"]["code"] == "verification"
    assert end["result"]["verified"] is False
    assert len([run for run in simulated_claude.runs if run.prompt]) == 2


async def test_what_fails_in_all_rounds_hops_once_to_claude_and_the_trace_says_why(
    broker: LiveBroker,
    tmp_path: Path,
    simulated_ollama: SimulatedOllama,
    simulated_claude: SimulatedClaude,
) -> None:
    config = backends(simulated_ollama.url, simulated_claude.program)
    async with fleet(broker, tmp_path, config) as (_, observer):
        task = await observer.submit(
            description="Say it.",
            tier="standard",
            mode="answer",
            verification_steps=["exit 1"],
            max_attempts=5,
        )
        end = await ended(observer, task)
        first, second = observer.of("task.routed.", task)
        assert observer.of("task.completed.", task) == []
        rounds = observer.of("task.verified.", task)
    assert end["type"].startswith("task.failed."), end
    assert (first["target_type"], second["target_type"]) == ("ollama", "claude")
    assert "fallback_code" not in first
    assert second["fallback_code"] == "verification"
    assert "has not passed its verification" in str(second)
    assert [each["passed"] for each in rounds] == [False] * 4


async def there(path: Path) -> None:
    """Return once another process has made it."""
    async with asyncio.timeout(60):
        while not path.exists():
            await asyncio.sleep(0.02)


async def test_a_host_killed_in_a_verification_step_has_completed_nothing(
    broker: LiveBroker, tmp_path: Path
) -> None:
    gate = tmp_path / "first"
    async with fleet(broker, tmp_path) as (ring, observer):
        task = await observer.submit(
            description="x",
            shell={"command": "echo done"},
            verification_steps=[f"if mkdir {gate}; then sleep 1000; fi"],
        )
        await there(gate)
        (cut,) = observer.of("task.routed.", task)
        await asyncio.to_thread(ring.kill, "h1")
        assert observer.of("task.completed.", task) == []
        await asyncio.to_thread(ring.restart, "h1")
        end = await ended(observer, task)
        _, again = observer.of("task.routed.", task)
        steps = observer.of("task.verified.", task)
        requeued = observer.of("task.requeued.", task)
    assert end["type"].startswith("task.completed."), end
    assert len(observer.of("task.completed.", task)) == 1
    assert end["route"] == again["id"] != cut["id"]
    assert end["result"]["verified"] is True
    assert [(each["route"], each["passed"]) for each in steps] == [(again["id"], True)]
    # The host's new process says so, or the scheduler sees first that it holds no run.
    [lost] = requeued
    assert lost["route"] == cut["id"]
    assert lost["reason"] in LOST_RUN
    assert alive(cut["id"]) == []


async def test_what_a_round_has_cost_before_its_host_was_killed_is_off_the_budget(
    broker: LiveBroker,
    tmp_path: Path,
    simulated_ollama: SimulatedOllama,
    simulated_claude: SimulatedClaude,
) -> None:
    gate = tmp_path / "first"
    config = backends(simulated_ollama.url, simulated_claude.program)
    async with fleet(broker, tmp_path, config) as (ring, observer):
        task = await observer.submit(
            description="Do it.",
            tier="complex",
            max_budget_usd=5.0,
            verification_steps=["true", f"if mkdir {gate}; then sleep 1000; fi"],
        )
        await there(gate)
        await observer.until(lambda: bool(observer.of("task.verified.", task)))
        (told,) = observer.of("task.verified.", task)
        await asyncio.to_thread(ring.restart, "h1")
        end = await ended(observer, task)
    assert end["type"].startswith("task.completed."), end
    given = [
        float(word.partition("=")[2])
        for run in simulated_claude.runs
        for word in run.argv
        if word.startswith("--max-budget-usd=")
    ]
    spent = told["spent"]["estimated_cost_usd"]
    assert spent > 0
    assert given == [5.0, pytest.approx(5.0 - spent, abs=1e-6)]
