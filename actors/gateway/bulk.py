"""One command for many tasks: who is meant is asked of the read models, page by page.

What was asked, by whom and how far it came is on a subject of its own in the log, so that
the command may be sent again: with the same `id` it goes on behind the last page that is
noted there. A filter means tasks that were submitted, and, if they are over, ended before
the command, so that none is tried anew twice by one command.

A task that nothing runs is decided about by what the read models know of it: the append
names the sequence its subject must stand at, and where it does not the task is read.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from actors import lifecycle
from actors.gateway.tasks import GatewayCommands
from events import catalogue as c
from events import commands as m
from events import subjects
from events.codec import Reader, convert, encode
from events.errors import AgentComError, Conflict, Malformed, Unreachable
from events.filters import TaskFilter, timed
from events.ids import derived
from events.lifecycle import FINAL, PHASES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actors.gateway.tasks import Decide, GatewayTools, TaskCommands
    from events.lifecycle import Phase

PAGE: Final = 1_000
"""So many tasks are asked for at once."""
WORK_S: Final = 2.0
"""After so many seconds a command with an id answers how far it is."""
ASK_S: Final = 4.0
"""How long the read models may take to say which tasks are meant."""
AT_ONCE: Final = 64
"""So many tasks are read and decided about side by side."""
SHOWN: Final = 100
"""Ids that a dry run names."""
UNCHANGED: Final = "unchanged"

MEANT_BY: Final[dict[str, tuple[str, ...]]] = {
    "cancel": tuple(p for p in PHASES if p not in FINAL and p != "cancelling"),
    "reassign": tuple(p for p in PHASES if p not in FINAL and p != "cancelling"),
    "retry": ("failed", "dead", "expired"),
}
"""The states that an action is for, where a filter names none. What somebody cancelled is
tried again only where it is named."""
_AFTER: Final[dict[type[c.Event], str]] = {
    c.TaskCancelled: "cancelled",
    c.TaskRetried: "waiting",
    c.TaskReassigned: "waiting",
}
"""Where a task stands after a decision about it while nothing runs it."""


class _ChosenTasks(Struct):
    """A page of the answer to `meant`."""

    total: int
    tasks: list[tuple[str, str, int]]


class _HowFar(Struct):
    """How far a command is: the fields of `BulkAdvanced`."""

    matched: int = 0
    done: int = 0
    unchanged: int = 0
    refused: int = 0
    outcomes: dict[str, int] = {}
    after: str = ""
    finished: bool = False

    def note(self, outcome: c.Event | m.Done | m.Refusal) -> None:
        """Count what became of one task."""
        match outcome:
            case m.Refusal():
                self.refused += 1
                word = outcome.code
            case m.Done(seq=0):
                self.unchanged += 1
                word = UNCHANGED
            case m.Done():
                self.done += 1
                word = outcome.state
            case _:
                self.done += 1
                word = _AFTER[type(outcome)]
        self.outcomes[word] = self.outcomes.get(word, 0) + 1


_meant: Reader[_ChosenTasks] = Reader(_ChosenTasks)
_refusals: Reader[m.Refusal] = Reader(m.Refusal)


class Unanswered(AgentComError):
    """The read models did not say which tasks are meant; `refusal` is why."""

    def __init__(self, refusal: m.Refusal) -> None:
        self.refusal = refusal
        self.code = refusal.code
        super().__init__(refusal.error)


class BulkCommands(GatewayCommands):
    """Carries out `task.bulk`."""

    def __init__(self, tools: GatewayTools, tasks: TaskCommands) -> None:
        super().__init__(tools)
        self._tasks = tasks

    async def bulk(self, command: m.Bulk, who: str) -> m.BulkProgress | m.Refusal:
        """Carry it out as far as `WORK_S` allows, to its end where it has no id."""
        try:
            return await self._bulk(command, who)
        except Unanswered as error:
            return _about_filter(error.refusal)

    async def _bulk(self, command: m.Bulk, who: str) -> m.BulkProgress | m.Refusal:
        chosen = _checked(command)
        try:
            meant = timed(chosen, self._clock())
        except Malformed as wrong:
            return _about_filter(m.refusal_of(wrong))
        if command.action == "reassign":
            assert command.host is not None
            if (unknown := self._tasks.unknown_host(command.host)) is not None:
                return unknown
        if command.dry_run:
            page = await self._ask(meant, command.ids, limit=SHOWN)
            ids = [task_id for task_id, _, _ in page.tasks]
            tally = _HowFar(matched=page.total, finished=True)
            return _progress("", command, tally, ids=ids)
        # What cannot be asked is refused before anything is stored.
        await self._ask(meant, command.ids, limit=0)
        bulk_id = derived("bulk", who, command.id) if command.id else self._ids()
        began = await self._begin(bulk_id, command, meant, who)
        if isinstance(began, m.Refusal):
            return began
        start, seq, tally, meant = began
        if not tally.finished:
            try:
                seq = await self._advance(
                    bulk_id, command, meant, who, start, seq, tally
                )
            except Conflict:
                # The same command was sent twice, and the other one was quicker.
                return await self._as_noted(bulk_id, command)
        return _progress(bulk_id, command, tally, seq=seq)

    # -- where it stands ---------------------------------------------------------------

    async def _begin(
        self, bulk_id: str, command: m.Bulk, meant: TaskFilter, who: str
    ) -> tuple[int, int, _HowFar, TaskFilter] | m.Refusal:
        """Return the sequence it began at, the last on its subject, how far it is, and for whom.

        `7d` means what it did when the command was first said.
        """
        subject, digest = subjects.bulk(bulk_id), _digest(command)
        event = self._stamp().on(
            c.BulkStarted,
            bulk_id=bulk_id,
            action=command.action,
            filter=None if command.ids else msgspec.to_builtins(meant),
            ids=len(command.ids),
            host=command.host or "",
            reason=command.reason,
            requested_by=who,
            body_digest=digest,
        )
        try:
            seq = await self._log.append(subject, event, expect=0)
        except Conflict:
            history = await self._log.read(subject)
        else:
            return seq, seq, _HowFar(), meant
        first = history[0].event if history else None
        if not isinstance(first, c.BulkStarted) or first.body_digest != digest:
            return m.refuse(
                "conflict",
                "id: was used before for another command; use a new one",
                "id",
            )
        meant = convert(first.filter or {}, TaskFilter)
        return history[0].seq, history[-1].seq, _how_far(history[-1].event), meant

    async def _as_noted(self, bulk_id: str, command: m.Bulk) -> m.BulkProgress:
        last = await self._log.last(subjects.bulk(bulk_id))
        tally = _how_far(last.event) if last is not None else _HowFar()
        seq = last.seq if last is not None else 0
        return _progress(bulk_id, command, tally, seq=seq)

    # -- doing -------------------------------------------------------------------------

    async def _advance(
        self,
        bulk_id: str,
        command: m.Bulk,
        meant: TaskFilter,
        who: str,
        start: int,
        seq: int,
        tally: _HowFar,
    ) -> int:
        """Go on page by page, and note how far that came; raises Conflict."""
        loop = asyncio.get_running_loop()
        until = loop.time() + WORK_S if command.id else float("inf")
        decide = self._tasks.deciding(
            command.action,
            command.reason,
            who,
            host=command.host or "",
            bulk=bulk_id,
        )

        def asked(after: str) -> asyncio.Task[_ChosenTasks]:
            page = self._ask(meant, command.ids, limit=PAGE, after=after, began=start)
            return loop.create_task(page)

        coming = asked(tally.after)
        try:
            while not tally.finished:
                page = await coming
                if not tally.after:
                    tally.matched = page.total
                is_last = len(page.tasks) < PAGE
                if not is_last:
                    # Asked for while this one is decided about: neither waits for the other.
                    coming = asked(page.tasks[-1][0])
                await self._carry_out(page.tasks, decide, tally)
                tally.finished = is_last
                if page.tasks:
                    tally.after = page.tasks[-1][0]
                if loop.time() > until:
                    break
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        if tally.finished and command.ids:
            _note_absent(len(set(command.ids)), tally)
        event = self._stamp().on(
            c.BulkAdvanced,
            bulk_id=bulk_id,
            **msgspec.structs.asdict(tally),
        )
        return await self._log.append(subjects.bulk(bulk_id), event, expect=seq)

    async def _ask(
        self,
        meant: TaskFilter,
        ids: Sequence[str],
        *,
        limit: int,
        after: str = "",
        began: int | None = None,
    ) -> _ChosenTasks:
        """Ask the read models, as of the command's beginning at least."""
        question: dict[str, Any] = {
            "filter": meant,
            "ids": ids,
            "limit": limit,
            "after": after,
        }
        if began is not None:
            # Of tasks that are named, each one is meant, wherever it stands.
            question |= {"wait_seq": began} | ({} if ids else {"until_seq": began})
        try:
            raw = await self._bus.request(
                subjects.query("meant"), encode(question), timeout=ASK_S
            )
        except Unreachable as error:
            raise Unanswered(
                m.refuse(
                    "unavailable",
                    "nobody says which tasks are meant: start the read models with "
                    "`agentcom web`, or everything with `agentcom up`",
                )
            ) from error
        try:
            return _meant.decode(raw)
        except Malformed:
            raise Unanswered(_refusals.decode(raw)) from None

    async def _carry_out(
        self, tasks: list[tuple[str, str, int]], decide: Decide, tally: _HowFar
    ) -> None:
        """Decide about a page of tasks; those that are not sure are read for it."""
        sure: list[tuple[str, c.TaskEvent, int]] = []
        unsure: list[str] = []
        for task_id, phase, own_seq in tasks:
            if not own_seq:
                unsure.append(task_id)
                continue
            state = _standing(task_id, phase, own_seq)
            decision = decide(state)
            if isinstance(decision, c.TaskEvent):
                sure.append((task_id, decision, own_seq))
            else:
                tally.note(decision or m.Done(task_id=task_id))
        unsure += await self._append(sure, tally)
        gate = asyncio.Semaphore(AT_ONCE)

        async def read_and_decide(task_id: str) -> m.Done | m.Refusal:
            async with gate:
                return await self._tasks.decided(task_id, decide)

        for outcome in await asyncio.gather(*map(read_and_decide, unsure)):
            tally.note(outcome)

    async def _append(
        self, sure: list[tuple[str, c.TaskEvent, int]], tally: _HowFar
    ) -> list[str]:
        """Append all; return those about which something was decided meanwhile."""
        answers = await asyncio.gather(
            *(
                self._log.append(subjects.task(task_id), event, expect=seq)
                for task_id, event, seq in sure
            ),
            return_exceptions=True,
        )
        late = []
        for (task_id, event, _), answer in zip(sure, answers, strict=True):
            if isinstance(answer, Conflict):
                late.append(task_id)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                tally.note(event)
        return late


