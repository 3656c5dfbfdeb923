"""A quick look into a store's file, beside the process that writes it.

For shell completion: nothing is waited for, and what cannot be read is nothing.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

_LOCKED_S: Final = 0.1


class Glimpse(NamedTuple):
    """A task's id, where it stands, and the beginning of what it is."""

    id: str
    state: str
    description: str


class _EndpointsModels(msgspec.Struct):
    models: list[str] = []


class _HostsModels(msgspec.Struct):
    endpoints: dict[str, _EndpointsModels] = {}


def tasks(
    path: Path, beginning: str, states: tuple[str, ...], most: int
) -> list[Glimpse]:
    """Return the newest tasks whose ids begin so, of any state where none is said."""
    among = f"and state in ({','.join('?' * len(states))})" if states else ""
    query = (
        "select id, state, substr(description, 1, 60) from task "
        f"where id >= ? and id < ? {among} order by seq desc limit ?"
    )
    upper = beginning.upper()
    rows = _rows(path, query, (upper, upper + "\x7f", *states, most))
    return [Glimpse(*row) for row in rows]


def hosts(path: Path) -> list[str]:
    """Return the names of all hosts."""
    rows = _rows(path, "select key from document where projection = 'host'", ())
    return sorted(key for (key,) in rows)


def models(path: Path) -> list[str]:
    """Return the models that hosts have."""
    rows = _rows(path, "select body from document where projection = 'host'", ())
    names: set[str] = set()
    for (body,) in rows:
        try:
            host = msgspec.msgpack.decode(body, type=_HostsModels)
        except msgspec.MsgspecError:
            continue
        names.update(*(each.models for each in host.endpoints.values()))
    return sorted(names)


def _rows(path: Path, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    if not path.is_file():
        return []
    try:
        address = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=_LOCKED_S)) as store:
            return store.execute(query, values).fetchall()
    except sqlite3.Error:
        return []
