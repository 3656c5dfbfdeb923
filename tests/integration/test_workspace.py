"""Working folders: real git, real turns."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from events.catalogue import Shell
from events.mail import Limits
from sidecar.folders import (
    FolderBusy,
    FolderMissing,
    WorkspaceError,
    folders,
    remove_tree,
)
from sidecar.kept import ended
from sidecar.processes.family import Processes
from sidecar.verification import needs_folder
from sidecar.workspace import OwnVariables, Turns, Workspace, environment
from tests.support.checkouts import git
from tests.support.runs import assignment

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.mail import Assign


NOW = 1_770_000_000.0


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "file").write_text("one\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


class Notes(list[str]):
    def __call__(self, _: Assign, text: str) -> None:
        self.append(text)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def workspace(tmp_path: Path, repo: Path, notes: Notes) -> Workspace:
    processes = Processes()
    processes.become_subreaper()
    return Workspace(
        tmp_path / "work",
        processes,
        repos={"shop": repo, "https://git.example.org/team/tool.git": repo},
        source={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "ANTHROPIC_API_KEY": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "CLAUDE_CODE_OAUTH_TOKEN": "t",
            "ALL_PROXY": "p",
            "OWN": "o",
        },
        own=OwnVariables(
            env={"COLOUR": "red", "KIND": "host"},
            path="/opt/bin:/bin",
            shell=("OWN", "NOT_THERE"),
            claude=("OWN",),
        ),
        note=notes,
    )


def shell(**spec: Any) -> Assign:
    wanted = {"shell": Shell(command="true", **spec.pop("shell", {})), **spec}
    return assignment(target_type="sidecar", spec=wanted)


def claude(**spec: Any) -> Assign:
    return assignment(target_type="claude", spec=spec)


async def test_without_a_repository_a_task_has_a_folder_of_its_own(
    workspace: Workspace,
) -> None:
    async with workspace.prepare(shell()) as run:
        assert run.cwd.name == "T1"
        (run.cwd / "left").write_text("x")
    assert (run.cwd / "left").exists()


async def test_a_shell_task_sees_no_credential(workspace: Workspace) -> None:
    task = shell(shell={"env": {"COLOUR": "blue", "AGENTCOM_ROUTE": "forged"}})
    async with workspace.prepare(task) as run:
        assert not any("AWS" in name or "ANTHROPIC" in name for name in run.env)
        assert not any("CLAUDE" in name for name in run.env)
        assert run.env["COLOUR"] == "blue"
        assert (run.env["KIND"], run.env["OWN"]) == ("host", "o")
        assert run.env["PATH"] == "/opt/bin:/bin"
        assert "NOT_THERE" not in run.env
        assert run.env["AGENTCOM_ROUTE"] == task.route
        assert run.env["AGENTCOM_TASK_ID"] == task.task_id
        assert Path(run.env["TMPDIR"]).is_dir()
        Path(run.env["TMPDIR"], "x").write_text("x")
    assert not Path(run.env["TMPDIR"]).exists()


async def test_claude_alone_gets_its_own_keys(workspace: Workspace) -> None:
    async with workspace.prepare(claude()) as run:
        assert run.env["ANTHROPIC_API_KEY"] == "k"
        assert "AWS_SECRET_ACCESS_KEY" not in run.env
        assert run.env["CLAUDE_CODE_OAUTH_TOKEN"] == "t"
        assert (run.env["ALL_PROXY"], run.env["OWN"]) == ("p", "o")
        assert "KIND" not in run.env
        assert "HOME" in run.env


def test_models_need_no_folder_but_for_verification() -> None:
    spec: dict[str, Any] = {"repo": "nowhere"}
    assert not needs_folder(assignment(target_type="ollama", spec=spec))
    assert needs_folder(assignment(target_type="claude", spec=spec))
    spec["verification_steps"] = ["true"]
    assert needs_folder(assignment(target_type="ollama", spec=spec))


@pytest.mark.parametrize(
    "name",
    [
        "shop",
        "https://git.example.org/team/tool",
        "https://user@GIT.example.org/team/tool.git/",
        "git@git.example.org:team/tool.git",
        "ssh://git@git.example.org/team/tool",
    ],
)
async def test_a_repository_is_known_by_name_and_by_its_urls(
    workspace: Workspace, repo: Path, name: str
) -> None:
    async with workspace.prepare(shell(repo=name)) as run:
        assert run.cwd == repo


@pytest.mark.parametrize(
    "spec", [{"repo": "other"}, {"branch": "main"}, {"repo": "shop", "branch": "a..b"}]
)
async def test_what_this_host_does_not_have_is_said(
    workspace: Workspace, spec: dict[str, Any]
) -> None:
    with pytest.raises(WorkspaceError):
        async with workspace.prepare(shell(**spec)):
            pass


@pytest.mark.parametrize("kind", [shell, claude])
async def test_a_folder_that_is_named_is_where_the_work_begins(
    workspace: Workspace, repo: Path, tmp_path: Path, kind: Any
) -> None:
    (repo / "inner").mkdir()
    for spec, folder in (
        ({"cwd": str(tmp_path)}, tmp_path),
        ({"cwd": str(repo / "inner")}, repo / "inner"),
        ({"cwd": "inner", "repo": "shop"}, repo / "inner"),
        ({"repo": "shop"}, repo),
    ):
        async with workspace.prepare(kind(**spec)) as run:
            assert run.cwd == folder
    async with workspace.prepare(shell(shell={"cwd": str(tmp_path)})) as run:
        assert run.cwd == tmp_path, "the name of old"


@pytest.mark.parametrize(
    "spec", [{"cwd": "/nowhere"}, {"cwd": "no", "repo": "shop"}, {"cwd": "no"}]
)
async def test_a_missing_folder_is_said(
    workspace: Workspace, spec: dict[str, Any]
) -> None:
    with pytest.raises(FolderMissing) as missing:
        async with workspace.prepare(shell(**spec)):
            pass
    assert missing.value.code == "cwd_missing"


async def test_an_agent_has_the_checkout_around_its_folder_alone(
    workspace: Workspace, repo: Path, notes: Notes
) -> None:
    (repo / "inner").mkdir()
    async with workspace.prepare(shell(repo="shop")):
        waiting = asyncio.create_task(_pass(workspace, claude(cwd=str(repo / "inner"))))
        while not notes:
            await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


async def test_shell_commands_share_a_checkout_and_claude_has_it_alone(
    workspace: Workspace, notes: Notes
) -> None:
    async with (
        workspace.prepare(shell(repo="shop")),
        workspace.prepare(shell(repo="shop")),
    ):
        held = asyncio.Event()
        leave = asyncio.Event()

        async def work() -> None:
            async with workspace.prepare(claude(repo="shop")):
                held.set()
                await leave.wait()

        waiting = asyncio.create_task(work())
        while not notes:
            await asyncio.sleep(0)
        assert not held.is_set()
    await held.wait()
    exclusive = shell(repo="shop", shell={"exclusive": True})
    second = asyncio.create_task(_pass(workspace, exclusive))
    third = asyncio.create_task(_pass(workspace, claude(repo="shop")))
    while len(notes) < 3:
        await asyncio.sleep(0)
    assert not second.done()
    second.cancel()
    leave.set()
    await asyncio.gather(waiting, third)
    assert second.cancelled()
    await _pass(workspace, exclusive)


async def _pass(workspace: Workspace, task: Assign) -> None:
    async with workspace.prepare(task):
        pass


async def test_who_waits_is_served_in_turn() -> None:
    turns, order = Turns(), list[str]()

    async def take(name: str, *, alone: bool) -> None:
        async with turns.taken(alone=alone):
            order.append(name)
            await asyncio.sleep(0)

    async with turns.taken(alone=False):
        tasks = [asyncio.create_task(take("writer", alone=True))]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(take("reader", alone=False)))
        await asyncio.sleep(0)
        assert order == []  # the reader does not pass the waiting writer
    await asyncio.gather(*tasks)
    assert order == ["writer", "reader"]
    assert turns.idle


async def test_a_new_branch_is_begun_and_commits_to_it_stay(
    workspace: Workspace, repo: Path, notes: Notes
) -> None:
    async with workspace.prepare(shell(repo="shop", branch="fix/it")) as run:
        assert run.cwd != repo
        assert (run.cwd / "file").read_text() == "one\n"
        (run.cwd / "file").write_text("two\n")
        git(run.cwd, "commit", "-qam", "two")
    assert run.cwd.exists(), "it is kept"
    assert git(repo, "show", "fix/it:file") == "two"
    assert "[fix/it]" not in git(repo, "worktree", "list")
    assert notes == []


async def test_uncommitted_work_is_kept_and_said(
    workspace: Workspace, repo: Path, notes: Notes
) -> None:
    task = claude(repo="shop", branch="fix")
    async with workspace.prepare(task) as run:
        (run.cwd / "file").write_text("changed\n")
        (run.cwd / "new").write_text("new\n")
    reference = f"refs/agentcom/{task.task_id}/{task.route}"
    assert git(repo, "show", f"{reference}:file") == "changed"
    assert git(repo, "show", f"{reference}:new") == "new"
    assert git(repo, "show", "fix:file") == "one"
    assert notes == [f"Kept uncommitted work as {reference} in {repo}"]
    assert run.cwd.exists(), "it is kept"


async def test_work_that_cannot_be_saved_stays_until_it_can_be(
    workspace: Workspace, repo: Path, notes: Notes
) -> None:
    task = claude(repo="shop", branch="fix")
    async with workspace.prepare(task) as run:
        (run.cwd / "new").write_text("new\n")
        # As a git leaves it that was killed.
        lock = git(
            run.cwd, "rev-parse", "--path-format=absolute", "--git-path", "index"
        )
        Path(f"{lock}.lock").touch()
    (said,) = notes
    assert said.startswith(f"{run.cwd} stays, its uncommitted work cannot be saved")
    await workspace.tidy(limits=Limits(keep_folders=0))
    assert (run.cwd / "new").exists()
    Path(f"{lock}.lock").unlink()
    await workspace.tidy(limits=Limits(keep_folders=0))
    assert git(repo, "show", f"refs/agentcom/{task.task_id}/{task.route}:new") == "new"
    assert not run.cwd.exists()


async def test_a_worktree_that_its_task_has_removed_is_no_loss(
    workspace: Workspace, notes: Notes
) -> None:
    for gone in ("", ".git"):
        async with workspace.prepare(claude(repo="shop", branch=f"x{gone}y")) as run:
            place = run.cwd / gone
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert notes == []


async def test_a_branch_that_is_checked_out_is_worked_on_as_a_copy(
    workspace: Workspace, repo: Path, notes: Notes
) -> None:
    task = shell(repo="shop", branch="main")
    async with workspace.prepare(task) as run:
        (run.cwd / "file").write_text("two\n")
        git(run.cwd, "commit", "-qam", "two")
    assert git(repo, "show", "main:file") == "one"
    kept = f"refs/agentcom/{task.task_id}/{task.route}"
    assert git(repo, "show", f"{kept}:file") == "two"
    assert git(repo, "status", "--porcelain") == ""
    assert len(notes) == 2


async def test_an_existing_branch_and_a_remote_one_are_found(
    workspace: Workspace, repo: Path
) -> None:
    git(repo, "branch", "old")
    git(repo, "update-ref", "refs/remotes/origin/far", "HEAD")
    for branch in ("old", "far"):
        async with workspace.prepare(shell(repo="shop", branch=branch)) as run:
            assert git(run.cwd, "symbolic-ref", "HEAD") == f"refs/heads/{branch}"


async def test_two_runs_on_one_branch_do_not_meet(workspace: Workspace) -> None:
    one, two = shell(repo="shop", branch="both"), shell(repo="shop", branch="both")
    async with workspace.prepare(one) as first, workspace.prepare(two) as second:
        assert first.cwd != second.cwd


NO_BRANCHES = ["-b", "--upload-pack=touch x", "-", "a b", "a\nb", "@{-1}", "x.lock"]
NO_BRANCHES += ["/", "a~1", "../../up", "a\\b", ".hidden"]


@pytest.mark.parametrize("branch", NO_BRANCHES)
async def test_no_branch_name_can_pass_for_anything_else(
    workspace: Workspace, repo: Path, branch: str
) -> None:
    before = git(repo, "for-each-ref")
    with pytest.raises(WorkspaceError, match="no branch name"):
        async with workspace.prepare(shell(repo="shop", branch=branch)):
            pass
    assert git(repo, "for-each-ref") == before


async def test_hooks_of_the_repository_do_not_run(
    workspace: Workspace, repo: Path, tmp_path: Path
) -> None:
    hook = repo / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    async with workspace.prepare(shell(repo="shop", branch="x")):
        pass
    assert not (tmp_path / "ran").exists()


async def test_what_an_earlier_life_left_is_tidied_and_its_work_is_kept(
    workspace: Workspace, repo: Path, tmp_path: Path
) -> None:
    left = tmp_path / "work" / "worktrees" / "T9" / "R9"
    left.parent.mkdir(parents=True)
    git(repo, "worktree", "add", "-q", "-b", "lost", str(left))
    (left / "new").write_text("new\n")
    old = tmp_path / "work" / "tasks" / "T8"
    old.mkdir(parents=True)
    ended(old, NOW - 999_999)
    young = tmp_path / "work" / "tasks" / "T7"
    young.mkdir()
    (old / "x").write_text("x")
    (young / "x").write_text("x")
    ended(young, NOW - 60)
    # Files' own times are the tasks' to set.
    os.utime(young, (1, 1))
    os.utime(old, (2 * NOW, 2 * NOW))
    empty = tmp_path / "work" / "tasks" / "T6"
    empty.mkdir()
    await workspace.tidy()
    saved = git(repo, "rev-parse", "refs/agentcom/T9/R9")
    assert git(repo, "show", "refs/agentcom/T9/R9:new") == "new"
    assert (left / "new").exists()
    assert not old.exists()
    assert not empty.exists()
    assert young.exists()
    git(repo, "branch", "-m", "lost", "found")  # nothing holds it any more
    await workspace.tidy()
    assert (left.exists(), young.exists()) == (True, True)
    assert git(repo, "rev-parse", "refs/agentcom/T9/R9") == saved, "saved once"
    await workspace.tidy(limits=Limits(keep_folders=1))
    assert left.exists() + young.exists() == 1
    await workspace.tidy(limits=Limits(keep_folders=0))
    assert left.exists() + young.exists() == 0
    assert git(repo, "worktree", "list").count("\n") == 0


async def test_filters_that_the_repository_sets_do_not_run(
    workspace: Workspace, repo: Path, tmp_path: Path
) -> None:
    for key in ("clean", "smudge"):
        git(repo, "config", f"filter.a.b.{key}", f"touch {tmp_path}/owned; cat")
    (repo / ".git/info/attributes").write_text("* filter=a.b\n")
    assign = shell(repo="shop", branch="x")
    async with workspace.prepare(assign) as run:
        (run.cwd / "new").write_text("new\n")
    assert not (tmp_path / "owned").exists()
    assert git(repo, "show", f"refs/agentcom/T1/{assign.route}:new") == "new"


@pytest.mark.parametrize(
    ("switch", "needed", "others"),
    [
        ("BEDROCK", "AWS_PROFILE", "AZURE_CLIENT_ID"),
        ("VERTEX", "GOOGLE_CLOUD_PROJECT", "AWS_PROFILE"),
        ("FOUNDRY", "AZURE_CLIENT_ID", "GOOGLE_CLOUD_PROJECT"),
    ],
)
def test_claude_code_gets_what_the_cloud_that_it_is_told_to_use_needs(
    switch: str, needed: str, others: str, tmp_path: Path
) -> None:
    source = {
        needed: "x",
        others: "y",
        "ALL_PROXY": "p",
        "CLAUDE_CODE_OAUTH_TOKEN": "t",
    }
    on = {**source, f"CLAUDE_CODE_USE_{switch}": "1"}
    off = {**source, f"CLAUDE_CODE_USE_{switch}": "0"}
    env = environment(claude(), on, tmp_path)
    assert (env.get(needed), others in env) == ("x", False)
    assert (env["ALL_PROXY"], env["CLAUDE_CODE_OAUTH_TOKEN"]) == ("p", "t")
    assert needed not in environment(claude(), off, tmp_path)
    command = environment(shell(), on, tmp_path)
    assert not {needed, "CLAUDE_CODE_OAUTH_TOKEN"} & command.keys()


def as_nobody(work: Callable[[], bool]) -> bool:
    """What `work` says in a process that is not root, who may do anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, from 3.12 on
        child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65_534)
                os.setuid(65_534)
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_folders_that_may_not_be_written_to_are_removed() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        os.chmod(parent, 0o777)
        folder = Path(parent) / "tree"

        def made_and_removed() -> bool:
            (folder / "go/x").mkdir(parents=True)
            (folder / "go/x/f").write_text("")
            for each in (folder / "go/x", folder / "go", folder):
                each.chmod(0o555)
            (folder / "go/x").chmod(0)
            return remove_tree(folder)

        assert as_nobody(made_and_removed)
        assert not folder.exists()


