"""The rule of working folders, as tables: what was typed, and what a host makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from actors.rules.folders import WorkingFolder, check_folder, working_folder
from cli.client.here import is_local, is_missing, stand_here
from cli.commands.later import is_later
from events import catalogue as c
from events.errors import Malformed

HERE = "/home/me/shop"


def fields(**more: Any) -> dict[str, Any]:
    return {"description": "d", **more}


def command(cwd: str | None = None, **more: Any) -> dict[str, Any]:
    shell = {"command": "ls"} | ({} if cwd is None else {"cwd": cwd})
    return fields(shell=shell, **more)


TYPED = [
    # what was typed, on a machine that is the host "me": the folder, the only host
    (command(), HERE, "me"),
    (command("."), HERE, "me"),
    (command("../blog"), "/home/me/blog", "me"),
    (command("/srv"), "/srv", "me"),
    (command(".", assign_to="me"), HERE, "me"),
    (command(assign_to="me"), None, "me"),
    (command(assign_to="gpu"), None, "gpu"),
    (command("/srv", assign_to="gpu"), "/srv", "gpu"),
    (command(needs=["cuda"]), None, None),
    (command(repo="shop"), None, None),
    (command("src", repo="shop"), "src", None),
    (fields(), None, None),
    (fields(cwd="."), HERE, "me"),
    (fields(repo="shop", branch="fix"), None, None),
]


@pytest.mark.parametrize(("asked", "cwd", "host"), TYPED)
def test_what_is_typed_on_a_host_runs_there_unless_it_names_a_place(asked, cwd, host):
    bound = stand_here(asked, here=HERE, host="me")
    assert (asked.get("shell") or asked).get("cwd") == cwd
    assert asked.get("assign_to") == host
    assert bound == (cwd if cwd and cwd.startswith("/") and host == "me" else "")


@pytest.mark.parametrize(
    ("asked", "anywhere"),
    [(command(), True), (command(needs=["x"]), True), (fields(), True)],
)
def test_anywhere_binds_to_no_machine(asked, anywhere):
    assert stand_here(asked, here=HERE, host="me", anywhere=anywhere) == ""
    assert "assign_to" not in asked
    assert "cwd" not in (asked.get("shell") or asked)


@pytest.mark.parametrize("asked", [command(), command("/srv"), fields(cwd="/srv")])
def test_on_a_machine_that_is_no_host_nothing_is_bound(asked):
    assert stand_here(asked, here=HERE, host="") == ""
    assert "assign_to" not in asked


@pytest.mark.parametrize(
    ("asked", "host", "anywhere"),
    [
        (command("."), "", False),
        (command("."), "me", True),
        (command(".", assign_to="gpu"), "me", False),
        (fields(cwd="src"), "", False),
    ],
)
def test_a_relative_folder_of_an_unknown_machine_is_refused(asked, host, anywhere):
    with pytest.raises(Malformed, match="--cwd: expected an absolute path"):
        stand_here(asked, here=HERE, host=host, anywhere=anywhere)


def spec(cwd: str | None = None, shell: str | None = None, **more: Any) -> c.TaskSpec:
    of = None if shell is None else c.Shell(command="ls", cwd=shell or None)
    return c.TaskSpec(description="d", cwd=cwd, shell=of, **more)


ON_A_HOST = [
    # the task, the host's default repository, the folder
    (spec(), None, WorkingFolder("own")),
    (spec(shell=""), None, WorkingFolder("own")),
    (spec("src"), None, WorkingFolder("own", below="src")),
    (spec(), "web", WorkingFolder("checkout", "web")),
    (spec(shell="src"), "web", WorkingFolder("checkout", "web", below="src")),
    (spec(repo="shop"), "web", WorkingFolder("checkout", "shop")),
    (spec("src", repo="shop"), None, WorkingFolder("checkout", "shop", below="src")),
    (spec(repo="shop", branch="b"), None, WorkingFolder("worktree", "shop", "b")),
    (spec(branch="b"), "web", WorkingFolder("worktree", "web", "b")),
    (spec("/srv"), None, WorkingFolder("named", below="/srv")),
    (spec("/srv"), "web", WorkingFolder("named", below="/srv")),
    (spec(shell="/srv"), "web", WorkingFolder("named", below="/srv")),
]


@pytest.mark.parametrize(("task", "default", "folder"), ON_A_HOST)
def test_a_host_finds_the_folder_by_the_task_alone(task, default, folder):
    assert working_folder(task, default) == folder


def test_a_branch_of_no_repository_is_no_place():
    with pytest.raises(Malformed, match="branch: expected a repository"):
        working_folder(spec(branch="b"), None)


@pytest.mark.parametrize(
    "task",
    [
        spec("/srv", repo="shop"),
        spec(shell="/srv", branch="b"),
        spec("a", shell="b"),
    ],
)
def test_folders_that_contradict_each_other_are_refused(task):
    with pytest.raises(Malformed):
        check_folder(task)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("nats://127.0.0.1:4222", True),
        ("nats://[::1]:4222", True),
        ("tls://localhost:4222", True),
        ("nats://127.1.2.3:1", True),
        ("nats://192.168.0.2:4222", False),
        ("nats://broker:4222", False),
    ],
)
def test_an_address_of_this_machine_alone(url, local):
    assert is_local(url) is local


@pytest.mark.parametrize(
    ("fields", "later"),
    [
        ({}, False),
        ({"at": "x"}, True),
        ({"after": []}, False),
        ({"after": ["x"]}, True),
    ],
)
def test_a_folder_may_still_be_made_for_a_task_that_comes_later(fields, later):
    assert is_later(fields) is later


def test_a_folder_that_one_may_not_see_is_not_said_to_be_missing(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert not is_missing(str(tmp_path))
    assert is_missing(str(tmp_path / "nope"))
    assert is_missing(str(tmp_path / "file"))
    assert is_missing(str(tmp_path / "file" / "below"))

    def refused(_path: str) -> None:
        raise PermissionError

    monkeypatch.setattr("cli.client.here.os.stat", refused)
    assert not is_missing("/home/other/work")
