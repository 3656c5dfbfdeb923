"""Which variables hold secrets, as far as a name or a value shows it.

A guess, for what is to be kept out of sight or warned of. What it lets through may be a
secret still: where something stays for good, `may_be_secret` guesses wider.
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


_PERHAPS: Final = re.compile(
    r"(?:PASS|AUTH|COOKIES?|DSN|SEED|JWT|CREDS?|APIKEYS?|SIGNATURE|WEBHOOK)(?:_?URL)?\Z",
    re.IGNORECASE,
)
_SHAPED: Final = re.compile(
    r"\bsk-[\w-]{16}|\b(?:gh[opsu]|github_pat|glpat|xox[abprs]|hf)[-_]\w{10}"
    r"|\bAKIA[0-9A-Z]{16}\b|\beyJ[\w-]{8,}\.|\bS[UAONC][A-Z2-7]{56}\b|-----BEGIN ",
    re.ASCII,
)


def may_be_secret(name: str, value: str) -> bool:
    """Whether a variable is better not written where it stays: by a wider guess."""
    return (
        is_secret(name, value)
        or _PERHAPS.search(name) is not None
        or _SHAPED.search(value) is not None
    )
