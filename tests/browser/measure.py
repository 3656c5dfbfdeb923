"""Measures the dashboard: many pages on a running system, a long table, a long log.

    python -m tests.browser.measure

What it prints is what docs/benchmarks.md says of the dashboard. `pages`, `table` or `log`
behind it measures that part alone.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psutil
from playwright.sync_api import sync_playwright

from events.codec import instant
from tests.browser.house import House, chromium
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog
from tests.support.histories import History, tell
from web.main import WebConfig, serve

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession

CLIENTS = 200
STREAMS = 50
CHANGES = 200
EVERY_S = 0.1
ROWS = 50_000
STREAM = (
    "$|=1; while (1) { print 'line ', $i++, \"\\n\"; select(undef, undef, undef, 0.1) }"
)
SEQ = re.compile(rb'"topic":"overview","seq":(\d+)')


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# -- many pages ------------------------------------------------------------------------


class Counts:
    """What the clients received."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[float, int]]] = []
        self.chunks = 0
        self.gaps = 0
        self.bytes = 0


async def client(
    session: aiohttp.ClientSession, house: House, task: str, counts: Counts
) -> None:
    seen: list[tuple[float, int]] = []
    counts.seen.append(seen)
    async with session.ws_connect(f"{house.base}/ws", max_msg_size=0) as socket:
        await socket.send_json({"op": "subscribe", "id": "o", "topic": "overview"})
        await socket.send_json(
            {"op": "subscribe", "id": "t", "topic": "task", "params": {"task_id": task}}
        )
        async for message in socket:
            raw = message.data.encode()
            counts.bytes += len(raw)
            found = SEQ.search(raw[:200])
            if found:
                seen.append((time.time(), int(found[1])))
            elif raw.startswith(b'{"type":"exec'):
                counts.chunks += 1
            elif raw.startswith(b'{"type":"gap"'):
                counts.gaps += 1


