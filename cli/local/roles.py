"""The three roles, assembled from their parts: scheduler, web and sidecar."""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from actors.scheduler.lease import LEASE_TTL_S, REPLICATED_LEASE_TTL_S
from agentcom import __version__
from cli.client.connection import new_id
from cli.client.target import said_creds, said_url
from cli.local.instance import (
    EVERYWHERE,
    LOOPBACK,
    Credentials,
    Instance,
    explicit_credentials,
    local_host_name,
)
from cli.local.process import role_link, until_answered, until_closed
from cli.local.streams import lease_copies, make_streams
from cli.render.terminal import Problem
from events.codec import encode
from events.diagnostics import Diagnostics
from events.errors import AgentComError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from events.nats.link import Link
    from sidecar.config import SidecarConfig

_log = Diagnostics("agentcom")


def role_credentials(role: str) -> Credentials:
    """Choose a role's key: the one named by `--creds` if it is that role's, or its own."""
    creds, url = said_creds(), said_url()
    instance = Instance()
    if creds is None:
        seed = instance.keys / f"{role}.nk"
        return Credentials(url or instance.url, seed, role)
    chosen = explicit_credentials(url, creds)
    if chosen.role != role:
        raise Problem(
            f"{creds} is the key of {chosen.role}, this needs the one of {role}"
        )
    return chosen


def _metrics_ready(port: int) -> None:
    _log.info("metrics", url=f"http://{LOOPBACK}:{port}/metrics")


async def be_scheduler(
    credentials: Credentials,
    stop: asyncio.Event,
    metrics: tuple[str, int] | None = None,
    *,
    lease_ttl: float | None = None,
) -> None:
    """Be a scheduler until `stop` is set.

    Without `lease_ttl` a lease is as long as the broker's failover asks.
    """
    from actors.scheduler.checkpoint_file import CheckpointFile
    from actors.scheduler.metrics import SchedulerMetrics
    from actors.scheduler.role import SchedulerRole
    from events.nats.attachments import JetStreamAttachments
    from events.nats.leases import JetStreamLeases
    from events.nats.log import JetStreamLog
    from events.nats.readers import ReadersGate
    from events.position import LogChanged
    from web.exposition import exposed

    name = f"scheduler-{local_host_name()[:40]}-{os.getpid()}-{secrets.token_hex(2)}"
    async with role_link(credentials, stop) as link:
        await until_answered(lambda: make_streams(credentials.url, link), stop)
        link.on_connection(_made_again(credentials.url, link))
        if lease_ttl is None:
            copies = await until_answered(lambda: lease_copies(link), stop)
            lease_ttl = LEASE_TTL_S if copies == 1 else REPLICATED_LEASE_TTL_S
        if stop.is_set():
            return
        log = JetStreamLog(link)
        meter = SchedulerMetrics(log)
        # Counting costs a little of each event: only where somebody wants the figures.
        used = log if metrics is None else meter.log
        kept = Instance().scheduler_checkpoint
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

        async def schedule() -> None:
            while True:
                meter.role = role = SchedulerRole(
                    name,
                    used,
                    link,
                    JetStreamLeases(link),
                    ids=new_id,
                    version=__version__,
                    lease_ttl=lease_ttl,
                    attachments=JetStreamAttachments(link),
                    checkpoint=CheckpointFile(kept),
                )
                try:
                    await role.run(stop)
                except* LogChanged as changed:
                    # What it had folded is of another log, and so is what it had decided.
                    _log.warning("starting anew", reason=str(changed.exceptions[0]))
                else:
                    return

        gate = ReadersGate(link)
        await gate.open()
        _log.info("scheduler", name=name, nats=credentials.url)
        try:
            async with exposed("scheduler", meter, metrics, _metrics_ready):
                await until_closed(schedule(), link)
        finally:
            await gate.close()
            await log.close()


def web_url(address: str, port: int) -> str:
    """Return where a browser on this machine finds what listens on `address`.

    Loopback is named by number: under the name, another program may listen on its other
    address, and would be given what is meant for this one.
    """
    if address in EVERYWHERE:
        address = LOOPBACK
    return (
        f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
    )


def _made_again(url: str, link: Link) -> Callable[[bool], None]:
    """Make what is missing after a reconnect too: a damaged stream is not there any more."""
    making: set[asyncio.Task[None]] = set()

    async def make() -> None:
        try:
            await make_streams(url, link)
        except (AgentComError, Problem) as error:
            _log.warning("streams are not known to be there", reason=str(error))

    def connection(up: bool) -> None:
        if up:
            task = asyncio.get_running_loop().create_task(make())
            making.add(task)
            task.add_done_callback(making.discard)

    return connection


