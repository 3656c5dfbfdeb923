"""The real Claude Code hands parts of its work to the fleet, through the real MCP server."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from agentcom import AsyncClient
from sidecar.simulated.messages import ScriptedCall
from sidecar.simulated.ollama import SimulatedOllama
from tests.support.command import agentcom_up
from tests.support.messages_api import MessagesApi, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agentcom import AsyncTask
    from agentcom.answers import TaskInfo
    from tests.support.command import System

PATIENCE_S = 120
SUBMIT = "mcp__agentcom__submit_task"
ANSWER = "This is a simulated model's answer; no language model was asked."
WAIT = "mcp__agentcom__wait_for_task"


class House:
    """An instance with a Claude Code that may delegate, and what answers it."""

    def __init__(
        self, system: System, api: MessagesApi, model: SimulatedOllama
    ) -> None:
        self.system = system
        self.client = AsyncClient(data=system.data)
        self.api = api
        self.model = model

    async def run(self, *arguments: str) -> Any:
        """A command that succeeds, as JSON."""
        return await asyncio.to_thread(self.system.json, *arguments)

    async def submit(self, text: str, *replies: Reply) -> AsyncTask:
        """Submit a task whose program is answered so."""
        self.api.scripts[text] = list(replies)
        return await self.client.submit(text, tier="complex")

    async def children(self, root: AsyncTask) -> list[TaskInfo]:
        found = [each async for each in self.client.tasks(root=root.task_id)]
        return [each for each in found if each.task_id != root.task_id]

    async def depth(self, most: int) -> None:
        """Let the policy allow so many tasks above a child."""
        said = f"max_delegation_depth={most}"
        ended = await asyncio.to_thread(self.system.run, "policy", "set", said)
        assert ended.returncode == 0, ended.stderr

    def heard(self, text: str) -> str:
        """All that the program of the task with this text has told its model."""
        calls = [json.dumps(each.body) for each in self.api.messages()]
        return "\n".join(each for each in calls if text in each)


def call(name: str, **given: Any) -> Reply:
    return Reply(kind="call", name=name, given=given)


@asynccontextmanager
async def house(folder: Path, program: Path) -> AsyncIterator[House]:
    async with MessagesApi() as api, SimulatedOllama(["llama3.2"]) as model:
        config = (
            "discover = false\ndrain_timeout_s = 0\n[slots]\nclaude = 2\n"
            f'[[endpoint]]\nname = "gpu"\nkind = "ollama"\nurl = "{model.url}"\nslots = 2\n'
            f'[claude]\nprogram = "{program}"\ndelegate = true\nallowed_tools = ["Bash"]\n'
        )
        up = agentcom_up(
            folder,
            config,
            ANTHROPIC_BASE_URL=api.url,
            ANTHROPIC_API_KEY="any",
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        )
        system, _ = await asyncio.to_thread(up.__enter__)
        try:
            house = House(system, api, model)
            async with house.client:
                yield house
        finally:
            await asyncio.to_thread(up.__exit__, None, None, None)


async def test_claude_code_hands_parts_to_the_fleet(
    tmp_path: Path, real_claude: Path
) -> None:
    """One instance for all: most of the time is its start and the program's."""
    async with house(tmp_path, real_claude) as h:
        parent = await h.submit(
            "Have it said.",
            call(SUBMIT, description="Say hi.", tier="standard", mode="answer"),
            call(WAIT, task_id="$task_id", timeout_s=100),
            Reply(text="It was said."),
        )
        await _the_childs_text_comes_back(h, parent)
        await _the_tree_and_the_bill_are_right(h, parent)
        await _eight_children_of_two_parents_on_two_slots(h)
        await _a_cancelled_parent_takes_its_child_along(h)
        await _what_is_refused_is_told_with_its_reason(h)


async def _the_childs_text_comes_back(h: House, parent: AsyncTask) -> None:
    result = await parent.wait(PATIENCE_S)
    assert (result.state, result.output) == ("completed", "It was said."), result
    (child,) = await h.children(parent)
    assert (child.state, child.tier) == ("completed", "standard")
    assert (child.parent, child.root) == (parent.task_id, parent.task_id)
    assert ANSWER in (await h.client.task(child.task_id).wait(PATIENCE_S)).output
    assert ANSWER in h.heard("Have it said.")


async def _the_tree_and_the_bill_are_right(h: House, parent: AsyncTask) -> None:
    tree = await h.run("task", parent.task_id, "--tree")
    (below,) = tree["children"]
    own, part = tree["task"], below["task"]
    assert (part["parent"], part["root"], part["depth"]) == (
        *(parent.task_id, parent.task_id),
        1,
    )
    assert tree["below"] == 1
    assert own["estimated_cost_usd"] > 0
    assert part["estimated_cost_usd"] == 0
    assert tree["estimated_cost_usd"] == own["estimated_cost_usd"]
    used = [own[k] + part[k] for k in ("tokens_in", "tokens_out")]
    assert tree["tokens"] == sum(used)
    bill = await h.run("costs", "--by", "root")
    (line,) = [each for each in bill["lines"] if each["key"] == parent.task_id]
    assert (line["runs"], line["tokens_in"], line["tokens_out"]) == (2, *used)
    assert line["estimated_cost_usd"] == pytest.approx(tree["estimated_cost_usd"])


async def _eight_children_of_two_parents_on_two_slots(h: House) -> None:
    waits = [call(WAIT, task_id=f"$task_id:{n}", timeout_s=100) for n in range(4)]
    h.api.scripts["A small part"] = [Reply(text="done") for _ in range(8)]
    parents = [
        await h.submit(
            f"Split this, number {n}.",
            *(
                call(SUBMIT, description=f"A small part {n}{part}", tier="complex")
                for part in range(4)
            ),
            *waits,
            Reply(text="all done"),
        )
        for n in range(2)
    ]
    for parent in parents:
        result = await parent.wait(PATIENCE_S)
        assert (result.state, result.output) == ("completed", "all done"), result
        children = await h.children(parent)
        assert [each.state for each in children] == ["completed"] * 4


async def _a_cancelled_parent_takes_its_child_along(h: House) -> None:
    beginning = h.system.folder / "begun"
    parent = await h.submit(
        "Start something long.",
        call(SUBMIT, shell=f"touch {beginning}; sleep 600"),
        call(WAIT, task_id="$task_id", timeout_s=500),
    )
    async with asyncio.timeout(PATIENCE_S):
        while not beginning.exists():
            await asyncio.sleep(0.1)
    await parent.cancel()
    (child,) = await h.children(parent)
    for each in (parent, h.client.task(child.task_id)):
        assert (await each.wait(PATIENCE_S)).state == "cancelled"


async def _what_is_refused_is_told_with_its_reason(h: House) -> None:
    await h.depth(0)
    deep = await h.submit(
        "Go deeper.",
        call(SUBMIT, description="more", tier="standard"),
        Reply(text="I may not."),
    )
    await deep.wait(PATIENCE_S)
    await h.depth(3)
    assert "the policy's max_delegation_depth is 0" in h.heard("Go deeper.")
    h.model.calls.append(
        ScriptedCall(name=SUBMIT, input={"description": "think", "tier": "complex"})
    )
    cheap = await h.client.submit("Cheap work.", tier="standard", mode="work")
    result = await cheap.wait(PATIENCE_S)
    assert result.state == "completed", result
    asked = [json.dumps(r.body) for r in h.model.requests if r.place == "messages"]
    assert any("may use no dearer tier" in each for each in asked)
