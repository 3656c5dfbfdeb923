"""Work of a user of its own (`[shell] user`), whoever does it: worktrees, Claude, hands."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from events import catalogue as c
from sidecar.config import ClaudeConfig, EndpointConfig, ShellConfig
from sidecar.simulated.messages import ScriptedCall
from sidecar.task_user import task_user
from tests.support.checkouts import git
from tests.support.hosting import assign, world
from tests.support.messages_api import Reply
from tests.support.simulated_llama import SimulatedLlamaServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.messages_api import MessagesApi

WHO = "id -un > who; echo two >> a.txt"
STEP = 'test "$(id -un)" = nobody && grep -q two a.txt'


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may pass through, as /var/lib is."""
    if os.geteuid() != 0:
        pytest.skip("only root can run tasks as another user")
    with tempfile.TemporaryDirectory(prefix="agentcom-") as name:
        os.chmod(name, 0o711)
        yield Path(name)


@pytest.fixture
def repo(place: Path) -> Path:
    """A checkout that is the task's user's."""
    folder = place / "shop"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "a.txt").write_text("one\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    subprocess.run(["chown", "-R", "nobody", folder], check=True)
    return folder


@pytest.fixture
def theirs(real_claude: Path, place: Path) -> Path:
    """The program where that user can run it."""
    user = task_user("nobody")
    program = place / "claude"
    runs = subprocess.run(
        [real_claude, "--version"], check=False, capture_output=True, cwd="/",
        **user.start_options,
    )  # fmt: skip
    if runs.returncode == 0:
        return real_claude
    shutil.copy2(real_claude, program)
    program.chmod(0o755)
    return program


def work(target: str, **fields: object) -> object:
    spec = c.TaskSpec(
        description="Add a line.",
        repo="shop",
        branch="lines",
        verification_steps=[STEP],
        shell=c.Shell(command=WHO) if target == "sidecar" else None,
    )
    return assign(spec=spec, target_type=target, **fields)


def judge(done: c.TaskCompleted, started: c.TaskStarted, repo: Path) -> None:
    """It worked in a worktree of that user's, which is kept; the checkout is as it was."""
    assert done.result.verified is True
    changes = done.result.changes
    assert changes is not None
    assert changes.branch == "lines"
    assert sorted(each.path for each in changes.changed) == ["a.txt", "who"]
    folder = Path(started.cwd)
    assert (folder / "who").read_text() == "nobody\n"
    nobody = task_user("nobody").uid
    assert {each.lstat().st_uid for each in folder.iterdir()} == {nobody}
    assert (repo / "a.txt").read_text() == "one\n"
    assert (repo / ".git" / "HEAD").read_text() == "ref: refs/heads/main\n"


async def test_a_command_works_in_a_worktree_as_that_user(
    place: Path, repo: Path
) -> None:
    async with (
        world(place / "data") as w,
        w.living(shell=ShellConfig(user="nobody"), repos={"shop": str(repo)}),
    ):
        assert (await w.tell(work("sidecar"))).ok
        [done] = await w.until(c.TaskCompleted)
        [started] = await w.until(c.TaskStarted)
        judge(done, started, repo)


async def test_claude_works_in_a_worktree_as_that_user(
    place: Path,
    repo: Path,
    theirs: Path,
    messages_api: MessagesApi,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", messages_api.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "any")
    monkeypatch.setenv("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(place / "login"))
    (place / "login").mkdir()
    task_user("nobody").own(place / "login")
    messages_api.reply_next(Reply(kind="tool", command=WHO), Reply(text="Done."))
    claude = ClaudeConfig(program=str(theirs), allowed_tools=["Bash"])
    async with (
        world(place / "data") as w,
        w.living(
            shell=ShellConfig(user="nobody"), repos={"shop": str(repo)}, claude=claude
        ),
    ):
        order = work("claude", tier="complex", endpoint="h1-claude", model="sonnet")
        assert (await w.tell(order)).ok
        [done] = await w.until(c.TaskCompleted)
        [started] = await w.until(c.TaskStarted)
        judge(done, started, repo)
    assert done.result.estimated_cost_usd


async def test_hands_of_a_local_model_work_in_a_worktree_as_that_user(
    place: Path, repo: Path, theirs: Path
) -> None:
    async with SimulatedLlamaServer(["m"], n_ctx=65_536) as server:
        given = {"command": WHO, "description": "Add a line"}
        server.calls.append(ScriptedCall(name="Bash", input=given))
        endpoint = EndpointConfig(name="gpu", kind="openai", url=server.url)
        claude = ClaudeConfig(
            enabled=False, program=str(theirs), allowed_tools=["Bash"]
        )
        async with (
            world(place / "data") as w,
            w.living(
                shell=ShellConfig(user="nobody"),
                repos={"shop": str(repo)},
                endpoint=[endpoint],
                claude=claude,
            ),
        ):
            order = work(
                "openai",
                tier="standard",
                endpoint="h1-gpu",
                endpoint_kind="openai",
                model="m",
                mode="work",
            )
            assert (await w.tell(order)).ok
            [done] = await w.until(c.TaskCompleted)
            [started] = await w.until(c.TaskStarted)
            judge(done, started, repo)
    assert done.result.estimated_cost_usd == 0
