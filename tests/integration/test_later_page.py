"""The examples of docs/later.md, run as they stand there against a real instance."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentcom import Client, Refused
from tests.support.command import (
    NOTHING_ELSE,
    PATIENCE_S,
    ROOT,
    System,
    agentcom_up,
    command,
    environment,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXAMPLES = re.findall(
    r"<!-- run -->\n```sh\n(.*?)```",
    (ROOT / "docs" / "later.md").read_text(),
    flags=re.S,
)
SAID = [
    ["is waiting since", "It is not to start before"],
    ["tested", "tidied up"],
    [],
    [
        *(
            "nightly added; next",
            "0 3 * * mon-fri",
            "left out",
            "nightly changed; next",
        ),
        *("is paused", "removed"),
    ],
]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, str]]:
    """An instance, and where its web role answers."""
    with agentcom_up(tmp_path_factory.mktemp("later"), NOTHING_ELSE) as (system, run):
        yield system, re.findall(r"http://[\d.:]+", run.said["stdout"])[-1]


@pytest.fixture(scope="module")
def system(up: tuple[System, str]) -> System:
    return up[0]


@pytest.mark.parametrize("n", range(4))
def test_an_example_of_the_page_does_what_it_says(system: System, n: int) -> None:
    if "schedule" in EXAMPLES[n]:
        pytest.importorskip("cronsim", reason="an environment older than its checkout")
    env = environment(system.folder, system.data)
    env["PATH"] = f"{Path(command()[0]).parent}:{env['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", EXAMPLES[n]],
        env=env,
        cwd=system.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    at = 0
    for said in SAID[n]:
        at = done.stdout.find(said, at)
        assert at >= 0, (said, done.stdout)


def test_each_example_is_run() -> None:
    assert len(EXAMPLES) == len(SAID)


def by_command(system: System, url: str, tasks: list[dict[str, Any]]) -> str:
    lines = "\n".join(json.dumps(each) for each in tasks)
    (system.folder / "cycle.jsonl").write_text(lines + "\n")
    done = system.run("submit", "-f", "cycle.jsonl")
    assert done.returncode != 0
    return done.stderr


def by_http(system: System, url: str, tasks: list[dict[str, Any]]) -> str:
    token = token_of(system)
    asked = urllib.request.Request(
        f"{url}/api/v1/tasks/batch",
        json.dumps({"tasks": tasks}).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked)
    assert refused.value.code == 400
    return str(json.loads(refused.value.read())["error"])


def by_library(where: dict[str, Any], tasks: list[dict[str, Any]]) -> str:
    with Client(**where) as client, pytest.raises(Refused) as refused:
        client.submit_many(tasks)  # type: ignore[arg-type]
    return str(refused.value)


def by_library_over_http(system: System, url: str, tasks: list[dict[str, Any]]) -> str:
    token = token_of(system)
    return by_library({"url": url, "token": token}, tasks)


def by_library_over_nats(system: System, url: str, tasks: list[dict[str, Any]]) -> str:
    return by_library({"data": system.data}, tasks)


def token_of(system: System) -> str:
    tokens = json.loads((system.data / "web-tokens.json").read_text())
    return str(tokens["operator"])


@pytest.mark.parametrize(
    "door", [by_command, by_http, by_library_over_http, by_library_over_nats]
)
def test_tasks_that_wait_for_each_other_are_refused_with_the_way_round_at_every_door(
    up: tuple[System, str], door: Callable[[System, str, list[dict[str, Any]]], str]
) -> None:
    shell = {"command": "true"}
    tasks: list[dict[str, Any]] = [
        {"name": "a", "description": "x", "shell": shell, "after": ["c"]},
        {"name": "b", "description": "x", "shell": shell, "after_any": ["a"]},
        {"name": "c", "description": "x", "shell": shell, "after": ["b"]},
        {"name": "d", "description": "x", "shell": shell},
    ]
    # The way round may be said from any of them.
    ways = ("a after c after b after a", "b after a after c after b")
    system, url = up
    said = door(system, url, tasks)
    assert any(way in said for way in (*ways, "c after b after a after c")), said
    listed = system.json("tasks", "--text", "x", "--json")
    assert not [t for t in listed["tasks"] if t["description"] == "x"]
