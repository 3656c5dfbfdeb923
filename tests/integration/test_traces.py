"""Tasks as traces at a receiver: whole, once, and under the trace of who submitted."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from events import subjects
from sidecar.simulated.ollama import Fault
from tests.integration.test_completed_is_verified import backends, ended, fleet
from tests.support.command import environment
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.simulated.claude import SimulatedClaude
    from sidecar.simulated.ollama import SimulatedOllama
    from tests.support.broker import LiveBroker

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
COLLECTOR = Path(sys.executable).with_name("otelcol-build") / "otelcol"


class Collector:
    """OpenTelemetry's own Collector; what it takes it hands on to us as JSON."""

    def __init__(self, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.spans: list[dict[str, Any]] = []
        self.came = asyncio.Event()
        self._log = folder / "collector.log"
        self._config = folder / "collector.yaml"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Collector]:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        async with TestServer(app) as sink:
            self._configure(str(sink.make_url("")).rstrip("/"))
            with self._log.open("wb") as log:
                child = subprocess.Popen(
                    [COLLECTOR, "--config", self._config], stdout=log, stderr=log
                )
            try:
                async with asyncio.timeout(60):
                    while b"Everything is ready" not in self._log.read_bytes():
                        assert child.poll() is None, self._log.read_text()
                        await asyncio.sleep(0.05)
                yield self
            finally:
                child.terminate()
                await asyncio.to_thread(child.wait, 30)

    def _configure(self, sink: str) -> None:
        protocols = {"http": {"endpoint": self.url.removeprefix("http://")}}
        hand_on = {"endpoint": sink, "encoding": "json", "compression": "none"}
        pipeline = {"receivers": ["otlp"], "exporters": ["otlp_http"]}
        config = {
            "receivers": {"otlp": {"protocols": protocols}},
            "exporters": {"otlp_http": hand_on},
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"traces": pipeline},
            },
        }
        self._config.write_text(json.dumps(config))

    async def _take(self, request: web.Request) -> web.Response:
        for resource in (await request.json())["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                self.spans += [
                    {**span, "attributes": plain(span.get("attributes", []))}
                    for span in scope["spans"]
                ]
        self.came.set()
        return web.json_response({})

    async def until(self, count: int, name: str = "task") -> list[dict[str, Any]]:
        """Return the spans of that name once there are so many."""
        async with asyncio.timeout(60):
            while True:
                spans = [span for span in self.spans if span["name"] == name]
                if len(spans) >= count:
                    return spans
                self.came.clear()
                await self.came.wait()


def plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in attributes}


@pytest.fixture
async def collector(tmp_path: Path) -> AsyncIterator[Collector]:
    if not COLLECTOR.exists():
        pytest.skip("OpenTelemetry's Collector is not there: `make otelcol` builds it")
    async with Collector(tmp_path).running() as running:
        yield running


