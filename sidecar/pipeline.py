"""One run, from assignment to ending: resolve, prepare, stream, finish.

Then the host records the ending (a decision and its event) and reports it (the event
reaches the log, and the journal lets go): `sidecar.host`. Foreign code runs in `stream`
alone; whatever it raises becomes a failure that says so.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, assert_never

import structlog
from msgspec import structs

from events import catalogue as c
from events.errors import AgentComError
from events.races import first
from sidecar.executors.port import Finished, RawResult, Returned, Run, Stop, Stopped
from sidecar.folders import FolderMissing
from sidecar.output import fitting
from sidecar.progress import encodable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from actors.host import outcomes
    from events.commands import Assign
    from sidecar.executors.port import Executor, Outcome
    from sidecar.progress import Progress

logger = structlog.get_logger(__name__)


class Prepare(Protocol):
    """Makes a run's surroundings, and unmakes them when the run is over."""

    def __call__(self, assign: Assign) -> AbstractAsyncContextManager[Run]: ...


class Price(Protocol):
    """Turns raw counts into a result with dollars."""

    def __call__(self, raw: RawResult, assign: Assign) -> c.Result: ...


class Places(Protocol):
    """What is known of endpoints: where they are, and what real requests showed."""

    def resolved(self, assign: Assign) -> Assign:
        """Fill in what the assignment leaves to the host (the endpoint's URL)."""
        ...

    def is_simulated(self, assign: Assign) -> bool: ...

    def showed(self, assign: Assign, outcome: Outcome) -> None: ...


def unprepared(assign: Assign) -> AbstractAsyncContextManager[Run]:
    """Surround a run with nothing: for what needs neither folder nor environment."""
    return nullcontext(Run(assign=assign, cwd=Path(), env={}))


def unpriced(raw: RawResult, assign: Assign) -> c.Result:
    """Copy the counts; dollars only where the program itself named them."""
    del assign
    fields = {
        name: getattr(raw, name)
        for name in c.Result.__struct_fields__
        if hasattr(raw, name)
    }
    return c.Result(**fields, estimated_cost_usd=raw.reported_cost_usd or 0.0)


class Pipeline:
    """The steps of a run, and what they need."""

    def __init__(
        self,
        executors: Mapping[str, Executor],
        prepare: Prepare,
        price: Price,
        places: Places,
    ) -> None:
        self.executors = executors
        self._prepare = prepare
        self._price = price
        self._places = places

    async def run(
        self,
        assign: Assign,
        stop: Stop,
        progress: Progress,
        began: Callable[[str, bool, str], None],
    ) -> outcomes.Outcome[c.Result]:
        """Run it to its end.

        `began(executor, simulated, folder)` is called before `stream`; the folder is ""
        where the work needs none.
        """
        if stop.requested:
            return Stopped()
        # resolve
        executor = self.executors.get(assign.target_type)
        if executor is None:
            return self._fault(assign, f"no executor for {assign.target_type}")
        assign = self._places.resolved(assign)
        # prepare
        outcome: Outcome | None = None
        cwd, changes = "", None
        try:
            async with self._surroundings(assign, stop) as run:
                if run is not None:
                    cwd = str(run.cwd) if run.cwd != Path() else ""
                    simulated = self._places.is_simulated(assign)
                    began(assign.target_type, simulated, cwd)
                    # stream
                    outcome = await self._stream(executor, run, progress, stop)
                    if run.changes is not None and outcome.result is not None:
                        changes = await run.changes()
        except FolderMissing as error:
            progress.error(str(error), error.code)
            missing = c.RunError(error.code, str(error))
            outcome = Finished(RawResult(status="failed", error=missing))
        except (AgentComError, OSError) as error:
            logger.warning("working folder", route=assign.route, problem=str(error))
            progress.error(f"Working folder: {error}", "workspace")
            if outcome is None:
                return Returned(
                    reason="workspace", detail=str(error), exclude=progress.host
                )
        finally:
            progress.close()
        if outcome is None:
            return Stopped()
        if isinstance(outcome, Returned) and outcome.reason == "host_short":
            outcome = structs.replace(outcome, exclude=progress.host)
        self._places.showed(assign, outcome)
        # finish
        ended = self.finish(outcome, assign)
        if ended.result is not None and cwd:
            result = structs.replace(ended.result, cwd=cwd, changes=changes)
            ended = structs.replace(ended, result=fitting(result))
        return ended

    @asynccontextmanager
    async def _surroundings(
        self, assign: Assign, stop: Stop
    ) -> AsyncIterator[Run | None]:
        """Have them made, which may mean to wait for a lock; None if stopped meanwhile."""
        if assign.target_type not in ("sidecar", "claude", "agent"):
            yield Run(assign=assign, cwd=Path(), env={})
            return
        surroundings = self._prepare(assign)
        entering = asyncio.ensure_future(surroundings.__aenter__())
        try:
            await first(entering, stop.wait())
        finally:
            entering.cancel()
        try:
            run = await entering
        except asyncio.CancelledError:
            if not stop.requested:
                raise
            yield None
            return
        try:
            yield run
        except BaseException as error:
            if not await surroundings.__aexit__(
                type(error), error, error.__traceback__
            ):
                raise
        else:
            await surroundings.__aexit__(None, None, None)

    async def _stream(
        self, executor: Executor, run: Run, progress: Progress, stop: Stop
    ) -> Outcome:
        try:
            return await executor.run(run, progress, stop)
        except Exception as error:
            logger.exception("executor fault", route=run.assign.route)
            problem = f"{type(error).__name__}: {error}"
            progress.error(problem, "executor_fault")
            fault = c.RunError("executor_fault", problem)
            return Finished(RawResult(status="failed", error=fault))

    def finish(self, outcome: Outcome, assign: Assign) -> outcomes.Outcome[c.Result]:
        """Turn what an executor ended in into what the host records."""
        match outcome:
            case Finished():
                result = self._priced(outcome.result, assign)
                assert result is not None
                return Finished(result)
            case Returned():
                return Returned(
                    reason=outcome.reason,
                    detail=encodable(outcome.detail)[:2_000],
                    exclude=outcome.exclude,
                    limited_until=outcome.limited_until,
                    result=self._priced(outcome.result, assign),
                )
            case Stopped():
                return Stopped(
                    result=self._priced(outcome.result, assign),
                    descendants_left=outcome.descendants_left,
                )
            case _:
                assert_never(outcome)

    def _priced(self, raw: RawResult | None, assign: Assign) -> c.Result | None:
        if raw is None:
            return None
        result = self._price(raw, assign)
        texts: dict[str, Any] = {
            name: encodable(text)
            for name in ("output", "stderr")
            if not (text := getattr(result, name)).isascii()
        }
        return structs.replace(result, **texts) if texts else result

    def _fault(self, assign: Assign, problem: str) -> Finished[c.Result]:
        fault = c.RunError("executor_fault", problem)
        raw = RawResult(status="failed", error=fault)
        return Finished(self._price(raw, assign))
