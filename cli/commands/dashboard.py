"""Where the dashboard may be asked for: options that `up` and `web` share."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")


def _path(_: click.Context, __: click.Parameter, path: str) -> str:
    """Read `/fleet`, `fleet` or `/fleet/` as `/fleet`."""
    trimmed = path.strip("/")
    base = f"/{trimmed}" if trimmed else ""
    if _PATH.fullmatch(base) is None:
        raise click.BadParameter(f"{path!r} is not a path, as /fleet is")
    return base


ON_BASE_PATH = click.option(
    "--base-path",
    "base",
    metavar="PATH",
    default="",
    callback=_path,
    help="The path below which the dashboard and its API are, for a proxy that passes "
    "it on: /fleet.",
)


def on_names(*options: str) -> Callable[[F], F]:
    """Make the option for further host names, under the names given."""
    return click.option(
        *options,
        "names",
        multiple=True,
        metavar="NAME",
        help="A further host name that the dashboard is asked for under, a proxy's for "
        "example; * for any.",
    )
