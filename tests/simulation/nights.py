"""Long, sparse nights in which clocks are changed: schedules fire while schedulers die.

A night is a world of the simulator like any other, eight and a half hours of it, with the
change of a zone's clocks in its middle. Little happens but what is planned, so the roles
look around less often. What should have been fired says a walk of this file's own over
every minute of the night, which shares nothing with the product or its cron library.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock
from zoneinfo import ZoneInfo

from actors.scheduler import hosts, lease, role
from events import catalogue as c
from events.codec import instant
from tests.simulation.plan import POLICY, Plan, Step
from tests.simulation.planned import EDGES
from tests.simulation.simulation import Outcome, Simulation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from events.catalogue import Recorded

CHANGES = [(zone, instant(edge)) for zone, edges in EDGES.items() for edge in edges]
"""Each change of clocks: of which zone, and when."""
LASTS_S = 8.5 * 3_600
UNBROKEN_S = 900.0
"""Before its end nothing breaks any more, so that all of it can be dealt with."""
FAULTS = 80
"""So often something breaks: mostly a scheduler."""
SOON_S = 30.0
"""Then a planned time is dealt with so soon."""
MISSED_S = 60.0
"""A time that is later than this may be missed (docs/later.md says a minute)."""

DAILY = ("30 1 * * *", "0 2 * * *", "30 2 * * *", "0 3 * * *")
HOURLY = ("*/15 * * * *", "15 * * * *")
RULES = (("all", "queue"), ("one", "replace"), ("skip", "skip"))


# -- what should be fired --------------------------------------------------------------


def walk(cron: str, tz: str, first: float, last: float) -> list[float]:
    """List the times of an expression in (first, last], minute by minute.

    It knows a number, `*` or `*/n` for the minute, a number or `*` for the hour. An hour
    that is left out is made up for right after it; one that comes twice counts once where
    the hour is named.
    """
    minute, hour, *rest = cron.split()
    assert rest == ["*", "*", "*"], cron
    zone, found = ZoneInfo(tz), []

    def matches(shown: datetime) -> bool:
        every = minute.partition("*/")[2]
        if every:
            right = shown.minute % int(every) == 0
        else:
            right = minute in ("*", str(shown.minute))
        return right and hour in ("*", str(shown.hour))

    at = first // 60 * 60 + 60
    while at <= last:
        shown = datetime.fromtimestamp(at, zone)
        before = datetime.fromtimestamp(at - 60, zone)
        comes = matches(shown) and not (hour != "*" and shown.fold)
        if hour != "*":
            left_out = shown.replace(tzinfo=UTC) - before.replace(tzinfo=UTC)
            for n in range(1, int(left_out.total_seconds()) // 60):
                naive = before.replace(tzinfo=UTC).timestamp() + 60 * n
                comes = comes or matches(datetime.fromtimestamp(naive, UTC))
        if comes:
            found.append(at)
        at += 60
    return found


class _Kept:
    """What the log says of one schedule: its times that were fired, or left out."""

    def __init__(self, added: c.ScheduleAdded) -> None:
        # Each rule, and later than when it holds.
        self.rules: list[tuple[float, c.ScheduleRule]] = [(instant(added.at), added)]
        self.begin = instant(added.at)
        self.end = float("inf")
        self.fired: list[float] = []
        self.skipped: list[c.ScheduleSkipped] = []
        # From the last time that was dealt with before a pause to its end.
        self.pauses: list[tuple[float, float]] = []
        self.paused_from: float | None = None

    @property
    def last(self) -> float:
        """The last time that was dealt with."""
        until = [instant(each.until) for each in self.skipped]
        return max((self.begin, *self.fired, *until))

    def rule_at(self, time: float) -> c.ScheduleRule:
        """The rule of what is planned for a time."""
        return next(
            (rule for since, rule in reversed(self.rules) if since < time),
            self.rules[0][1],
        )

    def times(self, end: float) -> list[float]:
        """All that was planned until `end`, each by the rule of its time."""
        ends = [*(since for since, _ in self.rules[1:]), end]
        return [
            time
            for (since, rule), until in zip(self.rules, ends, strict=True)
            for time in walk(rule.cron, rule.tz, since, min(until, end))
        ]


def mistakes(log: list[Recorded], end: float) -> Iterator[str]:
    """Say what is wrong in a night's log; all that was planned before `end` is judged."""
    kept: dict[str, _Kept] = {}
    tasks: dict[tuple[str, float], list[str]] = {}
    epoch = 0
    for recorded in log:
        event = recorded.event
        if isinstance(event, c.SchedulerElected):
            epoch = max(epoch, event.epoch)
        elif isinstance(event, c.TaskSubmitted) and event.schedule:
            key = event.schedule, instant(event.planned)
            tasks.setdefault(key, []).append(event.task_id)
        elif isinstance(event, c.ScheduleAdded):
            kept.setdefault(event.schedule, _Kept(event))
        elif isinstance(event, c.ScheduleEvent) and event.schedule in kept:
            _note(kept[event.schedule], event, epoch)
    for name, one in kept.items():
        for wrong in _of_one(
            one, {t: s for (n, t), s in tasks.items() if n == name}, end
        ):
            rules = "; ".join(f"{rule.cron}, {rule.tz}" for _, rule in one.rules)
            yield f"{name} ({rules}): {wrong}"


