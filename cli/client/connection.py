"""A connection for commands and questions, with errors that say what to do.

Commands carry an id or a key, so that one whose answer got lost may be said again: the
second time finds what the first has done.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
import signal
import sys
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec
from msgspec import Struct

from cli.client.target import said_creds, said_url
from cli.local.instance import Credentials, Instance, explicit_credentials
from cli.render.terminal import (
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    Problem,
    exit_code_for,
    line_of,
    local,
    remark,
    sentence_of,
)
from events import header, subjects
from events.bus import once_listened
from events.codec import Reader, encode, instant
from events.commands import ONCE, Refusal, no_task
from events.errors import Denied, LogUnavailable, Malformed, Unreachable, shown
from events.ids import FULL_ID, IdSource, is_token
from events.nats.link import NOT_ALLOWED, Link
from events.nats.log import JetStreamLog
from events.nats.output import JetStreamOutput
from events.races import first, give_up
from projections.answers import TaskAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from events.nats.link import LinkMessage

T = TypeVar("T")

CONNECT_S: Final = 5.0
ANSWER_S: Final = 5.0
QUESTION_S: Final = 8.0
"""Longer than the read models wait for a `wait_seq`: their refusal, `behind`, gets here."""
PAST_S: Final = 120.0
"""How long an answer about the past may take."""
TRIES: Final = 3
ABSENT_FOR_S: Final = 0.3
"""Right after somebody's reconnect nobody may seem to listen: this long it is asked anew."""
COMMAND_ABSENT_FOR_S: Final = 10.0
"""How long a command waits for a scheduler, which may be being started again."""
WAITS_AFTER_S: Final = 1.0
"""After this whoever gave a command at a terminal is told that it waits."""
AGAIN_S: Final = 0.5
"""How long somebody who watches pauses before it is asked anew."""
SHORTEST_ID: Final = 4
_PASSES: Final = frozenset({"log_unavailable", "unavailable"})
_NO_PROJECTIONS: Final = (
    "nobody answers questions: start the read models with `agentcom web`, or "
    "everything with `agentcom up`"
)

new_id = IdSource(time.time, partial(secrets.randbits, 80))
_refusals: Reader[Refusal] = Reader(Refusal)


class _Metadata(Struct):
    now: str = ""


class _Ping(Struct):
    """What a scheduler's service says of itself, as far as it is read here."""

    metadata: _Metadata


_pings: Reader[_Ping] = Reader(_Ping)


class Refused(Problem):
    """A command or question that was answered with a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.error, exit_code_for(refusal.code))


class NotRunning(Problem):
    """Nobody answers."""

    def __init__(self, message: str) -> None:
        super().__init__(message, EXIT_UNREACHABLE)


def credentials_for(role: str = "operator") -> Credentials:
    """Choose key and address: `--nats` and `--creds` where said, else the folder's."""
    url, creds = said_url(), said_creds()
    if creds is not None:
        return explicit_credentials(url, creds)
    instance = Instance()
    if url is None:
        return instance.credentials(role)
    return Credentials(url, instance.keys / f"{role}.nk", role)


