"""Histories to test folds with: told step by step, or made up from a seed.

    history = History()
    task = history.submit("say hi")
    route = history.route(task, "h1")
    history.start(route)
    history.complete(route, usd=0.25)
    world = fold(history.recorded)

`plausible(seed)` makes up a few hosts and many tasks whose lives are interleaved, with
lost hosts, retries, cancellations, late and repeated reports, a change of leaders, and
now and then an event that has no business being there.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

from events import catalogue as c
from events import subjects
from events.catalogue import Recorded
from events.codec import rfc3339
from events.ids import ulid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from events.log import EventLog

START = 1_767_225_600.0
"""2026-01-01T00:00:00Z: when every history begins."""

FACTORS = c.Factors(load=0.5, capacity=1.0, vram=0.9, warm=1.0, affinity=1.0, slots=1.0)


class Route(NamedTuple):
    """A routing, as far as a host must know it to report on it."""

    id: str
    task: str
    host: str
    generation: int
    attempt: int


class History:
    """A log that is being told. Time goes on by a tenth of a second with each event."""

    def __init__(self, seed: int = 0, *, epoch: int = 0) -> None:
        self.chance = random.Random(seed)
        self.now = START
        self.epoch = epoch
        self.recorded: list[Recorded] = []
        self.incarnations: dict[str, str] = {}
        self._generation: dict[str, int] = {}
        self._lines: dict[str, int] = {}

    # -- the frame ---------------------------------------------------------------------

    def new_id(self) -> str:
        return ulid(self.now, self.chance.getrandbits(80))

    def head(self, by: str) -> dict[str, Any]:
        """Id, time and author of the next event."""
        self.now += 0.1
        return {"id": self.new_id(), "at": rfc3339(self.now), "by": by}

    def say(self, subject: str, event: c.Event) -> Recorded:
        """Put any event on any subject."""
        recorded = Recorded(len(self.recorded) + 1, subject, event)
        self.recorded.append(recorded)
        return recorded

    def again(self, recorded: Recorded) -> Recorded:
        """Say the same once more, as a host does whose acknowledgement got lost."""
        return self.say(recorded.subject, recorded.event)

    @property
    def last(self) -> Recorded:
        return self.recorded[-1]

    # -- what is decided about a task --------------------------------------------------

    def submit(
        self,
        description: str = "do it",
        *,
        tier: c.Tier = "standard",
        task_id: str | None = None,
        inferred: c.ExplicitTier | None = None,
        tier_limit: c.Tier | None = None,
        **spec: Any,
    ) -> str:
        task_id = task_id or self.new_id()
        said = c.Classification(
            effective_tier=tier,
            explicit_tier=spec.get("tier"),
            source="explicit" if spec.get("tier") else "inferred",
            inferred=c.Inferred(inferred or tier, 0.67, ["words=2"]),
            reason=f"inferred:{tier} (confidence 0.67, words=2, files=0)",
        )
        event = c.TaskSubmitted(
            **self.head("gateway"),
            task_id=task_id,
            spec=c.TaskSpec(description=description, **spec),
            classification=said,
            submitter="alice",
            tier_limit=tier_limit,
        )
        self.say(subjects.task(task_id), event)
        return task_id

    def decide(
        self, kind: type[c.TaskEvent], task_id: str, /, **fields: Any
    ) -> Recorded:
        """Let the scheduler (or gateway) decide something about a task."""
        fields = {"epoch": self.epoch} | fields
        event = kind(**self.head("scheduler"), task_id=task_id, **fields)
        return self.say(subjects.task(task_id), event)

    def route(
        self,
        task_id: str,
        host: str = "h1",
        *,
        tier: c.Tier = "standard",
        target: c.TargetType = "ollama",
        endpoint: str = "h1-ollama",
        model: str = "llama3.2",
        attempt: int = 1,
        **fields: Any,
    ) -> Route:
        generation = self._generation[task_id] = self._generation.get(task_id, 0) + 1
        candidate = c.Candidate(
            host=host,
            endpoint=endpoint,
            model=model,
            slots_free=1,
            slots_total=1,
            factors=FACTORS,
            score=0.45,
        )
        fields = {
            "estimated_cost_tier": "api" if target == "claude" else "local"
        } | fields
        routed = self.decide(
            c.TaskRouted,
            task_id,
            generation=generation,
            attempt=attempt,
            effective_tier=tier,
            target_type=target,
            selected_host=host,
            selected_endpoint=endpoint,
            selected_model=model,
            classification_reason="inferred:standard (confidence 0.67)",
            candidate_count=1,
            candidates=[candidate],
            policy_version=1,
            log_seq=len(self.recorded),
            **fields,
        )
        return Route(routed.event.id, task_id, host, generation, attempt)

    def requeue(
        self, route: Route, reason: str = "host_lost", *, counts: bool = False, **more
    ) -> Recorded:
        return self.decide(
            c.TaskRequeued,
            route.task,
            route=route.id,
            generation=route.generation,
            reason=reason,
            counts_as_attempt=counts,
            **more,
        )

    def cancel(self, task_id: str) -> Recorded:
        return self.decide(c.TaskCancelled, task_id, requested_by="alice", epoch=0)

    def retry(self, task_id: str) -> Recorded:
        return self.decide(c.TaskRetried, task_id, requested_by="alice", epoch=0)

    def dead(self, route: Route, attempts: int = 3) -> Recorded:
        return self.decide(
            c.TaskDeadLettered,
            route.task,
            attempts=attempts,
            reason="attempts_used",
            route=route.id,
            generation=route.generation,
        )

    # -- what hosts report -------------------------------------------------------------

    def report(
        self,
        kind: type[c.RunEvent],
        route: Route,
        /,
        *,
        host: str | None = None,
        **fields: Any,
    ) -> Recorded:
        """Let a host (the route's own unless named) report something of a run."""
        host = host or route.host
        event = kind(
            **self.head(f"host:{host}"),
            task_id=route.task,
            host=host,
            route=route.id,
            generation=route.generation,
            attempt=route.attempt,
            incarnation=self.incarnations.get(host, "i1"),
            **fields,
        )
        return self.say(subjects.run(host, route.task), event)

    def accept(self, route: Route) -> Recorded:
        return self.report(c.TaskAccepted, route)

    def start(self, route: Route) -> Recorded:
        return self.report(
            c.TaskStarted,
            route,
            executor="ollama",
            endpoint="h1-ollama",
            model="llama3.2",
        )

    def line(self, route: Route, text: str) -> Recorded:
        n = self._lines[route.id] = self._lines.get(route.id, -1) + 1
        return self.report(c.TaskStatus, route, text=text, n=n)

    def complete(self, route: Route, **fields: Any) -> Recorded:
        return self.report(c.TaskCompleted, route, result=result(**fields))

    def fail(self, route: Route, **fields: Any) -> Recorded:
        fields = {"error": c.RunError("exit", "exit code 1")} | fields
        return self.report(
            c.TaskFailed, route, result=result(status="failed", **fields)
        )

    def give_back(self, route: Route, reason: str = "endpoint_failed", **more):
        return self.report(c.TaskReturned, route, reason=reason, **more)

    def stopped(self, route: Route, **fields: Any) -> Recorded:
        return self.report(
            c.TaskStopped, route, result=result(status="failed", **fields)
        )

    # -- hosts, tiers, leaders ---------------------------------------------------------

    def join(self, host: str = "h1", *, models=("llama3.2",), **fields) -> Recorded:
        incarnation = self.incarnations[host] = self.new_id()
        event = c.HostJoined(
            **self.head(f"host:{host}"),
            host=host,
            incarnation=incarnation,
            version="0.1.0",
            platform="linux",
            slots={"shell": 2, "claude": 1},
            endpoints=[endpoint_state(f"{host}-ollama", models)],
            **fields,
        )
        return self.say(subjects.host(host), event)

    def host_says(self, kind: type[c.HostEvent], host: str, /, **fields) -> Recorded:
        event = kind(
            **self.head(f"host:{host}"),
            host=host,
            incarnation=self.incarnations.get(host, "i1"),
            **fields,
        )
        return self.say(subjects.host(host), event)

    def lose(self, host: str) -> Recorded:
        event = c.HostLost(
            **self.head("scheduler"),
            epoch=self.epoch,
            host=host,
            incarnation=self.incarnations.get(host, "i1"),
            silent_s=15.0,
        )
        return self.say(subjects.fleet(host), event)

    def tier(self, kind: type[c.TierEvent], tier: c.Tier, /, **fields) -> Recorded:
        event = kind(**self.head("scheduler"), epoch=self.epoch, tier=tier, **fields)
        return self.say(subjects.tier(tier), event)

    def elect(self, epoch: int, name: str = "s1") -> Recorded:
        self.epoch = max(self.epoch, epoch)
        event = c.SchedulerElected(**self.head(name), epoch=epoch, name=name)
        return self.say(subjects.SCHEDULER, event)


def endpoint_state(name: str, models: Iterable[str] = ("llama3.2",)) -> c.EndpointState:
    return c.EndpointState(
        endpoint=name,
        kind="ollama",
        up=True,
        url="http://127.0.0.1:11434",
        models=list(models),
        loaded=list(models)[:1],
    )


def result(
    output: str = "done",
    *,
    status: str = "success",
    usd: float | None = 0.0,
    tokens: tuple[int | None, int | None] = (100, 20),
    model: str = "llama3.2",
    equivalent: float | None = None,
    **fields: Any,
) -> c.Result:
    return c.Result(
        status=status,
        output=output,
        output_bytes=len(output),
        model_used=model,
        tokens_in=tokens[0],
        tokens_out=tokens[1],
        estimated_cost_usd=usd,
        equivalent_claude_cost_usd=equivalent,
        execution_ms=fields.pop("execution_ms", 12.5),
        **fields,
    )


async def tell(log: EventLog, history: Iterable[Recorded]) -> int:
    """Append a history to a log; return the last sequence."""
    seq = 0
    for recorded in history:
        seq = await log.append(recorded.subject, recorded.event)
    return seq


# -- Made up from a seed ---------------------------------------------------------------

HOSTS = ("h1", "h2", "h3")
TIERS: tuple[c.Tier, ...] = ("trivial", "standard", "complex")
PRIORITIES: tuple[c.Priority, ...] = ("urgent", "high", "normal", "low")
TARGETS: dict[str, tuple[c.TargetType, str, str]] = {
    "trivial": ("sidecar", "", ""),
    "standard": ("ollama", "ollama", "llama3.2"),
    "complex": ("claude", "claude", "claude-sonnet-4-5"),
}


def plausible(
    seed: int, *, tasks: int = 40, at_once: int = 8, odd: float = 0.05
) -> list[Recorded]:
    """Make up a history of `tasks` tasks; `odd` is how often something is off."""
    history = History(seed)
    chance = history.chance
    history.elect(1)
    for host in HOSTS:
        history.join(host)
    lives: list[Any] = []
    begun = 0
    while begun < tasks or lives:
        while begun < tasks and len(lives) < at_once:
            lives.append(_life(history))
            begun += 1
        i = chance.randrange(len(lives))
        if next(lives[i], None) is None:
            del lives[i]
        if chance.random() < odd:
            _something_odd(history)
    return history.recorded


def _life(history: History):
    """One task's life; yields after each event so that lives can be interleaved."""
    chance = history.chance
    tier = chance.choice(TIERS)
    task = history.submit(
        f"task of {tier}",
        tier=tier,
        inferred=chance.choice(TIERS),
        priority=chance.choice(PRIORITIES),
        repo=chance.choice((None, "shop", "blog")),
    )
    yield True
    fate = chance.random()
    if fate < 0.05:
        history.cancel(task)
        yield True
        return
    if fate < 0.08:
        history.decide(c.TaskExpired, task, reason="ttl")
        yield True
        if chance.random() < 0.5:
            return
        history.retry(task)
        yield True
    if fate > 0.9:
        history.decide(c.TaskDeferred, task, reason="no host has it")
        yield True
    attempts, rounds = 0, 0
    while True:
        rounds += 1
        run_tier = tier
        hop: dict[str, Any] = {}
        if tier == "standard" and chance.random() < 0.15:
            run_tier = "complex"
            hop = {
                "fallback_used": True,
                "fallback_from_tier": "standard",
                "fallback_reason": "standard is down",
            }
        target, kind, model = TARGETS[run_tier]
        host = chance.choice(HOSTS)
        route = history.route(
            task,
            host,
            tier=run_tier,
            target=target,
            endpoint=f"{host}-{kind}" if kind else "",
            model=model,
            attempt=attempts + 1,
            **hop,
        )
        yield True
        usd = round(chance.random(), 4) if target == "claude" else 0.0
        money = {
            "usd": usd,
            "model": model or "none",
            "tokens": (chance.randrange(1000), chance.randrange(200)),
            "equivalent": 0.01 if target == "ollama" else None,
        }
        turn = chance.random()
        if turn < 0.08:
            history.report(c.TaskRejected, route, reason="busy")
            yield True
            history.requeue(route, "busy")
            yield True
            continue
        if chance.random() < 0.9:
            history.accept(route)
            yield True
        if chance.random() < 0.95:
            said = history.start(route)
            yield True
            if chance.random() < 0.1:
                history.again(said)
                yield True
        for _ in range(chance.randrange(3)):
            history.line(route, f"{model} retry 1/2...")
            yield True
        if chance.random() < 0.08:
            history.cancel(task)
            yield True
            end = chance.random()
            if end < 0.6:
                history.stopped(route, **money)
            elif end < 0.8:
                history.complete(route, **money)
            else:
                history.decide(
                    c.TaskAbandoned,
                    task,
                    route=route.id,
                    generation=route.generation,
                    host=route.host,
                )
            yield True
            return
        if turn < 0.11:
            history.decide(c.TaskReassigned, task, host=host, epoch=0)
            yield True
            if chance.random() < 0.3:
                history.stopped(route, **money)
                yield True
            continue
        if turn < 0.25:
            lost = chance.random() < 0.5
            attempts += 1
            if lost:
                if attempts >= 3 or rounds > 8:
                    history.dead(route, attempts)
                    yield True
                    return
                history.requeue(route, "host_lost", counts=True)
                yield True
                if chance.random() < 0.5:
                    history.complete(route, **money)
                    yield True
                    return
            else:
                history.give_back(route, result=result(status="failed", **money))
                yield True
                if attempts >= 3 or rounds > 8:
                    history.dead(route, attempts)
                    yield True
                    return
                history.requeue(route, "endpoint_failed", exclude=f"{host}-{kind}")
                yield True
            if chance.random() < 0.3:
                history.report(c.TaskStatus, route, text="too late", n=99)
                yield True
            continue
        if turn < 0.35:
            said = history.fail(route, **money)
            yield True
            if chance.random() < 0.3:
                history.again(said)
                yield True
            if chance.random() < 0.4:
                history.retry(task)
                attempts = 0
                yield True
                continue
            return
        said = history.complete(route, **money)
        yield True
        if chance.random() < 0.1:
            history.again(said)
            yield True
        return


def _something_odd(history: History) -> None:
    """Say something that should count for little or nothing."""
    chance = history.chance
    match chance.randrange(8):
        case 0:
            history.again(chance.choice(history.recorded))
        case 1:
            history.elect(history.epoch + 1, chance.choice(("s1", "s2")))
        case 2:
            said = chance.choice(history.recorded)
            history.say("agentcom.evt.run.h9.nobody", said.event)
        case 3:
            history.complete(Route("no-route", "no-task", "h1", 1, 1))
        case 4:
            head = history.head("scheduler")
            history.say(
                subjects.POLICY,
                c.Unknown(tag="policy.sung.v9", body=head, **head),
            )
        case 5:
            history.tier(c.TierDown, "standard", reason="no endpoint is up")
            history.tier(c.AlertRaised, "standard", down_s=60.0)
        case 6:
            history.tier(c.TierUp, "standard", down_s=70.0)
            history.tier(c.AlertCleared, "standard", down_s=70.0)
        case _:
            host = chance.choice(HOSTS)
            history.lose(host)
            history.join(host)
