"""AgentCom, as a program imports it.

    from agentcom import Client

    with Client() as client:                      # the instance of this machine
        task = client.submit("summarise the README", tier="standard")
        print(task.wait(timeout=120).output)

`Client(url=..., token=...)` asks over HTTP, `Client(nats=..., creds=...)` over NATS;
`AsyncClient` is the same for programs with an event loop. docs/clients.md has the
examples.

Importing this loads none of it until a name is used. `agentcom.__main__` is the command.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; `typing` need not be loaded for it

__all__ = [
    "AgentComError",
    "AsyncClient",
    "AsyncTask",
    "AttachmentFields",
    "Changed",
    "Chunk",
    "Client",
    "Conflict",
    "CostLine",
    "Costs",
    "Denied",
    "Explanation",
    "Fleet",
    "NotEnded",
    "NotFound",
    "Refused",
    "Result",
    "Route",
    "Schedule",
    "ScheduleRun",
    "Task",
    "TaskFailed",
    "TaskFields",
    "TaskFilter",
    "TaskInfo",
    "TimedOut",
    "Unreachable",
    "WouldRoute",
    "__version__",
]

__version__ = "0.2.0"

if TYPE_CHECKING:
    from agentcom.aio import AsyncClient, AsyncTask
    from agentcom.answers import (
        Changed,
        Chunk,
        CostLine,
        Costs,
        Explanation,
        Fleet,
        Result,
        Route,
        Schedule,
        ScheduleRun,
        TaskInfo,
        WouldRoute,
    )
    from agentcom.blocking import Client, Task
    from agentcom.errors import (
        AgentComError,
        Conflict,
        Denied,
        NotEnded,
        NotFound,
        Refused,
        TaskFailed,
        TimedOut,
        Unreachable,
    )
    from agentcom.fields import AttachmentFields, TaskFields, TaskFilter
else:

    def __getattr__(name: str) -> object:
        """Load what is asked for."""
        import importlib

        if name in __all__:
            for room in ("aio", "answers", "blocking", "errors", "fields"):
                module = importlib.import_module(f"agentcom.{room}")
                if name in module.__all__:
                    return getattr(module, name)
        raise AttributeError(f"module 'agentcom' has no attribute {name!r}")
