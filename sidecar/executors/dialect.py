"""What differs between kinds of model servers: bytes in, `Piece`s out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from sidecar.executors.server_errors import ModelFault, error_of_body, fault_of

if TYPE_CHECKING:
    from events.mail import Assign
    from sidecar.executors.pieces import Piece, ReplyEnd
    from sidecar.executors.port import Run


def most_tokens(assign: Assign) -> int:
    """How long the answer may be: nothing generates without an end."""
    return assign.spec.max_tokens or assign.limits.max_output_tokens


class ReplyReader(Protocol):
    """Turns an answer's bytes into pieces. Pure.

    `finished`: the answer is whole, and `close` says so, though the stream may go on.
    """

    @property
    def finished(self) -> bool: ...

    def feed(self, data: bytes) -> list[Piece]: ...

    def close(self) -> list[Piece]: ...


class ModelRequest(Struct, frozen=True):
    """A request: where to, and what."""

    path: str
    body: bytes


class Dialect:
    """What is particular to one kind of server. Pure but for `learn`."""

    name: str
    kind: str

    loaded_path: str | None = None
    """Where the server says which models it holds in memory; None: nowhere."""

    def request(self, run: Run, base: str) -> ModelRequest:
        """What the server at `base` is asked."""
        raise NotImplementedError

    def reader(self, run: Run) -> ReplyReader:
        """A new reader for a new answer."""
        raise NotImplementedError

    def refused(self, status: int, body: bytes, model: str) -> ModelFault:
        """What a status other than 200 means."""
        return fault_of(status, error_of_body(body), model)

    def learn(self, base: str, status: int, body: bytes) -> bool:
        """Learn from a refusal; whether another way of asking should be tried now."""
        return False

    def is_loaded(self, body: bytes, model: str) -> bool:
        """Whether what is at `loaded_path` lists the model."""
        return False

    def remark(self, run: Run, done: ReplyEnd) -> str | None:
        """What people should know about an answer that counts as one."""
        return None
