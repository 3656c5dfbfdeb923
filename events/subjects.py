"""The names on the wire: streams, buckets and subjects, built and parsed here alone.

No other product module may write one out (`tests/unit/test_subjects.py`). Who wrote an
event is what the broker lets through, that is, its subject. So the parsers matter as
much as the builders: a fold takes host and task from the subject and drops an event
whose body says something else.
"""

from __future__ import annotations

import base64
from typing import Final, Literal

import msgspec

from events.errors import UnknownSubject
from events.ids import TOKEN, token

EVENTS: Final = "AGENTCOM_EVENTS"
OUTPUT: Final = "AGENTCOM_OUTPUT"
LEASES: Final = "AGENTCOM_LEASE"
FILES: Final = "AGENTCOM_FILES"
FILES_STREAM: Final = f"OBJ_{FILES}"

EVENT_PREFIX: Final = "agentcom.evt."
EVENT_PATTERN: Final = r"^agentcom\.evt\.[^\s]{1,200}\Z"
"""What a pattern of event subjects must look like: a regular expression."""

ALL_EVENTS: Final = "agentcom.evt.>"
ALL_OUTPUT: Final = "agentcom.out.>"
ALL_FILES: Final = (f"$O.{FILES}.C.>", f"$O.{FILES}.M.>")
"""Chunks of attachments, and what names them."""
ALL_LEASES: Final = f"$KV.{LEASES}.>"
REPUBLISHED_EVENTS: Final = "agentcom.log.>"
"""What the events stream has stored, once more, under a name that only it writes."""
REPUBLISHED_OUTPUT: Final = "agentcom.tap.>"
"""The same of the output stream."""
READERS: Final = "agentcom.read"
"""Where the broker sends readers' requests about consumers; see `events.nats.readers`."""
ALL_BEATS: Final = "agentcom.beat.*"
ALL_TASKS: Final = "agentcom.evt.task.*"
ALL_RUNS: Final = "agentcom.evt.run.>"
ALL_HOSTS: Final = "agentcom.evt.host.*"

POLICY: Final = "agentcom.evt.policy"
SCHEDULER: Final = "agentcom.evt.scheduler"

COMMANDS: Final = "agentcom.cmd"
QUERIES: Final = "agentcom.query"
CHILD: Final = "child"
"""Behind these two, and before a host's name: what the runs on that host ask for."""
ALL_CHILD_QUERIES: Final = f"{QUERIES}.{CHILD}.*.*"

Kind = Literal[
    "task", "run", "host", "fleet", "tier", "policy", "scheduler", "bulk", "schedule"
]


class Subject(msgspec.Struct, frozen=True):
    """A parsed event subject. `task` and `host` are "" where the kind has none.

    `name` is the last free part: the host or endpoint of `fleet`, the tier of `tier`, the
    id of `bulk`, the schedule of `schedule`.
    """

    kind: Kind
    task: str = ""
    host: str = ""
    name: str = ""


def task(task_id: str) -> str:
    """Name what was decided about a task; written by gateway and scheduler."""
    return f"agentcom.evt.task.{token(task_id, 'task')}"


def run(host: str, task_id: str) -> str:
    """Name what happened to a task on a host; written by that host alone."""
    return f"agentcom.evt.run.{token(host, 'host')}.{token(task_id, 'task')}"


def is_task(subject: str, task_id: str) -> bool:
    """Whether this is a task's subject; for the folds, faster than to parse it."""
    return subject == f"agentcom.evt.task.{task_id}"


def is_run(subject: str, host: str, task_id: str) -> bool:
    """Whether this is a run's subject; for the folds, faster than to parse it."""
    return subject == f"agentcom.evt.run.{host}.{task_id}"


def runs_on(host: str) -> str:
    """Match every task's runs on one host."""
    return f"agentcom.evt.run.{token(host, 'host')}.*"


def runs_of(task_id: str) -> str:
    """Match one task's runs on every host."""
    return f"agentcom.evt.run.*.{token(task_id, 'task')}"


def host(name: str) -> str:
    """Name what a host says of itself and its endpoints."""
    return f"agentcom.evt.host.{token(name, 'host')}"


def fleet(name: str) -> str:
    """Name what was decided about a host or endpoint."""
    return f"agentcom.evt.fleet.{token(name, 'name')}"


def tier(name: str) -> str:
    """Name what the scheduler found out about a tier."""
    return f"agentcom.evt.tier.{token(name, 'tier')}"


def bulk(bulk_id: str) -> str:
    """Name one command for many tasks; written by the gateway."""
    return f"agentcom.evt.bulk.{token(bulk_id, 'bulk')}"


def schedule(name: str) -> str:
    """Name what was decided about a schedule; written by gateway and scheduler."""
    return f"agentcom.evt.schedule.{token(name, 'schedule')}"


