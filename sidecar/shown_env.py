"""What of a command's environment goes into the log, where it stays for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from events.secretive import may_be_secret
from sidecar.progress import encodable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from events import catalogue as c

HIDDEN: Final = "…"
"""Stands for a value that is, or looks like, a secret."""

VARIABLES_SHOWN: Final = 64
BYTES_SHOWN: Final = 4 * 1024
"""Of names and values together."""
VALUE_SHOWN: Final = 500
"""Characters of one value; a longer one ends in `...`."""

_TELLING: Final = 4
"""Characters that a secret has at least to be looked for in other values."""


def shown_env(env: Mapping[str, str], shell: c.Shell | None) -> dict[str, str]:
    """Return a command's variables by name, bounded, without secrets.

    Hidden is the value of each that `shell` takes from the host's secrets, of each that
    holds such a value, and of each that looks like a secret.
    """
    named = set(shell.secret_env) if shell is not None else set()
    values = {env[name] for name in named if len(env.get(name, "")) >= _TELLING}
    shown: dict[str, str] = {}
    left = BYTES_SHOWN
    for name in sorted(env):
        value = encodable(env[name])
        if (
            name in named
            or may_be_secret(name, env[name])
            or any(each in env[name] for each in values)
        ):
            value = HIDDEN
        elif len(value) > VALUE_SHOWN:
            value = value[:VALUE_SHOWN] + "..."
        left -= len(encodable(name).encode()) + len(value.encode())
        if left < 0 or len(shown) == VARIABLES_SHOWN:
            break
        shown[encodable(name)] = value
    return shown
