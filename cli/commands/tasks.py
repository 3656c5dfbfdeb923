"""Looking at tasks: tasks, task, logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from cli.client.completing import ids
from cli.client.connection import Refused, Session, connected, patiently, run
from cli.client.target import on_target
from cli.commands.filters import filter_of, filter_options
from cli.commands.options import Between, Word, json_option
from cli.local.instance import Instance
from cli.render.tasks import show_task, task_table, tasks_footer
from cli.render.terminal import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    console,
    line_of,
    many,
    print_json,
    utc_now,
)
from events import catalogue as c
from events import subjects
from events.chunks import gaps
from events.commands import no_task
from projections.answers import HostsAnswer, TaskAnswer, TasksAnswer, WhyAnswer
from projections.search import SORTS

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from projections.answers import TaskDetail, TaskRow

_ID = click.argument("task_id", metavar="ID", shell_complete=ids())


# -- tasks -----------------------------------------------------------------------------


@click.command()
@on_target
@filter_options
@click.option(
    "--sort",
    default="-submitted",
    show_default=True,
    type=Word([f"{sign}{name}" for name in SORTS for sign in ("", "-")]),
    metavar="[-]FIELD",
    help=", ".join(SORTS),
)
@click.option("--limit", type=Between(1, 500), default=50, show_default=True)
@click.option("--offset", type=Between(0), default=0)
@click.option("--watch", is_flag=True, help="Keep it up to date until Ctrl-C.")
@json_option
def tasks(*, watch: bool, as_json: bool, **options: Any) -> int:
    """List tasks, the newest first."""
    page = {name: options[name] for name in ("sort", "limit", "offset")}
    question = filter_of(options) | page
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
        return print_json(answer)
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
            shown: list[Any] = []

            def ask() -> Coroutine[Any, Any, TasksAnswer]:
                return client.query("tasks", question, TasksAnswer)

            def waits(reason: str) -> None:
                note = Text(line_of(reason), style="yellow")
                live.update(Group(*shown, note), refresh=True)

            while True:
                try:
                    asked = patiently(ask, waits) if shown else ask()
                    answer = await asked
                except Refused as refused:
                    if refused.refusal.code != "behind":
                        raise
                    # Nothing new: the ages grow all the same.
                    question.pop("wait_seq", None)
                    continue
                foot = Text(tasks_footer(answer), style="dim")
                shown = [task_table(answer, utc_now()), foot]
                live.update(Group(*shown), refresh=True)
                question["wait_seq"] = answer.seq + 1
                await asyncio.sleep(0.2)


# -- one task --------------------------------------------------------------------------


@click.command()
@_ID
@on_target
@click.option("--events", is_flag=True, help="Its events too.")
@click.option(
    "--tree", is_flag=True, help="It and the tasks that its runs submitted, with sums."
)
@json_option
def task(task_id: str, *, events: bool, tree: bool, as_json: bool) -> int:
    """Show the task ID: what it is, how it went, where it was routed and why.

    ID may be shortened to its first characters, 4 at least.
    """
    if tree:
        return run(_show_tree(task_id, as_json=as_json))
    return run(_show_task(task_id, events=events, as_json=as_json))


async def _show_task(task_id: str, *, events: bool, as_json: bool) -> int:
    async with connected() as client:
        question = {"task_id": task_id, "events": events}
        answer = await client.query("task", question, TaskAnswer)
        because = await reasons(client, answer.task)
    if as_json:
        return print_json(answer)
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


async def _show_tree(task_id: str, *, as_json: bool) -> int:
    from cli.render.tree import tree_of, tree_table

    async with connected() as client:
        top = (await client.query("task", {"task_id": task_id}, TaskAnswer)).task
        rows: list[TaskRow] = []
        question: dict[str, Any] = {"root": top.root, "limit": 500}
        while top.root:
            page = await client.query("tasks", question, TasksAnswer)
            rows += page.tasks
            if page.next is None:
                break
            question["cursor"] = page.next
    tree = tree_of(rows or [top], top.task_id)
    if as_json:
        return print_json(tree)
    console().print(tree_table(tree))
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
@click.option("-f", "--follow", is_flag=True, help="Go on to the task's end.")
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
            raise Refused(no_task(full))
        if follow:
            following = Following(client, full, audience)
            outcome = await following.outcome(screen.waits)
            if as_json:
                print_json(outcome)
            else:
                screen.end(outcome)
            return EXIT_OF_STATE[outcome.state]
        # Their numbers alone are kept: a task may have printed a GiB.
        printed: list[c.Chunk] = []
        async for chunk in client.output.pieces(full):
            audience.chunk(chunk)
            printed.append(replace(chunk, text=""))
    for gap in gaps(printed):
        pieces = many(gap.count, "piece")
        where = f"behind piece {gap.after}" if gap.after else "at the beginning"
        click.echo(
            f"not the whole output: {pieces} missing {where} of route {gap.route}",
            err=True,
        )
    if not printed and not as_json:
        click.echo("no output, or none that is still kept", err=True)
    return EXIT_OK
