"""One role in this process: scheduler, sidecar or web, until it is told to stop.

The first SIGTERM or Ctrl-C ends it in good order, the second at once. A role whose
connection is closed for good ends with an error, so that whoever supervises it starts
it again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import psutil
import structlog

from actors.scheduler.lease import LEASE_TTL_S, renewal
from agentcom import __version__
from cli.client.connection import loop_factory, new_id
from cli.client.target import on_target, said_creds, said_url
from cli.local.instance import (
    Credentials,
    Instance,
    explicit_credentials,
    local_host_name,
)
from cli.render.redaction import redact
from cli.render.terminal import EXIT_INTERRUPTED, Problem, colours_on
from events.errors import LogUnavailable
from events.nats.link import Link
from events.races import first

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sidecar.config import SidecarConfig

PATIENCE_S: Final = 30.0
"""How long a role waits for the broker before it gives up."""
TRY_S: Final = 3.0
TOLD_AFTER_S: Final = 2.0
AWAY_TOLD_AFTER_S: Final = 1.0
AWAY_TOLD_AGAIN_S: Final = 60.0
WEB_PORT: Final = 4000

_log = structlog.get_logger("agentcom")


# -- the life of a role ----------------------------------------------------------------


def run_role(work: Callable[[asyncio.Event], Awaitable[None]], *, debug: bool) -> None:
    """Run `work(stop)` until it ends; signals set `stop`."""
    set_up_logs(debug=debug)
    spare_the_collector()

    async def live() -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        await work(stop)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(live())


def spare_the_collector() -> None:
    """Look for garbage in cycles less often: a role makes hardly any.

    What lives long (tasks that wait, read models) would be walked again and again; this
    took a tenth of a scheduler's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Let SIGTERM and SIGINT set `stop`; the second of them ends the process at once."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            kill_all(descendants(os.getpid()))
            os._exit(EXIT_INTERRUPTED)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


