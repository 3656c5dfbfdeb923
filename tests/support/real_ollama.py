"""A real Ollama for tests, with a real model of 270 million parameters.

The program is the one that `make ollama` builds with Go, or one named by OLLAMA or found on
PATH; the model's file is that of `tests/support/llama_cpp.py`. Nothing is downloaded: a model
is made of a file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.llama_cpp import model_file
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "gemma:latest"
_PATIENT_S = 300.0


def program() -> str | None:
    """The path of an `ollama`, None where there is none."""
    named = os.environ.get("OLLAMA")
    if named:
        return named
    built = Path(sys.executable).parent / "ollama-build" / "ollama"
    return str(built) if built.exists() else shutil.which("ollama")


class RealOllama:
    """One server on a port of its own; it may be stopped and started again there."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._program = program
        self._folder = folder
        self._env = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(folder / "models"),
            "OLLAMA_NUM_PARALLEL": "1",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to serve; `ready` waits for it."""
        with (self._folder / "ollama.log").open("ab") as said:
            self._process = subprocess.Popen(
                ["nice", self._program, "serve"],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def ready(self) -> None:
        """Return when it answers."""
        ends = time.monotonic() + _PATIENT_S
        while True:
            assert self._process is not None
            assert self._process.poll() is None, "ollama has ended"
            with contextlib.suppress(httpx.TransportError):
                httpx.get(self.url + "/api/version")
                return
            assert time.monotonic() < ends, "ollama does not answer"
            time.sleep(0.05)

    def create(self, name: str, model: str, *lines: str) -> None:
        """Make a model of a file, with a Modelfile's lines."""
        modelfile = self._folder / "Modelfile"
        modelfile.write_text("\n".join([f"FROM {model}", *lines]) + "\n")
        subprocess.run(
            [self._program, "create", name, "-f", str(modelfile)],
            env=self._env,
            check=True,
            capture_output=True,
            timeout=_PATIENT_S,
        )

    def stop(self) -> None:
        """Kill it, and the runner that it has started."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


@pytest.fixture(scope="session")
def real_ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealOllama]:
    """A real Ollama with one model; skips loudly where none can be had."""
    found, model = program(), model_file()
    if found is None or model is None:
        pytest.skip(
            "NO REAL OLLAMA IS HERE (`make ollama` builds one where Go and gcc are, OLLAMA "
            "names another): nothing checks the simulated one against it"
        )
    server = RealOllama(found, tmp_path_factory.mktemp("ollama"))
    server.start()
    try:
        server.ready()
        server.create("gemma", model)
        yield server
    finally:
        server.stop()
