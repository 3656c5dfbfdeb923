"""Follows one task from wherever it is to its end: what is decided, done and said.

The events are folded here by the same fold that the read models use, so that a command
that waits needs no read models, only log and scheduler. A submitter, who may not read
the log, asks the read models instead, and is answered when there is news.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

import click

from cli.client.connection import Refused, patiently
from cli.render.outcome import Outcome, outcome_of, outcome_of_answer
from cli.render.terminal import Problem, local
from events import catalogue as c
from events import subjects
from events.errors import LogError
from events.lifecycle import FINAL
from events.races import first, give_up
from projections import tasks
from projections.answers import TaskAnswer, WhyAnswer
from projections.judged import JudgedEvent, judge
from projections.tasks import TasksState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from cli.client.connection import Session
    from projections.record import TaskRecord

EXPLAIN_S: Final = 1.5
"""How long a task has waited before it is said why."""
EXPLAIN_AGAIN_S: Final = 15.0
"""How often it is looked whether that has changed."""
REST_OF_OUTPUT_S: Final = 2.0
"""How long the end of a task waits for the rest of its output to be stored."""
_TEXT: Final = frozenset({"stdout", "token"})
WAITING: Final = 256
"""Pieces of at most 64 KiB that wait while what was put out before is read."""


class Audience(Protocol):
    """Who is shown a task as it goes on."""

    def event(self, recorded: c.Recorded, judged: JudgedEvent) -> None:
        """An event of the task; `judged` says what it counted for."""
        ...

    def chunk(self, chunk: c.Chunk) -> None:
        """A piece of its output, in order."""
        ...

    def missing(self, size: int) -> None:
        """So many bytes of its output had not come when it ended, nor soon after."""
        ...


class Following:
    """One task, followed. `outcome` returns once it has ended."""

    def __init__(
        self, client: Session, task_id: str, audience: Audience | None = None
    ) -> None:
        self._client = client
        self._task_id = task_id
        self._audience = audience
        self._state = TasksState()
        self._result: c.Result | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def record(self) -> TaskRecord | None:
        """The task as far as it has been followed."""
        return self._state.records.get(self._task_id)

    def _on(self, recorded: c.Recorded) -> None:
        judged = judge(recorded)
        tasks.evolve(self._state, judged)
        record = self.record
        if judged.task is not None and judged.verdict == "applied":
            result = getattr(recorded.event, "result", None)
            if isinstance(result, c.Result):
                self._result = result
        if self._audience is not None and judged.task is not None:
            self._audience.event(recorded, judged)
        if record is not None and record.phase in FINAL and not self._ended.done():
            self._ended.set_result(None)

    async def outcome(
        self, waits: Callable[[list[str]], None] | None = None
    ) -> Outcome:
        """Follow to the end; `waits` is told why, where that takes long to begin."""
        explaining = None
        if waits is not None:
            explaining = asyncio.ensure_future(self._explain(waits))
        try:
            return await self._follow()
        finally:
            if explaining is not None:
                explaining.cancel()
                await asyncio.gather(explaining, return_exceptions=True)

    async def _explain(self, waits: Callable[[list[str]], None]) -> None:
        """Say why the task waits, and again when that has changed."""
        reasons: list[str] = []
        pause = EXPLAIN_S
        while True:
            await asyncio.sleep(pause)
            pause = EXPLAIN_S
            record = self.record
            if record is None or record.phase != "waiting":
                continue
            question = {"task_id": self._task_id, "wait_seq": record.updated_seq}
            try:
                answer = await self._client.query("why", question, WhyAnswer)
            except Problem:
                # Without read models the reason is not known; the task goes on all the same.
                continue
            if answer.state != "waiting" or not answer.because:
                continue
            pause = EXPLAIN_AGAIN_S
            if answer.because != reasons:
                reasons = answer.because
                waits(reasons)

    async def _follow(self) -> Outcome:
        client = self._client
        live = None
        if self._audience is not None:
            live = LiveOutput(client, self._task_id, self._audience.chunk)
            await live.start()
        follower = await client.log.follow(
            self._on,
            subjects=[
                subjects.SCHEDULER,
                subjects.task(self._task_id),
                subjects.runs_of(self._task_id),
            ],
        )
        try:
            broken = (
                [follower.failed] if live is None else [follower.failed, live.failed]
            )
            await first(self._ended, *broken)
            record = self.record
            assert record is not None
            ended = outcome_of(record, self._result)
            if live is not None and self._result is not None:
                assert self._audience is not None
                left = await live.rest(record.route, self._result.output_bytes)
                if left:
                    self._audience.missing(left)
            return ended
        finally:
            await follower.stop()
            if live is not None:
                await live.stop()


async def outcome_by_asking(client: Session, task_id: str) -> Outcome:
    """Wait for a task's end by questions that are answered when there is news."""
    question: dict[str, Any] = {"task_id": task_id}
    answer: TaskAnswer | None = None

    def ask() -> Coroutine[Any, Any, TaskAnswer]:
        return client.query("task", question, TaskAnswer)

    def waits(reason: str) -> None:
        click.echo(f"Waiting: {local(reason)}", err=True)

    while True:
        try:
            asked = patiently(ask, waits) if answer is not None else ask()
            answer = await asked
        except Refused as refused:
            if refused.refusal.code not in ("behind", "not_found"):
                raise
            # Nothing new in all that time, or the submission is not folded in yet.
            await asyncio.sleep(0.2)
            continue
        if answer.task.state in FINAL:
            return outcome_of_answer(answer)
        question["wait_seq"] = answer.seq + 1
        # On a busy log every event of any task would be an answer.
        await asyncio.sleep(0.1)


