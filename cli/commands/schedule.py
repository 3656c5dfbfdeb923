"""Schedules: a task at each time that a cron expression names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args
from zoneinfo import ZoneInfo, available_timezones

import click

from cli.client.connection import answer_to, carried_out, connected, new_id, run
from cli.client.target import on_target
from cli.commands.fleet import tell
from cli.commands.options import Word, json_option
from cli.commands.submit import fields_of, settle_folder, submit
from cli.local.instance import Instance
from cli.render.terminal import (
    EXIT_NOT_FOUND,
    EXIT_OK,
    STATE_STYLE,
    Problem,
    cell,
    console,
    did_you_mean,
    line_of,
    local_time,
    print_json,
    table,
)
from events import catalogue as c
from events.commands import Done
from projections.answers_later import SchedulesAnswer

if TYPE_CHECKING:
    from projections.answers_later import RunRow, ScheduleRow

_NOT_PLANNED: Final = ("wait", "follow", "batch", "key", "attach", "as_json")
LISTED_RUNS: Final = 20


@click.group()
def schedule() -> None:
    """Tasks again and again, at the times that a cron expression names."""


@schedule.command(context_settings={"allow_interspersed_args": True})
@click.argument("name")
@click.argument("cron")
@click.argument("task", nargs=-1, type=click.UNPROCESSED)
@on_target
@click.option(
    "--tz",
    metavar="ZONE",
    help="The time zone of the times, such as Europe/Berlin  [default: this machine's]",
)
@click.option(
    "--missed",
    type=Word(get_args(c.Missed)),
    default="one",
    show_default=True,
    help="What becomes of times at which no scheduler was there: left out, one task for "
    "them all, or all of them.",
)
@click.option(
    "--overlap",
    type=Word(get_args(c.Overlap)),
    default="queue",
    show_default=True,
    help="While the task before is not over: leave the time out, wait, or cancel that.",
)
@json_option
def add(
    name: str,
    cron: str,
    task: tuple[str, ...],
    *,
    tz: str | None,
    missed: str,
    overlap: str,
    as_json: bool,
) -> int:
    """Add the schedule NAME: at each time of CRON submit what stands behind `--`.

    CRON is five fields: minute, hour, day, month, weekday.

    \b
      agentcom schedule add nightly '0 3 * * mon-fri' --tz Europe/Berlin \\
        -- submit --shell 'make test' --repo web
    """
    _check_zone(tz)
    body = {
        "schedule": name,
        "cron": cron,
        "tz": tz or _own_zone(),
        "task": _fields(task),
        "missed": missed,
        "overlap": overlap,
    }
    return run(_planned("add", body, as_json=as_json))


@schedule.command(context_settings={"allow_interspersed_args": True})
@click.argument("name")
@click.argument("task", nargs=-1, type=click.UNPROCESSED)
@on_target
@click.option("--cron", metavar="CRON", help="When, as five fields.")
@click.option("--tz", metavar="ZONE", help="The time zone of the times.")
@click.option(
    "--missed",
    type=Word(get_args(c.Missed)),
    help="What becomes of times at which no scheduler was there: none, the last, all.",
)
@click.option(
    "--overlap",
    type=Word(get_args(c.Overlap)),
    help="While the task before is not over: leave the time out, wait, or cancel that.",
)
@json_option
def change(
    name: str,
    task: tuple[str, ...],
    *,
    cron: str | None,
    tz: str | None,
    missed: str | None,
    overlap: str | None,
    as_json: bool,
) -> int:
    """Change the schedule NAME: what is not named stays as it is.

    What stands behind `--` is its whole new task. A paused schedule stays paused.

    \b
      agentcom schedule change nightly --cron '30 4 * * mon-fri'
      agentcom schedule change nightly -- submit --shell 'make check' --repo web
    """
    rule = {"cron": cron, "tz": tz, "missed": missed, "overlap": overlap}
    body: dict[str, Any] = {k: v for k, v in rule.items() if v is not None}
    if task:
        body["task"] = _fields(task)
    if not body:
        raise click.UsageError(
            "say what changes: --cron, --tz, --missed, --overlap, or -- submit ..."
        )
    _check_zone(tz)
    body["schedule"] = name
    return run(_planned("change", body, as_json=as_json))


def _check_zone(tz: str | None) -> None:
    if tz is not None and not _is_zone(tz):
        meant = did_you_mean(tz, sorted(available_timezones()))
        raise click.UsageError(f"--tz: there is no time zone {tz}.{meant}")


def _fields(task: tuple[str, ...]) -> dict[str, Any]:
    """Read a line of `agentcom submit` as a task's fields."""
    if task[:1] != ("submit",):
        raise click.UsageError("say what it submits behind `--`: -- submit ...")
    params = dict(submit.make_context("submit", list(task[1:])).params)
    for name in _NOT_PLANNED:
        if params.pop(name, None):
            flag = {"batch": "-f", "as_json": "--json"}.get(name, f"--{name}")
            raise click.UsageError(f"submit {flag} does not go with a schedule")
    fields = fields_of(params.pop("text"), {**params, "attach": ()})
    fields.pop("traceparent", None)
    return fields