class Session:
    """Asks on behalf of a person: commands, queries, the log, the output stream."""

    def __init__(self, link: Link, role: str) -> None:
        self.link = link
        self.role = role
        self.log = JetStreamLog(link, consumers=False)
        self.output = JetStreamOutput(link)
        self._told_waiting = False

    @property
    def may_read(self) -> bool:
        """Whether the role may read log and output; a submitter may only ask."""
        return self.role != "submitter"

    async def command(
        self,
        name: str,
        body: Any,
        kind: type[T],
        *,
        absent_for: float = COMMAND_ABSENT_FOR_S,
    ) -> T:
        """Send a command; raises Refused, NotRunning.

        `absent_for` is how many seconds it waits where no scheduler is there to take it.
        """
        if name in ONCE and isinstance(body, dict):
            body = {"id": new_id(), **body}
        loop = asyncio.get_running_loop()
        telling = loop.call_later(WAITS_AFTER_S, self._tell_waiting)
        try:
            return await self._ask(
                subjects.command(name),
                body,
                kind,
                "the scheduler is not running: start it with `agentcom scheduler`, or "
                "everything with `agentcom up`",
                absent_for=absent_for,
            )
        finally:
            telling.cancel()

    def _tell_waiting(self) -> None:
        """Tell a person, once, what is waited for."""
        if sys.stderr.isatty() and not self._told_waiting:
            self._told_waiting = True
            remark("waiting for the scheduler; Ctrl-C gives up")

    async def query(
        self,
        name: str,
        body: dict[str, Any],
        kind: type[T],
        *,
        timeout: float = QUESTION_S,
    ) -> T:
        """Ask a question; raises Refused, NotRunning. `timeout` in seconds, each try.

        Without a `wait_seq` of its own, the answer holds at least what the log holds now,
        so that one sees what one has just done.
        """
        subject = subjects.query(name)
        if "task_id" in body:
            check_id(body["task_id"])
        if "wait_seq" in body or not self.may_read:
            return await self._ask(subject, body, kind, _NO_PROJECTIONS, timeout)
        now = await self.log.last_sequence()
        try:
            return await self._ask(
                subject, {**body, "wait_seq": now}, kind, _NO_PROJECTIONS, timeout
            )
        except Refused as refused:
            if refused.refusal.code != "behind":
                raise
            click.echo(f"Warning: {local(refused.refusal.error)}", err=True)
            return await self._ask(subject, body, kind, _NO_PROJECTIONS, timeout)

    async def _ask(
        self,
        subject: str,
        body: Any,
        kind: type[T],
        absent: str,
        timeout: float = ANSWER_S,
        absent_for: float = ABSENT_FOR_S,
    ) -> T:
        try:
            raw = encode(body)
        except UnicodeEncodeError as error:
            place = not_utf8(body)
            named = f"{place}: not UTF-8" if place else "this is not UTF-8"
            raise Problem(f"{named}; say it in UTF-8", EXIT_USAGE) from error
        if len(raw) > self.link.max_payload:
            raise Problem(
                f"this takes {len(raw)} bytes, the broker takes at most "
                f"{self.link.max_payload} at once: say less, or split it"
            )
        answer = await self._answer(subject, raw, absent, timeout, absent_for)
        try:
            if header.SERVICE_ERROR_CODE in answer.headers:
                raise Refused(_refusals.decode(answer.data))
            return msgspec.json.decode(answer.data, type=kind)
        except (Malformed, msgspec.DecodeError) as error:
            raise Problem(
                f"the answer on {subject} is not understood ({error}): the other side "
                "is another version of AgentCom"
            ) from error

    async def _answer(
        self, subject: str, raw: bytes, absent: str, timeout: float, absent_for: float
    ) -> LinkMessage:
        ask = partial(self.link.call, subject, raw, timeout=timeout)
        tries = 0
        while True:
            # Anew with each connection: those who answer come back to it as well.
            until = asyncio.get_running_loop().time() + absent_for
            try:
                return await once_listened(ask, until)
            except Unreachable as error:
                if error.absent:
                    raise NotRunning(absent) from error
                tries += 1
                if tries >= TRIES:
                    raise NotRunning(
                        f"no answer on {subject} in {TRIES * timeout:.0f} s: "
                        "`agentcom doctor` says what is wrong"
                    ) from error
                await self._back(timeout)

    async def _back(self, seconds: float) -> None:
        """Return once there is a connection, after `seconds` at the latest."""
        back = asyncio.Event()
        forget = self.link.on_connection(lambda _up: back.set())
        try:
            if not self.link.up:
                await first(back.wait(), timeout=seconds)
        finally:
            forget()

    async def schedulers_time(self) -> float | None:
        """Return a scheduler's time in Unix seconds; None where none tells it, as one of
        0.1.0 does not."""
        try:
            answer = await self.link.call("$SRV.PING.agentcom", b"", timeout=ANSWER_S)
            return instant(_pings.decode(answer.data).metadata.now)
        except (Unreachable, Malformed):
            return None

    async def now(self) -> float:
        """Return a scheduler's time in Unix seconds; our own where none tells it."""
        told = await self.schedulers_time()
        return time.time() if told is None else told

    async def full_id(self, task_id: str) -> str:
        """Return the whole id of a task that was named by its beginning."""
        if len(task_id) >= FULL_ID:
            return task_id
        answer = await self.query("task", {"task_id": task_id}, TaskAnswer)
        return answer.task.task_id

    async def known_id(self, task_id: str) -> str:
        """Return the same; raises Refused where the log has no such task."""
        full = await self.full_id(task_id)
        if not is_token(full) or not await self.log.read(subjects.task(full), limit=1):
            raise Refused(no_task(line_of(full)))
        return full


