"""A host: the real sidecar with its real journal and outbox, on a machine of chance.

What is simulated is below them: the disk commits after a while and loses what was not
committed when the process dies; endpoints go up and down; runs take as long as chance
says and end as chance says.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from unittest import mock

from msgspec.structs import replace

from events import catalogue as c
from sidecar import host as sidecars
from sidecar import journal_file
from sidecar.assembly import Parts
from sidecar.config import ShellConfig, SidecarConfig, SlotsConfig
from sidecar.executors import shell as shells
from sidecar.executors.port import Finished, RawResult, Returned, Run, Stopped
from sidecar.executors.shell import ShellExecutor, ShellTry
from sidecar.folders import WorkspaceError
from sidecar.host import Sidecar
from sidecar.journal import Journal
from sidecar.journal_thread import write
from sidecar.pipeline import HANDS
from tests.simulation.loop import PROCESS, Process
from tests.simulation.parents import delegate
from tests.simulation.plan import REQUEST_USD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from events.mail import Assign, SharedEndpoint
    from sidecar.executors.port import Emit, Outcome, Stop
    from tests.simulation.loop import SimLoop
    from tests.simulation.network import Link

GIB = 1024**3
CLONED_FROM = ["https://git.example/team"]
"""The beginning of URLs that some machines clone."""
ENDS = (c.TaskCompleted, c.TaskFailed, c.TaskStopped)
TARGETS = ("sidecar", "ollama", "openai", "claude", "agent", "noop")


class Temper:
    """How runs go: the chances of each end, how long they take. Chances add up to 1."""

    def __init__(self) -> None:
        self.calm = False
        self.takes = (0.02, 4.0)
        self.fails = 0.06
        self.given_back = 0.08
        self.limited = 0.04
        self.hangs = 0.05
        self.slow = 0.08
        self.unverified = 0.35
        # Of a chance of its own, by route: a place finds that it cannot do the work.
        self.unfit = 0.0


class Disk:
    """What survives a process: the journal's file."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.full = False
        self.was_full = False

    def promises(self, route: str) -> bool:
        """Whether the route's last event has been committed."""
        found = self.db.execute(
            "SELECT 1 FROM outbox WHERE ends = ?", (route,)
        ).fetchone()
        return found is not None

    def holds(self, route: str) -> bool:
        """Whether an assignment has been committed."""
        found = self.db.execute(
            "SELECT 1 FROM assignments WHERE route = ?", (route,)
        ).fetchone()
        return found is not None


class DiskThread:
    """Stands for the journal's thread: does one job after the other, a little later."""

    def __init__(self, process: Process, disk: Disk, chance: Random) -> None:
        self._process = process
        self._disk = disk
        self._chance = chance
        self._free_at = 0.0

    def ask(self, job: Callable[[Any], Any], done: Callable[[Any, str], None]) -> None:
        loop, chance = self._process.loop, self._chance
        took = chance.uniform(0.0005, 0.004)
        if chance.random() < 0.01:
            took = chance.uniform(0.1, 1.5)
        self._free_at = max(self._free_at, loop.time()) + took
        # The commit is the process's: a killed one's never happens. Telling is apart,
        # so that a process can die with its work done and not know it.
        context = self._process.context
        loop.call_at(self._free_at, self._do, job, done, context=context)

    def _do(self, job: Callable[[Any], Any], done: Callable[[Any, str], None]) -> None:
        if not self._process.alive:
            return
        answer, problem = None, ""
        if self._disk.full:
            self._disk.was_full = True
            problem = "database or disk is full (OperationalError)"
        else:
            try:
                answer = job(self._disk.db)
            except sqlite3.Error as error:
                problem = f"{error} ({type(error).__name__})"
        self._process.call(done, answer, problem)

    def write(self, db: Any, statements: list[Any], probe: int) -> None:
        """Commit, as the journal's own thread does; nobody else has this disk."""
        write(db, statements, probe)

    def write_now(self, statements: list[Any]) -> str:
        """Commit at once."""
        if self._disk.full:
            self._disk.was_full = True
            return "database or disk is full (OperationalError)"
        write(self._disk.db, statements)
        return ""

    def is_in_place(self) -> bool:
        """Nobody puts another journal in this one's place here."""
        return True

    def close(self) -> None:
        """Nothing to let go of."""


