"""HTTP as programs use it: waiting, streaming, paging, and clients that are generated."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.command import agentcom_up

if TYPE_CHECKING:
    from collections.abc import Iterator

GENERATORS = Path(__file__).parents[1] / "generators"
SPEAKS = "for n in 1 2 3 4; do echo line $n; done"


@pytest.fixture(scope="module")
def door(tmp_path_factory) -> Iterator[httpx.Client]:
    """A client of a running instance, with the operator's token."""
    with agentcom_up(tmp_path_factory.mktemp("up")) as (system, up):
        tokens = json.loads((system.data / "web-tokens.json").read_text())
        url = re.findall(r"http://[\d.:]+", up.said["stdout"])[-1]
        headers = {"Authorization": f"Bearer {tokens['operator']}"}
        with httpx.Client(
            base_url=f"{url}/api/v1/", headers=headers, timeout=60
        ) as client:
            yield client


def submit(door: httpx.Client, command: str, **headers: str) -> httpx.Response:
    body = {"description": command, "shell": {"command": command, "cwd": "/"}}
    return door.post("tasks", json=body, headers=headers)


def begun(door: httpx.Client, command: str) -> str:
    """Submit a command; return its task's id once the read models know it."""
    said = submit(door, command).json()
    door.get(f"tasks/{said['task_id']}", params={"wait_seq": said["seq"]})
    return said["task_id"]


@contextmanager
def stream(
    door: httpx.Client, path: str, last: str = ""
) -> Iterator[Iterator[dict[str, str]]]:
    """The server-sent events of a path, as dictionaries of their fields."""
    headers = {
        "Accept": "text/event-stream",
        **({"Last-Event-ID": last} if last else {}),
    }
    with door.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/event-stream"

        def events() -> Iterator[dict[str, str]]:
            event: dict[str, str] = {}
            for line in answer.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    event[name] = value
                elif event:
                    yield event
                    event = {}

        yield events()


def all_of(door: httpx.Client, path: str, last: str = "") -> list[dict[str, str]]:
    with stream(door, path, last) as events:
        return list(events)


def text_of(pieces: list[dict[str, str]]) -> str:
    chunks = [json.loads(piece["data"]) for piece in pieces if "event" not in piece]
    return "".join(c["text"] for c in chunks if c["event_type"] == "stdout")


def test_a_long_poll_is_answered_at_the_task_s_end(door: httpx.Client):
    task_id = begun(door, "sleep 1; echo over")
    waited = door.get(f"tasks/{task_id}", params={"wait": "30s"}).json()
    assert waited["task"]["state"] == "completed"
    assert waited["task"]["result"]["output"] == "over\n"


def test_a_long_poll_ends_without_the_task(door: httpx.Client):
    task_id = begun(door, "sleep 60")
    asked = door.post("tasks/ended", json={"task_ids": [task_id], "wait": 0.2})
    assert asked.json()["ended"] == []
    shown = door.get(f"tasks/{task_id}", params={"wait": "0.2"}).json()
    assert shown["task"]["state"] in ("waiting", "routed", "accepted", "running")
    door.post(f"tasks/{task_id}/cancel")
    ended = door.post("tasks/ended", json={"task_ids": [task_id], "wait": 30})
    assert ended.json()["ended"] == [{"task_id": task_id, "state": "cancelled"}]


@pytest.mark.parametrize(
    ("wait", "said"),
    [
        ("soon", "wait: expected a length of time such as 90, 5m, 2h or 3d, got soon"),
        ("3h", "wait: "),
    ],
)
def test_a_wait_that_is_none_is_refused(door: httpx.Client, wait: str, said: str):
    answer = door.get("tasks/01ARZ3NDEKTSV4RRFFQ69G5FAV", params={"wait": wait})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(said)


def test_a_task_s_events_stream_to_its_end_and_go_on_behind_the_last_id(
    door: httpx.Client,
):
    task_id = begun(door, "sleep 0.5; echo over")
    everything = all_of(door, f"tasks/{task_id}/events")
    *events, end = everything
    names = [json.loads(each["data"])["event"]["type"] for each in events]
    assert names[0] == "task.submitted.v1"
    assert names[-1] == "task.completed.v1"
    assert end["event"] == "end"
    assert json.loads(end["data"]) == {"task_id": task_id, "state": "completed"}
    assert [int(e["id"]) for e in events] == sorted(int(e["id"]) for e in events)

    assert all_of(door, f"tasks/{task_id}/events", events[1]["id"]) == everything[2:]
    headers = {"Accept": "text/event-stream", "Last-Event-ID": events[-1]["id"]}
    assert door.get(f"tasks/{task_id}/events", headers=headers).status_code == 204
    listed = door.get(f"tasks/{task_id}/events").json()
    assert [each["event"]["type"] for each in listed["events"]] == names


