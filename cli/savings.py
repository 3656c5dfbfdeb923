"""What local work would have cost on a Claude model that somebody chooses.

For the dashboard: the books of `agentcom reprice`, reduced to one line. What is booked
stays booked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.commands.whatif import Ledger, local_checkpoints, prices_of
from projections.timetravel import TimeTravel
from web.api import SavingsAnswer

if TYPE_CHECKING:
    from events.log import EventLog


class Savings:
    """Answers from a log, one question at a time."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def __call__(self, model: str) -> SavingsAnswer:
        """Price every run that cost nothing as if `model` had done it."""
        prices = prices_of(None, model)
        ledger = Ledger(prices, "model")
        past = TimeTravel(self._log, checkpoints=local_checkpoints())
        try:
            last = await self._log.last_sequence()
            await past.walk(1, last, ledger.see)
        finally:
            past.close()
        total = ledger.answer(last, 1).total
        return SavingsAnswer(
            seq=last,
            model=model,
            price_list=prices.name,
            booked_usd=total.equivalent_usd,
            saved_usd=total.equivalent_usd_then,
            unpriced=total.unpriced,
        )
