"""`sidecar.toml`: what a machine offers, validated, every mistake named.

A mistake is told with its place, what was expected and what came, and where a key was
misspelled, with the key that was probably meant; all mistakes at once, not one by one.
The page for people is docs/sidecar.md.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import socket
import tomllib
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import Meta, Struct

from actors.rules.repos import url_problem
from events import catalogue as c
from events.beats import BEAT_INTERVAL_S
from events.codec import explained, malformed
from events.errors import AgentComError, shown
from events.ids import is_token
from sidecar.executors import wake_command
from sidecar.processes.family import ProcessLimits

if TYPE_CHECKING:
    from collections.abc import Iterable

Count = Annotated[int, Meta(ge=0, le=10_000)]
AtLeastOne = Annotated[int, Meta(ge=1, le=10_000)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Url = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^\s/]+.*$",
        max_length=1_000,
        description="an address that starts with http:// or https://",
    ),
]
VariableName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="the name of an environment variable",
    ),
]

OLLAMA_PORT = 11434
NAME_CHARS = 64
"""The most that a name in the fleet has."""


class ConfigError(AgentComError):
    """A configuration that cannot be used: the file, and every problem in it."""

    code = "config"

    def __init__(self, where: str, problems: list[str]) -> None:
        self.where = where
        self.problems = problems
        listed = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{where} cannot be used:\n{listed}")


class SlotsConfig(Struct, frozen=True, kw_only=True):
    """How many runs at once, by kind. Endpoints have `slots` of their own."""

    shell: Count | None = None
    claude: Count = 1
    agent: Count = 1
    noop: Count = 256


class EndpointConfig(Struct, frozen=True, kw_only=True):
    """A model server of this host. Its name in the fleet is `<host>-<name>`."""

    name: c.Token
    kind: Literal["ollama", "openai"]
    url: Url
    slots: AtLeastOne = 1
    api_key_env: VariableName | None = None


class ClaudeConfig(Struct, frozen=True, kw_only=True):
    """How Claude Code is run here. It keeps its own keys; there is no setting for one.

    `enabled`: it takes complex tasks, with its account. `hands`: it works for local models
    too, without any account.
    `mcp_servers` are those that a task may name, by name, each as Claude Code's own
    configuration describes it. `inherit` names more of the sidecar's variables for it.
    `repo_settings`: what a checkout says in `.claude` and `.mcp.json` counts. For local
    models it never does.
    `delegate`: its runs may submit tasks to the fleet, as docs/delegation.md says.
    """

    enabled: bool = True
    hands: bool = True
    program: str | None = None
    permission_mode: c.PermissionMode = "acceptEdits"
    allowed_tools: list[str] = []
    disallowed_tools: list[str] = []
    max_turns: AtLeastOne | None = None
    repo_settings: bool = True
    mcp_servers: dict[c.Token, dict[str, Any]] = {}
    delegate: bool = False
    inherit: list[VariableName] = []
    limits: ProcessLimits = ProcessLimits()


class ShellConfig(Struct, frozen=True, kw_only=True):
    """What commands may run here, and with how much. An empty `allowed` means all.

    `env` is set for every command, `inherit` names what it gets of the sidecar's own
    environment, `path` takes the place of PATH. A task's own variables come last.
    `user` is whose processes all runs of this host are; without, the sidecar's own.
    """

    enabled: bool = True
    user: str | None = None
    allowed: list[str] = []
    env: dict[VariableName, str] = {}
    path: str | None = None
    inherit: list[VariableName] = []
    limits: ProcessLimits = ProcessLimits()


class SecretsConfig(Struct, frozen=True, kw_only=True):
    """What a task may name and gets the value of: lines of a file, variables of ours."""

    file: str | None = None
    allow: list[VariableName] = []


class AgentConfig(Struct, frozen=True, kw_only=True):
    """How external agents are woken, and where they leave their results.

    Without a folder and a command this host wakes nobody; with a command alone the folder
    is `results` in the data folder; with a folder alone agents find their work themselves.
    """

    results_folder: str | None = None
    wake_command: str | None = None
    plain_program: str | None = None
    confirm_s: Seconds | None = None
    limits: ProcessLimits = ProcessLimits()

    @property
    def enabled(self) -> bool:
        """Whether this host hands work to agents."""
        return self.results_folder is not None or self.wake_command is not None


class SidecarConfig(Struct, frozen=True, kw_only=True):
    """A sidecar's whole configuration. Nothing is required: defaults make a host."""

    name: c.Token | None = None
    data: str | None = None
    slots: SlotsConfig = SlotsConfig()
    repos: dict[str, str | bool | list[str]] = {}
    default_repo: str | None = None
    capabilities: list[c.Token] = []
    endpoint: list[EndpointConfig] = []
    discover: bool = True
    claude: ClaudeConfig = ClaudeConfig()
    shell: ShellConfig = ShellConfig()
    agent: AgentConfig = AgentConfig()
    secrets: SecretsConfig = SecretsConfig()
    noop: bool = False
    drain_timeout_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    probe_every_s: Seconds = 30.0
    probe_timeout_s: Seconds = 5.0
    beat_every_s: Seconds = BEAT_INTERVAL_S
    flush_everything: bool = False

    @property
    def host(self) -> str:
        """The host's name: as configured, else the machine's."""
        return self.name or machine_name()

    @property
    def data_path(self) -> Path | None:
        """The data folder, where the configuration names one."""
        return Path(self.data).expanduser() if self.data else None

    @property
    def shell_slots(self) -> int:
        """One per core unless configured; none where shell is off."""
        if not self.shell.enabled:
            return 0
        if self.slots.shell is not None:
            return self.slots.shell
        return os.cpu_count() or 1

    @property
    def repo_paths(self) -> dict[str, Path]:
        """Repositories by name, `~` expanded."""
        return {
            name: Path(path).expanduser()
            for name, path in self.repos.items()
            if isinstance(path, str)
        }

    @property
    def clones(self) -> list[str]:
        """The beginnings of URLs that this host clones from; none unless it may."""
        allowed = self.repos.get("clone_from")
        if self.repos.get("clone") is not True or not isinstance(allowed, list):
            return []
        return list(allowed)

    def endpoint_name(self, name: str) -> str:
        """Return an endpoint's name in the fleet, where two hosts may both have a `gpu`.

        Too long for a name, it is shortened, and still no other's.
        """
        whole = f"{self.host}-{name}"
        if len(whole) <= NAME_CHARS:
            return whole
        digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
        return f"{whole[: NAME_CHARS - 9]}-{digest}"

    def secret_names(self) -> list[str]:
        """List the variables that hold this host's keys, by the configuration."""
        keys = [each.api_key_env for each in self.endpoint if each.api_key_env]
        return [*keys, *self.secrets.allow]

    @property
    def secrets_file(self) -> Path | None:
        """The file of secrets for tasks, where there is one."""
        named = self.secrets.file
        return None if named is None else Path(named).expanduser()

    def endpoints(self) -> list[EndpointConfig]:
        """List this host's model servers; without any, the usual Ollama is looked for."""
        if self.endpoint or not self.discover:
            return list(self.endpoint)
        return [EndpointConfig(name="ollama", kind="ollama", url=ollama_url())]


