"""The whole ring as real processes on a test's broker, to be killed at bad moments."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from events import subjects
from events.errors import AgentComError
from tests.support.links import linked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from events import catalogue as c
    from events.nats.link import Link
    from tests.support.broker import LiveBroker


class Ring:
    """Role processes by name; each can be killed and started again."""

    def __init__(self, broker: LiveBroker, folder: Path) -> None:
        self.broker = broker
        self.folder = folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}
        self._envs: dict[str, dict[str, str]] = {}

    def scheduler(
        self, name: str = "scheduler", env: dict[str, str] | None = None
    ) -> None:
        self._start(name, ["scheduler"], env)

    def sidecar(
        self,
        host: str = "h1",
        *,
        claude: Path | None = None,
        env: dict[str, str] | None = None,
        wake_command: str | None = None,
        **settings: object,
    ) -> None:
        config = self.folder / f"{host}.toml"
        lines = [
            f'name = "{host}"',
            f'data = "{self.folder / host}"',
            "noop = true",
            "discover = false",
            "drain_timeout_s = 2",
            *(f"{key} = {json.dumps(value)}" for key, value in settings.items()),
            "[slots]",
            "shell = 4",
            "noop = 8",
            f"claude = {int(claude is not None)}",
            f"agent = {4 * int(wake_command is not None)}",
            *(["[claude]", f'program = "{claude}"'] if claude is not None else []),
        ]
        if wake_command is not None:
            lines += ["[agent]", f"wake_command = {json.dumps(wake_command)}"]
        config.write_text("\n".join(lines) + "\n")
        self._start(host, ["sidecar", "--config", str(config)], env)

    def _start(
        self, name: str, arguments: list[str], env: dict[str, str] | None = None
    ) -> None:
        self._commands[name] = arguments
        self._envs[name] = env or {}
        with (self.folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", "agentcom", *arguments],
                env={
                    **os.environ,
                    "AGENTCOM_DATA": str(self.broker.instance.data),
                    **self._envs[name],
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def pid(self, name: str) -> int:
        return self._children[name].pid

    def kill(self, name: str) -> None:
        """Kill -9."""
        self._children[name].kill()
        self._children[name].wait()

    def pause(self, name: str) -> None:
        self._children[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._children[name].send_signal(signal.SIGCONT)

    def restart(self, name: str) -> None:
        self.kill(name)
        self._start(name, self._commands[name], self._envs[name])

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def close(self) -> None:
        for child in self._children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGCONT)
                child.terminate()
        for child in self._children.values():
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@asynccontextmanager
async def ring_on(broker: LiveBroker, folder: Path) -> AsyncIterator[Ring]:
    """A ring with nothing in it yet; everything started in it is ended."""
    made = Ring(broker, folder)
    try:
        yield made
    finally:
        await asyncio.to_thread(made.close)


class Observer:
    """Reads along as the operator: every event of the log, by type and task."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.events: list[tuple[int, dict]] = []
        self.recorded: list[tuple[int, str, c.Event]] = []
        self.news = asyncio.Event()

    async def watch(self) -> None:
        from events.nats.log import JetStreamLog

        log = JetStreamLog(self.link, consumers=False)

        def on(recorded) -> None:
            from events.codec import encode

            self.recorded.append((recorded.seq, recorded.subject, recorded.event))
            self.events.append((recorded.seq, json.loads(encode(recorded.event))))
            self.news.set()

        self.follower = await log.follow(on)

    def of(self, kind: str, task: str | None = None) -> list[dict]:
        return [
            e
            for _, e in self.events
            if e["type"].startswith(kind) and task in (None, e.get("task_id"))
        ]

    async def until(self, condition, *, seconds: float = 60.0) -> None:
        """Return once `condition()` holds; it is asked after each event.

        Fails the test after `seconds`, with what has become of the unfinished tasks.
        """
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            raise AssertionError(
                f"not within {seconds:g} s; " + self.unfinished()
            ) from None

    def unfinished(self) -> str:
        """Tell the last steps of every task that is not over, and of the hosts."""
        steps: dict[str, list[str]] = {}
        for seq, event in self.events:
            about = event.get("task_id") or event.get("host") or event["type"]
            said = f"{seq} {event['at'][11:23]} {event['type']} by {event['by']}"
            reason = event.get("reason") or event.get("detail")
            steps.setdefault(about, []).append(f"{said} {reason or ''}".rstrip())
        over = ("completed", "failed", "dead_lettered", "expired", "cancelled")
        left = [
            f"{about}:\n    " + "\n    ".join(said[-12:])
            for about, said in steps.items()
            # A run that another replaced may report behind the end.
            if not any(f" task.{end}." in each for end in over for each in said)
        ]
        return f"{len(self.events)} events heard; not over:\n" + "\n".join(left[:20])

    async def submit(self, **fields) -> str:
        """Submit until somebody answers; the key makes a repeat harmless."""
        fields.setdefault("idempotency_key", os.urandom(8).hex())
        body = json.dumps(fields).encode()
        while True:
            try:
                raw = await self.link.request(
                    subjects.command("task.submit"), body, timeout=2.0
                )
            except AgentComError:
                await asyncio.sleep(0.05)
                continue
            answer = json.loads(raw)
            if answer["ok"]:
                return answer["task_id"]
            assert answer["code"] in ("log_unavailable", "busy"), answer

    async def cancel(self, task_id: str) -> None:
        """Say that nobody wants a task any more."""
        body = json.dumps({"task_id": task_id}).encode()
        await self.link.request(subjects.command("task.cancel"), body, timeout=60.0)


@asynccontextmanager
async def observing(broker: LiveBroker) -> AsyncIterator[Observer]:
    """An observer that has begun to watch."""
    async with linked(broker, "operator") as link:
        observer = Observer(link)
        await observer.watch()
        yield observer
        await observer.follower.stop()
