"""A process that projects a made-up history and waits to be killed.

    python -m tests.projecting STORE SEED TASKS DELAY

It folds in small groups with a breath between them, prints the position after each
group, and `done` at the end, when it waits for ever.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from projections.store import Store
from tests.histories import plausible

GROUP = 37


def main(path: str, seed: str, tasks: str, delay: str) -> None:
    store = Store(Path(path))
    world = store.load()
    history = plausible(int(seed), tasks=int(tasks))
    origin = f"1:{history[0].event.id}"
    for recorded in history[world.position :]:
        world.fold(recorded)
        if recorded.seq % GROUP == 0:
            store.save(world, origin)
            print(world.position, flush=True)
            time.sleep(float(delay))
    store.save(world, origin)
    print("done", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
