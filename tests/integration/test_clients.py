"""The library as a stranger uses it: the wheel alone, the documented programs, mypy."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, get_type_hints

import pytest

from agentcom.fields import ShellFields, TaskFields, TaskFilter
from events.commands import NewShell, NewTask
from projections.questions import AskTasks
from tests.support.command import agentcom_up
from tests.support.packaged import ROOT, Environment, built, dependencies_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.command import System

PROGRAMS = dict(
    re.findall(
        r"<!-- run: (\w+) -->\n```python\n(.*?)```",
        (ROOT / "docs/clients.md").read_text(),
        re.DOTALL,
    )
)
SAID = {
    "http": [
        "task 7 says 8",
        "100 tasks are completed",
        "the last says 100",
        "it went to h1",
    ],
    "nats": ["task 7 says 8", "100 tasks are completed", "the last says 100"],
    "errors": [
        "malformed | assign_to | 1 to 64 letters, digits, '_' or '-'",
        "the same task: True",
        "it is running",
        "cancelled",
        "failed | exit_code",
    ],
    "schedules": [
        "nightly 10 :30:00Z",
        "30 3 * * mon-fri",
        "holidays",
        "False",
        "good night",
        "['30 3 * * mon-fri']",
        "by_hand",
        "there is no schedule 'nightly'",
    ],
    "many": [
        "3 would be cancelled",
        "{'cancelled': 3}",
        "1 is tried anew",
        "search",
    ],
}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Environment:
    """A fresh environment with nothing of ours but the wheel."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "dependencies").mkdir()
    fresh = Environment(folder / "fresh", dependencies_in(folder / "dependencies"))
    fresh.install(built("wheel", folder / "dist"))
    return fresh


@pytest.fixture(scope="module")
def instance(tmp_path_factory) -> Iterator[tuple[System, dict[str, str]]]:
    """A running instance, and what a program's environment says of it."""
    with agentcom_up(tmp_path_factory.mktemp("up")) as (system, up):
        tokens = json.loads((system.data / "web-tokens.json").read_text())
        nats = json.loads((system.data / "address.json").read_text())["nats"]
        yield (
            system,
            {
                "AGENTCOM_URL": re.findall(r"http://[\d.:]+", up.said["stdout"])[-1],
                "AGENTCOM_TOKEN": tokens["operator"],
                "AGENTCOM_NATS": nats,
                "AGENTCOM_CREDS": str(system.data / "keys" / "operator.nk"),
            },
        )


@pytest.mark.parametrize("name", SAID)
def test_a_documented_program_runs_with_the_wheel_alone(name, stranger, instance):
    program = stranger.folder / f"by_{name}.py"
    program.write_text(PROGRAMS[name])
    assert (
        stranger.run("python", str(program), **instance[1]).splitlines() == SAID[name]
    )


def test_mypy_strict_accepts_the_documented_programs(stranger: Environment):
    for name, text in PROGRAMS.items():
        (stranger.folder / f"{name}_typed.py").write_text(text)
    files = [str(stranger.folder / f"{name}_typed.py") for name in PROGRAMS]
    said = stranger.run("python", "-m", "mypy", "--strict", *files)
    assert said == f"Success: no issues found in {len(files)} source files\n"


def test_the_library_imports_none_of_the_rooms_and_no_nats_until_it_is_used(
    stranger: Environment,
):
    code = (
        "import sys; from agentcom import Client; Client(url='http://localhost:1');"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = set(stranger.run("python", "-c", code).split())
    assert loaded & {"events", "cli", "web", "projections", "nats", "aiohttp"} == set()
    assert {"httpx", "msgspec"} <= loaded


def test_the_fields_of_a_task_and_of_a_filter_are_those_of_the_commands():
    assert get_type_hints(TaskFields).keys() == set(NewTask.__struct_fields__)
    assert get_type_hints(ShellFields).keys() == set(NewShell.__struct_fields__)
    paging = {"wait_seq", "limit", "offset", "cursor"}
    assert get_type_hints(TaskFilter).keys() == set(AskTasks.__struct_fields__) - paging
