"""Log time: what the scheduler reckons durations in, so that no clock's step changes one.

Events carry the wall clock of whoever wrote them, for people. A wall clock may be put
forward or back, by a person, by NTP, by a machine that slept. Whoever leads notices that
beside its monotonic clock and says so in the log, `clock.stepped`; from there on log time
is the wall clock less all steps said so far. So it runs on evenly, in the leader (which
adds monotonic seconds to what it was at its election) and in whoever folds the log later.

A stamp and the event of a step may change places in the log. A leader therefore stamps
by the later of the two readings until the step is in the log: what is out of place then
lies in the future, and what lies in the future counts as now.
"""

from __future__ import annotations

from typing import Final

from events.codec import instant, rfc3339

LATE_S: Final = 20.0
"""A stamp that lies so far before what is in the log already is not believed: whoever
appends gives up sooner, so its event cannot have been on its way for so long."""

NOTICED_S: Final = 1.0
"""Wall and monotonic clock are one step apart when they differ by so much."""

GAPS: Final = 64
"""Times without a leader that are remembered; what is timed began within a few of them."""


class LogTime:
    """The fold of the steps. `ahead_s` is how far the wall clock is ahead of log time."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        # How far the last step put the clock back, 0 if forward, and when that was said.
        self.back_s = 0.0
        self.back_at = 0.0
        # The leader's own steps that it has noticed and that are not in the log yet, in
        # sum; and whether it is about to write what there are.
        self.unsaid_s = 0.0
        self.saying = False
        # The latest decision's time.
        self.last = float("-inf")
        # The present, where somebody leads; infinite where the log alone is read.
        self.now = float("inf")
        # Times in which nobody led, as (begin, end). A time to live and the time until an
        # alert do not count them, see `elapsed` and `after`. The wait before a hop does.
        self.gaps: list[tuple[float, float]] = []

    def of(self, at: str) -> float:
        """Return when a scheduler or gateway wrote an event, from its stamp.

        Never in the future, and never long before what was in the log already.
        """
        when, somebody_leads = self._written(at), self.now < float("inf")
        reached = max(self.last, self.now) if somebody_leads else self.last
        if when < reached - LATE_S:
            when = reached
        # A stamp is rounded, and may so lie a little ahead.
        return when if when <= self.now + 0.001 else self.now

    def until(self, instant_of_day: str) -> float:
        """Return when an instant that somebody named comes, as the clock stands."""
        return instant(instant_of_day) - self.ahead_s

    def decided(self, at: str) -> None:
        """A decision of the leader in force is in the log."""
        self.last = max(self.last, self._written(at))

    def _written(self, at: str) -> float:
        """Return what a stamp says, also one that a step back has overtaken in the log.

        What was on its way when the step was said had been stamped by the clock before it.
        """
        when = self.until(at)
        earlier = when - self.back_s
        if self.back_s and self.last <= earlier <= self.back_at + LATE_S:
            return earlier
        return when

    def stepped(self, step_s: float, at: str) -> float:
        """The wall clock was put forward (or back, below 0); return when that was said.

        Times that were reckoned already from stamps of the later clock lie ahead now: those
        are drawn back to this moment.
        """
        self.ahead_s += step_s
        if self.saying:
            self.unsaid_s = round(self.unsaid_s - step_s, 6)
        stepped_at = self.until(at)
        self.back_s, self.back_at = max(0.0, -step_s), stepped_at
        self.last = stepped_at
        # A gap keeps its length and ends at latest now.
        self.gaps = [
            (a - max(0.0, b - stepped_at), min(b, stepped_at)) for a, b in self.gaps
        ]
        return stepped_at

    def nobody_led(self, seconds: float, until: str) -> None:
        """Nobody led for so long before an election, which is stamped `until`."""
        end = self.of(until)
        self.gaps.append((end - seconds, end))
        del self.gaps[:-GAPS]

    def elapsed(self, since: float, now: float) -> float:
        """Seconds from `since` to `now` in which somebody led."""
        led = now - since
        for start, end in self.gaps:
            led -= max(0.0, min(end, now) - max(start, since))
        return led

    def after(self, since: float, wait: float) -> float:
        """When `wait` seconds of leadership will have passed since then."""
        lost = 0.0
        for start, end in self.gaps:  # asked of each of a million: nearly always none
            lost += max(0.0, end - max(start, since))
        return since + wait + lost

    def text(self, when: float) -> str:
        """Write a log time for people, as the wall clock stands."""
        return rfc3339(when + self.ahead_s)

    def wall(self, now: float) -> float:
        """Return what an event of now is stamped with, in Unix seconds."""
        return now + self.ahead_s + max(self.unsaid_s, 0.0)

    def stamp(self, now: float) -> str:
        """Write what an event of now is stamped with."""
        return rfc3339(self.wall(now))


class ClockWatch:
    """Tells a process how far its wall clock has been put forward since it last asked.

    Both clocks count seconds, `wall` since 1970. `apart` is how far they were apart then.
    """

    def __init__(self, wall: float, monotonic: float) -> None:
        self.apart = wall - monotonic

    def stepped(self, wall: float, monotonic: float) -> float:
        """Return the step since the last one that was returned, 0.0 for none."""
        step = wall - monotonic - self.apart
        if abs(step) < NOTICED_S:
            return 0.0
        self.apart += step
        return step
