"""What is planned, and what comes after what, on the page."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.test_pages import faults
from tests.browser.waits import confirm

HOSTILE = "<script>alert(2)</script>"


def test_a_graph_is_drawn_on_the_pages_of_its_tasks_and_leads_along_it(
    open_page, house
):
    tasks = [
        {"description": "build it", "name": "build", "shell": {"command": "true"}},
        {
            "description": HOSTILE,
            "shell": {"command": "true"},
            "after": ["build"],
            "at": "2099-01-01T00:00:00Z",
        },
    ]
    first, second = house.ask("/tasks/batch", {"tasks": tasks})["task_ids"]
    page = open_page(f"task/{second}")
    graph = page.locator("#graph")
    expect(graph.locator("a")).to_have_count(2)
    expect(graph).to_contain_text("build")
    expect(graph).to_contain_text("<script>alert(2)")
    expect(graph).to_contain_text("completed")
    expect(page.locator("#task")).to_contain_text("It is not to start before")
    assert faults(page) == []
    graph.locator(f"a[href='#/task/{first}']").click()
    expect(page.locator("#task h1")).to_have_text("build it")
    expect(graph.locator("path.edge")).to_have_count(1)
    house.ask(f"/tasks/{second}/cancel", {})


def test_a_schedule_is_seen_run_paused_and_removed_from_the_page(open_page, house):
    pytest.importorskip("cronsim", reason="this environment is older than its checkout")
    page = open_page("now")
    page.keyboard.type("gs")
    expect(page.locator("#schedules")).to_contain_text("Nothing is planned")
    body = {
        "schedule": "yearly",
        "cron": "0 3 1 1 *",
        "tz": "Europe/Berlin",
        "task": {"description": HOSTILE, "shell": {"command": "true"}},
    }
    assert house.ask("/schedules", body)["ok"]
    panel = page.locator("#schedule-yearly")
    expect(panel).to_contain_text(HOSTILE)
    expect(panel.locator("details time")).to_have_count(11)
    panel.get_by_role("button", name="Run now").click()
    expect(panel.locator("tbody .state-completed")).to_be_visible()
    assert faults(page) == []
    panel.get_by_role("button", name="Pause").click()
    expect(panel).to_contain_text("Paused")
    panel.get_by_role("button", name="Resume").click()
    expect(panel).not_to_contain_text("Paused")
    confirm(panel, "Remove", "Remove it?")
    expect(panel).to_have_count(0)
