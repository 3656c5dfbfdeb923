"""One task's page: its columns, its failure, doing it again, and what a model said."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from sidecar.simulated.claude import SaidCall, Scenario
from tests.browser.conftest import go
from tests.browser.test_pages import OUTPUT, ended, faults
from tests.browser.waits import edge, eventually, notified

ANSWER = """# Done

The test failed because of `sum`:

1. it **skipped** the last one
2. now it does not

| file | lines |
| --- | ---: |
| a.py | 3 |

```python
def total(xs):
    return sum(xs)  # all of them
```

<img src=x onerror=alert(1)> [evil](javascript:alert(2)) [fine](https://example.org/)
![track](https://example.org/pixel.png) <script>alert(3)</script>
"""
CALLS = (
    SaidCall(name="Read", input={"file_path": "/w/a.py"}, result="one\ntwo"),
    SaidCall(
        name="Edit",
        input={"file_path": "/w/a.py", "old_string": "one\n", "new_string": "1\n1b\n"},
        result="The file was updated.",
    ),
    SaidCall(name="Write", input={"file_path": "/w/b.py", "content": "x = 1\ny = 2\n"}),
    SaidCall(
        name="Bash",
        input={"command": "pytest -q"},
        result="Exit code 2\n\x1b[31mboom\x1b[0m <b>no</b>",
        is_error=True,
    ),
    SaidCall(
        name="TodoWrite",
        input={
            "todos": [
                {"content": "look", "status": "completed"},
                {"content": "mend <i>it</i>", "status": "in_progress"},
            ]
        },
    ),
)

# Keeps the name of the field that had the focus when `selector` came to be there.
FOCUS_THEN = """selector => {
  new MutationObserver(() => {
    if (document.querySelector(selector)) window.focusThen ??= document.activeElement.name;
  }).observe(document.body, {childList: true, subtree: true});
}"""


def test_a_run_of_claude_reads_like_a_conversation(open_page, house):
    alerts = []
    house.claude.order(Scenario(thinking="I think hard.", answer=ANSWER, calls=CALLS))
    task = house.submit("mend the test", tier="complex")
    page = open_page(f"task/{task}", width=1440)
    page.on("dialog", lambda dialog: alerts.append(dialog.message))
    ended(page)
    talk = page.locator(OUTPUT)
    expect(talk.locator("h3")).to_have_text("Done")
    expect(talk.locator("ol > li")).to_have_count(2)
    expect(talk.locator("td.n")).to_have_text("3")
    expect(talk.locator(".hljs-keyword").first).to_have_text("def")
    expect(talk.locator(".thinking summary").first).to_have_text(re.compile("^Thought"))
    cards = talk.locator(".tool-card")
    expect(cards).to_have_count(5)
    expect(cards.nth(0)).to_contain_text("/w/a.py")
    expect(cards.nth(1).locator(".diff-del")).to_have_text("-one\n")
    expect(cards.nth(1).locator(".diff-add")).to_have_text(["+1\n", "+1b\n"])
    expect(cards.nth(3).locator(".command")).to_have_text("$ pytest -q")
    expect(cards.nth(3)).to_contain_text("boom <b>no</b>")
    expect(cards.nth(3)).to_contain_text("exit 2")
    expect(cards.nth(3).get_by_label("failed")).to_be_visible()
    expect(cards.nth(4).locator("li")).to_have_text(["☑ look", "◐ mend <i>it</i>"])
    expect(page.locator(".tabs")).to_contain_text("Files changed 2 +4 −1")
    # Nothing of it is markup, nothing is loaded, and no address but the web's is one.
    expect(talk).to_contain_text("<img src=x onerror=alert(1)>")
    expect(talk.locator("img, script, i, b:text('no')")).to_have_count(0)
    eventually(
        page,
        lambda: talk.locator("a").evaluate_all("all => all.map(a => a.href)"),
        ["https://example.org/", "https://example.org/pixel.png"],
    )
    assert alerts == []
    assert faults(page) == []
    page.get_by_role("tab", name="Raw").click()
    expect(page.locator(f"{OUTPUT} .line.tool").first).to_contain_text("Read {")
    expect(page).to_have_url(re.compile("/raw$"))
    page.reload()
    expect(page.locator(f"{OUTPUT} .line.token").first).to_be_visible()


def test_a_conversation_of_many_turns_is_drawn_a_part_at_a_time(open_page, house):
    calls = [SaidCall(name="Read", input={"file_path": f"/f{n}"}) for n in range(450)]
    house.claude.order(Scenario(answer="# The end", calls=tuple(calls), delay_s=0.0))
    page = open_page(f"task/{house.submit('read it all', tier='complex')}", width=1440)
    ended(page)
    frames: list[str] = []

    def listen(socket):
        socket.on("framereceived", lambda said: frames.append(str(said)))

    page.on("websocket", listen)
    page.reload()
    # All that was put out before has come.
    eventually(page, lambda: any('"begun"' in each for each in frames), wanted=True)
    talk, cards = page.locator(OUTPUT), page.locator(f"{OUTPUT} .tool-card")
    more = talk.get_by_role("button", name=re.compile("later of"))
    expect(more).to_be_visible()
    few = cards.count()
    assert 150 < few <= 200
    expect(cards.first).to_contain_text("/f0")
    more.click()
    expect(cards).to_have_count(few + 200)
    expect(cards.nth(few)).to_contain_text(f"/f{few}")
    talk.get_by_role("button", name="To the end").click()
    expect(talk.locator("h3")).to_be_in_viewport()
    expect(cards.last).to_contain_text("/f449")
    early = cards.count()
    assert early <= 200
    talk.get_by_role("button", name=re.compile("earlier of")).click()
    expect(cards).to_have_count(early + 200)
    assert faults(page) == []


def test_what_a_run_of_claude_has_cost_so_far_is_said_while_it_writes(open_page, house):
    first = house.submit("Refactor one thing", tier="complex")
    page = open_page(f"task/{first}")
    ended(page)
    hold = house.folder / "hold"
    house.claude.order(Scenario(hold=str(hold)))
    slow = house.submit("Refactor slowly", tier="complex")
    go(page, f"task/{slow}")
    cost = page.locator("#cost p").first
    expect(cost).to_have_text(re.compile(r"^\d+ tokens so far, ~\$0\.\d{4} so far$"))
    # Of its tokens in, nothing is said: they are not known yet.
    expect(page.locator("#cost tbody td:nth-child(3)")).to_have_text("–")
    hold.touch()
    ended(page)
    expect(cost).to_contain_text(re.compile(r"^\$0\.\d{4}, \d+ tokens"))


def test_a_failure_stands_on_top_with_its_last_words(open_page, house):
    # Tried anew it ends well: that it has left its failure stays to be seen.
    mended = house.folder / "mended"
    command = (
        f"test -e {mended} && exit 0; "
        "for n in 1 2 3 4 5 6 7; do echo word $n >&2; done; exit 3"
    )
    task = house.submit("it fails", shell={"command": command})
    page = open_page(f"task/{task}", width=1440)
    ended(page, "failed")
    failure = page.locator("#failure")
    expect(failure).to_contain_text("exit_code")
    expect(failure.locator("pre")).to_have_text(
        "\n".join(f"word {n}" for n in range(3, 8))
    )
    expect(page.locator(".phase-bar .run.failed")).to_have_count(1)
    # The output begins in the left column, the rest stands beside it.
    main, side = page.locator(".task-main"), page.locator(".task-side")
    eventually(page, lambda: edge(side, "x") > edge(main, "x") > 0, True)
    eventually(page, lambda: edge(main, "width") > 700, True)
    expect(side).to_contain_text("sent the task to h1, as trivial")
    expect(side).to_contain_text("of at most 3")
    mended.touch()
    failure.get_by_role("button", name="Retry").click()
    expect(page.locator("#task[data-state=failed]")).to_have_count(0)


def test_a_task_is_done_again_with_other_words_files_and_errors_at_their_fields(
    open_page, house
):
    open_page.forgiven.append("400")
    first = house.submit(
        "do it", shell={"command": "exit 4"}, labels={"team": "red"}, ttl_s=900
    )
    page = open_page(f"task/{first}")
    ended(page, "failed")
    page.get_by_role("button", name="Run again with…").click()
    dialog = page.locator("dialog")
    expect(dialog.locator("[name=description]")).to_have_value("do it")
    expect(dialog.locator("[name=labels]")).to_have_value("team=red")
    expect(dialog.locator("[name=ttl_s]")).to_have_value("900")
    dialog.locator("[name=command]").fill("echo again")
    dialog.locator("[name=ttl_s]").fill("-1")
    dialog.locator("[name=attachments]").set_input_files(
        {"name": "note.txt", "mimeType": "text/plain", "buffer": b"hello"}
    )
    expect(dialog).to_contain_text("note.txt")
    dialog.get_by_role("button", name="Submit").click()
    expect(dialog.locator("#wrong-ttl_s")).to_be_visible()
    expect(dialog.locator("[name=ttl_s]")).to_be_focused()
    assert faults(page) == []
    # What was typed is still there after Escape.
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Run again with…").click()
    expect(dialog.locator("[name=command]")).to_have_value("echo again")
    dialog.locator("[name=ttl_s]").fill("60")
    page.evaluate(FOCUS_THEN, "#wrong-attachments")
    dialog.get_by_role("button", name="Submit").click()
    expect(dialog.locator("#wrong-attachments")).to_contain_text("command")
    # The focus comes with the words, not while one is typing in another field already.
    assert page.evaluate("window.focusThen") == "attachments"
    dialog.locator("[name=command]").fill("")
    dialog.locator("[name=tier]").select_option("standard")
    dialog.get_by_role("button", name="Submit").click()
    expect(page.locator("#details")).to_contain_text("note.txt (5 bytes)")
    expect(page.locator("#details a.mono")).to_have_text(first)
    notified(page, "was submitted")


def test_a_task_waits_for_its_files_and_what_cannot_be_copied_is_said(open_page, house):
    page = open_page(f"task/{house.submit('to copy', shell={'command': 'true'})}")
    ended(page)
    # As it is where a page comes without TLS.
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.get_by_role("button", name="Copy nats command").click()
    notified(page, "nats req agentcom.query.task")
    held = []
    page.route(re.compile("/api/v1/attachments"), lambda route: held.append(route))
    page.click("#submit-task")
    dialog = page.locator("dialog")
    dialog.locator("[name=description]").fill("look at it")
    dialog.locator("[name=attachments]").set_input_files(
        {"name": "note.txt", "mimeType": "text/plain", "buffer": b"hello"}
    )
    send = dialog.locator("button[type=submit]")
    expect(send).to_be_disabled()
    expect(send).to_have_text("Files are on their way…")
    eventually(page, lambda: len(held), 1)
    held[0].continue_()
    expect(dialog).to_contain_text("note.txt")
    expect(send).to_be_enabled()


def test_a_command_that_printed_nothing_is_said_to_have_printed_nothing(
    open_page, house
):
    task = house.submit("silent", shell={"command": "true"})
    page = open_page(f"task/{task}")
    ended(page)
    expect(page.locator(f"{OUTPUT} .placeholder")).to_have_text(
        "This task printed nothing."
    )
