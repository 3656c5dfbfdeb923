"""Options of a task that is not to start at once."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.client.spans import span_option, time_to_come
from cli.render.terminal import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def later_options(command: F) -> F:
    """Add what a task is to wait for before it starts."""
    options: list[Any] = [
        span_option("--in", "Start it so much later: 90, 5m, 2h, 3d."),
        click.option(
            "--at",
            metavar="TIME",
            help="Do not start it before: 18:30, tomorrow 9:00, 2026-01-31 09:00 where "
            "this is typed, or RFC 3339.",
        ),
    ]
    for add in options:
        command = add(command)
    return command


def later_of(options: dict[str, Any]) -> dict[str, Any]:
    """Make a task's fields of these options."""
    at, after = options["at"], options["in"]
    if at is not None and after is not None:
        raise click.UsageError("--at and --in do not go together: say one")
    if after is not None:
        then = utc_now().astimezone(UTC) + timedelta(seconds=after)
        return {"at": then.isoformat().replace("+00:00", "Z")}
    return {"at": None if at is None else time_to_come(at)}
