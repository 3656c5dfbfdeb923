"""The gateway: turns commands into events, or says precisely why not.

Stateless: what it must know of a task it reads from the log, what it decides it appends
with the sequence it read, and on a conflict it reads and decides again. Any number of
gateways may serve one queue group.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from actors import lifecycle
from actors.lifecycle import Epochs, Head
from actors.rules import policy as policies
from actors.rules.classification import classify, warnings
from events import catalogue as c
from events import commands as m
from events import subjects
from events.codec import Reader, encode, instant, rfc3339
from events.errors import AgentComError, Conflict, Malformed, Unreachable
from events.ids import derived

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from actors.scheduler.places import Fleet
    from actors.scheduler.tiers import TierWatch
    from events.bus import Bus
    from events.log import EventLog

    Answer = msgspec.Struct
    Handler = Callable[[bytes, str], Awaitable[Answer]]

MAX_COMMAND_BYTES: Final = 900_000
METADATA_LIMIT: Final = 64 * 1024
METADATA_DEPTH: Final = 32
"""Every reader of the log must be able to read what is nested, however deep it stands."""

DECIDE_AGAIN: Final = 8
"""So often a decision is made anew when somebody else was first."""


class DryRun(Protocol):
    """Whoever has the log at hand: where a task would go now, who and what there is.

    It may be a moment behind, so what is decided by it must do no harm then.
    """

    tiers: dict[c.Tier, TierWatch]
    fleet: Fleet

    def would_route(
        self, spec: c.TaskSpec, classification: c.Classification
    ) -> tuple[c.TaskRouted | None, str]:
        """Return the decision as it would be, or why there is none."""
        ...


class Gateway:
    """Answers commands. `answer(name, body, who)` is the whole of it."""

    def __init__(
        self,
        name: str,
        log: EventLog,
        bus: Bus,
        ids: Callable[[], str],
        clock: Callable[[], float],
        dry_run: DryRun,
    ) -> None:
        self._name = name
        self._log = log
        self._bus = bus
        self._ids = ids
        self._clock = clock
        self._dry_run = dry_run
        self._submit: Reader[m.Submit] = Reader(m.Submit)
        self._batch: Reader[m.SubmitBatch] = Reader(m.SubmitBatch)
        self._readers: dict[
            str, tuple[Reader[Any], Callable[..., Awaitable[Answer]]]
        ] = {
            "task.cancel": (Reader(m.CancelTask), self._cancel),
            "task.retry": (Reader(m.RetryTask), self._retry),
            "task.reassign": (Reader(m.ReassignTask), self._reassign),
            "task.classify": (Reader(m.Classify), self._classify),
            "task.route": (Reader(m.Classify), self._route),
            "host.drain": (Reader(m.DrainHost), self._drain),
            "host.resume": (Reader(m.ResumeHost), self._resume),
            "endpoint.add": (Reader(m.AddEndpoint), self._add_endpoint),
            "endpoint.remove": (Reader(m.RemoveEndpoint), self._remove_endpoint),
            "alert.acknowledge": (Reader(m.AcknowledgeAlert), self._acknowledge),
            "policy.set": (Reader(m.SetPolicy), self._set_policy),
            "policy.validate": (Reader(m.SetPolicy), self._validate_policy),
        }

    @property
    def commands(self) -> list[str]:
        """The names of all commands."""
        return ["task.submit", "task.batch", *self._readers]

    async def answer(self, name: str, body: bytes, who: str) -> Answer:
        """Carry out a command, or refuse it; never raises for what came from outside.

        `who` is the requester as the broker names him.
        """
        try:
            if len(body) > MAX_COMMAND_BYTES:
                raise Malformed(
                    "", f"at most {MAX_COMMAND_BYTES} bytes", f"{len(body)} bytes"
                )
            if name == "task.submit":
                return await self._submitted(self._submit.decode(body), who)
            if name == "task.batch":
                return await self._submitted_batch(self._batch.decode(body), who)
            found = self._readers.get(name)
            if found is None:
                return m.refuse(
                    "unknown_command",
                    f"there is no command {name[:80]!r}; "
                    f"there are {', '.join(self.commands)}",
                )
            reader, handler = found
            command = reader.decode(body)
            self._in_time(command.expires_at)
            return await handler(command, who)
        except AgentComError as error:
            return m.refusal_of(error)

    # -- submitting --------------------------------------------------------------------

    async def _submitted(self, command: m.Submit, who: str) -> Answer:
        self._in_time(command.expires_at)
        spec = _spec_of(command)
        task_id = self._task_id(who, spec, command.id and ("id", command.id))
        event = self._submission(task_id, spec, who, command.id)
        try:
            seq = await self._log.append(subjects.task(task_id), event, expect=0)
        except Conflict:
            return await self._existing(event)
        return self._submitted_answer(event, seq)

    def _task_id(
        self, who: str, spec: c.TaskSpec, command: tuple[str, ...] | str | None
    ) -> str:
        """Derive the id from the submitter and his key, else from the command's id."""
        if spec.idempotency_key:
            return derived(who, spec.idempotency_key)
        return derived(who, *command) if command else self._ids()

    def _submission(
        self, task_id: str, spec: c.TaskSpec, who: str, command_id: str | None
    ) -> c.TaskSubmitted:
        check(spec, self._clock())
        return c.TaskSubmitted(
            id=self._ids(),
            at=rfc3339(self._clock()),
            by=self._name,
            task_id=task_id,
            spec=spec,
            classification=classify(spec),
            submitter=who,
            body_digest=_digest(spec) if spec.idempotency_key or command_id else "",
            warnings=warnings(spec),
            command_id=command_id,
        )

    async def _existing(self, event: c.TaskSubmitted) -> Answer:
        """The same key came before: the same body finds its task, another is refused."""
        found = await self._log.read(subjects.task(event.task_id), limit=1)
        if not found:
            return m.refuse(
                "conflict",
                "is new, but others of this batch were submitted before; "
                "a batch is all or nothing",
            )
        first = found[0].event
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
            self._submitted_answer(first, found[0].seq), existing=True
        )

    def _submitted_answer(self, event: c.TaskSubmitted, seq: int) -> m.Submitted:
        return m.Submitted(
            task_id=event.task_id,
            seq=seq,
            effective_tier=event.classification.effective_tier,
            warnings=self._warnings(event),
        )

    def _warnings(self, event: c.TaskSubmitted) -> list[str]:
        """What to know of a submission; that its host may still join is not stored."""
        host = event.spec.assign_to
        if host is None or self._knows(host):
            return event.warnings
        return [
            *event.warnings,
            f"assign_to: no host {host} has ever joined; the task waits for one",
        ]

    def _knows(self, host: str) -> bool:
        """Whether a host of this name has ever joined."""
        known = self._dry_run.fleet.hosts.get(host)
        return known is not None and known.incarnation != ""

    async def _submitted_batch(self, command: m.SubmitBatch, who: str) -> Answer:
        self._in_time(command.expires_at)
        made: list[c.TaskSubmitted] = []
        for n, spec in enumerate(command.tasks):
            task_id = self._task_id(
                who, spec, command.id and ("batch", command.id, str(n))
            )
            try:
                made.append(self._submission(task_id, spec, who, command.id))
            except Malformed as error:
                raise Malformed(
                    f"tasks[{n}].{error.path}", error.expected, error.got
                ) from error
        ids = [event.task_id for event in made]
        if len(set(ids)) != len(ids):
            raise Malformed("tasks", "idempotency keys that differ", "one key twice")
        existing = False
        try:
            await self._log.append_batch(
                [(subjects.task(event.task_id), event, 0) for event in made]
            )
        except Conflict:
            for n, event in enumerate(made):
                answer = await self._existing(event)
                if isinstance(answer, m.Refusal):
                    # Some exist and some do not, or one differs: all or nothing.
                    return _of_batch(answer, n)
            existing = True
        found = [
            f"tasks[{n}]: {w}" for n, e in enumerate(made) for w in self._warnings(e)
        ]
        return m.BatchSubmitted(task_ids=ids, existing=existing, warnings=found)

    # -- what happens to a task --------------------------------------------------------

    async def _cancel(self, command: m.CancelTask, who: str) -> Answer:
        def decide(state: lifecycle.TaskState) -> c.TaskEvent | m.Refusal | None:
            return lifecycle.cancel(
                state, self._head(), reason=command.reason, requested_by=who
            )

        return await self._decide(command.task_id, decide)

    async def _retry(self, command: m.RetryTask, who: str) -> Answer:
        def decide(state: lifecycle.TaskState) -> c.TaskEvent | m.Refusal | None:
            return lifecycle.retry(
                state, self._head(), reason=command.reason, requested_by=who
            )

        return await self._decide(command.task_id, decide)

    async def _reassign(self, command: m.ReassignTask, who: str) -> Answer:
        def decide(state: lifecycle.TaskState) -> c.TaskEvent | m.Refusal | None:
            decided = lifecycle.reassign(
                state,
                self._head(),
                host=command.host,
                reason=command.reason,
                requested_by=who,
            )
            if isinstance(decided, c.TaskReassigned) and not self._knows(command.host):
                return m.refuse(
                    "not_found",
                    f"host: there is no host {command.host}; none of that name "
                    "has ever joined",
                    "host",
                )
            return decided

        return await self._decide(command.task_id, decide)

    async def _decide(
        self,
        task_id: str,
        decide: Callable[[lifecycle.TaskState], c.TaskEvent | m.Refusal | None],
    ) -> Answer:
        """Read, decide, append; on a conflict read and decide again."""
        for _ in range(DECIDE_AGAIN):
            state = await self._state(task_id)
            decided = decide(state)
            if isinstance(decided, m.Refusal):
                return decided
            if decided is None:
                return m.Done(task_id=task_id, state=state.phase)
            try:
                seq = await self._log.append(
                    subjects.task(task_id), decided, expect=state.last_seq
                )
            except Conflict:
                continue
            return m.Done(task_id=task_id, seq=seq, state=c.name(decided))
        return m.refuse("conflict", f"task {task_id} changes too fast; try again")

    async def _state(self, task_id: str) -> lifecycle.TaskState:
        history = await self._log.read(subjects.task(task_id))
        if history:
            history += await self._log.read(subjects.runs_of(task_id))
            history.sort(key=lambda recorded: recorded.seq)
        return lifecycle.fold(task_id, history, await self._epochs(history))

    async def _epochs(self, history: list[c.Recorded]) -> Epochs:
        """Which leaders there were; read only where the history has their decisions."""
        epochs = Epochs()
        if any(isinstance(r.event, c.TaskEvent) and r.event.epoch for r in history):
            for recorded in await self._log.read(subjects.SCHEDULER):
                if isinstance(recorded.event, c.SchedulerElected):
                    epochs.observe(recorded.seq, recorded.event.epoch)
        return epochs

    # -- asking without doing ----------------------------------------------------------

    async def _classify(self, command: m.Classify, who: str) -> Answer:
        spec = _spec_of(command)
        check(spec, self._clock())
        return m.Classified(classification=classify(spec), warnings=warnings(spec))

    async def _route(self, command: m.Classify, who: str) -> Answer:
        spec = _spec_of(command)
        check(spec, self._clock())
        found = classify(spec)
        decision, waiting_for = self._dry_run.would_route(spec, found)
        return m.WouldRoute(
            classification=found, decision=decision, waiting_for=waiting_for
        )

    # -- hosts and policy --------------------------------------------------------------

    async def _drain(self, command: m.DrainHost, who: str) -> Answer:
        reason = command.reason or f"by {who}"
        return await self._turn(
            command.host,
            lambda life, turn: m.Drain(incarnation=life, turn=turn, reason=reason),
        )

    async def _resume(self, command: m.ResumeHost, who: str) -> Answer:
        return await self._turn(
            command.host, lambda life, turn: m.Resume(incarnation=life, turn=turn)
        )

    async def _turn(self, host: str, mail: Callable[[str, int], m.Turn]) -> Answer:
        """Look, then tell; look again if somebody else was first (see `Turn`)."""
        for _ in range(DECIDE_AGAIN):
            seen = await self._tell(host, m.Inspect())
            if isinstance(seen, m.Refusal):
                return seen
            reply = await self._tell(host, mail(*_turn_of(seen)))
            if isinstance(reply, m.Refusal):
                return reply
            if reply.ok:
                return m.Done(detail=reply.detail[:1_000])
            if reply.code != "conflict":
                # Hosts have codes of their own; they are passed on.
                return m.Refusal(
                    code=reply.code[:64] or "refused",
                    error=reply.detail[:1_000],
                    status=m.STATUS["refused"],
                )
        return m.refuse(
            "conflict", f"host {host} is drained and resumed by others; try again"
        )

    async def _tell(self, host: str, mail: m.Turn | m.Inspect) -> m.Reply | m.Refusal:
        try:
            raw = await self._bus.request(
                subjects.host_mailbox(host), encode(mail), timeout=2.0
            )
        except Unreachable as error:
            return m.refuse("unreachable", f"host {host} is not there: {error}")
        try:
            return _replies.decode(raw)
        except Malformed as error:
            # A host's nonsense is no fault of whoever asked.
            return m.refuse(
                "bad_gateway", f"host {host} answered what is no answer: {error}"
            )

    async def _add_endpoint(self, command: m.AddEndpoint, who: str) -> Answer:
        subject = subjects.fleet(command.endpoint)
        added, expect = await self._added(subject)
        url = command.url.rstrip("/")
        if added is not None:
            old = added.event
            if (old.kind, old.url, old.slots) == (command.kind, url, command.slots):
                return m.Done(seq=added.seq, detail="was added before")
            return m.refuse(
                "conflict",
                f"endpoint: {command.endpoint} exists with {old.url}; remove it first",
                "endpoint",
            )
        id_, at, by = self._head()
        event = c.EndpointAdded(
            id=id_,
            at=at,
            by=by,
            endpoint=command.endpoint,
            kind=command.kind,
            url=url,
            slots=command.slots,
            requested_by=who,
        )
        return m.Done(seq=await self._log.append(subject, event, expect=expect))

    async def _added(self, subject: str) -> tuple[_Added | None, int]:
        """Return the endpoint in force there, and where the subject stands.

        A host of the same name has its loss recorded on the same subject.
        """
        history = await self._log.read(subject)
        for recorded in reversed(history):
            if isinstance(recorded.event, c.EndpointAdded):
                return _Added(recorded.seq, recorded.event), history[-1].seq
            if isinstance(recorded.event, c.EndpointRemoved):
                break
        return None, history[-1].seq if history else 0

    async def _remove_endpoint(self, command: m.RemoveEndpoint, who: str) -> Answer:
        subject = subjects.fleet(command.endpoint)
        added, expect = await self._added(subject)
        if added is None:
            return m.refuse(
                "not_found",
                f"endpoint: no shared endpoint {command.endpoint} was added",
                "endpoint",
            )
        id_, at, by = self._head()
        event = c.EndpointRemoved(
            id=id_, at=at, by=by, endpoint=command.endpoint, requested_by=who
        )
        return m.Done(seq=await self._log.append(subject, event, expect=expect))

    async def _acknowledge(self, command: m.AcknowledgeAlert, who: str) -> Answer:
        if not self._dry_run.tiers[command.tier].alerted:
            return m.refuse(
                "not_found", f"there is no alert about {command.tier}", "tier"
            )
        id_, at, by = self._head()
        event = c.AlertAcknowledged(
            id=id_, at=at, by=by, tier=command.tier, requested_by=who
        )
        return m.Done(seq=await self._log.append(subjects.tier(command.tier), event))

    async def _validate_policy(self, command: m.SetPolicy, who: str) -> Answer:
        current, version, _ = await self._policy()
        changed = policies.differences(
            current, policies.with_changes(current, command.policy)
        )
        return m.Done(detail=f"valid; differs from version {version} in: {changed}")

    async def _set_policy(self, command: m.SetPolicy, who: str) -> Answer:
        for _ in range(DECIDE_AGAIN):
            try:
                return await self._set_policy_once(command, who)
            except Conflict:
                # Somebody else was first: his change stays, ours is laid over it.
                continue
        return m.refuse("conflict", "the policy changes too fast; try again")

    async def _set_policy_once(self, command: m.SetPolicy, who: str) -> Answer:
        current, version, seq = await self._policy()
        if command.based_on is not None and command.based_on != version:
            return m.refuse(
                "conflict",
                f"based_on: the policy is at version {version}, "
                f"not {command.based_on}; read it again",
                "based_on",
            )
        new = policies.with_changes(current, command.policy)
        changed = policies.differences(current, new)
        if not changed:
            return m.Done(detail=f"nothing differs from version {version}")
        id_, at, by = self._head()
        event = c.PolicyChanged(
            id=id_,
            at=at,
            by=by,
            version=version + 1,
            policy=policies.document(new),
            changed=changed,
            requested_by=who,
        )
        stored = await self._log.append(subjects.POLICY, event, expect=seq)
        return m.Done(seq=stored, detail=f"version {version + 1}: {', '.join(changed)}")

    async def _policy(self) -> tuple[policies.Policy, int, int]:
        last = await self._log.last(subjects.POLICY)
        if last is None or not isinstance(last.event, c.PolicyChanged):
            return policies.Policy(), 0, last.seq if last is not None else 0
        return policies.parse(last.event.policy), last.event.version, last.seq

    # -- small things ------------------------------------------------------------------

    def _head(self) -> Head:
        return Head(self._ids(), rfc3339(self._clock()), self._name)

    def _in_time(self, expires_at: str | None) -> None:
        if expires_at is not None and instant(expires_at, "expires_at") < self._clock():
            raise Expired(expires_at)


