"""What the read models add up to: costs, stats, alerts, dead letters, why a task waits."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from cli.client.completing import ids
from cli.client.connection import PAST_S, answer_to
from cli.client.spans import point_option, time_option
from cli.client.target import on_target
from cli.commands.filters import label_option
from cli.commands.options import Between, json_option
from cli.local.instance import Instance
from cli.render.costs import cost_table
from cli.render.terminal import (
    EXIT_OK,
    TIER_STYLE,
    age,
    cell,
    console,
    dollars,
    duration,
    line_of,
    local,
    local_time,
    print_json,
    table,
    utc_now,
)
from projections.answers import (
    AlertsAnswer,
    CostLine,
    CostsAnswer,
    StatsAnswer,
    TasksAnswer,
    WhyAnswer,
)
from projections.search import BY_LABEL, DIMENSIONS

if TYPE_CHECKING:
    from rich.console import Console

# -- costs -----------------------------------------------------------------------------


@click.command()
@on_target
@click.option(
    "--by",
    default="model",
    show_default=True,
    metavar="WHAT",
    help=f"{', '.join(DIMENSIONS)}, or {BY_LABEL}.",
)
@label_option
@time_option("--since", "7d, today, 2026-01-31, or RFC 3339; taken by the hour.")
@time_option("--until", "The same; that hour is left out.")
@click.option(
    "--fallback/--no-fallback",
    default=None,
    help="Only runs that were, or were not, off their preferred tier.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
def costs(
    *,
    by: str,
    since: str,
    until: str,
    label: tuple[str, ...],
    fallback: bool | None,
    as_csv: bool,
    as_json: bool,
) -> int:
    """Show tokens and dollars, and what the local work would have cost on Claude.

    `--by fallback` shows what each outage has cost, `--by day --fallback` what fallbacks
    cost over time, `--by label:team` what each team has.
    """
    # Days and hours are UTC's to a program, and the person's own on the screen.
    here = by in ("day", "hour") and not (as_csv or as_json)
    filters: dict[str, Any] = {"since": since, "until": until, "label": list(label)}
    question = {name: value for name, value in filters.items() if value}
    question["by"] = "hour" if here else by
    if fallback is not None:
        question["fallback"] = fallback
    answer = answer_to("costs", question, CostsAnswer)
    if as_json:
        return print_json(answer)
    if as_csv:
        click.echo(cost_csv(answer), nl=False)
        return EXIT_OK
    if here:
        answer = in_this_zone(answer, by)
    if answer.by == "submitter":
        role_of = Instance().role_of
        answer.lines = [
            msgspec.structs.replace(line, key=role_of(line.key))
            for line in answer.lines
        ]
    console().print(cost_table(answer))
    total = answer.total
    console().print(
        f"saved against Claude: {dollars(total.saved_usd)} (an estimate: "
        "what the same tokens would have cost there, less what was paid)",
        style="green" if total.saved_usd > 0 else "dim",
    )
    return EXIT_OK


def in_this_zone(answer: CostsAnswer, by: str) -> CostsAnswer:
    """Add up a bill by UTC's hours to days (or hours) of the zone where this runs."""
    from projections.mapping import summed

    form = "%Y-%m-%d" if by == "day" else "%Y-%m-%d %H:%M"
    lines: dict[str, list[CostLine]] = {}
    for line in answer.lines:
        then = datetime.fromisoformat(f"{line.key}:00:00+00:00").astimezone()
        lines.setdefault(then.strftime(f"{form} %Z"), []).append(line)
    answer.by = by
    answer.lines = [summed(each, key) for key, each in lines.items()]
    return answer


def cost_csv(answer: CostsAnswer) -> str:
    """Write the lines of the bill as CSV, without the sum."""
    out = io.StringIO()
    names = CostLine.__struct_fields__
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([answer.by, *names[1:]])
    for line in answer.lines:
        writer.writerow([_inert(line.key), *(getattr(line, n) for n in names[1:])])
    return out.getvalue()


