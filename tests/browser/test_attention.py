"""What wants a person, on the page: each cause one line, with its one action."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import go
from tests.browser.house import House
from tests.browser.test_pages import faults
from tests.browser.waits import confirm, notified

STUCK = 4_700
CAUSES = {3: 84, 4: 38, 5: 11}
"""Exit codes, and how many end with each: 133 in all."""
SLOW_MS = 120_000
TOLD = """row => new Promise(done => {
  const said = [];
  const look = () => {
    const text = document.querySelector(row)?.querySelector('[role=status]')?.textContent;
    if (text && said.at(-1) !== text) said.push(text);
  };
  const watch = new MutationObserver(look);
  watch.observe(document.body, {childList: true, characterData: true, subtree: true});
  window.told = () => { watch.disconnect(); return said; };
  done();
})"""


@pytest.fixture
def house(tmp_path):
    """A house for each test: what one retries, dismisses or cancels, no other looks for."""
    with House(tmp_path) as running:
        yield running


@pytest.fixture
def killed(house):
    """A second host, killed with the one attempt of a task on it."""
    tool = (sys.executable, "-m", "agentcom")
    data = ("--data", str(house.data))
    added = (*tool, "host", "add", "h2", *data)
    subprocess.run(added, check=True, capture_output=True)
    host = subprocess.Popen(
        (*tool, "sidecar", "--name", "h2", *data, "--config", str(house.config)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        task = house.submit(
            "goes down with its host",
            shell={"command": "exec sleep 20"},
            assign_to="h2",
            max_attempts=1,
        )
        for _ in range(600):
            if house.ask(f"/tasks/{task}")["task"]["state"] == "running":
                break
            time.sleep(0.1)
    finally:
        host.kill()
        host.wait()
    return task


@pytest.fixture
def stuck(house):
    """Tasks for a host that does not exist."""
    for start in range(0, STUCK, 1_000):
        stuck = [
            {"description": f"stuck {n}", "assign_to": "ghost"}
            for n in range(start, min(STUCK, start + 1_000))
        ]
        assert house.ask("/tasks/batch", {"tasks": stuck})["ok"]


@pytest.fixture
def failures(house):
    """Failures of three causes."""
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


@pytest.mark.usefixtures("killed", "stuck", "failures")
def test_each_cause_is_one_line_with_its_action_and_the_title_counts(open_page, house):
    """A killed host, 133 failures, 4,700 nobody can run, a dead letter, an outage."""
    page = open_page("now")
    rows = page.locator("#attention li")

    def line(kind):
        return page.locator(f"#attention li[data-kind={kind}]")

    expect(line("stuck")).to_contain_text(
        f"{STUCK:,} tasks wait for host ghost, which has never joined", timeout=SLOW_MS
    )
    expect(
        line("stuck").get_by_role("button", name=f"Cancel all {STUCK:,}")
    ).to_be_visible()
    failures = line("failures")
    expect(failures).to_have_count(3, timeout=SLOW_MS)
    for code, n in CAUSES.items():
        row = failures.filter(has_text=f"exit code {code}")
        expect(row).to_contain_text(
            f"{n} tasks failed in the last hour", timeout=SLOW_MS
        )
        expect(row.get_by_role("button", name=f"Retry all {n}")).to_be_visible()
    expect(line("host_lost")).to_contain_text("h2", timeout=SLOW_MS)
    expect(line("host_lost").get_by_role("link", name="Open host")).to_be_visible()
    expect(line("dead")).to_contain_text("1 task is dead", timeout=SLOW_MS)
    expect(line("dead").get_by_role("button", name="Retry it")).to_be_visible()
    house.ask("/policy", {"policy": {"tier_alert_after_s": 0.2}}, "PUT")
    house.call(house.line.cut())
    try:
        down = line("tier_down")
        expect(down).to_contain_text("The standard tier is down")
        expect(down.get_by_role("button", name="Acknowledge")).to_be_visible()
        expect(line("endpoint_down")).to_have_count(1)
        n = 1 + 3 + 1 + 1 + 1 + 1
        expect(rows).to_have_count(n)
        expect(page.locator(".standing .badge.alert")).to_have_text(f"{n} issues")
        expect(page).to_have_title(f"({n}) Now · AgentCom")
        icon = page.locator("link[rel=icon]")
        expect(icon).to_have_attribute("href", re.compile(r"/favicon-alert\.svg$"))
        assert page.request.get(icon.evaluate("e => e.href")).ok
        assert faults(page) == []
    finally:
        house.call(house.line.restore())
        house.ask("/policy", {"policy": {"tier_alert_after_s": 60}}, "PUT")
    expect(down).to_have_count(0)


@pytest.mark.usefixtures("failures")
def test_the_line_leads_to_its_tasks_and_retries_them_all(open_page):
    page = open_page("now")
    row = page.locator("#attention li[data-kind=failures]", has_text="exit code 4")
    expect(row).to_contain_text("38 tasks failed", timeout=SLOW_MS)
    row.get_by_role("link", name="Show 38").click()
    expect(page.locator("#task-total")).to_have_text("38")
    expect(page.get_by_role("button", name="failed 38")).to_be_visible()
    page.go_back()
    confirm(row, "Retry all 38", "Retry all 38?")
    notified(page, "retry: 38 of 38 tasks.")


@pytest.mark.usefixtures("failures")
def test_a_line_is_put_aside_and_stays_so(open_page, house):
    house.submit("stuck", assign_to="ghost")
    page = open_page("now")
    row = page.locator("#attention li[data-kind=failures]", has_text="exit code 5")
    expect(row).to_contain_text("11 tasks failed", timeout=SLOW_MS)
    row.get_by_role("button", name="Dismiss").click()
    expect(row).to_have_count(0)
    page.reload()
    expect(page.locator("#attention li[data-kind=stuck]")).to_be_visible()
    expect(row).to_have_count(0)
    # More of the same brings it back.
    house.submit("fails 5", shell={"command": "echo cause 5 >&2; exit 5"}, retries=0)
    expect(row).to_have_count(1)


@pytest.mark.usefixtures("stuck")
def test_what_nobody_can_run_is_cancelled_from_its_line(open_page):
    page = open_page("now", width=390)
    row = page.locator("#attention li[data-kind=stuck]")
    expect(row).to_contain_text(f"{STUCK:,} tasks wait", timeout=SLOW_MS)
    page.evaluate(TOLD, "#attention li[data-kind=stuck]")
    confirm(row, f"Cancel all {STUCK:,}", f"Cancel all {STUCK:,}?")
    notified(page, f"cancel: {STUCK:,} of {STUCK:,} tasks.")
    expect(row).to_have_count(0)
    # How far it was, was said meanwhile.
    assert any(
        re.fullmatch(rf"[\d,]+ of {STUCK:,}", text) for text in page.evaluate("told()")
    )
    assert faults(page) == []
    go(page, "fleet/h1")
    expect(page.locator("#host-h1")).to_be_in_viewport()
