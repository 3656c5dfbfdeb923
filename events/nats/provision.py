"""Makes the streams and the lease bucket, and refuses to work on a log that could shrink.

Run with the admin key, by `agentcom up` and by hand; repeating it changes nothing. It
speaks the JetStream JSON API itself: the client's config type drops fields it does not
know (`allow_atomic`, `allow_msg_ttl`), and an update without them would unset them.

Never on the events stream: per-message TTL, schedules, delete markers, roll-up. They
undo `deny_purge` silently, or let an event delete itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from nats.errors import Error as NatsError

from events import subjects
from events.attachments import KEPT_S
from events.errors import LogError, LogUnavailable
from events.log import MAX_EVENT_BYTES
from events.nats.api import STREAM_NOT_FOUND

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.client import Client

    Describe = Callable[["Retention"], dict[str, Any]]

ANSWER_S = 10.0
_NANOSECOND = 1_000_000_000
_NO_STORAGE = 10047
_OVERLAP = 10065
_HEADER_BYTES = 4096
_FILES_BYTES = 4 * 1024**3

# What a stored event rests on. The server lets nobody unset deny_delete and deny_purge,
# so a stream made without them can only be made anew.
_EVENTS_MUST: dict[str, Any] = {
    "deny_delete": True,
    "deny_purge": True,
    "allow_direct": True,
    "allow_rollup_hdrs": False,
    "allow_msg_ttl": False,
    "allow_msg_schedules": False,
    "retention": "limits",
    "storage": "file",
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
}


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept of what may be forgotten, and in how many copies.

    Output is dropped, oldest first, past either bound; events are never dropped. What is
    None is not asked for: it stays as it is, and a new stream gets `USUAL`.
    """

    output_max_age_s: int | None = None
    output_max_bytes: int | None = None
    replicas: int | None = None

    def settled(self, usual: Retention) -> Retention:
        """Return this with what is None taken from `usual`."""
        return Retention(
            **{
                name: getattr(usual, name) if value is None else value
                for name, value in msgspec.structs.asdict(self).items()
            }
        )


USUAL = Retention(
    output_max_age_s=30 * 24 * 3600, output_max_bytes=20 * 1024**3, replicas=1
)
"""What a new stream gets where nothing else is asked for."""


class ApiRefused(LogError):
    """The server refused a JetStream request: `code` is JetStream's error code."""

    code = "api_refused"

    def __init__(self, api: str, error_code: int, description: str) -> None:
        self.api = api
        self.error_code = error_code
        self.description = description
        hint = (
            " (lower the output stream's bytes, or raise max_file in nats.conf)"
            if error_code == _NO_STORAGE
            else ""
        )
        super().__init__(f"{api}: {description} [{error_code}]{hint}")


class UnsafeStream(LogError):
    """A stream stands under our name with settings under which events could be lost.

    `wrong` maps a setting to (what it must be, what it is).
    """

    code = "unsafe_stream"

    def __init__(self, stream: str, wrong: dict[str, tuple[Any, Any]]) -> None:
        self.wrong = wrong
        listed = ", ".join(
            f"{name} must be {msgspec.json.encode(must).decode()}, "
            f"is {msgspec.json.encode(value).decode()}"
            for name, (must, value) in sorted(wrong.items())
        )
        super().__init__(
            f"stream {stream} exists and could lose events: {listed}; "
            "AgentCom does not start on it. Copy what it holds and make it anew"
        )


def events_config(retention: Retention) -> dict[str, Any]:
    """Describe AGENTCOM_EVENTS: everything, in one order, for ever."""
    return {
        "name": subjects.EVENTS,
        "description": "AgentCom: every decision and every step",
        "subjects": [subjects.ALL_EVENTS],
        "retention": "limits",
        "storage": "file",
        "compression": "s2",
        "discard": "new",
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msgs_per_subject": -1,
        # Stated, because the server stops at 1,000 consumers where nothing is.
        "max_consumers": 100_000,
        # An event and its headers: nobody writes larger ones past our own check.
        "max_msg_size": MAX_EVENT_BYTES + _HEADER_BYTES,
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": True,
        "allow_atomic": True,
        "duplicate_window": 120 * _NANOSECOND,
        "num_replicas": retention.settled(USUAL).replicas,
        "republish": {"src": subjects.ALL_EVENTS, "dest": subjects.REPUBLISHED_EVENTS},
    }


def output_config(retention: Retention) -> dict[str, Any]:
    """Describe AGENTCOM_OUTPUT: text of runs, kept by age and size."""
    keep = retention.settled(USUAL)
    age = keep.output_max_age_s or 0
    return {
        "name": subjects.OUTPUT,
        "description": "AgentCom: what running tasks print and say",
        "subjects": [subjects.ALL_OUTPUT],
        "retention": "limits",
        "storage": "file",
        "compression": "s2",
        "discard": "old",
        "max_age": age * _NANOSECOND,
        "max_bytes": keep.output_max_bytes,
        "max_consumers": 100_000,
        "allow_direct": True,
        # No longer than anything is kept; an age of 0 is none.
        "duplicate_window": min(120, age or 120) * _NANOSECOND,
        "num_replicas": retention.settled(USUAL).replicas,
        "republish": {"src": subjects.ALL_OUTPUT, "dest": subjects.REPUBLISHED_OUTPUT},
    }


