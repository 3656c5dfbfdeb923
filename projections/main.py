"""The projections as a role: follow the log, answer questions on the bus.

Runs inside web and also alone, any number of times, each with a store of its own:
questions go to one member of the queue group `projections`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from events import catalogue as c
from events import header, subjects
from events.codec import Reader, encode
from events.commands import Refusal, refuse
from events.errors import Malformed
from events.races import first
from projections.checkpoints import Checkpoints
from projections.children import ChildQueries
from projections.queries import ANSWER_BYTES, Queries
from projections.runner import Runner
from projections.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from events.bus import Bus, Listening, Message
    from events.log import EventLog
    from projections.output import OutputReader
    from projections.queries import Answer, WhatIf

GROUP: Final = "projections"
ANY_QUERY: Final = subjects.query("*")

_beats: Final[Reader[c.Beat]] = Reader(c.Beat)


class QueryService:
    """Answers `agentcom.query.<name>`: JSON, errors in the body and in the headers."""

    def __init__(
        self,
        bus: Bus,
        queries: Queries,
        *,
        clock: Callable[[], float],
        children: ChildQueries | None = None,
    ) -> None:
        self._bus = bus
        self._queries = queries
        self._children = children
        self._clock = clock
        self._listening: list[Listening] = []
        self._answering: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Start to answer, and to listen to the hosts' beats."""
        self._listening = [
            await self._bus.listen(ANY_QUERY, self._receive, queue=GROUP),
            await self._bus.listen(
                subjects.ALL_CHILD_QUERIES, self._receive, queue=GROUP
            ),
            await self._bus.listen(subjects.ALL_BEATS, self._beat),
        ]

    async def close(self) -> None:
        """Answer nothing more."""
        for listening in self._listening:
            await listening.stop()
        self._listening.clear()
        for task in list(self._answering):
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    def _beat(self, message: Message) -> None:
        try:
            beat = _beats.decode(message.data)
        except Malformed:
            return
        if message.subject.rpartition(".")[2] == beat.host:
            self._queries.note_beat(beat)

    def _receive(self, message: Message) -> None:
        if not message.wants_answer:
            return
        task = asyncio.get_running_loop().create_task(self._answer(message))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, message: Message) -> None:
        name = message.subject.removeprefix(subjects.QUERIES + ".")
        try:
            asked = subjects.of_a_run(name)
            if asked is not None and self._children is not None:
                answer = await self._children.answer(*asked, message.data)
            else:
                answer = await self._queries.answer(name, message.data)
        except Exception as error:  # noqa: BLE001 - the service's edge
            answer = refuse("internal", f"{type(error).__name__}: {error}")
        data, headers = encode_answer(answer)
        message.respond(data, headers)


def encode_answer(answer: Answer) -> tuple[bytes, dict[str, str] | None]:
    """Turn an answer into a message's body and headers."""
    data = encode(answer)
    if len(data) > ANSWER_BYTES and not isinstance(answer, Refusal):
        answer = refuse(
            "too_large",
            f"the answer takes {len(data)} bytes, a message holds "
            f"{ANSWER_BYTES}: ask for less at once",
        )
        data = encode(answer)
    if not isinstance(answer, Refusal):
        return data, None
    text = answer.error.replace("\r", " ").replace("\n", " ")
    text = text.encode("ascii", "replace").decode()
    return data, {
        header.SERVICE_ERROR_CODE: str(answer.status),
        header.SERVICE_ERROR: text[:500],
    }


@asynccontextmanager
async def projecting(
    log: EventLog,
    bus: Bus,
    path: Path | None,
    *,
    output: OutputReader | None = None,
    whatif: WhatIf | None = None,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], float] = time.time,
) -> AsyncIterator[tuple[Runner, Queries]]:
    """Follow the log and answer questions for as long as the block lasts.

    `path` is the store's file, None for a temporary one. Questions are answered from the
    beginning on, also before everything is folded: `seq` says how far an answer reaches.
    A file of another version is shown as it is while a new one is made beside it.
    """
    store = Store(path, keep_outdated=True)
    runner: Runner | None = None
    try:
        runner = Runner(log, store, checkpoints=checkpoints_beside(path))
        queries = Queries(
            runner, log, clock=clock, now=now, output=output, whatif=whatif
        )
        children = ChildQueries(queries, runner, log)
        service = QueryService(bus, queries, clock=clock, children=children)
        await runner.start()
        try:
            await service.open()
            yield runner, queries
        finally:
            await service.close()
            queries.close()
            await runner.stop()
    finally:
        # A rebuild in memory has put another one in its place.
        store.close()
        if runner is not None:
            runner.store.close()


def checkpoints_beside(path: Path | None) -> Checkpoints | None:
    """Return the copies of the store at `path`, in a folder beside it."""
    if path is None:
        return None
    return Checkpoints(path.with_name(f"{path.name}.past"))


async def until(stop: asyncio.Event, runner: Runner) -> None:
    """Return when `stop` is set, raise when the runner has failed."""
    await first(stop.wait(), runner.failed)
