"""nats-py's client, held to `tls://`.

nats-py encrypts where the server asks for it, whatever the address says: a server without
TLS, or someone between who says that there is none, would be told everything in the clear.
"""

from __future__ import annotations

from ssl import SSLCertVerificationError
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import Error as NatsError


def speaks_no_tls(where: str) -> str:
    """Say that the broker at `where` has no TLS, and what may be the reason."""
    return (
        f"the broker at {where} speaks no TLS: is it in site.conf, and was the broker "
        "started anew?"
    )


_NAMES_ANOTHER: Final = frozenset({62, 64})
"""OpenSSL's numbers for a certificate that is another name's, another address's."""
_ISSUER_UNKNOWN: Final = frozenset({2, 18, 19, 20, 21})
"""Its numbers for an issuer that is not at hand, or that nobody here trusts."""


def not_trusted(where: str, number: int, said: str) -> str:
    """Say why the certificate at `where` is refused; `number` and `said` are OpenSSL's."""
    if number in _NAMES_ANOTHER:
        why = "its certificate does not name this address"
    elif number in _ISSUER_UNKNOWN:
        why = (
            "its issuer is not known here: SSL_CERT_FILE names the issuer's certificate"
        )
    else:
        why = said
    return f"certificate verify failed at {where}: {why}"


class TlsClient(Client):
    """A nats-py client that says nothing in the clear where `tls://` is asked for.

    One such address among those given is enough: then it holds for each of the servers,
    on the first connection and on all that follow.
    """

    async def _process_connect_init(self) -> None:
        """Greet the server; what keeps its certificate from being trusted is said."""
        try:
            await super()._process_connect_init()
        except SSLCertVerificationError as error:
            server = self._current_server
            where = server.uri.netloc if server else "?"
            said = not_trusted(where, error.verify_code, error.verify_message)
            raise NatsError(said) from error

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
