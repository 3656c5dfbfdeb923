"""Verification: whether the work that a run did passes the task's own steps.

After work that ended well the steps run in order in the working folder, each as a process
family of its own. The first that does not end with exit code 0, in time, fails the round;
who can take a next turn is told of it, and works on. `sidecar.pipeline` drives this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from msgspec.structs import replace

from events import catalogue as c
from events.errors import shown
from events.lifecycle import VERIFICATION
from sidecar import costs
from sidecar.executors.port import Finished, Stopped, Turn
from sidecar.folders import put
from sidecar.output import counted, fitting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from events.mail import Assign
    from sidecar.executors.port import Emit, Outcome, RawResult, Run, Stop
    from sidecar.progress import Progress
    from sidecar.task_user import TaskUser

ANSWER_FILE: Final = "answer.md"
"""What a chat's answer is saved as, in its task's own folder, for its steps to look at."""

_ANSWERING: Final = ("ollama", "openai", "noop")
"""Targets whose work is an answer, not what they leave in a folder."""

_TAKES_TURNS: Final = ("ollama", "openai", "claude")
_BASES: Final = (
    "none",
    "local",
    "local_estimate",
    "simulated",
    "reported",
    "reported_unpriced",
    "estimated",
    "unknown",
)
"""What dollars rest on, the surest first: a sum is as sure as its least sure part."""


class Verifier(Protocol):
    """Runs verification steps as commands."""

    def step_refusal(self, command: str) -> str | None:
        """Why this host does not run it, None where it does."""
        ...

    async def save_answer(self, run: Run, answer: str) -> None:
        """Put a chat's answer into the run's folder; raises OSError."""
        ...

    async def step(self, run: Run, command: str, emit: Emit, stop: Stop) -> Outcome:
        """Run it to its end in the run's folder: `Finished` is its own end, good or bad."""
        ...


def answers(assign: Assign) -> bool:
    """Whether a run is an answer, with nothing on this host changed by it."""
    return assign.target_type in _ANSWERING and not assign.by_hands


def write_answer(folder: Path, answer: str, user: TaskUser | None) -> None:
    """Write the answer's file anew; raises OSError."""
    text = answer if not answer or answer.endswith("\n") else answer + "\n"
    put(folder / ANSWER_FILE, text.encode("utf-8", "replace"), user)


def needs_folder(assign: Assign) -> bool:
    """Whether a run needs a folder: a program's does, and any with verification steps."""
    return not answers(assign) or bool(assign.spec.verification_steps)


def rounds_of(assign: Assign) -> int:
    """Return how many rounds of work and verification a run may take."""
    if assign.target_type not in _TAKES_TURNS:
        return 1
    return max(1, assign.spec.verify_rounds or assign.limits.verify_rounds)


def first_refused(verifier: Verifier | None, assign: Assign) -> str | None:
    """Say which step this host will not run and why, None where it runs them all."""
    for number, command in enumerate(assign.spec.verification_steps, 1):
        why = (
            "it runs no commands"
            if verifier is None
            else verifier.step_refusal(command)
        )
        if why is not None:
            return f"verification step {number} is not run on this host: {why}"
    return None


class Verification:
    """The rounds of one run: what was found in each, and what the work used."""

    def __init__(
        self, verifier: Verifier, run: Run, progress: Progress, stop: Stop
    ) -> None:
        self._verifier = verifier
        self._run = run
        self._progress = progress
        self._stop = stop
        self._steps = run.assign.spec.verification_steps
        self._rounds = rounds_of(run.assign)

    async def verify(
        self, number: int, work: RawResult, spent: c.RoundSpent
    ) -> FailedStep | Outcome | None:
        """Run the steps of round `number` on `work`; None where all of them pass.

        An outcome is one of a step that did not come to its own end: stopped, or the host
        was short.
        """
        run = self._run
        if answers(run.assign):
            await self._verifier.save_answer(run, work.output)
        for place, command in enumerate(self._steps, 1):
            if self._stop.requested:
                return Stopped()
            # What the work used is said before the first step: a kill meanwhile loses none.
            self._progress.section(
                f"Verify {place}/{len(self._steps)}: {command}",
                round=number if place == 1 else 0,
                spent=spent if place == 1 else None,
            )
            ended = await self._verifier.step(run, command, self._progress, self._stop)
            if not isinstance(ended, Finished):
                return ended
            result = ended.result
            output = self._progress.last_output()
            passed = result.status == "success" and result.error is None
            how = "passed" if passed else f"failed: {_how(result)}"
            self._progress.verified(
                f"Verify {place}/{len(self._steps)} {how}",
                round=number,
                rounds=self._rounds,
                step=place,
                of=len(self._steps),
                command=command,
                passed=passed,
                exit_code=result.exit_code,
                signal=result.signal,
                code="" if result.error is None else result.error.code,
                output=output,
                execution_ms=result.execution_ms,
                spent=spent if place == 1 else None,
            )
            if not passed:
                return FailedStep(place, command, _how(result), output)
        return None

    def again(self, number: int, failure: FailedStep, work: RawResult) -> Run:
        """Return the run of the round after `number`, whose verification failed."""
        self._progress.section(
            f"Round {number + 1} of {self._rounds}: told what the verification said"
        )
        by_itself = answers(self._run.assign)
        turn = Turn(work.output, failure.feedback(answers=by_itself))
        assign = self._run.assign
        if assign.target_type == "claude" or assign.by_hands:
            assign = replace(
                assign,
                resume_session=work.session_id,
                max_budget_usd=_left(assign.max_budget_usd, work.reported_cost_usd),
            )
        self._run = replace(
            self._run,
            assign=assign,
            turns=(*self._run.turns, turn),
            previous_cost_usd=work.session_cost_usd,
        )
        return self._run

    def is_paid_out(self, work: RawResult) -> bool:
        """Whether nothing is left of the run's budget for another round."""
        most = self._run.assign.max_budget_usd
        return most is not None and (work.reported_cost_usd or 0.0) >= most


