"""`agentcom scheduler`, `web` and `sidecar`: one role in this process, until a signal.

See `cli.local.process` for how a role lives, `cli.local.roles` for what it is made of.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from actors.scheduler.lease import LEASE_TTL_S, REPLICATED_LEASE_TTL_S
from cli.client.target import on_target
from cli.commands.dashboard import ON_BASE_PATH, ON_PROXIES, on_names
from cli.commands.options import Between, store_option
from cli.local.instance import (
    Instance,
)
from cli.local.process import run_role
from cli.local.roles import (
    be_scheduler,
    be_sidecar,
    be_web,
    host_credentials,
    named,
    role_credentials,
    sidecar_config,
)
from cli.render.terminal import Problem
from events.errors import shown
from sidecar.private import mend
from sidecar.shield import shield, take_out
from web.access import DEFAULT_PORT

if TYPE_CHECKING:
    import asyncio

_DEBUG = click.option("--debug", is_flag=True, help="Log more.")


def _address(
    _: click.Context, __: click.Parameter, argument: str | None
) -> tuple[str, int] | None:
    """Read `9090` or `0.0.0.0:9090`."""
    if argument is None:
        return None
    host, _colon, port = argument.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise click.BadParameter(f"{shown(argument)}: expected PORT or HOST:PORT")
    return host or "127.0.0.1", int(port)


_METRICS = click.option(
    "--metrics-port",
    "metrics",
    metavar="[HOST:]PORT",
    callback=_address,
    help="Serve metrics for Prometheus there; 0 for any free port.",
)


# -- scheduler -------------------------------------------------------------------------


@click.command()
@on_target
@_METRICS
@click.option(
    "--lease-ttl",
    "lease_ttl",
    type=Between(min=1),
    metavar="SECONDS",
    help="How long a leader stays one without renewing it, whole seconds, at least 1; "
    f"it is renewed four times as often  [default: {LEASE_TTL_S}, or "
    f"{REPLICATED_LEASE_TTL_S} where the broker is a cluster, for its failover]",
)
@_DEBUG
def scheduler(
    metrics: tuple[str, int] | None, lease_ttl: int | None, debug: bool
) -> None:
    """Run a scheduler. Of several, one leads and the others stand by.

    Makes the streams first where they are missing and the data folder has the admin's
    key.
    """
    shield()
    mend(Instance().data)
    credentials = role_credentials("scheduler")
    run_role(
        lambda stop: be_scheduler(credentials, stop, metrics, lease_ttl=lease_ttl),
        debug=debug,
    )


# -- web -------------------------------------------------------------------------------


@click.command()
@on_target
@click.option(
    "--port",
    type=Between(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Where to listen; 0 for any free port.",
)
@click.option("--host", "address", default="127.0.0.1", show_default=True)
@on_names("--web-name", "--name")
@ON_BASE_PATH
@ON_PROXIES
@store_option
@_DEBUG
def web(
    port: int,
    address: str,
    names: tuple[str, ...],
    base: str,
    proxies: tuple[str, ...],
    store: Path | None,
    debug: bool,
) -> None:
    """Run the read models, and serve them and the dashboard over HTTP."""
    shield()
    mend(Instance().data)
    credentials = role_credentials("projections")
    file = store or Instance().read_models

    async def work(stop: asyncio.Event) -> None:
        await be_web(credentials, stop, file, address, port, names, base, proxies)

    run_role(work, debug=debug)


# -- sidecar ---------------------------------------------------------------------------


@click.command()
@on_target
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="sidecar.toml  [default: the one in the data folder, where there is one]",
)
@click.option("--name", help="The host's name  [default: this machine's]")
@_METRICS
@_DEBUG
def sidecar(
    file: Path | None,
    name: str | None,
    metrics: tuple[str, int] | None,
    debug: bool,
) -> None:
    """Run this machine's sidecar: it takes tasks, runs them, and reports."""
    if sys.platform == "win32":
        raise Problem("the sidecar does not run on Windows: use WSL, Linux or macOS")
    shield()
    mend(Instance().data)
    config = sidecar_config(file, name)
    take_out(config.secret_names())
    credentials = host_credentials(config, chosen=bool(name or config.name))
    host = credentials.host
    assert host is not None
    config = named(config, host)
    run_role(lambda stop: be_sidecar(credentials, config, stop, metrics), debug=debug)
