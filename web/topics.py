"""What a page can watch: the sections of each topic, and what they are made of.

A topic names the events that may change it, how often it is made anew, and how. It is
made from the read models alone; `web.documents` keeps it up to date for its watchers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final
from zoneinfo import ZoneInfo

from msgspec import Meta, Struct, structs

from analysis.explain import words
from events import catalogue as c
from events import subjects
from events.codec import instant, rfc3339
from events.commands import Refusal, refuse
from events.errors import shown
from events.filters import timed
from projections import answers, mapping, waiting
from projections.questions import (
    AskCosts,
    AskGraph,
    AskSchedules,
    AskTask,
    AskTasks,
    AskThen,
    AskWhy,
    Question,
)
from web.notify.served import FOLDER, all_served

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from events.bus import Bus
    from events.log import EventLog
    from projections.judged import Family
    from projections.queries import Queries
    from projections.runner import Runner
    from web.lasthour import LastHour
    from web.live import OutputFeed

RUNNING_SHOWN: Final = 24
STRIP_HOSTS: Final = 40
HOURLY_S: Final = 3 * 86_400.0
"""Costs of no more than this are shown by the hour."""
DAY_S: Final = 86_400.0

Sections = dict[str, Any]


@dataclass(frozen=True)
class Sources:
    """Where topics come from.

    `decisions` are the latest, newest first; `builtin` is the policy until one is set.
    """

    runner: Runner
    queries: Queries
    bus: Bus
    log: EventLog
    output: OutputFeed
    decisions: Callable[[], list[dict[str, Any]]]
    builtin: dict[str, Any]
    last_hour: LastHour


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


class Window(AskTasks, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the task list, as the query `tasks` has it."""

    limit: Annotated[int, Meta(ge=0, le=500)] = 100


class OneTask(Struct, frozen=True, forbid_unknown_fields=True):
    """A task; `after` says how far its output is there already: the last n by route."""

    task_id: Annotated[str, Meta(min_length=1, max_length=64)]
    after: dict[str, int] = {}


class GraphOf(Struct, frozen=True, forbid_unknown_fields=True):
    """The graph that a task stands in."""

    task_id: Annotated[str, Meta(min_length=1, max_length=64)]


