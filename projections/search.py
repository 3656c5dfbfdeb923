"""Searches in the stored read models: which tasks, in what order, and what was spent.

Each function makes a search to be handed to `Store.look`, which runs it beside the
writer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from projections.answers import CostLine
from projections.record import NANO, TaskRecord
from projections.tables import SPEND_SUMS, decoded

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

_SORTS: Final = {
    "submitted": "seq",
    "updated": "updated",
    "cost": "usd_nano",
    "tokens": "tokens",
    "attempts": "attempts",
    "finished": "finished_at",
}
SORTS: Final = tuple(_SORTS)
DIMENSIONS: Final = {
    "model": "model",
    "tier": "tier",
    "repo": "repo",
    "host": "host",
    "endpoint": "endpoint",
    "target": "target_type",
    "fallback": "fallback",
    "hour": "hour",
    "day": "substr(hour, 1, 10)",
}


class Filter(Struct, frozen=True, kw_only=True):
    """Which tasks, in what order. `sort` is one of SORTS, with `-` the largest first."""

    states: tuple[str, ...] = ()
    tier: str = ""
    host: str = ""
    model: str = ""
    repo: str = ""
    priority: str = ""
    text: str = ""
    fallback: bool | None = None
    sort: str = "-submitted"
    limit: int = 50
    offset: int = 0


def tasks(
    chosen: Filter,
) -> Callable[[sqlite3.Connection], tuple[int, list[TaskRecord]]]:
    """Ask for a page of tasks and how many there are in all."""
    clauses, values = _clauses(chosen)
    where = f"where {' and '.join(clauses)}" if clauses else ""
    column = _SORTS[chosen.sort.removeprefix("-")]
    order = "desc" if chosen.sort.startswith("-") else "asc"

    def ask(connection: sqlite3.Connection) -> tuple[int, list[TaskRecord]]:
        (total,) = connection.execute(
            f"select count(*) from task {where}",
            values,
        ).fetchone()
        rows = connection.execute(
            f"select body from task {where} order by {column} {order}, seq {order} "
            "limit ? offset ?",
            (*values, chosen.limit, chosen.offset),
        )
        return total, [decoded(body) for (body,) in rows]

    def ask_once(connection: sqlite3.Connection) -> tuple[int, list[TaskRecord]]:
        """Count and choose in one go: to look for a text, all tasks are read."""
        seqs = connection.execute(
            f"select seq from task {where} order by {column} {order}, seq {order}",
            values,
        ).fetchall()
        page = [seq for (seq,) in seqs[chosen.offset :][: chosen.limit]]
        bodies = dict(
            connection.execute(
                f"select seq, body from task where seq in ({','.join('?' * len(page))})",
                page,
            )
        )
        return len(seqs), [decoded(bodies[seq]) for seq in page]

    return ask_once if chosen.text else ask


def _clauses(chosen: Filter) -> tuple[list[str], list[Any]]:
    clauses: list[str] = []
    values: list[Any] = []
    if chosen.states:
        clauses.append(f"state in ({','.join('?' * len(chosen.states))})")
        values += chosen.states
    for column in ("tier", "host", "model", "repo", "priority"):
        if value := getattr(chosen, column):
            clauses.append(f"{column} = ?")
            values.append(value)
    if chosen.fallback is not None:
        clauses.append("fallback = ?")
        values.append(chosen.fallback)
    if chosen.text and not chosen.text.isascii():
        # SQLite's own `like` knows the cases of ASCII only, and is quicker.
        clauses.append("instr(folded(description), ?)")
        values.append(chosen.text.casefold())
    elif chosen.text:
        clauses.append("(description like ? escape '\\' or id like ? escape '\\')")
        # To `like` a text ends at a NUL, so nothing would be looked for.
        pattern = chosen.text.replace("\0", "\ufffd").replace("\\", "\\\\")
        pattern = pattern.replace("%", "\\%").replace("_", "\\_")
        values += [f"%{pattern}%", f"{pattern}%"]
    return clauses, values


def ids_from(prefix: str) -> Callable[[sqlite3.Connection], list[str]]:
    """Ask for the ids that begin so; no more than two, which is one too many."""

    def ask(connection: sqlite3.Connection) -> list[str]:
        rows = connection.execute(
            "select id from task where id >= ? and id < ? limit 2",
            (prefix, prefix + "\x7f"),
        )
        return [task_id for (task_id,) in rows]

    return ask


def costs(
    by: str, since: str = "", *, fallback: bool | None = None
) -> Callable[[sqlite3.Connection], list[CostLine]]:
    """Ask for what was spent by a dimension, from the hour of `since` on.

    `fallback` picks the runs that were, or were not, off their preferred tier.
    """
    key = DIMENSIONS[by]
    sums = ", ".join(f"sum({name})" for name in SPEND_SUMS)
    order = "1" if by in ("day", "hour") else "sum(usd_nano) desc, 1"
    only = "" if fallback is None else f"and fallback {'<>' if fallback else '='} '' "

    def ask(connection: sqlite3.Connection) -> list[CostLine]:
        rows = connection.execute(
            f"select {key}, {sums} from spend where hour >= ? "
            f"{only}group by 1 order by {order}",
            (since[:13],),
        )
        return [_cost_line(row) for row in rows]

    return ask


def _cost_line(row: tuple[Any, ...]) -> CostLine:
    (key, runs, completed, late, tokens_in, tokens_out, *rest) = row
    cache_read, cache_write, usd, equivalent, saved, unpriced, *unsure = rest
    unknown_in, unknown_out, guessed = unsure
    return CostLine(
        key=key,
        runs=runs,
        completed=completed,
        late=late,
        tokens_in=tokens_in if tokens_in or not unknown_in else None,
        tokens_out=tokens_out if tokens_out or not unknown_out else None,
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
        cost_usd=usd / NANO,
        equivalent_claude_cost_usd=equivalent / NANO,
        saved_usd=saved / NANO,
        unpriced=unpriced,
        guessed=guessed,
        unknown_tokens=max(unknown_in, unknown_out),
    )
