"""Everything on one machine: the broker and the roles as child processes, kept alive.

Each role is a process in a session of its own, so that Ctrl-C in the terminal is ours to
translate: first the sidecar drains, then web and scheduler end, last the broker. A role
that ends unasked is started again, sooner first and later more patiently. Everything
dies with this process (Linux: parent-death signals). Start it from the main thread.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from cli.client.connection import NotRunning, Refused, Session, connected
from cli.local.broker import Broker, LogTail, StartFailed, running_pid
from cli.local.holders import require_free
from cli.local.instance import LOOPBACK
from cli.local.process import listens_on
from cli.local.role_logs import bound_log, last_words
from cli.local.roles import web_url
from cli.local.served import BACKOFF_S, Role, ServedRole
from cli.local.streams import make_streams
from cli.render.terminal import EXIT_UNREACHABLE, Problem
from events.errors import AgentComError
from projections.answers import HostsAnswer, StatusAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli.local.instance import Instance

LOGS_EVERY_S: Final = 2.0
SUCCESSION_S: Final = 30.0
"""How long what a killed `agentcom up` ran is waited for; a sidecar that drains, longer."""
NOTIFY_FILE: Final = "notify.toml"
"""Where the data folder has this, notifications are delivered too."""
OTHER_BROKER: Final = "--nats-port, 0 for any free one"
OTHER_WEB: Final = "--port, 0 for any free one"
PORT_TRIES: Final = 5
READY_S: Final = 30.0
SETTLED_S: Final = 8.0
"""A tier that was down before the start is up in the log once a scheduler leads, which may
take the lease of one that was killed."""
SHARED_S: Final = 1.5
"""So long a server that was added for all hosts may take to be heard of."""
DRAIN_EXTRA_S: Final = 10.0
STOP_S: Final = 10.0
NO_SPACE: Final = "no space left on device"
PORT_TAKEN: Final = "address already in use"
ROOM_BYTES: Final = 16 * 1024 * 1024
"""So much has to be free before a broker that met a full disk is started anew."""


class Plan(Struct, frozen=True, kw_only=True):
    """What is to run. Ports are free ones already; `config` is a sidecar.toml or None.

    `any_port`, `any_nats_port`: another one does as well, where this one was taken
    meanwhile. `work`
    is the sidecar's own data folder, None for the instance's. `nats_host` is the address
    that the broker listens on, in nats-server's notation.
    The dashboard is asked for under `web_names`, too, below the path `base`, and through
    proxies with those addresses. Scheduler and sidecar serve `metrics` on these two ports.
    """

    host: str
    port: int
    nats_port: int
    any_port: bool = False
    any_nats_port: bool = False
    nats_host: str = LOOPBACK
    work: Path | None = None
    config: Path | None = None
    drain_s: float = 30.0
    web_names: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    base: str = ""
    metrics: tuple[int, int] | None = None


class Everything:
    """Broker, scheduler, web and sidecar of one data folder."""

    def __init__(
        self, instance: Instance, plan: Plan, say: Callable[[str], None]
    ) -> None:
        self.instance = instance
        self.plan = plan
        self._say = say
        self._broker = Broker(instance)
        self._lock: int | None = None
        self._watching: list[asyncio.Task[None]] = []
        logs = instance.data / "logs"
        data = ["--data", str(instance.data)]
        web = self._web_arguments()
        sidecar = [*data, "--name", plan.host]
        if plan.config is not None:
            sidecar += ["--config", str(plan.config)]
        scheduler = [*data]
        if plan.metrics is not None:
            scheduler += ["--metrics-port", str(plan.metrics[0])]
            sidecar += ["--metrics-port", str(plan.metrics[1])]
        self.children: dict[Role, ServedRole] = {
            "scheduler": ServedRole(
                "scheduler", scheduler, logs / "scheduler.log", say
            ),
            "web": ServedRole("web", web, logs / "web.log", say),
            "sidecar": ServedRole("sidecar", sidecar, logs / "sidecar.log", say),
        }
        if (instance.data / NOTIFY_FILE).exists():
            self.children["notify"] = ServedRole(
                "notify", data, logs / "notify.log", say
            )
        self.children["web"].again = self._web_elsewhere

    def _web_arguments(self) -> list[str]:
        plan = self.plan
        return [
            *("--data", str(self.instance.data)),
            *("--port", str(plan.port), f"--base-path={plan.base}"),
            *(f"--web-name={name}" for name in plan.web_names),
            *(f"--trust-proxy={address}" for address in plan.proxies),
        ]

    def _web_elsewhere(self, why: str) -> None:
        """Where the port was taken since it was chosen, another one does as well."""
        if self.plan.any_port and PORT_TAKEN in why:
            self.plan = replace(self.plan, port=free_port())
            self.children["web"].arguments = self._web_arguments()

    @property
    def url(self) -> str:
        """Where the dashboard is, with the token that a browser needs once.

        It stands after the `#`, which browsers send nobody.
        """
        from web.access import TOKENS_FILE, Tokens

        bare = web_url(LOOPBACK, self.plan.port) + self.plan.base
        tokens = self.instance.data / TOKENS_FILE
        if not tokens.exists():
            return bare
        return f"{bare}/#token={quote(Tokens.load(tokens).operator, safe='')}"

    def places(self) -> dict[str, str]:
        """Return where broker, data and dashboard are, once everything runs."""
        return {
            "broker": self.instance.url,
            "data": str(self.instance.data),
            "dashboard": self.url,
            **self._metrics(),
        }

    def _metrics(self) -> dict[str, str]:
        if self.plan.metrics is None:
            return {}
        ports = (self.plan.port, *self.plan.metrics)
        return {"metrics": " ".join(f"{web_url(LOOPBACK, p)}/metrics" for p in ports)}

    async def start(self) -> HostsAnswer:
        """Start it all; return the fleet once this host has joined it.

        Raises Problem where something does not come up, BrokerError.
        """
        plan = self.plan
        patience = SUCCESSION_S if self._take_folder() else 0.0
        await self._once(self._require_no_broker, patience)
        await self._once(
            lambda: require_free(plan.nats_port, OTHER_BROKER, plan.nats_host),
            patience,
        )
        if not plan.any_port:
            await self._once(lambda: require_free(plan.port, OTHER_WEB), patience)
        self._start_broker()
        if self._broker.unrecovered:
            self._say(f"{self._broker.unrecovered}: its description is made anew")
        self._watching = [
            asyncio.get_running_loop().create_task(watch)
            for watch in (self._watch_broker(), self._watch_logs())
        ]
        # Everybody needs the streams; with them there, nobody need wait for another.
        async with connected(credentials=self.instance.credentials("admin")) as admin:
            await make_streams(self.instance.url, admin.link, self.instance)
        self.children["scheduler"].start()
        self.children["web"].start()
        if "notify" in self.children:
            self.children["notify"].start()
        async with connected(
            credentials=self.instance.credentials("operator")
        ) as client:
            # Meanwhile an earlier sidecar delivers what it has finished.
            await self._once(
                self._require_journal,
                plan.drain_s + DRAIN_EXTRA_S,
                "finishes its tasks",
            )
            self.children["sidecar"].start()
            await self._until("scheduler", lambda: answers_commands(client))
            await self._until("web", lambda: answers_questions(client))
            # Another port does as well until people are told of this one.
            web = self.children["web"]
            await self._until("web", lambda: listens_on(web.pid, self.plan.port))
            self.plan = replace(self.plan, any_port=False)
            await self._until("sidecar", lambda: self._joined(client))
            return await self._settled(client)

    def _take_folder(self) -> bool:
        """Be the only `agentcom up` on this folder; raise Problem otherwise.

        Return whether the last one was killed: what it ran may not have ended yet.
        """
        # Not on Windows, where this file is imported to say that it does not run there.
        import fcntl

        data = self.instance.data
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(data / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
        who = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as held:
            os.close(descriptor)
            raise Problem(
                f"AgentCom is up on {data} already"
                + (f" (process {who})" if who else "")
                + ": use it from here, or choose another folder with --data"
            ) from held
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._lock = descriptor
        return bool(who)

    def _require_no_broker(self) -> None:
        """Raise Problem where a nats-server runs on this folder."""
        if (pid := running_pid(self.instance)) is not None:
            raise Problem(
                f"a nats-server (process {pid}) runs on {self.instance.data} already: "
                "stop it, or run the roles beside it with `agentcom scheduler`, "
                "`sidecar`, `web`"
            )

    def _require_journal(self) -> None:
        """Raise Problem where another sidecar works with this host's journal."""
        from sidecar.journal_file import JournalHeld
        from sidecar.journal_thread import require_not_held

        folder = self.plan.work or self.instance.data
        try:
            require_not_held(folder / f"journal-{self.plan.host}.db")
        except JournalHeld as held:
            who = f"process {held.pid}" if held.pid else "another process"
            raise Problem(
                f"{who} is the sidecar of {self.plan.host} ({held.path}): stop it, or "
                "choose another name with --name"
            ) from held

    async def _once(
        self, check: Callable[[], None], patience: float, does: str = "ends"
    ) -> None:
        """Wait until `check()` raises no Problem any more; raise it after `patience` s.

        `does` is what is waited for, of what an earlier `agentcom up` left running.
        """
        deadline = time.monotonic() + patience
        told = False
        while True:
            try:
                check()
                return
            except Problem as problem:
                if time.monotonic() >= deadline:
                    raise
                if not told:
                    told = True
                    self._say(
                        f"waiting up to {patience:g} s while what an earlier "
                        f"`agentcom up` left running {does}: {problem.message}"
                    )
            await asyncio.sleep(0.1)

    def _start_broker(self) -> None:
        """Start it; where the port was taken since it was chosen, on another."""
        for left in reversed(range(PORT_TRIES)):
            plan = self.plan
            self.instance.prepare(f"{plan.nats_host}:{plan.nats_port}", [plan.host])
            try:
                self._broker.start()
                return
            except StartFailed as failed:
                if not (left and plan.any_nats_port and PORT_TAKEN in failed.log):
                    raise
                self.plan = replace(plan, nats_port=free_port())

    async def _until(self, role: Role, ready: Callable[[], object]) -> None:
        """Ask `ready()` until it says yes; raise Problem when the role does not live."""
        child = self.children[role]
        deadline = time.monotonic() + READY_S
        while True:
            answer = ready()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return
            if child.starts > 2 or time.monotonic() > deadline:
                raise Problem(
                    f"the {role} does not come up{last_words(child.log)}",
                    EXIT_UNREACHABLE,
                )
            await asyncio.sleep(0.03)

    async def _joined(self, client: Session) -> bool:
        answer = await client.query("hosts", {}, HostsAnswer)
        return any(
            each.host == self.plan.host
            and each.state == "up"
            and each.resources is not None
            for each in answer.hosts
        )

    async def _settled(self, client: Session) -> HostsAnswer:
        """Return the fleet once the log says of its tiers what hosts have; not for ever."""
        began = time.monotonic()
        while True:
            fleet = await client.query("hosts", {}, HostsAnswer)
            if not is_unsettled(fleet, self.plan.host, time.monotonic() - began):
                return fleet
            await asyncio.sleep(0.1)

    async def _watch_broker(self) -> None:
        """Start the broker again when it ends unasked."""
        failures = 0
        disk = FullDisk(self.instance)
        while True:
            await asyncio.sleep(0.25)
            try:
                if self._broker.running:
                    if (news := disk.look()) is not None:
                        self._say(news)
                    if disk.over:
                        # What it could not write once it does not try to write again.
                        self._broker.stop()
                        self._broker.start()
                        disk = FullDisk(self.instance)
                        self._say("there is room again: nats-server was started anew")
                    continue
                wait = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
                self._say(f"nats-server has ended; starting it again in {wait:g} s")
                await asyncio.sleep(wait)
                failures += 1
                # Blocks until it is healthy; on this thread, for its parent-death signal.
                self._broker.start()
                failures = 0
            except (AgentComError, OSError) as error:
                self._say(str(error))

    async def _watch_logs(self) -> None:
        """Keep the roles' logs within bounds."""
        while True:
            await asyncio.sleep(LOGS_EVERY_S)
            for child in self.children.values():
                bound_log(child.log)

    async def stop(self) -> None:
        """End it all: the sidecar drains first, the broker is the last."""
        await self.children["sidecar"].stop(self.plan.drain_s + DRAIN_EXTRA_S)
        await asyncio.gather(
            *(
                child.stop(STOP_S)
                for role, child in self.children.items()
                if role != "sidecar"
            )
        )
        for watch in self._watching:
            watch.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        self._broker.stop()
        self._let_go()

    def kill(self) -> None:
        """End it all at once."""
        for child in self.children.values():
            child.kill()
        for watch in self._watching:
            watch.cancel()
        self._broker.kill()
        self._let_go()

    def _let_go(self) -> None:
        if self._lock is not None:
            # A pid that stays tells the next one that this one was killed.
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None


