"""What Claude Code says of its model beside the work: that it is retired, or will be."""

from __future__ import annotations

import re
from typing import Final

from sidecar.output import cut

NOTICE_SHOWN: Final = 300
"""Characters kept of a notice."""

_OF_AN_END: Final = re.compile(
    r"\b(?:will be|was|has been|is) (?:retired|deprecated)\b|\bend[- ]of[- ]life\b"
    r"|\bautomatically remapped to\b",
    re.IGNORECASE,
)
_OF_A_MODEL: Final = re.compile(
    r"\bmodel\b|\bclaude[- ](?:\d|opus|sonnet|haiku|fable)|\b(?:opus|sonnet|haiku)\b",
    re.IGNORECASE,
)


def notice_in(text: str) -> str:
    """Return the first line that says that a model ends, "" where none does."""
    for line in text.splitlines():
        if _OF_AN_END.search(line) and _OF_A_MODEL.search(line):
            return cut(line.strip().removeprefix("⚠").strip(), NOTICE_SHOWN)
    return ""
