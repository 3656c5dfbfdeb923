"""What each host writes into the log, held against a budget.

The broker can bound the size of a message, not how many a key publishes: hosts write
straight into the stream (docs/decisions/0104). So who follows the log weighs what comes,
counts what is beyond the budget, and says whose it is while an operator can still act.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from events import subjects
from events.diagnostics import Diagnostics

if TYPE_CHECKING:
    from collections.abc import Callable

EVENTS_S: Final = 500.0
"""Events a second that a host may write on average; a busy one writes some tens."""
BYTES_S: Final = 2_000_000.0
"""Bytes a second, likewise."""
BURST_S: Final = 30.0
"""So many seconds' budget may be used at once: a journal that is delivered late."""
SAID_AGAIN_S: Final = 60.0

_OF_HOSTS: Final = tuple(
    all_of.removesuffix(">").removesuffix("*")
    for all_of in (subjects.ALL_RUNS, subjects.ALL_HOSTS)
)
_log = Diagnostics("agentcom.volume")


class HostVolume:
    """Weighs the hosts' events; `beyond` counts by host those beyond its budget."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.beyond: Counter[str] = Counter()
        # By host: events and bytes in its buckets, and when that was reckoned.
        self._buckets: dict[str, tuple[float, float, float]] = {}
        self._said: dict[str, float] = {}

    def weigh(self, subject: str, size: int) -> None:
        """Count an event that was just written; say so where its host is beyond."""
        if not subject.startswith(_OF_HOSTS):
            return
        host = subject.split(".")[3]
        now = self._clock()
        events, taken, then = self._buckets.get(host, (0.0, 0.0, now))
        passed = now - then
        events = max(events - passed * EVENTS_S, 0.0)
        taken = max(taken - passed * BYTES_S, 0.0)
        if events + 1 <= EVENTS_S * BURST_S and taken + size <= BYTES_S * BURST_S:
            events, taken = events + 1, taken + size
        else:
            self.beyond[host] += 1
            if now - self._said.get(host, float("-inf")) >= SAID_AGAIN_S:
                self._said[host] = now
                _log.warning(
                    "a host writes more into the log than its budget",
                    host=host,
                    events_beyond=self.beyond[host],
                    events_a_second=EVENTS_S,
                    bytes_a_second=BYTES_S,
                    advice=f"`agentcom host remove {host}` cuts it off",
                )
        self._buckets[host] = (events, taken, now)
