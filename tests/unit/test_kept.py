"""What is kept of waiting tasks, within a budget."""

from __future__ import annotations

from actors.scheduler.specs import ITSELF_BYTES, KeptSpecs
from events import catalogue as c


def test_specifications_are_kept_within_a_budget_of_bytes():
    small = c.TaskSpec(description="small")
    large = c.TaskSpec(description="x" * 2_000)
    kept = KeptSpecs(budget=3 * ITSELF_BYTES)
    kept.keep("too-large", large)
    for n in range(5):
        kept.keep(f"t{n}", small)
    assert [n for n in range(5) if kept.get(f"t{n}") is small] == [0, 1]
    assert kept.get("too-large") is None
    kept.drop("t0")
    kept.drop("t0")
    kept.keep("t9", small)
    kept.keep("t10", small)
    assert [kept.get(one) for one in ("t0", "t1", "t9", "t10")] == [
        None, small, small, None,
    ]  # fmt: skip
