"""How far each target is served, as it is written down: a small file for each."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from events.codec import encode
from events.position import NOWHERE, Position

if TYPE_CHECKING:
    from pathlib import Path

FOLDER: Final = "notify"
"""Where they are, in the data folder."""


class TargetServed(Struct, kw_only=True):
    """How far a target is served, and how that goes; kept as a file of its own.

    `waiting` counts what may have to be told still. `failing_since` is "" while all is well;
    `last_error` is the last failure's reason.
    """

    target: str
    position: Position = NOWHERE
    delivered: int = 0
    given_up: int = 0
    waiting: int = 0
    tries: int = 0
    failing_since: str = ""
    last_error: str = ""
    last_at: str = ""
    last_id: str = ""


def read_served(folder: Path, target: str) -> TargetServed | None:
    """Read what is written down about a target; None where there is nothing."""
    try:
        raw = (folder / f"{target}.json").read_bytes()
        return msgspec.json.decode(raw, type=TargetServed)
    except (OSError, msgspec.DecodeError):
        return None


def write_served(folder: Path, served: TargetServed) -> None:
    """Write it down, whole or not at all."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{served.target}.json"
    beside = path.with_suffix(".new")
    with open(beside, "wb") as file:
        file.write(encode(served))
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def all_served(folder: Path) -> list[TargetServed]:
    """Read what is written down about every target, in the order of their names."""
    if not folder.is_dir():
        return []
    found = (read_served(folder, path.stem) for path in sorted(folder.glob("*.json")))
    return [each for each in found if each is not None]
