"""What a role keeps from the other processes of its user, tasks first of all.

`shield` makes this process unreadable: on Linux nobody of the same user opens its memory,
its environment or its files under /proc, or attaches to it, and no core is ever written.
What it creates is its owner's alone. Variables that hold secrets leave `os.environ`, so
that no child inherits them; `variables` still has them.

A process is readable again after each exec, its children's programs are not shielded by
it, and a role is not for the moment before it calls this. So `agentcom up` gives its
sidecar the secrets not by environment but over a socket, once that has said that it is
shielded.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from typing import TYPE_CHECKING, Final

import msgspec

from events.secretive import is_secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SECRETS_FD: Final = "AGENTCOM_SECRETS_FD"
"""The variable that names the inherited socket over which the secrets come."""

_PR_SET_DUMPABLE: Final = 4
_RECEIVE_S: Final = 30.0

_held: Final[dict[str, str]] = {}
_given_umask: int | None = None


def shield(names: Iterable[str] = ()) -> None:
    """Do all of it for this process; `names` as in `take_out`."""
    import resource  # not on Windows

    global _given_umask
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    umask = os.umask(0o077)
    if _given_umask is None:
        _given_umask = umask
    number = os.environ.pop(SECRETS_FD, None)
    if number is not None and number.isdecimal():
        _held.update(_received(int(number)))
    take_out(names)


def take_out(names: Iterable[str] = ()) -> None:
    """Move what holds a secret, and the variables `names`, from `os.environ` to memory."""
    named = set(names)
    for name, value in list(os.environ.items()):
        if name in named or is_secret(name, value):
            _held[name] = os.environ.pop(name)


def variables() -> dict[str, str]:
    """Return what this process was started with, secrets included."""
    return {**_held, **os.environ}


def held() -> Mapping[str, str]:
    """Return the variables that were taken out of `os.environ`."""
    return dict(_held)


def child_umask() -> int:
    """Return the mask for what is not ours: as it was before `shield`; -1: as it is."""
    return -1 if _given_umask is None else _given_umask


def encoded(secrets: Mapping[str, str]) -> bytes:
    """Return the secrets as they go over the socket, to its end."""
    return msgspec.json.encode(dict(secrets))


def _received(number: int) -> dict[str, str]:
    """Ask for the secrets, now that nobody else can read them here."""
    with socket.socket(fileno=number) as pipe:
        pipe.settimeout(_RECEIVE_S)
        pipe.sendall(b"\n")
        parts = []
        while part := pipe.recv(65_536):
            parts.append(part)
    return msgspec.json.decode(b"".join(parts), type=dict[str, str])
