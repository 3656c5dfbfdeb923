"""Where the dashboard may be asked for: options that `up` and `web` share."""

from __future__ import annotations

import re
from ipaddress import ip_address
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


def _addresses(
    _: click.Context, __: click.Parameter, said: tuple[str, ...]
) -> tuple[str, ...]:
    """Read IP addresses, each in its one spelling."""
    try:
        return tuple(str(ip_address(each)) for each in said)
    except ValueError:
        raise click.BadParameter(
            f"{', '.join(said)}: an IP address is needed, as 10.0.0.7 or ::1"
        ) from None


ON_PROXIES = click.option(
    "--trust-proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    callback=_addresses,
    help="The address of a proxy whose X-Forwarded-For says who asks, so that wrong "
    "tokens are counted by client; again for more.",
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
