"""The past: any moment again, what was down when, and what would have been otherwise."""

from __future__ import annotations

import json
import re

from playwright.sync_api import expect

from tests.browser.conftest import go
from tests.browser.test_pages import ended, faults, fits
from tests.browser.waits import confirm, eventually

SET = (
    "(e, at) => { e.value = at; e.dispatchEvent(new Event('input', {bubbles: true})) }"
)


def test_an_address_shows_who_waited_then_and_back_to_now_who_waits_now(
    open_page, house
):
    early = [
        house.submit(f"early-{n} waits", assign_to="nobody-yet", priority=priority)
        for n, priority in enumerate(("normal", "high"))
    ]
    page = open_page("routing")
    world = page.locator("#then")
    waiting = page.locator("#then-waiting")
    expect(waiting.locator("li", has_text="early-")).to_have_count(2)
    then = house.ask("/queue")["seq"]
    for task in early:
        house.ask(f"/tasks/{task}/cancel", {})
    late = house.submit("late-one waits", assign_to="nobody-yet")
    ours = waiting.locator("li", has_text=re.compile("(early|late)-"))
    expect(world).to_have_attribute("data-now", "true")
    expect(ours).to_have_text(["waiting late-one waits"])

    go(page, f"routing?at={then}")
    expect(world).to_have_attribute("data-seq", str(then))
    waited = house.ask(f"/queue?at={then}")["waiting"]
    assert waited >= 2
    expect(world).to_contain_text(f": {waited} waiting, ")
    expect(world).to_contain_text("h1")
    expect(ours).to_have_text(["waiting early-1 waits", "waiting early-0 waits"])
    # The event of that moment stands among its neighbours.
    events = page.locator("#then-events li")
    expect(events.and_(page.locator(".here")).locator(".seq")).to_have_text(str(then))
    expect(events.first.locator(".seq")).to_have_text(str(max(1, then - 5)))
    page.reload()
    expect(world).to_have_attribute("data-seq", str(then))
    waiting.get_by_text("early-0 waits").click()
    ended(page, "cancelled")
    page.go_back()
    expect(waiting).to_contain_text("early-0 waits")
    page.get_by_role("button", name="Back to now").click()
    expect(world).to_have_attribute("data-now", "true")
    expect(ours).to_have_text(["waiting late-one waits"])
    house.ask(f"/tasks/{late}/cancel", {})
    expect(ours).to_have_count(0)


def test_a_slider_goes_over_time_and_plays_with_outages_and_work_above_it(
    open_page, house
):
    task = house.submit("done then", shell={"command": "true"})
    page = open_page(f"task/{task}")
    ended(page)
    go(page, "now")
    house.call(house.line.cut())
    try:
        expect(page.locator("#tier-standard")).to_contain_text("down since")
        go(page, "fleet")
        expect(page.locator("#models")).to_contain_text(
            "1 of 1 model server is down; what it has is not known."
        )
        go(page, "now")
    finally:
        house.call(house.line.restore())
    expect(page.locator("#tier-standard")).not_to_contain_text("down")
    went = house.ask("/events?subject=agentcom.evt.tier.standard")["events"]
    down = next(each for each in went if each["event"]["type"] == "tier.down.v1")
    go(page, "routing")
    ribbon = page.locator(".ribbon")
    expect(ribbon.locator(".down")).not_to_have_count(0)
    expect(ribbon).to_have_attribute("aria-label", re.compile(r"[1-9]\d* completed, "))
    page.locator("#past details summary").click()
    page.set_viewport_size({"width": 360, "height": 900})
    expect(page.locator("#outages button").last).to_be_visible()
    fits(page)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.locator("#outages button", has_text="standard down").last.click()
    world = page.locator("#then")
    expect(world).to_have_attribute("data-now", "false")
    expect(world).to_contain_text("down since")
    page.wait_for_function("() => location.hash.includes('at=20')")
    eventually(page, lambda: int(world.get_attribute("data-seq")) >= down["seq"], True)
    # By hand, to the beginning of the log; the address says the moment.
    slider = page.locator("#time-slider")
    before = page.url
    slider.evaluate(SET, slider.get_attribute("min"))
    page.wait_for_function("before => location.href !== before", arg=before)
    expect(world).to_contain_text("0 waiting, 0 under way")
    # Played from there it comes back to now.
    page.get_by_role("button", name="1 hour").click()
    slider.evaluate(
        SET,
        slider.evaluate("e => String(Number(e.max) - (e.max - e.min) / 200)"),
    )
    expect(page.get_by_role("button", name="Back to now")).to_be_enabled()
    page.get_by_role("button", name="Play").click()
    expect(world).to_have_attribute("data-now", "true")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    assert faults(page) == []


