"""What a run of Claude Code may still spend, beside what it has given its own tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.rules.prices import price

if TYPE_CHECKING:
    from sidecar.executors.claude.reading import ClaudeUsage


class Purse:
    """The dollars of one run: at most `most_usd` (None: no bound), of which its tasks may
    spend `given_usd`. What is given is not given back."""

    def __init__(self, most_usd: float | None) -> None:
        self._most_usd = most_usd
        self.given_usd = 0.0

    def gave(self, usd: float) -> None:
        """Note how many dollars its tasks may spend, all together."""
        self.given_usd = usd

    def left_usd(self, spent_usd: float) -> float | None:
        """What is left once the run itself has spent so much; None without a bound."""
        if self._most_usd is None:
            return None
        return max(0.0, self._most_usd - self.given_usd - spent_usd)

    def spent_words(self) -> str:
        """Say that nothing is left."""
        return (
            f"its budget of ${self._most_usd or 0.0:.2f} is spent, of which "
            f"${self.given_usd:.2f} are for the tasks that it has submitted"
        )


def cost_of(used: ClaudeUsage, model: str) -> float | None:
    """Return what was used costs, by the price list where the program did not say; None
    where that does not know either."""
    if used.usd is not None:
        return used.usd
    dollars = price(
        model,
        tokens_in=used.tokens_in,
        tokens_out=used.tokens_out,
        cache_read=used.cache_read,
        cache_write=used.cache_write,
    )
    return None if dollars is None else float(dollars)
