"""A whole AgentCom to look at: `agentcom up` on simulated backends, in a folder of its own.

    with House(folder) as house:
        house.address       the dashboard's address, with the token in it
        house.submit(...)   the answer of POST /api/v1/tasks

The simulated backends live in a thread of this process with a loop of its own, so that a
test may steer them: `house.call(lambda: house.ollama.fail_next("busy"))`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from cli.local.fault_proxy import FaultProxy
from events.lifecycle import FINAL
from sidecar.simulated.claude import Scenario, SimulatedClaude
from sidecar.simulated.ollama import SimulatedOllama

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")
HOST = "h1"
READY_S = 120


def chromium() -> str:
    """Return where the system's Chromium is; raise FileNotFoundError where it is not."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found is not None:
            return found
    raise FileNotFoundError("no Chromium here: `make chromium` installs it")


class House:
    """Everything, up, until the block ends."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        tokens_per_s: float = 60,
        shell_slots: int = 2,
    ) -> None:
        self.folder = folder
        self.data = folder / "instance"
        self._options = options
        self.lines: list[str] = []
        self._tokens_per_s = tokens_per_s
        self._shell_slots = shell_slots
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._up: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._found = threading.Event()
        self.address = ""

    def __enter__(self) -> Self:
        self.data.mkdir(parents=True, mode=0o700)
        self._thread.start()
        self.claude = SimulatedClaude(self.folder / "claude")
        self.claude.always(Scenario(delay_s=1 / self._tokens_per_s))
        self.ollama = SimulatedOllama(
            tokens_per_s=self._tokens_per_s, first_token_s=0.05
        )
        self.call(self.ollama.start())
        self.line = FaultProxy(self.ollama.url)
        self.call(self.line.restore())
        self.config = self.data / "sidecar.toml"
        self.config.write_text(
            "probe_every_s = 0.5\ndrain_timeout_s = 1.0\n"
            f"[slots]\nshell = {self._shell_slots}\n"
            '[[endpoint]]\nname = "ollama"\nkind = "ollama"\n'
            f'url = "{self.line.url}"\nslots = 2\n'
            f'[claude]\nprogram = "{self.claude.program}"\n'
            f'[repos]\nshop = "{self._shop()}"\n'
        )
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "NO_COLOR": "1",
        }
        self._up = subprocess.Popen(
            [
                *(sys.executable, "-m", "agentcom", "up", "--data", str(self.data)),
                *("--port", "0", "--nats-port", "0", "--name", HOST),
                *("--config", str(self.config), *self._options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=self.folder,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._found.wait(READY_S) or not self.address:
            self.__exit__()
            raise AssertionError("agentcom up did not come up:\n" + "".join(self.lines))
        return self

    def __exit__(self, *_: object) -> None:
        if self._up is not None:
            self._up.send_signal(signal.SIGINT)
            try:
                self._up.wait(30)
            except subprocess.TimeoutExpired:
                self._up.kill()
                self._up.wait()
            assert self._reader is not None
            self._reader.join()
            assert self._up.stdout is not None
            self._up.stdout.close()
        self.call(self.line.cut())
        self.call(self.ollama.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _shop(self) -> Path:
        """Make a git repository with one file in it."""
        shop = self.folder / "shop"
        shop.mkdir()
        (shop / "file").write_text("one\ntwo\n")
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "one")):
            subprocess.run(["git", *who, *words], cwd=shop, check=True)
        return shop

    def _read(self) -> None:
        assert self._up is not None
        assert self._up.stdout is not None
        for line in self._up.stdout:
            self.lines.append(line)
            found = re.search(r"http://127\.0\.0\.1:\d+(/\w+)?/#token=\S+", line)
            if found:
                self.address = found[0]
                self._found.set()
        self._found.set()

    def call(self, work: Coroutine[Any, Any, T] | Callable[[], T]) -> T:
        """Run something on the backends' loop and wait for it."""
        if asyncio.iscoroutine(work):
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(60)

    # -- over HTTP ---------------------------------------------------------------------

    @property
    def base(self) -> str:
        """The address without its token."""
        return self.address.partition("/#")[0]

    @property
    def token(self) -> str:
        """The operator's token."""
        return self.address.partition("token=")[2]

    def ask(self, path: str, body: Any = None, method: str = "") -> Any:
        """Ask the HTTP interface as a program; a refusal is returned like any answer."""
        request = urllib.request.Request(
            f"{self.base}/api/v1{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method or ("GET" if body is None else "POST"),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as refused:
            with refused:
                return json.load(refused)

    def submit(self, description: str, **task: Any) -> str:
        """Submit a task; return its id."""
        answer = self.ask("/tasks", {"description": description, **task})
        assert answer["ok"], answer
        return answer["task_id"]

    def ended(self, *tasks: str) -> None:
        """Wait until all of them are over."""
        for task in tasks:
            for _ in range(6):
                state = self.ask(f"/tasks/{task}?wait=20")["task"]["state"]
                if state in FINAL:
                    break
            assert state in FINAL, f"{task} is {state}"

    def broker_pid(self) -> int:
        """The process id of the broker."""
        return int((self.data / "nats-server.pid").read_text())
