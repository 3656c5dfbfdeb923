"""The client for programs that have an event loop.

Everything may be said twice: a submission carries a key, which is made where none was
given, so that a question whose answer got lost is asked again and changes nothing. While
nobody answers, each call tries for half a minute before it raises Unreachable.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import Counter
from contextlib import aclosing
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from agentcom.answers import (
    FINAL,
    BatchSubmitted,
    Changed,
    Costs,
    Done,
    EndedAnswer,
    Explanation,
    Fleet,
    OutputAnswer,
    Submitted,
    TaskAnswer,
    TasksAnswer,
    WhyAnswer,
    WouldRoute,
    result_of,
)
from agentcom.errors import AgentComError, NotEnded, TimedOut
from agentcom.fields import body_of
from agentcom.schedules import AsyncSchedules
from agentcom.times import instant_of
from agentcom.transport import read

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from pathlib import Path
    from typing import Unpack

    from agentcom.answers import Chunk, Result, TaskInfo
    from agentcom.fields import AttachmentFields, TaskFields, TaskFilter
    from agentcom.transport import Transport

__all__ = ["AsyncClient", "AsyncTask"]

_AT_ONCE: Final = 1_000
"""Tasks in one batch, and in one question."""
_BATCH_BYTES: Final = 800_000
_LOOK_S: Final = 30.0
"""How long one question waits; then it is asked again."""
_RESULTS_AT_ONCE: Final = 16
_PAGE: Final = 500
_FULL_ID: Final = 26
"""Characters of an id; a shorter one may be the beginning of one."""


class AsyncTask:
    """A task that was submitted. `state` is the last one that was seen."""

    def __init__(self, client: AsyncClient, task_id: str, seq: int = 0) -> None:
        self.task_id = task_id
        self.state = ""
        self.warnings: list[str] = []
        self._client = client
        self._seq = seq
        self._result: Result | None = None

    def __repr__(self) -> str:
        return f"AsyncTask({self.task_id!r})"

    @property
    def seq(self) -> int:
        """Where in the log its submission stands; 0 where that is not known."""
        return self._seq

    @property
    def result(self) -> Result:
        """How it ended; raises NotEnded before `wait` or `as_completed` has seen that."""
        if self._result is None:
            raise NotEnded(self.task_id)
        return self._result

    @property
    def ended(self) -> bool:
        """Whether it was seen to be over: then there is a `result`."""
        return self._result is not None

    async def wait(self, timeout: float | None = None) -> Result:
        """Wait for its end, `timeout` seconds at most; raises TimedOut.

        A task that fails is no error: `result.raise_for_state()` makes it one.
        """
        if self._result is None:
            async with aclosing(self._client.as_completed([self], timeout)) as ended:
                async for _ in ended:
                    pass
        return self.result

    async def stream(self) -> AsyncGenerator[Chunk]:
        """Yield its output as it comes, from the beginning, until it is over."""
        await self._lengthen()
        if self._seq:
            # Whoever answers may have come anew, and not read on to its submission yet.
            await self._client._ask_task(self.task_id, self._seq)
        async with aclosing(self._client._transport.output(self.task_id)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def chunks(self) -> list[Chunk]:
        """Return the output of its present run as far as it has come."""
        await self._lengthen()
        routes = (await self._client._ask_task(self.task_id, self._seq)).routes
        chunks: list[Chunk] = []
        while routes:
            question = {"task_id": self.task_id, "route": routes[-1].route}
            after = {"after_n": chunks[-1].n} if chunks else {}
            raw = await self._client._transport.query("output", {**question, **after})
            answer = read(raw, OutputAnswer)
            chunks += answer.chunks
            if not (answer.chunks and answer.left_out):
                break
        return chunks

    async def cancel(self, reason: str = "") -> None:
        """Cancel it; nothing happens where it is cancelled already."""
        await self._client.cancel(self.task_id, reason=reason)

    async def retry(self, reason: str = "") -> None:
        """Try it anew; its result is then that of the next try."""
        await self._client.retry(self.task_id, reason=reason)
        self._result, self.state = None, ""

    async def refresh(self) -> str:
        """Ask where it stands; return and keep the state."""
        answer = await self._client._ask_task(self.task_id, self._seq)
        self._take(answer)
        return self.state

    async def explain(self) -> Explanation:
        """Say why it went where it went, and what it waits for."""
        return await self._client.explain(self.task_id)

    async def _lengthen(self) -> None:
        """Learn the whole id, where only its beginning is known."""
        self.task_id = await self._client._full_id(self.task_id)

    def _take(self, answer: TaskAnswer) -> None:
        self.state = answer.task.state
        self._result = result_of(answer) if self.state in FINAL else None


class AsyncClient:
    """Submits tasks, and asks about them.

    Without arguments it finds the instance of this machine as the command `agentcom` does
    (`data` names another folder). `url` with a `token` is asked over HTTP, `nats` with
    `creds`, a role's key file, over NATS. `schedules` are what is planned.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        token: str | None = None,
        nats: str | None = None,
        creds: str | Path | None = None,
        data: str | Path | None = None,
    ) -> None:
        self._transport: Transport
        if url is not None:
            if nats is not None or creds is not None or data is not None:
                raise AgentComError(
                    "url: expected it alone, or with token; nats, creds and data name "
                    "another way to an instance",
                    code="malformed",
                    place="url",
                )
            from agentcom.over_http import OverHttp

            self._transport = OverHttp(url, token)
        else:
            if token is not None:
                raise AgentComError(
                    "token: it goes with url=; over NATS creds= is a key's file",
                    code="malformed",
                    place="token",
                )
            from agentcom.finding import broker
            from agentcom.over_nats import OverNats

            self._transport = OverNats(broker(nats, creds, data))
        self.schedules = AsyncSchedules(
            self._transport, lambda task_id, seq: AsyncTask(self, task_id, seq)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connection."""
        await self._transport.close()

    # -- submitting --------------------------------------------------------------------

    async def submit(
        self,
        description: str = "",
        /,
        *,
        files: Iterable[str | Path | AttachmentFields] = (),
        **fields: Unpack[TaskFields],
    ) -> AsyncTask:
        """Submit one task; raises Refused saying which field is wrong.

        `files` go with it: names of files here, or what `attach` has returned.
        """
        body = body_of(description, fields)
        if attached := [
            await self.attach(each) if isinstance(each, str | PurePath) else each
            for each in files
        ]:
            body["attachments"] = [*body.get("attachments", ()), *attached]
        body.setdefault("idempotency_key", secrets.token_hex(16))
        raw = await self._transport.command("task.submit", body)
        answer = read(raw, Submitted)
        task = AsyncTask(self, answer.task_id, answer.seq)
        task.warnings = answer.warnings
        return task

    async def submit_many(
        self, tasks: Iterable[str | TaskFields], *, key: str | None = None
    ) -> list[AsyncTask]:
        """Submit many tasks: descriptions, or dictionaries of fields.

        They go in groups of at most 1,000; a group is taken whole or not at all. `key`
        names the submission: said again with the same tasks, it finds them.
        """
        key = key or secrets.token_hex(16)
        bodies = [
            body_of(each, {}) if isinstance(each, str) else body_of("", each)
            for each in tasks
        ]
        submitted: list[AsyncTask] = []
        for n, group in enumerate(_groups(bodies)):
            name = hashlib.sha256(f"{key}\0{n}".encode()).hexdigest()
            raw = await self._transport.command(
                "task.batch", {"id": name, "tasks": group}
            )
            answer = read(raw, BatchSubmitted)
            submitted += [AsyncTask(self, each, answer.seq) for each in answer.task_ids]
        return submitted

    async def attach(
        self, file: str | Path | bytes, *, name: str = ""
    ) -> AttachmentFields:
        """Have a file kept, for `files` of submit or `attachments` of a task.

        It is text in UTF-8 or a picture, 1 MiB at most. Bytes get a `name`, by which the
        model is told of them. Raises AgentComError where it cannot be read.
        """
        from agentcom.files import kept

        return await kept(self._transport, file, name)

    def task(self, task_id: str) -> AsyncTask:
        """Return the task with this id, or whose id alone begins so; it is not asked yet."""
        return AsyncTask(self, task_id)

    # -- waiting -----------------------------------------------------------------------

    async def as_completed(
        self, tasks: Iterable[AsyncTask], timeout: float | None = None
    ) -> AsyncGenerator[AsyncTask]:
        """Yield the tasks as they end, each with its result; raises TimedOut."""
        listed = list(tasks)
        for task in listed:
            await task._lengthen()
        waiting = {task.task_id: task for task in listed}
        ready: asyncio.Queue[AsyncTask | Exception] = asyncio.Queue()
        limit = asyncio.Semaphore(_RESULTS_AT_ONCE)
        ids = list(waiting)
        groups = [ids[n : n + _AT_ONCE] for n in range(0, len(ids), _AT_ONCE)]
        work = [
            asyncio.create_task(
                self._watch({i: waiting[i] for i in group}, ready, limit)
            )
            for group in groups
        ]
        loop = asyncio.get_running_loop()
        until = None if timeout is None else loop.time() + timeout
        try:
            while waiting:
                left = None if until is None else max(until - loop.time(), 0)
                try:
                    ended = await asyncio.wait_for(ready.get(), left)
                except TimeoutError:
                    raise TimedOut(
                        f"{len(waiting)} of {len(ids)} tasks have not ended in "
                        f"{timeout:g} s"
                    ) from None
                if isinstance(ended, Exception):
                    raise ended
                del waiting[ended.task_id]
                yield ended
        finally:
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _watch(
        self,
        waiting: dict[str, AsyncTask],
        ready: asyncio.Queue[AsyncTask | Exception],
        limit: asyncio.Semaphore,
    ) -> None:
        """Put the tasks into `ready` as they end."""
        seq = max(task.seq for task in waiting.values())
        try:
            async with asyncio.TaskGroup() as group:
                while waiting:
                    question = {"task_ids": list(waiting), "wait": _LOOK_S}
                    if seq:
                        question["wait_seq"] = seq
                    raw = await self._transport.query("ended", question)
                    for ended in read(raw, EndedAnswer).ended:
                        task = waiting.pop(ended.task_id)
                        group.create_task(self._fetch(task, ready, limit))
        except* AgentComError as errors:
            ready.put_nowait(errors.exceptions[0])

    async def _fetch(
        self,
        task: AsyncTask,
        ready: asyncio.Queue[AsyncTask | Exception],
        limit: asyncio.Semaphore,
    ) -> None:
        async with limit:
            task._take(await self._ask_task(task.task_id))
        ready.put_nowait(task)

    async def _full_id(self, task_id: str) -> str:
        if len(task_id) >= _FULL_ID:
            return task_id
        return (await self._ask_task(task_id)).task.task_id

    async def _ask_task(self, task_id: str, seq: int = 0) -> TaskAnswer:
        question: dict[str, Any] = {"task_id": task_id}
        if seq:
            question["wait_seq"] = seq
        return read(await self._transport.query("task", question), TaskAnswer)

    # -- looking and steering ----------------------------------------------------------

    async def tasks(self, **chosen: Unpack[TaskFilter]) -> AsyncGenerator[TaskInfo]:
        """Yield the tasks that match, the newest first."""
        question = _question(chosen)
        question["limit"] = _PAGE
        while True:
            answer = read(await self._transport.query("tasks", question), TasksAnswer)
            for task in answer.tasks:
                yield task
            if answer.next is None:
                return
            question["cursor"] = answer.next

    async def cancel(
        self,
        *task_ids: str,
        reason: str = "",
        dry_run: bool = False,
        **chosen: Unpack[TaskFilter],
    ) -> Changed:
        """Cancel tasks, by id or by filter; with `dry_run` only count them.

        Of tasks that are named, the first that cannot be cancelled raises Refused.
        """
        return await self._steer("cancel", task_ids, reason, dry_run, chosen)

    async def retry(
        self,
        *task_ids: str,
        reason: str = "",
        dry_run: bool = False,
        **chosen: Unpack[TaskFilter],
    ) -> Changed:
        """Try ended tasks anew, by id or by filter; with `dry_run` only count them.

        A filter without a state means those that failed, are dead or have expired. Of
        tasks that are named, the first that cannot be tried anew raises Refused.
        """
        return await self._steer("retry", task_ids, reason, dry_run, chosen)

    async def _steer(
        self,
        action: str,
        task_ids: tuple[str, ...],
        reason: str,
        dry_run: bool,
        chosen: TaskFilter,
    ) -> Changed:
        if bool(task_ids) == bool(chosen):
            raise AgentComError(
                "name tasks by their ids, or choose them by a filter such as "
                "state='waiting'",
                code="malformed",
            )
        task_ids = tuple([await self._full_id(each) for each in task_ids])
        if task_ids and not dry_run:
            return await self._steer_each(action, task_ids, reason)
        meant: dict[str, Any] = {"ids": list(task_ids)}
        if chosen:
            meant = {"filter": _question(chosen)}
            meant["filter"].pop("sort", None)
        body = {
            "id": secrets.token_hex(16),
            "action": action,
            "reason": reason,
            "dry_run": dry_run,
            **meant,
        }
        while True:
            raw = await self._transport.command("task.bulk", body)
            changed = read(raw, Changed)
            if changed.finished:
                return changed

    async def _steer_each(
        self, action: str, task_ids: tuple[str, ...], reason: str
    ) -> Changed:
        outcomes: Counter[str] = Counter()
        for task_id in task_ids:
            # Said again after a break it is the same command.
            body = {"task_id": task_id, "reason": reason, "id": secrets.token_hex(16)}
            done = read(await self._transport.command(f"task.{action}", body), Done)
            outcomes[done.state if done.seq else "unchanged"] += 1
        unchanged = outcomes["unchanged"]
        return Changed(
            matched=len(task_ids),
            done=len(task_ids) - unchanged,
            unchanged=unchanged,
            outcomes={outcome: n for outcome, n in outcomes.items() if n},
            ids=list(task_ids),
        )

    async def costs(
        self,
        by: str = "model",
        *,
        label: str | list[str] | None = None,
        since: str = "",
        until: str = "",
        stack: str = "",
        fallback: bool | None = None,
    ) -> Costs:
        """Sum up what was spent, by model, tier, repo, host, day, `label:team`, ...

        `label` narrows it to tasks with these labels; `since` and `until` are RFC 3339
        instants, `7d`, `today`, `yesterday` or a day here, taken by the hour; `stack` takes
        each line apart again.
        """
        parameters: dict[str, Any] = {
            "by": by,
            "label": [label] if isinstance(label, str) else label,
            "since": since,
            "until": until,
            "stack": stack,
            "fallback": fallback,
        }
        question = {
            name: value for name, value in parameters.items() if value not in (None, "")
        }
        return read(await self._transport.query("costs", _timed(question)), Costs)

    async def fleet(self) -> Fleet:
        """Say what hosts, models and tiers there are, and how they stand."""
        return read(await self._transport.query("hosts", {}), Fleet)

    async def route(
        self, description: str = "", /, **fields: Unpack[TaskFields]
    ) -> WouldRoute:
        """Say where a task would go now, without submitting it."""
        body = body_of(description, fields)
        return read(await self._transport.command("task.route", body), WouldRoute)

    async def explain(self, task_id: str) -> Explanation:
        """Say why a task went where it went, and what it waits for."""
        answer = await self._ask_task(task_id)
        because: list[str] = []
        if answer.task.state == "waiting":
            question = {"task_id": answer.task.task_id}
            raw = await self._transport.query("why", question)
            because = read(raw, WhyAnswer).because
        return Explanation(
            task_id=answer.task.task_id,
            state=answer.task.state,
            classification=answer.task.classification,
            route=answer.route,
            routes=answer.routes,
            because=because,
        )


def _groups(bodies: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Split tasks into batches that one message can hold."""
    groups: list[list[dict[str, Any]]] = []
    size = 0
    for body in bodies:
        length = len(msgspec.json.encode(body))
        if not groups or size + length > _BATCH_BYTES or len(groups[-1]) == _AT_ONCE:
            groups.append([])
            size = 0
        groups[-1].append(body)
        size += length
    return groups


def _question(chosen: TaskFilter) -> dict[str, Any]:
    question: dict[str, Any] = dict(chosen)
    for name in ("state", "label"):
        if isinstance(question.get(name), str):
            question[name] = [question[name]]
    return _timed(question)


def _timed(question: dict[str, Any]) -> dict[str, Any]:
    """Turn its points of time, as a person says them, into instants."""
    now = datetime.now().astimezone()
    for name in ("since", "until"):
        if question.get(name):
            question[name] = instant_of(question[name], now)
    return question
