"""Assignments for executors, and an ear for what a run says."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
from msgspec import Struct

from events.catalogue import Shell, TaskSpec, ToolUse
from events.mail import Assign, Limits
from sidecar.executors.port import Run
from sidecar.processes.table import TASK_MARK, look_up, route_of

if TYPE_CHECKING:
    from sidecar.processes.family import Processes
    from sidecar.processes.table import Ident

QUICK = Limits(
    model_backoff_s=[0.001, 0.001],
    claude_backoff_s=[0.001, 0.001, 0.001],
    wake_backoff_s=[0.001, 0.001, 0.001],
    run_timeout_s=30.0,
    connect_timeout_s=5.0,
    first_token_warm_s=10.0,
    first_token_cold_s=10.0,
    idle_timeout_s=10.0,
    shell_term_grace_s=5.0,
)


def assignment(**fields: Any) -> Assign:
    """An assignment; give the task's fields as `spec={...}` and change what matters."""
    spec = {"description": "Say hello.", **fields.pop("spec", {})}
    usual: dict[str, Any] = {
        "epoch": 1,
        "task_id": "T1",
        "route": f"R{os.getpid()}-{next(_numbers)}",
        "generation": 1,
        "attempt": 1,
        "tier": "standard",
        "target_type": "ollama",
        "limits": QUICK,
    }
    return Assign(spec=TaskSpec(**spec), **{**usual, **fields})


def _count() -> Any:
    number = 0
    while True:
        number += 1
        yield number


_numbers = _count()


def shell_run(
    command: str, folder: Path | None, limits: Limits = QUICK, **shell: Any
) -> Run:
    """A run of a shell command in `folder`."""
    assign = assignment(
        tier="trivial",
        target_type="sidecar",
        limits=limits,
        spec={"shell": Shell(command=command, **shell)},
    )
    cwd = folder or Path("/")
    env = {"PATH": os.environ["PATH"], "HOME": str(cwd), TASK_MARK: assign.task_id}
    return Run(assign=assign, cwd=cwd, env={**env, **shell.get("env", {})})


class Heard(Struct, frozen=True):
    """One thing that a run said."""

    kind: str
    text: str
    more: dict[str, Any] = {}


class Ear:
    """An `Emit` that remembers, and tells when it has heard something."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self._watchers: list[Any] = []

    def text(
        self,
        kind: Literal["token", "thinking", "stdout", "stderr", "tool", "call"],
        text: str,
        *,
        tokens_so_far: int | None = None,
        tool: ToolUse | None = None,
    ) -> None:
        fields: dict[str, Any] = {} if tool is None else {"tool": tool}
        self._hear(kind, text, tokens_so_far=tokens_so_far, **fields)

    def status(self, text: str) -> None:
        self._hear("status", text)

    def error(self, text: str, code: str = "") -> None:
        self._hear("error", text, code=code)

    def retrying(
        self,
        text: str,
        *,
        retry: int,
        of: int,
        backoff_s: float = 0.0,
        reason: str = "",
    ) -> None:
        self._hear(
            "retrying", text, retry=retry, of=of, backoff_s=backoff_s, reason=reason
        )

    def _hear(self, kind: str, text: str, **more: Any) -> None:
        self.heard.append(Heard(kind, text, more))
        for watcher in self._watchers:
            watcher()

    def on_each(self, call: Any) -> None:
        """Call this whenever something is said."""
        self._watchers.append(call)

    def said(self, kind: str) -> str:
        """All text of one kind, joined."""
        return "".join(each.text for each in self.heard if each.kind == kind)

    def lines(self, *kinds: str) -> list[str]:
        """The texts of these kinds, one each."""
        return [each.text for each in self.heard if each.kind in kinds]


def alive(route: str) -> list[int]:
    """The pids that carry this route in their environment and have not ended.

    Not those of tests beside this process, which name their routes alike.
    """
    beside = set(psutil.Process(os.getppid()).children()) - {psutil.Process()}
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and route_of(int(name)) == route:
            proc = look_up(int(name))
            if proc is None or proc.state in "ZX":
                continue
            with contextlib.suppress(psutil.NoSuchProcess):
                if beside.isdisjoint(psutil.Process(proc.pid).parents()):
                    found.append(proc.pid)
    return found


def running(processes: Processes) -> list[Ident]:
    """The runs' processes that have not been ended."""
    return [child.ident for child in processes._children.values()]


def is_alive(pid: int) -> bool:
    """Whether the process exists and has not ended."""
    proc = look_up(pid)
    return proc is not None and proc.state not in "ZX"
