"""Points of time as a person says them, as the instants that AgentCom reads.

Every door reads them by this: the command line and the library in the zone of whoever
speaks, HTTP and NATS in UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DAYS_AGO = {"today": 0, "yesterday": 1}
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
POINTS = "2h, 7d, today, yesterday, 2026-01-31, or an RFC 3339 time"
"""What a point of time may look like, in the words of a refusal."""


def instant_of(text: str, now: datetime) -> str:
    """Return the RFC 3339 instant in UTC that `2h`, `yesterday` or `2026-01-31` is.

    A length of time is so long before `now`; a day begins at midnight of `now`'s zone.
    What is none of these is returned as it is, for the other side to judge.
    """
    word = text.strip().lower()
    try:
        if ago := _AGO.fullmatch(word):
            length = timedelta(seconds=float(ago[1]) * _SECONDS[ago[2]])
            return _written(now.astimezone(UTC) - length)
        if word in _DAYS_AGO:
            day = (now - timedelta(days=_DAYS_AGO[word])).date()
        elif _DAY.fullmatch(word):
            day = datetime.fromisoformat(word).date()
        else:
            return text
        # A zone of the machine's own has another offset on another day.
        fixed = now.tzinfo is UTC or hasattr(now.tzinfo, "key")
        here = now.tzinfo if fixed else None
        midnight = datetime(day.year, day.month, day.day, tzinfo=here)
        return _written(midnight)
    except (ValueError, OverflowError):
        return text


def _written(then: datetime) -> str:
    return then.astimezone(UTC).isoformat().replace("+00:00", "Z")
