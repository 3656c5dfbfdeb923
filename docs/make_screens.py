"""Makes the README's pictures from a running AgentCom with simulated backends.

    python -m docs.make_screens

It starts a house as the browser tests do, gives it work of every kind, and takes pictures
while it runs, in Chromium, into docs/screens.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

from tests.browser.house import House, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Page

SCREENS = Path(__file__).parent / "screens"
PAGES = ("now", "tasks", "fleet", "routing", "costs")
SHELL = {
    "Run the unit tests of the parser": "for i in 1 2 3 4 5; do echo test $i ok; done",
    "Count the lines of each module": "echo '  412 parser.py'; echo '  198 lexer.py'",
    "Check that no file has trailing spaces": "echo 'README.md:3' >&2; exit 1",
    "List what changed since the last release": "echo '14 files changed'",
}
ASKED = (
    "Explain in two sentences what the lexer does, for somebody new to the project",
    "Write a docstring for the function that merges two sorted lists of intervals",
    "Suggest three clearer names for the module that holds the retry rules",
)
LONG = (
    "for i in $(seq 1 400); do printf '\\033[32mok\\033[0m   case %s\\n' $i; "
    'test $((i % 7)) = 0 && echo "slow: case $i took 210 ms" >&2; sleep 0.1; done'
)


def main() -> None:
    """Make them all."""
    SCREENS.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        House(Path(folder), tokens_per_s=14) as house,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(house.address)
        running = give_work(house)
        page.wait_for_selector("#connection:text-is('live')")
        show(page, f"task/{running}")
        page.wait_for_selector("#execution-output >> text=case 24")
        page.locator("#execution-output").scroll_into_view_if_needed()
        take(page, "task")
        for name in PAGES:
            show(page, name)
            if name == "routing":
                look_back(page)
            take(page, name)
        page.emulate_media(color_scheme="dark")
        show(page, "now")
        take(page, "now-dark")
        page.set_viewport_size({"width": 390, "height": 844})
        show(page, "tasks")
        take(page, "tasks-narrow")
        house.ask(f"/tasks/{running}/cancel", {})
        browser.close()


def give_work(house: House) -> str:
    """Submit work of every kind; return a task that runs for a while."""
    for description, command in SHELL.items():
        house.submit(description, shell={"command": command})
    for description in ASKED * 2:
        house.submit(description, tier="standard")
    house.submit(
        "Refactor the scheduler so that retries live in one place, with tests",
        tier="complex",
        priority="high",
    )
    return house.submit("Run the slow integration suite", shell={"command": LONG})


def show(page: Page, path: str) -> None:
    """Go to a page and let it settle."""
    page.evaluate("hash => { location.hash = hash }", f"#/{path}")
    page.wait_for_selector(".page")
    page.wait_for_timeout(900)


def look_back(page: Page) -> None:
    """Show the queue as it was while much waited."""
    show(page, "routing?at=24")
    page.wait_for_selector("#then[data-seq='24']")
    page.locator("#past").evaluate("past => past.scrollIntoView({block: 'start'})")
    page.mouse.wheel(0, -60)
    page.wait_for_timeout(300)


def take(page: Page, name: str) -> None:
    """Take a picture."""
    path = SCREENS / f"{name}.png"
    page.screenshot(path=path)
    sys.stdout.write(f"{path} {path.stat().st_size // 1024} KiB\n")


if __name__ == "__main__":
    main()
