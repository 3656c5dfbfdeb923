"""Files that go with a task, from the folder they are typed in to the model's prompt."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from events.attachments import LIMIT_BYTES, PIECE_BYTES, digest_of
from sidecar.simulated.ollama import Model, SimulatedOllama
from tests.support.command import PATIENCE_S, System, agentcom_up
from web.access import TOKENS_FILE, Tokens

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


MODELS = [
    Model(name="llama3.2:latest", context_length=200_000),
    Model(name="eyes:latest", context_length=8_192, vision=True),
]


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatedOllama]:
    """A simulated model server with a loop of its own: the commands block this one's."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def make() -> SimulatedOllama:
        return await SimulatedOllama(MODELS).__aenter__()

    made = asyncio.run_coroutine_threadsafe(make(), loop).result(30)
    yield made
    asyncio.run_coroutine_threadsafe(made.__aexit__(None, None, None), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def one_endpoint(server: SimulatedOllama) -> str:
    return f"""
discover = false
[claude]
enabled = false
[[endpoint]]
name = "gpu"
kind = "ollama"
url = "{server.url}"
"""


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory, server: SimulatedOllama
) -> Iterator[tuple[System, str]]:
    """One AgentCom with that model server, and the address of its web server."""
    config = one_endpoint(server)
    with agentcom_up(tmp_path_factory.mktemp("up"), config) as (system, running):
        done = system.run("policy", "set", "limits.num_ctx=200000")
        assert done.returncode == 0, done.stderr
        address = urlsplit(re.findall(r"http://\S+", running.said["stdout"])[-1])
        yield system, f"{address.scheme}://{address.netloc}"


@pytest.fixture(scope="module")
def up(started: tuple[System, str]) -> System:
    return started[0]


