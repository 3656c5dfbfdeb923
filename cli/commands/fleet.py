"""The fleet and its bill: hosts, drain, resume, and the table of costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from cli.client.connection import connected, run
from cli.client.target import on_target
from cli.commands.up import tier_state
from cli.render.terminal import (
    EXIT_OK,
    STATE_STYLE,
    TIER_STYLE,
    age,
    cell,
    clock_time,
    console,
    dollars,
    line_of,
    size,
    table,
    utc_now,
)
from events.codec import encode
from events.commands import Done
from projections.answers import HostsAnswer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from projections.answers import CostLine, CostsAnswer, HostRow
    from projections.fleet import EndpointView

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@on_target
@_JSON
def hosts(*, as_json: bool) -> int:
    """List hosts with their endpoints and models, tiers and alerts."""
    return run(_hosts(as_json=as_json))


async def _hosts(*, as_json: bool) -> int:
    async with connected() as client:
        answer = await client.query("hosts", {}, HostsAnswer)
    if as_json:
        click.echo(encode(answer).decode())
        return EXIT_OK
    screen = console()
    if not answer.hosts:
        screen.print("no host has joined: start one with `agentcom sidecar`")
    else:
        screen.print(_host_table(answer.hosts))
        found = endpoint_table(answer)
        if found is not None:
            screen.print(found)
    _tiers(screen, answer)
    return EXIT_OK


def _host_table(rows: list[HostRow]) -> Table:
    made = table(
        ("host", "state", "since", "running", "slots", "cpu", "ram free", "vram free"),
        right=("since", "running", "cpu", "ram free", "vram free"),
    )
    now = utc_now()
    for row in rows:
        known = row.resources
        gpus = known.gpus if known is not None else []
        made.add_row(
            cell(row.host, style="bold"),
            cell(row.state, style=STATE_STYLE.get(row.state, "")),
            age(row.since, now),
            str(row.in_flight),
            cell(" ".join(f"{kind}:{count}" for kind, count in row.slots.items())),
            "unknown" if known is None or known.cpu is None else f"{known.cpu:.0%}",
            size(known.ram_free_bytes if known is not None else None),
            size(sum(gpu.vram_free_bytes for gpu in gpus)) if gpus else "",
        )
    return made


def endpoint_table(answer: HostsAnswer) -> Table | None:
    """Make a table of every endpoint as its hosts see it; None where there is none."""
    found = [(row.host, each) for row in answer.hosts for each in row.endpoints]
    if not found:
        return None
    made = table(
        ("endpoint", "host", "kind", "state", "version", "models"),
        elastic=("version", "models"),
    )
    for host, each in found:
        state = "up" if each.up else "down"
        made.add_row(
            cell(each.endpoint + (" [simulated]" if each.simulated else "")),
            cell(host),
            cell(each.kind),
            cell(state, style=STATE_STYLE[state]),
            cell(each.version, 24),
            cell(_models(each) if each.up else each.reason, 80),
        )
    return made


def _models(each: EndpointView) -> str:
    return ", ".join(
        f"{name} (loaded)" if name in each.loaded else name
        for name in sorted({*each.models, *each.loaded})
    )


def _tiers(screen: Console, answer: HostsAnswer) -> None:
    from rich.text import Text

    endpoints = [each for row in answer.hosts for each in row.endpoints]
    for tier in answer.tiers:
        line = Text(f"{tier.tier:<10}", style=TIER_STYLE.get(tier.tier, ""))
        living = any(row.state in ("up", "draining") for row in answer.hosts)
        line.append(tier_state(tier, endpoints) if living else "no host lives")
        screen.print(line)
    for alert in answer.alerts:
        seen = f", seen by {alert.acknowledged_by}" if alert.acknowledged_by else ""
        screen.print(
            line_of(
                f"alert: {alert.tier} down since {clock_time(alert.raised_at)}: "
                f"{alert.reason}{seen}"
            ),
            style="red",
        )
    screen.print(
        line_of(
            f"leader {answer.leader or 'none'} (epoch {answer.epoch}), "
            f"policy version {answer.policy_version}"
        ),
        style="dim",
    )


# -- drain, resume ---------------------------------------------------------------------


@click.command()
@click.argument("host")
@on_target
@click.option("--reason", default="", help="Shown where the host is listed.")
@_JSON
def drain(host: str, *, reason: str, as_json: bool) -> int:
    """Let HOST finish what runs and take nothing new."""
    body = {"host": host, "reason": reason}
    return run(tell("host.drain", body, f"{host} drains", as_json=as_json))


@click.command()
@click.argument("host")
@on_target
@_JSON
def resume(host: str, *, as_json: bool) -> int:
    """Let HOST take work again."""
    said = f"{host} takes work again"
    return run(tell("host.resume", {"host": host}, said, as_json=as_json))


async def tell(command: str, body: dict[str, Any], said: str, *, as_json: bool) -> int:
    """Send a command that is simply done, and say so."""
    async with connected() as client:
        done = await client.command(command, body, Done)
    if as_json:
        click.echo(encode(done).decode())
    else:
        click.echo(said + (f": {done.detail}" if done.detail else ""))
    return EXIT_OK


# -- costs -----------------------------------------------------------------------------


_NUMBERS: Final = ("runs", "in", "out", "cache", "cost", "on Claude", "saved")


def cost_table(answer: CostsAnswer) -> Table:
    """Make the bill: a line each, and the sum."""
    made = table((answer.by, *_NUMBERS), right=_NUMBERS)
    for line in answer.lines:
        made.add_row(*_bill(line))
    made.add_section()
    made.add_row(*_bill(answer.total), style="bold")
    return made


def _bill(line: CostLine) -> list[Any]:
    unknown = f" + {line.unpriced} unknown" if line.unpriced else ""
    return [
        cell(line.key or "none", 40),
        str(line.runs),
        str(line.tokens_in),
        str(line.tokens_out),
        str(line.cache_read_tokens + line.cache_write_tokens),
        dollars(line.cost_usd) + unknown,
        dollars(line.equivalent_claude_cost_usd),
        cell(dollars(line.saved_usd), style="green" if line.saved_usd > 0 else ""),
    ]
