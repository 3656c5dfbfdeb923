"""Steering from the command line: shared endpoints, reassigning, trying many anew."""

from __future__ import annotations

import json
import re
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
    shown = await asyncio.to_thread(up.run, "endpoints", "list")
    assert re.search(r"^gpu .* operator *$", shown.stdout, re.MULTILINE), shown.stdout
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


def test_a_label_chooses_what_is_listed_summed_and_cancelled(up: System) -> None:
    for team in ("search", "search", "ads"):
        labels = ("--label", f"team={team}", "--metadata", '{"ticket": 7}')
        up.json("submit", "later", "--need", "nowhere", *labels)
    chosen = ("--label", "team=search", "--state", "waiting")
    listed = up.json("tasks", *chosen)
    assert listed["total"] == 2
    assert {row["labels"]["team"] for row in listed["tasks"]} == {"search"}
    shown = up.run("task", listed["tasks"][0]["short_id"]).stdout
    assert "team=search" in shown
    assert '{"ticket":7}' in shown
    done = up.json("cancel", *chosen, "--yes", "--reason", "tidy")
    assert (done["matched"], done["outcomes"]) == (2, {"cancelled": 2})
    assert up.run("cancel", *chosen, "--yes").stdout == "no task is meant\n"
    assert up.json("cancel", "--label", "team", "--yes")["done"] == 1
    told = up.run("events", "--type", "bulk.*").stdout
    assert "label=['team=search'] (tidy) by" in told
    spent = up.json("costs", "--by", "label:team", "--since", "1h")
    assert spent["by"] == "label:team"
    wrong = up.run("costs", "--by", "label:Team")
    assert (wrong.returncode, "did you mean label:KEY" in wrong.stderr) == (1, True)


def test_run_shows_the_output_and_ends_as_the_task_does(up: System) -> None:
    ended = up.run("run", "--shell", "echo out; exit 3", "--retries", "0")
    assert (ended.returncode, ended.stdout) == (3, "out\n")
    assert up.run("run", "-f", "tasks.jsonl").returncode == 2


def test_the_dashboard_is_found_where_it_is_served(up: System) -> None:
    from urllib.request import urlopen

    url = up.json("dashboard")["url"]
    assert up.run("dashboard").stdout == url + "\n"
    assert "/#token=" in url
    with urlopen(url.partition("#")[0], timeout=60) as page:
        assert page.status == 200
    nowhere = up.run("--data", str(up.folder / "nowhere"), "dashboard")
    assert nowhere.returncode == 8
    assert "agentcom up" in nowhere.stderr


def test_top_shows_hosts_tiers_and_tasks_once_in_a_pipe(up: System) -> None:
    task = up.json("submit", "sits here", "--need", "nowhere")["task_id"]
    shown = up.run("top").stdout
    [host] = [row["host"] for row in up.json("hosts")["hosts"]]
    for text in (host, task, "sits here", "trivial", "waits for nowhere"):
        assert text in shown
    wanting = up.run("attention").stdout
    assert "1 task waits for nowhere, which no host offers." in wanting
    assert "agentcom cancel --state waiting --need nowhere --dry-run" in wanting
    assert up.json("attention")["errors"] >= 1
    assert up.run("cancel", task).returncode == 0


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["task", ""], "ID"),
        (["retry", ""], ""),
        (["drain", ""], "HOST"),
        (["tasks", "--host", ""], "HOST"),
        (["policy", "show", "fallback_w"], "fallback_wait_s"),
        (["dashb"], "dashboard"),
    ],
)
def test_a_shell_is_offered_what_may_come_next(up: System, words, offered) -> None:
    [host] = [row["host"] for row in up.json("hosts")["hosts"]]
    newest = up.json("submit", "--shell", "true", "--wait")["task_id"]
    # The file is written a moment after the log.
    assert up.json("task", newest)["task"]["state"] == "completed"
    typed = {
        "COMP_WORDS": " ".join(["agentcom", *words]),
        "COMP_CWORD": str(len(words)),
    }
    ended = up.run(**typed, _AGENTCOM_COMPLETE="bash_complete")
    lines = [line.partition(",")[2] for line in ended.stdout.splitlines()]
    wanted = {"ID": newest, "HOST": host}.get(offered, offered)
    if offered:
        assert wanted in lines
    else:
        assert newest not in lines


def test_a_shell_asks_the_instance_that_the_line_names(up: System, tmp_path) -> None:
    newest = up.json("submit", "--shell", "true", "--wait")["task_id"]
    [host] = [row["host"] for row in up.json("hosts")["hosts"]]
    address = json.loads((up.data / "address.json").read_text())["nats"]
    key = str(up.data / "keys" / "operator.nk")
    # As bash hands it on, which takes an address apart at its colons.
    there = ["--nats", *re.findall(r":|[^:]+", address), "--creds", key]
    for words, offered in (
        (["task", *there, newest[:5]], newest),
        ([*there, "drain", ""], host),
        (["task", "--data", str(up.data), newest[:5]], newest),
    ):
        typed = {
            "COMP_WORDS": " ".join(["agentcom", *words]).rstrip(),
            "COMP_CWORD": str(len(words)),
        }
        elsewhere = {**typed, "AGENTCOM_DATA": str(tmp_path)}
        ended = up.run(**elsewhere, _AGENTCOM_COMPLETE="bash_complete")
        lines = [line.partition(",")[2] for line in ended.stdout.splitlines()]
        assert offered in lines, (words, ended.stderr)


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
