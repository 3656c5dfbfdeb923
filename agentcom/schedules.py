"""Schedules for programs that have an event loop: a task at each time of a cron expression."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Literal

from agentcom.answers import Done, Schedule, SchedulesAnswer
from agentcom.fields import body_of
from agentcom.transport import read

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

    from agentcom.aio import AsyncTask
    from agentcom.fields import TaskFields
    from agentcom.transport import Transport

__all__ = ["AsyncSchedules"]

Missed = Literal["skip", "one", "all"]
"""What becomes of planned times at which nobody could fire: none, the last, all."""
Overlap = Literal["skip", "queue", "replace"]
"""What becomes of a time whose task before is not over: left out, after it, in its place."""
ScheduleList = list[Schedule]


class AsyncSchedules:
    """The schedules, as `client.schedules`. Each change returns how it stands then."""

    def __init__(
        self, transport: Transport, task: Callable[[str, int], AsyncTask]
    ) -> None:
        self._transport = transport
        self._task = task
        # What was changed here is to be seen here.
        self._seq = 0

    async def add(
        self,
        name: str,
        cron: str,
        description: str = "",
        /,
        *,
        tz: str = "UTC",
        missed: Missed = "one",
        overlap: Overlap = "queue",
        **fields: Unpack[TaskFields],
    ) -> Schedule:
        """Submit a task at each time that `cron` names in the zone `tz`.

        `cron` has five fields: minute, hour, day, month, weekday. The task is said as to
        `submit`, without a time, a deadline, other tasks or a key. The same again changes
        nothing; raises Conflict where another has this name, Refused for what is wrong.
        """
        body = {
            "schedule": name,
            "cron": cron,
            "tz": tz,
            "task": body_of(description, fields),
            "missed": missed,
            "overlap": overlap,
        }
        return await self._changed("add", body)

    async def change(
        self,
        name: str,
        description: str = "",
        /,
        *,
        cron: str | None = None,
        tz: str | None = None,
        missed: Missed | None = None,
        overlap: Overlap | None = None,
        **fields: Unpack[TaskFields],
    ) -> Schedule:
        """Let it go by another rule from now on; what is not named stays as it is.

        A description or fields of a task are its whole new task. Raises NotFound, or
        Refused for what is wrong.
        """
        body: dict[str, Any] = {
            "cron": cron,
            "tz": tz,
            "missed": missed,
            "overlap": overlap,
        }
        if description or fields:
            body["task"] = body_of(description, fields)
        named = {each: value for each, value in body.items() if value is not None}
        return await self._changed("change", {"schedule": name, **named})

    async def list(self) -> ScheduleList:
        """Return all schedules, by name, each with its next times and last runs."""
        return await self._ask({})

    async def get(self, name: str) -> Schedule:
        """Return one schedule with its next ten times; raises NotFound."""
        [schedule] = await self._ask({"schedule": name})
        return schedule

    async def pause(self, name: str, reason: str = "") -> Schedule:
        """Let it fire no more until it is resumed; raises NotFound."""
        return await self._changed("pause", {"schedule": name, "reason": reason})

    async def resume(self, name: str) -> Schedule:
        """Let it fire again; what was planned meanwhile is left out. Raises NotFound."""
        return await self._changed("resume", {"schedule": name})

    async def remove(self, name: str) -> None:
        """Take it away; tasks that it has submitted stay. Raises NotFound."""
        await self._tell("remove", {"schedule": name})

    async def run(self, name: str) -> AsyncTask:
        """Submit its task now, beside what is planned; raises NotFound."""
        done = await self._tell("run", {"schedule": name})
        return self._task(done.task_id, done.seq)

    async def _changed(self, action: str, body: dict[str, Any]) -> Schedule:
        await self._tell(action, body)
        return await self.get(body["schedule"])

    async def _tell(self, action: str, body: dict[str, Any]) -> Done:
        # Said again after a break it is the same command.
        body = {"id": secrets.token_hex(16), **body}
        raw = await self._transport.command(f"schedule.{action}", body)
        done = read(raw, Done)
        self._seq = max(self._seq, done.seq)
        return done

    async def _ask(self, question: dict[str, Any]) -> ScheduleList:
        if self._seq:
            question = {**question, "wait_seq": self._seq}
        raw = await self._transport.query("schedules", question)
        return read(raw, SchedulesAnswer).schedules