async def patiently(ask: Callable[[], Awaitable[T]], told: Callable[[str], None]) -> T:
    """Ask until there is an answer: a restart is to end nobody who watches.

    `told` hears once what keeps it. Raises Refused, but not where that passes.
    """
    silent = False
    while True:
        try:
            return await ask()
        except (LogUnavailable, NotRunning) as error:
            reason = sentence_of(error)
        except Refused as refused:
            if refused.refusal.code not in _PASSES:
                raise
            reason = refused.refusal.error
        if not silent:
            told(reason)
        silent = True
        await asyncio.sleep(AGAIN_S)


def not_utf8(body: Any) -> str:
    """Return the place in `body` of a text that was typed in bytes that are no UTF-8."""
    inside: list[tuple[str, Any]] = []
    match body:
        case dict():
            inside = [(f".{name}", value) for name, value in body.items()]
        case list() | tuple():
            inside = [(f"[{n}]", value) for n, value in enumerate(body)]
        case Struct():
            inside = [(f".{f}", getattr(body, f)) for f in body.__struct_fields__]
        case _:
            return ""
    for place, value in inside:
        try:
            encode(value)
        except UnicodeEncodeError:
            named = line_of(place.encode(errors="backslashreplace").decode())
            return (named + "." + not_utf8(value)).replace(".[", "[").strip(".")
    return ""


def check_id(task_id: str) -> None:
    """Raise Problem where this cannot name a task, for it is empty or too short."""
    if not task_id.strip():
        raise Problem(
            "a task's id is missing: it is empty here; `agentcom tasks` lists them",
            EXIT_USAGE,
        )
    if len(task_id) < SHORTEST_ID:
        raise Problem(
            f"{shown(task_id)} is too short: give at least {SHORTEST_ID} characters "
            "of the task's id",
            EXIT_USAGE,
        )


@asynccontextmanager
async def connected(
    role: str = "operator", credentials: Credentials | None = None
) -> AsyncIterator[Session]:
    """Connect as `role` (or as whom `--creds` says) for as long as the block lasts."""
    chosen = credentials or credentials_for(role)
    link = await Link.connect(chosen.address(), timeout=CONNECT_S)
    client = Session(link, chosen.role)
    try:
        yield client
    except Denied as denied:
        if denied.reason != NOT_ALLOWED:
            raise
        reads = denied.doing.startswith("$JS.API.")
        what = "read the log" if reads else f"use {denied.doing}"
        raise Problem(
            f"the role {chosen.role} may not {what}: name another key with --creds FILE"
        ) from denied
    finally:
        await client.log.close()
        await link.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work to its end, on the fastest loop there is.

    Ctrl-C ends the work, then raises KeyboardInterrupt.
    """
    running = _interruptible(work)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(running)
    finally:
        for each in (running, work):
            # Ctrl-C may come before they begin, of which Python would warn.
            if inspect.getcoroutinestate(each) == inspect.CORO_CREATED:
                each.close()


def answer_to(
    name: str, question: dict[str, Any], kind: type[T], *, timeout: float = QUESTION_S
) -> T:
    """Connect and ask one question; raises Refused, NotRunning."""

    async def ask() -> T:
        async with connected() as client:
            return await client.query(name, question, kind, timeout=timeout)

    return run(ask())


def carried_out(name: str, body: dict[str, Any], kind: type[T]) -> T:
    """Connect and give one command; raises Refused, NotRunning."""

    async def give() -> T:
        async with connected() as client:
            return await client.command(name, body, kind)

    return run(give())


class GivenUp(Exception):
    """What was to be done was given up, because somebody said stop."""


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`; when `stop` is set, cancel it until it has ended, and raise GivenUp."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        await give_up(working)
    finally:
        stopping.cancel()
        working.cancel()
    if working.cancelled():
        raise GivenUp
    return working.result()


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError):  # on Windows, where the runner does what it can
        loop.add_signal_handler(signal.SIGINT, interrupted.set)
    try:
        return await unless(interrupted, work)
    except GivenUp:
        raise KeyboardInterrupt from None


def loop_factory() -> Any:
    """Return what makes the event loop: uvloop's where there is one."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
