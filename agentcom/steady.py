"""nats-py's client, held to what it promises: that it connects anew for ever.

It knows the errors that are usual on the way. Others end its task that connects, and the
client is then down for good; and where an attempt fails half-way, it makes the next over
it, so that two connections hand on the same messages and two tasks read one of them.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from nats.aio.client import DEFAULT_FLUSH_TIMEOUT, Client, Srv
from nats.errors import Error as NatsError

from agentcom.tls import TlsClient

_LEFT_TO_CLIENT: Final = ("authorization", "permissions", "stale connection")
_KEY_TAKEN: Final = ("authentication revoked", "authentication expired")

_CANCEL_AGAIN_S: Final = 0.05


class SteadyClient(TlsClient):
    """A client that is there again whenever the broker is, and has one connection."""

    _attempting: asyncio.Task[None] | None = None

    async def _attempt_reconnect(self) -> None:
        """Connect anew, whatever keeps an attempt from it."""
        before, self._attempting = self._attempting, asyncio.current_task()
        # Once is not always enough: `asyncio.wait_for` of Python 3.11 loses a cancellation
        # that comes together with what it waits for. Two would end each other's connections.
        while before is not None and not before.done():
            before.cancel()
            await asyncio.wait((before,), timeout=_CANCEL_AGAIN_S)
        if self.is_closed:
            return
        # In good order it would wait until a broker that has stopped reading has it all.
        self._let_go()
        while True:
            try:
                await super()._attempt_reconnect()
                return
            except Exception as error:  # noqa: BLE001 - nobody else would try again
                if self.is_closed:
                    return
                self._status = Client.RECONNECTING
                await self._error_cb(error)
                await asyncio.sleep(self.options["reconnect_time_wait"])

    async def _connect_to_server(self, s: Srv) -> None:
        """Connect; of the connection before nothing is left."""
        self._let_go()
        await super()._connect_to_server(s)

    async def _read_loop(self) -> None:
        """Read; a connection that is not read any more has ended."""
        await super()._read_loop()
        reading = asyncio.current_task()
        if self.is_connected and reading is not None and not reading.cancelling():
            await self._process_op_err(NatsError("nats: what came is not understood"))

    async def flush(self, timeout: int = DEFAULT_FLUSH_TIMEOUT) -> None:
        """Wait until the server has what was sent; raises NatsError where it has gone."""
        try:
            await super().flush(timeout)
        except RuntimeError as error:
            # uvloop's word for a connection that has just been closed.
            raise NatsError(f"nats: {error}") from error

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        """Send what waits; a connection that has just been closed is its reader's to find.

        Whoever subscribes meanwhile is known to the next one.
        """
        try:
            return await super()._flush_pending(force_flush)
        except (RuntimeError, OSError):
            sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            sent.set_result(None)
            return sent

    def _let_go(self) -> None:
        """End the connection there is, and those who read, write and ping it."""
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.cancel()
        transport: Any = self._transport
        writer = getattr(transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    async def _process_err(self, err_msg: str) -> None:
        """Connect anew whatever the server says as it ends a connection.

        nats-py closes for good after every word that it does not know: a limit that is
        reached, a handshake that took too long. Only a key that is refused is for good.
        """
        said = err_msg.strip("' ").lower()
        if any(word in said for word in (*_LEFT_TO_CLIENT, *_KEY_TAKEN)):
            await super()._process_err(err_msg)
            return
        error = NatsError(f"nats: {said}")
        if self._current_server is not None:
            # With the pause that follows an attempt which failed.
            self._current_server.last_attempt = asyncio.get_running_loop().time()
        await self._error_cb(error)
        await self._process_op_err(error)