class FullDisk:
    """Reads in the broker's log whether the disk is full, and sees when it is not.

    nats-server goes on refusing writes to a stream that once met a full disk, also when
    there is room again; only a new start helps.
    """

    def __init__(self, instance: Instance) -> None:
        self._log = LogTail(instance.log_file)
        self._store = instance.data
        self.full = False

    def look(self) -> str | None:
        """Read what is new in the log; return what there is to say, once."""
        told = any(NO_SPACE in line for line in self._log.lines())
        if self.full or not told:
            return None
        self.full = True
        return (
            f"the disk of {self._store} is full: the log takes nothing more; make room, "
            "then it goes on by itself"
        )

    @property
    def over(self) -> bool:
        """Whether the disk was full and has room again."""
        return self.full and shutil.disk_usage(self._store).free > ROOM_BYTES


async def answers_commands(client: Session) -> bool:
    """Whether a gateway answers."""
    try:
        await client.link.request("$SRV.PING.agentcom", b"", timeout=1.0)
    except AgentComError:
        return False
    return True


async def answers_questions(client: Session) -> bool:
    """Whether the read models answer."""
    try:
        await client.query("status", {"wait_seq": 0}, StatusAnswer)
    except (NotRunning, Refused):
        return False
    return True


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_unsettled(fleet: HostsAnswer, host: str, waited_s: float) -> bool:
    """Whether more is worth waiting for, `waited_s` after `host` has joined.

    A tier that is still called down though a host has it up, and, for a moment, what the
    host says of servers that were added for all: one of them may hang.
    """
    if any(tier.state == "down" and tier.offered == "up" for tier in fleet.tiers):
        return waited_s < SETTLED_S
    seen = {
        endpoint.endpoint
        for row in fleet.hosts
        if row.host == host
        for endpoint in row.endpoints
    }
    shared = {each.endpoint for each in fleet.shared_endpoints}
    return not shared <= seen and waited_s < SHARED_S
