"""Whether a task is to be answered or worked on: one rule, for all who ask.

An *answer* is one chat completion. *Work* is done by an agent with tools in a folder. A
shell command and a woken agent are neither: they run as they are.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from events import catalogue as c
from events.errors import Malformed, shown

_FOLDERS: Final = ("repo", "branch", "cwd")
"""Fields that name where to work."""


class Resolved(Struct, frozen=True):
    """A task's mode and why; None where it has no such thing."""

    mode: c.Mode | None
    reason: str


def resolve(spec: c.TaskSpec) -> Resolved:
    """Say a task's mode: as its submitter said, else by what it names."""
    by_itself = _by_itself(spec)
    if by_itself:
        return Resolved(None, by_itself)
    if spec.mode is not None:
        return Resolved(spec.mode, "said")
    named = [name for name in _FOLDERS if getattr(spec, name)]
    named += ["verification_steps"] if spec.verification_steps else []
    named += ["metadata.claude"] if spec.metadata.get("claude") else []
    named += ["claude"] if getattr(spec, "claude", None) is not None else []
    if named:
        return Resolved("work", f"names {', '.join(named)}")
    if spec.file_hints:
        return Resolved("answer", "file hints alone name no place to work in")
    return Resolved("answer", "names no place to work in, and nothing to verify")


def check_mode(spec: c.TaskSpec) -> None:
    """Refuse a mode that contradicts the rest: raises Malformed with the JSON path."""
    if spec.mode is None:
        return
    by_itself = _by_itself(spec)
    if by_itself:
        raise Malformed("mode", f"none, because {by_itself}", shown(spec.mode))
    named = [name for name in _FOLDERS if getattr(spec, name)]
    if spec.mode == "answer" and named:
        raise Malformed(
            "mode",
            f"work, because an answer is given in no folder and {' and '.join(named)} "
            f"{'names' if len(named) == 1 else 'name'} one",
            "'answer'",
        )


def _by_itself(spec: c.TaskSpec) -> str:
    """Say why a task has no mode; "" where it has one."""
    if spec.shell is not None:
        return "a shell command runs as it is"
    if spec.executor is not None:
        return f"executor {spec.executor} takes the task as it is"
    return ""