async def _planned(verb: str, body: dict[str, Any], *, as_json: bool) -> int:
    async with connected() as client:
        if "task" in body:
            await settle_folder(client, body["task"], planned=True)
        done = await client.command(f"schedule.{verb}", body, Done)
        name = {"schedule": body["schedule"], "wait_seq": done.seq or None}
        answer = await client.query("schedules", name, SchedulesAnswer)
    if as_json:
        return print_json(done)
    row = answer.schedules[0]
    words = {"add": " added", "change": " changed"}
    said = words[verb] if done.seq else f": {done.detail}"
    first = f"; next {_when(row.next[0], row.tz)}" if row.next else ""
    click.echo(f"{row.schedule}{said}{first}")
    return EXIT_OK


def _own_zone() -> str:
    """Name this machine's time zone; UTC where it has no name."""
    said = os.environ.get("TZ", "").removeprefix(":")
    try:
        path = str(Path("/etc/localtime").resolve())
    except OSError:
        path = ""
    linked = path.partition("/zoneinfo/")[2]
    return next((zone for zone in (said, linked) if zone and _is_zone(zone)), "UTC")


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return False
    return True


def _when(instant: str, tz: str) -> str:
    """Write a planned time as clocks show it in its schedule's zone."""
    return local_time(instant, ZoneInfo(tz)) if _is_zone(tz) else instant


@schedule.command(name="list")
@on_target
@json_option
def list_schedules(*, as_json: bool) -> int:
    """List the schedules, with the next time of each."""
    answer = answer_to("schedules", {}, SchedulesAnswer)
    if as_json:
        return print_json(answer)
    if not answer.schedules:
        click.echo("no schedules; `agentcom schedule add --help` says how to make one")
        return EXIT_OK
    rows = table(
        ("schedule", "times", "zone", "next", "last", "fired", "skipped", "task"),
        right=("fired", "skipped"),
        elastic=("task",),
    )
    for row in answer.schedules:
        last = row.runs[0] if row.runs else None
        rows.add_row(
            cell(row.schedule),
            cell(row.cron),
            cell(row.tz),
            cell(_next(row), style="yellow" if row.paused else ""),
            cell((last.state or last.what) if last else "", style=_style(last)),
            str(row.fired),
            str(row.skipped),
            cell(row.description, 60),
        )
    console().print(rows)
    return EXIT_OK


def _next(row: ScheduleRow) -> str:
    if row.paused:
        return "paused" + (f" ({row.paused_for})" if row.paused_for else "")
    return _when(row.next[0], row.tz) if row.next else "never"


def _style(run: RunRow | None) -> str:
    return STATE_STYLE.get(run.state, "") if run is not None else ""


@schedule.command()
@click.argument("name")
@on_target
@json_option
def show(name: str, *, as_json: bool) -> int:
    """Show the schedule NAME: its rules, its next ten times, its last runs."""
    answer = answer_to("schedules", {"schedule": name}, SchedulesAnswer)
    if as_json:
        return print_json(answer)
    if not answer.schedules:
        raise Problem(f"there is no schedule {name}", EXIT_NOT_FOUND)
    row, screen = answer.schedules[0], console()
    screen.print(line_of(f"{row.schedule}: {row.cron} ({row.tz})"), style="bold")
    screen.print(f"submits    {line_of(row.description)} ({row.tier})")
    screen.print(f"missed     {row.missed}; overlap {row.overlap}")
    screen.print(f"so far     {row.fired} fired, {row.skipped} left out")
    if row.changed_at:
        by = line_of(Instance().role_of(row.changed_by))
        screen.print(f"changed    {local_time(row.changed_at)} by {by}")
    if row.paused:
        screen.print(line_of(_next(row)), style="yellow")
    for n, each in enumerate(row.next):
        screen.print(f"{'next' if not n else '':<10} {_when(each, row.tz)}")
    runs = table(("time", "what", "task"))
    for past in row.runs[:LISTED_RUNS]:
        many = f" ({past.count})" if past.count > 1 else ""
        what = past.state or f"left out: {past.what}{many}"
        runs.add_row(
            cell(_when(past.planned, row.tz)),
            cell(what, style=_style(past)),
            cell(past.task_id),
        )
    if runs.row_count:
        screen.print(runs)
    return EXIT_OK


@schedule.command()
@click.argument("name")
@on_target
@click.option("--reason", default="", help="Kept in the log.")
@json_option
def pause(name: str, *, reason: str, as_json: bool) -> int:
    """Let the schedule NAME fire no more, until it is resumed."""
    body = {"schedule": name, "reason": reason}
    return tell("schedule.pause", body, f"{name} is paused", as_json=as_json)


@schedule.command()
@click.argument("name")
@on_target
@json_option
def resume(name: str, *, as_json: bool) -> int:
    """Let the schedule NAME fire again; what was planned meanwhile is left out."""
    body = {"schedule": name}
    return tell("schedule.resume", body, f"{name} goes on", as_json=as_json)


@schedule.command()
@click.argument("name")
@on_target
@json_option
def remove(name: str, *, as_json: bool) -> int:
    """Take the schedule NAME away; tasks that it has submitted stay."""
    body = {"schedule": name}
    return tell("schedule.remove", body, f"{name} removed", as_json=as_json)


@schedule.command(name="run")
@click.argument("name")
@on_target
@json_option
def run_now(name: str, *, as_json: bool) -> int:
    """Submit the task of the schedule NAME now, and print its id."""
    done = carried_out("schedule.run", {"schedule": name, "id": new_id()}, Done)
    if as_json:
        return print_json(done)
    click.echo(done.task_id)
    return EXIT_OK
