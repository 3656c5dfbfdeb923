"""Steering tasks, one or many: cancel, retry, reassign."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from cli.client.completing import hosts, ids
from cli.client.connection import Refused, Session, connected, new_id, run
from cli.client.target import on_target
from cli.commands.filters import filter_of, filter_options
from cli.commands.options import json_option
from cli.render.terminal import (
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_USAGE,
    Problem,
    many,
    print_json,
    progress_bar,
)
from events.commands import BulkProgress, Done
from events.lifecycle import OPEN

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

_OPEN: Final = tuple(OPEN)
_ENDED: Final = ("failed", "dead", "expired", "cancelled")
_reason_option = click.option("--reason", default="", help="Kept in the log.")


def _many_options(command: F) -> F:
    """Add what chooses tasks, and what is asked before anything happens to them."""
    for add in (
        json_option,
        click.option("-y", "--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Say how many, change nothing."),
        _reason_option,
        filter_options,
    ):
        command = add(command)
    return command


@click.command()
@click.argument("task_ids", nargs=-1, metavar="[ID]...", shell_complete=ids(*_OPEN))
@on_target
@_many_options
def cancel(task_ids: tuple[str, ...], **options: Any) -> int:
    """Cancel tasks, by ID or by filter; what runs is stopped, with all it has started.

    \b
      agentcom cancel 01JG
      agentcom cancel --state waiting --dry-run
      agentcom cancel --label team=search --until 2h --yes
    """
    return _steer_some("cancel", task_ids, options)


@click.command()
@click.argument("task_ids", nargs=-1, metavar="[ID]...", shell_complete=ids(*_ENDED))
@on_target
@_many_options
def retry(task_ids: tuple[str, ...], **options: Any) -> int:
    """Try failed, dead, cancelled or expired tasks anew, by ID or by filter.

    A filter without --state means those that failed, are dead or expired.

    \b
      agentcom retry 01JG
      agentcom retry --since 1d --label team=search --dry-run
      agentcom retry --state dead --error-code host_lost --yes
    """
    return _steer_some("retry", task_ids, options)


@click.command()
@click.argument("task_id", metavar="ID", shell_complete=ids(*_OPEN))
@click.argument("host", shell_complete=hosts)
@on_target
@_reason_option
@json_option
def reassign(task_id: str, host: str, *, reason: str, as_json: bool) -> int:
    """Take task ID from where it is, and give it to HOST and no other."""
    more = {"host": host}
    return run(_each("reassign", (task_id,), reason, as_json=as_json, more=more))


def _steer_some(action: str, task_ids: tuple[str, ...], options: dict[str, Any]) -> int:
    chosen = filter_of(options)
    if bool(task_ids) == bool(chosen):
        raise click.UsageError(
            f"name the tasks to {action} by their ids, or choose them: --state, "
            "--label, --since, ..."
        )
    reason, as_json = options["reason"], options["as_json"]
    if task_ids:
        if options["dry_run"]:
            raise click.UsageError("--dry-run is for a filter: tasks are named here")
        return run(_each(action, task_ids, reason, as_json=as_json))
    body = {"action": action, "filter": chosen, "reason": reason}
    return run(
        _all(body, dry_run=options["dry_run"], sure=options["yes"], as_json=as_json)
    )


# -- one by one ------------------------------------------------------------------------


async def _each(
    action: str,
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
                done = await _one(client, f"task.{action}", task_id, reason, more or {})
            except Refused as refused:
                worst = max(worst, refused.exit_code)
                if as_json:
                    print_json(refused.refusal)
                refused.show(sys.stderr)
                continue
            if as_json:
                print_json(done)
            else:
                report = _SAID.get((done.event, done.state))
                report = report or _SAID.get((done.event, ""))
                report = report or f"it is {done.state} already"
                click.echo(f"{done.task_id}  {report}")
    return worst


_SAID: Final = {
    ("task.cancelled", "cancelled"): "cancelled; nothing of it was running",
    ("task.cancelled", "cancelling"): "cancelled; what runs is being stopped",
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


# -- many ------------------------------------------------------------------------------


async def _all(
    body: dict[str, Any], *, dry_run: bool, sure: bool, as_json: bool
) -> int:
    """Say how many are meant, ask, do it, say what became of them."""
    action = body["action"]
    async with connected() as client:
        asked = {**body, "dry_run": True}
        would = await client.command("task.bulk", asked, BulkProgress)
        if dry_run or not would.matched:
            if as_json:
                print_json(would)
            elif not would.matched:
                click.echo("no task is meant")
            else:
                click.echo(f"would {action} {many(would.matched, 'task')}:")
                shown = would.ids[:_SHOWN]
                click.echo("\n".join(f"  {task_id}" for task_id in shown))
                if would.matched > len(shown):
                    click.echo(f"  and {would.matched - len(shown):,} more")
            return EXIT_OK
        if not sure:
            await _ask(f"{action.capitalize()} {many(would.matched, 'task')}?")
        done = await _with_bar(client, body, would.matched, action)
    if as_json:
        print_json(done)
    else:
        click.echo(_summary(action, done))
    return EXIT_REFUSED if done.refused else EXIT_OK


_SHOWN: Final = 10


async def _ask(question: str) -> None:
    import asyncio

    if not sys.stdin.isatty():
        raise Problem(f"{question} Nobody is here to say so: say --yes", EXIT_USAGE)
    # The connection must go on answering the broker while somebody thinks.
    agreed = await asyncio.to_thread(click.confirm, question, err=True)
    if not agreed:
        raise Problem("nothing was changed")


async def _with_bar(
    client: Session, body: dict[str, Any], total: int, action: str
) -> BulkProgress:
    """Carry it out on all of them; the same id each time, so that nothing is done twice."""
    body = {"id": new_id(), **body}
    with progress_bar(action) as bar:
        task = bar.add_task("", total=total)
        while True:
            progress = await client.command("task.bulk", body, BulkProgress)
            over = progress.done + progress.unchanged + progress.refused
            bar.update(task, completed=over, total=max(progress.matched, over))
            if progress.finished:
                return progress


_WORDS: Final = {
    "cancelled": "cancelled",
    "cancelling": "being stopped",
    "waiting": "wait to be tried anew",
    "unchanged": "stood so already",
    "too_late": "were over already",
    "not_retriable": "cannot be tried anew",
    "not_found": "are no tasks",
    "conflict": "changed too fast; say it again",
}


def _summary(action: str, done: BulkProgress) -> str:
    counts = [
        f"{count:,} {_WORDS.get(outcome, outcome)}"
        for outcome, count in sorted(done.outcomes.items(), key=lambda each: -each[1])
    ]
    summary = ", ".join(counts) or "nothing left to do"
    return f"{many(done.matched, 'task')}: {summary}  (bulk {done.bulk_id})"
