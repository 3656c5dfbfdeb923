"""A scheduler by itself: a log in a list, a clock in a variable, hosts that only say things.

Decisions are stored by compare-and-set, as the log would, and folded in order. Tests say
what happens, and look at what was decided.
"""

from __future__ import annotations

import itertools

from actors.lifecycle import Epochs
from actors.rules.classification import classify
from actors.rules.prompt import estimate
from actors.scheduler.decide import Scheduler
from actors.scheduler.outputs import Decision, Mail
from events import catalogue as c
from events import subjects
from events.codec import decode_event, encode, rfc3339
from events.mail import Assign, Cancel

START = 1_700_000_000.0


class World:
    """One scheduler that leads, and the log it writes."""

    def __init__(self, *, leading: bool = True) -> None:
        self.now = START
        self.log: list[c.Recorded] = []
        self.last: dict[str, int] = {}
        self._ids = (f"E{n:06d}" for n in itertools.count(1))
        self.scheduler = Scheduler("s1", lambda: next(self._ids))
        self.mail: list[Mail] = []
        if leading:
            self.elect()

    def elect(self, epoch: int = 1, name: str = "s1") -> None:
        self.store(
            subjects.SCHEDULER,
            c.SchedulerElected(**self.head(), epoch=epoch, name=name),
        )
        if name == "s1":
            self.scheduler.lead(epoch, self.now)
        self.turn()

    def head(self) -> dict[str, str]:
        return {"id": next(self._ids), "at": rfc3339(self.now), "by": "test"}

    def store(self, subject: str, event: c.Event) -> int:
        """Put an event into the log, encoded and decoded, and fold it."""
        event = decode_event(encode(event))
        recorded = c.Recorded(len(self.log) + 1, subject, event)
        self.log.append(recorded)
        self.last[subject] = recorded.seq
        self.scheduler.fold(recorded)
        return recorded.seq

    def take(self, decision: Decision) -> bool:
        """Store a decision if its subject stands where it expects."""
        if decision.expect is not None and decision.expect != self.last.get(
            decision.subject, 0
        ):
            self.scheduler.undecided(decision)
            return False
        self.store(decision.subject, decision.event)
        return True

    def turn(self) -> list[Decision]:
        """Let the scheduler decide until it has nothing more to say."""
        made: list[Decision] = []
        for _ in range(50):
            decided = self.scheduler.decide(self.now)
            self.mail += [e for e in self.scheduler.effects if isinstance(e, Mail)]
            self.scheduler.effects.clear()
            if not decided:
                return made
            for decision in decided:
                self.take(decision)
            made += decided
        raise AssertionError("the scheduler never comes to rest")

    def wait(self, seconds: float) -> None:
        """Let time pass, waking the scheduler whenever it asked for it."""
        end = self.now + seconds
        while True:
            wake = self.scheduler.next_wake()
            if wake is None or wake > end:
                break
            self.now = max(self.now + 0.001, wake)
            self.turn()
        self.now = end
        self.turn()

    # -- things that happen ------------------------------------------------------------

    def submit(self, task_id: str, description: str = "do a thing", **fields) -> None:
        """Submit a task; without a `mode` as before there were any."""
        spec = c.TaskSpec(description=description, **fields)
        asked = {}
        if spec.mode is not None:
            asked = {"mode": spec.mode, "prompt_tokens_estimate": estimate(spec)}
        self.store(
            subjects.task(task_id),
            c.TaskSubmitted(
                **self.head(),
                task_id=task_id,
                spec=spec,
                classification=classify(spec),
                **asked,
            ),
        )
        self.turn()

    def shell(self, task_id: str, **fields) -> None:
        self.submit(task_id, "run", shell=c.Shell(command="true"), **fields)

    def join(self, name: str, incarnation: str = "i1", endpoints=(), **fields) -> None:
        fields.setdefault("slots", {"shell": 2})
        fields.setdefault("verifies", True)
        self.store(
            subjects.host(name),
            c.HostJoined(
                **self.head(),
                host=name,
                incarnation=incarnation,
                version="1",
                endpoints=list(endpoints),
                **fields,
            ),
        )
        self.beat(name, incarnation)
        self.turn()

    def beat(
        self,
        name: str,
        incarnation: str = "i1",
        held=(),
        interval_s=0.0,
        fault="",
        ahead_s=0.0,
        **resources,
    ) -> None:
        self.scheduler.beat(
            c.Beat(
                host=name,
                incarnation=incarnation,
                n=1,
                at=rfc3339(self.now + ahead_s),
                resources=c.Resources(**resources),
                held=list(held),
                interval_s=interval_s,
                fault=fault,
            ),
            self.now,
        )
        self.turn()

    def beat_on(self, seconds: float, *names: str) -> None:
        """Let time pass while these hosts report."""
        end = self.now + seconds
        while self.now < end:
            for name in names:
                held = [
                    c.Held(r.task_id, r.id)
                    for r in self.routes()
                    if r.selected_host == name
                    and self.phase(r.task_id) in ("accepted", "running", "cancelling")
                ]
                self.beat(name, held=held)
            self.wait(min(2.0, end - self.now))

    def host_says(
        self, name: str, kind: type[c.Event], /, incarnation: str = "i1", **fields
    ) -> None:
        self.store(
            subjects.host(name),
            kind(**self.head(), host=name, incarnation=incarnation, **fields),
        )
        self.turn()

    def report(
        self,
        task_id: str,
        kind: type[c.Event],
        route=None,
        incarnation: str = "i1",
        **fields,
    ) -> None:
        """A host says something about the route in force (or the given one)."""
        routed = route or self.routes(task_id)[-1]
        self.store(
            subjects.run(routed.selected_host, task_id),
            kind(
                **self.head(),
                task_id=task_id,
                host=routed.selected_host,
                route=routed.id,
                generation=routed.generation,
                attempt=routed.attempt,
                incarnation=incarnation,
                **fields,
            ),
        )
        self.turn()

    def run(self, task_id: str) -> None:
        """Accepted, started, completed."""
        self.report(task_id, c.TaskAccepted)
        self.report(task_id, c.TaskStarted, executor="x")
        self.report(task_id, c.TaskCompleted, result=c.Result(status="success"))

    # -- things to look at -------------------------------------------------------------

    def events(self, kind: type[c.Event] = c.Event) -> list:
        return [r.event for r in self.log if isinstance(r.event, kind)]

    def routes(self, task_id: str | None = None) -> list[c.TaskRouted]:
        return [e for e in self.events(c.TaskRouted) if task_id in (None, e.task_id)]

    def phase(self, task_id: str) -> str:
        """The task's phase as its whole history says."""
        from actors import lifecycle

        epochs = Epochs()
        for r in self.log:
            if isinstance(r.event, c.SchedulerElected):
                epochs.observe(r.seq, r.event.epoch)
        ends = f".{task_id}"
        history = [
            r
            for r in self.log
            if (r.subject.endswith(ends) and ".evt.task." in r.subject)
            or (r.subject.endswith(ends) and ".evt.run." in r.subject)
        ]
        return lifecycle.fold(task_id, history, epochs).phase

    def assigned(self, task_id: str) -> list[Mail]:
        return [
            m
            for m in self.mail
            if isinstance(m.message, Assign) and m.message.task_id == task_id
        ]

    def cancels(self, task_id: str) -> list[Mail]:
        return [
            m
            for m in self.mail
            if isinstance(m.message, Cancel) and m.message.task_id == task_id
        ]


def ollama(
    name: str = "o1",
    *,
    up: bool = True,
    models=("llama3.2:latest",),
    loaded=(),
    slots: int = 1,
) -> c.EndpointState:
    return c.EndpointState(
        endpoint=name,
        kind="ollama",
        up=up,
        url="http://x",
        models=list(models),
        loaded=list(loaded),
        slots=slots,
    )


def claude(name: str = "claude", *, up: bool = True, slots: int = 1) -> c.EndpointState:
    return c.EndpointState(endpoint=name, kind="claude", up=up, slots=slots)
