"""`agentcom diff`, as a stranger uses it: a real instance, real git."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.checkouts import GIT
from tests.support.command import NOTHING_ELSE, System, agentcom_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def git(folder: Path, *words: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        ["git", *words],
        cwd=folder,
        env=GIT,
        check=True,
        capture_output=True,
        text=True,
        input=stdin,
    )
    return done.stdout


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One AgentCom whose host has the repository `shop`."""
    folder = tmp_path_factory.mktemp("up")
    shop = folder / "shop"
    shop.mkdir()
    git(shop, "init", "-q", "-b", "main")
    (shop / "file").write_text("one\n")
    git(shop, "add", ".")
    git(shop, "commit", "-qm", "one")
    config = f'{NOTHING_ELSE}\n[repos]\nshop = "{shop}"\n'
    with agentcom_up(folder, config) as (system, _):
        yield system


def test_the_patch_in_a_pipe_is_what_git_apply_takes(up: System, tmp_path: Path):
    command = "echo two >> file; printf '\\0x' > bin; echo n > 'a new'"
    done = up.json(
        "submit", "--shell", command, "--repo", "shop", "--branch", "b", "--wait"
    )
    task = done["task_id"]
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "-q", str(up.folder / "shop"), str(copy))
    git(copy, "apply", "-", stdin=up.run("diff", task).stdout)
    assert (copy / "file").read_text() == "one\ntwo\n"
    assert (copy / "bin").read_bytes() == b"\0x"
    assert (copy / "a new").read_text() == "n\n"
    stat = up.run("diff", task, "--stat").stdout
    assert "3 files changed, 2 insertions(+), 0 deletions(-), on b" in stat
    changes = up.json("diff", task)
    assert changes["base"] == git(up.folder / "shop", "rev-parse", "HEAD").strip()
    shown = up.json("task", task)["task"]
    assert "worktrees" in shown["cwd"]
    assert shown["result"]["changes"] == changes
    assert done["changes"] == changes
    assert done["cwd"] == shown["cwd"]
    assert "3 files, +2 -0" in up.run("task", task).stdout


def test_what_changed_nothing_has_an_empty_patch(up: System):
    done = up.json("submit", "--shell", "true", "--repo", "shop", "--wait")
    ended = up.run("diff", done["task_id"])
    assert (ended.returncode, ended.stdout) == (0, "")


def test_without_a_checkout_it_says_why_there_is_nothing(up: System):
    done = up.json("submit", "--shell", "true", "--anywhere", "--wait")
    ended = up.run("diff", done["task_id"])
    assert ended.returncode == 7
    assert "changes are kept of work in a git checkout" in ended.stderr


def test_a_command_runs_where_it_is_typed_and_follow_says_so(up: System):
    ended = up.run("submit", "--shell", "pwd", "--follow")
    assert ended.stdout.strip() == str(up.folder)
    assert f"runs in {up.folder}" in ended.stderr
    anywhere = up.run("submit", "--shell", "pwd", "--anywhere", "--follow")
    assert anywhere.stdout.strip().startswith(str(up.data))


def test_a_folder_that_is_not_there_fails_with_its_name(up: System):
    ended = up.run("submit", "--shell", "pwd", "--cwd", "no/where", "--wait")
    assert ended.returncode == 2
    assert f"'{up.folder}/no/where' is no folder of this machine" in ended.stderr
    both = up.run("submit", "--shell", "pwd", "--cwd", "/tmp", "--repo", "shop")
    assert "shell.cwd: expected a path below the checkout" in both.stderr


def test_a_file_of_a_kept_folder_is_fetched(up: System, tmp_path: Path):
    command = (
        "mkdir -p out/inner && head -c 1000000 /dev/zero > out/big && echo x > out/x "
        "&& chmod +x out/x && ln -s /etc/passwd out/link && ln -s /etc etc "
        "&& ln -s out inside && mkfifo pipe && printf x > \"$(printf 'a\\nb')\""
    )
    done = up.json("submit", "--shell", command, "--anywhere", "--wait")
    assert done["status"] == "completed", done
    task = done["task_id"]
    assert up.run("fetch", task).stdout.split() == [
        "a", "b", "etc", "inside", "out/", "pipe",
    ]  # fmt: skip
    assert "big" in up.run("fetch", task, "out").stdout
    target = tmp_path / "here"
    ended = up.run("fetch", task[:12], "out/big", "-o", str(target))
    assert ended.returncode == 0, ended.stderr
    assert target.read_bytes() == bytes(1_000_000)
    assert up.run("fetch", task, "out/x", "-o", "-").stdout == "x\n"
    assert up.run("fetch", task, "out/x").returncode == 0
    assert os.access(up.folder / "x", os.X_OK)
    again = up.run("fetch", task, "out/x")
    assert (again.returncode, "is there already" in again.stderr) == (1, True)
    for path in (
        "out/link", "etc/passwd", "inside/x", "../T", "/etc/passwd", "pipe",
        "out/x/y", "nowhere", "out/../../x",
    ):  # fmt: skip
        ended = up.run("fetch", task, path, "-o", str(tmp_path / "no"))
        assert ended.returncode == 7, (path, ended)
        assert not (tmp_path / "no").exists()


def test_of_a_shared_checkout_nothing_is_kept(up: System):
    done = up.json("submit", "--shell", "true", "--repo", "shop", "--wait")
    ended = up.run("fetch", done["task_id"], "file")
    assert ended.returncode == 7
    assert "worked in a checkout" in ended.stderr


def test_a_branchs_worktree_is_kept(up: System):
    done = up.json(
        "submit", "--shell", "echo y > y", "--repo", "shop", "--branch", "k", "--wait"
    )
    assert up.run("fetch", done["task_id"], "y", "-o", "-").stdout == "y\n"
