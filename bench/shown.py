"""A report in words and tables, for the terminal and for docs/benchmarks.md alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TITLES: Final = {"ring": "AgentCom", "bare": "bare pipeline"}
MIB: Final = 2**20

Report = dict[str, Any]


class Grid(NamedTuple):
    """A table; a row may be shorter than the head."""

    head: list[str]
    rows: list[list[str]]


Shown = str | Grid


def _machine(about: Report, _: Report) -> Iterator[Shown]:
    yield (
        f"{about['cores']} cores, {about['system']}, Python {about['python']}, "
        f"nats-server {about['nats-server']}, nats-py {about['nats-py']}."
    )


def _ring(ring: Report, report: Report) -> Iterator[Shown]:
    bare = report["bare"]
    rows = [
        ["tasks/s", f"{ring['tasks_per_s']:,.0f}", f"{bare['tasks_per_s']:,.0f}"],
        ["ratio to bare", f"{report['ratio_to_bare']:.2f}"],
    ]
    for name, title in (
        ("submit_to_started_ms", "submit to started"),
        ("submit_to_started_heard_ms", "heard of"),
    ):
        rows += [
            [f"{title}, {p}", *(f"{each[name][p]:.2f} ms" for each in (ring, bare))]
            for p in ("p50", "p95")
        ]
    cpu = [
        " + ".join(f"{us:.0f}" for us in each["cpu_us_per_task"]) + " µs"
        for each in (ring, bare)
    ]
    rows.append(["CPU a task, two processes", *cpu])
    replay = report["replay"]
    rows.append(["replay with decoding", f"{replay['events_per_s']:,.0f} events/s"])
    yield Grid([f"{report['tasks']:,} tasks", "AgentCom", "bare pipeline"], rows)


def _router(router: Report, _: Report) -> Iterator[Shown]:
    rows = [
        [
            f"{int(size):,} endpoints",
            f"{each['p50_us']:.0f} µs",
            f"{each['per_s']:,.0f}",
        ]
        for size, each in router.items()
    ]
    yield Grid(["one decision with its trace", "p50", "decisions/s"], rows)


def _queued(queued: Report, _: Report) -> Iterator[Shown]:
    yield (
        f"{queued['tasks']:,} waiting tasks: {queued['bytes_per_task']:,} bytes each, "
        f"read from the log in {queued['start_s']:.1f} s."
    )


def _shell(shell: Report, _: Report) -> Iterator[Shown]:
    rows = []
    for name in ("ring", "taskiq", "xargs"):
        if each := shell.get(name):
            cpu = " + ".join(f"{ms:.1f}" for ms in each.get("cpu_ms_per_task", ()))
            rows.append(
                [
                    TITLES.get(name, name),
                    f"{each['tasks_per_s']:,.0f}",
                    f"{cpu} ms" if cpu else "",
                    str(each.get("descendants_left", "")),
                ]
            )
    head = [f"{shell['tasks']:,} × `true`, {shell['slots']} slots", "tasks/s"]
    yield Grid([*head, "CPU a task", "left running"], rows)


def _bulk(bulk: Report, _: Report) -> Iterator[Shown]:
    used = bulk["cpu_us_per_task"]
    row = [
        ", ".join(f"{each:.2f} s" for each in bulk["seconds"]),
        f"{bulk['us_per_task']:,.0f} µs",
        f"{used['scheduler']:.0f} + {used['web']:.0f} µs",
    ]
    head = [f"{bulk['tasks']:,} cancelled by one command", "a task", "CPU a task"]
    yield Grid(head, [row])


def _peers(peers: Report, _: Report) -> Iterator[Shown]:
    rows = []
    for name, each in peers["medians"].items():
        ratio = peers["ratios"].get(name)
        runs = [run["tasks_per_s"] for run in peers["runs"][name]]
        rows.append(
            [
                TITLES.get(name, f"{name} {peers['versions'].get(name, '')}"),
                f"{each['tasks_per_s']:,.0f} ({min(runs):,.0f} to {max(runs):,.0f})",
                f"{ratio['tasks_per_s']:.2f}" if ratio else "",
                f"{each['submit_to_started_p50_ms']:.2f} ms",
                f"{ratio['submit_to_started']:.2f}" if ratio else "",
                f"{each['cpu_us_per_task']:,.0f}, {each['broker_us_per_task']:,.0f} µs",
            ]
        )
    head = ["", "tasks/s, median (all)", "ours is ×", "submit to started", "ours is ×"]
    yield Grid([*head, "CPU a task: processes, broker"], rows)


def _growth(growth: Report, _: Report) -> Iterator[Shown]:
    yield f"{growth['tasks']:,} no-op tasks each."
    for axis, points in growth["axes"].items():
        names = [
            name
            for name in points[0]
            if name != "size" and any(point.get(name) is not None for point in points)
        ]
        rows = [
            [f"{point['size']:,}", *(_figure(name, point.get(name)) for name in names)]
            for point in points
        ]
        yield Grid([axis, *(name.replace("_", " ") for name in names)], rows)


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value / MIB:,.0f} MiB" if name.endswith("rss") else f"{value:,}"


def _streams(streams: Report, _: Report) -> Iterator[Shown]:
    rows = [
        [title, *(f"{streams[name][p]:.1f} ms" for p in ("p50", "p95", "p99", "max"))]
        for name, title in (("first_ms", "first token"), ("later_ms", "later ones"))
    ]
    rows.append(["tokens lost", f"{streams['lost']} of {streams['tokens']:,}"])
    head = [f"{streams['streams']} streams, {streams['tokens_per_s']:,.0f} tokens/s"]
    yield Grid([*head, "p50", "p95", "p99", "max"], rows)
    if used := streams.get("cpu"):
        shares = ", ".join(f"{name} {share:.0%}" for name, share in used.items())
        yield f"{streams['chunks']:,} pieces of output; of a core: {shares}."


def _openai(chats: Report, _: Report) -> Iterator[Shown]:
    rows = [
        [title, *(f"{figures[p]:.1f} ms" for p in ("p50", "p95", "p99"))]
        for title, figures in (
            ("asked directly", chats["first_ms"]["direct"]),
            ("through AgentCom", chats["first_ms"]["agentcom"]),
            ("later by", chats["later_ms"]),
        )
    ]
    head = [f"first token, {chats['requests']} chats each way, in turns"]
    yield Grid([*head, "p50", "p95", "p99"], rows)
    yield (
        f"aim: later by 10 ms (p50) and 20 ms (p95); throughput of {chats['streams']} "
        f"streams {chats['throughput']:.2f} (aim 0.9), load {chats['load']}"
    )


def _projections(made: Report, _: Report) -> Iterator[Shown]:
    rebuild, again = made["rebuild"], made["restart"]
    readers = [made[name]["events_per_s"] for name in ("read", "read_again")]
    rate = f"{rebuild['events_per_s']:,.0f}/s ({rebuild['took_s']} s)"
    rows = [
        [
            "reader, before and after",
            " and ".join(f"{each:,.0f}/s" for each in readers),
        ],
        ["all read models", rate],
        ["of the reader", f"{made['ratio_to_bare']:.2f}"],
        ["restart on the store", f"{again['took_s']:.2f} s"],
        ["memory at most", f"{rebuild['max_rss'] / MIB:,.0f} MiB"],
        ["store", f"{made['store_bytes'] / MIB:,.0f} MiB"],
    ]
    yield Grid([f"{made['events']:,} events", ""], rows)


PARTS: Final[dict[str, Callable[[Any, Report], Iterator[Shown]]]] = {
    "machine": _machine,
    "ring": _ring,
    "router": _router,
    "queued": _queued,
    "shell": _shell,
    "bulk": _bulk,
    "peers": _peers,
    "growth": _growth,
    "streams": _streams,
    "openai": _openai,
    "projections": _projections,
}


def shown(name: str, report: Report) -> Iterator[Shown]:
    """Say a part of a report: sentences, and tables."""
    return PARTS[name](report[name], report)
