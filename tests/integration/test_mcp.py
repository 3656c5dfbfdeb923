"""`agentcom mcp` as any MCP client uses it: the SDK's own client, a real instance."""

from __future__ import annotations

import json
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from mcp import Client, StdioServerParameters

from tests.support.command import agentcom_up, command, environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.command import System

NAMES = [
    "submit_task",
    "wait_for_task",
    "task_output",
    "cancel_task",
    "list_models_and_hosts",
    "explain_routing",
    "what_would_it_cost",
]


@pytest.fixture(scope="module")
def instance(tmp_path_factory) -> Iterator[System]:
    with agentcom_up(tmp_path_factory.mktemp("up")) as (system, _):
        yield system


@asynccontextmanager
async def connected(env: dict[str, str], cwd: Path) -> AsyncIterator[Client]:
    """A client of a fresh `agentcom mcp`."""
    program, *arguments = [*command(), "mcp"]
    server = StdioServerParameters(command=program, args=arguments, env=env, cwd=cwd)
    async with Client(server, read_timeout_seconds=60) as client:
        yield client


async def used(client: Client, tool: str, **given: Any) -> dict[str, Any]:
    """What a tool answers; its text says the same as its structure."""
    said = await client.call_tool(tool, given)
    assert not said.is_error, said.content
    assert json.loads(said.content[0].text) == said.structured_content
    return said.structured_content


async def refused(client: Client, tool: str, **given: Any) -> tuple[str, str, str]:
    """Code, place and sentence of a refusal."""
    said = await client.call_tool(tool, given)
    assert said.is_error, said.content
    facts = said.structured_content
    return facts["code"], facts["place"], said.content[0].text


async def test_all_tools_are_listed_with_what_they_take(instance):
    async with connected(instance.env, instance.folder) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert list(tools) == NAMES
    assert all(tool.description for tool in tools.values())
    for tool in tools.values():
        assert tool.input_schema["type"] == "object"
        # Python's end of a text is no pattern elsewhere, and references are not followed.
        assert "\\\\Z" not in json.dumps(tool.input_schema)
        assert "$ref" not in json.dumps(tool.input_schema)
    assert tools["wait_for_task"].input_schema["required"] == ["task_id"]
    assert {n for n, t in tools.items() if not t.annotations.read_only_hint} == {
        "submit_task",
        "cancel_task",
    }


async def test_a_task_is_submitted_waited_for_read_and_explained(instance):
    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    async with connected(instance.env, instance.folder) as client:
        shell = {"command": "sleep 1; printf 'a<b>%s' é; echo no >&2", "cwd": "/"}
        task = await used(client, "submit_task", shell=shell, labels={"by": "mcp"})
        said = await client.call_tool(
            "wait_for_task",
            {"task_id": task["task_id"], "timeout_s": 60},
            progress_callback=hear,
        )
        result = said.structured_content
        assert (result["ended"], result["state"]) == (True, "completed")
        assert (result["output"], result["stderr"]) == ("a<b>é", "no\n")
        assert (result["exit_code"], result["host"]) == (0, "h1")
        assert result["estimated_cost_usd"] == 0
        assert heard
        assert {total for _, total, _ in heard} == {60}
        assert any("h1" in (message or "") for _, _, message in heard)

        part = await used(
            client, "task_output", task_id=task["task_id"], offset=1, limit=3
        )
        assert (part["output"], part["next_offset"]) == ("<b>", 4)
        why = await used(client, "explain_routing", task_id=task["task_id"])
        assert why["route"]["selected_host"] == "h1"
        assert why["classification"]["effective_tier"] == "trivial"
        assert [each["outcome"] for each in why["routes"]] == ["completed"]


async def test_a_task_that_runs_is_read_not_waited_out_and_cancelled(instance):
    async with connected(instance.env, instance.folder) as client:
        shell = {"command": "echo begun; sleep 600", "cwd": "/"}
        task_id = (await used(client, "submit_task", shell=shell))["task_id"]
        output = ""
        while output != "begun\n":
            said = await used(client, "task_output", task_id=task_id)
            output = said["output"]
        waited = {"state": ""}
        while waited["state"] != "running":
            # What it prints and that it runs are told on different ways.
            waited = await used(client, "wait_for_task", task_id=task_id, timeout_s=0.2)
            assert waited["ended"] is False
        await used(client, "cancel_task", task_id=task_id, reason="seen enough")
        ended = await used(client, "wait_for_task", task_id=task_id)
        assert (ended["ended"], ended["state"]) == (True, "cancelled")


async def test_a_task_that_fails_is_an_answer_and_says_why(instance):
    async with connected(instance.env, instance.folder) as client:
        shell = {"command": "exit 3", "cwd": "/"}
        task_id = (await used(client, "submit_task", shell=shell))["task_id"]
        ended = await used(client, "wait_for_task", task_id=task_id)
        assert (ended["state"], ended["error"]["code"]) == ("failed", "exit_code")


async def test_hosts_and_prices_are_told(instance):
    async with connected(instance.env, instance.folder) as client:
        fleet = await used(client, "list_models_and_hosts")
        assert [host["host"] for host in fleet["hosts"]] == ["h1"]
        assert {tier["tier"] for tier in fleet["tiers"]} >= {"trivial", "complex"}

        price = await used(client, "what_would_it_cost", shell="true")
        assert (price["tier"], price["host"]) == ("trivial", "h1")
        assert price["estimated_usd"] == 0
        dear = await used(
            client, "what_would_it_cost", description="fix it", tier="complex"
        )
        assert dear["estimated_usd"] is None
        assert dear["estimated_because"].endswith("tier complex has a price yet")
        assert dear["would_wait_for"]


async def test_a_refusal_is_a_tools_error_with_its_reason(instance):
    async with connected(instance.env, instance.folder) as client:
        code, place, text = await refused(
            client, "submit_task", description="x", assign_to="no such host!"
        )
        assert (code, place) == ("malformed", "assign_to")
        assert "1 to 64 letters" in text
        for tool in ("wait_for_task", "task_output", "cancel_task", "explain_routing"):
            for task_id in ("nope", "../x", "a.b", ">"):
                code, _, text = await refused(client, tool, task_id=task_id)
                assert code in ("not_found", "bad_token", "malformed"), (tool, text)
                assert "Error" not in text
        code, place, text = await refused(
            client, "wait_for_task", task_id="t", timeout_s="long"
        )
        assert (code, place) == ("malformed", "timeout_s")
        for field in ("nope", "self", "description\x00"):
            code, _, text = await refused(
                client, "submit_task", **{"description": "x", field: 1}
            )
            assert code == "malformed", text
        code, _, text = await refused(client, "no_such_tool")
        assert "submit_task" in text


async def test_without_an_instance_each_call_says_how_to_start_one(tmp_path):
    env = environment(tmp_path, tmp_path / "nothing")
    async with connected(env, tmp_path) as client:
        code, _, text = await refused(client, "list_models_and_hosts")
    assert code == "unreachable"
    assert "agentcom up" in text


def test_without_the_sdk_the_command_says_which_extra_to_install(
    monkeypatch, tmp_path, capfd
):
    from cli.main import main

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "cli.mcp.server", None)
    assert main(["mcp"]) == 1
    assert "pip install 'agentcom[mcp]'" in capfd.readouterr().err
