"""A host by itself: a sidecar on the in-memory log and bus, and who talks to it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from events import catalogue as c
from events import mail, subjects
from events.codec import encode
from sidecar.assembly import Parts
from sidecar.config import ClaudeConfig, SidecarConfig, SlotsConfig
from sidecar.main import run
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidecar.host import Sidecar

REPLIES = msgspec.json.Decoder(mail.Reply)


class World:
    """The rest of the fleet, as one test sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = MemoryLog()
        self.broker = MemoryBroker()
        self.bus = MemoryBus(self.broker)
        self.theirs = MemoryBus(self.broker)
        self.output: list[c.Chunk] = []
        self._news = asyncio.Event()
        self.sidecar: Sidecar | None = None

    async def open(self) -> None:
        await self.log.follow(lambda _: self._news.set())
        await self.theirs.listen("agentcom.out.>", self._chunk)

    def _chunk(self, message) -> None:
        self.output.append(msgspec.json.decode(message.data, type=c.Chunk))
        message.respond(b"{}")
        self._news.set()

    async def events(self, subject: str = "agentcom.evt.>") -> list[c.Event]:
        return [each.event for each in await self.log.read(subject)]

    async def until(self, kind: type, *, count: int = 1) -> list:
        """Wait until the log holds `count` events of a kind."""
        async with asyncio.timeout(60):
            while True:
                found = [e for e in await self.events() if isinstance(e, kind)]
                if len(found) >= count:
                    return found
                self._news.clear()
                await self._news.wait()

    async def names(self, task_id: str) -> list[str]:
        """What was said of a task's runs; not that it was accepted: its start may say so."""
        events = await self.events(subjects.runs_of(task_id))
        return [c.name(e) for e in events if not isinstance(e, c.TaskAccepted)]

    async def tell(self, message: object, host: str = "h1") -> mail.Reply:
        subject = subjects.host_mailbox(host)
        raw = await self.theirs.request(subject, encode(message), timeout=60)
        return REPLIES.decode(raw)

    @asynccontextmanager
    async def living(
        self, executors: dict[str, object] | None = None, **settings: object
    ) -> AsyncIterator[Sidecar]:
        """A sidecar that has joined; drained at the end. Without executors: all."""
        config = SidecarConfig(
            **{
                "name": "h1",
                "slots": SlotsConfig(shell=2),
                "discover": False,
                "claude": ClaudeConfig(enabled=False),
                "noop": True,
                "drain_timeout_s": 0.0,
                **settings,
            }
        )
        stop = asyncio.Event()
        ready: asyncio.Future[Sidecar] = asyncio.get_running_loop().create_future()
        role = asyncio.create_task(
            run(
                config,
                self,
                stop,
                parts=None if executors is None else Parts(executors=executors),
                data=self.folder,
                ready=ready.set_result,
            )
        )
        try:
            await asyncio.wait({role, ready}, return_when=asyncio.FIRST_COMPLETED)
            if role.done():
                await role
            yield ready.result()
        finally:
            stop.set()
            await role


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    made = World(folder)
    await made.open()
    yield made


def assign(task: str = "t1", route: str = "", **fields: object) -> mail.Assign:
    return mail.Assign(
        **{
            "epoch": 1,
            "task_id": task,
            "route": route or f"{task}-r1",
            "generation": 1,
            "attempt": 1,
            "spec": c.TaskSpec(description="x", shell=c.Shell(command="echo hi")),
            "tier": "trivial",
            "target_type": "sidecar",
            **fields,
        }
    )
