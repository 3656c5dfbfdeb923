"""Times as people write them: `90` and `5m` are spans; `7d`, `yesterday`, `2026-01-31`, an
instant or a sequence are points of the log.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import click

from agentcom.times import POINTS
from agentcom.times import instant_of as in_utc
from cli.render.terminal import utc_now
from events.codec import instant
from events.errors import Malformed, shown
from events.spans import span_s

if TYPE_CHECKING:
    from collections.abc import Callable

_DAYS_ON: Final = {"": 0, "today": 0, "tomorrow": 1}
_CLOCK: Final = re.compile(r"\d{1,2}:\d{2}", re.ASCII)
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def span(argument: str) -> float:
    """Read a length of time in seconds: `90`, `90s`, `5m`, `2h`, `1d`; raises BadParameter."""
    try:
        return span_s(argument, "")
    except Malformed as wrong:
        raise click.BadParameter(
            f"{shown(argument)}: expected {wrong.expected}"
        ) from wrong


def _span_option(
    _: click.Context, parameter: click.Parameter, argument: str | None
) -> float | None:
    if argument is None:
        return None
    if argument.strip().lower() == "none" and parameter.name == "timeout":
        return 0.0
    return span(argument)


def span_option(
    flag: str, help_text: str
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Make an option that takes a length of time; `none` for `--timeout` is 0."""
    return click.option(flag, metavar="TIME", callback=_span_option, help=help_text)


def point(argument: str, now: Callable[[], datetime] = utc_now) -> int | str:
    """Read an argument as a sequence or an RFC 3339 instant; raises BadParameter.

    `90s`, `15m`, `24h`, `7d`, `2w` are so long ago; `today`, `yesterday` and a date alone
    are the first instant of that day where this is typed; digits alone are a sequence.
    """
    text = argument.strip()
    if text.isascii() and text.isdigit():
        return int(text)
    text = in_utc(text, now().astimezone())
    try:
        instant(text)
    except Malformed as error:
        raise click.BadParameter(
            f"{shown(argument)}: expected a sequence, 7d, yesterday, 2026-01-31, or an "
            "RFC 3339 time"
        ) from error
    return text


def _written(then: datetime) -> str:
    return then.astimezone(UTC).isoformat().replace("+00:00", "Z")


def instant_of(argument: str) -> str:
    """Read an argument as an RFC 3339 instant; a sequence is refused."""
    try:
        place = point(argument)
    except click.BadParameter:
        place = 0
    if isinstance(place, int):
        raise click.BadParameter(f"{shown(argument)}: expected {POINTS}")
    return place


def time_to_come(argument: str, now: Callable[[], datetime] = utc_now) -> str:
    """Read a time to come as an RFC 3339 instant; raises BadParameter.

    `18:30` is the next time that it is so late where this is typed; `tomorrow`,
    `tomorrow 9:00`, `2026-01-31` and `2026-01-31 09:00` are local too.
    """
    text, here = argument.strip(), now().astimezone()
    date, _, clock = text.rpartition(" ")
    if ":" not in clock:
        date, clock = text, "0:00"
    try:
        if _CLOCK.fullmatch(clock) and (_DAY.fullmatch(date) or date in _DAYS_ON):
            on = _DAYS_ON.get(date)
            day = datetime.fromisoformat(date) if on is None else here
            then = _at(day + timedelta(days=on or 0), clock)
            if date == "" and then <= here:
                then = _at(day + timedelta(days=1), clock)
            return _written(then)
        instant(text)
    except (Malformed, ValueError, OverflowError) as error:
        raise click.BadParameter(
            f"{shown(argument)}: expected 18:30, tomorrow 9:00, 2026-01-31 09:00, or an "
            "RFC 3339 time"
        ) from error
    return text


def _at(day: datetime, clock: str) -> datetime:
    """Return when it is so late on a day, where this is typed."""
    hour, minute = map(int, clock.split(":"))
    naive = day.replace(tzinfo=None, hour=hour, minute=minute, second=0, microsecond=0)
    return naive.astimezone()


def _point_option(
    _: click.Context, __: click.Parameter, argument: str | None
) -> int | str | None:
    return None if argument is None else point(argument)


def _time_option(_: click.Context, __: click.Parameter, argument: str) -> str:
    return instant_of(argument) if argument else ""


def point_option(
    flag: str, help_text: str, default: str | None = None
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Make an option that takes a point of the log."""
    return click.option(
        flag,
        metavar="SEQ|TIME",
        callback=_point_option,
        default=default,
        show_default=default is not None,
        help=help_text,
    )


def time_option(
    flag: str, help_text: str
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Make an option that takes a time."""
    return click.option(
        flag, metavar="TIME", callback=_time_option, default="", help=help_text
    )