def descendants(pid: int) -> list[psutil.Process]:
    """List everything that a process has started and that is still there."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill_all(processes: list[psutil.Process]) -> None:
    """End processes at once."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def set_up_logs(*, debug: bool) -> None:
    """Write logs to stderr: for people on a terminal, as JSON lines elsewhere."""
    people = sys.stderr.isatty()
    shown: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not people),
    ]
    if people:
        render: Any = structlog.dev.ConsoleRenderer(colors=colours_on(sys.stderr))
        shown += [redact, render]
    else:
        render = structlog.processors.JSONRenderer()
        shown += [structlog.processors.dict_tracebacks, redact, render]
    structlog.configure(
        processors=shown,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.INFO
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # What libraries have to say, in the same shape.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shown[:-1]],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                render,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


@asynccontextmanager
async def role_link(credentials: Credentials) -> AsyncIterator[Link]:
    """Connect, waiting for a broker that is still to come; close at the end."""
    link = await _connect(credentials)
    tell = Away(link, asyncio.get_running_loop())
    try:
        yield link
    finally:
        tell.stop()
        await link.close()


class Away:
    """Says when the broker has been away for a second, why, and when it is back."""

    def __init__(self, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        self._link = link
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._told = False
        link.on_connection(self._connection)

    def _connection(self, up: bool) -> None:
        self.stop()
        if up:
            if self._told:
                away_s = round(self._loop.time() - self._since, 1)
                _log.info("the broker is back", away_s=away_s)
            self._told = False
            return
        self._since = self._loop.time()
        self._link.reason = ""
        self._timer = self._loop.call_later(AWAY_TOLD_AFTER_S, self._still_away)

    def _still_away(self) -> None:
        self._told = True
        _log.warning(
            "the broker is away",
            url=self._link.address.url,
            reason=self._link.reason or "no connection",
        )
        self._timer = self._loop.call_later(AWAY_TOLD_AGAIN_S, self._still_away)

    def stop(self) -> None:
        """Say nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _connect(credentials: Credentials) -> Link:
    address = credentials.address()
    began = time.monotonic()
    told = False
    while True:
        try:
            return await Link.connect(address, timeout=TRY_S)
        except LogUnavailable as error:
            waited = time.monotonic() - began
            if waited > PATIENCE_S:
                raise Problem(
                    f"no broker at {address.url} for {waited:.0f} s ({error.reason}): "
                    "start it with `nats-server -c nats.conf` or `agentcom up`"
                ) from error
            if not told and waited > TOLD_AFTER_S:
                told = True
                _log.info("waiting for the broker", url=address.url)
            await asyncio.sleep(0.1)


async def until_closed(work: Awaitable[None], link: Link) -> None:
    """Run `work`; raise LogUnavailable if the connection is closed for good meanwhile."""
    ended = await first(work, link.closed.wait())
    if ended.place != 0:
        raise LogUnavailable("keep the connection", link.reason or "it was closed")


def role_credentials(role: str) -> Credentials:
    """Choose a role's key: the one named by `--creds` if it is that role's, or its own."""
    creds, url = said_creds(), said_url()
    instance = Instance()
    if creds is None:
        found = instance.keys / f"{role}.nk"
        return Credentials(url or instance.url, found, role)
    chosen = explicit_credentials(url or instance.url, creds)
    if chosen.role != role:
        raise Problem(
            f"{creds} is the key of {chosen.role}, this needs the one of {role}"
        )
    return chosen


_DEBUG = click.option("--debug", is_flag=True, help="Log more.")


def _address(
    _: click.Context, __: click.Parameter, said: str | None
) -> tuple[str, int] | None:
    """Read `9090` or `0.0.0.0:9090`."""
    if said is None:
        return None
    host, _colon, port = said.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise click.BadParameter(f"{said!r}: expected PORT or HOST:PORT")
    return host or "127.0.0.1", int(port)


_METRICS = click.option(
    "--metrics-port",
    "metrics",
    metavar="[HOST:]PORT",
    callback=_address,
    help="Serve metrics for Prometheus there; 0 for any free port.",
)


def _metrics_ready(port: int) -> None:
    _log.info("metrics", url=f"http://localhost:{port}/metrics")


# -- scheduler -------------------------------------------------------------------------


@click.command()
@on_target
@_METRICS
@click.option(
    "--lease-ttl",
    "lease_ttl",
    type=click.IntRange(min=1),
    default=LEASE_TTL_S,
    show_default=True,
    metavar="SECONDS",
    help="How long a leader stays one without renewing it, whole seconds, at least 1; "
    "it is renewed four times as often. Longer than a failover where the broker has "
    "replicas: 15.",
)
@_DEBUG
def scheduler(metrics: tuple[str, int] | None, lease_ttl: int, debug: bool) -> None:
    """Run a scheduler. Of several, one leads and the others stand by.

    Makes the streams first where they are missing and the data folder has the admin's
    key.
    """
    credentials = role_credentials("scheduler")
    run_role(
        lambda stop: be_scheduler(credentials, stop, metrics, lease_ttl=lease_ttl),
        debug=debug,
    )


async def be_scheduler(
    credentials: Credentials,
    stop: asyncio.Event,
    metrics: tuple[str, int] | None = None,
    *,
    lease_ttl: float = LEASE_TTL_S,
) -> None:
    """Be a scheduler until `stop` is set."""
    from actors.scheduler.role import SchedulerRole
    from cli.metering import SchedulerMeter, exposed
    from events.nats.leases import JetStreamLeases
    from events.nats.log import JetStreamLog
    from events.nats.readers import ReadersGate

    name = f"scheduler-{local_host_name()[:40]}-{os.getpid()}-{secrets.token_hex(2)}"
    async with role_link(credentials) as link:
        await make_streams(credentials.url, link)
        log = JetStreamLog(link)
        meter = SchedulerMeter(log)
        # Counting costs a little of each event: only where somebody wants the figures.
        used = log if metrics is None else meter.log
        role = SchedulerRole(
            name,
            used,
            link,
            JetStreamLeases(link),
            ids=new_id,
            version=__version__,
            lease_ttl=lease_ttl,
            lease_renew=renewal(lease_ttl),
        )
        meter.role = role
        gate = ReadersGate(link)
        await gate.open()
        _log.info("scheduler", name=name, nats=credentials.url)
        try:
            async with exposed(meter, metrics, _metrics_ready):
                await until_closed(role.run(stop), link)
        finally:
            await gate.close()
            await log.close()


async def make_streams(url: str, link: Link) -> None:
    """Provision where a stream is missing; what is there stays as it was configured."""
    from cli.commands.keys import provision_with
    from events.nats.provision import Retention

    missing = await missing_streams(link)
    if not missing:
        return
    admin = Credentials(url, Instance().keys / "admin.nk", "admin")
    if not admin.seed_path.exists():
        raise Problem(
            f"the broker at {url} has no {', '.join(missing)}: make them with "
            "`agentcom provision` where the admin's key is"
        )
    await provision_with(admin, Retention())
    _log.info("streams made", streams=missing)


async def missing_streams(link: Link) -> list[str]:
    """Name the streams that the broker does not have yet."""
    import msgspec

    from events import subjects

    missing = []
    for name in (subjects.EVENTS, subjects.OUTPUT, f"KV_{subjects.LEASES}"):
        answer = await link.call(f"$JS.API.STREAM.INFO.{name}", b"", timeout=10.0)
        if "error" in msgspec.json.decode(answer.data, type=dict[str, Any]):
            missing.append(name)
    return missing


# -- web -------------------------------------------------------------------------------


@click.command()
@on_target
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=WEB_PORT,
    show_default=True,
    help="Where to listen; 0 for any free port.",
)
@click.option("--host", "address", default="127.0.0.1", show_default=True)
@click.option(
    "--name",
    "names",
    multiple=True,
    help="A further host name to be asked for under; * for any.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file of the read models  [default: projections.db in the data folder]",
)
@_DEBUG
def web(
    port: int, address: str, names: tuple[str, ...], store: Path | None, debug: bool
) -> None:
    """Run the read models, and serve them and the dashboard over HTTP."""
    credentials = role_credentials("projections")
    file = store or Instance().data / "projections.db"

    async def work(stop: asyncio.Event) -> None:
        await be_web(credentials, stop, file, address, port, names)

    run_role(work, debug=debug)


async def be_web(
    credentials: Credentials,
    stop: asyncio.Event,
    store: Path,
    address: str,
    port: int,
    names: tuple[str, ...] = (),
) -> None:
    """Be projections and web server until `stop` is set."""
    from actors.rules import policy as policies
    from analysis.savings import LocalSavings
    from analysis.whatif import Redecider
    from events.nats.log import JetStreamLog
    from events.nats.output import JetStreamOutput
    from projections.main import checkpoints_beside
    from web.access import TOKENS_FILE
    from web.main import WebConfig, serve

    store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = WebConfig(
        store=store,
        host=address,
        port=port,
        names=None if "*" in names else frozenset(names),
        tokens=Instance().data / TOKENS_FILE,
    )

    checkpoints = checkpoints_beside(store)

    def ready(chosen: int) -> None:
        _log.info("web", url=f"http://localhost:{chosen}", nats=credentials.url)

    async with role_link(credentials) as link:
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
                savings=LocalSavings(log, checkpoints=checkpoints),
            )
            await until_closed(serving, link)
        except OSError as error:
            raise Problem(
                f"{address}:{port} cannot be listened on ({error.strerror or error}): "
                "choose another port with --port"
            ) from error
        finally:
            await log.close()


# -- sidecar ---------------------------------------------------------------------------


@click.command()
@on_target
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="sidecar.toml  [default: the one in the data folder, where there is one]",
)
@click.option("--name", help="The host's name  [default: this machine's]")
@_METRICS
@_DEBUG
def sidecar(
    file: Path | None,
    name: str | None,
    metrics: tuple[str, int] | None,
    debug: bool,
) -> None:
    """Run this machine's sidecar: it takes tasks, runs them, and reports."""
    if sys.platform == "win32":
        raise Problem("the sidecar does not run on Windows: use WSL, Linux or macOS")
    config = sidecar_config(file, name)
    credentials = host_credentials(config, chosen=bool(name or config.name))
    host = credentials.host
    assert host is not None
    config = named(config, host)
    run_role(lambda stop: be_sidecar(credentials, config, stop, metrics), debug=debug)


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
        found = explicit_credentials(url or instance.url, creds)
        if found.host is None:
            raise Problem(
                f"{creds} is the key of {found.role}, a sidecar needs a host's: "
                "`agentcom host add NAME` makes one"
            )
        if chosen and found.host != config.host:
            raise Problem(
                f"{creds} is the key of host {found.host}, not of {config.host}: "
                "a host's key goes with its name"
            )
        return found
    url = url or instance.url
    name = config.host if chosen else local_host_name()
    known = instance.hosts()
    if name not in known and not chosen and len(known) == 1:
        name = known[0]
    if name not in known:
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
    from cli.metering import exposed
    from events.nats.log import JetStreamLog
    from sidecar.main import run
    from sidecar.metrics import SidecarMetrics

    data = Instance().data
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with role_link(credentials) as link:
        log = JetStreamLog(link, consumers=False)
        _log.info("sidecar", host=config.host, nats=credentials.url)
        try:
            meter = SidecarMetrics(log)
            used = log if metrics is None else meter.log
            async with exposed(meter, metrics, _metrics_ready):
                living = run(
                    config, _Connection(used, link), stop, data=data, ready=meter.attach
                )
                await until_closed(living, link)
        finally:
            await log.close()
