"""Reads the whole log, counts what is odd in it, and compares the stored read models.

Unknown tags and void events are counted and are no fault: the first are another
version's, the second are what the folds' checks are for. A fault is a stored read model
that differs from a fresh fold of the same events.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from events.position import NOWHERE, Position
from projections.judged import NO_SUCH_STEP, NOT_IN_FORCE
from projections.store_file import made_by, saved
from projections.timetravel import TimeTravel

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from events.log import EventLog
    from projections.judged import JudgedEvent
    from projections.world import World

DIFFERENCES_SHOWN: Final = 20


class LogGap(Struct, frozen=True):
    """Sequences, `first` to `last`, that hold no event: missing, or no event at all.

    `after` is the position of the event before them, so that it is known of which log
    they are; "" at the log's beginning.
    """

    first: int
    last: int
    after: str = ""


class Report(Struct, kw_only=True):
    """What was found. `seq` is how far the log was read.

    `ok` is False where read models differ from the log, or messages are no events or
    missing, unless somebody has acknowledged these: `gaps` are those that nobody has,
    `acknowledged` counts the sequences of the others. `missing` counts those, None where that could not be asked.
    `illegal` counts steps that the task's state refused, `late` reports on routes no
    longer in force. `read_models` is "not compared" where there is no file, or another
    version's.
    """

    ok: bool
    seq: int
    events: int
    missing: int | None
    undecodable: int
    acknowledged: int = 0
    gaps: list[LogGap] = []
    unknown: dict[str, int]
    foreign: int
    void: dict[str, int]
    illegal: int
    late: int
    repeats: int
    read_models: str
    differences: list[str]


async def verify(
    log: EventLog,
    path: Path | None = None,
    *,
    stored: tuple[int, int] | None = None,
    acknowledged: Collection[LogGap] = (),
) -> Report:
    """Read the log through and compare the store at `path`, which may be in use.

    `stored` is what the log's keeper says: the last sequence, and how many messages.
    `acknowledged` are gaps that are known and no fault any more.
    """
    past = TimeTravel(log)
    void_codes: Counter[str] = Counter()

    gaps: list[LogGap] = []
    before = NOWHERE

    def note(world: World, judged: JudgedEvent) -> None:
        nonlocal before
        seq = judged.recorded.seq
        if seq > before.seq + 1:
            after = str(before) if before.seq else ""
            gaps.append(LogGap(before.seq + 1, seq - 1, after))
        before = Position.of(judged.recorded)
        if judged.verdict == "void":
            void_codes[judged.reason_code] += 1

    try:
        kept, not_compared = _kept(path)
        position = kept["position"][0] if kept else 0
        await past.walk(1, position, note)
        differences = (
            list(_differences(kept, await past.rows(position))) if kept else []
        )
        world = await past.walk(position + 1, await log.last_sequence(), note)
    finally:
        past.close()
    stats = world.stats
    missing = None if stored is None else stored[0] - stored[1]
    passed_over = stats.undecodable - (missing or 0)
    unknown_gaps = [gap for gap in gaps if gap not in acknowledged]
    # Missing behind the last event, so in no gap.
    behind = max((missing or 0) - stats.undecodable, 0)
    return Report(
        ok=not differences and not unknown_gaps and not behind,
        acknowledged=sum(
            gap.last - gap.first + 1 for gap in gaps if gap in acknowledged
        ),
        gaps=unknown_gaps,
        seq=world.position,
        events=stats.events,
        missing=missing,
        undecodable=passed_over,
        unknown=stats.unknown,
        foreign=stats.refused.get("foreign", 0),
        void=stats.void,
        illegal=void_codes[NO_SUCH_STEP],
        late=void_codes[NOT_IN_FORCE.code],
        repeats=stats.refused.get("repeat", 0),
        read_models=not_compared
        or f"{'differ from' if differences else 'equal'} a fresh fold at {position}",
        differences=differences,
    )


def _kept(path: Path | None) -> tuple[dict[str, list[Any]], str]:
    """Return the rows of the stored read models; none, and why, if not to be compared."""
    try:
        maker, rows = ("", {}) if path is None else saved(path)
    except FileNotFoundError:
        maker, rows = "", {}
    if not rows:
        return {}, "not compared: there is no file"
    if maker != made_by():
        return {}, f"not compared: made by {maker or 'another version'}"
    if not rows["position"][0]:
        return {}, "not compared: nothing has been saved yet"
    return rows, ""


def _differences(
    stored: dict[str, list[Any]], fresh: dict[str, list[Any]]
) -> list[str]:
    differences: list[str] = []
    for table, rows in fresh.items():
        ours = {_name(row): row for row in stored.get(table, [])}
        theirs = {_name(row): row for row in rows}
        for name in sorted({*ours, *theirs}):
            if name not in theirs:
                differences.append(f"{table} {name}: should not be there")
            elif name not in ours:
                differences.append(f"{table} {name}: is missing")
            elif ours[name] != theirs[name]:
                differences.append(f"{table} {name}: differs")
    left = len(differences) - DIFFERENCES_SHOWN
    return (
        differences
        if left <= 0
        else [*differences[:DIFFERENCES_SHOWN], f"and {left} more"]
    )


def _name(row: Any) -> str:
    if not isinstance(row, tuple):
        return str(row)
    if isinstance(row[0], int):
        return str(row[1])
    return " ".join(str(part) for part in row[:9] if not isinstance(part, (dict, list)))
