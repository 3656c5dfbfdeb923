"""Costs by another price list: a second set of books beside the booked one.

What is booked stays booked. `Ledger` reads the log and prices each run's tokens anew.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from actors.rules.prices import price_list, price_result
from analysis.span import first_from
from events.codec import convert
from projections.tiers import instant_of
from projections.timetravel import TimeTravel

if TYPE_CHECKING:
    from events import catalogue as c
    from events.log import EventLog
    from projections.checkpoints import Checkpoints
    from projections.judged import JudgedEvent
    from projections.world import World

DIMENSIONS: Final = ("model", "tier", "repo", "host", "day")


class Rates(Struct, frozen=True, forbid_unknown_fields=True):
    """Dollars for a million tokens of one model."""

    input: float
    output: float
    cache_read: float = 0.0
    cache_write: float = 0.0

    def price(self, result: c.Result) -> float | None:
        """Price a run's tokens; None where they are not known."""
        if result.tokens_in is None or result.tokens_out is None:
            return None
        return (
            result.tokens_in * self.input
            + result.tokens_out * self.output
            + result.cache_read_tokens * self.cache_read
            + result.cache_write_tokens * self.cache_write
        ) / 1_000_000


class Repriced(Struct, kw_only=True):
    """What was booked under one key, and what it would be by the other list.

    `equivalent_usd` is what the local runs would have cost on Claude, as booked.
    `unpriced` counts runs that the other list has no price for, or whose tokens are not
    known; they are in neither of the two new figures. `simulated_usd_then` is what local
    runs that were simulated would have cost on Claude: nothing of it was saved. `cost_usd`
    and `cost_usd_then` are older names, kept for one release.
    """

    key: str
    runs: int = 0
    unpriced: int = 0
    estimated_cost_usd: float = 0.0
    estimated_cost_usd_then: float = 0.0
    cost_usd: float = 0.0
    cost_usd_then: float = 0.0
    equivalent_usd: float = 0.0
    equivalent_usd_then: float = 0.0
    simulated_usd_then: float = 0.0


class RepriceAnswer(Struct, kw_only=True):
    """The repriced view: booked dollars stay as they are."""

    seq: int
    from_seq: int
    by: str
    price_list: str
    booked_lists: dict[str, int]
    lines: list[Repriced]
    total: Repriced


class Prices:
    """Another price list: a file's, or the one that came with AgentCom.

    `claude` prices every Claude run, and every local one's equivalent, as that model.
    """

    def __init__(
        self,
        *,
        claude: str = "",
        rates: dict[str, Rates] | None = None,
        name: str = "",
    ) -> None:
        self._rates = rates
        self.name = name or price_list()
        self._claude = claude

    def run(self, result: c.Result) -> float | None:
        """Price what a run used on the model it ran on."""
        return self._of(self._claude or result.model_used, result)

    def equivalent(self, result: c.Result) -> float | None:
        """Price what a local run would have used on Claude."""
        model = self._claude or result.equivalent_model
        return None if not model else self._of(model, result)

    def _of(self, model: str, result: c.Result) -> float | None:
        if self._rates is None:
            return price_result(model, result)
        rates = self._rates.get(model)
        return None if rates is None else rates.price(result)


def rates_of(document: dict[str, Any]) -> dict[str, Rates]:
    """Read a price list: models to `input`, `output`, `cache_read`, `cache_write`.

    Dollars for a million tokens; raises Malformed.
    """
    return convert(document, dict[str, Rates])


async def reprice(
    log: EventLog,
    prices: Prices,
    by: str,
    since: int | str = 1,
    *,
    checkpoints: Checkpoints | None = None,
) -> RepriceAnswer:
    """Price the runs that ended from `since` on, by one of DIMENSIONS; raises Malformed."""
    ledger = Ledger(prices, by)
    with closing(TimeTravel(log, checkpoints=checkpoints)) as past:
        last = await log.last_sequence()
        start = await first_from(past, since)
        await past.walk(start, last, ledger.see)
    return ledger.answer(last, start)


class Ledger:
    """A second set of books; `see` is handed to `TimeTravel.walk`."""

    def __init__(self, prices: Prices, by: str) -> None:
        self._prices = prices
        self._by = by
        self._lines: dict[str, Repriced] = {}
        self._booked: dict[str, int] = {}

    def see(self, world: World, judged: JudgedEvent) -> None:
        """Book what a run's report brought, once, as the first books do."""
        result, task, routing = judged.result, judged.task, judged.routing
        if result is None or task is None or routing is None:
            return
        at = judged.recorded.event.at
        key = {
            "model": result.model_used,
            "tier": routing.tier,
            "repo": task.repo,
            "host": routing.host,
            "day": at[:10] if instant_of(at) else "",
        }[self._by]
        line = self._lines.setdefault(key, Repriced(key=key))
        line.runs += 1
        booked = result.estimated_cost_usd or 0.0
        listed = result.price_list or ""
        if listed:
            self._booked[listed] = self._booked.get(listed, 0) + 1
        line.estimated_cost_usd += booked
        line.equivalent_usd += result.equivalent_claude_cost_usd or 0.0
        if routing.target_type in ("claude", "agent") and not result.simulated:
            then = self._prices.run(result) if _used(result) else 0.0
            line.unpriced += then is None
            line.estimated_cost_usd_then += then or 0.0
        else:
            line.estimated_cost_usd_then += booked
        if result.equivalent_claude_cost_usd is not None:
            equivalent = self._prices.equivalent(result)
            line.unpriced += equivalent is None
            line.equivalent_usd_then += equivalent or 0.0
        if result.simulated and routing.target_type in ("ollama", "openai"):
            line.simulated_usd_then += self._prices.equivalent(result) or 0.0

    def answer(self, seq: int, start: int) -> RepriceAnswer:
        """Close the books."""
        lines = [line for _, line in sorted(self._lines.items())]
        for line in lines:
            line.cost_usd = line.estimated_cost_usd
            line.cost_usd_then = line.estimated_cost_usd_then
        total = Repriced(key="total")
        for line in lines:
            for name in Repriced.__struct_fields__[1:]:
                setattr(total, name, getattr(total, name) + getattr(line, name))
        return RepriceAnswer(
            seq=seq,
            from_seq=start,
            by=self._by,
            price_list=self._prices.name,
            booked_lists=dict(sorted(self._booked.items())),
            lines=lines,
            total=total,
        )


def _used(result: c.Result) -> bool:
    return result.model_used not in ("", "none")
