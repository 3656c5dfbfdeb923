"""The gateway as a NATS service: commands in, answers out, discovery as ADR-32 says.

It is not nats-py's own micro service: that one runs an endpoint's handlers one by one,
so that one slow command would hold up all, and answers errors with an empty body.
https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec

from events import header, subjects
from events.codec import encode
from events.commands import Refusal, refuse
from events.diagnostics import Diagnostics
from events.traceparent import HEADER as TRACEPARENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.gateway.gateway import Gateway
    from events.bus import Bus, Listening, Message

NAME: Final = "agentcom"
QUEUE: Final = "agentcom"
SUBMIT: Final = "task.submit"
IN_FLIGHT: Final = 4_096
"""More commands at once are answered with `busy`: the sender may slow down."""
BEGUN_AT_ONCE: Final = 8
"""So many commands that need a task of their own are begun in one turn of the loop."""

_NAME_LENGTH: Final = 100


class EndpointStats:
    """What ADR-32 wants counted of one endpoint."""

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.last_error = ""
        self.nanoseconds = 0


class _Requester(msgspec.Struct):
    acc: str = ""
    user: str = ""


_log = Diagnostics("agentcom.gateway")
_requesters = msgspec.json.Decoder(_Requester)


def requester(headers: dict[str, str] | Any) -> str:
    """Return who asked, as the broker says; never what the body says of itself.

    On a request from another account the broker puts a header that nobody can forge.
    Without that header the command comes from inside the core account, and there from
    web alone, which names the person it let in. A name from elsewhere is not looked at.
    """
    raw = headers.get(header.REQUEST_INFO)
    if raw is None:
        return _named(headers.get(header.REQUESTER, ""))
    try:
        requester = _requesters.decode(raw)
    except msgspec.DecodeError:
        return "unknown"
    return requester.user or requester.acc or "unknown"


def _named(name: str) -> str:
    """Return the name that web gave, `core` where it cannot stand in the log as one."""
    usable = name.isascii() and name.isprintable() and len(name) <= _NAME_LENGTH
    return name if name and usable else "core"


def _header(text: str) -> str:
    """Encode a sentence as a header's value: one line of printable ASCII."""
    line = " ".join(text.split())[:500].encode("ascii", "replace").decode()
    return "".join(char if char.isprintable() else "?" for char in line)