class Door:
    """The HTTP API, asked with the operator's token unless another is given."""

    def __init__(self, base: str, tokens: Tokens) -> None:
        self.base = base
        self.tokens = tokens

    def post(
        self, path: str, body: Any, token: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the answer."""
        token = self.tokens.operator if token is None else token
        request = Request(
            f"{self.base}/api/v1/{path}",
            body if isinstance(body, bytes) else json.dumps(body).encode(),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        try:
            with urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, json.load(answer)
        except HTTPError as refused:
            with refused:
                return refused.code, json.load(refused)

    def attach(self, data: bytes, **more: Any) -> tuple[int, dict[str, Any]]:
        body = {"data": base64.b64encode(data).decode(), **more}
        return self.post("attachments", body)

    def stored(self, data: bytes) -> int | None:
        """How many bytes the store has under the digest of these."""
        status, answer = self.post("attachments", {"digest": digest_of(data)})
        assert status == 200
        size: int | None = answer["size_bytes"]
        return size


@pytest.fixture
def door(started: tuple[System, str]) -> Door:
    system, base = started
    return Door(base, Tokens.load(system.data / TOKENS_FILE))


def last(server: SimulatedOllama) -> dict[str, Any]:
    return server.runs()[-1].body


def test_hinted_and_attached_files_are_in_the_prompt(
    up: System, server: SimulatedOllama
) -> None:
    (up.folder / "src").mkdir(exist_ok=True)
    (up.folder / "src" / "login.py").write_text("def login(): ...\n")
    (up.folder / "log.txt").write_text("x" * 600_000)
    ended = up.run(
        *("submit", "what is wrong?", "--file", "src/login.py:the form"),
        *("--attach", "log.txt", "--tier", "standard", "--wait", "--json"),
    )
    assert (ended.returncode, ended.json["status"]) == (0, "completed"), ended.stderr
    prompt = last(server)["messages"][0]["content"]
    assert "File src/login.py:\n```\ndef login(): ...\n```" in prompt
    assert ("x" * 600_000).strip() in prompt
    spec = up.json("task", ended.json["task_id"])["task"]["spec"]
    assert [each["name"] for each in spec["attachments"]] == ["src/login.py", "log.txt"]


def test_a_file_that_is_not_there_is_refused_by_its_name(up: System) -> None:
    before = up.json("tasks")["total"]
    for option in ("--file", "--attach"):
        refused = up.run("submit", "x", option, "nowhere/a.py", "--tier", "standard")
        assert refused.returncode == 2
        assert "nowhere/a.py: it cannot be read here" in refused.stderr
    (up.folder / "big").write_bytes(b"x" * 1_048_577)
    refused = up.run("submit", "x", "--attach", "big")
    assert "1,048,577 bytes, and 1,048,576 are the most" in refused.stderr
    (up.folder / "bin").write_bytes(b"\xff\x00\xfe")
    assert "neither text in UTF-8 nor a picture" in (
        up.run("submit", "x", "--attach", "bin").stderr
    )
    assert up.json("tasks")["total"] == before


def test_names_that_climb_are_only_names(up: System, server: SimulatedOllama) -> None:
    (up.folder.parent / "beside $(touch owned) .txt").write_text("secret\n")
    ended = up.run(
        *("submit", "x", "--attach", "../beside $(touch owned) .txt"),
        *("--tier", "standard", "--wait"),
    )
    assert ended.returncode == 0, ended.stderr
    assert (
        "File ../beside $(touch owned) .txt:"
        in (last(server)["messages"][0]["content"])
    )
    assert not list(up.folder.rglob("owned"))


def test_a_submitter_attaches_too(up: System, server: SimulatedOllama) -> None:
    (up.folder / "mine.txt").write_text("submitted by a program\n")
    key = str(up.data / "keys" / "submitter.nk")
    ended = up.run(
        *("--creds", key, "submit", "x", "--attach", "mine.txt"),
        *("--tier", "standard", "--wait"),
    )
    assert ended.returncode == 0, ended.stderr
    assert "submitted by a program" in last(server)["messages"][0]["content"]


def test_an_answer_whose_hints_come_without_files_is_refused(up: System) -> None:
    (up.folder / "t.jsonl").write_text(
        '{"description": "x", "file_hints": [{"path": "gone.py"}]}\n'
    )
    refused = up.run("submit", "-f", "t.jsonl")
    assert refused.returncode == 2
    assert "line 1: gone.py: it cannot be read here" in refused.stderr


def test_a_picture_is_shown_to_the_model(up: System, server: SimulatedOllama) -> None:
    (up.folder / "pic.png").write_bytes(PNG)
    ended = up.run(
        *("submit", "what is this?", "--attach", "pic.png"),
        *("--tier", "standard", "--wait"),
    )
    assert ended.returncode == 0, ended.stderr
    assert last(server)["model"] == "eyes:latest"
    [message] = last(server)["messages"]
    assert [base64.b64decode(each) for each in message["images"]] == [PNG]
    assert "File pic.png" not in message["content"]
    refused = up.run("submit", "x", "--attach", "pic.png", "--tier", "complex")
    assert "attachments: expected none, or tier standard" in refused.stderr


def test_a_prompt_that_nobody_can_read_is_refused_with_both_numbers(up: System) -> None:
    before = up.json("tasks")["total"]
    (up.folder / "most").write_text("x" * 1_048_576)
    (up.folder / "log.txt").write_text("x" * 600_000)
    refused = up.run("submit", "x", "--attach", "most", "--tier", "standard")
    assert refused.returncode == 1
    assert "200,000 tokens" in refused.stderr
    assert "about 262,1" in refused.stderr
    refused = up.run(
        *("submit", "x", "--attach", "log.txt", "--model", "eyes"),
        *("--tier", "standard"),
    )
    assert "8,192 tokens" in refused.stderr
    assert up.json("tasks")["total"] == before


def test_the_doctor_says_how_full_the_store_is(up: System) -> None:
    checks = json.loads(up.run("doctor", "--json").stdout)["checks"]
    [files] = [each for each in checks if each["name"] == "files"]
    assert files["status"] == "ok"
    assert "of 4.0 GiB for tasks' files, 0 %" in files["found"]


def test_a_task_that_was_restored_elsewhere_is_retried_with_its_file(
    up: System, server: SimulatedOllama, tmp_path: Path
) -> None:
    (up.folder / "kept.txt").write_text("carried over\n")
    up.run("drain", "h1")
    sent = up.json("submit", "x", "--attach", "kept.txt", "--tier", "standard")
    assert up.run("cancel", sent["task_id"]).returncode == 0
    archive = tmp_path / "log.tar"
    assert up.run("archive", str(archive)).returncode == 0
    up.run("resume", "h1")

    new = System(tmp_path)
    done = new.run("restore", str(archive))
    assert done.returncode == 0, done.stderr
    with agentcom_up(tmp_path, one_endpoint(server)) as (system, _):
        system.run("resume", "h1")
        system.json("retry", sent["task_id"])
        ended = system.run("logs", "--follow", sent["task_id"])
        assert ended.returncode == 0, ended.stderr
    assert "carried over" in last(server)["messages"][0]["content"]


def test_a_program_stores_a_file_over_http_and_names_it(
    up: System, door: Door, server: SimulatedOllama
) -> None:
    data = b"sent over http\n"
    assert door.stored(data) is None
    for existing in (False, True):
        status, answer = door.attach(data)
        assert status == 200
        assert (answer["digest"], answer["size_bytes"], answer["existing"]) == (
            digest_of(data),
            len(data),
            existing,
        )
    named = {"name": "a.txt", "digest": digest_of(data), "size_bytes": len(data)}
    task = {"description": "x", "tier": "standard", "attachments": [named]}
    status, answer = door.post("tasks", task)
    assert status in (200, 201, 202), answer
    up.run("logs", "--follow", answer["task_id"])
    assert (
        "File a.txt:\n```\nsent over http" in (last(server)["messages"][0]["content"])
    )


def test_a_file_of_the_greatest_size_comes_over_http_in_pieces(door: Door) -> None:
    data = bytes(range(256)) * (LIMIT_BYTES // 256)
    pieces = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
    for piece in pieces[:-1]:
        status, answer = door.attach(piece, upload="most", last=False)
        assert (status, answer["digest"]) == (200, "")
    assert door.stored(data) is None
    status, answer = door.attach(pieces[-1], upload="most")
    assert (status, answer["digest"]) == (200, digest_of(data))
    assert door.stored(data) == LIMIT_BYTES

    status, answer = door.attach(b"x", upload="most")
    assert (status, answer["code"], answer["path"]) == (400, "malformed", "data")
    assert f"{LIMIT_BYTES}" in answer["error"]
    assert door.stored(data + b"x") is None


def test_what_is_too_large_for_a_command_is_refused_over_http(door: Door) -> None:
    for length, status, code, most in (
        (PIECE_BYTES + 1, 400, "malformed", f"{PIECE_BYTES}"),
        (500_000, 400, "malformed", "600,000"),
        (800_000, 413, "request_entity_too_large", "1,000,000"),
    ):
        data = b"y" * length
        refused, answer = door.attach(data)
        assert (refused, answer["code"]) == (status, code)
        assert most in answer["error"]
        assert door.stored(data) is None


def test_nobody_stores_a_file_without_the_token_for_it(door: Door) -> None:
    data = b"nobody's"
    body = {"data": base64.b64encode(data).decode()}
    for token, status, code in (
        ("", 401, "unauthorized"),
        ("wrong", 401, "unauthorized"),
        (door.tokens.operator[:-1], 401, "unauthorized"),
        (door.tokens.viewer, 403, "forbidden"),
    ):
        refused, answer = door.post("attachments", body, token)
        assert (refused, answer["code"]) == (status, code)
    assert door.stored(data) is None


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"data": "not base64!"}, "data"),
        ({"data": "eA"}, "data"),
        ({"data": "ü"}, "data"),
        ({"data": 1}, "data"),
        *(
            ({"data": "eA==", "upload": name}, "upload")
            for name in ("", "../x", "a.b", "a b", "*", ">", "a\n", "x" * 37, "é", 7)
        ),
        *(
            ({"digest": digest}, "digest")
            for digest in ("*", ">", "../x", "A" * 64, "a" * 64 + "\n", "a" * 63)
        ),
        ({"data": "eA==", "name": "a"}, "name"),
        ({"data": "eA==", "last": "yes"}, "last"),
    ],
)
def test_a_hostile_attachment_is_refused_by_its_field(
    door: Door, fields: dict[str, Any], path: str
) -> None:
    status, answer = door.post("attachments", fields)
    assert (status, answer["code"], answer["path"]) == (400, "malformed", path)


def test_a_hostile_name_is_refused_over_http(up: System, door: Door) -> None:
    data = b"named badly"
    assert door.attach(data)[0] == 200
    before = up.json("tasks")["total"]
    for name in ("", "a\nb", "a\x00b", "\x1b[2J", "x" * 5_000, 7, None):
        named = {"name": name, "digest": digest_of(data), "size_bytes": len(data)}
        task = {"description": "x", "tier": "standard", "attachments": [named]}
        status, answer = door.post("tasks", task)
        assert (status, answer["code"]) == (400, "malformed"), name
        assert answer["path"] == "attachments[0].name"
    assert up.json("tasks")["total"] == before
