"""What carries commands and questions: HTTP or NATS behind one protocol."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from agentcom.answers import RefusalAnswer
from agentcom.errors import AgentComError, Conflict, Denied, NotFound, Refused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from agentcom.answers import Chunk

T = TypeVar("T")

PATIENCE_S = 30.0
"""So long it is tried anew while nobody answers."""
AGAIN = frozenset({"behind", "busy", "log_unavailable", "unavailable"})
"""Refusals that pass: the same may be asked again."""


class Transport(Protocol):
    """Carries commands and questions; both may be given twice without harm."""

    async def command(self, name: str, body: dict[str, Any]) -> bytes:
        """Give a command; raises Refused, Unreachable."""
        ...

    async def query(self, name: str, body: dict[str, Any]) -> bytes:
        """Ask a question; raises Refused, Unreachable."""
        ...

    def output(self, task_id: str) -> AsyncGenerator[Chunk]:
        """Yield a task's output until it is over, each piece once."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


class Patience:
    """How long it is tried anew, with pauses that grow: from the first failure on."""

    def __init__(self, seconds: float = PATIENCE_S) -> None:
        self._until = asyncio.get_running_loop().time() + seconds
        self._pause = 0.05

    async def again(self, at_least: float = 0.0) -> bool:
        """Pause; False where the time is over."""
        left = self._until - asyncio.get_running_loop().time()
        if left <= 0:
            return False
        await asyncio.sleep(min(max(self._pause, at_least), left))
        self._pause = min(self._pause * 2, 2.0)
        return True


def error_of(raw: bytes, status: int) -> AgentComError:
    """Make the error that a refusal is; one that is none of ours by its status."""
    try:
        refusal = msgspec.json.decode(raw, type=RefusalAnswer)
    except msgspec.DecodeError:
        text = raw[:200].decode(errors="replace").strip()
        refusal = RefusalAnswer(
            code="bad_gateway", error=f"status {status}: {text}", status=status
        )
    kind = Refused
    if refusal.status in (401, 403):
        kind = Denied
    elif refusal.code == "not_found":
        kind = NotFound
    elif refusal.status == 409:
        kind = Conflict
    return kind(
        refusal.error,
        code=refusal.code,
        status=refusal.status,
        place=refusal.path,
        expected=refusal.expected,
        got=refusal.got,
    )


def read(raw: bytes, kind: type[T]) -> T:
    """Read an answer; raises AgentComError where it is another version's."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise AgentComError(
            f"the answer is not understood ({error}): the other side is another "
            "version of AgentCom",
            code="bad_gateway",
        ) from error
