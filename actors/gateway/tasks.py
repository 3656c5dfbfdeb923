"""Commands about tasks: submit, steer, and ask what would become of one."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from actors import lifecycle
from actors.gateway.sizes import check_size
from actors.gateway.validate import check, check_limits
from actors.lifecycle import Epochs
from actors.rules.classification import classify, warnings
from actors.rules.later import FIELDS as AFTER
from actors.rules.later import graph_of
from actors.rules.modes import resolve
from actors.rules.prompt import estimate
from actors.rules.repos import unknown_repo
from events import catalogue as c
from events import commands as m
from events import subjects
from events.codec import encode
from events.errors import Conflict, Malformed
from events.ids import derived, task_named

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from actors.scheduler.fleet import Fleet
    from actors.scheduler.schedules import Schedules
    from actors.scheduler.tiers import TierWatch
    from actors.stamp import Stamp
    from events.bus import Bus
    from events.errors import LogError
    from events.log import EventLog

    Decide = Callable[[lifecycle.TaskState], c.TaskEvent | m.Refusal | None]
    Answer = m.Submitted | m.Refusal

DECIDE_AGAIN: Final = 32
"""So often a decision is made anew when somebody else was first; the children of one run
come at the same time."""

HOSTS_NAMED: Final = 20
"""So many hosts are named to whoever names one that is not there."""


class SchedulerView(Protocol):
    """What the scheduler of this process, leading or standing by, knows from the log.

    It may be behind the log, so what is decided by it must do no harm then.
    """

    @property
    def tiers(self) -> dict[c.Tier, TierWatch]: ...

    @property
    def fleet(self) -> Fleet: ...

    @property
    def schedules(self) -> Schedules: ...

    def would_route(
        self, spec: c.TaskSpec, classification: c.Classification
    ) -> tuple[c.TaskRouted | None, str]:
        """Return the decision as it would be, or why there is none."""
        ...


class GatewayTools(NamedTuple):
    """What commands are carried out with.

    `stamp` makes the id, time and author of an event, `ids` an id alone; `clock` tells
    Unix seconds.
    """

    log: EventLog
    bus: Bus
    view: SchedulerView
    stamp: Callable[[], Stamp]
    ids: Callable[[], str]
    clock: Callable[[], float]


class GatewayCommands:
    """Carries out some of the commands, with the tools that all of them have."""

    def __init__(self, tools: GatewayTools) -> None:
        self._log, self._bus, self._view = tools.log, tools.bus, tools.view
        self._stamp, self._ids, self._clock = tools.stamp, tools.ids, tools.clock


Said = tuple[type[c.Event], str, str | None]
"""What makes a command the same again: the event it makes, who gave it, and its id; one
without an id is none that was given before."""

_STEPS: Final[dict[str, type[c.TaskEvent]]] = {
    "cancel": c.TaskCancelled,
    "retry": c.TaskRetried,
    "reassign": c.TaskReassigned,
}


def was_said(event: Any, said: Said) -> bool:
    """Whether an event was asked for by this very command."""
    kind, who, command_id = said
    return (
        isinstance(event, kind)
        and event.requested_by == who  # type: ignore[attr-defined]
        and event.command_id == command_id  # type: ignore[attr-defined]
    )


def hosts_named(view: SchedulerView) -> str:
    """Name the hosts there are, for whoever names one that is not."""
    names = sorted(host.name for host in view.fleet.hosts.values() if host.incarnation)
    some = ", ".join(names[:HOSTS_NAMED]) or "none"
    more = f" and {len(names) - HOSTS_NAMED} more" if len(names) > HOSTS_NAMED else ""
    return some + more


class TaskCommands(GatewayCommands):
    """Carries out commands about tasks; each public method is one command.

    `stored` refuses a task whose attachments are not there.
    """

    def __init__(
        self, tools: GatewayTools, stored: Callable[[c.TaskSpec], Awaitable[None]]
    ) -> None:
        super().__init__(tools)
        self._stored = stored

    # -- submitting --------------------------------------------------------------------

    async def submit(self, command: m.Submit, who: str) -> m.Submitted | m.Refusal:
        """Take one task. The same key or id and the same body find the first one."""
        spec = _spec_of(command)
        named = command.id and task_named(who, command.id)
        task_id = self._task_id(who, spec, named)
        graph_of([spec], [task_id])
        event = self.submission(task_id, spec, who, command.id)
        await self.check_named(spec, task_id)
        try:
            seq = await self._log.append(subjects.task(task_id), event, expect=0)
        except Conflict:
            return await self.existing(event)
        return self.answered(event, seq)

    def submit_then(
        self, command: m.Submit, who: str, done: Callable[[Answer | None], None]
    ) -> bool:
        """`submit` without a wait: `done` gets the answer later.

        False, and nothing has been done, where somebody has to be asked first; `done` gets
        None where that shows only then, because the task has been submitted before.
        """
        spec = _spec_of(command)
        if spec.attachments or spec.file_hints or c.predecessors(spec):
            return False
        named = command.id and task_named(who, command.id)
        task_id = self._task_id(who, spec, named)
        event = self.submission(task_id, spec, who, command.id)
        if self._unknown_repo(spec) is not None:
            return False

        def appended(seq: int, error: LogError | None) -> None:
            if error is None:
                done(self.answered(event, seq))
            else:
                done(None if isinstance(error, Conflict) else m.refusal_of(error))

        self._log.append_then(subjects.task(task_id), event, appended, expect=0)
        return True

    def _task_id(self, who: str, spec: c.TaskSpec, named: str | None) -> str:
        """Derive the id from the submitter and its key; else it is that which the
        command's own id makes, or a new one."""
        if spec.idempotency_key:
            return derived(who, spec.idempotency_key)
        return named or self._ids()

    def submission(
        self, task_id: str, spec: c.TaskSpec, who: str, command_id: str | None
    ) -> c.TaskSubmitted:
        """Make a task's submission; raises Malformed for what cannot be done."""
        self._check(spec)
        resolved = resolve(spec)
        return self._stamp().on(
            c.TaskSubmitted,
            task_id=task_id,
            spec=spec,
            classification=classify(spec),
            submitter=who,
            body_digest=digest_of(spec) if spec.idempotency_key or command_id else "",
            warnings=warnings(spec),
            command_id=command_id,
            mode=resolved.mode,
            mode_reason=resolved.reason,
            prompt_tokens_estimate=estimate(spec) if resolved.mode else 0,
        )

    def _check(self, spec: c.TaskSpec) -> None:
        """Refuse what cannot be done: raises Malformed."""
        check(spec, self._clock())
        check_limits(spec, self._view.fleet.policy)
        check_size(spec, self._view.fleet)

    async def existing(self, event: c.TaskSubmitted) -> m.Submitted | m.Refusal:
        """The same key came before: the same body finds its task, another is refused."""
        history = await self._log.read(subjects.task(event.task_id), limit=1)
        if not history:
            return m.refuse(
                "conflict",
                "is new, but others of this batch were submitted before; "
                "a batch is all or nothing",
            )
        first = history[0].event
        if not isinstance(first, c.TaskSubmitted):
            return m.refuse(
                "conflict",
                f"task {event.task_id} exists but does not begin with a submission",
            )
        if first.body_digest != event.body_digest:
            path = "idempotency_key" if event.spec.idempotency_key else "id"
            return m.refuse(
                "conflict",
                f"{path}: was used before for another task "
                f"({event.task_id}); use a new one",
                path,
            )
        return msgspec.structs.replace(
            self.answered(first, history[0].seq), existing=True
        )

    def answered(self, event: c.TaskSubmitted, seq: int) -> m.Submitted:
        """Make the answer to a submission that is stored."""
        return m.Submitted(
            task_id=event.task_id,
            seq=seq,
            effective_tier=event.classification.effective_tier,
            warnings=self._warnings(event),
            mode=event.mode,
            mode_reason=event.mode_reason,
            max_budget_usd=event.spec.max_budget_usd,
        )

    def _warnings(self, event: c.TaskSubmitted) -> list[str]:
        """What to know of a submission; that its host may still join is not stored."""
        spec, warned = event.spec, list(event.warnings)
        if spec.assign_to is not None and not self._view.fleet.has_joined(
            spec.assign_to
        ):
            warned.append(
                f"assign_to: no host {spec.assign_to} has ever joined; the task waits "
                "for one"
            )
        if spec.repo and not any(
            host.incarnation for host in self._view.fleet.hosts.values()
        ):
            warned.append(
                f"repo: no host has ever joined; the task waits for one with a checkout "
                f"of {spec.repo[:200]}"
            )
        return warned

    def _unknown_repo(self, spec: c.TaskSpec) -> Malformed | None:
        """Return what is wrong with a repository that no host has or may clone.

        A host that is away counts. While none has ever joined, nobody can tell.
        """
        repo = spec.repo
        if repo is None or spec.executor == "noop":
            return None
        hosts = [h for h in self._view.fleet.hosts.values() if h.incarnation]
        if not hosts:
            return None
        if spec.assign_to and self._view.fleet.has_joined(spec.assign_to):
            hosts = [host for host in hosts if host.name == spec.assign_to]
        if any(host.may_work_on(repo) for host in hosts):
            return None
        known = {name for host in hosts for name in host.repos}
        return Malformed("repo", *unknown_repo(repo, known))

    async def _check_predecessors(self, spec: c.TaskSpec, ids: Collection[str]) -> None:
        """Refuse to come after a task that is not there, and not among `ids`: raises
        Malformed."""
        for path in AFTER:
            for n, task_id in enumerate(getattr(spec, path)):
                if task_id not in ids and not await self._log.read(
                    subjects.task(task_id), limit=1
                ):
                    raise Malformed(
                        f"{path}[{n}]",
                        "the id of a task, or a name in its batch",
                        task_id,
                    )

    async def check_named(
        self, spec: c.TaskSpec, task_id: str = "", batch: Collection[str] = ()
    ) -> None:
        """Refuse what names what is not there (attachments, other tasks, a repository):
        raises Malformed.

        A task that was taken before, known by its `task_id`, may name a repository that is
        gone with its host. `batch` are the ids of the tasks that come with it.
        """
        await self._stored(spec)
        await self._check_predecessors(spec, batch)
        unknown = self._unknown_repo(spec)
        if unknown is not None and not (
            task_id and await self._log.read(subjects.task(task_id), limit=1)
        ):
            raise unknown

    async def submit_batch(
        self, command: m.SubmitBatch, who: str
    ) -> m.BatchSubmitted | m.Refusal:
        """Take all of the tasks or none."""
        events: list[c.TaskSubmitted] = []
        ids = [
            self._task_id(
                who, spec, command.id and derived(who, "batch", command.id, str(n))
            )
            for n, spec in enumerate(command.tasks)
        ]
        specs, order = graph_of(command.tasks, ids)
        for n, (spec, task_id) in enumerate(zip(specs, ids, strict=True)):
            try:
                events.append(self.submission(task_id, spec, who, command.id))
                await self.check_named(spec, task_id, ids)
            except Malformed as error:
                raise Malformed(
                    f"tasks[{n}].{error.path}", error.expected, error.got
                ) from error
        if len(set(ids)) != len(ids):
            raise Malformed("tasks", "idempotency keys that differ", "one key twice")
        existing, seq = False, 0
        try:
            stored = await self._log.append_batch(
                [(subjects.task(ids[n]), events[n], 0) for n in order]
            )
            seq = max(stored, default=0)
        except Conflict:
            for n, event in enumerate(events):
                answer = await self.existing(event)
                if isinstance(answer, m.Refusal):
                    # Some exist and some do not, or one differs: all or nothing.
                    return _of_batch(answer, n)
                seq = max(seq, answer.seq)
            existing = True
        warned = [
            f"tasks[{n}]: {warning}"
            for n, event in enumerate(events)
            for warning in self._warnings(event)
        ]
        return m.BatchSubmitted(
            task_ids=ids, seq=seq, existing=existing, warnings=warned
        )

    # -- steering ----------------------------------------------------------------------

    async def cancel(self, command: m.CancelTask, who: str) -> m.Done | m.Refusal:
        """Cancel a task; done already where it is cancelled or about to be."""
        return await self._steer("cancel", command, who)

    async def retry(self, command: m.RetryTask, who: str) -> m.Done | m.Refusal:
        """Try a final task anew; done already where it waits or runs."""
        return await self._steer("retry", command, who)

    async def reassign(self, command: m.ReassignTask, who: str) -> m.Done | m.Refusal:
        """Give a task that is not over to another host, which must have joined once."""
        return await self._steer("reassign", command, who, host=command.host)

    async def _steer(
        self,
        action: str,
        command: m.CancelTask | m.RetryTask | m.ReassignTask,
        who: str,
        host: str = "",
    ) -> m.Done | m.Refusal:
        """Carry a command out; one with an id once, whatever became of the task since."""
        decide = self.deciding(
            action, command.reason, who, host=host, command_id=command.id or ""
        )
        again = (_STEPS[action], who, command.id) if command.id else None
        return await self.decided(command.task_id, decide, again)

    def deciding(
        self,
        action: str,
        reason: str,
        who: str,
        *,
        host: str = "",
        bulk: str = "",
        command_id: str = "",
    ) -> Decide:
        """Return what decides to cancel, retry or reassign a task by its state."""

        def decide(state: lifecycle.TaskState) -> c.TaskEvent | m.Refusal | None:
            about: Any = {"reason": reason, "requested_by": who}
            decision: c.TaskEvent | m.Refusal | None
            match action:
                case "cancel":
                    decision = lifecycle.cancel(state, self._stamp(), **about)
                case "retry":
                    decision = lifecycle.retry(state, self._stamp(), **about)
                case _:
                    decision = lifecycle.reassign(
                        state, self._stamp(), host=host, **about
                    )
                    if isinstance(decision, c.TaskReassigned) and (
                        unknown := self.unknown_host(host)
                    ):
                        return unknown
            if isinstance(decision, c.TaskEvent) and (bulk or command_id):
                said: Any = {"bulk": bulk, "command_id": command_id}
                return msgspec.structs.replace(decision, **said)
            return decision

        return decide

    def unknown_host(self, host: str) -> m.Refusal | None:
        """Refuse a host that has never joined."""
        if self._view.fleet.has_joined(host):
            return None
        return m.refuse(
            "not_found",
            f"host: there is no host {host}; none of that name has ever joined; "
            f"hosts: {hosts_named(self._view)}",
            "host",
        )

    async def decided(
        self,
        task_id: str,
        decide: Decide,
        once: Said | None = None,
    ) -> m.Done | m.Refusal:
        """Read, decide, append; on a conflict read and decide again.

        Nothing is decided where an event in the log was asked for by the same command
        (`once`) before.

        The append holds the decision against the task's own subject alone; what its host
        reports meanwhile stands on another. So what the decision came to is read from the
        fold at its place in the log, and one that came too late there is decided again.
        """
        for _ in range(DECIDE_AGAIN):
            history, epochs = await self.history(task_id)
            state = lifecycle.fold(task_id, history, epochs)
            carried_out = once and any(was_said(each.event, once) for each in history)
            decision = None if carried_out else decide(state)
            if isinstance(decision, m.Refusal):
                return decision
            if decision is None:
                return m.Done(
                    task_id=task_id, state=str(state.phase), phase=str(state.phase)
                )
            try:
                seq = await self._log.append(
                    subjects.task(task_id), decision, expect=state.last_seq
                )
            except Conflict:
                continue
            history, epochs = await self.history(task_id)
            before = lifecycle.fold(
                task_id, (each for each in history if each.seq < seq), epochs
            )
            recorded = c.Recorded(seq, subjects.task(task_id), decision)
            step = lifecycle.evolve(before, recorded, epoch=epochs.at(seq))
            if step.verdict != "applied":
                continue
            return m.Done(
                task_id=task_id,
                seq=seq,
                state=str(step.state.phase),
                event=c.name(decision),
                phase=str(step.state.phase),
            )
        return m.refuse("conflict", f"task {task_id} changes too fast; try again")

    async def history(self, task_id: str) -> tuple[list[c.Recorded], Epochs]:
        """Read all that was written about a task, in the log's order."""
        history = await self._log.read(subjects.task(task_id))
        if history:
            history += await self._log.read(subjects.runs_of(task_id))
            history.sort(key=lambda recorded: recorded.seq)
        return history, await self._epochs(history)

    async def _epochs(self, history: list[c.Recorded]) -> Epochs:
        """Return the leaders' epochs; read only where the history has their decisions."""
        epochs = Epochs()
        if any(isinstance(r.event, c.TaskEvent) and r.event.epoch for r in history):
            for recorded in await self._log.read(subjects.SCHEDULER):
                if isinstance(recorded.event, c.SchedulerElected):
                    epochs.observe(recorded.seq, recorded.event.epoch)
        return epochs

    # -- asking without doing ----------------------------------------------------------

    def _checked(self, command: m.Classify) -> c.TaskSpec:
        spec = _spec_of(command)
        self._check(spec)
        if (unknown := self._unknown_repo(spec)) is not None:
            raise unknown
        return spec

    async def classify(self, command: m.Classify, who: str) -> m.Classified:
        """Answer how a task would be classified."""
        spec = self._checked(command)
        resolved = resolve(spec)
        return m.Classified(
            classification=classify(spec),
            warnings=warnings(spec),
            mode=resolved.mode,
            mode_reason=resolved.reason,
        )

    async def route(self, command: m.Classify, who: str) -> m.WouldRoute:
        """Answer where a task would go now."""
        spec = self._checked(command)
        classification = classify(spec)
        decision, waiting_for = self._view.would_route(spec, classification)
        return m.WouldRoute(
            classification=classification, decision=decision, waiting_for=waiting_for
        )


def _spec_of(command: m.Submit) -> c.TaskSpec:
    """A submission is the task's specification, with two fields of the command's own."""
    if command.id is None and command.expires_at is None:
        return command
    return msgspec.structs.replace(command, id=None, expires_at=None)


def digest_of(spec: c.TaskSpec) -> str:
    """Return what tells a submission from another under the same key."""
    # Who says a submission again does it from another span of its own.
    if spec.traceparent is not None:
        spec = msgspec.structs.replace(spec, traceparent=None)
    return hashlib.sha256(encode(spec)).hexdigest()[:32]


def _of_batch(refusal: m.Refusal, n: int) -> m.Refusal:
    """Add to a refusal which task of the batch it is about."""
    place = f"tasks[{n}]"
    joint = "." if refusal.path else ": "
    return msgspec.structs.replace(
        refusal,
        error=f"{place}{joint}{refusal.error}",
        path=f"{place}.{refusal.path}" if refusal.path else place,
    )
