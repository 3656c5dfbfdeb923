"""The web role: the read models, and the HTTP server beside them."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from errno import EADDRINUSE
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from events.diagnostics import Diagnostics
from events.errors import LogUnavailable, Unreachable
from events.position import LogChanged
from projections.main import projecting, until
from projections.runner import AGAIN_S
from projections.store_file import Damaged, may_pass, set_aside
from web.access import DEFAULT_PORT, Access, Tokens
from web.server import LOOPBACK, Server

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.bus import Bus
    from events.log import EventLog
    from projections.output import OutputReader
    from projections.queries import WhatIf
    from web.api import SavingsReader

_log = Diagnostics("agentcom.web")


class WebConfig(Struct, frozen=True, kw_only=True):
    """What the role needs to know.

    `store` is the file for the read models, None for a temporary one; `port` 0 for a free
    one. `names` are further host names under which the server may be asked for, None for
    any; `base` is the path below which it is asked, "" or like "/fleet"; `proxies` are
    the addresses of proxies that say for whom they ask. `tokens` is the file of the
    dashboard's tokens, None where everybody who reaches the port may do everything.
    """

    store: Path | None
    host: str = LOOPBACK
    port: int = DEFAULT_PORT
    names: frozenset[str] | None = frozenset()
    base: str = ""
    proxies: frozenset[str] = frozenset()
    tokens: Path | None = None


async def serve(
    log: EventLog,
    bus: Bus,
    config: WebConfig,
    stop: asyncio.Event,
    *,
    output: OutputReader | None = None,
    ready: Callable[[int], None] | None = None,
    whatif: WhatIf | None = None,
    policy: dict[str, Any] | None = None,
    savings: SavingsReader | None = None,
) -> None:
    """Serve until `stop` is set; `ready` is called with the port once it listens, and
    again where that has to be another one.

    Raises what ends it before that: Denied, StoreInUse, OSError.
    A log that was put back makes all anew, and so do read models that are damaged; a log
    that does not answer yet and a store that cannot be written (a full disk, another's
    lock) are waited for. `whatif` decides the past anew, `policy` is the built-in one, as it is shown until
    somebody sets another; `savings` compares local work with a chosen model.
    """
    ports: list[int] = []
    waits = ""

    def listening(port: int) -> None:
        if ports != [port] and ready is not None:
            ready(port)
        ports[:] = [port]

    while True:
        try:
            at = replace(config, port=ports[0]) if ports else config
            await _serve(log, bus, at, stop, output, listening, whatif, policy, savings)
            return
        except LogChanged as changed:
            # Whatever was made of the log, here and on the pages, is of another one.
            _log.warning("starting anew", reason=str(changed))
        except Damaged as damage:
            _log.warning("the read models are made anew", reason=str(damage))
            if config.store is not None:
                set_aside(config.store)
        except Exception as error:
            if ports and not config.port and getattr(error, "errno", 0) == EADDRINUSE:
                # Taken while all was made anew, and any other does as well.
                ports.clear()
                continue
            silent = isinstance(error, LogUnavailable | Unreachable)
            if not silent and not may_pass(error):
                raise
            if waits != str(error):
                waits = str(error)
                _log.warning(
                    "waiting for the broker's answer"
                    if silent
                    else "the read models cannot be written, and wait",
                    file=str(config.store),
                    reason=waits,
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S):
                    await stop.wait()
                return


async def _serve(
    log: EventLog,
    bus: Bus,
    config: WebConfig,
    stop: asyncio.Event,
    output: OutputReader | None,
    listening: Callable[[int], None],
    whatif: WhatIf | None,
    policy: dict[str, Any] | None,
    savings: SavingsReader | None,
) -> None:
    """Serve until `stop` is set, or raise what ends it before."""
    tokens = None if config.tokens is None else Tokens.load(config.tokens)
    async with projecting(log, bus, config.store, output=output, whatif=whatif) as (
        runner,
        queries,
    ):
        server = Server(
            runner,
            queries,
            bus,
            log,
            output=output,
            names=config.names,
            base=config.base,
            policy=policy,
            savings=savings,
            access=Access(tokens, clock=time.monotonic, proxies=config.proxies),
        )
        port = await server.open(config.host, config.port)
        try:
            listening(port)
            await until(stop, runner)
        finally:
            await server.close()