class _Added(NamedTuple):
    """An endpoint that was added, and where that stands in the log."""

    seq: int
    event: c.EndpointAdded


class Expired(AgentComError):
    """A command that arrived after it was meant."""

    code = "expired"

    def __init__(self, expires_at: str) -> None:
        self.expires_at = expires_at
        super().__init__(f"expires_at: the command was meant until {expires_at}")


_replies: Reader[m.Reply] = Reader(m.Reply)
_SPEC_FIELDS: Final = c.TaskSpec.__struct_fields__


def _turn_of(seen: m.Reply) -> tuple[str, int]:
    """Read a host's life and how many turns it has taken; an older one does not say."""
    life, turn = seen.info.get("incarnation"), seen.info.get("turns")
    if not isinstance(life, str) or not isinstance(turn, int):
        return "", 0
    return (life, turn) if 0 <= turn < 2**31 else ("", 0)


def _spec_of(command: m.Submit) -> c.TaskSpec:
    return c.TaskSpec(**{name: getattr(command, name) for name in _SPEC_FIELDS})


def _digest(spec: c.TaskSpec) -> str:
    return hashlib.sha256(encode(spec)).hexdigest()[:32]


def _of_batch(refused: m.Refusal, n: int) -> m.Refusal:
    """Say of which task of a batch a refusal speaks."""
    place = f"tasks[{n}]"
    joint = "." if refused.path else ": "
    return msgspec.structs.replace(
        refused,
        error=f"{place}{joint}{refused.error}",
        path=f"{place}.{refused.path}" if refused.path else place,
    )