def lease_config(retention: Retention) -> dict[str, Any]:
    """Describe the KV bucket AGENTCOM_LEASE: who leads, for seconds.

    `allow_msg_ttl` without `subject_delete_marker_ttl`: a lease that ran out leaves
    nothing behind, so that "nobody's" is simply sequence 0.
    """
    return {
        "name": f"KV_{subjects.LEASES}",
        "description": "AgentCom: the leader's lease",
        "subjects": [subjects.ALL_LEASES],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "deny_delete": True,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "num_replicas": retention.settled(USUAL).replicas,
    }


def files_config(retention: Retention) -> dict[str, Any]:
    """Describe the object store AGENTCOM_FILES: attachments, kept by age and size."""
    return {
        "name": subjects.FILES_STREAM,
        "description": "AgentCom: files that go with tasks",
        "subjects": list(subjects.ALL_FILES),
        "retention": "limits",
        "storage": "file",
        "compression": "s2",
        "discard": "new",
        "max_age": KEPT_S * _NANOSECOND,
        "max_bytes": _FILES_BYTES,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "num_replicas": retention.settled(USUAL).replicas,
    }


async def provision(connection: Client, retention: Retention | None = None) -> None:
    """Make or update the streams and buckets; afterwards they are as described.

    `connection` is the admin's. Raises UnsafeStream where the events stream exists and
    could lose events, ApiRefused where the server says no, LogUnavailable where it says
    nothing.
    """
    keep = retention or Retention()
    described: tuple[tuple[Describe, dict[str, Any]], ...] = (
        (events_config, _EVENTS_MUST),
        (output_config, {}),
        (lease_config, {}),
        (files_config, {}),
    )
    infos = [await _info(connection, each(USUAL)["name"]) for each, _ in described]
    # A stream that is made later stands on as many servers as those that are there.
    copies = max(
        (info.get("num_replicas", 1) for info in infos if info is not None),
        default=USUAL.replicas,
    )
    usual = msgspec.structs.replace(USUAL, replicas=copies)
    for (describe, must), info in zip(described, infos, strict=True):
        here = USUAL if info is None else _retention_of(info)
        config = describe(keep.settled(usual if info is None else here))
        await _ensure(connection, config, info, must)


async def _info(connection: Client, name: str) -> dict[str, Any] | None:
    """Return a stream's configuration, None where there is no such stream."""
    try:
        info = await _call(connection, f"STREAM.INFO.{name}", None)
    except ApiRefused as refused:
        if refused.error_code != STREAM_NOT_FOUND:
            raise
        return None
    config: dict[str, Any] = info["config"]
    return config


def _retention_of(config: dict[str, Any]) -> Retention:
    """Return what a stream keeps now."""
    return Retention(
        output_max_age_s=config.get("max_age", 0) // _NANOSECOND,
        output_max_bytes=config.get("max_bytes", -1),
        replicas=config.get("num_replicas", 1),
    )


async def _ensure(
    connection: Client,
    config: dict[str, Any],
    current: dict[str, Any] | None,
    must: dict[str, Any],
) -> None:
    name = config["name"]
    if current is None:
        await _create(connection, config)
        return
    # The server leaves out what is false or 0.
    wrong = {
        setting: (value, current.get(setting, type(value)()))
        for setting, value in must.items()
        if current.get(setting, type(value)()) != value
    }
    if wrong:
        raise UnsafeStream(name, wrong)
    if any(current.get(setting) != value for setting, value in config.items()):
        await _call(connection, f"STREAM.UPDATE.{name}", {**current, **config})


async def _create(connection: Client, config: dict[str, Any]) -> None:
    """Make a stream; where its subjects are taken, say by which one."""
    name = config["name"]
    try:
        answer = await _call(connection, f"STREAM.CREATE.{name}", config)
        if answer.get("state", {}).get("messages"):
            # Its description was damaged, its messages were there. What the server has
            # not written anew (the checksum alone) it does with a change.
            for described in ({**config, "description": "AgentCom"}, config):
                await _call(connection, f"STREAM.UPDATE.{name}", described)
    except ApiRefused as refused:
        if refused.error_code != _OVERLAP:
            raise
        names: set[str] = set()
        for subject in config["subjects"]:
            request = {"subject": subject}
            answer = await _call(connection, "STREAM.NAMES", request)
            names.update(answer.get("streams") or ())
        listed = ", ".join(sorted(names)) or "one that is not listed"
        raise ApiRefused(
            refused.api,
            refused.error_code,
            f"{refused.description}: {listed} holds {', '.join(config['subjects'])}. "
            "Take these subjects out of it (`nats stream edit`), or give AgentCom a "
            "broker of its own",
        ) from refused


async def _call(
    connection: Client, api: str, body: dict[str, Any] | None
) -> dict[str, Any]:
    payload = b"" if body is None else msgspec.json.encode(body)
    try:
        reply = await connection.request(f"$JS.API.{api}", payload, timeout=ANSWER_S)
    except (NatsError, TimeoutError) as failure:
        raise LogUnavailable(api, str(failure) or type(failure).__name__) from failure
    answer: dict[str, Any] = msgspec.json.decode(reply.data)
    if (error := answer.get("error")) is not None:
        raise ApiRefused(
            api, int(error.get("err_code", 0)), str(error.get("description", ""))
        )
    return answer
