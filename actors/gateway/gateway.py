"""The gateway: turns commands into events, or says precisely why not.

Stateless: what it must know of a task it reads from the log, what it decides it appends
with the sequence it read, and on a conflict it reads and decides again. Any number of
gateways may serve one queue group. `service` is how commands reach it over NATS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from actors.gateway.admin import AdminCommands
from actors.gateway.attachments import AttachmentCommands
from actors.gateway.bulk import BulkCommands
from actors.gateway.delegation import Delegation
from actors.gateway.schedules import ScheduleCommands
from actors.gateway.tasks import GatewayTools, TaskCommands
from actors.stamp import Stamp
from events import commands as m
from events import subjects
from events.codec import Reader, instant, rfc3339
from events.errors import AgentComError, Malformed, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import msgspec

    from actors.gateway.tasks import SchedulerView
    from events.attachments import AttachmentStore
    from events.bus import Bus
    from events.log import EventLog

    Handler = Callable[[Any, str], Awaitable[msgspec.Struct]]

MAX_COMMAND_BYTES: Final = 900_000
"""A longer command is refused with a sentence; the broker itself takes messages of 1 MB."""


class Gateway:
    """Answers commands. `answer(name, body, who)` is the whole of it.

    `name` is the author of its events, `clock` tells Unix seconds. `commands`
    has what can be asked for by name: the struct that the body is read as.
    """

    def __init__(
        self,
        name: str,
        log: EventLog,
        bus: Bus,
        ids: Callable[[], str],
        clock: Callable[[], float],
        view: SchedulerView,
        attachments: AttachmentStore | None = None,
    ) -> None:
        self._clock = clock

        def stamp() -> Stamp:
            return Stamp(ids(), rfc3339(clock()), name)

        files = AttachmentCommands(attachments, ids, clock)
        self._submits: Reader[m.Submit] = Reader(m.Submit)
        tools = GatewayTools(log, bus, view, stamp, ids, clock)
        self._tasks = tasks = TaskCommands(tools, files.check)
        bulk, admin = BulkCommands(tools, tasks), AdminCommands(tools)
        self._delegation = Delegation(tools, tasks)
        planning = ScheduleCommands(tools, tasks)
        table: dict[str, tuple[type[Any], Handler]] = {
            "task.submit": (m.Submit, tasks.submit),
            "task.batch": (m.SubmitBatch, tasks.submit_batch),
            "task.attach": (m.Attach, files.attach),
            "task.cancel": (m.CancelTask, tasks.cancel),
            "task.retry": (m.RetryTask, tasks.retry),
            "task.reassign": (m.ReassignTask, tasks.reassign),
            "task.bulk": (m.Bulk, bulk.bulk),
            "task.classify": (m.Classify, tasks.classify),
            "task.route": (m.Classify, tasks.route),
            "host.drain": (m.DrainHost, admin.drain),
            "host.resume": (m.ResumeHost, admin.resume),
            "host.forget": (m.ForgetHost, admin.forget),
            "host.fetch": (m.FetchFile, admin.fetch),
            "schedule.add": (m.AddSchedule, planning.add),
            "schedule.change": (m.ChangeSchedule, planning.change),
            "schedule.pause": (m.PauseSchedule, planning.pause),
            "schedule.resume": (m.ResumeSchedule, planning.resume),
            "schedule.remove": (m.RemoveSchedule, planning.remove),
            "schedule.run": (m.RunSchedule, planning.run),
            "endpoint.add": (m.AddEndpoint, admin.add_endpoint),
            "endpoint.remove": (m.RemoveEndpoint, admin.remove_endpoint),
            "alert.acknowledge": (m.AcknowledgeAlert, admin.acknowledge),
            "tier.clear_limit": (m.ClearLimit, admin.clear_limit),
            "policy.set": (m.SetPolicy, admin.set_policy),
            "policy.validate": (m.SetPolicy, admin.validate_policy),
        }
        self.commands = {name: kind for name, (kind, _) in table.items()}
        self._table: dict[str, tuple[Reader[Any], Handler]] = {
            name: (Reader(kind), handler) for name, (kind, handler) in table.items()
        }

    async def answer(
        self, name: str, body: bytes, who: str, *, traceparent: str = ""
    ) -> msgspec.Struct:
        """Carry out a command, or refuse it; never raises for what came from outside.

        `who` is the requester's name, as the broker gives it; `traceparent` the header
        of that name, for tasks that do not say their own.
        """
        try:
            if (asked := subjects.of_a_run(name)) is not None:
                return await self._delegation.answer(*asked, body)
            entry = self._table.get(name)
            if entry is None:
                return m.refuse(
                    "unknown_command",
                    f"there is no command {shown(name[:80])}; "
                    f"there are {', '.join(self.commands)}",
                )
            reader, handler = entry
            command = m.under_trace(self._read(reader, body), traceparent)
            return await handler(command, who)
        except AgentComError as error:
            return m.refusal_of(error)

    def submit(
        self,
        body: bytes,
        who: str,
        done: Callable[[msgspec.Struct | None], None],
        *,
        traceparent: str = "",
    ) -> bool:
        """`answer("task.submit", ...)` by a callback: False where that takes a wait.

        Where that shows only later, `done` gets None. It may be called before the return.
        """
        try:
            command = m.under_trace(self._read(self._submits, body), traceparent)
            return self._tasks.submit_then(command, who, done)
        except AgentComError as error:
            done(m.refusal_of(error))
            return True

    def _read(self, reader: Reader[Any], body: bytes) -> Any:
        """Read a command of a bearable size that is not too old."""
        if len(body) > MAX_COMMAND_BYTES:
            raise Malformed(
                "", f"at most {MAX_COMMAND_BYTES} bytes", f"{len(body)} bytes"
            )
        command = reader.decode(body)
        until = command.expires_at
        if until is not None and instant(until, "expires_at") < self._clock():
            raise Expired(until)
        return command


class Expired(AgentComError):
    """A command that arrived after it was meant."""

    code = "expired"

    def __init__(self, expires_at: str) -> None:
        super().__init__(f"expires_at: the command was meant until {expires_at}")
