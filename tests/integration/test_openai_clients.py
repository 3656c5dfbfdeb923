"""Clients that nobody here wrote, and requests in the shapes that programs send them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from sidecar.simulated.messages import ScriptedCall
from sidecar.simulated.ollama import SimulatedOllama
from tests.support.doors import OpenDoor, open_door

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
LITELLM = "litellm==1.110.2"
SAID = (
    "This is a simulated model's answer; no language model was asked. "
    'The prompt had 2 words: "hello there" A real model would now do the work.'
)


@pytest.fixture(scope="module")
def ollama() -> SimulatedOllama:
    return SimulatedOllama(["llama3.2:latest"])


@pytest.fixture(scope="module")
def door(
    ollama: SimulatedOllama, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenDoor]:
    with open_door(tmp_path_factory.mktemp("door"), {"gpu": ollama}) as door:
        yield door


def told(door: OpenDoor, *words: str, **more: str) -> Any:
    """What a client prints that finds the door in its environment alone."""
    env = {"OPENAI_BASE_URL": door.base_url, "OPENAI_API_KEY": door.api_key, **more}
    done = subprocess.run(
        words,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_openais_client_for_javascript_chats(
    door: OpenDoor, ollama: SimulatedOllama
) -> None:
    node = shutil.which("node")
    if node is None or not (ROOT / "web/node_modules/openai").exists():
        pytest.skip("OPENAI'S CLIENT FOR JAVASCRIPT IS NOT HERE (npm install in web/)")
    ollama.calls.append(ScriptedCall(name="weather", input={"city": "Wien"}))
    script = str(ROOT / "web/tests/openai-client.mjs")
    said = told(door, node, script, MODEL_SERVER=ollama.url)
    assert said["models"][:3] == ["auto", "standard", "complex"]
    assert said["whole"] == said["streamed"] == SAID
    assert said["usage"]["completion_tokens"] == len(SAID.split())
    assert door.task(said["task"])["task"]["state"] == "completed"
    [call] = said["calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Wien"}
    assert said["refused"] == ["NotFoundError", 404, "model_not_found", "model"]
    assert said["before"]
    assert "broke off" in said["broken"]


# -- LiteLLM, and through it aider -----------------------------------------------------


@pytest.fixture(scope="session")
def litellm() -> str:
    """A Python that has LiteLLM: that which LITELLM_PYTHON names, or one made here once.

    What it needs and these tests have too is not installed a second time.
    """
    named = os.environ.get("LITELLM_PYTHON")
    if named:
        return named
    folder = ROOT / ".litellm"
    python = folder / "bin/python"
    if not (folder / "whole").exists():
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
        made = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)]
        lent = [str(python), "-c", LENDS, sysconfig.get_path("purelib")]
        for words in (made, lent, [*pip, "-q", "--no-compile", LITELLM]):
            done = subprocess.run(words, capture_output=True, timeout=600, check=False)
            if done.returncode:
                pytest.skip(
                    f"LITELLM CANNOT BE INSTALLED HERE ({LITELLM}): nothing checks that "
                    "it chats through AgentCom"
                )
        (folder / "whole").touch()
    return str(python)


LENDS = """
import sys, sysconfig
with open(sysconfig.get_path("purelib") + "/lent.pth", "w") as file:
    file.write(sys.argv[1])
"""
LITELLM_CHATS = """
import json, litellm
asked = dict(model="openai/auto", messages=[{"role": "user", "content": "hello there"}])
whole = litellm.completion(**asked, temperature=0, seed=1)
stream = litellm.completion(**asked, stream=True, stream_options={"include_usage": True})
chunks = [*stream]
said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
try:
    litellm.completion(model="openai/nobodys", messages=asked["messages"])
except litellm.NotFoundError as error:
    refused = str(error)
