"""A chat of OpenAI's interface on the page: what was said, and which tools were called."""

from __future__ import annotations

from openai import OpenAI
from playwright.sync_api import expect

from sidecar.simulated.messages import ScriptedCall

SAID = "<b>Is it</b> raining?"
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


def test_a_chat_shows_its_messages_and_the_calls_it_ends_with(open_page, house):
    house.call(
        lambda: house.ollama.calls.append(
            ScriptedCall(name="weather", input={"city": "Wien"})
        )
    )
    with OpenAI(base_url=f"{house.base}/v1", api_key=house.token) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="llama3.2",
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": SAID},
            ],
            tools=[WEATHER],
        )
    task = raw.headers["x-agentcom-task"]
    page = open_page(f"task/{task}")
    page.wait_for_selector("#task[data-state=completed]")
    expect(page.locator("#execution-output")).to_contain_text('calls weather {"city"')
    details = page.locator("#details")
    details.get_by_text("2 messages").click()
    expect(details).to_contain_text("Be brief.")
    expect(details).to_contain_text(SAID)
    page.locator("#result summary").click()
    expect(page.locator("#result")).to_contain_text('calls weather {"city":"Wien"}')
