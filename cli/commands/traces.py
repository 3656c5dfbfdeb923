"""`agentcom traces`: tasks as OpenTelemetry traces, sent to a receiver.

They are made from the log, so that they can be sent while tasks end, or again later for
any span of time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from analysis.span import first_from, last_until
from analysis.tracing import Life, Span, lives, may_end, relatives
from cli.client.connection import Session, connected, patiently, run
from cli.client.spans import point_option
from cli.client.target import on_target
from cli.commands.options import json_option
from cli.local.instance import Instance
from cli.render.terminal import EXIT_INTERRUPTED, EXIT_OK, EXIT_UNREACHABLE, Problem
from events import catalogue as c
from events import subjects
from events.codec import encode
from events.diagnostics import Diagnostics
from events.errors import Malformed
from events.position import NOWHERE, LogChanged, Position
from events.races import first
from projections.timetravel import TimeTravel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cli.client.telemetry import Receiver

AT_ONCE: Final = 64
"""Ended tasks that go in one message, at most."""
PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
_ENDPOINTS: Final = (
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)

_log = Diagnostics("agentcom.traces")


@click.command()
@on_target
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--endpoint",
    metavar="URL",
    help="The receiver: OTLP over HTTP, such as http://127.0.0.1:4318  [default: "
    "OTEL_EXPORTER_OTLP_ENDPOINT; headers, certificates and time limits come from the "
    "variables of that family too]",
)
@click.option(
    "--follow", is_flag=True, help="Go on with the tasks that end from now on."
)
@point_option("--since", "Only tasks that ended from there on.")
@point_option("--until", "Only tasks that ended up to there.")
@json_option
def traces(
    *,
    task_ids: tuple[str, ...],
    endpoint: str | None,
    follow: bool,
    since: int | str | None,
    until: int | str | None,
    as_json: bool,
) -> int:
    """Send tasks that have ended as OpenTelemetry traces.

    One trace a task: its waits, its runs, each with delivery, work, tries and
    verification, with models, tokens and dollars by the conventions for generative AI.
    The ids of a trace follow from the task's, so sending it again sends the same. With
    --follow it goes on from where it stood when it was ended. --json prints the spans, a
    line each, and sends nothing.
    """
    if task_ids and (follow or since is not None or until is not None):
        raise click.UsageError("name tasks, or say --follow, --since, --until")
    if follow and until is not None:
        raise click.UsageError("--follow has no --until")
    receiver = None if as_json else _receiver(endpoint)
    try:
        return run(_traces(receiver, task_ids, since, until, follow=follow))
    except KeyboardInterrupt:
        return EXIT_OK if follow else EXIT_INTERRUPTED
    finally:
        if receiver is not None:
            receiver.close()


def _receiver(endpoint: str | None) -> Receiver:
    try:
        from cli.client.telemetry import Receiver
    except ModuleNotFoundError as error:
        raise Problem(
            "sending traces needs the extra otel: pip install 'agentcom[otel]' "
            "(--json prints them without it)"
        ) from error
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise click.UsageError(
            "--endpoint: expected an address that starts with http:// or https://"
        )
    if endpoint is None and not any(os.environ.get(name) for name in _ENDPOINTS):
        raise click.UsageError(
            "where to? say --endpoint URL, or set OTEL_EXPORTER_OTLP_ENDPOINT"
        )
    return Receiver(endpoint, Instance().data.name)


async def _traces(
    receiver: Receiver | None,
    task_ids: tuple[str, ...],
    since: int | str | None,
    until: int | str | None,
    *,
    follow: bool,
) -> int:
    async with connected() as client:
        sender = _Sender(client, receiver, patient=follow)
        if task_ids:
            for each in task_ids:
                task_id = await client.known_id(each)
                ended = await _lives_of(client, task_id)
                if not ended:
                    raise Problem(f"{each} has not ended: its trace is not whole yet")
                await sender.send(ended)
            return sender.tell()
        place = _SentSoFar(Instance().data / "traces.position")
        after = place.read() if follow and since is None else NOWHERE
        start, last = await _span(client, since, until)
        if after.seq:
            start = after.seq + 1
        await _send_ended(client, sender, place, start, last, after, follow=follow)
        return sender.tell()


async def _span(
    client: Session, since: int | str | None, until: int | str | None
) -> tuple[int, int]:
    """Return the first and the last sequence that are asked for."""
    end = await client.log.last_sequence()
    past = TimeTravel(client.log)
    try:
        first_seq = 1 if since is None else await first_from(past, since)
        return first_seq, await last_until(past, until, end)
    finally:
        past.close()


class _Ending(NamedTuple):
    """An event that may have ended a task."""

    position: Position
    task_id: str


async def _send_ended(
    client: Session,
    sender: _Sender,
    place: _SentSoFar,
    start: int,
    last: int,
    after: Position,
    *,
    follow: bool,
) -> None:
    """Send the tasks that ended from `start` on: up to `last`, or for ever."""
    waiting: deque[_Ending] = deque()
    news = asyncio.Event()

    def take(recorded: c.Recorded) -> None:
        if may_end(recorded.event) and (follow or recorded.seq <= last):
            task_id: str = recorded.event.task_id  # type: ignore[attr-defined]
            waiting.append(_Ending(Position.of(recorded), task_id))
            news.set()

    try:
        follower = await client.log.follow(
            take,
            start=start,
            after=after if after.seq else None,
            subjects=[subjects.ALL_TASKS, subjects.ALL_RUNS],
        )
    except LogChanged as changed:
        raise Problem(
            f"{changed}; begin anew with --since, or remove {place.path}"
        ) from changed
    try:
        while True:
            if waiting:
                batch = [waiting.popleft() for _ in range(min(AT_ONCE, len(waiting)))]
                ask = partial(_ended_there, client, batch)
                asked = patiently(ask, _say_silent) if follow else ask()
                await sender.send(await asked)
                if follow:
                    place.write(batch[-1].position)
                continue
            if not follow and follower.caught_up.is_set():
                return
            news.clear()
            ends = [news] if follow else [news, follower.caught_up]
            await first(*(end.wait() for end in ends), follower.failed)
    finally:
        await follower.stop()


def _say_silent(reason: str) -> None:
    _log.warning("the log does not answer", reason=reason)


async def _ended_there(client: Session, batch: list[_Ending]) -> list[Life]:
    """Return the lives that ended with these very events."""
    found = []
    for ending in batch:
        of_task = await _lives_of(client, ending.task_id)
        found += [life for life in of_task if life.seq == ending.position.seq]
    return found


async def _lives_of(client: Session, task_id: str) -> list[Life]:
    history = await client.log.read(subjects.SCHEDULER)
    history += await client.log.read(subjects.task(task_id))
    history += await client.log.read(subjects.runs_of(task_id))
    history.sort(key=lambda recorded: recorded.seq)
    traceparents = {}
    for relative in relatives(history):
        for first_event in await client.log.read(subjects.task(relative), limit=1):
            if isinstance(first_event.event, c.TaskSubmitted):
                traceparents[relative] = first_event.event.spec.traceparent or ""
    return lives(history, traceparents)


class _Sender:
    """Sends lives, or prints their spans where there is no receiver, and counts them.

    A patient one waits for a receiver that does not answer, however long that takes.
    """

    def __init__(
        self, client: Session, receiver: Receiver | None, *, patient: bool
    ) -> None:
        self._receiver = receiver
        self._patient = patient
        self.lives = 0
        self.spans = 0

    async def send(self, ended: list[Life]) -> None:
        """Send; raises Problem where the receiver does not take it."""
        spans = [span for life in ended for span in life.spans]
        if not spans:
            return
        if self._receiver is None:
            for span in spans:
                sys.stdout.write(encode(span).decode() + "\n")
            sys.stdout.flush()
        else:
            await self._deliver(self._receiver.send, spans)
        self.lives += len(ended)
        self.spans += len(spans)

    async def _deliver(
        self, send: Callable[[list[Span]], bool], spans: list[Span]
    ) -> None:
        pause = PAUSE_S
        while not await asyncio.to_thread(send, spans):
            if not self._patient:
                raise Problem(
                    "the receiver did not take the spans; the lines above say why",
                    EXIT_UNREACHABLE,
                )
            _log.warning("the receiver does not take spans", again_in_s=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def tell(self) -> int:
        """Say what was sent."""
        if self._receiver is not None:
            click.echo(f"sent {self.lives} traces, {self.spans} spans")
        return EXIT_OK


class _SentSoFar:
    """The file that remembers the last event whose trace was sent."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Position:
        """Return where to go on; raises Problem where the file says no position."""
        try:
            return Position.parse(self.path.read_text().strip())
        except FileNotFoundError:
            return NOWHERE
        except (Malformed, UnicodeDecodeError) as error:
            raise Problem(
                f"{self.path}: {error}; remove it to send all tasks again"
            ) from error

    def write(self, position: Position) -> None:
        """Remember; a crash leaves the one before."""
        Instance.write(self.path, f"{position}\n")
