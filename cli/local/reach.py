"""How to reach an instance's broker: from other machines, with the nats CLI, by hand."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cli.local.cluster import read_cluster
from cli.local.instance import (
    BROKER_PORT,
    DEFAULT_LISTEN,
    EVERYWHERE,
    Credentials,
    Instance,
    shipped_conf,
)
from cli.render.terminal import Problem

if TYPE_CHECKING:
    from pathlib import Path


def nats_command(credentials: Credentials) -> str:
    """Return the nats CLI's command line for a role."""
    return (
        f"nats --server {credentials.url} --nkey {credentials.seed_path} "
        f"--inbox-prefix {credentials.inbox_prefix}"
    )


def link_beside(folder: Path, instance: Instance) -> list[Path]:
    """Link what nats.conf includes into a folder that holds AgentCom's nats.conf.

    nats-server reads included files from beside the including one. Only our own
    nats.conf counts, and only links and absent names are replaced; returns the links.
    """
    conf = folder / "nats.conf"
    if folder.resolve() == instance.data.resolve() or not conf.is_file():
        return []
    if conf.read_bytes() != shipped_conf().read_bytes():
        return []
    links = []
    for target in (instance.local_conf, instance.hosts_conf, instance.site_conf):
        link = folder / target.name
        if link.exists() and not link.is_symlink():
            raise Problem(f"{link} is a file, not AgentCom's link; move it away first")
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        links.append(link)
    return links


class Reach:
    """Where other machines find an instance's broker: `url`, None where they cannot."""

    def __init__(self, instance: Instance) -> None:
        self.local = instance.url
        self.url: str | None
        if (cluster := read_cluster(instance)) is not None:
            self.listen, self.port = cluster.url, cluster.nodes[0].port
            here = any(node.here_only for node in cluster.nodes)
            self.url = None if here else cluster.url
            return
        self.listen = instance.listen or DEFAULT_LISTEN
        address = urlsplit(self.local)
        host = self.listen.rpartition(":")[0]
        self.port = address.port or BROKER_PORT
        self.url = None
        if host in EVERYWHERE:
            self.url = f"{address.scheme}://{_this_machine()}:{self.port}"
        elif not _is_loopback(host):
            self.url = f"{address.scheme}://{host}:{self.port}"


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host == "[::1]" or host.startswith("127.")


def _this_machine() -> str:
    name = socket.gethostname()
    return "THIS-HOST" if name.partition(".")[0] in {"", "localhost"} else name
