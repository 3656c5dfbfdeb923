"""What wants a person: the one list that page, command line and metrics show.

A row is about one cause, however many tasks it holds up, and says which filter lists
them and what one may do. What is over is no row any more: the fleet and the tasks say
what there is, nothing is remembered here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from events.codec import rfc3339
from events.filters import TaskFilter
from events.lifecycle import TIER_KINDS
from projections.answers import AttentionAnswer, AttentionRow, Severity
from projections.record import NANO
from projections.tiers import (
    LIVING,
    condition,
    has_model,
    instant_of,
    models_of,
    unmet_need,
    view_at,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from projections.fleet import FleetState
    from projections.runner import Runner
    from projections.stats import StatsState
    from projections.world import World

FAILED_WITHIN_S: Final = 3_600.0
"""Failures are shown for so long."""
STEP_S: Final = 10.0
GROUPS: Final = 50
"""So many causes of one kind are told apart."""
NEARLY: Final = 0.8
"""The part of a budget from which on it is nearly spent."""
LONG_WAIT_S: Final = 30.0
"""No shorter wait is called a long one."""
USUAL_FROM: Final = 20
"""So many waits must be known before one is called usual."""
_FAILED: Final = ("failed", "expired")
_ORDER: Final = {"error": 0, "warning": 1, "info": 2}


def step_of(now: float) -> float:
    """Take a time by tens of seconds, so that the same causes make the same rows."""
    return now // STEP_S * STEP_S


async def find(runner: Runner, now: float) -> AttentionAnswer:
    """Look at what a runner has folded; `now` in epoch seconds."""
    question = look(
        rfc3339(now - FAILED_WITHIN_S),
        rfc3339(now)[:10],
        long_before(runner.world.stats, now),
    )
    runner.save()
    scan = await runner.store.look(question)
    return answer(runner.world, scan, now)


class EndedGroup(NamedTuple):
    """Tasks that ended alike: how many, when the first and the last of them did."""

    state: str
    error_code: str
    line: str
    tasks: int
    first: str
    last: str


class WaitingGroup(NamedTuple):
    """Tasks that wait for the same. `long` of them do so for longer than is usual."""

    tier: str
    host: str
    model: str
    needs: str
    tasks: int
    first: str
    long: int


class Found(NamedTuple):
    """What the store knows of tasks that may want a person.

    `escalated_usd` is what today's runs off their tier on complex have cost.
    """

    failed: list[EndedGroup]
    dead: list[EndedGroup]
    waiting: list[WaitingGroup]
    escalated_usd: float


_FIRST_LINE: Final = "substr(error, 1, instr(error || char(10), char(10)) - 1)"


def look(
    since: str, today: str, long_before: Mapping[str, str]
) -> Callable[[sqlite3.Connection], Found]:
    """Ask the store: what failed from `since` on, what is dead, what waits and for what.

    `today` is the day, in UTC, whose escalations are summed up.
    `long_before` says for each tier when a task must have been submitted to wait long.
    """
    groups = (
        f"select state, error_code, {_FIRST_LINE}, count(*), min(at), max(at) from task "
        "where state in ({}) and at >= ? group by 1, 2, 3 "
        f"order by 4 desc limit {GROUPS}"
    )
    of_tier = " ".join("when ? then ?" for _ in long_before)
    bound = f"case tier {of_tier} else '' end" if of_tier else "''"
    waiting = (
        f"select tier, host, model, needs, count(*), min(at), sum(at < {bound}) "
        "from task where state = 'waiting' and not held group by 1, 2, 3, 4 "
        f"order by 5 desc limit {GROUPS * 4}"
    )
    bounds = [value for pair in long_before.items() for value in pair]

    def ask(connection: sqlite3.Connection) -> Found:
        def failed(states: tuple[str, ...], since: str) -> list[EndedGroup]:
            query = groups.format(",".join("?" * len(states)))
            return [
                EndedGroup(*row) for row in connection.execute(query, (*states, since))
            ]

        return Found(
            failed(_FAILED, since),
            failed(("dead",), ""),
            [WaitingGroup(*row) for row in connection.execute(waiting, bounds)],
            connection.execute(
                "select total(usd_nano) from spend "
                "where hour >= ? and tier = 'complex' and fallback <> ''",
                (today,),
            ).fetchone()[0]
            / NANO,
        )

    return ask


def long_before(stats: StatsState, now: float) -> dict[str, str]:
    """Say for each tier when a task was submitted that waits longer than 95 in 100 did."""
    return {
        tier: rfc3339(now - max(p95 / 1_000, LONG_WAIT_S))
        for tier, waits in stats.wait_ms.items()
        if waits.n >= USUAL_FROM and (p95 := waits.quantile(0.95)) is not None
    }


def answer(world: World, scan: Found, now: float) -> AttentionAnswer:
    """Make the list, the worst first; `now` in epoch seconds."""
    rows = [
        *_hosts(world.fleet),
        *_alerts(world.fleet),
        *_endpoints(world.fleet),
        *_tiers(world, now),
        *_budget(world.fleet, scan.escalated_usd, now),
        *_stuck(world.fleet, scan.waiting),
        *_long(world, scan.waiting, now),
        *_failures(scan.failed, rfc3339(now - FAILED_WITHIN_S)),
        *_dead(scan.dead),
    ]
    rows.sort(key=lambda row: _ORDER[row.severity])
    return AttentionAnswer(
        seq=world.position,
        errors=sum(row.severity == "error" for row in rows),
        warnings=sum(row.severity == "warning" for row in rows),
        rows=rows,
    )


# -- hosts, endpoints, tiers -----------------------------------------------------------


def _hosts(fleet: FleetState) -> Iterator[AttentionRow]:
    for host in fleet.hosts.values():
        if host.state == "lost":
            reason = f": {host.reason}" if host.reason else ""
            yield AttentionRow(
                key=f"host_lost/{host.host}",
                kind="host_lost",
                severity="error",
                sentence=f"Host {host.host} is lost{reason}.",
                since=host.since,
                host=host.host,
                action="open_host",
                label="Open host",
            )


def _alerts(fleet: FleetState) -> Iterator[AttentionRow]:
    """Yield what hosts are unwell with; a tier's alerts are in the row of the tier."""
    for alert in fleet.active_alerts:
        if alert.host:
            retired = alert.code == "claude_model"
            yield AttentionRow(
                key=f"host_alert/{alert.host}/{alert.code}",
                kind="model_retired" if retired else "host_alert",
                severity="warning",
                sentence=f"Host {alert.host}: {alert.reason}",
                since=alert.raised_at,
                host=alert.host,
                action="open_host",
                label="Open host",
            )


