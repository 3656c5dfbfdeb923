"""Looking at tasks and steering them: tasks, task, logs, cancel, retry."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from cli.client.connection import Client, Refused, connected, run
from cli.client.target import on_target
from cli.local.instance import ROLES, Instance
from cli.render.terminal import (
    EXIT_INTERRUPTED,
    EXIT_NOT_FOUND,
    EXIT_OK,
    STATE_STYLE,
    TIER_STYLE,
    Problem,
    age,
    cell,
    console,
    dollars,
    duration,
    is_narrow,
    line_of,
    short_ids,
    size,
    table,
    utc_now,
)
from events import subjects
from events.codec import encode
from events.commands import Done
from events.lifecycle import PHASES
from projections.answers import TaskAnswer, TasksAnswer, WhyAnswer
from projections.search import SORTS

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console
    from rich.table import Table

    from events.catalogue import Candidate, TaskRouted
    from projections.answers import AttemptView, TaskDetail, TaskRow

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_ID = click.argument("task_id", metavar="ID")
_IDS = click.argument("task_ids", metavar="ID...", nargs=-1, required=True)


# -- tasks -----------------------------------------------------------------------------


@click.command()
@on_target
@click.option(
    "--state", multiple=True, type=click.Choice(PHASES), help="Several are allowed."
)
@click.option("--tier", type=click.Choice(["trivial", "standard", "complex"]))
@click.option("--host")
@click.option("--model")
@click.option("--repo")
@click.option("--priority", type=click.Choice(["urgent", "high", "normal", "low"]))
@click.option("--text", help="In the description.")
@click.option(
    "--fallback/--no-fallback", default=None, help="Ran off its preferred tier."
)
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
@_JSON
def tasks(*, watch: bool, as_json: bool, **asked: Any) -> int:
    """List tasks, the newest first."""
    question = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asked.items()
        if value not in (None, "", ())
    }
    if watch and not as_json:
        try:
            return run(_watch_tasks(question))
        except KeyboardInterrupt:
            return EXIT_OK
    return run(_list_tasks(question, as_json=as_json))


async def _list_tasks(question: dict[str, Any], *, as_json: bool) -> int:
    async with connected() as client:
        answer = await client.query("tasks", question, TasksAnswer)
    if as_json:
        click.echo(encode(answer).decode())
        return EXIT_OK
    screen = console()
    screen.print(_task_table(answer, utc_now()))
    screen.print(_footer(answer), style="dim")
    return EXIT_OK


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
                foot = Text(_footer(answer), style="dim")
                live.update(Group(_task_table(answer, utc_now()), foot), refresh=True)
                question["wait_seq"] = answer.seq + 1
                await asyncio.sleep(0.2)


def _task_table(answer: TasksAnswer, now: datetime) -> Table:
    made = table(
        ("id", "state", "tier", "where", "tries", "tokens", "cost", "age", "task"),
        right=("tries", "tokens", "cost", "age"),
        elastic=("where", "task"),
    )
    ids = short_ids([row.task_id for row in answer.tasks])
    for shown, row in zip(ids, answer.tasks, strict=True):
        made.add_row(
            cell(shown),
            cell(row.state, style=STATE_STYLE.get(row.state, "")),
            _tier_cell(row),
            cell(_where(row), 40),
            str(row.attempts),
            str(row.tokens_in + row.tokens_out),
            "?" if row.unpriced_runs else dollars(row.cost_usd),
            age(row.submitted_at, now),
            cell(row.description, 60),
        )
    return made


def _tier_cell(row: TaskRow) -> Any:
    mark = " FB" if row.fallback_used else ""
    return cell(row.tier + mark, style=TIER_STYLE.get(row.tier, ""))


def _where(row: TaskRow) -> str:
    place = row.endpoint or row.host
    model = f" {row.model}" if row.model else ""
    return place + model + (" [simulated]" if row.simulated else "")


def _footer(answer: TasksAnswer) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in answer.states.items())
    return f"{len(answer.tasks)} of {answer.total}; all: {counts or 'none'}"


# -- one task --------------------------------------------------------------------------


@click.command()
@_ID
@on_target
@click.option("--events", is_flag=True, help="Its events too.")
@_JSON
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
    show_task(screen, answer, because)
    if events:
        from cli.commands.log import event_line

        screen.print("\nevents", style="bold")
        for logged in answer.events:
            screen.print(event_line(logged.seq, logged.subject, logged.event))
        if answer.events_left_out:
            screen.print(f"{answer.events_left_out} more: agentcom events --task ID")
    return EXIT_OK


def show_task(screen: Console, answer: TaskAnswer, because: list[str]) -> None:
    """Show a task, its attempts, and the trace of its last route."""
    _details(screen, answer.task, because)
    _attempts(screen, answer.attempts)
    if answer.route is not None:
        trace(screen, answer.route)


async def reasons(client: Client, task: TaskDetail) -> list[str]:
    """Return why a task waits, in sentences; nothing for one that does not."""
    if task.state != "waiting":
        return []
    answer = await client.query("why", {"task_id": task.task_id}, WhyAnswer)
    return answer.because


def _details(screen: Console, task: TaskDetail, because: list[str]) -> None:
    from rich.table import Table

    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column()
    for name, value, style in _facts(task, " ".join(because)):
        if value:
            made.add_row(name, cell(value, style=style))
    screen.print(made)
    result = task.result
    if result is None:
        return
    for name, text in (("output", result.output), ("stderr", result.stderr)):
        if text.strip():
            screen.print(f"\n{name}", style="bold")
            screen.print(_block(text))


def _facts(task: TaskDetail, because: str) -> list[tuple[str, str, str]]:
    spec, classed = task.spec, task.classification
    hop = f" (fallback from {task.fallback_from_tier})" if task.fallback_used else ""
    timing = ", ".join(
        f"{name} {duration(ms)}"
        for name, ms in (("waited", task.wait_ms), ("ran", task.run_ms))
        if ms is not None
    )
    cost = "unknown" if task.unpriced_runs else dollars(task.cost_usd)
    tokens = f"{task.tokens_in} in, {task.tokens_out} out"
    shell = spec.shell if spec is not None else None
    return [
        ("task", task.task_id, "bold"),
        ("state", task.state, STATE_STYLE.get(task.state, "")),
        ("waits", because, "yellow"),
        ("error", f"{task.error_code}: {task.error}" if task.error else "", "red"),
        ("reason", task.reason, ""),
        ("description", task.description, ""),
        ("command", shell.command if shell is not None else "", ""),
        ("tier", task.tier + hop, TIER_STYLE.get(task.tier, "")),
        ("classified", classed.reason if classed is not None else "", ""),
        ("priority", task.priority, ""),
        ("repo", task.repo, ""),
        ("branch", (spec.branch or "") if spec is not None else "", ""),
        ("ran on", _where(task) if task.host else "", ""),
        ("attempts", f"{task.attempts} of {task.max_attempts}", ""),
        ("submitted", f"{task.submitted_at} by {_who(task.submitter)}", ""),
        ("took", timing, ""),
        ("tokens", tokens, ""),
        ("cost", cost, ""),
        ("saved", dollars(task.saved_usd) if task.saved_usd else "", "green"),
        ("warnings", "; ".join(task.warnings), "yellow"),
        ("void", f"{task.void} steps did not count" if task.void else "", "yellow"),
    ]


def _who(key: str) -> str:
    """Name the role that a key belongs to, where this instance has made it."""
    instance = Instance()
    for role in ROLES:
        if (instance.keys / f"{role}.nk").exists() and instance.public_key(role) == key:
            return role
    return key


def _block(text: str) -> Any:
    """Show several lines of untrusted text."""
    from rich.text import Text

    return Text("\n".join(line_of(line) for line in text.rstrip().splitlines()))


def _attempts(screen: Console, attempts: list[AttemptView]) -> None:
    if len(attempts) < 2 and not any(each.local_retries for each in attempts):
        return
    made = table(
        ("try", "tier", "where", "outcome", "retries", "ran", "cost", "why"),
        right=("try", "retries", "ran", "cost"),
        elastic=("where", "why"),
    )
    for each in attempts:
        place = each.endpoint or each.host
        made.add_row(
            str(each.generation),
            cell(each.tier, style=TIER_STYLE.get(each.tier, "")),
            cell(f"{place} {each.model}", 40),
            cell(each.outcome, style=STATE_STYLE.get(each.outcome, "")),
            str(each.local_retries),
            duration(each.run_ms),
            "?" if each.unpriced else dollars(each.cost_usd),
            cell(each.error or each.detail or each.reason, 60),
        )
    screen.print("\nroutings", style="bold")
    screen.print(made)


def trace(screen: Console, route: TaskRouted) -> None:
    """Show a decision: the reason, the candidates with every factor, the excluded."""
    from cli.render.display import route_line

    screen.print("\nroute", style="bold")
    screen.print(line_of(route_line(route)))
    screen.print(line_of(f"because {route.classification_reason}"), style="dim")
    if route.wait is not None:
        wait = route.wait
        screen.print(
            f"waited {wait.waited_s:.1f} s for {wait.tier}: {wait.outcome}", style="dim"
        )
    if route.candidates:
        shown = _SCORE if is_narrow() else (*_SCORE, *_RAW)
        made = table(
            ("candidate", "model", *shown), right=shown, elastic=("candidate", "model")
        )
        for each in route.candidates:
            made.add_row(*_candidate(each, route)[: len(shown) + 2])
        screen.print(made)
        left = route.candidate_count - len(route.candidates)
        if left > 0:
            screen.print(f"and {left} more", style="dim")
    for excluded in route.excluded_names:
        screen.print(
            line_of(f"excluded {excluded.name}: {excluded.reason}"), style="dim"
        )
    if not route.excluded_names:
        for reason, count in route.excluded.items():
            screen.print(line_of(f"excluded {count}: {reason}"), style="dim")
    screen.print(
        f"policy {route.policy_version}, decided from sequence {route.log_seq} "
        f"in {route.decided_us:.0f} µs",
        style="dim",
    )


_SCORE: Final = ("score", "load", "capacity", "vram", "warm", "affinity", "slots")
_RAW: Final = ("free", "cpu", "ram")


def _candidate(each: Candidate, route: TaskRouted) -> list[Any]:
    chosen = (each.host, each.endpoint) == (
        route.selected_host,
        route.selected_endpoint,
    )
    factors = each.factors
    numbers = (
        each.score,
        factors.load,
        factors.capacity,
        factors.vram,
        factors.warm,
        factors.affinity,
        factors.slots,
    )
    return [
        cell(each.endpoint or each.host, style="bold" if chosen else ""),
        cell(each.model),
        *(f"{number:.3f}" for number in numbers),
        f"{each.slots_free}/{each.slots_total}",
        "unknown" if each.cpu is None else f"{each.cpu:.0%}",
        size(each.ram_bytes),
    ]


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
    if not chunks and not as_json:
        click.echo("no output, or none that is still kept", err=True)
    return EXIT_OK


# -- cancel, retry ---------------------------------------------------------------------


@click.command()
@_IDS
@on_target
@click.option("--reason", default="", help="Kept in the log.")
@_JSON
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
@_JSON
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
        wanted = {"state": list(states), "tier": tier, "text": text}
        return run(_retry_all({k: v for k, v in wanted.items() if v}, reason, as_json))
    return run(_steer("task.retry", task_ids, reason, as_json=as_json))


async def _retry_all(wanted: dict[str, Any], reason: str, as_json: bool) -> int:
    """Page through the tasks that are meant, then try each anew."""
    found: list[str] = []
    async with connected() as client:
        while True:
            page = {**wanted, "limit": 500, "offset": len(found)}
            answer = await client.query("tasks", page, TasksAnswer)
            found += [row.task_id for row in answer.tasks]
            if not answer.tasks or len(found) >= answer.total:
                break
    if not found and not as_json:
        click.echo("no task is meant")
    return await _steer("task.retry", tuple(found), reason, as_json=as_json)


@click.command()
@click.argument("task_id", metavar="ID")
@click.argument("host")
@on_target
@click.option("--reason", default="", help="Kept in the log.")
@_JSON
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
                said = _SAID.get(done.state, f"it is {done.state} already")
                click.echo(f"{done.task_id}  {said}")
    return worst


_SAID: Final = {
    "task.cancelled": "cancelled; what runs is being stopped",
    "task.retried": "waits to be tried anew",
    "task.reassigned": "goes to the host you named",
}


async def _one(
    client: Client, command: str, task_id: str, reason: str, more: dict[str, str]
) -> Done:
    full = await client.full_id(task_id)
    body = {"task_id": full, "reason": reason, **more}
    done = await client.command(command, body, Done)
    return msgspec.structs.replace(done, task_id=full)
