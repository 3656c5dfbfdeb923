"""`agentcom up`: everything on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.client.connection import Stopped, run, unless
from cli.client.target import on_target, said_creds, said_url
from cli.commands.roles import WEB_PORT, sidecar_config
from cli.local.instance import DEFAULT_LISTEN, EVERY_ADDRESS, Instance, local_host_name
from cli.local.supervisor import Everything, Plan, free_port
from cli.render.terminal import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    TIER_STYLE,
    Problem,
    clock_time,
    console,
    line_of,
    painted,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from projections.answers import HostsAnswer
    from projections.fleet import EndpointView, TierView

NATS_PORT = 4222
_ADDRESS = re.compile(r"\S+:([0-9]{1,5})")


@click.command()
@on_target
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=WEB_PORT,
    show_default=True,
    help="The dashboard's; 0 for any free one.",
)
@click.option(
    "--nats-port",
    type=click.IntRange(0, 65535),
    help=f"The broker's; 0 for any free one  [default: as last time, {NATS_PORT} at first]",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="The broker's address, 0.0.0.0:PORT for other machines to join; it is kept"
    f"  [default: as last time, {DEFAULT_LISTEN} at first]",
)
@click.option("--name", help="This host's name  [default: the machine's]")
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
    name: str | None,
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
    instance = Instance()
    return run(live(instance, plan_for(instance, port, nats_port, listen, name, file)))


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
    if listen is not None:
        _check(listen)
        if nats_port is not None:
            raise click.UsageError("--listen names the port: leave out --nats-port")
    nats_host, _, last = (listen or instance.listen or DEFAULT_LISTEN).rpartition(":")
    if nats_port is None:
        nats_port = int(last) if last.isdigit() else NATS_PORT
    return Plan(
        host=config.name or local_host_name(),
        port=port or free_port(),
        nats_port=nats_port or free_port(),
        nats_host=nats_host or EVERY_ADDRESS,
        config=file,
        drain_s=config.drain_timeout_s,
    )


def _check(listen: str) -> None:
    found = _ADDRESS.fullmatch(listen)
    if found is None or int(found[1]) > 65535:
        raise click.UsageError(
            f"--listen {listen} is not HOST:PORT, as 0.0.0.0:4222 is"
        )


async def live(instance: Instance, plan: Plan) -> int:
    """Run everything until a signal; the second signal ends it at once."""
    stop = asyncio.Event()
    everything = Everything(instance, plan, say)
    interrupted: list[int] = []

    def on_signal(number: int) -> None:
        interrupted.append(number)
        if len(interrupted) > 1:
            everything.kill()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal, number)
    try:
        describe(await unless(stop, everything.start()), everything)
        await stop.wait()
    except Stopped:
        pass
    finally:
        if interrupted:
            say("stopping: tasks may finish, Ctrl-C again ends them")
        await everything.stop()
    if interrupted:
        say("stopped")
    return EXIT_INTERRUPTED if len(interrupted) > 1 else EXIT_OK


def say(text: str) -> None:
    """Tell whoever watches."""
    click.echo(painted(text, "dim", sys.stderr), err=True)


# -- what it found ---------------------------------------------------------------------


def describe(fleet: HostsAnswer, everything: Everything, *, hint: bool = True) -> None:
    """Print what there is, and where; with a hint of what to do with it."""
    screen = console()
    host = next(each for each in fleet.hosts if each.host == everything.plan.host)
    slots = ", ".join(f"{count} {kind}" for kind, count in host.slots.items())
    lines: list[tuple[str, str, str]] = [("host", f"{host.host}: {slots} at once", "")]
    shared = {each.endpoint: each.url for each in fleet.shared_endpoints}
    lines += [_local(host.endpoints, shared), _claude(host.endpoints)]
    endpoints = [each for one in fleet.hosts for each in one.endpoints]
    lines += [_tier(tier, endpoints) for tier in fleet.tiers]
    lines += [
        ("broker", everything.instance.url, ""),
        ("data", str(everything.instance.data), ""),
        ("dashboard", everything.url, "bold"),
    ]
    from rich.text import Text

    for name, value, style in lines:
        line = Text(f"{name:<12}", style="dim")
        line.append(line_of(value), style=style)
        screen.print(line, soft_wrap=True)
    sys.stdout.flush()
    if not hint:
        return
    screen.print(
        "\nTry, in another terminal:  agentcom submit --shell 'uname -a' --follow",
        style="dim",
        soft_wrap=True,
    )


def _local(
    endpoints: Iterable[EndpointView], shared: Mapping[str, str]
) -> tuple[str, str, str]:
    found = []
    for each in endpoints:
        if each.kind == "claude":
            continue
        mark = " (simulated)" if each.simulated else ""
        # Of a shared one that was never reached, its host does not tell the address.
        where = each.url or shared.get(each.endpoint) or each.endpoint
        if each.up:
            models = ", ".join(each.models) or "no models yet: `ollama pull llama3.2`"
            found.append(f"{each.kind} {each.version} at {where}{mark}: {models}")
        else:
            found.append(f"{each.kind} at {where} is down: {each.reason}{mark}")
    if not found:
        return "Ollama", "not found: install it from ollama.com for standard tasks", ""
    return "Ollama", "; ".join(found), ""


def _claude(endpoints: Iterable[EndpointView]) -> tuple[str, str, str]:
    for each in endpoints:
        if each.kind == "claude":
            mark = " (simulated)" if each.simulated else ""
            state = each.version if each.up else f"is not usable: {each.reason}"
            return "Claude Code", f"{state}{mark}", ""
    return (
        "Claude Code",
        "not found: npm install -g @anthropic-ai/claude-code for complex tasks",
        "",
    )


_KINDS: dict[str, tuple[str, ...]] = {
    "standard": ("ollama", "openai"),
    "complex": ("claude",),
}


def _tier(tier: TierView, endpoints: Iterable[EndpointView]) -> tuple[str, str, str]:
    """Say a tier's state; the log holds only its changes."""
    return tier.tier, tier_state(tier, endpoints), TIER_STYLE.get(tier.tier, "")


def tier_state(tier: TierView, endpoints: Iterable[EndpointView]) -> str:
    """Say how a tier is, from what was found about it and who could run it."""
    kinds = _KINDS.get(tier.tier)
    offered = [each for each in endpoints if kinds is not None and each.kind in kinds]
    if kinds is not None and not offered:
        return "not set up"
    if tier.state == "unknown":
        return "up" if kinds is None or any(each.up for each in offered) else "down"
    if tier.state == "down":
        return f"down since {clock_time(tier.since)}: {tier.reason}"
    if tier.state == "limited":
        return f"limited until {clock_time(tier.until or '')}"
    return tier.state
