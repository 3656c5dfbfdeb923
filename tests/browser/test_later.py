"""What is planned, what comes after what, whose task is whose, and who is told."""

from __future__ import annotations

import time

import pytest
from msgspec.structs import replace
from playwright.sync_api import expect

from events import catalogue as c
from events import subjects
from tests.browser.recorded import Recorded
from tests.browser.test_pages import faults, fits
from tests.browser.waits import confirm
from tests.support.histories import History
from web.notify.served import FOLDER, TargetServed, write_served

HOSTILE = "<script>alert(2)</script>"


class Lineage(History):
    """A history in which a task's runs submit tasks."""

    def begin(self, task):
        """Let a task run; its route."""
        route = self.route(task, "h1")
        self.start(route)
        return route

    def child(self, description, route, root, depth, **spec):
        """Submit a task in the name of another one's run."""
        task = self.submit(description, **spec)
        said = self.recorded.pop()
        whose = {"parent": route.task, "parent_route": route.id, "root": root}
        self.say(said.subject, replace(said.event, depth=depth, **whose))
        self.decide(c.TaskDelegated, route.task, child=task, route=route.id)
        return task


@pytest.fixture(scope="module")
def lineage():
    """A tree of four tasks, whose root comes after another task; and a schedule."""
    history = Lineage()
    history.now = time.time() - 600
    history.join("h1")
    before = history.submit("comes before it all")
    history.complete(history.begin(before))
    root = history.submit("the whole " + HOSTILE, tier="complex", after=[before])
    history.decide(c.TaskReleased, root)
    whole = history.begin(root)
    part = history.child("one part", whole, root, 1)
    run = history.begin(part)
    least = history.child("a part of the part", run, root, 2)
    history.complete(history.begin(least), usd=0.125)
    history.complete(run, usd=0.25)
    history.child("another part", whole, root, 1)
    history.complete(whole, usd=0.5)
    said = next(
        each for each in history.recorded if each.subject == subjects.task(root)
    )
    history.say(
        subjects.schedule("yearly"),
        c.ScheduleAdded(
            **history.head("gateway"),
            schedule="yearly",
            cron="0 3 1 1 *",
            tz="Europe/Berlin",
            task=c.TaskSpec(description="look after it"),
            classification=said.event.classification,
            missed="one",
            overlap="queue",
            requested_by="alice",
        ),
    )
    with Recorded(history) as recorded:
        yield recorded.address, root, part


def test_a_task_s_page_shows_the_tree_it_stands_in_with_what_each_cost_in_all(
    open_page, house, lineage
):
    address, _, part = lineage
    page = open_page()
    page.goto(f"{address}#/task/{part}")
    tree = page.locator("#tree")
    expect(tree.locator("h2")).to_have_text("Tree: 4 tasks")
    rows = tree.locator("tbody tr")
    said = ["the whole", "one part", "a part of the part", "another part"]
    expect(rows).to_have_count(len(said))
    for row, words in zip(rows.all(), said, strict=True):
        expect(row.locator("a")).to_contain_text(words)
    expect(tree.locator("tr[aria-current]")).to_contain_text("one part")
    expect(rows.nth(0).locator("td").last).to_have_text("$0.8750")
    expect(rows.nth(1).locator("td").last).to_have_text("$0.3750")
    expect(rows.nth(3)).to_contain_text("waiting")
    rows.nth(0).locator("a").click()
    expect(page.locator("#task h1")).to_have_text("the whole " + HOSTILE)
    expect(tree.locator("tr[aria-current]")).to_contain_text("the whole")
    expect(page.locator("#graph a")).to_have_count(2)


@pytest.mark.parametrize(
    ("width", "dark"), [(1280, False), (640, True), (390, False), (320, True)]
)
def test_graph_tree_and_schedules_fit_and_have_no_fault(
    open_page, house, lineage, width, dark
):
    address, root, _ = lineage
    page = open_page(width=width, dark=dark)
    page.goto(f"{address}#/task/{root}")
    expect(page.locator("#tree tbody tr")).to_have_count(4)
    expect(page.locator("#graph a")).to_have_count(2)
    fits(page)
    assert faults(page) == []
    page.goto(f"{address}#/schedules")
    panel = page.locator("#schedule-yearly")
    panel.locator("summary").click()
    expect(panel.locator("li time")).to_have_count(10)
    fits(page)
    assert faults(page) == []
    panel.get_by_role("button", name="Edit").click()
    expect(page.locator("#next-times time")).to_have_count(5)
    fits(page)
    assert faults(page) == []


