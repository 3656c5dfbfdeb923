"""What a leader remembers beyond the log, while it leads. A standby has none of it."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from actors.stamp import Stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from actors.scheduler.live import LiveTask
    from actors.scheduler.logtime import LogTime
    from actors.scheduler.queue import Group, Requirement
    from events import catalogue as c

E = TypeVar("E", bound="c.Event")


class Timer(NamedTuple):
    """When to look again at a group (`required`) or at a task's deadline (`task_id`).

    With neither, some pause or limit is over then. `order` is unique: with it, two of one
    time can be compared.
    """

    when: float
    order: int
    required: Requirement | None = None
    task_id: str = ""


class Unaccepted(NamedTuple):
    """A route that its host has been sent and may not have accepted yet."""

    since: float
    task_id: str
    route: str


class ReportedLimit(NamedTuple):
    """A host has said that a tier's account is limited; `until` is None if not known.

    It said so at `at`. Both are RFC 3339 and by the host's own clock, which may be wrong:
    what counts is how long after `at` the limit ends.
    """

    tier: c.Tier
    until: str | None
    at: str
    detail: str


class Leadership:
    """One leadership, from its election to its end.

    Everything in it is derived or may be lost: the next leader begins with an empty one
    and the same log. Times are log time (`logtime`), in seconds.
    """

    def __init__(
        self, name: str, ids: Callable[[], str], epoch: int, time: LogTime
    ) -> None:
        self._name = name
        self._time = time
        self._ids = ids
        # Every decision carries it; it counts only while this is the newest epoch.
        self.epoch = epoch
        # What time alone will change, the soonest first. A timer that is no longer
        # needed stays, and finds nothing to do when it is due. A heap.
        self.timers: list[Timer] = []
        self._timers_set = 0
        # Tasks that were there when it began, and that it has not looked at yet.
        self.unlooked: deque[LiveTask] = deque()
        # In the order they were sent, so that the first is due first. One that has been
        # accepted meanwhile stays, and is passed over when its time has come.
        self.unaccepted: deque[Unaccepted] = deque()
        # Hosts whose loss this leader has decided, until they join or recover: once each.
        self.lost: set[str] = set()
        # Alerts about hosts that are being raised or cleared: host and code.
        self.alerting: set[tuple[str, str]] = set()
        # When to look next for hosts that are silent.
        self.silence_check_at = 0.0
        # What hosts have said of accounts since limits were last decided.
        self.limits: list[ReportedLimit] = []
        # When the next alert about an outage is due, None if none is. It is reckoned anew
        # only after `SchedulerState.alerts_moved` was set.
        self.alert_at: float | None = None

    def write(self, now: float, kind: type[E], /, **fields: Any) -> E:
        """Make an event of this leadership."""
        return self.stamp(now).on(kind, epoch=self.epoch, **fields)

    def stamp(self, now: float) -> Stamp:
        """Make what the next event carries."""
        return Stamp(self._ids(), self._time.stamp(now), self._name)

    def wake_at(
        self, when: float, required: Requirement | None = None, task_id: str = ""
    ) -> None:
        """Have the scheduler look again at that time."""
        self._timers_set += 1
        timer = Timer(when, self._timers_set, required, task_id)
        heapq.heappush(self.timers, timer)

    def wake_group(self, when: float, group: Group) -> None:
        """Have the scheduler look again at a group."""
        if group.wake_at != when:
            group.wake_at = when
            self.wake_at(when, group.requirement)

    def due(self, now: float) -> Iterator[Timer]:
        """Take the timers whose time has come, also those set while they are taken."""
        while self.timers and self.timers[0].when <= now:
            yield heapq.heappop(self.timers)