def _checked(command: m.Bulk) -> TaskFilter:
    """Return which tasks are meant; raises Malformed for a command that names none."""
    if (command.filter is None) == (not command.ids):
        raise Malformed(
            "filter",
            "a filter, or ids, and not both",
            "neither" if command.filter is None else "both",
        )
    if (command.action == "reassign") != (command.host is not None):
        wants = "a host" if command.action == "reassign" else "none but for reassign"
        raise Malformed("host", wants, "none" if command.host is None else "one")
    if command.filter is None:
        return TaskFilter()
    if command.filter == TaskFilter():
        raise Malformed("filter", "at least one field, such as state", "an empty one")
    if command.filter.state:
        return command.filter
    states: Any = list(MEANT_BY[command.action])
    return msgspec.structs.replace(command.filter, state=states)


def _about_filter(refusal: m.Refusal) -> m.Refusal:
    """Name the place in the command, which the read models know without its beginning."""
    if not refusal.path or refusal.path.startswith("filter"):
        return refusal
    return msgspec.structs.replace(
        refusal, path=f"filter.{refusal.path}", error=f"filter.{refusal.error}"
    )


def _digest(command: m.Bulk) -> str:
    meaning = msgspec.structs.replace(command, expires_at=None)
    return hashlib.sha256(encode(meaning)).hexdigest()[:32]


