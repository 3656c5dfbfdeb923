"""`agentcom keys`, `host` and `provision`: who may connect, and the streams they share."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path

import click
from msgspec import structs

from cli.client.target import on_target, said_creds, said_url
from cli.commands.fleet import tell
from cli.commands.options import Between, Word, json_option
from cli.local import broker
from cli.local.broker import running_pid
from cli.local.cluster import (
    REPLICAS,
    BadCluster,
    NodeTls,
    make_cluster,
    parse_node,
    read_cluster,
    refresh,
)
from cli.local.holders import taken_by, who_runs
from cli.local.instance import (
    ROLES,
    Credentials,
    Instance,
    explicit_credentials,
)
from cli.local.reach import Reach, link_beside, nats_command, write_contexts
from cli.local.streams import provision_with
from cli.render.terminal import EXIT_NOT_FOUND, Problem, remark
from events.errors import AgentComError, shown
from events.ids import is_token
from events.nats.provision import USUAL, Retention

_DAY_S = 24 * 3600
_GIB = 1024**3
_USUAL_DAYS = (USUAL.output_max_age_s or 0) // _DAY_S
_USUAL_GIB = (USUAL.output_max_bytes or 0) // _GIB
_DATA = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="The data folder  [default: $AGENTCOM_DATA, else your user data folder]",
)


class _HostName(click.ParamType[str]):
    name = "name"

    def convert(
        self,
        value: str,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str:
        if not is_token(value):
            self.fail(
                f"{shown(value)} is not 1 to 64 letters, digits, '_' or '-'", param, ctx
            )
        return value


HOST_NAME = _HostName()


@click.command()
@_DATA
@json_option
@click.option("--listen", metavar="HOST:PORT", help="Where the broker listens.")
@click.option(
    "--host",
    "hosts",
    type=HOST_NAME,
    multiple=True,
    help="A host to make a key for  [default: this machine, if there is none yet]",
)
@click.option(
    "--nats-contexts",
    "contexts",
    is_flag=True,
    help="Write a context of the nats CLI for each role: nats --context agentcom-ROLE.",
)
@click.option(
    "--cluster", metavar="NAME", help="Let 3 or 5 servers, the --nodes, be the broker."
)
@click.option(
    "--node",
    "nodes",
    metavar="NAME=HOST[:PORT]",
    multiple=True,
    help="A server of the cluster, and where it is reached; one option for each.",
)
@click.option(
    "--node-data",
    metavar="DIR",
    help="Where a node's folder lies on its machine  [default: where it is made, here]",
)
@click.option(
    "--node-tls",
    nargs=3,
    metavar="CERT KEY CA",
    help="TLS between the nodes: the files, as they are called on each node's machine.",
)
def keys(
    data: Path | None,
    as_json: bool,
    listen: str | None,
    hosts: tuple[str, ...],
    contexts: bool,
    cluster: str | None,
    nodes: tuple[str, ...],
    node_data: str | None,
    node_tls: tuple[str, str, str] | None,
) -> None:
    """Make the key of each role and the broker's configuration, and show how to connect.

    What exists is kept. The line `broker` starts the broker, from any folder. In a
    folder that holds AgentCom's own nats.conf that one is used, because the files that
    it includes are linked there. With --cluster each node gets a folder of its own in
    DATA/nodes, to be copied to its machine.
    """
    instance = Instance(data)
    listened = instance.listen
    if cluster is None and (nodes or node_data or node_tls):
        raise click.UsageError("--node, --node-data and --node-tls go with --cluster")
    if cluster is not None and listen is not None:
        raise click.UsageError("--listen is one server's: each --node says its address")
    try:
        places = [parse_node(each) for each in nodes]
        instance.prepare(listen, hosts or None)
        if cluster is not None:
            tls = NodeTls(*node_tls) if node_tls else None
            make_cluster(instance, cluster, places, node_data, tls)
        folders = refresh(instance)
    except BadCluster as error:
        raise click.UsageError(str(error)) from error
    links = [] if folders else link_beside(Path.cwd(), instance)
    credentials = [
        instance.credentials(role)
        for role in (*ROLES, *(f"host-{name}" for name in instance.hosts()))
    ]
    written = write_contexts(credentials) if contexts else []
    if as_json:
        click.echo(json.dumps(_as_json(instance, credentials), indent=2))
        return
    conf = Path.cwd() / "nats.conf" if links else instance.conf
    click.echo(f"data folder   {instance.data}")
    for folder in folders:
        click.echo(f"node          nats-server -c {folder.conf}")
    if not folders:
        click.echo(f"broker        {broker.server_line(conf)}")
    for link in links:
        click.echo(f"linked        {link.name} -> {instance.data / link.name}")
    for name in written:
        click.echo(f"context       nats --context {name}")
    click.echo()
    for one in credentials:
        click.echo(f"{one.role:<13} {nats_command(one)}")
    if not folders and (hint := _hint(instance, listened)):
        click.echo()
        remark(hint)


def _hint(instance: Instance, listened: str | None) -> str:
    """Say who is in the way of the broker that is to listen there, "" if nobody is.

    `listened` is where it was to listen before this command.
    """
    runs, listen = who_runs(instance), instance.listen or ""
    if runs and listen == listened:
        return ""
    if runs:
        return (
            f"{runs} runs here and goes on listening on {listened}: end it and start it "
            f"anew, and it listens on {listen}; until then commands look for it in vain"
        )
    host, _, port = listen.rpartition(":")
    with suppress(OSError, ValueError):
        if holder := taken_by(int(port), host):
            return f"port {port} is taken by {holder}: choose another one with --listen"
    return ""


@click.group()
def host() -> None:
    """Machines that may join the fleet."""


@host.command("add")
@click.argument("name", type=HOST_NAME)
@_DATA
@json_option
def add(name: str, data: Path | None, as_json: bool) -> None:
    """Let the machine NAME join: make its key, and tell a running broker.

    Copy the printed file to that machine; there,
    `agentcom sidecar --nats URL --creds host-NAME.nk`.
    """
    instance = _prepared(data)
    credentials = instance.add_host(name)
    away = _nodes_away(instance)
    reloaded, refused = _reloaded(instance)
    reach = Reach(instance)
    if as_json:
        document = {
            **_one(credentials),
            "broker_reloaded": reloaded,
            "broker_refused": refused,
            "remote_url": reach.url,
        }
        click.echo(json.dumps(document, indent=2))
        raise SystemExit(1 if refused else 0)
    click.echo(f"host          {name}")
    if credentials.seed_path.exists():
        click.echo(f"key           {credentials.seed_path}")
    else:
        click.echo("key           not here any more; `host remove` and add it anew")
    if refused:
        click.echo(f"broker        must be restarted to know it: {refused}")
    else:
        when = "knows it now" if reloaded else "will know it at its start"
        click.echo(f"broker        {when}")
    if away:
        click.echo(f"nodes         {away}")
    if reach.url is None:
        click.echo(
            f"reach         other machines cannot: the broker listens on {reach.listen} "
            f"only; {reach.way} lets them"
        )
    click.echo(
        f"on {name:<10} agentcom sidecar --nats {reach.url or reach.local} "
        f"--creds {credentials.seed_path.name}"
    )
    if refused:
        raise SystemExit(1)


@host.command("remove")
@click.argument("name", type=HOST_NAME)
@_DATA
def remove(name: str, data: Path | None) -> None:
    """Forget the machine NAME and its key; a running broker cuts it off."""
    instance = _prepared(data)
    if not instance.remove_host(name):
        raise Problem(f"no host {name}; there are: {_listed(instance)}", EXIT_NOT_FOUND)
    away = _nodes_away(instance)
    _, refused = _reloaded(instance)
    if away:
        click.echo(away)
    click.echo(
        f"removed {name}; `agentcom host forget {name}` strikes it from the lists"
    )
    if refused:
        raise click.ClickException(
            f"the running broker still lets {name} in and must be restarted: {refused}"
        )


@host.command("forget")
@click.argument("name", type=HOST_NAME)
@on_target
@json_option
def forget(name: str, *, as_json: bool) -> int:
    """Strike the machine NAME, which is gone, from all lists; its past stays.

    Its key stays too: `host remove` takes that. With a key it may join again.
    """
    outcome = f"{name} is forgotten"
    return tell("host.forget", {"host": name}, outcome, as_json=as_json)


@host.command("keys")
@_DATA
@json_option
def list_keys(data: Path | None, as_json: bool) -> None:
    """List the machines that have a key."""
    names = _prepared(data).hosts()
    click.echo(json.dumps(names) if as_json else "\n".join(names))


@click.command()
@_DATA
@click.option(
    "--output-days",
    type=Between(1),
    help=f"So long output is kept  [default: as it is, {_USUAL_DAYS} at first]",
)
@click.option(
    "--output-gib",
    type=click.FloatRange(0.001),
    help=f"So much of it  [default: as it is, {_USUAL_GIB} at first]",
)
@click.option(
    "--replicas",
    type=Word(["1", "3", "5"]),
    help="Servers that hold each stream  [default: as it is, 1 at first]",
)
def provision(
    data: Path | None,
    output_days: int | None,
    output_gib: float | None,
    replicas: str | None,
) -> None:
    """Make or update the streams of a running broker, with the admin's key.

    `agentcom up` does this by itself; it is for a broker that was started by hand. What
    is not named stays as it is; a cluster's streams stand on three of its nodes.
    """
    instance = Instance(data)
    retention = Retention(
        output_max_age_s=None if output_days is None else output_days * _DAY_S,
        output_max_bytes=None if output_gib is None else int(output_gib * _GIB),
        replicas=_replicas(instance, replicas),
    )
    try:
        asyncio.run(provision_with(_admin(instance, here=data is not None), retention))
    except AgentComError as failure:
        raise click.ClickException(str(failure)) from failure
    click.echo("streams ready")


def _reloaded(instance: Instance) -> tuple[bool, str | None]:
    """Tell a running broker of its hosts: whether it knows them, and why it does not."""
    try:
        # All of them, also after one that does not run here.
        told = [broker.reload(each) for each in refresh(instance) or [instance]]
        return all(told), None
    except broker.ReloadRefused as refused:
        return False, refused.why


def _nodes_away(instance: Instance) -> str:
    """Say what is left to do for nodes that do not run on this machine, "" if nothing."""
    away = [each.data for each in refresh(instance) if running_pid(each) is None]
    if not away:
        return ""
    return (
        f"copy hosts.conf from {', '.join(map(str, away))} to each of them, and "
        "there `nats-server --signal reload`"
    )


def _admin(instance: Instance, *, here: bool) -> Credentials:
    """Return the admin's credentials; `here`: a folder was named, and its broker is meant."""
    key, url = said_creds(), said_url()
    if not here and key is not None and key.stem == "admin":
        return explicit_credentials(url, key)
    admin = instance.credentials("admin")
    return admin if here or url is None else structs.replace(admin, url=url)


def _replicas(instance: Instance, text: str | None) -> int | None:
    """Return how many servers are to hold each stream, None for as many as now."""
    if text is not None:
        return int(text)
    return None if read_cluster(instance) is None else REPLICAS


def _prepared(data: Path | None) -> Instance:
    instance = Instance(data)
    if not instance.local_conf.exists():
        instance.prepare()
    return instance


def _listed(instance: Instance) -> str:
    return ", ".join(instance.hosts()) or "none"


def _one(credentials: Credentials) -> dict[str, str]:
    return {
        "role": credentials.role,
        "url": credentials.url,
        "nkey": str(credentials.seed_path),
        "inbox_prefix": credentials.inbox_prefix,
        "nats": nats_command(credentials),
    }


def _as_json(instance: Instance, credentials: list[Credentials]) -> dict[str, object]:
    return {
        "data": str(instance.data),
        "conf": str(instance.conf),
        "url": instance.url,
        "this_host": instance.own_host(),
        "roles": [_one(one) for one in credentials],
    }
