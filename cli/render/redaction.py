"""Keeps secrets out of the logs: by the name beside them, and by what secrets look like.

Names, of fields and within texts, are judged by their parts, so that `api_key`,
`Authorization`, `?token=` and `ANTHROPIC_API_KEY` go, and `tokens_in` and
`idempotency_key` stay. Secrets that this process itself gives out are told to
`keep_out`, and never appear whatever is beside them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from events.secretive import PASSWORD_IN_ADDRESS, SHAPES

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

REDACTED: Final = "[redacted]"
DEEPEST: Final = 6
"""Levels of a value that are looked through; what is deeper is not shown."""

_SECRET_NAME: Final = re.compile(
    r"(?:^|[_\-. ])(?:password|passwd|secret|secrets|token|credential|credentials|creds|"
    r"authorization|cookie|seed|nkey|jwt|api[_\-]?key|access[_\-]?key|private[_\-]?key|"
    r"auth[_\-]?token)$",
    re.IGNORECASE,
)
_VALUE: Final = r"""(?:\\?"[^"]*"|\\?'[^']*'|[^\s,;&"'\\]+)"""
_SECRETS: Final = (
    *((shape, REDACTED) for shape in SHAPES),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/._~=-]{8,}"), rf"\1 {REDACTED}"),
    (PASSWORD_IN_ADDRESS, rf"\1:{REDACTED}@"),
    # Headers whose whole rest is the secret.
    (
        re.compile(
            r"(?i)\b((?:set-)?cookie|sec-websocket-protocol)"
            r"""(\\?["']?\s*:\s*)(?:\\?"[^"]*"|\\?'[^']*'|[^\r\n]+)"""
        ),
        rf"\1\2{REDACTED}",
    ),
    # What stands beside a name, in addresses (encoded ones too), JSON, settings.
    (
        re.compile(
            r"(?i)(?<![a-z0-9_-])([a-z0-9_-]*(?:api[_-]?key|access[_-]?key|"
            r"private[_-]?key|password|passwd|secret|token|credentials?|creds|nkey|jwt))"
            rf"""(\\?["']?\s*(?:[=:]|%3d)\s*){_VALUE}"""
        ),
        rf"\1\2{REDACTED}",
    ),
)

_own: Final[set[str]] = set()


def keep_out(secret: str) -> None:
    """Leave this very text, plain or as in an address, out of all that is logged."""
    _own.update({secret, quote(secret, safe="")})


def without_secrets(text: str) -> str:
    """Return a text with what is a secret, or looks like one, left out."""
    for secret in _own:
        text = text.replace(secret, REDACTED)
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def redacted(value: Any, depth: int = 0) -> Any:
    """Return a value with the secrets in it left out."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, bytes):
        return without_secrets(value.decode(errors="replace"))
    if isinstance(value, (bool, int, float, type(None))):
        return value
    if depth >= DEEPEST:
        return REDACTED
    if isinstance(value, dict):
        return {name: _field(name, below, depth + 1) for name, below in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redacted(each, depth + 1) for each in value]
    return without_secrets(str(value))


def _field(name: Any, value: Any, depth: int) -> Any:
    secret = isinstance(name, str) and _SECRET_NAME.search(name)
    if secret and value not in (None, "", False):
        return REDACTED
    return redacted(value, depth)


def redact(
    logger: Any, method: str, event_dict: MutableMapping[str, Any]
) -> Mapping[str, Any]:
    """Leave secrets out of a log entry: a structlog processor, the last but the renderer."""
    return {name: _field(name, value, 0) for name, value in event_dict.items()}
