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
from events.errors import LogError, LogUnavailable
from events.nats.api import STREAM_NOT_FOUND

if TYPE_CHECKING:
    from nats.aio.client import Client

_NANOSECOND = 1_000_000_000
_NO_STORAGE = 10047

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

    Output is dropped, oldest first, past either bound; events are never dropped.
    """

    output_max_age_s: int = 30 * 24 * 3600
    output_max_bytes: int = 20 * 1024**3
    replicas: int = 1


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
        self.stream = stream
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
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": True,
        "allow_atomic": True,
        "duplicate_window": 120 * _NANOSECOND,
        "num_replicas": retention.replicas,
        "republish": {"src": subjects.ALL_EVENTS, "dest": subjects.REPUBLISHED_EVENTS},
    }


def output_config(retention: Retention) -> dict[str, Any]:
    """Describe AGENTCOM_OUTPUT: text of runs, kept by age and size."""
    return {
        "name": subjects.OUTPUT,
        "description": "AgentCom: what running tasks print and say",
        "subjects": [subjects.ALL_OUTPUT],
        "retention": "limits",
        "storage": "file",
        "compression": "s2",
        "discard": "old",
        "max_age": retention.output_max_age_s * _NANOSECOND,
        "max_bytes": retention.output_max_bytes,
        "max_consumers": 100_000,
        "allow_direct": True,
        "duplicate_window": min(120, retention.output_max_age_s) * _NANOSECOND,
        "num_replicas": retention.replicas,
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
        "num_replicas": retention.replicas,
    }


async def provision(
    connection: Client, retention: Retention | None = None, *, timeout: float = 10.0
) -> None:
    """Make or update both streams and the bucket; afterwards they are as described.

    `connection` is the admin's, `timeout` seconds for each request. Raises UnsafeStream
    where the events stream exists and could lose events, ApiRefused where the server
    says no, LogUnavailable where it says nothing.
    """
    keep = retention or Retention()
    await _ensure(connection, events_config(keep), _EVENTS_MUST, timeout)
    await _ensure(connection, output_config(keep), {}, timeout)
    await _ensure(connection, lease_config(keep), {}, timeout)


async def _ensure(
    connection: Client, config: dict[str, Any], must: dict[str, Any], timeout: float
) -> None:
    name = config["name"]
    try:
        info = await _call(connection, f"STREAM.INFO.{name}", None, timeout)
    except ApiRefused as refused:
        if refused.error_code != STREAM_NOT_FOUND:
            raise
        await _call(connection, f"STREAM.CREATE.{name}", config, timeout)
        return
    current: dict[str, Any] = info["config"]
    # The server leaves out what is false or 0.
    wrong = {
        setting: (value, current.get(setting, type(value)()))
        for setting, value in must.items()
        if current.get(setting, type(value)()) != value
    }
    if wrong:
        raise UnsafeStream(name, wrong)
    if any(current.get(setting) != value for setting, value in config.items()):
        await _call(connection, f"STREAM.UPDATE.{name}", {**current, **config}, timeout)


async def _call(
    connection: Client, api: str, body: dict[str, Any] | None, timeout: float
) -> dict[str, Any]:
    payload = b"" if body is None else msgspec.json.encode(body)
    try:
        reply = await connection.request(f"$JS.API.{api}", payload, timeout=timeout)
    except (NatsError, TimeoutError) as failure:
        raise LogUnavailable(api, repr(failure)) from failure
    answer: dict[str, Any] = msgspec.json.decode(reply.data)
    if (error := answer.get("error")) is not None:
        raise ApiRefused(
            api, int(error.get("err_code", 0)), str(error.get("description", ""))
        )
    return answer
