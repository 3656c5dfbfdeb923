"""What secrets look like: which variables hold one, as far as a name or a value shows it.

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
PASSWORD_IN_ADDRESS: Final = re.compile(
    r"((?<![a-z0-9+.-])[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s/@]+@", re.IGNORECASE
)
"""A password in an address; the group is what stands before it."""

SHAPES: Final = tuple(
    re.compile(pattern, re.ASCII | re.DOTALL)
    for pattern in (
        # Anthropic, OpenAI, and providers whose keys look the same.
        r"\bsk-[A-Za-z0-9_-]{16,}",
        r"\b(?:gh[opsu]|github_pat|glpat|hf)[-_][A-Za-z0-9_-]{10,}",
        r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
        r"\bAKIA[0-9A-Z]{16}\b",
        # nkey seeds: users, accounts, operators.
        r"\bS[UAONC][A-Z2-7]{56}\b",
        # JSON web tokens.
        r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*)?",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    )
)
"""What keys and tokens look like wherever they stand; each matches the whole of one."""


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name probably holds a secret: `API_KEY`, `PGPASSWORD`."""
    return _NAME.search(name) is not None


def is_secret(name: str, value: str) -> bool:
    """Whether a variable probably holds a secret, by its name or a password in an address."""
    return is_secret_name(name) or PASSWORD_IN_ADDRESS.search(value) is not None


_PERHAPS: Final = re.compile(
    r"(?:PASS|AUTH|COOKIES?|DSN|SEED|JWT|CREDS?|APIKEYS?|SIGNATURE|WEBHOOK)(?:_?URL)?\Z",
    re.IGNORECASE,
)


def may_be_secret(name: str, value: str) -> bool:
    """Whether a variable is better not written where it stays: by a wider guess."""
    return (
        is_secret(name, value)
        or _PERHAPS.search(name) is not None
        or "-----BEGIN " in value
        or any(shape.search(value) for shape in SHAPES)
    )
