"""Which tasks are meant: the one filter of lists, of bulk commands and of the library.

Every field narrows the choice; one at its default does not. What a page or a table
shows, a command can be given for, with the same words.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

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
    RFC 3339 instants (or days, in UTC) of when it ended, or, while it is not over, of
    when it was submitted; `until` itself is outside. `error_code` is its error's code,
    `error` a text in its error's code or sentence, `text` one in its description,
    error, submitter or labels, or the beginning of its id. `need` is what its host must
    be able to. `root` is the first task of a tree, and means all of that tree.
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


def time_of(text: str, path: str) -> str:
    """Write an instant or a day (its first instant in UTC) as the log writes instants.

    Raises Malformed naming `path`.
    """
    if not text:
        return ""
    day = len(text) == len("2026-01-31")
    return rfc3339(instant(f"{text}T00:00:00Z" if day else text, path))


def _shown(text: str) -> str:
    return shown(text) if text else "nothing"
