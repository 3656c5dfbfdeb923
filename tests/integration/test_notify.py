"""`agentcom notify` as a process that is killed, before a receiver that often fails."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from aiohttp import web

from tests.support.command import System, agentcom_up
from tests.support.ring import observing, ring_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.broker import LiveBroker

SECRET = "a-secret-of-32-characters-0123456"
DOCS = Path(__file__).parents[2] / "docs" / "notifications.md"


class Receiver:
    """A program that is told, and that checks who tells it."""

    def __init__(self) -> None:
        self.willing = False
        self.asked = 0
        self.got: list[dict] = []
        self.forged = 0
        self.url = ""
        self.news = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.news.set()
        if not self.willing:
            return web.Response(status=503)
        body = await request.read()
        delivery = request.headers["webhook-id"]
        said = f"{delivery}.{request.headers['webhook-timestamp']}.".encode() + body
        digest = hmac.new(SECRET.encode(), said, hashlib.sha256).digest()
        expected = "v1," + base64.b64encode(digest).decode()
        self.forged += request.headers["webhook-signature"] != expected
        told = json.loads(body)
        assert told["id"] == delivery
        self.got.append(told)
        return web.Response(status=204)

    async def hang(self, request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async def until(self, condition) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self.news.clear()
                await self.news.wait()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    app.router.add_post("/deaf", receiver.hang)
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=0.0, handler_cancellation=True
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()


def rules(receiver: Receiver) -> str:
    return f"""
[[target]]
name = "deaf"
url = "{receiver.url}/deaf"
secret_env = "HOOK_SECRET"
timeout_s = 30

[[target]]
name = "ops"
url = "{receiver.url}/hook"
secret_env = "HOOK_SECRET"
longest_pause_s = 0.2

[[rule]]
on = ["task.failed", "task.dead"]
to = ["deaf", "ops"]
"""


async def test_a_receiver_that_fails_and_a_role_that_is_killed_lose_no_delivery(
    broker: LiveBroker, tmp_path: Path
) -> None:
    async with (
        receiving() as receiver,
        ring_on(broker, tmp_path) as ring,
        observing(broker) as observer,
    ):
        data = broker.instance.data
        (data / "notify.toml").write_text(rules(receiver))
        ring.scheduler()
        ring.sidecar("h1")
        ring._start("notify", ["notify"], {"HOOK_SECRET": SECRET})
        position = data / "notify" / "ops.json"
        async with asyncio.timeout(60):
            while not position.exists():
                await asyncio.sleep(0.05)

        async def fail(count: int) -> list[str]:
            tasks = [
                await observer.submit(
                    description=f"fails {n}",
                    tier="trivial",
                    shell={"command": "exit 3"},
                    max_attempts=1,
                )
                for n in range(count)
            ]
            await observer.until(
                lambda: all(observer.of("task.failed", each) for each in tasks)
            )
            return tasks

        tasks = await fail(3)
        await receiver.until(lambda: receiver.asked >= 2)
        ring.restart("notify")
        tasks += await fail(2)
        asked = receiver.asked
        await receiver.until(lambda: receiver.asked > asked)
        receiver.willing = True
        await receiver.until(lambda: receiver.got)
        ring.restart("notify")
        tasks += await fail(1)
        await receiver.until(
            lambda: {each["task"]["task_id"] for each in receiver.got} == set(tasks)
        )
        ended = [
            event["task_id"]
            for _, event in observer.events
            if event["type"].startswith("task.failed")
        ]
        log = ring.log("notify")
    assert receiver.forged == 0
    ids = list(dict.fromkeys(each["id"] for each in receiver.got))
    assert len(ids) == len(tasks)
    told = list(dict.fromkeys(each["task"]["task_id"] for each in receiver.got))
    assert told == ended
    seqs = [each["seq"] for each in receiver.got]
    assert seqs == sorted(seqs)
    assert SECRET not in log
    assert "/hook" not in log


def documented(receiver: Receiver) -> str:
    """The documented file, but for its address, and with one target."""
    text = DOCS.read_text().partition("```toml\n")[2].partition("```")[0]
    text = text.replace("https://hooks.example/agentcom", f"{receiver.url}/hook")
    return text.partition('[[target]]\nname = "phone"')[0] + (
        '[[rule]]\non = ["task.failed"]\nto = ["ops"]\n'
    )


def written(folder: Path, text: str) -> None:
    (folder / "data").mkdir(mode=0o700)
    (folder / "data" / "notify.toml").write_text(text)


async def test_a_target_that_fails_a_try_is_said_with_the_reason(
    tmp_path: Path,
) -> None:
    async with receiving() as receiver:
        written(tmp_path, documented(receiver))
        system = System(tmp_path)
        hook = {"AGENTCOM_HOOK_SECRET": SECRET}
        tried = await asyncio.to_thread(system.run, "notify", "test", **hook)
        assert tried.returncode == 3
        assert "ops: not delivered: it answered with status 503" in tried.stderr
        unset = await asyncio.to_thread(system.run, "notify", "test", "ops")
        assert "a secret of at least 16 characters" in unset.stderr
        other = await asyncio.to_thread(system.run, "notify", "test", "nobody")
        assert "there is no target nobody; targets: ops" in other.stderr
        assert SECRET not in tried.stdout + tried.stderr


async def test_up_delivers_where_the_data_folder_has_the_file(tmp_path: Path) -> None:
    async with receiving() as receiver:
        receiver.willing = True
        written(tmp_path, documented(receiver))
        up = agentcom_up(tmp_path, AGENTCOM_HOOK_SECRET=SECRET)
        system, running = await asyncio.to_thread(up.__enter__)
        try:
            tried = await asyncio.to_thread(system.run, "notify", "test", "ops")
            assert tried.stdout.startswith("ops: delivered, ")
            async with asyncio.timeout(60):
                while not (tmp_path / "data" / "notify" / "ops.json").exists():
                    await asyncio.sleep(0.05)
            roles = psutil.Process(running.process.pid).children()
            (role,) = [each for each in roles if "notify" in each.cmdline()]
            os.kill(role.pid, signal.SIGKILL)
            await asyncio.to_thread(
                system.run, "submit", "--shell", "exit 3", "--wait", "--json"
            )
            await receiver.until(
                lambda: (
                    [each["type"] for each in receiver.got] == ["test", "task.failed"]
                )
            )
            async with asyncio.timeout(60):
                while True:
                    said = await asyncio.to_thread(system.json, "notify", "status")
                    if said["targets"][0]["delivered"] == 1:
                        break
            (ops,) = said["targets"]
            assert (ops["target"], ops["waiting"]) == ("ops", 0)
            shown = await asyncio.to_thread(system.run, "notify", "status")
            assert "ops" in shown.stdout
        finally:
            await asyncio.to_thread(up.__exit__, None, None, None)
