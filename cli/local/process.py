"""One role in this process, until it is told to stop: signals, logs, its connection.

The first SIGTERM, SIGHUP or Ctrl-C ends it in good order, the second at once; under nohup
SIGHUP is nothing. A role that finds no broker when it starts says so and ends. Once it has
been connected it waits for the broker for as long as that is away, also in the midst of
its start, and says so in its log; only a key that is refused ends it, with an error.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psutil
import structlog

from cli.client.connection import loop_factory
from cli.local.broker import server_line
from cli.local.instance import Instance, NoAddress
from cli.local.unheard import speak_unheard
from cli.render.redaction import redact
from cli.render.terminal import (
    EXIT_INTERRUPTED,
    Problem,
    colours_on,
    sentence_of,
)
from events.diagnostics import Diagnostics
from events.errors import LogUnavailable, Unreachable, is_about_tls
from events.nats.link import Link
from events.races import first

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from cli.local.instance import Credentials

T = TypeVar("T")

PATIENCE_S: Final = 30.0
"""How long a role that starts waits for the broker before it gives up."""
ASK_AGAIN_S: Final = 0.5
"""Between two questions to a broker that is there and cannot answer yet."""
TRY_S: Final = 3.0
CONNECT_AGAIN_S: Final = 0.1
TOLD_AFTER_S: Final = 2.0
AWAY_TOLD_AFTER_S: Final = 1.0
AWAY_TOLD_AGAIN_S: Final = 60.0
TRACEBACK_FRAMES: Final = 20
_log = Diagnostics("agentcom")


class StoppedWaiting(Exception):
    """The role was told to stop before it had found its broker."""


def run_role(work: Callable[[asyncio.Event], Awaitable[None]], *, debug: bool) -> None:
    """Run `work(stop)` until it ends; signals set `stop`."""
    speak_unheard()
    set_up_logs(debug=debug)
    spare_the_collector()

    async def live() -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        with suppress(StoppedWaiting):
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
    """Let signals that end a process set `stop`; the second of them ends it at once."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            kill_all(descendants(os.getpid()))
            os._exit(EXIT_INTERRUPTED)
        stop.set()

    for number in ending_signals():
        loop.add_signal_handler(number, on_signal)


def ending_signals() -> list[signal.Signals]:
    """List the signals that end what runs until it is told to stop.

    SIGHUP is none where it was ignored when this process started: that is what nohup is.
    """
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if ignored else [signal.SIGHUP])]


def listens_on(pid: int | None, port: int) -> bool:
    """Whether a process itself listens on a TCP port; True where that is kept from us."""
    try:
        sockets = [] if pid is None else psutil.Process(pid).net_connections("tcp")
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False
    return any(
        one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in sockets
    )


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


_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(
        show_locals=False, max_frames=TRACEBACK_FRAMES
    )
)
"""Tracebacks without the frames' variables: those hold what was being worked with."""


def set_up_logs(*, debug: bool) -> None:
    """Write logs to stderr: for people on a terminal, as JSON lines elsewhere."""
    people = sys.stderr.isatty()
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not people),
    ]
    if people:
        render: Any = structlog.dev.ConsoleRenderer(
            colors=colours_on(sys.stderr),
            exception_formatter=structlog.dev.plain_traceback,
        )
        # Made into text before the secrets are looked for.
        processors += [structlog.processors.format_exc_info, redact, render]
    else:
        render = structlog.processors.JSONRenderer()
        processors += [_TRACEBACKS, redact, render]
    structlog.configure(
        processors=processors,
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
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *processors[:-1]],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                render,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


@asynccontextmanager
async def role_link(
    credentials: Credentials, stop: asyncio.Event
) -> AsyncIterator[Link]:
    """Connect, waiting for a broker that is still to come; close at the end.

    Raises StoppedWaiting if `stop` is set before there is a connection.
    """
    link = await _connect(credentials, stop)
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
        self._forget = link.on_connection(self._connection)

    def _connection(self, up: bool) -> None:
        self._be_quiet()
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
        self._forget()
        self._be_quiet()

    def _be_quiet(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _connect(credentials: Credentials, stop: asyncio.Event) -> Link:
    address = credentials.address()
    began = time.monotonic()
    reported = False
    while True:
        try:
            ended = await first(Link.connect(address, timeout=TRY_S), stop.wait())
        except LogUnavailable as error:
            waited = time.monotonic() - began
            # Of several servers another may be about to come.
            if is_about_tls(error.reason) and "," not in address.url:
                raise Problem(sentence_of(error)) from error
            if waited > PATIENCE_S:
                raise Problem(
                    f"no broker at {address.url} for {waited:.0f} s ({error.reason}): "
                    f"{_remedy(Instance(), address.url)}"
                ) from error
            if not reported and waited > TOLD_AFTER_S:
                reported = True
                _log.info("waiting for the broker", url=address.url)
            if await first(stop.wait(), timeout=CONNECT_AGAIN_S):
                raise StoppedWaiting from error
        else:
            if ended.place == 0:
                link: Link = ended.value
                return link
            raise StoppedWaiting


def _remedy(instance: Instance, url: str) -> str:
    """Say how to start the broker: by its line where it is this data folder's."""
    with suppress(NoAddress):
        # Several servers are a cluster: each is started on its own machine.
        if instance.url == url and "," not in url and instance.conf.is_file():
            return f"start it with `{server_line(instance.conf)}` or `agentcom up`"
    return "start it on its machine, or name another with --nats"


async def until_answered(
    ask: Callable[[], Awaitable[T]], stop: asyncio.Event
) -> T | None:
    """Return what `ask` returns, once the broker answers it; None if `stop` is set first.

    A cluster that chooses a leader takes its time, and so does a broker that went away
    just after the connection was made.
    """
    said = ""
    while True:
        try:
            ended = await first(ask(), stop.wait())
            return ended.value if ended.place == 0 else None
        except (LogUnavailable, Unreachable) as error:
            if said != (said := str(error)):
                _log.warning("waiting for the broker's answer", reason=said)
        if await first(stop.wait(), timeout=ASK_AGAIN_S):
            return None


async def until_closed(work: Awaitable[None], link: Link) -> None:
    """Run `work`; raise LogUnavailable if the connection is closed for good meanwhile."""
    ended = await first(work, link.closed.wait())
    if ended.place != 0:
        raise LogUnavailable("keep the connection", link.reason or "it was closed")
