"""What a shell task reaches of the secrets of the roles beside it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from sidecar.task_secrets import SecretsFileError, TaskSecrets, parse
from sidecar.task_user import TaskUserError, make_room, task_user
from sidecar.verification import write_answer
from tests.support.command import (
    NOTHING_ELSE,
    Running,
    System,
    agentcom_up,
    command,
    family,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "model-key-4711"
ENDPOINT = """
[[endpoint]]
name = "vllm"
kind = "openai"
url = "http://127.0.0.1:PORT"
api_key_env = "VLLM"
"""


def plain() -> list[str]:
    """What makes root a user like any other: itself, without capabilities."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root reads everything, and there is no setpriv to be less")
    return [setpriv, "--bounding-set=-all", "--inh-caps=-all", "--"]


CORES = ["/bin/sh", "-c", 'ulimit -S -c "$(ulimit -H -c)"; exec "$@"', "sh"]
"""What begins a program that would leave a core as far as this machine lets it."""


@pytest.fixture
def asked() -> list[str]:
    """The keys that the model server was asked with."""
    return []


@pytest.fixture
def server(asked: list[str]) -> Iterator[int]:
    """The port of a model server without a model."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Authorization", ""))
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield http.server_port
        http.shutdown()
        thread.join()


@pytest.fixture
def system(tmp_path: Path, server: int) -> Iterator[System]:
    """`agentcom up` without privileges, with secrets in its environment."""
    system = System(tmp_path)
    system.env |= {"VLLM": KEY, "ANTHROPIC_API_KEY": KEY, "GITHUB_TOKEN": KEY}
    system.data.mkdir(mode=0o755)
    (system.data / "sidecar.toml").write_text(
        NOTHING_ELSE + ENDPOINT.replace("PORT", str(server))
    )
    for name in ("projections.db", "nats-server.log"):
        (system.data / name).touch(mode=0o644)
    arguments = ["up", "--port", "0", "--nats-port", "0", "--name", "h1"]
    up = Running(arguments, system.env, tmp_path, [*CORES, *plain(), *command()])
    try:
        up.until("dashboard")
        yield system
    finally:
        up.signal(signal.SIGINT)
        up.close()


def test_a_task_reads_no_secret_out_of_any_role_s_process(system: System) -> None:
    up = int((system.data / "up.lock").read_text())
    roles = [up, *(each.pid for each in family(up))]
    assert len(roles) == 5
    files = [f"/proc/{pid}/{name}" for pid in roles for name in ("environ", "cmdline")]
    reads = "; ".join(f"cat {name} 2>/dev/null" for name in files)
    looks = f"{reads}; ls /proc/{roles[1]}/fd 2>&1; cat /proc/$PPID/environ 2>&1; true"
    done = system.run("submit", "--shell", looks, "--wait")
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout
    assert "--data" in done.stdout
    assert "Permission denied" in done.stdout


def test_a_task_s_files_have_the_modes_that_its_user_gives_them(
    system: System,
) -> None:
    ours = os.umask(0o022)
    os.umask(ours)
    done = system.run("submit", "--shell", "umask", "--wait")
    assert int(done.stdout, 8) == ours


def test_nothing_in_the_data_folder_is_open_to_others(system: System) -> None:
    assert system.run("submit", "--shell", "true", "--wait").returncode == 0
    opened = [
        path
        for path in (system.data, *system.data.rglob("*"))
        if not path.is_symlink()
        and stat.S_IMODE(path.stat().st_mode) & 0o077
        and system.data / "sidecar.toml" != path
        # A closed folder closes what is in it.
        and not any(
            not stat.S_IMODE(above.stat().st_mode) & 0o077
            for above in path.parents
            if above.is_relative_to(system.data) and above != system.data
        )
    ]
    assert opened == []


def test_a_model_server_still_gets_its_key(system: System, asked: list[str]) -> None:
    assert system.run("hosts").returncode == 0
    assert asked
    assert set(asked) == {f"Bearer {KEY}"}


def test_no_role_leaves_a_core(system: System) -> None:
    done = system.run("submit", "--shell", "ulimit -c", "--wait")
    assert done.stdout.strip() == "0"


# -- secrets that a task names ---------------------------------------------------------


def test_a_named_secret_reaches_its_task_and_not_the_log(tmp_path: Path) -> None:
    file = tmp_path / "task-secrets"
    file.write_text("# for deploys\nDEPLOY_TOKEN=hush-4711=\n")
    file.chmod(0o600)
    with agentcom_up(tmp_path, f'{NOTHING_ELSE}[secrets]\nfile = "{file}"\n') as up:
        system, _ = up
        named = ("--secret-env", "DEPLOY_TOKEN")
        shows = "printf %s $DEPLOY_TOKEN | wc -c"
        done = system.run("submit", "--shell", shows, *named, "--wait")
        assert done.stdout.strip() == "10", done
        assert "Warning" not in done.stderr
        other = system.run("submit", "--shell", "true", "--secret-env", "NO_SUCH")
        task = other.stdout.split()[0]
        following = system.running("events", "--follow", "--json")
        with following as lines:
            said = lines.until('"secret_not_here"')
        assert task in said
        assert "it has: DEPLOY_TOKEN" in said
        events = system.run("events", "--json").stdout
        assert "DEPLOY_TOKEN" in events
        assert "hush-4711" not in events
        assert not [
            path
            for path in system.data.rglob("*")
            if path.is_file() and b"hush-4711" in path.read_bytes()
        ]


def test_a_variable_that_looks_like_a_secret_is_warned_of(tmp_path: Path) -> None:
    with agentcom_up(tmp_path) as (system, _):
        said = system.run("submit", "--shell", "true", "--env", "API_KEY=x").stderr
        assert "API_KEY looks like a secret" in said
        said = system.run("submit", "--shell", "true", "--env", "COLUMNS=80").stderr
        assert "Warning" not in said


def test_a_file_of_secrets_that_others_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "task-secrets"
    file.write_text("A=b\n")
    file.chmod(0o644)
    with pytest.raises(SecretsFileError, match="0644"):
        TaskSecrets(file).values()


def test_a_line_of_secrets_that_cannot_be_read_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(SecretsFileError) as refused:
        parse(b"A=b\nhush 4711\n", tmp_path)
    assert "line 2" in str(refused.value)
    assert "4711" not in str(refused.value)


# -- tasks with a user of their own ----------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may pass through, as /var/lib is."""
    if os.geteuid() != 0:
        pytest.skip("only root can run tasks as another user")
    with tempfile.TemporaryDirectory(prefix="agentcom-") as name:
        os.chmod(name, 0o711)
        yield Path(name)


