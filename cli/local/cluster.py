"""Several servers that are one broker: what each of them needs, from one data folder.

    DATA/cluster.json      the cluster's name, its nodes, the secret they know one another by
    DATA/nodes/NODE/       nats.conf and what it includes, ready for `nats-server -c` there

The data folder keeps the keys; a node's folder holds public keys alone, and the secret. It is
copied to its machine, and again whenever hosts come or go.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from cli.local.instance import (
    BROKER_PORT,
    EVERY_ADDRESS,
    SITE_CONF,
    Instance,
    is_loopback,
    shipped_conf,
)
from events.errors import AgentComError

if TYPE_CHECKING:
    from collections.abc import Sequence

REPLICAS: Final = 3
"""Servers that hold each stream of a cluster, unless somebody asks for others."""
ROUTE_PORT_ABOVE: Final = 2_000
"""Servers speak to one another on the port so far above the clients', 6222 as a rule."""

_NODE = re.compile(
    r"([A-Za-z0-9_-]{1,64})=([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::(\d+))?"
)
_HIGHEST_PORT: Final = 65_535
_SIZES: Final = (3, 5)


class BadCluster(AgentComError):
    """What was asked for is no cluster."""

    code = "bad_cluster"


class Node(Struct, frozen=True):
    """A server: its name, and where clients and the other servers reach it."""

    name: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{self.host}:{self.port}"


class NodeTls(Struct, frozen=True):
    """Files for TLS between nodes, as paths on each node's machine."""

    cert: str
    key: str
    ca: str


class Cluster(Struct, frozen=True):
    """Servers that are one broker.

    `data` is where a node's folder lies on its machine, None for where it was written:
    nodes that all run here.
    """

    name: str
    secret: str
    nodes: tuple[Node, ...]
    data: str | None = None
    tls: NodeTls | None = None

    @property
    def url(self) -> str:
        """Where clients connect: every node, the next where one is down."""
        return ",".join(node.url for node in self.nodes)


def parse_node(text: str) -> Node:
    """Read `NAME=HOST` or `NAME=HOST:PORT`; raise BadCluster."""
    match = _NODE.fullmatch(text)
    port = int(match[3] or BROKER_PORT) if match else 0
    if match is None or not 0 < port <= _HIGHEST_PORT - ROUTE_PORT_ABOVE:
        raise BadCluster(
            f"{text}: a node is NAME=HOST or NAME=HOST:PORT, as n1=10.0.0.1:4222 (a port "
            f"up to {_HIGHEST_PORT - ROUTE_PORT_ABOVE}: nodes speak to one another "
            f"{ROUTE_PORT_ABOVE} above it)"
        )
    return Node(match[1], match[2], port)


def read_cluster(instance: Instance) -> Cluster | None:
    """Return the cluster that an instance's broker is, None where it is one server."""
    try:
        raw = (instance.data / "cluster.json").read_bytes()
        return msgspec.json.decode(raw, type=Cluster)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise BadCluster(f"{instance.data / 'cluster.json'}: {error}") from error


def make_cluster(
    instance: Instance,
    name: str,
    nodes: Sequence[Node],
    data: str | None,
    tls: NodeTls | None,
) -> Cluster:
    """Write down that the instance's broker is these nodes; raise BadCluster.

    The secret is kept from an earlier time, so that nodes can be replaced one by one.
    """
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) is None:
        raise BadCluster(f"{name}: a cluster's name is 1 to 64 letters, digits, _ or -")
    if len(nodes) not in _SIZES:
        raise BadCluster(
            f"{len(nodes)} nodes: a cluster has 3, which goes on with one down, or 5, "
            "which goes on with two; any other number bears no more than one fewer"
        )
    for what, values in (
        ("name", [node.name for node in nodes]),
        ("address", [node.url for node in nodes]),
    ):
        if twice := sorted({each for each in values if values.count(each) > 1}):
            raise BadCluster(f"two nodes have the {what} {', '.join(twice)}")
    if data is not None and not Path(data).is_absolute():
        raise BadCluster(f"{data}: where a node's folder lies is said from the root on")
    known = read_cluster(instance)
    secret = known.secret if known is not None else secrets.token_urlsafe(24)
    cluster = Cluster(name, secret, tuple(nodes), data, tls)
    instance.write(
        instance.data / "cluster.json", msgspec.json.encode(cluster).decode() + "\n"
    )
    instance.record_url(cluster.url)
    return cluster


def node_instances(instance: Instance, cluster: Cluster) -> list[Instance]:
    """Return the data folders of the nodes, as they lie here."""
    return [Instance(instance.data / "nodes" / node.name) for node in cluster.nodes]


def write_nodes(instance: Instance, cluster: Cluster) -> list[Instance]:
    """Write each node's folder anew, but its site.conf, which is yours; return them."""
    folders = node_instances(instance, cluster)
    for node, folder in zip(cluster.nodes, folders, strict=True):
        for place in (folder.data, folder.store):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = folder.data if cluster.data is None else Path(cluster.data)
        listen = node.host if is_loopback(node.host) else EVERY_ADDRESS
        conf = instance.broker_conf(
            f"{listen}:{node.port}", there, _cluster_conf(cluster, node, listen)
        )
        folder.write(folder.local_conf, conf)
        folder.write(folder.hosts_conf, instance.hosts_conf.read_text())
        folder.write(folder.conf, shipped_conf().read_text())
        if not folder.site_conf.exists():
            folder.write(folder.site_conf, SITE_CONF)
        folder.record_url(node.url)
    return folders


def refresh(instance: Instance) -> list[Instance]:
    """Write the nodes' folders anew where the broker is a cluster; return them."""
    cluster = read_cluster(instance)
    return [] if cluster is None else write_nodes(instance, cluster)


def _cluster_conf(cluster: Cluster, node: Node, listen: str) -> str:
    """Return the lines that make a server this node of the cluster.

    https://docs.nats.io/running-a-nats-service/configuration/clustering
    """
    routes = "".join(
        f"    nats-route://route:{cluster.secret}@{each.host}:"
        f"{each.port + ROUTE_PORT_ABOVE}\n"
        for each in cluster.nodes
    )
    tls = cluster.tls
    between = (
        ""
        if tls is None
        else "  tls: { "
        + ", ".join(
            f"{name}: {msgspec.json.encode(value).decode()}"
            for name, value in (
                ("cert_file", tls.cert),
                ("key_file", tls.key),
                ("ca_file", tls.ca),
            )
        )
        + " }\n"
    )
    return (
        f'server_name: "{node.name}"\n'
        f'client_advertise: "{node.host}:{node.port}"\n'
        "cluster: {\n"
        f'  name: "{cluster.name}"\n'
        f'  listen: "{listen}:{node.port + ROUTE_PORT_ABOVE}"\n'
        f'  authorization: {{ user: "route", password: "{cluster.secret}", timeout: 5 }}\n'
        # One that is silent is left after 4 to 6 s: until then it gets others' requests.
        '  ping_interval: "2s"\n'
        "  ping_max: 2\n"
        f"{between}"
        f"  routes: [\n{routes}  ]\n"
        "}\n"
    )
