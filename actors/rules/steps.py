"""What a verification step may be: a command, never a sentence.

A step decides whether a task is completed, so that a wish in words would be an option
that is accepted and not honoured. A sentence belongs to the success criteria.
"""

from __future__ import annotations

import re
import shlex
from typing import Final

from events.errors import shown

_WORD: Final = re.compile(r"[A-Za-z][a-z']*[,;:.!?]?")
_FUNCTION_WORDS: Final = frozenset(
    {"the", "is", "are", "should", "must", "works", "sure", "been", "pass", "passes"}
)
_TALKERS: Final = frozenset({"echo", "printf", "grep", "rg", "egrep", "fgrep", "git"})
"""Commands whose arguments may well read like a sentence."""


def not_a_command(step: str) -> str | None:
    """Say why a text is no command, None where it may be one."""
    if not step.strip():
        return "white space alone"
    try:
        words = shlex.split(step)
    except ValueError as wrong:
        return f"{shown(step[:80])}, whose words cannot be told apart ({wrong})"
    if all(line.lstrip()[:1] in ("", "#") for line in step.splitlines()):
        return f"{shown(step[:80])}, which is a comment"
    return f"the sentence {shown(step[:80])}" if _is_sentence(words) else None


def _is_sentence(words: list[str]) -> bool:
    """Whether words are plainly prose: letters alone, and what only prose has."""
    first = words[0]
    if first in _TALKERS or not all(_WORD.fullmatch(word) for word in words):
        return False
    plain = {word.rstrip(",;:.!?").lower() for word in words}
    if len(words) >= 3 and plain & _FUNCTION_WORDS:
        return True
    return len(words) >= 2 and first[0].isupper() and first[1:].islower()