print(json.dumps({
    "whole": whole.choices[0].message.content,
    "task": whole._response_headers["x-agentcom-task"],
    "tokens": whole.usage.completion_tokens,
    "streamed": said,
    "refused": refused,
}))
"""


def test_litellm_chats(door: OpenDoor, litellm: str) -> None:
    said = told(door, litellm, "-c", LITELLM_CHATS, LITELLM_LOCAL_MODEL_COST_MAP="True")
    assert said["whole"] == said["streamed"] == SAID
    assert said["tokens"] == len(SAID.split())
    assert door.task(said["task"])["task"]["state"] == "completed"
    assert "nobody here has nobodys" in said["refused"]


# -- shapes ----------------------------------------------------------------------------

OPEN_WEBUI: dict[str, Any] = {
    "stream": True,
    "model": "llama3.2:latest",
    "messages": [
        {"role": "system", "content": "User Context:\n"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello", "reasoning_content": "hm"},
        {"role": "user", "content": [{"type": "text", "text": "hello there"}]},
    ],
    "stream_options": {"include_usage": True},
    "user": {"name": "Ann", "id": "7", "email": "a@example.com", "role": "user"},
    "metadata": {"task": "title_generation"},
    "chat_id": "c-1",
    "session_id": "s-1",
    "background_tasks": {"title_generation": True},
    "features": {"web_search": False},
    "tool_ids": [],
    "logit_bias": {},
}
AIDER: dict[str, Any] = {
    "model": "standard",
    "messages": [
        {
            "role": "system",
            "content": [
                {
                    "type": "text",
                    "text": "Act as an expert software developer.",
                    "cache_control": {"type": "ephemeral"},
                }
            ],
        },
        {"role": "user", "content": "I switched to a new code base."},
        {"role": "assistant", "content": "Ok."},
        {"role": "user", "content": "hello there"},
    ],
    "temperature": 0,
    "stream": True,
    "n": 1,
    "extra_headers": {"Editor-Version": "aider"},
    "tools": None,
    "parallel_tool_calls": True,
}


@pytest.mark.parametrize("shape", [OPEN_WEBUI, AIDER], ids=["open-webui", "aider"])
def test_requests_are_taken_in_the_shapes_that_programs_send(
    door: OpenDoor, ollama: SimulatedOllama, shape: dict[str, Any]
) -> None:
    headers = {"Authorization": f"Bearer {door.api_key}"}
    answer = httpx.post(
        f"{door.base_url}/chat/completions", json=shape, headers=headers, timeout=60
    )
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n")[:-2]]
    deltas = [each["choices"][0]["delta"] for each in chunks if each["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == SAID
    assert [m["role"] for m in ollama.runs()[-1].body["messages"]] == [
        m["role"] for m in shape["messages"]
    ]
    passed_over = {"open-webui": "background_tasks, chat_id", "aider": "extra_headers"}
    kind = "open-webui" if "chat_id" in shape else "aider"
    assert answer.headers["x-agentcom-ignored"].startswith(passed_over[kind])
    task = door.task(answer.headers["x-agentcom-task"])["task"]
    assert task["description"] == "hello there"


# -- strangers -------------------------------------------------------------------------

DEEP: Any = {"type": "function", "function": {"name": "f", "parameters": {}}}
for _ in range(200):
    DEEP = {"type": "function", "function": {"name": "f", "parameters": DEEP}}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b'{"model":"auto","messages":[{"role":"user","content":"\\u0000"}]}', 200),
        (b'{"model":"auto","messages":[{"role":"user","content":"\\ud800"}]}', 400),
        (b'{"model":"\\r\\nx-a: b","messages":[{"role":"user","content":"x"}]}', 404),
        (
            b'{"model":"auto","messages":[{"role":"user","content":"x"}],"x\\r\\n":1}',
            200,
        ),
        (json.dumps({"model": "auto", "messages": [], "tools": [DEEP]}).encode(), 400),
        (
            json.dumps(
                {
                    "model": "auto",
                    "messages": [{"role": "user", "content": "x"}],
                    "tools": [DEEP],
                }
            ).encode(),
            400,
        ),
        (b'{"model":"auto","messages":"' + b"x" * 3_000_000 + b'"}', 413),
        (
            b'{"model":"auto","messages":[{"role":"user","content":"'
            + b"x" * 400_000
            + b'"}]}',
            400,
        ),
    ],
    ids=range(11),
)
def test_whatever_comes_is_answered_in_openais_shape(
    door: OpenDoor, body: bytes, status: int
) -> None:
    headers = {"Authorization": f"Bearer {door.api_key}"}
    url = f"{door.base_url}/chat/completions"
    answer = httpx.post(url, content=body, headers=headers, timeout=60)
    assert answer.status_code == status, answer.text
    assert status == 200 or answer.json()["error"]["message"]
    assert "x-a" not in answer.headers


def test_other_paths_and_methods_are_refused_in_openais_shape(door: OpenDoor) -> None:
    headers = {"Authorization": f"Bearer {door.api_key}"}
    for method, path in (
        ("GET", "chat/completions"),
        ("POST", "models"),
        ("POST", "responses"),
        ("DELETE", "models/x"),
    ):
        url = f"{door.base_url}/{path}"
        answer = httpx.request(method, url, headers=headers, timeout=60)
        assert answer.status_code in (404, 405)
        assert "/v1/chat/completions" in answer.json()["error"]["message"]