def open_journal(process: Process, disk: Disk, chance: Random) -> Journal:
    """Open the journal as the sidecar does, on the simulated disk."""
    with mock.patch.object(journal_file.sqlite3, "connect", return_value=disk.db):
        _, found = journal_file.opened(Path("journal.db"))
    thread = DiskThread(process, disk, chance)
    # Every other host flushes all that it writes, and so waits for it.
    return Journal(  # type: ignore[arg-type]
        Path("journal.db"), thread, found, flush_all=process.name[-1] in "24680"
    )


_HANDS = ["chat", "messages", "tools", "hands"]


class Machine:
    """What a host is made of, whatever incarnation it is in."""

    def __init__(self, name: str, loop: SimLoop, chance: Random, temper: Temper):
        self.name = name
        self.loop = loop
        self.chance = chance
        self.temper = temper
        self.disk = Disk()
        self.gone_for_good = False
        self.ram = chance.choice((8, 16, 32)) * GIB
        self.shell_slots = chance.choice((1, 2, 3))
        self.capabilities = chance.choice(([], ["gpu"], ["gpu", "docker"]))
        self.repos = chance.choice(([], ["web"], ["web", "api"]))
        self.beat_every_s = 1.0
        self.looks_every_s = (1.0, 3.0)
        # Of a chance of its own: what else is drawn stays as it is without this.
        self.clones = Random(f"clones {name}/{self.ram}").choice(([], [], CLONED_FROM))
        # An earlier version, for all the fleet knows.
        self.verifies = True
        self.endpoints: dict[str, c.EndpointState] = {}
        self.on_run: Callable[[SidecarProcess, Assign], None] = (
            lambda _process, _assign: None
        )
        # Told of each verification step's truth, and of each piece of work done well.
        self.on_checked: Callable[[str, str, bool], None] = lambda _r, _c, _ok: None
        self.on_worked: Callable[[str], None] = lambda _route: None
        # Told of each start of a command, and of each clone that is made.
        self.on_command: Callable[[SidecarProcess, Assign], None] = lambda _p, _a: None
        self.on_cloned: Callable[[str, str], None] = lambda _host, _repo: None
        self.wanted: Callable[[str, str], bool] = lambda _task, _route: True
        # Whether its runs of Claude Code submit tasks, and whether a task is over.
        self.delegates = False
        # Dollars that a run's tasks may spend, by its route.
        self.given_usd: dict[str, float] = {}
        self.over: Callable[[str], bool] = lambda _task: True
        self.on_handled: Callable[[Sidecar], None] = lambda _sidecar: None
        if chance.random() < 0.8:
            self._offer("gpu", "ollama", chance.choice((1, 2)))
        if chance.random() < 0.3:
            self._offer("vllm", "openai", 2)
        if chance.random() < 0.7:
            self._offer("claude", "claude", 1)

    def _offer(self, name: str, kind: c.EndpointKind, slots: int) -> None:
        models = ["llama3.2:latest"] if kind != "claude" else []
        if kind != "claude" and self.chance.random() < 0.4:
            models.append("qwen3:latest")
        endpoint = f"{self.name}-{name}"
        # Of a chance of its own: what else is drawn stays as it is without this.
        able = Random(f"{endpoint}/{self.ram}")
        abilities: dict[str, Any] = {}
        if kind != "claude":
            words = [[], ["chat"], ["chat", "messages", "tools"], _HANDS, _HANDS]
            abilities["capabilities"] = able.choice(words)
            if len(models) > 1 and able.random() < 0.5:
                abilities["model_capabilities"] = {models[1]: ["chat"]}
            abilities["context_tokens"] = {
                model: tokens
                for model in models
                if (tokens := able.choice((0, 4_096, 32_768, 65_536)))
            }
        self.endpoints[endpoint] = c.EndpointState(
            endpoint=endpoint, kind=kind, up=True, url="http://model",
            models=models, loaded=models[:1], slots=slots, **abilities,
        )  # fmt: skip

    def config(self) -> SidecarConfig:
        return SidecarConfig(
            name=self.name,
            slots=SlotsConfig(shell=self.shell_slots, claude=1, agent=1, noop=2),
            repos={
                **dict.fromkeys(self.repos, "/nowhere"),
                "clone": bool(self.clones),
                "clone_from": self.clones,
            },
            capabilities=list(self.capabilities),
            shell=ShellConfig(),
            noop=True,
            drain_timeout_s=3.0,
            beat_every_s=self.beat_every_s,
        )

    def may_work_on(self, repo: str) -> bool:
        """Whether it has a checkout of a repository, or makes one."""
        return repo in self.repos or any(repo.startswith(f"{u}/") for u in self.clones)

    def toggle(self, endpoint: str, up: bool) -> None:
        """Take an endpoint up or down."""
        state = self.endpoints[endpoint]
        changes: dict[str, Any] = {"up": up, "reason": "" if up else "refused"}
        loaded = state.models[:1] if up else []
        self.endpoints[endpoint] = replace(state, loaded=loaded, **changes)


