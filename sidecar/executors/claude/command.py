"""Claude Code as a program on this machine: where it is, how it is called, with which rights.

What an operator allows on a host bounds what a task may ask for: a task can narrow the
permissions of its run, never widen them.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from events import catalogue as c
from events.commands import older_wishes
from events.errors import Malformed
from sidecar.delegation import SERVER
from sidecar.folders import put
from sidecar.processes.family import ProcessLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from events.mail import Assign
    from sidecar.delegation import DoorAccess
    from sidecar.processes.family import Processes
    from sidecar.task_user import TaskUser

NOT_FOUND = (
    "Claude Code CLI not found, install it with "
    "npm install -g @anthropic-ai/claude-code"
)

_MODES: tuple[c.PermissionMode, ...] = (
    "plan",
    "dontAsk",
    "default",
    "acceptEdits",
    "bypassPermissions",
)
_SESSIONS = uuid.UUID("7d3ac1c6-6f6e-5f0c-9c1e-5b1a4c0e7a11")


class ClaudeOptions(Struct, frozen=True, kw_only=True):
    """What an operator sets for Claude Code on a host. A task may only narrow it.

    A task says what it wants in its field `claude`, see `events.catalogue.ClaudeWishes`.
    `mcp_servers` are those that a task may name, each as Claude Code's configuration
    describes it; a task that names none has none. Without `repo_settings` nothing that a
    folder says in `.claude` or `.mcp.json` counts: no variables, hooks, rights or servers.
    What it says in CLAUDE.md is still read.
    """

    program: str | None = None
    permission_mode: c.PermissionMode = "acceptEdits"
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    max_turns: int | None = None
    append_system_prompt: str = ""
    mcp_servers: dict[str, dict[str, Any]] = {}
    repo_settings: bool = True
    own_server: dict[str, Any] | None = None
    """The server by which a run submits tasks, which is none that a task may name."""
    limits: ProcessLimits = ProcessLimits()


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


NOT_LOGGED_IN = (
    "not logged in: run `claude` once as the sidecar's user, or give that one "
    "ANTHROPIC_API_KEY"
)
_TELLS_LOGIN = (2, 1, 41)
"""The first version with `claude auth status`; an earlier one takes that for a prompt."""


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


async def is_logged_out(
    processes: Processes,
    program: Path,
    version: str,
    env: Mapping[str, str],
    timeout_s: float,
) -> bool:
    """Whether the program says by itself that it has no login; it asks nobody for that.

    False, too, where it cannot tell. `env` are the variables that its runs get: a key may
    be among them.
    """
    numbers = tuple(int(n) for n in version.split(".") if n.isdecimal())
    if numbers < _TELLS_LOGIN:
        return False
    brief = await processes.brief(
        [str(program), "auth", "status"],
        cwd=Path("/"),
        env={**env, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
        timeout_s=timeout_s,
    )
    try:
        status = msgspec.json.decode(brief.stdout, type=dict[str, Any])
    except msgspec.DecodeError:
        return False
    return status.get("loggedIn") is False


def session_of(route: str, number: int) -> str:
    """The session id of a run's try, counted from 1: settled before it starts."""
    return str(uuid.uuid5(_SESSIONS, f"{route}/{number}"))


def narrowed(
    options: ClaudeOptions, spec: c.TaskSpec
) -> tuple[ClaudeOptions, list[str]]:
    """The host's options, narrowed as the task wants; and what of it cannot be had here."""
    wishes = spec.claude
    if wishes is None:
        older = spec.metadata.get("claude")
        if older is None:
            return options, []
        try:
            wishes = older_wishes(older)
        except Malformed as wrong:
            return options, [
                f"metadata.claude.{wrong}; wishes belong into the field claude"
            ]
    refused: list[str] = []
    mode = wishes.permission_mode or options.permission_mode
    if _MODES.index(mode) > _MODES.index(options.permission_mode):
        refused.append(f"permission mode {mode}: here it is {options.permission_mode}")
        mode = options.permission_mode
    allowed = options.allowed_tools
    if wishes.allowed_tools is not None:
        refused += [
            f"tool {tool}: not among this host's allowed_tools"
            for tool in wishes.allowed_tools
            if tool not in allowed
        ]
        allowed = tuple(tool for tool in allowed if tool in wishes.allowed_tools)
    turns = wishes.max_turns or options.max_turns
    if turns is not None and options.max_turns is not None:
        turns = min(turns, options.max_turns)
    here = ", ".join(sorted(options.mcp_servers)) or "none"
    refused += [
        f"MCP server {name}: not in this host's [claude.mcp_servers] (there are: {here})"
        for name in wishes.mcp_servers
        if name not in options.mcp_servers
    ]
    return replace(
        options,
        permission_mode=mode,
        allowed_tools=allowed,
        disallowed_tools=(*options.disallowed_tools, *wishes.disallowed_tools),
        max_turns=turns,
        append_system_prompt=wishes.append_system_prompt,
        mcp_servers={
            name: options.mcp_servers[name]
            for name in wishes.mcp_servers
            if name in options.mcp_servers
        },
    ), refused


def mcp_config(
    options: ClaudeOptions, folder: Path, user: TaskUser | None = None
) -> Path | None:
    """Write which MCP servers a run has, for the program to read; None without any.

    A file of the run's own, because the servers' environment may hold keys.
    """
    servers = dict(options.mcp_servers)
    if options.own_server is not None:
        servers[SERVER] = options.own_server
    if not servers:
        return None
    path = folder / "mcp.json"
    put(path, msgspec.json.encode({"mcpServers": servers}), user)
    return path


def runs_commands(options: ClaudeOptions) -> bool:
    """Whether a run with these options may run any command without asking."""
    free = options.permission_mode == "bypassPermissions" or (
        "Bash" in options.allowed_tools
    )
    return free and "Bash" not in options.disallowed_tools


def delegating(options: ClaudeOptions, access: DoorAccess) -> ClaudeOptions:
    """The options of a run that may submit tasks: with the server, and leave to use it."""
    return replace(
        options,
        own_server=access.mcp_server(),
        allowed_tools=(*options.allowed_tools, f"mcp__{SERVER}"),
    )


def command_line(
    program: Path,
    options: ClaudeOptions,
    assign: Assign,
    session: str,
    *,
    resume: bool,
    mcp: Path | None = None,
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
    if options.append_system_prompt:
        words.append(f"--append-system-prompt={options.append_system_prompt}")
    if mcp is not None:
        strict = options.mcp_servers or not options.repo_settings
        words += ["--strict-mcp-config"] * bool(strict)
        words.append(f"--mcp-config={mcp}")
    if not options.repo_settings:
        words += ["--setting-sources=user", "--add-dir=."]
    words.append(f"--resume={session}" if resume else f"--session-id={session}")
    return words


_NESTING = re.compile(
    r"CLAUDECODE|CLAUDE_CODE_(?:ENTRYPOINT|SSE_PORT|.*SESSION_ID|.*_FILE_DESCRIPTOR)"
)
"""The marks by which a program finds that it runs inside another Claude Code."""


def environment(
    env: Mapping[str, str], *, repo_settings: bool = True
) -> dict[str, str]:
    """`env` without what an outer Claude Code left in it, and with its retries off."""
    kept = {name: value for name, value in env.items() if not _NESTING.fullmatch(name)}
    if not repo_settings:
        # With a folder's settings its CLAUDE.md would be left out too, but for this.
        kept["CLAUDE_CODE_ADDITIONAL_DIRECTORIES_CLAUDE_MD"] = "1"
    return {**kept, "CLAUDE_CODE_MAX_RETRIES": "0"}
