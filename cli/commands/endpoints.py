"""Shared model servers that an operator adds for several hosts to call; alerts seen."""

from __future__ import annotations

import click

from cli.client.connection import answer_to
from cli.client.target import on_target
from cli.commands.fleet import tell
from cli.commands.options import TIERS, Between, Word, json_option
from cli.local.instance import Instance
from cli.render.fleet import endpoint_table, show_tiers
from cli.render.terminal import EXIT_OK, cell, console, print_json, table
from projections.answers import HostsAnswer


@click.group()
def endpoints() -> None:
    """Model servers: the hosts' own, and shared ones that you add."""


@endpoints.command()
@click.argument("name")
@click.argument("url")
@on_target
@click.option(
    "--kind",
    type=Word(["ollama", "openai"]),
    default="ollama",
    show_default=True,
    help="The protocol it speaks.",
)
@click.option(
    "--slots",
    type=Between(1, 10_000),
    default=1,
    show_default=True,
    help="How many tasks at once, over all hosts that call it.",
)
@json_option
def add(name: str, url: str, *, kind: str, slots: int, as_json: bool) -> int:
    """Add the shared server NAME at URL; hosts that reach it report its health."""
    body = {"endpoint": name, "kind": kind, "url": url, "slots": slots}
    report = f"{name} added; `agentcom endpoints list` shows who reaches it"
    return tell("endpoint.add", body, report, as_json=as_json)


@endpoints.command()
@click.argument("name")
@on_target
@json_option
def remove(name: str, *, as_json: bool) -> int:
    """Take the shared server NAME away; what runs there may finish."""
    report = f"{name} removed"
    return tell("endpoint.remove", {"endpoint": name}, report, as_json=as_json)


@endpoints.command(name="list")
@on_target
@json_option
def list_endpoints(*, as_json: bool) -> int:
    """List shared servers, and every endpoint as its hosts see it."""
    answer = answer_to("hosts", {}, HostsAnswer)
    if as_json:
        views = [
            {"host": row.host, "endpoint": each}
            for row in answer.hosts
            for each in row.endpoints
        ]
        return print_json({"shared": answer.shared_endpoints, "seen": views})
    screen = console()
    if answer.shared_endpoints:
        role_of = Instance().role_of
        shared = table(("shared", "kind", "url", "slots", "added by"), right=("slots",))
        for one in answer.shared_endpoints:
            shared.add_row(
                cell(one.endpoint),
                cell(one.kind),
                cell(one.url, 60),
                str(one.slots),
                cell(role_of(one.by), 20),
            )
        screen.print(shared)
    endpoints_seen = endpoint_table(answer)
    screen.print(
        endpoints_seen
        if endpoints_seen is not None
        else "no host has reported an endpoint yet"
    )
    return EXIT_OK


@click.group()
def tiers() -> None:
    """How the tiers stand, and lifting a limit of the account behind one."""


@tiers.command(name="list")
@on_target
@json_option
def list_tiers(*, as_json: bool) -> int:
    """List the tiers, and what is wrong with them."""
    answer = answer_to("hosts", {}, HostsAnswer)
    if as_json:
        return print_json(answer.tiers)
    show_tiers(console(), answer, Instance().role_of)
    return EXIT_OK


@tiers.command(name="clear-limit")
@click.argument("tier", type=Word(TIERS))
@on_target
@click.option("--reason", default="", help="Kept in the log.")
@json_option
def clear_limit(tier: str, *, reason: str, as_json: bool) -> int:
    """Use the account behind TIER again; if it is limited still, a run will say so."""
    report = f"the limit on {tier} is lifted"
    body = {"tier": tier, "reason": reason}
    return tell("tier.clear_limit", body, report, as_json=as_json)


@click.command()
@click.argument("tier", type=Word(TIERS))
@on_target
@json_option
def ack(tier: str, *, as_json: bool) -> int:
    """Acknowledge the alert about TIER."""
    report = f"the alert about {tier} is seen"
    return tell("alert.acknowledge", {"tier": tier}, report, as_json=as_json)
