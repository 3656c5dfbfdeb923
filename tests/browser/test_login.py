"""Who is let in: the token's way into a browser, what it keeps of it, and who gets it."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.house import House
from tests.browser.waits import WAIT_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import BrowserContext

NO_TOKEN = re.compile("^((?!token).)*$")
"""Of an address: the word is nowhere in it."""


@pytest.fixture
def context(browser) -> Iterator[BrowserContext]:
    """A browser that has been nowhere yet."""
    fresh = browser.new_context()
    fresh.set_default_timeout(WAIT_MS)
    yield fresh
    fresh.close()


def live(page) -> None:
    expect(page.locator("#connection")).to_have_text("live", timeout=WAIT_MS)


def visit(context, address):
    page = context.new_page()
    page.goto(address)
    return page


@contextmanager
def neighbour(answer: str):
    """A program on another port of this machine; yields its port, and what it was sent."""
    sent: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append(f"{self.requestline}\n{self.headers}")
            body = answer.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_token_stands_in_no_address_that_is_asked_for_and_in_no_cookie(
    context, house
):
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.goto(house.address)
    live(page)
    expect(page).to_have_url(NO_TOKEN)
    assert len(asked) > 3
    sent = [url.partition("#")[0] for url in asked]
    assert not any(house.token in url for url in sent)
    assert context.cookies() == []


def test_the_page_stays_itself_over_reload_back_and_in_another_tab(context, house):
    page = visit(context, house.address)
    live(page)
    page.get_by_role("link", name="Fleet").click()
    page.get_by_role("link", name="Costs", exact=True).click()
    page.reload()
    live(page)
    expect(page.locator("nav [aria-current]")).to_have_text("Costs")
    page.go_back()
    expect(page.locator("nav [aria-current]")).to_have_text("Fleet")
    live(page)
    another = visit(context, page.url)
    live(another)
    expect(another.locator("nav [aria-current]")).to_have_text("Fleet")
    expect(another.locator("#submit-task")).to_be_visible()


def test_a_person_without_a_token_is_asked_for_it_and_may_leave(context, house):
    page = visit(context, f"{house.base}/#/fleet")
    token = page.get_by_label("Token")
    expect(token).to_be_focused()
    token.fill("wrong" * 5)
    page.get_by_role("button", name="Enter").click()
    expect(page.get_by_role("alert")).to_have_text("That is no token of this AgentCom.")
    token.fill(f"  {house.address} ")
    page.keyboard.press("Enter")
    live(page)
    expect(page.locator("nav [aria-current]")).to_have_text("Fleet")
    another = visit(context, house.base)
    live(another)
    page.get_by_role("button", name="Sign out").click()
    for each in (page, another):
        expect(each.get_by_label("Token")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Token")).to_be_visible()
    assert house.token not in json.dumps(context.storage_state())


def test_an_address_with_a_token_may_be_typed_into_a_page_that_is_open(context, house):
    page = visit(context, house.base)
    expect(page.get_by_label("Token")).to_be_visible()
    page.evaluate("address => { location.href = address }", house.address)
    live(page)
    page.evaluate("() => { location.hash = '#token=wrongwrongwrongwrong' }")
    expect(page).to_have_url(NO_TOKEN)
    expect(page.locator("nav [aria-current]")).to_have_text("Now")
    live(page)
    # What was followed from somewhere signs nobody out.
    page.reload()
    live(page)
    expect(page.locator("#submit-task")).to_be_visible()


def test_two_instances_on_one_machine_stay_signed_in_side_by_side(
    context, house, tmp_path
):
    with House(tmp_path) as second:
        pages = [visit(context, each.address) for each in (house, second)]
        for page in pages * 2:
            live(page)
            page.reload()
        for page, each in zip(pages, (house, second), strict=True):
            live(page)
            expect(page).to_have_url(re.compile(f"^{re.escape(each.base)}/"))
            expect(page.locator("#submit-task")).to_be_visible()


def test_below_a_path_the_page_asks_for_nothing_beside_it(context, tmp_path):
    with House(tmp_path, "--base-path", "/fleet") as below:
        assert below.base.endswith("/fleet")
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        page.goto(below.address)
        live(page)
        page.get_by_role("link", name="Fleet").click()
        page.reload()
        live(page)
        page.click("#submit-task")
        page.fill("textarea[name=description]", "below a path")
        page.fill("textarea[name=command]", "echo there")
        page.get_by_role("button", name="Submit", exact=True).click()
        expect(page.locator("#task h1")).to_have_text("below a path")
        assert all("/fleet/" in url for url in asked)
        root = visit(context, below.base.removesuffix("/fleet"))
        live(root)


def test_another_port_of_this_machine_is_sent_nothing_and_gets_nothing(context, house):
    live(visit(context, house.address))
    port = house.base.rpartition(":")[2]
    before = house.ask("/tasks?limit=1")["total"]
    with neighbour(ATTACK) as (other, sent):
        for host in ("127.0.0.1", "localhost"):
            page = visit(context, f"http://{host}:{other}/")
            page.evaluate("port => { window.port = port }", port)
            outcome = page.evaluate("attack()")
            assert outcome == {
                "read": "refused",
                "command": "refused",
                "form": "sent",
                "frame": "closed",
                "socket": "refused",
                "storage": 0,
            }
        assert sent
        for request in sent:
            assert "cookie:" not in request.lower()
            assert "authorization" not in request.lower()
            assert house.token not in request
    assert house.ask("/tasks?limit=1")["total"] == before


ATTACK = """<!doctype html><title>x</title><body><script>
async function attack() {
  const task = JSON.stringify({description: "x", shell: {command: "id"}});
  const out = {};
  const names = ["127.0.0.1", "localhost"];
  const every = async (act) => {
    const all = await Promise.all(names.map((name) => act(`${name}:${port}`)));
    return [...new Set(all)].join();
  };
  out.read = await every((at) => fetch(`http://${at}/api/v1/tasks`,
    {credentials: "include"}).then(() => "read", () => "refused"));
  out.command = await every((at) => fetch(`http://${at}/api/v1/tasks`, {method: "POST",
    credentials: "include", headers: {"Content-Type": "application/json"}, body: task})
    .then(() => "done", () => "refused"));
  out.form = await every((at) => fetch(`http://${at}/api/v1/tasks`, {method: "POST",
    credentials: "include", mode: "no-cors", body: task}).then(() => "sent", () => "sent"));
  out.frame = await every((at) => new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.onload = () => { try { done(frame.contentDocument.body.innerHTML ? "open" : "closed") }
      catch { done("closed") } };
    frame.src = `http://${at}/`;
    document.body.append(frame);
  }));
  out.socket = await every((at) => new Promise((done) => {
    const socket = new WebSocket(`ws://${at}/ws`, ["agentcom"]);
    socket.onopen = () => done("open");
    socket.onclose = () => done("refused");
  }));
  out.storage = localStorage.length + sessionStorage.length;
  return out;
}
</script>"""