def check(spec: c.TaskSpec, now: float) -> None:
    """Refuse what the types alone cannot: raises Malformed with the JSON path."""
    if spec.tier == "trivial" and spec.shell is None and spec.executor is None:
        raise Malformed("shell", "a command, because tier is trivial", "none")
    if spec.deadline is not None and instant(spec.deadline, "deadline") <= now:
        raise Malformed("deadline", "a time to come", spec.deadline)
    if not spec.description.strip():
        raise Malformed("description", "some text", "white space alone")
    for path, text in _handed_on(spec):
        if "\x00" in text:
            raise Malformed(path, "text without NUL characters", "one")
    if spec.repo is not None:
        _check_path("repo", spec.repo)
    if spec.branch is not None and not _is_branch(spec.branch):
        raise Malformed("branch", "a name that git takes", repr(spec.branch[:80]))
    if spec.shell is not None:
        if spec.shell.cwd is not None:
            _check_path("shell.cwd", spec.shell.cwd)
        for name in spec.shell.env:
            if not name or "=" in name:
                raise Malformed(
                    f"shell.env.{name[:40]}", "an environment variable", repr(name[:40])
                )
    _check_metadata(spec.metadata)


def _handed_on(spec: c.TaskSpec) -> Iterator[tuple[str, str]]:
    """Yield what reaches programs and files as an argument, a name or a line."""
    yield "description", spec.description
    for name in ("repo", "branch", "model"):
        yield name, getattr(spec, name) or ""
    for n, hint in enumerate(spec.file_hints):
        yield f"file_hints[{n}].path", hint.path
        yield f"file_hints[{n}].reason", hint.reason
    for name in ("success_criteria", "verification_steps"):
        for n, text in enumerate(getattr(spec, name)):
            yield f"{name}[{n}]", text
    if spec.shell is not None:
        yield "shell.command", spec.shell.command
        yield "shell.cwd", spec.shell.cwd or ""
        for name, value in spec.shell.env.items():
            yield f"shell.env.{name[:40]}", name + value