class SidecarProcess(Process):
    """One incarnation of a machine's sidecar. `runs` are the routes whose work is alive in it,
    `ended` when each route that is over here ended, and the id of the event that says so.

    Whoever asks for the time, chance or resources is found by its context.
    """

    def __init__(self, machine: Machine, *, skew: float) -> None:
        super().__init__(machine.loop, machine.name, skew=skew)
        self.machine = machine
        self.runs: dict[str, str] = {}
        self.ended: dict[str, tuple[float, str]] = {}
        self.sidecar: Sidecar | None = None
        self.stop = asyncio.Event()

    def kill(self) -> None:
        # The work dies with the sidecar: children die with it.
        self.runs.clear()
        super().kill()


def _own_process() -> SidecarProcess:
    process = PROCESS.get()
    assert isinstance(process, SidecarProcess)
    return process


def _machine() -> Machine:
    return _own_process().machine


class SimEndpoints:
    """What probing would find out."""

    def __init__(
        self,
        config: SidecarConfig,
        found: Callable[[c.EndpointState], None],
        processes: object,
    ) -> None:
        del config, processes
        self._found = found
        self._machine = _machine()
        self._shared: dict[str, SharedEndpoint] = {}
        self._seen: dict[str, c.EndpointState] = {}

    def own_slots(self) -> dict[str, int]:
        return {
            name: state.slots
            for name, state in self._machine.endpoints.items()
            if state.kind != "claude"
        }

    def states(self) -> list[c.EndpointState]:
        return list(self._machine.endpoints.values())

    def share(self, endpoints: list[SharedEndpoint]) -> None:
        self._shared = {each.endpoint: each for each in endpoints}
        for name in [n for n in self._seen if n not in self._machine.endpoints]:
            del self._seen[name]

    def look_again(self) -> None:
        """Nothing here is disbelieved for a while."""

    async def look(self) -> None:
        await asyncio.sleep(self._machine.chance.uniform(0.001, 0.3))
        for state in self.states():
            self._tell(state)
        for each in list(self._shared.values()):
            self._tell(
                c.EndpointState(
                    endpoint=each.endpoint, kind=each.kind, up=True, url=each.url,
                    models=["llama3.2:latest"], slots=each.slots, shared=True,
                )
            )  # fmt: skip

    def _tell(self, state: c.EndpointState) -> None:
        if self._seen.get(state.endpoint) != state:
            self._seen[state.endpoint] = state
            self._found(state)

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(
                self._machine.chance.uniform(*self._machine.looks_every_s)
            )
            await self.look()

    async def close(self) -> None:
        """Nothing to let go of."""

    def resolved(self, assign: Assign) -> Assign:
        return assign

    def is_simulated(self, assign: Assign) -> bool:
        del assign
        return False

    def showed(self, assign: Assign, outcome: Outcome | None) -> None:
        """Real requests tell nothing here."""


NOT_LOGGED_IN = Finished(
    RawResult(
        status="failed",
        error=c.RunError("authentication_failed", "Not logged in · Please run /login"),
    ),
    unusable=True,
)


