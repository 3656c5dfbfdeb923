"""Everything that can go wrong with values and with the log, as one tree.

    AgentComError
    ├── Malformed            bytes or values that are not what they should be
    │   ├── BadToken         an id or name that may not become part of a subject
    │   └── UnknownSubject   a subject outside AgentCom's names
    ├── LogError             the log could not do what was asked
    │   ├── Conflict         somebody else wrote to the subject first
    │   ├── LogUnavailable   no answer in time, or no connection
    │   ├── TooLarge         the event is larger than the log takes
    │   └── Denied           the broker does not allow this role to do it
    └── Unreachable          nobody listens at a mailbox, or no answer in time

An expected refusal (a full queue, a cancelled task) is a value, not one of these.
Errors are given facts, make their message from them, and keep those that are read.
"""

from __future__ import annotations

from pathlib import PurePath

import msgspec


def shown(value: object, limit: int = 80) -> str:
    """Write a value that came into a sentence: text in quotes, all else as JSON has it.

    What cannot be printed is written as its number, and a long value is cut short.
    """
    match value:
        case str():
            text = value if len(value) <= limit else value[: limit - 3] + "..."
            printable = (c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
            return f"'{''.join(printable)}'"
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case PurePath():
            return shown(str(value), limit)
        case _:
            raw = msgspec.json.encode(value, enc_hook=str)
            return shown(raw.decode(), limit)[1:-1]


def is_about_tls(reason: str) -> bool:
    """Whether a broker that is there was refused: neither to wait nor to start it helps."""
    return "certificate verify failed" in reason or "speaks no TLS" in reason


class AgentComError(Exception):
    """The root. `code` is a stable word for programs, `str()` a sentence for people."""

    code = "error"


class Malformed(AgentComError):
    """A value is not what its place expects.

    `path` is the JSON path of the value (`file_hints[0].path`, empty for the whole),
    `expected` and `got` say what should have stood there and what did.
    """

    code = "malformed"

    def __init__(self, path: str, expected: str, got: str, said: str = "") -> None:
        """`said` is the sentence where "expected ..., got ..." is not how one says it."""
        self.path = path
        self.expected = expected
        self.got = got
        where = f"{path}: " if path else ""
        super().__init__(f"{where}{said or f'expected {expected}, got {got}'}")


class BadToken(Malformed):
    """An id or name does not match `[A-Za-z0-9_-]{1,64}`."""

    code = "bad_token"

    def __init__(self, what: str, got: str) -> None:
        super().__init__(
            what,
            "1 to 64 letters, digits, '_' or '-'",
            shown(got) if got else "nothing",
        )


class UnknownSubject(Malformed):
    """A subject that is none of AgentCom's."""

    code = "unknown_subject"

    def __init__(self, subject: str) -> None:
        super().__init__("subject", "one of AgentCom's subjects", shown(subject, 200))


class LogError(AgentComError):
    """The log could not do what was asked."""

    code = "log_error"


class Conflict(LogError):
    """An append expected its subject at sequence `expected`, and it stands elsewhere."""

    code = "conflict"

    def __init__(self, subject: str, expected: int) -> None:
        super().__init__(f"{subject}: its last sequence is not the expected {expected}")


class LogUnavailable(LogError):
    """The log did not answer in time; whether it stored anything is not known."""

    code = "log_unavailable"

    def __init__(self, doing: str, reason: str) -> None:
        self.doing = doing
        self.reason = reason
        super().__init__(f"{doing}: the log did not answer ({reason})")


class TooLarge(LogError):
    """An encoded event exceeds what one message may hold."""

    code = "too_large"

    def __init__(self, subject: str, size: int, limit: int) -> None:
        self.limit = limit
        super().__init__(f"{subject}: {size} bytes, the limit is {limit}")


class Denied(LogError):
    """The broker does not allow this role to do `doing`."""

    code = "denied"

    def __init__(self, doing: str, reason: str) -> None:
        self.doing = doing
        self.reason = reason
        super().__init__(f"{doing}: not allowed ({reason})")


class Unreachable(AgentComError):
    """Nobody answered at `subject`: no listener (`absent`), or none in time."""

    code = "unavailable"

    def __init__(self, subject: str, *, absent: bool) -> None:
        self.subject = subject
        self.absent = absent
        why = "nobody listens there" if absent else "no answer in time"
        super().__init__(f"{subject}: {why}")
