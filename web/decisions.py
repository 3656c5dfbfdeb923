"""The latest routing decisions, as the routing page lists them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from events import catalogue as c
from events import subjects
from events.errors import AgentComError
from web.tail import AGAIN_S

if TYPE_CHECKING:
    from events.log import EventLog
    from projections.judged import JudgedEvent

DECISIONS_KEPT: Final = 100
DECISIONS_SOUGHT: Final = 2_000
"""So many of the log's last events are looked through for them when the role starts."""


class RecentDecisions:
    """The last decisions, newest first."""

    def __init__(self) -> None:
        self._decisions: deque[dict[str, Any]] = deque(maxlen=DECISIONS_KEPT)

    def latest(self) -> list[dict[str, Any]]:
        """Return them, newest first."""
        return list(self._decisions)

    def take(self, judged: JudgedEvent) -> None:
        """Put a decision that was just folded in at their head."""
        recorded = judged.recorded
        if isinstance(recorded.event, c.TaskRouted) and judged.verdict == "applied":
            self._decisions.appendleft(_shown(recorded.seq, recorded.event))

    async def look_back(self, log: EventLog, position: int) -> None:
        """Add those of the log's end before `position`, once the log answers."""
        start = max(0, position - DECISIONS_SOUGHT) + 1
        # Behind it there may be millions that have not been folded in yet.
        most = position - start + 1
        events: list[c.Recorded] | None = None if most else []
        while events is None:
            try:
                events = await log.read(subjects.ALL_TASKS, start=start, limit=most)
            except AgentComError:
                await asyncio.sleep(AGAIN_S)
        listed = {decision["seq"] for decision in self._decisions}
        for recorded in reversed(events):
            if (
                isinstance(recorded.event, c.TaskRouted)
                and recorded.seq <= position
                and recorded.seq not in listed
                and len(self._decisions) < DECISIONS_KEPT
            ):
                self._decisions.append(_shown(recorded.seq, recorded.event))


def _shown(seq: int, event: c.TaskRouted) -> dict[str, Any]:
    return {
        "seq": seq,
        "at": event.at,
        "task_id": event.task_id,
        "tier": event.effective_tier,
        "target": event.target_type,
        "host": event.selected_host,
        "endpoint": event.selected_endpoint,
        "model": event.selected_model,
        "fallback": event.fallback_used,
        "why": event.fallback_reason,
        "reason": event.classification_reason,
        "candidates": event.candidate_count,
        "excluded": sum(event.excluded.values()),
        "decided_us": event.decided_us,
    }