def test_a_task_s_output_streams_as_it_comes_and_goes_on_behind_the_last_id(
    door: httpx.Client,
):
    task_id = begun(door, "for n in 1 2 3; do echo line $n; sleep 0.5; done")
    with stream(door, f"tasks/{task_id}/output") as pieces:
        first = next(pieces)
        assert door.get(f"tasks/{task_id}").json()["task"]["state"] == "running"
    rest = all_of(door, f"tasks/{task_id}/output", first["id"])
    assert text_of([first, *rest]) == "line 1\nline 2\nline 3\n"
    assert rest[-1]["event"] == "end"

    again = all_of(door, f"tasks/{task_id}/output")
    assert text_of(again) == "line 1\nline 2\nline 3\n"
    headers = {"Accept": "text/event-stream", "Last-Event-ID": again[-2]["id"]}
    assert door.get(f"tasks/{task_id}/output", headers=headers).status_code == 204
    chunks = door.get(f"tasks/{task_id}/output").json()["chunks"]
    assert "".join(chunk["text"] for chunk in chunks) == "line 1\nline 2\nline 3\n"


def test_the_pieces_of_an_output_are_read_on_from_a_place(door: httpx.Client):
    task = begun(door, "echo one; sleep 0.3; echo two")
    assert text_of(all_of(door, f"tasks/{task}/output")) == "one\ntwo\n"
    path = f"tasks/{task}/output.ndjson"

    def pieces(**params: str) -> list[dict[str, Any]]:
        lines = door.get(path, params=params).text.splitlines()
        return [json.loads(line) for line in lines]

    whole = pieces()
    places = [each["seq"] for each in whole]
    assert places == sorted(set(places))
    assert pieces(start=str(places[-1])) == whole[-1:]
    assert pieces(start=str(places[-1] + 1)) == []
    refused = door.get(path, params={"start": "-1"})
    assert (refused.status_code, refused.json()["path"]) == (400, "start")


def test_an_output_that_is_too_much_for_one_answer_is_asked_for_part_by_part(
    door: httpx.Client,
):
    task = begun(door, "seq 400000")
    whole = text_of(all_of(door, f"tasks/{task}/output"))
    told, left = "", []
    params: dict[str, str | int] = {}
    while chunks := (part := door.get(f"tasks/{task}/output", params=params).json())[
        "chunks"
    ]:
        told += "".join(
            each["text"] for each in chunks if each["event_type"] == "stdout"
        )
        left.append((part["left_out"], len(chunks)))
        params = {"route": chunks[-1]["route"], "after_n": chunks[-1]["n"]}
    assert told == whole
    assert len(left) > 1
    # A piece that was sent again, because its answer was late, counts as well.
    assert left[-1][0] == 0
    assert left[0][0] >= sum(count for _, count in left[1:])


@pytest.mark.parametrize("stranger", ["once", "-1", "9" * 40, "1:r", "a:b:c", "::"])
@pytest.mark.parametrize("what", ["events", "output"])
def test_a_last_id_that_is_none_is_refused(door: httpx.Client, what, stranger):
    task_id = begun(door, SPEAKS)
    answer = door.get(
        f"tasks/{task_id}/{what}",
        headers={"Accept": "text/event-stream", "Last-Event-ID": stranger},
    )
    assert answer.status_code == 400
    assert answer.json()["path"] == "Last-Event-ID"


@pytest.mark.parametrize("what", ["events", "output"])
def test_a_stream_of_no_task_is_refused(door: httpx.Client, what: str):
    headers = {"Accept": "text/event-stream"}
    answer = door.get(f"tasks/01ARZ3NDEKTSV4RRFFQ69G5FAV/{what}", headers=headers)
    assert answer.status_code == 404


def test_the_same_idempotency_key_finds_the_same_task(door: httpx.Client):
    key = {"Idempotency-Key": "nightly 2026-11-27"}
    first = submit(door, "echo one", **key).json()
    again = submit(door, "echo one", **key).json()
    assert (again["task_id"], again["existing"]) == (first["task_id"], True)
    another = submit(door, "echo two", **key)
    assert (another.status_code, another.json()["path"]) == (409, "idempotency_key")
    body = {"description": "x", "idempotency_key": "other"}
    torn = door.post("tasks", json=body, headers=key)
    assert (torn.status_code, torn.json()["path"]) == (400, "idempotency_key")

    batch = {"tasks": [{"description": "a", "executor": "noop"}]}
    header = {"Idempotency-Key": "batch-1"}
    said = [door.post("tasks/batch", json=batch, headers=header).json() for _ in "ab"]
    assert said[0]["task_ids"] == said[1]["task_ids"]
    assert said[1]["existing"] is True


