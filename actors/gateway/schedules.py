"""Commands about schedules. What is planned is fired by the scheduler that leads."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any, Final

from actors.gateway.tasks import DECIDE_AGAIN, GatewayCommands
from actors.scheduler.schedules import key_of
from events import catalogue as c
from events import commands as m
from events import planned, subjects
from events.codec import encode
from events.errors import Conflict, Malformed
from events.ids import derived

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.gateway.tasks import GatewayTools, TaskCommands
    from actors.scheduler.schedules import Schedule

    Decide = Callable[[Schedule | None], c.ScheduleEvent | m.Refusal | None]

BEHIND_S: Final = 0.1
"""How long to wait for a fold that is behind the log."""
_REMOVED: Final = "this command was carried out before; the schedule is removed since"
_RULE: Final = ("cron", "tz", "task", "missed", "overlap")
_OF_TASK: Final = ("classification", "mode", "mode_reason", "prompt_tokens_estimate")
_NOT_PLANNED = ("at", "deadline", "idempotency_key", "name", "retry_of", "attachments")


class ScheduleCommands(GatewayCommands):
    """Carries out commands about schedules; each method is one command.

    What there is says the scheduler's fold, which may be behind the log: then an append is
    refused, and it is waited for.
    """

    def __init__(self, tools: GatewayTools, tasks: TaskCommands) -> None:
        super().__init__(tools)
        self._tasks = tasks

    async def add(self, command: m.AddSchedule, who: str) -> m.Done | m.Refusal:
        """Add a schedule; the same again changes nothing."""
        planned.check(command.cron, command.tz)
        task = await self._planned(command.task, who)
        digest = _digest(command)
        key = key_of(c.ScheduleAdded, who, command.id, digest)

        def decide(there: Schedule | None) -> c.ScheduleEvent | m.Refusal | None:
            if there is not None:
                if _digest(there.rule) == digest:
                    return None
                return m.refuse(
                    "conflict",
                    f"schedule: there is another {command.schedule}; "
                    "change or remove that",
                    "schedule",
                )
            return self._stamp().on(
                c.ScheduleAdded,
                schedule=command.schedule,
                cron=command.cron,
                tz=command.tz,
                missed=command.missed,
                overlap=command.overlap,
                **_about(task),
                requested_by=who,
                body_digest=digest,
                command_id=command.id or "",
            )

        return await self._decided(command.schedule, decide, key)

    async def change(self, command: m.ChangeSchedule, who: str) -> m.Done | m.Refusal:
        """Give a schedule another rule; done already where it has that."""
        named = [name for name in _RULE if getattr(command, name) is not None]
        if not named:
            raise Malformed("", f"one of {', '.join(_RULE)}", "none of them")
        asked = {name: getattr(command, name) for name in named}
        if command.task is not None:
            asked.update(_about(await self._planned(command.task, who)))
        digest = _digest(command)
        key = key_of(c.ScheduleChanged, who, command.id, digest)

        def decide(there: Schedule | None) -> c.ScheduleEvent | m.Refusal | None:
            if there is None:
                return _not_there(command.schedule)
            rule = there.rule
            changed = [
                name
                for name in named
                if encode(asked[name]) != encode(getattr(rule, name))
            ]
            if not changed:
                return None
            whole = {name: getattr(rule, name) for name in (*_RULE, *_OF_TASK)} | asked
            planned.check(whole["cron"], whole["tz"])
            return self._stamp().on(
                c.ScheduleChanged,
                schedule=command.schedule,
                **whole,
                changed=changed,
                requested_by=who,
                body_digest=digest,
                command_id=command.id or "",
            )

        return await self._decided(command.schedule, decide, key)

    async def _planned(self, spec: m.NewTask, who: str) -> c.TaskSubmitted:
        """Read a schedule's task; raises Malformed for what it cannot have."""
        for name in (*_NOT_PLANNED, "after", "after_any", "input_from"):
            if getattr(spec, name):
                raise Malformed(f"task.{name}", "none in a schedule", "one")
        try:
            task = self._tasks.submission("", spec, who, None)
            await self._tasks.check_named(spec)
        except Malformed as wrong:
            raise Malformed(f"task.{wrong.path}", wrong.expected, wrong.got) from wrong
        return task

    async def pause(self, command: m.PauseSchedule, who: str) -> m.Done | m.Refusal:
        """Let a schedule fire no more; done already where it is paused."""
        about = {"reason": command.reason, "requested_by": who}
        return await self._set(
            command, c.SchedulePaused, lambda there: there.paused, about
        )

    async def resume(self, command: m.ResumeSchedule, who: str) -> m.Done | m.Refusal:
        """Let a schedule fire again; done already where it is not paused."""
        about = {"requested_by": who}
        return await self._set(
            command, c.ScheduleResumed, lambda there: not there.paused, about
        )

    async def remove(self, command: m.RemoveSchedule, who: str) -> m.Done | m.Refusal:
        """Take a schedule away."""
        about = {"requested_by": who}
        return await self._set(command, c.ScheduleRemoved, lambda there: False, about)

    async def run(self, command: m.RunSchedule, who: str) -> m.Done | m.Refusal:
        """Submit a schedule's task now. Sent again with the same id it is done once."""
        ran: list[str] = []
        key = key_of(c.ScheduleFired, who, command.id)

        def decide(there: Schedule | None) -> c.ScheduleEvent | m.Refusal | None:
            if there is None:
                return _not_there(command.schedule)
            stamp = self._stamp()
            named = command.id or stamp.id
            task_id = derived("schedule", there.id, "run", who, named)
            ran.append(task_id)
            if task_id in there.by_hand:
                return None
            return stamp.on(
                c.ScheduleFired,
                schedule=command.schedule,
                planned=stamp.at,
                task_id=task_id,
                requested_by=who,
                command_id=command.id or "",
            )

        done = await self._decided(command.schedule, decide, key)
        if isinstance(done, m.Refusal):
            return done
        task_id = done.task_id or ran[-1]
        return m.Done(seq=done.seq, task_id=task_id, event=done.event)

    async def _set(
        self,
        command: m.PauseSchedule | m.ResumeSchedule | m.RemoveSchedule,
        kind: type[Any],
        is_so: Callable[[Schedule], bool],
        about: dict[str, str],
    ) -> m.Done | m.Refusal:
        name = command.schedule
        key = key_of(kind, about["requested_by"], command.id)

        def decide(there: Schedule | None) -> c.ScheduleEvent | m.Refusal | None:
            if there is None:
                return _not_there(name)
            if is_so(there):
                return None
            event: c.ScheduleEvent = self._stamp().on(
                kind, schedule=name, command_id=command.id or "", **about
            )
            return event

        return await self._decided(name, decide, key)

    async def _decided(self, name: str, decide: Decide, key: str) -> m.Done | m.Refusal:
        """Decide by what is there, append; on a conflict decide again.

        Nothing is decided where the command of this `key` was carried out before.
        """
        subject = subjects.schedule(name)
        for _ in range(DECIDE_AGAIN):
            schedules = self._view.schedules
            seq = schedules.seqs.get(name, 0)
            if not seq and await self._log.read(subject, limit=1):
                # The fold is behind the log.
                await asyncio.sleep(BEHIND_S)
                continue
            there = schedules.by_name.get(name)
            carried_out = schedules.carried_out.get(name, {})
            decision = None if key in carried_out else decide(there)
            if isinstance(decision, m.Refusal):
                return decision
            if decision is None:
                detail = _REMOVED if there is None else "it is so already"
                return m.Done(detail=detail, task_id=carried_out.get(key, ""))
            try:
                seq = await self._log.append(subject, decision, expect=seq)
            except Conflict:
                await asyncio.sleep(BEHIND_S)
                continue
            return m.Done(seq=seq, event=c.name(decision))
        return m.refuse("conflict", f"schedule {name} changes too fast; try again")


def _digest(of: m.AddSchedule | m.ChangeSchedule | c.ScheduleRule) -> str:
    """Return a digest of a rule, or of what is asked to be one."""
    body = (of.cron, of.tz, of.task, of.missed, of.overlap)
    return hashlib.sha256(encode(body)).hexdigest()[:32]


def _about(task: c.TaskSubmitted) -> dict[str, Any]:
    """Return the fields of a rule that follow from its task."""
    return {"task": task.spec, **{name: getattr(task, name) for name in _OF_TASK}}


def _not_there(name: str) -> m.Refusal:
    return m.refuse("not_found", f"schedule: there is no schedule {name}", "schedule")
