"""The viewer of a task's output, in a real browser, with output of all kinds and sizes."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import go
from tests.browser.test_pages import OUTPUT, ended, faults
from tests.browser.waits import eventually, height

LINES = 1_000_000
MEMORY = 200 * 1024 * 1024
LONG_MS = 120_000
COLOURED = (
    f"seq {LINES} | awk '{{printf \"\\033[32m%d\\033[0m line with some "
    "\\033[1;38;5;%dmcoloured\\033[0m text\\n\", $1, $1%256}'"
)
BAR = (
    r"for n in $(seq 0 50); do printf '\r%3d%%|\033[32mdone\033[0m|' $n >&2; "
    r"done; printf '\n' >&2; echo after"
)
SEARCH = "Search in Live output"


def shown(page):
    """What the lines in sight say, remarks left out."""
    return page.locator(f"{OUTPUT} .line:is(.stdout, .stderr) .lt").all_inner_texts()


def test_a_million_coloured_lines_are_read_searched_linked_and_taken_along(
    open_page, house
):
    task = house.submit("a million lines", shell={"command": COLOURED})
    page = open_page(f"task/{task}", width=1440)
    page.wait_for_selector("#task[data-state=completed]", timeout=LONG_MS)
    expect(page.locator(OUTPUT)).to_contain_text(f"{LINES} line with", timeout=LONG_MS)
    page.wait_for_selector(f"{OUTPUT}[aria-busy=false]", timeout=LONG_MS)
    box = page.locator(OUTPUT)
    assert box.evaluate("e => e.querySelectorAll('*').length") < 1000

    page.get_by_label(SEARCH).fill("LINE WITH SOME")
    hits = page.locator(".log-hits")
    expect(hits).to_have_text(re.compile(r"/1,000,000$"), timeout=LONG_MS)
    at = hits.inner_text().partition("/")[0].replace(",", "")
    page.get_by_label(SEARCH).press("Enter")
    expect(hits).to_have_text(re.compile(f"^{int(at) % LINES + 1:,}/"))
    expect(page.locator(f"{OUTPUT} mark.current")).to_have_text("line with some")

    go(page, f"task/{task}/L500000")
    expect(page.locator(f"{OUTPUT} .target .ln")).to_have_text("500000")
    expect(page.locator(f"{OUTPUT} .target .lt")).to_contain_text("500000 line with")
    box.evaluate("e => { e.scrollTop = 0 }")
    expect(page.locator(f"{OUTPUT} .stdout .ln").first).to_have_text("1")

    cdp = page.context.new_cdp_session(page)
    cdp.send("HeapProfiler.collectGarbage")
    heap = cdp.send("Runtime.getHeapUsage")
    assert heap["usedSize"] + heap["backingStorageSize"] < MEMORY
    with page.expect_download(timeout=LONG_MS) as download:
        page.get_by_role("button", name="Download").click()
    saved = hashlib.sha256(Path(download.value.path()).read_bytes()).hexdigest()
    printed = subprocess.run(COLOURED, shell=True, capture_output=True, check=True)
    assert saved == hashlib.sha256(printed.stdout).hexdigest()


def test_an_address_with_a_line_opens_there_and_shift_names_more(open_page, house):
    task = house.submit("numbers", shell={"command": "seq 5000"})
    page = open_page(f"task/{task}/L2500")
    expect(page.locator(f"{OUTPUT} .target .lt")).to_have_text("2500")
    page.locator(f"{OUTPUT} .ln", has_text=re.compile("^2504$")).click(
        modifiers=["Shift"]
    )
    expect(page.locator(f"{OUTPUT} .target")).to_have_count(5)
    expect(page).to_have_url(re.compile(f"#/task/{task}/L2500-L2504$"))
    page.reload()
    expect(page.locator(f"{OUTPUT} .target")).to_have_count(5)


def test_the_page_shows_where_the_output_of_a_flood_is_cut(open_page, house):
    before = house.submit("before", shell={"command": "echo here before"})
    ended(open_page(f"task/{before}"))
    usual = house.ask("/policy")["policy"]["limits"]["live_output_bytes"]

    def may_show(n):
        limits = {"live_output_bytes": n}
        return house.ask("/policy", {"policy": {"limits": limits}}, "PUT")["ok"]

    assert may_show(2_000)
    try:
        task = house.submit("a flood", shell={"command": "seq 100000"})
        page = open_page(f"task/{task}")
        ended(page)
        cut = page.locator(f"{OUTPUT} .line.status", has_text="output is cut here")
        expect(cut).to_contain_text("a run may show 2,000 bytes")
        lines = page.locator(f"{OUTPUT} .line.stdout")
        assert lines.count() < 1_000
        expect(page.locator("#result")).to_contain_text("head and tail of it")
    finally:
        # What a change does not name stays: it is put back by its name.
        assert may_show(usual)
    go(page, f"task/{before}")
    expect(page.locator(OUTPUT)).to_contain_text("here before")


@pytest.mark.parametrize("wraps", [True, False])
def test_numbers_of_lines_that_come_later_have_room(open_page, house, tmp_path, wraps):
    gate = tmp_path / "gate"
    waits = f"seq 5; while [ ! -e {gate} ]; do sleep 0.05; done; seq 6 20000"
    task = house.submit("numbers that grow", shell={"command": waits})
    page = open_page(f"task/{task}")
    expect(page.locator(OUTPUT)).to_contain_text("5")
    wrap = page.get_by_role("button", name="Wrap", exact=True)
    if (wrap.get_attribute("aria-pressed") == "true") is not wraps:
        wrap.click()
    gate.touch()
    expect(page.locator(OUTPUT)).to_contain_text("20000")
    number = page.locator(f"{OUTPUT} .line .ln", has_text=re.compile("^20000$"))
    room = "e => e.scrollWidth <= e.clientWidth"
    eventually(page, lambda: number.evaluate(room), wanted=True)


def test_a_bar_is_one_line_everywhere(open_page, house):
    hold = house.folder / "hold"
    task = house.submit(
        "a bar", shell={"command": f"{BAR}; until test -e {hold}; do sleep 0.1; done"}
    )
    page = open_page(f"task/{task}")
    expect(page.locator(OUTPUT)).to_contain_text("after")
    expect(page.locator(OUTPUT)).to_contain_text(" 50%")
    # Which of two streams comes first is not given.
    eventually(page, lambda: sorted(shown(page)), [" 50%|done|", "after"])
    go(page, "now")
    tail = page.locator(".card", has_text="a bar").locator(".tail")
    expect(tail).to_contain_text("after")
    bar = tail.locator("div", has_text="%")
    eventually(page, bar.all_inner_texts, [" 50%|done|"])
    hold.touch()
    go(page, f"task/{task}")
    ended(page)
    page.locator("#result summary").click()
    result = page.locator("#result-stderr .lt")
    expect(result).to_have_text([" 50%|done|"])


def test_only_stderr_times_and_wrapping_are_a_click_away(open_page, house):
    command = "echo out; echo err >&2; printf '%0500d\\n' 7; echo last"
    task = house.submit("shapes", shell={"command": command})
    page = open_page(f"task/{task}")
    ended(page)
    expect(page.locator(OUTPUT)).to_contain_text("last")
    # What came by two pipes is in the order in which it arrived, and the page says so.
    expect(page.locator(".pipes")).to_have_text("two streams, by arrival")
    long = page.locator(f"{OUTPUT} .lt", has_text=re.compile("0007$"))
    # It is wrapped, then no more.
    low = height(page.locator(f"{OUTPUT} .line.stderr .lt"))
    eventually(page, lambda: height(long) > 2 * low, True)
    page.get_by_role("button", name="Wrap").click()
    eventually(page, lambda: 0 < height(long) < 2 * low, True)
    page.get_by_label("Times in Live output").select_option("since start")
    expect(page.locator(f"{OUTPUT} time").first).to_have_text(re.compile(r"^\+"))
    page.get_by_role("button", name="stderr only").click()
    expect(page.locator(f"{OUTPUT} .line.stdout")).to_have_count(0)
    expect(page.locator(f"{OUTPUT} .line.stderr .lt")).to_have_text(["err"])
    page.get_by_role("button", name="Full height").click()
    full = page.locator(".log-view.full")
    eventually(page, lambda: height(full), page.viewport_size["height"])
    assert faults(page) == []
    # What is looked for, and where, is in the address.
    page.get_by_label(SEARCH).fill("err")
    expect(page.locator(".log-hits")).to_have_text("1/1")
    expect(page).to_have_url(re.compile(r"\?only=stderr&find=err$"))
    page.reload()
    expect(page.locator(".log-hits")).to_have_text("1/1")
    expect(page.locator(f"{OUTPUT} .line.stdout")).to_have_count(0)
    expect(page.get_by_label("Times in Live output")).to_have_value("since")
    expect(page.get_by_role("button", name="Wrap")).to_have_attribute(
        "aria-pressed", "false"
    )


def test_joiners_in_emoji_persian_and_hindi_are_text_and_elsewhere_are_shown(
    open_page, house
):
    words = "👨‍👩‍👧 می‌خواهم क्‍ष"
    task = house.submit(
        "joiners", shell={"command": f"echo '{words}'; echo 'a\u200db'"}
    )
    page = open_page(f"task/{task}")
    ended(page)
    expect(page.locator(OUTPUT)).to_contain_text(words)
    expect(page.locator(OUTPUT)).to_contain_text("a⟨200D⟩b")


def test_the_page_comes_compressed(house):
    for encoding in ("br", "gzip"):
        got = subprocess.run(
            [
                *("curl", "-sI", "-X", "GET", "-H", f"Accept-Encoding: {encoding}"),
                f"{house.base}/static/app.js",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.lower()
        assert f"content-encoding: {encoding}" in got
        assert "content-type: text/javascript" in got
        size = int(re.search(r"content-length: (\d+)", got)[1])
        assert size < 150_000


def test_the_page_brings_its_fonts(open_page, house):
    page = open_page("now")
    page.wait_for_function(
        "() => [...document.fonts].some("
        "font => font.family.includes('Inter') && font.status === 'loaded')"
    )
    served = page.request.get(f"{house.base}/static/mono.woff2")
    assert (served.status, served.headers["content-type"]) == (200, "font/woff2")


# Lets a test say things to the page as if its websocket had brought them.
KEEPS_SOCKET = """window.WebSocket = class extends WebSocket {
  constructor(...all) { super(...all); window.socket = this; }
};
window.hear = message => socket.onmessage({data: JSON.stringify(message)});
window.print = (task, from, to, text) => {
  for (let n = from; n < to; n += 1) hear({
    type: "execution_event", task_id: task, event_type: "stdout", route: "R", generation: 1,
    attempt: 1, segment: 0, timestamp: "2026-01-01T00:00:00Z", n: n + 1,
    text: Array.from({length: 1000}, (_, i) => `${1000 * n + i} ${text}\\n`).join(""),
  });
};"""


def hearing(page, task):
    """Have the page of a task hear what a test says; return its output."""
    ended(page)
    page.add_init_script(KEEPS_SOCKET)
    page.reload()
    box = page.locator(OUTPUT)
    expect(box).to_contain_text("first")
    return box


def test_the_reader_stays_where_the_first_half_of_a_log_is_let_go(open_page, house):
    task = house.submit("much", shell={"command": "echo first"})
    page = open_page(f"task/{task}")
    box = hearing(page, task)
    # A page holds 64 million characters.
    said = "([task, from, to]) => print(task, from, to, 'x'.repeat(990))"
    page.evaluate(said, [task, 0, 42])
    page.get_by_label(SEARCH).fill("40500 ")
    expect(page.locator(f"{OUTPUT} mark.current")).to_have_text("40500 ")
    down = """e => e.querySelector('mark.current').getBoundingClientRect().top
      - e.getBoundingClientRect().top"""
    before = box.evaluate(down)
    number = page.locator(f"{OUTPUT} .line", has=page.locator("mark")).locator(".ln")
    expect(number).to_have_text("40502")
    page.evaluate(said, [task, 42, 70])
    expect(page.locator(".log-cut")).to_contain_text("are too much for a page")
    expect(page.locator(".log-follow")).to_have_text("↓ 28,000 new")
    expect(number).to_have_text("40502")
    eventually(page, lambda: abs(box.evaluate(down) - before) < 2, wanted=True)
    expect(page.locator(".log-hits")).to_have_text("1/1")


def test_what_a_page_cannot_show_is_not_read_and_its_lines_are_counted(
    open_page, house
):
    task = house.submit("more than a page shows", shell={"command": "echo first"})
    page = open_page(f"task/{task}")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    hearing(page, task)
    place = {"seq": 2_000_000, "route": "R", "n": 1, "lines": 1_000_000}
    page.evaluate("hear", {"type": "skipped", "task_id": task, **place})
    page.evaluate("hear", {"type": "gap", "task_id": task, "lost": 1_000_000})
    page.evaluate("task => print(task, 0, 1, 'the end')", task)
    cut = page.locator(".log-cut")
    expect(cut).to_contain_text("the first 1,000,001 lines are too much for a page")
    last = page.locator(f"{OUTPUT} .stdout").last
    expect(last.locator(".ln")).to_have_text("1001001")
    expect(last.locator(".lt")).to_have_text("999 the end")
    read = next(url for url in asked if "ndjson" in url)
    assert read.endswith("?start=2000000")
