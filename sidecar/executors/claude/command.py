"""Claude Code as a program on this machine: where it is, how it is called, with which rights.

What an operator allows on a host bounds what a task may ask for: a task can narrow the
permissions of its run, never widen them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sidecar.processes.family import ProcessLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from events.commands import Assign
    from sidecar.processes.family import Processes

PermissionMode = Literal[
    "plan", "dontAsk", "default", "acceptEdits", "bypassPermissions"
]
"""What may be done without asking, from little to everything."""

NOT_FOUND = (
    "Claude Code CLI not found, install it with "
    "npm install -g @anthropic-ai/claude-code"
)

_MODES: tuple[PermissionMode, ...] = (
    "plan",
    "dontAsk",
    "default",
    "acceptEdits",
    "bypassPermissions",
)
_SESSIONS = uuid.UUID("7d3ac1c6-6f6e-5f0c-9c1e-5b1a4c0e7a11")


class ClaudeOptions(Struct, frozen=True, kw_only=True):
    """What an operator sets for Claude Code on a host. A task may only narrow it.

    A task says what it wants in `metadata.claude`: `permission_mode`, `allowed_tools`,
    `disallowed_tools`, `max_turns`.
    """

    program: str | None = None
    permission_mode: PermissionMode = "acceptEdits"
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    max_turns: int | None = None
    keep_sessions: bool = True
    """Sessions stay on disk, so that an interrupted run can be resumed."""
    limits: ProcessLimits = ProcessLimits()


class _Wishes(Struct, forbid_unknown_fields=True):
    """`metadata.claude` of a task."""

    permission_mode: PermissionMode | None = None
    allowed_tools: list[str] | None = None
    disallowed_tools: list[str] = []
    max_turns: int | None = None


def find_program(configured: str | None, path: str | None) -> Path | None:
    """Find Claude Code: as configured, on PATH, or in the wheel `claude-agent-sdk`."""
    name = "claude" if configured is None else os.path.expanduser(configured)
    program = shutil.which(name, path=path)
    if program is not None or configured is not None:
        return Path(program) if program else None
    wheel = importlib.util.find_spec("claude_agent_sdk")
    if wheel is not None and wheel.origin is not None:
        bundled = Path(wheel.origin).parent / "_bundled" / "claude"
        if os.access(bundled, os.X_OK):
            return bundled
    return None


class Probe(Struct, frozen=True):
    """What `claude --version` printed; `reason` where there is no version."""

    version: str = ""
    simulated: bool = False
    reason: str = ""


async def probe(
    processes: Processes,
    program: Path | None,
    env: Mapping[str, str],
    timeout_s: float = 10.0,
) -> Probe:
    """Ask the program for its version: whether Claude Code is usable as far as it knows."""
    if program is None:
        return Probe(reason=NOT_FOUND)
    try:
        brief = await processes.brief(
            [str(program), "--version"], cwd=Path("/"), env=env, timeout_s=timeout_s
        )
    except OSError as wrong:
        return Probe(reason=f"{program} cannot be started: {wrong}")
    text = brief.stdout.strip()
    if not brief.ok or not text:
        ended = (
            f"no answer in {timeout_s:g}s" if brief.exit is None else str(brief.exit)
        )
        return Probe(reason=f"{program} --version: {ended}")
    return Probe(version=text.split()[0], simulated="simulated" in text)


def session_of(route: str, number: int) -> str:
    """The session id of a run's try, counted from 1: settled before it starts."""
    return str(uuid.uuid5(_SESSIONS, f"{route}/{number}"))


def narrowed(options: ClaudeOptions, assign: Assign) -> tuple[ClaudeOptions, list[str]]:
    """The host's options, narrowed as the task wants; and what it was refused."""
    metadata = assign.spec.metadata.get("claude")
    if metadata is None:
        return options, []
    try:
        wishes = msgspec.convert(metadata, _Wishes)
    except msgspec.ValidationError as wrong:
        return options, [f"metadata.claude is not understood: {wrong}"]
    refused: list[str] = []
    mode = options.permission_mode
    if wishes.permission_mode is not None:
        if _MODES.index(wishes.permission_mode) <= _MODES.index(mode):
            mode = wishes.permission_mode
        else:
            refused.append(
                f"permission mode {wishes.permission_mode}: here it is {mode}"
            )
    allowed = options.allowed_tools
    if wishes.allowed_tools is not None:
        wider = [tool for tool in wishes.allowed_tools if tool not in allowed]
        refused += [f"tool {tool}: not allowed here" for tool in wider]
        allowed = tuple(tool for tool in allowed if tool in wishes.allowed_tools)
    turns = options.max_turns
    if wishes.max_turns is not None:
        turns = min(wishes.max_turns, turns or wishes.max_turns)
    return replace(
        options,
        permission_mode=mode,
        allowed_tools=allowed,
        disallowed_tools=(*options.disallowed_tools, *wishes.disallowed_tools),
        max_turns=turns,
    ), refused


def command_line(
    program: Path, options: ClaudeOptions, assign: Assign, session: str, *, resume: bool
) -> list[str]:
    """The arguments. Values stand behind `=`, so that none can pass for an option."""
    words = [
        str(program),
        "-p",
        "--output-format=stream-json",
        "--verbose",
        "--include-partial-messages",
        f"--permission-mode={options.permission_mode}",
    ]
    if assign.model:
        words.append(f"--model={assign.model}")
    if options.allowed_tools:
        words.append(f"--allowedTools={','.join(options.allowed_tools)}")
    if options.disallowed_tools:
        words.append(f"--disallowedTools={','.join(options.disallowed_tools)}")
    if options.max_turns is not None:
        words.append(f"--max-turns={options.max_turns}")
    if assign.max_budget_usd is not None:
        words.append(f"--max-budget-usd={assign.max_budget_usd:f}")
    words.append(f"--resume={session}" if resume else f"--session-id={session}")
    if not options.keep_sessions and not resume:
        words.append("--no-session-persistence")
    return words


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """`env` without what an outer Claude Code left in it, and with its retries off."""
    kept = {
        name: value
        for name, value in env.items()
        if name != "CLAUDECODE" and not name.startswith("CLAUDE_CODE_")
    }
    return {**kept, "CLAUDE_CODE_MAX_RETRIES": "0"}
