"""The decision: from a task and its candidates to a route that explains itself.

Pure: everything it needs is an argument, everything it used is in the event, so that
`recheck` can decide it again from the record and must come to the same place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from actors.rules import scoring
from events import catalogue as c

if TYPE_CHECKING:
    from actors.lifecycle import Head
    from actors.rules.policy import Policy, Scoring
    from actors.scheduler.places import Place, Pool

TARGETS: Final[dict[str, c.TargetType]] = {
    "sidecar": "sidecar",
    "claude": "claude",
    "agent": "agent",
    "noop": "noop",
}
COST_TIERS: Final[dict[str, c.CostTier]] = {
    "sidecar": "free",
    "noop": "free",
    "local": "local",
    "claude": "api",
    "agent": "api",
}


class Subject(Struct, frozen=True, kw_only=True):
    """What is being routed, and under which circumstances."""

    task_id: str
    generation: int
    attempt: int
    repo: str | None
    excluded: tuple[str, ...]
    classification_reason: str
    fallback_from: c.Tier | None = None
    fallback_reason: str | None = None
    fallback_code: c.FallbackCode | None = None
    wait: c.Wait | None = None


def route(
    subject: Subject,
    pool: Pool,
    policy: Policy,
    head: Head,
    *,
    epoch: int,
    policy_version: int,
    log_seq: int,
    decided_us: float = 0.0,
) -> tuple[c.TaskRouted, Place] | None:
    """Choose the best place of a pool; None if none is open to this task."""
    candidates = pool.best(subject.task_id, subject.repo, subject.excluded)
    if not candidates:
        return None
    chosen = candidates[0]
    place = pool.place(chosen)
    required = pool.requirement
    counts, named = pool.excluded_for(subject.excluded, policy.recorded_candidates)
    target = TARGETS.get(place.kind) or (
        "openai" if place.endpoint_kind == "openai" else "ollama"
    )
    cost_tier = COST_TIERS[place.kind]
    return (
        c.TaskRouted(
            id=head.id,
            at=head.at,
            by=head.by,
            task_id=subject.task_id,
            epoch=epoch,
            generation=subject.generation,
            attempt=subject.attempt,
            effective_tier=required.tier,
            target_type=target,
            selected_host=chosen.host,
            selected_endpoint=chosen.endpoint,
            selected_model=chosen.model,
            fallback_used=subject.fallback_from is not None,
            fallback_from_tier=subject.fallback_from,
            fallback_reason=subject.fallback_reason,
            fallback_code=subject.fallback_code,
            wait=subject.wait,
            classification_reason=subject.classification_reason,
            candidate_count=len(pool.ranking),
            candidates=candidates,
            excluded=counts,
            excluded_names=named,
            estimated_cost_tier=cost_tier,
            estimated_cost_usd=None if cost_tier == "api" else 0.0,
            policy_version=policy_version,
            log_seq=log_seq,
            decided_us=decided_us,
            simulated=place.simulated,
        ),
        place,
    )


def recheck(routed: c.TaskRouted, numbers: Scoring) -> c.Candidate:
    """Decide a recorded decision again, from its recorded inputs alone.

    Raises ValueError where the event records no candidate.
    """
    if not routed.candidates:
        raise ValueError(f"route {routed.id} records no candidates")
    local = routed.estimated_cost_tier == "local"
    anew = [
        scoring.candidate(scoring.inputs_of(one, local_model=local), numbers)
        for one in routed.candidates
    ]
    return scoring.ranked(routed.task_id, anew)[0]
