"""nats-py's client, held to `tls://`.

nats-py encrypts where the server asks for it, whatever the address says: a server without
TLS, or someone between who says that there is none, would be told everything in the clear.
"""

from __future__ import annotations

from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError


def speaks_no_tls(where: str) -> str:
    """Say that the broker at `where` has no TLS, and what may be the reason."""
    return (
        f"the broker at {where} speaks no TLS: is it in site.conf, and was the broker "
        "started anew?"
    )


class TlsClient(Client):
    """A nats-py client that says nothing in the clear where `tls://` is asked for.

    One such address among those given is enough: then it holds for each of the servers,
    on the first connection and on all that follow.
    """

    async def _process_info(
        self, info: dict[str, Any], initial_connection: bool = False
    ) -> None:
        """Read what a server says of itself; a connection's first is before CONNECT."""
        asked = any(server.uri.scheme == "tls" for server in self._server_pool)
        if initial_connection and asked and not info.get("tls_required"):
            if not info.get("tls_available"):
                transport: Any = self._transport
                transport.close()
                server = self._current_server
                raise NatsError(speaks_no_tls(server.uri.netloc if server else "?"))
            # What leaves the choice to the client: nats-py looks at this word alone.
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    def _connect_command(self) -> bytes:
        """Return CONNECT, which is the first that goes over TLS where there is TLS."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None and writer.get_extra_info("sslcontext") is not None:
            # nats-py makes this protocol by hand, so it does not know that it is over TLS,
            # and the loop would warn of its answer to the connection's end.
            writer.transport.get_protocol()._over_ssl = True
        return super()._connect_command()
