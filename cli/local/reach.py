"""How to reach an instance's broker: from other machines, with the nats CLI, by hand."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cli.local.cluster import read_cluster
from cli.local.instance import (
    BROKER_PORT,
    DEFAULT_LISTEN,
    EVERYWHERE,
    Credentials,
    Instance,
    is_loopback,
    shipped_conf,
)
from cli.render.terminal import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable


def nats_command(credentials: Credentials) -> str:
    """Return the nats CLI's command line for a role."""
    return (
        f"nats --server {credentials.url} --nkey {credentials.seed_path} "
        f"--inbox-prefix {credentials.inbox_prefix}"
    )


def write_contexts(roles: Iterable[Credentials]) -> list[str]:
    """Write a context of the nats CLI for each role with a key here; return their names.

    The fields are those of github.com/nats-io/jsm.go's natscontext.
    """
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    folder = Path(base) / "nats" / "context"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = []
    for one in roles:
        if not one.seed_path.exists():
            continue
        name = f"agentcom-{one.role}"
        context = {
            "description": f"AgentCom: {one.role}",
            "url": one.url,
            "nkey": str(one.seed_path),
            "inbox_prefix": one.inbox_prefix,
        }
        Instance.write(folder / f"{name}.json", json.dumps(context, indent=2) + "\n")
        names.append(name)
    return names


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
    """Where other machines find an instance's broker: `url`, None where they cannot.

    `way` is what lets them.
    """

    def __init__(self, instance: Instance) -> None:
        self.local = instance.url
        self.url: str | None
        if (cluster := read_cluster(instance)) is not None:
            self.listen, self.port = cluster.url, cluster.nodes[0].port
            self.way = (
                f"`agentcom keys --cluster {cluster.name}` with each `--node NAME=ADDRESS` "
                "that they can reach"
            )
            here = any(is_loopback(node.host) for node in cluster.nodes)
            self.url = None if here else cluster.url
            return
        self.listen = instance.listen or DEFAULT_LISTEN
        address = urlsplit(self.local)
        host = self.listen.rpartition(":")[0]
        self.port = address.port or BROKER_PORT
        self.way = (
            f"`agentcom up --listen 0.0.0.0:{self.port}` (or `agentcom keys --listen …` "
            "and a restart of the broker)"
        )
        self.url = None
        if host in EVERYWHERE:
            self.url = f"{address.scheme}://{_this_machine()}:{self.port}"
        elif not is_loopback(host):
            self.url = f"{address.scheme}://{host}:{self.port}"


def _this_machine() -> str:
    name = socket.gethostname()
    return "THIS-HOST" if name.partition(".")[0] in {"", "localhost"} else name