def output(host_name: str, task_id: str) -> str:
    """Name the live output of a task on a host."""
    return f"agentcom.out.{token(host_name, 'host')}.{token(task_id, 'task')}"


def outputs_of(task_id: str) -> str:
    """Match one task's output on every host."""
    return f"agentcom.out.*.{token(task_id, 'task')}"


def outputs_on(host_name: str) -> str:
    """Match every task's output on one host."""
    return f"agentcom.out.{token(host_name, 'host')}.*"


def republished(pattern: str) -> str:
    """Name the output stream's copy of an output subject or pattern."""
    return pattern.replace("agentcom.out.", "agentcom.tap.", 1)


def file_chunks(upload: str) -> str:
    """Name the chunks of one upload."""
    return f"$O.{FILES}.C.{token(upload, 'upload')}"


def file_info(digest: str) -> str:
    """Name what says which upload holds the file of this digest."""
    name = base64.urlsafe_b64encode(digest.encode()).decode()
    return f"$O.{FILES}.M.{name}"


def lease(key: str) -> str:
    """Name a key of the lease bucket."""
    return f"$KV.{LEASES}.{key}"


def beat(host_name: str) -> str:
    """Name a host's sign of life (core NATS, not logged)."""
    return f"agentcom.beat.{token(host_name, 'host')}"


def host_mailbox(name: str) -> str:
    """Name a host actor's mailbox."""
    return f"agentcom.mbx.host.{token(name, 'host')}"


def task_mailbox(host_name: str, task_id: str) -> str:
    """Name a task actor's mailbox on its host."""
    return f"agentcom.mbx.task.{token(host_name, 'host')}.{token(task_id, 'task')}"


def task_mailboxes(host_name: str) -> str:
    """Match every task mailbox of a host."""
    return f"agentcom.mbx.task.{token(host_name, 'host')}.*"


def command(name: str) -> str:
    """Name a command: `task.submit`, `host.drain`, ..."""
    return f"{COMMANDS}.{name}"


def child_command(host_name: str, verb: str) -> str:
    """Name what a run on a host asks the gateway for: `submit`, `route`, `cancel`."""
    return f"{COMMANDS}.{CHILD}.{token(host_name, 'host')}.{verb}"


def child_query(host_name: str, name: str) -> str:
    """Name what a run on a host asks about its children: `task`, `ended`, ..."""
    return f"{QUERIES}.{CHILD}.{token(host_name, 'host')}.{name}"


def children_of(host_name: str) -> tuple[str, str]:
    """Match all that runs on one host ask."""
    return child_command(host_name, "*"), child_query(host_name, "*")


def of_a_run(name: str) -> tuple[str, str] | None:
    """Take the rest of a command's or query's subject apart, as (host, verb).

    None where no run asks.
    """
    parts = name.split(".")
    if len(parts) != 3 or parts[0] != CHILD or TOKEN.fullmatch(parts[1]) is None:
        return None
    return parts[1], parts[2]


def query(name: str) -> str:
    """Name a query: `tasks`, `queue`, ..."""
    return f"{QUERIES}.{name}"


_PARTS: Final[dict[str, tuple[str, ...]]] = {
    "task": ("task",),
    "run": ("host", "task"),
    "host": ("host",),
    "fleet": ("name",),
    "tier": ("name",),
    "policy": (),
    "scheduler": (),
    "bulk": ("name",),
    "schedule": ("name",),
}
"""Which fields of `Subject` follow upon each kind."""


def parse(subject: str) -> Subject:
    """Take an event subject apart; raise UnknownSubject if it is none of ours."""
    kind, *parts = subject.removeprefix(EVENT_PREFIX).split(".")
    fields = _PARTS.get(kind)
    if (
        not subject.startswith(EVENT_PREFIX)
        or fields is None
        or len(fields) != len(parts)
        or any(TOKEN.fullmatch(part) is None for part in parts)
    ):
        raise UnknownSubject(subject)
    return Subject(kind, **dict(zip(fields, parts, strict=True)))  # type: ignore[arg-type]


def parse_output(subject: str) -> tuple[str, str]:
    """Return (host, task) of an output subject, or of the stream's copy of one.

    Raises UnknownSubject for any other.
    """
    parts = subject.split(".")
    if (
        len(parts) != 4
        or parts[0] != "agentcom"
        or parts[1] not in ("out", "tap")
        or TOKEN.fullmatch(parts[2]) is None
        or TOKEN.fullmatch(parts[3]) is None
    ):
        raise UnknownSubject(subject)
    return parts[2], parts[3]


def matches(pattern: str, subject: str) -> bool:
    """Whether a NATS pattern (`*` one part, `>` the rest) covers a literal subject."""
    parts, given = pattern.split("."), subject.split(".")
    for i, part in enumerate(parts):
        if part == ">":
            return len(given) > i
        if i >= len(given) or (part != "*" and part != given[i]):
            return False
    return len(parts) == len(given)
