"""Looking at tasks and steering them: tasks, task, logs, cancel, retry."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from cli.client.connection import Refused, Session, connected, run
from cli.client.target import on_target
from cli.commands.filters import filter_of, filter_options
from cli.commands.options import json_option
from cli.local.instance import Instance
from cli.render.tasks import show_task, task_table, tasks_footer
from cli.render.terminal import (
    EXIT_INTERRUPTED,
    EXIT_NOT_FOUND,
    EXIT_OK,
    Problem,
    console,
    line_of,
    utc_now,
)
from events import subjects
from events.chunks import gaps
from events.codec import encode
from events.commands import Done
from projections.answers import HostsAnswer, TaskAnswer, TasksAnswer, WhyAnswer
from projections.search import SORTS

if TYPE_CHECKING:
    from projections.answers import TaskDetail

_ID = click.argument("task_id", metavar="ID")
_IDS = click.argument("task_ids", metavar="ID...", nargs=-1, required=True)


# -- tasks -----------------------------------------------------------------------------


@click.command()
@on_target
@filter_options
@click.option(
    "--sort",
    default="-submitted",
    show_default=True,
    type=click.Choice([f"{sign}{name}" for name in SORTS for sign in ("", "-")]),
    metavar="[-]FIELD",
    help=", ".join(SORTS),
)
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0)
@click.option("--watch", is_flag=True, help="Keep it up to date until Ctrl-C.")
@json_option
def tasks(*, watch: bool, as_json: bool, **asked: Any) -> int:
    """List tasks, the newest first."""
    page = {name: asked[name] for name in ("sort", "limit", "offset")}
    question = filter_of(asked) | page
    if watch and not as_json:
        try:
            return run(_watch_tasks(question))
        except KeyboardInterrupt:
            return EXIT_OK
    return run(_list_tasks(question, as_json=as_json))


async def _list_tasks(question: dict[str, Any], *, as_json: bool) -> int:
    async with connected() as client:
        answer = await client.query("tasks", question, TasksAnswer)
        if "host" in question and not answer.total:
            await _check_host(client, question["host"])
    if as_json:
        click.echo(encode(answer).decode())
        return EXIT_OK
    screen = console()
    screen.print(task_table(answer, utc_now()))
    screen.print(tasks_footer(answer), style="dim")
    return EXIT_OK


async def _check_host(client: Session, name: str) -> None:
    """Say on stderr that no host has this name, if that is why nothing is found."""
    fleet = await client.query("hosts", {}, HostsAnswer)
    names = [row.host for row in fleet.hosts]
    if name not in names:
        listed = ", ".join(names) or "none"
        click.echo(line_of(f"no host {name}; hosts: {listed}"), err=True)


async def _watch_tasks(question: dict[str, Any]) -> int:
    """Show the list anew whenever the log has news."""
    import asyncio

    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    async with connected() as client:
        with Live(console=console(), auto_refresh=False) as live:
            while True:
                try:
                    answer = await client.query("tasks", question, TasksAnswer)
                except Refused as refused:
                    if refused.refusal.code != "behind":
                        raise
                    # Nothing new: the ages grow all the same.
                    question.pop("wait_seq", None)
                    continue
                foot = Text(tasks_footer(answer), style="dim")
                live.update(Group(task_table(answer, utc_now()), foot), refresh=True)
                question["wait_seq"] = answer.seq + 1
                await asyncio.sleep(0.2)


# -- one task --------------------------------------------------------------------------


@click.command()
@_ID
@on_target
@click.option("--events", is_flag=True, help="Its events too.")
@json_option
def task(task_id: str, *, events: bool, as_json: bool) -> int:
    """Show the task ID: what it is, how it went, where it was routed and why.

    ID may be shortened to its first characters, 4 at least.
    """
    return run(_show_task(task_id, events=events, as_json=as_json))


async def _show_task(task_id: str, *, events: bool, as_json: bool) -> int:
    async with connected() as client:
        question = {"task_id": task_id, "events": events}
        answer = await client.query("task", question, TaskAnswer)
        because = await reasons(client, answer.task)
    if as_json:
        click.echo(encode(answer).decode())
        return EXIT_OK
    screen = console()
    show_task(screen, answer, because, Instance().role_of)
    if events:
        from cli.render.events import event_line

        screen.print("\nevents", style="bold")
        for logged in answer.events:
            screen.print(event_line(logged.seq, logged.subject, logged.event))
        if answer.events_left_out:
            screen.print(f"{answer.events_left_out} more: agentcom events --task ID")
    return EXIT_OK


async def reasons(client: Session, task: TaskDetail) -> list[str]:
    """Return why a task waits, in sentences; nothing for one that does not."""
    if task.state != "waiting":
        return []
    answer = await client.query("why", {"task_id": task.task_id}, WhyAnswer)
    return answer.because


# -- logs ------------------------------------------------------------------------------


@click.command()
@_ID
@on_target
@click.option("--follow", is_flag=True, help="Go on to the task's end.")
@click.option("--json", "as_json", is_flag=True, help="One piece a line, as stored.")
def logs(task_id: str, *, follow: bool, as_json: bool) -> int:
    """Show the output of the task ID: its text on stdout, the rest on stderr."""
    try:
        return run(_logs(task_id, follow=follow, as_json=as_json))
    except KeyboardInterrupt:
        click.echo("\nno longer following; the task goes on", err=True)
        return EXIT_INTERRUPTED


async def _logs(task_id: str, *, follow: bool, as_json: bool) -> int:
    from cli.client.follow import Following
    from cli.render.display import JsonLines, Screen
    from cli.render.terminal import EXIT_OF_STATE

    async with connected() as client:
        full = await client.full_id(task_id)
        screen = Screen(about=follow)
        audience = JsonLines() if as_json else screen
        if not await client.log.read(subjects.task(full), limit=1):
            raise Problem(f"there is no task {full}", EXIT_NOT_FOUND)
        if follow:
            following = Following(client, full, audience)
            outcome = await following.outcome(screen.waits)
            if as_json:
                click.echo(encode(outcome).decode())
            else:
                screen.end(outcome)
            return EXIT_OF_STATE[outcome.status]
        chunks = await client.output.read(full)
        for chunk in chunks:
            audience.chunk(chunk)
    for gap in gaps(chunks):
        pieces = "1 piece" if gap.count == 1 else f"{gap.count:,} pieces"
        where = f"behind piece {gap.after}" if gap.after else "at the beginning"
        click.echo(
            f"not the whole output: {pieces} missing {where} of route {gap.route}",
            err=True,
        )
    if not chunks and not as_json:
        click.echo("no output, or none that is still kept", err=True)
    return EXIT_OK


# -- cancel, retry ---------------------------------------------------------------------


@click.command()
@_IDS
@on_target
@click.option("--reason", default="", help="Kept in the log.")
@json_option
def cancel(task_ids: tuple[str, ...], *, reason: str, as_json: bool) -> int:
    """Cancel tasks; what runs is stopped, with every process it has started."""
    return run(_steer("task.cancel", task_ids, reason, as_json=as_json))


_RETRIABLE: Final = ("dead", "failed", "cancelled", "expired")


@click.command()
@click.argument("task_ids", nargs=-1, metavar="[ID]...")
@on_target
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(_RETRIABLE),
    help="All tasks in this state; may be given more than once.",
)
@click.option("--tier", help="Of these only this tier's.")
@click.option("--text", help="Of these only those whose description has this text.")
@click.option("--reason", default="", help="Kept in the log.")
@json_option
def retry(
    task_ids: tuple[str, ...],
    *,
    states: tuple[str, ...],
    tier: str | None,
    text: str | None,
    reason: str,
    as_json: bool,
) -> int:
    """Try failed, dead, cancelled or expired tasks anew, by ID or by filter."""
    if bool(task_ids) == bool(states):
        raise click.UsageError("name tasks by their ids, or choose them with --state")
    if states:
        filters = {"state": list(states), "tier": tier, "text": text}
        return run(_retry_all({k: v for k, v in filters.items() if v}, reason, as_json))
    return run(_steer("task.retry", task_ids, reason, as_json=as_json))


async def _retry_all(filters: dict[str, Any], reason: str, as_json: bool) -> int:
    """Page through the tasks that are meant, then try each anew."""
    ids: list[str] = []
    async with connected() as client:
        while True:
            page = {**filters, "limit": 500, "offset": len(ids)}
            answer = await client.query("tasks", page, TasksAnswer)
            ids += [row.task_id for row in answer.tasks]
            if not answer.tasks or len(ids) >= answer.total:
                break
    if not ids and not as_json:
        click.echo("no task is meant")
    return await _steer("task.retry", tuple(ids), reason, as_json=as_json)


@click.command()
@click.argument("task_id", metavar="ID")
@click.argument("host")
@on_target
@click.option("--reason", default="", help="Kept in the log.")
@json_option
def reassign(task_id: str, host: str, *, reason: str, as_json: bool) -> int:
    """Take task ID from where it is, and give it to HOST and no other."""
    more = {"host": host}
    return run(_steer("task.reassign", (task_id,), reason, as_json=as_json, more=more))


async def _steer(
    command: str,
    task_ids: tuple[str, ...],
    reason: str,
    *,
    as_json: bool,
    more: dict[str, str] | None = None,
) -> int:
    worst = EXIT_OK
    async with connected() as client:
        for task_id in task_ids:
            try:
                done = await _one(client, command, task_id, reason, more or {})
            except Refused as refused:
                worst = max(worst, refused.exit_code)
                if as_json:
                    click.echo(encode(refused.refusal).decode())
                refused.show(sys.stderr)
                continue
            if as_json:
                click.echo(encode(done).decode())
            else:
                report = _SAID.get((done.state, done.phase))
                report = report or _SAID.get((done.state, ""))
                report = report or f"it is {done.state} already"
                click.echo(f"{done.task_id}  {report}")
    return worst


_SAID: Final = {
    ("task.cancelled", "cancelled"): "cancelled; nothing of it was running",
    ("task.cancelled", "cancelling"): "cancelled; what runs is being stopped",
    # Of a gateway that says no phase.
    ("task.cancelled", ""): "cancelled; what runs of it is stopped",
    ("task.retried", ""): "waits to be tried anew",
    ("task.reassigned", ""): "goes to the host you named",
}


async def _one(
    client: Session, command: str, task_id: str, reason: str, more: dict[str, str]
) -> Done:
    full = await client.full_id(task_id)
    body = {"task_id": full, "reason": reason, **more}
    done = await client.command(command, body, Done)
    return msgspec.structs.replace(done, task_id=full)
