"""Which tasks are meant: the one filter of lists, of bulk commands and of the library.

Every field narrows the choice; one at its default does not. What a page or a table
shows, a command can be given for, with the same words.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import replace

from agentcom.times import POINTS, instant_of
from events.codec import instant, rfc3339
from events.errors import Malformed, shown
from events.lifecycle import Phase

Short = Annotated[str, Meta(max_length=1_000)]
LABELS_MOST: Final = 32
"""So many labels may a task have."""
LABEL_WORDS: Final = "1 to 63 of a-z, 0-9, '.', '_', '/' and '-'"
"""What a label's key consists of, and its value."""
_LABEL: Final = re.compile(r"[a-z0-9._/-]{1,63}", re.ASCII)


class TaskFilter(
    Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Which tasks.

    `host` and `model` are where it ran, or what it waits for. `label` names labels that
    it has, all of them: `team=search`, or `team` with any value. `since` and `until` are
    points of time (RFC 3339, `2h` or `7d` ago, `today`, `yesterday`, a day in UTC): when
    it ended, or, while it is not over, when it was submitted; `until` itself is outside.
    `error_code` is its error's code, `error` a text in its error's code or sentence, `text`
    one in its description, error, submitter or labels, or the beginning of its id. `need` is
    what its host must be able to. `root` is the first task of a tree, and means all of that
    tree.
    """

    state: list[Phase] = []
    tier: Literal["", "trivial", "standard", "complex"] = ""
    host: Short = ""
    model: Short = ""
    repo: Short = ""
    priority: Literal["", "urgent", "high", "normal", "low"] = ""
    submitter: Short = ""
    root: Short = ""
    label: Annotated[list[Short], Meta(max_length=LABELS_MOST)] = []
    need: Short = ""
    text: Short = ""
    error_code: Short = ""
    error: Short = ""
    since: Short = ""
    until: Short = ""
    fallback: bool | None = None

    @property
    def labels(self) -> list[tuple[str, str | None]]:
        """The labels as pairs, None for any value; raises Malformed."""
        return [label_of(text, f"label[{n}]") for n, text in enumerate(self.label)]


FILTERS = TaskFilter.__struct_fields__
"""The fields of a filter, by which it is taken out of what holds more."""


def is_label(text: str) -> bool:
    """Whether this may be a label's key, or its value."""
    return _LABEL.fullmatch(text) is not None


def label_of(text: str, path: str = "label") -> tuple[str, str | None]:
    """Read `team=search`, or `team`; raises Malformed naming `path`."""
    key, equals, value = text.partition("=")
    if is_label(key) and (is_label(value) if equals else True):
        return key, value if equals else None
    raise Malformed(path, f"a label such as team=search: {LABEL_WORDS}", _shown(text))


def time_of(text: str, path: str, now: float | None = None) -> str:
    """Write a point of time as the log writes instants.

    It is an RFC 3339 instant, a day or its hour (`2026-01-31T09`) in UTC, or, where the
    time `now` is given (epoch seconds), `7d` before it, `today`, `yesterday`. "" stays.
    Raises Malformed naming `path` and the forms.
    """
    if not text:
        return ""
    said = f"{text}:00:00Z" if _HOUR.fullmatch(text) else text
    if now is not None:
        said = instant_of(said, datetime.fromtimestamp(now, UTC))
    elif len(text) == len("2026-01-31"):
        said = f"{text}T00:00:00Z"
    try:
        return rfc3339(instant(said, path))
    except Malformed as wrong:
        zoneless = wrong.expected == "a time with its zone"
        expected = wrong.expected if zoneless else POINTS
        raise Malformed(path, expected, shown(text)) from None


_HOUR: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}", re.ASCII)
Asked = TypeVar("Asked", bound=Struct)
_POINTS: Final = ("since", "until", "at")


def timed(asked: Asked, now: float) -> Asked:
    """Return a question or a filter with instants for the points of time in it.

    Those are in `since`, `until` and `at`, and in its `filter`; a sequence stays. `now` is
    in epoch seconds. Raises Malformed naming the field and the forms.
    """
    said: dict[str, Any] = {
        name: value
        for name in _POINTS
        if isinstance(value := getattr(asked, name, None), str) and value
    }
    read: dict[str, Any] = {
        name: time_of(text, name, now) for name, text in said.items()
    }
    if isinstance(chosen := getattr(asked, "filter", None), TaskFilter):
        read["filter"] = timed(chosen, now)
    return replace(asked, **read) if read else asked


def _shown(text: str) -> str:
    return shown(text) if text else "nothing"
