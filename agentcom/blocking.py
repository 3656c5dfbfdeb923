"""The client for programs without an event loop: the same, on a loop in a thread."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from agentcom.aio import AsyncClient, AsyncTask

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
    from pathlib import Path
    from typing import Unpack

    from agentcom.answers import (
        Changed,
        Chunk,
        Costs,
        Explanation,
        Fleet,
        Result,
        Schedule,
        TaskInfo,
        WouldRoute,
    )
    from agentcom.fields import AttachmentFields, TaskFields, TaskFilter
    from agentcom.schedules import AsyncSchedules, Missed, Overlap, ScheduleList

__all__ = ["Client", "Task"]

T = TypeVar("T")


class _Loop:
    """An event loop in a thread of its own, which ends with the program."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="agentcom", daemon=True
        )
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it to its end; an interruption here ends it there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def each(self, items: AsyncGenerator[T]) -> Iterator[T]:
        """Yield what an async generator yields."""
        try:
            while True:
                try:
                    item = self.run(anext(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self.run(items.aclose())

    def close(self) -> None:
        """End the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class Task:
    """A task that was submitted. `state` is the last one that was seen."""

    def __init__(self, task: AsyncTask, loop: _Loop) -> None:
        self._task = task
        self._loop = loop

    def __repr__(self) -> str:
        return f"Task({self.task_id!r})"

    @property
    def task_id(self) -> str:
        """Its id."""
        return self._task.task_id

    @property
    def state(self) -> str:
        """Where it stood when it was last asked about, "" before that."""
        return self._task.state

    @property
    def seq(self) -> int:
        """Where in the log its submission stands; 0 where that is not known."""
        return self._task.seq

    @property
    def result(self) -> Result:
        """How it ended; raises NotEnded before `wait` or `as_completed` has seen that."""
        return self._task.result

    @property
    def warnings(self) -> list[str]:
        """What was said of it when it was submitted here."""
        return self._task.warnings

    @property
    def ended(self) -> bool:
        """Whether it was seen to be over: then there is a `result`."""
        return self._task.ended

    def wait(self, timeout: float | None = None) -> Result:
        """Wait for its end, `timeout` seconds at most; raises TimedOut.

        A task that fails is no error: `result.raise_for_state()` makes it one.
        """
        return self._loop.run(self._task.wait(timeout))

    def stream(self) -> Iterator[Chunk]:
        """Yield its output as it comes, from the beginning, until it is over."""
        return self._loop.each(self._task.stream())

    def chunks(self) -> list[Chunk]:
        """Return the output of its present run as far as it has come."""
        return self._loop.run(self._task.chunks())

    def cancel(self, reason: str = "") -> None:
        """Cancel it; nothing happens where it is cancelled already."""
        self._loop.run(self._task.cancel(reason))

    def retry(self, reason: str = "") -> None:
        """Try it anew; its result is then that of the next try."""
        self._loop.run(self._task.retry(reason))

    def refresh(self) -> str:
        """Ask where it stands; return and keep the state."""
        return self._loop.run(self._task.refresh())

    def explain(self) -> Explanation:
        """Say why it went where it went, and what it waits for."""
        return self._loop.run(self._task.explain())


class Schedules:
    """The schedules, as `client.schedules`. Each change returns how it stands then."""

    def __init__(self, schedules: AsyncSchedules, loop: _Loop) -> None:
        self._schedules = schedules
        self._loop = loop

    def add(
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
        work = self._schedules.add(
            name, cron, description, tz=tz, missed=missed, overlap=overlap, **fields
        )
        return self._loop.run(work)

    def change(
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
        work = self._schedules.change(
            name,
            description,
            cron=cron,
            tz=tz,
            missed=missed,
            overlap=overlap,
            **fields,
        )
        return self._loop.run(work)

    def list(self) -> ScheduleList:
        """Return all schedules, by name, each with its next times and last runs."""
        return self._loop.run(self._schedules.list())

    def get(self, name: str) -> Schedule:
        """Return one schedule with its next ten times; raises NotFound."""
        return self._loop.run(self._schedules.get(name))

    def pause(self, name: str, reason: str = "") -> Schedule:
        """Let it fire no more until it is resumed; raises NotFound."""
        return self._loop.run(self._schedules.pause(name, reason))

    def resume(self, name: str) -> Schedule:
        """Let it fire again; what was planned meanwhile is left out. Raises NotFound."""
        return self._loop.run(self._schedules.resume(name))

    def remove(self, name: str) -> None:
        """Take it away; tasks that it has submitted stay. Raises NotFound."""
        self._loop.run(self._schedules.remove(name))

    def run(self, name: str) -> Task:
        """Submit its task now, beside what is planned; raises NotFound."""
        return Task(self._loop.run(self._schedules.run(name)), self._loop)


class Client:
    """Submits tasks, and asks about them; each call returns when it is answered.

    Without arguments it finds the instance of this machine as the command `agentcom` does
    (`data` names another folder). `url` with a `token` is asked over HTTP, `nats` with
    `creds`, a role's key file, over NATS. It may be used from several threads. `schedules` are
    what is planned.
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
        self._client = AsyncClient(
            url=url, token=token, nats=nats, creds=creds, data=data
        )
        self._loop = _Loop()
        self.schedules = Schedules(self._client.schedules, self._loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._loop.run(self._client.close())
        self._loop.close()

    def submit(
        self,
        description: str = "",
        /,
        *,
        files: Iterable[str | Path | AttachmentFields] = (),
        **fields: Unpack[TaskFields],
    ) -> Task:
        """Submit one task; raises Refused saying which field is wrong.

        `files` go with it: names of files here, or what `attach` has returned.
        """
        work = self._client.submit(description, files=files, **fields)
        return self._task(self._loop.run(work))

    def submit_many(
        self, tasks: Iterable[str | TaskFields], *, key: str | None = None
    ) -> list[Task]:
        """Submit many tasks: descriptions, or dictionaries of fields.

        They go in groups of at most 1,000; a group is taken whole or not at all. `key`
        names the submission: said again with the same tasks, it finds them.
        """
        submitted = self._loop.run(self._client.submit_many(tasks, key=key))
        return [self._task(each) for each in submitted]

    def attach(self, file: str | Path | bytes, *, name: str = "") -> AttachmentFields:
        """Have a file kept, for `files` of submit or `attachments` of a task.

        It is text in UTF-8 or a picture, 1 MiB at most. Bytes get a `name`, by which the
        model is told of them. Raises AgentComError where it cannot be read.
        """
        return self._loop.run(self._client.attach(file, name=name))

    def task(self, task_id: str) -> Task:
        """Return the task with this id, or whose id alone begins so; it is not asked yet."""
        return self._task(self._client.task(task_id))

    def as_completed(
        self, tasks: Iterable[Task], timeout: float | None = None
    ) -> Iterator[Task]:
        """Yield the tasks as they end, each with its result; raises TimedOut."""
        named = {task.task_id: task for task in tasks}
        inner = [task._task for task in named.values()]
        for ended in self._loop.each(self._client.as_completed(inner, timeout)):
            yield named[ended.task_id]

    def tasks(self, **chosen: Unpack[TaskFilter]) -> Iterator[TaskInfo]:
        """Yield the tasks that match, the newest first."""
        return self._loop.each(self._client.tasks(**chosen))

    def cancel(
        self,
        *task_ids: str,
        reason: str = "",
        dry_run: bool = False,
        **chosen: Unpack[TaskFilter],
    ) -> Changed:
        """Cancel tasks, by id or by filter; with `dry_run` only count them.

        Of tasks that are named, the first that cannot be cancelled raises Refused.
        """
        return self._loop.run(
            self._client.cancel(*task_ids, reason=reason, dry_run=dry_run, **chosen)
        )

    def retry(
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
        return self._loop.run(
            self._client.retry(*task_ids, reason=reason, dry_run=dry_run, **chosen)
        )

    def costs(
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
        return self._loop.run(
            self._client.costs(
                by,
                label=label,
                since=since,
                until=until,
                stack=stack,
                fallback=fallback,
            )
        )

    def fleet(self) -> Fleet:
        """Say what hosts, models and tiers there are, and how they stand."""
        return self._loop.run(self._client.fleet())

    def route(
        self, description: str = "", /, **fields: Unpack[TaskFields]
    ) -> WouldRoute:
        """Say where a task would go now, without submitting it."""
        return self._loop.run(self._client.route(description, **fields))

    def explain(self, task_id: str) -> Explanation:
        """Say why a task went where it went, and what it waits for."""
        return self._loop.run(self._client.explain(task_id))

    def _task(self, task: AsyncTask) -> Task:
        return Task(task, self._loop)
