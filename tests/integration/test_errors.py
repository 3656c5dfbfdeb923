"""docs/errors.md: typical mistakes, as they are made and as they are answered.

`python -m tests.integration.test_errors` writes the page anew.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import sys
import tempfile
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from cli.main import main
from tests.support.command import agentcom_up

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
HEAD = """# What is said to mistakes

Sixty typical mistakes, each as it was made on a running instance with one host, `h1`, and
as it was answered. A test makes them all anew. The command line says one sentence on
stderr; over HTTP it is the `error` of a refusal, whose `code` and `path` are for programs.

| done | said |
| --- | --- |
"""
NO_TASK = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
MISTAKES = [
    "agentcom sumbit 'fix the login'",
    "agentcom submit",
    "agentcom submit x --teir standard",
    "agentcom submit x --tier standrad",
    "agentcom submit x --priority hihg",
    "agentcom submit x --ttl soon",
    "agentcom submit x --timeout 5x",
    "agentcom submit x --deadline tomorrow",
    "agentcom submit x --repo nowhere",
    "agentcom submit x --assign-to 'my host'",
    "agentcom submit x --cwd /srv/missing",
    "agentcom submit --shell ls --cwd /etc/passwd",
    "agentcom submit x --label Team=Search",
    "agentcom submit x --attach missing.txt",
    "agentcom submit x --file missing.txt --answer",
    "agentcom submit x --temperature 3",
    "agentcom submit x --max-tokens 0",
    "agentcom submit x --verify-rounds 99",
    "agentcom submit x --shell git status",
    "agentcom submit -f missing.jsonl",
    "agentcom submit x --max-budget-usd -1",
    "agentcom task 01",
    "agentcom task ''",
    f"agentcom task {NO_TASK}",
    f"agentcom logs {NO_TASK}",
    f"agentcom cancel {NO_TASK}",
    f"agentcom reassign {NO_TASK} h1",
    f"agentcom explain {NO_TASK}",
    "agentcom retry",
    "agentcom tasks --state done",
    "agentcom tasks --sort age",
    "agentcom tasks --since yesterdayish",
    "agentcom tasks --limit 0",
    "agentcom tasks --host h2",
    "agentcom costs --by modle",
    "agentcom costs --since 2026-13-01",
    "agentcom drain h2",
    "agentcom endpoints add pool gpu:11434",
    "agentcom ack complexx",
    "agentcom policy set fallback_wait=2",
    "agentcom policy set fallback_wait_s=soon",
    "agentcom policy set fallback_wait_s",
    "agentcom policy set limits.verify_rounds=99",
    "agentcom policy explain falback_wait_s",
    "agentcom events --type task.complted",
    "agentcom events --subject 'a b'",
    "agentcom state hosts",
    "agentcom --creds bob.nk tasks",
    "agentcom --creds host-h1.nk tasks",
    "agentcom --creds host-h1.nk submit x",
    "agentcom --creds host-h1.nk logs " + NO_TASK,
    "agentcom --creds submitter.nk verify",
    "GET /api/v1/tasks?state=done",
    "GET /api/v1/tasks?limit=many",
    "GET /api/v1/tasks?sort=age",
    "GET /api/v1/tasks?cursor=x",
    "GET /api/v1/tasks?since=yesterdayish",
    "GET /api/v1/costs?until=2026-01-31T18:00:00",
    "GET /api/v1/stats?at=soon",
    "GET /api/v1/events?from=soon",
    "GET /api/v1/tasks?colour=red",
    f"GET /api/v1/tasks/{NO_TASK}",
    f"GET /api/v1/tasks/{NO_TASK}?wait=soon",
    "POST /api/v1/tasks {}",
    "POST /api/v1/tasks no JSON",
    'POST /api/v1/tasks {"description": ""}',
    'POST /api/v1/tasks {"description": "x", "files": []}',
    'POST /api/v1/tasks {"description": "x", "tier": "standrad"}',
    'POST /api/v1/tasks {"description": "x", "shell": {"comand": "ls"}}',
    'POST /api/v1/tasks {"description": "x", "needs": "gpu"}',
    'POST /api/v1/endpoints {"endpoint": "p", "kind": "ollama", "url": "gpu:11434"}',
    'PUT /api/v1/policy {"policy": {"fallback_wait": 2}}',
    "POST /api/v1/hosts/h2/drain",
    "GET /api/v1/nothing",
]


@contextmanager
def instance(folder: Path) -> Iterator[httpx.Client]:
    """A running instance that the command finds; a client of its HTTP door."""
    (folder / "home").mkdir(parents=True)
    with agentcom_up(folder / "up") as (system, up):
        tokens = json.loads((system.data / "web-tokens.json").read_text())
        url = re.findall(r"http://[\d.:]+", up.said["stdout"])[-1]
        headers = {"Authorization": f"Bearer {tokens['operator']}"}
        kept, here = dict(os.environ), Path.cwd()
        for name in ("AGENTCOM_NATS", "AGENTCOM_CREDS"):
            os.environ.pop(name, None)
        os.environ["AGENTCOM_DATA"] = str(system.data)
        os.chdir(folder / "home")
        for key in ("host-h1.nk", "submitter.nk"):
            Path(key).symlink_to(system.data / "keys" / key)
        try:
            with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
                yield client
        finally:
            os.chdir(here)
            os.environ.clear()
            os.environ.update(kept)


def said_to(mistake: str, door: httpx.Client) -> str:
    """Make the mistake; return what is said to it, in one line."""
    name, _, rest = mistake.partition(" ")
    if name == "agentcom":
        kept = dict(os.environ)
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(shlex.split(rest))
        os.environ.clear()
        os.environ.update(kept)
        text = err.getvalue()
        assert code != 0 or text, mistake
        lines = [each for each in text.splitlines() if each.strip()]
        begin = next((n for n, line in enumerate(lines) if "Error:" in line), 0)
        return " ".join(" ".join(lines[begin:]).split()).removeprefix("Error: ")
    path, _, body = rest.partition(" ")
    sent = {"Content-Type": "application/json"} if body else {}
    answer = door.request(name, path, content=body or None, headers=sent)
    assert answer.status_code >= 400, mistake
    return str(answer.json()["error"])


def row(mistake: str, said: str) -> str:
    cells = [f"`{mistake}`", said]
    return "| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |\n"


@pytest.fixture(scope="module")
def door(tmp_path_factory) -> Iterator[httpx.Client]:
    with instance(tmp_path_factory.mktemp("errors")) as client:
        yield client


def test_the_page_says_what_is_said(door: httpx.Client):
    assert len(MISTAKES) >= 60
    shown = HEAD + "".join(row(each, said_to(each, door)) for each in MISTAKES)
    assert PAGE.read_text() == shown


@pytest.mark.parametrize("line", PAGE.read_text().splitlines()[8:])
def test_no_answer_shows_a_pattern_or_python(line: str):
    said = line.rpartition(" | ")[2]
    found = re.search(
        r"\\Z|\\d|\[A-Za|\^\[|\(\?|None\b|Traceback|object at 0x|<class|another value",
        said,
    )
    assert found is None, said
    assert len(said) > 10


WAY_OUT = re.compile(
    r"[Dd]id you mean|expected .*(got|such as)|expected .*\bor\b|there are|hosts: |list"
    r"|give |say |name |range|`agentcom|starts? with|takes the whole|NAME=VALUE|at most"
)


@pytest.mark.parametrize("line", PAGE.read_text().splitlines()[8:])
def test_every_answer_says_the_way_out(line: str):
    said = line.rpartition(" | ")[2]
    assert WAY_OUT.search(said), said


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch, instance(Path(scratch)) as client:
        PAGE.write_text(HEAD + "".join(row(m, said_to(m, client)) for m in MISTAKES))
    sys.exit(0)
