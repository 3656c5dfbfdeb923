"""The decision: from a task and its candidates to a route that explains itself.

Pure: everything it needs is an argument, everything it used is in the event, so that
`recheck` can decide it again from the record and must come to the same place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from actors.rules import scoring
from events import catalogue as c

if TYPE_CHECKING:
    from actors.rules.policy import Policy, Scoring
    from actors.scheduler.places import Place, Pool
    from actors.stamp import Stamp

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


class Routable(Struct, frozen=True, kw_only=True):
    """What is being routed, and under which circumstances.

    `barred` are endpoints and hosts that it may not have now, each with why.
    """

    task_id: str
    generation: int
    attempt: int
    repo: str | None
    barred: Mapping[str, c.ExclusionCode]
    classification_reason: str
    fallback_from: c.Tier | None = None
    fallback_reason: str | None = None
    fallback_code: c.FallbackCode | None = None
    wait: c.Wait | None = None


def route(
    task: Routable,
    pool: Pool,
    policy: Policy,
    stamp: Stamp,
    *,
    epoch: int,
    policy_version: int,
    log_seq: int,
) -> tuple[c.TaskRouted, Place] | None:
    """Choose the best place of a pool; None if none is open to this task."""
    candidates = pool.best(task.task_id, task.repo, task.barred)
    if not candidates:
        return None
    chosen = candidates[0]
    place = pool.place(chosen)
    required = pool.requirement
    counts, named = pool.left_out(task.barred, policy.recorded_candidates)
    target = TARGETS.get(place.kind) or (
        "openai" if place.endpoint_kind == "openai" else "ollama"
    )
    cost_tier = COST_TIERS[place.kind]
    return (
        c.TaskRouted(
            id=stamp.id,
            at=stamp.at,
            by=stamp.by,
            task_id=task.task_id,
            epoch=epoch,
            generation=task.generation,
            attempt=task.attempt,
            effective_tier=required.tier,
            target_type=target,
            selected_host=chosen.host,
            selected_endpoint=chosen.endpoint,
            selected_model=chosen.model,
            fallback_used=task.fallback_from is not None,
            fallback_from_tier=task.fallback_from,
            fallback_reason=task.fallback_reason,
            fallback_code=task.fallback_code,
            wait=task.wait,
            classification_reason=task.classification_reason,
            candidate_count=pool.open,
            candidates=candidates,
            excluded=counts,
            excluded_names=named,
            estimated_cost_tier=cost_tier,
            estimated_cost_usd=None if cost_tier == "api" else 0.0,
            policy_version=policy_version,
            log_seq=log_seq,
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
    return scoring.ranked(
        scoring.scored_anew(one, numbers, local_model=local)
        for one in routed.candidates
    )[0]
