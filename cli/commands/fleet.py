"""The fleet: hosts, drain, resume."""

from __future__ import annotations

from typing import Any

import click

from cli.client.completing import hosts as hosts_there
from cli.client.connection import answer_to, carried_out
from cli.client.target import on_target
from cli.commands.options import json_option
from cli.local.instance import Instance
from cli.render.fleet import (
    endpoint_table,
    host_notes,
    host_table,
    show_tiers,
)
from cli.render.terminal import (
    EXIT_OK,
    console,
    local,
    print_json,
)
from events.commands import Done
from projections.answers import HostsAnswer


@click.command()
@on_target
@json_option
def hosts(*, as_json: bool) -> int:
    """List hosts with their endpoints and models, tiers and alerts."""
    answer = answer_to("hosts", {}, HostsAnswer)
    if as_json:
        return print_json(answer)
    screen = console()
    if not answer.hosts:
        screen.print("no host has joined: start one with `agentcom sidecar`")
    else:
        screen.print(host_table(answer.hosts))
        for note in host_notes(answer.hosts):
            screen.print(note, style="yellow", soft_wrap=True)
        endpoints = endpoint_table(answer)
        if endpoints is not None:
            screen.print(endpoints)
    show_tiers(screen, answer, Instance().role_of)
    return EXIT_OK


# -- drain, resume ---------------------------------------------------------------------


@click.command()
@click.argument("host", shell_complete=hosts_there)
@on_target
@click.option("--reason", default="", help="Shown where the host is listed.")
@json_option
def drain(host: str, *, reason: str, as_json: bool) -> int:
    """Let HOST finish what runs and take nothing new."""
    body = {"host": host, "reason": reason}
    return tell("host.drain", body, f"{host} drains", as_json=as_json)


@click.command()
@click.argument("host", shell_complete=hosts_there)
@on_target
@json_option
def resume(host: str, *, as_json: bool) -> int:
    """Let HOST take work again, and look at once at what is down there."""
    report = f"{host} takes work again"
    return tell("host.resume", {"host": host}, report, as_json=as_json)


def tell(command: str, body: dict[str, Any], report: str, *, as_json: bool) -> int:
    """Send a command that is simply done, and say so."""
    done = carried_out(command, body, Done)
    if as_json:
        return print_json(done)
    click.echo(report + (f": {local(done.detail)}" if done.detail else ""))
    return EXIT_OK
