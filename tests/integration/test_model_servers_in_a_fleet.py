"""Thirty tasks on each kind of model servers that people have, and none is lost or hops."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.llama_cpp import RealServer
from tests.support.ports import free_port
from tests.support.ring import observing, ring_on
from tests.support.simulated_llama import SimulatedLlamaServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sidecar.simulated.claude import SimulatedClaude
    from tests.support.broker import LiveBroker
    from tests.support.llama_cpp import RealServers
    from tests.support.ring import Observer

TASKS = 30
PATIENT_S = 600.0
OVER = ("completed", "failed", "dead_lettered", "expired", "cancelled")


@asynccontextmanager
async def fleet(
    broker: LiveBroker,
    folder: Path,
    claude: Path | None = None,
    key: str = "",
    **servers: str,
) -> AsyncIterator[Observer]:
    """One host with these OpenAI-compatible servers, and Claude to hop to."""
    config = folder / "h1.toml"
    lines = [f'name = "h1"\ndata = "{folder / "h1"}"\ndiscover = false\n']
    for name, url in servers.items():
        lines.append(f'[[endpoint]]\nname = "{name}"\nkind = "openai"\nurl = "{url}"\n')
        lines.append('api_key_env = "MODELS_KEY"\n' if key else "")
    lines.append(
        f'[claude]\nprogram = "{claude}"\n' if claude else "[claude]\nenabled = false\n"
    )
    config.write_text("".join(lines))
    async with ring_on(broker, folder) as ring, observing(broker) as observer:
        ring.scheduler()
        ring._start("h1", ["sidecar", "--config", str(config)], {"MODELS_KEY": key})
        await observer.until(lambda: observer.of("host.joined"))
        yield observer


async def thirty(
    observer: Observer, describe: Callable[[int], str], **fields: Any
) -> list[str]:
    """Submit them all; return their ids."""
    return [
        await observer.submit(
            description=describe(n),
            **{"tier": "standard", "max_tokens": 2, "temperature": 0.0, **fields},
        )
        for n in range(TASKS)
    ]


async def all_well(observer: Observer, tasks: list[str]) -> list[dict[str, Any]]:
    """Wait until all are over; each is completed in its tier. Their results."""

    def over(task: str) -> list[dict[str, Any]]:
        return [e for end in OVER for e in observer.of(f"task.{end}.", task)]

    await observer.until(lambda: all(over(task) for task in tasks), seconds=PATIENT_S)
    ends = [over(task)[-1] for task in tasks]
    wrong = [end for end in ends if not end["type"].startswith("task.completed.")]
    assert wrong == []
    assert not any(routed.get("fallback_used") for routed in observer.of("task.routed"))
    return [end["result"] for end in ends]


async def test_a_server_that_is_restarted_within_four_seconds_costs_no_hop(
    broker: LiveBroker, simulated_claude: SimulatedClaude, tmp_path: Path
) -> None:
    server = SimulatedLlamaServer(["m"], first_token_s=0.3, parallel=2)
    async with (
        server,
        fleet(broker, tmp_path, simulated_claude.program, gpu=server.url) as observer,
    ):
        tasks = await thirty(observer, lambda n: f"Say {n}.")
        await server.wait_until(lambda: len(server.runs()) > 4)
        await server.stop()
        await asyncio.sleep(3.0)
        await server.start()
        results = await all_well(observer, tasks)
    assert {result["model_used"] for result in results} == {"m"}
    assert simulated_claude.runs == []


async def test_two_real_servers_of_different_context_share_the_work(
    broker: LiveBroker, real_llama: RealServers, tmp_path: Path
) -> None:
    """Digits are a token each, more than anybody estimates: the small one refuses them."""
    small = await real_llama.at(ctx=256, name="gemma")
    large = await real_llama.at(ctx=512, name="gemma")
    digits = "31415926535897932384" * 15
    async with fleet(broker, tmp_path, small=small, large=large) as observer:
        tasks = await thirty(
            observer, lambda n: f"{n} {digits}" if n % 8 == 0 else f"Say {n}."
        )
        results = await all_well(observer, tasks)
        ran = {
            task: observer.of("task.started.", task)[-1]["endpoint"] for task in tasks
        }
    assert {ran[task] for task in tasks[::8]} == {"h1-large"}
    assert set(ran.values()) == {"h1-large", "h1-small"}
    assert all(result["tokens_in"] is not None for result in results)


async def test_the_real_router_runs_both_of_its_models(
    broker: LiveBroker, real_llama: RealServers, tmp_path: Path
) -> None:
    async with (
        real_llama.router(tmp_path, "first", "second") as url,
        fleet(broker, tmp_path, router=url) as observer,
    ):
        some = await thirty(observer, lambda n: f"Say {n}.", model="first")
        results = await all_well(observer, some)
        assert {result["model_used"] for result in results} == {"first"}
        other = await observer.submit(
            description="Say it.", tier="standard", model="second", max_tokens=2
        )
        [result] = await all_well(observer, [other])
    assert result["model_used"] == "second"


def litellm() -> str | None:
    """LiteLLM's proxy: LITELLM names it, or it is on PATH."""
    beside = Path(sys.executable).parents[2] / ".venv-litellm" / "bin" / "litellm"
    return (
        os.environ.get("LITELLM")
        or shutil.which("litellm")
        or (str(beside) if beside.exists() else None)
    )


