"""Waiting for what a page comes to show: what is read once may be read too early.

`page.wait_for_function` is to get a function, `"() => …"`: an expression is evaluated again
and again, which the page's content security policy forbids, if it is not true at once.

eventually(page, lambda: query(page), {"state": "waiting"})
confirm(page, "Cancel", "Cancel it?")
notified(page, "was submitted")
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from playwright.sync_api import Error, expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Locator, Page

T = TypeVar("T")
WAIT_MS = 60_000

expect.set_options(timeout=WAIT_MS)

# Runs in every page before the page's own code: keeps each notice that was ever shown.
KEEPS_NOTICES = """addEventListener('DOMContentLoaded', () => {
  window.said = [];
  const look = () => {
    for (const { textContent } of document.querySelectorAll('.notices p'))
      if (!window.said.includes(textContent)) window.said.push(textContent);
  };
  new MutationObserver(look).observe(document.body, {childList: true, subtree: true});
})"""

WITNESS = """selector => {
  window.seen = false;
  const look = () => { window.seen ||= document.querySelector(selector) !== null; };
  new MutationObserver(look).observe(
    document.body, {childList: true, characterData: true, subtree: true, attributes: true});
  look();
}"""


def eventually(page: Page, look: Callable[[], T], wanted: T) -> None:
    """Look again and again until it is as `wanted`; fail with what it was last."""
    until = time.monotonic() + WAIT_MS / 1_000
    while (seen := look()) != wanted and time.monotonic() < until:
        page.wait_for_timeout(100)
    assert seen == wanted


def notified(page: Page, text: str) -> None:
    """Wait until a notice has said `text`, though it may have gone since."""
    until = time.monotonic() + WAIT_MS / 1_000
    while True:
        said = page.evaluate("window.said")
        if any(text in each for each in said):
            return
        assert time.monotonic() < until, f"{text!r} is in none of {said}"
        page.wait_for_timeout(100)


def confirm(scope: Page | Locator, label: str, question: str) -> None:
    """Click what asks once more, and say yes. The question is taken back after a while."""
    scope.get_by_role("button", name=label, exact=True).click()
    scope.get_by_role("button", name=question, exact=True).click()


def witness(page: Page, selector: str) -> None:
    """Watch from now on for what may be there for a moment alone; see `seen`."""
    page.evaluate(WITNESS, selector)


def seen(page: Page) -> None:
    """Wait until what `witness` watches for has been there."""
    page.wait_for_function("() => window.seen")


def edge(locator: Locator, name: str) -> float:
    """Its x, y, width or height in px; 0 where it is not drawn."""
    try:
        box = locator.bounding_box()
    except Error:  # drawn anew in this moment
        return 0.0
    return float(box[name]) if box else 0.0  # type: ignore[literal-required]


def height(locator: Locator) -> float:
    """How high it is in px; 0 where it is not drawn."""
    return edge(locator, "height")
