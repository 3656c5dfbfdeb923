"""The tasks of taskiq: what `taskiq worker bench.peer_taskiq:broker` works on.

taskiq-nats' JetStream broker that pulls, and a result of each task in a key-value bucket.
The backend that taskiq-nats brings (`object`) writes each result as an object, its chunk and
its description apart; this one writes one message.
"""

from __future__ import annotations

import os
import time
from typing import Any

import nats
from taskiq import AsyncResultBackend, TaskiqResult
from taskiq.serializers import JSONSerializer
from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker

from bench.peer_settings import BATCH, RESULTS, STREAM, SUBJECT


class KeyValueResults(AsyncResultBackend[Any]):
    """Keeps a result under the task's id in a JetStream key-value bucket."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._serializer = JSONSerializer()

    async def startup(self) -> None:
        self._client = await nats.connect(self._url)
        self._bucket = await self._client.jetstream().key_value(RESULTS)

    async def shutdown(self) -> None:
        await self._client.close()

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        body = self._serializer.dumpb(result.model_dump(mode="json"))
        await self._bucket.put(task_id, body)

    async def is_result_ready(self, task_id: str) -> bool:
        return bool(await self._bucket.get(task_id))

    async def get_result(
        self, task_id: str, with_logs: bool = False
    ) -> TaskiqResult[Any]:
        entry = await self._bucket.get(task_id)
        return TaskiqResult.model_validate(self._serializer.loadb(entry.value or b""))


URL = os.environ.get("BENCH_PEERS_URL", "")
broker = PullBasedJetStreamBroker(
    URL,
    subject=SUBJECT,
    stream_name=STREAM,
    pull_consume_batch=BATCH,
    pull_consume_timeout=5.0,
).with_result_backend(
    NATSObjectStoreResultBackend(URL, bucket_name=RESULTS)
    if os.environ.get("BENCH_PEERS_RESULTS") == "object"
    else KeyValueResults(URL)
)


@broker.task
async def noop() -> dict[str, Any]:
    """Do nothing, and say when."""
    return {"began": time.time(), "output": ""}


@broker.task
async def shell(command: str) -> dict[str, Any]:
    """Run a command as the standard library does."""
    import asyncio

    began = time.time()
    process = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return {
        "began": began,
        "output": out.decode(),
        "stderr": err.decode(),
        "exit_code": process.returncode,
    }
