"""The sidecar's core: the host actor with its disk, its connection and its runs.

Mail comes in on the host's mailboxes; `actors.host` decides; facts are folded, events go
to the outbox, effects are carried out here. Each run is a task of its own. `start` opens
nothing itself: it recovers what the journal holds, ends the processes that an earlier
incarnation left running, looks at the endpoints and joins. Then come mail, beats and
probes; `stop` drains, hands back what does not finish in time, and says goodbye.
"""

from __future__ import annotations

import asyncio
import platform
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol, assert_never

import msgspec

from actors.host import messages as msg
from actors.host.decide import decide
from actors.host.mailbox import Envelope, Mailbox
from actors.host.state import About, evolve, initial, runs_held, slots_taken
from agentcom import __version__
from events import catalogue as c
from events import mail, subjects
from events.codec import Reader, encode, rfc3339
from events.diagnostics import Diagnostics
from events.errors import AgentComError, Malformed
from events.ids import IdSource
from sidecar.agents import AgentRuns
from sidecar.endpoints import Endpoints
from sidecar.executors.port import Stop
from sidecar.journal_file import JournalGone
from sidecar.kept import NotKept
from sidecar.outbox import Outbox
from sidecar.output_queue import OutputQueue
from sidecar.pipeline import HANDS, Pipeline
from sidecar.processes.survivors import sweep
from sidecar.processes.table import Ident, sidecar_mark
from sidecar.progress import Progress
from sidecar.resources import Machine

if TYPE_CHECKING:
    from typing import Literal

    from events.bus import Bus
    from events.log import EventLog
    from sidecar.assembly import Parts
    from sidecar.config import SidecarConfig
    from sidecar.executors.agent import Bookmark
    from sidecar.journal import Journal
    from sidecar.journal_file import Row

JOIN_AFTER_S = 2.0
"""How long joining waits for the first look at the endpoints."""

PREPARING_S = 0.02
"""A run that begins within so many seconds says with its start that it was accepted; of
any other that is an event of its own."""

GOODBYE_S = 5.0
"""How long a host that leaves waits for the log to take its last words."""

logger = Diagnostics(__name__)


class Evicted(AgentComError):
    """Another process is this host too, and was first."""

    code = "evicted"

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(
            f"this process has left: {reason}. Give this machine a name and a key of its "
            f"own (`agentcom host add NAME`), or end the other sidecar of {host}"
        )


_assigns: Reader[mail.Assign] = Reader(mail.Assign)

_ENDS = (
    c.TaskCompleted,
    c.TaskFailed,
    c.TaskReturned,
    c.TaskStopped,
    c.TaskRejected,
)


class HostConnection(Protocol):
    """What connects a host with the rest: the log it reports to, the bus it hears."""

    @property
    def log(self) -> EventLog: ...

    @property
    def bus(self) -> Bus: ...


