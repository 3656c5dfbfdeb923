"""The scheduler's role: `actors.scheduler.decide` with a log, a bus and a lease.

Everything that happens, happens in turns: what came in is folded, then everything that
can be decided is decided, appended and mailed, then a timer is set for what time alone
will change. A gateway runs in every scheduler process, leading or not.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from actors.gateway.gateway import Gateway
from actors.gateway.service import Service
from actors.rules.prompt import with_inputs
from actors.scheduler.checkpoint import dump
from actors.scheduler.decide import Scheduler
from actors.scheduler.held import outcome_in, outputs_of
from actors.scheduler.lease import LEASE_TTL_S, Lease, Leases
from actors.scheduler.logtime import NOTICED_S, ClockWatch
from actors.scheduler.outputs import (
    Decision,
    Effect,
    HistoryNeeded,
    Mail,
    OutcomeNeeded,
    SpecNeeded,
)
from events import catalogue as c
from events import subjects
from events.codec import Reader, encode, instant, rfc3339
from events.diagnostics import Diagnostics
from events.errors import Conflict, LogError, LogUnavailable, Malformed, Unreachable
from events.mail import Assign, Reply, UseEndpoints
from events.position import NOWHERE, Position
from events.races import first

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from actors.scheduler.checkpoint_file import CheckpointFile
    from actors.scheduler.leadership import Leadership
    from events.attachments import AttachmentStore
    from events.bus import Bus, Message
    from events.log import EventLog, Follower

LEASE_KEY: Final = "scheduler"
"""The key that whoever leads must hold."""

LED_KEY: Final = "led"
LED_EVERY_S: Final = 1.0
"""How often a leader notes under LED_KEY that it still leads, and the log time, so that the
next one knows since when nobody did."""

LOOK_S: Final = 0.25
"""How often it is looked whether the lease is ours, beside what is told of it."""

HISTORIES_AT_ONCE: Final = 16
"""So many retried tasks are read from the log side by side."""

MAIL_TIMEOUT_S: Final = 2.0
"""For how long a host may take to answer that it has its mail."""

SHARE_AGAIN_S: Final = 1.0
"""When a host that nobody answered for is told of the shared endpoints again."""

RESEND_FIRST_S: Final = 0.05
RESEND_TIMES: Final = 6
"""An assignment that nobody answered for is sent again so often: the first time after
RESEND_FIRST_S seconds, then after twice the time before."""

SOONEST_S: Final = 0.001
SOONEST_HELD_BACK_S: Final = 0.25
"""The next turn at the soonest; the longer one for a leader that may not decide just now
(without lease or connection), for which whatever is due stays due."""

_beats: Reader[c.Beat] = Reader(c.Beat)
_replies: Reader[Reply] = Reader(Reply)
_log = Diagnostics("agentcom.scheduler")


class SchedulerRole:
    """One scheduler process. `run` returns after `stop` is set, or raises.

    `clock` is the wall clock in Unix seconds, by which events are stamped; durations go
    by `monotonic` (see `logtime`). `ids` makes ids. With a `checkpoint` it begins where
    that ends, and has it written now and then.
    """

    def __init__(
        self,
        name: str,
        log: EventLog,
        bus: Bus,
        leases: Leases,
        *,
        ids: Callable[[], str],
        version: str,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        lease_ttl: float = LEASE_TTL_S,
        attachments: AttachmentStore | None = None,
        checkpoint: CheckpointFile | None = None,
    ) -> None:
        self._name = name
        self._log = log
        self._bus = bus
        self._leases = leases
        self._ids = ids
        self._clock = clock
        self._monotonic = monotonic
        self._watch = ClockWatch(clock(), monotonic())
        # Log time less the monotonic clock, while this one leads.
        self._origin = 0.0
        # When this one last led, by the monotonic clock.
        self._led_at = float("-inf")
        self._loop = asyncio.get_running_loop()
        self.scheduler = Scheduler(
            name, ids, ticks=lambda: time.perf_counter_ns() / 1_000
        )
        self.lease = Lease(
            leases,
            LEASE_KEY,
            name,
            monotonic,
            connected=lambda: bus.connected,
            ttl=lease_ttl,
        )
        self.gateway = Gateway(
            name, log, bus, ids, self._stamping, self.scheduler, attachments
        )
        self.service = Service(
            self.gateway,
            bus,
            service_id=ids(),
            version=version,
            started_at=rfc3339(clock()),
            ticks=time.perf_counter_ns,
            metadata=self._about,
        )
        self._follower: Follower | None = None
        self._checkpoint = checkpoint
        # Where it began, and the event folded last since; the decisions on their way.
        self._resumed = NOWHERE
        self._latest: c.Recorded | None = None
        self._on_its_way: dict[str, Decision] = {}
        # Whether a turn is scheduled already, and the timer of the next one.
        self._turning = False
        self._timer: asyncio.TimerHandle | None = None
        # Reads of the log that effects asked for; the loop itself holds no reference.
        self._background: set[asyncio.Task[Any]] = set()
        # Thousands of tasks may be retried at once; the broker is not asked for all of
        # their histories together.
        self._reading = asyncio.Semaphore(HISTORIES_AT_ONCE)
        # Set when a retried task's history has been read and adopted.
        self._adopted = asyncio.Event()
        # The sequences whose fold is waited for.
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []
        # How often each route's assignment has been sent again.
        self._resends: dict[str, int] = {}
        # Gets what a turn raised: it ends `run`.
        self._fault: asyncio.Future[None] = self._loop.create_future()
        # Set when the log has been folded and commands are answered.
        self.ready = asyncio.Event()
        self.malformed_beats = 0

    def _about(self) -> dict[str, str]:
        leads = self.scheduler.leading and self.lease.ours
        return {
            "instance": self._name,
            "leading": "true" if leads else "false",
            "now": rfc3339(self._clock()),
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Follow, lead when it is our turn, answer commands, until `stop` is set."""
        await self._resume()
        self._follower = await self._log.follow(self._on_event, after=self._resumed)
        beats = await self._bus.listen(subjects.ALL_BEATS, self._on_beat)
        forget = self._bus.on_connection(self._on_connection)
        try:
            await self._until(self._follower.caught_up, stop)
            await self.service.start()
            self.ready.set()
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self.lease.run()),
                    group.create_task(self._lead_when_held()),
                    group.create_task(self._each_second()),
                ]
                await self._until(stop, stop)
                for task in tasks:
                    task.cancel()
        finally:
            forget()
            if self._checkpoint is not None:
                self._checkpoint.stop()
            self.scheduler.step_down()
            if self._timer is not None:
                self._timer.cancel()
            await beats.stop()
            await self.service.stop()
            await self._follower.stop()
            for task in self._background:
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)

    async def _until(self, event: asyncio.Event, stop: asyncio.Event) -> None:
        """Wait for `event` or `stop`; a fault in folding or deciding raises here."""
        assert self._follower is not None
        await first(event.wait(), stop.wait(), self._follower.failed, self._fault)

    async def _resume(self) -> None:
        """Begin with the checkpoint, if there is one of this log."""
        found = (
            None if self._checkpoint is None else await self._checkpoint.of(self._log)
        )
        if found is not None:
            self._resumed, state = found
            self.scheduler.resume(state)

    def _to_checkpoint(self) -> tuple[Position, Iterable[bytes]]:
        """Return what a checkpoint holds; the forked child that asks does nothing else."""
        latest = self._latest
        position = self._resumed if latest is None else Position.of(latest)
        self.scheduler.settle_for_checkpoint(self._on_its_way.values())
        return position, dump(self.scheduler.state)

    # -- leadership --------------------------------------------------------------------

    async def _lead_when_held(self) -> None:
        while True:
            self.lease.changed.clear()
            if self.scheduler.leading:
                self._led_at = self._monotonic()
            if self.lease.ours and not self.scheduler.leading:
                await self._be_elected()
            elif not self.lease.ours and self.scheduler.leading:
                _log.warning("stepping down", name=self._name, reason="lease lost")
                self.scheduler.step_down()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self.lease.changed.wait()
            except TimeoutError:
                continue

    async def _be_elected(self) -> None:
        """Write the next epoch by compare-and-set; lead once it has been folded."""
        scheduler, state = self.scheduler, self.scheduler.state
        noted = await self._noted()
        wall = self._clock()
        watch = ClockWatch(wall, self._monotonic())
        now = wall - state.time.ahead_s
        # Who led may have decided, and not come to note it.
        led = now if noted is None else max(noted, state.time.last)
        leaderless_s = max(0.0, now - led)
        met_at = max(self.lease.other_at, self._led_at)
        longest_s = self._monotonic() - met_at + self.lease.ttl + NOTICED_S
        # There cannot have been no leader for longer than since another was seen to hold
        # the lease, or this one led. By what is more, this clock is ahead of that leader's.
        put_forward = leaderless_s > longest_s
        leaderless_s = round(min(leaderless_s, longest_s), 3)
        # Taken together: an election that comes in between must be a conflict.
        epoch, expect = state.epochs.current + 1, state.scheduler_seq
        event = c.SchedulerElected(
            id=self._ids(),
            at=rfc3339(wall),
            by=self._name,
            epoch=epoch,
            name=self._name,
            leaderless_s=leaderless_s,
        )
        try:
            seq = await self._log.append(subjects.SCHEDULER, event, expect=expect)
        except Conflict:
            return
        except LogError as error:
            _log.warning("not elected", reason=str(error))
            return
        await self._folded(seq)
        while state.coming_back:
            # Who leads knows every run; a retried task's are known with its history.
            self._adopted.clear()
            await self._adopted.wait()
        # A step may have been said meanwhile by whoever led before.
        now = wall - state.time.ahead_s
        reached = max(state.time.last, float("-inf") if noted is None else noted)
        step = 0.0
        if now < reached - NOTICED_S:
            step = now - reached
        elif put_forward and noted is not None:
            step = max(0.0, now - led - leaderless_s)
        step += watch.stepped(self._clock(), self._monotonic())
        wall = watch.apart + self._monotonic()
        if step and not await self._say_stepped(epoch, step, wall):
            return
        if self.lease.ours and state.epochs.current == epoch:
            _log.info("leading", name=self._name, epoch=epoch)
            self._watch = watch
            # From here on by the monotonic clock: the other may stand elsewhere again.
            self._origin = watch.apart - state.time.ahead_s
            scheduler.lead(epoch, self._origin + self._monotonic())
            self._turn_soon()
            self._in_background(self._note())

    async def _each_second(self) -> None:
        """Note that we lead, and keep the state."""
        while True:
            await asyncio.sleep(LED_EVERY_S)
            self._look_at_clock()
            await self._note()
            if self._checkpoint is not None:
                position = self.scheduler.state.position
                self._checkpoint.keep(position, self._monotonic(), self._to_checkpoint)

    async def _note(self) -> None:
        if not self._decides:
            return
        try:
            await self._leases.note(LED_KEY, rfc3339(self._now()), timeout=LED_EVERY_S)
        except LogError as error:
            _log.warning("leadership not noted", reason=str(error))

    async def _noted(self) -> float | None:
        """Return when (log time) a leader last noted that it led, None if not known."""
        try:
            note = await self._leases.holder(LED_KEY, timeout=LED_EVERY_S)
            return None if note is None else instant(note[0], LED_KEY)
        except (LogError, Malformed) as error:
            _log.warning("time without a leader is not known", reason=str(error))
            return None

    # -- time --------------------------------------------------------------------------

    def _now(self) -> float:
        """Return log time; the leader's runs on by its monotonic clock alone."""
        if self.scheduler.leading:
            return self._origin + self._monotonic()
        return self._clock() - self.scheduler.state.time.ahead_s

    def _stamping(self) -> float:
        """Return what an event is stamped with now (Unix seconds)."""
        if not self.scheduler.leading:
            return self._clock()
        self._look_at_clock()
        return self.scheduler.state.time.wall(self._now())

    def _look_at_clock(self) -> None:
        """A leader says in the log how far its wall clock was put forward or back."""
        step = self._watch.stepped(self._clock(), self._monotonic())
        lead, time = self.scheduler.leadership, self.scheduler.state.time
        if not step or lead is None:
            return
        _log.warning("the clock was put forward or back", step_s=round(step, 3))
        time.unsaid_s = round(time.unsaid_s + step, 6)
        if not time.saying:
            time.saying = True
            self._in_background(self._say_steps(lead))

    async def _say_steps(self, lead: Leadership) -> None:
        """Say what steps there are, until all are in the log or another leads."""
        time = self.scheduler.state.time
        while self.scheduler.leadership is lead:
            if not time.unsaid_s:
                time.saying = False
                return
            wall = self._watch.apart + self._monotonic()
            if not await self._say_stepped(lead.epoch, time.unsaid_s, wall):
                await asyncio.sleep(RESEND_FIRST_S)

    async def _say_stepped(self, epoch: int, step_s: float, wall: float) -> bool:
        """Write one step into the log and fold it; whether it is there.

        `wall` is the wall clock after this step and before any that is not noticed yet.
        """
        state = self.scheduler.state
        event = c.ClockStepped(
            id=self._ids(),
            at=rfc3339(wall),
            by=self._name,
            epoch=epoch,
            role="scheduler",
            name=self._name,
            step_s=round(step_s, 6),
        )
        try:
            seq = await self._log.append(
                subjects.SCHEDULER, event, expect=state.scheduler_seq
            )
        except LogError as error:
            _log.warning("a step of the clock is not stored", reason=str(error))
            return False
        await self._folded(seq)
        return True

    async def _folded(self, seq: int) -> None:
        """Return once our own fold has reached `seq`."""
        if self.scheduler.state.position < seq:
            future: asyncio.Future[None] = self._loop.create_future()
            self._awaited.append((seq, future))
            await future

    # -- turns -------------------------------------------------------------------------

    def _on_event(self, recorded: c.Recorded) -> None:
        if self.scheduler.leading:
            # What the event begins, begins now and not with the last turn.
            self.scheduler.state.at(self._now())
        self.scheduler.fold(recorded)
        self._latest = recorded
        self._on_its_way.pop(recorded.event.id, None)
        for awaited in list(self._awaited):
            if recorded.seq >= awaited[0]:
                self._awaited.remove(awaited)
                if not awaited[1].done():
                    awaited[1].set_result(None)
        if not self._turning:
            self._turn_soon()

    def _on_beat(self, message: Message) -> None:
        try:
            beat = _beats.decode(message.data)
        except Malformed:
            self.malformed_beats += 1
            return
        if subjects.beat(beat.host) != message.subject:
            self.malformed_beats += 1
            return
        self.scheduler.beat(beat, self._now())
        self._turn_soon()

    def _on_connection(self, up: bool) -> None:
        if up and self.scheduler.leading:
            # Hosts' leases count only while we could hear them: each gets a full one.
            now = self._now()
            for host in self.scheduler.fleet.hosts.values():
                host.last_beat = now

    def _turn_soon(self) -> None:
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        try:
            self._take_turn()
        except Exception as error:  # noqa: BLE001 - the actor's edge: it ends the role
            if not self._fault.done():
                self._fault.set_exception(error)

    @property
    def _decides(self) -> bool:
        return self.scheduler.leading and self.lease.ours and self._bus.connected

    def _take_turn(self) -> None:
        scheduler = self.scheduler
        if self._decides:
            self._look_at_clock()
            for decision in scheduler.decide(self._now()):
                self._append(decision)
        effects, scheduler.effects = scheduler.effects, []
        for effect in effects:
            self._perform(effect)
        self._set_timer()

    def _set_timer(self) -> None:
        wake = self.scheduler.next_wake()
        if wake is None:
            return
        soonest = SOONEST_S if self._decides else SOONEST_HELD_BACK_S
        due = self._loop.time() + max(soonest, wake - self._now())
        if self._timer is not None:
            # A turn too early does no harm, and sets the timer anew. Both are times of
            # the loop: the wall clock may have been put forward or back meanwhile.
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._turn_soon()

    def _append(self, decision: Decision) -> None:
        self._on_its_way[decision.event.id] = decision

        def done(_seq: int, error: LogError | None) -> None:
            self._on_its_way.pop(decision.event.id, None)
            if error is None:
                return
            if not isinstance(error, Conflict):
                _log.warning(
                    "not stored", event_type=c.tag(decision.event), reason=str(error)
                )
            self.scheduler.undecided(decision)
            self._turn_soon()

        self._log.append_then(
            decision.subject, decision.event, done, expect=decision.expect
        )

    # -- effects -----------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Mail():
                self._mail(effect)
            case SpecNeeded():
                self._in_background(self._fetch_spec(effect))
            case HistoryNeeded():
                self._in_background(self._fetch_history(effect))
            case OutcomeNeeded():
                self._in_background(self._fetch_outcome(effect.task_id))

    def _in_background(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _fetch_spec(self, effect: SpecNeeded) -> None:
        try:
            recorded = await self._log.get(effect.seq)
            outputs = await outputs_of(self._log, effect.inputs)
        except LogError as error:
            _log.warning("task not read", task_id=effect.task_id, reason=str(error))
            self._resend_later(effect.task_id, effect.route)
            return
        if recorded is not None and isinstance(recorded.event, c.TaskSubmitted):
            spec = with_inputs(recorded.event.spec, outputs)
            mail = self.scheduler.assignment(effect.task_id, effect.route, spec)
            if mail is not None:
                self._mail(mail)

    async def _fetch_history(self, effect: HistoryNeeded) -> None:
        history = await self._history(effect.task_id)
        self.scheduler.adopt(effect.task_id, history)
        self._adopted.set()
        self._turn_soon()

    async def _fetch_outcome(self, task_id: str) -> None:
        history = await self._history(task_id)
        epochs = self.scheduler.state.epochs
        self.scheduler.outcome(task_id, outcome_in(task_id, history, epochs))
        self._turn_soon()

    async def _history(self, task_id: str) -> list[c.Recorded]:
        """Read all that was written about a task, however long the log is away."""
        while True:
            try:
                async with self._reading:
                    history = await self._log.read(subjects.task(task_id))
                    history += await self._log.read(subjects.runs_of(task_id))
                return sorted(history, key=lambda recorded: recorded.seq)
            except LogUnavailable as error:
                _log.warning(
                    "task history not read", task_id=task_id, reason=str(error)
                )
                await asyncio.sleep(0.5)

    def _mail(self, mail: Mail) -> None:
        answer = self._bus.request(
            subjects.host_mailbox(mail.host),
            encode(mail.message),
            timeout=MAIL_TIMEOUT_S,
        )
        answer.add_done_callback(lambda done: self._mailed(mail, done))

    def _mailed(self, mail: Mail, answer: asyncio.Future[bytes]) -> None:
        message = mail.message
        error = None if answer.cancelled() else answer.exception()
        if isinstance(error, Unreachable) and isinstance(message, Assign):
            # Right after a reconnect nobody may seem to listen: again, a few times. If it
            # stays so, the missing acceptance gives the task to another host.
            self._resend_later(message.task_id, message.route)
            return
        if isinstance(error, Unreachable) and isinstance(message, UseEndpoints):
            # Nothing else would ever tell this host; a newer list replaces this one.
            self._loop.call_later(SHARE_AGAIN_S, self._share_again, mail.host)
            return
        if error is not None or answer.cancelled():
            return
        if isinstance(message, Assign):
            self._resends.pop(message.route, None)
        try:
            reply = _replies.decode(answer.result())
        except Malformed as malformed:
            _log.warning(
                "host answered nonsense", host=mail.host, reason=str(malformed)
            )
            return
        if not reply.ok:
            _log.info(
                "host refused mail",
                host=mail.host,
                mail=type(message).__name__,
                code=reply.code,
                detail=reply.detail,
            )

    def _share_again(self, host: str) -> None:
        self.scheduler.share_with(host)
        self._turn_soon()

    def _resend_later(self, task_id: str, route: str) -> None:
        resends = self._resends.get(route, 0)
        if resends >= RESEND_TIMES:
            self._resends.pop(route, None)
            return
        self._resends[route] = resends + 1

        def again() -> None:
            self.scheduler.resend(task_id, route)
            self._turn_soon()

        self._loop.call_later(RESEND_FIRST_S * 2**resends, again)
