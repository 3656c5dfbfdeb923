"""Where a shell command runs that names no place: here, if here is the whole fleet.

A command goes to any host that has a slot, into a folder of its own, unless it says
otherwise. On an instance of one machine, a person who types a command into its terminal
means the current folder, as with any other command.
"""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from cli.render.terminal import Problem
from events.errors import AgentComError
from events.nats.link import servers_of
from projections.answers import HostsAnswer

if TYPE_CHECKING:
    from cli.client.connection import Session

LIVING: Final = ("up", "draining")
PLACES: Final = ("repo", "branch", "assign_to")
ANSWER_S: Final = 2.0


async def stand_here(client: Session, fields: dict[str, Any], host: str) -> str:
    """Have a shell command run in this folder if `host`, this one, is all there is.

    Returns the folder, "" if the command runs where it would have.
    """
    shell = fields.get("shell")
    if (
        shell is None
        or "cwd" in shell
        or any(fields.get(place) for place in PLACES)
        or not client.may_read
        or not is_loopback(client.link.address.url)
    ):
        return ""
    try:
        here = os.getcwd()
        fleet = await client.query("hosts", {}, HostsAnswer, timeout=ANSWER_S)
    except (Problem, AgentComError, OSError):
        return ""
    living = [each.host for each in fleet.hosts if each.state in LIVING]
    if living != [host]:
        return ""
    shell["cwd"] = here
    if any(each.state == "lost" for each in fleet.hosts):
        # It may come back at any moment, and this folder is not there.
        fields["assign_to"] = host
    return here


def is_loopback(url: str) -> bool:
    """Whether a broker's address is one of this machine alone."""
    return all(map(_is_loopback, servers_of(url)))


def _is_loopback(url: str) -> bool:
    name = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