class SimExecutor:
    """Runs nothing, for as long as chance says."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    async def run(self, run: Run, emit: Emit, stop: Stop) -> Outcome:
        process, route = _own_process(), run.assign.route
        if not run.turns:
            process.machine.on_run(process, run.assign)
        process.runs[route] = run.assign.task_id
        try:
            return await self.work(process.machine, run.assign, emit, stop)
        finally:
            process.runs.pop(route, None)

    async def work(
        self, machine: Machine, assign: Assign, emit: Emit, stop: Stop
    ) -> Outcome:
        chance, temper = machine.chance, machine.temper
        if not temper.calm and Random(f"unfit {assign.route}").random() < temper.unfit:
            if self.kind == "claude":
                return NOT_LOGGED_IN
            exclude = assign.endpoint or machine.name
            return Returned(reason="endpoint_unfit", exclude=exclude)
        ending, takes = self._drawn(chance, temper)
        if chance.random() < 0.1:
            emit.status("working")
        if self.kind == "claude":
            await delegate(_own_process(), assign, stop)
        if await self._stopped_within(stop, takes):
            return await self._stop(chance)
        while ending == "hang":
            if temper.calm and machine.wanted(assign.task_id, assign.route):
                ending = "success"
            if await self._stopped_within(stop, 2.0):
                return await self._stop(chance)
        raw = RawResult(status="success", output="done", tokens_in=10, tokens_out=5)
        if self.kind == "claude":
            cost = REQUEST_USD
            if assign.max_budget_usd is not None:
                given = machine.given_usd.get(assign.route, 0.0)
                cost = min(cost, assign.max_budget_usd - given)
            if cost <= 0:
                error = c.RunError("budget", "nothing is left")
                return Finished(RawResult(status="failed", error=error))
            raw = replace(raw, reported_cost_usd=cost)
        match ending:
            case "fail":
                emit.error("it failed", "exit")
                return Finished(
                    RawResult(status="failed", error=c.RunError("exit", "it failed"))
                )
            case "limited" if self.kind == "claude":
                known = chance.random() < 0.5
                until = _own_process().clock() + chance.uniform(1, 5) if known else None
                return Returned(reason="limited", limited_until=until, result=raw)
            case "back":
                exclude = assign.endpoint or machine.name
                return Returned(
                    reason="endpoint_failed", detail="it broke", exclude=exclude
                )
            case _:
                machine.on_worked(assign.route)
                return Finished(raw)

    @staticmethod
    def _drawn(chance: Random, temper: Temper) -> tuple[str, float]:
        if temper.calm:
            return "success", chance.uniform(0.01, 0.5)
        takes = chance.uniform(*temper.takes)
        draw = chance.random()
        for odds, ending in (
            (temper.fails, "fail"),
            (temper.given_back, "back"),
            (temper.limited, "limited"),
            (temper.hangs, "hang"),
        ):
            if draw < odds:
                return ending, takes
            draw -= odds
        return "success", takes * 5 if draw < temper.slow else takes

    @staticmethod
    async def _stopped_within(stop: Stop, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await stop.wait()
        except TimeoutError:
            return False
        return True

    @staticmethod
    async def _stop(chance: Random) -> Outcome:
        await asyncio.sleep(chance.uniform(0.0, 2.0))
        if chance.random() < 0.1:
            return Finished(RawResult(status="success", output="was just done"))
        return Stopped(result=RawResult(status="failed", tokens_in=1))


class SimShell(ShellExecutor):
    """The real rules of when a command is started again; each try ends as chance says."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._inner = SimExecutor("sidecar")

    async def run(self, run: Run, emit: Emit, stop: Stop) -> Outcome:
        process, assign = _own_process(), run.assign
        process.machine.on_run(process, assign)
        process.runs[assign.route] = assign.task_id
        try:
            return await super().run(run, emit, stop)
        finally:
            process.runs.pop(assign.route, None)

    async def _try(
        self, run: Run, shell: c.Shell, emit: Emit, stop: Stop, *, timeout_s: Any
    ) -> ShellTry | Returned[RawResult]:
        del shell, timeout_s
        process, assign = _own_process(), run.assign
        machine = process.machine
        own = Random(f"{assign.route} {machine.loop.elapsed()}")
        machine.on_command(process, assign)
        ended = await self._inner.work(machine, assign, emit, stop)
        if isinstance(ended, Returned):
            return ended
        if isinstance(ended, Stopped):
            assert ended.result is not None
            return ShellTry(ended.result, why="stopped")
        if ended.result.error is None:
            return ShellTry(ended.result)
        again, started = own.random() < 0.8, own.random() < 0.7
        return ShellTry(ended.result, again=again, started=started)


