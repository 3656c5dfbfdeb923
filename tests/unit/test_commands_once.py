"""A command under an id is carried out once: a late copy revives nothing and ends nothing."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest

from actors.gateway.gateway import Gateway
from actors.scheduler import schedules
from events import subjects
from events.codec import encode
from events.errors import Conflict
from tests.support.fakes import MemoryBroker, MemoryBus, MemoryLog
from tests.support.world import START, World

pytest.importorskip("cronsim", reason="this environment is older than its checkout")

ADD = {
    "schedule": "s",
    "cron": "0 3 * * *",
    "task": {"description": "report", "shell": {"command": "true"}},
}
ENDPOINT = {"endpoint": "big", "kind": "ollama", "url": "http://big:11434"}


class Asked:
    """A gateway whose scheduler has folded all that the log holds."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.w = World(leading=False)
        numbers = itertools.count(1)
        self.gateway = Gateway(
            "gw",
            self.log,
            MemoryBus(MemoryBroker()),
            lambda: f"G{next(numbers):06d}",
            lambda: START,
            self.w.scheduler,
        )

    async def __call__(self, command: str, who: str = "alice", **body: Any) -> Any:
        answer = await self.gateway.answer(command, encode(body), who)
        await self.folded()
        return json.loads(encode(answer))

    async def folded(self) -> None:
        position = self.w.scheduler.state.position
        for recorded in await self.log.read(subjects.ALL_EVENTS, start=position + 1):
            self.w.scheduler.fold(recorded)

    @property
    def there(self) -> dict[str, schedules.Schedule]:
        return self.w.scheduler.state.schedules.by_name


async def test_a_decision_is_made_anew_as_often_as_somebody_else_was_first(
    monkeypatch: pytest.MonkeyPatch,
):
    ask = Asked()
    append, others = ask.log.append, itertools.repeat(None, 20)

    def late(subject: str, event: Any, **more: Any) -> Any:
        for _ in others:
            refused = asyncio.get_running_loop().create_future()
            refused.set_exception(Conflict(subject, 0))
            return refused
        return append(subject, event, **more)

    monkeypatch.setattr(ask.log, "append", late)
    assert (await ask("schedule.add", id="a", **ADD))["ok"]


async def test_a_late_copy_of_an_addition_makes_no_removed_schedule_anew():
    ask = Asked()
    assert (await ask("schedule.add", id="a", **ADD))["ok"]
    assert (await ask("schedule.remove", id="b", schedule="s"))["ok"]
    late = await ask("schedule.add", id="a", **ADD)
    assert (late["ok"], late["seq"]) == (True, 0)
    assert "removed since" in late["detail"]
    assert ask.there == {}
    assert (await ask("schedule.add", id="c", **ADD))["seq"]
    assert list(ask.there) == ["s"]


async def test_a_late_copy_of_a_removal_leaves_what_was_added_since():
    ask = Asked()
    for added, removed in (("a", "b"), ("c", "b")):
        await ask("schedule.add", id=added, **ADD)
        await ask("schedule.remove", id=removed, schedule="s")
    assert list(ask.there) == ["s"]


async def test_a_late_copy_pauses_and_resumes_nothing_again():
    ask = Asked()
    await ask("schedule.add", id="a", **ADD)
    await ask("schedule.pause", id="b", schedule="s")
    await ask("schedule.resume", id="c", schedule="s")
    assert (await ask("schedule.pause", id="b", schedule="s"))["seq"] == 0
    assert not ask.there["s"].paused
    assert (await ask("schedule.pause", id="b", who="bob", schedule="s"))["seq"]
    assert ask.there["s"].paused


async def test_a_late_copy_of_a_run_submits_nothing_for_the_schedule_that_came_since():
    ask = Asked()
    await ask("schedule.add", id="a", **ADD)
    first = await ask("schedule.run", id="r", schedule="s")
    await ask("schedule.remove", id="b", schedule="s")
    await ask("schedule.add", id="c", **ADD)
    late = await ask("schedule.run", id="r", schedule="s")
    assert (late["task_id"], late["seq"]) == (first["task_id"], 0)


