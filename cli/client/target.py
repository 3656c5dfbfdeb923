"""Which instance a command is meant for: `--data DIR`, or `--nats URL --creds FILE`.

The options stand before the subcommand or after it, whatever one types first.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

SAID = "agentcom.said."
"""Before an option's name in a context's `meta`: what a line that is completed says."""
_DATA = "AGENTCOM_DATA"
_NATS = "AGENTCOM_NATS"
_CREDS = "AGENTCOM_CREDS"


def on_target(command: F) -> F:
    """Add `--data`, `--nats` and `--creds`, which `credentials_for` and Instance go by."""

    def keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is None:
            return
        if ctx.resilient_parsing:  # a shell completes the line
            ctx.meta[f"{SAID}{parameter.name}"] = value
        else:
            set_target(**{str(parameter.name): value})

    for flag, metavar, kind, help_text in reversed(_OPTIONS):
        command = click.option(
            flag,
            metavar=metavar,
            type=kind,
            help=help_text,
            expose_value=False,
            callback=keep,
        )(command)
    return command


def set_target(
    data: Path | None = None, nats: str | None = None, creds: Path | None = None
) -> None:
    """Remember what was said for the rest of this process, and for its children."""
    for variable, value in ((_DATA, data), (_NATS, nats), (_CREDS, creds)):
        if value is not None:
            os.environ[variable] = str(value)


def said_url() -> str | None:
    """Return what `--nats` said, None where the data folder is to say it."""
    return os.environ.get(_NATS) or None


def said_creds() -> Path | None:
    """Return what `--creds` said."""
    path = os.environ.get(_CREDS)
    return Path(path).expanduser() if path else None


_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_OPTIONS: list[tuple[str, str, Any, str]] = [
    (
        "--data",
        "DIR",
        _FOLDER,
        "The instance's folder  [default: $AGENTCOM_DATA, else your user data folder]",
    ),
    ("--nats", "URL", str, "The broker, where it is not the folder's own."),
    ("--creds", "FILE", _FILE, "A role's key, e.g. operator.nk; with --nats."),
]
