"""The HTTP edge over in-memory fakes, and the whole role over a real broker."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
import msgspec
import pytest

from events import subjects
from events.codec import encode
from events.nats.log import JetStreamLog
from events.nats.output import JetStreamOutput
from projections.runner import Runner
from projections.store import Store
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog
from tests.support.histories import History, plausible, tell
from tests.support.links import linked
from web.main import WebConfig, serve


class Site:
    """A server's answers."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self.session = session
        self.base = f"http://127.0.0.1:{port}"

    async def get(self, path: str, **headers: str):
        async with self.session.get(self.base + path, headers=headers) as response:
            return response.status, await response.json()

    async def text(self, path: str) -> str:
        async with self.session.get(self.base + path) as response:
            return await response.text()


@asynccontextmanager
async def running(role, stop):
    """Run a role until the block ends; yield a client of its port."""
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(role(ready.set_result))
    try:
        await asyncio.wait((ready, task), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        async with aiohttp.ClientSession() as session:
            yield Site(session, await ready)
    finally:
        stop.set()
        await task


@asynccontextmanager
async def serving(log, path=None):
    stop, bus = asyncio.Event(), MemoryBus(MemoryBroker())
    config = WebConfig(store=path, port=0)
    async with running(
        lambda ready: serve(log, bus, config, stop, ready=ready), stop
    ) as site:
        yield site, bus


async def test_read_models_are_served_as_json():
    history = History()
    history.join("h1")
    task = history.submit("say hi")
    route = history.route(task)
    history.complete(route, usd=0.5, output="hi")
    log = MemoryLog()
    seq = await tell(log, history.recorded)

    async with serving(log) as (site, _):
        status, one = await site.get(f"/api/v1/tasks/{task}?events=true&wait_seq={seq}")
        assert (status, one["task"]["result"]["output"]) == (200, "hi")
        assert len(one["events"]) == 3
        _, some = await site.get("/api/v1/tasks?state=completed&state=dead&limit=5")
        assert [t["task_id"] for t in some["tasks"]] == [task]
        _, none = await site.get("/api/v1/tasks?state=failed,dead")
        assert none["total"] == 0
        assert (await site.get("/api/v1/queue"))[1]["waiting"] == 0
        assert (await site.get("/api/v1/fleet"))[1]["hosts"][0]["host"] == "h1"
        assert (await site.get("/api/v1/costs?by=host"))[1]["total"]["runs"] == 1
        assert (await site.get("/api/v1/stats"))[1]["cost_usd"] == 0.5
        assert (await site.get("/api/v1/status"))[1]["lag"] == 0


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v1/tasks/nobody", 404, "not_found"),
        ("/api/v1/tasks/nobody/output", 503, "unavailable"),
        ("/api/v1/tasks?limit=lots", 400, "malformed"),
        ("/api/v1/tasks?limit=1&limit=2", 400, "malformed"),
        ("/api/v1/tasks?colour=red", 400, "malformed"),
        ("/api/v1/tasks/x?task_id=y", 400, "malformed"),
        ("/api/v1/tasks/x?events=maybe", 400, "malformed"),
        ("/api/v1/weather", 404, "not_found"),
    ],
)
async def test_what_cannot_be_answered_is_a_refusal_with_its_status(path, status, code):
    async with serving(MemoryLog()) as (site, _):
        given, answer = await site.get(path)

    assert (given, answer["code"]) == (status, code)


async def test_another_name_than_ours_is_not_served():
    async with serving(MemoryLog()) as (site, _):
        status, answer = await site.get("/api/v1/queue", Host="evil.example:4000")
        assert (status, answer["code"]) == (403, "forbidden")
        assert (await site.get("/api/v1/queue", Host="localhost"))[0] == 200
        assert (await site.get("/api/v1/queue", Host="[::1]:4000"))[0] == 200


async def test_health_is_about_the_process_and_readiness_about_the_log():
    async with serving(MemoryLog()) as (site, bus):
        assert (await site.get("/healthz"))[0] == 200
        await site.get("/api/v1/status")
        assert (await site.get("/readyz"))[0] == 200
        bus.set_connected(False)
        assert (await site.get("/readyz"))[0] == 503
        assert (await site.get("/healthz"))[0] == 200


