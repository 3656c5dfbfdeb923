"""A full disk is seen in the broker's log, told once, and over when there is room."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from cli.local import supervisor

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_full_disk_is_told_once_and_is_over_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "nats-server.log"
    log.write_text("[ERR] an old one: no space left on device\n")
    disk = supervisor.FullDisk(SimpleNamespace(log_file=log, data=tmp_path))
    assert disk.look() is None
    with log.open("a") as more:
        more.write("[ERR] failed to store a msg: no space left on device\n")
    said = disk.look()
    assert said is not None
    assert str(tmp_path) in said
    with log.open("a") as more:
        more.write("[ERR] failed to store a msg: no space left on device\n")
    assert disk.look() is None
    free = {"bytes": 0}
    monkeypatch.setattr(
        supervisor.shutil,
        "disk_usage",
        lambda _: SimpleNamespace(free=free["bytes"]),
    )
    assert not disk.over
    free["bytes"] = supervisor.ROOM_BYTES + 1
    assert disk.over