def load(path: Path) -> SidecarConfig:
    """Read a configuration file; raise ConfigError naming every problem."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"it cannot be read: {error}"]) from error
    return parse(text, str(path))


def parse(text: str, where: str = "sidecar.toml") -> SidecarConfig:
    """Read a configuration; raise ConfigError naming every problem."""
    try:
        body = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(where, [f"it is not TOML: {error}"]) from error
    return from_values(body, where)


def from_values(body: dict[str, Any], where: str = "sidecar.toml") -> SidecarConfig:
    """Turn plain values into a configuration; raise ConfigError naming every problem."""
    problems = _unknown_keys(body, SidecarConfig, "")
    values: dict[str, Any] = {}
    for name in [key for key in body if key in _fields(SidecarConfig)]:
        try:
            values[name] = getattr(
                msgspec.convert({name: body[name]}, SidecarConfig, strict=True), name
            )
        except msgspec.ValidationError as error:
            problems.append(_problem(error, body))
    config = SidecarConfig(**values)
    problems += _contradictions(config)
    if problems:
        raise ConfigError(where, problems)
    return config


def _problem(error: msgspec.ValidationError, body: dict[str, Any]) -> str:
    """Word a mistake: its place, what was expected, and the value that stands there."""
    fault = explained(malformed(error), SidecarConfig, body)
    name, value = fault.path, body.get(fault.path)
    if name == "endpoint" and isinstance(value, dict):
        return f"{name}: expected [[{name}]], got [{name}]: there may be several"
    if fault.expected == "an object" and isinstance(value, list):
        return f"{name}: expected [{name}], got [[{name}]]: there is only one"
    return str(fault) if fault.path else f"the file: {fault}"


def _fields(kind: type[Struct]) -> tuple[str, ...]:
    return kind.__struct_fields__


def _unknown_keys(body: dict[str, Any], kind: type[Struct], path: str) -> list[str]:
    """Name every key that nothing reads, and what was probably meant."""
    problems = []
    hints = get_type_hints(kind)
    for key, value in body.items():
        place = f"{path}{key}"
        if key not in _fields(kind):
            settings = ", ".join(sorted(_fields(kind)))
            problems.append(
                f"{place}: no such setting{_did_you_mean(key, _fields(kind))}"
                f" (there are: {settings})"
            )
            continue
        hint = hints[key]
        if isinstance(hint, type) and issubclass(hint, Struct):
            if isinstance(value, dict):
                problems += _unknown_keys(value, hint, f"{place}.")
        elif get_origin(hint) is list and isinstance(value, list):
            (item,) = get_args(hint)
            if isinstance(item, type) and issubclass(item, Struct):
                for i, each in enumerate(value):
                    if isinstance(each, dict):
                        problems += _unknown_keys(each, item, f"{place}[{i}].")
    return problems


def _did_you_mean(word: str, choices: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f", did you mean {shown(close[0])}?" if close else ""


def _contradictions(config: SidecarConfig) -> list[str]:
    """Find what each value by itself cannot show."""
    problems = []
    for name, path in config.repo_paths.items():
        if not name.strip():
            problems.append("repos: expected a name for each repository, got ''")
        if not path.is_absolute():
            problems.append(_not_absolute(f"repos.{name}", str(path)))
        elif not path.is_dir():
            problems.append(f"repos.{name}: expected a folder, got {shown(str(path))}")
    problems += _clone_problems(config.repos)
    paths = config.repo_paths
    if config.default_repo is not None and config.default_repo not in paths:
        names = ", ".join(sorted(paths)) or "none is configured"
        problems.append(
            f"default_repo: expected the name of one of [repos] ({names}), "
            f"got {shown(config.default_repo)}{_did_you_mean(config.default_repo, paths)}"
        )
    endpoints: set[str] = set()
    for i, each in enumerate(config.endpoint):
        if each.name in endpoints or each.name == "claude":
            whose = "Claude Code's" if each.name == "claude" else "another endpoint's"
            problems.append(
                f"endpoint[{i}].name: expected a name of its own, "
                f"got {shown(each.name)}, which is {whose}"
            )
        endpoints.add(each.name)
    if config.claude.program is not None:
        program = Path(config.claude.program).expanduser()
        if program.parent != Path() and not os.access(program, os.X_OK):
            problems.append(
                f"claude.program: expected a program, got {shown(config.claude.program)}, "
                "which cannot be executed"
            )
    secrets = config.secrets_file
    if secrets is not None and not secrets.is_absolute():
        problems.append(_not_absolute("secrets.file", str(config.secrets.file)))
    return problems + _agent_problems(config.agent)


def _clone_problems(repos: dict[str, str | bool | list[str]]) -> list[str]:
    """Find what is wrong with `repos.clone` and `repos.clone_from`."""
    problems = []
    kinds: dict[str, type] = {"clone": bool, "clone_from": list}
    for name, value in repos.items():
        if not isinstance(value, str) and not isinstance(value, kinds.get(name, str)):
            shapes = {"clone": "true or false", "clone_from": "a list of URLs"}
            expected = shapes.get(name, "a folder")
            problems.append(f"repos.{name}: expected {expected}, got {shown(value)}")
    allowed = repos.get("clone_from")
    for i, each in enumerate(allowed if isinstance(allowed, list) else []):
        if wrong := url_problem(f"{each.rstrip('/')}/x"):
            problems.append(
                f"repos.clone_from[{i}]: expected the beginning of a URL, got {shown(each)}: "
                f"{wrong}"
            )
    if repos.get("clone") is True and not allowed:
        problems.append(
            "repos.clone: expected repos.clone_from beside it, the beginnings of the "
            "URLs that may be cloned, got none"
        )
    return problems


def _agent_problems(agent: AgentConfig) -> list[str]:
    problems = []
    if agent.wake_command is not None:
        try:
            wake_command.parse(agent.wake_command, agent.plain_program)
        except wake_command.WakeCommandError as error:
            problems.append(f"agent.wake_command: {error}")
    folder = agent.results_folder
    if folder is not None and not Path(folder).expanduser().is_absolute():
        problems.append(_not_absolute("agent.results_folder", folder))
    return problems


def _not_absolute(place: str, path: str) -> str:
    expected = "expected an absolute path or one that begins with ~"
    return f"{place}: {expected}, got {shown(path)}"


def machine_name() -> str:
    """Name this machine: its host name, as far as it may be part of a subject."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname().split(".")[0])[:64]
    return name if is_token(name) else "host"


def ollama_url() -> str:
    """Where Ollama is by its own rules: OLLAMA_HOST, else loopback.

    Read as Ollama's `envconfig.Host` does: quotes and blanks around it are not part of it,
    and a port that is none is the usual one.
    """
    address = os.environ.get("OLLAMA_HOST", "").strip().strip("\"'").strip()
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "http", address
    usual = OLLAMA_PORT if not separator else {"http": 80, "https": 443}.get(scheme)
    place, slash, path = rest.partition("/")
    host, port = _host_and_port(place)
    if not (port.isdecimal() and int(port) < 2**16):
        port = str(usual or OLLAMA_PORT)
    # This is where a server listens, not where a client goes.
    host = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host
    if ":" in host:
        host = f"[{host}]"
    return f"{scheme}://{host}:{port}{slash}{path}".rstrip("/")


def _host_and_port(place: str) -> tuple[str, str]:
    """Split an authority; an IPv6 address may stand without its brackets."""
    bare = place.strip("[]")
    with suppress(ValueError):
        return str(ip_address(bare)), ""
    host, colon, port = place.rpartition(":")
    return (host.strip("[]"), port) if colon else (place, "")
