"""Answers to questions about the log's meaning: one method a query.

A question is a JSON object, or nothing; every one may carry `wait_seq` and is then
answered once that sequence is folded in. An answer is a struct of `projections.answers`,
or a Refusal. What a record does not hold (specification, trace, result, events) is
fetched from the log by its sequence.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from events import catalogue as c
from events import subjects
from events.codec import Reader, encode
from events.commands import Refusal, no_task, refusal_of, refuse
from events.errors import AgentComError, Malformed, shown
from events.filters import FILTERS, time_of, timed
from projections import (
    answers,
    attention,
    mapping,
    schedules,
    search,
    tables,
    tiers,
    waiting,
)
from projections import questions as q
from projections.endings import Endings
from projections.fleet import Beats
from projections.output import OutputParts
from projections.timetravel import TimeTravel
from projections.world import VERSIONS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from events.log import EventLog
    from projections.answers_later import GraphAnswer, SchedulesAnswer
    from projections.answers_whatif import WhatIfAnswer
    from projections.output import OutputReader
    from projections.record import TaskRecord
    from projections.runner import Runner
    from projections.world import World

WAIT_LIMIT_S: Final = 5.0
"""How long a question with `wait_seq` waits before it is refused as `behind`."""
ANSWER_BYTES: Final = 900_000
"""What an answer over NATS may take; messages end at 1 MB."""
PREFIX_LENGTH: Final = 4
OUTPUT_KEPT: Final = 64 * 1024
"""Characters of output and stderr that stay where an answer would be too large."""


class WhatIf(Protocol):
    """Decides the past anew. Handed in, since read models do not know the router."""

    async def __call__(self, question: q.AskWhatIf, /) -> WhatIfAnswer:
        """Answer `whatif`; raises Malformed for a policy that is none."""
        ...


Answer = answers.QueryAnswer | Refusal


class Queries:
    """Answers from one runner's read models.

    `clock` is a monotonic one, for what is known of the hosts right now; `now` tells the
    time in epoch seconds. `output` is
    where live output is read from; without it `output` is refused. `whatif` decides the
    past anew; without it that is refused.
    """

    def __init__(
        self,
        runner: Runner,
        log: EventLog,
        *,
        clock: Callable[[], float],
        now: Callable[[], float],
        output: OutputReader | None = None,
        whatif: WhatIf | None = None,
        wait_limit_s: float = WAIT_LIMIT_S,
    ) -> None:
        self.beats = Beats()
        self._runner = runner
        self._log = log
        self._clock = clock
        self._now = now
        self._output = None if output is None else OutputParts(output)
        self._past = TimeTravel(log, checkpoints=runner.checkpoints)
        self._whatif = whatif
        self._endings = Endings(runner)
        self._rebuilding: asyncio.Task[int] | None = None
        self._wait_limit_s = wait_limit_s
        # What wants a person, and as of which sequence and time it was looked for.
        self._wanting: tuple[tuple[int, float], answers.AttentionAnswer] | None = None
        self._queries: dict[
            str, tuple[Reader[Any], Callable[[Any], Awaitable[Answer]]]
        ] = {
            "tasks": (Reader(q.AskTasks), self.tasks),
            "attention": (Reader(q.Question), self.attention),
            "meant": (Reader(q.AskMeant), self.meant),
            "task": (Reader(q.AskTask), self.task),
            "ended": (Reader(q.AskEnded), self.ended),
            "queue": (Reader(q.AskQueue), self.queue),
            "hosts": (Reader(q.AskThen), self.hosts),
            "alerts": (Reader(q.AskThen), self.alerts),
            "schedules": (Reader(q.AskSchedules), self.schedules),
            "planned": (Reader(q.AskPlanned), self.planned),
            "graph": (Reader(q.AskGraph), self.graph),
            "why": (Reader(q.AskWhy), self.why),
            "costs": (Reader(q.AskCosts), self.costs),
            "stats": (Reader(q.AskThen), self.stats),
            "status": (Reader(q.Question), self.status),
            "output": (Reader(q.AskOutput), self.output),
            "whatif": (Reader(q.AskWhatIf), self.whatif),
            "rebuild": (Reader(q.AskRebuild), self.rebuild),
        }

    @property
    def names(self) -> tuple[str, ...]:
        """What can be asked."""
        return tuple(self._queries)

    def close(self) -> None:
        """Let go of what was kept for questions about the past."""
        if self._rebuilding is not None:
            self._rebuilding.cancel()
        self._past.close()

    async def answer(self, name: str, raw: bytes) -> Answer:
        """Answer the question in `raw`; whatever goes wrong is a Refusal."""
        query = self._queries.get(name)
        if query is None:
            return refuse(
                "unknown_query",
                f"there is no query {shown(name[:80])}, only {', '.join(self.names)}",
            )
        reader, method = query
        try:
            question = reader.decode(raw if raw.strip() else b"{}")
            return await self._ask(method, question)
        except AgentComError as error:
            return refusal_of(error)

    async def _ask(
        self, method: Callable[[Any], Awaitable[Answer]], question: q.Question
    ) -> Answer:
        seq = question.wait_seq
        if seq is not None and not await self._runner.wait_for(seq, self._wait_limit_s):
            return refuse(
                "behind",
                f"the read models are at {self._runner.position}, not yet at "
                f"{seq}: ask again",
            )
        return await method(question)

    # -- the queries -------------------------------------------------------------------

    async def tasks(self, question: q.AskTasks) -> answers.TasksAnswer:
        """Answer `tasks`."""
        question = timed(question, self._now())
        look = search.tasks(question)
        seq, states = self._runner.save(), self._states()
        if any(getattr(question, name) for name in FILTERS if name != "state") or (
            question.fallback is not None
        ):
            states = await self._runner.store.look(search.states(question))
        page = await self._runner.store.look(look)
        return answers.TasksAnswer(
            seq=seq,
            total=page.total,
            tasks=await self._shortened([mapping.row(record) for record in page.tasks]),
            states=states,
            next=page.next,
        )

    async def attention(self, question: q.Question) -> answers.AttentionAnswer:
        """Answer `attention`."""
        now = attention.step_of(self._now())
        known = (self._runner.position, now)
        if self._wanting is None or self._wanting[0] != known:
            self._wanting = known, await attention.find(self._runner, now)
        return self._wanting[1]

    async def meant(self, question: q.AskMeant) -> Answer:
        """Answer `meant`."""
        question = timed(question, self._now())
        look = search.meant(
            question.filter,
            ids=question.ids,
            until_seq=question.until_seq,
            after=question.after,
            limit=question.limit,
        )
        seq = self._runner.save()
        total, tasks = await self._runner.store.look(look)
        return answers.MeantAnswer(seq=seq, total=total, tasks=list(tasks))

    async def task(self, question: q.AskTask) -> answers.TaskAnswer | Refusal:
        """Answer `task`."""
        record = await self._find(question.task_id)
        if isinstance(record, Refusal):
            return record
        await self._endings.wait([record.id], question.wait)
        world = await self._world(question.at)
        was = world.tasks.find(record.id)
        if was is None:
            return _not_found(question.task_id)
        # What is read from the log takes a while, and the task goes on meanwhile.
        record, seq = tables.copied(was), world.position
        routes = [mapping.route(routing) for routing in record.routings]
        submitted, routed, finished, started, logged = await asyncio.gather(
            self._log.get(record.seq),
            self._at(record.trace_seq),
            self._at(record.result_seq),
            self._at(record.env_seq),
            self._events(record.id, question.events_from)
            if question.events
            else _none(),
        )
        logged = [recorded for recorded in logged if recorded.seq <= seq]
        event = submitted.event if submitted is not None else None
        submission = event if isinstance(event, c.TaskSubmitted) else None
        answer = answers.TaskAnswer(
            seq=seq,
            task=mapping.detail(
                record,
                submission=submission,
                result=_result_of(finished),
                env=started.event.env
                if started is not None and isinstance(started.event, c.TaskStarted)
                else {},
            ),
            route=routed.event
            if routed is not None and isinstance(routed.event, c.TaskRouted)
            else None,
            attempts=routes,
            routes=routes,
            events=[],
            events_left_out=0,
        )
        return _with_events(answer, logged)

    async def ended(self, question: q.AskEnded) -> Answer:
        """Answer `ended`."""
        ids: list[str] = []
        for n, said in enumerate(question.task_ids):
            task_id = await self.full_id(said)
            if isinstance(task_id, Refusal):
                place = f"task_ids[{n}]"
                told = f"{place}: {task_id.error}"
                return msgspec.structs.replace(task_id, error=told, path=place)
            ids.append(task_id)
        ended = await self._endings.wait(ids, question.wait)
        return answers.EndedAnswer(
            seq=self._runner.position,
            ended=[
                answers.EndedTask(task_id=each.id, state=each.phase) for each in ended
            ],
        )

    def note_beat(self, beat: c.Beat) -> None:
        """Take in a host's sign of life, as it comes."""
        self.beats.note(beat, self._clock(), self._now())

    async def queue(self, question: q.AskQueue) -> answers.QueueAnswer:
        """Answer `queue`."""
        world = await self._world(question.at)
        queue = mapping.queue(world.queue, world.position, question.limit)
        if question.at is None:
            self._runner.save()
            await self._shortened([*queue.running, *queue.waiting_tasks])
        return queue

    async def hosts(self, question: q.AskThen) -> answers.HostsAnswer:
        """Answer `hosts`; of the past, what machines said every two seconds is gone."""
        world = await self._world(question.at)
        monotonic = self._clock()
        if world is self._runner.world:
            now = self._now()
            return mapping.hosts(world, self.beats, monotonic=monotonic, now=now)
        then = tiers.instant_of(world.stats.last_at)
        return mapping.hosts(world, Beats(), monotonic=monotonic, now=then)

    async def schedules(self, question: q.AskSchedules) -> SchedulesAnswer | Refusal:
        """Answer `schedules`."""
        name, world = question.schedule, self._runner.world
        if name is not None and name not in world.schedules.by_name:
            return refuse(
                "not_found", f"there is no schedule {shown(name)}", "schedule"
            )
        return schedules.answer(world, name, self._now())

    async def planned(self, question: q.AskPlanned) -> Answer:
        """Answer `planned`."""
        world, now = self._runner.world, self._now()
        return schedules.next_times(
            world, question.cron, question.tz, now, question.limit
        )

    async def graph(self, question: q.AskGraph) -> GraphAnswer | Refusal:
        """Answer `graph`."""
        record = await self._find(question.task_id)
        if isinstance(record, Refusal):
            return record
        return schedules.graph(self._runner.world, record.id)

    async def alerts(self, question: q.AskThen) -> Answer:
        """Answer `alerts`, the newest first."""
        world = await self._world(question.at)
        return answers.AlertsAnswer(
            seq=world.position,
            active=len(world.fleet.active_alerts),
            alerts=world.fleet.alerts[::-1],
        )

    async def why(self, question: q.AskWhy) -> answers.WhyAnswer | Refusal:
        """Answer `why`."""
        record = await self._find(question.task_id)
        if isinstance(record, Refusal):
            return record
        return waiting.why(record, self._runner.world, self._now())

    async def costs(self, question: q.AskCosts) -> answers.CostsAnswer:
        """Answer `costs`."""
        question = timed(question, self._now())
        look = search.costs(
            question.by,
            question.since,
            question.until,
            stack=question.stack,
            fallback=question.fallback,
            label=question.label,
        )
        seq = self._runner.save()
        lines = await self._runner.store.look(look)
        return answers.CostsAnswer(
            seq=seq,
            by=question.by,
            since=question.since,
            lines=lines,
            total=mapping.summed(lines),
        )

    async def stats(self, question: q.AskThen) -> answers.StatsAnswer:
        """Answer `stats`."""
        world = await self._world(question.at)
        spent = world.costs.total
        return mapping.stats(
            world.stats, world.position, spent.usd_nano, spent.saved_nano
        )

    async def status(self, question: q.Question) -> Answer:
        """Answer `status`."""
        last = await self._log.last_sequence()
        world = self._runner.world
        state, fleet = world.stats, world.fleet
        return answers.StatusAnswer(
            seq=world.position,
            last_seq=last,
            lag=max(last - world.position, 0),
            last_event_at=state.last_at,
            versions=VERSIONS,
            outdated=self._runner.store.outdated,
            rebuilding=self._runner.rebuilding,
            rebuilt=self._runner.rebuilt,
            rebuild_failed=self._rebuild_failed(),
            checkpoints=list(self._checkpoints()),
            events=state.events,
            types=state.types,
            standings=state.standings,
            void=state.void,
            unknown=state.unknown,
            undecodable=state.undecodable,
            leader=fleet.in_force.leader,
            epoch=fleet.in_force.epoch,
            active_alerts=len(fleet.active_alerts),
            simulated=any(
                endpoint.simulated
                for host in fleet.hosts.values()
                for endpoint in host.endpoints.values()
            ),
        )

    async def output(self, question: q.AskOutput) -> Answer:
        """Answer `output`."""
        if self._output is None:
            return refuse(
                "unavailable",
                "live output is not read here; ask where the dashboard runs",
            )
        record = await self._find(question.task_id)
        if isinstance(record, Refusal):
            return record
        chunks, left_out = await self._output.after(
            record.id,
            question.route or record.route,
            question.after_n,
            ANSWER_BYTES,
            others=not question.route,
        )
        return answers.OutputAnswer(
            seq=self._runner.position,
            task_id=record.id,
            state=record.phase,
            chunks=chunks,
            left_out=left_out,
        )

    async def whatif(self, question: q.AskWhatIf) -> Answer:
        """Answer `whatif`."""
        if self._whatif is None:
            return refuse(
                "unavailable",
                "nothing here decides anew; ask where the dashboard runs, or "
                "`agentcom whatif`",
            )
        return await self._whatif(timed(question, self._now()))

    async def rebuild(self, question: q.AskRebuild) -> Answer:
        """Answer `rebuild` once it has begun; `status` says how far it is."""
        running = self._runner
        if running.rebuilding is None:
            self._rebuilding = asyncio.get_running_loop().create_task(running.rebuild())
            # What it raises is shown by `status`.
            self._rebuilding.add_done_callback(
                lambda task: None if task.cancelled() else task.exception()
            )
        return answers.RebuildAnswer(
            seq=running.position,
            names=sorted(VERSIONS),
            rebuilt=running.rebuilt,
            last_seq=await self._log.last_sequence(),
        )

    # -- what they need ----------------------------------------------------------------

    async def _world(self, at: int | str | None) -> World:
        """Return the world now, or as it was; raises Malformed beyond the log's end."""
        if at is None:
            return self._runner.world
        if isinstance(at, str):
            at = await self._past.sequence_at(time_of(at, "at", self._now()))
        elif at > (last := await self._log.last_sequence()):
            raise Malformed("at", f"at most {last}, where the log ends", str(at))
        return await self._past.world(at)

    def _rebuild_failed(self) -> str:
        task = self._rebuilding
        if task is None or not task.done() or task.cancelled():
            return ""
        error = task.exception()
        return "" if error is None else f"{type(error).__name__}: {error}"

    def _checkpoints(self) -> tuple[int, ...]:
        checkpoints = self._runner.checkpoints
        return () if checkpoints is None else checkpoints.places

    def _states(self) -> dict[str, int]:
        return {
            state: count
            for state, count in self._runner.world.stats.states.items()
            if count
        }

    async def _find(self, task_id: str) -> TaskRecord | Refusal:
        """Return the task with this id, or the only one whose id begins so."""
        record = self._runner.world.tasks.find(task_id)
        if record is None and len(task_id) >= PREFIX_LENGTH:
            self._runner.save()
            ids = await self._runner.store.look(search.ids_from(task_id.upper()))
            ids = ids or await self._runner.store.look(search.ids_from(task_id))
            if len(ids) > 1:
                return _ambiguous(task_id, ids)
            record = self._runner.world.tasks.find(ids[0]) if ids else None
        if record is None:
            return _not_found(task_id)
        return record

    async def full_id(self, task_id: str) -> str | Refusal:
        """Return a task's whole id, of which the beginning may have been said."""
        record = await self._find(task_id)
        return record if isinstance(record, Refusal) else record.id

    async def _shortened(self, rows: list[answers.TaskRow]) -> list[answers.TaskRow]:
        """Say of each row by which beginning its id is known; return them."""
        look = search.short_ids([row.task_id for row in rows])
        short = await self._runner.store.look(look)
        for row in rows:
            row.short_id = short[row.task_id]
        return rows

    async def _at(self, seq: int) -> c.Recorded | None:
        return await self._log.get(seq) if seq else None

    async def _events(self, task_id: str, start: int) -> list[c.Recorded]:
        decided, reported = await asyncio.gather(
            self._log.read(subjects.task(task_id), start=start),
            self._log.read(subjects.runs_of(task_id), start=start),
        )
        return sorted([*decided, *reported], key=lambda recorded: recorded.seq)