async def many_pages(house: House) -> None:
    tasks = [
        house.submit(
            f"stream {n}",
            shell={"command": f"exec perl -e '{STREAM}'".replace("'line '", '"line "')},
        )
        for n in range(STREAMS)
    ]
    while house.ask("/queue")["under_way"].get("running", 0) < STREAMS:
        await asyncio.sleep(0.2)
    web = web_process(house)
    began = web.memory_info().rss
    counts = Counts()
    headers = {"Authorization": f"Bearer {house.token}"}
    async with aiohttp.ClientSession(
        headers=headers, connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        clients = [
            asyncio.create_task(client(session, house, tasks[n % STREAMS], counts))
            for n in range(CLIENTS)
        ]
        stalled = await session.ws_connect(f"{house.base}/ws", max_msg_size=0)
        for n, task in enumerate(tasks[:20]):
            await stalled.send_json(
                {
                    "op": "subscribe",
                    "id": f"t{n}",
                    "topic": "task",
                    "params": {"task_id": task},
                }
            )
        stalled._response.connection.transport.pause_reading()
        await asyncio.sleep(5)
        settled = web.memory_info().rss
        cpu = web.cpu_times()
        chunks, started = counts.chunks, time.time()
        seqs = []
        for n in range(CHANGES):
            answer = await asyncio.to_thread(
                house.ask,
                "/tasks",
                {"description": f"change {n}", "assign_to": "nobody"},
            )
            seqs.append(answer["seq"])
            await asyncio.sleep(EVERY_S)
        await asyncio.sleep(2)
        took = time.time() - started
        used = web.cpu_times()
        ended = web.memory_info().rss
        for each in clients:
            each.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        stalled._response.connection.transport.abort()
    at = {seq: when(house, seq) for seq in seqs}
    late = sorted(delays(counts, at))
    missing = CLIENTS * CHANGES - len(late)
    say(f"{CLIENTS} pages, {STREAMS} streams, one page stalled, {took:.0f} s")
    say(
        f"a change reaches a page: p50 {1e3 * statistics.median(late):.0f} ms, "
        f"p95 {1e3 * late[int(len(late) * 0.95)]:.0f} ms, "
        f"p99 {1e3 * late[int(len(late) * 0.99)]:.0f} ms, most {1e3 * late[-1]:.0f} ms; "
        f"{len(late)} seen, {missing} missing"
    )
    say(
        f"live output: {(counts.chunks - chunks) / took:.0f} pieces a second, "
        f"{counts.gaps} gaps on pages that read; {counts.bytes / 1e6:.0f} MB in all"
    )
    say(
        f"web: {began / 2**20:.0f} MiB before, {settled / 2**20:.0f} MiB with the pages, "
        f"{ended / 2**20:.0f} MiB at the end; "
        f"{(used.user + used.system - cpu.user - cpu.system) / took:.0%} of a core"
    )
    for task in tasks:
        house.ask(f"/tasks/{task}/cancel", {})


def delays(counts: Counts, at: dict[int, float]) -> list[float]:
    found = []
    for seen in counts.seen:
        n = 0
        for seq, when_ in sorted(at.items()):
            while n < len(seen) and seen[n][1] < seq:
                n += 1
            if n < len(seen):
                found.append(seen[n][0] - when_)
    return found


def when(house: House, seq: int) -> float:
    (one,) = house.ask(f"/events?from={seq}&limit=1")["events"]
    return instant(one["event"]["at"])


def web_process(house: House) -> psutil.Process:
    for process in psutil.process_iter(["cmdline"]):
        line: list[str] = process.info["cmdline"] or []
        if "web" in line and str(house.data) in line:
            return process
    raise AssertionError("no web process")


# -- a long table ----------------------------------------------------------------------


class LongTable:
    """The web role over a log of many tasks, in a thread of its own."""

    def __init__(self) -> None:
        self.port = 0
        self.ready = threading.Event()
        self.stop: Any = None
        self.loop: Any = None
        self.thread = threading.Thread(target=lambda: asyncio.run(self.live()))

    async def live(self) -> None:
        history = History()
        history.join("h1")
        for n in range(ROWS):
            task = history.submit(
                f"task number {n} about {'needle' if n % 997 == 0 else 'hay'}"
            )
            if n % 2:
                route = history.route(task)
                history.start(route)
                history.complete(route, usd=0.01)
        log = MemoryLog()
        last = await tell(log, history.recorded)
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        config = WebConfig(store=None, port=0)

        def listening(port: int) -> None:
            self.port = port
            say(f"{ROWS} tasks, {last} events")
            self.ready.set()

        await serve(log, MemoryBus(MemoryBroker()), config, self.stop, ready=listening)


FRAMES = """async () => {
  const grid = document.querySelector('.grid');
  const gaps = []; let last = performance.now();
  for (let n = 0; n < 240; n += 1) {
    grid.scrollTop += 400;
    await new Promise(requestAnimationFrame);
    const now = performance.now(); gaps.push(now - last); last = now;
  }
  gaps.sort((a, b) => a - b);
  return [gaps[120], gaps[228], gaps[239]];
}"""
FILTER = """async (text) => {
  const input = document.querySelector('#task-filter');
  const total = document.querySelector('#task-total');
  const before = total.textContent;
  const changed = new Promise(done => new MutationObserver((_, me) => {
    if (total.textContent !== before) { me.disconnect(); done(); }
  }).observe(total, {childList: true, characterData: true, subtree: true}));
  const began = performance.now();
  input.value = text; input.dispatchEvent(new Event('input', {bubbles: true}));
  await changed;
  await new Promise(requestAnimationFrame);
  return [performance.now() - began, total.textContent];
}"""


def long_table() -> None:
    table = LongTable()
    table.thread.start()
    table.ready.wait()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"http://127.0.0.1:{table.port}/#/tasks")
        page.wait_for_function(
            f"() => document.querySelector('#task-total')?.textContent === '{ROWS:,}'",
            timeout=120_000,
        )
        page.wait_for_timeout(1_000)
        for label in ("cold", "warm"):
            p50, p95, most = page.evaluate(FRAMES)
            say(
                f"scrolling ({label}): frames p50 {p50:.0f}, p95 {p95:.0f}, most {most:.0f} ms"
            )
        for text in ("needle", "hay", "number 4999", ""):
            took, total = page.evaluate(FILTER, text)
            say(f"filter {text!r}: {took:.0f} ms to {total} tasks")
        browser.close()
    table.loop.call_soon_threadsafe(table.stop.set)
    table.thread.join()


