"""`agentcom bench`: how fast the ring is, against a bare pipeline in the same run."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import click

if TYPE_CHECKING:
    from collections.abc import Callable


class Sizes(NamedTuple):
    """How much of each part is measured; 0 and () leave a part out."""

    tasks: int
    queued: int
    events: int
    streams: int
    shell: int
    chats: int
    rounds: int
    grown: tuple[str, ...]
    bulk: int


ALL: Final = {
    "whole": Sizes(10_000, 1_000_000, 1_000_000, 50, 1_000, 0, 5, ("all",), 5_000),
    "short": Sizes(
        *(6_000, 1_000_000, 500_000, 50, 500, 0, 5),
        (
            *("queued=1000,100000", "hosts=10,200,1000", "watchers=1,200"),
            *("log=10000,500000", "web=10000,100000"),
        ),
        5_000,
    ),
}
"""What docs/benchmarks.md has a mark for: in an hour, or in a quarter of one."""


@click.command()
@click.option("--tasks", "-n", default=10_000, show_default=True, help="No-op tasks.")
@click.option(
    "--endpoints",
    multiple=True,
    type=click.IntRange(1, 100_000),
    help="Fleet sizes for the router; may be given more than once.  [20 200 2000]",
)
@click.option(
    "--queued",
    default=20_000,
    show_default=True,
    type=click.IntRange(0),
    help="Waiting tasks for the memory measurement; 0 leaves it out.",
)
@click.option(
    "--projections",
    "events",
    default=0,
    type=click.IntRange(0),
    metavar="EVENTS",
    help="Make a log of so many events and the read models from it, e.g. 1000000.",
)
@click.option(
    "--streams",
    default=0,
    type=click.IntRange(0, 1_000),
    metavar="STREAMS",
    help="Have so many models speak at once, 100 tokens/s each, e.g. 50.",
)
@click.option(
    "--shell",
    default=0,
    type=click.IntRange(0),
    metavar="TASKS",
    help="Run so many real shell commands (`true`) on two slots, e.g. 1000.",
)
@click.option(
    "--openai",
    "chats",
    default=0,
    type=click.IntRange(0, 100_000),
    metavar="CHATS",
    help="Send so many chats to a model server and through AgentCom, e.g. 200.",
)
@click.option(
    "--peers",
    "rounds",
    is_flag=False,
    flag_value=5,
    default=0,
    type=click.IntRange(0, 100),
    metavar="[ROUNDS]",
    help="Measure faststream and taskiq in turns with ours and the bare pipeline, 5 rounds "
    "unless said; needs agentcom[bench-peers].",
)
@click.option(
    "--growth",
    "grown",
    multiple=True,
    metavar="AXIS[=SIZES]",
    help="What a task costs as things grow: queued, hosts, watchers, log, web, or all; "
    "e.g. queued=1000,100000. May be given more than once.",
)
@click.option(
    "--bulk",
    default=0,
    type=click.IntRange(0, 1_000_000),
    metavar="TASKS",
    help="Cancel so many waiting tasks by one command, e.g. 5000.",
)
@click.option(
    "--all",
    "everything",
    is_flag=False,
    flag_value="whole",
    type=click.Choice(list(ALL)),
    metavar="[SIZE]",
    help="All that docs/benchmarks.md shows, in an hour; `--all short`: in a quarter of one.",
)
@click.option("--only", is_flag=True, help="Only what the other options name.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(
    tasks: int,
    endpoints: tuple[int, ...],
    queued: int,
    events: int,
    streams: int,
    shell: int,
    chats: int,
    rounds: int,
    grown: tuple[str, ...],
    bulk: int,
    everything: Literal["whole", "short"] | None,
    only: bool,
    as_json: bool,
) -> None:
    """Measure this machine: tasks/s, latency, replay, decisions, memory.

    Everything runs on a broker and processes of its own, in a temporary folder. A part
    that fails is named, and the others are measured.
    """
    sizes = Sizes(tasks, queued, events, streams, shell, chats, rounds, grown, bulk)
    if everything is not None:
        sizes = ALL[everything]
    from bench.measure import surroundings

    report: dict[str, Any] = {"began": {}}
    for name, work in parts(sizes, endpoints, only=only):
        report["began"][name] = surroundings()
        try:
            report |= work()
        except Exception as error:  # noqa: BLE001 - an hour's other parts are kept
            report.setdefault("failed", {})[name] = f"{type(error).__name__}: {error}"
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        show(report)
    if failed := report.get("failed"):
        raise click.ClickException(
            "; ".join(f"{name} failed: {why}" for name, why in failed.items())
        )


def _say(text: str) -> None:
    click.echo(f"  {text} ...", err=True)


def parts(
    sizes: Sizes, endpoints: tuple[int, ...], *, only: bool
) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """Return what is to be measured; raises UsageError."""
    from bench import growth, peers, projections
    from bench.bulk import measure_bulk
    from bench.measure import machine, measure, measure_waiting
    from bench.shell import measure_shell
    from bench.streams import measure_streams

    try:
        axes = growth.axes_of(sizes.grown)
        if sizes.rounds:
            peers.require_peers()
    except (ValueError, peers.NoPeers) as wrong:
        raise click.UsageError(str(wrong)) from wrong
    fleets = list(endpoints) or [20, 200, 2000]

    def chats() -> dict[str, Any]:
        from bench.chats import measure_chats

        return {"openai": measure_chats(sizes.chats, say=_say)}

    grown: dict[str, Any] = {"tasks": min(sizes.tasks, 2_000), "axes": {}}

    def grow(axis: str) -> dict[str, Any]:
        one = growth.measure_growth({axis: axes[axis]}, grown["tasks"], say=_say)
        grown["axes"] |= one["axes"]
        return {"growth": grown}

    # Of each: whether it is wanted, what it is called, what measures it.
    parts: list[tuple[object, str, Callable[[], dict[str, Any]]]] = [
        (True, "machine", lambda: {"machine": machine()}),
        (
            not only,
            "ring",
            lambda: measure(sizes.tasks, endpoints=fleets, say=_say),
        ),
        (
            sizes.queued and not only,
            "queued",
            lambda: {"queued": measure_waiting(sizes.queued, say=_say)},
        ),
        (
            sizes.rounds,
            "peers",
            lambda: {"peers": peers.measure_peers(sizes.tasks, sizes.rounds, say=_say)},
        ),
        (
            sizes.shell,
            "shell",
            lambda: {"shell": measure_shell(sizes.shell, say=_say)},
        ),
        (
            sizes.streams,
            "streams",
            lambda: {"streams": measure_streams(sizes.streams, say=_say)},
        ),
        (sizes.bulk, "bulk", lambda: {"bulk": measure_bulk(sizes.bulk, say=_say)}),
        (sizes.chats, "openai", chats),
        (
            sizes.events,
            "projections",
            lambda: {"projections": projections.measure(sizes.events, say=_say)},
        ),
    ]
    parts += [(True, f"growth by {axis}", partial(grow, axis)) for axis in axes]
    return [(name, work) for wanted, name, work in parts if wanted]


def show(report: dict[str, Any]) -> None:
    """Print a report as tables."""
    from rich.console import Console
    from rich.table import Table

    from bench.shown import PARTS, shown

    console = Console()
    console.print(f"load {report['began']['machine']['load']} at the start")
    for name in PARTS:
        for each in shown(name, report) if name in report else ():
            if isinstance(each, str):
                console.print(each, highlight=False)
                continue
            table = Table()
            for n, column in enumerate(each.head):
                table.add_column(column, justify="right" if n else "left")
            for row in each.rows:
                table.add_row(*row)
            console.print(table)
