"""The table of tasks: its address, its columns, and one command for many."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import go
from tests.browser.test_pages import faults
from tests.browser.waits import confirm, edge, eventually, notified

TOTAL = "#task-total"


def query(page):
    """What the address says behind its page."""
    return page.evaluate(
        "Object.fromEntries(new URLSearchParams(location.hash.split('?')[1] ?? ''))"
    )


@pytest.fixture(scope="module")
def many(house):
    """Sixty tasks that wait, of two teams, and three that have failed."""
    for start in range(0, 60, 30):
        answer = house.ask(
            "/tasks/batch",
            {
                "tasks": [
                    {
                        "description": f"many-{n} waits",
                        "assign_to": "nobody-yet",
                        "labels": {"team": "red" if n % 2 else "blue"},
                    }
                    for n in range(start, start + 30)
                ]
            },
        )
        assert answer["ok"], answer
    for n in range(3):
        house.submit(f"many-{n} fails", shell={"command": f"exit {n + 1}"})


def test_filters_order_and_place_are_in_the_address(open_page, house, many):
    page = open_page("tasks")
    page.fill("#task-filter", "many-")
    page.get_by_label("label", exact=True).fill("team=red")
    expect(page.locator(TOTAL)).to_have_text("30")
    # The counts are of what the filter finds.
    expect(page.locator(".chips")).to_have_text("all 30waiting 30")
    page.get_by_role("button", name="State").click()
    page.locator(".grid").evaluate("e => { e.scrollTop = 480 }")
    page.wait_for_function("() => location.hash.includes('from=10')")
    said = {"text": "many-", "label": "team=red", "sort": "-updated", "from": "10"}
    eventually(page, lambda: query(page), said)
    address = page.evaluate("location.href")
    page.reload()
    expect(page.locator(TOTAL)).to_have_text("30")
    expect(page.get_by_label("label", exact=True)).to_have_value("team=red")
    page.wait_for_function("() => document.querySelector('.grid').scrollTop === 480")
    # One in sight, for which nothing has to be scrolled: five are drawn above it.
    page.locator("tr.task .c-text a").nth(8).click()
    page.wait_for_selector("#task")
    page.go_back()
    expect(page.locator(TOTAL)).to_have_text("30")
    page.wait_for_function("() => document.querySelector('.grid').scrollTop === 480")
    expect(page).to_have_url(address)
    # What was chosen by a click is a step that one can go back.
    page.get_by_role("button", name=re.compile("^waiting")).click()
    eventually(page, lambda: query(page).get("state"), "waiting")
    page.go_back()
    expect(page.get_by_role("button", name=re.compile("^all"))).to_have_attribute(
        "aria-pressed", "true"
    )


def test_a_view_is_kept_under_a_name_found_again_and_let_go(open_page, house, many):
    page = open_page("tasks?text=many-&label=team%3Dred")
    expect(page.locator(TOTAL)).to_have_text("30")
    page.click("#save-view")
    page.locator("dialog input[name=name]").fill("Red team")
    assert faults(page) == []
    page.keyboard.press("Enter")
    view = page.get_by_label("View", exact=True)
    expect(view.locator("option:checked")).to_have_text("Red team")
    view.select_option("Waiting, oldest first")
    expect(page.get_by_label("label", exact=True)).to_have_value("")
    eventually(page, lambda: query(page), {"state": "waiting", "sort": "submitted"})
    page.reload()
    # A key is heard once the page is there.
    page.wait_for_selector("#connection:text-is('live')")
    go(page, "costs")
    page.keyboard.press("Control+k")
    page.locator("#palette").fill("red te")
    expect(page.locator("#palette-found li").first).to_contain_text("Red team")
    page.locator("#palette").press("Enter")
    expect(page.locator(TOTAL)).to_have_text("30")
    page.get_by_role("button", name="Forget this view").click()
    expect(page.locator("#save-view")).to_be_visible()
    page.reload()
    expect(view.locator("option", has_text="Red team")).to_have_count(0)


def test_what_is_no_address_is_said_and_leads_on(open_page, house):
    page = open_page("task/100%")
    expect(page.locator("#not-found")).to_contain_text("after % come two digits")
    expect(page).to_have_title(re.compile("Not found · AgentCom$"))
    go(page, "nowhere")
    expect(page.locator("#not-found")).to_contain_text("no page “nowhere”")
    page.locator("#not-found a", has_text="Fleet").click()
    expect(page.locator("#host-h1")).to_be_visible()
    go(page, "task/nobody-knows-it")
    expect(page.locator("#not-found")).to_contain_text("There is no such task")
    assert faults(page) == []


@pytest.mark.parametrize("width", [701, 720, 768, 900, 1024, 1280, 1440])
def test_the_task_s_column_is_never_narrow(open_page, house, many, width):
    page = open_page("tasks?text=many-", width=width)
    expect(page.locator("tr.task").first).to_be_visible()
    column = page.locator("td.c-text").first
    eventually(page, lambda: edge(column, "width") >= 320, True)
    clipped = "all => all.filter(e => e.scrollWidth > e.clientWidth).length"
    eventually(page, lambda: page.locator("td.c-age").evaluate_all(clipped), 0)


def test_what_waits_has_told_nothing_of_what_it_costs(open_page, house, many):
    page = open_page("tasks?text=many-&state=waiting")
    row = page.locator("tr.task").first
    expect(row.locator(".c-tokens")).to_have_text("–")
    expect(row.locator(".c-cost")).to_have_text("–")


def test_failed_rows_say_why_and_how_long_they_took(open_page, house, many):
    page = open_page("tasks?state=failed&text=many-2")
    expect(page).to_have_title(re.compile("failed tasks · AgentCom$"))
    row = page.locator("tr.task", has_text="many-2 fails")
    expect(row.locator(".c-tokens")).to_have_text("0")
    expect(row.locator("small .bad")).to_have_text("exit_code: exit code 3")
    expect(row.locator(".c-age")).to_have_text(re.compile(r"(ms|s).* ago$"))


def test_chosen_rows_are_cancelled_and_a_range_is_chosen_with_shift(
    open_page, house, many
):
    page = open_page("tasks?text=many-&state=waiting&label=team%3Dblue")
    boxes = page.locator("td.c-pick input")
    expect(page.locator(TOTAL)).to_have_text("30")
    boxes.nth(1).click()
    boxes.nth(4).click(modifiers=["Shift"])
    confirm(page, "Cancel 4 chosen", "Cancel 4?")
    notified(page, "cancel: 4 of 4 tasks.")
    expect(page.locator(TOTAL)).to_have_text("26")
    expect(page.get_by_role("button", name="Cancel 26 waiting")).to_be_visible()


def test_five_thousand_are_cancelled_by_one_command_and_none_is_refused(
    open_page, house
):
    for _ in range(5):
        tasks = [
            {"description": "of-5000 waits", "assign_to": "ghost"} for _ in range(1000)
        ]
        assert house.ask("/tasks/batch", {"tasks": tasks})["ok"]
    page = open_page("tasks?text=of-5000")
    expect(page.locator(TOTAL)).to_have_text("5,000")
    asked = []
    page.on("request", lambda one: asked.append(one.url) if "/api/" in one.url else 0)
    confirm(page, "Cancel 5,000 waiting", "Cancel 5,000?")
    notified(page, "cancel: 5,000 of 5,000 tasks.")
    assert {url.rpartition("/")[2] for url in asked} == {"bulk?wait=0"}
    assert len(asked) < 20