def _note(one: _Kept, event: c.ScheduleEvent, epoch: int) -> None:
    match event:
        case c.ScheduleChanged():
            since = max(one.rules[-1][0], math.floor(instant(event.at)))
            one.rules.append((since, event))
        case c.ScheduleRemoved():
            one.end = min(one.end, instant(event.at))
        case c.SchedulePaused() if one.paused_from is None:
            one.paused_from = one.last
        case c.ScheduleResumed() if one.paused_from is not None:
            one.pauses.append((one.paused_from, instant(event.at)))
            one.paused_from = None
        case c.ScheduleFired(requested_by="", epoch=by) if by == epoch:
            if one.paused_from is None:
                one.fired.append(instant(event.planned))
        case c.ScheduleSkipped(epoch=by) if by == epoch:
            if one.paused_from is None:
                one.skipped.append(event)
        case _:
            pass


def _of_one(one: _Kept, tasks: Mapping[float, list[str]], end: float) -> Iterator[str]:
    times = one.times(min(one.end, end))
    planned = set(times)
    pauses = list(one.pauses)
    if one.paused_from is not None:
        pauses.append((one.paused_from, one.end))
    spans = [(instant(each.planned), instant(each.until)) for each in one.skipped]
    for time in times:
        fires = one.fired.count(time)
        covered = sum(first <= time <= until for first, until in spans)
        asleep = any(first < time <= until for first, until in pauses)
        late = min(one.end, end) - time < SOON_S
        if fires + covered > 1:
            yield f"{_in_utc(time)} was fired {fires} times, left out {covered} times"
        elif not fires and not covered and not asleep and not late:
            yield f"{_in_utc(time)} was neither fired nor left out"
    for time in one.fired:
        if time not in planned and time <= end:
            yield f"{_in_utc(time)} was fired, and was not planned"
        if len(tasks.get(time, ())) != 1:
            yield f"{_in_utc(time)} was fired for tasks {tasks.get(time)}"
    for each, (first, until) in zip(one.skipped, spans, strict=True):
        of_these = [time for time in times if first <= time <= until]
        if until <= end and len(of_these) != each.count:
            yield f"{each.planned} to {each.until} are {of_these}, not {each.count}"
        by = one.rule_at(first)
        rule = by.missed if each.reason == "missed" else by.overlap
        if rule not in {"missed": ("skip", "one"), "overlap": ("skip",)}[each.reason]:
            yield f"{each.planned} is left out as {each.reason}, the rule is {rule}"
        late_s = instant(each.at) - max(of_these, default=until)
        if each.reason == "missed" and late_s < MISSED_S - 1:
            yield f"{each.until} is left out as missed at {each.at}"


