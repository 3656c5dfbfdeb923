"""The command line, as a stranger uses it: real processes, a real broker, real tasks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from cli.local.broker import find_server
from tests.support.command import (
    NOTHING_ELSE,
    ROOT,
    Running,
    System,
    agentcom_up,
    environment,
    family,
    survivors,
)
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

WANTED = {
    "task_id",
    "status",
    "output",
    "model_used",
    "tokens_in",
    "tokens_out",
    "estimated_cost_usd",
    "execution_ms",
    "error",
    "host",
    "endpoint",
    "tier",
    "fallback_used",
    "attempts",
    "generation",
}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One AgentCom for the tests of this file."""
    with agentcom_up(tmp_path_factory.mktemp("up")) as (system, _):
        yield system


def held(gate: Path, before: str = "echo one", after: str = "echo two") -> str:
    """A command that stops in the middle until the file `gate` is there."""
    return f"{before}; while [ ! -e {gate} ]; do sleep 0.02; done; {after}"


# -- submitting ------------------------------------------------------------------------


def test_submit_wait_json_ends_with_one_object(up: System) -> None:
    done = up.json("submit", "--shell", "echo out; echo err >&2", "--wait")
    assert done.keys() >= WANTED
    assert (done["status"], done["output"]) == ("completed", "out\n")
    assert (done["model_used"], done["tokens_in"], done["tokens_out"]) == ("none", 0, 0)
    assert (done["estimated_cost_usd"], done["error"]) == (0, None)
    assert (done["host"], done["tier"], done["attempts"]) == ("h1", "trivial", 1)


