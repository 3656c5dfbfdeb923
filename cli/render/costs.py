"""The bill as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cli.render.terminal import cell, columns_for, dollars, table, tokens

if TYPE_CHECKING:
    from rich.table import Table

    from projections.answers import CostLine, CostsAnswer


_NUMBERS: Final = ("runs", "in", "out", "cache", "cost", "on Claude", "saved")


_LEAVE: Final = ((80, ("cache", "in", "out")), (60, ("on Claude",)))
"""Below which width of a terminal which columns go."""


def cost_table(answer: CostsAnswer) -> Table:
    """Make the bill: a line each, and the sum."""
    names = columns_for(("", *_NUMBERS), _LEAVE)
    bill = table([name or answer.by for name in names], right=_NUMBERS)
    for line in answer.lines:
        bill.add_row(*_bill(line, names))
    bill.add_section()
    bill.add_row(*_bill(answer.total, names), style="bold")
    return bill


def _counted(known: int | None, unknown_runs: int) -> str:
    """Write a sum of tokens; `+` where runs are missing whose tokens nobody knows."""
    return tokens(known) + ("+" if unknown_runs and known is not None else "")


def _bill(line: CostLine, names: list[str]) -> list[Any]:
    unknown = f" + {line.unpriced} unknown" if line.unpriced else ""
    cells = [
        cell(line.key or "none", 40),
        str(line.runs),
        _counted(line.tokens_in, line.unknown_tokens),
        _counted(line.tokens_out, line.unknown_tokens),
        str(line.cache_read_tokens + line.cache_write_tokens),
        ("~" if line.guessed else "") + dollars(line.estimated_cost_usd) + unknown,
        dollars(line.equivalent_claude_cost_usd),
        cell(dollars(line.saved_usd), style="green" if line.saved_usd > 0 else ""),
    ]
    named = dict(zip(("", *_NUMBERS), cells, strict=True))
    return [named[name] for name in names]
