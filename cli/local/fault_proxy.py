"""A TCP proxy that injects faults: it passes bytes on until it is told to break.

`agentcom demo` puts it between the sidecar and a model server, real or simulated, to show
a retry and a fallback; the browser tests do the same. `break_next_answer` cuts one answer
in the middle, `cut` refuses every connection until `restore`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from events.races import first

_ASKS: Final = b"POST /api/chat"
_PIECE: Final = b'"content"'
_BYTES: Final = 64 * 1024


class FaultProxy:
    """Passes connections on to `target`, a URL; `url` is its own end."""

    def __init__(self, target: str) -> None:
        where = urlsplit(target)
        self._target = (where.hostname or "127.0.0.1", where.port or 80)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._open: set[asyncio.Task[None]] = set()
        self._break_after: int | None = None
        self.broken = 0

    @property
    def url(self) -> str:
        """Where to connect instead of to the target."""
        return f"http://127.0.0.1:{self._port}"

    async def restore(self) -> None:
        """Listen: at the same port as before, once there was one."""
        if self._server is None:
            self._server = await asyncio.start_server(
                self._connected, "127.0.0.1", self._port
            )
            self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """End every connection and accept no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def break_next_answer(self, after: int = 4) -> None:
        """Cut the next answer of a model, once it has said `after` pieces."""
        self._break_after = after

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._carry(reader, writer)
        except (OSError, asyncio.CancelledError):
            # The one is an end that went away, the other is `cut`.
            pass
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        there, back = await asyncio.open_connection(*self._target)
        call = _Call()
        try:
            await first(
                self._asking(reader, back, call), self._answering(there, writer, call)
            )
        finally:
            back.transport.abort()

    async def _asking(
        self, reader: asyncio.StreamReader, back: asyncio.StreamWriter, call: _Call
    ) -> None:
        while data := await reader.read(_BYTES):
            if self._break_after is not None and _ASKS in data:
                call.pieces_left, self._break_after = self._break_after, None
            back.write(data)
            await back.drain()

    async def _answering(
        self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, call: _Call
    ) -> None:
        while data := await there.read(_BYTES):
            writer.write(data)
            with suppress(ConnectionError):
                await writer.drain()
            if call.pieces_left is None:
                continue
            call.pieces_left -= data.count(_PIECE)
            if call.pieces_left <= 0:
                self.broken += 1
                return


class _Call:
    """One connection: how many pieces of an answer it may still carry, None: all."""

    pieces_left: int | None = None
