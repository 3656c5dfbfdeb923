"""Ids and names: what may become part of a subject, a path or a key.

Only ULIDs and validated tokens ever do. A ULID (48 bits of milliseconds, 80 of chance,
Crockford base32, 26 characters) sorts by its time; both arrive as arguments, so that a
recorded history replays to the same ids.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from events.errors import BadToken

if TYPE_CHECKING:
    from collections.abc import Callable

FULL_ID: Final = 26
"""Characters of an id that is made here; a shorter one may be the beginning of one."""
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]


def token(value: str, what: str = "id") -> str:
    """Return `value` if it may be part of a subject; raise BadToken naming `what`."""
    if TOKEN.fullmatch(value) is None:
        raise BadToken(what, value)
    return value


def is_token(value: str) -> bool:
    """Whether `value` may be part of a subject."""
    return TOKEN.fullmatch(value) is not None


def ulid(now: float, chance: int) -> str:
    """Make a ULID for `now` (epoch seconds) from 80 bits of `chance`."""
    value = (int(now * 1000) & ((1 << 48) - 1)) << 80 | chance & ((1 << 80) - 1)
    return _base32(value)


def derived(*parts: str) -> str:
    """Make the id that always belongs to `parts`: the same parts, the same id.

    130 bits of SHA-256 over the length-prefixed parts, in the ULID's alphabet and length.
    """
    raws = [part.encode() for part in parts]
    whole = b"".join([b"%d:%b" % (len(raw), raw) for raw in raws])
    return _base32(int.from_bytes(hashlib.sha256(whole).digest()[:17], "big") >> 6)


def task_named(submitter: str, command_id: str) -> str:
    """Return the id of the task that somebody's submission under an id of its own makes."""
    return derived(submitter, "id", command_id)


def _base32(value: int) -> str:
    pairs = _PAIRS
    return "".join([pairs[value >> shift & 1023] for shift in range(120, -10, -10)])


class IdSource:
    """Makes ids: the one place where a clock and chance become a ULID.

    Within one millisecond the ids of one source keep rising, so that they sort in the
    order they were made.
    """

    def __init__(self, clock: Callable[[], float], chance: Callable[[], int]) -> None:
        self._clock = clock
        self._chance = chance
        self._millisecond = -1
        # The first characters of the ids of one millisecond, and the chance of the last.
        self._when = ""
        self._last = 0

    def __call__(self) -> str:
        """Make the next id."""
        millisecond = int(self._clock() * 1000)
        if millisecond <= self._millisecond:
            self._last += 1
        else:
            self._millisecond = millisecond
            self._when = _base32((millisecond & ((1 << 48) - 1)) << 80)[:10]
            # The top bit stays free, so that counting up cannot overflow.
            self._last = self._chance() & ((1 << 79) - 1)
        high, low = self._last >> 40, self._last & ((1 << 40) - 1)
        pair = _PAIRS
        return (
            f"{self._when}"
            f"{pair[high >> 30]}{pair[high >> 20 & 1023]}"
            f"{pair[high >> 10 & 1023]}{pair[high & 1023]}"
            f"{pair[low >> 30]}{pair[low >> 20 & 1023]}"
            f"{pair[low >> 10 & 1023]}{pair[low & 1023]}"
        )
