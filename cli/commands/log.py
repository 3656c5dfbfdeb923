"""`agentcom events`: the log, read or followed, as it was written."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import suppress
from typing import Final

import click

from cli.client.connection import Session, connected, run
from cli.client.target import on_target
from cli.commands.options import Between
from cli.render.events import event_line, json_line
from cli.render.terminal import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    Problem,
    did_you_mean,
    line_of,
)
from events import catalogue as c
from events import subjects
from events.errors import Malformed, shown
from events.ids import is_token
from events.position import LogChanged, Position
from events.races import first

LAST_SHOWN: Final = 50
LAST_FOLLOWED: Final = 10


@click.command()
@on_target
@click.option("--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option(
    "--from",
    "start",
    type=int,
    metavar="N",
    help="Begin at sequence N; -N begins N events before the end.",
)
@click.option(
    "--after",
    "behind",
    metavar="SEQ:ID",
    help="Begin behind this event, by sequence and id; refused where the log has another "
    "one there.",
)
@click.option("--limit", type=Between(1), help="End after so many.")
@click.option(
    "--subject",
    "patterns",
    multiple=True,
    help="Only these subjects; * and > as in NATS. "
    f"'{subjects.EVENT_PREFIX}' may be left out.",
)
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="TYPE",
    help="Only these types: task.failed, or task.* for a family.",
)
@click.option("--task", "task_id", metavar="ID", help="Only what is about this task.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def events(
    *,
    follow: bool,
    start: int | None,
    behind: str | None,
    limit: int | None,
    patterns: tuple[str, ...],
    types: tuple[str, ...],
    task_id: str | None,
    as_json: bool,
) -> int:
    """Read the log from its beginning, or follow it.

    On a terminal, without --from and filters, the last 50 events; with --follow alone,
    the last 10 and what comes.
    """
    for each in types:
        _check_type(each)
    after = None if behind is None else _position(behind)
    if after is not None and start is not None:
        raise click.UsageError("--after says where to begin: leave out --from")
    chosen = Chosen(types, limit, as_json=as_json)
    filters = [pattern_of(each) for each in patterns]
    try:
        return run(_events(chosen, follow, start, after, filters, task_id))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED if not follow else EXIT_OK


def _check_type(argument: str) -> None:
    """Refuse a type that no event has; raises UsageError with what is near.

    A tag with a version may be one of a later version's.
    """
    tags = c.types().keys()
    names = {tag.rpartition(".v")[0] for tag in tags}
    families = {f"{name.rpartition('.')[0]}.*" for name in names}
    if argument in names | families or re.fullmatch(r".+\.v\d+", argument):
        return
    hint = did_you_mean(argument, sorted(names | families))
    raise click.UsageError(
        f"--type {line_of(argument, 60)}: no event has this type.{hint} "
        f"Families: {', '.join(sorted(families))}"
    )


def _position(argument: str) -> Position:
    """Read SEQ:ID, also with the time that stands behind it; raises UsageError."""
    with suppress(Malformed):
        position = Position.parse(argument)
        if (position.seq and is_token(position.id)) or argument == "0":
            return position
    raise click.UsageError(
        f"--after {line_of(argument, 60)}: expected SEQ:ID of the event that was read last, "
        "as `events --json` writes both, 0 for none; --from N begins at a sequence alone"
    )


class Chosen:
    """Prints the events that were asked for, until there were enough."""

    def __init__(
        self, types: tuple[str, ...], limit: int | None, *, as_json: bool
    ) -> None:
        self._types = types
        self._left = limit
        self._as_json = as_json
        self.enough = asyncio.Event()
        self.anything = not types

    def show(self, recorded: c.Recorded) -> None:
        """Print an event, if it is one of them."""
        if self.enough.is_set() or not self._wanted(recorded.event):
            return
        if self._as_json:
            line = json_line(recorded)
        else:
            line = event_line(recorded.seq, recorded.subject, recorded.event)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self.enough.set()

    def _wanted(self, event: c.Event) -> bool:
        if not self._types:
            return True
        tag, name = c.tag(event), c.name(event)
        return any(
            each in (tag, name) or (each.endswith(".*") and name.startswith(each[:-1]))
            for each in self._types
        )


async def _events(
    chosen: Chosen,
    follow: bool,
    start: int | None,
    after: Position | None,
    patterns: list[str],
    task_id: str | None,
) -> int:
    async with connected() as client:
        filters = list(patterns)
        if task_id is not None:
            # Who follows may be there before the task is.
            full = await (client.full_id if follow else client.known_id)(task_id)
            if not is_token(full):
                raise Problem(f"{shown(task_id)} is no task's id")
            filters += [subjects.task(full), subjects.runs_of(full)]
        plain = not filters and chosen.anything
        if after is not None:
            after = await _known(client, after)
            start = after.seq + 1
        begin = await _first(client, start, follow=follow, plain=plain)
        last = await client.log.last_sequence()
        if not follow and after is None and begin > last + 1:
            raise Problem(f"--from {begin}: the log ends at sequence {last}")
        follower = await client.log.follow(
            chosen.show, start=begin, after=after, subjects=filters
        )
        ends = [chosen.enough] if follow else [chosen.enough, follower.caught_up]
        try:
            await first(*(end.wait() for end in ends), follower.failed)
        finally:
            await follower.stop()
        if follower.undecodable:
            click.echo(f"{follower.undecodable} messages are no events", err=True)
    return EXIT_OK


def pattern_of(argument: str) -> str:
    """Return a whole pattern of subjects; raises UsageError where it can match no event."""
    parts = argument.split(".")
    if argument != ">" and parts[0] != _ROOT[0]:
        parts = [*_ROOT, *parts]
    well_formed = ">" not in parts[:-1] and all(
        part in ("*", ">") or _PART.fullmatch(part) for part in parts
    )
    if not well_formed or not _of_events(parts):
        raise click.UsageError(
            f"--subject {line_of(shown(argument, 100))}: expected parts of letters, digits, - and _ "
            "with dots between, * for any part, > at the end for any rest, like task.* "
            "or run.h1.>"
        )
    return ".".join(parts)


_ROOT: Final = subjects.EVENT_PREFIX.rstrip(".").split(".")
_PART: Final = re.compile(r"[A-Za-z0-9_-]+")


def _of_events(parts: list[str]) -> bool:
    """Whether a pattern can match an event's subject."""
    for part, name in zip(parts, _ROOT, strict=False):
        if part == ">":
            return True
        if part not in (name, "*"):
            return False
    return len(parts) > 2


async def _known(client: Session, after: Position) -> Position:
    """Return the position of the event that was named; raises LogChanged, LogError."""
    if not after.seq:
        return after
    recorded = await client.log.get(after.seq)
    if recorded is None or recorded.event.id != after.id:
        raise LogChanged(after)
    there = Position.of(recorded)
    if after.at and after != there:
        raise LogChanged(after)
    return there


async def _first(
    client: Session, start: int | None, *, follow: bool, plain: bool
) -> int:
    """Choose the sequence to begin at."""
    if start is not None and start >= 0:
        return max(start, 1)
    last = await client.log.last_sequence()
    if start is not None:
        return max(last + start + 1, 1)
    if follow and plain:
        return max(last - LAST_FOLLOWED + 1, 1)
    if plain and sys.stdout.isatty() and last > LAST_SHOWN:
        click.echo(
            f"the last {LAST_SHOWN} of {last} events; --from 1 shows all", err=True
        )
        return last - LAST_SHOWN + 1
    return 1
