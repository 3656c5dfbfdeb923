"""The bill as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cli.render.terminal import cell, dollars, table

if TYPE_CHECKING:
    from rich.table import Table

    from projections.answers import CostLine, CostsAnswer


_NUMBERS: Final = ("runs", "in", "out", "cache", "cost", "on Claude", "saved")


def cost_table(answer: CostsAnswer) -> Table:
    """Make the bill: a line each, and the sum."""
    bill = table((answer.by, *_NUMBERS), right=_NUMBERS)
    for line in answer.lines:
        bill.add_row(*_bill(line))
    bill.add_section()
    bill.add_row(*_bill(answer.total), style="bold")
    return bill


def _bill(line: CostLine) -> list[Any]:
    unknown = f" + {line.unpriced} unknown" if line.unpriced else ""
    return [
        cell(line.key or "none", 40),
        str(line.runs),
        str(line.tokens_in),
        str(line.tokens_out),
        str(line.cache_read_tokens + line.cache_write_tokens),
        dollars(line.cost_usd) + unknown,
        dollars(line.equivalent_claude_cost_usd),
        cell(dollars(line.saved_usd), style="green" if line.saved_usd > 0 else ""),
    ]
