"""Searches in the stored read models: which tasks, in what order, and what was spent.

Each function makes a search to be handed to `Store.look`, which runs it beside the
writer.
"""

from __future__ import annotations

import base64
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from events.codec import encode
from events.errors import Malformed
from events.filters import TaskFilter, is_label, label_of, time_of
from events.models import normal_model
from projections.answers import CostLine
from projections.record import NANO, TaskRecord
from projections.tables import SPEND_SUMS, decoded, needs_text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence

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
    "submitter": "submitter",
    "root": "root",
}
BY_LABEL: Final = "label:KEY"
"""The other thing that costs are summed by, KEY being a label's."""


class TaskPage(TaskFilter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tasks, in what order. `sort` is one of SORTS, with `-` the largest first.

    `cursor` is the `next` of the page before, by the same `sort`: the page goes on behind
    that one's last task, whatever has come or gone meanwhile.
    """

    sort: Annotated[
        str,
        Meta(
            pattern=rf"^-?({'|'.join(_SORTS)})$",
            description=f"one of {', '.join(_SORTS)}, or one with '-' before it",
        ),
    ] = "-submitted"
    limit: Annotated[int, Meta(ge=0, le=500)] = 50
    offset: Annotated[int, Meta(ge=0)] = 0
    cursor: Annotated[str, Meta(max_length=200)] = ""


class Listed(NamedTuple):
    """Some tasks, how many there are in all, and the cursor of what follows."""

    total: int
    tasks: list[TaskRecord]
    next: str | None


def tasks(
    chosen: TaskPage,
) -> Callable[[sqlite3.Connection], Listed]:
    """Ask for a page of tasks and how many there are in all; raises Malformed."""
    clauses, values = _clauses(chosen)
    where = _joined(clauses)
    column = _SORTS[chosen.sort.removeprefix("-")]
    falling = chosen.sort.startswith("-")
    order = "desc" if falling else "asc"
    ordered = f"order by {column} {order}, seq {order}"
    behind = _behind(chosen)
    compared = f"({column}, seq) {'<' if falling else '>'} (?, ?)"

    def page(total: int, rows: list[tuple[int, Any, bytes]]) -> Listed:
        following = None
        if len(rows) > chosen.limit > 0:
            seq, value, _ = rows[chosen.limit - 1]
            following = _cursor(chosen.sort, value, seq)
        return Listed(
            total, [decoded(row[2]) for row in rows[: chosen.limit]], following
        )

    def ask(connection: sqlite3.Connection) -> Listed:
        (total,) = connection.execute(
            f"select count(*) from task {where}", values
        ).fetchone()
        paged = _joined([*clauses, compared] if behind else clauses)
        rows = connection.execute(
            f"select seq, {column}, body from task {paged} {ordered} limit ? offset ?",
            (*values, *behind, chosen.limit + 1, chosen.offset),
        )
        return page(total, rows.fetchall())

    def ask_once(connection: sqlite3.Connection) -> Listed:
        """Count and choose in one go: to look for a text, all tasks are read."""
        found = connection.execute(
            f"select seq, {column} from task {where} {ordered}", values
        ).fetchall()
        total = len(found)
        if behind:
            value, last = behind
            found = [
                (seq, each)
                for seq, each in found
                if ((each, seq) < (value, last)) == falling
                and (each, seq) != (value, last)
            ]
        chosen_rows = found[chosen.offset :][: chosen.limit + 1]
        bodies = dict(
            connection.execute(
                f"select seq, body from task where seq in "
                f"({','.join('?' * len(chosen_rows))})",
                [seq for seq, _ in chosen_rows],
            )
        )
        return page(total, [(seq, value, bodies[seq]) for seq, value in chosen_rows])

    return ask_once if chosen.text else ask


def _cursor(sort: str, value: Any, seq: int) -> str:
    raw = msgspec.json.encode((sort, value, seq))
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _behind(chosen: TaskPage) -> tuple[Any, ...]:
    """Read a page's cursor as (value, sequence), () where it has none."""
    if not chosen.cursor:
        return ()
    try:
        padded = chosen.cursor + "=" * (-len(chosen.cursor) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
        sort, value, seq = msgspec.json.decode(raw, type=tuple[str, int | str, int])
    except (ValueError, msgspec.DecodeError):
        sort, value, seq = "", 0, 0
    text = isinstance(value, str) == (chosen.sort.removeprefix("-") == "finished")
    if sort != chosen.sort or not text or abs(seq) >= 2**63:
        raise Malformed(
            "cursor", "the `next` of a page by the same sort", chosen.cursor[:80]
        )
    return value, seq


def states(chosen: TaskFilter) -> Callable[[sqlite3.Connection], dict[str, int]]:
    """Ask how many tasks the filter without its states finds in each; raises Malformed."""
    where, values = _where(replace(chosen, state=[]))

    def ask(connection: sqlite3.Connection) -> dict[str, int]:
        return dict(
            connection.execute(
                f"select state, count(*) from task {where} group by state", values
            ).fetchall()
        )

    return ask


class Meant(NamedTuple):
    """A task that a filter means, and where it stands.

    `own_seq` is where its subject must stand for a decision to be sure of its outcome, 0
    where nobody can be without reading all of the task.
    """

    id: str
    state: str
    own_seq: int


def meant(
    chosen: TaskFilter,
    *,
    ids: Sequence[str] = (),
    until_seq: int | None = None,
    limit: int,
    after: str = "",
) -> Callable[[sqlite3.Connection], tuple[int, list[Meant]]]:
    """Ask for those that a command is to be carried out on, by id; and for their number.

    Beside the filter `ids` say which, if any are given.
    `until_seq` leaves out those that were submitted, or ended, after that sequence,
    `after` those up to that id. Raises Malformed.
    """
    clauses, values = _clauses(chosen)
    if ids:
        clauses.append("id in (select value from json_each(?))")
        values.append(encode(list(ids)).decode())
    if until_seq is not None:
        clauses += ["seq <= ?", "(finished_at = '' or phase_seq <= ?)"]
        values += [until_seq, until_seq]
    counted = _joined(clauses)
    paged = _joined([*clauses, "id > ?"])

    def ask(connection: sqlite3.Connection) -> tuple[int, list[Meant]]:
        (total,) = connection.execute(
            f"select count(*) from task {counted}", values
        ).fetchone()
        rows = connection.execute(
            f"select id, state, own_seq from task {paged} order by id limit ?",
            (*values, after, limit),
        )
        return total, [Meant(*row) for row in rows]

    return ask


def _joined(clauses: list[str]) -> str:
    return f"where {' and '.join(clauses)}" if clauses else ""


def _where(chosen: TaskFilter) -> tuple[str, list[Any]]:
    clauses, values = _clauses(chosen)
    return _joined(clauses), values


_EXACT: Final = (*("tier", "host", "repo", "priority", "submitter", "error_code"),)


def _clauses(chosen: TaskFilter) -> tuple[list[str], list[Any]]:
    clauses: list[str] = []
    values: list[Any] = []
    if chosen.state:
        clauses.append(f"state in ({','.join('?' * len(chosen.state))})")
        values += chosen.state
    for column in _EXACT:
        if value := getattr(chosen, column):
            clauses.append(f"{column} = ?")
            values.append(value)
    if chosen.model:
        # Ollama's models are shown without their `:latest`.
        clauses.append("model in (?, ?)")
        values += [chosen.model, normal_model(chosen.model)]
    if chosen.root:
        clauses += ["root <> ''", "root = ?"]
        values.append(chosen.root)
    if chosen.fallback is not None:
        clauses.append("fallback = ?")
        values.append(chosen.fallback)
    for part in _label_parts(chosen.labels):
        clauses.append("instr(labels, ?)")
        values.append(part)
    if chosen.need:
        clauses.append("instr(needs, ?)")
        values.append(needs_text(chosen.need))
    for bound, than in (("since", ">="), ("until", "<")):
        if at := time_of(getattr(chosen, bound), bound):
            clauses.append(f"at {than} ?")
            values.append(at)
    if chosen.error:
        clauses.append("(error_code = ? or instr(folded(error), ?))")
        values += [chosen.error, chosen.error.casefold()]
    if chosen.text:
        clause, more = _text_clause(chosen.text)
        clauses.append(clause)
        values += more
    return clauses, values


def _label_parts(labels: Iterable[tuple[str, str | None]]) -> Iterator[str]:
    """Yield what stands in the column of labels where a task has the label."""
    for key, value in labels:
        yield f'"{key}":' if value is None else f'"{key}":"{value}"'


_SOUGHT: Final = ("description", "error", "submitter", "labels")
"""Where a text is looked for, beside the beginning of the id."""


def _text_clause(text: str) -> tuple[str, list[Any]]:
    if not text.isascii():
        # SQLite's own `like` knows the cases of ASCII only, and is quicker.
        sought = " or ".join(f"instr(folded({c}), ?)" for c in _SOUGHT[:2])
        return f"({sought})", [text.casefold()] * 2
    # To `like` a text ends at a NUL, so nothing would be looked for.
    pattern = text.replace("\0", "\ufffd").replace("\\", "\\\\")
    pattern = pattern.replace("%", "\\%").replace("_", "\\_")
    sought = " or ".join(f"{c} like ? escape '\\'" for c in (*_SOUGHT, "id"))
    return f"({sought})", [*[f"%{pattern}%"] * len(_SOUGHT), f"{pattern}%"]


SHORT_ID: Final = 8
"""No id is shown shorter."""
MARGIN: Final = 2
"""So many more characters are shown than tell an id from all others, for those to come."""


def short_ids(
    ids: Sequence[str],
) -> Callable[[sqlite3.Connection], dict[str, str]]:
    """Ask for the beginnings by which these ids are told from those of all tasks."""

    def ask(connection: sqlite3.Connection) -> dict[str, str]:
        found = {}
        for task_id in ids:
            before, after = connection.execute(
                "select (select max(id) from task where id < ?), "
                "(select min(id) from task where id > ?)",
                (task_id, task_id),
            ).fetchone()
            common = max(_shared(task_id, other or "") for other in (before, after))
            found[task_id] = task_id[: max(SHORT_ID, common + 1 + MARGIN)]
        return found

    return ask


def _shared(one: str, other: str) -> int:
    """Count the characters that two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


CANDIDATES: Final = 5
"""So many ids are named where a beginning is that of several."""


def ids_from(prefix: str) -> Callable[[sqlite3.Connection], list[str]]:
    """Ask for the first ids that begin so."""

    def ask(connection: sqlite3.Connection) -> list[str]:
        rows = connection.execute(
            "select id from task where id >= ? and id < ? order by id limit ?",
            (prefix, prefix + "\x7f", CANDIDATES + 1),
        )
        return [task_id for (task_id,) in rows]

    return ask


def costs(
    by: str,
    since: str = "",
    until: str = "",
    *,
    stack: str = "",
    fallback: bool | None = None,
    label: Sequence[str] = (),
) -> Callable[[sqlite3.Connection], list[CostLine]]:
    """Ask for what was spent by a dimension, in the hours from `since` to `until`.

    `by` is one of DIMENSIONS, or `label:KEY`: then "" is what has no such label. So is
    `stack`, by which each line is taken apart again.
    `fallback` picks the runs that were, or were not, off their preferred tier, `label`
    those of tasks with these labels. Raises Malformed.
    """
    key, values = _dimension(by, "by")
    apart, more = _dimension(stack, "stack") if stack else ("''", [])
    values += more
    clauses = ["hour >= ?"]
    values.append(_hour(since, "since"))
    if until:
        clauses.append("hour < ?")
        values.append(_hour(until, "until"))
    if fallback is not None:
        clauses.append(f"fallback {'<>' if fallback else '='} ''")
    labels = [label_of(text, f"label[{n}]") for n, text in enumerate(label)]
    for written in _label_parts(labels):
        clauses.append("instr(labels, ?)")
        values.append(written)
    sums = ", ".join(f"sum({name})" for name in SPEND_SUMS)
    order = "1" if by in ("day", "hour") else "sum(usd_nano) desc, 1"

    def ask(connection: sqlite3.Connection) -> list[CostLine]:
        rows = connection.execute(
            f"select {key}, {apart}, {sums} from spend {_joined(clauses)} "
            f"group by 1, 2 order by {order}, 2",
            values,
        )
        return [_cost_line(row) for row in rows]

    return ask


def _hour(text: str, path: str) -> str:
    """Return the hour in UTC of a point of time; raises Malformed."""
    return time_of(text, path)[: len("2026-01-31T09")]


def _dimension(by: str, path: str) -> tuple[str, list[Any]]:
    """Return the column that a dimension is, and what it needs; raises Malformed."""
    if by in DIMENSIONS:
        return DIMENSIONS[by], []
    what, _, key = by.partition(":")
    if what == "label" and is_label(key):
        return "coalesce(json_extract(labels, ?), '')", [f'$."{key}"']
    near = get_close_matches(by, [*DIMENSIONS, BY_LABEL], n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise Malformed(path, f"one of {', '.join(DIMENSIONS)}, {BY_LABEL}{hint}", by[:80])


def _cost_line(row: tuple[Any, ...]) -> CostLine:
    (key, part, runs, completed, late, tokens_in, tokens_out, *rest) = row
    cache_read, cache_write, usd, equivalent, saved, unpriced, *unsure = rest
    unknown_in, unknown_out, guessed = unsure
    return CostLine(
        key=key,
        part=part,
        runs=runs,
        completed=completed,
        late=late,
        tokens_in=tokens_in if tokens_in or not unknown_in else None,
        tokens_out=tokens_out if tokens_out or not unknown_out else None,
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
        cost_usd=usd / NANO,
        estimated_cost_usd=usd / NANO,
        equivalent_claude_cost_usd=equivalent / NANO,
        saved_usd=saved / NANO,
        unpriced=unpriced,
        guessed=guessed,
        unknown_tokens=max(unknown_in, unknown_out),
    )
