"""How the command line speaks: exit codes, sentences, colours, tables, untrusted text.

What a task, host or model says is never taken for markup, nor for terminal commands:
control characters are dropped, in live output only colours get through, and characters
that hide or reorder text are shown as their codes.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import IO, TYPE_CHECKING, Any, Final

import click

from events.codec import encode
from events.errors import (
    AgentComError,
    Denied,
    LogUnavailable,
    is_about_tls,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import tzinfo

    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

EXIT_OK: Final = 0
EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_FAILED: Final = 3
EXIT_DEAD: Final = 4
EXIT_CANCELLED: Final = 5
EXIT_EXPIRED: Final = 6
EXIT_NOT_FOUND: Final = 7
EXIT_UNREACHABLE: Final = 8
EXIT_INTERRUPTED: Final = 130
EXIT_UNREAD: Final = 141
"""Whoever read the output has gone: what a shell says of what SIGPIPE has ended."""

EXIT_OF_STATE: Final = {
    "completed": EXIT_OK,
    "failed": EXIT_FAILED,
    "dead": EXIT_DEAD,
    "cancelled": EXIT_CANCELLED,
    "expired": EXIT_EXPIRED,
}

EXIT_OF_CODE: Final = {
    "not_found": EXIT_NOT_FOUND,
    "model_not_found": EXIT_NOT_FOUND,
    "behind": EXIT_UNREACHABLE,
    "busy": EXIT_UNREACHABLE,
    "log_unavailable": EXIT_UNREACHABLE,
    "no_address": EXIT_UNREACHABLE,
    "unavailable": EXIT_UNREACHABLE,
    "unreachable": EXIT_UNREACHABLE,
}
"""What the code of a refusal or an error means for the command; any other is 1."""


class Problem(click.ClickException):
    """A sentence for people, and the exit code that goes with it."""

    def __init__(self, message: str, exit_code: int = EXIT_REFUSED) -> None:
        super().__init__(message)
        # click reads it from the instance, though it declares it on the class.
        self.exit_code = exit_code  # type: ignore[misc]

    def format_message(self) -> str:
        """Return the sentence as it is shown; it may quote untrusted text."""
        return local(harmless(self.message))


def exit_code_of(error: BaseException) -> int:
    """Return the exit code that an error means, of a group the highest of its own."""
    if isinstance(error, BaseExceptionGroup):
        return max(exit_code_of(one) for one in error.exceptions)
    return exit_code_for(_code(error))


def exit_code_for(code: str) -> int:
    """Return the exit code that a refusal's or an error's code means."""
    return EXIT_OF_CODE.get(code, EXIT_REFUSED)


def sentence_of(error: BaseException) -> str:
    """Say an error in a sentence that says what to do."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(sentence_of(one) for one in error.exceptions)
    if isinstance(error, LogUnavailable) and error.doing.startswith("connect to "):
        url = error.doing.removeprefix("connect to ")
        if is_about_tls(error.reason):
            return f"no connection to {url}: {error.reason}"
        return (
            f"no broker answers at {url} ({error.reason}): start it with "
            "`agentcom up`, or name another with --nats URL --creds FILE"
        )
    if isinstance(error, Denied) and error.doing.startswith("connect to "):
        url = error.doing.removeprefix("connect to ")
        return (
            f"the broker at {url} does not know this key: it belongs to another "
            "instance; name the right one with --data DIR or --creds FILE"
        )
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, AgentComError | OSError):
        return str(error)
    return (
        f"{type(error).__name__}: {error} (a fault of AgentCom's own; "
        "AGENTCOM_DEBUG=1 shows where)"
    )


def _code(error: BaseException) -> str:
    return str(getattr(error, "code", "")) if isinstance(error, AgentComError) else ""


# -- colours ---------------------------------------------------------------------------

STYLES: Final = {
    "stderr": "33",
    "status": "3",
    "error": "31",
    "tool": "36",
    "call": "36",
    "thinking": "2",
    "dim": "2",
    "bold": "1",
    "good": "32",
    "warn": "33",
    "bad": "31",
}


def colours_on(stream: IO[str]) -> bool:
    """Whether `stream` is a terminal that wants colours."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def print_json(value: Any) -> int:
    """Print a value for programs, as a line of JSON; return EXIT_OK."""
    click.echo(encode(value).decode())
    return EXIT_OK


def remark(text: str) -> None:
    """Tell whoever watches something beside what was asked for, on stderr."""
    click.echo(painted(text, "dim", sys.stderr), err=True)


def painted(text: str, style: str, stream: IO[str]) -> str:
    """Return `text` in a style, where `stream` shows colours."""
    codes = STYLES.get(style)
    if codes is None or not text or not colours_on(stream):
        return text
    return f"\x1b[{codes}m{text}\x1b[0m"


_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_]?)"
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")


_HIDDEN = re.compile(r"[\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
"""Invisible characters, and those that reverse the order of the text around them."""


def _visible(text: str) -> str:
    return _HIDDEN.sub(lambda m: f"⟨{ord(m[0]):04X}⟩", text)


def harmless(text: str) -> str:
    """Return live output in which nothing hides or moves a terminal's cursor.

    Colours get through; what would reorder or hide text is shown as its code, `⟨202E⟩`.
    """
    text = _ESCAPE.sub(lambda m: m[0] if _COLOUR.fullmatch(m[0]) else "", text)
    return _visible(_CONTROL.sub("", text))


def line_of(text: str, limit: int = 0) -> str:
    """Return `text` as one line without control characters, cut to `limit` characters."""
    flat = _visible(_CONTROL.sub("", " ".join(_ESCAPE.sub("", text).split())))
    return flat[: limit - 1] + "…" if limit and len(flat) > limit else flat


def did_you_mean(argument: str, names: Iterable[str]) -> str:
    """Return ` Did you mean X?` for a name that is none, "" where nothing is near."""
    near = get_close_matches(argument, list(names), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def progress_bar(doing: str) -> Progress:
    """Make a bar on stderr that counts up to a total, where somebody looks at it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        console=console(sys.stderr),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


