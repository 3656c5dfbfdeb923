"""What `whatif` answers: recorded decisions, decided again under another policy."""

from __future__ import annotations

from msgspec import Struct

from projections.answers import QueryAnswer


class Changed(Struct, kw_only=True):
    """A decision that would have been another one.

    `then` is where it would have gone, "" where the record does not say: nobody wrote
    down places that were no candidates. `estimated_cost_usd_then` is None where nothing is known.
    `passes` and `passes_then`, 0 to 1, are how often work passes its verification at the
    first round there; None where that is not known or the tier stays. `usd` and `usd_then`
    are older names, kept for one release.
    """

    seq: int
    task_id: str
    at: str
    what: str
    was: str
    then: str
    why: str
    usd: float | None
    usd_then: float | None
    passes: float | None = None
    passes_then: float | None = None
    estimated_cost_usd: float | None = None
    estimated_cost_usd_then: float | None = None


class WhatIfAnswer(QueryAnswer, kw_only=True):
    """`whatif`: recorded decisions, decided again under another policy.

    `reproduced` counts decisions that come out as recorded under the policy of their
    time, which is what makes the rest worth reading; `not_reproduced` should be 0.
    `fallbacks_then`, `waited_s_then` and `estimated_cost_usd_then` are what would have been
    (`cost_usd` and `cost_usd_then` are older names, kept for one release).
    `changed` counts by kind: route, model, fallback_avoided, fallback_added,
    fallback_sooner, fallback_later, held_back.
    Of the `tier_changes`, `passes` would be expected to pass their verification at the
    first round where they ran and `passes_then` where they would have; of `passes_unknown`
    that is not known, and they are in neither.
    `stays` holds what could not be decided from the record, by reason. `said` is what
    must be known to read the figures.
    """

    from_seq: int
    to_seq: int
    policy_version: int
    differences: list[str]
    decisions: int
    reproduced: int
    not_reproduced: int
    changed: dict[str, int]
    fallbacks: int
    fallbacks_then: int
    waited_s: float
    waited_s_then: float
    cost_usd: float
    cost_usd_then: float
    estimated_cost_usd: float = 0.0
    estimated_cost_usd_then: float = 0.0
    estimated_decisions: int
    unknown_dollars: int
    by_place: dict[str, int]
    by_place_then: dict[str, int]
    stays: dict[str, int]
    changes: list[Changed]
    changes_left_out: int
    said: list[str]
    tier_changes: int = 0
    passes: float = 0.0
    passes_then: float = 0.0
    passes_unknown: int = 0
