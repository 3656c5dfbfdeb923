"""The real command as a subprocess, and everything that `agentcom up` starts.

Nothing here waits for time to pass: lines are waited for, and files, and ends.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60
"""After this long without what was waited for, a test fails instead of hanging."""

NOTHING_ELSE = """discover = false
drain_timeout_s = 5.0
[claude]
enabled = false
"""
"""A sidecar.toml for a host with nothing but its shell."""


def command() -> list[str]:
    """The installed `agentcom`, or the same from the source tree."""
    installed = Path(sys.executable).with_name("agentcom")
    return (
        [str(installed)]
        if installed.exists()
        else [sys.executable, "-P", "-m", "agentcom"]
    )


def environment(home: Path, data: Path | None = None) -> dict[str, str]:
    """A stranger's environment: no configuration of AgentCom's but the data folder."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AGENTCOM_", "ANTHROPIC_", "CLAUDE", "OLLAMA_"))
    }
    kept |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    if data is not None:
        kept["AGENTCOM_DATA"] = str(data)
    return kept


class Ended(subprocess.CompletedProcess[str]):
    """A command that has ended."""

    @property
    def json(self) -> Any:
        """Its standard output, read as JSON."""
        return json.loads(self.stdout)


class Running:
    """A command that runs; its lines can be waited for."""

    def __init__(
        self,
        arguments: list[str],
        env: dict[str, str],
        cwd: Path | None = None,
        program: list[str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [*(program or command()), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
            text=True,
            # So that a signal is for the command alone, not for the test.
            start_new_session=True,
        )
        self._lines: dict[str, queue.Queue[str | None]] = {}
        self.said = {"stdout": "", "stderr": ""}
        self._threads = [
            threading.Thread(target=self._read, args=(name,), daemon=True)
            for name in ("stdout", "stderr")
        ]
        for name in self.said:
            self._lines[name] = queue.Queue()
        for thread in self._threads:
            thread.start()

    def _read(self, name: str) -> None:
        stream = getattr(self.process, name)
        for line in stream:
            self.said[name] += line
            self._lines[name].put(line.rstrip("\n"))
        self._lines[name].put(None)

    def line(self, name: str = "stdout") -> str:
        """The next line; fails the test when there is none."""
        line = self._lines[name].get(timeout=PATIENCE_S)
        assert line is not None, f"no more lines: {self.said}"
        return line

    def until(self, text: str, name: str = "stdout") -> str:
        """The next line that holds `text`."""
        while text not in (line := self.line(name)):
            pass
        return line

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for the end; return the exit code."""
        code = self.process.wait(PATIENCE_S)
        for thread in self._threads:
            thread.join(PATIENCE_S)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.end()


class System:
    """A running AgentCom, and commands that are meant for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.env = environment(folder, self.data)

    def run(
        self,
        *arguments: str,
        stdin: str | None = None,
        patience_s: float = PATIENCE_S,
        **env: str,
    ) -> Ended:
        """Run a command to its end."""
        done = subprocess.run(
            [*command(), *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            env={**self.env, **env},
            cwd=self.folder,
            timeout=patience_s,
            check=False,
        )
        return Ended(done.args, done.returncode, done.stdout, done.stderr)

    @contextmanager
    def running(self, *arguments: str) -> Iterator[Running]:
        """Run a command beside the test."""
        running = Running(list(arguments), self.env, self.folder)
        try:
            yield running
        finally:
            running.close()

    def json(self, *arguments: str) -> Any:
        """Run a command that succeeds, with `--json`; return what it printed."""
        ended = self.run(*arguments, "--json")
        assert ended.returncode == 0, ended.stderr
        return ended.json


@contextmanager
def agentcom_up(
    folder: Path, config: str = NOTHING_ELSE, *options: str, **env: str
) -> Iterator[tuple[System, Running]]:
    """`agentcom up` on free ports, until the block ends; then no process is left.

    `env` is what it is started with beside the usual.
    """
    system = System(folder)
    system.env |= env
    system.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    (system.data / "sidecar.toml").write_text(config)
    arguments = ["up", "--port", "0", "--nats-port", "0", "--name", "h1"]
    arguments += options
    with system.running(*arguments) as up:
        up.until("dashboard")
        tree = family(up.process.pid)
        try:
            yield system, up
        finally:
            tree += family(up.process.pid)
            up.signal(signal.SIGINT)
            up.end()
            assert survivors(tree) == []


def family(pid: int) -> list[psutil.Process]:
    """Every descendant of a process."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def survivors(processes: list[psutil.Process]) -> list[str]:
    """Those that are still alive, though their end was due."""
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    return [" ".join(each.cmdline()) for each in alive]