def _endpoints(fleet: FleetState) -> Iterator[AttentionRow]:
    alerted = {a.host for a in fleet.active_alerts if a.code == "claude_model"}
    for host in fleet.hosts.values():
        if host.state not in LIVING:
            continue
        for endpoint in host.endpoints.values():
            where = f"{endpoint.endpoint} on {host.host}"
            about: Any = {
                "severity": "warning",
                "host": host.host,
                "since": endpoint.since,
                "action": "open_host",
                "label": "Open host",
            }
            if not endpoint.up:
                reason = f": {endpoint.reason}" if endpoint.reason else ""
                yield AttentionRow(
                    key=f"endpoint_down/{host.host}/{endpoint.endpoint}",
                    kind="endpoint_down",
                    sentence=f"{where} is down{reason}.",
                    **about,
                )
            if endpoint.notice and host.host not in alerted:
                yield AttentionRow(
                    key=f"model_retired/{host.host}/{endpoint.endpoint}",
                    kind="model_retired",
                    sentence=f"{where}: {endpoint.notice}",
                    **about,
                )


def _tiers(world: World, now: float) -> Iterator[AttentionRow]:
    fleet = world.fleet
    for tier in TIER_KINDS:
        waiting = sum(len(q) for (of, _), q in world.queue.lanes.items() if of == tier)
        stands, view = condition(fleet, tier, now), view_at(fleet, tier, now)
        if stands == "up" or (stands == "absent" and not waiting):
            continue
        reason = f": {view.reason}" if view.reason and stands != "absent" else ""
        wait = f" {_tasks(waiting, 'waits', 'wait')} for it." if waiting else ""
        alert = next((a for a in fleet.active_alerts if a.tier == tier), None)
        row = AttentionRow(
            key=f"tier_{stands}/{tier}",
            kind=f"tier_{stands}",
            severity="warning" if stands == "limited" else "error",
            sentence=f"The {tier} tier {_STANDS[stands]}{reason}.{wait}",
            since="" if stands == "absent" else view.since,
            until=(view.until or "") if stands == "limited" else "",
            count=waiting,
            filter=_waiting(tier=tier) if waiting else None,
            tier=tier,
        )
        if stands == "limited":
            row.action, row.label = "clear_limit", "Use it again"
        elif alert is not None and alert.acknowledged_at is None:
            row.action, row.label = "acknowledge", "Acknowledge"
        yield row


def _budget(fleet: FleetState, spent: float, now: float) -> Iterator[AttentionRow]:
    """Yield the day's budget for escalations, where it is spent or soon will be."""
    budget = fleet.in_force.escalation_budget_usd
    if budget is None or spent < budget * NEARLY or not spent:
        return
    over = spent >= budget
    then = "no task goes to complex off its tier before midnight, UTC" if over else ""
    sum_up = f"${spent:.2f} of today's ${budget:.2f} for escalations are spent"
    yield AttentionRow(
        key="budget/escalations",
        kind="budget",
        severity="error" if over else "warning",
        sentence=f"{sum_up}: {then}." if then else f"{sum_up}.",
        since=f"{rfc3339(now)[:10]}T00:00:00.000000Z",
        tier="complex",
    )


_STANDS: Final = {
    "down": "is down",
    "limited": "is limited",
    "absent": "is offered by no host",
}


# -- tasks that wait -------------------------------------------------------------------