def test_a_target_that_is_not_reached_is_said_on_every_page(open_page, house):
    def stands(**fields):
        write_served(house.data / FOLDER, TargetServed(target="ops", **fields))

    page = open_page("fleet")
    badge = page.locator("#not-told")
    expect(badge).to_have_count(0)
    failing = {"failing_since": "2026-01-31T12:00:00Z", "last_error": "HTTP 503"}
    stands(delivered=4, waiting=3, **failing)
    expect(badge).to_have_text("not notified: ops")
    expect(badge).to_have_attribute("title", "ops: HTTP 503")
    page.locator(".health summary").click()
    expect(page.locator(".notifying")).to_contain_text("ops: 4 notifications delivered")
    expect(page.locator(".notifying")).to_contain_text("3 wait since")
    assert faults(page) == []
    stands(delivered=7)
    expect(badge).to_have_count(0)
    expect(page.locator(".notifying")).to_have_text("ops: 7 notifications delivered")


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
    expect(page.locator(".phase-words")).to_contain_text("held")
    expect(page.locator("#cost table")).to_have_count(0)
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
    panel.get_by_role("button", name="Pause", exact=True).click()
    expect(panel).to_contain_text("Paused")
    panel.get_by_role("button", name="Resume").click()
    expect(panel).not_to_contain_text("Paused")
    confirm(panel, "Remove", "Remove it?")
    expect(panel).to_have_count(0)


def test_a_task_is_planned_and_changed_in_a_form_that_shows_its_next_times(
    open_page, house
):
    open_page.forgiven.append("400")
    page = open_page("schedules")
    page.click("#plan-task")
    form, next_times = page.locator("#planning"), page.locator("#next-times")
    form.locator("[name=schedule]").fill("weekly")
    form.locator("[name=tz]").fill("Europe/Berlin")
    form.locator("[name=cron]").fill("0 25 * * *")
    expect(next_times).to_contain_text("cron: expected five fields")
    form.locator("[name=description]").fill(HOSTILE)
    form.locator("[name=command]").fill("true")
    form.locator("[name=labels]").fill("team=red")
    form.get_by_role("button", name="Plan it").click()
    # What is wrong is said at the field, and is that of the server.
    expect(form.locator("#wrong-cron")).to_contain_text("25")
    expect(form.locator("[name=cron]")).to_be_focused()
    form.locator("[name=cron]").fill("0 3 1 1 *")
    expect(next_times.locator("time")).to_have_count(5)
    form.locator("[name=overlap]").select_option("skip")
    assert faults(page) == []
    form.get_by_role("button", name="Plan it").click()
    panel = page.locator("#schedule-weekly")
    expect(panel).to_contain_text(HOSTILE)
    expect(panel).to_contain_text("leaves the time out")
    # Changed, it is paused as before, and what the form did not ask for is as it was.
    panel.get_by_role("button", name="Pause", exact=True).click()
    expect(panel).to_contain_text("Paused")
    panel.get_by_role("button", name="Edit").click()
    expect(form.locator("[name=labels]")).to_have_value("team=red")
    form.locator("[name=description]").fill("another thing")
    form.get_by_text("Limits").click()
    form.locator("[name=ttl_s]").fill("-1")
    form.get_by_role("button", name="Change it").click()
    expect(form.locator("#wrong-ttl_s")).to_be_visible()
    expect(panel).to_contain_text(HOSTILE)
    form.locator("[name=ttl_s]").fill("60")
    told: list[str] = []
    page.on("request", lambda asked: told.append(f"{asked.method} {asked.url}"))
    form.get_by_role("button", name="Change it").click()
    expect(form).to_have_count(0)
    expect(panel).to_contain_text("another thing")
    # One command: whatever ends the page in between, there is a schedule.
    commands = [each for each in told if not each.startswith("GET ")]
    assert [each.partition("/api/v1")[2] for each in commands] == [
        "/schedules/weekly/change"
    ]
    expect(panel).to_contain_text("leaves the time out")
    expect(panel).to_contain_text("Paused")
    confirm(panel, "Remove", "Remove it?")
    expect(panel).to_have_count(0)