class Sidecar:
    """One incarnation of a host. `start`, then `stop`, then `close`."""

    def __init__(
        self,
        config: SidecarConfig,
        connection: HostConnection,
        journal: Journal,
        parts: Parts,
        group: asyncio.TaskGroup,
    ) -> None:
        """`group` runs the runs, the beats and the probes."""
        self.host = config.host
        self._config = config
        self._bus = connection.bus
        self._journal = journal
        self._parts = parts
        self._group = group
        self._new_id = IdSource(time.time, partial(secrets.randbits, 80))
        self.incarnation = f"{journal.at_start.incarnations:06d}-{self._new_id()}"

        # Resolves with the error when this process may not be this host any longer.
        self.evicted: asyncio.Future[AgentComError] = (
            asyncio.get_running_loop().create_future()
        )

        # Live output on its way to the stream.
        self.output = OutputQueue(connection.bus, throttle=self._throttle)

        self._machine = Machine()
        self._endpoints = Endpoints(config, self._probed, parts.processes)
        self._pipeline = Pipeline(
            parts.executors,
            parts.prepare,
            self._endpoints,
            parts.verifier,
            parts.attachments,
        )

        # What the host remembers; changed by `handle` alone.
        offered = self._offered()
        self.state = initial(
            self.host,
            self.incarnation,
            self._about(offered),
            self._slots(offered),
            self._endpoints.own_slots(),
        )

        # Events on their way to the log.
        self.outbox = Outbox(
            connection.log, journal, lambda route: self.handle(msg.Reported(route))
        )

        # Of each run at work, by route: how to end it, and what it says.
        self._stops: dict[str, Stop] = {}
        self._progress: dict[str, Progress] = {}

        # Routes that an earlier incarnation held and that have not been run since: what
        # they say from now on is numbered behind whatever they may have said then.
        self._recovered: set[str] = set()

        self._agents = AgentRuns(
            self, journal, parts.results, group, lambda task: task in self.state.by_task
        )

        # Assignments whose commit is awaited, by route; answered once it is there.
        self._awaiting: dict[str, Envelope] = {}

        # Runs that were accepted within PREPARING_S, as far as no event has said so.
        self._preparing: list[str] = []

        # Set while no run holds a slot.
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
        parts.callbacks.started = self._started
        parts.callbacks.noted = self._noted
        parts.callbacks.steps = self._agents
        parts.callbacks.request = lambda subject, data, timeout: self._bus.request(
            subject, data, timeout=timeout
        )
        journal.on_fault(self._journal_fault)
        connection.bus.on_connection(self._connected)

    def _offered(self) -> list[str]:
        """List the target types that this host takes work of."""
        config = self._config
        switched_off = {
            "sidecar": not config.shell.enabled,
            "claude": not config.claude.enabled,
            "noop": not config.noop,
            HANDS: True,  # a model's endpoint is the target
        }
        return [kind for kind in self._parts.executors if not switched_off.get(kind)]

    def _about(self, offered: list[str]) -> About:
        config = self._config
        return About(
            version=__version__,
            platform=f"{platform.system()} {platform.machine()}",
            capabilities=list(config.capabilities),
            repos=sorted(config.repo_paths),
            clones=config.clones,
            default_repo=config.default_repo,
            ram_bytes=self._machine.read().ram_total_bytes,
            journal_lost=self._journal.at_start.lost,
            verifies=self._parts.verifier is not None,
            targets=frozenset(offered),
        )

    def _slots(self, offered: list[str]) -> dict[str, int]:
        config = self._config
        counts = {
            "sidecar": ("shell", config.shell_slots),
            "claude": ("claude", config.slots.claude),
            "agent": ("agent", config.slots.agent),
            "noop": ("noop", config.slots.noop),
        }
        return {slot: n for kind, (slot, n) in counts.items() if kind in offered}

    # -- from start to end -------------------------------------------------------------

    async def start(self) -> None:
        """Recover, look around, join; from then on mail is answered."""
        await self._recover()
        await self._tidy()
        await self._open_results()
        probing = self._group.create_task(self._endpoints.look())
        _, unanswered = await asyncio.wait([probing], timeout=JOIN_AFTER_S)
        if unanswered:
            self._endpoints.say_unanswered(JOIN_AFTER_S)
        await self._host_mail.open()
        await self._task_mail.open()
        self.handle(msg.Join())
        self._beating = self._group.create_task(self._beat_on())
        self._watching = self._group.create_task(self._endpoints.watch())

    async def _recover(self) -> None:
        """Take over what the journal holds; end what is left running of it."""
        at_start = self._journal.at_start
        if at_start.lost:
            logger.error(
                "the journal has lost something: tasks it held are run again, results it "
                "had not delivered are gone",
                journal=str(self._journal.path),
                why=at_start.lost,
            )
        if at_start.epoch:
            evolve(self.state, msg.EpochSeen(at_start.epoch))
        for route in at_start.done:
            self.state.done[route] = ""
        orphans = []
        sidecar = sidecar_mark(self._journal.path)
        for row in at_start.rows:
            self._recovered.add(row.route)
            ident = Ident(row.pid or -1, row.started or "", row.route, sidecar)
            try:
                assign = _assigns.decode(row.assign)
            except Malformed as error:
                logger.error("assignment unreadable", route=row.route, why=str(error))
                self._journal.finish(row.route)
                orphans.append(ident)
                continue
            if assign.target_type == "agent":
                self._agents.add(assign)
            bookmark = self._agents.recover(row, ident)
            if bookmark is None or bookmark.step == "waking":
                # What an agent has begun goes on without us; a wake is begun anew.
                orphans.append(ident)
            if bookmark is not None and bookmark.step == "removed":
                self._agents.clear(row.route)
            else:
                phase = self._phase_after_restart(row, bookmark)
                self.handle(msg.Recovered(assign, phase))
        if orphans:
            ended, left = await sweep(orphans)
            if ended:
                logger.warning(
                    "ended what an earlier incarnation left", found=ended, left=left
                )

    def _phase_after_restart(
        self, row: Row, bookmark: Bookmark | None
    ) -> Literal["recovered", "interrupted", "continuing", "finished"]:
        if row.route in self._journal.at_start.ended:
            return "finished"
        if bookmark is not None and "agent" in self.state.about.targets:
            return "continuing"
        return "recovered" if row.phase == "accepted" else "interrupted"

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
        await results.open(self.host, self._agents.task_ids)

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
                await self.output.flush()
                await self.outbox.flush()
                while await self._agents.cleared():
                    await self.outbox.flush()
        except TimeoutError:
            logger.warning("the log has not taken everything; it is kept on the disk")

    async def _until_quiet(self) -> None:
        while slots_taken(self.state):
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

    def handle(
        self, command: msg.HostCommand, envelope: Envelope | None = None
    ) -> None:
        """Decide on a command and carry out what follows."""
        decision = decide(command, self.state, time.time(), self._new_id)
        for fact in decision.facts:
            evolve(self.state, fact)
            if isinstance(fact, c.Event):
                self._record(fact)
        for effect in decision.effects:
            self._perform(effect, envelope)
        if not self._quiet.is_set() and not slots_taken(self.state):
            self._quiet.set()

    def _record(self, event: c.Event) -> None:
        """Send an event on its way to the log, under the subject it belongs to."""
        if isinstance(event, c.RunEvent):
            ends = ""
            if isinstance(event, _ENDS) and event.route in self.state.runs:
                ends = event.route
            self.outbox.send(subjects.run(self.host, event.task_id), event, ends=ends)
        elif isinstance(event, c.HostJoined | c.HostRecovered):
            self.outbox.send(
                subjects.host(self.host),
                event,
                on_ack=lambda: self.handle(msg.Announced()),
            )
        else:
            self.outbox.send(subjects.host(self.host), event)

    def say(self, subject: str, event: c.Event) -> None:
        """Send an event of a run on its way (what progress has to say)."""
        if isinstance(event, c.RunEvent) and self._preparing:
            self.handle(msg.Preparing(event.route))
        self.outbox.send(subject, event)

    def _perform(self, effect: msg.Effect, envelope: Envelope | None) -> None:
        match effect:
            case msg.Respond():
                asker = self._awaiting.pop(effect.route, None) or envelope
                if asker is not None:
                    asker.respond(encode(effect.reply))
            case msg.Persist():
                self._persist(effect.assign, envelope)
            case msg.Start():
                stop = self._stops[effect.assign.route] = Stop()
                self._group.create_task(self._run(effect.assign, stop))
                if not self._preparing:
                    loop = asyncio.get_running_loop()
                    loop.call_later(PREPARING_S, self._say_preparing)
                self._preparing.append(effect.assign.route)
            case msg.StopRun():
                if (running := self._stops.get(effect.route)) is not None:
                    running.request(effect.reason)
            case msg.Forget():
                if effect.route in self._agents:
                    self._agents.clear(effect.route)
                else:
                    self._journal.finish(effect.route)
            case msg.RememberEpoch():
                self._journal.remember_epoch(effect.epoch)
            case msg.End():
                self._must_leave(Evicted(self.host, effect.reason))
            case msg.Watch():
                self._endpoints.share(effect.endpoints)
            case msg.LookAgain():
                self._endpoints.look_again()
            case _:
                assert_never(effect)

    def _say_preparing(self) -> None:
        """Say of those that have not begun by now that they are accepted."""
        routes, self._preparing = self._preparing, []
        for route in routes:
            self.handle(msg.Preparing(route))

    def _must_leave(self, why: AgentComError) -> None:
        if not self.evicted.done():
            logger.error("leaving", reason=str(why))
            self.evicted.set_result(why)

    def _persist(self, assign: mail.Assign, envelope: Envelope | None) -> None:
        route = assign.route
        if envelope is not None:
            self._awaiting[route] = envelope
        raw = envelope.data if envelope is not None else encode(assign)

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
        route, agent = assign.route, assign.target_type == "agent"
        before = self._journal.at_start.incarnations - 1
        earlier = before if route in self._recovered else 0
        progress = Progress(assign, self.output, self, earlier=earlier)
        self._progress[route] = progress

        def began(
            executor: str, simulated: bool, cwd: str, env: dict[str, str]
        ) -> None:
            if not agent:  # it notes its own steps
                self._journal.note(route, phase="running")
            self.handle(msg.Began(route, executor, simulated, cwd, env))

        try:
            if agent:
                self._agents.add(assign)
                await self._agents.wait_for_others(assign, stop)
            outcome = await self._pipeline.run(assign, stop, progress, began)
        finally:
            del self._stops[route], self._progress[route]
            if self._parts.processes is not None:
                self._parts.processes.hold(route, False)
            self._recovered.discard(route)
        self.handle(msg.RunEnded(route, outcome))

    def _throttle(self, subject: str, held: bool) -> None:
        """Hold up what a run's processes print while the output stream is behind."""
        for route, progress in self._progress.items():
            if progress.subject == subject and self._parts.processes is not None:
                self._parts.processes.hold(route, held)

    def _started(self, ident: Ident) -> None:
        """Write down a run's process, so that a later incarnation finds it."""
        if ident.mark in self.state.runs:
            self._journal.note(ident.mark, pid=ident.pid, started=ident.started)

    def _noted(self, assign: mail.Assign, text: str) -> None:
        """Say what people should know of a run's folder."""
        if (progress := self._progress.get(assign.route)) is not None:
            progress.status(text)

    # -- mail --------------------------------------------------------------------------

    def _on_host_mail(self, command: mail.HostMail, envelope: Envelope) -> None:
        self.handle(command, envelope)

    def _on_task_mail(self, command: mail.TaskMail, envelope: Envelope) -> None:
        task_id = envelope.subject.rpartition(".")[2]
        match command:
            case mail.Cancel():
                if command.task_id != task_id:
                    _refuse(envelope, Malformed("task_id", task_id, command.task_id))
                else:
                    self.handle(command, envelope)
            case mail.Inspect():
                envelope.respond(encode(self._view(task_id)))
            case mail.Fetch():
                self._group.create_task(self._fetch(command, task_id, envelope))
            case _:
                assert_never(command)

    async def _fetch(
        self, command: mail.Fetch, task_id: str, envelope: Envelope
    ) -> None:
        """Answer with a piece of what is kept of a task."""
        read = self._parts.read_kept
        try:
            if command.task_id != task_id or read is None:
                raise NotKept("nothing is kept of it here")
            piece = await asyncio.to_thread(read, task_id, command.path, command.offset)
        except (NotKept, OSError) as error:
            reply = mail.Reply(ok=False, code=NotKept.code, detail=str(error)[:1_000])
        else:
            # Bytes become base64.
            reply = mail.Reply(ok=True, info=msgspec.to_builtins(piece))
        envelope.respond(encode(reply))

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
        if not self._journal.is_in_place():
            self._must_leave(JournalGone(self._journal.path))
        fault = self.state.journal_fault
        beat = c.Beat(
            host=self.host,
            incarnation=self.incarnation,
            n=self._beats,
            at=rfc3339(time.time()),
            resources=self._machine.read(),
            held=runs_held(self.state),
            draining=self.state.draining,
            outbox=self.outbox.pending,
            interval_s=self._config.beat_every_s,
            fault=f"cannot persist: {fault}"[:500] if fault else "",
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
        if self.state.joined:
            # Before the next assignment: whoever routes is to know it now.
            self._beat()

    def _probed(self, state: c.EndpointState) -> None:
        self.handle(msg.EndpointProbed(state))


def _refuse(envelope: Envelope, error: Malformed) -> None:
    reply = mail.Reply(ok=False, code=error.code, detail=str(error))
    envelope.respond(encode(reply))


def _fault(error: Exception) -> None:
    logger.error("mail not handled", exc_info=error)
