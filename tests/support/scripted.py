"""Hosts that do what a test says, on a real broker, as their own role."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from actors.scheduler.role import SchedulerRole
from events import catalogue as c
from events import mail as m
from events import subjects
from events.codec import Reader, encode, rfc3339
from events.ids import IdSource
from events.nats.leases import JetStreamLeases
from events.nats.log import JetStreamLog
from tests.support.links import linked
from tests.support.ring import Observer, observing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from events.nats.link import Link
    from tests.support.broker import LiveBroker

_mail: Reader[m.HostMail] = Reader(m.HostMail)


class ScriptedHost:
    """Joins, beats, takes what it is given, and ends it when told to."""

    def __init__(self, name: str, link: Link) -> None:
        self.name = name
        self.link = link
        self.log = JetStreamLog(link)
        self.incarnation = f"{name}-life"
        self.resources: dict[str, Any] = {}
        self.running: dict[str, m.Assign] = {}
        self.finish_at_once = True
        self.beating = True
        self._ids = itertools.count()
        self._beats = 0
        self._task: asyncio.Task[None] | None = None

    def _head(self) -> dict[str, str]:
        return {
            "id": f"{self.name}-{next(self._ids)}",
            "at": rfc3339(time.time()),
            "by": self.name,
        }

    async def say(self, kind: type[c.Event], /, **fields: Any) -> int:
        event = kind(
            **self._head(), host=self.name, incarnation=self.incarnation, **fields
        )
        return await self.log.append(subjects.host(self.name), event)

    async def join(self, endpoints: tuple = (), shell: int = 4, **fields: Any) -> None:
        await self.link.listen(subjects.host_mailbox(self.name), self._on)
        fields.setdefault("ram_bytes", self.resources.get("ram_total_bytes"))
        await self.say(
            c.HostJoined,
            version="0",
            slots={"shell": shell},
            endpoints=list(endpoints),
            **fields,
        )
        self.beat()
        self._task = asyncio.create_task(self._beat_on())

    def beat(self) -> None:
        """Send a sign of life now."""
        self._beats += 1
        held = [c.Held(a.task_id, a.route) for a in self.running.values()]
        self.link.publish(
            subjects.beat(self.name),
            encode(
                c.Beat(
                    host=self.name,
                    incarnation=self.incarnation,
                    n=self._beats,
                    at=rfc3339(time.time()),
                    resources=c.Resources(**self.resources),
                    held=held,
                )
            ),
        )

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            if self.beating:
                self.beat()

    def _on(self, message: Any) -> None:
        mail = _mail.decode(message.data)
        message.respond(encode(m.Reply(ok=True)))
        if isinstance(mail, m.Assign):
            self.running[mail.task_id] = mail
            self._report(mail, c.TaskAccepted)
            self._report(mail, c.TaskStarted, executor="scripted")
            if self.finish_at_once:
                self.finish(mail.task_id)
        elif isinstance(mail, m.Cancel) and mail.task_id in self.running:
            self._report(self.running.pop(mail.task_id), c.TaskStopped)

    def _report(self, mail: m.Assign, kind: type[c.Event], /, **fields: Any) -> None:
        event = kind(
            **self._head(),
            task_id=mail.task_id,
            host=self.name,
            route=mail.route,
            generation=mail.generation,
            attempt=mail.attempt,
            incarnation=self.incarnation,
            **fields,
        )
        self.log.append(subjects.run(self.name, mail.task_id), event)

    def finish(self, task_id: str, **result: Any) -> None:
        """End a run with success."""
        mail = self.running.pop(task_id)
        self._report(mail, c.TaskCompleted, result=c.Result(status="success", **result))

    def fail_endpoint(self, task_id: str) -> None:
        """Give a run back because of its endpoint."""
        mail = self.running.pop(task_id)
        self._report(
            mail, c.TaskReturned, reason="endpoint_failed", exclude=mail.endpoint
        )

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.log.close()


class Fleet:
    """A scheduler, scripted hosts, and somebody who watches and commands."""

    def __init__(self, role: SchedulerRole, observer: Observer) -> None:
        self.role = role
        self.observer = observer
        self.hosts: dict[str, ScriptedHost] = {}

    def __getitem__(self, name: str) -> ScriptedHost:
        return self.hosts[name]

    async def seen(self) -> None:
        """Return once the scheduler has folded what was said so far."""
        last = await self.observer.link.call(
            f"$JS.API.DIRECT.GET.{subjects.EVENTS}",
            encode({"last_by_subj": subjects.ALL_EVENTS}),
            timeout=60.0,
        )
        wanted = int(last.headers["Nats-Sequence"])
        async with asyncio.timeout(60):
            while self.role.scheduler.state.position < wanted:
                await asyncio.sleep(0.005)

    async def know(self, host: str, **resources: Any) -> None:
        """Let a host report these resources and the scheduler take them in."""
        self[host].resources = resources
        self[host].beat()
        known = self.role.scheduler.state.fleet.hosts[host]
        async with asyncio.timeout(60):
            while known.cpu != resources.get("cpu"):
                await asyncio.sleep(0.005)

    async def policy(self, **changes: Any) -> None:
        answer = await self.observer.link.request(
            subjects.command("policy.set"), encode({"policy": changes}), timeout=60.0
        )
        assert b'"ok":true' in answer, answer
        await self.seen()

    async def route(self, task: str, n: int = 1) -> dict:
        """The task's n-th routing."""
        await self.observer.until(lambda: len(self.routes(task)) >= n, seconds=60)
        return self.routes(task)[n - 1]

    def routes(self, task: str | None = None) -> list[dict]:
        return self.observer.of("task.routed", task)


@asynccontextmanager
async def fleet_on(broker: LiveBroker, *names: str) -> AsyncIterator[Fleet]:
    """A leading scheduler and so many scripted hosts, not joined yet."""
    counter = itertools.count(1)
    ids = IdSource(time.time, lambda: next(counter))
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(linked(broker, "scheduler"))
        observer = await stack.enter_async_context(observing(broker))
        role = SchedulerRole(
            "s1", JetStreamLog(link), link, JetStreamLeases(link), ids=ids, version="0"
        )
        stop = asyncio.Event()
        running = asyncio.create_task(role.run(stop))
        made = Fleet(role, observer)
        try:
            await observer.until(lambda: observer.of("scheduler.elected"))
            async with asyncio.timeout(60):
                while not role.scheduler.leading:
                    await asyncio.sleep(0.005)
            for name in names:
                if name not in ("h1", "h2"):
                    broker.add_host(name)
                host_link = await stack.enter_async_context(
                    linked(broker, f"host-{name}")
                )
                made.hosts[name] = ScriptedHost(name, host_link)
            yield made
        finally:
            for host in made.hosts.values():
                await host.close()
            stop.set()
            await running
