"""Steering from the command line: shared endpoints, reassigning, trying many anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.command import agentcom_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.simulated.ollama import SimulatedOllama
    from tests.support.command import System


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One AgentCom for the tests of this file."""
    with agentcom_up(tmp_path_factory.mktemp("up")) as (system, _):
        yield system


async def test_a_shared_endpoint_is_added_reported_used_and_removed(
    up: System, simulated_ollama: SimulatedOllama
) -> None:
    import asyncio

    def command_line(*arguments: str) -> object:
        return up.json(*arguments)

    await asyncio.to_thread(
        command_line, "endpoints", "add", "gpu", simulated_ollama.url, "--slots", "2"
    )
    done = await asyncio.to_thread(
        command_line, "submit", "Say a word.", "--tier", "standard", "--wait"
    )
    assert done["status"] == "completed"
    assert done["endpoint"] == "gpu"
    listed = await asyncio.to_thread(command_line, "endpoints", "list")
    assert [one["endpoint"] for one in listed["shared"]] == ["gpu"]
    assert listed["seen"][0]["endpoint"]["up"] is True
    await asyncio.to_thread(command_line, "endpoints", "remove", "gpu")
    listed = await asyncio.to_thread(command_line, "endpoints", "list")
    assert listed["shared"] == []
    again = await asyncio.to_thread(up.run, "endpoints", "remove", "gpu")
    assert again.returncode == 7
    assert "no shared endpoint gpu" in again.stderr


def test_many_tasks_are_tried_anew_by_their_state(up: System, tmp_path) -> None:
    gate = tmp_path / "gate"
    command = f"test -e {gate}"
    failed = [
        up.run("submit", f"probe {n}", "--shell", command, "--wait", "--json").json
        for n in range(3)
    ]
    assert [one["status"] for one in failed] == ["failed"] * 3
    gate.touch()
    chosen = ("retry", "--state", "failed", "--text", "probe")
    assert "would retry 3 tasks" in up.run(*chosen, "--dry-run").stdout
    unsure = up.run(*chosen)
    assert (unsure.returncode, "--yes" in unsure.stderr) == (2, True)
    ended = up.run(*chosen, "--yes")
    assert ended.returncode == 0
    assert ended.stdout.startswith("3 tasks: 3 wait to be tried anew")
    for one in failed:
        assert up.run("logs", one["task_id"], "--follow").returncode == 0
    nothing = up.run("retry")
    assert nothing.returncode == 2


def test_a_task_is_given_to_another_host_and_waits_for_it(up: System) -> None:
    task = up.json("submit", "--shell", "sleep 600")["task_id"]
    nowhere = up.run("reassign", task, "nowhere")
    assert nowhere.returncode == 7
    assert "there is no host nowhere" in nowhere.stderr
    assert up.run("tasks", "--host", "nowhere").stderr.startswith("no host nowhere; ")
    [host] = [row["host"] for row in up.json("hosts")["hosts"]]
    assert up.run("drain", host).returncode == 0
    try:
        assert up.run("reassign", task, host).returncode == 0
        assert f"It waits for host {host}" in up.run("why-waiting", task).stdout
        assert up.json("task", task)["task"]["state"] == "waiting"
    finally:
        assert up.run("resume", host).returncode == 0
    assert up.run("cancel", task).returncode == 0


def test_a_task_for_an_unknown_host_is_submitted_with_a_warning(up: System) -> None:
    ended = up.run("submit", "--shell", "true", "--assign-to", "nobody", "--ttl", "5")
    assert ended.returncode == 0
    assert "no host nobody has ever joined" in ended.stdout + ended.stderr


def test_cancelling_says_whether_something_ran(up: System) -> None:
    nowhere = up.run("submit", "--shell", "true", "--assign-to", "nobody").stdout
    ended = up.run("cancel", nowhere.strip())
    assert ended.stdout.endswith("cancelled; nothing of it was running\n")


def test_an_alert_that_is_not_there_is_not_seen(up: System) -> None:
    ended = up.run("ack", "trivial")
    assert ended.returncode == 7
    assert "there is no alert about trivial" in ended.stderr


@pytest.mark.parametrize("how", ["--wait", "--follow"])
def test_whoever_waits_is_told_once_what_the_task_waits_for(
    up: System, how: str
) -> None:
    nobody = ("--assign-to", "nobody", "--ttl", "5")
    ended = up.run("submit", "--shell", "true", *nobody, how)
    assert "expired" in ended.stderr
    assert ended.stderr.count("waits: It waits for host nobody") == 1
    assert "which is not known" in ended.stderr
    assert ended.stdout == ""