def _standing(task_id: str, phase: str, own_seq: int) -> lifecycle.TaskState:
    """Return what a decision needs of a task that nothing runs."""
    known: Phase = phase  # type: ignore[assignment]
    return lifecycle.TaskState(task_id=task_id, phase=known, last_seq=own_seq)


def _note_absent(named: int, tally: _HowFar) -> None:
    """Count ids that belong to no task."""
    gone = named - tally.matched
    tally.matched = named
    if gone > 0:
        tally.refused += gone
        tally.outcomes["not_found"] = gone + tally.outcomes.get("not_found", 0)


def _how_far(event: c.Event) -> _HowFar:
    if not isinstance(event, c.BulkAdvanced):
        return _HowFar()
    return msgspec.convert(event, _HowFar, from_attributes=True)


def _progress(
    bulk_id: str,
    command: m.Bulk,
    tally: _HowFar,
    *,
    ids: Sequence[str] = (),
    seq: int = 0,
) -> m.BulkProgress:
    return m.BulkProgress(
        bulk_id=bulk_id,
        action=command.action,
        dry_run=command.dry_run,
        finished=tally.finished,
        matched=tally.matched,
        done=tally.done,
        unchanged=tally.unchanged,
        refused=tally.refused,
        outcomes=dict(sorted(tally.outcomes.items())),
        ids=list(ids),
        seq=seq,
    )
