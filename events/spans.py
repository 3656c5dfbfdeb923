"""Lengths of time as people write them, at every door: `90`, `90s`, `5m`, `2h`, `3d`."""

from __future__ import annotations

import re
from typing import Final

from events.errors import Malformed

_SPAN: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhdw]?)", re.ASCII)
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def span_s(text: str, path: str) -> float:
    """Read a length of time in seconds; raise Malformed naming `path`."""
    written = _SPAN.fullmatch(text.strip())
    if written is None:
        raise Malformed(path, "a length of time such as 90, 5m, 2h or 3d", text[:80])
    return float(written[1]) * _SECONDS[written[2]]
