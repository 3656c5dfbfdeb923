"""Costs for who pays: by submitter and label, with what would be saved marked as such."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from events import catalogue as c
from events.codec import decode_event, encode
from projections.queries import Queries
from projections.questions import AskCosts
from projections.runner import Runner
from projections.store import Store
from tests.browser.conftest import go
from tests.browser.house import House
from tests.browser.test_pages import ended, faults
from tests.browser.waits import eventually
from tests.support.fakes import MemoryLog
from tests.support.histories import tell


@pytest.fixture
def house(tmp_path):
    """A house for each test: its books hold what the test itself has booked."""
    with House(tmp_path) as running:
        yield running


def rows(page):
    """What the table says: each row's key and dollars."""
    # In one reading: the table is drawn anew meanwhile, perhaps with fewer rows.
    read = "rows => rows.map(row => [row.cells[0].innerText, row.cells[7].innerText])"
    return dict(page.locator("#costs-by tbody tr").evaluate_all(read))


def folded(house, by):
    """What the whole log says of costs, folded by somebody who has kept nothing."""
    history, following = [], 1
    while following:
        page = house.ask(f"/events?from={following}&limit=1000")
        following = page["next"]
        history += [
            c.Recorded(
                each["seq"],
                each["subject"],
                decode_event(json.dumps(each["event"]).encode()),
            )
            for each in page["events"]
        ]

    async def fold():
        log = MemoryLog()
        runner = Runner(log, Store())
        await runner.start()
        assert await runner.wait_for(await tell(log, history), 60)
        queries = Queries(runner, log, clock=lambda: 0.0, now=lambda: 0.0)
        answer = await queries.costs(AskCosts(by=by))
        await runner.stop()
        return json.loads(encode(answer))["lines"]

    return house.call(fold())


def said(house, by):
    """What the command line says."""
    command = ("costs", "--data", str(house.data), "--by", by, "--json")
    done = subprocess.run(
        (sys.executable, "-m", "agentcom", *command),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)["lines"]


def dollars_of(lines):
    """Each line's dollars as the page writes them."""
    return {line["key"]: f"${line['cost_usd']:.4f}" for line in lines}


def test_by_submitter_and_label_page_and_command_line_agree(open_page, house):
    tasks = [
        house.submit("Refactor it", tier="complex", labels={"team": team})
        for team in ("red", "red", "blue")
    ]
    blue = {"labels": {"team": "blue"}}
    house.ended(*tasks, house.submit("Say something kind", tier="standard", **blue))
    page = open_page("costs?by=submitter")
    expect(page.locator("#costs-by tbody tr")).to_have_count(1)
    page.get_by_label("By label").fill("team")
    page.get_by_role("button", name="By label").click()
    expect(page.locator("#costs-by h2")).to_have_text("By label team")
    expect(page).to_have_url(re.compile("by=label%3Ateam"))
    expect(page.locator("#costs-by tbody tr")).to_have_count(2)
    # Page and command line say to the last digit what the log adds up to, folded anew.
    lines = folded(house, "label:team")
    eventually(page, lambda: rows(page), dollars_of(lines))
    assert said(house, "label:team") == lines
    assert house.ask("/costs?by=label:team")["lines"] == lines
    page.get_by_role("button", name="submitter").click()
    expect(page.locator("#costs-by h2")).to_have_text("By submitter")
    lines = folded(house, "submitter")
    eventually(page, lambda: rows(page), dollars_of(lines))
    assert said(house, "submitter") == lines
    assert house.ask("/costs?by=submitter")["lines"] == lines
    page.go_back()
    # A row leads to its tasks.
    page.locator("#costs-by a", has_text="red").click()
    expect(page.locator("#task-total")).to_have_text("2")


def test_a_span_is_in_the_address_and_changes_against_the_one_before_are_said(
    open_page, house
):
    task = house.submit("Refactor it", tier="complex")
    page = open_page(f"task/{task}")
    ended(page)
    go(page, "costs")
    page.get_by_role("button", name="today").click()
    expect(page).to_have_url(re.compile(r"#/costs\?days=1$"))
    figures = page.locator(".figures").first
    expect(figures).to_contain_text("the span before")
    expect(page.get_by_role("heading", name="By hour")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="today")).to_have_attribute(
        "aria-pressed", "true"
    )

    def pointed():
        # A chart that is drawn anew, as an hour begins, has forgotten where one points.
        page.mouse.move(0, 0)
        page.locator(".u-over").hover()
        return bool(re.search(r"Claude \$0\.\d{4}", page.inner_text(".told")))

    eventually(page, pointed, True)
    assert faults(page) == []


def test_what_simulated_work_would_save_stands_apart_and_is_marked(open_page, house):
    task = house.submit("Say something kind", tier="standard")
    page = open_page(f"task/{task}")
    ended(page)
    go(page, "costs")
    would = page.locator(".figure", has_text="Would be saved")
    expect(would.locator(".badge.simulated")).to_be_visible()
    expect(would.locator("dd")).to_contain_text(re.compile(r"\$0\.0\d*[1-9]"))
    saved = page.locator(".figure", has_text="Saved against Claude").locator("dd")
    expect(saved).to_contain_text("$0.0000")
    go(page, "now")
    expect(page.locator(".figure", has_text="Would be saved")).to_be_visible()


def test_burn_and_the_day_s_budget_are_figures(open_page, house):
    before = house.ask("/costs?by=tier")["total"]["estimated_cost_usd"]
    page = open_page("costs")
    burn = page.locator("#burn")
    expect(burn).to_contain_text("no budget is set")
    expect(burn.locator("dd").first).to_have_text(f"${before:.4f}")
    # The page follows: nobody has to come again.
    house.ask("/policy", {"policy": {"escalation_budget_usd_per_day": 2}}, "PUT")
    expect(burn).to_contain_text("of $2.0000")
    expect(burn).to_contain_text("lasts the day at that rate")
    assert faults(page) == []