async def agentcom(broker: LiveBroker, home: Path, *words: str) -> str:
    """Run a command beside the broker's data folder; return what it printed."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agentcom", *words),
        env=environment(home, broker.instance.data),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await child.communicate()
    assert child.returncode == 0, err.decode()
    return out.decode()


async def test_a_retry_a_fallback_and_verification_are_one_whole_trace_sent_once(
    broker: LiveBroker,
    tmp_path: Path,
    simulated_ollama: SimulatedOllama,
    simulated_claude: SimulatedClaude,
    collector: Collector,
) -> None:
    counter = tmp_path / "checks"
    config = backends(simulated_ollama.url, simulated_claude.program)
    async with fleet(broker, tmp_path, config) as (_, observer):
        simulated_ollama.fail_next(Fault(kind="reset", after=0))
        task = await observer.submit(
            description="Say it.",
            tier="standard",
            mode="answer",
            verification_steps=[f"echo x >> {counter}; [ $(wc -l < {counter}) -ge 4 ]"],
            max_attempts=5,
            labels={"team": "search"},
            traceparent=CALLER,
        )
        end = await ended(observer, task)
        said = await agentcom(broker, tmp_path, "traces", "--endpoint", collector.url)
        await collector.until(1)
    assert end["type"].startswith("task.completed."), end
    spans = collector.spans
    assert said == f"sent 1 traces, {len(spans)} spans\n"
    assert {span["traceId"] for span in spans} == {CALLER.split("-")[1]}
    assert Counter(span["name"].partition(" ")[0] for span in spans) == {
        "task": 1,
        "wait": 2,
        "run": 2,
        "deliver": 2,
        "chat": 2,
        "try": 1,
        "invoke_agent": 2,
        "verify": 4,
        "step": 4,
    }
    by_id = {span["spanId"]: span for span in spans}
    assert len(by_id) == len(spans)
    (root,) = [span for span in spans if span["name"] == "task"]
    assert root["parentSpanId"] == CALLER.split("-")[2]
    assert root["attributes"]["agentcom.task.id"] == task
    assert root["attributes"]["agentcom.label.team"] == "search"
    for span in spans:
        if span is not root:
            parent = by_id[span["parentSpanId"]]
            assert int(parent["startTimeUnixNano"]) <= int(span["startTimeUnixNano"])
            assert int(span["endTimeUnixNano"]) <= int(parent["endTimeUnixNano"])
    runs = [span["attributes"] for span in spans if span["name"] == "run"]
    assert [run["agentcom.outcome"] for run in runs] == ["returned", "completed"]
    assert runs[1]["agentcom.fallback.code"] == "verification"
    assert runs[1]["gen_ai.usage.output_tokens"]


async def test_who_follows_goes_on_behind_what_it_sent(
    broker: LiveBroker, tmp_path: Path, collector: Collector
) -> None:
    words = ("traces", "--follow", "--endpoint", collector.url)

    async with fleet(broker, tmp_path) as (_, observer):
        place = broker.instance.data / "traces.position"
        sent: list[str] = []
        for n in range(2):
            task = await observer.submit(description=f"{n}", shell={"command": "true"})
            sent.append(task)
            follower = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agentcom", *words),
                env=environment(tmp_path, broker.instance.data),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            end = await ended(observer, task)
            tasks = await collector.until(n + 1)
            assert [span["attributes"]["agentcom.task.id"] for span in tasks] == sent
            last = next(seq for seq, each in observer.events if each["id"] == end["id"])
            async with asyncio.timeout(60):
                while not (
                    place.exists() and int(place.read_text().partition(":")[0]) >= last
                ):
                    await asyncio.sleep(0.05)
            follower.kill()
            await follower.wait()


async def test_spans_are_printed_without_a_receiver_and_headers_name_the_caller(
    broker: LiveBroker, tmp_path: Path
) -> None:
    async with fleet(broker, tmp_path) as (_, observer):
        # Once this is taken, somebody listens.
        await observer.submit(description="first", executor="noop")
        body = json.dumps({"description": "x", "shell": {"command": "exit 3"}})
        answer = await observer.link.request(
            subjects.command("task.submit"),
            body.encode(),
            timeout=60,
            headers={"traceparent": CALLER},
        )
        task = json.loads(answer)["task_id"]
        await ended(observer, task)
        printed = await agentcom(broker, tmp_path, "traces", task, "--json")
    spans = [json.loads(line) for line in printed.splitlines()]
    assert [span["name"] for span in spans[:4]] == ["task", "wait", "run", "deliver"]
    assert spans[0]["trace_id"] == CALLER.split("-")[1]
    assert spans[0]["error"] == spans[2]["error"] != ""


async def test_a_receiver_that_is_not_there_is_said_and_the_way_out(
    broker: LiveBroker, tmp_path: Path
) -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agentcom", "traces"),
        env=environment(tmp_path, broker.instance.data),
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await child.communicate()
    assert child.returncode == 2
    assert b"say --endpoint URL, or set OTEL_EXPORTER_OTLP_ENDPOINT" in err
