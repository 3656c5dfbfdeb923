"""Lets people page through the log with the nats CLI, and nothing more.

`nats stream view` makes itself a consumer. Whoever may make any consumer in the log's
account may have the log delivered to any subject there: into a mailbox, over the lease.
Permissions see subjects, not bodies. So readers' requests to make, look at and delete a
consumer arrive here (nats.conf maps them to `agentcom.read.>`), and only the harmless
kind is passed on: pulled, nobody's to keep, in memory, gone a minute after its last use.

Pulling itself needs no gate: a consumer's messages go to whoever knows its name, and
only names made here are known outside.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from events import subjects
from events.errors import AgentComError

if TYPE_CHECKING:
    from events.bus import Bus, Listening, Message

GATE: Final = f"{subjects.READERS}.>"

_UNUSED_FOR_NS: Final = 60 * 1_000_000_000
# Both the CLI's page consumers and what we call those who do not name theirs.
# `nats stream view` asks for a durable that it deletes itself.
_PAGERS: Final = "jsm_stream_pager"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)
# Where to start and what to see; all else of a request is set here.
_PASSED_ON: Final = (
    "deliver_policy",
    "opt_start_seq",
    "opt_start_time",
    "filter_subject",
    "filter_subjects",
    "replay_policy",
    "headers_only",
    "description",
    "max_batch",
)
_REFUSED: Final = 403
ANSWER_S: Final = 5.0
"""How long the log may take to answer."""


class ReadersGate:
    """Answers the readers' consumer requests on one bus.

    The bus is the scheduler's or the projections'; any number of gates may run, they
    share the work. A consumer made by one may be deleted through another: what tells
    readers' consumers apart is their metadata, which the server keeps.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._listening: Listening | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Start answering."""
        self._listening = await self._bus.listen(
            GATE, self._receive, queue="agentcom-readers"
        )

    async def close(self) -> None:
        """Stop answering; consumers that were made end by themselves."""
        if self._listening is not None:
            await self._listening.stop()
            self._listening = None
        for task in list(self._answering):
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    def _receive(self, request: Message) -> None:
        if not request.wants_answer:
            return
        task = asyncio.get_running_loop().create_task(self._answer(request))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, request: Message) -> None:
        verb, _, rest = request.subject.removeprefix(f"{subjects.READERS}.").partition(
            "."
        )
        try:
            answer = await self._handle(verb, rest.partition(".")[0], request.data)
        except AgentComError:
            answer = _refusal(503, "the log does not answer")
        request.respond(answer)

    async def _handle(self, verb: str, name: str, body: bytes) -> bytes:
        # Clients may leave the name of a new one to the server.
        if (name or verb != "create") and _NAME.fullmatch(name) is None:
            return _refusal(
                _REFUSED, "a consumer's name is 8 to 64 letters, digits, '_' or '-'"
            )
        match verb:
            case "create":
                passed_on = harmless(name, body)
                if isinstance(passed_on, str):
                    return _refusal(_REFUSED, passed_on)
                call = f"CREATE.{subjects.EVENTS}"
                return await self._call(f"{call}.{name}" if name else call, passed_on)
            case "info":
                return await self._call(f"INFO.{subjects.EVENTS}.{name}", b"")
            case "delete":
                info = await self._call(f"INFO.{subjects.EVENTS}.{name}", b"")
                if not _is_readers(info):
                    return _refusal(_REFUSED, "not a reader's consumer")
                return await self._call(f"DELETE.{subjects.EVENTS}.{name}", b"")
            case _:
                return _refusal(_REFUSED, f"readers may not {verb}")

    async def _call(self, api: str, body: bytes) -> bytes:
        api = f"$JS.API.CONSUMER.{api}"
        return await self._bus.request(api, body, timeout=ANSWER_S)


def harmless(name: str, body: bytes) -> bytes | str:
    """Turn a reader's create request into the one that is passed on, or say why not.

    A push consumer is refused rather than changed: its owner would wait in vain.
    """
    try:
        request = msgspec.json.decode(body, type=dict[str, Any])
        config = msgspec.convert(request.get("config", {}), dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError):
        return "expected {stream_name, config}"
    if config.get("deliver_subject"):
        return "readers pull: a consumer with a deliver_subject is refused"
    if config.get("durable_name") and not name.startswith(_PAGERS):
        return (
            "readers' consumers end a minute after their last use: leave durable_name "
            "out, and remember how far you came (opt_start_seq)"
        )
    passed = {key: config[key] for key in _PASSED_ON if key in config}
    return msgspec.json.encode(
        {
            "stream_name": subjects.EVENTS,
            # Never change one that exists: its name may be another's.
            "action": "create",
            "config": {
                **passed,
                **({"name": name} if name else {}),
                "ack_policy": "none",
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": _UNUSED_FOR_NS,
                "metadata": {"agentcom": "reader"},
            },
        }
    )


def _is_readers(info: bytes) -> bool:
    answer = msgspec.json.decode(info, type=dict[str, Any])
    metadata = answer.get("config", {}).get("metadata", {})
    return bool(metadata.get("agentcom") == "reader")


def _refusal(code: int, why: str) -> bytes:
    """Encode a refusal the way JetStream does, so that clients show it."""
    return msgspec.json.encode(
        {
            "type": "io.nats.jetstream.api.v1.consumer_create_response",
            "error": {"code": code, "err_code": 0, "description": why},
        }
    )