@asynccontextmanager
async def proxy(folder: Path, key: str, **models: str) -> AsyncIterator[str]:
    """LiteLLM's proxy before OpenAI-compatible servers, ready."""
    program = litellm()
    if program is None:
        pytest.skip(
            "LITELLM IS NOT HERE (`make litellm` installs it beside .venv): nothing is "
            "tried against its proxy"
        )
    listed = [
        {
            "model_name": name,
            "litellm_params": {
                "model": "openai/gemma",
                "api_base": f"{url}/v1",
                "api_key": "none",
            },
        }
        for name, url in models.items()
    ]
    config = folder / "litellm.yaml"
    config.write_text(  # JSON is YAML
        json.dumps({"model_list": listed, "general_settings": {"master_key": key}})
    )
    port = free_port()
    words = [program, "--config", str(config), "--host", "127.0.0.1"]
    server = RealServer(
        [*words, "--port", str(port)],
        f"http://127.0.0.1:{port}",
        key,
        folder / "litellm.log",
    )
    server.start()
    try:
        await server.ready()
        yield server.url
    finally:
        server.stop()


async def test_litellm_s_proxy_runs_them_by_the_names_that_it_gives(
    broker: LiveBroker, real_llama: RealServers, tmp_path: Path
) -> None:
    key = "sk-of-a-test"
    async with (
        proxy(
            tmp_path, key, **{"team/gemma": await real_llama.at(ctx=512, name="gemma")}
        ) as url,
        fleet(broker, tmp_path, key=key, litellm=url) as observer,
    ):
        tasks = await thirty(observer, lambda n: f"Say {n}.")
        results = await all_well(observer, tasks)
    assert all(result["tokens_in"] for result in results)
    routed = [observer.of("task.routed.", task)[-1] for task in tasks]
    assert {each["selected_model"] for each in routed} == {"team/gemma"}


async def test_two_real_servers_of_one_model_share_the_load(
    broker: LiveBroker, real_llama: RealServers, tmp_path: Path
) -> None:
    first = await real_llama.at(ctx=512, name="gemma")
    second = await real_llama.at(ctx=256, name="gemma")
    async with fleet(broker, tmp_path, first=first, second=second) as observer:
        tasks = await thirty(observer, lambda n: f"Say {n}.")
        await all_well(observer, tasks)
        steps = [
            (each["endpoint"], each["task_id"]) for each in observer.of("task.started.")
        ]
        routed = observer.of("task.routed.")
    ran = [endpoint for endpoint, _ in steps]
    assert len({task for _, task in steps}) == TASKS
    assert min(ran.count("h1-first"), ran.count("h1-second")) >= TASKS // 5
    # Both have their model in memory, as they say.
    warm = [c["factors"]["warm"] for each in routed for c in each["candidates"]]
    assert warm
    assert min(warm) > 1


async def test_a_server_with_the_model_in_memory_comes_first(
    broker: LiveBroker, tmp_path: Path
) -> None:
    async with (
        SimulatedLlamaServer(["m", "other"]) as cold,
        SimulatedLlamaServer(["m"]) as warm,
        fleet(broker, tmp_path, a=cold.url, b=warm.url) as observer,
    ):
        task = await observer.submit(description="Say it.", tier="standard", model="m")
        await all_well(observer, [task])
        started = observer.of("task.started.", task)
    assert [each["endpoint"] for each in started] == ["h1-b"]
