"""Options of a task that is not to start at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from actors.rules.later import FIELDS as AFTER
from cli.client.completing import ids
from cli.client.spans import span_option, time_to_come
from events.codec import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli.client.connection import Session

F = TypeVar("F", bound="Callable[..., Any]")


def later_options(command: F) -> F:
    """Add what a task is to wait for before it starts."""
    options: list[Any] = [
        span_option("--in", "Start it so much later: 90, 5m, 2h, 3d."),
        click.option(
            "--at",
            metavar="TIME",
            callback=lambda _, __, at: None if at is None else time_to_come(at),
            help="Do not start it before: 18:30, tomorrow 9:00, 2026-01-31 09:00 where "
            "this is typed, or RFC 3339.",
        ),
        click.option(
            "--input-from",
            metavar="ID",
            multiple=True,
            shell_complete=ids(),
            help="Like --after, and that task's output goes into the prompt.",
        ),
        click.option(
            "--after-any",
            metavar="ID",
            multiple=True,
            shell_complete=ids(),
            help="Start it when this task is over, however it ends.",
        ),
        click.option(
            "--after",
            metavar="ID",
            multiple=True,
            shell_complete=ids(),
            help="Start it when this task has completed; where it does not, this one is "
            "cancelled. In a file (-f) also a task's name.",
        ),
    ]
    for add in options:
        command = add(command)
    return command


def later_of(options: dict[str, Any]) -> dict[str, Any]:
    """Make a task's fields of these options."""
    at, in_s = options["at"], options["in"]
    if at is not None and in_s is not None:
        raise click.UsageError("--at and --in do not go together: say one")
    fields: dict[str, Any] = {name: list(options[name]) for name in AFTER}
    return {**fields, "at": at, "in": in_s}


def is_later(fields: dict[str, Any]) -> bool:
    """Whether a task waits for a time or for other tasks before it starts."""
    return "at" in fields or any(fields.get(name) for name in AFTER)


async def settle_later(client: Session, fields: dict[str, Any]) -> None:
    """Put whole ids in the place of beginnings that were typed, an instant in that of a delay.

    The scheduler holds the task back by its own clock, so the delay is added to that one's.
    """
    for name in AFTER:
        if name in fields:
            fields[name] = [await client.full_id(each) for each in fields[name]]
    if (in_s := fields.pop("in", None)) is not None:
        try:
            fields["at"] = rfc3339(await client.now() + in_s)
        except (ValueError, OverflowError) as error:
            raise click.UsageError("--in: that is beyond the year 9999") from error
