"""A chat's answer as a file, for the verification steps that look at it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

ANSWER_FILE: Final = "answer.md"
"""What an answer is saved as, in its task's own folder."""


def write_answer(folder: Path, answer: str) -> None:
    """Write the answer's file anew; raises OSError."""
    file = folder / ANSWER_FILE
    with suppress(FileNotFoundError):
        file.unlink()  # never through a link that a step has left
    text = answer if not answer or answer.endswith("\n") else answer + "\n"
    file.write_text(text, encoding="utf-8", errors="replace")
