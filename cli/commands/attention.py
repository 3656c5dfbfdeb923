"""`agentcom attention`: what wants a person, and the command that deals with it."""

from __future__ import annotations

import shlex
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from cli.client.connection import answer_to
from cli.client.target import on_target
from cli.commands.options import json_option
from cli.render.terminal import (
    EXIT_OK,
    age,
    cell,
    console,
    is_narrow,
    line_of,
    local,
    print_json,
    table,
    utc_now,
)
from projections.answers import AttentionAnswer

if TYPE_CHECKING:
    from events.filters import TaskFilter
    from projections.answers import AttentionRow

_STYLE: Final = {"error": "red", "warning": "yellow"}


@click.command()
@on_target
@json_option
def attention(*, as_json: bool) -> int:
    """Say what wants a person: hosts lost, tiers down, tasks stuck, failed or dead.

    One line a cause, the worst first, with the command that deals with it.
    """
    answer = answer_to("attention", {}, AttentionAnswer)
    if as_json:
        return print_json(answer)
    if not answer.rows:
        click.echo("nothing wants you")
        return EXIT_OK
    now = utc_now()
    if is_narrow(80):
        for row in answer.rows:
            said = line_of(local(row.sentence))
            screen = console()
            screen.print(
                f"{said} ({age(row.since, now)})",
                style=_STYLE.get(row.severity, ""),
                markup=False,
            )
            if command := command_of(row):
                # Not cut, and in one piece: it is to be copied.
                screen.print(f"  {command}", style="dim", markup=False, soft_wrap=True)
        return EXIT_OK
    rows = table(("", "what", "since"), right=("since",), elastic=("what",))
    for row in answer.rows:
        rows.add_row(
            cell(row.severity, style=_STYLE.get(row.severity, "")),
            cell(local(row.sentence)),
            age(row.since, now),
        )
        if command := command_of(row):
            rows.add_row("", cell(f"  {command}", style="dim"), "")
    console().print(rows)
    return EXIT_OK


def command_of(row: AttentionRow) -> str:
    """Write the command that deals with a row, or shows it; "" where none does."""
    match row.action:
        case "acknowledge":
            return f"agentcom ack {row.tier}"
        case "clear_limit":
            return f"agentcom tiers clear-limit {row.tier}"
        case "open_host":
            return "agentcom hosts"
        case "retry" | "cancel" if row.filter is not None:
            return f"agentcom {row.action} {options_of(row.filter)} --dry-run"
        case _ if row.filter is not None:
            return f"agentcom tasks {options_of(row.filter)}"
        case _:
            return ""


def options_of(chosen: TaskFilter) -> str:
    """Write a filter as the options of a command."""
    fields: dict[str, Any] = msgspec.to_builtins(chosen)
    words: list[str] = []
    for name, value in fields.items():
        flag = f"--{name.replace('_', '-')}"
        if name == "fallback":
            words.append(flag if value else "--no-fallback")
            continue
        for each in value if isinstance(value, list) else [value]:
            text = _here(each) if name in ("since", "until") else str(each)
            words += [flag, shlex.quote(line_of(text))]
    return " ".join(words)


def _here(instant: str) -> str:
    """Write an instant of the log in this machine's zone, so that it may be typed."""
    try:
        return datetime.fromisoformat(instant).astimezone().isoformat()
    except ValueError:
        return instant