class FailedStep(NamedTuple):
    """A step that did not pass: which, how it ended, and what it printed last."""

    step: int
    command: str
    how: str
    output: str

    def feedback(self, *, answers: bool) -> str:
        """What is said to whoever did the work."""
        where = (
            f"Your answer was saved as {ANSWER_FILE} and checked with"
            if answers
            else "The work was checked in the working folder with"
        )
        output = self.output.strip("\n") or "(it printed nothing)"
        wish = (
            "Answer again, in full, so that the command succeeds."
            if answers
            else "Mend the work so that the command succeeds. Do not change what the "
            "command checks merely to make it pass."
        )
        return (
            f"{where} this command:\n\n    {self.command}\n\n"
            f"It did not pass: {self.how}. The last of its output:\n\n{output}\n\n{wish}"
        )

    def error(self, rounds: int, *, paid_out: bool = False) -> c.RunError:
        """What the run failed of; `paid_out`: its budget had no room for another round."""
        times = "1 round" if rounds == 1 else f"{rounds} rounds"
        message = (
            f"verification failed after {times}: step {self.step}, "
            f"{shown(self.command[:200])}: {self.how}"
        )
        if paid_out:
            message += "; nothing is left of its budget for another round"
        return c.RunError(VERIFICATION, message)


def _left(budget_usd: float | None, spent_usd: float | None) -> float | None:
    return None if budget_usd is None else budget_usd - (spent_usd or 0.0)


def _how(result: RawResult) -> str:
    return result.error.message if result.error is not None else "it did not succeed"


def round_spent(result: c.Result) -> c.RoundSpent:
    """Return what of a round's result is counted."""
    return c.RoundSpent(
        **{name: getattr(result, name) for name in c.RoundSpent.__struct_fields__}
    )


def together(earlier: Sequence[c.Result], last: c.Result) -> c.Result:
    """Return `last` with the tokens, dollars and milliseconds of the rounds before it.

    What is unknown of one round is unknown of the sum.
    """
    if not earlier:
        return last
    rounds = [*earlier, last]
    paid = [each for each in rounds if each.cost_basis != "none"] or [last]
    equivalents = [
        usd for each in rounds if (usd := each.equivalent_claude_cost_usd) is not None
    ]
    models = [each for each in rounds if each.model_used != "none"] or [last]
    return fitting(
        replace(
            last,
            model_used=models[-1].model_used,
            tokens_in=_sum([each.tokens_in for each in rounds]),
            tokens_out=_sum([each.tokens_out for each in rounds]),
            cache_read_tokens=counted(sum(each.cache_read_tokens for each in rounds))
            or 0,
            cache_write_tokens=counted(sum(each.cache_write_tokens for each in rounds))
            or 0,
            estimated_cost_usd=costs.summed(each.estimated_cost_usd for each in rounds),
            equivalent_claude_cost_usd=costs.summed(equivalents)
            if equivalents
            else None,
            equivalent_model=next(
                (e.equivalent_model for e in reversed(rounds) if e.equivalent_model),
                None,
            ),
            cost_basis=max((each.cost_basis for each in paid), key=_certainty),
            price_list=next(
                (e.price_list for e in reversed(rounds) if e.price_list), None
            ),
            execution_ms=sum(each.execution_ms for each in rounds),
            simulated=any(each.simulated for each in rounds),
        )
    )


def _certainty(basis: str) -> int:
    return _BASES.index(basis) if basis in _BASES else len(_BASES)


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return counted(sum(known)) if len(known) == len(counts) else None
