"""A chat's answer as a file, for the verification steps that look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.folders import put

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.task_user import TaskUser

ANSWER_FILE: Final = "answer.md"
"""What an answer is saved as, in its task's own folder."""


def write_answer(folder: Path, answer: str, user: TaskUser | None = None) -> None:
    """Write the answer's file anew; raises OSError."""
    text = answer if not answer or answer.endswith("\n") else answer + "\n"
    put(folder / ANSWER_FILE, text.encode("utf-8", "replace"), user)
