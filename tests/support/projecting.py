"""A process that projects a log from a file as fast as it can and waits to be killed.

    python -m tests.support.projecting STORE LOG GROUP [behind]

LOG holds `subject json` lines, see `written`. It folds from where the store stands,
prints the position after each group, and `done` at the end, when it waits for ever.
With `behind` it saves as one who has much to catch up with.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from events.catalogue import Recorded
from events.codec import decode_event, encode
from projections.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable


def written(path: Path, history: Iterable[Recorded]) -> Path:
    """Write a history to a file."""
    lines = [f"{r.subject} {encode(r.event).decode()}\n" for r in history]
    path.write_text("".join(lines))
    return path


def read(path: Path) -> list[Recorded]:
    """Read a history from a file."""
    history = []
    with path.open() as lines:
        for seq, line in enumerate(lines, 1):
            subject, _, raw = line.partition(" ")
            history.append(Recorded(seq, subject, decode_event(raw.encode())))
    return history


def main(store_path: str, log_path: str, group: str, pace: str = "") -> None:
    store = Store(Path(store_path))
    world = store.load()
    store.hurry(behind=pace == "behind")
    for recorded in read(Path(log_path))[world.position :]:
        world.fold(recorded)
        if recorded.seq % int(group) == 0:
            store.save(world)
            print(world.position, flush=True)
    store.save(world)
    print("done", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
