"""Why a task went where it went, in sentences; and whether that still comes out so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from actors.rules import policy as policies
from actors.rules import routing
from events import catalogue as c
from events import subjects
from events.errors import Malformed
from events.lifecycle import VERIFICATION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actors.rules.policy import Policy
    from events.log import EventLog

BUILT_IN: Final = 0
"""The version of the policy that is in force before anybody changed it."""

_COSTS: Final[dict[c.CostTier, str]] = {
    "free": "none",
    "local": "none, a model of our own",
    "api": "Claude's, by its price list",
}


def words(routed: c.TaskRouted, submitted: c.Event) -> Iterator[str]:
    """Say a decision in sentences."""
    where = routed.selected_endpoint or routed.selected_host
    on = f" on {routed.selected_host}" if where != routed.selected_host else ""
    model = f", model {routed.selected_model}" if routed.selected_model else ""
    yield (
        f"Routing {routed.generation} (attempt {routed.attempt}) sent the task to "
        f"{where}{on}{model}, as {routed.effective_tier}."
    )
    if isinstance(submitted, c.TaskSubmitted):
        classed = submitted.classification
        explicit, inferred = classed.explicit_tier, classed.inferred.tier
        if explicit not in (None, "unknown", inferred):
            yield (
                f"Its submitter said {explicit}, its wording suggests {inferred}: the "
                "submitter's word counts."
            )
    yield f"Its tier: {routed.classification_reason}."
    if isinstance(submitted, c.TaskSubmitted) and submitted.mode is not None:
        yield f"Its mode: {submitted.mode} ({submitted.mode_reason})."
    if routed.fallback_used:
        yield (
            f"It fell back from {routed.fallback_from_tier}: {routed.fallback_reason}."
        )
    elif routed.wait is not None:
        yield (
            f"It waited {routed.wait.waited_s:.1f} s for {routed.wait.tier}, which came "
            "back in time: a fallback was avoided."
        )
    if routed.candidates:
        yield _against(routed, routed.candidates[0], routed.candidates[1:])
    left_out = sum(routed.excluded.values())
    if left_out:
        reasons = ", ".join(
            f"{n} × {why}" for why, n in sorted(routed.excluded.items())
        )
        yield f"{left_out} could not take it: {reasons}."
    cost = routed.estimated_cost_usd
    amount = "" if cost is None else f", ${cost:.4f}"
    yield (
        f"Expected cost: {_COSTS[routed.estimated_cost_tier]}{amount}. Decided under policy "
        f"{routed.policy_version} from sequence {routed.log_seq} in "
        f"{routed.decided_us:.0f} µs."
    )


def aftermath(routed: c.TaskRouted, history: list[c.Recorded]) -> Iterator[str]:
    """Say where a task goes on whose work there did not pass its verification.

    `history` is what was decided about the task, in order.
    """
    events = [recorded.event for recorded in history]
    behind = events[events.index(routed) + 1 :] if routed in events else []
    given_back = next(
        (
            n
            for n, event in enumerate(behind)
            if isinstance(event, c.TaskRequeued)
            and event.route == routed.id
            and event.reason == VERIFICATION
        ),
        None,
    )
    if given_back is None:
        return
    sentence = f"What {routed.effective_tier} did there has not passed its verification"
    later = behind[given_back + 1 :]
    decided = [event for event in later if not isinstance(event, c.TaskDeferred)]
    if not decided:
        deferred = [event for event in later if isinstance(event, c.TaskDeferred)]
        why = f" Last said about it: {deferred[-1].reason}." if deferred else ""
        yield (
            f"{sentence}: it waits to go on in complex, and nowhere else.{why} "
            f"`agentcom why-waiting {routed.task_id}` says what it waits for."
        )
    elif isinstance(decided[0], c.TaskRouted):
        yield f"{sentence}: routing {decided[0].generation} sent it on."
    else:
        yield f"{sentence}."


def _against(routed: c.TaskRouted, best: c.Candidate, others: list[c.Candidate]) -> str:
    if not others:
        return f"It was the only place that could take it (score {best.score:.3f})."
    second = others[0]
    name = _name(second)
    count = f"best of {routed.candidate_count}"
    if second.score == best.score:
        return (
            f"It was the {count}, with the same score as {name} ({best.score:.3f}): "
            "fewest in flight, then the task's own hash, decided."
        )
    ahead = [
        f"{factor} {getattr(best.factors, factor):.3g} against "
        f"{getattr(second.factors, factor):.3g}"
        for factor in c.Factors.__struct_fields__
        if getattr(best.factors, factor) > getattr(second.factors, factor)
    ]
    return (
        f"It was the {count}: {best.score:.3f} against {second.score:.3f} of {name} "
        f"({', '.join(ahead)})."
    )


def _name(candidate: c.Candidate) -> str:
    if candidate.endpoint:
        return f"{candidate.endpoint} on {candidate.host}"
    return candidate.host


async def policies_of(log: EventLog) -> tuple[dict[int, Policy], int]:
    """Return every policy there was, by its version, and the version in force.

    One that this version of AgentCom cannot read is left out.
    """
    by_version = {BUILT_IN: policies.Policy()}
    version = BUILT_IN
    for recorded in await log.read(subjects.POLICY):
        event = recorded.event
        if not isinstance(event, c.PolicyChanged) or event.version != version + 1:
            continue
        version = event.version
        try:
            by_version[version] = policies.parse(event.policy)
        except Malformed:
            continue
    return by_version, version


class Recheck(Struct, kw_only=True):
    """Whether a decision comes out as recorded, and a sentence that says so."""

    agrees: bool
    said: str


def recheck(routed: c.TaskRouted, policy: Policy | None) -> Recheck:
    """Decide a decision again under the policy of its time, None if that is unreadable."""
    if policy is None:
        finding = f"policy {routed.policy_version} is not to be read by this version"
        return Recheck(agrees=False, said=finding)
    if not routed.candidates:
        return Recheck(agrees=False, said="the decision records no candidates")
    anew, recorded = routing.recheck(routed, policy.scoring), routed.candidates[0]
    place = _name(anew) + (f", {anew.model}" if anew.model else "")
    selected = routed.selected_host, routed.selected_endpoint, routed.selected_model
    is_there = (anew.host, anew.endpoint, anew.model) == selected
    if is_there and (anew.factors, anew.score) == (recorded.factors, recorded.score):
        finding = (
            f"decided again from the recorded inputs under policy "
            f"{routed.policy_version}: {place}, score {anew.score:.6f}, as recorded"
        )
        return Recheck(agrees=True, said=finding)
    return Recheck(
        agrees=False,
        said=f"decided again it is {place} with {anew.score}; recorded are "
        f"{routed.selected_endpoint or routed.selected_host} and {recorded.score}",
    )