@pytest.mark.parametrize("sort", ["-submitted", "submitted", "-finished", "tokens"])
@pytest.mark.parametrize("more", [{}, {"text": "paged"}])
def test_a_cursor_goes_through_all_tasks_once(door: httpx.Client, sort, more):
    said = {}
    for n in range(7):
        body = {
            "description": f"paged {n}",
            "executor": "noop",
            "idempotency_key": f"paged-{n}",
            "labels": {"paged": "yes"},
        }
        said = door.post("tasks", json=body).json()
    question = {"label": "paged=yes", "sort": sort, "limit": 3, **more}
    asked = {**question, "wait_seq": said["seq"]}
    seen: list[str] = []
    while True:
        page = door.get("tasks", params=asked).json()
        assert page["total"] == 7
        seen += [task["description"] for task in page["tasks"]]
        if page["next"] is None:
            break
        asked = {**question, "cursor": page["next"]}
    assert sorted(seen) == [f"paged {n}" for n in range(7)]


@pytest.mark.parametrize("cursor", ["x", "W10", "bm90IGpzb24", "é"])
def test_a_cursor_that_is_none_is_refused(door: httpx.Client, cursor: str):
    answer = door.get("tasks", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["path"]) == (400, "cursor")


# -- generated clients -----------------------------------------------------------------


@pytest.fixture
def described(door: httpx.Client, tmp_path: Path) -> Path:
    """The served document, as a stranger without a token gets it."""
    served = httpx.get(door.base_url.join("openapi.json"))
    assert served.status_code == 200
    path = tmp_path / "openapi.json"
    path.write_bytes(served.content)
    return path


def test_a_python_client_is_generated_without_a_warning_and_submits(
    door: httpx.Client, described: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = described.parent
    (folder / "config.yml").write_text("post_hooks: []\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate"),
            *("--path", described, "--output-path", folder / "generated_agentcom"),
            *("--meta", "none", "--config", folder / "config.yml", "--fail-on-warning"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stdout.split() == ["Generating", str(folder / "generated_agentcom")]
    monkeypatch.syspath_prepend(str(folder))
    client = importlib.import_module("generated_agentcom")
    models = importlib.import_module("generated_agentcom.models")
    submitting = importlib.import_module("generated_agentcom.api.tasks.task_submit")
    asking = importlib.import_module("generated_agentcom.api.tasks.get_task")
    token = door.headers["Authorization"].removeprefix("Bearer ")
    base = str(door.base_url).removesuffix("/api/v1/")
    with client.AuthenticatedClient(base_url=base, token=token) as ours:
        task = models.Submit(
            description="generated", shell=models.NewShell(command="true", cwd="/")
        )
        said = submitting.sync(client=ours, body=task, idempotency_key="generated")
        assert said.task_id
        found = asking.sync(said.task_id, client=ours, wait_seq=said.seq, wait=30.0)
        assert (found.task.task_id, found.task.state) == (said.task_id, "completed")
        refused = submitting.sync(client=ours, body=models.Submit(description=""))
        assert refused.code == "malformed"


def test_typescript_is_generated_without_a_warning_and_compiles(described: Path):
    if not (GENERATORS / "node_modules").is_dir():
        npm = shutil.which("npm")
        done = npm and subprocess.run([npm, "ci"], cwd=GENERATORS, capture_output=True)
        if not done or done.returncode != 0:
            pytest.skip("NOT TESTED: no npm here, or no registry to be reached")
    out = described.with_name("agentcom.ts")
    tools = GENERATORS / "node_modules" / ".bin"
    made = subprocess.run(
        [tools / "openapi-typescript", described, "-o", out],
        env={"PATH": os.environ["PATH"], "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "warn" not in (made.stdout + made.stderr).lower()
    program = out.with_name("program.ts")
    program.write_text(
        'import type { operations } from "./agentcom";\n'
        "type Said = operations['task_submit']['responses'][200]['content']"
        "['application/json'];\n"
        "export const id = (said: Said): string => said.task_id;\n"
    )
    checked = subprocess.run(
        [tools / "tsc", "--noEmit", "--strict", program], capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout) == (0, "")