USER = NOTHING_ELSE + '[shell]\nuser = "nobody"\n'


def test_a_task_of_another_user_reads_no_key_and_no_token(open_folder: Path) -> None:
    with agentcom_up(open_folder, USER) as (system, up):
        private = [
            *(system.data / "keys").glob("*.nk"),
            system.data / "web-tokens.json",
            system.data / "journal-h1.db",
            system.data / "projections.db",
            *(f"/proc/{each.pid}/environ" for each in family(up.process.pid)),
        ]
        assert len(private) > 10
        reads = "; ".join(f"cat '{name}' 2>/dev/null" for name in private)
        done = system.run(
            "submit",
            "--shell",
            f"{reads}; ls {system.data} 2>/dev/null; true",
            "--wait",
        )
        assert (done.returncode, done.stdout) == (0, ""), done


def test_a_task_of_another_user_works_in_folders_of_its_own(open_folder: Path) -> None:
    with agentcom_up(open_folder, USER) as (system, _):
        says = (
            'id -un; echo $HOME $USER; mktemp >/dev/null && touch x && ls -l "$PWD/x"'
        )
        done = system.run("submit", "--shell", says, "--anywhere", "--wait")
        assert done.returncode == 0, done
        name, home, listed = done.stdout.splitlines()
        assert name == "nobody"
        assert home.split()[1] == "nobody"
        assert " nobody " in listed
        # Too long for an argument: it is read from a file.
        shell = {"command": f": {'€' * 60_000}\ntest $(id -un) = nobody"}
        file = open_folder / "long.jsonl"
        file.write_text(json.dumps({"description": "long", "shell": shell}) + "\n")
        done = system.run("submit", "-f", str(file), "--wait")
        assert done.returncode == 0, done


def test_a_task_of_another_user_ends_with_all_that_it_started(
    open_folder: Path,
) -> None:
    with agentcom_up(open_folder, USER) as (system, _):
        leaves = "setsid sleep 4711 & (trap '' TERM; sleep 4712) & wait"
        done = system.run(
            "submit", "--shell", leaves, "--timeout", "1", "--wait", "--retries", "0"
        )
        assert done.returncode == 3, done
        living = [each.info["cmdline"] for each in psutil.process_iter(["cmdline"])]
        assert ["sleep", "4711"] not in living
        assert ["sleep", "4712"] not in living


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("root", "reads every key"),
        ("nosuch-user", "there is no such user"),
    ],
)
def test_a_user_that_protects_nothing_is_refused(
    open_folder: Path, name: str, said: str
) -> None:
    with pytest.raises(TaskUserError, match=said):
        task_user(name)


def test_a_key_that_tasks_could_read_is_named(open_folder: Path) -> None:
    data, key = open_folder / "data", open_folder / "host-h1.nk"
    data.mkdir()
    key.touch(mode=0o644)
    key.chmod(0o644)
    user = task_user("nobody")
    with pytest.raises(TaskUserError, match=re.escape(str(key))):
        make_room(user, data, data / "work" / "h1", [key])
    key.chmod(0o600)
    make_room(user, data, data / "work" / "h1", [key])


def test_a_folder_out_of_the_user_s_reach_is_refused(open_folder: Path) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    data = closed / "data"
    with pytest.raises(TaskUserError, match="not within reach"):
        make_room(task_user("nobody"), data, data / "work" / "h1", [])


def test_a_file_in_a_task_s_folder_is_made_anew_and_the_user_s(
    open_folder: Path,
) -> None:
    user, theirs = task_user("nobody"), open_folder / "theirs"
    theirs.write_text("kept")
    (open_folder / "answer.md").symlink_to(theirs)
    write_answer(open_folder, "hello", user)
    assert theirs.read_text() == "kept"
    made = (open_folder / "answer.md").lstat()
    assert (made.st_uid, stat.S_IMODE(made.st_mode)) == (user.uid, 0o600)
