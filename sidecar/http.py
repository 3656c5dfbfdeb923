"""The HTTP client of a host: to look at model servers, and to run prompts on them.

An address is read here and nowhere else, and here is how it is shown to people.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

import aiohttp

HIDDEN = "***"

_ROUTES = {
    "openai": re.compile(r"/v1(/chat/completions|/completions|/models)?$"),
    "ollama": re.compile(r"/v1(/chat/completions|/models)?$|/api(/[a-z]+)?$"),
}
"""What people add to a server's address because another program wants it there."""


def http_client(
    *, total_s: float | None = None, keep_alive: bool = True
) -> aiohttp.ClientSession:
    """A client without cookies that follows no proxy of the environment.

    `total_s` bounds each request, its answer included. Without `keep_alive` every request
    has a connection of its own: to close it is what cancels a run on the server, and a
    kept one may be dead by the time of the next.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=not keep_alive),
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=2**16,
        timeout=aiohttp.ClientTimeout(total=total_s),
        trust_env=False,
    )


def why_not(error: Exception) -> str:
    """Say in a few words why a server cannot be reached."""
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, ConnectionRefusedError):
            return f"connection refused ({error.host}:{error.port})"
        reason = error.os_error.strerror or str(error.os_error)
        return f"{reason} ({error.host}:{error.port})"
    return str(error) or type(error).__name__


def base_url(kind: str, url: str) -> str:
    """Return a server's address without the route that some people add."""
    address = url.strip().rstrip("/")
    route = _ROUTES.get(kind)
    return address if route is None else route.sub("", address).rstrip("/")


def shown_url(url: str) -> str:
    """Return an address without what opens the server: user, password, query."""
    address, question, _ = url.partition("?")
    scheme, separator, rest = address.partition("://")
    place, slash, path = rest.partition("/")
    _, at, host = place.rpartition("@")
    if at:
        place = f"{HIDDEN}@{host}"
    return f"{scheme}{separator}{place}{slash}{path}" + (
        f"{question}{HIDDEN}" if question else ""
    )


def without_secrets(text: str, url: str = "", key: str | None = None) -> str:
    """Return `text` without the secrets of an address and its key, where it repeats them."""
    secrets = {url: shown_url(url)} if url != shown_url(url) else {}
    try:
        parts = urlsplit(url)
        words = [parts.password, parts.query]
        userinfo = parts.netloc.rpartition("@")[0]
    except ValueError:
        words, userinfo = [], ""
    for word in (userinfo, *words, key, key and key.strip()):
        if word:
            for each in (word, unquote(word), repr(word)[1:-1]):
                secrets[each] = HIDDEN
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > 2:
            text = text.replace(secret, secrets[secret])
    return text


def header_key(name: str, value: str | None) -> str | None:
    """Return a key as a header can hold it; raise ValueError naming its variable.

    `name` is the variable that holds `value`; what is empty is no key.
    """
    if not value:
        return None
    if "\n" in value or "\r" in value:
        raise ValueError(f"the key in {name} holds a newline")
    if not value.isascii() or not value.isprintable():
        raise ValueError(f"the key in {name} holds a character that no header may hold")
    return value