class Service:
    """Serves a gateway on a bus."""

    def __init__(
        self,
        gateway: Gateway,
        bus: Bus,
        *,
        service_id: str,
        version: str,
        started_at: str,
        ticks: Callable[[], int],
        metadata: Callable[[], dict[str, str]] = dict,
    ) -> None:
        self._gateway = gateway
        self._bus = bus
        self._id = service_id
        self._version = version
        self._started_at = started_at
        self._ticks = ticks
        self._metadata = metadata
        self._stats = {name: EndpointStats() for name in gateway.commands}
        self._listening: list[Listening] = []
        self._running: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[Message, str]] = deque()
        # Submissions that have no task of their own, and the news that there is none.
        self._submitting = 0
        self._quiet = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.faults = 0

    async def start(self) -> None:
        """Begin to answer."""
        prefix = f"{subjects.COMMANDS}."
        self._listening.append(
            await self._bus.listen(
                f"{prefix}>", lambda message: self._on(message, prefix), queue=QUEUE
            )
        )
        for verb, handler in (
            ("PING", self._ping),
            ("INFO", self._info),
            ("STATS", self._statistics),
        ):
            for subject in (
                f"$SRV.{verb}",
                f"$SRV.{verb}.{NAME}",
                f"$SRV.{verb}.{NAME}.{self._id}",
            ):
                self._listening.append(await self._bus.listen(subject, handler))

    async def stop(self) -> None:
        """Take no more commands; finish those under way."""
        for listening in self._listening:
            await listening.stop()
        self._listening.clear()
        while self._submitting:
            self._quiet.clear()
            await self._quiet.wait()
        while self._waiting:
            self._begin_some()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _on(self, message: Message, prefix: str) -> None:
        name = message.subject[len(prefix) :]
        busy = len(self._running) + len(self._waiting) + self._submitting
        if busy >= IN_FLIGHT:
            self._respond(
                message,
                name,
                refuse("busy", "too many commands at once"),
            )
        elif name != SUBMIT or not self._submit(message):
            self._begin(message, name)

    def _begin(self, message: Message, name: str) -> None:
        """Carry out a command in a task of its own.

        A few are begun in each turn of the loop: a burst of them leaves time for others.
        """
        self._waiting.append((message, name))
        if len(self._waiting) == 1:
            self._loop.call_soon(self._begin_some)

    def _begin_some(self) -> None:
        for _ in range(min(BEGUN_AT_ONCE, len(self._waiting))):
            task = self._loop.create_task(self._answer(*self._waiting.popleft()))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        if self._waiting:
            self._loop.call_soon(self._begin_some)

    async def _answer(self, message: Message, name: str) -> None:
        began = self._ticks()
        try:
            headers = message.headers
            answer = await self._gateway.answer(
                name,
                message.data,
                requester(headers),
                traceparent=headers.get(TRACEPARENT, ""),
            )
        except Exception as error:  # noqa: BLE001 - the actor's edge: a fault answers
            answer = self._fault(name, error)
        self._answered(message, name, began, answer)

    def _submit(self, message: Message) -> bool:
        """Take a submission without a task of its own; False where it needs one.

        Most commands are submissions, and they come thousands a second.
        """
        began = self._ticks()

        def done(answer: msgspec.Struct | None) -> None:
            self._submitting -= 1
            if answer is None:
                self._begin(message, SUBMIT)
            else:
                self._answered(message, SUBMIT, began, answer)
            if not self._submitting:
                self._quiet.set()

        self._submitting += 1
        try:
            headers = message.headers
            taken = self._gateway.submit(
                message.data,
                requester(headers),
                done,
                traceparent=headers.get(TRACEPARENT, ""),
            )
        except Exception as error:  # noqa: BLE001 - the actor's edge: a fault answers
            done(self._fault(SUBMIT, error))
            return True
        if not taken:
            self._submitting -= 1
        return taken

    def _fault(self, name: str, error: Exception) -> Refusal:
        self.faults += 1
        _log.exception("a command failed", command=name[:80])
        return refuse(
            "fault", f"the gateway failed at this command ({type(error).__name__})"
        )

    def _answered(
        self, message: Message, name: str, began: int, answer: msgspec.Struct
    ) -> None:
        stats = self._stats.get(name)
        if stats is not None:
            stats.requests += 1
            stats.nanoseconds += self._ticks() - began
        self._respond(message, name, answer)

    def _respond(self, message: Message, name: str, answer: msgspec.Struct) -> None:
        if not isinstance(answer, Refusal):
            message.respond(encode(answer))
            return
        stats = self._stats.get(name)
        if stats is not None:
            stats.errors += 1
            stats.last_error = answer.error
        message.respond(
            encode(answer),
            {
                header.SERVICE_ERROR: _header(answer.error),
                header.SERVICE_ERROR_CODE: str(answer.status),
            },
        )

    # -- discovery ---------------------------------------------------------------------

    def _about(self, kind: str, **more: object) -> bytes:
        return encode(
            {
                "type": f"io.nats.micro.v1.{kind}_response",
                "name": NAME,
                "id": self._id,
                "version": self._version,
                "metadata": self._metadata(),
                **more,
            }
        )

    def _ping(self, message: Message) -> None:
        message.respond(self._about("ping"))

    def _info(self, message: Message) -> None:
        message.respond(
            self._about(
                "info",
                description="AgentCom: submit, cancel and steer tasks",
                endpoints=[
                    {
                        "name": name.replace(".", "-"),
                        "subject": subjects.command(name),
                        "queue_group": QUEUE,
                        "metadata": {},
                    }
                    for name in self._stats
                ],
            )
        )

    def _stats_of(self, name: str, stats: EndpointStats) -> dict[str, object]:
        return {
            "name": name.replace(".", "-"),
            "subject": subjects.command(name),
            "queue_group": QUEUE,
            "num_requests": stats.requests,
            "num_errors": stats.errors,
            "last_error": stats.last_error,
            "processing_time": stats.nanoseconds,
            "average_processing_time": stats.nanoseconds // max(1, stats.requests),
        }

    def _statistics(self, message: Message) -> None:
        message.respond(
            self._about(
                "stats",
                started=self._started_at,
                endpoints=[self._stats_of(name, s) for name, s in self._stats.items()],
            )
        )