def _inert(text: str) -> str:
    """Keep a spreadsheet from taking what a task or model is called for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


# -- stats -----------------------------------------------------------------------------


@click.command()
@on_target
@point_option("--at", "As it was then.")
@json_option
def stats(*, at: int | str | None, as_json: bool) -> int:
    """Show counts and durations: tasks, decisions, fallbacks, waits, runs, dollars.

    Decisions are counted, not attempts. A disagreement is a task whose submitter named
    another tier than its wording suggests.
    """
    question = {} if at is None else {"at": at}
    answer = answer_to("stats", question, StatsAnswer, timeout=PAST_S)
    if as_json:
        return print_json(answer)
    screen = console()
    _counts(screen, "tasks", answer.states)
    _counts(screen, "decisions by tier", answer.decisions_by_tier)
    _counts(screen, "decisions by target", answer.decisions_by_target)
    _counts(screen, "fallbacks", answer.fallbacks_by_hop)
    if answer.waits_avoided:
        screen.print(f"waits that a fallback was spared by: {answer.waits_avoided}")
    _counts(screen, "disagreements, named/inferred", answer.disagreements)
    for each in answer.first_rounds:
        rounds = each.passed + each.failed
        share = f"{each.passed} of {rounds} ({each.passed / rounds:.0%})"
        screen.print(
            line_of(f"verified at the first round, {each.tier} {each.model}: {share}")
        )
    _durations(screen, answer)
    screen.print(
        f"spent {dollars(answer.estimated_cost_usd)}, saved {dollars(answer.saved_usd)} "
        f"against Claude  (as of sequence {answer.seq})",
        style="dim",
    )
    return EXIT_OK


def _counts(screen: Console, name: str, counts: dict[str, int]) -> None:
    figures = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    screen.print(line_of(f"{name}: {figures or 'none'}"))


def _durations(screen: Console, answer: StatsAnswer) -> None:
    columns = ("n", "mean", "p50", "p95", "p99")
    rows = table(("", "tier", *columns), right=columns)
    for what, by_tier in (("waited", answer.wait), ("ran", answer.run)):
        for tier, each in sorted(by_tier.items()):
            rows.add_row(
                what,
                cell(tier, style=TIER_STYLE.get(tier, "")),
                str(each.n),
                duration(each.mean_ms),
                *(duration(ms) for ms in (each.p50_ms, each.p95_ms, each.p99_ms)),
            )
    if rows.row_count:
        screen.print(rows)


# -- alerts, dead letters, why ---------------------------------------------------------


@click.command()
@on_target
@point_option("--at", "As it was then.")
@json_option
def alerts(*, at: int | str | None, as_json: bool) -> int:
    """List alerts, active ones first: tiers down for too long, hosts that are unwell."""
    question = {} if at is None else {"at": at}
    answer = answer_to("alerts", question, AlertsAnswer, timeout=PAST_S)
    if as_json:
        return print_json(answer)
    if not answer.alerts:
        click.echo("no alerts")
        return EXIT_OK
    role_of = Instance().role_of
    rows = table(("about", "state", "raised", "down", "seen by", "reason"))
    for each in sorted(answer.alerts, key=lambda alert: alert.cleared_at is not None):
        active = each.cleared_at is None
        rows.add_row(
            cell(each.tier or each.host, style=TIER_STYLE.get(each.tier, "")),
            cell("active" if active else "cleared", style="red" if active else "dim"),
            cell(local_time(each.raised_at)),
            duration(each.down_s * 1_000),
            cell(role_of(each.acknowledged_by)),
            cell(local(each.reason), 80),
        )
    console().print(rows)
    return EXIT_OK


@click.command()
@on_target
@click.option("--limit", type=Between(1, 500), default=50, show_default=True)
@json_option
def dead(*, limit: int, as_json: bool) -> int:
    """List dead letters: tasks whose attempts are used up, with the last reason.

    `agentcom retry ID` tries one anew.
    """
    question = {"state": ["dead"], "sort": "-finished", "limit": limit}
    answer = answer_to("tasks", question, TasksAnswer)
    if as_json:
        return print_json(answer)
    if not answer.tasks:
        click.echo("no dead letters")
        return EXIT_OK
    now = utc_now()
    rows = table(
        ("id", "tries", "died", "cost", "why", "task"),
        right=("tries", "died", "cost"),
        elastic=("why", "task"),
    )
    for row in answer.tasks:
        rows.add_row(
            cell(row.task_id),
            str(row.attempts),
            age(row.finished_at, now),
            dollars(row.estimated_cost_usd),
            cell(local(row.error.message) if row.error else "", 80, style="red"),
            cell(row.description, 60),
        )
    console().print(rows)
    if answer.total > len(answer.tasks):
        click.echo(f"{len(answer.tasks)} of {answer.total}")
    return EXIT_OK


@click.command("why-waiting")
@click.argument("task_id", metavar="ID", shell_complete=ids("waiting"))
@on_target
@json_option
def why_waiting(task_id: str, *, as_json: bool) -> int:
    """Say what the task ID waits for."""
    answer = answer_to("why", {"task_id": task_id}, WhyAnswer)
    if as_json:
        return print_json(answer)
    since = f" since {local_time(answer.waiting_since)}" if answer.waiting_since else ""
    waits = answer.state == "waiting"
    click.echo(line_of(f"{answer.task_id} is {answer.state}{since if waits else ''}"))
    for sentence in answer.because:
        click.echo(f"  {line_of(local(sentence))}")
    if waits and not answer.because:
        click.echo("  Nothing stands in its way: it is about to be routed.")
    return EXIT_OK