def test_follow_shows_lines_as_they_come(up: System, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with up.running("submit", "--shell", held(gate), "--follow") as submit:
        assert submit.line() == "one"
        gate.touch()
        assert submit.line() == "two"
        assert submit.end() == 0
    assert "trivial on h1" in submit.said["stderr"]


def test_followed_stdout_is_the_commands_own(up: System) -> None:
    ended = up.run("submit", "--shell", "printf 'a\\tb'; echo e >&2", "--follow")
    assert ended.stdout == "a\tb"
    assert "e\n" in ended.stderr


def test_a_retry_is_seen_as_it_happens(up: System) -> None:
    ended = up.run("submit", "--shell", "exit 7", "--follow")
    assert ended.returncode == 3
    assert "Shell retry 1/1..." in ended.stderr
    assert "exit code 7" in ended.stderr


def test_without_waiting_the_id_alone_is_printed(up: System) -> None:
    task_id = up.run("submit", "--shell", "true").stdout.strip()
    assert len(task_id) == 26
    assert up.run("logs", task_id, "--follow").returncode == 0


def test_text_comes_from_stdin(up: System) -> None:
    ended = up.run(
        "submit", "-", "--shell", "true", "--wait", "--json", stdin="words\n"
    )
    task = up.json("task", ended.json["task_id"])
    assert task["task"]["description"] == "words"


def test_a_long_text_comes_from_stdin_and_its_lists_stay_short(up: System) -> None:
    text = "refactor é\n" * 16_000
    ended = up.run("submit", "-", "--shell", "true", "--wait", "--json", stdin=text)
    shown = up.run("task", ended.json["task_id"])
    assert (shown.returncode, len(shown.stdout) < 10_000) == (0, True)
    listed = up.run("tasks", "--json")
    assert len(listed.stdout) < 200_000
    told = up.json("task", ended.json["task_id"], "--events")
    assert told["task"]["spec"]["description"] == text.strip()


def test_a_command_s_environment_is_shown_as_it_found_it(up: System) -> None:
    given = ("--env", "COLOUR=red", "--env", "SHOP_TOKEN=hunter2")
    ended = up.run("submit", "--shell", "printenv", *given, "--wait", "--json")
    task = up.json("task", ended.json["task_id"])["task"]
    output = task["result"]["output"]
    assert "SHOP_TOKEN=hunter2" in output
    found = dict(line.split("=", 1) for line in output.splitlines())
    own = {"PWD", "OLDPWD", "SHLVL", "_"}  # what the shell itself sets
    seen = {name: value for name, value in found.items() if name not in own}
    told = {name: value for name, value in task["env"].items() if name not in own}
    assert told == seen | {"SHOP_TOKEN": "…"}
    shown = up.run("task", ended.json["task_id"]).stdout
    about = shown.split("environment", 1)[1].split("output", 1)[0]
    assert "COLOUR=red" in about
    assert "SHOP_TOKEN=…" in about


def test_a_mode_is_said_or_inferred_and_shown(up: System) -> None:
    said = up.run("submit", "look", "--work", "--deadline", "2099-01-01T00:00:00Z")
    assert "work (said)" in said.stderr
    shown = up.run("task", said.stdout.strip()).stdout
    assert "work (said)" in shown
    up.run("cancel", said.stdout.strip())
    both = up.run("submit", "look", "--answer", "--work")
    assert (both.returncode, both.stdout) == (2, "")
    refused = up.run("submit", "look", "--answer", "--repo", "shop")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "mode: expected work, because an answer is given in no folder" in (
        refused.stderr
    )


def test_every_option_reaches_the_task(up: System) -> None:
    ended = up.run(
        *("submit", "look", "--shell", "echo $COLOUR", "--env", "COLOUR=blue"),
        *("--timeout", "9", "--priority", "high", "--file", "a.py:the bug"),
        *("--file", "b.py", "--criterion", "works", "--verify", "make test"),
        *("--max-attempts", "2", "--metadata", '{"ticket": 7}', "--exclusive"),
        *("--assign-to", "h1", "--ttl", "60", "--wait", "--json"),
    )
    assert ended.json["output"] == "blue\n"
    spec = up.json("task", ended.json["task_id"])["task"]["spec"]
    assert spec["file_hints"] == [
        {"path": "a.py", "reason": "the bug"},
        {"path": "b.py"},
    ]
    assert (spec["timeout_s"], spec["shell"]["exclusive"]) == (9, True)
    assert (spec["priority"], spec["max_attempts"]) == ("high", 2)
    assert (spec["metadata"], spec["ttl_s"]) == ({"ticket": 7}, 60)


def test_the_same_key_finds_the_same_task(up: System) -> None:
    first = up.json("submit", "--shell", "true", "--key", "k1")
    again = up.json("submit", "--shell", "true", "--key", "k1")
    other = up.run("submit", "--shell", "false", "--key", "k1")
    assert again["task_id"] == first["task_id"]
    assert again["existing"]
    assert other.returncode == 1
    assert "idempotency_key" in other.stderr


def test_a_file_is_submitted_whole_or_not_at_all(up: System, tmp_path: Path) -> None:
    good = [
        {"description": f"t{n}", "shell": {"command": f"echo {n}"}} for n in range(3)
    ]
    lines = [json.dumps(each) for each in good]
    file = tmp_path / "tasks.jsonl"
    file.write_text("\n".join([*lines[:2], "", lines[2]]))
    done = up.run("submit", "-f", str(file), "--wait", "--json")
    assert [task["output"] for task in done.json["tasks"]] == ["0\n", "1\n", "2\n"]
    before = up.json("tasks")["total"]
    for bad in ('{"description": 5}', '{"description": "x", "tier": "trivial"}', "{"):
        file.write_text("\n".join([*lines, "", bad]))
        refused = up.run("submit", "-f", str(file))
        assert refused.returncode == 1, refused.stderr
        assert "line 5" in refused.stderr
    assert up.json("tasks")["total"] == before


def test_a_submitter_waits_without_reading_the_log(up: System) -> None:
    key = up.data / "keys" / "submitter.nk"
    ended = up.run("--creds", str(key), "submit", "--shell", "echo me", "--wait")
    assert (ended.returncode, ended.stdout) == (0, "me\n")


# -- looking ---------------------------------------------------------------------------


def test_a_task_shows_its_route_and_why(up: System) -> None:
    done = up.json("submit", "--shell", "true", "--wait")
    shown = up.run("task", done["task_id"][:8], "--events").stdout
    for said in ("trivial on h1", "capacity", "affinity", "task.completed"):
        assert said in shown
    told = up.json("task", done["task_id"])
    assert told["route"]["candidates"][0]["host"] == "h1"
    assert told["route"]["classification_reason"]


def test_tasks_are_listed_and_filtered(up: System) -> None:
    done = up.json("submit", "a needle in it", "--shell", "true", "--wait")
    found = up.json("tasks", "--text", "needle", "--state", "completed")
    assert [row["task_id"] for row in found["tasks"]] == [done["task_id"]]
    assert done["task_id"] in up.run("tasks", "--text", "needle").stdout


def test_events_are_readable_and_filtered(up: System) -> None:
    done = up.json("submit", "--shell", "echo hi", "--wait")
    lines = up.run("events", "--task", done["task_id"], "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    types = [each["event"]["type"].removesuffix(".v1") for each in events]
    assert types[:2] == ["task.submitted", "task.routed"]
    assert types[-1] == "task.completed"
    behind = f"{events[0]['seq']}:{events[0]['event']['id']}"
    rest = up.run("events", "--after", behind, "--limit", "1", "--json").stdout
    assert json.loads(rest)["seq"] == events[0]["seq"] + 1
    other = up.run(
        "events", "--after", f"{behind[:-1]}{'0' if behind[-1] != '0' else '1'}"
    )
    assert (other.returncode, other.stdout) == (1, "")
    assert "the log was put back or is another one" in other.stderr
    assert (
        up.run("events", "--after", "99999:" + events[0]["event"]["id"]).returncode == 1
    )
    assert up.run("events", "--after", str(events[0]["seq"])).returncode == 2
    only = up.run("events", "--type", "task.completed", "--from", str(events[0]["seq"]))
    assert "task.completed" in only.stdout
    assert "task.routed" not in only.stdout


def test_followed_events_go_on(up: System) -> None:
    with up.running("events", "--follow", "--json", "--type", "task.*") as events:
        up.run("submit", "unmistakable", "--shell", "true", "--wait")
        seen = json.loads(events.until("unmistakable"))
        assert seen["event"]["type"] == "task.submitted.v1"
        events.signal(signal.SIGINT)
        assert events.end() == 0


def test_logs_are_kept(up: System) -> None:
    done = up.json("submit", "--shell", "echo kept; echo bad >&2", "--wait")
    shown = up.run("logs", done["task_id"])
    assert shown.stdout == "kept\n"
    assert "bad" in shown.stderr


def test_hosts_costs_and_doctor(up: System) -> None:
    up.run("submit", "--shell", "true", "--wait")
    assert [host["host"] for host in up.json("hosts")["hosts"]] == ["h1"]
    assert "h1" in up.run("hosts").stdout
    assert "total" in up.run("costs", "--by", "tier").stdout
    checks = up.json("doctor")["checks"]
    assert {each["name"] for each in checks} >= {"broker", "streams", "scheduler"}
    assert not [each for each in checks if each["status"] == "fail"]


def test_a_host_drains_and_resumes(up: System) -> None:
    assert up.run("drain", "h1", "--reason", "new disk").returncode == 0
    try:
        task_id = up.run("submit", "--shell", "echo at last").stdout.strip()
        waiting = up.json("task", task_id)["task"]
        assert waiting["state"] == "waiting"
        listed = up.run("hosts").stdout
        assert "h1 is draining: new disk; `agentcom resume h1`" in listed
    finally:
        assert up.run("resume", "h1").returncode == 0
    assert up.run("logs", task_id, "--follow").stdout == "at last\n"


def test_asking_stores_nothing(up: System) -> None:
    before = up.json("tasks")["total"]
    found = up.json("classify", "redesign it all")
    assert found["classification"]["effective_tier"] == "complex"
    would = up.json("route", "--dry-run", "go", "--shell", "true")
    assert would["decision"]["selected_host"] == "h1"
    assert up.json("tasks")["total"] == before


def test_the_policy_is_changed_checked_and_shown(up: System) -> None:
    assert up.run("policy", "set", "ageing_s=301", "scoring.warm=1.2").returncode == 0
    policy = up.json("policy", "show")["policy"]
    assert (policy["ageing_s"], policy["scoring"]["warm"]) == (301, 1.2)
    refused = up.run("policy", "validate", "ageing_s=-1")
    assert refused.returncode == 1
    assert "ageing_s" in refused.stderr


def task_of(said: str) -> str:
    """The task that a command has named on stderr."""
    named = re.search(r"^task (\w+):", said, re.MULTILINE)
    assert named is not None, said
    return named[1]


# -- ends ------------------------------------------------------------------------------


def test_cancel_ends_the_whole_tree(up: System, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    loop = f"sleep 600 & echo $! >> {pids}; echo $$ >> {pids}; echo up; wait"
    with up.running("submit", "--shell", loop, "--follow") as submit:
        submit.until("up")
        tree = [psutil.Process(int(pid)) for pid in pids.read_text().split()]
        task_id = task_of(submit.said["stderr"])
        assert up.run("cancel", task_id[:10], "--reason", "enough").returncode == 0
        assert submit.end() == 5
    assert survivors(tree) == []


def test_a_cancelled_task_is_tried_anew(up: System, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task_id = up.run("submit", "--shell", held(gate, after="true")).stdout.strip()
    assert up.run("cancel", task_id).returncode == 0
    assert up.run("logs", task_id, "--follow").returncode == 5
    gate.touch()
    assert up.run("retry", task_id).returncode == 0
    assert up.run("logs", task_id, "--follow").returncode == 0


def test_ctrl_c_while_waiting_leaves_the_task(up: System, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with up.running("submit", "--shell", held(gate), "--follow") as submit:
        submit.until("one")
        submit.signal(signal.SIGINT)
        assert submit.end() == 130
    task_id = task_of(submit.said["stderr"])
    assert f"agentcom cancel {task_id}" in submit.said["stderr"]
    gate.touch()
    assert up.run("logs", task_id, "--follow").stdout == "one\ntwo\n"


def test_a_task_that_nobody_can_run_expires(up: System) -> None:
    asked = ("submit", "think about it", "--tier", "standard", "--ttl", "0.2", "--wait")
    ended = up.run(*asked)
    assert ended.returncode == 6, ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("submit",), 2, "say what is to be done"),
        (("nosuch",), 2, "No such command"),
        (("submit", "x", "--tier", "trivial"), 1, "shell: expected a command"),
        (("submit", "x", "--deadline", "soon"), 1, "deadline"),
        (("submit", "x", "--metadata", "[1]"), 2, "--metadata"),
        (("submit", "x", "--exclusive"), 2, "--shell"),
        (("task", "ZZZZZZ"), 7, "there is no task ZZZZZZ"),
        (("task", "ZZ"), 2, "'ZZ' is too short: give at least 4 characters"),
        (("cancel", "ZZ"), 2, "'ZZ' is too short: give at least 4 characters"),
        (("why-waiting", "ZZ"), 2, "'ZZ' is too short: give at least 4 characters"),
        (("task", ""), 2, "a task's id is missing"),
        (("logs", " "), 2, "a task's id is missing"),
        (("cancel", "01ARZ3NDEKTSV4RRFFQ69G5FAV"), 7, "there is no task"),
        (("logs", "01ARZ3NDEKTSV4RRFFQ69G5FAV"), 7, "there is no task"),
        (("submit", "\udcff bad"), 2, "description: not UTF-8"),
        (("tasks", "--text", "\udcff"), 2, "text: not UTF-8"),
        (("task", "\udcffabcd"), 2, "task_id: not UTF-8"),
        (("events", "--subject", "foo bar"), 2, "--subject 'foo bar': expected"),
        (("drain", "nobody"), 7, "no host nobody"),
        (("policy", "set", "nonsense=1"), 1, "nonsense"),
        (("up",), 1, "is up on"),
        (("--nats", "nats://127.0.0.1:1", "tasks"), 8, "no broker answers"),
        (("--creds", "/nowhere/operator.nk", "tasks"), 1, "no key at"),
    ],
)
def test_errors_are_one_sentence_and_a_code(
    up: System, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended = up.run(*arguments)
    assert said in ended.stderr
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_watcher_may_look_but_not_act(up: System) -> None:
    key = str(up.data / "keys" / "watcher.nk")
    refused = up.run("--creds", key, "submit", "--shell", "true")
    assert refused.returncode == 1
    assert "watcher" in refused.stderr
    assert up.run("--creds", key, "events", "--limit", "1").returncode == 0


def unmeasured(env: Mapping[str, str]) -> dict[str, str]:
    """Without what has coverage measured: it imports much of its own."""
    return {name: env[name] for name in env if not name.startswith("COVERAGE_")}


def test_help_imports_nothing_heavy() -> None:
    """Modules are counted, and not time: 141 of them when this was written."""
    code = (
        "import sys, contextlib, io\n"
        "from cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(['--help'])\n"
        "print(*sys.modules)\n"
    )
    said = subprocess.check_output(
        [sys.executable, "-c", code], cwd=ROOT, text=True, env=unmeasured(os.environ)
    )
    imported = set(said.split())
    assert imported.isdisjoint(
        {*NOT_FOR_A_LISTING, "nats", "rich", "asyncio", "uvloop", "subprocess"}
    )
    assert len(imported) < 220


NOT_FOR_A_LISTING = (
    "aiohttp",
    "httpx",
    "structlog",
    "pygments",
    "psutil",
    "sqlite3",
    "jsonschema",
    "genai_prices",
    "prometheus_client",
    "nats.js.api",
    "rich.traceback",
    "actors",
    "analysis",
    "sidecar",
    "web",
    "projections.store",
)
LISTING_MODULES = 550
"""So many modules at most; they were 394 when this was written."""


@pytest.mark.parametrize(
    ("arguments", "besides"),
    [
        (("tasks",), ()),
        (("tasks", "--json"), ("rich",)),
        (("hosts", "--json"), ("rich",)),
    ],
    ids=" ".join,
)
def test_a_listing_imports_what_it_lists_with_and_no_more(
    up: System, arguments: tuple[str, ...], besides: tuple[str, ...]
) -> None:
    code = (
        "import sys, runpy\n"
        "try: runpy.run_module('agentcom', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=unmeasured(environment(up.data, up.data)),
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(done.stderr.split())
    assert "nats.aio.client" in imported
    assert imported.isdisjoint({*NOT_FOR_A_LISTING, *besides})
    assert len(imported) < LISTING_MODULES


# -- everything, up and down -----------------------------------------------------------


def test_up_restarts_what_dies_and_leaves_nothing(tmp_path: Path) -> None:
    # A project may have a package of that name; it is none of ours.
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "__init__.py").write_text("raise SystemExit('not this one')")
    with agentcom_up(tmp_path) as (system, up):
        first = [
            each for each in family(up.process.pid) if "scheduler" in each.cmdline()
        ]
        for process in first:
            process.kill()
        up.until("scheduler was ended by SIGKILL", "stderr")
        tree = family(up.process.pid)
        done = system.run("submit", "--shell", "echo again", "--wait")
        while done.returncode == 8:
            # Its successor is still coming up, and the command has said so.
            assert "scheduler" in done.stderr
            done = system.run("submit", "--shell", "echo again", "--wait")
        assert done.stdout == "again\n"
    assert survivors([*first, *tree]) == []


def test_a_killed_up_takes_everything_with_it(tmp_path: Path) -> None:
    system = System(tmp_path)
    system.data.mkdir()
    (system.data / "sidecar.toml").write_text(NOTHING_ELSE)
    with system.running("up", "--port", "0", "--nats-port", "0") as up:
        up.until("dashboard")
        tree = family(up.process.pid)
        up.signal(signal.SIGKILL)
        up.end()
    assert survivors(tree) == []


def test_a_second_ctrl_c_ends_everything_at_once(tmp_path: Path) -> None:
    system = System(tmp_path)
    system.data.mkdir()
    (system.data / "sidecar.toml").write_text(NOTHING_ELSE.replace("5.0", "3600"))
    with system.running("up", "--port", "0", "--nats-port", "0") as up:
        up.until("dashboard")
        with system.running(
            "submit", "--shell", held(tmp_path / "no"), "--follow"
        ) as task:
            task.until("one")
            tree = family(up.process.pid)
            up.signal(signal.SIGINT)
            up.until("stopping", "stderr")
            up.signal(signal.SIGINT)
            assert up.end() == 130
    assert survivors(tree) == []


def test_four_terminals_run_a_task(tmp_path: Path) -> None:
    """`nats-server -c nats.conf`, scheduler, sidecar, web: without `agentcom up`."""
    system = System(tmp_path)
    (tmp_path / "nats.conf").write_text((ROOT / "nats.conf").read_text())
    listen = f"127.0.0.1:{free_port()}"
    assert system.run("keys", "--listen", listen, "--host", "h1").returncode == 0
    (system.data / "sidecar.toml").write_text(NOTHING_ELSE)
    env = environment(tmp_path, system.data)
    server = [str(find_server())]
    terminals = [
        Running(["-c", "nats.conf"], env, tmp_path, program=server),
        Running(["scheduler"], env, tmp_path),
    ]
    try:
        terminals[0].until("Server is ready", "stderr")
        terminals[1].until("leading", "stderr")
        terminals += [
            Running(["sidecar"], env, tmp_path),
            Running(["web", "--port", "0"], env, tmp_path),
        ]
        terminals[3].until("http://127.0.0.1", "stderr")
        done = system.json("submit", "--shell", "echo by hand", "--wait")
        assert (done["output"], done["host"]) == ("by hand\n", "h1")
        assert system.json("tasks")["total"] == 1
        for each in reversed(terminals[1:]):
            each.signal(signal.SIGTERM)
            assert each.end() == 0, each.said
    finally:
        for each in reversed(terminals):
            each.close()


def test_a_role_says_what_is_missing(tmp_path: Path) -> None:
    system = System(tmp_path)
    for role in ("scheduler", "web", "sidecar"):
        ended = system.run(role)
        assert ended.returncode == 8, ended.stderr
        assert "agentcom up" in ended.stderr
    assert system.run("doctor").returncode == 1