def _check_path(path: str, text: str) -> None:
    """Refuse a folder that climbs out of where it is put, or reads as an option."""
    if text.startswith("-") or ".." in text.split("/") or not text.isprintable():
        raise Malformed(
            path, "a name without '..' that begins no option", repr(text[:80])
        )


_NO_BRANCH: Final = re.compile(
    r"^[-/]|\.\.|//|@\{|[\x00-\x20\x7f~^:?*\[\\]|(?:^|/)\.|\.(?:/|\Z)|\.lock(?:/|\Z)|/\Z|^@\Z"
)


def _is_branch(name: str) -> bool:
    """Whether git would take `name` as a branch's (`git check-ref-format --branch`)."""
    return _NO_BRANCH.search(name) is None


def _check_metadata(metadata: dict[str, Any]) -> None:
    if not metadata:
        return
    level: list[Any] = [metadata]
    for _ in range(METADATA_DEPTH):
        level = [
            below
            for one in level
            for below in (one.values() if isinstance(one, dict) else one)
            if isinstance(below, dict | list)
        ]
        if not level:
            break
    else:
        raise Malformed("metadata", f"at most {METADATA_DEPTH} levels", "more")
    size = len(encode(metadata))
    if size > METADATA_LIMIT:
        raise Malformed("metadata", f"at most {METADATA_LIMIT} bytes", f"{size}")


__all__ = ["DryRun", "Gateway", "check"]
