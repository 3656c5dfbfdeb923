"""`agentcom top`: fleet and tasks as they are now, until Ctrl-C."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from cli.client.connection import Session, connected, patiently, run
from cli.client.target import on_target
from cli.render.fleet import tier_words
from cli.render.tasks import shown_id
from cli.render.terminal import (
    EXIT_OK,
    STATE_STYLE,
    TIER_STYLE,
    age,
    cell,
    console,
    is_narrow,
    line_of,
    local,
    local_time,
    table,
    utc_now,
)
from projections.answers import AttentionAnswer, HostsAnswer, QueueAnswer

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from datetime import datetime

    from rich.console import Group

    from projections.answers import TaskRow

EVERY_S: Final = 1.0
LISTED: Final = 200
"""So many tasks are asked for; as many are shown as there is room."""
WANTING: Final = 5
HEAD_ROWS: Final = 12
"""Rows of the screen that are not tasks, hosts or rows of attention."""


@click.command()
@on_target
@click.option("--once", is_flag=True, help="Show it once and end, as in a pipe.")
def top(*, once: bool) -> int:
    """Show hosts, tiers and tasks as they are now, until Ctrl-C."""
    try:
        return run(_top(once=once or not sys.stdout.isatty()))
    except KeyboardInterrupt:
        return EXIT_OK


async def _top(*, once: bool) -> int:
    import asyncio

    from rich.live import Live

    async with connected() as client:
        screen = console()
        if once:
            screen.print(await _picture(client, LISTED))
            return EXIT_OK
        with Live(console=screen, screen=True, auto_refresh=False) as live:

            def ask() -> Coroutine[Any, Any, Group]:
                return _picture(client, max(3, screen.size.height - HEAD_ROWS))

            picture = await ask()
            while True:
                live.update(picture, refresh=True)
                await asyncio.sleep(EVERY_S)
                picture = await patiently(
                    ask, lambda reason: live.update(line_of(reason), refresh=True)
                )


async def _picture(client: Session, room: int) -> Group:
    """Ask for everything, and lay it out in `room` rows beside the heads."""
    from rich.console import Group
    from rich.text import Text

    fleet = await client.query("hosts", {}, HostsAnswer)
    queue = await client.query("queue", {"limit": LISTED}, QueueAnswer)
    wanting = await client.query("attention", {}, AttentionAnswer)
    now = utc_now()
    under_way = ", ".join(f"{n} {state}" for state, n in queue.under_way.items() if n)
    head = (
        f"agentcom  {local_time(now.isoformat())[11:]}  {under_way or 'nothing runs'}, "
        f"{queue.waiting} waiting  (sequence {queue.seq})"
    )
    parts: list[Any] = [Text(line_of(head), style="bold"), _tiers(fleet)]
    parts += [
        Text(
            line_of(f"{row.severity}: {local(row.sentence)}"),
            style="red" if row.severity == "error" else "yellow",
            no_wrap=True,
            overflow="ellipsis",
        )
        for row in wanting.rows[:WANTING]
    ]
    if len(wanting.rows) > WANTING:
        more = len(wanting.rows) - WANTING
        parts.append(Text(f"and {more} more: agentcom attention", style="dim"))
    hosts = sorted(fleet.hosts, key=lambda host: (-host.in_flight, host.host))
    for_hosts = max(1, min(len(hosts), room // 3))
    parts += [Text(""), _hosts(hosts[:for_hosts], len(hosts))]
    room -= for_hosts + min(len(wanting.rows), WANTING + 1)
    parts += [Text(""), _tasks(queue, max(1, room), now)]
    return Group(*parts)


def _tiers(fleet: HostsAnswer) -> Any:
    from rich.text import Text

    line = Text(no_wrap=True, overflow="ellipsis")
    for row in fleet.tiers:
        line.append(row.tier, style=TIER_STYLE.get(row.tier, ""))
        line.append(f" {line_of(tier_words(row))}   ")
    return line


def _hosts(rows: list[Any], total: int) -> Any:
    hosts = table(("host", "state", "running", "cpu"), right=("running", "cpu"))
    for row in rows:
        cpu = row.resources.cpu if row.resources is not None else None
        hosts.add_row(
            cell(row.host, 30, style="bold"),
            cell(row.state, style=STATE_STYLE.get(row.state, "")),
            f"{row.in_flight} of {sum(row.slots.values())}",
            "?" if cpu is None else f"{cpu:.0%}",
        )
    if total > len(rows):
        hosts.add_row(f"and {total - len(rows)} more", "", "", "")
    return hosts


def _tasks(queue: QueueAnswer, room: int, now: datetime) -> Any:
    """Show those under way, then those that wait, as many as there is room for."""
    listed = [*queue.running, *queue.waiting_tasks][:room]
    columns: tuple[str, ...] = ("id", "state", "tier", "for", "where", "task")
    if is_narrow():
        columns = ("id", "state", "for", "task")
    tasks = table(columns, right=("for",), elastic=("where", "task"))
    for row in listed:
        cells = {
            "id": cell(shown_id(row)),
            "state": cell(row.state, style=STATE_STYLE.get(row.state, "")),
            "tier": cell(row.tier, style=TIER_STYLE.get(row.tier, "")),
            "for": age(_since(row), now),
            "where": cell(f"{row.endpoint or row.host} {row.model}", 40),
            "task": cell(row.description, 80),
        }
        tasks.add_row(*(cells[name] for name in columns))
    return tasks


def _since(row: TaskRow) -> str:
    if row.state == "waiting":
        return row.waiting_since
    return row.started_at or row.routed_at or row.submitted_at
