"""The worker of faststream: `agentcom -m bench.peer_faststream URL`.

As its documentation has it: a pull subscriber of a JetStream stream, whose batch is worked
on at once, each task acknowledged after its handler. That is the fastest of its four ways:
`max_workers` and a push consumer take more CPU each. The result goes into a key-value bucket
under the task's id before the acknowledgement.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from faststream.nats import JStream, NatsBroker, PullSub
from nats.js.api import RetentionPolicy

from bench.peer_settings import BATCH, RESULTS, STREAM, SUBJECT


def tasks_of(url: str) -> tuple[NatsBroker, JStream]:
    """Return a broker that is not connected yet, and the stream of tasks."""
    stream = JStream(STREAM, subjects=[SUBJECT], retention=RetentionPolicy.WORK_QUEUE)
    return NatsBroker(url, logger=None), stream


async def work(url: str) -> None:
    """Work until the process is ended."""
    broker, stream = tasks_of(url)

    @broker.subscriber(
        SUBJECT,
        stream=stream,
        durable="worker",
        pull_sub=PullSub(batch_size=BATCH, timeout=5.0),
    )
    async def noop(task: dict[str, str]) -> None:
        began = time.time()
        await results.put(
            task["id"], json.dumps({"began": began, "output": ""}).encode()
        )

    # What the decorator reads by name.
    await broker.connect()
    results = await broker.key_value(bucket=RESULTS)
    await broker.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(work(sys.argv[1]))
