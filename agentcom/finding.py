"""Where the instance is, as the command `agentcom` finds it.

`AGENTCOM_NATS` and `AGENTCOM_CREDS` name a broker and a role's key; else the data folder
has both: `AGENTCOM_DATA`, or the user's own.
"""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import DecodeError, Struct
from msgspec import json as msgspec_json

from agentcom.errors import Unreachable


class Broker(Struct, frozen=True):
    """A broker's servers, and the key of a role; the key's file is called after it."""

    servers: list[str]
    seed: str
    role: str

    @property
    def inbox(self) -> str:
        """Where answers to this role arrive; the broker allows no other place."""
        return f"_INBOX_{self.role.removeprefix('host-')}"


class _Address(Struct):
    nats: str


def broker(
    nats: str | None = None,
    creds: str | Path | None = None,
    data: str | Path | None = None,
) -> Broker:
    """Find the broker and the key; raises Unreachable saying what is missing."""
    nats = nats or os.environ.get("AGENTCOM_NATS")
    named = creds or os.environ.get("AGENTCOM_CREDS")
    folder = _folder(data)
    key = Path(named).expanduser() if named else folder / "keys" / "operator.nk"
    try:
        lines = [line.strip() for line in key.read_text().splitlines()]
    except OSError as error:
        raise Unreachable(
            f"there is no key at {key}: start an instance with `agentcom up`, or say "
            "where one is with url= and token=, or with nats= and creds="
        ) from error
    words = [line for line in lines if line and not line.startswith("#")]
    seed = next((line for line in words if "://" not in line), "")
    servers = nats or ",".join(line for line in words if "://" in line)
    servers = servers or _recorded(folder)
    listed = [each.strip() for each in servers.split(",") if each.strip()]
    return Broker(listed, seed, key.stem)


def _folder(data: str | Path | None) -> Path:
    chosen = data or os.environ.get("AGENTCOM_DATA")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_data_path("agentcom")


def _recorded(folder: Path) -> str:
    try:
        raw = (folder / "address.json").read_bytes()
        return msgspec_json.decode(raw, type=_Address).nats
    except (OSError, DecodeError) as error:
        raise Unreachable(
            f"{folder} says nothing of a broker: start one with `agentcom up`, or name "
            "one with nats="
        ) from error
