"""`agentcom up`: everything on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import click
from msgspec.structs import replace

from cli.client.connection import GivenUp, run, unless
from cli.client.target import on_target, said_creds, said_url
from cli.commands.dashboard import ON_BASE_PATH, ON_PROXIES, on_names
from cli.commands.options import Between
from cli.local.cluster import read_cluster
from cli.local.instance import (
    BROKER_PORT,
    DEFAULT_LISTEN,
    EVERY_ADDRESS,
    Instance,
)
from cli.local.process import ending_signals
from cli.local.roles import sidecar_config
from cli.local.supervisor import Everything, Plan, free_port
from cli.local.unheard import speak_unheard
from cli.render.fleet import describe
from cli.render.terminal import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    Problem,
    remark,
)
from sidecar.private import mend
from sidecar.shield import shield, take_out
from web.access import DEFAULT_PORT

_ADDRESS = re.compile(r"\S+:([0-9]{1,5})")


@click.command()
@on_target
@click.option(
    "--port",
    type=Between(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="The dashboard's; 0 for any free one.",
)
@click.option(
    "--nats-port",
    type=Between(0, 65535),
    help=f"The broker's; 0 for any free one  [default: as last time, {BROKER_PORT} at first]",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="The broker's address, 0.0.0.0:PORT for other machines to join; it is kept"
    f"  [default: as last time, {DEFAULT_LISTEN} at first]",
)
@click.option(
    "--metrics-port",
    "metrics",
    type=Between(0, 65534),
    metavar="PORT",
    help="Serve the scheduler's metrics for Prometheus there and the sidecar's on the next "
    "port, 0 for any free two; web's are on its own port at any rate.",
)
@click.option("--name", help="This host's name  [default: the machine's]")
@on_names("--web-name")
@ON_BASE_PATH
@ON_PROXIES
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="sidecar.toml  [default: the one in the data folder, where there is one]",
)
def up(
    port: int,
    nats_port: int | None,
    listen: str | None,
    metrics: int | None,
    name: str | None,
    names: tuple[str, ...],
    base: str,
    proxies: tuple[str, ...],
    file: Path | None,
) -> int:
    """Run broker, scheduler, web and sidecar, until Ctrl-C.

    The first start makes the data folder, with a key for each role.
    """
    if said_url() is not None or said_creds() is not None:
        raise click.UsageError(
            "up starts a broker of its own: leave out --nats and --creds, or start "
            "`agentcom scheduler`, `sidecar` and `web` beside the other broker"
        )
    if sys.platform == "win32":
        raise Problem("AgentCom does not run on Windows: use WSL, Linux or macOS")
    speak_unheard()
    instance = Instance()
    if (cluster := read_cluster(instance)) is not None:
        raise Problem(
            f"the broker of {instance.data} is the cluster {cluster.name}: start its "
            "nodes (docs/deploy/cluster.md), then `agentcom scheduler`, `web`, `sidecar`"
        )
    shield()
    mend(instance.data)
    plan = plan_for(instance, port, nats_port, listen, name, file)
    more = replace(
        plan,
        web_names=names,
        base=base,
        proxies=proxies,
        metrics=_metrics_ports(metrics),
    )
    return run(live(instance, more))


def _metrics_ports(first: int | None) -> tuple[int, int] | None:
    """Return the scheduler's port and the sidecar's; 0 is any free one."""
    if first is None:
        return None
    return (first, first + 1) if first else (free_port(), free_port())


def plan_for(
    instance: Instance,
    port: int,
    nats_port: int | None,
    listen: str | None,
    name: str | None,
    file: Path | None,
) -> Plan:
    """Choose name, address and ports; what was chosen before is kept."""
    config = sidecar_config(file, name)
    take_out(config.secret_names())
    if listen is not None:
        _check(listen)
        if nats_port is not None:
            raise click.UsageError("--listen names the port: leave out --nats-port")
    nats_host, _, last = (listen or instance.listen or DEFAULT_LISTEN).rpartition(":")
    if nats_port is None:
        nats_port = int(last) if last.isdigit() else BROKER_PORT
    return Plan(
        host=config.name or instance.own_host(config.data_path),
        port=port or free_port(),
        nats_port=nats_port or free_port(),
        any_port=not port,
        any_nats_port=not nats_port,
        nats_host=nats_host or EVERY_ADDRESS,
        config=file,
        work=config.data_path,
        drain_s=config.drain_timeout_s,
    )


def _check(listen: str) -> None:
    match = _ADDRESS.fullmatch(listen)
    if match is None or int(match[1]) > 65535:
        raise click.UsageError(
            f"--listen {listen} is not HOST:PORT, as 0.0.0.0:4222 is"
        )


async def live(instance: Instance, plan: Plan) -> int:
    """Run everything until a signal; the second signal ends it at once."""
    stop = asyncio.Event()
    everything = Everything(instance, plan, remark)
    interrupted: list[int] = []

    def on_signal(number: int) -> None:
        interrupted.append(number)
        if len(interrupted) > 1:
            everything.kill()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in ending_signals():
        loop.add_signal_handler(number, on_signal, number)
    try:
        fleet = await unless(stop, everything.start())
        describe(fleet, plan.host, everything.places())
        await stop.wait()
    except GivenUp:
        pass
    finally:
        if interrupted:
            remark("stopping: tasks may finish, Ctrl-C again ends them")
        await everything.stop()
    if interrupted:
        remark("stopped")
    return EXIT_INTERRUPTED if len(interrupted) > 1 else EXIT_OK