async def test_a_kept_worktree_lets_its_branch_go(
    workspace: Workspace, repo: Path, notes: Notes
) -> None:
    async with workspace.prepare(shell(repo="shop", branch="x")) as first:
        (first.cwd / "file").write_text("two\n")
        git(first.cwd, "commit", "-qam", "two")
    async with workspace.prepare(shell(repo="shop", branch="x")) as second:
        assert git(second.cwd, "symbolic-ref", "HEAD") == "refs/heads/x"
        assert (second.cwd / "file").read_text() == "two\n"
    assert first.cwd.exists()
    assert first.cwd != second.cwd
    assert notes == []


async def test_only_so_many_folders_are_kept_and_none_that_is_used(
    workspace: Workspace, tmp_path: Path, repo: Path
) -> None:
    def task(name: str, **spec: Any) -> Assign:
        limits = Limits(keep_folders=2)
        return replace(shell(**spec), task_id=name, limits=limits)

    async with workspace.prepare(task("used")) as used:
        (used.cwd / "x").write_text("x")
        for n in range(4):
            spec = {"repo": "shop", "branch": f"b{n}"} if n % 2 else {}
            async with workspace.prepare(task(f"t{n}", **spec)) as run:
                (run.cwd / "x").write_text("x")
            ended(run.cwd, time.time() - 99 + n)
        assert used.cwd.exists()
    places = folders(tmp_path / "work/tasks") + folders(tmp_path / "work/worktrees")
    assert sorted(each.name for each in places) == ["t3", "used"]
    assert git(repo, "worktree", "list").count("\n") == 1
    async with workspace.prepare(task("empty")) as run:
        pass
    assert not run.cwd.exists()


