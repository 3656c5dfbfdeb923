"""The broker's streams: made with the admin's key where they are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from nats.errors import Error as NatsError

from agentcom.tls import TlsClient
from cli.local.cluster import REPLICAS, read_cluster
from cli.local.instance import Credentials, Instance
from cli.render.terminal import Problem
from events import subjects
from events.diagnostics import Diagnostics
from events.errors import LogUnavailable
from events.nats.provision import Retention, provision

if TYPE_CHECKING:
    from events.nats.link import Link

CANNOT_TELL: Final = 503
"""What JetStream answers while it has no leader, or is not there yet."""
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
    """Name the streams that the broker does not have yet.

    Raises LogUnavailable where it cannot tell: a cluster that is choosing its leader has
    them all.
    """
    return [
        name
        for name in (
            subjects.EVENTS,
            subjects.OUTPUT,
            f"KV_{subjects.LEASES}",
            subjects.FILES_STREAM,
        )
        if "error" in await _info(link, name)
    ]


async def lease_copies(link: Link) -> int:
    """Return on how many servers the leader's lease stands.

    Raises LogUnavailable where the broker cannot tell.
    """
    info = await _info(link, f"KV_{subjects.LEASES}")
    return int(info.get("config", {}).get("num_replicas", 1))


async def _info(link: Link, stream: str) -> dict[str, Any]:
    """Ask what a stream is. Raises LogUnavailable, Unreachable."""
    answer = await link.call(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=10.0)
    info = msgspec.json.decode(answer.data, type=dict[str, Any])
    error = info.get("error", {})
    if error.get("code") == CANNOT_TELL:
        raise LogUnavailable(f"look for {stream}", error.get("description", ""))
    return info


async def provision_with(admin: Credentials, retention: Retention) -> None:
    """Connect as admin and provision; raises what `provision` raises, and NoCredentials."""
    options = admin.connect_options()
    failures: list[Exception] = []

    async def note(failure: Exception) -> None:
        failures.append(failure)

    connection = TlsClient()
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
