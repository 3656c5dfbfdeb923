"""Puts the bench's figures into benchmarks.md: `python -m docs.make_benchmarks REPORT.json`.

The report is what `agentcom bench --json` prints. What the page says in words is written by
hand; between `<!-- bench NAME -->` and `<!-- end -->` stands what was measured, and a report
that holds NAME replaces it. Pictures are plain SVG beside the page, in benchmarks/.
"""

from __future__ import annotations

import json
import math
import re
import sys
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER: Final = Path(__file__).parent
PAGE: Final = FOLDER / "benchmarks.md"
PICTURES: Final = "benchmarks"
TITLES: Final = {"ring": "AgentCom", "bare": "bare pipeline"}
_PART: Final = re.compile(r"(<!-- bench (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_WIDE, _HIGH, _LEFT = 640, 260, 130

Report = dict[str, Any]


def filled(page: str, report: Report) -> tuple[str, dict[str, str]]:
    """Return the page with the report's figures, and the pictures by file name."""
    pictures: dict[str, str] = {}

    def part(found: re.Match[str]) -> str:
        name = found[2]
        if name not in report:
            return found[0]
        text, drawn = PARTS[name](report[name], report)
        pictures.update(drawn)
        return f"{found[1]}{text}\n{found[3]}"

    return _PART.sub(part, page), pictures


# -- parts -----------------------------------------------------------------------------

Part = tuple[str, dict[str, str]]


def _machine(about: Report, _: Report) -> Part:
    return (
        f"{about['cores']} cores, {about['system']}, Python {about['python']}, "
        f"nats-server {about['nats-server']}, nats-py {about['nats-py']}; load "
        f"{about['load']} as it began."
    ), {}


def _ring(ring: Report, report: Report) -> Part:
    bare = report["bare"]
    rows = [
        ["tasks/s", f"{ring['tasks_per_s']:,.0f}", f"{bare['tasks_per_s']:,.0f}"],
        ["ratio to bare", f"{report['ratio_to_bare']:.2f}", ""],
    ]
    for name, title in (
        ("submit_to_started_ms", "submit to started"),
        ("submit_to_started_heard_ms", "heard of"),
    ):
        rows += [
            [f"{title}, {p}", *(f"{each[name][p]:.2f} ms" for each in (ring, bare))]
            for p in ("p50", "p95")
        ]
    rows.append(
        [
            "CPU a task, two processes",
            *(
                " + ".join(f"{us:.0f}" for us in each["cpu_us_per_task"]) + " µs"
                for each in (ring, bare)
            ),
        ]
    )
    replay = report["replay"]
    rows.append(["replay with decoding", f"{replay['events_per_s']:,.0f} events/s", ""])
    head = [f"{report['tasks']:,} tasks", "AgentCom", "bare pipeline"]
    return _table(head, rows), {}


def _router(router: Report, _: Report) -> Part:
    rows = [
        [
            f"{int(size):,} endpoints",
            f"{each['p50_us']:.0f} µs",
            f"{each['per_s']:,.0f}",
        ]
        for size, each in router.items()
    ]
    return _table(["one decision with its trace", "p50", "decisions/s"], rows), {}


def _queued(queued: Report, _: Report) -> Part:
    return (
        f"{queued['tasks']:,} waiting tasks: {queued['bytes_per_task']:,} bytes each, "
        f"read from the log in {queued['start_s']:.1f} s."
    ), {}


def _shell(shell: Report, _: Report) -> Part:
    rows = []
    for name in ("ring", "taskiq", "xargs"):
        if each := shell.get(name):
            cpu = " + ".join(f"{ms:.1f}" for ms in each.get("cpu_ms_per_task", ()))
            left = each.get("descendants_left", "")
            rows.append(
                [
                    TITLES.get(name, name),
                    f"{each['tasks_per_s']:,.0f}",
                    f"{cpu} ms" if cpu else "",
                    str(left),
                ]
            )
    head = [f"{shell['tasks']:,} × `true`, {shell['slots']} slots", "tasks/s"]
    return _table([*head, "CPU a task", "left running"], rows), {}


def _bulk(bulk: Report, _: Report) -> Part:
    used = bulk["cpu_us_per_task"]
    row = [
        ", ".join(f"{each:.2f} s" for each in bulk["seconds"]),
        f"{bulk['us_per_task']:,.0f} µs",
        f"{used['scheduler']:.0f} + {used['web']:.0f} µs",
    ]
    head = [f"{bulk['tasks']:,} cancelled by one command", "a task", "CPU a task"]
    return _table(head, [row]), {}


def _peers(peers: Report, _: Report) -> Part:
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
    text = _table([*head, "CPU a task: processes, broker"], rows)
    bars = {
        TITLES.get(name, name): each["tasks_per_s"]
        for name, each in peers["medians"].items()
    }
    title = f"tasks/s, median of {peers['rounds']} rounds in turns"
    return f"{text}\n\n![{title}]({PICTURES}/peers.svg)", {
        "peers.svg": bar_chart(title, bars)
    }


def _growth(growth: Report, _: Report) -> Part:
    texts, pictures = [f"{growth['tasks']:,} no-op tasks each."], {}
    for axis, points in growth["axes"].items():
        names = [name for name in points[0] if name != "size"]
        rows = [
            [f"{point['size']:,}", *(_figure(name, point[name]) for name in names)]
            for point in points
        ]
        texts.append(_table([axis, *(name.replace("_", " ") for name in names)], rows))
        costs = [name for name in names if name.endswith("us_per_task")]
        if costs and len(points) > 1:
            title = f"CPU a task by {axis}, µs"
            lines = {
                name.partition("_")[0]: [(p["size"], p[name]) for p in points]
                for name in costs
            }
            pictures[f"growth-{axis}.svg"] = line_chart(title, lines)
            texts.append(f"![{title}]({PICTURES}/growth-{axis}.svg)")
    return "\n\n".join(texts), pictures


def _streams(streams: Report, _: Report) -> Part:
    rows = [
        [title, *(f"{streams[name][p]:.1f} ms" for p in ("p50", "p95", "p99", "max"))]
        for name, title in (("first_ms", "first token"), ("later_ms", "later ones"))
    ]
    rows.append(["tokens lost", f"{streams['lost']} of {streams['tokens']:,}"])
    head = [f"{streams['streams']} streams, {streams['tokens_per_s']:,.0f} tokens/s"]
    return _table([*head, "p50", "p95", "p99", "max"], rows), {}


def _projections(made: Report, _: Report) -> Part:
    mib = 2**20
    rebuild, again = made["rebuild"], made["restart"]
    readers = [made[name]["events_per_s"] for name in ("read", "read_again")]
    rows = [
        [
            "reader, before and after",
            " and ".join(f"{each:,.0f}/s" for each in readers),
        ],
        [
            "all read models",
            f"{rebuild['events_per_s']:,.0f}/s ({rebuild['took_s']} s)",
        ],
        ["of the reader", f"{made['ratio_to_bare']:.2f}"],
        ["restart on the store", f"{again['took_s']:.2f} s"],
        ["memory at most", f"{rebuild['max_rss'] / mib:,.0f} MiB"],
        ["store", f"{made['store_bytes'] / mib:,.0f} MiB"],
    ]
    return _table([f"{made['events']:,} events", ""], rows), {}


PARTS: Final[dict[str, Callable[[Any, Report], Part]]] = {
    "machine": _machine,
    "ring": _ring,
    "router": _router,
    "queued": _queued,
    "shell": _shell,
    "bulk": _bulk,
    "peers": _peers,
    "growth": _growth,
    "streams": _streams,
    "projections": _projections,
}


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value / 2**20:,.0f} MiB" if name.endswith("rss") else f"{value:,}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head)]
    lines += [[*row, *[""] * (len(head) - len(row))] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# -- pictures --------------------------------------------------------------------------


def _svg(title: str, high: int, body: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {high}" '
        f'font-family="sans-serif" font-size="13" role="img" fill="#555">'
        f"<title>{escape(title)}</title>"
        f'<text x="12" y="20" font-weight="bold">{escape(title)}</text>'
        + "".join(body)
        + "</svg>\n"
    )


def bar_chart(title: str, bars: dict[str, float]) -> str:
    """Draw a bar for each name, ours in colour."""
    most = max(bars.values())
    body = []
    for n, (name, value) in enumerate(bars.items()):
        y = 36 + n * 32
        wide = (_WIDE - _LEFT - 90) * value / most
        colour = "#2a7de1" if name == TITLES["ring"] else "#9aa5b1"
        body += [
            f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{wide:.1f}" height="22" fill="{colour}"/>',
            f'<text x="{_LEFT + wide + 6:.1f}" y="{y + 15}">{value:,.0f}</text>',
        ]
    return _svg(title, 44 + 32 * len(bars), body)


def line_chart(title: str, lines: dict[str, list[tuple[float, float]]]) -> str:
    """Draw lines over a logarithmic size; what grows not at all is level."""
    points = [point for line in lines.values() for point in line]
    low, high = (math.log10(pick(x for x, _ in points)) for pick in (min, max))
    most = max(y for _, y in points) * 1.15
    left, right, top, bottom = 60, _WIDE - 110, 36, _HIGH - 34

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - low) / ((high - low) or 1)
        return left + across * (right - left), bottom - y / most * (bottom - top)

    body = [
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#999"/>',
        f'<text x="{left - 8}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{left - 8}" y="{top + 8}" text-anchor="end">{most:,.0f}</text>',
    ]
    for x in sorted({x for x, _ in points}):
        place, _ = at(x, 0)
        body.append(
            f'<text x="{place:.1f}" y="{bottom + 18}" text-anchor="middle">{x:,}</text>'
        )
    for (name, line), colour in zip(
        lines.items(), ("#2a7de1", "#e1862a", "#3a9d5d", "#a14fbf"), strict=False
    ):
        places = [at(*point) for point in sorted(line)]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        x, y = places[-1]
        body += [
            f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>',
            f'<text x="{x + 8:.1f}" y="{y + 4:.1f}" fill="{colour}">{escape(name)}</text>',
        ]
    return _svg(title, _HIGH, body)


def main(file: str) -> None:
    """Fill the page from a report's file."""
    page, pictures = filled(PAGE.read_text(), json.loads(Path(file).read_text()))
    PAGE.write_text(page)
    (FOLDER / PICTURES).mkdir(exist_ok=True)
    for name, drawn in pictures.items():
        (FOLDER / PICTURES / name).write_text(drawn)


if __name__ == "__main__":
    main(*sys.argv[1:])
