"""The page of benchmarks takes its figures from a report, and nothing else from it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

from bench.shown import PARTS
from docs.make_benchmarks import (
    FOLDER,
    KEPT,
    PAGE,
    PICTURES,
    bar_chart,
    filled,
    line_chart,
    merged,
)

STREAMS = {
    "streams": 50,
    "tokens_per_s": 4_990.0,
    "tokens": 50_000,
    "lost": 0,
    "first_ms": {"p50": 0.7, "p95": 1.5, "p99": 2.0, "max": 8.0},
    "later_ms": {"p50": 52.0, "p95": 97.0, "p99": 99.0, "max": 104.0},
}
GROWTH = {
    "tasks": 100,
    "axes": {
        "queued": [
            {"size": size, "start_s": 1.0, "scheduler_us_per_task": 200.0 + n,
             "sidecar_us_per_task": 100.0, "scheduler_rss": 60 * 2**20}
            for n, size in enumerate((1_000, 100_000))
        ]
    },
}  # fmt: skip


def test_the_page_has_a_place_for_every_part_of_a_report():
    marks = set(re.findall(r"<!-- bench (\w+) -->", PAGE.read_text()))
    # The figures of chats are put there by hand.
    assert marks == PARTS.keys() - {"openai"} | {"aims"}


def test_every_measured_figure_of_the_page_is_that_of_the_kept_report():
    kept = json.loads(KEPT.read_text())
    assert kept.keys() >= PARTS.keys() - {"openai"}
    page, pictures = filled(PAGE.read_text(), kept)
    assert page == PAGE.read_text()
    for name, drawn in pictures.items():
        assert (FOLDER / PICTURES / name).read_text() == drawn


def test_what_is_measured_anew_takes_the_place_of_what_was_kept_of_it():
    kept = merged({}, {"growth": GROWTH, "began": {"growth by queued": {"load": 1}}})
    hosts = [{"size": 10, "start_s": 2.0}]
    queued = [{"size": 100_000, "start_s": 3.0}, {"size": 5, "start_s": 1.0}]
    both = merged(
        kept,
        {
            "growth": {"tasks": 100, "axes": {"hosts": hosts, "queued": queued}},
            "streams": STREAMS,
            "began": {"streams": {"load": 2}},
            "failed": {"shell": "why"},
        },
    )
    (thousand, _) = GROWTH["axes"]["queued"]
    assert both["growth"]["axes"] == {
        "hosts": hosts,
        "queued": [queued[1], thousand, queued[0]],
    }
    assert both.keys() == {"growth", "streams", "began"}
    assert both["began"] == {"growth by queued": {"load": 1}, "streams": {"load": 2}}


def test_each_aim_says_what_is_reached_and_whether_that_will_do():
    page = "<!-- bench aims -->\n<!-- end -->\n"
    text, _ = filled(page, {"streams": STREAMS, "router": {"20": {"p50_us": 14.0}}})
    assert "| first token, p95 | at most 8 ms | 1.5 ms |  |" in text
    assert "| router, 20 endpoints | at most 12 µs | 14 µs | missed |" in text
    assert "| router, 2,000 endpoints | at most 15 µs | not measured |  |" in text


def test_the_page_says_how_busy_the_machine_was():
    page = "<!-- bench streams -->\n<!-- end -->\n"
    began = {"streams": {"load": 3.5, "nice": -5, "real_time": False}}
    text, _ = filled(page, {"streams": STREAMS, "began": began})
    assert "As it began: load 3.5, nice -5." in text


def test_a_report_replaces_the_parts_that_it_holds_and_no_other():
    page = (
        "words\n<!-- bench streams -->\nold\n<!-- end -->\n"
        "more\n<!-- bench ring -->\nkept\n<!-- end -->\n"
    )
    once, _ = filled(page, {"streams": STREAMS})
    assert "old" not in once
    assert "| first token | 0.7 ms | 1.5 ms | 2.0 ms | 8.0 ms |" in once
    assert "kept" in once
    assert filled(once, {"streams": STREAMS})[0] == once


def test_growth_has_a_picture_for_each_axis_with_costs():
    page = "<!-- bench growth -->\n<!-- end -->\n"
    text, pictures = filled(page, {"growth": GROWTH})
    assert list(pictures) == ["growth-queued.svg"]
    assert "](benchmarks/growth-queued.svg)" in text
    assert "| 1,000 | 1.0 | 200.0 | 100.0 | 60 MiB |" in text


def test_pictures_are_well_formed_whatever_a_name_holds():
    names = {"<AgentCom> & co": 1.0, "other": 2.0}
    assert ET.fromstring(bar_chart("a & b", names)).tag.endswith("svg")
    lines = {"<line>": [(1_000.0, 3.0), (10.0, 2.0)]}
    assert ET.fromstring(line_chart("a < b", lines)).tag.endswith("svg")
