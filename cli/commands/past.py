"""Looking back: explain a decision, show the world as it was, walk through the log."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import click

from analysis.explain import Recheck, aftermath, policies_of, recheck, words
from analysis.span import first_from, last_until
from cli.client.completing import ids
from cli.client.connection import PAST_S, Refused, Session, answer_to, connected, run
from cli.client.spans import point_option
from cli.client.target import on_target
from cli.commands.options import Between, json_option
from cli.render.events import event_line, json_line
from cli.render.past import show_hosts, show_past_task, show_queue
from cli.render.terminal import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_REFUSED,
    Problem,
    console,
    dollars,
    line_of,
    local,
    painted,
    print_json,
)
from events import catalogue as c
from events import subjects
from events.codec import instant
from events.commands import no_task
from events.errors import Malformed, shown
from events.lifecycle import FINAL
from projections.answers import HostsAnswer, QueueAnswer, TaskAnswer
from projections.timetravel import TimeTravel

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.judged import JudgedEvent
    from projections.world import World

LONGEST_PAUSE_S: Final = 5.0
"""A replay waits no longer than this between two events, however long nothing happened."""
LONGEST_LINE: Final = 4096
AT_ONCE: Final = 500
"""Events that a replay reads ahead."""


# -- explain ---------------------------------------------------------------------------


@click.command()
@click.argument("task_id", metavar="ID", shell_complete=ids())
@on_target
@click.option(
    "--generation", type=Between(1), help="Which routing; the last by default."
)
@click.option(
    "--check",
    is_flag=True,
    help="Decide it again from its recorded inputs, under the policy of its time.",
)
@json_option
def explain(task_id: str, *, generation: int | None, check: bool, as_json: bool) -> int:
    """Say why the task ID went where it went: in words, and as a table.

    With --check the router must come to the recorded answer; it exits with 1 otherwise.
    """
    return run(_explain(task_id, generation, check=check, as_json=as_json))


async def _explain(
    task_id: str, generation: int | None, *, check: bool, as_json: bool
) -> int:
    from cli.render.tasks import trace

    async with connected() as client:
        full = await client.full_id(task_id)
        history = await client.log.read(subjects.task(full))
        routed = _chosen(full, history, generation)
        submitted = history[0].event
        sentences = [*words(routed, submitted), *aftermath(routed, history)]
        fleet = await _fleet_then(client, routed)
        checked = await _checked(client, routed) if check else None
    if as_json:
        document = {
            "decision": routed,
            "words": sentences,
            "fleet": fleet,
            "check": checked,
        }
        print_json(document)
    else:
        screen = console()
        for sentence in sentences:
            screen.print(line_of(local(sentence)))
        trace(screen, routed)
        if fleet is not None:
            screen.print(f"\nthe fleet at sequence {routed.log_seq}", style="bold")
            show_hosts(screen, fleet)
        if checked is not None:
            screen.print(
                line_of(f"\ncheck: {local(checked.said)}"),
                style="green" if checked.agrees else "bold red",
            )
    return EXIT_OK if checked is None or checked.agrees else EXIT_REFUSED


def _chosen(
    task_id: str, history: list[c.Recorded], generation: int | None
) -> c.TaskRouted:
    routed = [each.event for each in history if isinstance(each.event, c.TaskRouted)]
    if not history:
        raise Refused(no_task(task_id))
    if not routed:
        raise Problem(
            f"{task_id} has not been routed yet: `agentcom why-waiting {task_id}`"
        )
    if generation is None:
        return routed[-1]
    for event in routed:
        if event.generation == generation:
            return event
    raise Problem(f"{task_id} has no routing {generation}, only 1 to {len(routed)}")


async def _fleet_then(client: Session, routed: c.TaskRouted) -> HostsAnswer | None:
    """Return the fleet as of the decision, where the read models can be asked."""
    try:
        return await client.query(
            "hosts", {"at": routed.log_seq}, HostsAnswer, timeout=PAST_S
        )
    except Problem as problem:
        click.echo(
            f"Warning: without the fleet of that time: {local(problem.message)}",
            err=True,
        )
        return None


async def _checked(client: Session, routed: c.TaskRouted) -> Recheck:
    by_version, _ = await policies_of(client.log)
    return recheck(routed, by_version.get(routed.policy_version))


# -- state -----------------------------------------------------------------------------


@click.command()
@click.argument("what", metavar="[queue|fleet|task]", default="queue")
@click.argument("task_id", metavar="[ID]", required=False, shell_complete=ids())
@on_target
@point_option("--at", "A sequence, a time, or so long ago (15m).", default=None)
@json_option
def state(
    what: str, task_id: str | None, *, at: int | str | None, as_json: bool
) -> int:
    """Show the queue, the fleet or a task as it was.

    What machines reported of their load every two seconds is not kept.
    """
    if what not in ("queue", "fleet", "task"):
        raise click.UsageError(f"{shown(what)}: expected queue, fleet, or task ID")
    if (what == "task") != (task_id is not None):
        raise click.UsageError("expected queue, fleet, or task ID")
    question: dict[str, Any] = {} if at is None else {"at": at}
    answer: QueueAnswer | HostsAnswer | TaskAnswer
    if what == "queue":
        answer = answer_to("queue", question, QueueAnswer, timeout=PAST_S)
    elif what == "fleet":
        answer = answer_to("hosts", question, HostsAnswer, timeout=PAST_S)
    else:
        question["task_id"] = task_id
        answer = answer_to("task", question, TaskAnswer, timeout=PAST_S)
    if as_json:
        return print_json(answer)
    screen = console()
    screen.print(f"after sequence {answer.seq}", style="dim")
    match answer:
        case QueueAnswer():
            show_queue(screen, answer)
        case HostsAnswer():
            show_hosts(screen, answer)
        case TaskAnswer():
            show_past_task(screen, answer)
    return EXIT_OK


# -- replay ----------------------------------------------------------------------------


@click.command()
@on_target
@point_option("--from", "Begin here.", default=None)
@point_option("--to", "End here.", default=None)
@click.option(
    "--speed",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="1 for the pace at which it happened, 60 for a minute a second.",
)
@click.option("--step", is_flag=True, help="Wait for Enter after each event; q ends.")
@click.option("--task", "task_id", metavar="ID", help="Only what is about this task.")
@json_option
def replay(
    *,
    speed: float | None,
    step: bool,
    task_id: str | None,
    as_json: bool,
    **span: Any,
) -> int:
    """Walk through the log, and show what each event made of the world.

    At the end of each line: how many waited, were under way, were finished, and the
    dollars spent until then. Without --speed and --step it goes as fast as it can.
    """
    if step and not sys.stdin.isatty():
        raise click.UsageError("--step needs a terminal")
    screen = ReplayScreen(speed, step=step, as_json=as_json)
    try:
        return run(_replay(screen, span["from"], span["to"], task_id))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


class Enough(Exception):
    """The person at the terminal ended the replay."""


class ReplayScreen:
    """Shows a replay, at a pace."""

    def __init__(self, speed: float | None, *, step: bool, as_json: bool) -> None:
        self._speed = speed
        self._step = step
        self._as_json = as_json
        self._before: float | None = None

    def line(self, world: World, judged: JudgedEvent) -> str:
        """Write an event and what it led to as a line."""
        recorded = judged.recorded
        if self._as_json:
            return json_line(recorded)
        line = event_line(recorded.seq, recorded.subject, recorded.event)
        if judged.verdict != "applied":
            why = f"{judged.verdict}: {judged.reason}"
            line += painted(f"  [{line_of(local(why))}]", "warn", sys.stdout)
        return line + painted(f"  {summary(world)}", "dim", sys.stdout)

    def pause_s(self, at: str) -> float:
        """Return how long to wait before an event that was made `at` is shown."""
        if self._speed is None:
            return 0.0
        try:
            now = instant(at)
        except Malformed:
            return 0.0
        before, self._before = self._before, now
        if before is None:
            return 0.0
        return min(max(now - before, 0.0) / self._speed, LONGEST_PAUSE_S)

    async def show(self, line: str, at: str) -> None:
        """Print a line in its time; raises Enough."""
        pause = self.pause_s(at)
        if pause:
            await asyncio.sleep(pause)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if self._step:
            answer = await _typed_line()
            if not answer or answer.strip() in ("q", "quit"):
                raise Enough


async def _typed_line() -> str:
    """Return the terminal's next line, "" at its end; Ctrl-C gets through meanwhile."""
    loop = asyncio.get_running_loop()
    next_line: asyncio.Future[str] = loop.create_future()

    def keep(line: str) -> None:
        if not next_line.done():
            next_line.set_result(line)

    def read() -> None:
        # A terminal gives a line at a time. Past sys.stdin, for its lock must be free
        # when the interpreter ends.
        line = os.read(sys.stdin.fileno(), LONGEST_LINE).decode(errors="replace")
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(keep, line)

    # A thread of its own: at its end the interpreter would wait for a pool's.
    threading.Thread(target=read, daemon=True).start()
    return await next_line


