"""How likely work is to succeed in a tier: how often it passed its verification at once.

The estimate is the share of first rounds that passed (`first_rounds` of `stats`), over the
whole log up to the end of the walk. It knows nothing of later rounds, nor of work that
named no verification steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from projections.stats import FirstRounds

    ByModel = dict[str, FirstRounds]


class Share(NamedTuple):
    """So many of so many first rounds passed; there is at least one."""

    passed: int
    of: int

    @property
    def value(self) -> float:
        """The share, from 0 to 1."""
        return self.passed / self.of


class Success:
    """Shares of first rounds that passed, by tier and model."""

    def __init__(self, first_rounds: dict[str, ByModel]) -> None:
        self._by_tier = first_rounds

    def share(self, tier: str, model: str = "") -> Share | None:
        """Return the share of a model in a tier, of the tier where the model has none.

        None where no first round of that tier has ended yet.
        """
        by_model = self._by_tier.get(tier, {})
        named = by_model.get(model) if model else None
        return _sum([named] if named is not None else by_model.values())

    def said(self) -> Iterator[str]:
        """Say the share of each tier that has one."""
        for tier in self._by_tier:
            share = self.share(tier)
            if share is not None:
                yield f"{tier} {share.passed} of {share.of} ({share.value:.0%})"


def _sum(rows: Iterable[FirstRounds]) -> Share | None:
    passed = failed = 0
    for row in rows:
        passed += row.passed
        failed += row.failed
    return Share(passed, passed + failed) if passed + failed else None