class Money(AskCosts, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Costs by a dimension, as the query has it; days are those of the zone `tz`."""

    tz: Annotated[str, Meta(max_length=100)] = ""


class Pattern(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the log, by NATS pattern."""

    subject: Annotated[
        str,
        Meta(
            pattern=subjects.EVENT_PATTERN,
            description="a pattern of events' subjects, as docs/events.md has them",
        ),
    ] = subjects.ALL_EVENTS


@dataclass(frozen=True)
class Topic:
    """One topic.

    `params` is the shape of its parameters, `families` whose events change it (None:
    all), `pause_s` the least time between two makings, `tick_s` after how long it is made
    anew though nothing happened.
    """

    name: str
    params: type[Any]
    make: Callable[[Sources, Any], Awaitable[Sections | Refusal]]
    families: frozenset[Family] | None = None
    pause_s: float = 0.1
    tick_s: float | None = None


async def _status(sources: Sources, params: Nothing) -> Sections | Refusal:
    world = sources.runner.world
    connected = sources.bus.connected
    last = await sources.log.last_sequence() if connected else world.position
    simulated = sorted(
        {
            f"{endpoint.endpoint} ({endpoint.kind})"
            for host in world.fleet.hosts.values()
            if host.state not in ("left", "lost")
            for endpoint in host.endpoints.values()
            if endpoint.simulated
        }
    )
    return {
        "connected": connected,
        "position": world.position,
        "lag": max(last - world.position, 0),
        "leader": world.fleet.in_force.leader,
        "simulated": simulated,
        "notifying": _notifying(sources.runner.store.path),
    }


def _notifying(store: Path | None) -> list[dict[str, Any]]:
    """Say how notifications stand that are delivered from this data folder."""
    found = [] if store is None else all_served(store.parent / FOLDER)
    return [
        {
            "target": each.target,
            "delivered": each.delivered,
            "waiting": each.waiting,
            "failing_since": each.failing_since,
            "last_error": each.last_error,
        }
        for each in found
    ]


async def _overview(sources: Sources, params: Nothing) -> Sections | Refusal:
    world, queries = sources.runner.world, sources.queries
    queue = mapping.queue(world.queue, world.position, RUNNING_SHOWN)
    stats = await queries.stats(AskThen())
    today = await queries.costs(
        AskCosts(by="fallback", since=rfc3339(time.time())[:10])
    )
    ever = await queries.costs(AskCosts(by="fallback"))
    hosts = await queries.hosts(AskThen())
    return {
        "tiers": hosts.tiers,
        "waiting": queue.waiting,
        "lanes": queue.lanes,
        "under_way": queue.under_way,
        "running": queue.running,
        "expiring": waiting.expiring(world),
        "decisions": stats.decisions_by_tier,
        "fallbacks": {"count": stats.fallbacks, "hops": stats.fallbacks_by_hop},
        "minutes": stats.minutes,
        "wait": sources.last_hour.figures("wait"),
        "run": sources.last_hour.figures("run"),
        "curves": sources.last_hour.curves(world.queue.under_way.values()),
        "hosts": _glimpses(hosts.hosts),
        "today": {"total": today.total, "lines": today.lines},
        "ever": {"total": ever.total, "lines": ever.lines},
    }


def _glimpses(hosts: list[answers.HostRow]) -> dict[str, Any]:
    """Say of the hosts what the strip shows: those with a problem first, and not all."""
    there = [_glimpse(host) for host in hosts if host.state != "left"]
    there.sort(key=lambda one: (one["state"] == "up" and not one["wrong"], one["host"]))
    return {"total": len(there), "first": there[:STRIP_HOSTS]}


def _glimpse(host: answers.HostRow) -> dict[str, Any]:
    own = [one for one in host.endpoints if one.kind not in host.slots]
    slots = sum(host.slots.values()) + sum(one.slots for one in own)
    return {
        "host": host.host,
        "state": host.state,
        "wrong": host.fault or sum(not one.up for one in host.endpoints),
        "in_flight": host.in_flight,
        "slots": slots,
    }


async def _attention(sources: Sources, params: Nothing) -> Sections | Refusal:
    answer = await sources.queries.attention(Question())
    return {"rows": answer.rows}


async def _policy(sources: Sources) -> dict[str, Any]:
    """Return the policy in force."""
    seq = sources.runner.world.fleet.in_force.policy_seq
    recorded = await sources.log.get(seq) if seq else None
    event = recorded.event if recorded is not None else None
    return event.policy if isinstance(event, c.PolicyChanged) else sources.builtin


async def _tails(sources: Sources, params: Nothing) -> Sections | Refusal:
    world = sources.runner.world
    queue = mapping.queue(world.queue, world.position, RUNNING_SHOWN)
    return {"tails": sources.output.tails([task.task_id for task in queue.running])}


async def _tasks(sources: Sources, params: Window) -> Sections | Refusal:
    answer = await sources.queries.tasks(params)
    return {
        "total": answer.total,
        "states": answer.states,
        "offset": params.offset,
        "rows": answer.tasks,
    }


async def _task(sources: Sources, params: OneTask) -> Sections | Refusal:
    answer = await sources.queries.task(AskTask(task_id=params.task_id, events=True))
    if isinstance(answer, Refusal):
        return answer
    sections: Sections = {
        "task": answer.task,
        "route": answer.route,
        "routes": answer.routes,
        "events": answer.events,
        "events_left_out": answer.events_left_out,
        "why": [],
        "explained": _explained(answer),
    }
    if answer.task.state in ("waiting", "returned"):
        why = await sources.queries.why(AskWhy(task_id=answer.task.task_id))
        if not isinstance(why, Refusal):
            sections["why"] = why.because
    return sections


def _explained(answer: answers.TaskAnswer) -> list[dict[str, Any]]:
    """Say every decision about a task in the sentences of `explain`."""
    events = [logged.event for logged in answer.events]
    submitted = next(
        (each for each in events if isinstance(each, c.TaskSubmitted)), None
    )
    return [
        {"generation": event.generation, "words": list(words(event, submitted))}
        for event in events
        if isinstance(event, c.TaskRouted) and submitted is not None
    ]


async def _fleet(sources: Sources, params: Nothing) -> Sections | Refusal:
    answer = await sources.queries.hosts(AskThen())
    return {
        "hosts": answer.hosts,
        "shared_endpoints": answer.shared_endpoints,
        "models": answer.models,
    }


async def _schedules(sources: Sources, params: Nothing) -> Sections | Refusal:
    answer = await sources.queries.schedules(AskSchedules())
    if isinstance(answer, Refusal):
        return answer
    return {"schedules": answer.schedules}


async def _graph(sources: Sources, params: GraphOf) -> Sections | Refusal:
    answer = await sources.queries.graph(AskGraph(task_id=params.task_id))
    if isinstance(answer, Refusal):
        return answer
    return {"nodes": answer.nodes, "left_out": answer.left_out}


async def _routing(sources: Sources, params: Nothing) -> Sections | Refusal:
    world = sources.runner.world
    stats, in_force = world.stats, world.fleet.in_force
    return {
        "decisions": sources.decisions(),
        "by_tier": stats.decisions_by_tier,
        "by_target": stats.decisions_by_target,
        "fallbacks": stats.fallbacks,
        "hops": stats.hops,
        "waits_avoided": stats.waits_avoided,
        "disagreements": stats.disagreements,
        "first_rounds": mapping.first_rounds(stats),
        "policy": {
            "version": in_force.policy_version,
            "changed_at": in_force.policy_changed_at,
            "by": in_force.policy_by,
            "policy": await _policy(sources),
        },
    }


async def _costs(sources: Sources, params: Money) -> Sections | Refusal:
    sections: Sections = {}
    params = timed(params, time.time())
    try:
        zone = ZoneInfo(params.tz) if params.tz else None
    except (ValueError, OSError, KeyError):
        return refuse("malformed", f"tz: {shown(params.tz)} is no time zone", "tz")
    began = instant(params.since, "since") if params.since else None
    hourly = began is not None and time.time() - began < HOURLY_S
    span = AskCosts(since=params.since, until=params.until, label=params.label)
    unit = "hour" if hourly else "day"
    questions = {
        "lines": params,
        "times": structs.replace(span, by=unit, stack="target"),
        "targets": structs.replace(span, by="target"),
        "fallbacks": structs.replace(span, by="fallback", fallback=True),
    }
    ended = instant(params.until, "until") if params.until else time.time()
    if began is not None and 2 * began > ended:
        # The same length of time before, to compare with; before 1970 nothing was spent.
        earlier = structs.replace(
            questions["targets"],
            since=rfc3339(2 * began - ended),
            until=params.since,
        )
        questions["before"] = earlier
        questions["fallbacks_before"] = structs.replace(
            earlier, by="fallback", fallback=True
        )
    for name, question in questions.items():
        daily = question.by == "day" and zone is not None
        asked = structs.replace(question, by="hour") if daily else question
        answer = await sources.queries.costs(asked)
        lines = answer.lines
        if daily and zone is not None:
            lines = mapping.days_in(zone, lines)
        sections[name] = lines
        if name == "lines":
            sections |= {"by": question.by, "total": answer.total}
    now = time.time()
    today = rfc3339(now)[:10]
    burn = await sources.queries.costs(AskCosts(by="hour", since=rfc3339(now - DAY_S)))
    escalated = await sources.queries.costs(
        AskCosts(by="tier", since=today, fallback=True)
    )
    policy = await _policy(sources)
    sections["burn"] = {
        "hours": burn.lines,
        "escalated_usd": sum(
            line.estimated_cost_usd for line in escalated.lines if line.key == "complex"
        ),
        "budget_usd": policy.get("escalation_budget_usd_per_day"),
        "task_budget_usd": policy.get("max_budget_usd_per_task"),
    }
    sections["prices"] = await _prices(sources)
    return sections


async def _prices(sources: Sources) -> dict[str, Any]:
    """Say by which price list, and against which model, the latest run was priced."""
    answer = await sources.queries.tasks(
        AskTasks(state=["completed", "failed"], sort="-finished", limit=10)
    )
    for row in answer.tasks:
        record = sources.runner.world.tasks.find(row.task_id)
        at = await sources.log.get(record.result_seq) if record is not None else None
        event = at.event if at is not None else None
        result = (
            getattr(event, "result", None) if isinstance(event, c.RunEvent) else None
        )
        if result is not None and result.price_list:
            return {
                "price_list": result.price_list,
                "equivalent_model": result.equivalent_model,
            }
    return {}


TOPICS: Final[dict[str, Topic]] = {
    topic.name: topic
    for topic in (
        Topic("status", Nothing, _status, pause_s=0.2, tick_s=1.0),
        Topic("overview", Nothing, _overview, tick_s=20.0),
        Topic("attention", Nothing, _attention, pause_s=2.0, tick_s=10.0),
        Topic("tails", Nothing, _tails, pause_s=0.2, tick_s=0.3),
        Topic("tasks", Window, _tasks, families=frozenset({"task", "run"})),
        Topic("task", OneTask, _task, families=frozenset({"task", "run"})),
        Topic(
            "schedules",
            Nothing,
            _schedules,
            families=frozenset({"schedule", "task", "run"}),
            pause_s=0.5,
            tick_s=20.0,
        ),
        Topic(
            "graph", GraphOf, _graph, families=frozenset({"task", "run"}), pause_s=0.5
        ),
        Topic("fleet", Nothing, _fleet, pause_s=0.15, tick_s=1.0),
        Topic("routing", Nothing, _routing, pause_s=0.2),
        Topic(
            "costs",
            Money,
            _costs,
            families=frozenset({"task", "run", "policy"}),
            pause_s=0.5,
        ),
    )
}
