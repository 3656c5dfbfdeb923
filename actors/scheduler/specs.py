"""What the newest tasks ask for, kept so that an assignment need not be read from the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from events.codec import encode

if TYPE_CHECKING:
    from events import catalogue as c

KEPT_BYTES: Final = 64 * 1024 * 1024
"""So much is kept, in bytes of memory; of the tasks that come then only the log knows."""
ITSELF_BYTES: Final = 800
"""What a specification takes beside its texts, about."""


class KeptSpecs:
    """Specifications by task, within a budget."""

    def __init__(self, budget: int = KEPT_BYTES) -> None:
        self._free = budget
        self._kept: dict[str, tuple[c.TaskSpec, int]] = {}

    def keep(self, task_id: str, spec: c.TaskSpec) -> None:
        """Keep one, if there is room for it."""
        if self._free < ITSELF_BYTES:
            return
        size = ITSELF_BYTES + len(encode(spec))
        if size <= self._free:
            self._free -= size
            self._kept[task_id] = (spec, size)

    def get(self, task_id: str) -> c.TaskSpec | None:
        """Return a task's, None where it is not kept."""
        kept = self._kept.get(task_id)
        return None if kept is None else kept[0]

    def drop(self, task_id: str) -> None:
        """Let go of one whose task is over."""
        kept = self._kept.pop(task_id, None)
        if kept is not None:
            self._free += kept[1]
