"""The names on the wire: streams, buckets and subjects, built and parsed here alone.

Who wrote an event is what the broker lets through, that is, its subject. So the parsers
matter as much as the builders: a fold takes host and task from the subject and drops an
event whose body says something else.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from events.errors import UnknownSubject
from events.ids import TOKEN, token

EVENTS: Final = "AGENTCOM_EVENTS"
OUTPUT: Final = "AGENTCOM_OUTPUT"
LEASES: Final = "AGENTCOM_LEASE"

ALL_EVENTS: Final = "agentcom.evt.>"
ALL_OUTPUT: Final = "agentcom.out.>"
ALL_BEATS: Final = "agentcom.beat.*"
ALL_TASKS: Final = "agentcom.evt.task.*"
ALL_RUNS: Final = "agentcom.evt.run.>"

POLICY: Final = "agentcom.evt.policy"
SCHEDULER: Final = "agentcom.evt.scheduler"

COMMANDS: Final = "agentcom.cmd"
QUERIES: Final = "agentcom.query"

Kind = Literal["task", "run", "host", "fleet", "tier", "policy", "scheduler"]


class Subject(msgspec.Struct, frozen=True):
    """A parsed event subject. `task` and `host` are "" where the kind has none.

    `name` is the last free part: the host or endpoint of `fleet`, the tier of `tier`.
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
    """Name what was found about a tier."""
    return f"agentcom.evt.tier.{token(name, 'tier')}"


def output(host_name: str, task_id: str) -> str:
    """Name the live output of a task on a host."""
    return f"agentcom.out.{token(host_name, 'host')}.{token(task_id, 'task')}"


def outputs_of(task_id: str) -> str:
    """Match one task's output on every host."""
    return f"agentcom.out.*.{token(task_id, 'task')}"


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


def query(name: str) -> str:
    """Name a query: `tasks`, `queue`, ..."""
    return f"{QUERIES}.{name}"


_LENGTHS: Final[dict[str, int]] = {
    "task": 4,
    "run": 5,
    "host": 4,
    "fleet": 4,
    "tier": 4,
    "policy": 3,
    "scheduler": 3,
}


def parse(subject: str) -> Subject:
    """Take an event subject apart; raise UnknownSubject if it is none of ours."""
    parts = subject.split(".")
    if (
        len(parts) < 3
        or parts[0] != "agentcom"
        or parts[1] != "evt"
        or _LENGTHS.get(parts[2]) != len(parts)
        or any(TOKEN.fullmatch(part) is None for part in parts[3:])
    ):
        raise UnknownSubject(subject)
    match parts[2]:
        case "task":
            return Subject("task", task=parts[3])
        case "run":
            return Subject("run", host=parts[3], task=parts[4])
        case "host":
            return Subject("host", host=parts[3])
        case "fleet":
            return Subject("fleet", name=parts[3])
        case "tier":
            return Subject("tier", name=parts[3])
        case "policy":
            return Subject("policy")
        case _:
            return Subject("scheduler")


def parse_output(subject: str) -> tuple[str, str]:
    """Return (host, task) of an output subject; raise UnknownSubject otherwise."""
    parts = subject.split(".")
    if (
        len(parts) != 4
        or parts[0] != "agentcom"
        or parts[1] != "out"
        or TOKEN.fullmatch(parts[2]) is None
        or TOKEN.fullmatch(parts[3]) is None
    ):
        raise UnknownSubject(subject)
    return parts[2], parts[3]
