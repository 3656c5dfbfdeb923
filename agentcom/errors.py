"""What can go wrong, with its facts.

AgentComError             code, place, expected, got
├─ Refused                the other side said no; status is the HTTP status for it
│  ├─ NotFound            what was named is not there
│  ├─ Denied              the token or key may not do it, or is none
│  └─ Conflict            it contradicts what is there
├─ Unreachable            nobody answers, or there is no instance here
├─ TimedOut               it takes longer than was waited for; the task goes on
├─ NotEnded               a result was asked for before there is one
└─ TaskFailed             `raise_for_state` of a task that did not complete
"""

from __future__ import annotations

__all__ = [
    "AgentComError",
    "Conflict",
    "Denied",
    "NotEnded",
    "NotFound",
    "Refused",
    "TaskFailed",
    "TimedOut",
    "Unreachable",
]


class AgentComError(Exception):
    """Something went wrong.

    `code` is a stable word, `place` the path of the value that is wrong (`shell.cwd`),
    `expected` and `got` what should have stood there and what did; "" where that does not
    apply.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "error",
        place: str = "",
        expected: str = "",
        got: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.place = place
        self.expected = expected
        self.got = got


class Refused(AgentComError):
    """The other side said no, and why; `status` is the HTTP status for it."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int,
        place: str = "",
        expected: str = "",
        got: str = "",
    ) -> None:
        super().__init__(message, code=code, place=place, expected=expected, got=got)
        self.status = status


class NotFound(Refused):
    """What was named is not there."""


class Denied(Refused):
    """The token or key may not do this, or is none."""


class Conflict(Refused):
    """It contradicts what is there: a key that was used before, a task that is over."""


class Unreachable(AgentComError):
    """Nobody answers, or there is no instance on this machine."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="unreachable")


class TimedOut(AgentComError, TimeoutError):
    """It takes longer than was waited for; the task goes on."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="timed_out")


class NotEnded(AgentComError):
    """A result was asked for before there is one: `wait` first."""

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"task {task_id} has not been seen to end: call its wait() first",
            code="not_ended",
        )


class TaskFailed(AgentComError):
    """A task that ended otherwise than completed; `state` says how."""

    def __init__(self, task_id: str, state: str, code: str, message: str) -> None:
        super().__init__(f"task {task_id} is {state}: {message}", code=code)
        self.task_id = task_id
        self.state = state
