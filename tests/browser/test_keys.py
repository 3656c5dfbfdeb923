"""The page by keyboard: one search for everything, and a key for what is done often."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.conftest import go
from tests.browser.test_pages import faults, fits
from tests.browser.waits import notified


def test_one_search_finds_pages_actions_hosts_and_tasks(open_page, house):
    task = house.submit("a needle for the search", shell={"command": "true"})
    page = open_page("costs")
    expect(page.locator("#open-search kbd")).to_have_text("Ctrl K")
    page.keyboard.press("Control+k")
    search = page.locator("#palette")
    expect(search).to_be_focused()
    found = page.locator("#palette-found li")
    search.fill("needle for")
    expect(found).to_have_count(1)
    assert faults(page) == []
    search.press("Enter")
    expect(page.locator("#task h1")).to_have_text("a needle for the search")
    expect(page).to_have_url(re.compile(f"{task}$"))
    page.click("#open-search")
    search.fill("h1")
    expect(found.first).to_contain_text("host, up")
    search.press("Enter")
    expect(page.locator("#host-h1")).to_be_in_viewport()
    page.keyboard.press("Control+k")
    search.fill("submit")
    expect(found.first).to_contain_text("Submit a task")
    search.press("Enter")
    expect(page.locator("dialog textarea[name=description]")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_keys_lead_to_pages_and_along_the_tasks(open_page, house):
    for n in range(3):
        house.submit(f"in a row {n}", shell={"command": "true"})
    page = open_page("now")
    page.keyboard.type("gt")
    rows = page.locator("tr.task .c-text")
    for n in range(3):
        expect(rows.nth(n)).to_contain_text(f"in a row {2 - n}")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.locator("tr.task .c-text a").nth(1)).to_be_focused()
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page.locator("#task h1")).to_have_text("in a row 2")
    page.keyboard.type("gt")
    expect(page.locator("#task-filter")).to_be_visible()
    page.keyboard.press("/")
    expect(page.locator("#task-filter")).to_be_focused()
    # Where somebody writes, letters are letters.
    page.keyboard.type("gc?")
    expect(page.locator("#task-filter")).to_have_value("gc?")
    page.locator("#task-filter").blur()
    page.keyboard.press("?")
    expect(page.locator("dialog")).to_contain_text("the next task")


def test_sequence_and_lag_are_behind_the_connection_s_state(open_page, house):
    page = open_page("now", width=390)
    expect(page.locator("#last-seq")).to_be_hidden()
    page.locator(".health summary").click()
    expect(page.locator("#last-seq")).to_have_text(re.compile(r"^[\d,]+$"))
    fits(page)


def test_what_is_looked_at_in_events_and_decisions_is_in_the_address(open_page, house):
    page = open_page("events")
    page.fill("#subject-filter", "agentcom.evt.host.*")
    page.get_by_role("button", name="Filter").click()
    page.fill("#jump", "1")
    page.get_by_role("button", name="Jump").click()
    page.get_by_label("JSON").check()
    first = page.locator("#events li").first
    expect(first.locator("pre")).to_contain_text("host.joined.v1")
    seq = first.locator(".seq").inner_text()
    expect(page).to_have_url(
        re.compile(r"\?subject=agentcom\.evt\.host\.\*&from=1&json=yes$")
    )
    page.reload()
    expect(page.locator("#subject-filter")).to_have_value("agentcom.evt.host.*")
    expect(page.locator("#jump")).to_have_value("1")
    expect(first.locator(".seq")).to_have_text(seq)
    expect(first.locator("pre")).to_be_visible()
    page.get_by_role("button", name="Back to live").click()
    page.go_back()
    expect(page.get_by_role("button", name="Back to live")).to_be_visible()
    open_page.forgiven.append("400")
    go(page, "events?from=never")
    notified(page, "never")

    go(page, "routing")
    decisions = page.locator("#decisions")
    decisions.get_by_label("Tier").select_option("complex")
    decisions.get_by_label("fallbacks only").check()
    expect(page).to_have_url(re.compile(r"#/routing\?tier=complex&fell=yes$"))
    page.reload()
    expect(decisions.get_by_label("Tier")).to_have_value("complex")
    expect(decisions.get_by_label("fallbacks only")).to_be_checked()
    page.go_back()
    expect(decisions.get_by_label("fallbacks only")).not_to_be_checked()
