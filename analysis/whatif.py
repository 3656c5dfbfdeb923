"""What would have been: recorded decisions, decided again under another policy.

Every decision carries the raw inputs of its candidates, so it can be scored anew, and the
log before it says which models each endpoint had and since when a tier was down. What the
record does not hold is not made up: a place that was no candidate is no candidate here,
what one changed decision would have done to the next is not followed, and dollars of runs
that never happened are estimates. The answer says so.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING, Final

from actors.rules import policy as policies
from analysis.explain import BUILT_IN, policies_of
from analysis.reading import Reading
from analysis.redecide import Judge
from analysis.span import first_from, last_until
from analysis.success import Success
from events import catalogue as c
from projections.answers_whatif import WhatIfAnswer
from projections.timetravel import TimeTravel

if TYPE_CHECKING:
    from events.log import EventLog
    from projections.checkpoints import Checkpoints
    from projections.questions import AskWhatIf

DECISIONS_A_TURN: Final = 50
"""Decisions that are decided again before the event loop gets its turn."""

CAVEATS: Final = (
    "Only recorded candidates are considered: a place that was excluded or not among the "
    "best then is not looked at, even where the other policy might have chosen it.",
    "Each decision is looked at by itself: what one that changed would have done to the "
    "load, and so to the decisions after it, is not followed.",
    "Dollars of runs that would have gone elsewhere are estimates: local runs count $0, "
    "Claude runs what the price list says for the tokens that were used where it ran.",
)


class Redecider:
    """Answers `whatif` from a log."""

    def __init__(
        self, log: EventLog, *, checkpoints: Checkpoints | None = None
    ) -> None:
        self._log = log
        self._checkpoints = checkpoints

    async def __call__(self, question: AskWhatIf) -> WhatIfAnswer:
        """Answer; raises Malformed for a policy or an instant that is none."""
        by_version, version = await policies_of(self._log)
        base = by_version.get(version, by_version[BUILT_IN])
        other = policies.with_changes(base, question.policy)
        with closing(TimeTravel(self._log, checkpoints=self._checkpoints)) as past:
            last = await self._log.last_sequence()
            start = await first_from(past, question.since)
            end = await last_until(past, question.until, last)
            reading = Reading(start, end)
            # What runs cost is known later than where they went.
            world = await past.walk(start, last, reading.see)
            success = Success(world.stats.first_rounds)
        await self._name_models(reading)
        judge = Judge(by_version, other, reading, success)
        for n, decision in enumerate(reading.decisions):
            judge.judge(decision, question.limit)
            if not n % DECISIONS_A_TURN:
                await asyncio.sleep(0)
        return WhatIfAnswer(
            seq=last,
            from_seq=start,
            to_seq=end,
            policy_version=version,
            differences=policies.differences(base, other),
            decisions=len(reading.decisions),
            said=[*CAVEATS, *judge.said()],
            **judge.sums(),
        )

    async def _name_models(self, reading: Reading) -> None:
        """Add the exact models of tasks that were submitted before the span."""
        for decision in reading.decisions:
            task_id = decision.event.task_id
            if task_id not in reading.named_models:
                recorded = await self._log.get(decision.submitted_seq)
                event = recorded.event if recorded is not None else None
                model = event.spec.model if isinstance(event, c.TaskSubmitted) else None
                reading.named_models[task_id] = model or ""
