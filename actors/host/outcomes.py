"""How a run ends: an executor says it, the host records it as an event.

An executor counts (`sidecar.executors.port.RawResult`), the host's events carry what the
counts cost (`events.catalogue.Result`); hence the type parameter.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

R = TypeVar("R")


class Finished(Struct, Generic[R], frozen=True):
    """The work gave its own answer, success or failure; nobody tries elsewhere.

    Becomes `task.completed` or `task.failed`. `unusable`: the endpoint's next run would
    fail for the same reason (not logged in, no credit), so its host reports it down until
    it has been tried again.
    """

    result: R
    unusable: bool = False


class Returned(Struct, Generic[R], frozen=True, kw_only=True):
    """Not the work's answer: another place or another time may do it.

    Becomes `task.returned`. `reason`: `endpoint_failed` (then `exclude` names the endpoint
    or host), `limited` (`limited_until`, Unix seconds, where known), `draining`, ...
    `unusable` as in `Finished`. `result` holds what was spent all the same.
    """

    reason: str
    detail: str = ""
    exclude: str | None = None
    limited_until: float | None = None
    unusable: bool = False
    result: R | None = None


class Stopped(Struct, Generic[R], frozen=True, kw_only=True):
    """The run was asked to end and has; `result` holds what was spent and said.

    Becomes `task.stopped` where it was cancelled, `task.returned` where its host drains.
    """

    result: R | None = None
    descendants_left: int = 0


Outcome = Finished[R] | Returned[R] | Stopped[R]