def _ambiguous(beginning: str, ids: list[str]) -> Refusal:
    named = ", ".join(ids[: search.CANDIDATES])
    more = " and others" if len(ids) > search.CANDIDATES else ""
    return refuse(
        "ambiguous",
        f"more than one task's id begins with {beginning}: {named}{more}; give more of it",
        "task_id",
    )


def _not_found(task_id: str) -> Refusal:
    return no_task(task_id, "task_id")


async def _none() -> list[c.Recorded]:
    return []


def _result_of(recorded: c.Recorded | None) -> c.Result | None:
    event = recorded.event if recorded is not None else None
    if not isinstance(event, c.RunEvent):
        return None
    result: c.Result | None = getattr(event, "result", None)
    return result


def _with_events(
    answer: answers.TaskAnswer, logged: list[c.Recorded]
) -> answers.TaskAnswer:
    """Add the events that fit; cut the result's text if even without them it is long."""
    size = len(encode(answer))
    result = answer.task.result
    if size > ANSWER_BYTES and result is not None:
        answer.task.result = msgspec.structs.replace(
            result,
            output=result.output[:OUTPUT_KEPT],
            stderr=result.stderr[:OUTPUT_KEPT],
            truncated=True,
        )
        size = len(encode(answer))
    for recorded in logged:
        event = recorded.event
        logged_event = answers.LoggedEvent(
            seq=recorded.seq,
            subject=recorded.subject,
            event=event.body if isinstance(event, c.Unknown) else event,
        )
        size += len(encode(logged_event)) + 1
        if size > ANSWER_BYTES:
            break
        answer.events.append(logged_event)
    answer.events_left_out = len(logged) - len(answer.events)
    return answer
