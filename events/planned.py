"""The instants that a schedule names: cron expressions in a time zone.

Five fields as cron has them (minute, hour, day, month, weekday), or six with seconds first
where minute and hour begin with `*`. Where clocks are put forward or back it goes by
Debian's cron: a job of an hour that is left out comes right after it, one of an hour that
comes twice comes once, and what comes every minute or hour comes in both.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from events.errors import Malformed, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

HORIZON: Final = 4_102_444_800.0
"""What would come later than the year 2100 never comes."""


@lru_cache(maxsize=1_024)
def _zone(tz: str) -> ZoneInfo:
    return ZoneInfo(tz)


def check(cron: str, tz: str) -> None:
    """Refuse what names no instant: raises Malformed for `cron` or `tz`."""
    from cronsim import CronSimError

    try:
        _zone(tz)
    except (ValueError, OSError, KeyError):
        raise Malformed("tz", "a time zone such as Europe/Berlin", shown(tz)) from None
    fields = cron.split()
    if len(fields) == 6 and not all(each.startswith("*") for each in fields[1:3]):
        raise Malformed(
            "cron", "minute and hour that begin with * beside seconds", shown(cron)
        )
    try:
        first = next_after(cron, tz, 0.0)
    except CronSimError as error:
        raise Malformed(
            "cron", "five fields such as 0 3 * * mon-fri", f"{shown(cron)}: {error}"
        ) from error
    if first is None:
        raise Malformed("cron", "a time that comes", shown(cron))


def next_after(cron: str, tz: str, after: float) -> float | None:
    """Return the first instant later than `after`, both in epoch seconds; None for none."""
    return next(instants(cron, tz, after), None)


def instants(cron: str, tz: str, after: float) -> Iterator[float]:
    """Yield the instants later than `after`, in order, in epoch seconds."""
    # It is wanted by few processes, and by these late.
    from cronsim import CronSim

    last = after
    if after >= HORIZON:
        return
    for each in CronSim(cron, datetime.fromtimestamp(after, _zone(tz))):
        then = each.timestamp()
        # An hour that comes twice is entered at its beginning.
        if then > last:
            last = then
            yield then


def last_before(cron: str, tz: str, before: float) -> float | None:
    """Return the last instant earlier than `before`, in epoch seconds."""
    from cronsim import CronSim

    zone = _zone(tz)
    backwards = CronSim(cron, datetime.fromtimestamp(before, zone), reverse=True)
    found = (each.timestamp() for each in islice(backwards, 4))
    return next((each for each in found if each < before), None)


def in_utc(instant: float) -> str:
    """Write an instant of a schedule, which has whole seconds."""
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
