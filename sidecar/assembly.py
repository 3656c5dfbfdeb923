"""What a sidecar is put together from: executors, working folders, prices."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from events.errors import Unreachable
from sidecar.config import ConfigError
from sidecar.delegation import RunsDoor
from sidecar.executors import wake_command
from sidecar.executors.agent import AgentExecutor, AgentOptions
from sidecar.executors.claude.command import ClaudeOptions
from sidecar.executors.claude.executor import ClaudeExecutor
from sidecar.executors.claude.hands import HandsExecutor
from sidecar.executors.noop import NoopExecutor
from sidecar.executors.ollama import OllamaExecutor
from sidecar.executors.openai import OpenAIExecutor
from sidecar.executors.shell import CommandPolicy, ShellExecutor, ShellOptions
from sidecar.http import header_key
from sidecar.journal_file import journal_path
from sidecar.pipeline import HANDS, unprepared
from sidecar.processes.family import Processes
from sidecar.processes.table import sidecar_mark
from sidecar.results import Results
from sidecar.shield import variables
from sidecar.task_secrets import TaskSecrets
from sidecar.workspace import OwnVariables, Workspace

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from events import mail
    from events.attachments import AttachmentStore
    from sidecar.config import SidecarConfig
    from sidecar.delegation import Request
    from sidecar.executors.agent import WakeSteps
    from sidecar.executors.port import Executor
    from sidecar.kept import Piece
    from sidecar.pipeline import Prepare
    from sidecar.processes.table import Ident
    from sidecar.task_user import TaskUser
    from sidecar.verification import Verifier


class Callbacks:
    """What the parts tell the sidecar. They are made before it: it fills these in."""

    def __init__(self) -> None:
        self.started: Callable[[Ident], None] = lambda _ident: None
        self.noted: Callable[[mail.Assign, str], None] = lambda _assign, _text: None
        self.steps: WakeSteps | None = None
        self.request: Request = _nobody_to_ask

    def wake_steps(self) -> WakeSteps:
        """Where the steps of woken agents are kept."""
        if self.steps is None:
            raise RuntimeError("no sidecar keeps the steps of this executor's runs")
        return self.steps


def _nobody_to_ask(subject: str, data: bytes, timeout: float) -> Future[bytes]:
    del data, timeout
    raise Unreachable(subject, absent=True)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a sidecar is put together from; `assemble` makes the usual ones."""

    # Who runs what, by target type. What is not here the host does not offer.
    executors: Mapping[str, Executor]

    # Makes a run's surroundings: its folder and its environment.
    prepare: Prepare = unprepared

    # The processes that runs start, where any do.
    processes: Processes | None = None

    callbacks: Callbacks = field(default_factory=Callbacks)

    # Called at the start, when nothing runs yet, with the routes that will go on.
    tidy: Callable[[frozenset[str]], Awaitable[object]] | None = None

    # Reads from what is kept of a task's folder: task, path, offset.
    read_kept: Callable[[str, str, int], Piece] | None = None

    # Where the files are that go with tasks.
    attachments: AttachmentStore | None = None

    # Called at the end, in order.
    closers: Sequence[Callable[[], Awaitable[object]]] = ()

    # Runs verification steps; without it a task with steps is given back.
    verifier: Verifier | None = None

    # Where woken agents leave their results.
    results: Results | None = None


def assemble(
    config: SidecarConfig,
    folder: Path,
    environ: Mapping[str, str] | None = None,
    user: TaskUser | None = None,
) -> Parts:
    """Make the usual parts: all executors, working folders under `folder`, prices.

    `environ`: the variables that the sidecar was started with; None: as they were.
    `user`: whose processes the runs' are; None: the sidecar's own.
    """
    environ = variables() if environ is None else environ
    callbacks = Callbacks()
    secrets = TaskSecrets(config.secrets_file, tuple(config.secrets.allow))
    secrets.values()  # what cannot be read is said now
    processes = Processes(
        lambda ident: callbacks.started(ident),
        user,
        sidecar_mark(journal_path(folder, config.host)),
    )
    workspace = Workspace(
        folder / "work" / config.host,
        processes,
        repos=config.repo_paths,
        default_repo=config.default_repo,
        clones=config.clones,
        source=environ if user is None else {**environ, **user.variables},
        own=OwnVariables(
            env=config.shell.env,
            path=config.shell.path,
            shell=tuple(config.shell.inherit),
            claude=tuple(config.claude.inherit),
        ),
        secrets=secrets,
        note=lambda assign, text: callbacks.noted(assign, text),
    )
    keys = {
        config.endpoint_name(each.name): each.api_key_env
        for each in config.endpoints()
        if each.api_key_env
    }

    def api_key(endpoint: str) -> str | None:
        name = keys.get(endpoint)
        return None if name is None else header_key(name, environ.get(name))

    shell = ShellOptions(
        policy=CommandPolicy(tuple(config.shell.allowed)), limits=config.shell.limits
    )
    claude = ClaudeOptions(
        program=config.claude.program,
        permission_mode=config.claude.permission_mode,
        allowed_tools=tuple(config.claude.allowed_tools),
        disallowed_tools=tuple(config.claude.disallowed_tools),
        max_turns=config.claude.max_turns,
        repo_settings=config.claude.repo_settings,
        mcp_servers=config.claude.mcp_servers,
        limits=config.claude.limits,
    )
    ollama, openai = OllamaExecutor(api_key), OpenAIExecutor(api_key)
    commands = ShellExecutor(processes, shell)
    door = None
    if config.claude.delegate:
        if importlib.util.find_spec("mcp") is None:
            raise ConfigError(
                "sidecar.toml",
                ["claude.delegate: needs the extra mcp: pip install 'agentcom[mcp]'"],
            )
        door = RunsDoor(config.host, lambda *asked: callbacks.request(*asked))
    hands = HandsExecutor(processes, claude, api_key, folder / "hands", door)
    executors: dict[str, Executor] = {
        "sidecar": commands,
        "ollama": ollama,
        "openai": openai,
        "claude": ClaudeExecutor(processes, claude, door=door),
        HANDS: hands,
        "noop": NoopExecutor(),
    }
    results = None
    if config.agent.enabled:
        own, template = config.agent.results_folder, config.agent.wake_command
        results = Results(
            Path(own).expanduser() if own else folder / "results", user=user
        )
        plain = config.agent.plain_program
        agent = AgentOptions(
            command=None if template is None else wake_command.parse(template, plain),
            confirm_s=config.agent.confirm_s,
            limits=config.agent.limits,
        )
        executors["agent"] = AgentExecutor(
            config.host, processes, results, callbacks.wake_steps, agent
        )
    return Parts(
        executors=executors,
        prepare=workspace.prepare,
        processes=processes,
        callbacks=callbacks,
        tidy=workspace.tidy,
        read_kept=workspace.read,
        closers=(
            *(ollama.close, openai.close, hands.close),
            *([door.close] if door is not None else []),
        ),
        results=results,
        verifier=commands if config.shell.enabled else None,
    )