async def test_kept_folders_age_by_log_time_wherever_the_clocks_stand(
    workspace: Workspace,
) -> None:
    def at(name: str, log_s: float) -> Assign:
        limits = Limits(keep_folders_s=100.0)
        return replace(shell(), task_id=name, limits=limits, log_s=log_s)

    kept: dict[str, Path] = {}
    for name, log_s in (("a", NOW), ("b", NOW + 60), ("c", NOW + 140)):
        async with workspace.prepare(at(name, log_s)) as run:
            (run.cwd / "x").write_text("x")
            kept[name] = run.cwd
        os.utime(run.cwd, (1, 1))
    assert [name for name, folder in kept.items() if folder.exists()] == ["b", "c"]
    assert not kept["a"].with_name("a.saved").exists()


async def test_a_restart_ages_nothing(workspace: Workspace, tmp_path: Path) -> None:
    """The host's clock may stand anywhere, and of the log nothing has been heard yet."""
    places = tmp_path / "work" / "tasks"
    for name, log_s in (("a", NOW - 60), ("b", NOW), ("unsaid", None)):
        (places / name).mkdir(parents=True)
        (places / name / "x").write_text("x")
        if log_s is not None:
            ended(places / name, log_s)
    await workspace.tidy(limits=Limits(keep_folders_s=100.0))
    assert all((places / name / "x").exists() for name in ("a", "b", "unsaid"))
    assert (places / "unsaid.saved").read_text() == (places / "b.saved").read_text()


async def test_a_branch_that_another_git_has_locked_is_tried_again(
    workspace: Workspace, repo: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.workspace.BUSY_PAUSES_S", (0.01, 0.02))
    lock = repo / ".git" / "refs" / "heads" / "x.lock"
    lock.touch()
    note = workspace._note

    def unlock(assign: Assign, text: str) -> None:
        note(assign, text)
        lock.unlink()

    workspace._note = unlock
    async with workspace.prepare(shell(repo="shop", branch="x")) as run:
        assert (run.cwd / "file").exists()
    [told] = notes
    assert told.startswith("Trying again in 0.01 s: git worktree: ")


async def test_what_stays_locked_is_busy_and_no_fault_of_the_folder(
    workspace: Workspace, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.workspace.BUSY_PAUSES_S", (0.01,))
    (repo / ".git" / "refs" / "heads" / "x.lock").touch()
    with pytest.raises(FolderBusy) as busy:
        async with workspace.prepare(shell(repo="shop", branch="x")):
            pass
    assert busy.value.code == "folder_busy"
