"""Puts the bench's figures into benchmarks.md: `python -m docs.make_benchmarks REPORT.json`.

The report is what `agentcom bench --json` prints, of all parts or of some: each takes the
place of what benchmarks.json beside the page keeps of it, and the page is made from that.
What the page says in words is written by hand; what stands between `<!-- bench NAME -->` and
`<!-- end -->` is not. Pictures are plain SVG beside the page, in benchmarks/.
"""

from __future__ import annotations

import json
import math
import re
import sys
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.shown import TITLES, shown

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER: Final = Path(__file__).parent
PAGE: Final = FOLDER / "benchmarks.md"
KEPT: Final = FOLDER / "benchmarks.json"
PICTURES: Final = "benchmarks"
_MARKED: Final = re.compile(r"(<!-- bench (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_WIDE, _HIGH, _LEFT = 640, 260, 130

Report = dict[str, Any]


def filled(page: str, report: Report) -> tuple[str, dict[str, str]]:
    """Return the page with the report's figures, and the pictures by file name."""
    pictures: dict[str, str] = {}

    def part(found: re.Match[str]) -> str:
        name = found[2]
        if name == "aims":
            return f"{found[1]}{_aims(report)}\n{found[3]}"
        if name not in report:
            return found[0]
        text, drawn = _part(name, report)
        pictures.update(drawn)
        began = _began(report.get("began", {}), name)
        return f"{found[1]}{text}\n{began}{found[3]}"

    return _MARKED.sub(part, page), pictures


def merged(kept: Report, report: Report) -> Report:
    """Return what is kept with what a report has measured anew in its place."""
    new = {name: part for name, part in report.items() if name != "failed"}
    both = kept | new | {"began": kept.get("began", {}) | report.get("began", {})}
    if "growth" in kept and "growth" in new:
        axes = dict(kept["growth"]["axes"])
        for axis, points in new["growth"]["axes"].items():
            by_size = {point["size"]: point for point in (*axes.get(axis, ()), *points)}
            axes[axis] = [by_size[size] for size in sorted(by_size)]
        both["growth"] = new["growth"] | {"axes": axes}
    return both


# -- aims ------------------------------------------------------------------------------

MB: Final = 1e6


def _grown(report: Report, axis: str, figure: str, unit: float = 1.0) -> float:
    """Return a figure at the largest size; raises KeyError where a million was not asked."""
    last = report["growth"]["axes"][axis][-1]
    if last["size"] < 1_000_000 or last[figure] is None:
        raise KeyError(axis)
    return float(last[figure]) / unit


def _peer(report: Report, name: str, figure: str) -> float:
    return float(report["peers"]["ratios"][name][figure])


AIMS: Final[tuple[tuple[str, bool, float, str, Callable[[Report], float]], ...]] = (
    # What, whether more is better, the aim, its unit, and where a report has it.
    ("tasks/s, of faststream", True, 1.0, "×", lambda r: _peer(r, "faststream", "tasks_per_s")),
    ("tasks/s, of taskiq", True, 1.4, "×", lambda r: _peer(r, "taskiq", "tasks_per_s")),
    ("tasks/s, of the bare pipeline", True, 0.75, "×", lambda r: _peer(r, "bare", "tasks_per_s")),
    ("submit to started, of the bare pipeline", False, 1.3, "×", lambda r: _peer(r, "bare", "submit_to_started")),
    ("router, 20 endpoints", False, 12, "µs", lambda r: r["router"]["20"]["p50_us"]),
    ("router, 2,000 endpoints", False, 15, "µs", lambda r: r["router"]["2000"]["p50_us"]),
    ("read models made anew, of their reader", True, 0.65, "×", lambda r: r["projections"]["ratio_to_bare"]),
    ("a million waiting: start with a checkpoint", False, 8, "s", lambda r: _grown(r, "queued", "with_checkpoint_s")),
    ("a million waiting: scheduler's memory a task", False, 900, "bytes", lambda r: r["queued"]["bytes_per_task"]),
    ("a million finished: web when it has read them, at most", False, 150, "MB", lambda r: _grown(r, "web", "first_peak_rss", MB)),
    ("a million finished: web begun again and asked", False, 150, "MB", lambda r: _grown(r, "web", "asked_rss", MB)),
    ("`true` as a task, two slots", True, 150, "a second", lambda r: r["shell"]["ring"]["tasks_per_s"]),
    ("first token, p95", False, 8, "ms", lambda r: r["streams"]["first_ms"]["p95"]),
    ("later tokens, p95", False, 110, "ms", lambda r: r["streams"]["later_ms"]["p95"]),
)  # fmt: skip


def _aims(report: Report) -> str:
    rows = []
    for title, more, aim, unit, find in AIMS:
        try:
            found = find(report)
        except KeyError:
            rows.append([title, _limit(more, aim, unit), "not measured", ""])
            continue
        met = found >= aim if more else found <= aim
        reached = f"{found:.3g} {unit}" if found < 100 else f"{found:,.0f} {unit}"
        rows.append([title, _limit(more, aim, unit), reached, "" if met else "missed"])
    return _table(["", "aim", "reached", ""], rows)


def _limit(more: bool, aim: float, unit: str) -> str:
    return f"at {'least' if more else 'most'} {aim:g} {unit}"


_WITH_RING: Final = ("router",)
"""What is measured in one part with the ring."""


def _began(began: Report, name: str) -> str:
    """Say how busy the machine was as a part began."""
    if name == "growth":
        axes: dict[str, list[str]] = {}
        for part, how in began.items():
            if part.startswith(name):
                axes.setdefault(_busy(how), []).append(part.rpartition(" ")[2])
        each = [f"{', '.join(names)}: {busy}" for busy, names in axes.items()]
        return f"\nAs it began: {'; '.join(each)}.\n" if each else ""
    how = began.get("ring" if name in _WITH_RING else name)
    if name == "machine":
        return ""
    return f"\nAs it began: {_busy(how)}.\n" if how else ""


def _busy(how: Report) -> str:
    right = (
        ", at real-time priority"
        if how["real_time"]
        else (f", nice {how['nice']}" if how["nice"] else "")
    )
    return f"load {how['load']}{right}"


# -- parts -----------------------------------------------------------------------------


def _part(name: str, report: Report) -> tuple[str, dict[str, str]]:
    """Write a part of the report, with its pictures by file name."""
    texts: list[str] = []
    pictures: dict[str, str] = {}
    for each in shown(name, report):
        if isinstance(each, str):
            texts.append(each)
            continue
        texts.append(_table(each.head, each.rows))
        if name not in ("peers", "growth"):
            continue
        drawn = (
            _peers_chart if name == "peers" else partial(_growth_chart, each.head[0])
        )
        if (picture := drawn(report[name])) is not None:
            file, title, svg = picture
            pictures[file] = svg
            texts.append(f"![{title}]({PICTURES}/{file})")
    return "\n\n".join(texts), pictures


def _peers_chart(peers: Report) -> tuple[str, str, str]:
    bars = {
        TITLES.get(name, name): each["tasks_per_s"]
        for name, each in peers["medians"].items()
    }
    title = f"tasks/s, median of {peers['rounds']} rounds in turns"
    return "peers.svg", title, bar_chart(title, bars)


def _growth_chart(axis: str, growth: Report) -> tuple[str, str, str] | None:
    points = growth["axes"][axis]
    costs = [name for name in points[0] if name.endswith("us_per_task")]
    if not costs or len(points) < 2:
        return None
    title = f"CPU a task by {axis}, µs"
    lines = {
        name.partition("_")[0]: [(point["size"], point[name]) for point in points]
        for name in costs
    }
    return f"growth-{axis}.svg", title, line_chart(title, lines)


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
    """Keep what a report's file holds, and fill the page from all that is kept."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept = merged(kept, json.loads(Path(file).read_text()))
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    page, pictures = filled(PAGE.read_text(), kept)
    PAGE.write_text(page)
    (FOLDER / PICTURES).mkdir(exist_ok=True)
    for name, drawn in pictures.items():
        (FOLDER / PICTURES / name).write_text(drawn)


if __name__ == "__main__":
    main(*sys.argv[1:])