def summary(world: World) -> str:
    """Say in a few figures how the world stands."""
    finished = sum(world.stats.states.get(phase, 0) for phase in FINAL)
    spent = world.costs.total.usd_nano / 1e9
    return (
        f"{world.queue.waiting} wait, {len(world.queue.under_way)} under way, "
        f"{finished} finished, {dollars(spent)}"
    )


async def _replay(
    screen: ReplayScreen,
    start: int | str | None,
    end: int | str | None,
    task_id: str | None,
) -> int:
    async with connected() as client:
        full = await client.known_id(task_id) if task_id is not None else None
        past = TimeTravel(client.log)
        try:
            last = await client.log.last_sequence()
            for flag, point, most in (("from", start, last + 1), ("to", end, last)):
                if isinstance(point, int) and point > most:
                    raise Problem(f"--{flag} {point}: the log ends at sequence {last}")
            first = await first_from(past, 1 if start is None else start)
            until = await last_until(past, end, last)
            with suppress(Enough):
                await _walk(past, first, until, _about(full), screen)
        finally:
            past.close()
    return EXIT_OK


def _about(task_id: str | None) -> Callable[[JudgedEvent], bool]:
    if task_id is None:
        return lambda judged: True
    return lambda judged: getattr(judged.recorded.event, "task_id", None) == task_id


async def _walk(
    past: TimeTravel,
    first: int,
    last: int,
    matches: Callable[[JudgedEvent], bool],
    screen: ReplayScreen,
) -> None:
    for start in range(first, last + 1, AT_ONCE):
        lines: list[tuple[str, str]] = []

        def see(
            world: World, judged: JudgedEvent, lines: list[tuple[str, str]] = lines
        ) -> None:
            if matches(judged):
                line = screen.line(world, judged)
                lines.append((line, judged.recorded.event.at))

        await past.walk(start, min(start + AT_ONCE - 1, last), see)
        for line, at in lines:
            await screen.show(line, at)
