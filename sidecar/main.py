"""The sidecar: one host's role, wired together.

Mail comes in on the host's mailboxes; `actors.host` decides; facts are folded, events go
to the outbox, effects are carried out here. Each run is a task of its own. The order of a
life: open the journal, sweep what an earlier life left running, look at the endpoints,
join; then mail, beats and probes; at the end drain, hand back, say goodbye.
"""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, assert_never

import msgspec
import structlog

from actors.host import messages as msg
from actors.host import state as host_state
from actors.host.decide import decide
from actors.runtime import Letter, Mailbox
from agentcom import __version__
from events import catalogue as cat
from events import commands as mail
from events import subjects
from events.codec import Reader, encode, rfc3339
from events.errors import Malformed
from events.ids import IdSource
from sidecar.costs import settle
from sidecar.endpoints import Endpoints
from sidecar.executors import wake_command
from sidecar.executors.agent import AgentExecutor, AgentOptions, Bookmark
from sidecar.executors.claude.command import ClaudeOptions
from sidecar.executors.claude.executor import ClaudeExecutor
from sidecar.executors.noop import NoopExecutor
from sidecar.executors.ollama import OllamaExecutor
from sidecar.executors.openai import OpenAIExecutor
from sidecar.executors.port import Stop
from sidecar.executors.shell import CommandPolicy, ShellExecutor, ShellOptions
from sidecar.journal import Journal, JournalError, open_journal
from sidecar.outbox import Outbox
from sidecar.pipeline import Pipeline, unprepared, unpriced
from sidecar.processes.family import Processes, sweep
from sidecar.processes.table import Ident
from sidecar.progress import OutputQueue, Progress
from sidecar.resources import Machine
from sidecar.results import Results
from sidecar.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from events.bus import Bus
    from events.log import EventLog
    from sidecar.config import SidecarConfig
    from sidecar.executors.agent import Step, Steps
    from sidecar.executors.port import Executor
    from sidecar.journal import Row
    from sidecar.pipeline import Prepare, Price

JOIN_AFTER_S = 2.0
"""How long joining waits for the first look at the endpoints."""

GOODBYE_S = 5.0
"""How long a host that leaves waits for the log to take its last words."""

logger = structlog.get_logger(__name__)

_assigns: Reader[mail.Assign] = Reader(mail.Assign)
_bookmarks = msgspec.json.Decoder(Bookmark)

_ENDS = (
    cat.TaskCompleted,
    cat.TaskFailed,
    cat.TaskReturned,
    cat.TaskStopped,
    cat.TaskRejected,
)


class Connection(Protocol):
    """What connects a host with the rest: the log it reports to, the bus it hears."""

    @property
    def log(self) -> EventLog: ...

    @property
    def bus(self) -> Bus: ...


class Voices:
    """What the parts have to say to the sidecar that will hold them."""

    def __init__(self) -> None:
        self.started: Callable[[Ident], None] = lambda _ident: None
        self.noted: Callable[[mail.Assign, str], None] = lambda _assign, _text: None
        self.steps: Steps | None = None


