"""Clones that a host makes: a real git, a real HTTP server, hostile ones too."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from contextlib import asynccontextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

import pytest
from msgspec.structs import replace

from events import catalogue as c
from events.mail import Limits
from sidecar import clones
from sidecar.folders import WorkspaceError
from sidecar.processes.ending import Exit
from sidecar.processes.family import Processes
from sidecar.workspace import Workspace
from tests.support.checkouts import git
from tests.support.runs import assignment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; what lies under /moved/ is said to be elsewhere."""

    def do_GET(self) -> None:
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.replace("/moved/", "/team/"))
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


class Far:
    """A repository on a server."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.bare = folder / "www/team/tool.git"
        self.work.mkdir(parents=True)
        self.bare.parent.mkdir(parents=True)
        git(self.work, "init", "-q", "-b", "main")
        self.add("file", "one\n")
        git(folder, "clone", "-q", "--bare", str(self.work), str(self.bare))
        git(self.bare, "update-server-info")
        handler = partial(Handler, directory=str(folder / "www"))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.base = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.url = f"{self.base}/team/tool.git"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, name: str, text: str) -> None:
        (self.work / name).write_text(text)
        git(self.work, "add", ".")
        git(self.work, "commit", "-qm", name)

    def push(self, branch: str = "main") -> None:
        git(self.work, "push", "-q", str(self.bare), f"HEAD:{branch}")
        git(self.bare, "update-server-info")


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    far = Far(tmp_path / "far")
    yield far
    far.server.shutdown()
    far.server.server_close()


class Bench:
    def __init__(self, root: Path, *allowed: str) -> None:
        processes = Processes()
        processes.become_subreaper()
        self.root = root
        self.said: list[str] = []
        self.workspace = Workspace(
            root,
            processes,
            clones=allowed,
            source={"PATH": os.environ["PATH"], "HOME": str(root)},
            note=lambda _, text: self.said.append(text),
        )

    def prepare(self, repo: str, limits: Limits | None = None, **spec: Any) -> Any:
        spec = {"repo": repo, "shell": c.Shell(command="true"), **spec}
        assign = assignment(target_type="sidecar", spec=spec)
        return self.workspace.prepare(replace(assign, limits=limits or Limits()))


@pytest.fixture
def bench(tmp_path: Path, far: Far) -> Bench:
    return Bench(tmp_path / "host", f"{far.base}/team")


async def test_what_is_allowed_is_cloned_once_and_brought_up_to_date(
    bench: Bench, far: Far
) -> None:
    async with bench.prepare(far.url) as run:
        assert (run.cwd / "file").read_text() == "one\n"
        first = run.cwd
    assert bench.said == [f"Cloning {far.url}"]
    far.add("second", "two\n")
    far.push()
    far.push("side")
    async with bench.prepare(far.url) as run:
        assert run.cwd == first
        assert (run.cwd / "second").read_text() == "two\n"
    async with bench.prepare(far.url, branch="side") as run:
        assert (run.cwd / "second").exists()
        (run.cwd / "mine").write_text("x\n")
        changes = await run.changes()
    assert [each.path for each in changes.changed] == ["mine"]
    assert len(bench.said) == 2, bench.said
    far.server.shutdown()
    far.server.server_close()
    async with bench.prepare(far.url) as run:
        assert (run.cwd / "file").exists()
    assert "Working on the clone as it is" in bench.said[-1]


@pytest.mark.parametrize(
    "url",
    [
        "{base}/moved/tool.git",
        "{base}/team/../moved/tool.git",
        "{base}/team-two/tool.git",
        "file://{folder}",
        "{folder}",
        "ext::sh -c touch% {folder}/ran",
        "--upload-pack=touch {folder}/ran",
    ],
)
async def test_nothing_else_is_cloned(bench: Bench, far: Far, url: str) -> None:
    url = url.format(base=far.base, folder=far.bare)
    with pytest.raises(WorkspaceError, match="has no checkout"):
        async with bench.prepare(url):
            pass
    assert not (far.bare / "ran").exists()
    assert not (bench.root / "clones").exists()


async def test_no_redirect_leads_out_of_what_is_allowed(
    tmp_path: Path, far: Far
) -> None:
    bench = Bench(tmp_path / "host", f"{far.base}/moved")
    with pytest.raises(WorkspaceError, match=r"clone of .*moved"):
        async with bench.prepare(f"{far.base}/moved/tool.git"):
            pass
    assert list((bench.root / "clones").iterdir()) == []


async def test_a_clone_that_is_too_large_is_given_up(bench: Bench, far: Far) -> None:
    with pytest.raises(WorkspaceError, match=r"limits\.clone_bytes"):
        async with bench.prepare(far.url, Limits(clone_bytes=1_000)):
            pass
    assert list((bench.root / "clones").iterdir()) == []


async def test_a_clone_that_ends_while_it_is_looked_at_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, end, ended = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    async def wait() -> None:
        await end.wait()
        ended.set()

    @asynccontextmanager
    async def child() -> AsyncIterator[Any]:
        yield SimpleNamespace(wait=wait, exit=Exit(0))

    async def transfer(*_: Any) -> Any:
        return child()

    def size(folder: Path) -> int:
        if ended.is_set():
            return 2
        loop.call_soon_threadsafe(end.set)
        assert ended.wait(60)
        return 1

    monkeypatch.setattr(clones, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(clones, "_size", size)
    git: Any = SimpleNamespace(transfer=transfer)
    here = clones.Clones(tmp_path, ["http://far/"])
    with pytest.raises(WorkspaceError, match=r"limits\.clone_bytes"):
        await here.checkout(git, "http://far/x", Limits(clone_bytes=1), print)


async def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base = f"http://127.0.0.1:{silent.getsockname()[1]}"
        bench = Bench(tmp_path / "host", base)
        with pytest.raises(WorkspaceError, match=r"limits\.clone_timeout_s"):
            async with bench.prepare(f"{base}/x", Limits(clone_timeout_s=0.2)):
                pass
    assert list((bench.root / "clones").iterdir()) == []


async def test_what_was_being_cloned_when_the_host_died_is_removed(
    bench: Bench, far: Far
) -> None:
    async with bench.prepare(far.url) as run:
        whole = run.cwd
    left = whole.with_name("x.part")
    left.mkdir()
    await bench.workspace.tidy()
    assert not left.exists()
    assert whole.exists()


async def test_no_program_of_a_clone_is_run(
    bench: Bench, far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task has set traps in the clone; the next task's fetch and merge meet them."""
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\necho \"$0 $*\" >> '{tmp_path}/ran'\ncat\n")
    trap.chmod(0o755)
    async with bench.prepare(far.url) as run:
        for key in ("filter.a.clean", "filter.a.smudge", "core.fsmonitor"):
            git(run.cwd, "config", key, str(trap))
        (run.cwd / ".git/info").mkdir(exist_ok=True)
        (run.cwd / ".git/info/attributes").write_text("* filter=a\n")
        for hook in ("post-merge", "post-checkout", "reference-transaction"):
            place = run.cwd / ".git/hooks" / hook
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(trap.read_bytes())
            place.chmod(0o755)
        git(run.cwd, "config", "remote.origin.url", f"ext::{trap}")
        git(run.cwd, "config", "remote.origin.uploadpack", str(trap))
        git(run.cwd, "config", f"url.ext::{trap}.insteadOf", far.base)
        git(run.cwd, "config", "protocol.ext.allow", "always")
        git(run.cwd, "config", "credential.helper", f"!{trap}")
    far.add("second", "two\n")
    far.push()
    async with bench.prepare(far.url):
        pass
    ran = tmp_path / "ran"
    assert not ran.exists(), ran.read_text()
    assert "a task has set" in bench.said[-1]
    monkeypatch.setattr(clones, "_strange_settings", AsyncMock(return_value=""))
    async with bench.prepare(far.url):
        pass
    assert not ran.exists(), ran.read_text()
    assert "transport 'ext' not allowed" in bench.said[-1]
