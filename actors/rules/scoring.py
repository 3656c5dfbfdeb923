"""The score of a place for a task: a product of named factors, each from true data.

What is unknown counts as its neutral number, never as a guess from old data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from msgspec import Struct
from msgspec.structs import replace

from events import catalogue as c

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actors.rules.policy import Scoring


class Inputs(Struct, frozen=True, kw_only=True):
    """What is known of a place at the moment of a decision.

    `cpu` 0 to 1, memory in bytes, None for unknown.
    """

    host: str
    endpoint: str = ""
    model: str = ""
    cpu: float | None = None
    ram_bytes: int | None = None
    vram_total_bytes: int | None = None
    vram_free_bytes: int | None = None
    loaded: bool = False
    has_repo: bool = False
    slots_free: int
    slots_total: int


def factors(
    inputs: Inputs | c.Candidate, scoring: Scoring, *, local_model: bool
) -> c.Factors:
    """Turn raw inputs into the factors; every rule of the score is here.

    `local_model` says whether VRAM and warmth matter at all: they do for local models alone.
    """
    load = scoring.load_unknown
    if inputs.cpu is not None:
        load = max(scoring.load_floor, 1.0 - inputs.cpu)
    capacity = 1.0
    if inputs.ram_bytes is not None:
        capacity = min(
            inputs.ram_bytes / scoring.capacity_unit_bytes, scoring.capacity_cap
        )
    vram = warm = 1.0
    if local_model:
        vram = scoring.vram_unknown
        if inputs.vram_total_bytes and inputs.vram_free_bytes is not None:
            share = inputs.vram_free_bytes / inputs.vram_total_bytes
            vram = scoring.vram_base + scoring.vram_share * share
        warm = scoring.warm if inputs.loaded else 1.0
    return c.Factors(
        load=load,
        capacity=capacity,
        vram=vram,
        warm=warm,
        affinity=scoring.affinity if inputs.has_repo else 1.0,
        slots=inputs.slots_free / inputs.slots_total if inputs.slots_total else 0.0,
    )


def worth(f: c.Factors) -> float:
    """Multiply the factors but the slots: the score if all slots were free."""
    return f.load * f.capacity * f.vram * f.warm * f.affinity


def candidate(inputs: Inputs, scoring: Scoring, *, local_model: bool) -> c.Candidate:
    """Return a place as the decision records it."""
    parts = factors(inputs, scoring, local_model=local_model)
    return c.Candidate(
        host=inputs.host,
        endpoint=inputs.endpoint,
        model=inputs.model,
        cpu=inputs.cpu,
        ram_bytes=inputs.ram_bytes,
        vram_total_bytes=inputs.vram_total_bytes,
        vram_free_bytes=inputs.vram_free_bytes,
        loaded=inputs.loaded,
        has_repo=inputs.has_repo,
        slots_free=inputs.slots_free,
        slots_total=inputs.slots_total,
        in_flight=inputs.slots_total - inputs.slots_free,
        factors=parts,
        score=worth(parts) * parts.slots,
    )


def scored_anew(
    recorded: c.Candidate, scoring: Scoring, *, local_model: bool
) -> c.Candidate:
    """Score a recorded candidate by other numbers, from its raw inputs alone."""
    parts = factors(recorded, scoring, local_model=local_model)
    return replace(recorded, factors=parts, score=worth(parts) * parts.slots)


def spread(task_id: str) -> int:
    """Turn a task's id into a number, by which equal places share tasks."""
    return crc32(task_id.encode())


def ranked(candidates: Iterable[c.Candidate]) -> list[c.Candidate]:
    """Order candidates: best score, then fewest in flight; equals stay as they stand."""
    return sorted(candidates, key=lambda each: (-each.score, each.in_flight))