class LiveOutput:
    """A task's output, piece by piece and in order, also over a reconnect."""

    def __init__(
        self, client: Session, task_id: str, show: Callable[[c.Chunk], None]
    ) -> None:
        self._client = client
        self._task_id = task_id
        self._show = show
        self._last: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        # What comes while the stream is read; of more than WAITING pieces that is read, too.
        self._waiting: list[c.Chunk] | None = []
        # Whether the connection is away, and whether it came back while the stream was read.
        self._away = self._again = False
        # The last number, by route, of what did not find room there.
        self._left_out: dict[str, int] = {}
        # Where in the stream it is read on.
        self._next = 1
        self._subscription: Any = None
        self._reading: asyncio.Task[None] | None = None
        # One reading at a time: the end of one lets what comes pass ahead of another's.
        self._turn = asyncio.Lock()
        # Gets what keeps it from being shown: a reader who has gone away, a full disk.
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._forget = client.link.on_connection(self._connection)

    async def start(self) -> None:
        """Show what there is, then what comes."""
        self._subscription = await self._client.output.listen(
            self._task_id, self._on, republished=False
        )
        await self._catch_up()

    async def stop(self) -> None:
        """Show nothing more."""
        self._forget()
        if self._reading is not None:
            await give_up(self._reading)
        if self._subscription is not None:
            await self._subscription.stop()
        if not self.failed.cancel():
            self.failed.exception()

    def _on(self, chunk: c.Chunk) -> None:
        if self._waiting is None:
            self._hand_on(chunk)
        elif len(self._waiting) < WAITING:
            self._waiting.append(chunk)
        else:
            self._left_out[chunk.route] = chunk.n

    def _hand_on(self, chunk: c.Chunk) -> None:
        if chunk.n <= self._last.get(chunk.route, 0) or self.failed.done():
            return
        self._last[chunk.route] = chunk.n
        if chunk.event_type in _TEXT:
            size = self._bytes.get(chunk.route, 0) + len(chunk.text.encode())
            self._bytes[chunk.route] = size
        try:
            self._show(chunk)
        except OSError as error:
            self.failed.set_exception(error)

    def _connection(self, up: bool) -> None:
        self._away = not up
        if not up:
            # The server sends again before the connection is said to be up: what is heard
            # then must not pass ahead of what was missed.
            if self._waiting is None:
                self._waiting = []
        elif self._reading is None or self._reading.done():
            loop = asyncio.get_running_loop()
            self._reading = loop.create_task(self._catch_up())
        else:
            self._again = True

    async def _catch_up(self) -> None:
        """Read what is stored; what comes meanwhile waits its turn."""
        async with self._turn:
            if self._waiting is None:
                self._waiting = []
            self._again = True
            try:
                while self._again:
                    self._again = False
                    await self._read_all()
            finally:
                if not self._away:
                    waiting, self._waiting = self._waiting, None
                    for chunk in waiting:
                        self._hand_on(chunk)

    async def _read_all(self) -> None:
        """Read what is stored, and what was left out."""
        try:
            await self._read_on()
            while self._left_out:
                known = {each.route: each.n for each in self._waiting or []}
                left_out = known | self._left_out
                self._left_out, self._waiting = {}, []
                await self._read_to(left_out)
        except LogError:
            # With the next connection it is read anew; without, what is missing shows in
            # the numbers, and is in the result.
            pass

    async def _read_to(self, numbers: dict[str, int]) -> None:
        """Read on to these numbers, by route: what is heard may be stored a moment later."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REST_OF_OUTPUT_S
        await self._read_on()
        while loop.time() < deadline and any(
            self._last.get(route, 0) < n for route, n in numbers.items()
        ):
            await asyncio.sleep(0.05)
            await self._read_on()

    async def _read_on(self) -> None:
        output = self._client.output
        async for seq, chunk in output.placed(self._task_id, start=self._next):
            self._next = seq + 1
            self._hand_on(chunk)
            if self.failed.done():
                return

    async def rest(self, route: str, size: int) -> int:
        """Return once `size` bytes of the route's text were shown, or soon after: how many
        are missing.

        Raises what keeps it from being shown.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REST_OF_OUTPUT_S
        while self._bytes.get(route, 0) < size and loop.time() < deadline:
            await self._catch_up()
            if self.failed.done():
                break
            if self._bytes.get(route, 0) < size:
                await asyncio.sleep(0.05)
        if self.failed.done():
            self.failed.result()
        return max(size - self._bytes.get(route, 0), 0)


