"""One run, from assignment to ending: resolve, prepare, stream, finish.

Then the host records the ending (a decision and its event) and reports it (the event
reaches the log, and the journal lets go): `sidecar.host`. Foreign code runs in `stream`
alone; whatever it raises becomes a failure that says so.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, assert_never

from msgspec import structs

from events import catalogue as c
from events.attachments import AttachmentLost
from events.diagnostics import Diagnostics
from events.errors import AgentComError, LogError, LogUnavailable
from events.lifecycle import REFUSED, UNUSABLE, VERIFICATION
from events.races import first
from sidecar.costs import settle
from sidecar.executors.port import Finished, RawResult, Returned, Run, Stop, Stopped
from sidecar.folders import FolderBusy, FolderMissing
from sidecar.output import fitting
from sidecar.progress import encodable
from sidecar.shown_env import shown_env
from sidecar.task_secrets import SecretNotHere, SecretsFileError
from sidecar.verification import (
    FailedStep,
    Verification,
    first_refused,
    needs_folder,
    round_spent,
    rounds_of,
    together,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from actors.host import outcomes
    from events.attachments import AttachmentStore
    from events.mail import Assign
    from sidecar.endpoints import Endpoints
    from sidecar.executors.port import Executor, Outcome
    from sidecar.progress import Progress
    from sidecar.verification import Verifier

_HOSTS_OWN = ("host_short", "workspace")
"""Reasons of an executor for which it is the host that is excluded."""
HANDS = "hands"
"""Under this name stands who works with a local model's answers."""

NO_FOLDER = Path()
"""Where work is done that needs none."""

logger = Diagnostics(__name__)


class Prepare(Protocol):
    """Makes a run's surroundings, and unmakes them when the run is over."""

    def __call__(self, assign: Assign) -> AbstractAsyncContextManager[Run]: ...


def unprepared(assign: Assign) -> AbstractAsyncContextManager[Run]:
    """Surround a run with nothing: for what needs neither folder nor environment."""
    return nullcontext(Run(assign=assign, cwd=NO_FOLDER, env={}))


class _Rounds:
    """What is known of a run's rounds: those before the last, and how they were found."""

    def __init__(self) -> None:
        self.earlier: list[c.Result] = []
        self.verified: bool | None = None

    def ended(
        self, outcome: outcomes.Outcome[c.Result], assign: Assign
    ) -> outcomes.Outcome[c.Result]:
        """Return how the run ended, over all rounds."""
        last = outcome.result
        if last is None and self.earlier:
            # Nothing came of the last round, and the earlier ones were paid for.
            last, earlier = self.earlier[-1], self.earlier[:-1]
        else:
            earlier = self.earlier
        if last is None:
            return outcome
        result = structs.replace(together(earlier, last), verified=self.verified)
        code = result.error.code if result.error is not None else ""
        if isinstance(outcome, Finished) and code == VERIFICATION and assign.escalates:
            assert result.error is not None
            detail = result.error.message
            return Returned(reason=VERIFICATION, detail=detail, result=result)
        return structs.replace(outcome, result=result)


def _ended_in_between(verdict: Outcome, work: RawResult) -> Outcome:
    """Return the outcome of a run whose verification was not brought to its end."""
    error = c.RunError("stopped", "the verification was not brought to its end")
    result = structs.replace(work, status="failed", error=error)
    return structs.replace(verdict, result=result)


def _for_another(outcome: Outcome, assign: Assign, host: str) -> Outcome:
    """Give back what this host may not do, or cannot: another one may. The last one fails it."""
    if not isinstance(outcome, Finished) or assign.last_resort:
        return outcome
    result = outcome.result
    if result.error is None:
        return outcome
    if result.error.code == REFUSED:
        return Returned(reason=REFUSED, detail=result.error.message, exclude=host)
    if not (outcome.unusable and assign.others):
        return outcome
    return Returned(
        reason=UNUSABLE,
        detail=result.error.message,
        exclude=assign.endpoint or host,
        unusable=True,
        # Where nothing was done there is only the refusal, which is said already.
        result=result if result.tokens_out or result.reported_cost_usd else None,
    )


