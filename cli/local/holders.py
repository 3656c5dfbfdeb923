"""Who holds what one wants to have here: a port, or a folder's broker. For sentences alone.

Roles are not readable by their own user (`sidecar.shield`), so that the system does not
say which of them listens where; their command lines do.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from cli.local.broker import running_pid
from cli.local.instance import EVERYWHERE, LOOPBACK, Instance
from cli.render.terminal import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

UNKNOWN: Final = "another program"


def require_free(port: int, option: str, address: str = LOOPBACK) -> None:
    """Raise Problem where nobody can listen on `port` of `address`, or somebody does."""
    try:
        holder = taken_by(port, address)
    except OSError as error:
        raise Problem(
            f"nobody can listen on {address}:{port} here: {error.strerror}"
        ) from error
    if holder:
        raise Problem(f"port {port} is taken by {holder}: choose one with {option}")


def taken_by(port: int, address: str = LOOPBACK) -> str:
    """Name who has a port of an address of this machine, "" where it is free.

    Raises OSError where nobody can listen on that address here.
    """
    host = LOOPBACK if address in EVERYWHERE else address.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return who_listens(port)
    return ""


def who_listens(port: int) -> str:
    """Name what listens on a TCP port of this machine, `UNKNOWN` where nobody can tell."""
    pids = _listening(port)
    named = ""
    for process in psutil.process_iter(["cmdline", "name"]):
        command = process.info["cmdline"] or []
        ours = part_of_an_instance(command, port)
        if ours is not None and (process.pid in pids or not pids):
            what, folder = ours
            return (
                f"the {what} of the AgentCom on {folder} (process {process.pid}; "
                f"`--data {folder}` names that one)"
            )
        if process.pid in pids:
            named = f"{process.info['name']} (process {process.pid})"
    return named or UNKNOWN


def part_of_an_instance(command: Sequence[str], port: int) -> tuple[str, Path] | None:
    """Read what part of which data folder a command line runs on a port, if of any.

    A broker says its port in its folder's configuration, web in the line itself.
    """
    program = os.path.basename(command[0]) if command else ""
    folder = Path(_value_of(command, "-c") or "").parent
    if program == "nats-server" and (folder / "local.conf").is_file():
        listen = Instance(folder).listen or ""
        return ("broker", folder) if listen.endswith(f":{port}") else None
    data = _value_of(command, "--data")
    names = [os.path.basename(word) for word in command]
    if "agentcom" in names and "web" in names and data is not None:
        is_its = _value_of(command, "--port") == str(port)
        return ("dashboard", Path(data)) if is_its else None
    return None


def who_runs(instance: Instance) -> str:
    """Name what runs the broker of a folder, "" where nothing does."""
    broker = running_pid(instance)
    if broker is None:
        return ""
    up = _up_on(instance)
    if up:
        return f"`agentcom up` (process {up})"
    return f"its broker (process {broker})"


def _up_on(instance: Instance) -> str:
    """Return the number of the process that is `agentcom up` on a folder, "" if none is."""
    import fcntl  # not on Windows

    who = ""
    try:
        with (instance.data / "up.lock").open("rb") as lock:
            who = lock.read(32).decode(errors="replace").strip()
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return who
    except OSError:
        return ""
    return ""


def _listening(port: int) -> set[int]:
    try:
        sockets = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return set()
    return {
        one.pid
        for one in sockets
        if one.pid
        and one.status == psutil.CONN_LISTEN
        and getattr(one.laddr, "port", 0) == port
    }


def _value_of(command: Sequence[str], option: str) -> str | None:
    for word, value in zip(command, [*command[1:], ""], strict=False):
        if word == option:
            return value
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None
