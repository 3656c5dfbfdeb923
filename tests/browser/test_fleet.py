"""A fleet of thirty hosts and more: found, ordered, those with a problem first."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect

from events import catalogue as c
from tests.browser.recorded import Recorded
from tests.browser.test_pages import faults, fits
from tests.support.histories import History

HOSTS = 34


@pytest.fixture(scope="module")
def fleet():
    """Thirty-four hosts: one lost, one draining, one whose model server is away."""
    history = History()
    history.now = time.time() - 600
    for n in range(HOSTS):
        history.join(f"host-{n:02}", models=("llama3.2", f"own-{n}"))
    history.lose("host-07")
    history.host_says(c.HostDraining, "host-11", reason="a new disk")
    history.host_says(
        c.EndpointDown,
        "host-22",
        endpoint="host-22-ollama",
        kind="ollama",
        reason="refused",
    )
    with Recorded(history) as recorded:
        yield recorded


@pytest.mark.parametrize("width", [1440, 320])
def test_thirty_hosts_are_lines_with_problems_first(open_page, house, fleet, width):
    page = open_page(width=width)
    page.goto(fleet.address + "#/fleet")
    lines = page.locator(".host-line summary")
    expect(lines).to_have_count(HOSTS - 1)
    expect(page.locator("#lost li")).to_contain_text("host-07")
    expect(lines.nth(0)).to_contain_text("host-22")
    expect(lines.nth(0)).to_contain_text("1 of 1 endpoints down")
    expect(lines.nth(1)).to_contain_text("host-11")
    assert faults(page) == []
    fits(page)


def test_hosts_are_found_and_ordered_and_the_address_says_so(open_page, house, fleet):
    page = open_page()
    page.goto(fleet.address + "#/fleet")
    lines = page.locator(".host-line summary")
    page.get_by_role("button", name="with problems").click()
    expect(lines).to_have_count(2)
    page.get_by_label("Order").select_option("name")
    expect(lines.nth(0)).to_contain_text("host-11")
    page.reload()
    expect(lines).to_have_count(2)
    expect(page.get_by_label("Order")).to_have_value("name")
    page.get_by_role("button", name="all").click()
    page.fill("#host-filter", "own-3")
    expect(page.locator("#hosts-shown")).to_have_text("5 of 33 hosts")
    page.fill("#host-filter", "own-31")
    expect(page.locator("#hosts-shown")).to_have_text("1 of 33 hosts")
    lines.first.click()
    expect(page.locator("#host-host-31 table")).to_contain_text("host-31-ollama")
    # A model's hosts are named where columns would be too many.
    row = page.locator("#models tbody tr", has_text="llama3.2")
    expect(row).to_contain_text("hosts have llama3.2")
    expect(row).to_contain_text("and 20 more")
    page.goto(fleet.address + "#/fleet/host-30")
    expect(page.locator("#host-host-30")).to_be_in_viewport()