class ServedPlace:
    """The file that says where this process serves the dashboard, while it does.

    Another process may serve the same data folder's: what it wrote is left alone.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._told = b""

    def tell(self, url: str) -> None:
        """Say that the dashboard is at `url`."""
        self._told = encode({"url": url})
        with suppress(OSError):
            self._file.write_bytes(self._told)

    def forget(self) -> None:
        """Take back what was told, unless another has said something else since."""
        with suppress(OSError):
            if self._told and self._file.read_bytes() == self._told:
                self._file.unlink()


async def be_web(
    credentials: Credentials,
    stop: asyncio.Event,
    store: Path,
    address: str,
    port: int,
    names: tuple[str, ...] = (),
    base: str = "",
    proxies: tuple[str, ...] = (),
) -> None:
    """Be projections and web server until `stop` is set."""
    from actors.rules import policy as policies
    from analysis.savings import local_savings
    from analysis.whatif import Redecider
    from cli.render.redaction import keep_out
    from events.nats.log import JetStreamLog
    from events.nats.output import JetStreamOutput
    from projections.main import checkpoints_beside
    from web.access import TOKENS_FILE, Tokens
    from web.door import allow_files
    from web.main import WebConfig, serve

    allow_files()
    store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    tokens_file = Instance().data / TOKENS_FILE
    tokens = Tokens.load(tokens_file)
    keep_out(tokens.operator)
    keep_out(tokens.viewer)
    config = WebConfig(
        store=store,
        host=address,
        port=port,
        names=None if "*" in names else frozenset(names),
        base=base,
        proxies=frozenset(proxies),
        tokens=tokens_file,
    )

    checkpoints = checkpoints_beside(store)
    place = ServedPlace(Instance().dashboard_file)

    def ready(chosen: int) -> None:
        url = web_url(address, chosen) + base
        _log.info("web", url=url, nats=credentials.url)
        place.tell(url)

    async with role_link(credentials, stop) as link:
        log = JetStreamLog(link)
        try:
            serving = serve(
                log,
                link,
                config,
                stop,
                output=JetStreamOutput(link),
                ready=ready,
                whatif=Redecider(log, checkpoints=checkpoints),
                policy=policies.document(policies.Policy()),
                savings=partial(local_savings, log, checkpoints=checkpoints),
            )
            await until_closed(serving, link)
        except OSError as error:
            raise Problem(
                f"{address}:{port} cannot be listened on ({error.strerror or error}): "
                "choose another port with --port"
            ) from error
        finally:
            place.forget()
            await log.close()


def sidecar_config(file: Path | None, name: str | None) -> SidecarConfig:
    """Read the sidecar's configuration: the file named, the data folder's, or defaults."""
    from sidecar.config import SidecarConfig, load

    usual = Instance().data / "sidecar.toml"
    if file is None and usual.exists():
        file = usual
    config = load(file) if file is not None else SidecarConfig()
    return named(config, name) if name else config


def named(config: SidecarConfig, name: str) -> SidecarConfig:
    """Return the configuration with the host's name in it."""
    from msgspec.structs import replace

    from events.ids import token

    return replace(config, name=token(name, "--name"))


def host_credentials(config: SidecarConfig, *, chosen: bool) -> Credentials:
    """Find the host's key: the one said, the name's, or the only one there is."""
    creds, url = said_creds(), said_url()
    instance = Instance()
    if creds is not None:
        chosen_key = explicit_credentials(url, creds)
        if chosen_key.host is None:
            raise Problem(
                f"{creds} is the key of {chosen_key.role}, a sidecar needs a host's: "
                "`agentcom host add NAME` makes one"
            )
        if chosen and chosen_key.host != config.host:
            raise Problem(
                f"{creds} is the key of host {chosen_key.host}, not of {config.host}: "
                "a host's key goes with its name"
            )
        return chosen_key
    url = url or instance.url
    name = config.host if chosen else instance.own_host(config.data_path)
    names = instance.hosts()
    if name not in names and not chosen and len(names) == 1:
        name = names[0]
    if name not in names:
        raise Problem(
            f"there is no key for a host {name} in {instance.keys}: "
            f"make it with `agentcom host add {name}`"
        )
    role = f"host-{name}"
    return Credentials(url, instance.keys / f"{role}.nk", role)


class _Connection:
    """Log and bus of one link, as a sidecar wants them."""

    def __init__(self, log: Any, bus: Any) -> None:
        self.log = log
        self.bus = bus


async def be_sidecar(
    credentials: Credentials,
    config: SidecarConfig,
    stop: asyncio.Event,
    metrics: tuple[str, int] | None = None,
) -> None:
    """Be this host until `stop` is set; then drain."""
    from events.nats.attachments import JetStreamAttachments
    from events.nats.log import JetStreamLog
    from sidecar.main import run
    from sidecar.metrics import SidecarMetrics
    from web.exposition import exposed

    data = Instance().data
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with role_link(credentials, stop) as link:
        log = JetStreamLog(link, consumers=False)
        machine = local_host_name()
        _log.info("sidecar", host=config.host, machine=machine, nats=credentials.url)
        try:
            meter = SidecarMetrics(log)
            used = log if metrics is None else meter.log
            async with exposed("sidecar", meter, metrics, _metrics_ready):
                living = run(
                    config,
                    _Connection(used, link),
                    stop,
                    data=data,
                    private=[credentials.seed_path],
                    ready=meter.attach,
                    attachments=JetStreamAttachments(link),
                )
                await until_closed(living, link)
        finally:
            await log.close()