# -- tables ----------------------------------------------------------------------------

WIDE: Final = 120
UNBOUND_WIDTH: Final = 240
"""The width of tables that no terminal bounds."""


def console(stream: IO[str] | None = None) -> Console:
    """Make a console: colours on a terminal alone, nothing taken for markup."""
    from rich.console import Console

    stream = stream or sys.stdout
    return Console(
        file=stream,
        markup=False,
        highlight=False,
        emoji=False,
        width=None if stream.isatty() else UNBOUND_WIDTH,
        no_color=not colours_on(stream),
    )


def table(
    columns: Iterable[str], *, right: Iterable[str] = (), elastic: Iterable[str] = ()
) -> Table:
    """Make a table; `right` are numbers, `elastic` give way on a narrow terminal."""
    from rich import box
    from rich.table import Table

    numbers, giving = set(right), set(elastic) if sys.stdout.isatty() else set()
    grid = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0),
        expand=bool(giving),
    )
    for column in columns:
        grid.add_column(
            column,
            justify="right" if column in numbers else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if column in giving else None,
        )
    return grid


def on_terminal() -> bool:
    """Whether a person looks at what is printed."""
    return sys.stdout.isatty()


def is_narrow(width: int = WIDE) -> bool:
    """Whether a terminal is too narrow for what is merely good to know."""
    return on_terminal() and shutil.get_terminal_size().columns < width


def columns_for(
    names: Iterable[str], leave: Iterable[tuple[int, Iterable[str]]]
) -> list[str]:
    """Return a table's columns without those that `leave` below a terminal's width."""
    gone = {name for width, going in leave if is_narrow(width) for name in going}
    return [name for name in names if name not in gone]


def cell(value: Any, limit: int = 0, style: str = "") -> Any:
    """Make a table's cell of untrusted text."""
    from rich.text import Text

    return Text(line_of(str(value), limit), style=style)


STATE_STYLE: Final = {
    "completed": "green",
    "failed": "red",
    "dead": "bold red",
    "expired": "red",
    "cancelled": "dim",
    "running": "cyan",
    "waiting": "yellow",
    "up": "green",
    "down": "red",
    "lost": "red",
    "left": "dim",
    "draining": "yellow",
    "limited": "yellow",
}
TIER_STYLE: Final = {"trivial": "green", "standard": "blue", "complex": "magenta"}


# -- figures ---------------------------------------------------------------------------


UNKNOWN: Final = "–"
"""What stands where a number is not known; never 0."""


def tokens(count: int | None) -> str:
    """Write a number of tokens."""
    return UNKNOWN if count is None else str(count)


def priced(amount: float | None, basis: str) -> str:
    """Write dollars with what they rest on: `~` before a guess."""
    from projections.record import GUESSED

    guess = "~" if amount and basis in GUESSED else ""
    return guess + dollars(amount)


def dollars(amount: float | None) -> str:
    """Write dollars as `$0.0123`, None as "unknown"."""
    return "unknown" if amount is None else f"${amount:.4f}"


def duration(ms: float | None) -> str:
    """Write milliseconds for people."""
    if ms is None:
        return ""
    if ms < 1_000:
        return f"{ms:.0f} ms"
    if ms < 120_000:
        return f"{ms / 1_000:.1f} s"
    return f"{ms / 60_000:.1f} min"


def many(count: int, noun: str) -> str:
    """Write a number of things: `1 file`, `2,000 files`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def size(count: float | None) -> str:
    """Write bytes for people."""
    if count is None:
        return "unknown"
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def age(at: str, now: datetime) -> str:
    """Write how long ago an RFC 3339 instant was."""
    if not at:
        return ""
    try:
        seconds = (now - datetime.fromisoformat(at)).total_seconds()
    except ValueError:
        return ""
    for limit, divisor, unit in ((100, 1, "s"), (6_000, 60, "m"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, seconds) / divisor:.0f}{unit}"
    return f"{seconds / 86_400:.0f}d"


def clock_time(at: str) -> str:
    """Write an RFC 3339 instant in local time with its zone, `14:03:22.123 CET`."""
    try:
        here = datetime.fromisoformat(at).astimezone()
    except ValueError:
        return at[:23]
    return f"{here:%H:%M:%S}.{here.microsecond // 1000:03} {here:%Z}"


_INSTANT: Final = re.compile(
    r"(?<![\w'/])\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|\+00:00)(?!\w)"
)


def local(sentence: str) -> str:
    """Write the instants of a sentence that AgentCom made as `local_time` does.

    What is quoted in it was typed so, and stays, as a path does.
    """
    return _INSTANT.sub(lambda found: local_time(found[0]), sentence)


def local_time(at: str, zone: tzinfo | None = None) -> str:
    """Write an RFC 3339 instant for people, with its zone: `2026-11-27 18:30 CET`.

    The zone is the person's own where none is given.
    """
    try:
        local = datetime.fromisoformat(at).astimezone(zone)
    except ValueError:
        return at[:25]
    seconds = ":%S" if local.second else ""
    return local.strftime(f"%Y-%m-%d %H:%M{seconds} %Z")


def utc_now() -> datetime:
    """Return the time now."""
    return datetime.now(UTC)
