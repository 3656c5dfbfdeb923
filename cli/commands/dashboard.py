"""Where the dashboard is; and the options of `up` and `web` that say so."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from msgspec import DecodeError, Struct, json

from cli.client.target import on_target
from cli.commands.options import json_option
from cli.local.instance import Instance
from cli.render.terminal import EXIT_OK, EXIT_UNREACHABLE, Problem, print_json
from events.errors import shown

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

ANSWER_S: Final = 2.0
_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")


def _path(_: click.Context, __: click.Parameter, path: str) -> str:
    """Read `/fleet`, `fleet` or `/fleet/` as `/fleet`."""
    trimmed = path.strip("/")
    base = f"/{trimmed}" if trimmed else ""
    if _PATH.fullmatch(base) is None:
        raise click.BadParameter(f"{shown(path)} is not a path, as /fleet is")
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
    _: click.Context, __: click.Parameter, addresses: tuple[str, ...]
) -> tuple[str, ...]:
    """Read IP addresses, each in its one form."""
    try:
        return tuple(str(ip_address(each)) for each in addresses)
    except ValueError:
        raise click.BadParameter(
            f"{', '.join(addresses)}: an IP address is needed, as 10.0.0.7 or ::1"
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


@click.command()
@on_target
@click.option("--open", "opens", is_flag=True, help="Open it in a browser.")
@json_option
def dashboard(*, opens: bool, as_json: bool) -> int:
    """Print the dashboard's address with what signs you in, or open it.

    The address holds the operator's token: whoever has it may do everything.
    """
    url = address_of(Instance())
    if as_json:
        print_json({"url": url})
    else:
        click.echo(url)
    if opens and click.launch(url):
        raise Problem("no browser could be started: open the address yourself")
    return EXIT_OK


class _Served(Struct):
    url: str


def address_of(instance: Instance) -> str:
    """Return the dashboard's address with the operator's token; raises Problem."""
    from urllib.parse import quote
    from urllib.request import urlopen

    from web.access import TOKENS_FILE, Tokens

    try:
        kept = json.decode(instance.dashboard_file.read_bytes(), type=_Served)
        with urlopen(f"{kept.url}/healthz", timeout=ANSWER_S):
            pass
    except (OSError, DecodeError, ValueError) as error:
        raise Problem(
            f"nobody serves the dashboard of {instance.data}: start it with "
            "`agentcom up` or `agentcom web`",
            EXIT_UNREACHABLE,
        ) from error
    tokens = instance.data / TOKENS_FILE
    if not tokens.exists():
        return kept.url
    return f"{kept.url}/#token={quote(Tokens.load(tokens).operator, safe='')}"
