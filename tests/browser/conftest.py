"""One house for all tests of this folder, and a browser; each test gets its own page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

from tests.browser.house import House, chromium
from tests.browser.waits import KEEPS_NOTICES, WAIT_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Iterator[House]:
    """A running AgentCom on simulated backends."""
    with House(tmp_path_factory.mktemp("house")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium; its loop must not run while other tests need theirs."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox"]
        )
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser, house):
    """Open the dashboard as a person does; the browser must never complain.

    A complaint with one of the words in `open_page.forgiven` is expected.
    """
    complaints: list[str] = []
    forgiven: list[str] = []
    opened = []

    def open_(path: str = "", *, width: int = 1280, dark: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            accept_downloads=True,
        )
        opened.append(context)
        context.add_init_script(KEEPS_NOTICES)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda said: heard(said.type, said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(house.address)
        page.wait_for_selector("#connection:text-is('live')")
        if path:
            go(page, path)
        return page

    def heard(kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            complaints.append(f"{kind}: {text}")

    open_.forgiven = forgiven
    yield open_
    for context in opened:
        context.close()
    left = [said for said in complaints if not any(word in said for word in forgiven)]
    assert left == []


def go(page: Page, path: str) -> None:
    """Go to a page of the dashboard, and wait until it is there."""
    page.evaluate("hash => { location.hash = hash }", f"#/{path}")
    name, _, rest = path.partition("?")[0].partition("/")
    page.wait_for_function(
        "place => [place, 'not-found'].includes("
        "document.getElementById('main')?.dataset.place)",
        arg=f"{name}/{rest.partition('/')[0]}",
    )
