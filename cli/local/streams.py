"""The broker's streams: made with the admin's key where they are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from cli.local.cluster import REPLICAS, read_cluster
from cli.local.instance import Credentials, Instance
from cli.render.terminal import Problem
from events import subjects
from events.diagnostics import Diagnostics
from events.errors import LogUnavailable
from events.nats.provision import Retention, provision

if TYPE_CHECKING:
    from events.nats.link import Link

_log = Diagnostics("agentcom")


async def make_streams(url: str, link: Link, instance: Instance | None = None) -> None:
    """Provision where a stream is missing; what is there stays as it was configured.

    The admin's key is that of `instance`, else of the usual one.
    """
    missing = await missing_streams(link)
    if not missing:
        return
    admin = Credentials(url, (instance or Instance()).keys / "admin.nk", "admin")
    if not admin.seed_path.exists():
        raise Problem(
            f"the broker at {url} has no {', '.join(missing)}: make them with "
            "`agentcom provision` where the admin's key is"
        )
    copies = None if read_cluster(Instance()) is None else REPLICAS
    await provision_with(admin, Retention(replicas=copies))
    _log.info("streams made", streams=missing)


async def missing_streams(link: Link) -> list[str]:
    """Name the streams that the broker does not have yet."""
    missing = []
    for name in (
        subjects.EVENTS,
        subjects.OUTPUT,
        f"KV_{subjects.LEASES}",
        subjects.FILES_STREAM,
    ):
        answer = await link.call(f"$JS.API.STREAM.INFO.{name}", b"", timeout=10.0)
        if "error" in msgspec.json.decode(answer.data, type=dict[str, Any]):
            missing.append(name)
    return missing


async def lease_copies(link: Link) -> int:
    """Return on how many servers the leader's lease stands."""
    api = f"$JS.API.STREAM.INFO.KV_{subjects.LEASES}"
    answer = await link.call(api, b"", timeout=10.0)
    info = msgspec.json.decode(answer.data, type=dict[str, Any])
    return int(info.get("config", {}).get("num_replicas", 1))


async def provision_with(admin: Credentials, retention: Retention) -> None:
    """Connect as admin and provision; raises what `provision` raises, and NoCredentials."""
    options = admin.connect_options()
    failures: list[Exception] = []

    async def note(failure: Exception) -> None:
        failures.append(failure)

    connection = Client()
    try:
        # Once and once more: by default the client goes on for two minutes.
        await connection.connect(
            **options,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=5,
            error_cb=note,
        )
    except (NatsError, OSError, TimeoutError) as failure:
        await connection.close()
        reason = str(failures[0] if failures else failure)
        raise LogUnavailable(f"connect to {admin.url}", reason) from failure
    try:
        await provision(connection, retention)
    finally:
        await connection.close()
