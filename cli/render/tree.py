"""A task with the tasks that its runs submitted, and theirs, with what each cost in all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from cli.render.tasks import all_tokens, shown_id
from cli.render.terminal import STATE_STYLE, TIER_STYLE, cell, priced, table, tokens
from projections.answers import TaskRow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table


_DESCRIPTION: Final = 60


class Branch(Struct, kw_only=True):
    """A task, and what it has used together with all that is below it.

    Tokens and dollars are None where those of any of them are unknown.
    """

    task: TaskRow
    below: int
    tokens: int | None
    estimated_cost_usd: float | None
    children: list[Branch]


def tree_of(rows: Iterable[TaskRow], top: str) -> Branch:
    """Make the tree below a task, of the rows of its whole tree; KeyError without it."""
    known = {row.task_id: row for row in rows}
    children: dict[str, list[TaskRow]] = {}
    for row in sorted(known.values(), key=lambda row: row.seq):
        children.setdefault(row.parent, []).append(row)
    return _branch(known[top], children)


def _branch(row: TaskRow, children: dict[str, list[TaskRow]]) -> Branch:
    below = [_branch(child, children) for child in children.get(row.task_id, ())]
    return Branch(
        task=row,
        below=sum(1 + each.below for each in below),
        tokens=_sum(all_tokens(row), [each.tokens for each in below]),
        estimated_cost_usd=_sum(
            row.estimated_cost_usd, [each.estimated_cost_usd for each in below]
        ),
        children=below,
    )


def _sum(own: Any, others: list[Any]) -> Any:
    return None if own is None or None in others else own + sum(others)


def tree_table(top: Branch) -> Table:
    """Show it, each task under its parent; sums are of a task with all below it."""
    shown = table(
        ("id", "state", "tier", "where", "tokens", "sum", "cost", "sum $", "task"),
        right=("tokens", "sum", "cost", "sum $"),
        elastic=("where", "task"),
    )
    _add(shown, top, "", "")
    return shown


def _add(shown: Table, branch: Branch, stem: str, below: str) -> None:
    row = branch.task
    shown.add_row(
        cell(stem + shown_id(row)),
        cell(row.state, style=STATE_STYLE.get(row.state, "")),
        cell(row.tier, style=TIER_STYLE.get(row.tier, "")),
        cell(" ".join(filter(None, (row.endpoint or row.host, row.model))), 40),
        tokens(all_tokens(row)),
        tokens(branch.tokens),
        priced(row.estimated_cost_usd, row.cost_basis),
        priced(branch.estimated_cost_usd, row.cost_basis),
        cell(row.description, _DESCRIPTION),
    )
    for n, child in enumerate(branch.children):
        last = n == len(branch.children) - 1
        _add(
            shown,
            child,
            below + ("└ " if last else "├ "),
            below + ("  " if last else "│ "),
        )
