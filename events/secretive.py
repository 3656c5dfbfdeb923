"""Which variables hold secrets, as far as a name or a value shows it.

A guess, for what is to be kept out of sight or warned of; never for what may be shown.
"""

from __future__ import annotations

import re
from typing import Final

_NAME: Final = re.compile(
    r"(?:KEYS?|TOKEN|SECRETS?|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(?:_|\Z)"
    r"|(?:\A|_)PAT\Z|CUSTOM_HEADERS\Z",
    re.IGNORECASE,
)
_USER_IN_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s:/@]*:[^\s/@]+@", re.I)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name probably holds a secret: `API_KEY`, `PGPASSWORD`."""
    return _NAME.search(name) is not None


def is_secret(name: str, value: str) -> bool:
    """Whether a variable probably holds a secret, by its name or a password in an address."""
    return is_secret_name(name) or _USER_IN_ADDRESS.search(value) is not None
