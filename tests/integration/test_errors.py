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

import click
import httpx
import pytest

from cli.main import agentcom, main
from cli.render.terminal import EXIT_NOT_FOUND
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


NAMED: dict[str, list[str]] = {
    "task": [NO_TASK],
    "diff": [NO_TASK],
    "fetch": [NO_TASK],
    "logs": [NO_TASK],
    "logs --follow": [NO_TASK],
    "cancel": [NO_TASK],
    "retry": [NO_TASK],
    "reassign": [f"{NO_TASK} h1", "{task} nosuch"],
    "why-waiting": [NO_TASK],
    "explain": [NO_TASK],
    "state": [f"task {NO_TASK}"],
    "replay": [f"--task {NO_TASK}"],
    "events": [f"--task {NO_TASK}"],
    "export": [NO_TASK],
    "traces --json": [NO_TASK],
    "schedule change": ["nosuch --tz UTC"],
    "schedule pause": ["nosuch"],
    "schedule remove": ["nosuch"],
    "schedule resume": ["nosuch"],
    "schedule run": ["nosuch"],
    "schedule show": ["nosuch"],
    "drain": ["nosuch"],
    "resume": ["nosuch"],
    "host forget": ["nosuch"],
    "host remove": ["nosuch"],
    "endpoints remove": ["nosuch"],
    "tiers clear-limit": ["complex"],
    "ack": ["complex"],
    "policy explain": ["nosuch"],
    "policy show": ["nosuch"],
    "notify --config notify.toml test": ["nosuch"],
}
"""Commands and arguments that name what is not there; `{task}` is there."""
NAMES_NOTHING = {
    # What is named is made, is text, is a file, or is one of a few words.
    *("run", "submit", "classify", "route", "policy set", "policy validate"),
    *("schedule add", "endpoints add", "host add", "archive", "restore", "rebuild"),
}


def with_arguments(name: str, command: click.Command) -> Iterator[str]:
    """The names of all commands below that take arguments."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            assert below is not None
            yield from with_arguments(f"{name} {each}".strip(), below)
    elif any(isinstance(each, click.Argument) for each in command.params):
        yield name


def test_every_command_that_names_something_is_tried_with_what_is_not_there():
    tried = {re.sub(r" --\w+( \S+\.toml)?", "", each) for each in NAMED}
    assert set(with_arguments("", agentcom)) == (tried | NAMES_NOTHING) - {
        "replay",
        "events",
    }


def test_what_is_not_there_ends_every_command_with_the_same_code(door: httpx.Client):
    # It waits for a model, which nobody has.
    said = door.post("/api/v1/tasks", json={"description": "x", "tier": "standard"})
    task = said.json()["task_id"]
    Path("notify.toml").write_text(
        '[[target]]\nname = "a"\nurl = "http://127.0.0.1:1/"\nsecret_env = "X"\n'
    )
    codes = {}
    for command, arguments in NAMED.items():
        for each in arguments:
            line = f"{command} {each}".format(task=task)
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
                codes[line] = main(shlex.split(line))
            assert err.getvalue().strip(), line
    assert {line: code for line, code in codes.items() if code != EXIT_NOT_FOUND} == {}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch, instance(Path(scratch)) as client:
        PAGE.write_text(HEAD + "".join(row(m, said_to(m, client)) for m in MISTAKES))
    sys.exit(0)
