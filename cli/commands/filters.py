"""The options that choose tasks, the same for every command: lists, cancel, retry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from cli.client.completing import hosts, models
from cli.commands.options import PRIORITIES, TIERS, Word
from cli.local.instance import ROLES, Instance
from cli.render.terminal import harmless
from events.errors import Malformed
from events.filters import FILTERS, label_of
from events.lifecycle import PHASES

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def _time(_: click.Context, __: click.Parameter, argument: str | None) -> str | None:
    from cli.client.spans import instant_of

    return instant_of(argument) if argument else argument


def _labels(
    _: click.Context, __: click.Parameter, arguments: tuple[str, ...]
) -> tuple[str, ...]:
    for argument in arguments:
        try:
            label_of(argument)
        except Malformed as wrong:
            raise click.BadParameter(
                f"expected {wrong.expected}, got {wrong.got}"
            ) from wrong
    return arguments


def _submitter(
    _: click.Context, __: click.Parameter, argument: str | None
) -> str | None:
    """Turn a role's name into the key that stands in the log."""
    if argument not in ROLES:
        return argument
    return Instance().key_of(argument) or argument


label_option = click.option(
    "--label",
    metavar="KEY[=VALUE]",
    multiple=True,
    callback=_labels,
    help="With this label; of several, all.",
)
_OPTIONS: Final = (
    click.option(
        "--state", multiple=True, type=Word(PHASES), help="Several are allowed."
    ),
    label_option,
    click.option(
        "--since",
        metavar="TIME",
        callback=_time,
        help="Ended since then, or, if not over, submitted: 2h, yesterday, 2026-01-31, RFC 3339.",
    ),
    click.option("--until", metavar="TIME", callback=_time, help="The same, before."),
    click.option("--tier", type=Word(TIERS)),
    click.option(
        "--host", shell_complete=hosts, help="Where it ran, or what it waits for."
    ),
    click.option(
        "--model", shell_complete=models, help="What it ran on, or what it waits for."
    ),
    click.option("--repo"),
    click.option("--priority", type=Word(PRIORITIES)),
    click.option(
        "--submitter",
        metavar="WHO",
        callback=_submitter,
        help="As a task shows it: a person, a key, or a role such as submitter.",
    ),
    click.option(
        "--root", metavar="ID", help="Of this task's tree: itself, children, theirs."
    ),
    click.option("--need", help="What its host must be able to."),
    click.option("--error-code", metavar="CODE", help="Its error's code."),
    click.option("--error", metavar="TEXT", help="In its error: a code, or a text."),
    click.option(
        "--text",
        help="In description, error, submitter or labels, or an id's beginning.",
    ),
    click.option(
        "--fallback/--no-fallback", default=None, help="Ran off its preferred tier."
    ),
)


def filter_options(command: F) -> F:
    """Add every option that chooses tasks."""
    for add in reversed(_OPTIONS):
        command = add(command)
    return command


def filter_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the filter among a command's arguments, without what was not said."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name in FILTERS
        if (value := options.get(name)) not in (None, "", ())
    }


labels_option = click.option(
    "--label",
    "labels",
    metavar="KEY=VALUE",
    multiple=True,
    help="What it is chosen by in lists and bills, at most 32.",
)


def labels_of(arguments: tuple[str, ...]) -> dict[str, str]:
    """Read `team=search` and its like into labels; raises UsageError."""
    labels: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise click.UsageError(
                f"--label {harmless(argument)}: expected KEY=VALUE, such as team=search"
            )
        if labels.setdefault(key, value) != value:
            raise click.UsageError(f"--label {harmless(key)}: two values, say one")
    return labels