def test_what_is_no_moment_is_said(open_page, house):
    open_page.forgiven.append("400")
    page = open_page("routing?at=soon")
    expect(page.locator("#past .bad")).to_contain_text("soon")
    page.get_by_role("button", name="Back to now").click()
    expect(page.locator("#then")).to_have_attribute("data-now", "true")


def test_the_slider_of_the_past_goes_by_arrow_keys(open_page):
    page = open_page("routing")
    slider = page.locator("#time-slider")
    expect(page.get_by_role("button", name="Play")).to_be_enabled()
    expect(page.locator("#then")).to_have_attribute("data-now", "true")
    slider.press("ArrowLeft")
    expect(page.locator("#then")).to_have_attribute("data-now", "false")
    part = "({min, max, value}) => (max - value) / (max - min) > 1 / 400"
    eventually(page, lambda: slider.evaluate(part), True)
    slider.press("End")
    expect(page.locator("#then")).to_have_attribute("data-now", "true")


def test_the_past_is_decided_again_by_sliders_with_plain_labels(open_page, house):
    task = house.submit("decided", shell={"command": "true"})
    page = open_page(f"task/{task}")
    ended(page)
    go(page, "routing")
    page.get_by_label("A model that is in memory already counts").fill("2.5")
    page.get_by_label("Wait before a task leaves its tier").fill("7")
    expect(page.locator(".dials .changed")).to_have_count(2)
    page.get_by_role("button", name="Decide again").click()
    answer = page.locator("#whatif-answer")
    expect(answer).to_contain_text("Reproduced")
    # Nothing but commands and single places: all of it comes out as it was.
    expect(answer.locator("#nothing-moved")).to_contain_text("Nothing would have moved")
    asked = "JSON.parse(new URLSearchParams(location.hash.split('?')[1]).get('whatif'))"
    changes = {"scoring": {"warm": 2.5}, "fallback_wait_s": 7}
    eventually(page, lambda: page.evaluate(asked), changes)
    page.reload()
    expect(answer.locator("#nothing-moved")).to_be_visible()
    expect(page.locator(".dials .changed")).to_have_count(2)
    # What was tried out is put in force.
    confirm(page, "Put it in force", "For all that comes?")
    expect(page.locator("#policy h2")).to_contain_text(re.compile("version [1-9]"))

    def in_force():
        policy = house.ask("/policy")["policy"]
        return policy["scoring"]["warm"], policy["fallback_wait_s"]

    eventually(page, in_force, (2.5, 7))
    expect(page.locator(".dials .changed")).to_have_count(0)
    back = {"scoring": {"warm": 1.15}, "fallback_wait_s": 5}
    house.ask("/policy", {"policy": back}, "PUT")
    assert faults(page) == []


def test_each_decision_that_would_differ_is_a_line(open_page, house):
    """Complex work would have run on another model of Claude's."""
    task = house.submit("Refactor the parser", tier="complex")
    page = open_page(f"task/{task}")
    ended(page)
    changes = json.dumps({"claude_model": "opus"})
    go(page, "routing")
    page.locator("#whatif summary").click()
    page.get_by_label("What is different, as JSON").fill(changes)
    page.get_by_role("button", name="Decide again").click()
    row = page.locator(
        "#whatif-changes tbody tr", has=page.locator(f"a[href$='{task}']")
    )
    expect(row).to_contain_text(re.compile(r"sonnet.* → .*opus"))
    expect(row.locator(".n")).to_have_text(re.compile(r"^[+−]\$0\.\d{4}$"))
    expect(page.locator("#nothing-moved")).to_have_count(0)
    row.locator("a").last.click()
    expect(page.locator("#task h1")).to_have_text("Refactor the parser")
