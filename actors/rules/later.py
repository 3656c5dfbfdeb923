"""What is checked of a task that is not to start at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.codec import instant
from events.errors import Malformed

if TYPE_CHECKING:
    from events import catalogue as c


def check_later(spec: c.TaskSpec) -> None:
    """Refuse a start that cannot be: raises Malformed with the JSON path."""
    if spec.at is None:
        return
    at = instant(spec.at, "at")
    if spec.deadline is not None and instant(spec.deadline, "deadline") <= at:
        raise Malformed("deadline", "a time after at", spec.deadline)
