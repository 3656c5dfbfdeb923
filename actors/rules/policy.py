"""The policy: every number that an operator may change while the system runs.

One document, in the log as `policy.changed` events. An invalid one is refused whole.
Timers keep their start, so a change moves their end; a run keeps the numbers that
travelled in its assignment.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from events.beats import BEAT_INTERVAL_S, FRESH_BEATS
from events.codec import convert
from events.errors import Malformed, shown
from events.lifecycle import TASK_TTL_S
from events.mail import Limits

Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Weight = Annotated[float, Meta(ge=0, le=100)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]


MOST_RETRIES = 100
MOST_ROUNDS = 20
LONGEST_S = 31_536_000
"""A year: longer than anybody waits, short enough for every timer."""


class Scoring(Struct, frozen=True, forbid_unknown_fields=True):
    """The numbers in the factors of a candidate's score."""

    load_unknown: Weight = 0.5
    load_floor: Weight = 0.05
    capacity_unit_bytes: Annotated[int, Meta(gt=0)] = 16 * 1024**3
    capacity_cap: Weight = 1.5
    vram_base: Weight = 0.8
    vram_share: Weight = 0.2
    vram_unknown: Weight = 0.9
    warm: Weight = 1.15
    affinity: Weight = 1.05


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole document; the field names are what `agentcom policy show` prints."""

    local_models: list[str] = []
    claude_model: Annotated[str, Meta(min_length=1)] = "sonnet"
    claude_context_tokens: Annotated[int, Meta(ge=1_000, le=1_000_000_000)] = 200_000
    equivalent_model: str = ""
    fallback_wait_s: Seconds = 5.0
    allow_downgrade: bool = False
    max_escalations_in_flight: Count = 4
    escalation_budget_usd_per_day: Annotated[float, Meta(ge=0)] | None = None
    max_budget_usd_per_task: Annotated[float, Meta(gt=0)] | None = None
    max_delegation_depth: Annotated[int, Meta(ge=0, le=16)] = 3
    max_children_per_task: Annotated[int, Meta(ge=0, le=10_000)] = 32
    task_ttl_s: PositiveSeconds = TASK_TTL_S
    tier_alert_after_s: Seconds = 60.0
    accept_timeout_s: PositiveSeconds = 5.0
    host_lease_s: PositiveSeconds = 15.0
    resources_fresh_beats: Annotated[int, Meta(ge=1, le=1_000)] = FRESH_BEATS
    beat_interval_s: PositiveSeconds = BEAT_INTERVAL_S
    """How often a host beats that does not say it (0.1); others say it in each beat."""
    ageing_s: PositiveSeconds = 300.0
    limited_initial_s: PositiveSeconds = 60.0
    limited_cap_s: PositiveSeconds = 900.0
    limited_known_cap_s: PositiveSeconds = 691_200.0
    allow_no_timeout: bool = False
    """Whether a task may ask for no time limit at all (`timeout_s` 0)."""
    recorded_candidates: Annotated[int, Meta(ge=1, le=64)] = 8
    scoring: Scoring = Scoring()
    limits: Limits = Limits()

    @property
    def equivalent(self) -> str:
        """The Claude model that local work is compared with."""
        return self.equivalent_model or self.claude_model


def parse(document: dict[str, Any]) -> Policy:
    """Read a whole policy document; raise Malformed naming the field that is wrong."""
    policy = convert(document, Policy)
    unknown = set(document.get("limits", {})) - set(Limits.__struct_fields__)
    if unknown:
        raise Malformed(f"limits.{min(unknown)[:80]}", "no such field", "one")
    for name in Limits.__struct_fields__:
        _check_limit(f"limits.{name}", name, getattr(policy.limits, name))
    return policy


def _check_limit(path: str, name: str, value: Any) -> None:
    """Refuse a number that no run could be held to.

    The bounds stand here and not on the type: mail to a host is read leniently.
    """
    if isinstance(value, list):
        expected = f"1 to {MOST_RETRIES} waits of 0 to {LONGEST_S} s"
        fits = 1 <= len(value) <= MOST_RETRIES and all(
            0 <= wait <= LONGEST_S for wait in value
        )
    elif name == "verify_rounds":
        expected, fits = f"1 to {MOST_ROUNDS}", 1 <= value <= MOST_ROUNDS
    elif name.endswith("_retries"):
        expected, fits = f"0 to {MOST_RETRIES}", 0 <= value <= MOST_RETRIES
    elif name.endswith("_grace_s"):
        expected, fits = f"0 to {LONGEST_S} seconds", 0 <= value <= LONGEST_S
    elif name.endswith("_s"):
        expected = f"more than 0, at most {LONGEST_S} seconds"
        fits = 0 < value <= LONGEST_S
    else:
        expected, fits = f"1 to {2**31}", 1 <= value <= 2**31
    if not fits:
        raise Malformed(path, expected, shown(value))


def document(policy: Policy) -> dict[str, Any]:
    """Return a policy as plain JSON, every field present."""
    plain: dict[str, Any] = msgspec.to_builtins(policy)
    plain["limits"] = {
        name: getattr(policy.limits, name) for name in Limits.__struct_fields__
    }
    return plain


def with_changes(policy: Policy, changes: dict[str, Any]) -> Policy:
    """Return `policy` with `changes` laid over it, `{"scoring": {"warm": 2}}` style.

    What they do not name stays. Raises Malformed naming the field that is wrong.
    """
    whole = document(policy)
    for name, value in changes.items():
        nested = isinstance(value, dict) and isinstance(whole.get(name), dict)
        whole[name] = {**whole[name], **value} if nested else value
    return parse(whole)


def differences(old: Policy, new: Policy) -> list[str]:
    """Name the fields that differ, `scoring.warm` style."""
    return sorted(_differences("", document(old), document(new)))


def _differences(path: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        paths: list[str] = []
        for name in sorted(set(old) | set(new)):
            below = f"{path}.{name}" if path else name
            paths += _differences(below, old.get(name), new.get(name))
        return paths
    return [] if old == new else [path]
