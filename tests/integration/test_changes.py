"""What a run changed: real git, hostile repositories, patches that git takes back."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from events import catalogue as c
from sidecar import changes as module
from sidecar.processes.family import Processes
from sidecar.workspace import Workspace
from tests.support.checkouts import GIT
from tests.support.runs import assignment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def git(folder: Path, *words: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run(
        ["git", *words],
        cwd=folder,
        env=GIT,
        capture_output=True,
        check=True,
        input=stdin,
    )
    return done.stdout


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "file").write_text("one\ntwo\n")
    (folder / "gone").write_text("gone\n")
    (folder / ".gitignore").write_text("ignored\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


class Bench:
    """A workspace with one repository, and what was said of its runs."""

    def __init__(self, root: Path, repo: Path) -> None:
        processes = Processes()
        processes.become_subreaper()
        self.said: list[str] = []
        self.workspace = Workspace(
            root,
            processes,
            repos={"shop": repo},
            source={"PATH": os.environ["PATH"], "HOME": str(root)},
            note=lambda _, text: self.said.append(text),
        )

    async def changes(
        self, work: Callable[[Path], Any], kind: str = "claude", **spec: Any
    ) -> c.Changes | None:
        spec = {"repo": "shop", **spec}
        if kind == "sidecar":
            spec["shell"] = c.Shell(command="true")
        assign = assignment(target_type=kind, spec=spec)
        async with self.workspace.prepare(assign) as run:
            work(run.cwd)
            return None if run.changes is None else await run.changes()


@pytest.fixture
def bench(tmp_path: Path, repo: Path) -> Bench:
    return Bench(tmp_path / "work", repo)


def applies(changes: c.Changes, repo: Path, tmp_path: Path) -> Path:
    """Apply a patch to a fresh copy of its base; return that."""
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "-q", str(repo), str(copy))
    git(copy, "checkout", "-q", changes.base)
    patch = changes.patch.encode(changes.patch_encoding)
    git(copy, "apply", "--index", "-", stdin=patch)
    return copy


def everything(folder: Path) -> None:
    (folder / "file").write_text("one\n2\nthree\n")
    git(folder, "commit", "-qam", "two")
    (folder / "gone").unlink()
    (folder / "new").write_text("new\n")
    (folder / "b in").write_bytes(bytes(range(256)))
    (folder / "latin").write_bytes(b"caf\xe9\n")
    (folder / "ignored").write_text("x")
    (folder / "new").chmod(0o755)
    (folder / "link").symlink_to("file")


@pytest.mark.parametrize("spec", [{}, {"branch": "fix"}])
async def test_committed_and_uncommitted_and_untracked_work_is_one_patch(
    bench: Bench, repo: Path, tmp_path: Path, spec: dict[str, str]
) -> None:
    base = git(repo, "rev-parse", "HEAD").decode().strip()
    changes = await bench.changes(everything, **spec)
    assert changes is not None
    assert (changes.base, changes.branch) == (base, spec.get("branch", "main"))
    assert len(changes.commits) == 1
    how = {each.path: each.how for each in changes.changed}
    assert how == {
        "file": "modified",
        "gone": "deleted",
        "new": "added",
        "b in": "added",
        "latin": "added",
        "link": "added",
    }
    counts = (changes.files, changes.insertions, changes.deletions)
    assert counts == (6, 5, 2)
    assert not changes.patch_truncated
    copy = applies(changes, repo, tmp_path)
    assert (copy / "b in").read_bytes() == bytes(range(256))
    assert (copy / "latin").read_bytes() == b"caf\xe9\n"
    assert os.access(copy / "new", os.X_OK)
    assert not (copy / "gone").exists()
    assert bench.said == [] or spec


async def test_what_was_uncommitted_before_is_not_the_runs_work(
    bench: Bench, repo: Path
) -> None:
    (repo / "file").write_text("mine\n")
    (repo / "notes").write_text("mine\n")
    before = git(repo, "status", "--porcelain", "--ignored")
    objects = sorted((repo / ".git/objects").rglob("*"))
    index = (repo / ".git/index").read_bytes()
    changes = await bench.changes(lambda folder: (folder / "new").write_text("x\n"))
    assert changes is not None
    assert [each.path for each in changes.changed] == ["new"]
    (repo / "new").unlink()
    assert git(repo, "status", "--porcelain", "--ignored") == before
    assert sorted((repo / ".git/objects").rglob("*")) == objects
    assert (repo / ".git/index").read_bytes() == index


async def test_nothing_changed_is_said_too(bench: Bench) -> None:
    changes = await bench.changes(lambda _: None, kind="sidecar")
    assert changes is not None
    assert (changes.files, changes.patch, changes.branch) == (0, "", "main")


async def test_a_rename_is_one_file(bench: Bench) -> None:
    changes = await bench.changes(lambda f: (f / "file").rename(f / "file2"))
    assert changes is not None
    (only,) = changes.changed
    assert (only.how, only.was, only.path) == ("renamed", "file", "file2")


async def test_commands_in_no_named_repository_are_not_watched(
    bench: Bench, repo: Path
) -> None:
    nothing = await bench.changes(lambda _: 0, kind="sidecar", repo=None, cwd=str(repo))
    assert nothing is None
    agents = await bench.changes(lambda _: 0, repo=None, cwd=str(repo))
    assert agents is not None
    assert await bench.changes(lambda _: 0, repo=None) is None


async def test_no_program_of_a_repository_is_run(
    bench: Bench, repo: Path, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\necho \"$0 $*\" >> '{tmp_path}/ran'\ncat\n")
    trap.chmod(0o755)

    def plant(folder: Path) -> None:
        for key in (
            "filter.a.clean",
            "filter.a.smudge",
            "filter.x=y.clean",
            "filter.x=y.process",
            "diff.external",
            "diff.d.command",
            "diff.d.textconv",
            "core.fsmonitor",
            "core.sshCommand",
            "core.pager",
            "core.editor",
        ):
            git(folder, "config", key, str(trap))
        git(folder, "config", "filter.a.required", "true")
        git(folder, "config", "remote.origin.url", f"ext::{trap}")
        git(folder, "config", "remote.origin.promisor", "true")
        git(folder, "config", "protocol.ext.allow", "always")
        (folder / ".gitattributes").write_text(
            "file filter=a diff=d\nnew filter=x=y\n* diff=d\n"
        )
        (folder / "file").write_text("changed\n")
        (folder / "new").write_text("new\n")
        for hook in ("post-index-change", "reference-transaction"):
            place = folder / ".git/hooks" / hook
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(trap.read_bytes())
            place.chmod(0o755)

    changes = await bench.changes(plant)
    assert changes is not None
    assert "+changed" in changes.patch
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


async def test_hostile_names_are_names(
    bench: Bench, repo: Path, tmp_path: Path
) -> None:
    names = ["a\nb", "-rf", '"q"', "\u202egpj.exe", "tab\there", "é", "a b/c"]

    def work(folder: Path) -> None:
        (folder / "a b").mkdir()
        for name in names:
            (folder / name).write_text("x\n")
        (folder / os.fsdecode(b"no\xff")).write_text("x\n")

    changes = await bench.changes(work)
    assert changes is not None
    assert {each.path for each in changes.changed} == {*names, "no\\xff"}
    assert (applies(changes, repo, tmp_path) / "-rf").exists()


async def test_a_long_patch_is_cut_between_files(
    bench: Bench, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(folder: Path) -> None:
        for n in range(40):
            (folder / f"f{n:02}").write_text(f"{n} é\n" * 2_000)

    changes = await bench.changes(work)
    assert changes is not None
    assert (changes.files, changes.patch_truncated) == (40, True)
    assert len(changes.patch.encode()) <= module.PATCH_BYTES
    copy = applies(changes, repo, tmp_path)
    assert (copy / "f00").read_text() == "0 é\n" * 2_000
    assert not (copy / "f39").exists()


async def test_a_large_untracked_file_is_named_and_not_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGE_BYTES", 1_000)
    changes = await bench.changes(lambda f: (f / "big").write_bytes(b"x" * 1_001))
    assert changes is not None
    assert [each.path for each in changes.changed] == ["big"]
    assert (changes.patch, changes.patch_truncated) == ("", True)


async def test_a_repository_without_a_commit_has_changes_too(
    tmp_path: Path,
) -> None:
    repo = tmp_path / "empty"
    repo.mkdir()
    git(repo, "init", "-q", "-b", "main")
    bench = Bench(tmp_path / "work", repo)
    changes = await bench.changes(lambda f: (f / "new").write_text("x\n"))
    assert changes is not None
    assert (changes.base, changes.files, changes.insertions) == ("", 1, 1)


async def test_a_checkout_that_git_cannot_read_ends_no_run(
    bench: Bench, repo: Path
) -> None:
    def work(folder: Path) -> None:
        (folder / ".git/objects").rename(folder / ".git/away")

    assert await bench.changes(work) is None
    assert any("not known" in line for line in bench.said)
