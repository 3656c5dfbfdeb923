"""The library's two clients say the same, and its paths are those that the web role serves."""

from __future__ import annotations

import inspect

import httpx
import msgspec
import pytest

from agentcom import aio, blocking, over_http
from agentcom.schedules import AsyncSchedules
from web import api


def public(kind: type) -> dict[str, list[str]]:
    """A class's public names, each with its parameters and their defaults."""
    return {
        name: [f"{p.kind} {p.name} {p.default}" for p in parameters]
        for name, value in vars(kind).items()
        if not name.startswith("_") and inspect.isfunction(value)
        for parameters in [inspect.signature(value).parameters.values()]
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (aio.AsyncClient, blocking.Client),
        (aio.AsyncTask, blocking.Task),
        (AsyncSchedules, blocking.Schedules),
    ],
)
def test_both_clients_have_the_same_names_and_parameters(one, other):
    assert public(one) == public(other)


def test_what_it_asks_over_http_is_where_the_web_role_has_it():
    served = {
        each.name: (each.method, each.path.removeprefix("/api/v1/"))
        for each in api.COMMANDS
    }
    for name, path in over_http._COMMANDS.items():
        method = "DELETE" if name in over_http._REMOVES else "POST"
        assert served[name] == (method, path)
    asked = {each.query: each.path.removeprefix("/api/v1/") for each in api.QUERIES}
    assert over_http._QUESTIONS.items() <= asked.items()


def test_what_a_path_names_stands_in_it_and_in_no_body():
    path = over_http._COMMANDS["schedule.pause"]
    body = {"schedule": "a/b", "reason": "{x}", "id": "1"}
    assert over_http._fill(path, body) == (
        "schedules/a%2Fb/pause",
        {"reason": "{x}", "id": "1"},
    )


async def test_a_stream_waits_for_read_models_that_are_behind_and_a_log_that_is_away():
    asked = []
    left = [(503, b'{"code":"log_unavailable","error":"","status":503}')]
    task = {"task_id": "T" * 26, "state": "running", "description": "d"}

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(
            f"{request.url.path.rpartition('/')[2]}?{request.url.query.decode()}"
        )
        if not request.url.path.endswith("output"):
            raw = msgspec.json.encode({"ok": True, "seq": 7, "task": task})
            return httpx.Response(200, content=raw)
        if left:
            status, content = left.pop()
            return httpx.Response(status, content=content)
        said = b'event: end\ndata: {"state":"completed"}\n\n'
        return httpx.Response(200, content=said)

    client = aio.AsyncClient(url="http://web", token="t")
    door = client._transport
    assert isinstance(door, over_http.OverHttp)
    door._client = httpx.AsyncClient(
        transport=httpx.MockTransport(answer), base_url="http://web/api/v1/"
    )
    submitted = aio.AsyncTask(client, "T" * 26, 7)
    assert [chunk async for chunk in submitted.stream()] == []
    assert asked == [f"{'T' * 26}?wait_seq=7", "output?", "output?"]
    await client.close()