class _Relay:
    """The steps of an executor that is made before the sidecar is."""

    def __init__(self, voices: Voices) -> None:
        self._voices = voices

    def bookmark(self, route: str) -> Bookmark | None:
        return self._to.bookmark(route)

    def turn(self, assign: mail.Assign, bookmark: Bookmark) -> None:
        self._to.turn(assign, bookmark)

    async def step(self, assign: mail.Assign, bookmark: Bookmark, detail: str) -> None:
        await self._to.step(assign, bookmark, detail)

    @property
    def _to(self) -> Steps:
        if self._voices.steps is None:
            raise RuntimeError("no sidecar keeps the steps of this executor's runs")
        return self._voices.steps


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a sidecar is put together from; `assemble` makes the usual ones.

    `executors` maps target types to executors. `prepare` makes a run's surroundings,
    `price` its dollars. `tidy` is called at the start, when nothing runs yet, with the
    routes that will go on; `closers` at the end. `results` is where woken agents leave
    theirs.
    """

    executors: Mapping[str, Executor]
    prepare: Prepare = unprepared
    price: Price = unpriced
    processes: Processes | None = None
    voices: Voices = field(default_factory=Voices)
    tidy: Callable[[frozenset[str]], Awaitable[object]] | None = None
    closers: Sequence[Callable[[], Awaitable[object]]] = ()
    results: Results | None = None


def assemble(
    config: SidecarConfig, folder: Path, environ: Mapping[str, str] = os.environ
) -> Parts:
    """Make the usual parts: all executors, working folders under `folder`, prices."""
    voices = Voices()
    processes = Processes(lambda ident: voices.started(ident))
    workspace = Workspace(
        folder / "work" / config.host,
        processes,
        repos=config.repo_paths,
        default_repo=config.default_repo,
        source=environ,
        note=lambda assign, text: voices.noted(assign, text),
    )
    keys = {
        config.endpoint_name(each.name): each.api_key_env
        for each in config.endpoints()
        if each.api_key_env
    }

    def api_key(endpoint: str) -> str | None:
        return environ.get(keys[endpoint]) if endpoint in keys else None

    shell = ShellOptions(
        policy=CommandPolicy(tuple(config.shell.allowed)), limits=config.shell.limits
    )
    claude = ClaudeOptions(
        program=config.claude.program,
        permission_mode=config.claude.permission_mode,
        allowed_tools=tuple(config.claude.allowed_tools),
        disallowed_tools=tuple(config.claude.disallowed_tools),
        max_turns=config.claude.max_turns,
        limits=config.claude.limits,
    )
    ollama, openai = OllamaExecutor(api_key), OpenAIExecutor(api_key)
    executors: dict[str, Executor] = {
        "sidecar": ShellExecutor(processes, shell),
        "ollama": ollama,
        "openai": openai,
        "claude": ClaudeExecutor(processes, claude),
        "noop": NoopExecutor(),
    }
    results = None
    if config.agent.enabled:
        own = config.agent.results_folder
        results = Results(Path(own).expanduser() if own else folder / "results")
        executors["agent"] = AgentExecutor(
            config.host, processes, results, _Relay(voices), _agent_options(config)
        )
    return Parts(
        executors=executors,
        prepare=workspace.prepare,
        price=settle,
        processes=processes,
        voices=voices,
        tidy=workspace.tidy,
        closers=(ollama.close, openai.close),
        results=results,
    )


def _agent_options(config: SidecarConfig) -> AgentOptions:
    template = config.agent.wake_command
    return AgentOptions(
        command=None if template is None else wake_command.parse(template),
        confirm_s=config.agent.confirm_s,
        limits=config.agent.limits,
    )


class Sidecar:
    """A host's life. `start`, then `stop`; `run` does both."""

    def __init__(
        self,
        config: SidecarConfig,
        connection: Connection,
        journal: Journal,
        parts: Parts,
        group: asyncio.TaskGroup,
    ) -> None:
        self.host = config.host
        self._config = config
        self._bus = connection.bus
        self._journal = journal
        self._group = group
        self._new_id = IdSource(time.time, partial(secrets.randbits, 80))
        self.incarnation = f"{journal.found.life:06d}-{self._new_id()}"
        self._sink = OutputQueue(connection.bus)
        self._machine = Machine()
        self._endpoints = Endpoints(config, self._probed, parts.processes)
        self._pipeline = Pipeline(
            parts.executors, parts.prepare, parts.price, self._endpoints
        )
        self.state = host_state.initial(
            self.host,
            self.incarnation,
            self._about(parts.executors),
            self._slots(parts.executors),
            self._endpoints.own_slots(),
        )
        self.outbox = Outbox(connection.log, journal, reported=self._reported)
        self._stops: dict[str, Stop] = {}
        self._progress: dict[str, Progress] = {}
        self._marks: dict[str, Bookmark] = {}
        self._earlier: set[str] = set()
        self._agents: dict[str, mail.Assign] = {}
        self._clearing: set[asyncio.Task[None]] = set()
        self._one_cleared = asyncio.Event()
        self._awaiting: dict[str, Letter] = {}
        self._quiet = asyncio.Event()
        self._beats = 0
        self._host_mail: Mailbox[mail.HostMail] = Mailbox(
            self._bus,
            subjects.host_mailbox(self.host),
            mail.HostMail,
            self._on_host_mail,
            faults=_fault,
        )
        self._task_mail: Mailbox[mail.TaskMail] = Mailbox(
            self._bus,
            subjects.task_mailboxes(self.host),
            mail.TaskMail,
            self._on_task_mail,
            faults=_fault,
        )
        self._parts = parts
        parts.voices.started = self._started
        parts.voices.noted = self._noted
        parts.voices.steps = self
        journal.on_fault(self._journal_fault)
        connection.bus.on_connection(self._connected)

    def _about(self, executors: Mapping[str, Executor]) -> host_state.About:
        config = self._config
        return host_state.About(
            version=__version__,
            platform=f"{platform.system()} {platform.machine()}",
            capabilities=list(config.capabilities),
            repos=sorted(config.repos),
            default_repo=config.default_repo,
            ram_bytes=self._machine.read().ram_total_bytes,
            targets=frozenset(self._offered(executors)),
        )

    def _offered(self, executors: Mapping[str, Executor]) -> list[str]:
        config = self._config
        switched_off = {
            "sidecar": not config.shell.enabled,
            "claude": not config.claude.enabled,
            "noop": not config.noop,
        }
        return [kind for kind in executors if not switched_off.get(kind)]

    def _slots(self, executors: Mapping[str, Executor]) -> dict[str, int]:
        config = self._config
        counts = {
            "sidecar": ("shell", config.shell_slots),
            "claude": ("claude", config.slots.claude),
            "agent": ("agent", config.slots.agent),
            "noop": ("noop", config.slots.noop),
        }
        offered = self._offered(executors)
        return {slot: n for kind, (slot, n) in counts.items() if kind in offered}

    # -- a life ------------------------------------------------------------------------

    async def start(self) -> None:
        """Recover, look around, join; from then on mail is answered."""
        await self._recover()
        await self._tidy()
        await self._open_results()
        probing = self._group.create_task(self._endpoints.look())
        await asyncio.wait([probing], timeout=JOIN_AFTER_S)
        await self._host_mail.open()
        await self._task_mail.open()
        self.handle(msg.Join())
        self._beating = self._group.create_task(self._beat_on())
        self._watching = self._group.create_task(self._endpoints.watch())

    async def _recover(self) -> None:
        """Take over what the journal holds; end what an earlier life left running."""
        found = self._journal.found
        if found.epoch:
            host_state.evolve(self.state, msg.EpochSeen(found.epoch))
        for route in found.done:
            self.state.done[route] = ""
        idents = []
        for row in found.rows:
            self._earlier.add(row.route)
            ident = Ident(row.pid or -1, row.started or "", row.route)
            try:
                assign = _assigns.decode(row.assign)
            except Malformed as error:
                logger.error("assignment unreadable", route=row.route, why=str(error))
                self._journal.finish(row.route)
                idents.append(ident)
                continue
            mark = self._found_mark(row, ident)
            if assign.target_type == "agent":
                self._agents[row.route] = assign
            if mark is not None:
                self._marks[row.route] = mark
            if mark is None or mark.step == "waking":
                # What an agent has begun goes on without us; a wake is begun anew.
                idents.append(ident)
            if mark is not None and mark.step == "removed":
                self._clear(row.route)
            elif row.route in found.ended:
                self.handle(msg.Recovered(assign, "finished"))
            elif mark is not None and "agent" in self.state.about.targets:
                self.handle(msg.Recovered(assign, "continuing"))
            elif row.phase == "accepted":
                self.handle(msg.Recovered(assign, "recovered"))
            else:
                self.handle(msg.Recovered(assign, "interrupted"))
        if idents:
            swept, left = await sweep(idents)
            if swept:
                logger.warning(
                    "ended what an earlier life left", found=swept, left=left
                )

    def _found_mark(self, row: Row, ident: Ident) -> Bookmark | None:
        """Read how far a woken agent's run had come, None where it had not begun."""
        if row.phase == "accepted" or not row.session:
            return None
        try:
            mark = _bookmarks.decode(row.session)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.error("bookmark unreadable", route=row.route, why=str(error))
            return None
        return msgspec.structs.replace(mark, process=ident if row.pid else None)

    async def _tidy(self) -> None:
        if self._parts.tidy is not None:
            runs = self.state.runs.items()
            going_on = (r for r, run in runs if run.phase == "continuing")
            await self._parts.tidy(frozenset(going_on))

    async def _open_results(self) -> None:
        results = self._parts.results
        if results is None:
            return
        results.on_left = lambda count: self.handle(msg.ResultsLeft(count))
        held = {each.task_id for each in self._agents.values()}
        await results.open(self.host, held)

    async def stop(self, reason: str) -> None:
        """Drain: let runs finish, hand back what does not in time, say goodbye."""
        self.handle(msg.Leave(reason))
        try:
            async with asyncio.timeout(self._config.drain_timeout_s):
                await self._until_quiet()
        except TimeoutError:
            self.handle(msg.HandBack())
            await self._until_quiet()
        self._watching.cancel()
        await self._host_mail.close()
        await self._task_mail.close()
        self.handle(msg.Left(reason))
        self._beating.cancel()
        self._beat()
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._sink.flush()
                await self.outbox.flush()
                while self._clearing:
                    await asyncio.wait(self._clearing)
                    await self.outbox.flush()
        except TimeoutError:
            logger.warning("the log has not taken everything; it is kept on the disk")

    async def _until_quiet(self) -> None:
        while host_state.slots_taken(self.state):
            self._quiet.clear()
            await self._quiet.wait()

    async def close(self) -> None:
        """Write down what is not delivered, let go of the disk."""
        if self._parts.results is not None:
            await self._parts.results.close()
        await self._endpoints.close()
        for closer in self._parts.closers:
            await closer()
        await self.outbox.close()
        await self._journal.close()

    # -- the actor's loop: decide, fold, record, perform -------------------------------

    def now(self) -> float:
        return time.time()

    def new_id(self) -> str:
        return self._new_id()

    def handle(self, command: msg.HostCommand, letter: Letter | None = None) -> None:
        """Decide on a command and carry out what follows."""
        made = decide(command, self.state, time.time(), self._new_id)
        for fact in made.facts:
            host_state.evolve(self.state, fact)
            if isinstance(fact, cat.Event):
                self._record(fact)
        for effect in made.effects:
            self._perform(effect, letter)
        if not self._quiet.is_set() and not host_state.slots_taken(self.state):
            self._quiet.set()

    def _record(self, event: cat.Event) -> None:
        """Send an event on its way to the log, under the subject it belongs to."""
        if isinstance(event, cat.RunEvent):
            ends = ""
            if isinstance(event, _ENDS) and event.route in self.state.runs:
                ends = event.route
            self.outbox.send(subjects.run(self.host, event.task_id), event, ends=ends)
        elif isinstance(event, cat.HostJoined | cat.HostRecovered):
            self.outbox.send(
                subjects.host(self.host),
                event,
                on_ack=lambda: self.handle(msg.Announced()),
            )
        else:
            self.outbox.send(subjects.host(self.host), event)

    def say(self, subject: str, event: cat.Event) -> None:
        """Send an event of a run on its way (what progress has to say)."""
        self.outbox.send(subject, event)

    def _reported(self, route: str) -> None:
        self.handle(msg.Reported(route))

    def _perform(self, effect: msg.Effect, letter: Letter | None) -> None:
        match effect:
            case msg.Respond():
                asked = self._awaiting.pop(effect.route, None) or letter
                if asked is not None:
                    asked.respond(encode(effect.reply))
            case msg.Persist():
                self._persist(effect.assign, letter)
            case msg.Start():
                stop = self._stops[effect.assign.route] = Stop()
                self._group.create_task(self._run(effect.assign, stop))
            case msg.StopRun():
                if (running := self._stops.get(effect.route)) is not None:
                    running.request(effect.reason)
            case msg.Forget():
                if effect.route in self._agents:
                    self._clear(effect.route)
                else:
                    self._journal.finish(effect.route)
            case msg.RememberEpoch():
                self._journal.remember_epoch(effect.epoch)
            case msg.Watch():
                self._endpoints.share(effect.endpoints)
            case _:
                assert_never(effect)

    def _persist(self, assign: mail.Assign, letter: Letter | None) -> None:
        route = assign.route
        if letter is not None:
            self._awaiting[route] = letter
        raw = letter.data if letter is not None else encode(assign)

        def written(future: asyncio.Future[None]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is None:
                self.handle(msg.Persisted(route))
            else:
                self.handle(msg.NotPersisted(route, str(error)))

        future = self._journal.accept(route, assign.task_id, raw)
        future.add_done_callback(written)

    # -- a run -------------------------------------------------------------------------

    async def _run(self, assign: mail.Assign, stop: Stop) -> None:
        """Resolve, prepare, stream, finish; then record. The log's answer reports it."""
        route = assign.route
        earlier = self._journal.found.life - 1 if route in self._earlier else 0
        progress = Progress(assign, self._sink, self, earlier=earlier)
        self._progress[route] = progress

        if assign.target_type == "agent":
            self._agents[route] = assign

        def began(executor: str, simulated: bool) -> None:
            if assign.target_type != "agent":  # it notes its own steps
                self._journal.note(route, phase="running")
            self.handle(msg.Began(route, executor, simulated))

        try:
            if assign.target_type == "agent":
                await self._alone(assign, stop)
            outcome = await self._pipeline.run(assign, stop, progress, began)
        finally:
            del self._stops[route], self._progress[route]
            self._earlier.discard(route)
        self.handle(msg.RunEnded(route, outcome))

    # -- the steps of a woken agent's run

    def bookmark(self, route: str) -> Bookmark | None:
        """Return how far an earlier life of this sidecar had brought the run."""
        return self._marks.get(route)

    def turn(self, assign: mail.Assign, bookmark: Bookmark) -> None:
        """Note how far it is, at leisure."""
        route = assign.route
        self._marks[route] = bookmark
        self._journal.note(route, phase=bookmark.step, session=_spelled(bookmark))

    async def step(self, assign: mail.Assign, bookmark: Bookmark, detail: str) -> None:
        """Write a step down, then say it; raises JournalError."""
        route, step = assign.route, bookmark.step
        self._marks[route] = bookmark
        try:
            await self._journal.write(route, phase=step, session=_spelled(bookmark))
        except JournalError:
            if step != "waking":  # there is no way back from the others
                self._say_step(assign, step, detail)
            raise
        self._say_step(assign, step, detail)

    def _say_step(self, assign: mail.Assign, step: Step, detail: str) -> None:
        event = cat.TaskStep(
            id=self.new_id(),
            at=rfc3339(self.now()),
            by="host:" + self.host,
            task_id=assign.task_id,
            host=self.host,
            route=assign.route,
            generation=assign.generation,
            attempt=assign.attempt,
            incarnation=self.incarnation,
            step=step,
            detail=detail,
        )
        self.outbox.send(subjects.run(self.host, assign.task_id), event)

    def _clear(self, route: str) -> None:
        """The log has what came of it: its files can go, then its row."""
        clearing = self._group.create_task(self._cleared(self._agents[route]))
        self._clearing.add(clearing)

        def done(_: object) -> None:
            self._clearing.discard(clearing)
            self._agents.pop(route, None)
            self._one_cleared.set()

        clearing.add_done_callback(done)

    async def _alone(self, assign: mail.Assign, stop: Stop) -> None:
        """Wait until no other route of a woken agent's task has files here."""
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.requested and any(
                other.task_id == assign.task_id and route != assign.route
                for route, other in self._agents.items()
            ):
                self._one_cleared.clear()
                cleared = asyncio.ensure_future(self._one_cleared.wait())
                try:
                    await asyncio.wait(
                        {cleared, stopping}, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    cleared.cancel()
        finally:
            stopping.cancel()

    async def _cleared(self, assign: mail.Assign) -> None:
        route, results = assign.route, self._parts.results
        found = self._marks.get(route)
        if found is not None:
            if found.process is not None:  # where nobody went on with it
                await sweep([found.process])
            mark = msgspec.structs.replace(found, step="removed")
            try:
                await self._journal.write(
                    route, phase=mark.step, session=_spelled(mark)
                )
            except JournalError as error:
                # The row stays, and with it the files: the next life sees to them.
                logger.error("results not cleared", route=route, why=str(error))
                return
            if results is not None:
                await asyncio.to_thread(
                    results.remove, assign.task_id, result=mark.read
                )
            self._say_step(assign, "removed", "")
        if results is not None and assign.task_id not in self.state.by_task:
            results.let_go(assign.task_id)
        self._marks.pop(route, None)
        self._journal.finish(route)

    def _started(self, ident: Ident) -> None:
        """Write down a run's process, so that a later life finds it."""
        if ident.mark in self.state.runs:
            self._journal.note(
                ident.mark, pid=ident.pid, started=ident.started, mark=ident.mark
            )

    def _noted(self, assign: mail.Assign, text: str) -> None:
        """Say what people should know of a run's folder."""
        if (progress := self._progress.get(assign.route)) is not None:
            progress.status(text)

    # -- mail --------------------------------------------------------------------------

    def _on_host_mail(self, command: mail.HostMail, letter: Letter) -> None:
        self.handle(command, letter)

    def _on_task_mail(self, command: mail.TaskMail, letter: Letter) -> None:
        task_id = letter.subject.rpartition(".")[2]
        match command:
            case mail.Cancel():
                if command.task_id != task_id:
                    _refuse(letter, Malformed("task_id", task_id, command.task_id))
                else:
                    self.handle(command, letter)
            case mail.Inspect():
                letter.respond(encode(self._view(task_id)))
            case _:
                assert_never(command)

    def _view(self, task_id: str) -> mail.TaskView | mail.Reply:
        route = self.state.by_task.get(task_id, "")
        run = self.state.runs.get(route)
        if run is None:
            return mail.Reply(ok=False, code="unknown_route", detail="it is not here")
        phase = "stopping" if run.wish and run.phase != "finished" else run.phase
        return mail.TaskView(task_id=task_id, route=route, phase=phase)

    # -- signs of life -----------------------------------------------------------------

    async def _beat_on(self) -> None:
        while True:
            self._beat()
            await asyncio.sleep(self._config.beat_every_s)

    def _beat(self) -> None:
        self._beats += 1
        beat = cat.Beat(
            host=self.host,
            incarnation=self.incarnation,
            n=self._beats,
            at=rfc3339(time.time()),
            resources=self._machine.read(),
            held=host_state.runs_held(self.state),
            draining=self.state.draining,
            outbox=self.outbox.pending,
        )
        self._bus.publish(subjects.beat(self.host), encode(beat))

    def _connected(self, up: bool) -> None:
        self.outbox.connection(up)
        if up and self.state.joined:
            self._beat()

    def _journal_fault(self, fault: str) -> None:
        if fault:
            logger.error("journal fails, taking no work", fault=fault)
        else:
            logger.info("journal works again")
        self.handle(msg.JournalState(fault))

    def _probed(self, state: cat.EndpointState) -> None:
        seen = msg.EndpointFound if state.up else msg.EndpointGone
        self.handle(seen(state))


def _spelled(bookmark: Bookmark) -> str:
    return encode(bookmark).decode()


def _refuse(letter: Letter, error: Malformed) -> None:
    reply = mail.Reply(ok=False, code=error.code, detail=str(error))
    letter.respond(encode(reply))


def _fault(error: Exception) -> None:
    logger.error("mail not handled", exc_info=error)


async def run(
    config: SidecarConfig,
    connection: Connection,
    stop: asyncio.Event,
    *,
    data: Path | None = None,
    parts: Parts | None = None,
    ready: Callable[[Sidecar], None] = lambda _sidecar: None,
) -> None:
    """Be this host until `stop` is set; then drain and leave in good order.

    `data` is the folder for journal and work unless the configuration names one. `ready`
    is called once the host has joined. Raises JournalHeld, JournalError,
    ResultsFolderError.
    """
    folder = config.data_path or data
    if folder is None:
        raise ValueError("a sidecar needs a data folder")
    parts = parts or assemble(config, folder)
    if parts.results is not None:
        parts.results.make()
    journal = await open_journal(folder / f"journal-{config.host}.db")
    if parts.processes is not None:
        parts.processes.become_subreaper()
    async with asyncio.TaskGroup() as group:
        sidecar = Sidecar(config, connection, journal, parts, group)
        try:
            await sidecar.start()
            ready(sidecar)
            await stop.wait()
            await sidecar.stop("stopped")
        finally:
            await sidecar.close()