@asynccontextmanager
async def prepare(assign: Assign) -> AsyncIterator[Run]:
    """Make a run's surroundings: a checkout, where the host makes it itself."""
    machine, repo = _machine(), assign.spec.repo
    if repo is not None and repo not in machine.repos:
        machine.on_cloned(machine.name, repo)
        own = Random(f"clone {assign.route}")
        await asyncio.sleep(own.uniform(0.05, 2.0))
        if not machine.temper.calm and own.random() < machine.temper.given_back:
            raise WorkspaceError(f"repository {repo!r}", "the server did not answer")
    yield Run(assign=assign, cwd=Path(), env={})


class SimVerifier:
    """Runs no steps, and finds what chance says."""

    def step_refusal(self, command: str) -> str | None:
        return None

    async def save_answer(self, run: Run, answer: str) -> None:
        return

    async def step(self, run: Run, command: str, emit: Emit, stop: Stop) -> Outcome:
        machine, route = _own_process().machine, run.assign.route
        chance = machine.chance
        if await SimExecutor._stopped_within(stop, chance.uniform(0.01, 1.0)):
            return Stopped(result=RawResult(status="failed"))
        fails = not machine.temper.calm and chance.random() < machine.temper.unverified
        machine.on_checked(route, command, not fails)
        if not fails:
            return Finished(RawResult(status="success", exit_code=0))
        error = c.RunError("exit_code", "exit code 1")
        return Finished(RawResult(status="failed", exit_code=1, error=error))


class SimResources:
    """What the machine's own tools would say."""

    def __init__(self) -> None:
        self._machine = _machine()

    def read(self) -> c.Resources:
        machine = self._machine
        cpu = machine.chance.choice((0.1, 0.1, 0.1, 0.5, 0.9))
        return c.Resources(cpu=cpu, cores=4, ram_total_bytes=machine.ram)


class NoOutput:
    """Live output is no part of this."""

    def __init__(self, bus: object, **_: object) -> None:
        del bus

    def publish(self, subject: str, data: bytes, *, must: bool = False) -> bool:
        del subject, data, must
        return True

    async def flush(self) -> None:
        return


class _Time:
    @staticmethod
    def time() -> float:
        return _own_process().clock()

    @staticmethod
    def monotonic() -> float:
        return _own_process().loop.time()


class _Secrets:
    @staticmethod
    def randbits(bits: int) -> int:
        return _machine().chance.getrandbits(bits)


async def _no_orphans(idents: object) -> tuple[int, int]:
    del idents
    return 0, 0


@contextmanager
def simulated_edges() -> Iterator[None]:
    """Put the sidecar's edges (clock, chance, probes, processes) under our control."""
    with (
        mock.patch.object(sidecars, "time", _Time),
        mock.patch.object(shells, "time", _Time),
        mock.patch.object(sidecars, "secrets", _Secrets),
        mock.patch.object(sidecars, "Endpoints", SimEndpoints),
        mock.patch.object(sidecars, "Machine", SimResources),
        mock.patch.object(sidecars, "OutputQueue", NoOutput),
        mock.patch.object(sidecars, "sweep", _no_orphans),
    ):
        yield


class Connection:
    """What the sidecar calls its connection."""

    def __init__(self, link: Link) -> None:
        self.log = link
        self.bus = link


class Watched(Sidecar):
    """The sidecar, looked at after each decision."""

    def _record(self, event: c.Event) -> None:
        super()._record(event)
        if isinstance(event, ENDS) and event.route in self.state.runs:
            process = _own_process()
            process.ended[event.route] = (process.loop.elapsed(), event.id)

    def handle(self, command: Any, message: Any = None) -> None:
        super().handle(command, message)
        process = _own_process()
        if process.alive:
            process.machine.on_handled(self)


async def live(process: SidecarProcess, link: Link) -> None:
    """Be this host until `stop`; as `sidecar.main.run`, on the simulated disk."""
    machine = process.machine
    journal = open_journal(process, machine.disk, machine.chance)
    executors: dict[str, Any] = {k: SimExecutor(k) for k in (*TARGETS, HANDS)}
    executors["sidecar"] = SimShell()
    verifier = SimVerifier() if machine.verifies else None
    parts = Parts(executors=executors, prepare=prepare, verifier=verifier)
    async with asyncio.TaskGroup() as group:
        sidecar = Watched(machine.config(), Connection(link), journal, parts, group)
        process.sidecar = sidecar
        await sidecar.start()
        await process.stop.wait()
        await sidecar.stop("stopped")
        await sidecar.outbox.close()
    process.kill()