async def test_a_log_put_back_under_it_is_served_anew(tmp_path):
    log, history = MemoryLog(), plausible(5, tasks=20)
    await tell(log, history)
    kept = [r for r in history if r.seq <= len(history) // 2]
    tasks = {r.event.task_id for r in kept if hasattr(r.event, "spec")}

    async with serving(log, tmp_path / "read.db") as (site, _):
        await site.get(f"/api/v1/tasks?wait_seq={len(history)}")
        log.put_back(len(kept))
        async with asyncio.timeout(60):
            while True:
                try:
                    _, answer = await site.get(f"/api/v1/status?wait_seq={len(kept)}")
                    if answer.get("seq") == len(kept):
                        break
                except aiohttp.ClientError:
                    await asyncio.sleep(0)
        _, answer = await site.get("/api/v1/tasks?limit=500")

    assert {task["task_id"] for task in answer["tasks"]} == tasks


async def test_a_store_that_is_locked_at_the_start_is_waited_for(tmp_path, monkeypatch):
    log, path = MemoryLog(), tmp_path / "read.db"
    await tell(log, plausible(5, tasks=3))
    Store(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("pragma journal_mode = delete")
    other.execute("begin exclusive")
    told = []

    def warning(said, **facts):
        told.append((said, facts["reason"]))
        other.close()

    monkeypatch.setattr("web.main.AGAIN_S", 0.01)
    monkeypatch.setattr("web.main._log", SimpleNamespace(warning=warning))

    async with serving(log, path) as (site, _):
        assert (await site.get("/api/v1/status"))[0] == 200

    assert told == [
        ("the read models cannot be written, and wait", "database is locked")
    ]


async def test_metrics_say_what_the_folds_say():
    history = History()
    history.submit("a", priority="high")
    route = history.route(history.submit("b"))
    history.start(route)
    history.complete(route, usd=0.25)
    log = MemoryLog()
    seq = await tell(log, history.recorded)

    async with serving(log) as (site, _):
        await site.get(f"/api/v1/queue?wait_seq={seq}")
        text = await site.text("/metrics")

    for line in (
        'agentcom_tasks{state="completed"} 1.0',
        'agentcom_queue_depth{priority="high",tier="standard"} 1.0',
        'agentcom_decisions_total{tier="standard"} 1.0',
        "agentcom_cost_dollars_total 0.25",
        "agentcom_projection_lag_events 0.0",
        'agentcom_task_run_seconds_count{tier="standard"} 1.0',
    ):
        assert line in text.splitlines()


async def test_a_port_that_is_taken_is_said():
    async with serving(MemoryLog()) as (site, _):
        port = int(site.base.rpartition(":")[2])
        config = WebConfig(store=None, port=port)
        with pytest.raises(OSError, match="address already in use"):
            await serve(MemoryLog(), MemoryBus(MemoryBroker()), config, asyncio.Event())


async def test_the_role_follows_a_real_log_and_answers_clients_over_nats(
    broker, tmp_path
):
    history = plausible(2, tasks=30)
    stop = asyncio.Event()
    config = WebConfig(store=tmp_path / "read.db", port=0)
    async with linked(broker, "scheduler") as link:
        log = JetStreamLog(link)
        try:
            last = 0
            for recorded in history:
                # The broker lets a scheduler say only what schedulers say; the log's
                # owner says the rest.
                if not subjects.parse(recorded.subject).host:
                    last = await log.append(recorded.subject, recorded.event)
        finally:
            await log.close()

    async with (
        linked(broker, "projections") as link,
        running(
            lambda ready: serve(
                JetStreamLog(link),
                link,
                config,
                stop,
                output=JetStreamOutput(link),
                ready=ready,
            ),
            stop,
        ) as site,
    ):
        status, answer = await site.get(f"/api/v1/status?wait_seq={last}")
        assert (status, answer["seq"], answer["undecodable"]) == (200, last, 0)
        async with linked(broker, "submitter") as client:
            raw = await client.request(
                subjects.query("tasks"), encode({"wait_seq": last}), timeout=60
            )
            listed = msgspec.json.decode(raw)
            task = listed["tasks"][0]["task_id"]
            raw = await client.request(
                subjects.query("task"),
                encode({"task_id": task, "events": True}),
                timeout=60,
            )
            one = msgspec.json.decode(raw)
            output = await client.request(
                subjects.query("output"), encode({"task_id": task}), timeout=60
            )
        assert listed["total"] == 30
        assert one["events"][0]["event"]["type"] == "task.submitted.v1"
        assert one["task"]["spec"]["description"] == one["task"]["description"]
        assert msgspec.json.decode(output)["chunks"] == []
        assert (await site.get("/readyz"))[0] == 200


async def test_read_models_survive_a_killed_broker(broker, tmp_path):
    history = History()
    for _ in range(20):
        history.submit()
    async with (
        linked(broker, "scheduler") as writing,
        linked(broker, "projections") as reading,
    ):
        log = JetStreamLog(writing)
        store = Store(tmp_path / "read.db")
        runner = Runner(JetStreamLog(reading), store)
        await runner.start()
        await tell(log, history.recorded[:10])
        assert await runner.wait_for(10, 60)
        broker.kill()
        broker.restart()
        appended = [
            await log.append(r.subject, r.event, expect=0)
            for r in history.recorded[10:]
        ]
        assert await runner.wait_for(appended[-1], 60)
        assert runner.world.queue.waiting == 20
        await runner.stop()
        store.close()
        await log.close()