def _in_utc(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat()


# -- the night -------------------------------------------------------------------------


class _Fault(NamedTuple):
    what: str
    until: str
    fields: dict[str, Any]
    then: dict[str, Any]


def _faults(chance: Random, begin: float, lasts_s: float) -> list[Step]:
    """Draw what breaks when: many a scheduler dies just as something is due."""
    steps: list[Step] = []
    for _ in range(int(FAULTS * lasts_s / LASTS_S)):
        at = chance.uniform(120.0, lasts_s - UNBROKEN_S - 800)
        if chance.random() < 0.5:
            at += -(begin + at) % 60 + chance.uniform(0.0, 0.1)
        lasts = chance.choice((3.0, 25.0, 25.0, 150.0, 600.0)) * chance.uniform(
            0.5, 1.2
        )
        whom = chance.choice((("s1",), ("s2",), ("s1", "s2"), ("s1", "s2"), ("h1",)))
        kill = {"steps": chance.choice((1, 2, 3, 5, 10, 40))}
        odds = chance.choice((0.02, 0.1))
        calm = {"lost": 0.0, "twice": 0.0, "gives_up": 0.0, "unacknowledged": 0.0}
        rough = {"lost": odds, "twice": odds, "gives_up": 0.4, "unacknowledged": odds}
        fault = chance.choice(
            (
                *[_Fault("kill", "start", kill, {})] * 4,
                _Fault("freeze", "thaw", {}, {}),
                _Fault("suspend", "resume", {}, {"clock_moved": True}),
                _Fault("cut", "heal", {"notice": 1.0}, {"after": 0.2}),
                _Fault("outage", "outage over", {"notice": 1.0}, {"after": 0.2}),
                _Fault("weather", "weather", rough, calm),
            )
        )
        for name in whom:
            steps.append(Step(round(at, 4), fault.what, name, fault.fields))
            steps.append(Step(round(at + lasts, 4), fault.until, name, fault.then))
            if chance.random() < 0.5:
                lasts *= chance.uniform(0.3, 1.0)
    return steps


NIGHT_POLICY = {
    **POLICY,
    "host_lease_s": 120.0,
    "tier_alert_after_s": 900.0,
    "task_ttl_s": 7_200.0,
    "ageing_s": 900.0,
    "beat_interval_s": 20.0,
}


def _restarts(lasts_s: float) -> list[Step]:
    """A supervisor starts again what is gone, at the latest when nothing breaks any more."""
    last = lasts_s - UNBROKEN_S
    looks = [*range(1_200, int(last), 1_200), last]
    names = ("s1", "s2", "h1")
    return [Step(float(at), "start", name, {}) for at in looks for name in names]


class Night(Simulation):
    """One night: with `seed` the change of clocks and the rules go round."""

    settles_within = 900.0
    lease_ttl = 16.0
    patience = 10_000
    policy = NIGHT_POLICY

    def __init__(self, seed: int, lasts_s: float = LASTS_S) -> None:
        self.calm_at = lasts_s
        super().__init__(seed)

    def _begins(self) -> float:
        self.zone, edge = CHANGES[self.seed % len(CHANGES)]
        return (
            edge
            - self.calm_at / 2
            + round(Random(f"night {self.seed}").uniform(0, 59), 3)
        )

    def _drawn(self) -> Plan:
        steps = [
            Step(0.0, "start", "s1", {}),
            Step(0.3, "start", "s2", {}),
            Step(0.5, "start", "h1", {}),
            Step(0.01, "ask", "policy.set", {"policy": self.policy}),
            *_faults(self.chance, self.begin, self.calm_at),
            *_restarts(self.calm_at),
            Step(self.calm_at, "calm", "", {}),
        ]
        steps.sort(key=lambda step: step.at)
        return Plan(1, 0.0, ("night",), steps)

    def _draw_apart(self) -> None:
        self.temper.takes, self.temper.slow = (0.5, 60.0), 0.03
        self.temper.hangs = self.temper.unfit = 0.0
        for machine in self.machines.values():
            machine.beat_every_s, machine.looks_every_s = 20.0, (120.0, 240.0)
            machine.delegates, machine.verifies = False, True
        chance = Random(f"planned {self.seed}")
        crons = ("* * * * *", *DAILY, *HOURLY)
        for n, cron in enumerate(crons):
            missed, overlap = RULES[(self.seed // len(CHANGES) + n) % len(RULES)]
            name = f"plan{n}"
            task = {"description": "x", "tier": "trivial", "shell": {"command": "true"}}
            add = {
                "schedule": name, "cron": cron, "tz": self.zone, "task": task,
                "missed": missed, "overlap": overlap, "id": f"add-{name}",
            }  # fmt: skip
            self.schedules.append((30.0 + n, "schedule.add", add))
            # A copy that comes late changes nothing.
            again = (self.calm_at + chance.uniform(5.0, 20.0), "schedule.add", add)
            remove = (self.calm_at, "schedule.remove", {"schedule": name})
            self.schedules += [remove, again]
        for _ in range(3):
            at = chance.uniform(600.0, self.calm_at - UNBROKEN_S - 900)
            which = {"schedule": f"plan{chance.choice((0, 0, 5))}"}
            self.schedules.append((at, "schedule.pause", which))
            at += chance.uniform(10.0, 600.0)
            self.schedules.append((at, "schedule.resume", which))
            self.schedules.append((at + 200, "schedule.run", which))
        for _ in range(2):
            at = chance.uniform(600.0, self.calm_at - UNBROKEN_S)
            if chance.random() < 0.5:
                at += -(self.begin + at) % 60 + chance.uniform(0.0, 0.1)
            change = {
                "schedule": chance.choice(("plan0", "plan3", "plan6")),
                "cron": chance.choice((*HOURLY, "* * * * *")),
                "id": f"change at {at}".replace(" ", "-"),
            }
            self.schedules.append((at, "schedule.change", change))

    def _finally(self) -> None:
        super()._finally()
        for wrong in mistakes(self.server.entries, self.begin + self.calm_at):
            self.judge.complain("a night's planned times are dealt with once", wrong)

    def run(self) -> Outcome:
        """Play it; whoever looks around by itself does so less often."""
        with _sparse():
            outcome = super().run()
        return outcome._replace(again="python -m tests.simulation --nights ")


@contextmanager
def _sparse() -> Iterator[None]:
    with (
        mock.patch.object(role, "LOOK_S", 5.0),
        mock.patch.object(role, "LED_EVERY_S", 8.0),
        mock.patch.object(lease, "TRY_S", 5.0),
        mock.patch.object(hosts, "SILENCE_CHECK_S", 10.0),
    ):
        yield


def play_night(seed: int, lasts_s: float = LASTS_S) -> Outcome:
    """Make a night from a seed and play it to its end."""
    return Night(seed, lasts_s).run()