class Pipeline:
    """The steps of a run, and what they need."""

    def __init__(
        self,
        executors: Mapping[str, Executor],
        prepare: Prepare,
        endpoints: Endpoints,
        verifier: Verifier | None = None,
        attachments: AttachmentStore | None = None,
    ) -> None:
        """`verifier` runs verification steps; without one a task with steps goes back."""
        self.executors = executors
        self._prepare = prepare
        self._endpoints = endpoints
        self._verifier = verifier
        self._attachments = attachments

    async def run(
        self,
        assign: Assign,
        stop: Stop,
        progress: Progress,
        began: Callable[[str, bool, str, dict[str, str]], None],
    ) -> outcomes.Outcome[c.Result]:
        """Run it to its end.

        `began(executor, simulated, folder, env)` is called before `stream`; the folder is
        "" where the work needs none, `env` what may be shown of a command's environment.
        """
        if stop.requested:
            return Stopped()
        # resolve
        target = HANDS if assign.by_hands else assign.target_type
        executor = self.executors.get(target)
        if executor is None:
            fault = c.RunError("executor_fault", f"no executor for {target}")
            failed = RawResult(status="failed", error=fault)
            return self.finish(Finished(failed), assign)
        assign = self._endpoints.resolved(assign)
        if refused := first_refused(self._verifier, assign):
            progress.error(refused, REFUSED)
            progress.close()
            failed = RawResult(status="failed", error=c.RunError(REFUSED, refused))
            return self.finish(
                _for_another(Finished(failed), assign, progress.host), assign
            )
        # prepare
        outcome: Outcome | None = None
        rounds = _Rounds()
        cwd, changes = "", None
        try:
            files = await self._files(assign)
            async with self._surroundings(assign, stop) as run:
                if run is not None:
                    run = structs.replace(run, files=files)
                    cwd = "" if run.cwd is NO_FOLDER else str(run.cwd)
                    simulated = self._endpoints.is_simulated(assign)
                    program = "claude" if assign.by_hands else assign.target_type
                    is_command = target == "sidecar"
                    shell = assign.spec.shell
                    shown = shown_env(run.env, shell) if is_command else {}
                    began(program, simulated, cwd, shown)
                    # stream
                    outcome = await self._work(executor, run, progress, stop, rounds)
                    if run.changes is not None and outcome.result is not None:
                        changes = await run.changes()
        except (FolderMissing, AttachmentLost) as error:
            progress.error(str(error), error.code)
            missing = c.RunError(error.code, str(error))
            outcome = Finished(RawResult(status="failed", error=missing))
        except (SecretNotHere, SecretsFileError) as error:
            progress.error(str(error), error.code)
            return Returned(reason=error.code, detail=str(error), exclude=progress.host)
        except LogError as error:
            progress.error(f"Attachments: {error}", error.code)
            if outcome is None:
                return Returned(
                    reason="attachment", detail=str(error), exclude=progress.host
                )
        except (AgentComError, OSError) as error:
            logger.warning("working folder", route=assign.route, problem=str(error))
            code = error.code if isinstance(error, FolderBusy) else "workspace"
            progress.error(f"Working folder: {error}", code)
            if outcome is None:
                return Returned(reason=code, detail=str(error), exclude=progress.host)
        finally:
            progress.close()
        if outcome is None:
            return Stopped()
        outcome = _for_another(outcome, assign, progress.host)
        if isinstance(outcome, Returned) and outcome.reason in _HOSTS_OWN:
            outcome = structs.replace(outcome, exclude=progress.host)
        self._endpoints.showed(assign, outcome)
        # finish
        ended = rounds.ended(self.finish(outcome, assign), assign)
        if ended.result is not None and cwd:
            result = structs.replace(ended.result, cwd=cwd, changes=changes)
            ended = structs.replace(ended, result=fitting(result))
        return ended

    async def _files(self, assign: Assign) -> dict[str, bytes]:
        """Fetch what goes with a task, by digest; raises AttachmentLost, LogError."""
        digests = {each.digest for each in assign.spec.attachments}
        if not digests:
            return {}
        if self._attachments is None:
            raise LogUnavailable("fetch attachments", "this host has no store of them")
        return {digest: await self._attachments.read(digest) for digest in digests}

    @asynccontextmanager
    async def _surroundings(
        self, assign: Assign, stop: Stop
    ) -> AsyncIterator[Run | None]:
        """Have them made, which may mean to wait for a lock; None if stopped meanwhile."""
        if not needs_folder(assign):
            yield Run(assign=assign, cwd=NO_FOLDER, env={})
            return
        async with AsyncExitStack() as stack:
            entering = asyncio.ensure_future(
                stack.enter_async_context(self._prepare(assign))
            )
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
            yield run

    async def _work(
        self,
        executor: Executor,
        run: Run,
        progress: Progress,
        stop: Stop,
        rounds: _Rounds,
    ) -> Outcome:
        """Stream, and verify; what fails its verification is worked on, a few times."""
        if self._verifier is None or not run.assign.spec.verification_steps:
            return await self._stream(executor, run, progress, stop)
        verification = Verification(self._verifier, run, progress, stop)
        most = rounds_of(run.assign)
        for number in range(1, most + 1):
            outcome = await self._stream(executor, run, progress, stop)
            if not isinstance(outcome, Finished):
                return outcome
            work = outcome.result
            if work.status != "success":
                return outcome
            priced = self._priced(work, run.assign)
            assert priced is not None
            try:
                found = await verification.verify(number, work, round_spent(priced))
            except (AgentComError, OSError) as wrong:
                logger.warning("verification", route=run.assign.route, why=str(wrong))
                progress.error(f"Verification: {wrong}", "workspace")
                found = Returned(
                    reason="workspace", detail=str(wrong), exclude=progress.host
                )
            if found is None:
                rounds.verified = True
                return outcome
            if not isinstance(found, FailedStep):
                return _ended_in_between(found, work)
            rounds.verified = False
            paid_out = number < most and verification.is_paid_out(work)
            if number == most or paid_out:
                error = found.error(number, paid_out=paid_out)
                progress.error(
                    error.message[:1].upper() + error.message[1:], error.code
                )
                failed = structs.replace(work, status="failed", error=error)
                return Finished(failed)
            rounds.earlier.append(priced)
            run = verification.again(number, found, work)
        raise AssertionError("unreachable")

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
        result = settle(raw, assign)
        texts: dict[str, Any] = {
            name: encodable(text)
            for name in ("output", "stderr")
            if not (text := getattr(result, name)).isascii()
        }
        return structs.replace(result, **texts) if texts else result