# -- a long log ------------------------------------------------------------------------

LINES = 1_000_000
COLOURED = (
    f"seq {LINES} | awk '{{printf \"\\033[32m%d\\033[0m line with some "
    "\\033[1;38;5;%dmcoloured\\033[0m text\\n\", $1, $1%256}'"
)
SCROLLED = """async (step) => {
  const box = document.querySelector('#execution-output');
  box.scrollTop = 0;
  for (let n = 0; n < 20; n += 1) await new Promise(requestAnimationFrame);
  const gaps = [], own = []; let last = performance.now();
  for (let n = 0; n < 300; n += 1) {
    const began = performance.now();
    box.scrollTop += step;
    box.dispatchEvent(new Event('scroll'));
    box.getBoundingClientRect();
    own.push(performance.now() - began);
    await new Promise(requestAnimationFrame);
    const now = performance.now(); gaps.push(now - last); last = now;
  }
  gaps.sort((a, b) => a - b); own.sort((a, b) => a - b);
  return [gaps[150], gaps[285], gaps[299], own[150], own[285]];
}"""


def busy(cdp: CDPSession) -> float:
    """The CPU seconds that the tab's main thread has worked."""
    metrics = cdp.send("Performance.getMetrics")["metrics"]
    return next(each["value"] for each in metrics if each["name"] == "TaskDuration")


def long_log(house: House) -> None:
    task = house.submit("a million lines", shell={"command": COLOURED})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(300_000)
        page.goto(house.address)
        page.wait_for_selector("#connection:text-is('live')")
        page.evaluate("hash => { location.hash = hash }", f"#/task/{task}")
        page.wait_for_selector("#task[data-state=completed]")
        page.wait_for_selector(f"#execution-output >> text={LINES} line with")
        page.wait_for_selector("#execution-output[aria-busy=false]")
        cdp = page.context.new_cdp_session(page)
        cdp.send("Performance.enable", {"timeDomain": "threadTicks"})
        for what, step in (("a line a frame", 18), ("a page", 700), ("fast", 60_000)):
            before = busy(cdp)
            p50, p95, most, own, own95 = page.evaluate(SCROLLED, step)
            cpu = 1e3 * (busy(cdp) - before) / 320
            say(
                f"{LINES} lines, scrolled {what}: frames p50 {p50:.0f}, "
                f"p95 {p95:.0f}, most {most:.0f} ms; the page's own part of a frame "
                f"p50 {own:.1f}, p95 {own95:.1f} ms, the main thread's CPU {cpu:.1f} ms a frame"
            )
        page.evaluate("hash => { location.hash = hash }", f"#/task/{task}/L500000")
        page.wait_for_selector("#execution-output .target >> text=500000 line with")
        heap = cdp.send("Runtime.getHeapUsage")
        held = heap["usedSize"] + heap["backingStorageSize"]
        say(f"the tab holds {held / 1e6:.0f} MB")
        browser.close()


def main() -> None:
    """Measure what is named, or all of it."""
    wanted = set(sys.argv[1:]) or {"table", "log", "pages"}
    if "table" in wanted:
        long_table()
    with (
        tempfile.TemporaryDirectory() as folder,
        House(Path(folder), shell_slots=STREAMS) as house,
    ):
        if "log" in wanted:
            long_log(house)
        if "pages" in wanted:
            asyncio.run(many_pages(house))
    say(json.dumps({"cores": psutil.cpu_count()}))


if __name__ == "__main__":
    main()
