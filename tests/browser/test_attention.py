"""What wants a person, on the page: each cause one line, with its one action."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import go
from tests.browser.test_pages import faults

STUCK = 470
CAUSES = {3: 12, 4: 7, 5: 4}


@pytest.fixture(scope="module")
def troubles(house):
    """Tasks for a host that does not exist, failures of three causes, an outage."""
    house.ask(
        "/tasks/batch",
        {
            "tasks": [
                {"description": f"stuck {n}", "assign_to": "ghost"}
                for n in range(STUCK)
            ]
        },
    )
    for code, n in CAUSES.items():
        command = f"echo cause {code} >&2; exit {code}"
        tasks = [
            {
                "description": f"fails {code}",
                "shell": {"command": command},
                "retries": 0,
            }
        ] * n
        assert house.ask("/tasks/batch", {"tasks": tasks})["ok"]


def test_each_cause_is_one_line_with_its_action_and_the_title_counts(
    open_page, house, troubles
):
    page = open_page("now")
    rows = page.locator("#attention li")
    stuck = page.locator("#attention li[data-kind=stuck]")
    expect(stuck).to_contain_text(
        f"{STUCK} tasks wait for host ghost, which has never joined"
    )
    failures = page.locator("#attention li[data-kind=failures]")
    expect(failures).to_have_count(3)
    for code, n in CAUSES.items():
        row = failures.filter(has_text=f"exit code {code}")
        expect(row).to_contain_text(f"{n} tasks failed in the last hour")
        expect(row.get_by_role("button", name=f"Retry all {n}")).to_be_visible()
    house.call(house.line.cut())
    try:
        down = page.locator("#attention li[data-kind=tier_down]")
        expect(down).to_contain_text("The standard tier is down")
        n = rows.count()
        expect(page.locator(".standing .badge.alert")).to_have_text(f"{n} issues")
        assert page.title() == f"({n}) Now · AgentCom"
        icon = page.locator("link[rel=icon]")
        assert icon.get_attribute("href").endswith("/favicon-alert.svg")
        assert page.request.get(icon.evaluate("e => e.href")).ok
        assert faults(page) == []
    finally:
        house.call(house.line.restore())
    expect(down).to_have_count(0)


def test_the_line_leads_to_its_tasks_and_retries_them_all(open_page, house, troubles):
    page = open_page("now")
    row = page.locator("#attention li[data-kind=failures]", has_text="exit code 4")
    row.get_by_role("link", name="Show 7").click()
    expect(page.locator("#task-total")).to_have_text("7")
    expect(page.locator("tr.task .state-failed")).to_have_count(7)
    page.go_back()
    row.get_by_role("button", name="Retry all 7").click()
    row.get_by_role("button", name="Retry all 7?").click()
    expect(page.locator(".notices")).to_contain_text("retry: 7 of 7 tasks.")


def test_a_line_is_put_aside_and_stays_so(open_page, house, troubles):
    page = open_page("now")
    row = page.locator("#attention li[data-kind=failures]", has_text="exit code 5")
    row.get_by_role("button", name="Dismiss").click()
    expect(row).to_have_count(0)
    page.reload()
    expect(page.locator("#attention li[data-kind=stuck]")).to_be_visible()
    expect(row).to_have_count(0)
    # More of the same brings it back.
    house.submit("fails 5", shell={"command": "echo cause 5 >&2; exit 5"}, retries=0)
    expect(row).to_have_count(1)


def test_what_nobody_can_run_is_cancelled_from_its_line(open_page, house, troubles):
    page = open_page("now", width=390)
    row = page.locator("#attention li[data-kind=stuck]")
    row.get_by_role("button", name=re.compile(f"^Cancel all {STUCK}$")).click()
    row.get_by_role("button", name=f"Cancel all {STUCK}?").click()
    expect(page.locator(".notices")).to_contain_text(
        f"cancel: {STUCK} of {STUCK} tasks."
    )
    expect(row).to_have_count(0)
    assert faults(page) == []
    go(page, "fleet/h1")
    expect(page.locator("#host-h1")).to_be_in_viewport()
