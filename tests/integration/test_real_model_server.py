"""Tasks on llama.cpp's real server with a real model, from submission to result."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_changes import git
from tests.support.command import System, agentcom_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.llama_cpp import RealServers

CONTEXT, SMALL = 32_768, 512
PATIENT_S = 1_200
NOT_NEEDED = [
    *("Agent", "CronCreate", "CronDelete", "CronList", "EnterWorktree", "ExitWorktree"),
    *("ListAgents", "Monitor", "NotebookEdit", "ReportFindings", "ScheduleWakeup"),
    *("SendMessage", "Skill", "TaskStop", "ToolSearch", "WebFetch", "WebSearch"),
    *("Workflow", "Edit", "Read", "Write"),
]
"""Tools whose descriptions a small model on a slow machine need not read."""


@pytest.fixture(scope="module")
def up(
    tmp_path_factory: pytest.TempPathFactory, real_llama: RealServers
) -> Iterator[System]:
    """One AgentCom with two such servers, and one repository.

    The small one has no tools and little context; the answers of the other are short.
    """
    folder = tmp_path_factory.mktemp("up")
    repo = folder / "shop"
    repo.mkdir()
    git(repo, "init", "-q", "-b", "main")
    (repo / "a.txt").write_text("one\n")
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "one")
    short = (".", "\n")
    servers = {
        "small": asyncio.run(real_llama.at(ctx=SMALL, name="small")),
        "large": asyncio.run(
            real_llama.at(ctx=CONTEXT, name="large", tools=True, stop=short)
        ),
    }
    config = (
        f'discover = false\n[repos]\nshop = "{repo}"\n'
        f"[claude]\nenabled = false\n"
        f'allowed_tools = ["Bash"]\ndisallowed_tools = {json.dumps(NOT_NEEDED)}\n'
    )
    for name, url in servers.items():
        config += f'[[endpoint]]\nname = "{name}"\nkind = "openai"\nurl = "{url}"\n'
    with agentcom_up(folder, config) as (system, _):
        yield system


def answered(up: System, *words: str) -> dict[str, Any]:
    """Submit an answer task that has to complete; its task."""
    short = ("--max-tokens", "24", "--temperature", "0")
    ended = up.run(
        *("submit", *words, *short, "--tier", "standard", "--wait", "--json"),
        patience_s=180.0,
    )
    assert (ended.returncode, ended.json["status"]) == (0, "completed"), (
        ended.stdout + ended.stderr
    )
    task: dict[str, Any] = up.json("task", ended.json["task_id"])["task"]
    return task


def read_by(result: dict[str, Any]) -> int:
    """How many tokens the model had before it."""
    return int(result["tokens_in"]) + int(result.get("cache_read_tokens", 0))


def test_an_answer_has_read_its_files_and_keeps_to_its_limit(up: System) -> None:
    (up.folder / "notes.txt").write_text("The shop opens at nine. " * 20)
    task = answered(up, "When does it open?", "--file", "notes.txt", "--model", "small")
    result = task["result"]
    assert result["output"].strip()
    assert 0 < result["tokens_out"] <= 24
    assert read_by(result) > 120
    assert result["model_used"] == "small"
    assert not result.get("simulated")
    assert (result["estimated_cost_usd"], result["cost_basis"]) == (0, "local_estimate")


def test_what_one_server_cannot_read_goes_to_the_other(up: System) -> None:
    (up.folder / "long.txt").write_text("The shop opens at nine. " * 120)
    task = answered(up, "When does it open?", "--file", "long.txt")
    assert task["result"]["model_used"] == "large"
    assert read_by(task["result"]) > SMALL


def test_an_answer_keeps_to_its_form(up: System) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    (up.folder / "form.json").write_text(json.dumps(schema))
    task = answered(
        up, "Name a colour.", "--json-schema", "form.json", "--model", "small"
    )
    assert json.loads(task["result"]["output"])["colour"] in ("red", "blue")


def test_a_file_that_it_cannot_read_is_refused_before_anything_runs(up: System) -> None:
    (up.folder / "most").write_text("x" * 1_048_576)
    before = up.json("tasks")["total"]
    refused = up.run("submit", "x", "--attach", "most", "--tier", "standard")
    assert refused.returncode == 1
    assert f"{CONTEXT:,} tokens" in refused.stderr
    assert "about 262,1" in refused.stderr
    assert up.json("tasks")["total"] == before


def test_the_real_claude_code_works_with_the_real_model_for_nothing(
    up: System, real_claude: Path
) -> None:
    """What a model of this size does is not asked; that the end is honest is."""
    ended = up.run(
        *("submit", "Say hello in one line.", "--work", "--repo", "shop"),
        *("--tier", "standard", "--timeout", "20m", "--max-attempts", "1"),
        *("--wait", "--json"),
        patience_s=PATIENT_S,
    )
    task = up.json("task", ended.json["task_id"])["task"]
    assert task["mode"] == "work"
    result = task["result"]
    assert result is not None, ended.stdout + ended.stderr
    assert result["model_used"] == "large"
    assert not result.get("simulated")
    assert (result["estimated_cost_usd"], result["cost_basis"]) == (0, "local_estimate")
    assert read_by(result) > 1_000
    assert result["tokens_out"] > 0
    if ended.json["status"] == "completed":
        assert ended.returncode == 0
        assert result["output"].strip()
        said = up.run("logs", task["task_id"]).stdout
        assert result["output"].strip() in said
    else:
        assert ended.returncode != 0
        assert result["error"]["message"]