async def test_a_change_is_carried_out_once_and_names_what_differs():
    ask = Asked()
    await ask("schedule.add", id="a", **ADD)
    first = {"schedule": "s", "cron": "0 4 * * *", "overlap": "queue"}
    said = await ask("schedule.change", id="b", who="bob", **first)
    assert said["event"] == "schedule.changed"
    rule = ask.there["s"].rule
    assert (rule.changed, rule.cron, rule.tz) == (["cron"], "0 4 * * *", "UTC")
    assert (rule.requested_by, rule.task.description) == ("bob", "report")
    # The same again changes nothing, also late, and with another id where it is so already.
    assert (await ask("schedule.change", id="b2", **first))["seq"] == 0
    task = {"description": "look", "shell": {"command": "true"}}
    await ask("schedule.change", id="c", schedule="s", cron="0 5 * * *", task=task)
    assert (await ask("schedule.change", id="b", who="bob", **first))["seq"] == 0
    rule = ask.there["s"].rule
    assert (rule.cron, rule.task.description) == ("0 5 * * *", "look")
    # What it was added with is another schedule now; what it is now is the same.
    assert (await ask("schedule.add", **ADD))["code"] == "conflict"
    same = await ask("schedule.add", **{**ADD, "cron": "0 5 * * *", "task": task})
    assert (same["ok"], same["seq"]) == (True, 0)


async def test_a_change_that_is_refused_leaves_the_schedule_as_it_was():
    ask = Asked()
    assert (await ask("schedule.change", schedule="s", tz="UTC"))["code"] == "not_found"
    await ask("schedule.add", **ADD)
    before = ask.there["s"].rule
    for wrong, path in (
        ({}, ""),
        ({"cron": "0 25 * * *"}, "cron"),
        ({"tz": "Mars/Olympus"}, "tz"),
        ({"missed": "both"}, "missed"),
        ({"task": {"description": "x", "after": ["T1"]}}, "task.after"),
        ({"task": {"description": "x", "ttl_s": -1}}, "task.ttl_s"),
    ):
        said = await ask("schedule.change", schedule="s", **wrong)
        assert (said["ok"], said["path"]) == (False, path), wrong
    assert ask.there["s"].rule is before


async def test_a_late_copy_of_a_run_submits_nothing_again_after_a_change():
    ask = Asked()
    await ask("schedule.add", id="a", **ADD)
    first = await ask("schedule.run", id="r", schedule="s")
    await ask("schedule.change", schedule="s", cron="0 4 * * *")
    late = await ask("schedule.run", id="r", schedule="s")
    assert (late["task_id"], late["seq"]) == (first["task_id"], 0)


async def test_the_same_id_with_another_body_is_another_command():
    ask = Asked()
    await ask("schedule.add", id="a", **ADD)
    other = await ask("schedule.add", id="a", **{**ADD, "cron": "0 4 * * *"})
    assert other["code"] == "conflict"


async def test_of_each_name_the_last_hundred_commands_are_remembered():
    ask = Asked()
    for n in range(schedules.REMEMBERED):
        await ask("schedule.add", id=f"a{n}", **ADD)
        await ask("schedule.remove", id=f"b{n}", schedule="s")
    assert len(ask.w.scheduler.state.schedules.carried_out["s"]) == schedules.REMEMBERED
    await ask("schedule.add", id=f"a{schedules.REMEMBERED - 1}", **ADD)
    assert ask.there == {}


async def test_a_late_copy_makes_no_removed_endpoint_anew():
    ask = Asked()
    await ask("endpoint.add", id="a", **ENDPOINT)
    await ask("endpoint.remove", id="b", endpoint="big")
    late = await ask("endpoint.add", id="a", **ENDPOINT)
    assert (late["ok"], late["seq"]) == (True, 0)
    assert (await ask("endpoint.add", id="c", **ENDPOINT))["seq"]
    assert (await ask("endpoint.remove", id="b", endpoint="big"))["seq"] == 0
    assert list(ask.w.scheduler.state.shared) == ["big"]


async def test_a_late_copy_of_a_retry_revives_no_task_that_has_ended_since():
    ask = Asked()
    submitted = await ask("task.submit", description="x", shell={"command": "true"})
    about = {"task_id": submitted["task_id"]}
    await ask("task.cancel", id="a", **about)
    assert (await ask("task.retry", id="b", **about))["state"] == "waiting"
    assert (await ask("task.cancel", id="a", **about))["state"] == "waiting"
    await ask("task.cancel", id="c", **about)
    late = await ask("task.retry", id="b", **about)
    assert (late["seq"], late["state"]) == (0, "cancelled")