class Crowd:
    """Many tasks followed together, over one reading of the log."""

    def __init__(self, client: Session, task_ids: list[str]) -> None:
        self._client = client
        self._places = {task_id: n for n, task_id in enumerate(task_ids)}
        self._state = TasksState()
        self._results: dict[str, c.Result] = {}
        self._ended: asyncio.Queue[str] = asyncio.Queue()
        self._told: set[str] = set()

    def _on(self, recorded: c.Recorded) -> None:
        judged = judge(recorded)
        tasks.evolve(self._state, judged)
        record = judged.task
        if record is None or record.id not in self._places:
            return
        result = getattr(recorded.event, "result", None)
        if judged.verdict == "applied" and isinstance(result, c.Result):
            self._results[record.id] = result
        if record.phase in FINAL and record.id not in self._told:
            self._told.add(record.id)
            self._ended.put_nowait(record.id)

    async def outcomes(self) -> AsyncIterator[tuple[int, Outcome]]:
        """Yield (place, outcome) as tasks end, until all have."""
        start = await self._first()
        for recorded in await self._client.log.read(subjects.SCHEDULER):
            if recorded.seq < start:
                tasks.evolve(self._state, judge(recorded))
        follower = await self._client.log.follow(
            self._on,
            start=start,
            subjects=[subjects.SCHEDULER, subjects.ALL_TASKS, subjects.ALL_RUNS],
        )
        try:
            for _ in self._places:
                task_id = (await first(self._ended.get(), follower.failed)).value
                record = self._state.records[task_id]
                result = self._results.get(task_id)
                yield self._places[task_id], outcome_of(record, result)
        finally:
            await follower.stop()

    async def _first(self) -> int:
        """Return the sequence of the earliest submission among the tasks."""
        firsts = [
            events[0].seq
            for task_id in self._places
            if (events := await self._client.log.read(subjects.task(task_id), limit=1))
        ]
        return min(firsts, default=1)
