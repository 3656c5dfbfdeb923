"""The past for people: the queue, fleet or task as it was, and what would have been."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.render.fleet import host_notes, tier_state
from cli.render.terminal import (
    STATE_STYLE,
    TIER_STYLE,
    cell,
    dollars,
    duration,
    line_of,
    local,
    local_time,
    table,
)

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.reprice import RepriceAnswer, Repriced
    from projections.answers import HostsAnswer, QueueAnswer, TaskAnswer
    from projections.answers_whatif import WhatIfAnswer


def show_queue(screen: Console, answer: QueueAnswer) -> None:
    lanes = table(
        ("tier", "priority", "waiting", "oldest", "since"), right=("waiting",)
    )
    for lane in answer.lanes:
        lanes.add_row(
            cell(lane.tier, style=TIER_STYLE.get(lane.tier, "")),
            cell(lane.priority),
            str(lane.waiting),
            cell(lane.oldest.task_id if lane.oldest else ""),
            cell(local_time(lane.oldest.waiting_since) if lane.oldest else ""),
        )
    if lanes.row_count:
        screen.print(lanes)
    else:
        screen.print("nobody waits")
    if answer.held:
        screen.print(f"held, outside the queue: {answer.held}")
    under_way = ", ".join(f"{n} {what}" for what, n in answer.under_way.items())
    screen.print(line_of(f"under way: {under_way or 'none'}"))
    for row in answer.running:
        where = row.endpoint or row.host
        screen.print(
            line_of(f"  {row.task_id}  {row.state:<10} {where}  {row.description}", 160)
        )


def show_hosts(screen: Console, answer: HostsAnswer) -> None:
    hosts = table(
        ("host", "state", "since", "running", "endpoints"), right=("running",)
    )
    for row in answer.hosts:
        endpoints = ", ".join(
            f"{each.endpoint} {'up' if each.up else 'down'}"
            + (f" ({', '.join(each.loaded)})" if each.loaded else "")
            for each in row.endpoints
        )
        hosts.add_row(
            cell(row.host, style="bold"),
            cell(row.state, style=STATE_STYLE.get(row.state, "")),
            cell(local_time(row.since)),
            str(row.in_flight),
            cell(endpoints, 120),
        )
    if hosts.row_count:
        screen.print(hosts)
        for note in host_notes(answer.hosts):
            screen.print(note, style="yellow", soft_wrap=True)
    else:
        screen.print("no hosts")
    for tier in answer.tiers:
        state = tier_state(tier, local_time)
        screen.print(
            line_of(f"{tier.tier:<10}{state}"),
            style=TIER_STYLE.get(tier.tier, ""),
        )


def show_past_task(screen: Console, answer: TaskAnswer) -> None:
    task = answer.task
    screen.print(line_of(f"{task.task_id}  {task.state}"), style="bold")
    screen.print(line_of(f"{task.tier}, {task.priority}: {task.description}", 200))
    if task.waiting_for:
        screen.print(line_of(f"waits for {local(task.waiting_for)}"), style="yellow")
    for each in answer.routes:
        where = each.endpoint or each.host
        screen.print(
            line_of(
                f"  {each.generation}. {where} {each.outcome} {local(each.reason)} "
                f"{duration(each.execution_ms)}"
            )
        )
    screen.print(f"cost so far {dollars(task.estimated_cost_usd)}", style="dim")


def show_whatif(screen: Console, answer: WhatIfAnswer) -> None:
    """Show what would have been."""
    screen.print(
        f"{answer.decisions} decisions from sequence {answer.from_seq} to "
        f"{answer.to_seq}, against policy {answer.policy_version}"
    )
    screen.print(line_of(f"different: {', '.join(answer.differences) or 'nothing'}"))
    screen.print(
        f"check: {answer.reproduced} come out as recorded under the policy of their time, "
        f"{answer.not_reproduced} do not",
        style="red" if answer.not_reproduced else "dim",
    )
    sums = table(("", "then", "would be"), right=("then", "would be"))
    sums.add_row("fallbacks", str(answer.fallbacks), str(answer.fallbacks_then))
    sums.add_row(
        "waits for a tier", f"{answer.waited_s:.1f} s", f"{answer.waited_s_then:.1f} s"
    )
    sums.add_row(
        "dollars",
        dollars(answer.estimated_cost_usd),
        f"~{dollars(answer.estimated_cost_usd_then)}",
    )
    if answer.tier_changes > answer.passes_unknown:
        sums.add_row(
            f"pass at the first round, of {answer.tier_changes - answer.passes_unknown} "
            "that change tier",
            f"~{answer.passes:.1f}",
            f"~{answer.passes_then:.1f}",
        )
    screen.print(sums)
    total = sum(answer.changed.values())
    kinds = ", ".join(f"{n} {what}" for what, n in answer.changed.items())
    screen.print(line_of(f"changed: {total}{f' ({kinds})' if kinds else ''}"))
    _places(screen, answer)
    _changes(screen, answer)
    for reason, count in answer.stays.items():
        screen.print(
            line_of(f"not decided for {count}: {local(reason)}"), style="yellow"
        )
    if answer.estimated_decisions or answer.unknown_dollars:
        screen.print(
            f"dollars of {answer.estimated_decisions} decisions are estimates, those of "
            f"{answer.unknown_dollars} are not known and count as nothing",
            style="yellow",
        )
    if answer.passes_unknown:
        screen.print(
            f"whether {answer.passes_unknown} of the {answer.tier_changes} that change "
            "tier pass at the first round is not known",
            style="yellow",
        )
    for sentence in answer.said:
        screen.print(line_of(local(sentence)), style="dim")


def _places(screen: Console, answer: WhatIfAnswer) -> None:
    names = sorted({*answer.by_place, *answer.by_place_then})
    moved = [
        (name, answer.by_place.get(name, 0), answer.by_place_then.get(name, 0))
        for name in names
    ]
    moved = [line for line in moved if line[1] != line[2]]
    if not moved:
        screen.print("places: the same numbers of decisions as then", style="dim")
        return
    places = table(("place", "then", "would be"), right=("then", "would be"))
    for name, was, then in moved:
        places.add_row(cell(name, 60), str(was), str(then))
    screen.print(places)


def _changes(screen: Console, answer: WhatIfAnswer) -> None:
    if not answer.changes:
        return
    changes = table(
        ("seq", "task", "what", "was", "would be", "cost", "would cost", "why"),
        right=("seq", "cost", "would cost"),
        elastic=("was", "would be", "why"),
    )
    for each in answer.changes:
        changes.add_row(
            str(each.seq),
            cell(each.task_id),
            cell(each.what.replace("_", " ")),
            cell(each.was, 48),
            cell(each.then or "not known", 48),
            dollars(each.usd),
            dollars(each.usd_then),
            cell(local(each.why), 80),
        )
    screen.print(changes)
    if answer.changes_left_out:
        screen.print(f"and {answer.changes_left_out} more: --limit", style="dim")


def show_repriced(screen: Console, answer: RepriceAnswer) -> None:
    numbers = ("runs", "booked", "by this list", "on Claude", "on Claude by this list")
    bill = table((answer.by, *numbers), right=numbers)

    def cells(line: Repriced) -> list[Any]:
        unknown = f" + {line.unpriced} unknown" if line.unpriced else ""
        return [
            cell(line.key or "none", 40),
            str(line.runs),
            dollars(line.estimated_cost_usd),
            dollars(line.estimated_cost_usd_then) + unknown,
            dollars(line.equivalent_usd),
            dollars(line.equivalent_usd_then),
        ]

    for line in answer.lines:
        bill.add_row(*cells(line))
    bill.add_section()
    bill.add_row(*cells(answer.total), style="bold")
    screen.print(bill)
    booked = ", ".join(f"{name} ({n} runs)" for name, n in answer.booked_lists.items())
    screen.print(
        line_of(
            f"this list: {answer.price_list}; booked by: {booked or 'no list'}. "
            "What is booked stays booked; this is an estimate from each run's tokens."
        ),
        style="dim",
    )
