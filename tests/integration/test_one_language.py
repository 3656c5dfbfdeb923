"""One and the same task, as every door tells it: the same names, the same values."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import msgspec
import pytest

from agentcom import AgentComError, Client, Refused
from agentcom.finding import broker
from agentcom.over_nats import OverNats
from tests.support.command import agentcom_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.command import System

NAMES = (
    *("task_id", "state", "error", "model", "model_used", "attempts", "tier", "host"),
    *("estimated_cost_usd", "cost_basis", "saved_usd", "execution_ms"),
    *("tokens_in", "tokens_out", "fallback_used", "endpoint", "simulated", "cwd"),
    *("equivalent_claude_cost_usd", "generation", "target_type", "late", "labels"),
)
EVERYWHERE = ("task_id", "state", "error", "model_used", "attempts", "execution_ms")


class Doors:
    """A running instance, and its doors."""

    def __init__(self, system: System, said: str) -> None:
        self.system = system
        self.url = re.findall(r"http://[\d.:]+", said)[-1]
        tokens = json.loads((system.data / "web-tokens.json").read_text())
        self.token = tokens["operator"]
        self.http = httpx.Client(
            base_url=f"{self.url}/api/v1/",
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=60,
        )

    def get(self, path: str, **params: Any) -> Any:
        answer = self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def over_nats(self, name: str, **question: Any) -> Any:
        async def ask() -> bytes:
            nats = OverNats(broker(data=self.system.data))
            try:
                return await nats.query(name, question)
            finally:
                await nats.close()

        return msgspec.json.decode(asyncio.run(ask()))

    def on_the_page(self, topic: str, **params: Any) -> Any:
        async def watch() -> Any:
            headers = {"Authorization": f"Bearer {self.token}"}
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.ws_connect(f"{self.url}/ws") as socket,
            ):
                asked = {"op": "subscribe", "id": "a", "topic": topic, "params": params}
                await socket.send_json(asked)
                while True:
                    said = await socket.receive_json(timeout=60)
                    if said["type"] == "snapshot":
                        return said["data"]

        return asyncio.run(watch())


@pytest.fixture(scope="module")
def doors(tmp_path_factory) -> Iterator[Doors]:
    with agentcom_up(tmp_path_factory.mktemp("up")) as (system, up):
        found = Doors(system, up.said["stdout"])
        with found.http:
            yield found


@pytest.fixture(scope="module")
def outcome(doors: Doors) -> dict[str, Any]:
    """What `submit --wait --json` says of a task that failed."""
    ended = doors.system.run(
        *("submit", "--shell", "echo out; exit 3", "--label", "team=search"),
        *("--wait", "--json"),
    )
    assert ended.returncode == 3, ended.stderr
    return dict(ended.json)


def test_one_task_has_the_same_names_and_values_at_every_door(doors: Doors, outcome):
    task_id = outcome["task_id"]

    def listed(rows: list[dict[str, Any]]) -> dict[str, Any]:
        [row] = [row for row in rows if row["task_id"] == task_id]
        return row

    told = {
        "submit --wait --json": outcome,
        "task --json": doors.system.json("task", task_id)["task"],
        "tasks --json": listed(doors.system.json("tasks")["tasks"]),
        "GET tasks/ID": doors.get(f"tasks/{task_id}")["task"],
        "GET tasks": listed(doors.get("tasks")["tasks"]),
        "query.task": doors.over_nats("task", task_id=task_id)["task"],
        "query.tasks": listed(doors.over_nats("tasks")["tasks"]),
        "the page's task": doors.on_the_page("task", task_id=task_id)["task"],
        "the page's list": listed(doors.on_the_page("tasks")["rows"]),
    }
    for name, where in (
        ("http", {"url": doors.url, "token": doors.token}),
        ("nats", {"data": doors.system.data}),
    ):
        with Client(**where) as client:
            result = client.task(task_id).wait(60)
            told[f"library, {name}"] = msgspec.to_builtins(result)
            [row] = client.tasks(label="team=search")
            told[f"library's list, {name}"] = msgspec.to_builtins(row)
    expected = told["GET tasks/ID"]
    assert expected["error"] == {"code": "exit_code", "message": "exit code 3"}
    for door, answer in told.items():
        assert set(EVERYWHERE) <= answer.keys(), door
        shown = {name: answer[name] for name in NAMES if name in answer}
        assert shown == {name: expected[name] for name in shown}, door
        if "output" in answer:
            assert answer["output"] == expected["result"]["output"], door


def test_the_routes_of_a_task_are_the_same_at_every_door(doors: Doors, outcome):
    task_id = outcome["task_id"]
    told = [
        doors.system.json("task", task_id),
        doors.get(f"tasks/{task_id}"),
        doors.get(f"tasks/{task_id}/trace"),
        doors.over_nats("task", task_id=task_id),
        doors.on_the_page("task", task_id=task_id),
    ]
    with Client(url=doors.url, token=doors.token) as client:
        [route] = client.explain(task_id).routes
    for answer in told:
        [each] = answer["routes"]
        assert each["error"] == outcome["error"]
        assert each["execution_ms"] == outcome["execution_ms"]
        assert (each["host"], each["route"]) == (route.host, route.route)


def test_what_a_command_did_is_said_as_the_state(doors: Doors):
    submitted = doors.http.post(
        "tasks", json={"description": "later", "needs": ["nowhere"]}
    ).json()
    task_id = submitted["task_id"]
    doors.get(f"tasks/{task_id}", wait_seq=submitted["seq"])
    done = doors.http.post(f"tasks/{task_id}/cancel").json()
    assert (done["state"], done["event"]) == ("cancelled", "task.cancelled")
    again = doors.http.post(f"tasks/{task_id}/cancel").json()
    assert (again["state"], again["event"], again["seq"]) == ("cancelled", "", 0)
    shown = doors.get(f"tasks/{task_id}", wait_seq=done["seq"])["task"]
    assert shown["state"] == "cancelled"
    assert shown["error"]["code"] == "cancelled"


INSTANT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d[^\s\"',)]*(?: [A-Z]{3,4}\b)?")
CLOCK = re.compile(r"\b\d\d:\d\d:\d\d(?:\.\d+)?(?: ?[A-Z]\w*)?")


@pytest.fixture(scope="module")
def waiting(doors: Doors) -> str:
    """A task that waits for what nobody has, and is given up at a time."""
    said = doors.http.post(
        "tasks",
        json={
            "description": "later",
            "needs": ["nowhere"],
            "deadline": "2030-01-31T10:00:00Z",
        },
    ).json()
    doors.get(f"tasks/{said['task_id']}", wait_seq=said["seq"])
    return str(said["task_id"])


def test_what_a_person_reads_is_in_their_zone_alone(doors: Doors, outcome, waiting):
    failed = outcome["task_id"]
    for words in (
        *(("task", failed), ("task", waiting), ("events",), ("why-waiting", waiting)),
        *(("explain", failed), ("costs", "--by", "hour"), ("attention",)),
        *(("state", "queue"), ("state", "fleet"), ("replay",), ("doctor",)),
    ):
        ended = doors.system.run(*words, TZ="Asia/Kolkata")
        text = ended.stdout + ended.stderr
        found = INSTANT.findall(text) + CLOCK.findall(text)
        assert [each for each in found if not each.endswith(("IST", "+05:30"))] == [], (
            words
        )
        assert "UTC" not in text, words


def test_what_a_machine_reads_is_in_utc_alone(doors: Doors, outcome, waiting):
    failed = outcome["task_id"]
    for words in (
        *(("task", failed), ("events",), ("why-waiting", waiting), ("stats",)),
        *(("attention",), ("logs", failed)),
    ):
        ended = doors.system.run(*words, "--json", TZ="Asia/Kolkata")
        assert ended.returncode == 0, (words, ended.stderr)
        # Counts by the minute have the beginnings of instants as their names.
        text = re.sub(r'"[\d-]{10}T\d\d:\d\d":', "", ended.stdout)
        found = INSTANT.findall(text)
        assert [each for each in found if not each.rstrip(".").endswith("Z")] == []
    for path in (
        "tasks",
        f"tasks/{waiting}",
        f"tasks/{waiting}/why",
        "fleet",
        "events",
    ):
        found = INSTANT.findall(doors.http.get(path).text)
        assert [each for each in found if not each.rstrip(".").endswith("Z")] == []
    assert found


def test_the_beginning_of_an_id_names_its_task_at_every_door(doors: Doors, outcome):
    failed = outcome["task_id"]
    short = failed[:6]
    assert doors.get(f"tasks/{short}/why")["task_id"] == failed
    ended = doors.http.post("tasks/ended", json={"task_ids": [short]}).json()["ended"]
    assert ended == [{"task_id": failed, "state": "failed"}]
    assert "out\n" in doors.http.get(f"tasks/{short}/output.txt").text
    submitted = [
        doors.http.post("tasks", json={"description": "x", "needs": ["no"]}).json()
        for _ in range(2)
    ]
    first, second = (each["task_id"] for each in submitted)
    doors.get("tasks", wait_seq=submitted[1]["seq"])
    unclear = doors.http.post(f"tasks/{first[:6]}/cancel")
    assert (unclear.status_code, unclear.json()["code"]) == (409, "ambiguous")
    assert first in unclear.json()["error"]
    shown = {row["task_id"]: row["short_id"] for row in doors.get("tasks")["tasks"]}
    cancelled = doors.http.post(f"tasks/{shown[first]}/cancel").json()
    assert (cancelled["task_id"], cancelled["state"]) == (first, "cancelled")
    for where in (
        {"url": doors.url, "token": doors.token},
        {"data": doors.system.data},
    ):
        with Client(**where) as client:
            assert client.task(short).wait(60).task_id == failed
            assert next(iter(client.task(short).stream())).text == "out\n"
            with pytest.raises(Refused, match=f"begins with {first[:6]}: .*{second}"):
                client.cancel(first[:6])
            assert client.cancel(shown[second]).ids == [second]


def test_files_go_with_a_task_from_the_library(doors: Doors, tmp_path):
    there = tmp_path / "notes.txt"
    there.write_text("what I noticed\n" * 40_000)
    for where in (
        {"url": doors.url, "token": doors.token},
        {"data": doors.system.data},
    ):
        with Client(**where) as client:
            picture = client.attach(b"\x89PNG\r\n\x1a\n", name="dot.png")
            task = client.submit(
                "sum up", files=[str(there), picture], needs=["nowhere"]
            )
            task.refresh()
            spec = doors.get(f"tasks/{task.task_id}")["task"]["spec"]
            assert [
                (each["name"], each["size_bytes"], each["media_type"])
                for each in spec["attachments"]
            ] == [
                (str(there), len(there.read_bytes()), "text/plain"),
                ("dot.png", 8, "image/png"),
            ]
            task.cancel()
            with pytest.raises(AgentComError, match=r"gone\.txt: expected a file"):
                client.submit("sum up", files=[str(tmp_path / "gone.txt")])
