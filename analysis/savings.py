"""What local work would have cost on a Claude model that somebody chooses.

For the dashboard: the answer of `agentcom reprice`, reduced to one line. What is booked
stays booked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from analysis.reprice import Prices, reprice

if TYPE_CHECKING:
    from events.log import EventLog
    from projections.checkpoints import Checkpoints


class SavingsAnswer(Struct, kw_only=True):
    """What local work would have cost on `model`; `booked_usd` on the booked one.

    `unpriced` counts runs without known tokens or without a price; they are in neither.
    `simulated_usd` is what simulated local work would have cost: nothing of it was saved.
    """

    seq: int
    model: str
    price_list: str
    booked_usd: float
    saved_usd: float
    unpriced: int
    simulated_usd: float = 0.0


async def local_savings(
    log: EventLog, model: str, *, checkpoints: Checkpoints | None = None
) -> SavingsAnswer:
    """Price every run that cost nothing as if `model` had done it."""
    prices = Prices(claude=model)
    answer = await reprice(log, prices, "model", checkpoints=checkpoints)
    return SavingsAnswer(
        seq=answer.seq,
        model=model,
        price_list=answer.price_list,
        booked_usd=answer.total.equivalent_usd,
        saved_usd=answer.total.equivalent_usd_then,
        unpriced=answer.total.unpriced,
        simulated_usd=answer.total.simulated_usd_then,
    )