class _Lack(NamedTuple):
    """What is missing for tasks that wait: which part of a filter names it, and words."""

    part: str
    value: str
    words: str
    severity: Severity = "error"


def _stuck(
    fleet: FleetState, waiting: Iterable[WaitingGroup]
) -> Iterator[AttentionRow]:
    """Yield what nobody can run, by what is missing."""
    groups: dict[_Lack, list[WaitingGroup]] = {}
    for group in waiting:
        lack = _lack(fleet, group)
        if lack is not None:
            groups.setdefault(lack, []).append(group)
    for lack, stuck in groups.items():
        count = sum(group.tasks for group in stuck)
        yield AttentionRow(
            key=f"stuck/{lack.part}/{lack.value}",
            kind="stuck",
            severity=lack.severity,
            sentence=f"{_tasks(count, 'waits', 'wait')} for {lack.words}.",
            since=min(group.first for group in stuck),
            count=count,
            filter=_waiting(**{lack.part: lack.value}),
            host=lack.value if lack.part == "host" else "",
            action="cancel",
            label=f"Cancel {'it' if count == 1 else f'all {count:,}'}",
        )


def _lack(fleet: FleetState, group: WaitingGroup) -> _Lack | None:
    """Return what no host has that these tasks need; None where one may run them."""
    able = [host for host in fleet.hosts.values() if host.state in LIVING]
    if group.host:
        host = fleet.hosts.get(group.host)
        if host is None:
            why = "which has never joined"
            return _Lack("host", group.host, f"host {group.host}, {why}")
        if host.state not in LIVING:
            state = "is lost" if host.state == "lost" else "has left"
            return _Lack("host", group.host, f"host {group.host}, which {state}")
        able = [host]
    if need := unmet_need(able, group.needs.split()):
        where = f"{group.host} does not offer" if group.host else "no host offers"
        return _Lack("need", need, f"{need}, which {where}")
    if group.model and group.tier == "standard":
        some = next(models_of(fleet, "standard"), None)
        if some is not None and not has_model(fleet, "standard", group.model):
            return _Lack(
                "model", group.model, f"the model {group.model}, which nobody has"
            )
    return None


def _waiting(**fields: Any) -> TaskFilter:
    return TaskFilter(state=["waiting"], **fields)


def _long(
    world: World, waiting: Iterable[WaitingGroup], now: float
) -> Iterator[AttentionRow]:
    """Yield the tiers that could run what waits there, and let it wait for long."""
    bounds = long_before(world.stats, now)
    for tier, bound in bounds.items():
        groups = [group for group in waiting if group.tier == tier]
        able = [group for group in groups if _lack(world.fleet, group) is None]
        count = sum(group.long for group in groups)
        if not any(group.long for group in able):
            continue
        if condition(world.fleet, tier, now) != "up":
            continue
        span = _span(now - instant_of(bound))
        yield AttentionRow(
            key=f"long_wait/{tier}",
            kind="long_wait",
            severity="warning",
            sentence=f"{_tasks(count, 'has', 'have')} waited in the {tier} tier for "
            f"more than {span}, longer than 95 in 100 do.",
            since=min(group.first for group in able if group.long),
            count=count,
            filter=_waiting(tier=tier, until=bound),
            tier=tier,
        )


# -- tasks that ended badly ------------------------------------------------------------


def _failures(groups: Iterable[EndedGroup], since: str) -> Iterator[AttentionRow]:
    for group in groups:
        ended = "expired" if group.state == "expired" else "failed"
        yield _ended(
            group,
            kind="failures",
            severity="warning",
            sentence=f"{_tasks(group.tasks)} {ended} in the last hour: {_cause(group)}",
            since=since,
        )


def _dead(groups: Iterable[EndedGroup]) -> Iterator[AttentionRow]:
    for group in groups:
        sentence = f"{_tasks(group.tasks, 'is', 'are')} dead: {_cause(group)}"
        yield _ended(group, kind="dead", severity="error", sentence=sentence, since="")


def _ended(
    group: EndedGroup, *, kind: str, severity: Severity, sentence: str, since: str
) -> AttentionRow:
    chosen = TaskFilter(
        state=[group.state],  # type: ignore[list-item]
        error_code=group.error_code,
        error=group.line[:1_000],
        since=since,
    )
    count = group.tasks
    return AttentionRow(
        key=f"{kind}/{group.state}/{group.error_code}/{group.line[:100]}",
        kind=kind,
        severity=severity,
        sentence=sentence,
        since=group.first,
        last=group.last,
        count=count,
        filter=chosen,
        action="retry",
        label=f"Retry {'it' if count == 1 else f'all {count:,}'}",
    )


def _cause(group: EndedGroup) -> str:
    line = group.line[:200]
    if not line:
        return f"{group.error_code or 'nobody said why'}."
    return line if not group.error_code else f"{line} ({group.error_code[:80]})"


def _tasks(count: int, one: str = "", many: str = "") -> str:
    words = "1 task" if count == 1 else f"{count:,} tasks"
    verb = one if count == 1 else many
    return f"{words} {verb}".rstrip()


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"
