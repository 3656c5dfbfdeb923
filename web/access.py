"""Who may do what through the browser's edge.

Two tokens are made on first start and kept in a file that its owner alone may read: the
operator's, who may also give commands, and the viewer's. Programs and the page send
`Authorization: Bearer TOKEN` with each request. For the websocket, where a page can set no
header, the token stands among the protocols that it offers: `agentcom, token.TOKEN`. The
page keeps the token in its origin's storage. There is no cookie: a browser would send it
to every port of the machine, and for pages of others. Removing the file takes every right
back at the next start.

Beside that: a page of another origin can neither open the websocket nor send a command;
and wrong tokens, requests, commands and what a page asks for are limited by rate.
"""

from __future__ import annotations

import hmac
import os
import secrets
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Struct

from events import header
from events.errors import AgentComError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aiohttp import web

Role = Literal["operator", "viewer"]

DEFAULT_PORT: Final = 4000
PROTOCOL: Final = "agentcom"
"""The websocket's, which the server chooses of those that a page offers."""
TOKENS_FILE: Final = "web-tokens.json"
SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""What the page may load and run: its own files; and no text may become markup."""

HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Content-Security-Policy": SECURITY_POLICY,
}

_USUAL_PORTS: Final = {"http": 80, "https": 443}
_TOKEN_PROTOCOL: Final = "token."


class BadTokens(AgentComError):
    """The file of the tokens is not what we wrote."""

    code = "bad_tokens"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(
            f"{path} does not hold the dashboard's tokens ({reason}): remove it, and "
            "new ones are made"
        )


class Tokens(Struct, frozen=True):
    """One secret a role."""

    operator: str
    viewer: str

    @classmethod
    def load(cls, path: Path) -> Tokens:
        """Read them, or make them on first start; raises BadTokens, OSError."""
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return cls._make(path)
        try:
            tokens = msgspec.json.decode(raw, type=cls)
        except msgspec.DecodeError as error:
            raise BadTokens(path, str(error)) from error
        if min(len(tokens.operator), len(tokens.viewer)) < 16:
            raise BadTokens(path, "a token of under 16 characters")
        return tokens

    @classmethod
    def _make(cls, path: Path) -> Tokens:
        tokens = cls(secrets.token_urlsafe(24), secrets.token_urlsafe(24))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(tokens))
        try:
            # Of two processes that start at once, one's tokens stay.
            path.hardlink_to(scratch)
        except FileExistsError:
            return cls.load(path)
        finally:
            scratch.unlink()
        return tokens


class Visitor(Struct, frozen=True):
    """Somebody who was let in. `name` is how the log calls whoever gives a command."""

    role: Role
    name: str

    @property
    def may_command(self) -> bool:
        """Whether commands are carried out for them."""
        return self.role == "operator"


class Access:
    """Lets people in, or not. Without tokens everybody who reaches us is an operator.

    `proxies` are the addresses of proxies that say for whom they ask.
    """

    def __init__(
        self,
        tokens: Tokens | None,
        *,
        clock: Callable[[], float],
        proxies: frozenset[str] = frozenset(),
    ) -> None:
        self.tokens = tokens
        self._proxies = proxies
        self._tokens: dict[str, Role] = {}
        if tokens is not None:
            self._tokens = {tokens.operator: "operator", tokens.viewer: "viewer"}
        self.attempts = Buckets(rate=0.5, burst=20, clock=clock)
        self.commands = Buckets(rate=100, burst=400, clock=clock)
        self.requests = Buckets(rate=200, burst=1_000, clock=clock)

    def visitor(self, request: web.Request) -> Visitor | None:
        """Say who asks, by the token that is shown."""
        if self.tokens is None:
            return Visitor("operator", "web:anyone")
        role, secret = None, shown_token(request).encode(errors="surrogateescape")
        # A wrong one takes as long as a right one.
        for right, its in self._tokens.items():
            if hmac.compare_digest(right.encode(), secret):
                role = its
        return None if role is None else Visitor(role, f"web:{role}")

    def address(self, request: web.Request) -> str:
        """Return the address that a request comes from, as requests are counted.

        A trusted proxy is believed what it wrote last into `X-Forwarded-For`, and so is
        each trusted one before it. From anybody else the header means nothing.
        """
        address = request.remote or ""
        hops = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")
        while address in self._proxies and hops:
            try:
                address = str(ip_address(hops.pop().strip()))
            except ValueError:
                break
        return address


def shown_token(request: web.Request) -> str:
    """Return the token that a request carries, right or wrong; "" where it has none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    for offered in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        name = offered.strip()
        if name.startswith(_TOKEN_PROTOCOL):
            return unquote(name.removeprefix(_TOKEN_PROTOCOL))
    return ""


def other_origin(request: web.Request) -> str:
    """Return which origin a request's page is of; "" if it is of ours, or of none.

    Browsers leave `Origin` out of a page's questions to its own origin, as they see it.
    Our page says it in a header of its own, so that a proxy which asks us under another
    name than the browser asked the proxy is noticed at once, and not by the websocket.
    """
    origin = request.headers.get("Origin") or request.headers.get(header.PAGE_ORIGIN)
    if origin is None:
        site = request.headers.get("Sec-Fetch-Site", "none")
        return "" if site in ("none", "same-origin") else "another"
    try:
        theirs, ours = urlsplit(origin), urlsplit(f"//{request.host}")
        usual = _USUAL_PORTS[theirs.scheme]
        same = (theirs.hostname, theirs.port or usual) == (
            ours.hostname,
            ours.port or usual,
        )
    except (ValueError, KeyError):
        same = False
    return "" if same else origin[:100] or "another"


class Buckets:
    """So much a second for each key, with a burst; the oldest keys are forgotten."""

    KEYS: Final = 4_096

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, key: str) -> bool:
        """Take one; False where there is none left."""
        now = self._clock()
        left, since = self._left.pop(key, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        allowed = left >= 1
        self._left[key] = (left - 1 if allowed else left, now)
        if len(self._left) > self.KEYS:
            del self._left[next(iter(self._left))]
        return allowed
