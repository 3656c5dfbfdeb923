"""`agentcom bench`: how fast the ring is, against a bare pipeline in the same run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


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
    only: bool,
    as_json: bool,
) -> None:
    """Measure this machine: tasks/s, latency, replay, decisions, memory.

    Everything runs on a broker and processes of its own, in a temporary folder.
    """
    from bench import growth, peers, projections
    from bench.measure import machine, measure
    from bench.shell import measure_shell
    from bench.streams import measure_streams

    def say(text: str) -> None:
        click.echo(f"  {text} ...", err=True)

    try:
        axes = growth.axes_of(grown)
        if rounds:
            peers.require_peers()
    except (ValueError, peers.NoPeers) as wrong:
        raise click.UsageError(str(wrong)) from wrong
    if only:
        report = {"machine": machine()}
    else:
        sizes = list(endpoints) or [20, 200, 2000]
        report = measure(tasks, queued=queued, endpoints=sizes, say=say)
    if events:
        report["projections"] = projections.measure(events, say=say)
    if streams:
        report["streams"] = measure_streams(streams, say=say)
    if shell:
        report["shell"] = measure_shell(shell, say=say)
    if chats:
        from bench.chats import measure_chats

        report["openai"] = measure_chats(chats, say=say)
    if rounds:
        report["peers"] = peers.measure_peers(tasks, rounds, say=say)
    if axes:
        report["growth"] = growth.measure_growth(axes, min(tasks, 2_000), say=say)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        show(report)


def show(report: dict[str, Any]) -> None:
    """Print a report as tables."""
    from rich.console import Console

    console = Console()
    about = report["machine"]
    console.print(
        f"{about['cores']} cores, {about['system']}, Python {about['python']}, "
        f"nats-server {about['nats-server']}, load {about['load']} at the start"
    )
    if "ring" in report:
        _show_ring(console, report)
    if "projections" in report:
        from bench import projections

        console.print(projections.show(report["projections"]))
    if "streams" in report:
        from bench.streams import show_streams

        show_streams(report["streams"])
    if "shell" in report:
        from bench.shell import show_shell

        console.print(show_shell(report["shell"]))
    if "openai" in report:
        from bench.chats import show_chats

        show_chats(report["openai"])
    if "peers" in report:
        from bench.peers import show_peers

        console.print(show_peers(report["peers"]))
    if "growth" in report:
        from bench.growth import show_growth

        console.print(*show_growth(report["growth"]))
    if "queued" in report:
        queued = report["queued"]
        console.print(
            f"scheduler memory: {queued['bytes_per_task']:,} bytes a waiting task "
            f"({queued['tasks']:,} of them, read in {queued['start_s']:.1f} s)"
        )


def _show_ring(console: Console, report: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{report['tasks']} no-op tasks, five durable events each")
    for column in (
        "",
        "tasks/s",
        "submit to started p50",
        "p95",
        "and heard of p50",
        "CPU per task",
    ):
        table.add_column(column, justify="right" if column else "left")
    for name, title in (("ring", "AgentCom"), ("bare", "bare pipeline")):
        figures = report[name]
        waits = figures["submit_to_started_ms"]
        core, worker = figures["cpu_us_per_task"]
        table.add_row(
            title,
            f"{figures['tasks_per_s']:,.0f}",
            f"{waits['p50']:.2f} ms",
            f"{waits['p95']:.2f} ms",
            f"{figures['submit_to_started_heard_ms']['p50']:.2f} ms",
            f"{core:.0f} + {worker:.0f} µs",
        )
    console.print(table)
    console.print(f"ratio to bare: {report['ratio_to_bare']:.2f}")
    replay = report["replay"]
    console.print(
        f"replay with decoding: {replay['events_per_s']:,.0f} events/s "
        f"({replay['events']:,} events)"
    )
    router = Table(title="router, one decision with its whole trace")
    for column in ("endpoints", "decisions/s", "p50"):
        router.add_column(column, justify="right")
    for size, figures in report["router"].items():
        router.add_row(size, f"{figures['per_s']:,.0f}", f"{figures['p50_us']:.0f} µs")
    console.print(router)
