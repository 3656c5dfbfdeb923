"""The dashboard in a real browser, over a whole AgentCom on simulated backends."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from playwright.sync_api import expect

from sidecar.simulated import ollama as simulated_ollama
from tests.browser.conftest import go
from tests.browser.waits import (
    WAIT_MS,
    confirm,
    edge,
    eventually,
    height,
    notified,
    seen,
    witness,
)

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
HOSTILE = (
    "<img src=x onerror=alert(1)><script>alert(2)</script>"
    "\x1b[31mred\x1b[0m \u202egnihsihp\u202c &amp; ${x} "
)
OUTPUT = "#execution-output"


def ended(page, state="completed"):
    """Wait until the task on the page is over."""
    page.wait_for_selector(f"#task[data-state={state}]")


def fits(page):
    """Wait until nothing of the page is wider than its window."""
    wide = "document.documentElement.scrollWidth > innerWidth"
    eventually(page, lambda: page.evaluate(wide), False)


def faults(page):
    """Say what axe finds, serious or not; what it finds only while the page moves is none."""
    for _ in range(5):
        found = _faults(page)
        if not found:
            break
        page.wait_for_timeout(1_000)
    return found


def _faults(page):
    if not page.evaluate("() => Boolean(window.axe)"):
        page.evaluate(
            f"""() => {{
              const module = {{ exports: {{}} }};
              {AXE.read_text()}
              window.axe ??= module.exports;
            }}"""
        )
    return page.evaluate(
        """async () => {
          const found = await window.axe.run(document, {resultTypes: ['violations']});
          return found.violations
            .map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' | ').slice(0, 400));
        }"""
    )


def test_output_appears_while_the_task_runs(open_page, house):
    gate = house.folder / "gate"
    os.mkfifo(gate)
    task = house.submit(
        "wait for the gate", shell={"command": f"echo before; read x < {gate}; echo $x"}
    )
    page = open_page(f"task/{task}")
    expect(page.locator(OUTPUT)).to_contain_text("before")
    expect(page.locator("#task")).to_have_attribute("data-state", "running")
    gate.write_text("after\n")
    expect(page.locator(OUTPUT)).to_contain_text("after")
    ended(page)


def test_the_output_panel_starts_empty_for_each_task(open_page, house):
    first = house.submit("one", shell={"command": "echo only-here"})
    second = house.submit("two", shell={"command": "true"})
    page = open_page(f"task/{first}")
    expect(page.locator(OUTPUT)).to_contain_text("only-here")
    go(page, f"task/{second}")
    ended(page)
    expect(page.locator(OUTPUT)).not_to_contain_text("only-here")
    expect(page.locator(f"{OUTPUT} .placeholder")).to_be_visible()


def test_each_kind_of_output_looks_its_own_way(open_page, house):
    task = house.submit(
        "kinds",
        shell={
            "command": r"printf '\033[32mgreen\033[0m plain\n'; echo no >&2; exit 3"
        },
    )
    page = open_page(f"task/{task}")
    ended(page, "failed")
    out, err = page.locator(f"{OUTPUT} .stdout"), page.locator(f"{OUTPUT} .stderr")
    failed, status = page.locator(f"{OUTPUT} .error"), page.locator(f"{OUTPUT} .status")
    expect(out.first).to_contain_text("green plain")
    green = out.locator(".lt span").first
    expect(green).to_have_text("green")
    expect(err.first).to_contain_text("no")
    amber = err.first.evaluate("e => getComputedStyle(e).color")
    red = failed.first.evaluate("e => getComputedStyle(e).color")
    plain = out.first.evaluate("e => getComputedStyle(e).color")
    coloured = green.evaluate("e => getComputedStyle(e).color")
    assert len({amber, red, plain, coloured}) == 4
    assert "italic" in status.first.evaluate("e => getComputedStyle(e).fontStyle")


def test_a_retry_appears_as_it_happens(open_page, house):
    task = house.submit("fails twice", shell={"command": "echo trying; exit 7"})
    page = open_page(f"task/{task}")
    expect(page.locator(OUTPUT)).to_contain_text("Shell retry 1/1")
    expect(page.locator(f"{OUTPUT} .divider")).to_contain_text("try 2")
    ended(page, "failed")


def test_the_reader_who_scrolls_up_stays_there(open_page, house):
    gate = house.folder / "gate2"
    os.mkfifo(gate)
    task = house.submit(
        "long", shell={"command": f"seq 300; read x < {gate}; seq 300; echo the-end"}
    )
    page = open_page(f"task/{task}")
    panel = page.locator(OUTPUT)
    expect(panel).to_contain_text("300")
    at_end = "e => e.scrollHeight - e.scrollTop - e.clientHeight < 40"
    page.wait_for_function(f"() => ({at_end})(document.querySelector('{OUTPUT}'))")
    # A frame that was on its way may still go to the end: scroll until it stays.
    expect(page.get_by_role("button", name="Follow")).to_have_count(0)
    page.wait_for_function(
        f"""() => {{
          const panel = document.querySelector('{OUTPUT}');
          const named = (each) => each.textContent.includes('Follow');
          if ([...document.querySelectorAll('button')].some(named)) return panel.scrollTop === 0;
          panel.scrollTop = 0;
          return false;
        }}"""
    )
    gate.write_text("go\n")
    fresh = page.get_by_role("button", name=re.compile(r"^↓ 30\d new$"))
    fresh.wait_for()
    assert panel.evaluate("e => e.scrollTop") == 0
    fresh.click()
    expect(panel).to_contain_text("the-end")
    expect(page.get_by_role("button", name="Follow")).to_have_count(0)


def test_a_shell_task_costs_nothing(open_page, house):
    task = house.submit("free", shell={"command": "true"})
    page = open_page(f"task/{task}")
    ended(page)
    expect(page.locator("#cost")).to_contain_text("0 tokens, $0.00 (shell execution)")
    expect(page.locator("#cost table")).to_contain_text("none")


def test_claude_s_dollars_have_four_decimals(open_page, house):
    task = house.submit("Refactor everything", tier="complex")
    page = open_page(f"task/{task}")
    ended(page)
    expect(page.locator("#cost")).to_contain_text(re.compile(r"\$0\.\d{4}"))
    expect(page.locator(f"{OUTPUT} .token").first).to_be_visible()


def test_local_work_is_free_and_says_what_it_saved(open_page, house, monkeypatch):
    # What is simulated counts as no saving, so this server says it is a real one.
    house.call(house.line.cut())
    monkeypatch.setattr(simulated_ollama, "VERSION", "0.12.0")
    monkeypatch.setattr(simulated_ollama, "SIMULATED_HEADER", "X-Other")
    house.call(house.line.restore())
    page = open_page("fleet")
    expect(page.locator("#host-h1")).to_contain_text("ollama 0.12.0")
    task = house.submit("Say something kind about the weather today", tier="standard")
    go(page, f"task/{task}")
    ended(page)
    expect(page.locator("#cost")).to_contain_text("$0.00 (local)")
    expect(page.locator("#cost .saved")).to_contain_text(
        re.compile(r"Saved: \$0\.\d{4} vs Claude")
    )
    go(page, "costs")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#savings .saved")).to_have_text(re.compile(r"\$0\.\d{4}"))


def test_a_fallback_has_its_badge_and_its_trace(open_page, house):
    page = open_page("now")
    expect(page.locator("#tier-standard")).not_to_contain_text("down")
    house.call(house.line.cut())
    try:
        expect(page.locator("#tier-standard")).to_contain_text("down since")
        task = house.submit("Explain this in plain words, please", tier="standard")
        go(page, f"task/{task}")
        ended(page)
        expect(page.locator(".task-head .badge.fb")).to_have_text("FB")
        page.click("#trace-summary")
        trace = page.locator("#trace")
        expect(trace).to_contain_text("from standard")
        for factor in ("load", "capacity", "vram", "warm", "affinity", "slots"):
            expect(trace.locator("thead")).to_contain_text(factor)
        expect(trace.locator("tbody tr")).to_have_count(1)
        expect(page.locator("#excluded")).not_to_be_empty()
        go(page, "tasks")
        expect(page.locator("tr.task .badge.fb").first).to_be_visible()
    finally:
        house.call(house.line.restore())
    go(page, "now")
    expect(page.locator("#tier-standard")).not_to_contain_text("down")


def test_a_tier_with_free_slots_is_not_busy(open_page, house):
    page = open_page("now")
    task = house.submit("for nobody", tier="standard", assign_to="nobody")
    expect(page.locator("#tier-standard")).to_contain_text("up, 1 waiting")
    expect(page.locator("#tier-standard")).not_to_contain_text("busy")
    house.ask(f"/tasks/{task}/cancel", {})
    expect(page.locator("#tier-standard")).not_to_contain_text("waiting")


def test_a_task_is_submitted_cancelled_and_retried_from_the_page(open_page, house):
    page = open_page()
    page.click("#submit-task")
    page.fill("textarea[name=description]", "from the page")
    page.fill("textarea[name=command]", "echo here I am; sleep 600")
    page.click("text=Where would it go?")
    expect(page.locator("dialog .note")).to_contain_text("trivial")
    page.click("dialog button[type=submit]")
    expect(page.locator(OUTPUT)).to_contain_text("here I am")
    confirm(page, "Cancel", "Cancel it?")
    ended(page, "cancelled")
    expect(page.locator("dd", has_text="web:operator").first).to_be_visible()
    page.get_by_role("button", name="Retry", exact=True).click()
    page.wait_for_selector("#task[data-state=running]")
    confirm(page, "Cancel", "Cancel it?")
    ended(page, "cancelled")


def test_a_host_is_drained_and_an_endpoint_added_from_the_page(open_page, house):
    page = open_page("fleet")
    host = page.locator("#host-h1")
    confirm(host, "Drain", "Take no more work?")
    expect(host.locator("header .badge")).to_have_text("draining")
    host.get_by_role("button", name="Resume").click()
    expect(host.locator("header .badge")).to_have_text("up")
    page.click("text=Add an endpoint")
    page.fill("dialog input[name=endpoint]", "shared-one")
    page.fill("dialog input[name=url]", house.ollama.url)
    page.click("dialog button[type=submit]")
    expect(page.locator("#shared")).to_contain_text("shared-one")
    expect(host.locator("table")).to_contain_text("shared")
    expect(page.locator("#models")).to_contain_text("1 host has llama3.2:latest")
    confirm(page, "Remove", "Remove it?")
    expect(page.locator("#shared")).not_to_contain_text("shared-one")


def test_the_queue_says_when_what_nobody_can_take_expires(open_page, house):
    page = open_page("now")
    row = page.locator("#queue tbody tr", has_text="low")
    task = house.submit("for a host that is away", assign_to="away", priority="low")
    expect(row.locator("td").last).to_have_text(re.compile(r"^(9|10) min \d+ s$"))
    house.ask(f"/tasks/{task}/cancel", {})
    expect(row).to_have_count(0)


def test_the_charts_of_the_last_hour_grow_while_they_are_looked_at(open_page, house):
    page = open_page("now")
    charts = page.locator("#last-hour")
    expect(charts.locator("h2")).to_have_text("The last hour")
    run = charts.get_by_role("img", name=re.compile("^Run time, last hour"))

    def counted():
        said = re.search(r"[(]([\d,]+) task", run.get_attribute("aria-label"))
        return int(said[1].replace(",", ""))

    before = counted()
    house.submit("one more", shell={"command": "sleep 0.3"})
    eventually(page, lambda: counted() > before, True)
    wait = charts.get_by_role("img", name=re.compile("^Wait until started, last hour"))
    expect(wait).to_have_attribute("aria-label", re.compile("half within: trivial"))


def test_the_page_catches_up_when_the_broker_was_killed(open_page, house):
    go_on = house.folder / "go-on"
    task = house.submit(
        "survives",
        shell={
            "command": f"for i in $(seq 20); do echo tick-$i-; done; "
            f"until test -e {go_on}; do sleep 0.05; done; "
            "for i in $(seq 21 40); do echo tick-$i-; done"
        },
    )
    page = open_page(f"task/{task}")
    expect(page.locator(OUTPUT)).to_contain_text("tick-20-")
    witness(page, "#stale")
    os.kill(house.broker_pid(), signal.SIGKILL)
    seen(page)
    expect(page.locator("#stale")).to_have_count(0)
    go_on.touch()
    ended(page)
    expect(page.locator(OUTPUT)).to_contain_text("tick-40-")

    def ticks():
        return re.findall(r"tick-(\d+)-", page.locator(OUTPUT).inner_text())

    eventually(page, ticks, [str(n) for n in range(1, 41)])
    go(page, "events")
    expect(page.locator("#events")).to_contain_text("task.completed.v1")
    seqs = page.locator("#events .seq").all_inner_texts()
    assert sorted(set(map(int, seqs)), reverse=True) == list(map(int, seqs))


def test_the_page_comes_back_when_web_itself_was_killed(open_page, house):
    page = open_page("now")
    found = [
        int(pid.name)
        for pid in Path("/proc").iterdir()
        if pid.name.isdigit()
        and (line := _command_of(pid))
        and str(house.data) in line
        and "\0web\0" in line
    ]
    assert len(found) == 1
    # What the browser itself says of a lost connection is no fault of the page's.
    open_page.forgiven.append("net::ERR_")
    witness(page, "#stale")
    os.kill(found[0], signal.SIGKILL)
    seen(page)
    expect(page.locator("#connection")).to_have_text("live")
    task = house.submit("after the return", shell={"command": "true"})
    go(page, f"task/{task}")
    ended(page)


def _command_of(pid: Path) -> str:
    try:
        return (pid / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_the_policy_is_changed_from_the_page(open_page, house):
    page = open_page("routing")
    policy = page.locator("#policy")
    policy.locator("summary").click()
    box = policy.locator("textarea")
    document = json.loads(box.input_value())
    document["task_ttl_s"] = 601
    box.fill(json.dumps(document))
    policy.get_by_role("button", name="Put it in force").click()
    expect(policy.locator("h2")).to_contain_text(re.compile("version [1-9]"))
    expect(policy).to_contain_text("web:operator")


def test_hostile_text_is_shown_as_text_everywhere(open_page, house):
    alerts: list[str] = []
    task = house.submit(
        HOSTILE + "description",
        shell={"command": "printf '%s\\n' \"$HOSTILE\"", "env": {"HOSTILE": HOSTILE}},
        metadata={HOSTILE: HOSTILE},
        success_criteria=[HOSTILE],
        verification_steps=[HOSTILE],
        file_hints=[{"path": "<b>path</b>", "reason": HOSTILE}],
    )
    homeless = house.submit(
        HOSTILE + "a model that nobody has", tier="standard", model="<i>m</i>"
    )
    page = open_page(f"task/{task}")
    page.on("dialog", lambda dialog: alerts.append(dialog.message))
    ended(page, "failed")
    for place in ("h1", "#details", "#checks", OUTPUT):
        expect(page.locator(place).first).to_contain_text("<script>alert(2)</script>")
    expect(page.locator("h1")).to_contain_text("⟨202E⟩")
    expect(page.locator(".pairs li", has_text="<b>path</b>: <img")).to_be_visible()
    expect(page.locator(OUTPUT)).not_to_contain_text("\u202e")
    for path in ("now", "tasks", f"task/{task}", "fleet", "routing", "costs", "events"):
        go(page, path)
        page.wait_for_selector(".page")
        assert page.locator("main img, main script, main b > i > b").count() == 0
        assert page.evaluate("document.querySelectorAll('main script').length") == 0
    assert alerts == []
    house.ask(f"/tasks/{homeless}/cancel", {})


def test_what_a_task_changed_is_shown_and_its_folder(open_page, house):
    command = (
        "echo 2 > file; printf '<img src=x onerror=alert(1)>\\n\u202egpj\\n' > new; "
        "echo x > '<b>bold'; printf '\\0' > bin; "
        "python3 -c \"open('\u202etxt', 'w').write('x\\n')\""
    )
    task = house.submit(
        "change it",
        tier="trivial",
        shell={"command": command},
        repo="shop",
        branch="changes",
    )
    page = open_page(f"task/{task}")
    panel = page.locator("#changes")
    expect(panel).to_contain_text("Changes: 5 files")
    expect(panel).to_contain_text("on changes")
    page.wait_for_selector("#changes .diff-add:text('<img src=x onerror=alert(1)>')")
    deleted = panel.locator(".diff-del")
    eventually(page, deleted.all_inner_texts, ["-one\n", "-two\n"])
    expect(panel).to_contain_text(f"agentcom diff {task} | git apply")
    expect(panel.locator("img, b")).to_have_count(0)
    expect(panel).not_to_contain_text("\u202e")
    folder = page.locator("dt:text('Working folder') + dd")
    expect(folder).to_contain_text(f"worktrees/{task}/")


def test_how_a_task_was_verified_is_shown_and_counted(open_page, house):
    task = house.submit(
        "check it",
        tier="trivial",
        shell={"command": "true"},
        verification_steps=["true", "printf '<b>no</b>'; exit 3"],
        verify_rounds=1,
    )
    page = open_page(f"task/{task}")
    rows = page.locator("#checks tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("passed, exit 0")
    expect(rows.nth(1)).to_contain_text("1/1")
    expect(rows.nth(1)).to_contain_text("failed, exit 3")
    expect(page.locator("#result summary")).to_contain_text("not verified")
    rows.nth(1).locator("summary").click()
    expect(rows.nth(1).locator("pre")).to_have_text("<b>no</b>")
    go(page, "routing")
    expect(page.locator("#first-rounds tbody tr").first).to_contain_text("trivial")


def test_a_model_s_name_is_shown_as_text(open_page, house):
    name = "<b>bold</b><script>alert(3)</script>:latest"
    house.call(
        lambda: house.ollama.models.update({name: simulated_ollama.Model(name=name)})
    )
    try:
        page = open_page("fleet")
        expect(page.locator("#models")).to_contain_text(f"1 host has {name}"[:40])
        assert page.locator("#models td b, #models script").count() == 0
    finally:
        house.call(lambda: house.ollama.models.pop(name))


def test_an_alert_is_seen_and_acknowledged(open_page, house):
    house.ask("/policy", {"policy": {"tier_alert_after_s": 0.2}}, "PUT")
    page = open_page("now")
    house.call(house.line.cut())
    try:
        down = page.locator("#attention li[data-kind=tier_down]")
        expect(down).to_contain_text("The standard tier is down")
        expect(page.locator(".standing .badge.alert")).to_contain_text("issue")
        down.get_by_role("button", name="Acknowledge").click()
        expect(down.get_by_role("button", name="Acknowledge")).to_have_count(0)
    finally:
        house.call(house.line.restore())
        house.ask("/policy", {"policy": {"tier_alert_after_s": 60}}, "PUT")
    expect(down).to_have_count(0)


def test_what_may_not_be_is_said_where_it_was_asked(open_page, house):
    open_page.forgiven.append("400")
    page = open_page()
    page.click("#submit-task")
    page.fill("textarea[name=description]", "trivial without a command")
    page.select_option("select[name=tier]", "trivial")
    page.click("dialog button[type=submit]")
    expect(page.locator("dialog .bad")).to_contain_text("shell")
    expect(page.locator("dialog")).to_be_visible()


def test_a_line_of_a_megabyte_does_not_stop_the_page(open_page, house):
    command = "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo after-it"
    task = house.submit("a long line", shell={"command": command})
    page = open_page(f"task/{task}")
    ended(page)
    expect(page.locator(OUTPUT)).to_contain_text("after-it")
    go(page, "now")
    expect(page.locator("#running")).to_be_visible()


def test_the_table_filters_by_state_and_text(open_page, house):
    house.submit("needle in the hay", shell={"command": "exit 1"})
    house.submit("only hay", shell={"command": "true"})
    page = open_page("tasks")
    page.fill("#task-filter", "needle")
    expect(page.locator("#task-total")).to_have_text("1")
    expect(page.locator("tr.task")).to_have_count(1)
    expect(page.locator("tr.task .c-state")).to_have_text("failed")
    page.get_by_role("button", name=re.compile("^failed 1$")).click()
    expect(page.locator("#task-total")).to_have_text("1")
    page.fill("#task-filter", "only hay")
    expect(page.locator("#task-total")).to_have_text("0")


def test_filters_are_folded_away_on_a_narrow_screen(open_page, house):
    house.submit("trivial and narrow", shell={"command": "true"})
    page = open_page("tasks", width=390)
    expect(page.locator("tr.task").first).to_be_visible()
    button = page.get_by_role("button", name=re.compile("^Filters"))
    tier = page.get_by_label("Tier", exact=True)
    expect(button).to_have_attribute("aria-expanded", "false")
    expect(tier).to_be_hidden()
    table = page.locator(".grid")
    eventually(page, lambda: 0 < edge(table, "y") < 320, True)
    eventually(page, lambda: height(table) > 500, True)

    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Tab")
    expect(tier).to_be_focused()
    tier.select_option("complex")
    page.get_by_label("repo").fill("nowhere")
    expect(button).to_have_accessible_name("Filters 2 in use")
    expect(page.locator("#task-total")).to_have_text("0")
    assert faults(page) == []
    page.keyboard.press("Escape")
    expect(tier).to_be_hidden()
    expect(button).to_be_focused()
    expect(button).to_have_accessible_name("Filters 2 in use")
    assert faults(page) == []
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Clear").click()
    expect(button).to_have_accessible_name("Filters")
    expect(page.locator("#task-total")).not_to_have_text("0")


def test_all_filters_are_there_on_a_wide_screen(open_page, house):
    page = open_page("tasks")
    expect(page.get_by_label("Tier", exact=True)).to_be_visible()
    expect(page.locator("#filters-button")).to_be_hidden()


def test_all_that_a_filter_finds_is_cancelled_and_retried_at_once(open_page, house):
    for n in range(5):
        house.submit(f"bulk-{n} waits for somebody", assign_to="nobody-yet")
    page = open_page("tasks")
    page.fill("#task-filter", "bulk-")
    expect(page.locator("#task-total")).to_have_text("5")
    confirm(page, "Cancel 5 waiting", "Cancel 5?")
    notified(page, "cancel: 5 of 5 tasks.")
    expect(page.locator("tr.task .state-cancelled")).to_have_count(5)
    confirm(page, "Retry 5 cancelled", "Retry 5?")
    expect(page.locator("tr.task .state-waiting")).to_have_count(5)
    confirm(page, "Cancel 5 waiting", "Cancel 5?")
    expect(page.locator("tr.task .state-cancelled")).to_have_count(5)


def test_events_are_filtered_paused_and_sought(open_page, house):
    page = open_page("events")
    expect(page.locator("#events li").first).to_be_visible()
    page.click("#pause")
    task = house.submit("while paused", shell={"command": "true"})
    expect(page.locator("#pause")).to_contain_text(
        re.compile(r"Go on \([1-9]\d* new\)")
    )
    page.fill("#jump", "1")
    page.get_by_role("button", name="Jump").click()
    expect(page.locator("#events li").first).to_contain_text("scheduler.elected.v1")
    page.fill("#subject-filter", "agentcom.evt.host.*")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#events li").last).to_contain_text("host.joined.v1")
    expect(page.locator("#events li", has_text="task.")).to_have_count(0)
    page.fill("#subject-filter", "agentcom.evt.task.*")
    page.get_by_role("button", name="Filter").click()
    page.locator(f"#events li a[href$='{task}']").first.click()
    expect(page.locator("#task h1")).to_have_text("while paused")


def test_a_piece_of_the_log_that_comes_when_one_has_gone_on_is_passed_by(
    open_page, house
):
    page = open_page("events")
    expect(page.locator("#events li").first).to_be_visible()
    held = []
    page.route(re.compile("/api/v1/events.*from=1&"), lambda route: held.append(route))
    page.fill("#jump", "1")
    page.get_by_role("button", name="Jump").click()
    eventually(page, lambda: len(held), 1)
    page.evaluate("location.hash = '#/events'")
    expect(page.locator("#jump")).to_have_value("")
    with page.expect_response(re.compile("/api/v1/events")):
        held[0].continue_()
    # Live it was, and live it is.
    task = house.submit("goes on", shell={"command": "true"})
    expect(page.locator(f"#events li a[href$='{task}']").first).to_be_visible()


def test_a_task_and_the_costs_are_taken_along_as_files(open_page, house):
    task = house.submit("taken along", shell={"command": "echo content"})
    page = open_page(f"task/{task}")
    ended(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export JSON").click()
    whole = json.loads(Path(download.value.path()).read_text())
    assert whole["task"]["task_id"] == task
    assert whole["events"]
    assert whole["output"]["chunks"]
    go(page, "costs")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0].startswith('"key","runs"')
    assert lines[-1].startswith('"total"')


def test_a_viewer_sees_no_button_that_commands(browser, house):
    tokens = json.loads((house.data / "web-tokens.json").read_text())
    task = house.submit("looked at", shell={"command": "true"})
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{house.base}/#token={tokens['viewer']}")
    page.wait_for_selector("#connection:text-is('live')")
    expect(page).to_have_url(re.compile("^((?!token).)*$"))
    go(page, f"task/{task}")
    ended(page)
    expect(page.locator("#submit-task")).to_have_count(0)
    expect(page.get_by_role("button", name="Retry")).to_have_count(0)
    context.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 640, 390, 320])
def test_no_page_has_a_serious_fault_for_those_who_see_or_move_otherwise(
    open_page, house, width, dark
):
    task = house.submit("looked at closely", shell={"command": "echo a; echo b >&2"})
    page = open_page(width=width, dark=dark)
    pages = ("now", "tasks", f"task/{task}", "schedules", "fleet", "routing", "costs")
    for path in (*pages, "events"):
        go(page, path)
        page.wait_for_selector(".page")
        fits(page)
        assert faults(page) == [], path
    go(page, "fleet")
    expect(page.locator("#host-h1")).to_be_visible()
    go(page, "now")
    expect(page.locator("#tier-complex")).to_be_visible()


def test_everything_is_reached_by_keyboard(open_page, house):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent"))
    assert {"Now", "Tasks", "Fleet", "Routing", "Costs", "Events"} <= reached
    assert "Submit a task" in reached
    page.focus("#submit-task")
    page.keyboard.press("Enter")
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
